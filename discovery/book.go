package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

const (
	// EntriesMax is the most nodes that the book remembers. A pool has no more; of a larger mesh any thousand lead to the rest.
	EntriesMax = 1024
	// AddrsMax is the most addresses of one node, as many as a peer record has.
	AddrsMax = 8

	// writeAfter is how long changes are collected before the file is written. What a kill loses, gossip tells again.
	writeAfter = 2 * time.Second
	// seenStep is how much later a node must have been seen for that alone to be worth writing.
	seenStep = 10 * time.Minute
	// retryLeast and retryMost bound the pause after a failed write, which doubles.
	retryLeast = 10 * time.Second
	retryMost  = 5 * time.Minute
)

// Entry is what the book knows of one node.
type Entry struct {
	ID identity.NodeID
	// Addrs are where it was last known to be, the likeliest first.
	Addrs []netip.AddrPort
	// Seen is when it was last known to be alive, in whole seconds after a restart.
	Seen time.Time
}

// DamagedError says that the file could not be read as an address book. It was kept aside, and the book begins empty.
type DamagedError struct {
	Path string
	// Aside is where the damaged file is now; empty if it could not be renamed, and then it will be overwritten.
	Aside string
	Err   error
}

// Error says what happened and that nothing needs to be done.
func (e *DamagedError) Error() string {
	kept := "kept as " + e.Aside
	if e.Aside == "" {
		kept = "could not be kept aside"
	}
	return fmt.Sprintf("discovery: address book %s is damaged (%v); %s, a new one fills by itself", e.Path, e.Err, kept)
}

// Unwrap returns what is wrong with the file.
func (e *DamagedError) Unwrap() error { return e.Err }

// BookConfig is what a book is made of.
type BookConfig struct {
	// Path of the file. Its folder must exist.
	Path string
	// Disk is OSDisk if nil.
	Disk Disk
	Now  func() time.Time // what the machine believes the time to be; nil: time.Now
	Log  *slog.Logger
}

// Book is the address book. It is safe for concurrent use. Changes reach the file some seconds later, or with Flush or Close.
type Book struct {
	path   string
	disk   Disk
	now    func() time.Time
	log    *slog.Logger
	wake   chan struct{} // has a token when there is something to write
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup // the writer

	writing chan struct{} // 1: full while the file is written; no mutex, see turn in package gossip

	mu      sync.Mutex // guards what follows
	entries map[identity.NodeID]Entry
	dirty   bool
	closed  bool
}

var _ Finder = (*Book)(nil)

// OpenBook reads the book, or begins an empty one if there is no file. With a [*DamagedError] the book is returned too, empty and
// good to use; with any other error it is nil.
func OpenBook(cfg BookConfig) (*Book, error) {
	b := &Book{path: cfg.Path, disk: cfg.Disk, now: cfg.Now, log: cfg.Log, wake: make(chan struct{}, 1), writing: make(chan struct{}, 1), entries: map[identity.NodeID]Entry{}}
	if b.disk == nil {
		b.disk = OSDisk{}
	}
	if b.now == nil {
		b.now = time.Now
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	damaged, err := b.load()
	if err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.tasks.Go(b.writer)
	if damaged != nil {
		return b, damaged
	}
	return b, nil
}

// load reads the file into the book.
func (b *Book) load() (*DamagedError, error) {
	raw, err := b.disk.Read(b.path, fileMax)
	if missing(err) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, errForm) {
		return nil, fmt.Errorf("discovery: read address book: %w; check the permissions of the state folder", err)
	}
	if err == nil {
		var entries map[identity.NodeID]Entry
		if entries, err = decodeBook(raw); err == nil {
			b.entries = entries
			return nil, nil
		}
	}
	damaged := &DamagedError{Path: b.path, Aside: b.path + ".damaged", Err: err}
	if err := b.disk.SetAside(b.path, damaged.Aside); err != nil {
		damaged.Aside = ""
	}
	return damaged, nil
}

