package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// clockMax is how far a joiner's clock may be off: certificates are valid from now, and certificate.SkewMax forgives five minutes.
const clockMax = 10 * time.Minute

// admitTries bounds how often the leader signs anew when name or address were taken meanwhile. Admissions on one leader take
// turns, so a conflict needs a change of leader.
const admitTries = 5

// Answer is what a joiner gets: its certificate, and enough of the state to speak to the mesh. The rest it pulls.
type Answer struct {
	Raw    []byte // as it travels
	Member *certificate.Member
	Mesh   Mesh
	state  *State
}

// answerRecords packs an answer: a state with this member alone, all at version 0, so that the first pull asks for everything.
func answerRecords(s *State, m *Member) ([]byte, error) {
	member := *m
	member.Version = 0
	part := &State{Mesh: s.Mesh, Keyring: Keyring{Keys: s.Keyring.Keys}, Coordinators: s.Coordinators, Members: []*Member{&member}}
	if s.Policy != nil { // so that the joiner is not open to all until its first pull
		policy := *s.Policy
		policy.Version = 0
		part.Policy = &policy
	}
	for _, i := range s.Issuers {
		issuer := *i
		issuer.Version = 0
		part.Issuers = append(part.Issuers, &issuer)
	}
	var buf bytes.Buffer
	w := newRecordWriter(&buf)
	writePart(w, part)
	err := w.end()
	return buf.Bytes(), err
}

func writePart(w *recordWriter, s *State) {
	w.put(recordMesh, newMeshRecord(s.Mesh))
	for _, i := range issuersByDepth(s.Issuers) {
		w.put(recordIssuer, issuerRecord{Raw: i.Raw, Version: i.Version})
	}
	w.put(recordKeyring, keyringRecord{Keys: s.Keyring.Keys, Version: s.Keyring.Version})
	if s.Policy != nil {
		w.put(recordPolicy, newPolicyRecord(s.Policy))
	}
	for _, m := range s.Members {
		w.put(recordMember, newMemberRecord(m))
	}
	w.put(recordView, newViewRecord(s.Coordinators))
}

// ParseAnswer reads an answer and verifies, with nothing known but the mesh's ID, that it makes self a member now.
func ParseAnswer(raw []byte, mesh identity.MeshID, self identity.NodeID, now time.Time) (Answer, error) {
	b := newBuilder(nil)
	err := readRecords(bytes.NewReader(raw), func(kind uint8, body []byte) error {
		known, err := b.add(kind, body)
		if err == nil && !known {
			err = errors.New("unknown record")
		}
		return err
	})
	var s *State
	if err == nil {
		s, err = b.build()
	}
	if err != nil {
		return Answer{}, fmt.Errorf("coordinator: the answer to the enrolment: %w", err)
	}
	if s.Mesh.ID != mesh {
		return Answer{}, fmt.Errorf("coordinator: the answer to the enrolment: %w", certificate.ErrWrongMesh)
	}
	m, ok := s.Member(self)
	if !ok || s.Version != 0 {
		return Answer{}, errors.New("coordinator: the answer to the enrolment is for another node")
	}
	if !s.Mesh.IPv4.Contains(m.Certificate.IPv4) { // the prefix is not signed until the first pull, the address is
		return Answer{}, errors.New("coordinator: the answer to the enrolment has an address outside the mesh's prefix")
	}
	if _, err := s.trust.VerifyMember(m.Raw, now); err != nil {
		return Answer{}, fmt.Errorf("coordinator: the certificate in the answer: %w", err)
	}
	return Answer{Raw: raw, Member: m.Certificate, Mesh: s.Mesh, state: s}, nil
}

