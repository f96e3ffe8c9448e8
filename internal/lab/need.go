package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// T is what the lab wants of a test; *testing.T and *testing.B have it, and so may a program.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(func())
	Failed() bool
	TempDir() string
}

// TUN can be given to Need like a tool: the right to open /dev/net/tun.
const TUN = "/dev/net/tun"

// Need skips the test unless it runs as root, network namespaces can be made and every tool is
// there. ip(8) is always needed.
func Need(t T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("needs root: it makes network namespaces")
	}
	for _, tool := range append([]string{"ip"}, tools...) {
		if tool == TUN {
			f, err := os.OpenFile(TUN, os.O_RDWR, 0)
			if err != nil {
				t.Skipf("needs TUN devices: %v", err)
			}
			f.Close()
			continue
		}
		if Find(tool) == "" {
			t.Skipf("needs the program %s, which is not installed", tool)
		}
	}
	if err := namespacesWork(); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
}

// namespacesWork tries once a process whether this machine (a container, perhaps) allows them.
var namespacesWork = sync.OnceValue(func() error {
	name := unique() + "try"
	if _, err := run("ip", "netns", "add", name); err != nil {
		return err
	}
	_, err := run("ip", "-n", name, "link", "add", "try0", "type", "veth", "peer", "name", "try1")
	if _, e := run("ip", "netns", "del", name); err == nil {
		err = e
	}
	return err
})

// Find returns the path of a program, also from the folders that an ordinary PATH leaves out.
func Find(tool string) string {
	if path, err := exec.LookPath(tool); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
			return path
		}
	}
	return ""
}
