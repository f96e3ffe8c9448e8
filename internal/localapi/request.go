package localapi

import (
	"log/slog"
	"time"
)

// Entry says how a node without a mesh gets into one. At most one of Token and New is set. The zero Entry means: stay as you are.
type Entry struct {
	Token string `json:"token,omitempty"` // the invitation, pm1…
	New   string `json:"new,omitempty"`   // found a mesh of this name
	Found bool   `json:"found,omitempty"` // look for a mesh; found one if there is none. Harmless on a member
	Mesh  string `json:"mesh,omitempty"`  // with Found: only this mesh, by its name or the first eight characters of its ID
	// Within is how long to try at most: who asks waits no longer, and is told what was tried. Zero: as long as it takes.
	Within time.Duration `json:"within_ns,omitempty"`
}

// IsZero tells whether there is nothing to do.
func (e Entry) IsZero() bool { return e == Entry{Within: e.Within} }

// LogValue keeps the token out of logs.
func (e Entry) LogValue() slog.Value { return slog.StringValue(e.String()) }

// String keeps the token out of messages.
func (e Entry) String() string {
	switch {
	case e.Token != "":
		return "join with an invitation"
	case e.New != "":
		return "found " + e.New
	case e.Found:
		return "find or found a mesh"
	}
	return "stay"
}

// Request is a machine without an invitation that waits to be approved.
type Request struct {
	Code   string    `json:"code"` // six digits, the same on that machine
	Name   string    `json:"name"` // as it calls itself
	ID     string    `json:"id"`
	From   string    `json:"from"` // IP address
	LAN    bool      `json:"lan"`  // it is in the network of the member that it asked
	Since  time.Time `json:"since"`
	At     string    `json:"at"` // node ID of the member that it asked
	AtName string    `json:"at_name"`
}

// PairWindowMax is the longest window of phantom pair, PairWindowMin the shortest.
const (
	PairWindowMin = time.Second
	PairWindowMax = time.Hour
)

// RequestList answers phantom requests.
type RequestList struct {
	Requests List[Request] `json:"requests"`
}

// ApproveRequest lets the machine that shows a code in, or turns it away.
type ApproveRequest struct {
	Code   string `json:"code"`
	Refuse bool   `json:"refuse"`
}

// PairRequest opens a window in which the next machine that asks from the LAN is let in.
type PairRequest struct {
	For time.Duration `json:"for_ns"` // 0: two minutes
}

// InviteRequest asks for an invitation.
type InviteRequest struct {
	Uses    int           `json:"uses"`       // how many machines may join with it; 0: one
	Expires time.Duration `json:"expires_ns"` // life from now on; 0: 24 h
	Tags    List[string]  `json:"tags"`       // given to who joins
	Name    string        `json:"name"`       // given to who joins; only with one use
}

// Invite is a fresh invitation. The token is shown once and kept nowhere.
type Invite struct {
	Token   string    `json:"token"`
	ID      string    `json:"id"`
	Uses    int       `json:"uses"`
	Expires time.Time `json:"expires"`
}

// Invitation is what the ledger knows of an invitation: never the token.
type Invitation struct {
	ID      string       `json:"id"`
	Uses    int          `json:"uses"` // allowed
	Used    int          `json:"used"` // so far
	Expires time.Time    `json:"expires"`
	Created time.Time    `json:"created"`
	By      string       `json:"by"`   // node ID of who invited
	Name    string       `json:"name"` // given to who joins
	Tags    List[string] `json:"tags"`
	State   string       `json:"state"` // open, used, expired, cancelled
}

// InvitationList answers phantom invitations.
type InvitationList struct {
	Invitations List[Invitation] `json:"invitations"`
}

// Member states of the ledger.
const (
	MemberActive      = "active"
	MemberQuarantined = "quarantined"
	MemberRevoked     = "revoked"
)

// Member is a node as the ledger knows it.
type Member struct {
	ID        string       `json:"id"`
	Name      string       `json:"name"`
	Addresses List[string] `json:"addresses"`
	Region    string       `json:"region"`
	Tags      List[string] `json:"tags"`
	State     string       `json:"state"`
	NotAfter  time.Time    `json:"not_after,omitzero"` // of nobody in quarantine: there is no certificate yet
}

// MemberList answers phantom members.
type MemberList struct {
	Members List[Member] `json:"members"`
}

// RevokeRequest takes a node's membership away for good.
type RevokeRequest struct {
	Node   string `json:"node"` // name, short or full ID, overlay address
	Reason string `json:"reason"`
}

// Revoked says which node it was.
type Revoked struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// RecoverRequest makes the node the only voter of a group that has lost its quorum for good.
type RecoverRequest struct {
	Plan bool `json:"plan"` // only tell what would happen
}

// Recovered says what a recovery did, or would do.
type Recovered struct {
	Recovered  bool            `json:"recovered"` // false: it is a plan
	Generation int             `json:"generation"`
	ID         string          `json:"id"` // of the node that alone votes
	Name       string          `json:"name"`
	Lost       List[LostVoter] `json:"lost"` // whose votes end
	// Whole is false where only the signed state was there to go on from: invitations and audit log of before are gone.
	Whole bool `json:"whole"`
}

