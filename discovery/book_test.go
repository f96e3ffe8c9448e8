package discovery

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/seal"
)

var then = time.Unix(1_790_000_000, 0)

func id(n int) identity.NodeID { return identity.NodeID{byte(n >> 8), byte(n), 1} }

func addrs(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func openBook(t testing.TB, path string) *Book {
	t.Helper()
	b, err := OpenBook(BookConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestTheBookRemembersAcrossARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "book")
	b := openBook(t, path)
	b.Note(id(1), addrs("192.0.2.1:51820", "[2001:db8::1]:51820"), then)
	b.Note(id(2), nil, then.Add(time.Hour))
	b.Note(id(3), addrs("192.0.2.3:1"), then)
	b.Forget(id(3))
	want := b.All()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	again := openBook(t, path)
	if got := again.All(); !reflect.DeepEqual(got, want) || len(got) != 2 {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := again.IDs(); got[0] != id(2) {
		t.Errorf("the node seen last comes first: got %v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestOlderSightingsAndUnusableAddressesChangeNothing(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "book"))
	b.Note(id(1), addrs("192.0.2.1:1"), then)
	b.Note(id(1), addrs("192.0.2.9:9"), then.Add(-time.Second))
	b.Note(id(1), nil, then.Add(time.Second))
	b.Note(id(1), addrs("0.0.0.0:1", "224.0.0.1:1", "192.0.2.1:0"), then.Add(2*time.Second))
	b.Note(identity.NodeID{}, addrs("192.0.2.1:1"), then)
	b.Note(id(2), nil, time.Time{})
	e, ok := b.Get(id(1))
	if !ok || !reflect.DeepEqual(e.Addrs, addrs("192.0.2.1:1")) || !e.Seen.Equal(then.Add(2*time.Second)) || len(b.All()) != 1 {
		t.Errorf("got %v of %v", e, b.All())
	}
}

func TestAFullBookForgetsWhoWasSeenLongestAgo(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "book"))
	for n := range EntriesMax + 10 {
		b.Note(id(n), addrs("192.0.2.1:1"), then.Add(time.Duration(n)*time.Second))
	}
	if n := len(b.All()); n != EntriesMax {
		t.Errorf("%d entries, at most %d", n, EntriesMax)
	}
	if _, ok := b.Get(id(9)); ok {
		t.Error("an old one is still there")
	}
	if _, ok := b.Get(id(10)); !ok {
		t.Error("one is gone that should have stayed")
	}
	if raw, err := encodeBook(b.entries); err != nil || len(raw) > fileMax/2 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

func TestADamagedFileIsKeptAsideAndTheBookBeginsEmpty(t *testing.T) {
	good, err := encodeBook(map[identity.NodeID]Entry{id(1): {ID: id(1), Seen: then}})
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, content := range map[string][]byte{
		"a flipped bit": flipped,
		"cut short":     good[:len(good)-1],
		"empty":         {},
		"zeros":         make([]byte, 4096),
		"far too large": make([]byte, fileMax+1),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "book")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := OpenBook(BookConfig{Path: path})
			var damaged *DamagedError
			if !errors.As(err, &damaged) || damaged.Path != path {
				t.Fatalf("got %v", err)
			}
			defer b.Close()
			if kept, err := os.ReadFile(damaged.Aside); err != nil || !bytes.Equal(kept, content) || damaged.Aside != path+".damaged" {
				t.Errorf("kept aside: %d bytes, %v", len(kept), err)
			}
			b.Note(id(2), nil, then)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if again := openBook(t, path); len(again.All()) != 1 {
				t.Errorf("the new book has %v", again.All())
			}
		})
	}
}

func TestAnUnreadableFileIsAnErrorAndStaysWhereItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "book")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if b, err := OpenBook(BookConfig{Path: path}); err == nil {
		_ = b.Close()
		t.Error("a folder was read")
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestWhatACrashLeftOfAWriteIsRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "book")
	b := openBook(t, path)
	b.Note(id(1), nil, then)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".book123456789", ".bookmark", ".book1x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if again := openBook(t, path); len(again.All()) != 1 {
		t.Error("the book is not the one that was whole")
	}
	if _, err := os.Stat(filepath.Join(dir, ".book123456789")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the leftover is still there")
	}
	for _, name := range []string{".bookmark", ".book1x"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s is not ours and is gone", name)
		}
	}
}

// fakeDisk is a disk in memory that can be full.
type fakeDisk struct {
	mu     sync.Mutex
	full   bool
	file   []byte
	writes int
}

func (d *fakeDisk) Read(string, int64) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return nil, fs.ErrNotExist
	}
	return d.file, nil
}

