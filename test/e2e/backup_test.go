package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// passphrase is a file with one.
func passphrase(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(name, []byte("six random words are a good one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// loseDisk takes the power and the disk from a node.
func loseDisk(t *testing.T, n *mesh.Node) {
	t.Helper()
	n.Kill()
	if err := os.RemoveAll(n.State); err != nil {
		t.Fatal(err)
	}
}

func TestAFounderWhoseDiskIsLostComesBackFromItsBackup(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 2)
	mesh.Everybody(t, settled, nodes...)
	founder, other := nodes[0], nodes[1]
	pass, file := passphrase(t), filepath.Join(t.TempDir(), "founder.age")
	founder.Must("backup", file, "--passphrase-file", pass)
	invitation := founder.Invite("--uses", "2")
	// Of these decisions the backup knows nothing.
	founder.Must("rename", other.Name, "renamed")
	first := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(first, []byte("rules: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	founder.Must("policy", "set", first)
	inForce(t, 1, true, nodes...)
	loseDisk(t, founder)

	if r := founder.Do("restore", file, "--passphrase-file", pass); r.Code != mesh.Usage || !strings.Contains(r.Stderr, "--as-only-coordinator") {
		t.Errorf("the only coordinator came back without saying as what: %v", r.Err())
	}
	founder.Must("restore", file, "--passphrase-file", pass, "--as-only-coordinator")
	for _, name := range files(t, founder.State) {
		if info, err := os.Stat(filepath.Join(founder.State, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s may be read by others: %v, %v", name, info.Mode(), err)
		}
	}
	founder.Start()
	inForce(t, 0, false, nodes...) // regression: members crashed on a state whose policy was taken back to none
	mesh.Everybody(t, settled, nodes...)
	late := mesh.Start(t, l, l.Host("late"))
	if r := late.Do("join", invitation.Token); r.Code != mesh.Refused {
		t.Errorf("an invitation that is newer than the backup is still known: %v", r.Err())
	}
	late.Join(founder.Invite().Token)
	mesh.Everybody(t, settled, append(nodes, late)...)
	if err := mesh.Reach(other, late, late.Echo()); err != nil {
		t.Error(err)
	}
}

func TestACoordinatorWhoseDiskIsLostComesBackAsAMemberAndVotesAgain(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 3)
	mesh.Everybody(t, settled, nodes...)
	mesh.Voters(t, nodes[0], 3, settled)
	pass, file := passphrase(t), filepath.Join(t.TempDir(), "coordinator.age")
	lost := nodes[2]
	lost.Must("backup", file, "--passphrase-file", pass)
	loseDisk(t, lost)
	nodes[0].Must("tag", nodes[1].Name, "newer")
	lost.Must("restore", file, "--passphrase-file", pass)
	lost.Start()
	mesh.Everybody(t, settled, nodes...)
	err := lab.Eventually(settled, func() error { return lost.Do("invite").Err() })
	if err != nil {
		t.Error(err)
	}
}
