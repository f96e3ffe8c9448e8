package reach

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

// servers is whom one could ask: those that the user named, then members that are alive, those that surely answer first.
func (r *Reach) servers(ctx context.Context) []server {
	var out []server
	for _, hostport := range r.cfg.STUN {
		for _, a := range r.resolve(ctx, hostport) {
			if len(out) < stunMax {
				out = append(out, server{addr: a, surely: true})
			}
		}
	}
	var unsure []server
	for _, e := range r.table.All() {
		if e.ID == r.self || e.Revoked || e.State != peer.Alive || !e.HasRecord {
			continue
		}
		s, ok := r.serverOf(e)
		switch {
		case ok && s.surely:
			out = append(out, s)
		case ok:
			unsure = append(unsure, s)
		}
	}
	out = append(out, unsure...)
	return out[:min(len(out), serversMax)]
}

// serverOf is the address at which a member is asked: where it is reached now, else the first that it announces. Who is reached through another, or
// at an address of the LAN only while it has others, is asked there all the same: silence of such says nothing.
func (r *Reach) serverOf(e peer.Entry) (server, bool) {
	s := server{member: e.ID, surely: e.Record.NAT == peer.NATNone}
	if p, ok := r.net.Path(e.ID); ok && p.Kind == Direct && p.Addr.IsValid() {
		s.addr, s.surely = p.Addr, true
		return s, true
	}
	if len(e.Record.Endpoints) == 0 {
		return s, false
	}
	s.addr = e.Record.Endpoints[0].Addr
	return s, true
}

// resolve turns a configured server into addresses, one of each family.
func (r *Reach) resolve(ctx context.Context, hostport string) []netip.AddrPort {
	if a, err := netip.ParseAddrPort(hostport); err == nil {
		return []netip.AddrPort{a}
	}
	if r.cfg.Resolve == nil {
		return nil
	}
	all, err := r.cfg.Resolve(ctx, hostport)
	if err != nil {
		r.log.Debug("STUN server not found", "addr", hostport, "err", err)
	}
	var out []netip.AddrPort
	for _, a := range alternate(all) {
		if !slices.ContainsFunc(out, func(o netip.AddrPort) bool { return o.Addr().Is4() == a.Addr().Is4() }) {
			out = append(out, a)
		}
	}
	return out
}

func natServers(servers []server) []nat.Server {
	var out []nat.Server
	for _, s := range servers {
		out = append(out, nat.Server{Addr: s.addr, Member: !s.member.IsZero()})
	}
	return out
}

// outcome is how a question went.
type outcome struct {
	ask   nat.Ask
	reply nat.Reply
	rtt   time.Duration
}

// discover carries out a discovery and returns who said what about our address.
func (r *Reach) discover(ctx context.Context, d *nat.Discovery, servers []server) []Answer {
	ctx, cancel := context.WithCancel(ctx)
	outcomes := make(chan outcome)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	var answers []Answer
	asks, next := d.Step(nil, time.Now())
	for {
		for _, q := range asks {
			asking.Go(func() {
				bounded, cancel := context.WithTimeout(ctx, q.Timeout)
				defer cancel()
				reply, rtt := r.net.Ask(bounded, q)
				reply.Number = q.Number
				select {
				case outcomes <- outcome{q, reply, rtt}:
				case <-ctx.Done():
				}
			})
		}
		if next.IsZero() {
			return answers
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return answers
		case <-timer.C:
			asks, next = d.Step(nil, time.Now())
		case o := <-outcomes:
			if o.ask.Test == nat.TestMapped {
				answers = append(answers, answerOf(o, servers))
			}
			asks, next = d.Step(&o.reply, time.Now())
		}
		timer.Stop()
	}
}

// answerOf puts an outcome for people, and for who may be believed.
func answerOf(o outcome, servers []server) Answer {
	a := Answer{Server: o.ask.To}
	if i := slices.IndexFunc(servers, func(s server) bool { return s.addr == o.ask.To }); i >= 0 {
		a.Member, a.surely = servers[i].member, servers[i].surely
	}
	if o.reply.From.IsValid() {
		a.Mapped, a.RTT = netip.AddrPortFrom(o.reply.Mapped.Addr().Unmap(), o.reply.Mapped.Port()), o.rtt
	}
	return a
}

func (r *Reach) conclude(e nat.Evidence, answers []Answer) learned {
	l := learned{at: time.Now(), answers: answers, claims: map[netip.AddrPort]claim{}}
	said := map[netip.AddrPort]map[identity.NodeID]bool{}
	for _, a := range answers {
		if !a.Mapped.IsValid() {
			continue
		}
		if said[a.Mapped] == nil {
			said[a.Mapped] = map[identity.NodeID]bool{}
		}
		said[a.Mapped][a.Member] = true
	}
	for addr, who := range said {
		server := who[identity.NodeID{}]
		delete(who, identity.NodeID{})
		l.claims[addr] = claim{Members: len(who), Server: server}
	}
	// That somebody is silent who may well be out of reach says nothing of the network.
	e.Observations = slices.DeleteFunc(e.Observations, func(o nat.Observation) bool {
		return !o.Mapped.IsValid() && slices.ContainsFunc(answers, func(a Answer) bool { return a.Server == o.Server && !a.surely })
	})
	e.HearsUDP = r.hearsUDP()
	for _, m := range r.mappings() {
		if m.External.Addr().Is4() {
			e.Router = m.External.Addr()
		}
	}
	l.behaviour = nat.Assess(e)
	return l
}

// answered reports whether anybody said anything.
func (l learned) answered() bool {
	return slices.ContainsFunc(l.answers, func(a Answer) bool { return a.Mapped.IsValid() })
}
