package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownSession keeps a child out of the terminal's signals and gives it a process group to kill.
var ownSession = &syscall.SysProcAttr{Setsid: true}

// Host is one machine: a network namespace with a cable to a network.
type Host struct {
	*Cable    // the first one, eth0
	Name      string
	Namespace string
	lab       *Lab
	cables    int
}

// Command prepares a command that runs on the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if path := Find(name); path != "" {
		name = path
	}
	cmd := exec.CommandContext(ctx, Find("ip"), append([]string{"netns", "exec", h.Namespace, name}, args...)...)
	cmd.WaitDelay = time.Second // a grandchild that holds the pipe must not hold us
	return cmd
}

// Run executes a command on the host and returns what it printed to both outputs.
func (h *Host) Run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %s %v: %w: %s", h.Name, name, args, err, out)
	}
	return string(out), err
}

// Start runs a command on the host in the background; it is killed at cleanup.
func (h *Host) Start(name string, args ...string) *Process {
	h.lab.t.Helper()
	return h.lab.start(h.Name, h.Command(context.Background(), name, args...))
}

// StartWith is Start with extra environment variables (NAME=value).
func (h *Host) StartWith(env []string, name string, args ...string) *Process {
	h.lab.t.Helper()
	cmd := h.Command(context.Background(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	return h.lab.start(h.Name, cmd)
}

// Do runs f with this goroutine's thread inside the host's network namespace: sockets that f
// itself opens (not goroutines it starts) belong to the host and stay so.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread is never unlocked: it dies with this goroutine, so nobody inherits
		// the wrong namespace even if f panics.
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The main thread is what "ip netns pids" looks at, and it cannot end: as
			// long as we hold it, a second goroutine gets another one.
			defer runtime.UnlockOSThread()
			result <- h.Do(f)
			return
		}
		ns, err := os.Open("/run/netns/" + h.Namespace)
		if err != nil {
			result <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering namespace %s: %w", h.Namespace, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// Listen opens a TCP listener on the host; "addr:0" picks a port.
func (h *Host) Listen(addr string) (net.Listener, error) {
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l, err
}

// Dial connects from the host. The address must be literal: names would be resolved elsewhere.
func (h *Host) Dial(network, addr string, timeout time.Duration) (net.Conn, error) {
	var c net.Conn
	err := h.Do(func() (err error) {
		// No happy eyeballs: one socket, opened by this very thread.
		c, err = (&net.Dialer{Timeout: timeout, FallbackDelay: -1}).Dial(network, addr)
		return err
	})
	return c, err
}

// ListenPacket opens a UDP socket on the host; network is udp, udp4 or udp6.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	var c net.PacketConn
	err := h.Do(func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	return c, err
}

// Sysctl writes a kernel setting of the host's network, a path below /proc/sys/net.
func (h *Host) Sysctl(name, value string) {
	h.lab.t.Helper()
	// /proc/sys/net shows the namespace of the thread that opens the file.
	if err := h.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }); err != nil {
		h.lab.t.Fatalf("lab: %s: %v", h.Name, err)
	}
}

// Ping sends one echo request after another from the host until one is answered or the time is over.
func (h *Host) Ping(to netip.Addr, timeout time.Duration) error {
	return Eventually(timeout, func() error { return h.PingOnce(to) })
}

// PingOnce sends one echo request from the host and waits a second for the answer.
func (h *Host) PingOnce(to netip.Addr) error {
	out, err := h.Run("ping", "-n", "-c", "1", "-W", "1", to.String())
	if err != nil {
		return fmt.Errorf("%s: no ping reply from %s: %s", h.Name, to, out)
	}
	return nil
}
