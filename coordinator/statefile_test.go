package coordinator

import (
	"testing"
	"time"
)

// Regression: every member wrote the whole state 50 ms after every change, 5.5 MB of a thousand members.
func TestALargeStateIsNotWrittenAgainAndAgain(t *testing.T) {
	const member = 5600 // bytes of one in the file
	if pause := savePause(5 * member); pause > 250*time.Millisecond {
		t.Errorf("the state of five members is kept back for %v", pause)
	}
	if pause := savePause(1000 * member); pause < 30*time.Second || pause > time.Minute {
		t.Errorf("that of a thousand is kept back for %v", pause)
	}
}
