package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// TargetsMax is the most bootstrap targets that are tried.
	TargetsMax = 32
	// targetAddrsMax is the most addresses of one name that are tried: both families, a few machines behind a name.
	targetAddrsMax = 8
	// lookupTime bounds the resolution of one name. A resolver that has not answered by then is not going to.
	lookupTime = 5 * time.Second
	// contactsMax is how many contacts run side by side.
	contactsMax = 16
)

// ErrNoAnswer says that none of the targets answered; see [NoAnswerError] for each.
var ErrNoAnswer = errors.New("discovery: nobody answers")

// Resolver looks names up: *net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Failure is what went wrong with one target, or one address of it.
type Failure struct {
	Target string
	// Addr is not valid when the target could not even be looked up.
	Addr netip.AddrPort
	Err  error
}

// NoAnswerError tells what failed for each target. It is an [ErrNoAnswer].
type NoAnswerError struct{ Failures []Failure }

// Error lists the failures.
func (e *NoAnswerError) Error() string {
	if len(e.Failures) == 0 {
		return ErrNoAnswer.Error() + ": no address is given"
	}
	var lines []string
	for _, f := range e.Failures {
		where := f.Target
		if f.Addr.IsValid() && f.Addr.String() != f.Target {
			where += " (" + f.Addr.String() + ")"
		}
		lines = append(lines, fmt.Sprintf("%s: %v", where, f.Err))
	}
	return ErrNoAnswer.Error() + ": " + strings.Join(lines, "; ")
}

// Unwrap returns ErrNoAnswer and the failures' errors.
func (e *NoAnswerError) Unwrap() []error {
	out := []error{ErrNoAnswer}
	for _, f := range e.Failures {
		out = append(out, f.Err)
	}
	return out
}

// Answer is the target that answered first.
type Answer struct {
	Target string
	Addr   netip.AddrPort
	// Failures are those that had failed by then.
	Failures []Failure
}

// Bootstrap tries lists of addresses.
type Bootstrap struct {
	// Resolver is where names are looked up; nil for the system's.
	Resolver Resolver
}

// FirstAnswer is [Bootstrap.FirstAnswer] with the system's resolver.
func FirstAnswer(ctx context.Context, targets []string, contact func(context.Context, netip.AddrPort) error) (Answer, error) {
	return Bootstrap{}.FirstAnswer(ctx, targets, contact)
}

// FirstAnswer resolves targets ("host:port", a name or an address) and calls contact for each address, side by side. The first
// contact that returns nil wins; the contexts of the others are ended, and FirstAnswer returns when they have returned. A second
// one that succeeds all the same is not reported: what it set up is its own to keep or to undo. If none succeeds, the error is a
// [*NoAnswerError]; if ctx ends before, it is that too, with ctx's error for those that were still trying.
func (b Bootstrap) FirstAnswer(ctx context.Context, targets []string, contact func(context.Context, netip.AddrPort) error) (Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &race{ctx: ctx, cancel: cancel, contact: contact, slots: make(chan struct{}, contactsMax)}
	b.Resolve(ctx, targets, func(f Failure) {
		if f.Err != nil {
			r.fail(f)
			return
		}
		r.tasks.Go(func() { r.try(f.Target, f.Addr) })
	})
	r.tasks.Wait()
	if r.winner == nil {
		return Answer{}, &NoAnswerError{Failures: r.failures}
	}
	return *r.winner, nil
}

// Resolve looks targets up side by side and calls each for every address as soon as it is known, once for each address, with a nil Err; and for a
// target that has none with the reason. Calls come one at a time, from several goroutines. It returns when all have been looked up: a resolver that
// does not answer holds up its own names and nobody else.
func (b Bootstrap) Resolve(ctx context.Context, targets []string, each func(Failure)) {
	if b.Resolver == nil {
		b.Resolver = net.DefaultResolver
	}
	var mu sync.Mutex // guards each and told
	told := map[netip.AddrPort]bool{}
	tell := func(f Failure) {
		mu.Lock()
		defer mu.Unlock()
		if f.Err == nil && told[f.Addr] {
			return
		}
		told[f.Addr] = true
		each(f)
	}
	var lookups sync.WaitGroup
	defer lookups.Wait()
	for i, target := range targets {
		if i == TargetsMax {
			tell(Failure{Target: target, Err: fmt.Errorf("left out with all after it, at most %d targets are tried", TargetsMax)})
			break
		}
		lookups.Go(func() {
			addrs, err := b.resolve(ctx, target)
			if err != nil {
				tell(Failure{Target: target, Err: err})
			}
			for _, a := range addrs {
				tell(Failure{Target: target, Addr: a})
			}
		})
	}
}

// race is one call of FirstAnswer.
type race struct {
	ctx     context.Context
	cancel  context.CancelFunc
	contact func(context.Context, netip.AddrPort) error
	slots   chan struct{}
	tasks   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	failures []Failure
	winner   *Answer
}

func (r *race) fail(f Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.winner == nil {
		r.failures = append(r.failures, f)
	}
}

func (r *race) try(target string, addr netip.AddrPort) {
	var err error
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
		err = r.contact(r.ctx, addr)
	case <-r.ctx.Done():
		err = r.ctx.Err()
	}
	if err != nil {
		r.fail(Failure{Target: target, Addr: addr, Err: err})
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.winner == nil {
		r.winner = &Answer{Target: target, Addr: addr, Failures: r.failures}
		r.cancel()
	}
}

// resolve returns the addresses of a target.
func (b Bootstrap) resolve(ctx context.Context, target string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(target)
	if err != nil {
		return nil, fmt.Errorf("not of the form host:port: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 || host == "" {
		return nil, fmt.Errorf("not of the form host:port, with a port from 1 to 65535")
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), uint16(port))}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	addrs, err := b.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("cannot resolve the name: %w", err)
	}
	var out []netip.AddrPort
	for _, addr := range addrs[:min(len(addrs), targetAddrsMax)] {
		out = append(out, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
	}
	if len(out) == 0 {
		return nil, errors.New("the name has no address")
	}
	return out, nil
}
