package coordinator

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// faultyDisk is a log store whose disk can be full.
type faultyDisk struct {
	disk
	full atomic.Bool
}

func (d *faultyDisk) wrap(under disk) disk { d.disk = under; return d }

func (d *faultyDisk) err() error {
	if d.full.Load() {
		return &os.PathError{Op: "write", Path: "log.db", Err: syscall.ENOSPC}
	}
	return nil
}

func (d *faultyDisk) StoreLogs(logs []*raft.Log) error {
	if err := d.err(); err != nil {
		return err
	}
	return d.disk.StoreLogs(logs)
}

func (d *faultyDisk) Set(k, v []byte) error {
	if err := d.err(); err != nil {
		return err
	}
	return d.disk.Set(k, v)
}

func (d *faultyDisk) SetUint64(k []byte, v uint64) error {
	if err := d.err(); err != nil {
		return err
	}
	return d.disk.SetUint64(k, v)
}

func TestFullDiskFailsClearlyAndLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		g := first.found()
		token := first.invite(InviteSpec{})
		first.disk.full.Store(true)
		_, _, err := g.Invite(t.Context(), InviteSpec{})
		if err == nil || !strings.Contains(err.Error(), "disk is full") || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%v", err)
		}
		time.Sleep(30 * time.Second) // elections fail, the replica cuts itself off again and again: no panic
		if _, _, err := g.Invite(t.Context(), InviteSpec{}); err == nil {
			t.Fatal("decided on a full disk")
		}
		if g.Fault() == nil {
			t.Error("doctor is told nothing")
		}
		first.disk.full.Store(false)
		l.eventually(20*time.Second, "decisions go on", func() bool { _, err := g.Invitations(t.Context()); return err == nil })
		l.node(1).join(first, token)
	})
}

func TestFollowerWithFullDiskDoesNotStopTheGroup(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		var follower *member
		for _, m := range nodes {
			if m != l.leader() {
				follower = m
			}
		}
		follower.disk.full.Store(true)
		for range 5 {
			l.leader().invite(InviteSpec{})
		}
		// Its leader dies while its disk is full: the third cannot win alone, and nobody panics.
		dead := l.leader()
		dead.kill()
		time.Sleep(10 * time.Second)
		if l.leader() != nil {
			t.Fatal("a leader without a second durable vote")
		}
		follower.disk.full.Store(false)
		l.eventually(20*time.Second, "the two decide again", func() bool { return l.leader() != nil })
		invitations, err := follower.group.Invitations(t.Context())
		if err != nil || len(invitations) != 6 {
			t.Fatalf("%d invitations, %v", len(invitations), err)
		}
	})
}

func TestDamagedFilesAreNamed(t *testing.T) {
	for _, c := range []struct {
		file string
		harm func(b []byte) []byte
	}{
		{stateName, func(b []byte) []byte { return b[:len(b)/2] }},
		{stateName, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{stateName, func([]byte) []byte { return nil }},
		{rootName, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{raftName + "/" + logFile, func(b []byte) []byte { return b[:len(b)/3] }},
		{raftName + "/" + logFile, func(b []byte) []byte { return b[:len(b)/4] }}, // of a file that grows by doubling, half may hold all
		{raftName + "/" + logFile, func(b []byte) []byte { clear(b); return b }},
		{raftName + "/" + logFile, func(b []byte) []byte { clear(b[8192:]); return b }},
	} {
		bubble(t, func(t *testing.T, l *lab) {
			first := l.node(0)
			first.found()
			l.eventually(5*time.Second, "it leads", func() bool { return l.leader() != nil })
			first.close()
			path := filepath.Join(first.dir, meshDir, c.file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.harm(b), 0o600); err != nil {
				t.Fatal(err)
			}
			g, err := Open(first.config())
			var damaged *DamagedError
			if !errors.As(err, &damaged) || !strings.HasPrefix(path, damaged.Path) || damaged.Next == "" {
				if g != nil {
					g.Close()
				}
				t.Errorf("%s of %d bytes: %v", c.file, len(b), err)
			}
			first.port.close()
		})
	}
}

// A configuration or entry type that raft would panic on is refused before raft sees it.
func TestHostileRaftMessages(t *testing.T) {
	ft := &fencedTransport{fence: newFence(func() {})}
	for name, c := range map[string]any{
		"configuration entry": &raft.AppendEntriesRequest{Entries: []*raft.Log{{Type: raft.LogConfiguration, Data: []byte{0xc1, 0xff}}}},
		"unknown type":        &raft.AppendEntriesRequest{Entries: []*raft.Log{{Type: 99}}},
		"old type":            &raft.AppendEntriesRequest{Entries: []*raft.Log{{Type: raft.LogRemovePeerDeprecated}}},
		"no entry":            &raft.AppendEntriesRequest{Entries: []*raft.Log{nil}},
		"long entry":          &raft.AppendEntriesRequest{Entries: []*raft.Log{{Data: make([]byte, maxCommandBytes+1)}}},
		"snapshot":            &raft.InstallSnapshotRequest{SnapshotVersion: 1, Size: 1, Configuration: []byte("x")},
		"huge snapshot":       &raft.InstallSnapshotRequest{SnapshotVersion: 1, Size: maxSnapshotBytes + 1, Configuration: raft.EncodeConfiguration(raft.Configuration{})},
		"negative snapshot":   &raft.InstallSnapshotRequest{SnapshotVersion: 1, Size: -1, Configuration: raft.EncodeConfiguration(raft.Configuration{})},
		"old snapshot":        &raft.InstallSnapshotRequest{SnapshotVersion: 0},
	} {
		if ft.check(c) == nil {
			t.Errorf("%s was let through", name)
		}
	}
	ok := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}})
	if err := ft.check(&raft.AppendEntriesRequest{Entries: []*raft.Log{{Type: raft.LogConfiguration, Data: ok}, {Type: raft.LogCommand}, {Type: raft.LogNoop}}}); err != nil {
		t.Error(err)
	}
}
