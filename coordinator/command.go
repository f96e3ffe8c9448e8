package coordinator

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/policy"
)

// LedgerFormat is the newest command format this program understands. A new kind, or a new field of an old one, raises it; commands and
// snapshots carry the lowest format that holds them, so that voters of an older program follow until one uses what is new.
// A leader must not propose format n+1 before every voter understands it; should it happen, a ledger that does not
// understand freezes (Ledger.Frozen) instead of guessing, and goes on from there once its program is updated.
const LedgerFormat = 6

// Kind says what a command does. Numbers are part of the log format and never reused.
type Kind uint8

// The kinds of format 1.
const (
	KindFound   Kind = 1 // the first entry of every ledger
	KindInvite  Kind = 2
	KindCancel  Kind = 3
	KindAdmit   Kind = 4
	KindRevoke  Kind = 5 // revocation, or leaving
	KindReissue Kind = 6 // a member's next certificate: renewed, renamed, tagged
	KindIssuer  Kind = 7 // an issuer certificate
	KindKeyring Kind = 8 // gossip keys
)

// The kinds of format 2.
const KindPolicy Kind = 9 // packet filter policy: set, or brought back

// The kinds of format 3.
const KindApprove Kind = 10 // a member that has no invitation, on the word of one that is in

// The kinds of format 4.
const KindRecover Kind = 11 // a member has made itself the only voter

// The kinds of format 5.
const KindRegion Kind = 12 // a region's coordinator: elected, replaced, gone

// The kinds of format 6.
const KindRelay Kind = 13 // who relays for a region: appointed, dismissed

// format returns the lowest format that has the kind.
func (k Kind) format() uint8 {
	switch {
	case k >= KindRelay:
		return 6
	case k >= KindRegion:
		return 5
	case k >= KindRecover:
		return 4
	case k >= KindApprove:
		return 3
	case k >= KindPolicy:
		return 2
	}
	return 1
}

// String names the kind as the audit log shows it.
func (k Kind) String() string {
	switch k {
	case KindFound:
		return "found"
	case KindInvite:
		return "invite"
	case KindCancel:
		return "cancel-invitation"
	case KindAdmit:
		return "admit"
	case KindRevoke:
		return "revoke"
	case KindReissue:
		return "reissue"
	case KindIssuer:
		return "issuer"
	case KindKeyring:
		return "keyring"
	case KindPolicy:
		return "policy"
	case KindApprove:
		return "approve"
	case KindRecover:
		return "recover"
	case KindRegion:
		return "region"
	case KindRelay:
		return "relay"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Bounds of a command.
const (
	// maxCommandBytes: the largest is a policy; found, with two hybrid certificates of about 6 KiB each and the root's 2 KiB, is far below.
	maxCommandBytes = policy.TextMax + 4<<10
	maxReasonBytes  = 200
	maxTags         = 16
	maxTagBytes     = 63 // as a DNS label
	maxMeshName     = 63
	maxKeyringKeys  = 4 // primary, previous, next, and one to spare
	gossipKeyBytes  = 32
)

// Command is one entry of the log:
//
//	[format, kind, time (Unix ms), asker (32 bytes), body (bytes: the kind's own array)]
//
// Everything that Apply needs is in it, the time too.
type Command struct {
	_      struct{} `cbor:",toarray"`
	Format uint8
	Kind   Kind
	Time   int64 // Unix milliseconds, the leader's clock
	Asker  identity.NodeID
	Body   []byte
}

// At returns the command's time.
func (c Command) At() time.Time { return time.UnixMilli(c.Time).UTC() }

type foundBody struct {
	_         struct{} `cbor:",toarray"`
	Name      string
	Root      identity.RootPublic
	IPv4      netip.Prefix
	Holder    identity.NodeID // who keeps root.key
	Issuer    []byte
	Member    []byte
	GossipKey []byte
}

type inviteBody struct {
	_       struct{} `cbor:",toarray"`
	ID      string
	Key     [32]byte
	Uses    uint32
	Expires int64 // Unix ms
	Tags    []string
	Name    string
}

type cancelBody struct {
	_  struct{} `cbor:",toarray"`
	ID string
}

type admitBody struct {
	_           struct{} `cbor:",toarray"`
	Invitation  string
	Request     [32]byte // SHA-256 of the signed request, for the audit log
	Certificate []byte
}

// approveBody admits on the asker's word.
type approveBody struct {
	_           struct{} `cbor:",toarray"`
	Request     [32]byte // SHA-256 of the signed request, for the audit log
	Certificate []byte
}

type revokeBody struct {
	_          struct{} `cbor:",toarray"`
	Revocation []byte
}

type reissueBody struct {
	_           struct{} `cbor:",toarray"`
	Certificate []byte
	Replaces    uint64 // serial of the certificate it replaces
	Change      string // for the audit log: "renamed", "tagged", "renewed"
}

type issuerBody struct {
	_           struct{} `cbor:",toarray"`
	Certificate []byte
}

type keyringBody struct {
	_        struct{} `cbor:",toarray"`
	Keys     [][]byte
	Replaces uint64 // version of the keyring it replaces
}

// newCommand packs a body.
func newCommand(kind Kind, at time.Time, asker identity.NodeID, body any) (Command, error) {
	b, err := wire.Marshal(body)
	if err != nil {
		return Command{}, fmt.Errorf("coordinator: encode %v command: %w", kind, err)
	}
	return Command{Format: kind.format(), Kind: kind, Time: at.UnixMilli(), Asker: asker, Body: b}, nil
}

// encode returns the bytes for the log.
func (c Command) encode() ([]byte, error) {
	b, err := wire.Marshal(c)
	if err == nil && len(b) > maxCommandBytes {
		err = fmt.Errorf("coordinator: %v command of %d bytes is over the bound of %d", c.Kind, len(b), maxCommandBytes)
	}
	return b, err
}

// ParseCommand decodes a log entry. Its body is decoded by Apply, only if the format is one we know.
func ParseCommand(b []byte) (Command, error) {
	var c Command
	if len(b) > maxCommandBytes {
		return c, fmt.Errorf("coordinator: command of %d bytes is over the bound of %d", len(b), maxCommandBytes)
	}
	if err := wire.Unmarshal(b, &c); err != nil {
		return Command{}, fmt.Errorf("coordinator: command: %w", err)
	}
	return c, nil
}
