package coordinator

import (
	"errors"
	"fmt"
)

var (
	// ErrNoQuorum: no leader with a majority of voters behind it could be reached. Traffic goes on, decisions don't.
	ErrNoQuorum = errors.New("no quorum: most of the mesh's coordinators cannot be reached, so nothing can be decided now; " +
		"start them again or reconnect them, then repeat (traffic between members goes on)")
	// ErrUncertain wraps ErrNoQuorum for a decision that was proposed but not confirmed: it may still take effect.
	ErrUncertain = fmt.Errorf("the decision was handed to the group but not confirmed, it may still take effect: %w", ErrNoQuorum)
	// ErrExists: the folder already belongs to a mesh.
	ErrExists = errors.New("this machine already belongs to a mesh; leave it first (phantom leave)")
	// ErrNoMesh: the folder belongs to no mesh yet.
	ErrNoMesh = errors.New("this machine belongs to no mesh yet; found one (phantom up --new NAME) or join one (phantom join TOKEN)")
	// ErrClosed: the group was closed.
	ErrClosed = errors.New("coordinator: closed")
	// ErrTooOld: the ledger holds decisions of a newer program version, this node must not decide before it is updated.
	ErrTooOld = errors.New("the mesh has moved to a newer ledger format than this program knows; update phantom on this machine")

	errNotLeader = errors.New("coordinator: not the leader")
	errConflict  = errors.New("coordinator: the ledger changed meanwhile")
	errFenced    = errors.New("coordinator: the local log cannot be written, this replica has cut itself off")
)

// RefusalCode classifies a refusal for programs; Reason is for people.
type RefusalCode string

// The refusals.
const (
	RefusedRequest    RefusalCode = "request"    // malformed or badly signed
	RefusedMesh       RefusalCode = "mesh"       // meant for another mesh
	RefusedInvitation RefusalCode = "invitation" // unknown, used up, expired or cancelled invitation, wrong proof
	RefusedClock      RefusalCode = "clock"      // the asker's clock is too far off
	RefusedRevoked    RefusalCode = "revoked"    // revoked or left
	RefusedExpired    RefusalCode = "expired"    // a certificate that ended too long ago to be renewed with the node's own keys
	RefusedNoMember   RefusalCode = "no-member"  // names nobody we know
	RefusedFull       RefusalCode = "full"       // a bound is reached: addresses, members, invitations
	RefusedNotAllowed RefusalCode = "not-allowed"
	RefusedPolicy     RefusalCode = "policy"   // not a policy, or one whose expectations do not hold
	refusedConflict   RefusalCode = "conflict" // retried by the leader, never leaves it
)

// Refused is the mesh's decision against what was asked (exit code 4).
type Refused struct {
	Code   RefusalCode
	Reason string // a sentence for people: what, why, what next
}

// Error returns the reason.
func (r *Refused) Error() string { return r.Reason }

// Is lets a conflict match errConflict.
func (r *Refused) Is(target error) bool { return target == errConflict && r.Code == refusedConflict }

func refuse(code RefusalCode, format string, args ...any) *Refused {
	return &Refused{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// DamagedError says which file cannot be used and what to do.
type DamagedError struct {
	Path string
	Err  error
	Next string // what a person should do now
}

// Error names the file, the fault and the next step.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s cannot be used: %v; %s", e.Path, e.Err, e.Next)
}

// Unwrap returns the fault.
func (e *DamagedError) Unwrap() error { return e.Err }
