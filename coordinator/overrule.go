package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/durable"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// What happens to those who were away while another member recovered the mesh: they pull a state of the newer lineage, throw their
// replica away and are members. What they decided meanwhile is void, but for revocations, which are asked for again.

// lineageName is the file in raft/ that says what lineage the log is of; none: the founding's.
const lineageName = "lineage"

// logLineage returns the lineage of the log in dir, and notes the given one for a log that begins now.
func logLineage(d durable.Disk, dir string, begin Lineage) (Lineage, error) {
	path := filepath.Join(dir, lineageName)
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		l, err := readPreamble(bytes.NewReader(b))
		if err != nil || len(b) != preambleBytes {
			return l, &DamagedError{Path: path, Err: errors.New("it does not hold a lineage"), Next: damagedLog}
		}
		return l, nil
	case !errors.Is(err, os.ErrNotExist):
		return Lineage{}, fmt.Errorf("coordinator: read %s: %w", path, err)
	}
	if _, err := os.Stat(filepath.Join(dir, logFile)); err == nil {
		return Lineage{}, nil
	}
	if err := d.MkdirAll(dir); err != nil {
		return begin, fmt.Errorf("coordinator: make the folder of the replicated log: %w", err)
	}
	if begin == (Lineage{}) {
		return begin, nil
	}
	if err := d.WriteFile(path, begin.preamble()); err != nil {
		return begin, fmt.Errorf("coordinator: write %s: %w", path, err)
	}
	return begin, nil
}

// Overruled says that this node's decisions since a recovery that it did not hear of are void.
type Overruled struct {
	Recovery Recovery
	Lost     []AuditEntry // the newest lostKept of them
	Total    int
}

// lostKept bounds what is told of the decisions that were lost.
const lostKept = 32

// Overruled returns what this node lost when it found, since it started, that the mesh had been recovered without it; nil: nothing.
func (g *Group) Overruled() *Overruled {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.overruled
}

// outdated tells whether a replica is of an older lineage than the state: it must not decide any more.
func (g *Group) outdated(r *replica) bool { return g.state.Load().Lineage().newer(r.lineage) }

// overrule throws an outdated replica away. What it decided after the point the recovery went on from is lost, and said.
func (g *Group) overrule(r *replica) {
	recovery := g.state.Load().Recovery
	lost := &Overruled{Recovery: *recovery}
	r.machine.view(func(l *Ledger) {
		a := l.audit.export()
		if h, ok := a.HeadAt(recovery.AuditCount); !ok || h != recovery.AuditHead {
			return // it was behind, or of another branch altogether
		}
		lost.Total = int(a.Count() - recovery.AuditCount)
		lost.Lost = a.Entries[len(a.Entries)-min(lost.Total, len(a.Entries), lostKept):]
	})
	if err := g.resignLocally(0); err != nil {
		g.cfg.Log.Error("coordinator: the replica of the ledger from before the recovery could not be removed"+diskHint(err), "err", err)
		return
	}
	g.mu.Lock()
	g.overruled = lost
	g.mu.Unlock()
	g.cfg.Log.Warn("coordinator: the mesh was recovered without this node, which is a plain member now; what it decided since is void",
		"peer", recovery.By.Short(), "generation", recovery.Generation, "at", recovery.At, "lost", lost.Total)
	for _, e := range lost.Lost {
		g.cfg.Log.Warn("coordinator: decision lost", "action", e.Action, "subject", e.Subject, "outcome", e.Outcome, "at", e.Time)
	}
	poke(g.news)
}

