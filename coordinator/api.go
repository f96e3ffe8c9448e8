package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/peer"
)

// InviteSpec says what to invite. The zero value is one use within a day.
type InviteSpec struct {
	Uses    int           // zero: 1
	Expires time.Duration // zero: 24 h
	Tags    []string
	Name    string // of the node to come; empty: what it wants
	// Introducers are the members that the token names, at most three; empty: this node and two others that are alive, with the
	// addresses they announce.
	Introducers []invitation.Member
}

// DefaultInvitationLife is how long an invitation is good for unless somebody says otherwise.
const DefaultInvitationLife = 24 * time.Hour

// Invite makes a token. Its secret is made here and never leaves but inside the token.
func (g *Group) Invite(ctx context.Context, spec InviteSpec) (invitation.Token, Invitation, error) {
	if spec.Uses == 0 {
		spec.Uses = 1
	}
	if spec.Expires == 0 {
		spec.Expires = DefaultInvitationLife
	}
	if spec.Uses < 0 || spec.Uses > maxUses {
		return invitation.Token{}, Invitation{}, refuse(RefusedRequest, "an invitation has 1 to %d uses", maxUses)
	}
	token := invitation.Token{Mesh: g.state.Load().Mesh.ID, Members: spec.Introducers}
	if len(token.Members) == 0 {
		token.Members = g.introducers()
	}
	if _, err := io.ReadFull(g.cfg.Rand, token.Secret[:]); err != nil {
		return invitation.Token{}, Invitation{}, fmt.Errorf("coordinator: read randomness: %w", err)
	}
	now := g.cfg.Now()
	inv := Invitation{ID: token.ID(), Uses: uint32(spec.Uses), Total: uint32(spec.Uses), Created: now, Expires: now.Add(spec.Expires).Truncate(time.Millisecond),
		Tags: spec.Tags, Name: spec.Name, By: g.self}
	body := newInviteBody(inv)
	body.Key = token.Key() // not in inv, which is for people
	_, err := g.decide(ctx, opInvite, body)
	if err != nil {
		return invitation.Token{}, Invitation{}, err
	}
	return token, inv, nil
}

// introducers are this node and up to two more that are alive, each with the first addresses it announces.
func (g *Group) introducers() []invitation.Member {
	out := []invitation.Member{{ID: g.self, Addresses: g.addressesOf(g.self)}}
	for _, e := range g.cfg.Peers.All() {
		if len(out) == invitation.MembersMax {
			break
		}
		if e.Member == nil || e.Revoked || e.State != peer.Alive || e.Member.NodeID() == g.self {
			continue
		}
		if addrs := g.addressesOf(e.Member.NodeID()); len(addrs) > 0 {
			out = append(out, invitation.Member{ID: e.Member.NodeID(), Addresses: addrs})
		}
	}
	return out
}

func (g *Group) addressesOf(id identity.NodeID) []netip.AddrPort {
	e, ok := g.cfg.Peers.Get(id)
	if !ok || !e.HasRecord {
		return nil
	}
	var out []netip.AddrPort
	for _, p := range e.Record.Endpoints {
		if len(out) < invitation.AddressesMax {
			out = append(out, p.Addr)
		}
	}
	return out
}

// Invitations lists the open ones.
func (g *Group) Invitations(ctx context.Context) ([]Invitation, error) {
	raw, err := g.decide(ctx, opInvitations, nothing{})
	if err != nil {
		return nil, err
	}
	var list []invitationRecord
	if err := wire.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("coordinator: the leader's list of invitations: %w", err)
	}
	out := make([]Invitation, 0, len(list))
	for _, i := range list {
		out = append(out, Invitation{ID: i.ID, Uses: i.Uses, Total: i.Total, Created: unixMilli(i.Created), Expires: unixMilli(i.Expires),
			Tags: i.Tags, Name: i.Name, By: i.By})
	}
	return out, nil
}

// CancelInvitation makes an open invitation worthless.
func (g *Group) CancelInvitation(ctx context.Context, id string) error {
	_, err := g.decide(ctx, opCancel, cancelBody{ID: id})
	return err
}

