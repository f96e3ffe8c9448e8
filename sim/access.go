package sim

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// Access is how a machine is connected to its network, in both directions.
type Access struct {
	Bandwidth int64   // bits per second; 0: unbounded
	MTU       int     // bytes of an IP packet; 0: unbounded
	Duplicate float64 // share of packets that come twice
	Reorder   float64 // share of packets that others overtake
}

// worse adds what a fault does.
func (a Access) worse(o Access) Access {
	if o.Bandwidth > 0 && (a.Bandwidth == 0 || o.Bandwidth < a.Bandwidth) {
		a.Bandwidth = o.Bandwidth
	}
	if o.MTU > 0 && (a.MTU == 0 || o.MTU < a.MTU) {
		a.MTU = o.MTU
	}
	a.Duplicate, a.Reorder = max(a.Duplicate, o.Duplicate), max(a.Reorder, o.Reorder)
	return a
}

// connect applies it to the host's card, with what a fault does to it.
func (h *Host) connect(fault Access) {
	h.fault = fault
	a := h.at.Access.worse(fault)
	l := underlaytest.Link{Bandwidth: a.Bandwidth, MTU: a.MTU, Duplicate: a.Duplicate, Reorder: a.Reorder}
	h.card.SetLink(l, l)
}

// Bounds of what a file may ask for: what the mesh needs at least, and what a card has at most.
const (
	bandwidthMin, bandwidthMax = 8_000, 400_000_000_000
	mtuMin, mtuMax             = 1280, 9216
)

// accessKeys are the keys of an access.
func accessKeys(a *Access, more map[string]func(*yaml.Node) error) map[string]func(*yaml.Node) error {
	more["bandwidth"] = bandwidth(&a.Bandwidth)
	more["mtu"] = number(&a.MTU, mtuMin, mtuMax)
	more["duplicate"], more["reorder"] = share(&a.Duplicate), share(&a.Reorder)
	return more
}

// bandwidth takes 512kbit, 20Mbit, 1Gbit.
func bandwidth(to *int64) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err != nil {
			return err
		}
		for suffix, unit := range map[string]int64{"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9} {
			digits, ok := strings.CutSuffix(w, suffix)
			v, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 32)
			if ok && err == nil && v*unit >= bandwidthMin && v*unit <= bandwidthMax {
				*to = v * unit
				return nil
			}
		}
		return fmt.Errorf("%q: use a bandwidth such as 512kbit, 20Mbit or 1Gbit", short(w))
	}
}

// paused holds up all packets of machines, in both directions, and delivers them afterwards, as when a virtual machine is moved.
type paused struct{}

func (paused) Kind() string { return "pause" }
func (paused) begin(_ *play, who []*Host) {
	for _, h := range who {
		h.card.Pause(true)
	}
}
func (paused) end(_ *play, who []*Host) {
	for _, h := range who {
		h.card.Resume()
	}
}

// blockUDP lets nothing but TCP out of machines, or in.
type blockUDP struct{}

func (blockUDP) Kind() string { return "block-udp" }
func (blockUDP) begin(_ *play, who []*Host) {
	for _, h := range who {
		h.card.SetFirewall(underlaytest.Firewall{DropUDP: true})
	}
}
func (blockUDP) end(_ *play, who []*Host) {
	for _, h := range who {
		h.card.SetFirewall(underlaytest.Firewall{})
	}
}

// renumber gives the routers of machines another public address, as providers do at night.
type renumber struct{ lasting }

func (renumber) Kind() string { return "renumber" }
func (renumber) begin(p *play, who []*Host) {
	seen := map[*underlaytest.NAT]bool{}
	for _, h := range who {
		router := h.at.Behind
		if router == nil || seen[router] {
			continue
		}
		seen[router] = true
		fresh := p.topology.nextPublic()
		p.world.links.inherit(fresh, router.External())
		router.Renumber(fresh)
	}
}

// errNoAccess: a step that changes nothing.
var errNoAccess = errors.New("takes latency, jitter, loss, bandwidth, mtu, duplicate or reorder")
