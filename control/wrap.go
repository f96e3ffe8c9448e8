package control

import "context"

// Serve serves one stream, see [Host.Handle].
type Serve func(ctx context.Context, s *Stream)

// Wrap puts a function in front of what serves a protocol, for simulations of members that answer otherwise than they should. It reports
// false if nothing serves the protocol. undo puts back what was there, unless somebody has registered anew since.
func (h *Host) Wrap(protocol string, wrap func(serve Serve) Serve) (undo func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was, ok := h.protocols[protocol]
	if !ok {
		return func() {}, false
	}
	h.wraps++
	number := h.wraps
	h.protocols[protocol] = handler{access: was.access, serve: wrap(was.serve), wrap: number}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.protocols[protocol].wrap == number {
			h.protocols[protocol] = was
		}
	}, true
}
