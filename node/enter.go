package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay"
)

// joinMax bounds one attempt to join: contact, a handshake, an admission by the group, each of which ends in about a second if it works.
const joinMax = 20 * time.Second

// errUnreachable: none of a token's members answered.
var errUnreachable = errors.New("no member of the mesh can be reached")

// Enter brings a node that is in no mesh into one, and returns when it is online.
func (n *Node) Enter(ctx context.Context, e localapi.Entry) error {
	if e.IsZero() {
		return nil
	}
	if err := n.awaitReady(ctx); err != nil {
		return failed("cannot enter a mesh", err)
	}
	a, err := n.enter(ctx, e)
	if a == nil || err != nil {
		return err
	}
	return a.await(ctx)
}

// enter does what needs no person; with an application somebody has to approve it.
func (n *Node) enter(ctx context.Context, e localapi.Entry) (*application, error) {
	select {
	case n.entering <- struct{}{}:
		defer func() { <-n.entering }()
	case <-ctx.Done():
		return nil, localapi.Fail(localapi.TimedOut, "cannot enter a mesh", errors.New("another command is just doing so"), "look at phantom status and try again")
	}
	select {
	case <-n.stop:
		return nil, localapi.Fail(localapi.Failed, "cannot enter a mesh", errors.New("the node is stopping"), "start it again: phantom up")
	default:
	}
	if m := n.mesh.Load(); m != nil {
		return nil, n.alreadyIn(ctx, m, e)
	}
	if e.Token == "" && e.New == "" {
		return n.findMesh(ctx, e.Mesh)
	}
	n.endApplication()
	if e.Token != "" {
		return nil, n.join(ctx, e.Token)
	}
	return nil, n.found(e.New)
}

