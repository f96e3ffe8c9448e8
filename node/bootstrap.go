package node

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// What --bootstrap does: its addresses are tried when a node joins, beside those of the token, and by a member for as long as it reaches
// nobody, beside those of its address book. Whoever answers there proves in the usual ways who it is.
const (
	// resolveMax bounds looking the names up: a resolver that does not answer must not hold up a join.
	resolveMax = 3 * time.Second
	// bootstrapMax bounds the addresses that are tried, of all names together.
	bootstrapMax = 8
	// bootstrapAgain is the time between two rounds of a member that reaches nobody.
	bootstrapAgain = 15 * time.Second
)

// bootstrap are the addresses of the settings' bootstrap hosts; a name that does not resolve is logged and left out.
func (n *Node) bootstrap(ctx context.Context) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, resolveMax)
	defer cancel()
	var out []netip.AddrPort
	for _, hostPort := range n.cfg.Settings.Bootstrap {
		host, service, err := net.SplitHostPort(hostPort)
		if err != nil {
			continue // the settings were checked
		}
		port, err := strconv.ParseUint(service, 10, 16)
		if err != nil {
			continue
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			n.log.Warn("bootstrap host not found", "addr", hostPort, "err", err)
		}
		for _, a := range addrs {
			if to := netip.AddrPortFrom(a.Unmap(), uint16(port)); len(out) < bootstrapMax && !slices.Contains(out, to) {
				out = append(out, to)
			}
		}
	}
	return out
}

// introduction is one address at which to ask to be enrolled. A zero member: whoever is there.
type introduction struct {
	member identity.NodeID
	addr   netip.AddrPort
}

// introductions are where to join: the token's members, then the bootstrap addresses that are not among them.
func (n *Node) introductions(ctx context.Context, token invitation.Token) []introduction {
	var out []introduction
	var known []netip.AddrPort
	for _, m := range token.Members {
		for _, a := range m.Addresses {
			out, known = append(out, introduction{m.ID, a}), append(known, a)
		}
	}
	for _, a := range n.bootstrap(ctx) {
		if !slices.Contains(known, a) {
			out = append(out, introduction{addr: a})
		}
	}
	return out
}

// seekBootstrap tries the bootstrap addresses, and those of the LAN that show our mesh's fingerprint, side by side for as long as no member is
// alive, and tells the rest of the node which member is at them.
func (m *membership) seekBootstrap() {
	n := m.node
	if len(n.cfg.Settings.Bootstrap) == 0 && n.lan == nil {
		return
	}
	for {
		state := m.group.State()
		if state.ActiveMembers() > 1 && !m.anybodyAlive() {
			var contacts sync.WaitGroup
			try := func(addrs []netip.AddrPort) {
				for _, addr := range addrs {
					contacts.Go(func() { m.contactBootstrap(addr) })
				}
			}
			try(n.bootstrap(m.ctx))
			if n.lan != nil {
				n.lan.Search(m.ctx, lanJoinWait, lanJoinWait, nil)
				try(n.lanMembers(state.Mesh.ID))
			}
			contacts.Wait()
		}
		if !sleep(m.ctx, bootstrapAgain) {
			return
		}
	}
}

func (m *membership) anybodyAlive() bool {
	return slices.ContainsFunc(m.node.peers.All(), func(e peer.Entry) bool { return e.State == peer.Alive && e.ID != m.node.ID() })
}

// contactBootstrap finds out which member is at an address, and begins to gossip with it. The path that was checked on the way is there to be used;
// the address book keeps it for gossip, which redials whom it holds.
func (m *membership) contactBootstrap(addr netip.AddrPort) {
	n := m.node
	at, err := n.socket.Contact(m.ctx, addr)
	if err != nil {
		n.log.Debug("nobody at the bootstrap address", "addr", addr, "err", err)
		return
	}
	e, ok := n.peers.ByKey(at.Key)
	if !ok {
		m.meet(at)
		e, ok = n.peers.ByKey(at.Key)
	}
	if !ok {
		n.log.Warn("no member of this mesh at the bootstrap address", "addr", addr)
		return
	}
	n.socket.Hint(e.ID, []netip.AddrPort{addr})
	m.note(e.ID, []netip.AddrPort{addr})
	m.greet(e.ID)
}

// meet learns of a member that came while this node was away: with the certificate that it shows it gets into the peer table, and it has the state
// that lists it. A node whose own certificate has ended has to renew it first.
func (m *membership) meet(at underlay.Addr) {
	if m.group.Chain() == nil {
		m.renewAt(m.ctx, at)
		return
	}
	member, raw, err := m.node.control.Meet(m.ctx, at)
	if err != nil || member == nil {
		m.node.log.Debug("no member met", "addr", at.String(), "err", err)
		return
	}
	m.node.peers.Admit(member, raw)
	m.group.PullSoon(member.NodeID())
}
