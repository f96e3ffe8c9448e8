package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

func TestAOneUseTokenAdmitsOneOfTwoRacers(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 3)
	for round := range 3 {
		racers := []*mesh.Node{
			mesh.Start(t, l, l.Host(fmt.Sprintf("left%d", round))),
			mesh.Start(t, l, l.Host(fmt.Sprintf("right%d", round))),
		}
		token := nodes[round].Invite().Token
		results := make(chan mesh.Result, 2)
		for _, n := range racers {
			go func() { results <- n.Do("join", token) }()
		}
		first, second := <-results, <-results
		if first.Code > second.Code {
			first, second = second, first
		}
		if first.Code != mesh.Done || second.Code != mesh.Refused {
			t.Fatalf("want one in and one refused:\n%v\n%v", first.Err(), second.Err())
		}
		if !strings.Contains(second.Stderr, "invitation") || !strings.Contains(second.Stderr, "used") {
			t.Errorf("the loser is not told that the invitation was used: %s", second.Stderr)
		}
	}
}

func TestARevokedNodeIsCutOffEverywhereWithinFiveSeconds(t *testing.T) {
	need(t)
	const promise = 5 * time.Second
	l, nodes := mesh.Grow(t, 4)
	mesh.Everybody(t, settled, nodes...)
	gone, rest := nodes[3], nodes[:3]
	addr := gone.Addresses()[0]
	token := gone.Invite("--uses", "3").Token
	echo := gone.Echo()
	for _, n := range rest {
		if err := mesh.Reach(n, gone, echo); err != nil {
			t.Fatal(err)
		}
	}
	rest[1].Must("revoke", gone.Name)
	begin := time.Now()
	for _, n := range rest {
		if err := mesh.CutOff(n.Host, addr, promise-time.Since(begin)); err != nil {
			t.Error(err)
		}
	}
	for _, n := range rest {
		if gone.Host.PingOnce(n.Addresses()[0]) == nil {
			t.Errorf("the revoked node still reaches %s", n.Name)
		}
	}
	// Whom it has invited does not get in any more.
	late := mesh.Start(t, l, l.Host("late"))
	if r := late.Do("join", token); r.Code != mesh.Refused || !strings.Contains(r.Stderr, "revoked") {
		t.Errorf("invited by a revoked member: want exit code %d and why: %v", mesh.Refused, r.Err())
	}
	late.Join(rest[0].Invite().Token)
	// Neither a restart nor its old state brings it back.
	gone.Kill()
	gone.StartOnly()
	if r := gone.Do("wait", "--timeout", "5s"); r.Code == mesh.Done {
		t.Error("the revoked node is online again after a restart")
	}
	for _, n := range rest {
		if n.Host.PingOnce(addr) == nil {
			t.Errorf("%s reaches the revoked node after its restart", n.Name)
		}
	}
}

func TestANodeThatWasRevokedWhileItWasAwayIsToldWhenItReturns(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 3)
	mesh.Everybody(t, settled, nodes...)
	gone, rest := nodes[2], nodes[:2]
	gone.Kill()
	rest[1].Must("revoke", gone.Name)
	gone.StartOnly()
	err := lab.Eventually(settled, func() error {
		if gone.Process.Running() {
			return errors.New("the revoked node still runs")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if out := gone.Process.Output(); !bytes.Contains(out, []byte("its membership was revoked")) {
		t.Errorf("it does not say why: %s", out)
	}
	r := gone.Do("up", gone.Flags...)
	if r.Code != mesh.Refused || !strings.Contains(r.Stderr, "revoked") {
		t.Errorf("phantom up: exit code %d, %s", r.Code, r.Stderr)
	}
}

func TestATokenThatIsNoneIsWrongUsage(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 1)
	token := nodes[0].Invite().Token
	damaged := []byte(token)
	damaged[len(damaged)/2] ^= 1
	n := mesh.Start(t, l, l.Host("joiner"))
	for name, bad := range map[string]string{
		"garbage": "hello", "empty": "", "cut": token[:len(token)-5], "one bit wrong": string(damaged), "newer": "pm9" + token[3:],
	} {
		if r := n.Do("join", bad); r.Code != mesh.Usage || r.Stderr == "" {
			t.Errorf("%s: want exit code %d and a reason: %v", name, mesh.Usage, r.Err())
		}
	}
	n.Join(token) // and nothing was lost
}

func TestAnExpiredTokenIsRefused(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 1)
	n := mesh.Start(t, l, l.Host("joiner"))
	i := nodes[0].Invite("--expires", "1s")
	err := lab.Eventually(10*time.Second, func() error {
		if time.Now().After(i.Expires) {
			return nil
		}
		return fmt.Errorf("a token for one second expires at %s", i.Expires)
	})
	if err != nil {
		t.Fatal(err)
	}
	r := n.Do("join", i.Token)
	if r.Code != mesh.Refused || !strings.Contains(r.Stderr, "expired") {
		t.Errorf("want exit code %d and the word expired: %v", mesh.Refused, r.Err())
	}
	n.Join(nodes[0].Invite().Token) // the refusal left the machine ready for a good one
}

