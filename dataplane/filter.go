package dataplane

// Direction is the way a packet goes.
type Direction uint8

// The directions, as this host sees them.
const (
	Outbound Direction = iota // from this host to the mesh
	Inbound                   // from the mesh to this host; its source address has been checked against its peer
)

// Filter decides which packets pass. It is asked for every packet in both directions, from several goroutines at once, with an IP
// packet that it must not keep or change. It must be fast and must not block.
type Filter interface {
	Allow(d Direction, packet []byte) bool
}

// SetFilter replaces the filter; nil lets everything pass, at no cost per packet.
func (p *Plane) SetFilter(f Filter) {
	if f == nil {
		p.filter.Store(nil)
		return
	}
	p.filter.Store(&f)
}