// awaitReady waits until the node knows whether its folder belongs to a mesh already.
func (n *Node) awaitReady(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-n.stop:
		return errors.New("the node is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// alreadyIn tells a member that it is one: harmless if that is what was asked for. With an invitation a certificate is renewed that has ended.
func (n *Node) alreadyIn(ctx context.Context, m *membership, e localapi.Entry) error {
	mesh := m.group.State().Mesh
	const next = "leave it first (phantom leave), or use another state folder with --state"
	switch {
	case e.Token != "":
		t, err := invitation.Parse(e.Token)
		if err != nil {
			return localapi.Fail(localapi.Usage, "cannot join", err, "")
		}
		if t.Mesh != mesh.ID {
			return localapi.Fail(localapi.Failed, "cannot join", fmt.Errorf("state folder %s belongs to another mesh, %s (%s)",
				n.folder.path, mesh.Name, mesh.ID.Short()), next)
		}
		return m.returnWith(ctx, t)
	case e.Mesh != "" && e.Mesh != mesh.Name && e.Mesh != mesh.ID.Short():
		return localapi.Fail(localapi.Failed, "cannot join "+e.Mesh, fmt.Errorf("state folder %s belongs to the mesh %s (%s)",
			n.folder.path, mesh.Name, mesh.ID.Short()), next)
	case e.New != "" && e.New != mesh.Name:
		return localapi.Fail(localapi.Failed, "cannot found "+e.New, fmt.Errorf("state folder %s belongs to the mesh %s (%s)",
			n.folder.path, mesh.Name, mesh.ID.Short()), next)
	}
	return nil
}

// found makes a new mesh with this node as its first member.
func (n *Node) found(name string) error {
	s := n.cfg.Settings
	m := n.newMembership()
	group, err := coordinator.Found(n.groupConfig(m), coordinator.Founding{MeshName: name, IPv4: s.IPv4, NodeName: s.Name, Region: cmp.Or(s.Region, coordinator.DefaultRegion)})
	if err != nil {
		return failed("cannot found the mesh "+name, err)
	}
	return n.enterWith(m, group, "cannot found the mesh "+name)
}

// resume takes part in the mesh that the state folder belongs to.
func (n *Node) resume() error {
	n.entering <- struct{}{}
	defer func() { <-n.entering }()
	m := n.newMembership()
	group, err := coordinator.Open(n.groupConfig(m))
	if errors.Is(err, coordinator.ErrNoMesh) {
		return nil
	}
	if err != nil {
		return failed("cannot take part in the mesh", err)
	}
	return n.enterWith(m, group, "cannot take part in the mesh")
}

func (n *Node) enterWith(m *membership, group *coordinator.Group, what string) error {
	err := m.start(group)
	if err == nil {
		n.announceMesh(m)
		return nil
	}
	n.mesh.Store(nil)
	ctx, cancel := context.WithTimeout(context.Background(), shutdownMax)
	defer cancel()
	m.close(ctx)
	return failed(what, err)
}

// join enrols with an invitation.
func (n *Node) join(ctx context.Context, text string) error {
	const what = "cannot join the mesh"
	token, err := invitation.Parse(text)
	if err != nil {
		return localapi.Fail(localapi.Usage, what, err, "copy the token as phantom invite printed it")
	}
	n.phase.Store(localapi.StateEnrolling)
	defer n.phase.CompareAndSwap(localapi.StateEnrolling, localapi.StateOffline)
	ctx, cancel := context.WithTimeout(ctx, joinMax)
	defer cancel()
	answer, err := n.enrol(ctx, token)
	if err != nil {
		return err
	}
	m := n.newMembership()
	group, err := coordinator.Enrolled(n.groupConfig(m), answer)
	if err != nil {
		return failed(what, err)
	}
	return n.enterWith(m, group, what)
}

// attempt is what came of asking one address of one member.
type attempt struct {
	member identity.NodeID
	addr   netip.AddrPort
	answer coordinator.Answer
	err    error
}

// refusalGrace is how long the others have still to let us in when a node has refused us that the token does not name: it may be of another mesh,
// or of none. A member that is there answers in a second.
const refusalGrace = 5 * time.Second

// enrol asks all members of the token at all their addresses side by side, and whoever is at a bootstrap address. The first that lets us in wins. A
// member that could not decide (no quorum in its reach) or was not reached leaves it to the others; what a member refuses that the token names is
// the mesh's word, and final.
func (n *Node) enrol(ctx context.Context, token invitation.Token) (coordinator.Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at := n.introductions(ctx, token)
	results := make(chan attempt, len(at)+bootstrapMax)
	// The LAN is searched meanwhile: it may know a member where the token's are all gone.
	more := make(chan []introduction, 1)
	go func() { more <- n.lanIntroductions(ctx, token.Mesh, at) }()
	// One request at a time: two that race would both be admitted, as the same node, but the second for nothing. A channel, as who waits for
	// its turn must hear when it is no longer wanted.
	asking := make(chan struct{}, 1)
	open := 0
	begin := func(at []introduction) {
		open += len(at)
		for _, i := range at {
			go func() {
				a := attempt{member: i.member, addr: i.addr}
				a.answer, a.err = n.enrolAt(ctx, token, &a, asking)
				results <- a
			}()
		}
	}
	begin(at)
	var failures []attempt
	var enough <-chan time.Time
	for more != nil || open > 0 {
		var a attempt
		select {
		case <-enough:
			return coordinator.Answer{}, joinFailure(failures)
		case found := <-more:
			begin(found)
			more = nil
			continue
		case a = <-results:
			open--
		}
		if a.err == nil {
			n.rememberIntroducers(token, a)
			return a.answer, nil
		}
		n.log.Debug("not enrolled", "peer", a.member.Short(), "addr", a.addr.String(), "err", a.err)
		failures = append(failures, a)
		var refused *coordinator.Refused
		switch {
		case !errors.As(a.err, &refused):
		case slices.ContainsFunc(token.Members, func(m invitation.Member) bool { return m.ID == a.member }):
			return coordinator.Answer{}, joinFailure(failures)
		case enough == nil:
			enough = time.After(refusalGrace)
		}
	}
	return coordinator.Answer{}, joinFailure(failures)
}

// rememberIntroducers keeps where the token's members are, and who let us in, at once: a node that is killed a moment after it was admitted must
// find the mesh again without its token.
func (n *Node) rememberIntroducers(token invitation.Token, a attempt) {
	note := func(id identity.NodeID, addrs []netip.AddrPort) {
		n.book.Note(id, addrs, n.cfg.Now())
		n.socket.Hint(id, addrs)
	}
	for _, member := range token.Members {
		note(member.ID, member.Addresses)
	}
	let := slices.IndexFunc(token.Members, func(m invitation.Member) bool { return m.ID == a.member })
	if let < 0 {
		note(a.member, []netip.AddrPort{a.addr}) // of --bootstrap or the LAN
	} else {
		note(a.member, append([]netip.AddrPort{a.addr}, token.Members[let].Addresses...))
	}
	if err := n.book.Flush(); err != nil {
		n.log.Warn("address book not kept", "err", err)
	}
}

// enrolAt makes one attempt, and notes which member was there.
func (n *Node) enrolAt(ctx context.Context, token invitation.Token, a *attempt, asking chan struct{}) (coordinator.Answer, error) {
	to, err := n.socket.Contact(ctx, a.addr)
	if err != nil {
		return coordinator.Answer{}, err
	}
	s, err := n.openEnrol(ctx, to, a.member)
	if err != nil {
		return coordinator.Answer{}, err
	}
	defer s.Close()
	a.member = s.Peer().ID
	select {
	case asking <- struct{}{}:
		defer func() { <-asking }()
	case <-ctx.Done():
		return coordinator.Answer{}, ctx.Err()
	}
	if err := ctx.Err(); err != nil { // both were ready
		return coordinator.Answer{}, err
	}
	settings := n.cfg.Settings
	request, err := invitation.SignRequest(n.key, invitation.Request{
		Mesh: token.Mesh, Name: settings.Name, Region: settings.Region, Invitation: token.ID(),
		Proof: invitation.Proof(token.Key(), token.Mesh, n.ID()), Time: n.cfg.Now(),
	})
	if err != nil {
		return coordinator.Answer{}, err
	}
	return coordinator.RequestEnrollment(ctx, s, request, token.Mesh, n.cfg.Now())
}

// openEnrol opens a stream to the member that the token names, or to whoever else is at its address now: a machine that was set up anew, or another
// behind the same router. Any member may let in, what is asked is bound to this node's keys and tells nothing of the token's secret, and the answer
// has to prove the mesh. So it gets what it would at a --bootstrap address.
func (n *Node) openEnrol(ctx context.Context, to underlay.Addr, member identity.NodeID) (*control.Stream, error) {
	s, err := n.control.OpenTo(ctx, to, member, coordinator.ProtocolEnroll)
	var turned *control.Refused
	if member.IsZero() || !errors.As(err, &turned) || !turned.Ours || turned.Code != uint64(control.ReasonWrongNode) {
		return s, err
	}
	n.log.Info("another node is at the address of the token's member; asking it", "peer", member.Short())
	return n.control.OpenTo(ctx, to, identity.NodeID{}, coordinator.ProtocolEnroll)
}

// joinFailure explains to the joiner what came of all attempts: a refusal first, then what a reachable member said, then who was not reached.
func joinFailure(failures []attempt) error {
	const what = "cannot join the mesh"
	var refused *coordinator.Refused
	var silent []string
	for _, a := range failures {
		switch {
		case errors.As(a.err, &refused):
			return localapi.Fail(localapi.Refused, what, refused, refusalNext(refused))
		case errors.Is(a.err, coordinator.ErrNoQuorum):
			return localapi.Fail(localapi.Failed, what, a.err, "try again once most coordinators are back; the token stays good until it expires")
		}
		who := a.member.Short()
		if a.member.IsZero() {
			who = "--bootstrap or LAN"
		}
		silent = append(silent, fmt.Sprintf("%s (%s): %v", who, a.addr, brief(a.err)))
	}
	if len(silent) == 0 {
		silent = []string{"the token names no address"}
	}
	return localapi.Fail(localapi.TimedOut, what, fmt.Errorf("%w: %s", errUnreachable, strings.Join(silent, "; ")),
		"check that this machine can send UDP to one of these addresses and that phantom runs there, or ask for a new invitation")
}

func brief(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return errors.New("no answer")
	}
	return err
}

func refusalNext(r *coordinator.Refused) string {
	switch r.Code {
	case coordinator.RefusedMesh: // the other reasons say it themselves
		return "ask a member for a new invitation: phantom invite"
	case coordinator.RefusedClock:
		return "set this machine's clock and join again"
	}
	return ""
}
