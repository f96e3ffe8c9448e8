package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay"
)

const (
	// searchTime is how long phantom up listens for a mesh in the LAN, and searchLeast how long if it hears one: the second question is
	// put after 300 ms and answered within 120, so that several meshes are seen as several even where a packet is lost.
	searchTime  = 1500 * time.Millisecond
	searchLeast = 600 * time.Millisecond
	// rivalWait is how long it waits for another machine that is about to found one: that machine's own search, and the founding on a slow one.
	rivalWait = 8 * time.Second
)

// findMesh looks for a mesh and applies to it, or founds one where there is none. The caller holds n.entering. With an application it is that which
// the caller has to wait for.
func (n *Node) findMesh(ctx context.Context, wanted string) (*application, error) {
	if a := n.applying.Load(); a != nil {
		select {
		case <-a.done:
		default:
			if a.askedFor(wanted) {
				return a, nil // asked before; the command comes again to hear of it
			}
			n.endApplication()
		}
	}
	ctx, cancel := n.untilStop(ctx)
	defer cancel()
	if hosts := n.cfg.Settings.Bootstrap; len(hosts) > 0 {
		return n.apply(foundMesh{name: wanted, hosts: hosts}), nil
	}
	if n.lan == nil {
		if wanted != "" {
			return nil, localapi.Fail(localapi.Failed, "cannot find the mesh "+wanted, errors.New("this node does not look at the LAN"),
				"start it without --no-lan, name a member with --bootstrap HOST:PORT, or join with an invitation")
		}
		return nil, n.found("home")
	}
	mesh, err := n.searchLAN(ctx, wanted)
	if err != nil {
		n.lan.Silence()
		return nil, err
	}
	if mesh != nil {
		n.lan.Silence()
		return n.apply(*mesh), nil
	}
	n.announceStage(discovery.StageFounding)
	if err := n.found("home"); err != nil {
		n.lan.Silence()
		return nil, err
	}
	return nil, nil
}

// searchLAN returns the mesh to ask, or nil if this machine is to found one.
func (n *Node) searchLAN(ctx context.Context, wanted string) (*foundMesh, error) {
	n.announceStage(discovery.StageSeeking)
	patience := time.NewTimer(searchTime + rivalWait)
	defer patience.Stop()
	var grace <-chan time.Time // runs while a mesh is heard without an address
	late := false
	neighbours := n.lan.Search(ctx, searchLeast, searchTime, func(x []discovery.Neighbour) bool { return len(meshesOf(x, wanted)) > 0 })
	for {
		changed := n.lan.Changed()
		if err := ctx.Err(); err != nil {
			return nil, failed("cannot find a mesh", err)
		}
		switch meshes := meshesOf(neighbours, wanted); {
		case len(meshes) == 1:
			return &meshes[0], nil
		case len(meshes) > 1:
			return nil, severalMeshes(meshes)
		}
		switch err := outOfReach(neighbours, wanted); {
		case err != nil && late:
			return nil, err
		case err != nil && grace == nil: // its beacon over IPv4, or one with an address, may be on its way
			grace = time.After(searchLeast)
		case err != nil:
		case wanted != "":
			return nil, localapi.Fail(localapi.Failed, "cannot find the mesh "+wanted, fmt.Errorf("no beacon of it was heard in %s", searchTime),
				"check that a member in this LAN runs without --no-lan, name one with --bootstrap HOST:PORT, or join with an invitation")
		case !rival(neighbours, n.lan.Label()):
			return nil, nil
		}
		select {
		case <-changed:
		case <-grace:
			late = true
		case <-patience.C:
			n.log.Warn("another machine of the LAN wanted to found a mesh and did not; founding one here")
			return nil, nil
		case <-ctx.Done():
		}
		neighbours = n.lan.Neighbours()
	}
}

// outOfReach is the failure for a mesh that is heard and has no address that a node can use: to found another one beside it is not what anybody wants.
func outOfReach(neighbours []discovery.Neighbour, wanted string) error {
	for _, x := range neighbours {
		if x.Stage != discovery.StageMember || len(x.Addrs) > 0 || wanted != "" && wanted != x.Mesh && wanted != x.Fingerprint {
			continue
		}
		return localapi.Fail(localapi.Failed, "cannot ask the mesh "+x.Mesh+" ("+x.Fingerprint+")", errors.New("it is on the LAN, but only at a link-local address, which nodes do not use"),
			"give that machine and this one addresses of one network, by DHCP, a router or ip addr add, and try again; phantom up --new NAME founds another mesh")
	}
	return nil
}

func severalMeshes(meshes []foundMesh) error {
	f := &localapi.Failure{Class: localapi.Usage, What: "there are several meshes on the LAN", Why: "say which one this machine shall join",
		Next: "phantom up --mesh NAME (or the eight characters behind it), or --new NAME to found another"}
	for _, m := range meshes {
		f.Candidates = append(f.Candidates, m.name+" "+m.fingerprint)
	}
	return f
}

// targets are where to ask: the hosts that were named, or who in the LAN says by now that it is of the mesh, and who said so before.
func (n *Node) targets(wanted foundMesh) []string {
	if len(wanted.hosts) > 0 {
		return wanted.hosts
	}
	var out []string
	for _, f := range append(meshesOf(n.lan.Neighbours(), wanted.fingerprint), wanted) {
		for _, a := range f.addrs {
			if t := a.String(); len(out) < discovery.TargetsMax && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out
}

// otherMesh: who answers is of another mesh than the one that was asked for.
type otherMesh struct{ name, fingerprint string }

func (o otherMesh) Error() string {
	return "a member of the mesh " + o.name + " (" + o.fingerprint + ")"
}

// unasked explains that nobody took the request of this machine. It is out of time unless what was named can not be right.
func unasked(wanted foundMesh, err error) *localapi.Failure {
	const what = "cannot ask to join"
	var none *discovery.NoAnswerError
	if !errors.As(err, &none) {
		return localapi.Fail(localapi.TimedOut, what, err, "check that a member can be reached from this machine by UDP, or join with an invitation")
	}
	var tried []string
	class, next := localapi.Failed, ""
	for _, f := range none.Failures {
		where := f.Target
		if f.Addr.IsValid() && f.Addr.String() != f.Target {
			where += " (" + f.Addr.String() + ")"
		}
		var other otherMesh
		var dns *net.DNSError
		switch {
		case errors.As(f.Err, &other):
			next = "phantom up --mesh " + other.name + " asks that one"
		case errors.As(f.Err, &dns) && !dns.IsTimeout, errors.Is(f.Err, underlay.ErrNoCandidates):
			next = cmp.Or(next, "check --bootstrap and this machine's name resolution")
		default:
			class = localapi.TimedOut
		}
		tried = append(tried, where+": "+whyNoContact(f.Err))
	}
	if class == localapi.TimedOut || next == "" {
		next = "check that phantom runs there and that UDP gets through in both directions, or join with an invitation"
	}
	if len(wanted.hosts) > 0 {
		next += "; --bootstrap HOST:PORT names another member, --bootstrap= forgets what was named"
	}
	return localapi.Fail(class, what, fmt.Errorf("nobody of a mesh to be joined was met: %s", strings.Join(tried, "; ")), next)
}
