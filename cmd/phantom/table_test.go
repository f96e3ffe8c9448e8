package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares what people see with testdata/golden/NAME.
func golden(t *testing.T, name string, print func(*app)) {
	t.Helper()
	zone := time.Local
	time.Local = time.UTC
	defer func() { time.Local = zone }()
	var out bytes.Buffer
	print(&app{stdout: &out, stderr: &out})
	file := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, out.String(), want)
	}
}

func id(letter string) string { return "n-" + strings.Repeat(letter, 52) }

func examplePeers() []api.Peer {
	return []api.Peer{
		{ID: id("b"), Name: "nas", Addresses: []string{"10.86.0.2", "fd00::2"}, State: "alive",
			Path:   api.Path{Kind: localapi.PathDirect, Endpoint: "[2001:db8::9]:51820", RTTMs: 0.414},
			Tunnel: api.Tunnel{State: localapi.TunnelUp, PostQuantum: true, PSKEpoch: 12, RxBytes: 3 << 30, TxBytes: 1536}},
		{ID: id("c"), Name: "laptop-of-ann", Addresses: []string{"10.86.0.113"}, State: "suspect",
			Path:   api.Path{Kind: localapi.PathRelay, Via: id("b"), RTTMs: 123.4},
			Tunnel: api.Tunnel{State: localapi.TunnelConnecting}},
		{ID: id("d"), Name: "pi", State: "dead", Path: api.Path{Kind: localapi.PathNone}, Tunnel: api.Tunnel{State: localapi.TunnelIdle}},
		{ID: id("e"), Name: "evil\x1b[31m\n", Addresses: []string{"10.86.0.5"}, State: "left", Tunnel: api.Tunnel{State: localapi.TunnelUp}},
	}
}

func exampleStatus() *api.Status {
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	return &api.Status{
		Mesh: api.Mesh{ID: "abcdefgh", Name: "lab"},
		Self: api.Self{ID: id("a"), Name: "atlas", Addresses: []string{"10.86.0.1", "fd00::1"}, Region: "home", RegionNamed: true, Role: localapi.RoleCoordinator,
			State: localapi.StateOnline, Endpoints: []string{"192.0.2.7:51820"}, NAT: "unknown", Certificate: api.Certificate{NotAfter: &until}},
		Coordinators: api.Coordinators{Quorum: true, Leader: id("b"), Term: 3, Voters: []string{id("a"), id("b"), id("z")}},
		Peers:        examplePeers(),
	}
}

func exampleNetcheck() *api.Netcheck {
	return &api.Netcheck{NAT: localapi.NATEasy, Mapping: localapi.MappingIndependent, Mapped: []string{"198.51.100.21:51820"},
		PortMapping: localapi.PortMapping{Protocol: "upnp", External: "198.51.100.21:51820"}, UDP: true, Local: []string{"192.168.1.2:51820"},
		Filtering: localapi.MappingPort, Hairpin: "no", CarrierNAT: true, Reasons: []string{"two servers see the same address"}, Reachable: true, OffersRelay: true, At: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		Relays:       []localapi.Relay{{RoundTrip: localapi.RoundTrip{ID: id("b"), Name: "nas", RTTMs: 12.3}, AtHand: true, Load: 4}},
		Asked:        []localapi.Asked{{Server: "192.0.2.9:51820", Name: "nas", Mapped: "198.51.100.21:51820", RTTMs: 12.3}, {Server: "192.0.2.53:3478"}},
		Coordinators: []localapi.RoundTrip{{ID: id("b"), Name: "nas", RTTMs: 12.3}}}
}

