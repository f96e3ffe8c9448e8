package e2e

import (
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// ended wants the node to end by itself with exit code 1 and a message with all these words.
func ended(t *testing.T, n *mesh.Node, words ...string) {
	t.Helper()
	code := n.Process.Wait(settled)
	out := string(n.Process.Output())
	if code != mesh.Failed {
		t.Errorf("exit code %d, want %d: %s", code, mesh.Failed, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("the message lacks %q: %s", w, out)
		}
	}
}

func TestUpStartsANodeInTheBackgroundAndDownEndsIt(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	n := mesh.New(t, l, l.Host("a"))
	if r := n.Do("status"); r.Code != mesh.NotRunning || r.Stderr == "" {
		t.Errorf("status with no node: want exit code %d and a reason: %v", mesh.NotRunning, r.Err())
	}
	n.Must("up", append([]string{"--new", "lab"}, n.Flags...)...)
	id := n.Status().Self.ID
	n.Must("up") // again: harmless
	n.Must("down")
	if r := n.Do("status"); r.Code != mesh.NotRunning {
		t.Errorf("status after down: want exit code %d: %v", mesh.NotRunning, r.Err())
	}
	n.Must("up") // its flags were kept
	if s := n.Status(); s.Self.ID != id || s.Mesh.Name != "lab" || s.Self.Name != "a" {
		t.Errorf("up after down gave another node: %+v", s)
	}
	n.Must("down")
}

func TestAPortInUseIsNamed(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	host := l.Host("a")
	mesh.Start(t, l, host)
	second := mesh.New(t, l, host, "--tun", "phantom1")
	second.State += "-second"
	second.StartOnly()
	ended(t, second, "51820")
}

func TestAStateFolderServesOneNode(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	first := mesh.Start(t, l, l.Host("a"))
	second := mesh.New(t, l, first.Host, "--port", "0", "--tun", "phantom1")
	second.StartOnly()
	ended(t, second, first.State)
	first.Found("lab") // and the first is unharmed
}

// withoutRight starts a node as root without CAP_NET_ADMIN.
func withoutRight(n *mesh.Node) {
	binary, _ := mesh.Binary()
	n.Process = n.Host.Start("setpriv", append([]string{"--bounding-set=-net_admin", binary, "run", "--state", n.State}, n.Flags...)...)
}

func TestWithoutTheRightToATUNANamedOneIsAnError(t *testing.T) {
	t.Parallel()
	need(t, "setpriv")
	l := lab.New(t)
	n := mesh.New(t, l, l.Host("a"))
	withoutRight(n)
	ended(t, n, "CAP_NET_ADMIN", "userspace")
}

func TestWithoutTheRightToATUNANodeRunsInUserspace(t *testing.T) {
	t.Parallel()
	need(t, "setpriv")
	l, nodes := mesh.Grow(t, 1)
	n := mesh.New(t, l, l.Host("a"))
	n.Flags = []string{"--name", "a", "--no-lan"}
	withoutRight(n)
	err := lab.Eventually(settled, func() error { return n.Do("status").Err() })
	if err != nil {
		t.Fatal(err)
	}
	n.Join(nodes[0].Invite().Token)
	if err := nodes[0].Host.Ping(n.Addresses()[0], settled); err != nil {
		t.Error(err)
	}
	n.Must("ping", nodes[0].Name, "-c", "1")
}

func TestADamagedStateFileIsNamedOrSurvived(t *testing.T) {
	t.Parallel()
	need(t, "cp")
	l, nodes := mesh.Grow(t, 2)
	mesh.Everybody(t, settled, nodes...)
	// The founder holds the ledger, the root key and the log, the other a copy of the state. The
	// founder stays while the other is tried, so that there is a mesh to be online in.
	for _, n := range []*mesh.Node{nodes[1], nodes[0]} {
		n.Must("down")
		n.Process.Wait(settled)
		t.Run(n.Name, func(t *testing.T) { damage(t, l, n) })
	}
}

// damage starts copies of a node's state folder with one file spoilt each.
func damage(t *testing.T, l *lab.Lab, n *mesh.Node) {
	for _, file := range files(t, n.State) {
		original, err := os.ReadFile(filepath.Join(n.State, file))
		if err != nil {
			t.Fatal(err)
		}
		garbage := make([]byte, max(len(original), 64))
		rand.Read(garbage)
		for name, content := range map[string][]byte{"garbage": garbage, "empty": nil, "half": original[:len(original)/2]} {
			t.Run(file+" "+name, func(t *testing.T) {
				d := mesh.New(t, l, n.Host)
				d.State = filepath.Join(t.TempDir(), "state")
				if out, err := n.Host.Run("cp", "-a", n.State, d.State); err != nil {
					t.Fatal(out, err)
				}
				if err := os.WriteFile(filepath.Join(d.State, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
				d.StartOnly()
				defer d.Kill()
				err := lab.Eventually(settled, func() error {
					if !d.Process.Running() {
						return nil
					}
					return d.Do("wait", "--timeout", "1s").Err()
				})
				if err != nil {
					t.Errorf("neither online nor ended: %v\n%s", err, d.Process.Output())
				}
				if !d.Process.Running() {
					if code := d.Process.Wait(settled); code != mesh.Failed {
						t.Errorf("exit code %d, want %d", code, mesh.Failed)
					}
					if out := string(d.Process.Output()); !strings.Contains(out, filepath.Base(file)) || strings.Contains(out, "panic:") {
						t.Errorf("the message does not name the file: %s", out)
					}
				}
			})
		}
	}
}

// files lists the regular files below a folder, except logs, as paths relative to it.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, ".log") {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("the state folder holds %v, %v", names, err)
	}
	return names
}

func TestAFullDiskIsSaidAndLosesNothing(t *testing.T) {
	t.Parallel()
	need(t, "mount")
	l, nodes := mesh.Grow(t, 1)
	t.Run("from the start", func(t *testing.T) {
		n := mesh.New(t, l, l.Host("tiny"))
		n.State = l.Mount("tiny", 4096)
		r := n.Do("join", append([]string{nodes[0].Invite().Token}, n.Flags...)...)
		if r.Code != mesh.Failed || !strings.Contains(r.Stderr, "space") {
			t.Errorf("want exit code %d and a word about space: %v", mesh.Failed, r.Err())
		}
	})
	t.Run("later", func(t *testing.T) {
		n := mesh.New(t, l, l.Host("full"))
		n.State = l.Mount("full", 64<<20)
		n.Start()
		n.Join(nodes[0].Invite().Token)
		filler := filepath.Join(n.State, "filler.log")
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 4096)
		for err == nil {
			_, err = f.Write(block)
		}
		f.Close()
		if err := nodes[0].Host.Ping(n.Addresses()[0], settled); err != nil {
			t.Errorf("traffic with a full disk: %v", err)
		}
		nodes[0].Must("invite") // a change that has to be replicated
		n.Kill()
		n.StartOnly()
		lab.Eventually(10*time.Second, func() error { // either answer is fine, hanging is not
			if !n.Process.Running() {
				return nil
			}
			return n.Do("status").Err()
		})
		n.Kill()
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		n.Start()
		n.Online(settled)
		if err := nodes[0].Host.Ping(n.Addresses()[0], settled); err != nil {
			t.Errorf("after there was space again: %v", err)
		}
	})
}

