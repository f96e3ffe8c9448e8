package node

import (
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

func TestAnExplanationNamesTheObstacleAndWhatWouldHelp(t *testing.T) {
	v4, v6 := localapi.List[string]{"192.168.1.2:51820"}, localapi.List[string]{"[2001:db8::1]:51820"}
	side := func(nat string) localapi.Side { return localapi.Side{NAT: nat, Endpoints: v4} }
	mapped := side(localapi.NATEasy)
	mapped.PortMapping = "upnp"
	six := localapi.Side{NAT: localapi.NATNone, Endpoints: v6, IPv6: true}
	relay := localapi.Path{Kind: localapi.PathRelay, Via: "n-x"}
	direct := localapi.Path{Kind: localapi.PathDirect, Endpoint: "192.0.2.9:51820", Transport: localapi.TransportUDP}
	tcp := direct
	tcp.Transport = localapi.TransportTCP
	for _, c := range []struct {
		name    string
		path    localapi.Path
		ours    localapi.Side
		theirs  localapi.Side
		summary string
		change  []string // a word of each
	}{
		{"public", direct, side("none"), side("none"), "neither side is behind a NAT", nil},
		{"punched", direct, side("easy"), side("hard"), "direct to 192.0.2.9:51820", nil},
		{"both hard", relay, side("hard"), side("hard"), "both NATs give every destination another port",
			[]string{"here: enable UPnP", "at nas: enable UPnP", "on both sides: use IPv6", "these could be one: hub"}},
		{"hard and mapped", relay, side("hard"), mapped, "the NAT here gives", []string{"here: enable UPnP", "use IPv6", "hub"}},
		{"blocked there", relay, side("none"), side("blocked"), "UDP is blocked there", []string{"at nas: let outgoing UDP", "hub"}},
		{"blocked here, TCP", tcp, side("blocked"), side("none"), "over TCP, because UDP is blocked here", []string{"here: let outgoing UDP"}},
		{"no family", relay, side("easy"), six, "no IP version in common", []string{"enable UPnP", "here: use IPv6", "hub"}},
		{"unused", localapi.Path{Kind: localapi.PathNone}, side("none"), side("none"), "nothing was sent to this node lately", []string{"hub"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &localapi.Why{Name: "nas", Path: c.path, ViaName: "hub", Self: c.ours, Peer: c.theirs}
			explain(w, []string{"hub"})
			if !strings.Contains(w.Summary, c.summary) {
				t.Errorf("summary %q, want %q", w.Summary, c.summary)
			}
			if len(w.Change) != len(c.change) {
				t.Fatalf("change %q, want %q", w.Change, c.change)
			}
			for i, word := range c.change {
				if !strings.Contains(w.Change[i], word) {
					t.Errorf("change %d is %q, want %q", i, w.Change[i], word)
				}
			}
		})
	}
}
