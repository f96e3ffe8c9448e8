package mesh

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
)

// Status is what the tests read of status --json.
type Status struct {
	Mesh struct{ ID, Name string }
	Self struct {
		ID, Name, Role, State, NAT string
		Addresses                  []netip.Addr
		Endpoints                  []netip.AddrPort
		Pending                    *struct{ Code string }
	}
	Coordinators struct {
		Quorum bool
		Leader string
		Term   uint64
		Voters []string

		Regions []struct {
			Region, Coordinator string
			Term                uint64
		}
	}
	Peers  []Peer
	Health []string
}

// Peer is one entry of status --json.
type Peer struct {
	ID, Name, State string
	Addresses       []netip.Addr
	Path            Path
	Tunnel          struct {
		State       string
		PostQuantum bool   `json:"post_quantum"`
		PSKEpoch    uint64 `json:"psk_epoch"`
	}
}

// Path is the way to a peer.
type Path struct {
	Kind, Endpoint, Via, Transport string
	RTT                            float64 `json:"rtt_ms"`
	MTU                            int
}

// Netcheck is what the tests read of netcheck --json.
type Netcheck struct {
	NAT, Mapping string
	Mapped       []netip.AddrPort
	PortMapping  struct{ Protocol, External string } `json:"port_mapping"`
	UDP, IPv6    bool
	Reachable    bool
	Relays       []struct {
		ID, Name string
		AtHand   bool    `json:"at_hand"`
		RTT      float64 `json:"rtt_ms"`
	}
}

// Why is what the tests read of why --json.
type Why struct {
	Name, Summary string
	Path          Path
	Self, Peer    struct{ NAT string }
	Tried         []struct{ What, How, Result string }
	Change        []string
}

// Requests is what the tests read of requests --json.
type Requests struct {
	Requests []struct{ Code, Name, ID, From, Since string }
}

// Invite is what the tests read of invite --json.
type Invite struct {
	Token, ID string
	Uses      int
	Expires   time.Time
}

// Status asks the node how things are.
func (n *Node) Status() Status {
	n.t.Helper()
	var s Status
	n.Get(&s, "status")
	return s
}

// Found makes the node found a mesh and waits until it is online.
func (n *Node) Found(name string) {
	n.t.Helper()
	n.Must("up", "--new", name)
	n.Online(startTimeout)
}

// Invite asks for a token.
func (n *Node) Invite(args ...string) Invite {
	n.t.Helper()
	var i Invite
	n.Get(&i, "invite", args...)
	return i
}

// Join enrols the node and waits until it is online.
func (n *Node) Join(token string) {
	n.t.Helper()
	n.Must("join", token)
	n.Online(startTimeout)
}

// Online waits until the node says it is.
func (n *Node) Online(timeout time.Duration) {
	n.t.Helper()
	if r := n.Do("wait", "--timeout", timeout.String()); r.Code != Done {
		n.t.Fatalf("%s is not online: %v", n.Name, r.Err())
	}
}

// Await waits until a node that was just started answers and is online.
func (n *Node) Await(timeout time.Duration) error {
	n.t.Helper()
	n.answers()
	return n.Do("wait", "--timeout", timeout.String()).Err()
}

// Addresses are the node's own, IPv4 first.
func (n *Node) Addresses() []netip.Addr {
	n.t.Helper()
	a := n.Status().Self.Addresses
	if len(a) != 2 || !a[0].Is4() || !a[1].Is6() {
		n.t.Fatalf("%s has addresses %v, want one IPv4 and one IPv6", n.Name, a)
	}
	return a
}

