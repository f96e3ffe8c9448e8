package controltest

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Mesh is a mesh of nodes on one network in memory. Node 0 is its issuer.
type Mesh struct {
	T       testing.TB
	Network *Network
	Root    *identity.RootKey
	Issuer  *identity.Key
	Nodes   []*Node

	serial uint64
}

// Node is one node of a Mesh. Trust and Chain may be exchanged while it runs: the Host asks for them at every connection.
type Node struct {
	Mesh  *Mesh
	Key   *identity.Key
	ID    identity.NodeID
	Name  string
	Host  *control.Host
	Port  *Port
	Peers *peer.Table // knows all members of the mesh
	Trust atomic.Pointer[certificate.Trust]
	Chain atomic.Pointer[certificate.Chain]
	// Told receives how others turned this node away; what does not fit is lost.
	Told chan Told
}

// Told is what control.Config.Refused was called with.
type Told struct {
	Refused *control.Refused
	TLSKey  [32]byte
}

// toldMax is more than any test provokes.
const toldMax = 16

// New makes a mesh of n members, all with a running Host and each in the other's table. The test's cleanup closes them.
func New(t testing.TB, n int) *Mesh {
	t.Helper()
	m := &Mesh{T: t, Network: NewNetwork()}
	root, err := identity.GenerateRoot(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m.Root = root
	for range n {
		node := m.Stranger()
		if m.Issuer == nil {
			m.Issuer = node.Key
		}
		m.Enroll(node)
	}
	return m
}

// Trust returns what a new member of the mesh trusts: the root and the issuer.
func (m *Mesh) Trust() *certificate.Trust {
	m.T.Helper()
	now := time.Now()
	raw, err := certificate.SignIssuerByRoot(m.Root, certificate.Issuer{
		Public: *m.Issuer.Public(), Mesh: m.Root.ID(), Serial: 1,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificate.IssuerLife / 2),
	})
	if err != nil {
		m.T.Fatal(err)
	}
	trust, err := certificate.NewTrust(m.Root.Public()).WithIssuer(raw, now)
	if err != nil {
		m.T.Fatal(err)
	}
	return trust
}

// Certify signs a certificate for a key, valid from and to as given, and returns the chain to show for it.
func (m *Mesh) Certify(p *identity.Public, name string, from, to time.Time) (*certificate.Chain, *certificate.Member) {
	m.T.Helper()
	m.serial++
	member := certificate.Member{
		Public: *p, Mesh: m.Root.ID(), Name: name, NotBefore: from, NotAfter: to, Serial: m.serial,
		IPv4: netip.AddrFrom4([4]byte{10, 86, byte(m.serial >> 8), byte(m.serial)}),
	}
	raw, err := certificate.SignMember(m.Issuer, member)
	if err != nil {
		m.T.Fatal(err)
	}
	chain, err := m.Trust().ChainFor(raw)
	if err != nil {
		m.T.Fatal(err)
	}
	return chain, &member
}

// Stranger adds a node with an identity and a running Host, and no certificate.
func (m *Mesh) Stranger() *Node {
	m.T.Helper()
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		m.T.Fatal(err)
	}
	node := &Node{Mesh: m, Key: key, ID: key.ID(), Name: fmt.Sprintf("node-%d", len(m.Nodes)), Peers: peer.NewTable(key.ID()), Told: make(chan Told, toldMax)}
	m.Nodes = append(m.Nodes, node)
	node.Start()
	m.T.Cleanup(func() { node.Stop() })
	return node
}

// Enroll makes a node a member, known to all others.
func (m *Mesh) Enroll(node *Node) {
	m.T.Helper()
	now := time.Now()
	chain, member := m.Certify(node.Key.Public(), node.Name, now.Add(-time.Hour), now.Add(certificate.MemberLife/2))
	node.Trust.Store(m.Trust())
	node.Chain.Store(chain)
	for _, other := range m.Nodes {
		if other.Trust.Load() == nil {
			continue
		}
		other.Peers.Admit(member, chain.Member)
		if own := other.Chain.Load(); own != nil && other != node {
			if theirs, _, err := certificate.ParseMember(own.Member); err == nil {
				node.Peers.Admit(theirs, own.Member)
			}
		}
	}
}

// Start attaches the node to the network and runs its Host; protocols must be registered anew.
func (n *Node) Start() {
	n.Mesh.T.Helper()
	n.Port = n.Mesh.Network.Attach(n.Key.Public())
	host, err := control.New(control.Config{
		Key: n.Key, Network: n.Port, Trust: n.Trust.Load, Chain: n.Chain.Load, Admit: n.Peers.Admit,
		Refused: func(r *control.Refused, key [32]byte) {
			select {
			case n.Told <- Told{r, key}:
			default:
			}
		},
		Known:  func(k identity.WireGuardKey) bool { _, ok := n.Peers.ByKey(k); return ok },
		Member: func(id identity.NodeID) bool { e, ok := n.Peers.Get(id); return ok && e.MemberAt(time.Now()) },
		TLSKey: func(id identity.NodeID) (key [32]byte, known bool) {
			e, ok := n.Peers.Get(id)
			if ok {
				key = e.Member.Public.Ed25519
			}
			return key, ok
		},
	})
	if err != nil {
		n.Mesh.T.Fatal(err)
	}
	n.Host = host
}

// Stop closes the Host, which tells its peers, and the port.
func (n *Node) Stop() {
	_ = n.Host.Close()
	_ = n.Port.Close()
}

// Kill ends the node without a word to anybody, as kill -9 would. Start brings it back as another run of the same node.
func (n *Node) Kill() {
	n.Port.Vanish()
	n.Stop()
}
