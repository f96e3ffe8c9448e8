package coordinator

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/durable"
)

// sleepyDisk takes its time for every write.
type sleepyDisk struct {
	durable.OS
	takes  time.Duration
	writes atomic.Int64
}

func (d *sleepyDisk) sleep() {
	d.writes.Add(1)
	time.Sleep(d.takes)
}

func (d *sleepyDisk) Create(path string, content []byte) error {
	d.sleep()
	return d.OS.Create(path, content)
}

func (d *sleepyDisk) WriteFile(path string, content []byte) error {
	d.sleep()
	return d.OS.WriteFile(path, content)
}

func (d *sleepyDisk) Write(_ string, write func() error) error {
	d.sleep()
	return write()
}

// Regression: the group's mutex was held while a replica was opened. On a slow disk whoever asked anything of the node waited for it: in virtual time
// for ever.
func TestNobodyWaitsForTheDiskOfANewVoter(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		m := l.node(1)
		m.join(first, first.invite(InviteSpec{}))
		m.close()
		slow := &sleepyDisk{takes: 2 * time.Second}
		cfg := m.config()
		cfg.Disk = slow
		m.up(Open(cfg))
		l.node(2).join(first, first.invite(InviteSpec{}))
		slow.writes.Store(0)
		for begin := time.Now(); !m.group.Voting(); time.Sleep(100 * time.Millisecond) {
			if asked := time.Now(); m.group.State() == nil || time.Since(asked) > 0 {
				t.Fatal("a question waited for the disk")
			}
			if time.Since(begin) > 2*time.Minute {
				t.Fatal("it never got its vote")
			}
		}
		if slow.writes.Load() == 0 {
			t.Error("nothing was written through the disk")
		}
	})
}
