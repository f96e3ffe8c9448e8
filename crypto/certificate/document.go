package certificate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Lives of certificates.
const (
	MemberLife = 30 * 24 * time.Hour
	// IssuerLife is long: an issuer that goes is revoked, and a founder that is gone for good cannot renew the issuers it made.
	IssuerLife = 5 * 365 * 24 * time.Hour
	// SkewMax is how far a clock may lag behind the issuer's before a fresh certificate looks as if from the future.
	SkewMax = 5 * time.Minute
)

// Bounds of the fields.
const (
	labelMax = 63 // RFC 1035 §2.3.4: names become DNS labels
	tagsMax  = 16
)

// Depths of issuers: how many further issuers may stand below one.
const (
	DepthLeaf   = 0 // signs members only
	DepthParent = 1 // signs members and leaf issuers; only the root makes it
)

// Member admits a node to a mesh.
type Member struct {
	Public    identity.Public
	Mesh      identity.MeshID
	Name      string // a DNS label
	IPv4      netip.Addr
	Tags      []string
	Region    string // a DNS label, or empty
	NotBefore time.Time
	NotAfter  time.Time
	Serial    uint64
}

// NodeID is the ID of the node that the certificate admits.
func (m *Member) NodeID() identity.NodeID { return m.Public.NodeID() }

// IPv6 is the node's self-assigned overlay address.
func (m *Member) IPv6() netip.Addr { return identity.OverlayIPv6(m.Mesh, m.NodeID()) }

// Addresses are the node's overlay addresses, IPv4 first; without a lease only the IPv6 one.
func (m *Member) Addresses() []netip.Addr {
	if !m.IPv4.IsValid() {
		return []netip.Addr{m.IPv6()}
	}
	return []netip.Addr{m.IPv4, m.IPv6()}
}

// Issuer lets a node sign members, and issuers too if its depth allows.
type Issuer struct {
	Public    identity.Public
	Mesh      identity.MeshID
	Depth     uint8
	NotBefore time.Time
	NotAfter  time.Time
	Serial    uint64
}

// NodeID is the ID of the node that may issue.
func (i *Issuer) NodeID() identity.NodeID { return i.Public.NodeID() }

// Revocation ends a node's membership for good: its ID never becomes a member again.
type Revocation struct {
	Mesh   identity.MeshID
	Node   identity.NodeID
	At     time.Time
	Reason string
	Left   bool // the node gave its membership up by itself
}

// reasonMax bounds a revocation's reason, in bytes: a sentence.
const reasonMax = 200

func (m *Member) check() error {
	if err := checkLabel("name", m.Name); err != nil {
		return err
	}
	if m.Region != "" {
		if err := checkLabel("region", m.Region); err != nil {
			return err
		}
	}
	if len(m.Tags) > tagsMax {
		return fmt.Errorf("%w: %d tags, at most %d", ErrForm, len(m.Tags), tagsMax)
	}
	for i, t := range m.Tags {
		if err := checkLabel("tag", t); err != nil {
			return err
		}
		if i > 0 && m.Tags[i-1] >= t {
			return fmt.Errorf("%w: tags not in order or repeated", ErrForm)
		}
	}
	if m.IPv4.IsValid() && !m.IPv4.Is4() {
		return fmt.Errorf("%w: %s is no IPv4 address", ErrForm, m.IPv4)
	}
	return checkSpan(m.NotBefore, m.NotAfter)
}

func (i *Issuer) check() error {
	if i.Depth > DepthParent {
		return fmt.Errorf("%w: issuer of depth %d", ErrForm, i.Depth)
	}
	return checkSpan(i.NotBefore, i.NotAfter)
}

func (r *Revocation) check() error {
	if len(r.Reason) > reasonMax || strings.ContainsFunc(r.Reason, func(c rune) bool { return c < ' ' }) {
		return fmt.Errorf("%w: reason is not one line of at most %d bytes", ErrForm, reasonMax)
	}
	return nil
}

func checkSpan(from, to time.Time) error {
	if !from.Before(to) {
		return fmt.Errorf("%w: valid from %s to %s", ErrForm, from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	}
	return nil
}

// CheckLabel tells why s cannot be a name, tag or region: 1 to 63 of a-z, 0-9 and hyphens, none at either end.
func CheckLabel(s string) error { return checkLabel("name", s) }

func checkLabel(what, s string) error {
	odd := strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
	if s == "" || len(s) > labelMax || odd || s[0] == '-' || s[len(s)-1] == '-' {
		return fmt.Errorf("%w: %s %q is not 1 to %d lower-case letters, digits and inner hyphens", ErrForm, what, s, labelMax)
	}
	return nil
}

// SortTags gives tags as a certificate holds them: sorted, each once.
func SortTags(tags []string) []string {
	out := slices.Clone(tags)
	slices.Sort(out)
	return slices.Compact(out)
}
