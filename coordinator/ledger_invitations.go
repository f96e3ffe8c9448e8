package coordinator

import (
	"maps"
	"strings"
	"time"
)

// maxNameBytes of a node or mesh: a DNS label.
const maxNameBytes = 63

func (l *Ledger) invite(s step[inviteBody]) (Result, string) {
	b := s.body
	expires := time.UnixMilli(b.Expires).UTC()
	l.forgetInvitations(s.at)
	switch {
	case len(b.ID) == 0 || len(b.ID) > 64 || b.Key == [32]byte{}:
		return refused(RefusedRequest, "an invitation needs an ID and a key"), b.ID
	case b.Uses == 0 || b.Uses > maxUses:
		return refused(RefusedRequest, "an invitation has 1 to %d uses", maxUses), b.ID
	case !expires.After(s.at) || expires.After(s.at.Add(maxInvitationLife)):
		return refused(RefusedRequest, "an invitation expires in the future and within a year"), b.ID
	case b.Name != "" && !validName(b.Name):
		return refused(RefusedRequest, "%q is not a name: 1 to 63 of a-z, 0-9 and inner hyphens", b.Name), b.ID
	case len(l.invitations) >= maxInvitations:
		return refused(RefusedFull, "%d invitations are open; cancel some (phantom invitations --cancel ID)", maxInvitations), b.ID
	}
	if r := validTags(b.Tags); r != nil {
		return Result{Refused: r}, b.ID
	}
	if _, ok := l.invitations[b.ID]; ok {
		return refused(refusedConflict, "an invitation with this ID exists"), b.ID
	}
	l.invitations[b.ID] = Invitation{ID: b.ID, Key: b.Key, Uses: b.Uses, Total: b.Uses, Created: s.at, Expires: expires,
		Tags: b.Tags, Name: b.Name, By: s.asker}
	return Result{}, b.ID
}

func (l *Ledger) cancel(s step[cancelBody]) (Result, string) {
	inv, ok := l.invitations[s.body.ID]
	switch {
	case !ok:
		return refused(RefusedNoMember, "no invitation has the ID %q", s.body.ID), s.body.ID
	case inv.Uses == 0:
		return refused(RefusedInvitation, "invitation %s is used up (%d of %d): there is nothing left to cancel; to put out the machine that it let in: "+
			"phantom revoke NODE", inv.ID, inv.Total, inv.Total), s.body.ID
	case !s.at.Before(inv.Expires):
		return refused(RefusedInvitation, "invitation %s expired on %s: there is nothing left to cancel", inv.ID,
			inv.Expires.Format("2006-01-02 15:04 MST")), s.body.ID
	}
	delete(l.invitations, inv.ID)
	return Result{}, s.body.ID
}

// forgetInvitations drops those that ended more than invitationKept before at.
func (l *Ledger) forgetInvitations(at time.Time) {
	maps.DeleteFunc(l.invitations, func(_ string, inv Invitation) bool {
		return at.After(inv.Expires.Add(invitationKept))
	})
}

// validName: a DNS label in lower case (RFC 1123 §2.1).
func validName(s string) bool {
	if len(s) == 0 || len(s) > maxNameBytes || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !nameRune(r) }) < 0
}

func nameRune(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' }

// cleanName makes a name out of what a host calls itself.
func cleanName(s string) string {
	s, _, _ = strings.Cut(strings.ToLower(s), ".")
	s = strings.Map(func(r rune) rune {
		if nameRune(r) {
			return r
		}
		return '-'
	}, s)
	s = strings.Trim(s[:min(len(s), maxNameBytes)], "-")
	if s == "" {
		return "node"
	}
	return s
}

func validTags(tags []string) *Refused {
	if len(tags) > maxTags {
		return refuse(RefusedRequest, "at most %d tags", maxTags)
	}
	seen := map[string]bool{}
	for _, t := range tags {
		if !validName(t) || len(t) > maxTagBytes || seen[t] {
			return refuse(RefusedRequest, "%q is not a tag, or is given twice: 1 to %d of a-z, 0-9 and inner hyphens", t, maxTagBytes)
		}
		seen[t] = true
	}
	return nil
}