func exampleWhy() *api.Why {
	return &api.Why{ID: id("c"), Name: "pi", Path: api.Path{Kind: localapi.PathRelay, Via: id("b"), RTTMs: 41.5, MTU: 1380}, ViaName: "nas",
		Summary: "relayed through nas, because both NATs give every destination another port, so neither side can know where to send",
		Self:    localapi.Side{NAT: localapi.NATHard, Mapping: localapi.MappingPort, IPv4: true, Mapped: []string{"198.51.100.21:40001", "198.51.100.21:40002"}},
		Peer:    localapi.Side{NAT: localapi.NATHard, IPv4: true},
		Relays:  []localapi.Relay{{RoundTrip: localapi.RoundTrip{ID: id("b"), Name: "nas", RTTMs: 12.3}, AtHand: true, Theirs: true, InUse: true, Load: 4, Result: "works"}},
		Tried: []localapi.Attempt{
			{At: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), What: localapi.TriedRelay, How: "nas", Began: true, Result: "works", TookMs: 24},
			{At: time.Date(2030, 1, 2, 3, 4, 6, 0, time.UTC), What: localapi.TriedPunch, How: "simultaneous", Result: "no answer", TookMs: 5000}},
		Change: []string{"here: enable UPnP on the router", "on both sides: use IPv6\x1b[31m"}}
}

func TestTablesLookAsTheyShould(t *testing.T) {
	golden(t, "netcheck.txt", func(a *app) { a.printNetcheck(exampleNetcheck()) })
	golden(t, "netcheck-nothing.txt", func(a *app) { a.printNetcheck(&api.Netcheck{NAT: localapi.NATUnknown}) })
	golden(t, "why.txt", func(a *app) { a.printWhy(exampleWhy()) })
	golden(t, "status.txt", func(a *app) { a.printStatus(exampleStatus()) })
	golden(t, "status-no-quorum.txt", func(a *app) {
		s := exampleStatus()
		s.Coordinators.Quorum, s.Coordinators.Leader, s.Peers = false, "", nil
		s.Health = []string{"no quorum: decisions wait; traffic goes on"}
		a.printStatus(s)
	})
	golden(t, "status-no-mesh.txt", func(a *app) {
		a.printStatus(&api.Status{Self: api.Self{ID: id("a"), Name: "atlas", State: localapi.StateOffline}})
	})
	golden(t, "coordinators.txt", func(a *app) {
		since := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
		a.printCoordinators(&api.CoordinatorList{Leader: id("b"), Term: 9,
			Voters: []api.Voter{{ID: id("a"), Name: "atlas", Since: since}, {ID: id("b"), Name: "nas", Since: since}},
			Regions: []api.RegionDetail{{Region: "home", Coordinator: id("a"), Name: "atlas", Term: 4, Since: since,
				Relays: []api.RelayDuty{{ID: id("b"), Name: "nas", Since: since}}}}})
	})
	golden(t, "doctor.txt", func(a *app) {
		a.printDoctor(&api.Doctor{Findings: []api.Finding{
			fine("disk", "20.0 GiB free"),
			wrong("tun", localapi.SeverityWarning, "no right to a TUN device", "making a TUN device: operation not permitted", "run as root"),
			wrong("port", localapi.SeverityError, "UDP port 51820 is in use", "bind: address already in use", "choose another with --port"),
		}})
	})
}

func TestColumnsLineUpWithAndWithoutColour(t *testing.T) {
	for _, colour := range []bool{false, true} {
		var out bytes.Buffer
		table := &table{colour: colour, rows: [][]cell{{{"A", bold}, {"B", bold}}}}
		table.add(word("alive"), "x")
		table.add("ü", "y")
		table.print(&out)
		plainText := out.String()
		for _, s := range []string{string(bold), string(green), reset} {
			if got := strings.Contains(plainText, s); got != colour {
				t.Errorf("colour %v: contains %q: %v", colour, s, got)
			}
			plainText = strings.ReplaceAll(plainText, s, "")
		}
		if want := "A      B\nalive  x\nü      y\n"; plainText != want {
			t.Errorf("colour %v: %q, want %q", colour, plainText, want)
		}
	}
}

func TestNumbersKeepThreeFigures(t *testing.T) {
	for ms, want := range map[float64]string{0.4: "0.40", 9.994: "9.99", 12.34: "12.3", 1234.5: "1234"} {
		if got := number(ms); got != want {
			t.Errorf("%v: %s, want %s", ms, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 1<<64 - 1: "16.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
