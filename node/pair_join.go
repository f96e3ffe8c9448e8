package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/crypto/pairing"
	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

const (
	// pairAgain is the pause before the mesh is asked anew after the member that held the request went away.
	pairAgain = 2 * time.Second
	// pairPatience is for how long it is asked in vain before this machine gives up.
	pairPatience = 2 * time.Minute
)

// application is this machine's own request to a mesh, from the first contact to the end. Its goroutine outlives the command that began it.
type application struct {
	wanted foundMesh
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed

	mu      sync.Mutex
	pending *localapi.Pending // what people are shown; nil while nobody holds the request
}

func (a *application) show(p *localapi.Pending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = p
}

func (a *application) shown() *localapi.Pending {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pending
}

// askedFor reports whether it is this mesh, by name or fingerprint, that was asked; any, if none is named.
func (a *application) askedFor(mesh string) bool {
	if mesh == "" || mesh == a.wanted.name || mesh == a.wanted.fingerprint {
		return true
	}
	p := a.shown() // with --bootstrap, who was asked says which mesh it is of
	return p != nil && (mesh == p.Mesh.Name || strings.HasPrefix(p.Mesh.ID, mesh))
}

// untilStop ends a context with the node.
func (n *Node) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with ctx
		select {
		case <-n.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// apply begins to ask a mesh. The caller holds n.entering.
func (n *Node) apply(wanted foundMesh) *application {
	ctx, cancel := n.untilStop(context.Background())
	a := &application{wanted: wanted, cancel: cancel, done: make(chan struct{})}
	n.applying.Store(a)
	n.phase.Store(localapi.StatePending)
	go func() { // ends with the decision, with the node, or when another way in is taken; see endApplication
		defer close(a.done)
		defer cancel()
		a.err = n.pursue(ctx, a)
		a.show(nil)
		n.phase.CompareAndSwap(localapi.StatePending, localapi.StateOffline)
		if a.err != nil {
			n.log.Info("not in the mesh", "err", a.err)
		}
	}()
	return a
}

// endApplication gives up what was asked for, because another way in is taken or the node ends. The caller holds n.entering.
func (n *Node) endApplication() {
	a := n.applying.Swap(nil)
	if a == nil {
		return
	}
	a.cancel()
	// It waits for n.entering no longer than until then: it cannot wait for us.
	<-a.done
}

// await returns when an application is decided.
func (a *application) await(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		if p := a.shown(); p != nil {
			return localapi.Fail(localapi.TimedOut, "nobody has approved this machine yet", fmt.Errorf("its code is %s", p.Code),
				"phantom approve "+p.Code+" on a member; this node goes on waiting")
		}
		return localapi.Fail(localapi.TimedOut, "cannot ask to join", fmt.Errorf("nobody has answered yet: %s", a.wanted), "phantom up again goes on waiting")
	}
}

// pursue asks until somebody decides: anew, with a new code, when the member that held the request has gone.
func (n *Node) pursue(ctx context.Context, a *application) error {
	held, lastHeld, codes := false, time.Now(), 0
	for {
		p, err := n.petition(ctx, a.wanted)
		if err == nil {
			err = n.waitForVerdict(ctx, a, p)
			held, lastHeld = true, time.Now()
			codes++
			if err == nil {
				return nil
			}
		}
		var final *localapi.Failure
		switch {
		case errors.As(err, &final):
			return final
		case ctx.Err() != nil:
			return localapi.Fail(localapi.Failed, "not joined", errors.New("the request was taken back"), "")
		case time.Since(lastHeld) > pairPatience, !held && errors.Is(err, discovery.ErrNoAnswer): // where nobody answers at all, asking again is for a person to decide
			return unasked(a.wanted, err)
		}
		n.log.Debug("asking the mesh again", "err", err)
		if !sleep(ctx, pauseBetweenCodes(codes)) {
			return localapi.Fail(localapi.Failed, "not joined", errors.New("the request was taken back"), "")
		}
	}
}

// pauseBetweenCodes is how long to wait before asking again after so many codes were shown here. Every code shown is one more guess for a machine in
// the middle, which could break off each exchange at once: the pauses double up to about a minute, so that ten minutes show some 14 codes at most.
func pauseBetweenCodes(codes int) time.Duration { return pairAgain << min(max(codes-1, 0), 5) }

// sent is a request that a member holds.
type sent struct {
	stream *control.Stream
	member identity.NodeID
	addr   netip.AddrPort
	mesh   identity.MeshID
	name   string
	code   string
}

// petition asks at all addresses side by side; the first member that takes the request holds it.
func (n *Node) petition(ctx context.Context, wanted foundMesh) (*sent, error) {
	ctx, cancel := context.WithTimeout(ctx, joinMax)
	defer cancel()
	asking := make(chan struct{}, 1) // two requests would show two codes; a channel, as who waits must hear when it is no longer wanted
	var held *sent
	var final *localapi.Failure
	_, err := discovery.Bootstrap{Resolver: n.cfg.Resolver}.FirstAnswer(ctx, n.targets(wanted), func(ctx context.Context, addr netip.AddrPort) error {
		to, err := n.socket.Contact(ctx, addr)
		if err != nil {
			return err
		}
		select {
		case asking <- struct{}{}:
			defer func() { <-asking }()
		case <-ctx.Done():
			return ctx.Err()
		}
		if held != nil || final != nil {
			return context.Canceled
		}
		s, err := n.control.OpenTo(ctx, to, identity.NodeID{}, protocolPair)
		if err != nil {
			return err
		}
		got, err := n.ask(ctx, s, wanted)
		if err != nil {
			s.Close()
			errors.As(err, &final)
			return err
		}
		got.addr, held = addr, got
		return nil
	})
	switch {
	case held != nil:
		return held, nil
	case final != nil:
		return nil, final
	}
	return nil, err
}

