package sim

import (
	"errors"
	"time"

	"go.yaml.in/yaml/v3"
)

// slowMax is the longest that a write may take: a card that wears out, a RAID that rebuilds.
const slowMax = time.Minute

// SetDisk changes what is wrong with the host's disk.
func (h *Host) SetDisk(f diskFaults) { h.disk.set(f) }

// badDisk makes disks slow, full or broken; the end makes them good again.
type badDisk struct{ faults diskFaults }

func (badDisk) Kind() string { return "disk" }
func (f badDisk) begin(_ *play, who []*Host) {
	for _, h := range who {
		h.SetDisk(f.faults)
	}
}
func (badDisk) end(_ *play, who []*Host) {
	for _, h := range who {
		h.SetDisk(diskFaults{})
	}
}

func parseDisk(n *yaml.Node) (Fault, Selector, error) {
	var f badDisk
	var who Selector
	err := each(n, map[string]func(*yaml.Node) error{
		"slow": duration(&f.faults.Slow, time.Millisecond, slowMax), "full": flag(&f.faults.Full), "fail": flag(&f.faults.Fail), "who": selector(&who),
	}, "who")
	if err == nil && f.faults == (diskFaults{}) {
		err = errors.New("takes slow: 500ms, full: true or fail: true")
	}
	return f, who, err
}

// powerCut ends nodes as the loss of power does: what was not synced may be lost. The end starts them again on what is left.
type powerCut struct{}

func (powerCut) Kind() string { return "power" }
func (powerCut) begin(p *play, who []*Host) {
	for _, h := range who {
		p.failed(h.CutPower())
	}
}
func (powerCut) end(p *play, who []*Host) { startAll(p, who) }
