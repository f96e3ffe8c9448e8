package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// network is a bridge and the addresses of those plugged into it: the segment, or a router's LAN.
type network struct {
	lab       *Lab
	namespace string // where the bridge is
	bridge    string
	ipv4      netip.Prefix // zero: none
	ipv6      netip.Prefix // zero: none
	gateway   bool         // the first address of each prefix is the way out
	last      int          // number of the last station
	stations  []*Host
	routes    [][]string // what every station has to know, as arguments of ip
}

// addBridge makes a bridge that forwards at once: no spanning tree, no multicast snooping.
func (n *network) addBridge(name string) {
	n.lab.must("ip", "-n", n.namespace, "link", "add", name, "type", "bridge",
		"forward_delay", "0", "stp_state", "0", "mcast_snooping", "0")
	n.lab.must("ip", "-n", n.namespace, "link", "set", name, "up")
}

// address gives the n-th address of a prefix, the zero address of no prefix.
func address(p netip.Prefix, n int) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	b := p.Addr().AsSlice()
	b[len(b)-1] = byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// plug gives a host one more cable, to this network, with the next addresses.
func (n *network) plug(h *Host) *Cable {
	n.lab.t.Helper()
	n.last++
	if n.last > hostsMax {
		n.lab.t.Fatalf("lab: more than %d hosts in one network", hostsMax)
	}
	c := &Cable{host: h, at: n, device: fmt.Sprintf("eth%d", h.cables), port: fmt.Sprintf("p%d", n.last), metric: 100 + 100*h.cables,
		IPv4: address(n.ipv4, n.last), IPv6: address(n.ipv6, n.last)}
	h.cables++
	// Ports take any size; what a link carries is what the host's end is set to.
	n.lab.must("ip", "-n", n.namespace, "link", "add", c.port, "mtu", fmt.Sprint(mtuMax), "type", "veth",
		"peer", "name", c.device, "netns", h.Namespace)
	n.lab.must("ip", "-n", n.namespace, "link", "set", c.port, "master", n.bridge, "up")
	n.lab.must("ip", "-n", h.Namespace, "link", "set", c.device, "mtu", fmt.Sprint(mtuUsual), "up")
	for _, a := range []netip.Addr{c.IPv4, c.IPv6} {
		if a.IsValid() {
			c.addAddress(a)
		}
	}
	n.stations = append(n.stations, h)
	for _, route := range n.routes {
		n.lab.must("ip", append([]string{"-n", h.Namespace}, route...)...)
	}
	return c
}

// addRoute tells every station of the network, now and later, a way.
func (n *network) addRoute(to netip.Prefix, via netip.Addr) {
	route := []string{"route", "add", to.String(), "via", via.String()}
	if to.Addr().Is6() {
		route = append([]string{"-6"}, route...)
	}
	n.routes = append(n.routes, route)
	for _, h := range n.stations {
		if h.IPv4 != via && h.IPv6 != via {
			n.lab.must("ip", append([]string{"-n", h.Namespace}, route...)...)
		}
	}
}

const (
	mtuUsual = 1500
	mtuMax   = 9216
)

// Cable joins a host to a network.
type Cable struct {
	IPv4 netip.Addr // 192.0.2.n on the segment; not valid where the network has none
	IPv6 netip.Addr // 2001:db8:1ab::n on the segment; not valid where the network has none

	host   *Host
	at     *network
	device string // the host's end
	port   string // the other end, on the bridge
	metric int    // of the default route: the first cable is preferred
	drops  int
}

func (c *Cable) ip(args ...string) {
	c.at.lab.must("ip", append([]string{"-n", c.host.Namespace}, args...)...)
}

func (c *Cable) sw(args ...string) {
	c.at.lab.must("ip", append([]string{"-n", c.at.namespace}, args...)...)
}

// Cut pulls the cable at the switch; Restore plugs it in again. The host sees its carrier go.
func (c *Cable) Cut()     { c.sw("link", "set", c.port, "down") }
func (c *Cable) Restore() { c.sw("link", "set", c.port, "up") }

// Device is the name of the host's interface.
func (c *Cable) Device() string { return c.device }

