package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func TestAFloodOfRequestsIsBounded(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	p := newPetitions()
	taken := 0
	for range 1000 { // from one place
		if p.attempt(netip.MustParseAddr("192.0.2.1"), false, now) == "" {
			taken++
		}
	}
	if taken != petitionsPerPlace {
		t.Errorf("%d attempts of one address", taken)
	}
	for n := range 5000 { // from everywhere, for as long as a code is shown
		at := now.Add(time.Duration(n) * petitionLife / 5000)
		if p.attempt(netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}), false, at) == "" {
			taken++
		}
	}
	if most := petitionBurst + int(petitionLife/petitionEvery); taken > most || len(p.places) > placesMax {
		t.Errorf("%d attempts, at most %d; %d places", taken, most, len(p.places))
	}
	if p.refused == 0 {
		t.Error("nothing was counted")
	}
	var first *petition
	for n := range petitionsMax {
		r := &petition{id: identity.NodeID{byte(n)}, since: now}
		if first == nil {
			first = r
		}
		if !p.add(r) {
			t.Fatalf("no room for request %d", n)
		}
	}
	if p.add(&petition{id: identity.NodeID{200}}) || p.attempt(netip.MustParseAddr("198.51.100.1"), false, now.Add(24*time.Hour)) == "" {
		t.Error("one too many")
	}
	again := &petition{id: first.id}
	if !p.add(again) {
		t.Error("who waits already was not taken again")
	}
	p.remove(first) // the old connection ends late
	if p.get(first.id) != again || len(p.list()) != petitionsMax {
		t.Error("the newer request has gone with the older")
	}
}

// Regression: the machines of a LAN share its /64; the seventh that asked at once was told to come back in some minutes.
func TestMachinesOfOneLANDoNotUseUpEachOthersAttempts(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	near, far := newPetitions(), newPetitions()
	takenFar := 0
	for n := range petitionsMax - 1 {
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n+1))
		if refusal := near.attempt(a, true, now); refusal != "" {
			t.Errorf("machine %d: %s", n+1, refusal)
		}
		if far.attempt(a, false, now) == "" {
			takenFar++
		}
	}
	if takenFar != petitionsPerPlace {
		t.Errorf("%d attempts of one site that is not ours, which has all of these addresses", takenFar)
	}
}

func TestOfTwoFirstMachinesExactlyOneFounds(t *testing.T) {
	seeking := func(label string) discovery.Neighbour {
		return discovery.Neighbour{Beacon: discovery.Beacon{Label: label, Stage: discovery.StageSeeking}}
	}
	founding := seeking("ff")
	founding.Stage = discovery.StageFounding
	for name, c := range map[string]struct {
		neighbours []discovery.Neighbour
		waits      bool
	}{
		"alone":                    {nil, false},
		"the other is later":       {[]discovery.Neighbour{seeking("bb")}, false},
		"the other comes first":    {[]discovery.Neighbour{seeking("bb"), seeking("11")}, true},
		"the other founds already": {[]discovery.Neighbour{founding}, true},
	} {
		if got := rival(c.neighbours, "aa"); got != c.waits {
			t.Errorf("%s: waits %v", name, got)
		}
	}
}

func TestMembersOfAMeshArePutTogetherAndMeshesOfOneNameAreNot(t *testing.T) {
	at := func(mesh, id, addr string) discovery.Neighbour {
		return discovery.Neighbour{Beacon: discovery.Beacon{Mesh: mesh, Fingerprint: id}, Addrs: []netip.AddrPort{netip.MustParseAddrPort(addr)}}
	}
	all := []discovery.Neighbour{at("home", "bbbbbbbb", "192.0.2.1:1"), at("home", "aaaaaaaa", "192.0.2.2:1"), at("home", "bbbbbbbb", "192.0.2.3:1"),
		{Beacon: discovery.Beacon{Stage: discovery.StageSeeking}}, {Beacon: discovery.Beacon{Mesh: "far", Fingerprint: "cccccccc"}}}
	got := meshesOf(all, "home")
	if len(got) != 2 || got[0].fingerprint != "aaaaaaaa" || len(got[1].addrs) != 2 {
		t.Errorf("%+v", got)
	}
	if got := meshesOf(all, "bbbbbbbb"); len(got) != 1 || !slices.Equal(got[0].addrs, []netip.AddrPort{all[0].Addrs[0], all[2].Addrs[0]}) {
		t.Errorf("%+v", got)
	}
	if got := meshesOf(all, ""); len(got) != 2 { // what names no usable address is not offered
		t.Errorf("%+v", got)
	}
}

// Regression: two machines of a LAN with nothing but link-local addresses founded a mesh each, and said nothing.
func TestAMeshThatIsHeardButHasNoAddressIsSaid(t *testing.T) {
	heard := func(stage discovery.Stage, addrs ...netip.AddrPort) []discovery.Neighbour {
		return []discovery.Neighbour{{Beacon: discovery.Beacon{Stage: stage, Mesh: "home", Fingerprint: "aaaaaaaa"}, Addrs: addrs}}
	}
	for _, wanted := range []string{"", "home", "aaaaaaaa"} {
		var f *localapi.Failure
		if err := outOfReach(heard(discovery.StageMember), wanted); !errors.As(err, &f) || f.Class != localapi.Failed || !strings.Contains(f.Error(), "home (aaaaaaaa)") {
			t.Errorf("%q wanted: %v", wanted, err)
		}
	}
	if err := outOfReach(heard(discovery.StageMember), "other"); err != nil {
		t.Error(err)
	}
	if err := outOfReach(heard(discovery.StageMember, netip.MustParseAddrPort("192.0.2.1:1")), ""); err != nil {
		t.Error(err)
	}
	if err := outOfReach(heard(discovery.StageSeeking), ""); err != nil {
		t.Error(err)
	}
}
