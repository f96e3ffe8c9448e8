package sim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// markerSize is the size of the bytes that every packet within the tunnels carries, so that they would be seen on the wire in clear.
const markerSize = 24

// marker draws the bytes.
func marker(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 3))
	b := make([]byte, 0, markerSize)
	for len(b) < markerSize {
		b = binary.BigEndian.AppendUint64(b, r.Uint64())
	}
	return b
}

// wire is what is seen of the packets between hosts.
type wire struct {
	marker         []byte
	packets, bytes atomic.Int64
	plain          atomic.Int64 // packets that carried the marker in clear
	plainAt        atomic.Int64 // when the first of them did, in ns of Unix time

	overheard overheard

	traceMu sync.Mutex
	trace   hash.Hash // of all packets in their order, with time and addresses; nil: nobody asked
}

func (w *wire) see(from, to netip.AddrPort, b []byte) {
	if w.trace != nil {
		w.note(from, to, b)
	}
	w.overheard.hear(from, to, b)
	w.packets.Add(1)
	w.bytes.Add(int64(len(b)))
	if bytes.Contains(b, w.marker) && w.plain.Add(1) == 1 {
		w.plainAt.Store(time.Now().UnixNano())
	}
}

func (w *wire) note(from, to netip.AddrPort, b []byte) {
	head := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
	head, _ = from.AppendBinary(append(head, 'f'))
	head, _ = to.AppendBinary(append(head, 't'))
	head = binary.BigEndian.AppendUint32(head, uint32(len(b)))
	w.traceMu.Lock()
	defer w.traceMu.Unlock()
	w.trace.Write(head)
	w.trace.Write(b)
}

// sum is the hash so far, empty if nobody asked.
func (w *wire) sum() string {
	if w.trace == nil {
		return ""
	}
	w.traceMu.Lock()
	defer w.traceMu.Unlock()
	return hex.EncodeToString(w.trace.Sum(nil))
}

// Wire tells how many packets and bytes the hosts have sent to each other. Safe from any goroutine.
func (w *World) Wire() (packets, bytes int64) { return w.wire.packets.Load(), w.wire.bytes.Load() }
