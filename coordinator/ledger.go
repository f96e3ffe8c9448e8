package coordinator

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// Bounds of the ledger. What is refused at a bound says so; nothing is dropped silently.
const (
	maxMembers     = 65_536 // records of any status; a /16 has fewer addresses
	maxInvitations = 4_096  // live or kept for a lost answer; each about 200 bytes
	maxUses        = 10_000 // of one invitation
	auditKept      = 1_024  // entries kept whole; older ones live on in the chain's hash
	// leaseRest: an address is given to another node only this long after its holder left or was revoked, so that
	// caches, known_hosts and firewall rules of people have a day to notice.
	leaseRest = 24 * time.Hour
	// invitationKept: a used up or expired invitation is remembered this long for a node whose answer was lost.
	invitationKept = 24 * time.Hour
	// maxInvitationLife keeps "forever" tokens out.
	maxInvitationLife = 366 * 24 * time.Hour
)

// Invitation is what the ledger keeps of a token: never its secret.
type Invitation struct {
	ID      string
	Key     [32]byte // derived from the secret; checks proofs
	Uses    uint32   // left
	Total   uint32
	Created time.Time
	Expires time.Time
	Tags    []string
	Name    string // wanted node name
	By      identity.NodeID
}

// Ledger is the replicated state machine, pure: the same commands give the same ledger on every voter. Not safe for
// concurrent use; machine guards it.
type Ledger struct {
	state       *State
	invitations map[string]Invitation
	policies    []*Policy // the versions that are kept, oldest first; the last is in force
	audit       auditChain
	applied     uint64
	frozen      error

	// Derived from state.Members.
	byName map[string]identity.NodeID // active only
	leases map[netip.Addr]lease
	byIPv6 map[netip.Addr]identity.NodeID
}

type lease struct {
	holder identity.NodeID
	free   time.Time // zero: held; else from when on it may be given away
}

// NewLedger returns the empty ledger, which accepts only KindFound.
func NewLedger() *Ledger {
	return &Ledger{
		state:       &State{},
		invitations: map[string]Invitation{},
		byName:      map[string]identity.NodeID{},
		leases:      map[netip.Addr]lease{},
		byIPv6:      map[netip.Addr]identity.NodeID{},
	}
}

// Result is what a command came to.
type Result struct {
	Refused *Refused // nil: done
	Member  *Member  // of KindAdmit, KindApprove, KindReissue, KindRevoke
	Policy  *Policy  // of KindPolicy
	Frozen  error    // the ledger did not apply it and will apply nothing more (ErrTooOld)
}

// Err returns why the command changed nothing, or nil.
func (r Result) Err() error {
	switch {
	case r.Frozen != nil:
		return r.Frozen
	case r.Refused != nil:
		return r.Refused
	}
	return nil
}

// State returns the replicated part, immutable.
func (l *Ledger) State() *State { return l.state }

// Applied returns the raft index of the last command.
func (l *Ledger) Applied() uint64 { return l.applied }

// Frozen returns why the ledger stopped applying, or nil.
func (l *Ledger) Frozen() error { return l.frozen }

// Invitation finds an invitation that is live or still remembered.
func (l *Ledger) Invitation(id string) (Invitation, bool) {
	inv, ok := l.invitations[id]
	return inv, ok
}

// Invitations returns those that still admit at now, oldest first, then those that are used up or have expired within invitationKept.
func (l *Ledger) Invitations(now time.Time) []Invitation {
	var out []Invitation
	for _, inv := range l.invitations {
		if !now.After(inv.Expires.Add(invitationKept)) {
			out = append(out, inv)
		}
	}
	over := func(i Invitation) bool { return i.Uses == 0 || !now.Before(i.Expires) }
	slices.SortFunc(out, func(a, b Invitation) int {
		if c := falseFirst(over(a), over(b)); c != 0 {
			return c
		}
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return cmpString(a.ID, b.ID)
	})
	return out
}

// Audit returns the chain of decisions as far as it is kept whole.
func (l *Ledger) Audit() Audit { return l.audit.export() }

// Apply carries out one command of the log. It never panics on any bytes: a body that does not decode is refused the same
// way on every voter, a newer format freezes this ledger (see LedgerFormat).
func (l *Ledger) Apply(c Command, index uint64) Result {
	if l.frozen != nil {
		return Result{Frozen: l.frozen}
	}
	if c.Format > LedgerFormat {
		l.frozen = fmt.Errorf("%w (entry %d has format %d, this program knows %d)", ErrTooOld, index, c.Format, LedgerFormat)
		return Result{Frozen: l.frozen}
	}
	l.applied = index
	res, subject := l.dispatch(c, l.state.Lineage().version(index))
	outcome := "done"
	if res.Refused != nil {
		outcome = "refused: " + res.Refused.Reason
	}
	l.audit.append(AuditEntry{Index: index, Time: c.At(), Asker: c.Asker, Action: c.Kind.String(), Subject: subject, Outcome: outcome})
	return res
}

