package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// host is this machine under examination.
type host struct {
	settings config.Settings
	running  bool // a node runs: what it holds is taken, and rightly so
	now      time.Time
}

func (h *host) check() []api.Finding {
	findings := []api.Finding{h.tun(), h.port(), h.clock(), h.state(), h.disk()}
	if !h.running {
		findings = append(findings, checkState(h.settings.State)...)
	}
	return findings
}

// tun tries what the node would do, with a device that is gone as soon as it is closed.
func (h *host) tun() api.Finding {
	const check = "tun"
	if h.settings.TUN == config.Userspace {
		return fine(check, "userspace networking, as asked for")
	}
	err := tryTUN()
	if err == nil {
		return fine(check, "this user may make TUN devices")
	}
	why := "making a TUN device: " + err.Error()
	next := "run as root, or give the binary CAP_NET_ADMIN: setcap cap_net_admin+ep " + selfPath()
	if errors.Is(err, fs.ErrNotExist) {
		next = "load the driver: modprobe tun; in a container, pass /dev/net/tun into it"
	}
	if h.settings.TUN != "" {
		return wrong(check, localapi.SeverityError, "no right to the TUN device "+h.settings.TUN, why, next+"; or use --tun userspace")
	}
	return wrong(check, localapi.SeverityWarning, "no right to a TUN device: only userspace networking, by way of the proxies", why, next)
}

func tryTUN() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("phantom-chk%d") // the kernel counts for itself
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
}

func selfPath() string {
	if p, err := os.Executable(); err == nil {
		return p
	}
	return "phantom"
}

func (h *host) port() api.Finding {
	const check = "port"
	switch {
	case h.settings.Port == 0:
		return fine(check, "any free UDP port will do")
	case h.running:
		return fine(check, fmt.Sprintf("UDP port %d is the node's", h.settings.Port))
	}
	addrs := h.settings.Listen
	if len(addrs) == 0 {
		addrs = []netip.Addr{netip.IPv4Unspecified()}
	}
	for _, a := range addrs {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, h.settings.Port)))
		if err == nil {
			c.Close()
			continue
		}
		what := fmt.Sprintf("UDP port %d cannot be opened on %s", h.settings.Port, a)
		next := "choose addresses of this machine with --listen"
		if errors.Is(err, syscall.EADDRINUSE) {
			what = fmt.Sprintf("UDP port %d is in use", h.settings.Port)
			next = fmt.Sprintf("see who has it: ss -lunp sport = :%d; or choose another with --port, 0 for any free one", h.settings.Port)
		}
		return wrong(check, localapi.SeverityError, what, err.Error(), next)
	}
	return fine(check, fmt.Sprintf("UDP port %d is free", h.settings.Port))
}

// clockSlack is how far a file may lie in the future: certificates allow clocks five minutes apart, and disks of other machines get mounted.
const clockSlack = time.Hour

// clock compares the time with what cannot lie in the future: this binary and what the node wrote.
func (h *host) clock() api.Finding {
	const check = "clock"
	next := "set it, best by NTP: timedatectl set-ntp true. Certificates are valid by the clock"
	back := func(what string, t time.Time) api.Finding {
		return wrong(check, localapi.SeverityError, "the clock is wrong: "+h.now.Format(time.DateTime),
			what+" is of "+t.Format(time.DateTime)+", which is later", next)
	}
	if built, err := time.Parse(time.RFC3339, buildVersion().Date); err == nil && h.now.Add(clockSlack).Before(built) {
		return back("this binary", built)
	}
	entries, _ := os.ReadDir(h.settings.State) // a folder that cannot be read is a finding of its own
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && h.now.Add(clockSlack).Before(fi.ModTime()) {
			return back(filepath.Join(h.settings.State, e.Name()), fi.ModTime())
		}
	}
	state, err := unix.Adjtimex(&unix.Timex{})
	if err == nil && state == unix.TIME_ERROR {
		return wrong(check, localapi.SeverityInfo, "the clock looks right, but nothing keeps it so", "the kernel calls it unsynchronized",
			"let NTP keep it: timedatectl set-ntp true")
	}
	return fine(check, "the clock looks right")
}

// state looks at the permissions of the state folder and of every file in it.
func (h *host) state() api.Finding {
	const check = "state"
	dir := h.settings.State
	fi, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fine(check, "no state folder yet: "+dir)
	}
	if err != nil {
		return wrong(check, localapi.SeverityError, "cannot look at the state folder "+dir, err.Error(), "run as the user who owns it, or as root")
	}
	if !fi.IsDir() {
		return wrong(check, localapi.SeverityError, dir+" is no folder", "the state folder should be there", "move it away, or use --state")
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return wrong(check, localapi.SeverityError, "other users may look into the state folder", fmt.Sprintf("%s has mode %04o", dir, fi.Mode().Perm()),
			"chmod 700 "+dir)
	}
	if unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
		return wrong(check, localapi.SeverityError, "cannot write to the state folder", dir+" belongs to another user or is read-only",
			"run as the user who owns it, or as root")
	}
	var loose string
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if fi, err := e.Info(); err == nil && fi.Mode().Perm()&0o077 != 0 && loose == "" {
			loose = p
		}
		return nil
	})
	if err != nil {
		return wrong(check, localapi.SeverityError, "cannot read the state folder", err.Error(), "run as the user who owns it, or as root; check the disk")
	}
	if loose != "" {
		return wrong(check, localapi.SeverityWarning, "a state file may be read by others", loose, "chmod 600 "+loose)
	}
	return fine(check, "the state folder is private: "+dir)
}

// Below diskLow the ledger's next snapshot may not fit; below diskOut the next decision may not.
const (
	diskLow = 256 << 20 // bytes
	diskOut = 16 << 20  // bytes
)

func (h *host) disk() api.Finding {
	const check = "disk"
	dir := h.settings.State
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return wrong(check, localapi.SeverityWarning, "cannot see how full the disk is", err.Error(), "check the disk of "+dir)
	}
	free := s.Bavail * uint64(s.Bsize)
	next := "make room on the disk of " + dir + ", or move the state folder with --state"
	switch {
	case free < diskOut:
		return wrong(check, localapi.SeverityError, "the disk is full", size(free)+" are free", next)
	case s.Files > 0 && s.Ffree == 0:
		return wrong(check, localapi.SeverityError, "the disk has no room for another file", "no free inodes", next)
	case free < diskLow:
		return wrong(check, localapi.SeverityWarning, "the disk is nearly full", size(free)+" are free", next)
	}
	return fine(check, size(free)+" free on the disk of the state folder")
}
