package localapi

import (
	"errors"
	"testing"
)

func TestAFailureMadeOfAnotherGivesOneNextStep(t *testing.T) {
	inner := UnknownNode("nas")
	f := Fail(TimedOut, "nas cannot be reached yet", inner, "phantom doctor finds the reason")
	if want := "nas cannot be reached yet: no node nas: no member has this name, ID or overlay address; next: phantom doctor finds the reason"; f.Error() != want {
		t.Errorf("got  %q\nwant %q", f, want)
	}
	if !errors.Is(f, inner) {
		t.Error("the cause is lost")
	}
}
