package coordinator

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/invitation"
)

// swapProof makes a request that names one invitation and proves another.
func swapProof(m *member, named, proven invitation.Token) []byte {
	raw, err := invitation.SignRequest(m.key, invitation.Request{Mesh: named.Mesh, Public: *m.key.Public(), Name: m.name,
		Invitation: named.ID(), Proof: invitation.Proof(proven.Key(), named.Mesh, m.id()), Time: time.Now()})
	if err != nil {
		m.lab.t.Fatal(err)
	}
	return raw
}

func removeAll(t *testing.T, path ...string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(path...)); err != nil {
		t.Fatal(err)
	}
}
