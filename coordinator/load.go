package coordinator

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// builder makes a State out of records: of a file or snapshot (nothing before) or of a pull (what we had before).
type builder struct {
	mesh     *Mesh
	members  map[identity.NodeID]*Member
	issuers  map[identity.NodeID]*Issuer
	keyring  Keyring
	policy   *Policy
	regions  Regions
	relays   Relays
	recovery *Recovery
	view     Coordinators
	head     []byte
	office   Office // of who answers a pull, if it shows one

	changed map[identity.NodeID]*Member // read by this builder
	shelf   *Shelf                      // may be nil
}

func newBuilder(from *State) *builder {
	b := &builder{members: map[identity.NodeID]*Member{}, issuers: map[identity.NodeID]*Issuer{}, changed: map[identity.NodeID]*Member{}}
	if from == nil {
		return b
	}
	mesh := from.Mesh
	b.mesh, b.keyring, b.policy, b.regions, b.relays = &mesh, from.Keyring, from.Policy, from.Regions, from.Relays
	b.recovery, b.view = from.Recovery, from.Coordinators
	for _, m := range from.Members {
		b.members[m.ID] = m
	}
	for _, i := range from.Issuers {
		b.issuers[i.ID] = i
	}
	return b
}

// add takes one record of the replicated part. It reports false for other kinds.
func (b *builder) add(kind uint8, body []byte) (bool, error) {
	var err error
	switch kind {
	case recordMesh:
		err = b.addMesh(body)
	case recordIssuer:
		err = b.addIssuer(body)
	case recordMember:
		err = b.addMember(body)
	case recordKeyring:
		var r keyringRecord
		if err = wire.Unmarshal(body, &r); err == nil && !validKeys(r.Keys) {
			err = errors.New("not a valid keyring")
		}
		b.keyring = Keyring{Keys: r.Keys, Version: r.Version}
	case recordPolicy:
		b.policy, err = parsePolicyRecord(body)
	case recordRegions:
		b.regions, err = parseRegionsRecord(body)
	case recordRelays:
		b.relays, err = parseRelaysRecord(body)
	case recordRecovery:
		b.recovery, err = parseRecoveryRecord(body)
	case recordOffice:
		var r officeRecord
		err = wire.Unmarshal(body, &r)
		b.office = Office{Region: r.Region, Term: r.Term, Node: r.Node}
	case recordHead:
		err = wire.Unmarshal(body, &b.head)
	case recordView:
		var r viewRecord
		err = wire.Unmarshal(body, &r)
		b.view = Coordinators{Quorum: r.Quorum, Leader: r.Leader, Term: r.Term, Voters: r.Voters, AsOf: time.UnixMilli(r.AsOf).UTC()}
	default:
		return false, nil
	}
	return true, err
}

func (b *builder) addMesh(body []byte) error {
	var r meshRecord
	if err := wire.Unmarshal(body, &r); err != nil {
		return err
	}
	mesh := Mesh{ID: r.Root.MeshID(), Name: r.Name, Root: r.Root, IPv4: r.IPv4, Holder: r.Holder}
	if b.mesh != nil && b.mesh.ID != mesh.ID {
		return certificate.ErrWrongMesh
	}
	if err := checkPrefix(mesh.IPv4); err != nil {
		return err
	}
	b.mesh = &mesh
	return nil
}

func (b *builder) addIssuer(body []byte) error {
	var r issuerRecord
	if err := wire.Unmarshal(body, &r); err != nil {
		return err
	}
	issuer, err := certificate.ParseIssuer(r.Raw)
	if err != nil {
		return err
	}
	b.issuers[issuer.NodeID()] = &Issuer{ID: issuer.NodeID(), Depth: issuer.Depth, Raw: r.Raw, Version: r.Version,
		hash: sha256.Sum256(mustRecord(recordIssuer, r))}
	return nil
}

func (b *builder) addMember(body []byte) error {
	m, err := b.shelf.member(body)
	if err != nil {
		return err
	}
	if len(b.members) >= maxMembers {
		return fmt.Errorf("more than %d members", maxMembers)
	}
	if b.changed[m.ID] != nil {
		return fmt.Errorf("member %s is there twice", m.ID.Short())
	}
	b.members[m.ID], b.changed[m.ID] = m, m
	return nil
}

