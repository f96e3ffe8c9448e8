package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// NAT is how a router translates addresses, in the terms of RFC 4787. Filtering is address and port-dependent in every kind, as the kernel's
// connection tracking is.
type NAT string

const (
	NoNAT   NAT = ""     // routes, translates nothing
	EasyNAT NAT = "easy" // keeps the port wherever it can: in effect endpoint-independent mapping
	HardNAT NAT = "hard" // another port for every destination: address and port-dependent mapping
)

// RouterConfig describes a router and the LAN behind it.
type RouterConfig struct {
	NAT         NAT
	Behind      *Router // plugged into this one's LAN instead of the segment
	Subnet      string  // of the LAN; default 192.168.1.0/24, behind every router the same, as at home
	BlockUDP    bool    // lets no UDP through in either direction
	PortMapping bool    // serves PCP, NAT-PMP and UPnP-IGD with miniupnpd; needs to be on the segment
	IPv6        bool    // the LAN has a public IPv6 prefix too, behind a firewall that lets answers in (RFC 6092)
	IPv6Only    bool    // IPv6, and no IPv4
}

// Router is a machine that has a LAN behind it. As a Host it is its own WAN leg: Cut takes the internet from its LAN, SetMTU narrows the way out.
type Router struct {
	*Host
	cfg    RouterConfig
	number int
	lan    *network
	// External is the address its LAN is seen under. It is the WAN leg's, or with PortMapping one that is not reserved for documentation:
	// miniupnpd offers nothing on those.
	External netip.Addr
	rebinds  int
	upnp     *Process // miniupnpd
}

// lanBridge is the LAN's side of a router.
const lanBridge = "lan"

// Router adds a router with an empty LAN. It needs nft and conntrack, with PortMapping miniupnpd.
func (l *Lab) Router(name string, cfg RouterConfig) *Router {
	l.t.Helper()
	at := l.wan
	if cfg.Behind != nil {
		at = cfg.Behind.lan
	}
	l.routers++
	r := &Router{Host: l.station(name, at), cfg: cfg, number: l.routers}
	r.External = r.IPv4
	r.Sysctl("ipv4/ip_forward", "1")
	r.Sysctl("ipv6/conf/all/forwarding", "1")
	r.lan = &network{lab: l, namespace: r.Namespace, bridge: lanBridge, gateway: true, last: 1}
	r.lan.addBridge(lanBridge)
	ip := func(args ...string) { l.must("ip", append([]string{"-n", r.Namespace}, args...)...) }
	if !cfg.IPv6Only {
		subnet := cfg.Subnet
		if subnet == "" {
			subnet = "192.168.1.0/24"
		}
		r.lan.ipv4 = netip.MustParsePrefix(subnet)
		ip("addr", "add", netip.PrefixFrom(address(r.lan.ipv4, 1), r.lan.ipv4.Bits()).String(), "dev", lanBridge)
	}
	if cfg.IPv6 || cfg.IPv6Only {
		r.lan.ipv6 = netip.MustParsePrefix(fmt.Sprintf("2001:db8:1ab:%x::/64", r.number))
		ip("addr", "add", netip.PrefixFrom(address(r.lan.ipv6, 1), 64).String(), "dev", lanBridge, "nodad")
		at.addRoute(r.lan.ipv6, r.IPv6)
	}
	if cfg.PortMapping {
		r.External = netip.AddrFrom4([4]byte{11, 1, 1, byte(r.number)})
		ip("addr", "add", r.External.String()+"/32", "dev", r.device)
		at.addRoute(netip.PrefixFrom(r.External, 32), r.IPv4)
	}
	l.nft(r.Namespace, r.rules())
	if cfg.PortMapping {
		r.startPortMapping()
	}
	return r
}

// AddHost adds a machine to the router's LAN.
func (r *Router) AddHost(name string) *Host {
	r.lab.t.Helper()
	return r.lab.station(name, r.lan)
}

// Plug gives a machine of another network one more cable, into this LAN: a second uplink, used when the first is gone.
func (r *Router) Plug(h *Host) *Cable {
	r.lab.t.Helper()
	// As network managers do: the way through a cable that is out is none.
	h.Sysctl("ipv4/conf/all/ignore_routes_with_linkdown", "1")
	h.Sysctl("ipv6/conf/all/ignore_routes_with_linkdown", "1")
	return r.lan.plug(h)
}

