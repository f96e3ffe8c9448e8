package lab

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const soon = 5 * time.Second

func TestHostsReachEachOtherOverBothFamilies(t *testing.T) {
	Need(t, "ping")
	l := New(t)
	hosts := l.AddHosts("h", 3)
	for _, from := range hosts {
		for _, to := range hosts {
			for _, err := range []error{from.Ping(to.IPv4, soon), from.Ping(to.IPv6, soon)} {
				if err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func TestAConnectionOpenedOnOneHostArrivesAtAnother(t *testing.T) {
	Need(t)
	l := New(t)
	a, b := l.Host("a"), l.Host("b")
	listener, err := b.Listen("[::]:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		c, err := listener.Accept()
		if err == nil {
			io.WriteString(c, c.RemoteAddr().String())
			c.Close()
		}
	}()
	c, err := a.Dial("tcp", "["+b.IPv6.String()+"]:7000", soon)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(seen), "["+a.IPv6.String()+"]:") {
		t.Errorf("b saw %q, %v", seen, err)
	}
}

func TestPartitionsSeparateAndHeal(t *testing.T) {
	Need(t, "ping")
	l := New(t)
	h := l.AddHosts("h", 4)
	l.Partition(h[:2], h[2:])
	if err := h[0].Ping(h[1].IPv4, soon); err != nil {
		t.Errorf("within a half: %v", err)
	}
	if h[0].Ping(h[2].IPv4, time.Second) == nil {
		t.Error("a ping crossed the partition")
	}
	l.Heal()
	if err := h[0].Ping(h[2].IPv4, soon); err != nil {
		t.Errorf("after healing: %v", err)
	}
	h[3].Cut()
	if h[0].Ping(h[3].IPv6, time.Second) == nil {
		t.Error("a ping went through a cable that was pulled")
	}
	h[3].Restore()
	if err := h[0].Ping(h[3].IPv6, soon); err != nil {
		t.Errorf("after plugging in again: %v", err)
	}
}

func TestCaptureSeesWhatCrossesTheBridge(t *testing.T) {
	Need(t, "ping", "tcpdump")
	l := New(t)
	a, b := l.Host("a"), l.Host("b")
	c := l.Capture("icmp")
	// 6d61726b6572 is "marker" in hexadecimal: ping fills its packets with it.
	if out, err := a.Run("ping", "-n", "-c", "2", "-i", "0.2", "-p", "6d61726b6572", b.IPv4.String()); err != nil {
		t.Fatal(out, err)
	}
	if !bytes.Contains(c.Stop(), []byte("markermarker")) {
		t.Error("the capture lacks the ping's payload")
	}
}

func TestProcessesAreKilledAndTheirExitCodesKnown(t *testing.T) {
	Need(t)
	l := New(t)
	h := l.Host("h")
	if code := h.Start("sh", "-c", "echo out; echo err >&2; exit 4").Wait(soon); code != 4 {
		t.Errorf("exit code %d, want 4", code)
	}
	p := h.Start("sh", "-c", "echo ready; sleep 1000")
	p.WaitOutput("ready", soon)
	p.Kill()
	if p.Running() || p.Wait(soon) != -1 {
		t.Error("kill -9 did not end it")
	}
}

func TestMountsAreSmall(t *testing.T) {
	Need(t, "mount")
	l := New(t)
	dir := l.Mount("small", 64<<10)
	if err := os.WriteFile(dir+"/big", make([]byte, 1<<20), 0o600); err == nil {
		t.Error("a megabyte fitted into 64 KiB")
	}
}

// TestMain also is the child of TestEverythingGoesWhenTheTestDies: a test that kills itself once
// its lab stands.
func TestMain(m *testing.M) {
	if file := os.Getenv("LAB_DYING_TEST"); file != "" {
		testing.Main(func(string, string) (bool, error) { return true, nil },
			[]testing.InternalTest{{Name: "Dying", F: func(t *testing.T) { die(t, file) }}}, nil, nil)
	}
	os.Exit(m.Run())
}

func die(t *testing.T, file string) {
	l := New(t)
	l.Host("h").Start("sleep", "1000")
	l.Mount("m", 64<<10)
	if Find("nft") != "" {
		l.Router("r", RouterConfig{NAT: EasyNAT}).AddHost("inside").Start("sleep", "1000")
	}
	if err := os.WriteFile(file, []byte(l.prefix+" "+l.dir), 0o600); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func TestEverythingGoesWhenTheTestDies(t *testing.T) {
	Need(t, "mount")
	file := t.TempDir() + "/prefix"
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LAB_DYING_TEST="+file)
	if err := cmd.Run(); err == nil {
		t.Fatal("the child was to die")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("the child died too early: %v", err)
	}
	prefix, dir, _ := strings.Cut(string(b), " ")
	defer os.RemoveAll(dir) // the one thing the dead child cannot do
	err = Eventually(10*time.Second, func() error {
		names, err := os.ReadDir("/run/netns")
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name.Name(), prefix) {
				return &os.PathError{Op: "namespace", Path: name.Name(), Err: os.ErrExist}
			}
		}
		mounts, err := os.ReadFile("/proc/mounts")
		if err == nil && bytes.Contains(mounts, []byte(dir)) {
			err = os.ErrExist
		}
		return err
	})
	if err != nil {
		t.Errorf("left behind: %v", err)
	}
}
