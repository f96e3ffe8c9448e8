package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Bounds of single values.
const (
	labelMax   = 63   // RFC 1035 §2.3.4, a DNS label: names and regions become labels
	tunNameMax = 15   // IFNAMSIZ-1, net/if.h
	mtuMin     = 1280 // RFC 8200 §5: IPv6 needs it
	mtuMax     = 9000 // jumbo frames; more gains nothing over a UDP underlay
	listMax    = 64   // addresses, bootstraps, forwards: more is a mistake

	relayRateMin = 0.1    // Mbit/s: less would starve even the relay's own control traffic
	relayRateMax = 100000 // more than any machine's uplink
)

// Key is one setting: its name is the flag, the key of the file, and in capitals with PHANTOM_ in front the variable.
type Key struct {
	Name  string
	Value string // placeholder for help, empty for a switch
	Usage string
	List  bool // may be given more than once
	set   func(*Settings, []string) error
}

// IsSwitch tells whether the key needs no value.
func (k Key) IsSwitch() bool { return k.Value == "" }

// Env is the key's variable.
func (k Key) Env() string { return "PHANTOM_" + strings.ToUpper(strings.ReplaceAll(k.Name, "-", "_")) }

// Keys is the table of settings, in the order help shows them.
var Keys = []Key{
	{Name: "state", Value: "DIR", Usage: "state folder (default: /var/lib/phantommesh for root, else ~/.local/state/phantommesh)", set: setState},
	{Name: "log-level", Value: "LEVEL", Usage: "debug, info, warn or error (default info)", set: setLogLevel},
	{Name: "name", Value: "NAME", Usage: "name of this node (default: the host's name)", set: label(func(s *Settings) *string { return &s.Name })},
	{Name: "region", Value: "REGION", Usage: "region of this node (default: that of the nearest members)", set: label(func(s *Settings) *string { return &s.Region })},
	{Name: "port", Value: "N", Usage: "UDP port, 0 for any free one (default 51820)", set: setPort},
	{Name: "listen", Value: "ADDR", Usage: "local address to bind and offer (default: all)", List: true, set: setListen},
	{Name: "bootstrap", Value: "HOST:PORT", Usage: "a member to ask, by name or address; several are asked at once", List: true, set: setBootstrap},
	{Name: "no-lan", Usage: "no beacons and no search on the LAN: nothing is sent or listened for", set: toggle(func(s *Settings) *bool { return &s.NoLAN })},
	{Name: "no-dht", Usage: "no part in the mesh's hash table: nothing is asked, stored or answered there", set: toggle(func(s *Settings) *bool { return &s.NoDHT })},
	{Name: "no-relay", Usage: "never carry other members' packets", set: toggle(func(s *Settings) *bool { return &s.NoRelay })},
	{Name: "relay-rate", Value: "MBIT", Usage: "most to carry for others, in Mbit/s (default 100)", set: setRelayRate},
	{Name: "stun", Value: "HOST:PORT", Usage: "STUN server to ask beside the members", List: true, set: setSTUN},
	{Name: "advertise", Value: "ADDR:PORT", Usage: "public address that a router forwards to this node by hand", List: true, set: setAdvertise},
	{Name: "no-port-mapping", Usage: "never ask the router for a port (PCP, NAT-PMP, UPnP)", set: toggle(func(s *Settings) *bool { return &s.NoPortMapping })},
	{Name: "timing", Value: "lan|wan", Usage: "timeouts for a LAN or for far regions (default lan)", set: setTiming},
	{Name: "tun", Value: "NAME|userspace", Usage: "TUN device, or userspace networking (default: a device where allowed)", set: setTUN},
	{Name: "mtu", Value: "N", Usage: "MTU of the overlay", set: setMTU},
	{Name: "socks5", Value: "ADDR", Usage: "SOCKS5 proxy into the overlay (userspace networking)", set: hostPort(func(s *Settings) *string { return &s.SOCKS5 })},
	{Name: "http-proxy", Value: "ADDR", Usage: "HTTP proxy into the overlay (userspace networking)", set: hostPort(func(s *Settings) *string { return &s.HTTPProxy })},
	{Name: "forward", Value: "PORT=HOST:PORT", Usage: "overlay TCP port to an address of this host (userspace networking)", List: true, set: setForward},
	{Name: "ipv4", Value: "PREFIX", Usage: "overlay IPv4 range when founding a mesh (default 10.86.0.0/16)", set: setIPv4},
	{Name: "metrics", Value: "ADDR", Usage: "serve Prometheus metrics over HTTP here", set: hostPort(func(s *Settings) *string { return &s.Metrics })},
	{Name: "web", Value: "ADDR", Usage: "serve the web page here (this version has none and only warns)", set: hostPort(func(s *Settings) *string { return &s.Web })},
}

