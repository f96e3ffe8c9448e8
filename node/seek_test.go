package node_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/node"
)

// cable is a LAN of two machines, with both families; IPv6 has link-local addresses only.
type cable struct {
	delay map[int]time.Duration // of a family's packets; a family that is not there carries none
	ends  []*plug
}

// plug is one machine's end.
type plug struct {
	cable   *cable
	addrs   map[int]netip.Addr
	in      map[int]chan arrived
	closed  chan struct{}
	closing sync.Once
}

type arrived struct {
	from netip.Addr
	b    []byte
}

const cableInterface = 2

func (c *cable) plug(v4, v6 string) *plug {
	p := &plug{cable: c, addrs: map[int]netip.Addr{4: netip.MustParseAddr(v4), 6: netip.MustParseAddr(v6)},
		in: map[int]chan arrived{4: make(chan arrived, 64), 6: make(chan arrived, 64)}, closed: make(chan struct{})}
	c.ends = append(c.ends, p)
	return p
}

func (p *plug) Families() []int { return []int{4, 6} }

func (p *plug) Segments() []discovery.Segment {
	return []discovery.Segment{{Index: cableInterface, Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(p.addrs[4], 24), netip.PrefixFrom(p.addrs[6], 64)}}}
}

func (p *plug) Read(family int, b []byte) (int, discovery.Arrival, error) {
	select {
	case a := <-p.in[family]:
		return copy(b, a.b), discovery.Arrival{From: a.from, Segment: cableInterface, HopLimit: 255}, nil
	case <-p.closed:
		return 0, discovery.Arrival{}, net.ErrClosed
	}
}

func (p *plug) Send(family int, _ discovery.Segment, b []byte) error {
	delay, there := p.cable.delay[family]
	if !there {
		return nil
	}
	b = bytes.Clone(b)
	for _, to := range p.cable.ends {
		if to != p {
			time.AfterFunc(delay, func() { to.in[family] <- arrived{p.addrs[family], b} })
		}
	}
	return nil
}

func (p *plug) Close() error {
	p.closing.Do(func() { close(p.closed) })
	return nil
}

// Regression: a machine gave up as soon as it heard a mesh at a link-local address, which is what IPv6 hears first on an ordinary LAN; and before, it
// founded a mesh of its own where it heard nothing else.
func TestAMeshIsAskedAtAnAddressThatANodeCanUse(t *testing.T) {
	for name, c := range map[string]struct {
		delay map[int]time.Duration
		class localapi.Class
		words string
	}{
		"heard over IPv6 first":         {map[int]time.Duration{6: time.Millisecond, 4: 850 * time.Millisecond}, localapi.TimedOut, "192.0.2.1:51820"},
		"heard over IPv4 alone":         {map[int]time.Duration{4: time.Millisecond}, localapi.TimedOut, "192.0.2.1:51820"},
		"heard at link-local IPv6 only": {map[int]time.Duration{6: time.Millisecond}, localapi.Failed, "link-local"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				b := newBubbleMesh(t, dir)
				defer b.stopAll()
				lan := &cable{delay: c.delay}
				member, err := discovery.OpenLAN(discovery.LANConfig{Multicast: lan.plug("192.0.2.1", "fe80::1")})
				if err != nil {
					t.Fatal(err)
				}
				defer member.Close()
				if err := member.Announce(discovery.Beacon{Mesh: "home", Fingerprint: "aaaaaaaa", Port: 51820}); err != nil {
					t.Fatal(err)
				}
				s := config.Defaults()
				s.State, s.Name = filepath.Join(dir, "seeker"), "seeker"
				host := b.network.Host(bubbleAddr(1, 0))
				cfg := bubbleConfig(s, host, slog.New(slog.DiscardHandler))
				cfg.Multicast = lan.plug("192.0.2.2", "fe80::2")
				n, err := node.New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				run := &bubbleRun{node: n, host: host, stop: cancel, ended: make(chan error, 1)}
				b.running[1] = run
				go func() { run.ended <- n.Run(ctx) }()
				for _, wanted := range []string{"", "home"} {
					f := b.refused(n, localapi.Entry{Found: true, Mesh: wanted, Within: 3 * time.Second}, c.class)
					wantWords(t, f, c.words)
				}
			})
		})
	}
}
