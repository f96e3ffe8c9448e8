package sim

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/node"
)

// returnGap is the time between two machines that start at the beginning of a mesh that was formed before: as after a power cut, within seconds.
const returnGap = 10 * time.Millisecond

// returnAll has the machines be members already, starts them, and waits until all know who is there.
func (p *play) returnAll(hosts []*Host) error {
	if err := p.startReturning(hosts); err != nil {
		return err
	}
	ok, err := p.world.Await(formMax, p.rarely(liveEvery), p.agree)
	if err == nil && !ok {
		err = fmt.Errorf("%s after %d machines were started, not all of them know who is there: %s", formMax, len(hosts), p.lastEvents())
	}
	return err
}

// startReturning starts machines that are members already: the founder's node has admitted them and written their folders, without a packet between them.
// They find each other by their address books, as after a restart of all.
func (p *play) startReturning(hosts []*Host) error {
	machines := make([]node.Machine, len(hosts))
	for i, h := range hosts {
		machines[i] = h.machine()
	}
	if err := p.world.hosts[0].Node().Provision(p.world.life, machines); err != nil {
		return err
	}
	for _, h := range hosts {
		if err := h.Start(); err != nil {
			return err
		}
		p.noteJoined(h)
		if err := p.world.Sleep(returnGap); err != nil {
			return err
		}
	}
	return nil
}

// machine is what a host that has never run is to be provisioned with. That counts as its first life.
func (h *Host) machine() node.Machine {
	h.folder = h.world.folder(h.name, 0)
	m := node.Machine{Config: node.Config{Settings: h.settings(), Rand: h.random(), Disk: h.disk.mount(h.folder)}}
	h.lives++
	if h.at.Behind == nil {
		for _, a := range h.at.Addrs {
			m.Addrs = append(m.Addrs, netip.AddrPortFrom(a, config.Defaults().Port))
		}
	}
	return m
}