// Note enters that the node was alive at seen and where it was. No addresses leave the known ones. An older sighting changes
// nothing. When the book is full, the node that was seen longest ago makes room.
func (b *Book) Note(id identity.NodeID, addrs []netip.AddrPort, seen time.Time) {
	if id.IsZero() || seen.Unix() < 0 || seen.Unix() > seenMax {
		return
	}
	addrs = plain(addrs)
	b.mu.Lock()
	defer b.mu.Unlock()
	old, known := b.entries[id]
	if known && seen.Before(old.Seen) {
		if !old.Seen.After(b.now().Add(seenStep)) {
			return
		}
		old.Seen = time.Time{} // the clock was ahead then, and must not keep all that is seen out until its date comes
	}
	if len(addrs) == 0 {
		addrs = old.Addrs
	}
	b.entries[id] = Entry{ID: id, Addrs: addrs, Seen: seen}
	b.evictLocked()
	if !known || !slices.Equal(addrs, old.Addrs) || seen.Sub(old.Seen) >= seenStep {
		b.changedLocked()
	}
}

// plain returns the addresses that may stand in the book, in plain form, each once.
func plain(addrs []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range addrs {
		a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
		if usable(a) && !slices.Contains(out, a) {
			if out = append(out, a); len(out) == AddrsMax {
				break
			}
		}
	}
	return out
}

func (b *Book) evictLocked() {
	for len(b.entries) > EntriesMax {
		var oldest Entry
		for _, e := range b.entries {
			if oldest.ID.IsZero() || older(e, oldest) < 0 {
				oldest = e
			}
		}
		delete(b.entries, oldest.ID)
	}
}

// older orders entries by when they were seen, then by ID.
func older(a, b Entry) int {
	if c := a.Seen.Compare(b.Seen); c != 0 {
		return c
	}
	return a.ID.Compare(b.ID)
}

// Forget removes a node, for instance one that the mesh has revoked.
func (b *Book) Forget(id identity.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.entries[id]; ok {
		delete(b.entries, id)
		b.changedLocked()
	}
}

func (b *Book) changedLocked() {
	b.dirty = true
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Get returns what is known of a node. The addresses are shared: read them only.
func (b *Book) Get(id identity.NodeID) (Entry, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[id]
	return e, ok
}

// All returns every entry, the one seen last first.
func (b *Book) All() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Entry, 0, len(b.entries))
	for _, e := range b.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(x, y Entry) int { return older(y, x) })
	return out
}

// IDs returns the nodes, the one seen last first.
func (b *Book) IDs() []identity.NodeID {
	all := b.All()
	out := make([]identity.NodeID, len(all))
	for i, e := range all {
		out[i] = e.ID
	}
	return out
}

// Find implements Finder: what is known of the node, or of all, the one seen last first.
func (b *Book) Find(ctx context.Context, id identity.NodeID, give func(Hint)) error {
	for _, e := range b.All() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if (id.IsZero() || e.ID == id) && len(e.Addrs) > 0 {
			give(Hint{ID: e.ID, Addrs: e.Addrs, Source: SourceBook, At: e.Seen})
		}
	}
	return nil
}

// Flush writes the file now if anything has changed. If it fails, the old file is as it was, the book goes on in memory, and
// writing is tried again later.
func (b *Book) Flush() error {
	b.writing <- struct{}{}
	defer func() { <-b.writing }()
	b.mu.Lock()
	if !b.dirty {
		b.mu.Unlock()
		return nil
	}
	raw, err := encodeBook(b.entries)
	b.dirty = false
	b.mu.Unlock()
	if err == nil {
		err = b.disk.Replace(b.path, raw)
	}
	if err != nil {
		b.mu.Lock()
		b.changedLocked()
		b.mu.Unlock()
		return fmt.Errorf("discovery: write address book %s: %w; the old file is unchanged", b.path, err)
	}
	return nil
}

// writer is the book's goroutine.
func (b *Book) writer() {
	pause, failing := writeAfter, false
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.wake:
		}
		timer := time.NewTimer(pause)
		select {
		case <-b.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := b.Flush()
		switch {
		case err == nil:
			if failing {
				b.log.Info("address book is written again", "path", b.path)
			}
			pause, failing = writeAfter, false
			continue
		case !failing:
			b.log.Warn("cannot write the address book; trying again", "path", b.path, "err", err)
			pause = retryLeast
		default:
			pause = min(2*pause, retryMost)
		}
		failing = true
	}
}

// Close writes what has changed and ends the book's goroutine. It can be called more than once; the error is that of the write.
func (b *Book) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.tasks.Wait()
	if !first {
		return nil
	}
	return b.Flush()
}