// Lookup finds a key by name.
func Lookup(name string) (Key, bool) {
	i := slices.IndexFunc(Keys, func(k Key) bool { return k.Name == name })
	if i < 0 {
		return Key{}, false
	}
	return Keys[i], true
}

func setState(s *Settings, v []string) error {
	abs, err := filepath.Abs(v[0])
	if err != nil {
		return err
	}
	s.State = abs
	return nil
}

func setLogLevel(s *Settings, v []string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[strings.ToLower(v[0])]
	if !ok {
		return errors.New("use debug, info, warn or error")
	}
	s.LogLevel = l
	return nil
}

// label accepts a DNS label in any case and keeps it in lower case, as DNS compares it.
func label(field func(*Settings) *string) func(*Settings, []string) error {
	return func(s *Settings, v []string) error {
		l := strings.ToLower(v[0])
		if err := CheckLabel(l); err != nil {
			return err
		}
		*field(s) = l
		return nil
	}
}

// CheckLabel tells what keeps a name from being a DNS label in lower case.
func CheckLabel(l string) error {
	bad := strings.ContainsFunc(l, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
	if l == "" || bad || l[0] == '-' || l[len(l)-1] == '-' {
		return errors.New("use letters, digits and hyphens, no hyphen at either end")
	}
	if len(l) > labelMax {
		return fmt.Errorf("%d characters are too many, %d at most", len(l), labelMax)
	}
	return nil
}

func setPort(s *Settings, v []string) error {
	n, err := strconv.ParseUint(v[0], 10, 16)
	if err != nil {
		return errors.New("use a number from 0 to 65535")
	}
	s.Port = uint16(n)
	return nil
}

func setListen(s *Settings, v []string) error {
	s.Listen = nil
	for _, a := range v {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return fmt.Errorf("%q is no IP address (the port is --port's)", a)
		}
		s.Listen = append(s.Listen, addr.Unmap())
	}
	return nil
}

func setBootstrap(s *Settings, v []string) error {
	if err := setHosts(&s.Bootstrap, v); err != nil {
		return fmt.Errorf("%w; a member's address is such as nas.example.org:51820, 192.0.2.7:51820 or [2001:db8::7]:51820", err)
	}
	return nil
}

func setSTUN(s *Settings, v []string) error { return setHosts(&s.STUN, v) }

func setHosts(field *[]string, v []string) error {
	*field = nil
	for _, a := range v {
		if err := checkHostPort(a, 1); err != nil {
			return err
		}
		*field = append(*field, a)
	}
	return nil
}

// toggle sets a switch.
func toggle(field func(*Settings) *bool) func(*Settings, []string) error {
	return func(s *Settings, v []string) error {
		b, err := strconv.ParseBool(v[0])
		if err != nil {
			return errors.New("use true or false")
		}
		*field(s) = b
		return nil
	}
}

func setRelayRate(s *Settings, v []string) error {
	n, err := strconv.ParseFloat(v[0], 64)
	if err != nil || !(n >= relayRateMin && n <= relayRateMax) {
		return fmt.Errorf("use a number of Mbit/s from %g to %d; --no-relay to carry nothing", relayRateMin, relayRateMax)
	}
	s.RelayRate = int(n * 1e6 / 8)
	return nil
}

