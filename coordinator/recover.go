package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/durable"
)

// Recovering, on the node that a person has chosen:
//
//  1. checkRecover: nobody leads, no majority of the voters answers, and this node may decide at all.
//  2. salvage: the ledger as far as this node has it. All entries of its log count, also those of which it has not heard that they are
//     committed: somebody may have been told that they are.
//  3. The recovery, signed here, is applied to it: the first entry of the new lineage.
//  4. reseed: a new log with that ledger as its snapshot and this node as its only voter takes the old one's place by one rename.
//  5. The replica is opened, elects itself, and the deciders fill the group up again.
//
// RecoverCluster of hashicorp/raft is no help here: it keeps term and indices going, so that logs of both branches could meet later.

// RecoverPlan is what a recovery would do, for a person to agree to.
type RecoverPlan struct {
	Generation uint16            // that would begin
	Lost       []identity.NodeID // coordinators that cannot be reached, whose votes end
	// Whole: this node holds the whole ledger. If not, there is only the signed state: the invitations and the audit log of before are lost.
	Whole bool
}

var (
	errHasQuorum    = refuse(RefusedNotAllowed, "the group has a quorum; nothing to recover")
	errQuorumBegins = refuse(RefusedNotAllowed, "most of the coordinators can be reached; they will decide again in a moment, so there is nothing to recover")
)

// CheckRecover tells what Recover would do, or refuses. It takes as long as a failover.
func (g *Group) CheckRecover(ctx context.Context) (RecoverPlan, error) {
	if m, ok := g.State().Member(g.self); ok && m.Status != Active {
		return RecoverPlan{}, outcast(m)
	}
	if err := g.awaitQuorum(ctx); err != nil {
		return RecoverPlan{}, err
	}
	s := g.State()
	if refusal := s.mayRecover(g.self, g.cfg.Now()); refusal != nil {
		return RecoverPlan{}, refusal
	}
	if s.Lineage().Generation == generationMax {
		return RecoverPlan{}, refuse(RefusedFull, "the mesh was recovered %d times, which is all there can be", generationMax)
	}
	if s.Version == 0 {
		return RecoverPlan{}, refuse(RefusedNotAllowed, "this machine has only just joined and holds nothing to go on from; recover on another")
	}
	lost := sortedIDs(s.Coordinators.Voters)
	r := g.current()
	if r != nil {
		voters, staged := r.servers()
		lost = slices.Compact(sortedIDs(slices.Concat(lost, voters, staged)))
	}
	lost = slices.DeleteFunc(lost, func(id identity.NodeID) bool { return id == g.self })
	return RecoverPlan{Generation: s.Lineage().Generation + 1, Lost: lost[:min(len(lost), maxServers)], Whole: r != nil}, nil
}

// awaitQuorum gives the group the time of one failover to show that it can decide, and refuses if it does or will.
func (g *Group) awaitQuorum(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.Ask)
	defer cancel()
	for {
		if r := g.current(); r != nil && r.leads() && r.verify(ctx) == nil {
			return errHasQuorum
		}
		if !g.findLeader(ctx).IsZero() {
			return errHasQuorum
		}
		select {
		case <-time.After(leaderRetry):
		case <-ctx.Done():
			if g.majorityAnswers() {
				return errQuorumBegins
			}
			return nil
		}
	}
}

// majorityAnswers tells whether most of the voters have a replica and can be reached.
func (g *Group) majorityAnswers() bool {
	voters := g.State().Coordinators.Voters
	var mu sync.Mutex
	var asked sync.WaitGroup
	there, ours := 0, g.state.Load().Lineage()
	for _, id := range voters {
		asked.Go(func() {
			ok := id == g.self && g.current() != nil
			if id != g.self {
				st, err := g.askStatus(g.ctx, id)
				ok = err == nil && st.Replica && st.lineage() == ours
			}
			mu.Lock()
			defer mu.Unlock()
			if ok {
				there++
			}
		})
	}
	asked.Wait()
	return len(voters) > 0 && there > len(voters)/2
}

// Recover makes this node the only voter and returns when it decides. Errors: *Refused, or what the disk said; then nothing has changed.
func (g *Group) Recover(ctx context.Context) (RecoverPlan, error) {
	plan, err := g.CheckRecover(ctx)
	if err != nil {
		return plan, err
	}
	g.lockOpened()
	if g.closed || g.retiring {
		g.mu.Unlock()
		return plan, ErrClosed
	}
	r := g.replica
	g.replica, g.retiring = nil, true
	g.mu.Unlock()
	err = g.rebuild(r, plan)
	g.mu.Lock()
	g.retiring, g.fault = false, nil
	if err == nil {
		g.forgotten = false
	}
	if !g.closed && (err == nil || r != nil) {
		_, opened := g.reopenLocked()
		err = errors.Join(err, opened)
	}
	g.mu.Unlock()
	if err != nil {
		return plan, fmt.Errorf("coordinator: recover: %w%s", err, diskHint(err))
	}
	return plan, g.awaitLeading(ctx)
}

// awaitLeading waits until this node leads and its first entry is committed.
func (g *Group) awaitLeading(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.Ask+g.cfg.Timing.Decide)
	defer cancel()
	for {
		if r := g.current(); r != nil && r.leads() && g.ready(ctx, r) == nil {
			return nil
		}
		select {
		case <-time.After(leaderRetry):
		case <-ctx.Done():
			return ErrNoQuorum
		}
	}
}