// RequestEnrollment is the joiner's half of "enroll", on a stream to any member: raw is a signed invitation.Request. Errors:
// *Refused, ErrNoQuorum, or what broke the stream.
func RequestEnrollment(ctx context.Context, s net.Conn, raw []byte, mesh identity.MeshID, now time.Time) (Answer, error) {
	stop := context.AfterFunc(ctx, func() { s.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req, err := invitation.ParseRequest(raw)
	if err != nil {
		return Answer{}, err
	}
	if err := wire.WriteMessage(s, enrollRequest{Request: raw}, enrollRequestMax); err != nil {
		return Answer{}, fmt.Errorf("coordinator: send the enrolment request: %w", errors.Join(err, ctx.Err()))
	}
	var a answer
	if err := wire.ReadMessage(s, &a, answerMax); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Answer{}, fmt.Errorf("coordinator: read the answer to the enrolment: %w", errors.Join(err, ctx.Err()))
	}
	if err := a.err(); err != nil {
		return Answer{}, err
	}
	return ParseAnswer(a.Body, mesh, req.Public.NodeID(), now)
}

// Enrolled starts the group of a node that was just admitted. Like founding, it leaves either nothing or a member on disk.
func Enrolled(cfg Config, a Answer) (*Group, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if a.state == nil || a.Member.NodeID() != cfg.Key.ID() {
		return nil, errors.New("coordinator: this answer was not made by ParseAnswer for this node")
	}
	path, err := beginDir(cfg.Disk, cfg.Dir)
	if err != nil {
		return nil, foundError(cfg.Dir, err)
	}
	if err := writeStateFile(cfg.Disk, filepath.Join(path, stateName), a.state); err != nil {
		return nil, foundError(cfg.Dir, errors.Join(err, cfg.Disk.RemoveAll(path)))
	}
	if err := commitDir(cfg.Disk, cfg.Dir); err != nil {
		return nil, foundError(cfg.Dir, err)
	}
	return open(cfg)
}

// Enroll has a signed request decided by the leader: what a member does for a joiner.
func (g *Group) Enroll(ctx context.Context, rawRequest []byte) (Answer, error) {
	raw, err := g.enroll(ctx, rawRequest)
	if err != nil {
		return Answer{}, err
	}
	req, err := invitation.ParseRequest(rawRequest)
	if err != nil {
		return Answer{}, err
	}
	return ParseAnswer(raw, g.state.Load().Mesh.ID, req.Public.NodeID(), g.cfg.Now())
}

func (g *Group) enroll(ctx context.Context, rawRequest []byte) ([]byte, error) {
	// Refuse here what any member can tell: the leader does not pay for a stranger's noise.
	req, err := g.checkRequest(rawRequest)
	if err != nil {
		return nil, err
	}
	answer, err := g.decide(ctx, opEnroll, enrollRequest{Request: rawRequest})
	if err == nil {
		g.learnOf(ctx, req.Public.NodeID())
	}
	return answer, err
}

// learnWait bounds how long an answer is held back until this node knows the new member too.
const learnWait = time.Second

// inGoodStanding tells whether this node's own state holds a member with a certificate that has not ended.
func (g *Group) inGoodStanding(id identity.NodeID) bool {
	m, ok := g.state.Load().Member(id)
	return ok && m.Status == Active && !untimely(m.Certificate, g.cfg.Now())
}

// learnOf waits until this node's own state holds a member that the leader has just admitted or renewed: its next step is to pull
// from here.
func (g *Group) learnOf(ctx context.Context, id identity.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, learnWait)
	defer cancel()
	for !g.inGoodStanding(id) {
		if leader := g.State().Coordinators.Leader; g.current() == nil && !leader.IsZero() {
			if err := g.Pull(ctx, leader); err != nil {
				g.cfg.Log.Debug("coordinator: the new member is not known here yet", "peer", id.Short(), "err", err)
			}
		}
		select {
		case <-time.After(handoverPoll):
		case <-ctx.Done():
			return
		}
	}
}

// checkRequest verifies what needs no ledger.
func (g *Group) checkRequest(raw []byte) (*invitation.Request, error) {
	return checkRequest(g.state.Load().Mesh.ID, g.cfg.Now(), raw)
}

