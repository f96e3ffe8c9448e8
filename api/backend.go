package api

import (
	"context"
	"io"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// The shapes of questions and answers. They are defined below the node in the import order, where the node can fill them; these are their
// public names.
type (
	Status          = localapi.Status
	Mesh            = localapi.Mesh
	Self            = localapi.Self
	Certificate     = localapi.Certificate
	Coordinators    = localapi.Coordinators
	Region          = localapi.Region
	Peer            = localapi.Peer
	Path            = localapi.Path
	Tunnel          = localapi.Tunnel
	PeerList        = localapi.PeerList
	CoordinatorList = localapi.CoordinatorList
	Voter           = localapi.Voter
	RegionDetail    = localapi.RegionDetail
	RelayDuty       = localapi.RelayDuty
	Entry           = localapi.Entry
	InviteRequest   = localapi.InviteRequest
	Invite          = localapi.Invite
	Pending         = localapi.Pending
	Request         = localapi.Request
	RequestList     = localapi.RequestList
	ApproveRequest  = localapi.ApproveRequest
	PairRequest     = localapi.PairRequest
	Invitation      = localapi.Invitation
	InvitationList  = localapi.InvitationList
	Member          = localapi.Member
	MemberList      = localapi.MemberList
	RevokeRequest   = localapi.RevokeRequest
	TagRequest      = localapi.TagRequest
	Tagged          = localapi.Tagged
	SetRequest      = localapi.SetRequest
	Setting         = localapi.Setting
	SettingList     = localapi.SettingList
	RecoverRequest  = localapi.RecoverRequest
	Recovered       = localapi.Recovered
	LostVoter       = localapi.LostVoter
	RenameRequest   = localapi.RenameRequest
	Renamed         = localapi.Renamed
	Audit           = localapi.Audit
	AuditEntry      = localapi.AuditEntry
	AuditWitness    = localapi.AuditWitness
	Backup          = localapi.Backup
	Restored        = localapi.Restored
	Revoked         = localapi.Revoked
	PingRequest     = localapi.PingRequest
	PingReply       = localapi.PingReply
	WaitRequest     = localapi.WaitRequest
	Finding         = localapi.Finding
	Doctor          = localapi.Doctor
	Netcheck        = localapi.Netcheck
	WhyRequest      = localapi.WhyRequest
	Why             = localapi.Why
	Version         = localapi.Version
	Process         = localapi.Process
	Failure         = localapi.Failure
	Policy          = localapi.Policy
	PolicyVersion   = localapi.PolicyVersion
	PolicyRequest   = localapi.PolicyRequest
	PolicyCheck     = localapi.PolicyCheck
	PolicyRollback  = localapi.PolicyRollback
	PolicyHistory   = localapi.PolicyHistory
)

// Backend is the node as the API sees it. All methods may be called concurrently and honour the context. An error is best a *Failure
// (its class becomes the exit code); any other error counts as failed, a passed deadline as timed out. A node is named as contract says
// (name, short or full ID, overlay address) and resolved by the backend; an ambiguous name is localapi.Ambiguous.
type Backend interface {
	// Status never fails for lack of a mesh or a quorum: it says so in the answer.
	Status(ctx context.Context) (*Status, error)
	Members(ctx context.Context) (*MemberList, error)
	Coordinators(ctx context.Context) (*CoordinatorList, error)
	// Recover makes the node the only voter, or tells what that would do; it refuses while the group has a quorum.
	Recover(ctx context.Context, r RecoverRequest) (*Recovered, error)

	Invite(ctx context.Context, r InviteRequest) (*Invite, error)
	Invitations(ctx context.Context) (*InvitationList, error)
	CancelInvitation(ctx context.Context, id string) error
	Revoke(ctx context.Context, r RevokeRequest) (*Revoked, error)

	// Requests lists the machines without an invitation that wait at any member; Approve decides on one by its code.
	Requests(ctx context.Context) (*RequestList, error)
	Approve(ctx context.Context, r ApproveRequest) (*Request, error)
	// Pair admits the next machine that asks from the LAN, and returns when it has, or when the time is over.
	Pair(ctx context.Context, r PairRequest) (*Request, error)

	// Policy is the packet filter policy in force; PolicyText one of the versions that the ledger keeps, PolicyHistory lists them.
	Policy(ctx context.Context) (*Policy, error)
	PolicyText(ctx context.Context, version uint64) (*Policy, error)
	PolicyHistory(ctx context.Context) (*PolicyHistory, error)
	// CheckPolicy tells what a policy would change. A text that is no policy is an error, expect lines that do not hold are an answer.
	CheckPolicy(ctx context.Context, r PolicyRequest) (*PolicyCheck, error)
	SetPolicy(ctx context.Context, r PolicyRequest) (*PolicyVersion, error)
	RollbackPolicy(ctx context.Context, r PolicyRollback) (*PolicyVersion, error)
	Tag(ctx context.Context, r TagRequest) (*Tagged, error)
	Rename(ctx context.Context, r RenameRequest) (*Renamed, error)
	// Settings are those that a running node can change; Set changes one, at once and for later runs.
	Settings(ctx context.Context) (*SettingList, error)
	Set(ctx context.Context, r SetRequest) (*SettingList, error)
	// Audit gives the log of decisions; with verify it is held against every coordinator's own copy.
	Audit(ctx context.Context, verify bool) (*Audit, error)

	// Snapshot writes what the node knows of its mesh, for a backup: a coordinator the whole ledger, any other member the signed state.
	Snapshot(ctx context.Context, w io.Writer) error

	// Ping sends r.Count echoes and calls emit for each, answered or lost, in order. It returns early with emit's error.
	Ping(ctx context.Context, r PingRequest, emit func(PingReply) error) error
	// Wait returns nil once this node is online and r.Node, when named, answers through the overlay.
	Wait(ctx context.Context, r WaitRequest) error
	// Doctor gives what only the node knows; checks of the host are made by the command itself.
	Doctor(ctx context.Context) (*Doctor, error)
	// Netcheck tells what stands between this node and the others; it never fails for lack of a mesh.
	Netcheck(ctx context.Context) (*Netcheck, error)
	// Why explains the path to a node.
	Why(ctx context.Context, r WhyRequest) (*Why, error)

	// Enter brings a node that is in no mesh into one, and returns when it is online. If somebody has to approve that, the node goes on waiting
	// after the context has ended. On a member it is harmless if the entry names the
	// same mesh, and fails otherwise.
	Enter(ctx context.Context, e Entry) error
	// Down begins the graceful stop, duties handed over first, and returns when Run is about to end.
	Down(ctx context.Context) error
	// Leave gives the membership up for good, then stops like Down.
	Leave(ctx context.Context) error

	Version(ctx context.Context) (*Version, error)
	// Metrics writes the Prometheus text exposition.
	Metrics(ctx context.Context, w io.Writer) error
}
