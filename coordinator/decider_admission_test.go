package coordinator

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/invitation"
)

// arrivals is a story of machines that ask a ledger to be let in.
type arrivals struct {
	*decisions
	keys map[string][32]byte // of the invitations
}

// ask has machine i ask, with an invitation or, without, on a member's word, and admits it if that is decided.
func (a *arrivals) ask(i int, name, with string) {
	key := testKey(i)
	req := &invitation.Request{Mesh: a.ledger.state.Mesh.ID, Public: *key.Public(), Name: name, Region: "home", Invitation: with, Time: a.now}
	decide, kind := DecideApproval, KindApprove
	if with != "" {
		decide, kind = DecideAdmission, KindAdmit
		req.Proof = invitation.Proof(a.keys[with], req.Mesh, key.ID())
	}
	draft, known, err := decide(a.ledger, req, a.now)
	var said string
	var refused *Refused
	switch {
	case errors.As(err, &refused):
		said = "refused: " + refused.Error()
	case err != nil:
		a.t.Fatal(err)
	case known != nil:
		said = "in already, as " + known.Certificate.Name
	default:
		said = fmt.Sprintf("admitted as %s, %s, tags %v, until day %.0f", draft.Name, draft.IPv4, draft.Tags, draft.NotAfter.Sub(day0).Hours()/24)
		raw, err := certificate.SignMember(testKey(0), *draft)
		if err != nil {
			a.t.Fatal(err)
		}
		if kind == KindAdmit {
			a.apply(kind, admitBody{Invitation: with, Certificate: raw})
		} else {
			a.apply(kind, approveBody{Certificate: raw})
		}
	}
	a.tell("machine %d (%s) with %q: %s", i, name, with, said)
}

func (a *arrivals) tell(format string, args ...any) {
	fmt.Fprintf(&a.trace, "%8s  %s\n", a.now.Sub(day0), strings.ReplaceAll(fmt.Sprintf(format, args...), testKey(0).ID().String(), "n0"))
}

func (a *arrivals) invite(id string, b inviteBody) {
	b.ID, b.Key = id, [32]byte{byte(len(a.keys) + 1), 7}
	a.keys[id] = b.Key
	a.apply(KindInvite, b)
	a.tell("invitation %q: %d uses, name %q, tags %v", id, b.Uses, b.Name, b.Tags)
}

func (a *arrivals) after(d time.Duration) { a.now = a.now.Add(d) }

// TestAdmissionTraces compares whole stories of admission and leases with golden files; run with -update after a wanted change, and read the difference.
func TestAdmissionTraces(t *testing.T) {
	for name, story := range map[string]func(*arrivals){
		"admission-invitations": func(a *arrivals) {
			a.invite("one", inviteBody{Uses: 1, Expires: day0.Add(24 * time.Hour).UnixMilli()})
			a.invite("named", inviteBody{Uses: 1, Expires: day0.Add(24 * time.Hour).UnixMilli(), Name: "nas", Tags: []string{"server", "backup"}})
			a.ask(1, "atlas", "one")
			a.ask(2, "atlas", "one") // the second of two that race
			a.ask(1, "atlas", "one") // its answer was lost
			a.ask(2, "whatever", "named")
			a.invite("three", inviteBody{Uses: 3, Expires: day0.Add(48 * time.Hour).UnixMilli()})
			a.ask(3, "atlas", "three") // the name is taken
			a.keys["forged"] = [32]byte{9}
			a.ask(4, "eve", "forged")
			a.keys["three"] = [32]byte{9}
			a.ask(4, "eve", "three") // knows the ID, not the secret
			a.after(49 * time.Hour)
			a.keys["three"] = [32]byte{3, 7}
			a.ask(4, "late", "three")
		},
		"admission-approval-and-quarantine": func(a *arrivals) {
			a.ask(1, "atlas", "unknown")
			a.ask(1, "atlas", "")
			a.ask(1, "atlas", "")
			a.apply(KindRevoke, revokeBody{Revocation: revocation(a.t, a.ledger, 1, false, a.now)})
			a.tell("machine 1 is revoked")
			a.ask(1, "atlas", "")
		},
		"leases": func(a *arrivals) { // 10.0.0.0/29 has six addresses
			for i := 1; i < 6; i++ {
				a.ask(i, "m", "")
			}
			a.ask(6, "m", "")
			a.apply(KindRevoke, revokeBody{Revocation: revocation(a.t, a.ledger, 2, false, a.now)})
			a.tell("machine 2 is revoked: its address is not given to another at once")
			a.ask(6, "m", "")
			a.after(25 * time.Hour)
			a.ask(6, "m", "")
			a.ask(7, "m", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, root := founded(t, "10.0.0.0/29")
			a := &arrivals{&decisions{t: t, ledger: l, root: root, now: day0, index: foundingIndex, members: 1}, map[string][32]byte{}}
			a.o.Self = testKey(0).ID()
			story(a)
			golden(t, filepath.Join("testdata", "deciders", name+".txt"), a.trace.String())
		})
	}
}
