package netchange

import (
	"net"
	"slices"
	"time"
)

// fallback is any system: addresses only, and nothing tells when they change.
type fallback struct {
	start time.Time
}

func newFallback() *fallback { return &fallback{start: time.Now()} }

func (*fallback) signs() <-chan struct{} { return nil }
func (*fallback) Close() error           { return nil }

func (*fallback) snapshot(ignore func(string) bool) (snapshot, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return snapshot{}, err
	}
	var s snapshot
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 || i.Flags&net.FlagUp == 0 || i.Flags&net.FlagRunning == 0 || ignore(i.Name) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone since
		}
		for _, a := range addrs {
			if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLinkLocalUnicast() {
				s.addresses = append(s.addresses, ip.String()+" dev "+i.Name)
			}
		}
	}
	slices.Sort(s.addresses)
	return s, nil
}

// asleep is how far the wall clock has run ahead of the monotonic one, which stands still in sleep. A wall clock that somebody puts
// forward looks the same: the price of a false alarm is one look around.
func (f *fallback) asleep() time.Duration {
	now := time.Now()
	return now.Round(0).Sub(f.start.Round(0)) - now.Sub(f.start)
}