// SetMTU changes what the link carries. Both ends know where the other one is a router, which cuts what is too large or says so by ICMP; the segment
// has no router, so what is too large for a host on it and comes from elsewhere is lost in silence.
func (c *Cable) SetMTU(bytes int) {
	c.ip("link", "set", c.device, "mtu", fmt.Sprint(bytes))
	if c.at.gateway {
		c.sw("link", "set", c.at.bridge, "mtu", fmt.Sprint(bytes))
	}
}

// SetIPv4 gives the link another address in place of the one it has, the default route with it.
func (c *Cable) SetIPv4(a netip.Addr) {
	c.ip("addr", "del", c.IPv4.String()+"/"+fmt.Sprint(c.at.ipv4.Bits()), "dev", c.device)
	c.IPv4 = a
	c.addAddress(a)
}

// Readdress gives the link a fresh IPv4 address of its network, as a host that moves.
func (c *Cable) Readdress() {
	c.at.lab.t.Helper()
	c.at.last++
	c.SetIPv4(address(c.at.ipv4, c.at.last))
}

// Renumber gives the link fresh addresses of both families.
func (c *Cable) Renumber() {
	c.at.lab.t.Helper()
	c.Readdress()
	if c.IPv6.IsValid() {
		c.ip("addr", "del", netip.PrefixFrom(c.IPv6, c.at.ipv6.Bits()).String(), "dev", c.device)
		c.IPv6 = address(c.at.ipv6, c.at.last)
		c.addAddress(c.IPv6)
	}
}

// addAddress adds an address and, where there is a gateway, the way out.
func (c *Cable) addAddress(a netip.Addr) {
	prefix, family := c.at.ipv4, "-4"
	args := []string{"addr", "add", "", "dev", c.device}
	if a.Is6() {
		prefix, family = c.at.ipv6, "-6"
		args = append(args, "nodad") // usable at once
	}
	args[2] = netip.PrefixFrom(a, prefix.Bits()).String()
	c.ip(args...)
	if c.at.gateway {
		c.ip(family, "route", "replace", "default", "via", address(prefix, 1).String(), "dev", c.device, "metric", fmt.Sprint(c.metric))
	}
}

// Direction is a way along a cable, as the host sees it.
type Direction string

const (
	Out Direction = "iifname" // the port gets what the host sends
	In  Direction = "oifname"
)

// Drop loses, without a word to anybody, what goes one way along the cable and matches an nft(8) expression ("" is everything), such as
// "ip daddr 192.0.2.7 udp dport 51820". The returned function ends it.
func (c *Cable) Drop(way Direction, match string) (undo func()) {
	c.at.lab.t.Helper()
	c.drops++
	table := fmt.Sprintf("%s-%d", c.port, c.drops)
	hook := map[Direction]string{Out: "prerouting", In: "postrouting"}[way]
	c.at.nft(fmt.Sprintf("table bridge %s {\n chain lost {\n  type filter hook %s priority 0\n  %s %q %s drop\n }\n}\n",
		table, hook, way, c.port, match))
	return func() { c.at.nft("delete table bridge " + table + "\n") }
}

// DropLarger loses IP packets of UDP with more than that many bytes both ways, in silence: a link whose ICMP is filtered. What passes in fragments
// does: the length in the UDP header says nothing of them, and nft reads payload in its place from all but the first.
func (c *Cable) DropLarger(bytes int) (undo func()) {
	c.at.lab.t.Helper()
	// A batch that the kernel would cut into packets only behind the bridge looks like one large packet here: every station cuts by itself.
	for _, h := range append(c.at.lab.wan.stations, c.at.stations...) {
		for i := range h.cables {
			c.at.lab.must("ip", "-n", h.Namespace, "link", "set", fmt.Sprintf("eth%d", i), "gso_max_segs", "1")
		}
	}
	match := fmt.Sprintf("meta l4proto udp meta length > %d", bytes)
	out, in := c.Drop(Out, match), c.Drop(In, match)
	return func() { out(); in() }
}

func (n *network) nft(rules string) {
	n.lab.t.Helper()
	n.lab.nft(n.namespace, rules)
}

// nft loads rules in a namespace.
func (l *Lab) nft(namespace, rules string) {
	l.t.Helper()
	if out, err := runWith(strings.NewReader(rules), "ip", "netns", "exec", namespace, Find("nft"), "-f", "-"); err != nil {
		l.t.Fatalf("lab: %v: %s\n%s", err, out, rules)
	}
}
