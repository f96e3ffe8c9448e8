package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
)

// Defaults and bounds of a ping, those of the usual tool.
const (
	pingInterval    = time.Second
	pingIntervalMin = 10 * time.Millisecond
	pingTimeout     = 5 * time.Second
	pingTimeoutMax  = time.Minute
	pingSize        = 56
	pingSizeMax     = 65507 - 8
)

// Ping sends echoes through the overlay, or keyed checks on the path under it, and tells each answer as it comes.
func (n *Node) Ping(ctx context.Context, r localapi.PingRequest, emit func(localapi.PingReply) error) error {
	m, err := n.membership("ping")
	if err != nil {
		return err
	}
	if err := checkPing(&r); err != nil {
		return localapi.Fail(localapi.Usage, "cannot ping", err, "")
	}
	e, err := n.find(r.Node)
	if err != nil {
		return err
	}
	if e.Revoked {
		return failed("cannot ping "+e.Member.Name, &coordinator.Refused{Code: coordinator.RefusedRevoked, Reason: "its membership was revoked"})
	}
	for seq := 1; seq <= r.Count; seq++ {
		begun := time.Now()
		if err := emit(m.echo(ctx, e, r, seq)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if seq < r.Count && !sleep(ctx, r.Interval-time.Since(begun)) {
			return nil
		}
	}
	return nil
}

func checkPing(r *localapi.PingRequest) error {
	if r.Interval == 0 {
		r.Interval = pingInterval
	}
	if r.Timeout == 0 {
		r.Timeout = pingTimeout
	}
	if r.Size == 0 {
		r.Size = pingSize
	}
	switch {
	case r.Count < 1 || r.Count > localapi.PingCountMax:
		return fmt.Errorf("a count of %d: 1 to %d are possible", r.Count, localapi.PingCountMax)
	case r.Interval < pingIntervalMin:
		return fmt.Errorf("an interval of %s: %s is the least", r.Interval, pingIntervalMin)
	case r.Timeout < 0 || r.Timeout > pingTimeoutMax:
		return fmt.Errorf("a timeout of %s: %s at most", r.Timeout, pingTimeoutMax)
	case r.Size < 0 || r.Size > pingSizeMax:
		return fmt.Errorf("a size of %d bytes: %d at most", r.Size, pingSizeMax)
	}
	return nil
}

// echo is one ping.
func (m *membership) echo(ctx context.Context, e peer.Entry, r localapi.PingRequest, seq int) localapi.PingReply {
	reply := localapi.PingReply{Sequence: seq, Node: e.ID.String(), Name: e.Member.Name, Address: m.echoAddress(e, r.Node).String()}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	rtt, err := m.roundTrip(ctx, e, r)
	reply.Path = m.node.path(e.ID)
	if err != nil {
		reply.Lost = true
		reply.Error = m.lossReason(err)
		return reply
	}
	reply.TimeMs = millis(rtt)
	return reply
}

func (m *membership) roundTrip(ctx context.Context, e peer.Entry, r localapi.PingRequest) (time.Duration, error) {
	if r.Path {
		if err := m.node.socket.Connect(ctx, e.ID); err != nil {
			return 0, err
		}
		return m.node.socket.Probe(ctx, e.ID)
	}
	if e.ID != m.node.ID() {
		// The tunnel first, so that the time is the echo's and not the key exchange's.
		if err := m.plane.Ensure(ctx, e.ID); err != nil {
			return 0, err
		}
	}
	return m.plane.Ping(ctx, m.echoAddress(e, r.Node), r.Size)
}

// echoAddress is which of a member's addresses is pinged: the one that was named, else the first that leads into this mesh.
func (m *membership) echoAddress(e peer.Entry, named string) netip.Addr {
	all := e.Member.Addresses()
	if a, err := netip.ParseAddr(named); err == nil && slices.Contains(all, a) {
		return a
	}
	for _, a := range all {
		if !slices.ContainsFunc(m.taken, func(t dataplane.RangeTaken) bool { return t.Range.Contains(a) }) {
			return a
		}
	}
	return all[0]
}

func (m *membership) lossReason(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded) && m.guard.filters():
		return "no answer in time; there is a policy, which has to allow icmp for a ping to pass"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, dataplane.ErrUnreachable):
		return "cannot be reached"
	}
	return err.Error()
}

// Wait returns once this node is online and r.Node, when named, answers through the overlay.
func (n *Node) Wait(ctx context.Context, r localapi.WaitRequest) error {
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	if r.Timeout < 0 {
		return localapi.Fail(localapi.Usage, "cannot wait", fmt.Errorf("a timeout of %s", r.Timeout), "")
	}
	last := errors.New("this node is not online yet")
	for {
		if err := n.reachable(ctx, r.Node); err == nil {
			return nil
		} else if ctx.Err() == nil || n.online.Load() != nil { // else the time ended while the node was still starting
			last = err
		}
		if f := usageOf(last); f != nil {
			return f
		}
		if !sleep(ctx, waitPause) {
			return localapi.Fail(localapi.TimedOut, "waited in vain"+forNode(r.Node), last, "see phantom status and phantom doctor")
		}
		select {
		case <-n.stop:
			return localapi.Fail(localapi.Failed, "cannot wait", errors.New("the node is stopping"), "")
		default:
		}
	}
}

// waitPause is the time between two looks of Wait, and waitEcho how long each waits for an echo.
const (
	waitPause = 100 * time.Millisecond
	waitEcho  = 2 * time.Second
)

func forNode(name string) string {
	if name == "" {
		return ""
	}
	return " for " + name
}

// usageOf gives the failure that waiting cannot mend: an ambiguous name.
func usageOf(err error) *localapi.Failure {
	var f *localapi.Failure
	if errors.As(err, &f) && f.Class == localapi.Usage {
		return f
	}
	return nil
}

// reachable is nil when the node is online and the other, if named, answers.
func (n *Node) reachable(ctx context.Context, name string) error {
	m, err := n.membership("reach the mesh")
	if err != nil {
		return err
	}
	if name == "" {
		return nil
	}
	e, err := n.find(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, waitEcho)
	defer cancel()
	if _, err = m.roundTrip(ctx, e, localapi.PingRequest{Size: pingSize}); err != nil {
		return errors.New(m.lossReason(err))
	}
	return nil
}