// maySupersede is keepsOut across lineages: revocations that the other side never heard of are no reason to refuse it, unless they are of those
// who answer for it, or its author had no right to recover as far as we know.
func maySupersede(ours, theirs *State) error {
	r := theirs.Recovery
	if m, ok := ours.Member(r.By); ok && (m.Status != Active || r.At.After(m.Certificate.NotAfter.Add(RenewalGrace))) {
		return fmt.Errorf("%w: %s, who recovered the mesh, is out or had expired long before", errRecovery, r.By.Short())
	}
	var head signedHead
	var body headBody
	if wire.Unmarshal(theirs.head, &head) != nil || wire.Unmarshal(head.Body, &body) != nil {
		return errHead
	}
	if m, ok := ours.Member(body.Signer); ok && m.Status != Active {
		return fmt.Errorf("%w: %s is out", errHead, body.Signer.Short())
	}
	return nil
}

// lineage is that of what a pull brought.
func (b *builder) lineage() Lineage {
	if b.recovery == nil {
		return Lineage{}
	}
	return b.recovery.Lineage
}

// changeLineage goes on from a state of a newer lineage: with its view of the coordinators, and with what must not be lost of ours.
func (g *Group) changeLineage(ours, theirs *State, view Coordinators, from identity.NodeID) {
	g.publishing.Lock()
	g.state.Store(g.state.Load().withCoordinators(Coordinators{Voters: []identity.NodeID{theirs.Recovery.By}, AsOf: theirs.Recovery.At}))
	g.publishing.Unlock()
	g.adoptView(view, from)
	g.cfg.Log.Info("coordinator: the mesh was recovered", "peer", theirs.Recovery.By.Short(), "generation", theirs.Recovery.Generation, "at", theirs.Recovery.At)
	poke(g.wake)
	var owed []*Member
	for _, m := range ours.Members {
		if m.Status != Active && theirs.Active(m.ID) {
			owed = append(owed, m)
		}
	}
	if len(owed) > 0 {
		g.running.Go(func() { g.revokeAgain(owed) })
	}
}

// againEvery is how often a revocation that the recovery has lost is asked for, until it is back; who asks spread themselves over as long.
const againEvery = 5 * time.Second

// revokeAgain asks for revocations that the new lineage does not know.
func (g *Group) revokeAgain(owed []*Member) {
	for len(owed) > 0 {
		wait := againEvery/8 + time.Duration(g.self[0])*againEvery/256 // the group's random belongs to fetch
		select {
		case <-time.After(wait):
		case <-g.ctx.Done():
			return
		}
		var still []*Member
		for _, m := range owed {
			if !g.state.Load().Active(m.ID) {
				continue
			}
			reason := "membership had ended before the mesh was recovered"
			if rev, err := certificate.ParseRevocation(m.Revocation); err == nil && rev.Reason != "" {
				reason = rev.Reason
			}
			ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timing.Ask+g.cfg.Timing.Decide)
			err := g.Revoke(ctx, m.ID, reason)
			cancel()
			if _, refused := asRefused(err); err == nil || refused {
				g.cfg.Log.Info("coordinator: revocation asked for again after the recovery", "peer", m.ID.Short(), "err", err)
				continue
			}
			still = append(still, m)
		}
		owed = still
	}
}

// heraldEvery is how often the leader after a recovery looks for the coordinators of before, so that one that returns hears of it although
// nobody gossips with it: a question of some 100 bytes to each that is alive and has not yet said that it knows.
const heraldEvery = 2 * time.Second

// herald tells the coordinators of before the recovery that it has been.
func (g *Group) herald(r *replica) {
	w, now := &g.watch, time.Now()
	recovery := g.ledgerState(r).Recovery
	if recovery == nil || now.Sub(w.heraldedAt) < heraldEvery {
		return
	}
	w.heraldedAt = now
	for _, id := range recovery.Lost {
		if id == g.self || !g.cfg.Alive(id) || !g.state.Load().Active(id) {
			continue
		}
		if _, done := g.heralded.Load(id); done {
			continue
		}
		g.running.Go(func() { // ends within statusWait
			st, err := g.askStatus(g.ctx, id)
			if l := recovery.Lineage; err == nil && (st.lineage() == l || st.lineage().newer(l)) {
				g.heralded.Store(id, struct{}{})
			}
		})
	}
}