func setAdvertise(s *Settings, v []string) error {
	s.Advertise = nil
	for _, a := range v {
		addr, err := netip.ParseAddrPort(a)
		ip := addr.Addr().Unmap()
		if err != nil || addr.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip.Zone() != "" {
			return fmt.Errorf("%q is no address and port that others could reach, such as 198.51.100.7:51820", a)
		}
		s.Advertise = append(s.Advertise, netip.AddrPortFrom(ip, addr.Port()))
	}
	return nil
}

func setTiming(s *Settings, v []string) error {
	if v[0] != LAN && v[0] != WAN {
		return errors.New("use lan or wan")
	}
	s.Timing = v[0]
	return nil
}

func setTUN(s *Settings, v []string) error {
	n := v[0]
	bad := strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%' })
	if bad || n == "." || n == ".." {
		return errors.New("not a name for a network device")
	}
	if len(n) > tunNameMax {
		return fmt.Errorf("%d characters are too many for a device name, %d at most", len(n), tunNameMax)
	}
	s.TUN = n
	return nil
}

func setMTU(s *Settings, v []string) error {
	n, err := strconv.Atoi(v[0])
	if err != nil || n < mtuMin || n > mtuMax {
		return fmt.Errorf("use a number from %d to %d", mtuMin, mtuMax)
	}
	s.MTU = n
	return nil
}

// hostPort accepts host:port, and a bare port on the loopback address: what it opens serves this machine unless asked otherwise.
func hostPort(field func(*Settings) *string) func(*Settings, []string) error {
	return func(s *Settings, v []string) error {
		a := v[0]
		if _, err := strconv.ParseUint(a, 10, 16); err == nil {
			a = net.JoinHostPort("127.0.0.1", a)
		}
		if err := checkHostPort(a, 0); err != nil {
			return err
		}
		*field(s) = a
		return nil
	}
}

func checkHostPort(a string, portMin uint64) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("%q is not host:port", a)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < portMin {
		return fmt.Errorf("%q has no port from %d to 65535", a, portMin)
	}
	if portMin > 0 && host == "" {
		return fmt.Errorf("%q has no host", a)
	}
	return nil
}

func setForward(s *Settings, v []string) error {
	s.Forward = nil
	for _, a := range v {
		port, to, ok := strings.Cut(a, "=")
		n, err := strconv.ParseUint(port, 10, 16)
		if !ok || err != nil || n == 0 {
			return fmt.Errorf("%q is not PORT=HOST:PORT", a)
		}
		if err := checkHostPort(to, 1); err != nil {
			return err
		}
		if slices.ContainsFunc(s.Forward, func(f Forward) bool { return f.Port == uint16(n) }) {
			return fmt.Errorf("port %d is forwarded twice", n)
		}
		s.Forward = append(s.Forward, Forward{Port: uint16(n), To: to})
	}
	return nil
}

// privateIPv4 is where a mesh may have its addresses (RFC 1918 §3, RFC 6598 §7).
var privateIPv4 = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
}

// IsPrivateIPv4 reports whether all of a range lies in private or shared space.
func IsPrivateIPv4(p netip.Prefix) bool {
	return slices.ContainsFunc(privateIPv4, func(space netip.Prefix) bool { return space.Bits() <= p.Bits() && space.Contains(p.Addr()) })
}

func setIPv4(s *Settings, v []string) error {
	p, err := netip.ParsePrefix(v[0])
	// A mesh hands out /32 leases: fewer than 14 of them is a mistake, more than a /8 collides with everything.
	if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 28 {
		return errors.New("use an IPv4 range from /8 to /28, such as 10.86.0.0/16")
	}
	// A public range would take the way to somebody else's machines away from every member.
	if !IsPrivateIPv4(p) {
		return errors.New("use a private IPv4 range: one in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10")
	}
	s.IPv4 = p.Masked()
	return nil
}
