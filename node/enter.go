package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay"
)

// joinMax bounds one attempt to join: contact, a handshake, an admission by the group, each of which ends in about a second if it works.
const joinMax = 20 * time.Second

// errUnreachable: none of a token's members answered.
var errUnreachable = errors.New("no member of the mesh can be reached")

// Enter brings a node that is in no mesh into one, and returns when it is online.
func (n *Node) Enter(ctx context.Context, e localapi.Entry) error {
	if e.IsZero() {
		return nil
	}
	if e.Within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.Within)
		defer cancel()
	}
	if err := n.awaitReady(ctx); err != nil {
		return failed("cannot enter a mesh", err)
	}
	a, err := n.enter(ctx, e)
	if a == nil || err != nil {
		return err
	}
	return a.await(ctx)
}

// enter does what needs no person; with an application somebody has to approve it.
func (n *Node) enter(ctx context.Context, e localapi.Entry) (*application, error) {
	select {
	case n.entering <- struct{}{}:
		defer func() { <-n.entering }()
	case <-ctx.Done():
		return nil, localapi.Fail(localapi.TimedOut, "cannot enter a mesh", errors.New("another command is just doing so"), "look at phantom status and try again")
	}
	select {
	case <-n.stop:
		return nil, localapi.Fail(localapi.Failed, "cannot enter a mesh", errors.New("the node is stopping"), "start it again: phantom up")
	default:
	}
	if m := n.mesh.Load(); m != nil {
		return nil, n.alreadyIn(ctx, m, e)
	}
	if e.Token == "" && e.New == "" {
		return n.findMesh(ctx, e.Mesh)
	}
	n.endApplication()
	if e.Token != "" {
		return nil, n.join(ctx, e.Token)
	}
	return nil, n.found(e.New)
}

