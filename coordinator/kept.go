package coordinator

import (
	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/internal/durable"
)

// The files of raft's libraries are theirs to write; that they write goes through the node's disk.

// keptLog is the replicated log on a disk.
type keptLog struct {
	disk
	on   durable.Disk
	path string
}

// StoreLog implements raft.LogStore.
func (l keptLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (l keptLog) StoreLogs(logs []*raft.Log) error {
	return l.on.Write(l.path, func() error { return l.disk.StoreLogs(logs) })
}

// DeleteRange implements raft.LogStore.
func (l keptLog) DeleteRange(first, last uint64) error {
	return l.on.Write(l.path, func() error { return l.disk.DeleteRange(first, last) })
}

// Set implements raft.StableStore.
func (l keptLog) Set(key, val []byte) error {
	return l.on.Write(l.path, func() error { return l.disk.Set(key, val) })
}

// SetUint64 implements raft.StableStore.
func (l keptLog) SetUint64(key []byte, val uint64) error {
	return l.on.Write(l.path, func() error { return l.disk.SetUint64(key, val) })
}

// keptSnapshots are the log's snapshots on a disk.
type keptSnapshots struct {
	raft.SnapshotStore
	on  durable.Disk
	dir string
}

// Create implements raft.SnapshotStore.
func (s keptSnapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, t raft.Transport) (sink raft.SnapshotSink, err error) {
	err = s.on.Write(s.dir, func() (err error) {
		sink, err = s.SnapshotStore.Create(version, index, term, c, at, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return keptSink{sink, s}, nil
}

// keptSink is a snapshot that is being written. What is written before Close is in nobody's way if it gets lost.
type keptSink struct {
	raft.SnapshotSink
	of keptSnapshots
}

// Close implements raft.SnapshotSink: from here on the snapshot counts, and the log before it goes.
func (s keptSink) Close() error {
	return s.of.on.Write(s.of.dir, s.SnapshotSink.Close)
}
