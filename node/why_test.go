package node

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/reach"
)

func nameOfTest(identity.NodeID) string { return "hub" }

func wants(t *testing.T, answer any, parts ...string) {
	t.Helper()
	b, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		if !strings.Contains(string(b), part) {
			t.Errorf("%s lacks %s", b, part)
		}
	}
}

func TestANetcheckSaysWhatWasLearnedAndNothingElse(t *testing.T) {
	at := netip.MustParseAddrPort("198.51.100.21:51820")
	report := reach.Report{
		NAT: peer.NATEasy, UDP: true, PortMapping: reach.Mapping{Protocol: "upnp", External: at},
		Behaviour: nat.Behaviour{Mapping: nat.EndpointIndependent, Mapped: []netip.AddrPort{at}, Hairpin: nat.No},
		Answers:   []reach.Answer{{Server: at, Member: identity.NodeID{1}, Mapped: at, RTT: 2 * time.Millisecond}, {Server: at}},
		Relays:    []reach.RelayConsidered{{Name: "hub", RTT: time.Millisecond, Ours: true}},
	}
	wants(t, netcheckAnswer(report, nameOfTest), `{"nat":"easy","mapping":"endpoint-independent","mapped":["198.51.100.21:51820"],`+
		`"port_mapping":{"protocol":"upnp","external":"198.51.100.21:51820"},"udp":true,"ipv6":false,"relays":[{"id":"n-`,
		`"name":"hub","rtt_ms":1,`, `"filtering":"","hairpin":"no"`,
		`{"server":"198.51.100.21:51820","name":"hub","mapped":"198.51.100.21:51820","rtt_ms":2},{"server":"198.51.100.21:51820","name":"","mapped":""`)
	wants(t, netcheckAnswer(reach.Report{}, nameOfTest), `{"nat":"unknown","mapping":"","mapped":[],"port_mapping":{"protocol":"none","external":""}`,
		`"relays":[]`, `"hairpin":"unknown"`)
}

func TestAnExplanationListsWhatWasTriedInOrder(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	to := netip.MustParseAddrPort("192.0.2.9:51820")
	w := whyAnswer(reach.Explanation{
		Path: reach.Path{Kind: reach.Relayed, Via: identity.NodeID{1}}, Ours: reach.Side{NAT: peer.NATHard}, Theirs: reach.Side{Name: "nas", NAT: peer.NATHard, IPv4: true},
		Punches: []reach.Punch{{At: now.Add(time.Second), Took: time.Second, Strategy: "simultaneous", Result: "no answer"}},
		Tried:   []reach.Tried{{At: now, Addr: to, Pipe: true, Result: "silent"}, {At: now.Add(2 * time.Second), Addr: to, Via: identity.NodeID{1}, Result: "answered"}},
	}, localapi.Path{Kind: localapi.PathRelay}, nameOfTest)
	var order []string
	for _, a := range w.Tried {
		order = append(order, a.What+" "+a.How)
	}
	if got, want := strings.Join(order, ", "), "tcp 192.0.2.9:51820, punch simultaneous, relay hub"; got != want {
		t.Errorf("tried %s, want %s", got, want)
	}
	wants(t, w, `"name":"nas"`, `"via_name":"hub"`, `"peer":{"nat":"hard","mapping":"","mapped":[],"ipv4":true`, `"change":[]`)
}