// Grow makes a lab of count hosts, a node on each, and one mesh of all: the first founds, the
// others join one after another with the same invitation.
func Grow(t lab.T, count int, flags ...string) (*lab.Lab, []*Node) {
	t.Helper()
	l := lab.New(t)
	var nodes []*Node
	for _, host := range l.AddHosts("n", count) {
		nodes = append(nodes, Start(t, l, host, flags...))
	}
	nodes[0].Found("lab")
	if count > 1 {
		token := nodes[0].Invite("--uses", fmt.Sprint(count-1)).Token
		for _, n := range nodes[1:] {
			n.Join(token)
		}
	}
	return l, nodes
}

// Everybody waits until each of these nodes sees all the others alive.
func Everybody(t lab.T, timeout time.Duration, nodes ...*Node) {
	t.Helper()
	ids := map[string]string{}
	for _, n := range nodes {
		ids[n.Status().Self.ID] = n.Name
	}
	for _, n := range nodes {
		err := lab.Eventually(timeout, func() error {
			s := n.Status()
			alive := map[string]bool{s.Self.ID: true}
			for _, p := range s.Peers {
				alive[p.ID] = p.State == "alive"
			}
			for id, name := range ids {
				if !alive[id] {
					return fmt.Errorf("%s does not see %s alive: %+v", n.Name, name, s.Peers)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// Leader returns the node that leads the coordinators, as the asked node sees it, once there is one.
func Leader(t lab.T, asked *Node, nodes []*Node) *Node {
	t.Helper()
	var leader *Node
	err := lab.Eventually(startTimeout, func() error {
		s := asked.Status()
		for _, n := range nodes {
			if s.Coordinators.Quorum && n.Process.Running() && n.Status().Self.ID == s.Coordinators.Leader {
				leader = n
				return nil
			}
		}
		return fmt.Errorf("%s sees no leader: %+v", asked.Name, s.Coordinators)
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return leader
}

// Voters waits until the mesh has that many voters.
func Voters(t lab.T, asked *Node, count int, timeout time.Duration) []string {
	t.Helper()
	var voters []string
	err := lab.Eventually(timeout, func() error {
		c := asked.Status().Coordinators
		if voters = c.Voters; c.Quorum && len(voters) == count {
			return nil
		}
		return fmt.Errorf("want %d voters: %+v", count, c)
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return voters
}

// Peer is the node's view of another one.
func (n *Node) Peer(name string) Peer {
	n.t.Helper()
	for _, p := range n.Status().Peers {
		if p.Name == name {
			return p
		}
	}
	n.t.Fatalf("%s does not know %s", n.Name, name)
	return Peer{}
}

// Echoed is one line of ping --json.
type Echoed struct {
	Path   Path
	TimeMs float64 `json:"time_ms"`
	Lost   bool
	Error  string
	At     time.Duration `json:"-"` // since the ping was started
}

// Ping pings another node at a pace until seen returns false, or the time is over, and reports whether seen ended it.
func (n *Node) Ping(to string, pace, limit time.Duration, seen func(Echoed) bool) bool {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	begin := time.Now()
	for ctx.Err() == nil { // a node that is not known yet ends ping at once
		if n.pingOnce(ctx, to, pace, func(e Echoed) bool {
			e.At = time.Since(begin)
			return seen(e)
		}) {
			return true
		}
	}
	return false
}

// pingOnce runs phantom ping until it ends, or seen returns false, which it reports.
func (n *Node) pingOnce(ctx context.Context, to string, pace time.Duration, seen func(Echoed) bool) bool {
	n.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	cmd := n.Host.Command(ctx, n.binary, "ping", "--state", n.State, "--json", "-c", fmt.Sprint(86400), "-i", pace.String(), "--timeout", "10s", to)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		n.t.Fatalf("%s: ping: %v", n.Name, err)
	}
	defer cmd.Wait()
	defer cancel()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var e struct {
			Echoed
			Sequence int `json:"seq"` // 0: the summary
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			n.t.Fatalf("%s: ping printed %q: %v", n.Name, lines.Text(), err)
		}
		if e.Sequence > 0 && !seen(e.Echoed) {
			return true
		}
	}
	return false
}
