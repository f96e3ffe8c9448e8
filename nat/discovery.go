package nat

import (
	"net/netip"
	"slices"
	"time"
)

// Bounds of one discovery.
const (
	// discoveryFirst servers of each family are asked at once: two can tell that a NAT is hard, a third outvotes one that lies.
	discoveryFirst = 3
	// discoveryServersMax servers of each family are asked in all, when the first are silent or disagree.
	discoveryServersMax = 6
	// discoveryAskTimeout is how long one question takes at most, retransmissions included.
	discoveryAskTimeout = 2 * time.Second
	// discoveryPatience is how long the slowest of the first servers is waited for before others are asked.
	discoveryPatience = 500 * time.Millisecond
	// discoveryLength bounds all of it.
	discoveryLength = 8 * time.Second
)

// Server is somebody who can be asked for our address.
type Server struct {
	Addr netip.AddrPort
	// Member: one of the mesh, which answers a padded request only ([PaddedRequest]).
	Member bool
}

// Test is what a question is for.
type Test uint8

// The tests, in the order of RFC 5780 §4.3 and §4.4.
const (
	TestMapped         Test = iota // where do you see us
	TestFilteringBoth              // answer from another address and port
	TestFilteringPort              // answer from another port
	TestMappingAddress             // asked at another address
	TestMappingBoth                // asked at another address and port
	TestHairpin                    // asked at our own mapped address
)

func (t Test) String() string {
	names := [...]string{"mapped", "filtering-both", "filtering-port", "mapping-address", "mapping-both", "hairpin"}
	return names[min(int(t), len(names)-1)]
}

// Ask is a Binding request to be sent, and repeated until it is answered or Timeout has passed. All go out of the one socket whose
// NAT mapping is of interest.
type Ask struct {
	// Number tells which question an answer belongs to.
	Number  int
	Test    Test
	To      netip.AddrPort
	Member  bool // send it padded
	Change  Change
	Timeout time.Duration
}

// Reply is the outcome of a question.
type Reply struct {
	Number int
	// From is where the answer came from; invalid if none did.
	From netip.AddrPort
	// Mapped, Other are the attributes of the answer.
	Mapped, Other netip.AddrPort
}

// Discovery finds out a NAT's behaviour. It is a plan that answers change: [Discovery.Step] takes what happened and returns what to
// ask next. It is not safe for concurrent use.
type Discovery struct {
	servers [2][]Server // not yet asked, of IPv4 and IPv6
	asked   [2]int
	local   []netip.AddrPort

	questions []question
	behaviour netip.AddrPort // the server that tests behaviour, and from where else it answers
	other     netip.AddrPort
	start     time.Time
	done      bool
}

type question struct {
	Ask
	at       time.Time
	answered bool
	silent   bool
	reply    Reply
}

// NewDiscovery plans a discovery. The servers are asked in the order of [OrderServers]; local are our own addresses with the socket's port.
func NewDiscovery(servers []Server, local []netip.AddrPort) *Discovery {
	d := &Discovery{}
	for _, l := range local {
		d.local = append(d.local, plainAddr(l))
	}
	for _, s := range OrderServers(servers, d.local) {
		f := familyOf(s.Addr)
		d.servers[f] = append(d.servers[f], s)
	}
	return d
}

// OrderServers puts first whom to ask first, and leaves out who cannot help: our own addresses, and a second time the same address. Servers
// of the internet go before those of private networks, who do not see the outermost NAT, and each network (a /24, a /48) gets its turn
// before any gets a second: servers of one network may share the fault, or the owner. Otherwise the order stays.
func OrderServers(servers []Server, local []netip.AddrPort) []Server {
	type group struct {
		network netip.Prefix
		public  bool
	}
	turns := map[group]int{}
	seen := map[netip.Addr]bool{}
	type ranked struct {
		Server
		class, turn int
	}
	var all []ranked
	for _, s := range servers {
		s.Addr = plainAddr(s.Addr)
		a := s.Addr.Addr()
		if scopeOf(a) == bogus || s.Addr.Port() == 0 || seen[a] || slices.Contains(local, s.Addr) {
			continue
		}
		seen[a] = true
		bits := 24
		if a.Is6() {
			bits = 48
		}
		network, _ := a.Prefix(bits)
		g := group{network, scopeOf(a) == public}
		class := 0
		if !g.public {
			class = 1
		}
		all = append(all, ranked{s, class, turns[g]})
		turns[g]++
	}
	slices.SortStableFunc(all, func(a, b ranked) int {
		if a.class != b.class {
			return a.class - b.class
		}
		return a.turn - b.turn
	})
	out := make([]Server, len(all))
	for i, r := range all {
		out[i] = r.Server
	}
	return out
}