func TestWhatWasAcknowledgedSurvivesKillNine(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 1)
	n := nodes[0]
	acknowledged := map[string]bool{}
	for round := range 8 {
		results := make(chan string, 1)
		go func() {
			defer close(results)
			for {
				r := n.Do("invite", "--json")
				if r.Code != mesh.Done {
					return
				}
				_, rest, _ := strings.Cut(r.Stdout, `"id":`)
				id := strings.Trim(strings.SplitN(rest, ",", 2)[0], ` "`)
				results <- id
			}
		}()
		for i := 0; i <= round%3; i++ {
			acknowledged[<-results] = true
		}
		n.Kill() // in the middle of the next one
		for id := range results {
			acknowledged[id] = true
		}
		n.Start()
		n.Online(settled)
		var listed struct{ Invitations []struct{ ID string } }
		err := lab.Eventually(settled, func() error {
			n.Get(&listed, "invitations")
			have := map[string]bool{}
			for _, i := range listed.Invitations {
				have[i.ID] = true
			}
			for id := range acknowledged {
				if !have[id] {
					return fmt.Errorf("round %d: invitation %s was acknowledged and is gone", round, id)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestANodeThatLeavesIsGoneForEverybody(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 3)
	mesh.Everybody(t, settled, nodes...)
	addr := nodes[2].Addresses()[0]
	nodes[2].Must("leave")
	if err := mesh.CutOff(nodes[0].Host, addr, settled); err != nil {
		t.Error(err)
	}
	var list struct {
		Members []struct{ Name, State string }
	}
	err := lab.Eventually(settled, func() error {
		nodes[0].Get(&list, "members")
		for _, m := range list.Members {
			if m.Name == nodes[2].Name && m.State == "active" {
				return fmt.Errorf("%s left and still is an active member", m.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