func (g *Group) rebuild(r *replica, plan RecoverPlan) error {
	if r != nil {
		r.stop()
	}
	ledger, index, term, err := g.salvage(r)
	if err != nil {
		return err
	}
	index, term = index+1, term+1
	now := g.cfg.Now()
	claim := Recovery{Lineage: Lineage{Generation: plan.Generation, By: g.self}, At: now, Lost: plan.Lost,
		AuditCount: ledger.audit.count, AuditHead: ledger.audit.head()}
	raw, err := signRecovery(g.cfg.Key, ledger.state.Mesh.ID, claim)
	if err != nil {
		return err
	}
	command, err := newCommand(KindRecover, now, g.self, recoverBody{Raw: raw})
	if err != nil {
		return err
	}
	if err := ledger.Apply(command, index).Err(); err != nil {
		return err
	}
	if err := markVoter(g.cfg.Disk, g.mesh); err != nil {
		return err
	}
	if err := reseed(g.cfg.Disk, g.mesh, seed{ledger, g.self, term, g.cfg.NoSync}); err != nil {
		return err
	}
	g.publish(ledger.State())
	g.publishing.Lock()
	g.state.Store(g.state.Load().withCoordinators(Coordinators{Voters: []identity.NodeID{g.self}, AsOf: now}))
	g.publishing.Unlock()
	g.cfg.Log.Warn("coordinator: the mesh was recovered here, this node is its only voter", "generation", plan.Generation, "lost", len(plan.Lost),
		"entry", claim.AuditCount)
	return nil
}

// salvage returns what this node has of the ledger, with the highest index and term it has seen.
func (g *Group) salvage(r *replica) (l *Ledger, index, term uint64, err error) {
	l = NewLedger()
	if r != nil {
		r.machine.view(func(have *Ledger) { l = have.clone() })
		if term, index, err = replayLog(filepath.Join(g.mesh, raftName), g.cfg.NoSync, l); err != nil {
			return nil, 0, 0, err
		}
	}
	if l.Frozen() != nil {
		return nil, 0, 0, l.Frozen()
	}
	state := g.state.Load()
	if state.supersedes(l.state) { // pulled from a coordinator while the own log was behind
		l.adopt(state)
	}
	return l, max(index, l.applied, state.Version&indexMask), term, nil
}

// replayLog applies the entries of a stopped replica's log that its ledger does not have yet.
func replayLog(dir string, noSync bool, l *Ledger) (term, last uint64, err error) {
	store, err := openLog(filepath.Join(dir, logFile), noSync)
	if err != nil {
		return 0, 0, err
	}
	defer store.Close()
	if term, err = store.GetUint64([]byte(currentTermKey)); err != nil {
		term = 0 // a log that was never written to
	}
	first, err := store.FirstIndex()
	if err != nil {
		return 0, 0, err
	}
	if last, err = store.LastIndex(); err != nil || last == 0 {
		return term, last, err
	}
	for i := first; i <= last; i++ {
		var entry raft.Log
		if err := store.GetLog(i, &entry); err != nil {
			return 0, 0, err
		}
		term = max(term, entry.Term)
		if entry.Type != raft.LogCommand || entry.Index <= l.applied {
			continue
		}
		if c, err := ParseCommand(entry.Data); err == nil {
			l.Apply(c, entry.Index)
		}
	}
	return term, last, nil
}

// adopt goes on from a signed state that is newer than the ledger.
func (l *Ledger) adopt(s *State) {
	fresh := NewLedger()
	l.state = s.withHead(nil).withCoordinators(Coordinators{})
	l.byName, l.leases, l.byIPv6 = fresh.byName, fresh.leases, fresh.byIPv6
	for _, m := range l.state.Members {
		l.index(m)
	}
	if p := l.state.Policy; p != nil && l.policyNumber() < p.Number {
		l.policies = trimPolicies(append(slices.Clip(l.policies), p))
	}
}

// The folders of a reseed: made, then renamed to raft.new when it is whole, then put in the place of raft. finishReseed goes on from there.
const (
	reseedName   = "raft.making"
	reseededName = "raft.new"
)

// reseed puts a new log in the place of the old one.
func reseed(d durable.Disk, mesh string, s seed) error {
	dir := filepath.Join(mesh, reseedName)
	if err := d.RemoveAll(dir); err != nil {
		return err
	}
	if err := seedReplica(d, dir, s); err != nil {
		return errors.Join(err, d.RemoveAll(dir))
	}
	if err := d.Rename(dir, filepath.Join(mesh, reseededName)); err != nil {
		return err
	}
	return errors.Join(d.SyncDir(mesh), finishReseed(d, mesh))
}

// finishReseed puts a whole new log in its place; nothing if there is none.
func finishReseed(d durable.Disk, mesh string) error {
	made := filepath.Join(mesh, reseededName)
	if _, err := os.Stat(made); errors.Is(err, os.ErrNotExist) {
		return d.RemoveAll(filepath.Join(mesh, reseedName))
	}
	old := filepath.Join(mesh, wipedName)
	if err := d.RemoveAll(old); err != nil {
		return err
	}
	if err := d.Rename(filepath.Join(mesh, raftName), old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := d.Remove(filepath.Join(mesh, termName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // it binds in the old lineage only
	}
	if err := d.Rename(made, filepath.Join(mesh, raftName)); err != nil {
		return err
	}
	return errors.Join(d.SyncDir(mesh), d.RemoveAll(old))
}
