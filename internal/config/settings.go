package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Userspace is the value of TUN that asks for the netstack instead of a device.
const Userspace = "userspace"

// RootState is the state folder of the node of root, which is the machine's.
const RootState = "/var/lib/phantommesh"

// Timing profiles.
const (
	LAN = "lan" // tight timeouts: round trips of a few milliseconds
	WAN = "wan" // patient timeouts: regions and mobile links
)

// Settings is everything a node can be told, parsed and checked. It is a value: change a copy.
type Settings struct {
	State    string // folder of identity, ledger, socket
	LogLevel slog.Level

	Name   string // of this node: a DNS label; default: the host's name
	Region string // empty: that of the nearest members

	Port      uint16       // UDP; 0: any free one
	Listen    []netip.Addr // bind and offer only these local addresses; empty: all
	Bootstrap []string     // host:port of members to try
	NoLAN     bool         // no beacons, no search on the LAN
	NoDHT     bool         // no part in the mesh's hash table
	Timing    string       // LAN or WAN

	NoRelay       bool             // carry nothing for other members
	RelayRate     int              // bytes a second to carry for others at most
	STUN          []string         // host:port of servers to ask for our address, beside the members
	Advertise     []netip.AddrPort // public addresses that lead here because somebody set up a router by hand
	NoPortMapping bool             // never ask the router for a port

	TUN       string    // device name, Userspace, or empty: a device where there is the right to, else userspace
	MTU       int       // of the overlay; 0: the node's choice
	SOCKS5    string    // host:port of the SOCKS5 proxy into the overlay (userspace mode); empty: none
	HTTPProxy string    // host:port of the HTTP CONNECT proxy into the overlay (userspace mode); empty: none
	Forward   []Forward // overlay TCP ports to addresses of the host (userspace mode)

	IPv4 netip.Prefix // overlay IPv4 range; matters only to who founds a mesh

	Metrics string // host:port of /metrics; empty: only on the control socket
	Web     string // host:port of the web page; empty: none
}

// Forward sends what arrives at an overlay TCP port to an address of the host.
type Forward struct {
	Port uint16
	To   string // host:port
}

// String is the form --forward takes.
func (f Forward) String() string { return fmt.Sprintf("%d=%s", f.Port, f.To) }

// Defaults gives the settings of a node that was told nothing. The state folder follows the user: /var/lib/phantommesh for root, the XDG
// state folder otherwise; it stays empty when the user has no home.
func Defaults() Settings {
	s := Settings{
		LogLevel: slog.LevelInfo,
		Name:     hostName(),
		Port:     51820,
		Timing:   LAN,
		// A fifth of what one core forwards, and no more than a home's fibre notices.
		RelayRate: 100e6 / 8,
		IPv4:      netip.MustParsePrefix("10.86.0.0/16"),
	}
	s.State = defaultState(os.Geteuid(), os.Getenv)
	return s
}

func defaultState(uid int, getenv func(string) string) string {
	if uid == 0 {
		return RootState
	}
	// The XDG specification tells programs to ignore a relative path here.
	if x := getenv("XDG_STATE_HOME"); filepath.IsAbs(x) {
		return filepath.Join(x, "phantommesh")
	}
	if h := getenv("HOME"); filepath.IsAbs(h) {
		return filepath.Join(h, ".local", "state", "phantommesh")
	}
	return ""
}

// hostName makes a node name of the host's name: its first label, with what a DNS label may not hold replaced.
func hostName() string {
	h, err := os.Hostname()
	if err != nil {
		return "node"
	}
	h, _, _ = strings.Cut(strings.ToLower(h), ".")
	h = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, h)
	h = strings.Trim(h, "-")
	if len(h) > labelMax {
		h = strings.TrimRight(h[:labelMax], "-")
	}
	if h == "" {
		return "node"
	}
	return h
}

// Socket is the path of the control socket.
func (s Settings) Socket() string { return filepath.Join(s.State, "phantom.sock") }

// SavedFile is the file that remembers the flags of phantom up.
func (s Settings) SavedFile() string { return filepath.Join(s.State, "settings.yaml") }

// LogFile is where a node in the background logs.
func (s Settings) LogFile() string { return filepath.Join(s.State, "phantom.log") }
