package place

import (
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/peer"
)

func TestACoordinateIsPublishedWhenItHasMovedNoticeably(t *testing.T) {
	at := func(ms float64) peer.Coordinate {
		return peer.NewCoordinate([peer.Dimensions]float64{ms / 1000}, 0, 0.1)
	}
	var s Said
	begin := time.Unix(0, 0)
	for _, step := range []struct {
		after   time.Duration
		is      float64
		settled bool
		placed  bool
		says    float64
	}{
		{0, 10, false, false, 0}, // not settled: nothing is known
		{10 * time.Second, 10, true, true, 10},
		{11 * time.Second, 12.9, true, true, 10}, // too little
		{12 * time.Second, 20, true, true, 10},   // too soon
		{41 * time.Second, 20, true, true, 20},   // now
		{80 * time.Second, 30, true, true, 20},   // the pause has doubled
		{102 * time.Second, 30, true, true, 30},  //
		{110 * time.Second, 40, false, true, 30}, // the network has changed: what was said stays until there is something to say
		{131 * time.Second, 40, true, true, 30},
		{132 * time.Second, 40, true, true, 40}, // and that it may say without the long pause
		{3 * time.Hour, 50, true, true, 50},     // it stayed for long
		{3*time.Hour + 29*time.Second, 60, true, true, 50},
		{3*time.Hour + 30*time.Second, 60, true, true, 50},
		{3*time.Hour + 61*time.Second, 60, true, true, 60},
	} {
		news := at(step.is).Moved(s.coordinate) >= newsLeast
		says, placed := s.step(at(step.is), step.settled, news, begin.Add(step.after))
		if placed != step.placed || placed && says != at(step.says) {
			t.Errorf("after %v at %v ms: says %+v (%v)", step.after, step.is, says, placed)
		}
	}
}