// awaitReady waits until the node knows whether its folder belongs to a mesh already.
func (n *Node) awaitReady(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-n.stop:
		return errors.New("the node is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// alreadyIn tells a member that it is one: harmless if that is what was asked for. With an invitation a certificate is renewed that has ended.
func (n *Node) alreadyIn(ctx context.Context, m *membership, e localapi.Entry) error {
	mesh := m.group.State().Mesh
	const next = "leave it first (phantom leave), or use another state folder with --state"
	switch {
	case e.Token != "":
		t, err := invitation.Parse(e.Token)
		if err != nil {
			return localapi.Fail(localapi.Usage, "cannot join", err, "")
		}
		if t.Mesh != mesh.ID {
			return localapi.Fail(localapi.Failed, "cannot join", fmt.Errorf("state folder %s belongs to another mesh, %s (%s)",
				n.folder.path, mesh.Name, mesh.ID.Short()), next)
		}
		return m.returnWith(ctx, t)
	case e.Mesh != "" && e.Mesh != mesh.Name && e.Mesh != mesh.ID.Short():
		return localapi.Fail(localapi.Failed, "cannot join "+e.Mesh, fmt.Errorf("state folder %s belongs to the mesh %s (%s)",
			n.folder.path, mesh.Name, mesh.ID.Short()), next)
	case e.New != "" && e.New != mesh.Name:
		return localapi.Fail(localapi.Failed, "cannot found "+e.New, fmt.Errorf("state folder %s belongs to the mesh %s (%s)",
			n.folder.path, mesh.Name, mesh.ID.Short()), next)
	}
	return nil
}

// found makes a new mesh with this node as its first member.
func (n *Node) found(name string) error {
	s := n.cfg.Settings
	ipv4, err := n.overlayRange()
	if err != nil {
		return err
	}
	m := n.newMembership()
	group, err := coordinator.Found(n.groupConfig(m), coordinator.Founding{MeshName: name, IPv4: ipv4, NodeName: s.Name, Region: cmp.Or(s.Region, coordinator.DefaultRegion)})
	if err != nil {
		return failed("cannot found the mesh "+name, err)
	}
	return n.enterWith(m, group, "cannot found the mesh "+name)
}

// resume takes part in the mesh that the state folder belongs to.
func (n *Node) resume() error {
	n.entering <- struct{}{}
	defer func() { <-n.entering }()
	m := n.newMembership()
	group, err := coordinator.Open(n.groupConfig(m))
	if errors.Is(err, coordinator.ErrNoMesh) {
		return nil
	}
	if err != nil {
		return failed("cannot take part in the mesh", err)
	}
	return n.enterWith(m, group, "cannot take part in the mesh")
}

func (n *Node) enterWith(m *membership, group *coordinator.Group, what string) error {
	err := m.start(group)
	if err == nil {
		n.announceMesh(m)
		return nil
	}
	n.mesh.Store(nil)
	ctx, cancel := context.WithTimeout(context.Background(), shutdownMax)
	defer cancel()
	m.close(ctx)
	return failed(what, err)
}

// join enrols with an invitation.
func (n *Node) join(ctx context.Context, text string) error {
	const what = "cannot join the mesh"
	token, err := invitation.Parse(text)
	if err != nil {
		return localapi.Fail(localapi.Usage, what, err, "copy the token as phantom invite printed it")
	}
	n.phase.Store(localapi.StateEnrolling)
	defer n.phase.CompareAndSwap(localapi.StateEnrolling, localapi.StateOffline)
	ctx, cancel := context.WithTimeout(ctx, joinMax)
	defer cancel()
	answer, err := n.enrol(ctx, token)
	if err != nil {
		return err
	}
	m := n.newMembership()
	group, err := coordinator.Enrolled(n.groupConfig(m), answer)
	if err != nil {
		return failed(what, err)
	}
	return n.enterWith(m, group, what)
}

// attempt is what came of asking one address of one member. member is who was there, as far as is known.
type attempt struct {
	introduction
	member identity.NodeID
	answer coordinator.Answer
	err    error
}

// refusalGrace is how long the others have still to let us in when a node has refused us that the token does not name: it may be of another mesh,
// or of none. A member that is there answers in a second.
const refusalGrace = 5 * time.Second

// enrol asks all members of the token at all their addresses side by side, whoever is at a bootstrap address, and the mesh's members in the LAN,
// each as soon as it is known where they are. The first that lets us in wins. A member that could not decide (no quorum in its reach) or was not
// reached leaves it to the others; what a member refuses that the token names is the mesh's word, and final.
func (n *Node) enrol(ctx context.Context, token invitation.Token) (coordinator.Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := &enquiry{node: n, ctx: ctx, token: token, results: make(chan attempt), leads: make(chan introduction), asking: make(chan struct{}, 1),
		open: map[introduction]bool{}}
	for _, i := range introductions(token) {
		q.ask(i)
	}
	q.searches = 2
	searched := make(chan struct{}, q.searches)
	go func() {
		n.eachBootstrap(ctx, q.lead, func(i introduction, err error) { q.end(attempt{introduction: i, err: err}) })
		searched <- struct{}{}
	}()
	go func() {
		for _, i := range n.lanIntroductions(ctx, token.Mesh, introductions(token)) {
			q.lead(i)
		}
		searched <- struct{}{}
	}()
	return q.run(searched)
}

// enquiry is one call of enrol: who is asked, and what came of it.
type enquiry struct {
	node    *Node
	ctx     context.Context
	token   invitation.Token
	results chan attempt
	leads   chan introduction
	// asking has one request at a time made: two that race would both be admitted, as the same node, but the second for nothing. A channel, as who
	// waits for its turn must hear when it is no longer wanted.
	asking chan struct{}

	// run's.
	searches int // that may still bring leads
	open     map[introduction]bool
	failures []attempt
}

// ask begins an attempt.
func (q *enquiry) ask(i introduction) {
	q.open[i] = true
	go func() {
		a := attempt{introduction: i, member: i.member}
		a.answer, a.err = q.node.enrolAt(q.ctx, q.token, &a, q.asking)
		q.end(a)
	}()
}

func (q *enquiry) end(a attempt) {
	select {
	case q.results <- a:
	case <-q.ctx.Done():
	}
}

func (q *enquiry) lead(i introduction) {
	select {
	case q.leads <- i:
	case <-q.ctx.Done():
	}
}

// run follows the attempts until one succeeds, all have failed, or the time is over.
func (q *enquiry) run(searched <-chan struct{}) (coordinator.Answer, error) {
	var enough <-chan time.Time
	for q.searches > 0 || len(q.open) > 0 {
		select {
		case <-enough:
			return coordinator.Answer{}, q.failure()
		case <-q.ctx.Done():
			return coordinator.Answer{}, q.failure()
		case <-searched:
			q.searches--
		case i := <-q.leads:
			q.ask(i)
		case a := <-q.results:
			delete(q.open, a.introduction)
			if a.err == nil {
				q.node.rememberIntroducers(q.token, a)
				return a.answer, nil
			}
			q.node.log.Debug("not enrolled", "peer", a.member.Short(), "addr", a.addr.String(), "err", a.err)
			q.failures = append(q.failures, a)
			var refused *coordinator.Refused
			switch {
			case !errors.As(a.err, &refused):
			case slices.ContainsFunc(q.token.Members, func(m invitation.Member) bool { return m.ID == a.member }):
				return coordinator.Answer{}, q.failure()
			case enough == nil:
				enough = time.After(refusalGrace)
			}
		}
	}
	return coordinator.Answer{}, q.failure()
}

// failure explains what came of all attempts; those that are under way have had no answer.
func (q *enquiry) failure() error {
	all := slices.Clone(q.failures)
	for i := range q.open {
		all = append(all, attempt{introduction: i, member: i.member, err: context.DeadlineExceeded})
	}
	return joinFailure(all, q.node.lan != nil)
}

// rememberIntroducers keeps where the token's members are, and who let us in, at once: a node that is killed a moment after it was admitted must
// find the mesh again without its token.
func (n *Node) rememberIntroducers(token invitation.Token, a attempt) {
	note := func(id identity.NodeID, addrs []netip.AddrPort) {
		n.book.Note(id, addrs, n.cfg.Now())
		n.socket.Hint(id, addrs)
	}
	for _, member := range token.Members {
		note(member.ID, member.Addresses)
	}
	let := slices.IndexFunc(token.Members, func(m invitation.Member) bool { return m.ID == a.member })
	if let < 0 {
		note(a.member, []netip.AddrPort{a.addr}) // of --bootstrap or the LAN
	} else {
		note(a.member, append([]netip.AddrPort{a.addr}, token.Members[let].Addresses...))
	}
	if err := n.book.Flush(); err != nil {
		n.log.Warn("address book not kept", "err", err)
	}
}

// enrolAt makes one attempt, and notes which member was there.
func (n *Node) enrolAt(ctx context.Context, token invitation.Token, a *attempt, asking chan struct{}) (coordinator.Answer, error) {
	to, err := n.socket.Contact(ctx, a.addr)
	if err != nil {
		return coordinator.Answer{}, err
	}
	s, err := n.openEnrol(ctx, to, a.member)
	if err != nil {
		return coordinator.Answer{}, err
	}
	defer s.Close()
	a.member = s.Peer().ID
	select {
	case asking <- struct{}{}:
		defer func() { <-asking }()
	case <-ctx.Done():
		return coordinator.Answer{}, ctx.Err()
	}
	if err := ctx.Err(); err != nil { // both were ready
		return coordinator.Answer{}, err
	}
	settings := n.cfg.Settings
	request, err := invitation.SignRequest(n.key, invitation.Request{
		Mesh: token.Mesh, Name: settings.Name, Region: settings.Region, Invitation: token.ID(),
		Proof: invitation.Proof(token.Key(), token.Mesh, n.ID()), Time: n.cfg.Now(),
	})
	if err != nil {
		return coordinator.Answer{}, err
	}
	return coordinator.RequestEnrollment(ctx, s, request, token.Mesh, n.cfg.Now())
}

// openEnrol opens a stream to the member that the token names, or to whoever else is at its address now: a machine that was set up anew, or another
// behind the same router. Any member may let in, what is asked is bound to this node's keys and tells nothing of the token's secret, and the answer
// has to prove the mesh. So it gets what it would at a --bootstrap address.
func (n *Node) openEnrol(ctx context.Context, to underlay.Addr, member identity.NodeID) (*control.Stream, error) {
	s, err := n.control.OpenTo(ctx, to, member, coordinator.ProtocolEnroll)
	var turned *control.Refused
	if member.IsZero() || !errors.As(err, &turned) || !turned.Ours || turned.Code != uint64(control.ReasonWrongNode) {
		return s, err
	}
	n.log.Info("another node is at the address of the token's member; asking it", "peer", member.Short())
	return n.control.OpenTo(ctx, to, identity.NodeID{}, coordinator.ProtocolEnroll)
}

// joinFailure explains to the joiner what came of all attempts: a refusal first, then what a reachable member said, then who was not reached.
func joinFailure(failures []attempt, lan bool) error {
	const what = "cannot join the mesh"
	var refused *coordinator.Refused
	var silent []string
	for _, a := range failures {
		switch {
		case errors.As(a.err, &refused):
			return localapi.Fail(localapi.Refused, what, refused, refusalNext(refused))
		case errors.Is(a.err, coordinator.ErrNoQuorum):
			return localapi.Fail(localapi.Failed, what, a.err, "try again once most coordinators are back; the token stays good until it expires")
		}
		silent = append(silent, a.introduction.String()+": "+whyNoContact(a.err))
	}
	slices.Sort(silent)
	if len(silent) == 0 {
		silent = []string{"the token names no address"}
	}
	if !slices.ContainsFunc(failures, func(a attempt) bool { return a.from == fromLAN }) {
		if lan {
			silent = append(silent, "on the LAN: no beacon of this mesh")
		} else {
			silent = append(silent, "on the LAN: not searched")
		}
	}
	return localapi.Fail(localapi.TimedOut, what, fmt.Errorf("%w: %s", errUnreachable, strings.Join(silent, "; ")),
		"check that phantom runs at one of these and that UDP gets through. If all of them have moved or are gone, any member of the mesh lets this machine in: "+
			"join again with --bootstrap HOST:PORT of one, or in the LAN of one; or ask for a new invitation")
}

func refusalNext(r *coordinator.Refused) string {
	switch r.Code {
	case coordinator.RefusedMesh: // the other reasons say it themselves
		return "ask a member for a new invitation: phantom invite"
	case coordinator.RefusedClock:
		return "set this machine's clock and join again"
	}
	return ""
}
