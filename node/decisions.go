package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
)

// decideMax bounds a decision as a person waits for it: a commit takes milliseconds, an election that is running two seconds.
const decideMax = 5 * time.Second

// Bounds of an invitation.
const (
	inviteUsesMax = 10_000
	inviteLife    = 24 * time.Hour
	inviteLifeMax = 365 * 24 * time.Hour
)

// Invite makes an invitation.
func (n *Node) Invite(ctx context.Context, r localapi.InviteRequest) (*localapi.Invite, error) {
	m, err := n.membership("invite")
	if err != nil {
		return nil, err
	}
	if err := checkInvite(&r); err != nil {
		return nil, localapi.Fail(localapi.Usage, "cannot invite", err, "")
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	token, granted, err := m.group.Invite(ctx, coordinator.InviteSpec{
		Uses: r.Uses, Expires: r.Expires, Tags: r.Tags, Name: r.Name, Introducers: m.introducers(),
	})
	if err != nil {
		return nil, failed("cannot invite", err)
	}
	text, err := token.Text()
	if err != nil {
		return nil, failed("cannot invite", err)
	}
	return &localapi.Invite{Token: text, ID: granted.ID, Uses: int(granted.Total), Expires: granted.Expires.UTC()}, nil
}

func checkInvite(r *localapi.InviteRequest) error {
	if r.Uses == 0 {
		r.Uses = 1
	}
	if r.Expires == 0 {
		r.Expires = inviteLife
	}
	switch {
	case r.Uses < 1 || r.Uses > inviteUsesMax:
		return fmt.Errorf("%d uses: 1 to %d are possible", r.Uses, inviteUsesMax)
	case r.Expires < time.Second || r.Expires > inviteLifeMax:
		return fmt.Errorf("a life of %s: one second to a year is possible", r.Expires)
	case r.Name != "" && r.Uses > 1:
		return errors.New("a name can be given to one machine only: use --name with --uses 1")
	}
	if r.Name != "" {
		if err := certificate.CheckLabel(r.Name); err != nil {
			return err
		}
	}
	for _, t := range r.Tags {
		if err := certificate.CheckLabel(t); err != nil {
			return err
		}
	}
	return nil
}

// introducers are the members a token names: this node first, then those that are alive, with addresses that a machine elsewhere has a chance
// of reaching: who offers to relay is known to be reachable and comes first, among them who was appointed; then coordinators, then the rest.
func (m *membership) introducers() []invitation.Member {
	n := m.node
	out := []invitation.Member{{ID: n.ID(), Addresses: pickAddresses(addressesOf(n.endpoints()))}}
	state := m.group.State()
	all := slices.Clone(n.peers.All())
	rank := func(e peer.Entry) int {
		r := 0
		if !e.Record.Relay {
			r += 4
		}
		if !m.appointed(e.ID) {
			r += 2
		}
		if _, _, coordinates := state.Coordinates(e.ID); !coordinates && !state.Coordinators.Voter(e.ID) {
			r++
		}
		return r
	}
	slices.SortStableFunc(all, func(a, b peer.Entry) int { return rank(a) - rank(b) })
	for _, e := range all {
		if len(out) == invitation.MembersMax {
			break
		}
		if e.ID == n.ID() || e.Revoked || e.State != peer.Alive {
			continue
		}
		if addresses := m.addressesOf(e); len(addresses) > 0 {
			out = append(out, invitation.Member{ID: e.ID, Addresses: addresses})
		}
	}
	return out
}

// addressesOf prefers where we reach the member ourselves.
func (m *membership) addressesOf(e peer.Entry) []netip.AddrPort {
	var all []netip.AddrPort
	if p, ok := m.node.socket.Path(e.ID); ok && p.Endpoint.IsValid() {
		all = append(all, p.Endpoint)
	}
	for _, x := range e.Record.Endpoints {
		all = append(all, x.Addr)
	}
	return pickAddresses(all)
}

// pickAddresses chooses one address of each family, public before private, and two of one family rather than one alone.
func pickAddresses(all []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	has := func(v4 bool) bool {
		for _, a := range out {
			if a.Addr().Is4() == v4 {
				return true
			}
		}
		return false
	}
	add := func(want func(netip.AddrPort) bool) {
		for _, a := range all {
			if len(out) == invitation.AddressesMax {
				return
			}
			if want(a) && !contains(out, a) {
				out = append(out, a)
			}
		}
	}
	public := func(a netip.AddrPort) bool { return a.Addr().IsGlobalUnicast() && !a.Addr().IsPrivate() }
	usable := func(a netip.AddrPort) bool { return a.Addr().Zone() == "" && !a.Addr().IsLinkLocalUnicast() }
	for _, fits := range []func(netip.AddrPort) bool{public, usable} {
		add(func(a netip.AddrPort) bool { return fits(a) && !has(a.Addr().Is4()) })
	}
	add(usable)
	return out
}

func contains(all []netip.AddrPort, a netip.AddrPort) bool {
	for _, b := range all {
		if a == b {
			return true
		}
	}
	return false
}

// Invitations lists what the ledger knows of invitations.
func (n *Node) Invitations(ctx context.Context) (*localapi.InvitationList, error) {
	m, err := n.membership("list the invitations")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	all, err := m.group.Invitations(ctx)
	if err != nil {
		return nil, failed("cannot list the invitations", err)
	}
	out := &localapi.InvitationList{}
	for _, i := range all {
		out.Invitations = append(out.Invitations, localapi.Invitation{
			ID: i.ID, Uses: int(i.Total), Used: int(i.Total - i.Uses), Expires: i.Expires.UTC(), Created: i.Created.UTC(), By: i.By.String(),
			Name: i.Name, Tags: i.Tags, State: invitationState(i, n.cfg.Now()),
		})
	}
	return out, nil
}

func invitationState(i coordinator.Invitation, now time.Time) string {
	switch {
	case i.Uses == 0:
		return "used"
	case now.After(i.Expires):
		return "expired"
	}
	return "open"
}

// CancelInvitation ends an invitation before its time.
func (n *Node) CancelInvitation(ctx context.Context, id string) error {
	m, err := n.membership("cancel the invitation")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	err = m.group.CancelInvitation(ctx, id)
	var refused *coordinator.Refused
	if errors.As(err, &refused) && (refused.Code == coordinator.RefusedNoMember || refused.Code == coordinator.RefusedInvitation) {
		// Nobody has decided against it: there is nothing to cancel.
		return localapi.Fail(localapi.Failed, "cannot cancel the invitation", err, "phantom invitations lists them with their state")
	}
	return failed("cannot cancel the invitation", err)
}

// Revoke takes a member's membership away.
func (n *Node) Revoke(ctx context.Context, r localapi.RevokeRequest) (*localapi.Revoked, error) {
	m, err := n.membership("revoke")
	if err != nil {
		return nil, err
	}
	e, err := n.find(r.Node)
	if err != nil {
		return nil, err
	}
	if e.ID == n.ID() {
		return nil, localapi.Fail(localapi.Usage, "cannot revoke "+e.Member.Name, errors.New("that is this node"), "use phantom leave here, or revoke it on another node")
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	if err := m.group.Revoke(ctx, e.ID, r.Reason); err != nil {
		return nil, failed("cannot revoke "+e.Member.Name, err)
	}
	return &localapi.Revoked{ID: e.ID.String(), Name: e.Member.Name}, nil
}

// recoverMax bounds a recovery: a failover's time to be sure that nobody leads, then an election of one.
const recoverMax = 15 * time.Second

// Recover makes this node the only voter of a group that has lost its quorum for good.
func (n *Node) Recover(ctx context.Context, r localapi.RecoverRequest) (*localapi.Recovered, error) {
	const what = "cannot recover the group"
	m, err := n.membership("recover the group")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverMax)
	defer cancel()
	do := m.group.Recover
	if r.Plan {
		do = m.group.CheckRecover
	}
	plan, err := do(ctx)
	if err != nil {
		return nil, failed(what, err)
	}
	state := m.group.State()
	name := func(id identity.NodeID) string {
		if member, ok := state.Member(id); ok {
			return member.Certificate.Name
		}
		return ""
	}
	out := &localapi.Recovered{Recovered: !r.Plan, Generation: int(plan.Generation), ID: n.ID().String(), Name: name(n.ID()), Whole: plan.Whole}
	for _, id := range plan.Lost {
		e, _ := n.peers.Get(id)
		out.Lost = append(out.Lost, localapi.LostVoter{ID: id.String(), Name: name(id), Alive: e.State == peer.Alive})
	}
	return out, nil
}

// Tag replaces a member's tags.
func (n *Node) Tag(ctx context.Context, r localapi.TagRequest) (*localapi.Tagged, error) {
	m, err := n.membership("tag")
	if err != nil {
		return nil, err
	}
	e, err := n.find(r.Node)
	if err != nil {
		return nil, err
	}
	tags := slices.Compact(slices.Sorted(slices.Values(r.Tags)))
	for _, t := range tags {
		if err := certificate.CheckLabel(t); err != nil {
			return nil, localapi.Fail(localapi.Usage, "cannot tag "+e.Member.Name, fmt.Errorf("tag %q: %w", t, err), "")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	if err := m.group.Tag(ctx, e.ID, tags); err != nil {
		return nil, failed("cannot tag "+e.Member.Name, err)
	}
	return &localapi.Tagged{ID: e.ID.String(), Name: e.Member.Name, Tags: tags}, nil
}

// Rename gives a member another name.
func (n *Node) Rename(ctx context.Context, r localapi.RenameRequest) (*localapi.Renamed, error) {
	m, err := n.membership("rename")
	if err != nil {
		return nil, err
	}
	e, err := n.find(r.Node)
	if err != nil {
		return nil, err
	}
	if err := certificate.CheckLabel(r.Name); err != nil {
		return nil, localapi.Fail(localapi.Usage, "cannot rename "+e.Member.Name, fmt.Errorf("name %q: %w", r.Name, err), "")
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	if err := m.group.Rename(ctx, e.ID, r.Name); err != nil {
		return nil, failed("cannot rename "+e.Member.Name, err)
	}
	return &localapi.Renamed{ID: e.ID.String(), Name: r.Name, Was: e.Member.Name}, nil
}

// find resolves a name, an ID or an overlay address to one node.
func (n *Node) find(name string) (peer.Entry, error) {
	switch found := n.peers.Resolve(name); len(found) {
	case 0:
		return peer.Entry{}, localapi.UnknownNode(name)
	case 1:
		return found[0], nil
	default:
		var candidates []string
		for _, e := range found {
			candidates = append(candidates, fmt.Sprintf("%s %s %s", e.Member.Name, e.ID.Short(), e.Member.Addresses()[0]))
		}
		return peer.Entry{}, localapi.Ambiguous(name, candidates)
	}
}

// Down begins the graceful stop.
func (n *Node) Down(context.Context) error {
	n.finish(nil)
	return nil
}

// Leave gives the membership up for good, then stops. If the mesh cannot decide now, nothing changes.
func (n *Node) Leave(ctx context.Context) error {
	m, err := n.membership("leave")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownMax)
	defer cancel()
	n.leaving.Store(true)
	if err := m.group.Leave(ctx, n.ID()); err != nil {
		n.leaving.Store(false)
		return failed("cannot leave "+m.group.State().Mesh.Name, err)
	}
	n.finish(nil)
	return nil
}
