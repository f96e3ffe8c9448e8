package coordinator

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// offer has members say that they relay, each of the network that its number names.
func (d *decisions) offer(networks map[int]byte) {
	if d.o.Offers == nil {
		d.o.Offers = map[identity.NodeID]Offer{}
	}
	for i := range d.members {
		if n, ok := networks[i]; ok {
			d.o.Offers[testKey(i).ID()] = Offer{Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, n, 0}), 24)}
			fmt.Fprintf(&d.trace, "%6s  n%d offers to relay from network %d\n", d.now.Sub(day0), i, n)
		}
	}
}

// busy has members say that they carry as much as they can, or no longer do.
func (d *decisions) busy(is bool, members ...int) {
	for _, i := range members {
		o := d.o.Offers[testKey(i).ID()]
		o.Busy = is
		d.o.Offers[testKey(i).ID()] = o
	}
	fmt.Fprintf(&d.trace, "%6s  %v busy=%v\n", d.now.Sub(day0), members, is)
}

// relays are the numbers of those appointed for a region.
func (d *decisions) relays(region string) (out []int) {
	for _, r := range d.ledger.state.Relays.Of(region) {
		for i := range d.members {
			if testKey(i).ID() == r.Node {
				out = append(out, i)
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestRelayDeciderTraces(t *testing.T) {
	for name, play := range map[string]func(*decisions){
		"a-relay-is-lost-and-another-takes-over": func(d *decisions) {
			d.offer(map[int]byte{0: 0, 1: 1, 2: 2})
			d.run(20)
			d.see(d.relays(DefaultRegion)[0], false)
			d.run(90)
		},
		"load-comes-and-goes": func(d *decisions) {
			d.offer(map[int]byte{0: 0, 1: 1, 2: 2, 3: 3})
			d.run(20)
			serving := d.relays(DefaultRegion)
			d.busy(true, serving...)
			d.run(20)
			d.busy(false, serving...)
			d.run(int(relayTenure/time.Second) + 30)
		},
		"a-region-without-relays-borrows": func(d *decisions) {
			d.place("east", 4, 5)
			d.offer(map[int]byte{0: 0, 1: 1})
			d.run(20)
			d.offer(map[int]byte{4: 4, 5: 5})
			d.run(20)
		},
		"who-offers-no-more-or-is-revoked-is-dismissed": func(d *decisions) {
			d.offer(map[int]byte{1: 1, 2: 2})
			d.run(20)
			delete(d.o.Offers, testKey(1).ID())
			d.run(3)
			d.apply(KindRevoke, revokeBody{Revocation: revocation(d.t, d.ledger, 2, false, d.now)})
			d.run(3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecisions(t, 6)
			play(d)
			for _, r := range d.ledger.state.Relays.List {
				fmt.Fprintf(&d.trace, "at the end %s relays for %s\n", d.name(r.Node), r.Region)
			}
			golden(t, filepath.Join("testdata", "deciders", "relays-"+name+".txt"), d.trace.String())
		})
	}
}

// Who is appointed. n0 to n3 are of the default region, n4 and n5 of east; all have been there for long unless they are young or gone.
func TestRelaysAreNearSpreadAndEnough(t *testing.T) {
	for name, c := range map[string]struct {
		offers            map[int]byte // by network
		busy, young, gone []int
		home, east        []int
	}{
		"nobody offers":                   {},
		"two, of two networks":            {offers: map[int]byte{0: 0, 1: 0, 2: 2}, home: []int{0, 2}, east: []int{0, 2}},
		"one network if there is no more": {offers: map[int]byte{0: 0, 1: 0}, home: []int{0, 1}, east: []int{0, 1}},
		"of the region first":             {offers: map[int]byte{0: 0, 1: 1, 4: 4, 5: 5}, home: []int{0, 1}, east: []int{4, 5}},
		"a busy one not beside others":    {offers: map[int]byte{0: 0, 1: 1, 2: 2}, busy: []int{0}, home: []int{1, 2}, east: []int{1, 2}},
		"a busy one if it is the only":    {offers: map[int]byte{3: 0}, busy: []int{3}, home: []int{3}, east: []int{3}},
		"nobody who has just come":        {offers: map[int]byte{0: 0, 1: 1, 2: 2}, young: []int{0}, home: []int{1, 2}, east: []int{1, 2}},
		"nobody who is away":              {offers: map[int]byte{0: 0, 1: 1, 2: 2}, gone: []int{1}, home: []int{0, 2}, east: []int{0, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecisions(t, 6)
			d.place("east", 4, 5)
			d.offer(c.offers)
			d.busy(true, c.busy...)
			d.o.Now, d.o.Wall = day0.Add(time.Hour), day0.Add(time.Hour)
			for i := range 6 {
				d.o.Alive[testKey(i).ID()] = day0.Add(time.Duration(i) * time.Second)
			}
			for _, i := range c.young {
				d.o.Alive[testKey(i).ID()] = d.o.Now
			}
			for _, i := range c.gone {
				delete(d.o.Alive, testKey(i).ID())
				d.o.Gone[testKey(i).ID()] = d.o.Now
			}
			for range 4 {
				for _, p := range DecideRelays(d.ledger.state, d.o) {
					d.carryOut(p)
				}
			}
			if home, east := d.relays(DefaultRegion), d.relays("east"); !slices.Equal(home, c.home) || !slices.Equal(east, c.east) {
				t.Errorf("%v and %v, want %v and %v", home, east, c.home, c.east)
			}
		})
	}
}

func TestARegionHasRelaysEnough(t *testing.T) {
	for members, want := range map[int]int{1: 2, 128: 2, 129: 3, 640: 10, 5000: relaysPerRegion} {
		if got := relaysFor(members); got != want {
			t.Errorf("%d members: %d relays, want %d", members, got, want)
		}
	}
}

func TestAnAppointmentIsMadeOnceAndKept(t *testing.T) {
	d := newDecisions(t, 3)
	change := func(region string, i int, appoint bool) *Refused {
		d.index++
		return d.ledger.Apply(must(t, KindRelay, d.now, identity.NodeID{}, relayBody{Region: region, Node: testKey(i).ID(), Appoint: appoint}), d.index).Refused
	}
	for _, c := range []struct {
		what    string
		region  string
		member  int
		appoint bool
		code    RefusalCode
	}{
		{"one who was not appointed is dismissed", DefaultRegion, 1, false, refusedConflict},
		{"the first", DefaultRegion, 1, true, ""},
		{"again", DefaultRegion, 1, true, refusedConflict},
		{"a second", DefaultRegion, 0, true, ""},
		{"a stranger", DefaultRegion, 9, true, refusedConflict},
		{"for a region without members", "east", 1, true, refusedConflict},
		{"for what is no region", "East", 1, true, RefusedRequest},
		{"the second is dismissed", DefaultRegion, 0, false, ""},
	} {
		if got := change(c.region, c.member, c.appoint); (got == nil) != (c.code == "") || (got != nil && got.Code != c.code) {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	if !slices.Equal(d.relays(DefaultRegion), []int{1}) || !d.ledger.state.Relays.Appointed(DefaultRegion, testKey(1).ID()) {
		t.Errorf("appointed are %v", d.relays(DefaultRegion))
	}

	// Snapshots, files and digests hold the relays.
	again := d.ledger.reload(t)
	if !slices.Equal(again.state.Relays.List, d.ledger.state.Relays.List) || again.state.Digest() != d.ledger.state.Digest() {
		t.Error("the relays did not survive the snapshot")
	}
	var file bytes.Buffer
	if err := encodeState(&file, d.ledger.state); err != nil {
		t.Fatal(err)
	}
	if s, err := decodeState(&file, nil); err != nil || s.Digest() != d.ledger.state.Digest() || s.Version != d.ledger.state.Version {
		t.Errorf("nor the file: %v", err)
	}
}