func TestACancelledTokenIsRefused(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 1)
	i := nodes[0].Invite()
	nodes[0].Must("invitations", "--cancel", i.ID)
	if r := mesh.Start(t, l, l.Host("joiner")).Do("join", i.Token); r.Code != mesh.Refused || r.Stderr == "" {
		t.Errorf("want exit code %d and a reason: %v", mesh.Refused, r.Err())
	}
}

func TestAMemberIsNotTakenIntoAnotherMesh(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	a, b := mesh.Start(t, l, l.Host("a")), mesh.Start(t, l, l.Host("b"))
	a.Found("first")
	b.Found("second")
	before := a.Status()
	for _, args := range [][]string{{"join", b.Invite().Token}, {"up", "--new", "third"}} {
		r := a.Do(args[0], args[1:]...)
		if r.Code != mesh.Failed || !strings.Contains(r.Stderr, "first") {
			t.Errorf("want exit code %d and the name of the mesh it is in: %v", mesh.Failed, r.Err())
		}
	}
	// The same with the node stopped: the state folder remembers.
	a.Must("down")
	a.Process.Wait(settled)
	if r := a.Do("up", append([]string{"--new", "third"}, a.Flags...)...); r.Code != mesh.Failed {
		t.Errorf("with the node stopped: want exit code %d: %v", mesh.Failed, r.Err())
	}
	a.Do("down")
	a.Start()
	if after := a.Status(); after.Mesh != before.Mesh || after.Self.ID != before.Self.ID {
		t.Errorf("the state folder changed: %+v, was %+v", after, before)
	}
}

func TestATokenWhoseMeshIsGoneFails(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	old := mesh.Start(t, l, l.Host("a"))
	old.Found("old")
	token := old.Invite().Token
	old.Kill()
	// Another mesh lives at the very address the token names.
	successor := mesh.New(t, l, old.Host)
	successor.State += "-new"
	successor.Start()
	successor.Found("successor")
	joiner := mesh.Start(t, l, l.Host("b"))
	r := joiner.Do("join", token, "--timeout", "10s")
	if r.Code == mesh.Done || r.Code == mesh.Usage || r.Stderr == "" {
		t.Errorf("want a clear failure: %v", r.Err())
	}
	if id := joiner.Status().Mesh.ID; id != "" {
		t.Errorf("the joiner believes to be in mesh %s", id)
	}
}

func TestJoiningWithNobodyThereTimesOut(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 1)
	token := nodes[0].Invite().Token
	n := mesh.Start(t, l, l.Host("joiner"))
	nodes[0].Host.Cut()
	r := n.Do("join", token, "--timeout", "4s")
	if r.Code != mesh.TimedOut && r.Code != mesh.Failed || r.Stderr == "" || r.Took > 8*time.Second {
		t.Errorf("want a failure that says why within 8 s: %v", r.Err())
	}
	nodes[0].Host.Restore()
	n.Join(token) // the token was not used up
}

