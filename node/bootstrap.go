package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// What --bootstrap does: its addresses are tried when a node joins, beside those of the token, and by a member for as long as it reaches
// nobody, beside those of its address book. Whoever answers there proves in the usual ways who it is.
const (
	// introductionsMax bounds the addresses of --bootstrap that are tried when a node joins or seeks, of all names together: a path check each,
	// side by side.
	introductionsMax = 32
	// lanMembersMax is the same for beacons, which anybody in the LAN can send.
	lanMembersMax = 8
	// bootstrapAgain is the time between two rounds of a member that reaches nobody.
	bootstrapAgain = 15 * time.Second
)

// Where an introduction comes from, for people.
const (
	fromToken = "the token"
	fromLAN   = "the LAN"
)

// introduction is one address at which to ask to be enrolled. A zero member: whoever is there.
type introduction struct {
	member identity.NodeID
	addr   netip.AddrPort
	from   string // fromToken, fromLAN, or the --bootstrap HOST:PORT
}

// String is how a person recognises it.
func (i introduction) String() string {
	switch {
	case i.from == fromToken:
		return fmt.Sprintf("%s (%s)", i.addr, i.member.Short())
	case i.from == fromLAN:
		return fmt.Sprintf("%s (on the LAN)", i.addr)
	case i.addr.IsValid() && i.from != i.addr.String():
		return fmt.Sprintf("%s (%s)", i.from, i.addr)
	}
	return i.from
}

// introductions are what the token itself says.
func introductions(token invitation.Token) (out []introduction) {
	for _, m := range token.Members {
		for _, a := range m.Addresses {
			out = append(out, introduction{m.ID, a, fromToken})
		}
	}
	return out
}

// eachBootstrap calls found for every address of the settings' bootstrap hosts as soon as it is known, lost for a host that has none. Calls come one
// at a time; it returns when all are looked up.
func (n *Node) eachBootstrap(ctx context.Context, found func(introduction), lost func(introduction, error)) {
	count := 0
	discovery.Bootstrap{Resolver: n.cfg.Resolver}.Resolve(ctx, n.cfg.Settings.Bootstrap, func(f discovery.Failure) {
		at := introduction{addr: f.Addr, from: f.Target}
		if count++; f.Err == nil && count > introductionsMax {
			f.Err = fmt.Errorf("left out, at most %d addresses are tried", introductionsMax)
		}
		if f.Err == nil {
			found(at)
			return
		}
		if ctx.Err() == nil {
			n.log.Warn("bootstrap host left out", "addr", f.Target, "err", f.Err)
		}
		lost(at, f.Err)
	})
}

// whyNoContact says in a few words why nobody was met at an address.
func whyNoContact(err error) string {
	var dns *net.DNSError
	var tcp *net.OpError
	switch {
	case errors.As(err, &dns) && dns.IsTimeout:
		return "the name server does not answer"
	case errors.As(err, &dns):
		return "the name has no address: " + dns.Err
	case errors.Is(err, underlay.ErrNoCandidates):
		return "this machine's own address, or none that a node can have"
	case errors.As(err, &tcp) && tcp.Op == "dial" && tcp.Err != nil && !tcp.Timeout():
		var errno syscall.Errno
		if errors.As(tcp.Err, &errno) {
			return "no answer to UDP; TCP: " + errno.Error()
		}
		return "no answer"
	case errors.Is(err, underlay.ErrUnreachable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer"
	}
	return showable(err.Error())
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
			try := func(i introduction) { contacts.Go(func() { m.contactBootstrap(i.addr) }) }
			contacts.Go(func() { n.eachBootstrap(m.ctx, try, func(introduction, error) {}) })
			for _, i := range n.lanIntroductions(m.ctx, state.Mesh.ID, nil) {
				try(i)
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
