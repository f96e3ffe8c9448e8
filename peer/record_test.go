package peer

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

func newKey(t testing.TB) *identity.Key {
	t.Helper()
	k, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func endpoint(s string, k EndpointKind) Endpoint {
	return Endpoint{Addr: netip.MustParseAddrPort(s), Kind: k}
}

// fullRecord fills every field to its bound.
func fullRecord(id identity.NodeID) Record {
	r := Record{
		ID: id, Sequence: 1<<64 - 1, StateVersion: 1<<64 - 2, Voter: true, Relay: true, Busy: true, NAT: NATBlocked,
		Region: strings.Repeat("r", RegionMax),
		Relays: []identity.NodeID{{1}, {2}},
		Named:  true, Placed: true, Coordinate: Coordinate{Vec: [Dimensions]int16{-32768, 32767}, Height: 65535, Error: errorMost},
	}
	for i := range EndpointsMax {
		r.Endpoints = append(r.Endpoints, endpoint(fmt.Sprintf("[2001:db8::%d]:51820", i+1), PortMapped))
	}
	return r
}

func TestARecordSurvivesTheTrip(t *testing.T) {
	key := newKey(t)
	for name, r := range map[string]Record{
		"empty": {ID: key.ID()},
		"full":  fullRecord(key.ID()),
		"usual": {
			ID: key.ID(), Sequence: 7, Region: "home", StateVersion: 42, Voter: true, NAT: NATEasy,
			Endpoints: []Endpoint{endpoint("192.0.2.7:51820", Local), endpoint("[2001:db8::1]:51820", Mapped)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := r.Sign(key)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > RecordMax {
				t.Errorf("%d bytes, at most %d", len(b), RecordMax)
			}
			got, err := VerifyRecord(key.Public(), b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, r) {
				t.Errorf("got  %+v\nwant %+v", got, r)
			}
		})
	}
}

func TestSigningLeavesOutWhatMayNotStandInARecord(t *testing.T) {
	key := newKey(t)
	r := Record{Sequence: 1, Endpoints: []Endpoint{
		endpoint("[::ffff:192.0.2.1]:1", Local), // in its plain form below
		endpoint("192.0.2.1:1", Mapped),         // the same again
		endpoint("0.0.0.0:1", Local),
		endpoint("224.0.0.1:1", Local),
		endpoint("255.255.255.255:1", Local),
		endpoint("192.0.2.1:0", Local),
		endpoint("192.0.2.2:1", 9),
		{},
	}}
	for i := range 20 {
		r.Endpoints = append(r.Endpoints, endpoint(fmt.Sprintf("198.51.100.%d:1", i), Local))
	}
	b, err := r.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyRecord(key.Public(), b)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Endpoints) != EndpointsMax {
		t.Errorf("%d endpoints, want %d", len(got.Endpoints), EndpointsMax)
	}
	if want := endpoint("192.0.2.1:1", Local); got.Endpoints[0] != want {
		t.Errorf("first endpoint %v, want %v", got.Endpoints[0], want)
	}
	if got.Endpoints[1] != endpoint("198.51.100.0:1", Local) {
		t.Errorf("second endpoint %v", got.Endpoints[1])
	}
}

func TestNobodySpeaksForAnother(t *testing.T) {
	ours, theirs := newKey(t), newKey(t)
	if _, err := (Record{ID: theirs.ID()}).Sign(ours); err == nil {
		t.Error("signed a record of another node")
	}
	b, err := Record{Sequence: 3, Region: "home"}.Sign(ours)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyRecord(theirs.Public(), b); !errors.Is(err, ErrRecordSignature) {
		t.Errorf("another node's record: %v", err)
	}
	for i := range b {
		forged := bytes.Clone(b)
		forged[i] ^= 1
		if _, err := VerifyRecord(ours.Public(), forged); err == nil {
			t.Errorf("byte %d changed and nobody noticed", i)
		}
	}
}

func TestSigningRefusesARegionNobodyCanShow(t *testing.T) {
	key := newKey(t)
	for _, region := range []string{strings.Repeat("r", RegionMax+1), "a b", "a\n", "\x1b[31m", "\xff"} {
		if _, err := (Record{Region: region}).Sign(key); err == nil {
			t.Errorf("region %q was signed", region)
		}
	}
}