func TestLosingQuorumStopsDecisionsAndNothingElse(t *testing.T) {
	t.Parallel()
	need(t)
	const atOnce = 5 * time.Second
	l, nodes := mesh.Grow(t, 4)
	mesh.Everybody(t, settled, nodes...)
	ids := mesh.Voters(t, nodes[0], 3, settled)
	token := nodes[0].Invite().Token
	// Two of three voters die; a voter and the node without a vote stay.
	var dead, left []*mesh.Node
	for _, n := range nodes {
		isVoter := strings.Contains(strings.Join(ids, " "), n.Status().Self.ID)
		if isVoter && len(dead) < 2 {
			dead = append(dead, n)
		} else {
			left = append(left, n)
		}
	}
	for _, n := range dead {
		n.Kill()
	}
	for _, n := range left {
		err := lab.Eventually(settled, func() error {
			if c := n.Status().Coordinators; c.Quorum {
				return fmt.Errorf("%s still believes in a quorum: %+v", n.Name, c)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		r := n.Do("invite")
		if r.Code == mesh.Done || r.Took > atOnce || !strings.Contains(r.Stderr, "quorum") {
			t.Errorf("invite without a quorum: want a failure within %s that says so: %v", atOnce, r.Err())
		}
	}
	// These two never talked: a new tunnel needs no coordinator.
	if err := mesh.Reach(left[0], left[1], left[1].Echo()); err != nil {
		t.Errorf("traffic without a quorum: %v", err)
	}
	joiner := mesh.Start(t, l, l.Host("joiner"))
	if r := joiner.Do("join", token, "--timeout", "20s"); r.Code == mesh.Done || r.Stderr == "" || r.Took > 21*time.Second {
		t.Errorf("join without a quorum: want a failure with a reason: %v", r.Err())
	}
	for _, n := range dead {
		n.Start()
	}
	mesh.Everybody(t, settled, nodes...)
	mesh.Leader(t, left[0], nodes)
	joiner.Join(token) // an invitation given before still holds
}

func TestStrangersGetNoMoreBytesThanTheySend(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 1)
	stranger := l.Host("stranger")
	to := netip.AddrPortFrom(nodes[0].Host.IPv4, 51820)
	pad := func(head []byte, size int) []byte { return append(head, make([]byte, size-len(head))...) }
	for name, packet := range map[string][]byte{
		"WireGuard initiation": pad([]byte{1, 0, 0, 0}, 148),
		"WireGuard transport":  pad([]byte{4, 0, 0, 0}, 128),
		"QUIC initial":         pad([]byte{0xc3, 0, 0, 0, 1, 8}, 1200),
		"QUIC unknown version": pad([]byte{0xc3, 0xba, 0xba, 0xba, 0xba, 8, 1, 2, 3, 4, 5, 6, 7, 8, 4, 1, 2, 3, 4}, 1200),
		"QUIC short header":    pad([]byte{0x43}, 60),
		"gossip":               pad([]byte{0x20}, 100),
		"relay frame":          pad([]byte{0x30}, 100),
		"anything":             pad([]byte{0xff}, 100),
	} {
		if n, err := ask(stranger, to, packet, time.Second); err != nil || n > 0 {
			t.Errorf("%s: a stranger got %d bytes, %v, want silence", name, n, err)
		}
	}
	// STUN (RFC 8489): type 0x0001, length, magic cookie, transaction, then PADDING as an attribute.
	stun := pad([]byte{0, 1, 0, 80, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x00, 0x26, 0, 76}, 100)
	n, err := ask(stranger, to, stun, 5*time.Second)
	if err != nil || n == 0 || n > len(stun) {
		t.Errorf("a STUN request of %d bytes was answered with %d, %v", len(stun), n, err)
	}
}

// ask sends a packet from a host and returns the size of the answer, 0 for none.
func ask(h *lab.Host, to netip.AddrPort, packet []byte, wait time.Duration) (int, error) {
	c, err := h.Dial("udp", to.String(), wait)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if _, err := c.Write(packet); err != nil {
		return 0, err
	}
	c.SetReadDeadline(time.Now().Add(wait))
	n, err := c.Read(make([]byte, 2048))
	if err != nil { // nobody answered; a port that is closed would be found by the STUN request
		return 0, nil
	}
	return n, nil
}
