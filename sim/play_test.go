package sim

import (
	"context"
	"testing"
	"time"
)

// play1 runs a scenario of the library for a time, and shows what went wrong.
func play1(t *testing.T, name string, seed uint64, run time.Duration) *Result {
	t.Helper()
	s, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	if run > 0 {
		s.For = run
	}
	r, err := Play(context.Background(), Config{Seed: seed, Dir: t.TempDir()}, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Violations {
		t.Errorf("%s %s: %s", clock(v.At), v.Checker, v.Text)
		for _, e := range v.Before {
			t.Log(e)
		}
	}
	t.Logf("%.1f s wall, %v", r.WallSeconds, r.Figures)
	return r
}

func TestAHomeLabKeepsItsPromises(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	play1(t, "home-lab", 1, 12*time.Minute)
}

// Each scenario of the library has to name what it proves and to fit its own machines; two of them are run, all by `make sim`.
func TestTheLibraryIsSound(t *testing.T) {
	all, err := Library()
	if err != nil || len(all) < 2 {
		t.Fatal(len(all), err)
	}
	for _, s := range all {
		if s.Proves == "" || s.Nodes() == 0 || len(s.Timeline) == 0 {
			t.Errorf("%s: %+v", s.Name, s)
		}
	}
}

// Regression: requests to several members of the LAN waited for each other with a mutex, and did not hear when they were no longer wanted; a node
// that was told to stop meanwhile waited for as long. In virtual time, such a wait never ends.
func TestMachinesOfALANFindEachOtherAndTypeCodes(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	r := play1(t, "lan-no-internet", 1, 4*time.Minute)
	if r.Nodes != 11 || r.Figures["pings_answered"] < 0.9 {
		t.Errorf("%d machines, %v", r.Nodes, r.Figures)
	}
}

func TestARevokedInsiderIsOut(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	play1(t, "revoked-insider", 1, 0)
}

func TestBadDisksCostNoDecision(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	play1(t, "slow-disk", 1, 22*time.Minute)
}

// Regression: a leader whose clock was set ahead by three months renewed all certificates, which nobody could use until then.
func TestWrongClocksLockNobodyOut(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	play1(t, "clock-jump", 1, 18*time.Minute)
}

func TestTheSmallerHalfDecidesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	play1(t, "minority", 1, 11*time.Minute)
}

// The beginning of the soak: what all three days of it show, `make sim` finds out.
func TestTheFirstMinutesOfASoak(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	s, err := Find("soak-72h")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shorten(10 * time.Minute); err != nil {
		t.Fatal(err)
	}
	r, err := Play(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Violations {
		t.Errorf("%s %s: %s", clock(v.At), v.Checker, v.Text)
	}
}
