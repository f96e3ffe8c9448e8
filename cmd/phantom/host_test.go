package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// aHost is a machine where all is well.
func aHost(t *testing.T) *host {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &host{settings: config.Settings{State: dir, TUN: config.Userspace}, now: time.Now()}
}

func TestDoctorFindsAPortInUse(t *testing.T) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h := aHost(t)
	h.settings.Port = uint16(c.LocalAddr().(*net.UDPAddr).Port)
	h.settings.Listen = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	f := h.port()
	if f.OK || f.Severity != localapi.SeverityError || f.What != fmt.Sprintf("UDP port %d is in use", h.settings.Port) {
		t.Errorf("%+v", f)
	}
	h.running = true
	if f := h.port(); !f.OK {
		t.Errorf("the node's own port is no problem: %+v", f)
	}
	h.running, h.settings.Listen = false, []netip.Addr{netip.MustParseAddr("192.0.2.77")}
	if f := h.port(); f.OK || !strings.Contains(f.Next, "--listen") {
		t.Errorf("an address of another machine: %+v", f)
	}
}

func TestDoctorFindsAClockThatWentBack(t *testing.T) {
	h := aHost(t)
	if f := h.clock(); strings.Contains(f.What, "wrong") {
		t.Fatalf("a good clock: %+v", f)
	}
	if err := os.WriteFile(filepath.Join(h.settings.State, "settings.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.now = h.now.AddDate(-1, 0, 0)
	if f := h.clock(); f.OK || f.Severity != localapi.SeverityError || !strings.Contains(f.What, "the clock is wrong") {
		t.Errorf("a year back: %+v", f)
	}
}

func TestDoctorFindsAStateFolderOthersCanRead(t *testing.T) {
	h := aHost(t)
	if f := h.state(); !f.OK {
		t.Fatalf("a private folder: %+v", f)
	}
	key := filepath.Join(h.settings.State, "identity.key")
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chmod(key, 0o644)
	if f := h.state(); f.OK || f.Severity != localapi.SeverityWarning || f.Next != "chmod 600 "+key {
		t.Errorf("a loose file: %+v", f)
	}
	os.Chmod(h.settings.State, 0o750)
	if f := h.state(); f.OK || f.Severity != localapi.SeverityError || f.Next != "chmod 700 "+h.settings.State {
		t.Errorf("a loose folder: %+v", f)
	}
	h.settings.State = key
	if f := h.state(); f.OK || !strings.Contains(f.What, "is no folder") {
		t.Errorf("a file: %+v", f)
	}
	h.settings.State = filepath.Join(t.TempDir(), "none")
	if f := h.state(); !f.OK {
		t.Errorf("none yet: %+v", f)
	}
}

func TestTheLogIsBounded(t *testing.T) {
	name := filepath.Join(t.TempDir(), "phantom.log")
	l := &boundedLog{name: name, keepStderr: true}
	if err := l.openLocked(); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	line := []byte(strings.Repeat("x", 1<<20))
	for range 3 * logMax / len(line) {
		if _, err := l.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	total := int64(0)
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		fi, _ := e.Info()
		total += fi.Size()
		if fi.Mode().Perm() != 0o600 || fi.Size() > logMax {
			t.Errorf("%s: %v, %d bytes", e.Name(), fi.Mode(), fi.Size())
		}
	}
	if total > 2*logMax {
		t.Errorf("%d bytes of log", total)
	}
}