func decodeMember(body []byte) (*Member, error) {
	var r memberRecord
	if err := wire.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	cert, _, err := certificate.ParseMember(r.Raw)
	if err != nil {
		return nil, err
	}
	if r.Status < Active || r.Status > Left || (r.Status == Active) != (len(r.Revocation) == 0) {
		return nil, fmt.Errorf("member %s has status %d and a revocation of %d bytes", cert.NodeID().Short(), r.Status, len(r.Revocation))
	}
	return &Member{ID: cert.NodeID(), Certificate: cert, Raw: r.Raw, Status: r.Status, Version: r.Version,
		Since: time.UnixMilli(r.Since).UTC(), Revocation: r.Revocation, Invitation: r.Invitation,
		hash: sha256.Sum256(mustRecord(recordMember, r))}, nil
}

// build verifies issuers and revocations up to the root and returns the state. Member certificates are verified by
// verifyMembers, where the records come from outside.
func (b *builder) build() (*State, error) {
	if b.mesh == nil {
		return nil, errNoFounding
	}
	s := &State{Mesh: *b.mesh, Keyring: b.keyring, Policy: b.policy, Regions: b.regions, Relays: b.relays, Recovery: b.recovery, Coordinators: b.view, head: b.head,
		Version: max(b.keyring.Version, b.regions.Version, b.relays.Version)}
	if s.Policy != nil {
		s.Version = max(s.Version, s.Policy.Version)
	}
	s.Members = slices.SortedFunc(maps.Values(b.members), func(x, y *Member) int { return x.ID.Compare(y.ID) })
	s.Issuers = slices.SortedFunc(maps.Values(b.issuers), func(x, y *Issuer) int { return x.ID.Compare(y.ID) })
	trust := certificate.NewTrust(s.Mesh.Root)
	var err error
	for _, i := range issuersByDepth(s.Issuers) {
		if _, trust, err = addIssuer(trust, i.Raw); err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.ID.Short(), err)
		}
		s.Version = max(s.Version, i.Version)
	}
	if s.Recovery != nil {
		if err := s.Recovery.verify(s); err != nil {
			return nil, err
		}
		s.Version = max(s.Version, s.Recovery.Version)
	}
	betrayed := false
	for _, m := range s.Members {
		s.Version = max(s.Version, m.Version)
		if m.Status == Active {
			continue
		}
		rev, err := certificate.ParseRevocation(m.Revocation)
		if err != nil || rev.Node != m.ID || rev.Left != (m.Status == Left) {
			return nil, fmt.Errorf("revocation of %s does not match its entry", m.ID.Short())
		}
		if trust, err = trust.WithRevocation(m.Revocation); err != nil {
			return nil, fmt.Errorf("revocation of %s: %w", m.ID.Short(), err)
		}
		_, issuer := b.issuers[m.ID]
		betrayed = betrayed || (issuer && !rev.Left)
	}
	if betrayed {
		trust = trust.WithMembers(s.activeRaw()...)
	}
	s.trust = trust
	return s, nil
}

// issuersByDepth puts parents before the issuers they may have signed.
func issuersByDepth(in []*Issuer) []*Issuer {
	out := slices.Clone(in)
	slices.SortStableFunc(out, func(a, b *Issuer) int { return int(b.Depth) - int(a.Depth) })
	return out
}

// verifyMembers checks the signatures of the active members that the builder read, against the state they lead to. An expired
// certificate is still that member's entry.
func (b *builder) verifyMembers(s *State, now time.Time) error {
	for _, m := range b.changed {
		if m.Status != Active {
			continue
		}
		_, err := s.trust.VerifyMember(m.Raw, now)
		if err != nil && !errors.Is(err, certificate.ErrExpired) && !errors.Is(err, certificate.ErrNotYetValid) {
			return fmt.Errorf("member %s: %w", m.ID.Short(), err)
		}
	}
	return nil
}

type ledgerRecord struct {
	_       struct{} `cbor:",toarray"`
	Format  uint8
	Applied uint64
	Base    [32]byte // of the audit chain
	Count   uint64
}

type invitationRecord struct {
	_       struct{} `cbor:",toarray"`
	ID      string
	Key     [32]byte
	Uses    uint32
	Total   uint32
	Created int64
	Expires int64
	Tags    []string
	Name    string
	By      identity.NodeID
}