// rules is the router's rule set. The chains named miniupnpd are that program's.
func (r *Router) rules() string {
	var b strings.Builder
	chain := func(name, hook string, rules ...string) {
		fmt.Fprintf(&b, " chain %s {\n", name)
		for _, rule := range append([]string{hook}, rules...) {
			if rule != "" {
				fmt.Fprintf(&b, "  %s\n", rule)
			}
		}
		b.WriteString(" }\n")
	}
	var udp, jump, external, natChain, translate, restricted string
	if r.cfg.BlockUDP {
		udp = "meta l4proto udp drop"
	}
	if r.cfg.PortMapping {
		jump, external, natChain = "jump miniupnpd", "ct status dnat accept", "jump prerouting_miniupnpd"
	}
	if r.cfg.NAT != NoNAT || r.lan.ipv6.IsValid() {
		restricted = fmt.Sprintf("iifname %q ct state new,invalid drop", r.device)
	}
	out := fmt.Sprintf("oifname %q meta nfproto ipv4", r.device)
	switch {
	case r.cfg.NAT == HardNAT:
		translate = out + " masquerade random,fully-random"
	case r.cfg.NAT == EasyNAT && r.External != r.IPv4:
		translate = out + " snat ip to " + r.External.String()
	case r.cfg.NAT == EasyNAT:
		translate = out + " masquerade"
	}
	b.WriteString("table inet lab {\n")
	chain("miniupnpd", "")
	chain("prerouting_miniupnpd", "")
	chain("postrouting_miniupnpd", "")
	chain("rebound", "")
	// Without this a packet that comes too early would claim the port a hole is to have: its flow would be the router's own.
	chain("input", "type filter hook input priority 0", fmt.Sprintf("iifname %q ct state new,invalid drop", r.device))
	chain("forward", "type filter hook forward priority 0", udp, jump, external, restricted)
	chain("prerouting", "type nat hook prerouting priority -100", natChain)
	chain("postrouting", "type nat hook postrouting priority 100", "jump rebound", "jump postrouting_miniupnpd", translate)
	b.WriteString("}\n")
	return b.String()
}

// Rebind makes the router forget every mapping, and give another port to UDP that goes on: what a reboot or a table that ran full does.
func (r *Router) Rebind() {
	r.lab.t.Helper()
	r.rebinds++
	if r.cfg.NAT == EasyNAT {
		// One port for all destinations keeps the mapping endpoint-independent.
		r.lab.nft(r.Namespace, fmt.Sprintf("flush chain inet lab rebound\nadd rule inet lab rebound oifname %q ip protocol udp snat ip to %s:%d\n",
			r.device, r.External, 40000+r.rebinds))
	}
	r.Forget()
}

// Forget makes the router forget every mapping. An easy NAT gives the same port again.
func (r *Router) Forget() {
	r.lab.t.Helper()
	r.lab.must("ip", "netns", "exec", r.Namespace, Find("conntrack"), "-F")
}

// startPortMapping runs miniupnpd until the lab ends.
func (r *Router) startPortMapping() {
	r.lab.t.Helper()
	dir := filepath.Join(r.lab.dir, "upnp-"+r.Name)
	config := filepath.Join(dir, "miniupnpd.conf")
	settings := strings.Join([]string{
		"ext_ifname=" + r.device, "ext_ip=" + r.External.String(), "listening_ip=" + lanBridge,
		"enable_natpmp=yes", "enable_upnp=yes", "secure_mode=yes", "system_uptime=no", "ipv6_disable=yes",
		"upnp_table_name=lab", "upnp_nat_table_name=lab", "upnp_forward_chain=miniupnpd",
		"upnp_nat_chain=prerouting_miniupnpd", "upnp_nat_postrouting_chain=postrouting_miniupnpd",
		"lease_file=" + filepath.Join(dir, "leases"), "uuid=a49567ae-0ddb-4130-bc6d-067e402dab12",
		"min_lifetime=120", "max_lifetime=86400", fmt.Sprintf("allow 1024-65535 %s 1024-65535", r.lan.ipv4), "",
	}, "\n")
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(config, []byte(settings), 0o600)
	}
	if err != nil {
		r.lab.t.Fatalf("lab: %v", err)
	}
	r.upnp = r.Start("miniupnpd", "-d", "-f", config, "-P", filepath.Join(dir, "pid"))
	r.upnp.WaitOutput("Listening for NAT-PMP/PCP traffic", commandTimeout)
}

// RestartPortMapping is the router's reboot as far as port mapping goes: all mappings are gone.
func (r *Router) RestartPortMapping() {
	r.lab.t.Helper()
	r.upnp.Kill()
	r.lab.nft(r.Namespace, "flush chain inet lab miniupnpd\nflush chain inet lab prerouting_miniupnpd\nflush chain inet lab postrouting_miniupnpd\n")
	if err := os.RemoveAll(filepath.Join(r.lab.dir, "upnp-"+r.Name)); err != nil {
		r.lab.t.Fatalf("lab: %v", err)
	}
	r.startPortMapping()
}