func (d *fakeDisk) Replace(_ string, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes++
	if d.full {
		return syscall.ENOSPC
	}
	d.file = b
	return nil
}

func (d *fakeDisk) SetAside(string, string) error { return nil }

func (d *fakeDisk) set(full bool) (writes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
	return d.writes
}

func (d *fakeDisk) has(t *testing.T) int {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	entries, err := decodeBook(d.file)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestManyChangesAreOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &fakeDisk{}
		b, err := OpenBook(BookConfig{Path: "book", Disk: disk})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for n := range 100 {
			b.Note(id(n+1), nil, then)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(writeAfter)
		for n := range 100 { // seen again a little later: not worth a write
			b.Note(id(n+1), nil, then.Add(time.Minute))
		}
		time.Sleep(time.Hour)
		if n := disk.set(false); n != 1 {
			t.Errorf("%d writes", n)
		}
		if n := disk.has(t); n != 100 {
			t.Errorf("%d entries on disk", n)
		}
	})
}

func TestAFullDiskKeepsTheOldFileAndIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &fakeDisk{}
		b, err := OpenBook(BookConfig{Path: "book", Disk: disk})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		b.Note(id(1), nil, then)
		if err := b.Flush(); err != nil {
			t.Fatal(err)
		}
		disk.set(true)
		b.Note(id(2), nil, then)
		if err := b.Flush(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Hour)
		if n := disk.set(false); n < 5 || n > 40 {
			t.Errorf("%d writes in an hour", n)
		}
		if n := disk.has(t); n != 1 {
			t.Errorf("%d entries on disk", n)
		}
		if len(b.All()) != 2 {
			t.Error("the book forgot what it could not write")
		}
		time.Sleep(retryMost)
		if n := disk.has(t); n != 2 {
			t.Errorf("%d entries on disk after there was room again", n)
		}
	})
}

func TestAFailedReplaceLeavesTheOldFile(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "book")
	b := openBook(t, path)
	b.Note(id(1), nil, then)
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	old, _ := os.ReadFile(path)
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	b.Note(id(2), nil, then)
	if err := b.Flush(); err == nil {
		t.Error("no error")
	}
	_ = os.Chmod(dir, 0o700)
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, old) {
		t.Errorf("the file changed: %v", err)
	}
}

func TestTheBookIsAFinder(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "book"))
	b.Note(id(1), addrs("192.0.2.1:1"), then)
	b.Note(id(2), addrs("192.0.2.2:2"), then.Add(time.Second))
	b.Note(id(3), nil, then)
	var got []Hint
	if failed := Collect(t.Context(), []Finder{b}, identity.NodeID{}, func(h Hint) { got = append(got, h) }); len(failed) > 0 {
		t.Fatal(failed)
	}
	want := []Hint{
		{ID: id(2), Addrs: addrs("192.0.2.2:2"), Source: SourceBook, At: then.Add(time.Second)},
		{ID: id(1), Addrs: addrs("192.0.2.1:1"), Source: SourceBook, At: then},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	got = nil
	Collect(t.Context(), []Finder{b}, id(1), func(h Hint) { got = append(got, h) })
	if len(got) != 1 || got[0].ID != id(1) {
		t.Errorf("got %v", got)
	}
}

func FuzzBook(f *testing.F) {
	for _, entries := range []map[identity.NodeID]Entry{
		{},
		{id(1): {ID: id(1), Seen: then}},
		{id(1): {ID: id(1), Seen: then, Addrs: addrs("192.0.2.1:1", "[2001:db8::1]:2")}, id(2): {ID: id(2), Seen: then}},
	} {
		raw, err := encodeBook(entries)
		if err != nil {
			f.Fatal(err)
		}
		body, err := seal.Unwrap(bookKind, raw)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		raw := seal.Wrap(bookKind, body) // or nothing would get past the checksum
		entries, err := decodeBook(raw)
		if err != nil {
			return
		}
		again, err := encodeBook(entries)
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("accepted %x, which is written as %x (%v)", raw, again, err)
		}
	})
}

func TestAClockThatWasAheadDoesNotKeepLaterSightingsOut(t *testing.T) {
	clock := then.Add(90 * 24 * time.Hour)
	b, err := OpenBook(BookConfig{Path: filepath.Join(t.TempDir(), "addresses"), Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.Note(id(1), addrs("192.0.2.1:1"), clock)
	clock = then // somebody has put it right
	b.Note(id(1), addrs("192.0.2.9:9"), clock)
	if got := b.All(); len(got) != 1 || !slices.Equal(got[0].Addrs, addrs("192.0.2.9:9")) {
		t.Fatalf("the book goes on with what it noted in a time that has not come: %v", got)
	}
}