// ask is the joiner's half of the exchange.
func (n *Node) ask(ctx context.Context, s *control.Stream, wanted foundMesh) (*sent, error) {
	defer context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })()
	_ = s.SetDeadline(time.Now().Add(2 * pairStep))
	session := pairing.Session{Joiner: n.ID(), Member: s.Peer().ID}
	var nonce pairing.Nonce
	if _, err := io.ReadFull(n.cfg.Rand, nonce[:]); err != nil {
		return nil, err
	}
	var err error
	if session.Exporter, err = s.Exporter(pairing.ExporterLabel, nil); err != nil {
		return nil, err
	}
	if err := pairing.WriteHello(s, session.Commit(nonce)); err != nil {
		return nil, err
	}
	offer, err := pairing.ReadOffer(s)
	if err != nil {
		return nil, err
	}
	if offer.Refusal != "" {
		return nil, localapi.Fail(localapi.Refused, "cannot ask to join", errors.New(offer.Refusal), "")
	}
	if wanted.fingerprint != "" && offer.Mesh.Short() != wanted.fingerprint || wanted.name != "" && wanted.name != offer.Name && wanted.name != offer.Mesh.Short() {
		return nil, otherMesh{showable(offer.Name), offer.Mesh.Short()}
	}
	settings := n.cfg.Settings
	request, err := invitation.SignRequest(n.key, invitation.Request{Mesh: offer.Mesh, Name: settings.Name, Region: settings.Region, Time: n.cfg.Now()})
	if err != nil {
		return nil, err
	}
	if err := pairing.WriteReveal(s, pairing.Reveal{Nonce: nonce, Request: request}); err != nil {
		return nil, err
	}
	return &sent{stream: s, member: s.Peer().ID, mesh: offer.Mesh, name: offer.Name, code: session.Code(offer.Mesh, nonce, offer.Nonce)}, nil
}

// waitForVerdict shows the code and waits. nil: this machine is a member now. A *localapi.Failure is final, any other error means that the member
// has gone.
func (n *Node) waitForVerdict(ctx context.Context, a *application, p *sent) error {
	defer p.stream.Close()
	defer context.AfterFunc(ctx, func() { p.stream.Close() })()
	for first := true; ; first = false {
		_ = p.stream.SetDeadline(time.Now().Add(3 * pairBeat))
		notice, err := pairing.ReadNotice(p.stream)
		if err != nil {
			a.show(nil)
			return fmt.Errorf("the member that held the request has gone: %w", err)
		}
		switch notice.Kind {
		case pairing.NoticeWaiting:
			if first {
				n.log.Info("waiting for approval", "mesh", p.name, "code", p.code, "peer", p.member.Short())
				a.show(&localapi.Pending{Code: p.code, Mesh: localapi.Mesh{ID: p.mesh.String(), Name: p.name}, Member: p.member.String(),
					Address: p.addr.String(), Since: n.cfg.Now().UTC().Truncate(time.Second), Expires: n.cfg.Now().Add(petitionLife).UTC().Truncate(time.Second)})
			}
		case pairing.NoticeAdmitted:
			return n.admitted(ctx, p, notice.Body)
		case pairing.NoticeRefused:
			return localapi.Fail(localapi.Refused, "the mesh "+p.name+" did not let this machine in", errors.New(showable(notice.Reason)),
				"ask whoever looks after the mesh; phantom up asks again")
		case pairing.NoticeExpired:
			return localapi.Fail(localapi.TimedOut, "nobody approved this machine", fmt.Errorf("its request to the mesh %s expired after %s", p.name, petitionLife),
				"phantom up asks again, with a new code")
		}
	}
}

// showable keeps what another machine says from doing anything to a terminal.
func showable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}

// admitted makes this machine a member.
func (n *Node) admitted(ctx context.Context, p *sent, body []byte) error {
	const what = "cannot join the mesh"
	answer, err := coordinator.ParseAnswer(body, p.mesh, n.ID(), n.cfg.Now())
	if err != nil {
		return failed(what, err)
	}
	select { // the command that asked has it for a moment
	case n.entering <- struct{}{}:
		defer func() { <-n.entering }()
	case <-ctx.Done():
		return failed(what, ctx.Err())
	}
	if n.mesh.Load() != nil || ctx.Err() != nil {
		return failed(what, context.Canceled)
	}
	n.book.Note(p.member, []netip.AddrPort{p.addr}, n.cfg.Now())
	n.socket.Hint(p.member, []netip.AddrPort{p.addr})
	if err := n.book.Flush(); err != nil {
		n.log.Warn("address book not kept", "err", err)
	}
	m := n.newMembership()
	group, err := coordinator.Enrolled(n.groupConfig(m), answer)
	if err != nil {
		return failed(what, err)
	}
	return n.enterWith(m, group, what)
}
