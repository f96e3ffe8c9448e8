package node_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/node"
)

// names is a name server. It does not answer about a name without an address.
type names map[string][]netip.Addr

func (n names) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	addrs, ok := n[host]
	switch {
	case !ok:
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	case len(addrs) > 0:
		return addrs, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// seeker runs a node that is in no mesh, with --bootstrap hosts.
func (b *bubbleMesh) seeker(i int, resolver discovery.Resolver, hosts ...string) *node.Node {
	b.t.Helper()
	s := config.Defaults()
	s.State, s.Name, s.Bootstrap = filepath.Join(b.dir, "seeker"), "seeker", hosts
	host := b.network.Host(bubbleAddr(i, 0))
	cfg := bubbleConfig(s, host, slog.New(slog.DiscardHandler))
	cfg.Resolver = resolver
	n, err := node.New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := &bubbleRun{node: n, host: host, stop: cancel, ended: make(chan error, 1)}
	b.running[i] = run
	go func() { run.ended <- n.Run(ctx) }()
	return n
}

// refused enters and wants a failure of a class.
func (b *bubbleMesh) refused(n *node.Node, e localapi.Entry, class localapi.Class) *localapi.Failure {
	b.t.Helper()
	var f *localapi.Failure
	if err := n.Enter(b.t.Context(), e); !errors.As(err, &f) || f.Class != class {
		b.t.Fatalf("%v, want class %d", err, class)
	}
	return f
}

func wantWords(t *testing.T, f *localapi.Failure, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(f.Error(), w) {
			t.Errorf("%q is missing in: %s", w, f)
		}
	}
}

// Regression: all names were looked up one after the other within three seconds, before anybody was asked: behind one that nobody answered for, good
// names had no address, and the token's own members waited.
func TestANameServerThatDoesNotAnswerHoldsNobodyUp(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		member := b.start(0, 0, localapi.Entry{New: "lab"}, nil)
		resolver := names{"silent.example": nil, "gone.example": {netip.MustParseAddr("192.0.2.99")}, "member.example": {bubbleAddr(0, 0)}}
		n := b.seeker(1, resolver, "silent.example:51820", "gone.example:51820", "nowhere.example:51820", "member.example:51820")
		f := b.refused(n, localapi.Entry{Found: true, Within: time.Second}, localapi.TimedOut)
		wantWords(t, f, "nobody has approved", "its code is")
		invite, err := member.Invite(t.Context(), localapi.InviteRequest{})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := n.Enter(t.Context(), localapi.Entry{Token: invite.Token}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("joined after %s", took)
		}
	})
}

// Who joins in vain hears what was tried and what else there is, also if he does not wait for as long as an attempt may take.
func TestWhoJoinsInVainIsToldWhatWasTried(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		member := b.start(0, 0, localapi.Entry{New: "lab"}, nil)
		invite, err := member.Invite(t.Context(), localapi.InviteRequest{})
		if err != nil {
			t.Fatal(err)
		}
		b.kill(0)
		n := b.seeker(1, names{"silent.example": nil}, "192.0.2.99:7", "silent.example:8", "nowhere.example:9")
		for _, within := range []time.Duration{3 * time.Second, 0} {
			began := time.Now()
			f := b.refused(n, localapi.Entry{Token: invite.Token, Within: within}, localapi.TimedOut)
			wantWords(t, f, bubbleAddr(0, 0).String()+":51820", "192.0.2.99:7: no answer", "nowhere.example:9: the name has no address", "--bootstrap HOST:PORT", "on the LAN: not searched")
			if took := time.Since(began); within > 0 && took > within || took > 10*time.Second {
				t.Errorf("told after %s", took)
			}
			if within == 0 {
				wantWords(t, f, "silent.example:8")
			}
		}
		f := b.refused(n, localapi.Entry{Found: true}, localapi.TimedOut)
		wantWords(t, f, "192.0.2.99:7: no answer", "silent.example:8: ", "nowhere.example:9: the name has no address", "--bootstrap=")
	})
}

// Regression: a machine that waited to be let into one mesh went on waiting for it when it was told another.
func TestWhoAsksForAnotherMeshTakesTheFirstRequestBack(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		for i, mesh := range []string{"left", "right"} {
			b.start(i, 0, localapi.Entry{New: mesh}, nil)
		}
		n := b.seeker(2, nil, bubbleAddr(0, 0).String()+":51820", bubbleAddr(1, 0).String()+":51820")
		for _, mesh := range []string{"left", "right", "", "right", "left"} {
			wantWords(t, b.refused(n, localapi.Entry{Found: true, Mesh: mesh, Within: 3 * time.Second}, localapi.TimedOut), "nobody has approved")
			s, err := n.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if p := s.Self.Pending; p == nil || mesh != "" && p.Mesh.Name != mesh {
				t.Fatalf("asked for %q, waits for %+v", mesh, p)
			}
		}
		f := b.refused(n, localapi.Entry{Found: true, Mesh: "third"}, localapi.Failed)
		wantWords(t, f, "a member of the mesh left", "a member of the mesh right", "--mesh")
	})
}

// Regression: phantom up --json said that all others were dead, and to see phantom doctor, as gossip had just begun.
func TestWhoHasJustJoinedOrReturnedSeesTheOthers(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		member := b.start(0, 0, localapi.Entry{New: "lab"}, nil)
		n := b.join(1, member, nil)
		for _, how := range []string{"joined", "returned"} {
			s, err := n.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Peers) != 1 || s.Peers[0].State != "alive" || len(s.Health) > 0 {
				t.Errorf("who has just %s sees %+v, %q", how, s.Peers, s.Health)
			}
			b.stop(1)
			n = b.start(1, 0, localapi.Entry{}, nil)
			b.running[1].node.Wait(t.Context(), localapi.WaitRequest{})
		}
	})
}