func familyOf(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return 0
	}
	return 1
}

// Step takes the outcome of a question, or nil when only time has passed, and returns what to ask now and when to call again at the
// latest. A zero time says that the discovery is over and what comes later is ignored.
func (d *Discovery) Step(r *Reply, now time.Time) (ask []Ask, next time.Time) {
	if d.start.IsZero() {
		d.start = now
	}
	if r != nil && !d.done {
		d.take(*r)
	}
	for i := range d.questions {
		if q := &d.questions[i]; !q.answered && !now.Before(q.at.Add(q.Timeout)) {
			q.silent = true
		}
	}
	if d.done = d.done || !now.Before(d.start.Add(discoveryLength)); d.done {
		return nil, time.Time{}
	}
	before := len(d.questions)
	for family := range d.servers {
		d.askServers(family, now)
	}
	d.askBehaviour(now)
	d.askHairpin(now)
	for _, q := range d.questions[before:] {
		ask = append(ask, q.Ask)
	}
	next = d.next(now)
	d.done = next.IsZero()
	return ask, next
}

func (d *Discovery) take(r Reply) {
	if r.Number < 0 || r.Number >= len(d.questions) {
		return
	}
	q := &d.questions[r.Number]
	if q.answered || q.silent {
		return
	}
	if !r.From.IsValid() {
		q.silent = true
		return
	}
	r.From, r.Mapped, r.Other = plainAddr(r.From), plainAddr(r.Mapped), plainAddr(r.Other)
	if want := d.source(q.Ask); r.From != want {
		return // an answer from elsewhere than asked for proves nothing; the right one may still come
	}
	q.answered, q.reply = true, r
	if q.Test == TestMapped && !q.Member && !d.behaviour.IsValid() && canTest(q.To, r.Other) {
		d.behaviour, d.other = q.To, r.Other
	}
}

// source is from where a question must be answered.
func (d *Discovery) source(a Ask) netip.AddrPort {
	addr, port := a.To.Addr(), a.To.Port()
	if a.Change.IP {
		addr = d.other.Addr()
	}
	if a.Change.Port {
		port = d.other.Port()
	}
	return netip.AddrPortFrom(addr, port)
}

// canTest reports whether a server's other address is one that we may send to on its word: of the same family and scope, and different. A
// server can so make us send a few requests of 20 bytes to an address of its choice, no more than it could itself.
func canTest(server, other netip.AddrPort) bool {
	return other.IsValid() && other.Port() != 0 && other.Port() != server.Port() && other.Addr() != server.Addr() &&
		other.Addr().Is4() == server.Addr().Is4() && scopeOf(other.Addr()) == scopeOf(server.Addr())
}

func (d *Discovery) put(a Ask, now time.Time) {
	a.Number, a.Timeout = len(d.questions), discoveryAskTimeout
	d.questions = append(d.questions, question{Ask: a, at: now})
}

// askServers asks the first servers of a family at once, and others when those are silent or do not agree.
func (d *Discovery) askServers(family int, now time.Time) {
	waiting, late, answers := 0, 0, []Observation(nil)
	for _, q := range d.questions {
		if q.Test != TestMapped || familyOf(q.To) != family {
			continue
		}
		switch {
		case q.answered:
			answers = append(answers, Observation{q.To, q.reply.Mapped})
		case !q.silent && now.Before(q.at.Add(discoveryPatience)):
			waiting++
		default:
			late++
		}
	}
	want := 0
	switch {
	case d.asked[family] == 0:
		want = discoveryFirst
	case waiting > 0:
	case late > 0 && len(answers) < 2:
		want = late
	case len(answers) == 2 || late > 0:
		if Assess(Evidence{Observations: answers, Local: d.local}).Mapping != EndpointIndependent {
			want = 1 // two who disagree: a third decides
		}
	}
	for ; want > 0 && len(d.servers[family]) > 0 && d.asked[family] < discoveryServersMax; want-- {
		s := d.servers[family][0]
		d.servers[family] = d.servers[family][1:]
		d.asked[family]++
		d.put(Ask{Test: TestMapped, To: s.Addr, Member: s.Member}, now)
	}
}