// dispatch returns the result and what the command was about, for the audit log.
func (l *Ledger) dispatch(c Command, version uint64) (Result, string) {
	if (l.state.Version == 0) != (c.Kind == KindFound) {
		return refused(RefusedRequest, "a ledger begins with founding and is founded once"), ""
	}
	if c.Kind.format() > c.Format {
		return noSuchKind(c), ""
	}
	switch c.Kind {
	case KindFound:
		return apply(c, version, l.found)
	case KindInvite:
		return apply(c, version, l.invite)
	case KindCancel:
		return apply(c, version, l.cancel)
	case KindAdmit:
		return apply(c, version, l.admit)
	case KindRevoke:
		return apply(c, version, l.revoke)
	case KindReissue:
		return apply(c, version, l.reissue)
	case KindIssuer:
		return apply(c, version, l.issuer)
	case KindKeyring:
		return apply(c, version, l.keyring)
	case KindPolicy:
		return apply(c, version, l.policy)
	case KindApprove:
		return apply(c, version, l.approve)
	case KindRecover:
		return apply(c, version, l.recover)
	case KindRegion:
		return apply(c, version, l.region)
	case KindRelay:
		return apply(c, version, l.relay)
	}
	return noSuchKind(c), ""
}

func noSuchKind(c Command) Result {
	return refused(RefusedRequest, "no command of kind %d exists in format %d", c.Kind, c.Format)
}

// step is a command with its body decoded.
type step[B any] struct {
	body    B
	asker   identity.NodeID
	at      time.Time
	version uint64 // of what the command changes
}

func apply[B any](c Command, version uint64, do func(step[B]) (Result, string)) (Result, string) {
	s := step[B]{asker: c.Asker, at: c.At(), version: version}
	if err := wire.Unmarshal(c.Body, &s.body); err != nil {
		return refused(RefusedRequest, "the body of the %v command does not decode", c.Kind), ""
	}
	return do(s)
}

func refused(code RefusalCode, format string, args ...any) Result {
	return Result{Refused: refuse(code, format, args...)}
}

func (l *Ledger) found(s step[foundBody]) (Result, string) {
	b := s.body
	mesh := Mesh{ID: b.Root.MeshID(), Name: b.Name, Root: b.Root, IPv4: b.IPv4, Holder: b.Holder}
	if !validName(b.Name) || checkPrefix(b.IPv4) != nil || !validKeys([][]byte{b.GossipKey}) {
		return refused(RefusedRequest, "mesh name, IPv4 prefix or gossip key is not valid"), b.Name
	}
	state := &State{Mesh: mesh, trust: certificate.NewTrust(b.Root)}
	issuer, trust, err := addIssuer(state.trust, b.Issuer)
	if err != nil {
		return refused(RefusedRequest, "the first issuer certificate: %v", err), b.Name
	}
	member, err := trust.VerifyMember(b.Member, s.at)
	if err != nil || member.NodeID() != b.Holder || !b.IPv4.Contains(member.IPv4) {
		return refused(RefusedRequest, "the founder's certificate is not valid: %v", err), b.Name
	}
	state = state.withIssuer(&Issuer{ID: issuer.Public.NodeID(), Depth: issuer.Depth, Raw: b.Issuer, Version: s.version}, trust)
	l.state = state.withKeyring(Keyring{Keys: [][]byte{b.GossipKey}, Version: s.version})
	m := &Member{ID: member.NodeID(), Certificate: member, Raw: b.Member, Status: Active, Version: s.version, Since: s.at}
	l.put(m)
	return Result{Member: m}, b.Name
}

func (l *Ledger) issuer(s step[issuerBody]) (Result, string) {
	issuer, trust, err := addIssuer(l.state.trust, s.body.Certificate)
	if err == nil {
		_, err = l.state.trust.WithIssuer(s.body.Certificate, s.at) // one that is not valid now helps nobody: the signer's clock is wrong
	}
	if err != nil {
		return refused(RefusedRequest, "the issuer certificate does not verify: %v", err), ""
	}
	id := issuer.Public.NodeID()
	if !l.state.Active(id) {
		return refused(RefusedNoMember, "%s is not an active member", id.Short()), id.String()
	}
	if !l.state.improvesIssuer(issuer, s.at) {
		return refused(refusedConflict, "%s already has an issuer certificate as good", id.Short()), id.String()
	}
	l.state = l.state.withIssuer(&Issuer{ID: id, Depth: issuer.Depth, Raw: s.body.Certificate, Version: s.version}, trust)
	return Result{}, id.String()
}

func (l *Ledger) keyring(s step[keyringBody]) (Result, string) {
	if !validKeys(s.body.Keys) {
		return refused(RefusedRequest, "a keyring has 1 to %d different keys of %d bytes", maxKeyringKeys, gossipKeyBytes), ""
	}
	if s.body.Replaces != l.state.Keyring.Version {
		return refused(refusedConflict, "the keyring changed meanwhile"), ""
	}
	l.state = l.state.withKeyring(Keyring{Keys: s.body.Keys, Version: s.version})
	return Result{}, fmt.Sprintf("%d keys", len(s.body.Keys))
}

func validKeys(keys [][]byte) bool {
	if len(keys) == 0 || len(keys) > maxKeyringKeys {
		return false
	}
	seen := map[string]bool{}
	for _, k := range keys {
		if len(k) != gossipKeyBytes || seen[string(k)] {
			return false
		}
		seen[string(k)] = true
	}
	return true
}

// clone copies what Apply changes in place; everything else is immutable.
func (l *Ledger) clone() *Ledger {
	c := *l
	c.invitations = maps.Clone(l.invitations)
	c.audit = l.audit.clone()
	c.policies = slices.Clone(l.policies)
	c.byName, c.leases, c.byIPv6 = maps.Clone(l.byName), maps.Clone(l.leases), maps.Clone(l.byIPv6)
	return &c
}

var errNoFounding = errors.New("holds no founding entry")
