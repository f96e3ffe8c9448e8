package gossip

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// wires carries sealed packets between the nodes of a controltest mesh.
type wires struct {
	mu   sync.Mutex
	ends map[identity.NodeID]*wireEnd
}

type wireEnd struct {
	all  *wires
	self identity.NodeID
	in   chan underlay.GossipPacket
	dead bool
}

func (w *wires) end(id identity.NodeID) *wireEnd {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &wireEnd{all: w, self: id, in: make(chan underlay.GossipPacket, 1024)}
	w.ends[id] = e
	return e
}

func (e *wireEnd) Gossip() <-chan underlay.GossipPacket { return e.in }

func (e *wireEnd) SendGossip(to identity.NodeID, b []byte, _ bool) error {
	e.all.mu.Lock()
	defer e.all.mu.Unlock()
	o := e.all.ends[to]
	if o == nil || o.dead || e.dead {
		return nil
	}
	select {
	case o.in <- underlay.GossipPacket{FromID: e.self, Data: slices.Clone(b), At: time.Now()}:
	default:
	}
	return nil
}

func (w *wires) cut(id identity.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends[id].dead = true
}

func TestGossipOverRealControlConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := controltest.New(t, 4)
		net := &wires{ends: map[identity.NodeID]*wireEnd{}}
		pools := make([]*Pool, len(mesh.Nodes))
		run := func(i int) {
			n := mesh.Nodes[i]
			h, err := NewHost(HostConfig{
				Self: n.ID, Key: n.Key, Mesh: mesh.Root.ID(), Peers: n.Peers, Packets: net.end(n.ID), Control: n.Host,
				Keyring: [][]byte{gossipA},
			})
			if err != nil {
				t.Fatal(err)
			}
			p, err := h.Open(Config{Scope: testScope})
			if err != nil {
				t.Fatal(err)
			}
			pools[i] = p
			t.Cleanup(func() { _ = p.host.Close() })
		}
		all := func(of identity.NodeID, state peer.State) func() bool {
			return func() bool {
				for i, n := range mesh.Nodes {
					if e, _ := n.Peers.Get(of); n.ID != of && pools[i] != nil && e.State != state {
						return false
					}
				}
				return true
			}
		}
		for i := range mesh.Nodes {
			run(i)
			if i > 0 {
				if _, err := pools[i].Join(t.Context(), []identity.NodeID{mesh.Nodes[0].ID}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, n := range mesh.Nodes {
			eventually(t, 2*time.Second, "alive everywhere", all(n.ID, peer.Alive))
		}
		victim := mesh.Nodes[3]
		net.cut(victim.ID)
		victim.Kill()
		_ = pools[3].host.Close()
		eventually(t, 6*time.Second, "dead everywhere", all(victim.ID, peer.Dead))
		victim.Start()
		run(3)
		eventually(t, 3*time.Second, "alive again everywhere", all(victim.ID, peer.Alive))
		if s := pools[0].Stats(); s.StreamsAccepted == 0 || s.StreamBytesReceived == 0 || s.Members[peer.Alive] != 4 {
			t.Errorf("the numbers are %+v", s)
		}
		for _, p := range pools {
			_ = p.host.Close()
		}
		time.Sleep(awarenessMax * LAN().ProbeInterval)
	})
}
