package peer

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// member makes a certificate's content without the cost of real keys: the table does not verify.
func member(n int, name, addr string) *certificate.Member {
	m := &certificate.Member{Name: name, NotBefore: epoch, NotAfter: epoch.Add(time.Hour), Serial: 1}
	m.Public.Ed25519[0], m.Public.Ed25519[1], m.Public.WireGuard[0], m.Public.WireGuard[1] = byte(n), byte(n>>8), byte(n), byte(n>>8)
	m.Public.MLDSA = make([]byte, 1952)
	if addr != "" {
		m.IPv4 = netip.MustParseAddr(addr)
	}
	return m
}

func names(entries []Entry) string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Member.Name)
	}
	return strings.Join(out, " ")
}

func TestAMemberIsFoundByEverythingItIsCalled(t *testing.T) {
	table := NewTable(identity.NodeID{})
	atlas, nas := member(1, "atlas", "10.86.0.1"), member(2, "nas", "10.86.0.2")
	table.Admit(atlas, []byte("raw"))
	table.Admit(nas, nil)
	id := atlas.NodeID()
	if e, ok := table.Get(id); !ok || e.ID != id || string(e.Raw) != "raw" || e.State != Unknown {
		t.Errorf("by ID: %+v %v", e, ok)
	}
	if e, ok := table.ByKey(atlas.Public.WireGuard); !ok || e.ID != id {
		t.Errorf("by key: %v", ok)
	}
	for _, a := range atlas.Addresses() {
		if e, ok := table.ByAddress(a); !ok || e.ID != id {
			t.Errorf("by %s: %v", a, ok)
		}
		if got := names(table.Resolve(a.String())); got != "atlas" {
			t.Errorf("resolve %s: %q", a, got)
		}
	}
	for _, text := range []string{"atlas", " ATLAS ", id.Short(), id.String(), strings.ToUpper(id.String()), id.String()[:20]} {
		if got := names(table.Resolve(text)); got != "atlas" {
			t.Errorf("resolve %q: %q", text, got)
		}
	}
	for _, text := range []string{"", "n-", id.String()[:9], "atla", "10.86.0.3", "n-zzzzzzzz"} {
		if got := names(table.Resolve(text)); got != "" {
			t.Errorf("resolve %q: %q", text, got)
		}
	}
	if got := names(table.All()); got != "atlas nas" {
		t.Errorf("all: %q", got)
	}
}

func TestAmbiguousInputListsTheCandidates(t *testing.T) {
	table := NewTable(identity.NodeID{})
	table.Admit(member(1, "nas", "10.86.0.1"), nil)
	table.Admit(member(2, "NAS", "10.86.0.2"), nil)
	if got := table.Resolve("nas"); len(got) != 2 {
		t.Fatalf("%d candidates", len(got))
	}
	table.Revoke(member(1, "", "").NodeID())
	if got := table.Resolve("nas"); len(got) != 1 || got[0].Revoked {
		t.Errorf("a revoked member competes for a name that was given away: %v", got)
	}
}

func TestARevokedMemberIsAStrangerToThePaths(t *testing.T) {
	table := NewTable(identity.NodeID{})
	m := member(1, "nas", "10.86.0.1")
	for _, order := range []string{"revoked before it was known", "admitted again"} {
		table.Revoke(m.NodeID())
		table.Admit(m, nil)
		if _, ok := table.ByKey(m.Public.WireGuard); ok {
			t.Errorf("%s: found by key", order)
		}
		if _, ok := table.ByAddress(m.IPv4); ok {
			t.Errorf("%s: found by address", order)
		}
		if table.Update(Record{ID: m.NodeID(), Sequence: 1}) {
			t.Errorf("%s: its record was taken", order)
		}
		if e, ok := table.Get(m.NodeID()); !ok || !e.Revoked {
			t.Errorf("%s: %+v %v", order, e, ok)
		}
	}
	if got := table.Resolve("nas"); len(got) != 1 || !got[0].Revoked {
		t.Errorf("people cannot find it any more: %v", got)
	}
}

func TestTheNewestCertificateWins(t *testing.T) {
	table := NewTable(identity.NodeID{})
	old := member(1, "old", "10.86.0.1")
	renewed := member(1, "new", "10.86.0.9")
	renewed.NotBefore = epoch.Add(time.Minute)
	table.Admit(old, nil)
	table.Update(Record{ID: old.NodeID(), Sequence: 1})
	table.SetState(old.NodeID(), Alive, epoch)
	table.Admit(renewed, nil)
	table.Admit(old, nil)
	e, _ := table.Get(old.NodeID())
	if e.Member.Name != "new" || !e.HasRecord || e.State != Alive {
		t.Errorf("after renewal and replay: %+v", e)
	}
	if _, ok := table.ByAddress(old.IPv4); ok {
		t.Error("still found by the address it gave up")
	}
	if _, ok := table.ByAddress(renewed.IPv4); !ok {
		t.Error("not found by its new address")
	}
}

func TestAnAddressBelongsToItsLatestHolder(t *testing.T) {
	first, second := member(1, "first", "10.86.0.1"), member(2, "second", "10.86.0.1")
	second.NotBefore = epoch.Add(time.Minute)
	for _, order := range [][]*certificate.Member{{first, second}, {second, first}} {
		table := NewTable(identity.NodeID{})
		for _, m := range order {
			table.Admit(m, nil)
		}
		if e, ok := table.ByAddress(first.IPv4); !ok || e.Member.Name != "second" {
			t.Errorf("%v: %v", ok, e.Member)
		}
		table.Remove(first.NodeID())
		if _, ok := table.ByAddress(first.IPv4); !ok {
			t.Error("removing the old holder took the address from the new one")
		}
	}
}