func checkRequest(mesh identity.MeshID, now time.Time, raw []byte) (*invitation.Request, error) {
	req, err := invitation.ParseRequest(raw)
	if err != nil {
		return nil, refuse(RefusedRequest, "the enrolment request is malformed or not signed by its own keys")
	}
	if req.Mesh != mesh {
		return nil, refuse(RefusedMesh, "the invitation is for another mesh than this member's")
	}
	late := clockMax
	if req.Invitation == "" {
		late += ApprovalLife
	}
	if off := req.Time.Sub(now); off > clockMax || off < -late {
		direction := "ahead"
		if off < 0 {
			direction, off = "behind", -off
		}
		return nil, refuse(RefusedClock, "the joining machine's clock is %s %s of the mesh's (%s against %s); set it, then join again",
			span(off), direction, req.Time.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return req, nil
}

// span says a long time as people do.
func span(d time.Duration) string {
	if days := (d + 12*time.Hour) / (24 * time.Hour); days >= 2 {
		return fmt.Sprintf("%d days", days)
	}
	return d.Round(time.Second).String()
}

// executeEnroll is the leader's part: check, sign, propose; one raft entry.
func (g *Group) executeEnroll(ctx context.Context, r *replica, asker identity.NodeID, b enrollRequest) ([]byte, error) {
	req, err := g.checkRequest(b.Request)
	if err != nil {
		return nil, err
	}
	g.placeIn(req, r, asker)
	admit := func(certificate []byte) (Kind, any) {
		return KindAdmit, admitBody{Invitation: req.Invitation, Request: sha256.Sum256(b.Request), Certificate: certificate}
	}
	return g.admit(ctx, r, asker, admission{req, g.draftAdmission, admit, req.Invitation != ""})
}

// placeIn has a machine that names no region begin in that of the member that brings it: until it finds another to be nearer, that is the best
// guess. It changes the request as it was read, not what was signed.
func (g *Group) placeIn(req *invitation.Request, r *replica, asker identity.NodeID) {
	if certificate.CheckLabel(req.Region) != nil {
		req.Region = g.ledgerState(r).RegionOf(asker)
	}
}

// admission is one way in: who asks, what the ledger has to say to it, and the command that carries it out.
type admission struct {
	request *invitation.Request
	draft   func(*replica, *invitation.Request) (draft *certificate.Member, known *Member, err error)
	command func(certificate []byte) (Kind, any)
	vouched bool // somebody in the mesh wants this machine now: an invitation, an approval
}

func (g *Group) admit(ctx context.Context, r *replica, asker identity.NodeID, a admission) ([]byte, error) {
	select { // admissions take turns: two at once would want the same address
	case g.admitting <- struct{}{}:
		defer func() { <-g.admitting }()
	case <-ctx.Done():
		return nil, ErrNoQuorum
	}
	id := a.request.Public.NodeID()
	for range admitTries {
		proposal, known, err := a.draft(r, a.request)
		if err != nil {
			return nil, err
		}
		if known != nil {
			if known, err = g.renewed(ctx, r, known, a.vouched); err != nil {
				return nil, err
			}
			return answerRecords(g.ledgerState(r), known)
		}
		raw, err := certificate.SignMember(g.cfg.Key, *proposal)
		if err != nil {
			return nil, fmt.Errorf("coordinator: sign the certificate of %s: %w", id.Short(), err)
		}
		kind, body := a.command(raw)
		res, err := g.propose(ctx, r, kind, asker, body)
		if errors.Is(err, errConflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		g.cfg.Log.Info("coordinator: member admitted", "peer", id.Short(), "name", res.Member.Certificate.Name, "addr", res.Member.Certificate.IPv4)
		return answerRecords(g.ledgerState(r), res.Member)
	}
	return nil, fmt.Errorf("coordinator: admit %s: %w", id.Short(), errConflict)
}

// draftAdmission checks the request against the ledger and drafts a certificate; known is set for a node that is in already.
func (g *Group) draftAdmission(r *replica, req *invitation.Request) (draft *certificate.Member, known *Member, err error) {
	r.machine.view(func(l *Ledger) { draft, known, err = DecideAdmission(l, req, g.cfg.Now()) })
	return draft, known, err
}
