package coordinator

import (
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// issuing is a ledger with two members, into which issuer certificates are put.
type issuing struct {
	t      *testing.T
	ledger *Ledger
	root   *identity.RootKey
	index  uint64
}

func newIssuing(t *testing.T) *issuing {
	l, root := founded(t, "10.0.0.0/24")
	i := &issuing{t: t, ledger: l, root: root, index: foundingIndex}
	i.apply(KindInvite, day0, inviteBody{ID: "i", Key: [32]byte{1}, Uses: 9, Expires: day0.Add(time.Hour).UnixMilli()})
	i.apply(KindAdmit, day0, admitBody{Invitation: "i", Certificate: l.certificateFor(t, 1, "one", netip.MustParseAddr("10.0.0.2"), day0)})
	return i
}

func (i *issuing) apply(kind Kind, at time.Time, body any) error {
	i.index++
	return i.ledger.Apply(must(i.t, kind, at, testKey(0).ID(), body), i.index).Err()
}

// issue has the founder make member n an issuer, by its clock, and a leader propose the certificate, by its own.
func (i *issuing) issue(n int, depth uint8, signer, leader time.Time) error {
	i.t.Helper()
	raw, err := Author{Key: testKey(0), Now: signer}.SignIssuer(i.ledger.state, testKey(n).ID(), depth, i.root)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.apply(KindIssuer, leader, issuerBody{Certificate: raw})
}

func (i *issuing) usable(n int, at time.Time) bool {
	_, ok := i.ledger.state.trust.IssuerDepth(testKey(n).ID(), at)
	return ok
}

// Found by the simulator's decide tier (part group, seeds 29 and 128): a clock far ahead wrote a certificate that no right one ever
// outlasted, so that leaders asked for another without end.
func TestIssuerOfAWrongClockIsReplaced(t *testing.T) {
	ahead, right := day0.Add(30*time.Hour), day0.Add(time.Hour)
	i := newIssuing(t)
	if err := i.issue(1, certificate.DepthLeaf, ahead, ahead); err != nil || i.usable(1, right) {
		t.Fatalf("the setting is wrong: %v", err)
	}
	if err := i.issue(1, certificate.DepthLeaf, right, right); err != nil || !i.usable(1, right) {
		t.Errorf("what is valid now does not replace what is not: %v", err)
	}
	if err := i.issue(1, certificate.DepthLeaf, right.Add(-time.Second), right); err == nil {
		t.Error("a shorter life replaces a longer one that is valid as well")
	}
	i.ledger = i.ledger.reload(t)
	if !i.usable(1, right) {
		t.Error("lost when the state was read again")
	}
}

func TestIssuerThatIsNotValidNowIsRefused(t *testing.T) {
	i := newIssuing(t)
	for _, signer := range []time.Time{day0.Add(time.Hour), day0.Add(-certificate.IssuerLife - time.Hour)} {
		if err := i.issue(1, certificate.DepthLeaf, signer, day0); err == nil {
			t.Errorf("taken at %s, though written at %s", day0, signer)
		}
	}
	if err := i.issue(1, certificate.DepthLeaf, day0.Add(time.Minute), day0); err != nil {
		t.Errorf("a minute's difference is not borne: %v", err)
	}
}

// The founder's certificate is renewed after three years and a bit. Those that it made before begin before its new one does.
func TestStateIsReadAfterAParentWasRenewed(t *testing.T) {
	i := newIssuing(t)
	soon, years := day0.Add(time.Minute), day0.Add(certificate.IssuerLife*4/5)
	if err := i.issue(1, certificate.DepthLeaf, soon, soon); err != nil {
		t.Fatal(err)
	}
	if err := i.issue(0, certificate.DepthParent, years, years); err != nil {
		t.Fatal(err)
	}
	i.ledger = i.ledger.reload(t)
	if !i.usable(0, years) || !i.usable(1, years) {
		t.Error("an issuer was lost")
	}
}