// Revoke ends a node's membership for good.
func (g *Group) Revoke(ctx context.Context, id identity.NodeID, reason string) error {
	_, err := g.decide(ctx, opRevoke, revokeRequest{Node: id, Reason: reason})
	return err
}

// Tag replaces a node's tags.
func (g *Group) Tag(ctx context.Context, id identity.NodeID, tags []string) error {
	_, err := g.decide(ctx, opTag, tagRequest{Node: id, Tags: tags})
	return err
}

// Rename gives a node another name.
func (g *Group) Rename(ctx context.Context, id identity.NodeID, name string) error {
	_, err := g.decide(ctx, opRename, renameRequest{Node: id, Name: name})
	return err
}

// Leave ends this node's own membership, handing its vote over first. The last member just goes. The caller closes the group
// and calls Forget.
func (g *Group) Leave(ctx context.Context, id identity.NodeID) error {
	if id != g.self {
		return refuse(RefusedNotAllowed, "a node can only leave by itself; revoke %s instead", id.Short())
	}
	if g.state.Load().ActiveMembers() <= 1 {
		return nil
	}
	if err := g.Handover(ctx); err != nil {
		return fmt.Errorf("coordinator: leave: %w", err)
	}
	if r := g.current(); r != nil {
		if voters, _ := r.servers(); len(voters) == 1 && voters[0] == g.self {
			return refuse(RefusedNotAllowed, "this machine is the mesh's only coordinator and no other member can be reached to take over, so that "+
				"nothing could ever be decided again; start another member first, or revoke the others if the mesh is to end")
		}
	}
	_, err := g.decide(ctx, opLeave, nothing{})
	return err
}

// Audit returns the newest entries of the audit log, from the leader. Its chain has been verified.
func (g *Group) Audit(ctx context.Context) (Audit, error) {
	raw, err := g.decide(ctx, opAudit, nothing{})
	if err != nil {
		return Audit{}, err
	}
	var a auditAnswer
	if err := wire.Unmarshal(raw, &a); err != nil {
		return Audit{}, fmt.Errorf("coordinator: the leader's audit log: %w", err)
	}
	out, prev := Audit{Base: a.Base, Dropped: a.Dropped}, a.Base
	for _, f := range a.Entries {
		e := f.entry()
		e.Hash = e.chained(prev)
		prev = e.Hash
		out.Entries = append(out.Entries, e)
	}
	if prev != a.Head {
		return out, fmt.Errorf("%w: the leader's entries do not lead to the head it states", ErrAudit)
	}
	return out, nil
}

// OwnAudit is this node's own copy of the audit log, as far as it has come; false on a node that keeps none.
func (g *Group) OwnAudit() (a Audit, ok bool) {
	r := g.current()
	if r == nil {
		return Audit{}, false
	}
	r.machine.view(func(l *Ledger) { a = l.audit.export() })
	return a.newest(auditKept), true
}

// HoldsRoot tells whether the mesh's root key is here.
func (g *Group) HoldsRoot() bool { return g.root != nil }

// AuditWitness is what one coordinator holds of the audit chain.
type AuditWitness struct {
	Node  identity.NodeID
	Count uint64 // entries ever
	Head  [32]byte
	Err   error // it could not be asked, or has no copy of the ledger
}

// AuditWitnesses asks every coordinator, this node among them if it is one, in which hash its own copy of the chain ends. It takes no longer
// than one question to one that does not answer.
func (g *Group) AuditWitnesses(ctx context.Context) []AuditWitness {
	voters := g.State().Coordinators.Voters
	out := make([]AuditWitness, len(voters))
	var asked sync.WaitGroup
	for i, id := range voters {
		asked.Go(func() {
			var s status
			var err error
			if id == g.self {
				s = g.status(ctx)
			} else {
				s, err = g.askStatus(ctx, id)
			}
			if err == nil && !s.Replica {
				err = errors.New("it has no copy of the ledger yet")
			}
			out[i] = AuditWitness{Node: id, Count: s.AuditCount, Head: s.AuditHead, Err: err}
		})
	}
	asked.Wait()
	return out
}

// asRefused returns the refusal in err.
func asRefused(err error) (*Refused, bool) {
	var r *Refused
	ok := errors.As(err, &r)
	return r, ok
}
