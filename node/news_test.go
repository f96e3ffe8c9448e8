package node

import "testing"

func TestWhoHeardOfAVersionByARumourTellsNobodyAnew(t *testing.T) {
	var v versionNews
	if v.tell(1, false) {
		t.Error("a plain member tells what it has started with")
	}
	v.hear(2)
	if v.tell(2, false) {
		t.Error("a plain member begins a second rumour")
	}
	if !v.tell(3, false) || v.tell(3, false) {
		t.Error("what came over the control channel is to be told, once")
	}
	// A liar may tell of versions beforehand: those who have them from the log speak all the same.
	for i := range uint64(10 * heardMax) {
		v.hear(4 + i)
	}
	if len(v.heard) > heardMax {
		t.Errorf("%d versions are remembered", len(v.heard))
	}
	if !v.tell(5, true) {
		t.Error("a voter was silenced by a rumour")
	}
	if v := (versionNews{}); !v.tell(1, true) {
		t.Error("a voter keeps to itself what it has started with, which may be what it could not tell before")
	}
}
