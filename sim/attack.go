package sim

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/phantommesh/phantommesh/internal/config"
)

// Kinds of attacks by somebody who has no key: who sits on the way and keeps what passes, or anywhere and makes things up.
const (
	attackReplay = "replay" // packets that were sent before, again, from where they came
	attackJunk   = "junk"   // packets that begin like those of every protocol, from members' addresses
)

const (
	// attackRateMax is in packets a second.
	attackRateMax = 10_000
	// overheardMax is how many packets the attacker remembers.
	overheardMax = 2048
	junkMax      = 1200 // bytes
)

// attack sends packets to machines.
type attack struct {
	kind string
	rate int // packets a second

	mu  sync.Mutex
	off context.CancelFunc // nil: it does not run
}

func (*attack) Kind() string { return "attack" }

func (f *attack) begin(p *play, who []*Host) {
	ctx, cancel := context.WithCancel(p.world.life)
	f.mu.Lock()
	f.off = cancel
	f.mu.Unlock()
	p.world.wire.overheard.on.Add(1)
	victims := slices.Clone(who)
	if len(victims) == 0 {
		victims = slices.Clone(p.world.hosts)
	}
	r := rand.New(rand.NewPCG(p.world.Seed(), 5))
	p.world.Go(func(context.Context) {
		defer p.world.wire.overheard.on.Add(-1)
		for ticks := 0; ctx.Err() == nil; ticks++ {
			f.shoot(p.world, victims, r)
			pause(ctx, time.Second/time.Duration(f.rate))
		}
	})
}

func (f *attack) end(*play, []*Host) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off != nil {
		f.off()
	}
}

// shoot sends one packet. No link has a say in it.
func (f *attack) shoot(w *World, victims []*Host, r *rand.Rand) {
	if f.kind == attackReplay {
		if o, ok := w.wire.overheard.pick(r); ok {
			w.net.Deliver(o.from, o.to, bytes.Clone(o.b))
		}
		return
	}
	at, as := *victims[r.IntN(len(victims))].addrs.Load(), *w.Hosts()[r.IntN(len(w.Hosts()))].addrs.Load()
	if len(at) == 0 || len(as) == 0 {
		return
	}
	port := config.Defaults().Port
	w.net.Deliver(netip.AddrPortFrom(as[0], port), netip.AddrPortFrom(at[0], port), junk(r))
}

// junk is a packet that gets past the first look: the first bytes are those of WireGuard, STUN, gossip, relays and QUIC.
func junk(r *rand.Rand) []byte {
	b := make([]byte, 1+r.IntN(junkMax))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	heads := [][]byte{{1, 0, 0, 0}, {2, 0, 0, 0}, {4, 0, 0, 0}, {0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, {0x20, 2}, {0x21}, {0x30}, {0xc0, 0, 0, 0, 1}, {0x40}}
	copy(b, heads[r.IntN(len(heads))])
	return b
}

func parseAttack(n *yaml.Node) (Fault, Selector, error) {
	f := &attack{kind: attackJunk, rate: 100}
	var who Selector
	err := each(n, map[string]func(*yaml.Node) error{
		"kind": oneOf(&f.kind, attackReplay, attackJunk), "rate": number(&f.rate, 1, attackRateMax), "who": selector(&who),
	}, "kind")
	if err == nil && f.kind == attackReplay && len(who.words) > 0 {
		err = errors.New("what is replayed goes to whom it was meant for: leave out `who`")
	}
	return f, who, err
}

// overheard is what an attacker on the way keeps, while there is one.
type overheard struct {
	on atomic.Int32 // attackers

	mu   sync.Mutex
	last []passed
	next int
}

type passed struct {
	from, to netip.AddrPort
	b        []byte
}

func (o *overheard) hear(from, to netip.AddrPort, b []byte) {
	if o.on.Load() == 0 {
		return
	}
	p := passed{from, to, bytes.Clone(b)}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.last) < overheardMax {
		o.last = append(o.last, p)
		return
	}
	o.last[o.next] = p
	o.next = (o.next + 1) % overheardMax
}

func (o *overheard) pick(r *rand.Rand) (passed, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.last) == 0 {
		return passed{}, false
	}
	return o.last[r.IntN(len(o.last))], true
}
