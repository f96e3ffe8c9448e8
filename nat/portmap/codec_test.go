package portmap

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	router = netip.MustParseAddr("192.168.1.1")
	client = netip.MustParseAddr("192.168.1.5")
	asked  = request{transport: UDP, internal: 51820, suggested: netip.MustParseAddrPort("198.51.100.1:51820"), lifetime: time.Hour, nonce: nonce{1, 2, 3}}
)

// pcpAnswer is what a router answers to asked.
func pcpAnswer(change func(b []byte)) []byte {
	b := pcpMapRequest(asked, client)
	b[1] |= pcpResponse
	copy(b[8:24], []byte{0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) // epoch 9
	if change != nil {
		change(b)
	}
	return b
}

func TestAPCPRequestIsLaidOutAsInTheRFC(t *testing.T) {
	want := []byte{2, 1, 0, 0, 0, 0, 0x0e, 0x10,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 5,
		1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0xca, 0x6c, 0xca, 0x6c,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 1}
	if got := pcpMapRequest(asked, client); !bytes.Equal(got, want) {
		t.Errorf("% x", got)
	}
}

func TestPCPAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"granted":            {pcpAnswer(nil), nil},
		"refused":            {pcpAnswer(func(b []byte) { b[3] = 2 }), errRefused},
		"another's nonce":    {pcpAnswer(func(b []byte) { b[24]++ }), errForm},
		"refused to another": {pcpAnswer(func(b []byte) { b[3] = 2; b[24]++ }), errForm},
		"another transport":  {pcpAnswer(func(b []byte) { b[36] = 6 }), errForm},
		"another port":       {pcpAnswer(func(b []byte) { b[41]++ }), errForm},
		"port 0":             {pcpAnswer(func(b []byte) { b[42], b[43] = 0, 0 }), errForm},
		"lifetime 0":         {pcpAnswer(func(b []byte) { clear(b[4:8]) }), errForm},
		"no address":         {pcpAnswer(func(b []byte) { clear(b[44:]) }), errForm},
		"our own request":    {pcpMapRequest(asked, client), errForm},
		"an announcement":    {pcpAnswer(func(b []byte) { b[1] = pcpResponse }), errForm},
		"cut short":          {pcpAnswer(nil)[:56], errForm},
		"a byte too many":    {append(pcpAnswer(nil), 0), errForm},
		"too long":           {append(pcpAnswer(nil), make([]byte, pcpMessageMax)...), errForm},
		"NAT-PMP":            {[]byte{0, 128, 0, 1, 0, 0, 0, 0}, errVersion},
		"nothing":            {nil, errForm},
	} {
		r, err := parsePCP(c.b, pcpMap, asked)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if c.want == nil && (r.external != asked.suggested || r.lifetime != time.Hour || r.epoch != 9) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func pmpAnswer(change func(b []byte)) []byte {
	b := []byte{0, 129, 0, 0, 0, 0, 0, 9, 0xca, 0x6c, 0xca, 0x6d, 0, 0, 0x0e, 0x10}
	if change != nil {
		change(b)
	}
	return b
}

func TestNATPMPAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"granted":        {pmpAnswer(nil), nil},
		"refused":        {pmpAnswer(func(b []byte) { b[3] = 2 }), errRefused},
		"refused, short": {pmpAnswer(func(b []byte) { b[3] = 2 })[:8], errRefused},
		"another port":   {pmpAnswer(func(b []byte) { b[9]++ }), errForm},
		"TCP":            {pmpAnswer(func(b []byte) { b[1] = 130 }), errForm},
		"port 0":         {pmpAnswer(func(b []byte) { b[10], b[11] = 0, 0 }), errForm},
		"lifetime 0":     {pmpAnswer(func(b []byte) { b[14], b[15] = 0, 0 }), errForm},
		"PCP":            {pcpAnswer(nil), errForm},
		"cut short":      {pmpAnswer(nil)[:12], errForm},
		"nothing":        {nil, errForm},
	} {
		r, err := parsePMP(c.b, pmpMapUDP, asked)
		if !errors.Is(err, c.want) || c.want == nil && (r.port != 51821 || r.lifetime != time.Hour || r.epoch != 9) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestARestartIsSeenByTheEpoch(t *testing.T) {
	now := time.Unix(1e9, 0)
	var e epoch
	if e.restarted(0, now) {
		t.Error("nothing noted yet")
	}
	e.note(1000, now)
	for seconds, want := range map[uint32]bool{1060: false, 1052: false, 1049: true, 0: true, 5000: false} {
		if got := e.restarted(seconds, now.Add(time.Minute)); got != want {
			t.Errorf("%d a minute after 1000: restarted %v", seconds, got)
		}
	}
}

func ssdp(location string) []byte {
	return []byte("HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: " + location + "\r\n\r\n")
}

func TestOnlyTheGatewaysOwnURLsAreFetched(t *testing.T) {
	for location, ok := range map[string]bool{
		"http://192.168.1.1:5000/root.xml":          true,
		"http://192.168.1.7:5000/root.xml":          false, // another machine
		"http://169.254.169.254/latest/meta-data":   false,
		"http://127.0.0.1:80/":                      false,
		"http://router.lan/root.xml":                false, // a name may become any address
		"https://192.168.1.1/root.xml":              false,
		"file:///etc/passwd":                        false,
		"http://192.168.1.1@192.168.1.7/":           false,
		"http://u:p@192.168.1.1/":                   false,
		"":                                          false,
		"http://[::ffff:192.168.1.1]:5000/root.xml": true,
	} {
		if u, err := parseSSDP(ssdp(location), router); (err == nil) != ok {
			t.Errorf("%s: %v, %v", location, u, err)
		}
		if location == "" {
			continue
		}
		description := "<root><URLBase>" + location + "</URLBase><device></device></root>"
		own, _ := parseSSDP(ssdp("http://192.168.1.1:5000/root.xml"), router)
		if _, err := parseDescription(strings.NewReader(description), own, router); (err == nil) != ok {
			t.Errorf("base %s: %v", location, err)
		}
	}
}

func FuzzParsePCP(f *testing.F) {
	f.Add(pcpAnswer(nil))
	f.Add(pcpRequest(pcpAnnounce, 0, client))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parsePCP(b, pcpMap, asked); err == nil && (r.external.Port() == 0 || r.lifetime == 0) {
			t.Fatalf("%x: %+v", b, r)
		}
		_, _ = parsePCP(b, pcpAnnounce, request{})
	})
}

func FuzzParsePMP(f *testing.F) {
	f.Add(pmpAnswer(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parsePMP(b, pmpMapUDP, asked); err == nil && (r.port == 0 || r.lifetime == 0) {
			t.Fatalf("%x: %+v", b, r)
		}
		_, _ = parsePMP(b, pmpAddress, request{})
	})
}

func FuzzParseSSDP(f *testing.F) {
	f.Add(ssdp("http://192.168.1.1:5000/root.xml"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := parseSSDP(b, router); err == nil && onGateway(u, router) != nil {
			t.Fatalf("%q leads to %s", b, u)
		}
	})
}

func FuzzParseDescription(f *testing.F) {
	f.Add([]byte(`<root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1` +
		`</serviceType><controlURL>/c</controlURL></service></serviceList></device></root>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		location, _ := parseSSDP(ssdp("http://192.168.1.1:5000/root.xml"), router)
		if root, err := parseDescription(bytes.NewReader(b), location, router); err == nil {
			services(root, location)
		}
	})
}
