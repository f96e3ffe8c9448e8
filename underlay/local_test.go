package underlay

import (
	"net/netip"
	"slices"
	"testing"
)

func TestAnotherVPNsAddressIsNotOfferedWhereThereIsAnother(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, a := range texts {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	for _, tc := range []struct {
		name         string
		wide, narrow []netip.Addr
		named        bool
		want         []netip.Addr
	}{
		{"a LAN and a VPN", addrs("127.0.0.1", "192.0.2.1"), addrs("100.64.0.1"), false, addrs("127.0.0.1", "192.0.2.1")},
		{"a mobile link alone", addrs("127.0.0.1", "fe80::1"), addrs("198.51.100.7"), false, addrs("127.0.0.1", "fe80::1", "198.51.100.7")},
		{"named by --listen", addrs("192.0.2.1"), addrs("100.64.0.1"), true, addrs("192.0.2.1", "100.64.0.1")},
	} {
		if got := chooseWide(tc.wide, tc.narrow, tc.named); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
