package coordinator

import (
	"testing"
	"time"
)

// What people see of invitations that are over, and what they hear when they cancel one.
func TestInvitationsThatAreOverAreShownAndNotCancelled(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		used, expired, open := first.invite(InviteSpec{}), first.invite(InviteSpec{Expires: time.Minute}), first.invite(InviteSpec{Expires: 72 * time.Hour})
		l.node(1).join(first, used)
		l.shift.Add(int64(2 * time.Minute))
		list, err := first.group.Invitations(t.Context())
		if err != nil || len(list) < 3 || list[len(list)-2].Uses*list[len(list)-1].Uses != 0 {
			t.Fatalf("%+v %v, want the open ones first", list, err)
		}
		refusedWith(t, first.group.CancelInvitation(t.Context(), used.ID()), "is used up (1 of 1)")
		refusedWith(t, first.group.CancelInvitation(t.Context(), expired.ID()), "expired on")
		refusedWith(t, first.group.CancelInvitation(t.Context(), "ffff"), "no invitation has the ID")
		if err := first.group.CancelInvitation(t.Context(), open.ID()); err != nil {
			t.Fatal(err)
		}
		l.shift.Add(int64(50 * time.Hour))
		if list, err = first.group.Invitations(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("two days later: %+v %v", list, err)
		}
	})
}
