package peer

import (
	"net/netip"
	"strings"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Resolve returns the members that a person may mean by text: a name (in any case), a node ID in full, its short form or anything
// between the two, or an overlay address. None: nobody is called that. Several: the text is ambiguous, and the caller lists the
// candidates. A revoked member is returned only when no other member fits: its name may have been given away since.
func (t *Table) Resolve(text string) []Entry {
	text = strings.ToLower(strings.TrimSpace(text))
	if text == "" {
		return nil
	}
	addr, _ := netip.ParseAddr(text)
	var members, revoked []Entry
	for _, e := range t.All() {
		switch {
		case !e.fits(text, addr.Unmap()):
		case e.Revoked:
			revoked = append(revoked, e)
		default:
			members = append(members, e)
		}
	}
	if len(members) > 0 {
		return members
	}
	return revoked
}

// fits reports whether text, in lower case, or the address it spells names the member.
func (e Entry) fits(text string, addr netip.Addr) bool {
	if strings.ToLower(e.Member.Name) == text {
		return true
	}
	if addr.IsValid() {
		for _, a := range e.Member.Addresses() {
			if a == addr {
				return true
			}
		}
		return false
	}
	return len(text) >= len(identity.NodeID{}.Short()) && strings.HasPrefix(e.ID.String(), text)
}