// LostVoter is a coordinator whose vote a recovery ends.
type LostVoter struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Alive bool   `json:"alive"` // it can be reached all the same, and will have a vote again
}

// TagRequest replaces a node's tags; none removes them all.
type TagRequest struct {
	Node string       `json:"node"`
	Tags List[string] `json:"tags"`
}

// Tagged says which node it was and what tags it has now.
type Tagged struct {
	ID   string       `json:"id"`
	Name string       `json:"name"`
	Tags List[string] `json:"tags"`
}

// RenameRequest gives a node another name.
type RenameRequest struct {
	Node string `json:"node"`
	Name string `json:"name"`
}

// Renamed says what a node is called now, and what it was called.
type Renamed struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Was  string `json:"was"`
}

// Audit is the mesh's log of decisions as far as it is kept: the newest ones, oldest first.
type Audit struct {
	Entries List[AuditEntry] `json:"entries"`
	// Dropped is how many older entries are known only by the hash that the first of Entries continues.
	Dropped uint64 `json:"dropped"`
	// Head is the hash in which the chain ends, hexadecimal: keep it elsewhere, and any later change of what came before shows.
	Head string `json:"head"`
	// Own: there is no quorum, and this is the node's own copy; else it is the leader's.
	Own bool `json:"own"`
	// Verified is set if it was asked for: the chain is whole and no coordinator's own copy contradicts it.
	Verified  *bool              `json:"verified,omitempty"`
	Witnesses List[AuditWitness] `json:"witnesses,omitempty"`
}

// AuditEntry is one decision.
type AuditEntry struct {
	Index   uint64    `json:"index"` // in the replicated log
	Time    time.Time `json:"time"`
	By      string    `json:"by"` // node ID of who asked; empty: the coordinators themselves
	ByName  string    `json:"by_name"`
	Action  string    `json:"action"`
	Subject string    `json:"subject"`
	Outcome string    `json:"outcome"`
	Hash    string    `json:"hash"`
}

// What a coordinator's copy of the audit log says about the chain that was shown.
const (
	WitnessAgrees      = "agrees"
	WitnessBehind      = "behind" // agrees as far as it has come
	WitnessContradicts = "contradicts"
	WitnessSilent      = "silent"
)

// AuditWitness is one coordinator's copy of the audit log.
type AuditWitness struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Entries uint64 `json:"entries"`
	Says    string `json:"says"`
	Why     string `json:"why,omitempty"` // it is silent
}

// PingRequest asks for echoes from a node.
type PingRequest struct {
	Node     string        `json:"node"`
	Count    int           `json:"count"`       // 1 to PingCountMax
	Interval time.Duration `json:"interval_ns"` // between two sends
	Timeout  time.Duration `json:"timeout_ns"`  // wait this long for each answer
	Size     int           `json:"size"`        // bytes of payload; 0: 56
	Path     bool          `json:"path"`        // check the path of the physical network instead of the overlay
}

// PingCountMax bounds one ping run: a day at one a second.
const PingCountMax = 86400

// PingReply is one echo, answered or lost.
type PingReply struct {
	Sequence int     `json:"seq"`
	Node     string  `json:"node"` // node ID
	Name     string  `json:"name"`
	Address  string  `json:"address"` // overlay address that was pinged
	Path     Path    `json:"path"`
	TimeMs   float64 `json:"time_ms"`
	Lost     bool    `json:"lost"`
	Error    string  `json:"error,omitempty"` // why it was lost
}

// WaitRequest blocks until this node, and Node when it is not empty, can be reached through the overlay.
type WaitRequest struct {
	Node    string        `json:"node"`
	Timeout time.Duration `json:"timeout_ns"` // 0: as long as the caller stays
}

// Severities of a finding that is not ok.
const (
	SeverityInfo    = "info"    // good to know
	SeverityWarning = "warning" // works, but less well than it could
	SeverityError   = "error"   // something does not work
)

// Finding is one check of phantom doctor.
type Finding struct {
	Check    string `json:"check"` // stable name: tun, port, clock, state, disk, quorum, …
	OK       bool   `json:"ok"`
	Severity string `json:"severity"`
	What     string `json:"what"`
	Why      string `json:"why"`
	Next     string `json:"next"`
}

// Doctor answers phantom doctor.
type Doctor struct {
	OK       bool          `json:"ok"` // no finding of severity error
	Findings List[Finding] `json:"findings"`
}

// Version says what a binary was built from.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Date    string `json:"date"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// Process describes the process that answers on the control socket.
type Process struct {
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Manner  string    `json:"manner"` // foreground, background, service
}

// Manners of Process.
const (
	MannerForeground = "foreground" // phantom run by hand
	MannerBackground = "background" // started by phantom up or join
	MannerService    = "service"    // started by the service manager
)
