package underlay

import (
	"context"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/nat"
)

// Ask sends a question of a [nat.Discovery] from the socket's own port until it is answered, q.Timeout has passed or ctx ends. The reply of a
// silent server has no From. rtt is that of the transmission that was answered.
func (s *Socket) Ask(ctx context.Context, q nat.Ask) (r nat.Reply, rtt time.Duration) {
	r.Number = q.Number
	to := netip.AddrPortFrom(q.To.Addr().Unmap(), q.To.Port())
	if !to.IsValid() || isLinkAddr(to.Addr()) {
		return r, 0
	}
	ctx, cancel := context.WithTimeout(ctx, min(q.Timeout, nat.PlanLength))
	defer cancel()
	encode := nat.PlainRequest
	switch {
	case q.Change != (nat.Change{}):
		encode = func(id nat.TransactionID) []byte { return nat.ChangeRequest(id, q.Change) }
	case q.Member:
		encode = nat.PaddedRequest
	}
	plan := nat.CheckPlan([]netip.AddrPort{to})
	reply := make(chan answer, len(plan)) // one for each transmission
	began := s.now()
	for i := 0; ; i++ {
		wait := nat.PlanLength
		if i < len(plan) {
			tx := transaction{addr: to, plain: true, anywhere: q.Change != (nat.Change{}), reply: reply}
			if err := s.request(tx, encode); err != nil {
				s.log.Debug("STUN question not sent", "addr", to, "err", err)
			}
		}
		if i+1 < len(plan) {
			wait = plan[i+1].At
		}
		timer := time.NewTimer(began + wait - s.now())
		select {
		case a := <-reply:
			timer.Stop()
			r.From, r.Mapped, r.Other = a.addr, a.mapped, a.other
			return r, a.rtt
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return r, 0
		case <-s.done:
			timer.Stop()
			return r, 0
		}
	}
}