// askBehaviour runs the tests of RFC 5780 with the first server that offers them. Filtering comes first, and one test after the other:
// once we have sent to the server's other address, every NAT lets answers from there in.
func (d *Discovery) askBehaviour(now time.Time) {
	if !d.behaviour.IsValid() {
		return
	}
	ask := Ask{Test: TestFilteringBoth, To: d.behaviour, Change: Change{IP: true, Port: true}}
	switch both, port, address := d.find(TestFilteringBoth), d.find(TestFilteringPort), d.find(TestMappingAddress); {
	case both == nil:
	case !both.answered && !both.silent:
		return
	case both.silent && port == nil:
		ask = Ask{Test: TestFilteringPort, To: d.behaviour, Change: Change{Port: true}}
	case port != nil && !port.answered && !port.silent:
		return
	case address == nil:
		ask = Ask{Test: TestMappingAddress, To: netip.AddrPortFrom(d.other.Addr(), d.behaviour.Port())}
	case d.find(TestMappingBoth) == nil:
		ask = Ask{Test: TestMappingBoth, To: d.other}
	default:
		return
	}
	d.put(ask, now)
}

// askHairpin asks ourselves, once two servers have agreed on where we are.
func (d *Discovery) askHairpin(now time.Time) {
	if d.find(TestHairpin) != nil {
		return
	}
	b := d.Behaviour()
	if b.Direct || b.Mapping != EndpointIndependent || !b.Mapped[0].Addr().Is4() {
		return
	}
	d.put(Ask{Test: TestHairpin, To: b.Mapped[0], Member: true}, now)
}

func (d *Discovery) find(t Test) *question {
	for i := range d.questions {
		if d.questions[i].Test == t {
			return &d.questions[i]
		}
	}
	return nil
}

// hasAsked reports whether an address was among the servers asked.
func (d *Discovery) hasAsked(a netip.Addr) bool {
	return slices.ContainsFunc(d.questions, func(q question) bool { return q.Test == TestMapped && q.To.Addr() == a })
}

// next is when something is due at the latest; zero if nothing is.
func (d *Discovery) next(now time.Time) time.Time {
	next := time.Time{}
	for _, q := range d.questions {
		if q.answered || q.silent {
			continue
		}
		due := q.at.Add(q.Timeout)
		if patience := q.at.Add(discoveryPatience); q.Test == TestMapped && now.Before(patience) {
			due = patience
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	if end := d.start.Add(discoveryLength); next.After(end) {
		next = end
	}
	return next
}

// Evidence is what has been found so far; who knows more about the router or of packets that arrived may add it before [Assess].
func (d *Discovery) Evidence() Evidence {
	e := Evidence{Local: d.local}
	for _, q := range d.questions {
		switch q.Test {
		case TestMapped, TestMappingAddress, TestMappingBoth:
			if q.answered || q.silent && q.Test == TestMapped {
				e.Observations = append(e.Observations, Observation{q.To, q.reply.Mapped})
			}
		}
	}
	if q := d.find(TestHairpin); q != nil && (q.answered || q.silent) {
		e.Hairpin = No
		if q.answered {
			e.Hairpin = Yes
		}
	}
	both, port := d.find(TestFilteringBoth), d.find(TestFilteringPort)
	switch {
	case both != nil && both.answered && d.hasAsked(d.other.Addr()): // our own question may have opened the way
	case both != nil && both.answered:
		e.Filtering = EndpointIndependent
	case port != nil && port.answered:
		e.Filtering = AddressDependent
	case port != nil && port.silent:
		e.Filtering = AddressAndPortDependent
	}
	return e
}

// Behaviour is what follows from what has been found so far.
func (d *Discovery) Behaviour() Behaviour { return Assess(d.Evidence()) }
