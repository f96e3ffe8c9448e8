package node

import (
	"testing"
	"time"
)

func TestAMachineInTheMiddleDrawsFewCodes(t *testing.T) {
	var passed time.Duration
	codes := 0
	for passed < 10*time.Minute {
		codes++
		passed += pauseBetweenCodes(codes)
	}
	if codes > 14 {
		t.Errorf("%d codes shown in ten minutes", codes)
	}
	if pauseBetweenCodes(1) != pairAgain {
		t.Error("the first new code, when a member was restarted, waits longer than it need")
	}
}
