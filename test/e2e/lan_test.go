package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// pcapHeader is the size of a capture without packets.
const pcapHeader = 24

// onLAN starts a node that looks at its LAN. The lab's hosts have no default route.
func onLAN(t *testing.T, l *lab.Lab, host *lab.Host, flags ...string) *mesh.Node {
	t.Helper()
	n := mesh.New(t, l, host, append([]string{mesh.LAN, "--no-port-mapping"}, flags...)...)
	n.Start()
	return n
}

// asking runs phantom up on a node until somebody approves it.
type asking struct {
	node  *mesh.Node
	began time.Time
	done  chan mesh.Result
}

func askIn(n *mesh.Node, args ...string) *asking {
	a := &asking{node: n, began: time.Now(), done: make(chan mesh.Result, 1)}
	go func() { a.done <- n.Do("up", args...) }()
	return a
}

// code waits until the node shows one.
func (a *asking) code(t *testing.T) (code string, took time.Duration) {
	t.Helper()
	err := lab.Eventually(settled, func() error {
		p := a.node.Status().Self.Pending
		if p == nil {
			return errors.New("no code yet")
		}
		code, took = p.Code, time.Since(a.began)
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", a.node.Name, err, a.node.Process.Output())
	}
	return code, took
}

func (a *asking) mustEnd(t *testing.T) {
	t.Helper()
	if err := (<-a.done).Err(); err != nil {
		t.Fatalf("%s: %v", a.node.Name, err)
	}
}

// found is a first machine: nobody is there, so that up makes a mesh.
func found(t *testing.T, n *mesh.Node) {
	t.Helper()
	a := askIn(n)
	a.mustEnd(t)
	n.Online(settled)
}

func TestALANOfMachinesWithNoConfigurationBecomesAMesh(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	var nodes []*mesh.Node
	for _, h := range l.AddHosts("n", 10) {
		nodes = append(nodes, onLAN(t, l, h))
	}
	found(t, nodes[0])
	var joining []*asking
	for _, n := range nodes[1:] {
		joining = append(joining, askIn(n))
	}
	var toPending, toPing time.Duration
	for i, a := range joining {
		code, took := a.code(t)
		toPending = max(toPending, took)
		approver := nodes[i] // a different member every time, whichever was asked
		var list mesh.Requests
		approver.Get(&list, "requests")
		if !strings.Contains(fmt.Sprint(list), code) {
			t.Fatalf("%s does not list %s: %+v", approver.Name, code, list)
		}
		began := time.Now()
		approver.Must("approve", code)
		a.mustEnd(t)
		if err := nodes[0].Host.Ping(a.node.Addresses()[0], settled); err != nil {
			t.Fatal(err)
		}
		toPing = max(toPing, time.Since(began))
	}
	t.Logf("up to pending at most %s, approve to first ping at most %s", toPending.Round(time.Millisecond), toPing.Round(time.Millisecond))
	mesh.Everybody(t, settled, nodes...)
	for _, from := range nodes {
		for _, to := range nodes {
			if from != to {
				if err := from.Host.Ping(to.Addresses()[1], settled); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func TestTwoFirstMachinesMakeOneMesh(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	a, b := onLAN(t, l, l.Host("a")), onLAN(t, l, l.Host("b"))
	both := []*asking{askIn(a), askIn(b)}
	var first *mesh.Node
	var second *asking
	err := lab.Eventually(settled, func() error {
		for i, n := range []*mesh.Node{a, b} {
			if both[1-i].node.Status().Self.Pending != nil && n.Status().Self.State == "online" {
				first, second = n, both[1-i]
				return nil
			}
		}
		return errors.New("nobody founded, or nobody asks")
	})
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, a.Process.Output(), b.Process.Output())
	}
	code, _ := second.code(t)
	first.Must("approve", code)
	for _, x := range both {
		x.mustEnd(t)
	}
	if a.Status().Mesh.ID != b.Status().Mesh.ID {
		t.Error("two meshes")
	}
}

func TestSeveralMeshesOnALANAndOnAHostAreToldApart(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	h := l.Host("h")
	home := onLAN(t, l, h)
	beside := func(n *mesh.Node, flags ...string) *mesh.Node {
		b := mesh.New(t, l, n.Host, append([]string{mesh.LAN, "--no-port-mapping", "--port", "51900", "--tun", "phantom1"}, flags...)...)
		b.State += "-beside"
		b.Start()
		return b
	}
	work := beside(home)
	home.Must("up", "--new", "home")
	work.Must("up", "--new", "work")
	late := onLAN(t, l, l.Host("late"))
	r := late.Do("up")
	if r.Code != mesh.Usage || !strings.Contains(r.Stderr, "home ") || !strings.Contains(r.Stderr, "work ") || !strings.Contains(r.Stderr, "--mesh") {
		t.Fatalf("want exit code %d and both names: %v", mesh.Usage, r.Err())
	}
	if r := late.Do("up", "--mesh", "none"); r.Code != mesh.Failed {
		t.Errorf("a mesh that is not there: %v", r.Err())
	}
	a := askIn(late, "--mesh", "work")
	code, _ := a.code(t)
	if r := home.Do("approve", code); r.Code != mesh.Failed {
		t.Errorf("a member of the other mesh approved: %v", r.Err())
	}
	work.Must("requests", "--refuse", code)
	if r := <-a.done; r.Code != mesh.Refused {
		t.Fatalf("a refused machine: %v", r.Err())
	}
	// The window, and a request that was there before it.
	paired := make(chan mesh.Result, 1)
	go func() { paired <- work.Do("pair", "--for", "30s") }()
	if err := lab.Eventually(settled, func() error {
		if !bytes.Contains(work.Process.Output(), []byte("pairing window opened")) {
			return errors.New("no window")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	askIn(late, "--mesh", "work").mustEnd(t)
	if err := (<-paired).Err(); err != nil {
		t.Error(err)
	}
	if s := late.Status(); s.Mesh.Name != "work" {
		t.Errorf("in the mesh %s", s.Mesh.Name)
	}
	// Both carry traffic. One of them has another range, and neither is a way to the other.
	second := beside(late)
	second.Join(home.Invite().Token)
	for _, pair := range [][2]*mesh.Node{{home, second}, {work, late}} {
		for i, to := range pair[1].Addresses() {
			if err := pair[0].Host.Ping(to, settled); err != nil {
				t.Errorf("%s, address %d: %v", pair[1].State, i, err)
			}
		}
		for _, n := range pair {
			for _, other := range []*mesh.Node{home, work} {
				if s := n.Status(); s.Mesh.ID != other.Status().Mesh.ID && strings.Contains(fmt.Sprint(s.Self.Endpoints), other.Addresses()[1].String()) {
					t.Errorf("%s is to be reached through the other mesh: %v", n.State, s.Self.Endpoints)
				}
			}
		}
	}
	// A third of the first one's range gets IPv6 only here, and says so.
	third := onLAN(t, l, l.Host("third"))
	third.Must("up", "--new", "third")
	member := mesh.New(t, l, late.Host, mesh.LAN, "--no-port-mapping", "--port", "51901", "--tun", "phantom2")
	member.State += "-third"
	member.Start()
	member.Join(third.Invite().Token)
	if s := member.Status(); !strings.Contains(fmt.Sprint(s.Health), "leads to") {
		t.Errorf("it does not say that it has no IPv4: %v", s.Health)
	}
	member.Must("ping", "third", "-c", "1")
	if err := late.Host.Ping(third.Addresses()[1], settled); err != nil {
		t.Error(err)
	}
	if err := home.Host.Ping(second.Addresses()[0], settled); err != nil {
		t.Errorf("the first mesh after that: %v", err)
	}
}

func TestAJoinFindsAMeshWhoseTokenMembersAreGone(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	hosts := l.AddHosts("n", 4)
	founder := onLAN(t, l, hosts[0])
	founder.Found("lab")
	token := founder.Invite("--uses", "10").Token // names the founder alone
	others := []*mesh.Node{onLAN(t, l, hosts[1]), onLAN(t, l, hosts[2])}
	for _, n := range others {
		n.Join(token)
	}
	mesh.Voters(t, founder, 3, settled)
	founder.Kill()
	mesh.Leader(t, others[0], others)
	late := onLAN(t, l, hosts[3])
	late.Join(token)
	if err := late.Host.Ping(others[1].Addresses()[0], settled); err != nil {
		t.Error(err)
	}
}

func TestABootstrapAddressWithoutATokenAsksTheSameWayAndNoLANIsSilent(t *testing.T) {
	t.Parallel()
	need(t, "tcpdump")
	l := lab.New(t)
	hosts := l.AddHosts("n", 2)
	quiet := l.Capture("udp port 5353")
	member := mesh.Start(t, l, hosts[0]) // --no-lan
	member.Found("lab")
	late := mesh.New(t, l, hosts[1], "--bootstrap", netip.AddrPortFrom(hosts[0].IPv4, 51820).String())
	late.Start()
	a := askIn(late)
	code, _ := a.code(t)
	if r := member.Do("pair", "--for", "1s"); r.Code != mesh.TimedOut {
		t.Errorf("the window let in who did not ask from the LAN, or before it: %v", r.Err())
	}
	// The code survives a member that goes away as a new one.
	member.Kill()
	member.Start()
	member.Online(settled)
	var again string
	if err := lab.Eventually(settled, func() error {
		if p := late.Status().Self.Pending; p != nil && p.Code != code {
			again = p.Code
			return nil
		}
		return errors.New("no new code")
	}); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() { a.mustEnd(t) })
	member.Must("approve", again)
	wait.Wait()
	var log struct{ Entries []struct{ Action, By string } }
	member.Get(&log, "audit")
	if last := log.Entries[len(log.Entries)-1]; last.Action != "approve" || last.By != member.Status().Self.ID {
		t.Errorf("the log ends with %+v", last)
	}
	if sent := quiet.Stop(); len(sent) > pcapHeader {
		t.Errorf("with --no-lan there was mDNS on the LAN: %q", sent)
	}
}

func TestAMeshThatWasFoundedBesideAnotherIsGivenUpForIt(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	first, second := onLAN(t, l, l.Host("first")), onLAN(t, l, l.Host("second"))
	first.Must("up", "--new", "home")
	second.Must("up", "--new", "mine")
	hint := func() error {
		if r := second.Do("doctor"); !strings.Contains(r.Stdout, "home (") || !strings.Contains(r.Stdout, "phantom leave") {
			return fmt.Errorf("doctor says nothing of the other mesh: %s", r.Stdout)
		}
		return nil
	}
	if err := lab.Eventually(settled, hint); err != nil {
		t.Fatal(err)
	}
	if r := second.Do("up", "--mesh", "home"); r.Code != mesh.Failed || !strings.Contains(r.Stderr, "phantom leave") {
		t.Errorf("a member of another mesh: %v", r.Err())
	}
	second.Must("leave")
	if code := second.Process.Wait(settled); code != mesh.Done {
		t.Errorf("it ended with %d", code)
	}
	second.Start()
	a := askIn(second, "--mesh", "home")
	code, _ := a.code(t)
	first.Must("approve", code)
	a.mustEnd(t)
	if err := first.Host.Ping(second.Addresses()[0], settled); err != nil {
		t.Error(err)
	}
}

// A LAN may have no IPv4 at all: beacons, paths and the exchange of codes then use the addresses that its router gives.
func TestALANWithIPv6OnlyBecomesAMesh(t *testing.T) {
	t.Parallel()
	need(t, "nft", "conntrack")
	l := lab.New(t)
	r := l.Router("home", lab.RouterConfig{IPv6Only: true})
	first, second := onLAN(t, l, r.AddHost("a")), onLAN(t, l, r.AddHost("b"))
	found(t, first)
	a := askIn(second)
	code, _ := a.code(t)
	first.Must("approve", code)
	a.mustEnd(t)
	if err := first.Host.Ping(second.Addresses()[0], settled); err != nil {
		t.Error(err)
	}
}

// A member with two interfaces is found in the networks of both, and is no way from one to the other for beacons.
func TestAMemberWithTwoInterfacesIsFoundOnBoth(t *testing.T) {
	t.Parallel()
	need(t, "nft", "conntrack")
	l := lab.New(t)
	left, right := l.Router("left", lab.RouterConfig{Subnet: "10.1.0.0/24"}), l.Router("right", lab.RouterConfig{Subnet: "10.2.0.0/24"})
	between := left.AddHost("between")
	right.Plug(between)
	member := onLAN(t, l, between)
	found(t, member)
	for _, r := range []*lab.Router{left, right} {
		n := onLAN(t, l, r.AddHost("of-"+r.Name))
		a := askIn(n)
		code, _ := a.code(t)
		member.Must("approve", code)
		a.mustEnd(t)
		if err := member.Host.Ping(n.Addresses()[0], settled); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
	}
}
