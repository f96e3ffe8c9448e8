package control

import (
	"context"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/underlay"
)

// Meet finds out which member is at an underlay address to which there is a path: of one that came while this node was away nothing is known here,
// not even its ID. Nothing but our identity is shown, since anybody may be there; a member that knows us as one shows its certificate all the same
// (see receive). It returns that certificate and its signed bytes; nil if somebody else is there. The connection is not kept.
func (h *Host) Meet(ctx context.Context, addr underlay.Addr) (m *certificate.Member, raw []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	g, err := h.reach(ctx, target{addr: addr})
	if err != nil {
		return nil, nil, err
	}
	qc := g.conn.quic
	defer h.closeWithHost(qc)()
	v, err := g.finish()
	if err != nil {
		h.tellRefused(err, g.theirs.tlsKey)
		h.turnAway(qc, err)
		return nil, nil, err
	}
	closeQUIC(qc, ReasonClosing, "")
	return v.peer.Member, v.raw, nil
}