func TestARecordLooksAsItIsDocumented(t *testing.T) {
	r := Record{
		Sequence: 7, StateVersion: 42, Region: "home", Voter: true, Relay: true, NAT: NATEasy,
		Endpoints: []Endpoint{endpoint("192.0.2.7:51820", Local), endpoint("[2001:db8::1]:51821", PortMapped)},
		Relays:    []identity.NodeID{{1}},
		Named:     true, Placed: true, Coordinate: Coordinate{Vec: [Dimensions]int16{1, -2, 0, 0, 0, 0, 0, 259}, Height: 5, Error: 64},
	}
	want := "03" + "1b" + "02" + "0000000000000007" + "000000000000002a" + "04" + "686f6d65" +
		"02" + "41" + "c0000207" + "ca6c" + "63" + "20010db8000000000000000000000001" + "ca6d" +
		"01" + "01" + strings.Repeat("00", 31) +
		"0001" + "fffe" + strings.Repeat("0000", 5) + "0103" + "0005" + "40"
	if got := fmt.Sprintf("%x", r.appendBody(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	parsed, err := ParseRecord(identity.NodeID{}, append(r.appendBody(nil), make([]byte, signatureSize)...))
	if err != nil || !reflect.DeepEqual(parsed, r) {
		t.Errorf("read back %+v, %v", parsed, err)
	}
}

func TestTheLargestRecordIsAsLargeAsDocumented(t *testing.T) {
	key := newKey(t)
	b, err := fullRecord(key.ID()).Sign(key)
	if err != nil || len(b) != recordLargest || recordLargest != 384 {
		t.Errorf("%d bytes, %v; the bound is %d", len(b), err, recordLargest)
	}
}

// layout builds encoded records that an honest node would never make.
func layout(change func(parts [][]byte) [][]byte) []byte {
	parts := [][]byte{
		{3, 0, 2}, binary.BigEndian.AppendUint64(nil, 1), binary.BigEndian.AppendUint64(nil, 2),
		{4}, []byte("home"),
		{1, 4<<4 | 1, 192, 0, 2, 7, 0xca, 0x6c},
		{0},
		make([]byte, signatureSize),
	}
	return bytes.Join(change(parts), nil)
}

func TestParseRefusesWhatIsNotCanonical(t *testing.T) {
	set := func(i int, b ...byte) func([][]byte) [][]byte {
		return func(p [][]byte) [][]byte { p[i] = b; return p }
	}
	if _, err := ParseRecord(identity.NodeID{}, layout(func(p [][]byte) [][]byte { return p })); err != nil {
		t.Fatalf("the base case: %v", err)
	}
	v4in6 := append([]byte{1, 6<<4 | 1}, netip.MustParseAddr("::ffff:192.0.2.7").AsSlice()...)
	for name, b := range map[string][]byte{
		"empty":              {},
		"another version":    layout(set(0, 2, 0, 2)),
		"unknown flag":       layout(set(0, 3, 0x20, 2)),
		"unknown NAT":        layout(set(0, 3, 0, 5)),
		"coordinate missing": layout(set(0, 3, 0x10, 2)),
		"coordinate too vague": layout(func(p [][]byte) [][]byte {
			p[0], p[6] = []byte{3, 0x10, 2}, append(make([]byte, CoordinateSize), errorMost+1)
			return p
		}),
		"region too long":    layout(set(3, 64)),
		"region unprintable": layout(set(4, 'h', 'o', '\n', 'e')),
		"family 5":           layout(set(5, 1, 5<<4|1, 192, 0, 2, 7, 1, 1)),
		"kind 0":             layout(set(5, 1, 4<<4, 192, 0, 2, 7, 1, 1)),
		"kind 4":             layout(set(5, 1, 4<<4|4, 192, 0, 2, 7, 1, 1)),
		"port 0":             layout(set(5, 1, 4<<4|1, 192, 0, 2, 7, 0, 0)),
		"multicast":          layout(set(5, 1, 4<<4|1, 224, 0, 2, 7, 1, 1)),
		"v4 in v6":           layout(set(5, append(v4in6, 1, 1)...)),
		"nine endpoints":     layout(set(5, 9)),
		"endpoint twice":     layout(set(5, 2, 0x41, 192, 0, 2, 7, 1, 1, 0x42, 192, 0, 2, 7, 1, 1)),
		"three relays":       layout(set(6, 3)),
		"zero relay":         layout(set(6, append([]byte{1}, make([]byte, 32)...)...)),
		"no signature":       layout(set(7)),
		"trailing byte":      layout(set(7, make([]byte, signatureSize+1)...)),
		"huge":               make([]byte, 1<<16),
	} {
		if _, err := ParseRecord(identity.NodeID{}, b); !errors.Is(err, ErrRecordForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	key := newKey(f)
	for _, r := range []Record{{}, {Sequence: 9, Region: "home", Voter: true, NAT: NATHard}, fullRecord(key.ID())} {
		b, err := r.Sign(key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(key.ID(), b)
		if err != nil {
			if !errors.Is(err, ErrRecordForm) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again := append(r.appendBody(nil), b[len(b)-signatureSize:]...)
		if !bytes.Equal(again, b) {
			t.Fatalf("two encodings of one record:\n%x\n%x", b, again)
		}
	})
}
