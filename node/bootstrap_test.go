package node

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/config"
)

func TestAJoinTriesTheTokensMembersAndThenTheBootstrapAddresses(t *testing.T) {
	first, second := netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("[2001:db8::2]:7000")
	n := &Node{log: slog.New(slog.DiscardHandler), cfg: Config{Settings: config.Settings{
		Bootstrap: []string{first.String(), second.String(), second.String(), "192.0.2.3:no-port"},
	}}}
	member := identity.NodeID{1}
	got := n.introductions(t.Context(), invitation.Token{Members: []invitation.Member{{ID: member, Addresses: []netip.AddrPort{first}}}})
	if want := []introduction{{member, first}, {identity.NodeID{}, second}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBootstrapIsBounded(t *testing.T) {
	n := &Node{log: slog.New(slog.DiscardHandler)}
	for i := range 2 * bootstrapMax {
		n.cfg.Settings.Bootstrap = append(n.cfg.Settings.Bootstrap, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1).String())
	}
	if got := n.bootstrap(t.Context()); len(got) != bootstrapMax {
		t.Errorf("%d addresses, want %d", len(got), bootstrapMax)
	}
}