func TestNobodyTakesOverAKeyByClaimingIt(t *testing.T) {
	table := NewTable(identity.NodeID{})
	victim, thief := member(1, "victim", ""), member(2, "thief", "")
	thief.Public.WireGuard = victim.Public.WireGuard
	thief.NotBefore = epoch.Add(time.Minute)
	table.Admit(victim, nil)
	table.Admit(thief, nil)
	table.Remove(thief.NodeID())
	if e, ok := table.ByKey(victim.Public.WireGuard); !ok || e.Member.Name != "victim" {
		t.Errorf("the key leads to %v, %v", e.Member, ok)
	}
}

func TestTheNewestRecordWins(t *testing.T) {
	table := NewTable(identity.NodeID{})
	m := member(1, "nas", "")
	if table.Update(Record{ID: m.NodeID(), Sequence: 1}) {
		t.Error("a record of a node that is no member was taken")
	}
	table.Admit(m, nil)
	for _, step := range []struct {
		sequence uint64
		taken    bool
	}{{0, true}, {0, false}, {5, true}, {4, false}, {5, false}, {6, true}} {
		if got := table.Update(Record{ID: m.NodeID(), Sequence: step.sequence}); got != step.taken {
			t.Errorf("sequence %d taken: %v", step.sequence, got)
		}
	}
}

func TestStatesKeepTheTimeTheyBegan(t *testing.T) {
	table := NewTable(identity.NodeID{})
	m := member(1, "nas", "")
	table.SetState(m.NodeID(), Alive, epoch) // of nobody known: ignored
	table.Admit(m, nil)
	table.SetState(m.NodeID(), Suspect, epoch)
	version := table.Version()
	table.SetState(m.NodeID(), Suspect, epoch.Add(time.Hour))
	if e, _ := table.Get(m.NodeID()); e.State.String() != "suspect" || !e.Since.Equal(epoch) || table.Version() != version {
		t.Errorf("%s since %s", e.State, e.Since)
	}
}

func TestWatchersGetOneSignalForManyChanges(t *testing.T) {
	table := NewTable(identity.NodeID{})
	signal, cancel := table.Watch()
	for i := range 100 {
		table.Admit(member(i+1, fmt.Sprint(i), ""), nil)
	}
	<-signal
	select {
	case <-signal:
		t.Error("a second signal for changes already seen")
	default:
	}
	table.Remove(member(1, "", "").NodeID())
	<-signal
	cancel()
	table.Remove(member(2, "", "").NodeID())
	select {
	case <-signal:
		t.Error("a signal after cancel")
	default:
	}
}

func TestReadersAndWritersDoNotDisturbEachOther(t *testing.T) {
	table := NewTable(identity.NodeID{})
	const members = 50
	all := make([]*certificate.Member, members)
	for i := range all {
		all[i] = member(i+1, fmt.Sprint(i), fmt.Sprintf("10.86.0.%d", i+1))
	}
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for w := range 4 {
		writers.Go(func() {
			for round := range uint64(50) {
				for i, m := range all {
					table.Admit(m, nil)
					table.Update(Record{ID: m.NodeID(), Sequence: round})
					table.SetState(m.NodeID(), State(round%4), epoch)
					if i == 7 && w == 0 {
						table.Revoke(m.NodeID())
					}
				}
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for _, m := range all {
					if e, ok := table.ByKey(m.Public.WireGuard); ok && (e.Revoked || e.Member != m) {
						t.Error("a torn or revoked entry")
						return
					}
				}
				if got := table.All(); len(got) > members {
					t.Errorf("%d members listed", len(got))
					return
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if got := len(table.All()); got != members {
		t.Errorf("%d members", got)
	}
}

func BenchmarkByKey(b *testing.B) {
	table := NewTable(identity.NodeID{})
	var last identity.WireGuardKey
	for i := range 10_000 {
		m := member(i+1, fmt.Sprint(i), "")
		last = m.Public.WireGuard
		table.Admit(m, nil)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := table.ByKey(last); !ok {
			b.Fatal("lost")
		}
	}
}

func TestWhoIsAliveToOneSourceIsAlive(t *testing.T) {
	table, a := NewTable(identity.NodeID{}), member(1, "atlas", "10.86.0.1")
	table.Admit(a, nil)
	id := a.NodeID()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	for i, c := range []struct {
		source string
		says   State
		want   State
		since  int
	}{
		{"east", Alive, Alive, 1},
		{"wide", Alive, Alive, 1},
		{"wide", Suspect, Alive, 1},
		{"wide", Dead, Alive, 1},
		{"bulletin", Dead, Alive, 1},
		{"east", Suspect, Suspect, 6},
		{"east", Left, Left, 7},
		{"bulletin", Left, Left, 7},
		{"wide", Alive, Alive, 9},
		{"wide", Unknown, Left, 10},
		{"bulletin", Unknown, Left, 10},
		{"east", Unknown, Unknown, 12},
	} {
		table.Report(c.source, id, c.says, at(i+1))
		if e, _ := table.Get(id); e.State != c.want || !e.Since.Equal(at(c.since)) {
			t.Errorf("step %d: %s says %v: %v since %v, want %v since %d", i+1, c.source, c.says, e.State, e.Since.Unix(), c.want, c.since)
		}
	}
	table.Report("east", id, Dead, at(20))
	table.Report("wide", id, Alive, at(21))
	if got := table.Verdict("east", id); got != Dead {
		t.Errorf("east says %v", got)
	}
	table.Retract("wide", at(22))
	if e, _ := table.Get(id); e.State != Dead || !e.Since.Equal(at(22)) {
		t.Errorf("after one was taken back: %v since %v", e.State, e.Since.Unix())
	}
}