// Encode writes the whole ledger, a raft snapshot. A frozen ledger is not written: the log must keep the entries that a newer
// program will apply.
func (l *Ledger) Encode(to io.Writer) error {
	if l.frozen != nil {
		return l.frozen
	}
	w := newRecordWriter(to)
	w.put(recordLedger, ledgerRecord{Format: l.format(), Applied: l.applied, Base: l.audit.base, Count: l.audit.count})
	if l.state.Version > 0 {
		writeState(w, l.state.withCoordinators(Coordinators{}), 0)
	}
	for _, id := range slices.Sorted(maps.Keys(l.invitations)) {
		i := l.invitations[id]
		w.put(recordInvitation, invitationRecord{ID: i.ID, Key: i.Key, Uses: i.Uses, Total: i.Total, Created: i.Created.UnixMilli(),
			Expires: i.Expires.UnixMilli(), Tags: i.Tags, Name: i.Name, By: i.By})
	}
	for _, p := range l.policies {
		w.put(recordPolicyKept, newPolicyRecord(p))
	}
	for _, e := range l.audit.entries {
		w.put(recordAudit, e.form())
	}
	return w.end()
}

// format is the lowest format that holds what the ledger has.
func (l *Ledger) format() uint8 {
	switch {
	case l.state.Relays.Version > 0:
		return KindRelay.format()
	case l.state.Regions.Version > 0:
		return KindRegion.format()
	case l.state.Recovery != nil:
		return KindRecover.format()
	case len(l.policies) > 0:
		return KindPolicy.format()
	}
	return KindFound.format()
}

// DecodeLedger reads what Encode wrote and verifies the audit chain as it goes.
func DecodeLedger(from io.Reader) (*Ledger, error) {
	l := NewLedger()
	b := newBuilder(nil)
	var count uint64
	first := true
	err := readRecords(from, func(kind uint8, body []byte) error {
		if first != (kind == recordLedger) {
			return errors.New("a ledger begins with its counters, once")
		}
		first = false
		known, err := b.add(kind, body)
		if known || err != nil {
			return err
		}
		return l.add(kind, body, &count)
	})
	if err != nil {
		return nil, fmt.Errorf("coordinator: ledger snapshot: %w", err)
	}
	if l.audit.count = count; count < uint64(len(l.audit.entries)) {
		return nil, errors.New("coordinator: ledger snapshot: audit log counts less entries than it holds")
	}
	if b.mesh == nil {
		return l, nil
	}
	if l.state, err = b.build(); err != nil {
		return nil, fmt.Errorf("coordinator: ledger snapshot: %w", err)
	}
	if n := len(l.policies); (n > 0) != (l.state.Policy != nil) || (n > 0 && l.policies[n-1].hash != l.state.Policy.hash) {
		return nil, errors.New("coordinator: ledger snapshot: the policy in force is not the last of its versions")
	}
	l.state = l.state.withHead(nil)
	for _, m := range l.state.Members {
		l.index(m)
	}
	return l, nil
}

func (l *Ledger) add(kind uint8, body []byte, count *uint64) error {
	switch kind {
	case recordLedger:
		var r ledgerRecord
		if err := wire.Unmarshal(body, &r); err != nil {
			return err
		}
		if r.Format > LedgerFormat {
			return ErrTooOld
		}
		l.applied, l.audit.base, *count = r.Applied, r.Base, r.Count
		return nil
	case recordInvitation:
		var r invitationRecord
		if err := wire.Unmarshal(body, &r); err != nil {
			return err
		}
		l.invitations[r.ID] = Invitation{ID: r.ID, Key: r.Key, Uses: r.Uses, Total: r.Total, Created: time.UnixMilli(r.Created).UTC(),
			Expires: time.UnixMilli(r.Expires).UTC(), Tags: r.Tags, Name: r.Name, By: r.By}
		return nil
	case recordPolicyKept:
		p, err := parsePolicyRecord(body)
		if err != nil {
			return err
		}
		if p.Number <= l.policyNumber() || len(l.policies) >= policiesKept {
			return errors.New("versions of the policy are out of order or too many")
		}
		l.policies = append(l.policies, p)
		return nil
	case recordAudit:
		var r auditForm
		if err := wire.Unmarshal(body, &r); err != nil {
			return err
		}
		l.audit.append(r.entry())
		return nil
	}
	return fmt.Errorf("unknown record kind %d", kind)
}
