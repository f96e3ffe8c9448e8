package dataplane

import (
	"strings"
	"testing"
	"time"
)

const testStatus = "private_key=" + zeros64 + "\nlisten_port=51820\n" +
	"public_key=" + ones64 + "\npreshared_key=" + ones64 + "\nprotocol_version=1\nendpoint=n-abc\nlast_handshake_time_sec=7\n" +
	"last_handshake_time_nsec=5\ntx_bytes=10\nrx_bytes=20\npersistent_keepalive_interval=0\nallowed_ip=10.86.0.2/32\nallowed_ip=fd00::2/128\n"

const (
	zeros64 = "0000000000000000000000000000000000000000000000000000000000000000"
	ones64  = "1111111111111111111111111111111111111111111111111111111111111111"
)

func TestDeviceStatusIsReadStrictly(t *testing.T) {
	got, err := parseDeviceStatus([]byte(testStatus))
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	for _, s := range got {
		if !s.keyed || !s.handshake.Equal(time.Unix(7, 5)) || s.traffic != (traffic{rx: 20, tx: 10}) {
			t.Errorf("%+v", s)
		}
	}
	for name, bad := range map[string]string{
		"unknown key":   testStatus + "colour=blue\n",
		"no value":      testStatus + "tx_bytes\n",
		"negative":      strings.Replace(testStatus, "tx_bytes=10", "tx_bytes=-10", 1),
		"short key":     strings.Replace(testStatus, "preshared_key=1", "preshared_key=", 1),
		"no hex":        strings.Replace(testStatus, "preshared_key=1", "preshared_key=g", 1),
		"twice":         testStatus + "public_key=" + ones64 + "\n",
		"nanoseconds":   strings.Replace(testStatus, "nsec=5", "nsec=1000000000", 1),
		"no prefix":     strings.Replace(testStatus, "/32", "", 1),
		"peer's at top": "tx_bytes=1\n" + testStatus,
	} {
		if _, err := parseDeviceStatus([]byte(bad)); err == nil {
			t.Errorf("%s is taken", name)
		} else if strings.Contains(err.Error(), "1111") {
			t.Errorf("%s: the error shows a key: %v", name, err)
		}
	}
}

func FuzzDeviceStatus(f *testing.F) {
	f.Add([]byte(testStatus))
	f.Add([]byte("public_key=" + ones64))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseDeviceStatus(b)
		if err == nil && strings.Count(string(b), "public_key=") < len(got) {
			t.Fatal("more peers than were listed")
		}
	})
}
