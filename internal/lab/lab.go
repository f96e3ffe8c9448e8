package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// commandTimeout bounds one ip, nft or other short command.
	commandTimeout = 30 * time.Second
	// hostsMax keeps host numbers in one byte of the address.
	hostsMax = 200
	bridge   = "br0"
)

// Lab is one Ethernet segment and the hosts on it. It is not safe for concurrent use, except for
// the methods of its hosts that run commands.
type Lab struct {
	t       T
	prefix  string // of every namespace's name
	dir     string
	sw      string // the namespace with the bridge
	wan     *network
	hosts   []*Host // on the segment itself
	routers int
	reaper  io.Closer
	reaped  chan struct{}
}

// New makes an empty segment and has it removed when the test ends.
func New(t T) *Lab {
	t.Helper()
	l := &Lab{t: t, prefix: unique(), dir: t.TempDir(), reaped: make(chan struct{})}
	l.sw = l.prefix + "sw"
	l.startReaper()
	t.Cleanup(l.Close)
	l.must("ip", "netns", "add", l.sw)
	l.wan = &network{lab: l, namespace: l.sw, bridge: bridge, last: 0,
		ipv4: netip.MustParsePrefix("192.0.2.0/24"), ipv6: netip.MustParsePrefix("2001:db8:1ab::/64")}
	l.wan.addBridge(bridge)
	return l
}

// Dir is a folder of the lab's own for logs and state; mounts below it are undone at cleanup.
func (l *Lab) Dir() string { return l.dir }

// Hosts returns the hosts on the segment itself, not those behind routers, in the order they were added.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Host adds a machine with a cable to the segment.
func (l *Lab) Host(name string) *Host {
	l.t.Helper()
	h := l.station(name, l.wan)
	l.hosts = append(l.hosts, h)
	return h
}

// station makes a namespace and plugs it into a network.
func (l *Lab) station(name string, at *network) *Host {
	l.t.Helper()
	h := &Host{Name: name, Namespace: l.prefix + name, lab: l}
	l.must("ip", "netns", "add", h.Namespace)
	l.must("ip", "-n", h.Namespace, "link", "set", "lo", "up")
	h.Cable = at.plug(h)
	return h
}

// AddHosts adds machines named prefix1 … prefixN.
func (l *Lab) AddHosts(prefix string, n int) []*Host {
	l.t.Helper()
	for i := range n {
		l.Host(fmt.Sprintf("%s%d", prefix, i+1))
	}
	return l.hosts[len(l.hosts)-n:]
}

// Partition splits the segment: hosts of one group reach each other and nobody else. Hosts in no
// group stay where they are. Cables stay up, so no host is told: packets just stop arriving.
func (l *Lab) Partition(groups ...[]*Host) {
	l.t.Helper()
	for i, group := range groups {
		name := fmt.Sprintf("half%d", i)
		if _, err := run("ip", "-n", l.sw, "link", "show", name); err != nil {
			l.wan.addBridge(name)
		}
		for _, h := range group {
			l.must("ip", "-n", l.sw, "link", "set", h.port, "master", name)
		}
	}
}

// Heal puts every host back on the one bridge.
func (l *Lab) Heal() {
	l.t.Helper()
	for _, h := range l.hosts {
		l.must("ip", "-n", l.sw, "link", "set", h.port, "master", bridge)
	}
}

// Capture records what crosses the bridge's ports into a file until the process is stopped.
// It returns once tcpdump listens. The filter is in pcap-filter(7)'s language; "" is everything.
func (l *Lab) Capture(filter string) *Capture {
	l.t.Helper()
	file := filepath.Join(l.dir, "capture-"+unique()+".pcap")
	args := []string{"netns", "exec", l.sw, Find("tcpdump"), "-i", "any", "--immediate-mode", "-U", "-s", "0", "-B", "16384", "-Z", "root", "-w", file}
	if filter != "" {
		args = append(args, filter)
	}
	p := l.start("tcpdump", exec.Command(Find("ip"), args...))
	p.WaitOutput("listening on", commandTimeout)
	return &Capture{Process: p, File: file}
}

// Capture is a running tcpdump.
type Capture struct {
	*Process
	File string // pcap
}

// Await waits until the capture's file holds what was sent: tcpdump writes after the packet has gone by, and what still waits for it when it is
// stopped is lost.
func (c *Capture) Await(sent []byte, timeout time.Duration) error {
	return Eventually(timeout, func() error {
		b, err := os.ReadFile(c.File)
		if err == nil && !bytes.Contains(b, sent) {
			err = fmt.Errorf("the capture does not hold %q", sent)
		}
		return err
	})
}

// Stop ends the capture and returns the raw bytes of the file.
func (c *Capture) Stop() []byte {
	c.lab.t.Helper()
	c.Signal(os.Interrupt)
	c.Wait(commandTimeout)
	b, err := os.ReadFile(c.File)
	if err != nil {
		c.lab.t.Fatalf("lab: reading the capture: %v", err)
	}
	return b
}

// Mount puts a small memory file system of that many bytes at a new folder below Dir.
func (l *Lab) Mount(name string, bytes int) string {
	l.t.Helper()
	dir := filepath.Join(l.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.t.Fatalf("lab: %v", err)
	}
	l.must("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", bytes), "lab", dir)
	return dir
}

// Close removes the lab and waits until it is gone. It may be called twice.
func (l *Lab) Close() {
	l.reaper.Close()
	<-l.reaped
}

// reap kills what runs in the lab's namespaces, undoes its mounts and deletes the namespaces.
// $1 is the prefix of their names, $2 the lab's folder.
const reap = `cat >/dev/null
for ns in /run/netns/"$1"*; do
  [ -e "$ns" ] || continue
  pids=$(ip netns pids "${ns##*/}")
  [ -z "$pids" ] || kill -9 $pids 2>/dev/null
done
while read -r _ where _; do
  case "$where" in "$2"/*) umount -l "$where";; esac
done </proc/mounts
for ns in /run/netns/"$1"*; do
  [ -e "$ns" ] && ip netns del "${ns##*/}"
done
exit 0`

func (l *Lab) startReaper() {
	l.t.Helper()
	cmd := exec.Command("/bin/sh", "-c", reap, "lab-reaper", l.prefix, l.dir)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = ownSession
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		l.t.Fatalf("lab: starting the reaper: %v", err)
	}
	l.reaper = stdin
	go func() {
		defer close(l.reaped)
		cmd.Wait()
	}()
}

func (l *Lab) must(name string, args ...string) {
	l.t.Helper()
	if _, err := run(name, args...); err != nil {
		l.t.Fatalf("lab: %v", err)
	}
}

// run executes a short command and returns what it printed.
func run(name string, args ...string) (string, error) { return runWith(nil, name, args...) }

// runWith is run with something to read.
func runWith(stdin io.Reader, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	path := Find(name)
	if path == "" {
		return "", fmt.Errorf("%s is not installed", name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// unique returns a prefix no other lab uses: "pm" and 24 random bits.
func unique() string {
	var b [3]byte
	rand.Read(b[:])
	return "pm" + hex.EncodeToString(b[:]) + "-"
}
