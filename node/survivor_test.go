package node_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// survivor is a mesh of two whose founder, node 0, is lost without a word while node 1 stands by.
func survivor(b *bubbleMesh, last localapi.InviteRequest) {
	b.t.Helper()
	first := b.start(0, 0, localapi.Entry{New: "lab"}, nil)
	second := b.join(1, first, nil)
	time.Sleep(time.Minute) // it stands by
	if _, err := first.Invite(b.t.Context(), last); err != nil {
		b.t.Fatal(err)
	}
	if log, err := second.Audit(b.t.Context(), false); err != nil || log.Own {
		b.t.Fatalf("with a leader, the log is the leader's: %+v, %v", log, err)
	}
	time.Sleep(time.Second)
	b.running[0].host.Pause(false) // so it hands nothing over
	b.stop(0)
	time.Sleep(time.Minute)
}

// Regression: the founder of a mesh of two that was revoked after a recovery did not take the other's word, which had no vote when it went: it was
// online as a mesh of its own, with a quorum, and let machines in.
func TestARevokedFounderOfTwoIsToldWhenItReturns(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		survivor(b, localapi.InviteRequest{})
		second := b.running[1].node
		if _, err := second.Recover(t.Context(), localapi.RecoverRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := second.Revoke(t.Context(), localapi.RevokeRequest{Node: "n0"}); err != nil {
			t.Fatal(err)
		}
		ended := b.restart(0)
		select {
		case err := <-ended:
			var f *localapi.Failure
			if !errors.As(err, &f) || f.Class != localapi.Refused || !strings.Contains(f.Error(), "revoked") || !strings.Contains(f.Error(), "root.key") {
				t.Errorf("it ended with %v", err)
			}
			ended <- nil
		case <-time.After(10 * time.Second):
			t.Errorf("it runs on:\n%s", b.logs[0])
		}
	})
}

// Regression: without a quorum nobody could see the log, by which a person chooses the survivor to recover on.
func TestWithoutAQuorumACoordinatorShowsItsOwnLog(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		survivor(b, localapi.InviteRequest{})
		second := b.running[1].node
		for _, verify := range []bool{false, true} {
			log, err := second.Audit(t.Context(), verify)
			if err != nil {
				t.Fatal(err)
			}
			if last := log.Entries[len(log.Entries)-1]; !log.Own || last.Action != "invite" {
				t.Errorf("own: %v, and it ends with %+v", log.Own, last)
			}
			if verify && (log.Verified == nil || !*log.Verified || len(log.Witnesses) != 1 || log.Witnesses[0].Says != localapi.WitnessSilent) {
				t.Errorf("of the voters, all of which are away, it says %+v", log)
			}
		}
	})
}
