package sim

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/node"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// Placement says what a host is and where.
type Placement struct {
	Name   string
	Region string
	Addrs  []netip.Addr
	// Behind is the NAT it is behind, LAN its name; nil: it has public addresses.
	Behind *underlaytest.NAT
	LAN    string
	// Access is how it is connected.
	Access Access
	// Skew is how far its clock is off when nothing is done to it.
	Skew time.Duration
	// Settings changes what the node is told; nil: nothing.
	Settings func(*config.Settings)
}

// Host is a machine. It outlives the processes that run on it.
type Host struct {
	world  *World
	at     Placement
	name   string
	folder string // the state folder of the latest process
	disk   *machineDisk
	lives  int // processes so far
	card   *underlaytest.Host
	fault  Access                  // what is done to the machine's own connection
	proc   atomic.Pointer[process] // nil: none runs
	id     identity.NodeID         // zero until the first start

	addrs atomic.Pointer[[]netip.Addr] // at.Addrs, for any goroutine
	clock wallClock
	air   atomic.Pointer[air] // nil: no node listens to the LAN

	backup   []byte // the last one that was made; nil: none
	restores int

	wiped   bool        // the next process has another identity
	outcast atomic.Bool // the mesh has turned its node away for good

	traitors atomic.Int32 // ways in which it is bad now
	bad      atomic.Bool  // it is, or was
}

// process is a running node.
type process struct {
	host    *Host
	node    *node.Node
	cancel  context.CancelFunc
	done    chan struct{} // closed when Run has returned
	err     error         // what it returned; read after done is closed
	changes chan struct{} // 1: the machine's network has changed
	echo    *echo
	killed  atomic.Bool
	leaving atomic.Bool
}

// AddHost puts a machine into the world. Nothing runs on it yet.
func (w *World) AddHost(at Placement) *Host {
	h := &Host{world: w, at: at, name: at.Name, disk: newMachineDisk(w.cfg.Seed ^ nameHash(at.Name))}
	h.disk.lasting = w.noPowerCuts
	w.hostsMu.Lock()
	w.hosts = append(w.hosts, h)
	w.hostsMu.Unlock()
	h.addrs.Store(&h.at.Addrs)
	h.rightClock()
	w.links.place(place{region: at.Region, owner: at.Name, lan: at.LAN}, at.Addrs...)
	h.plug()
	return h
}

// AddNAT puts a NAT onto the internet, for hosts to be behind.
func (w *World) AddNAT(region, name string, cfg underlaytest.NATConfig) *underlaytest.NAT {
	w.links.place(place{region: region, owner: name, lan: ""}, cfg.External)
	return w.net.NAT(cfg)
}

// plug gives the host a network card. The one of a process that was killed has no address any more.
func (h *Host) plug() {
	if h.card != nil {
		h.card.Move()
	}
	if h.at.Behind != nil {
		h.card = h.at.Behind.Host(h.at.Addrs...)
	} else {
		h.card = h.world.net.Host(h.at.Addrs...)
	}
	if h.at.Access != (Access{}) || h.fault != (Access{}) {
		h.connect(h.fault)
	}
}

// Name is the host's, and its node's.
func (h *Host) Name() string { return h.name }

// Region is the one its node says it is in.
func (h *Host) Region() string { return h.at.Region }

// Node is the running node; nil: none runs. Safe from any goroutine.
func (h *Host) Node() *node.Node {
	if p := h.proc.Load(); p != nil {
		return p.node
	}
	return nil
}

// ID is the identity of the host's node, in full; empty before its first start.
func (h *Host) ID() string {
	if h.id.IsZero() {
		return ""
	}
	return h.id.String()
}

// Running reports whether a node runs. Safe from any goroutine.
func (h *Host) Running() bool { return h.proc.Load() != nil }

// Lives is how many processes the host has had.
func (h *Host) Lives() int { return h.lives }

// Entry is where others reach the node: what --bootstrap takes.
func (h *Host) Entry() string {
	return netip.AddrPortFrom(h.at.Addrs[0], config.Defaults().Port).String()
}

// ErrRunning: the host has a node already.
var ErrRunning = errors.New("a node runs on this host")

// Start starts a node on the host's state folder. It is in the mesh of that folder, or in none; Enter changes that.
func (h *Host) Start() error {
	if h.Running() {
		return ErrRunning
	}
	if h.folder == "" {
		h.folder = h.world.folder(h.name, 0)
	}
	p := &process{host: h, done: make(chan struct{}), changes: make(chan struct{}, 1), echo: newEcho(h.world)}
	n, err := node.New(h.config(p))
	if err != nil {
		return fmt.Errorf("start a node on %s: %w", h.name, err)
	}
	h.lives++
	if h.id.IsZero() || h.wiped {
		h.id, h.wiped = n.ID(), false
	}
	p.node = n
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	h.proc.Store(p)
	h.world.Record(h.name, "start", "life %d", h.lives)
	h.world.procs.Go(func() { p.run(ctx) })
	return nil
}

// settings are what the node is told.
func (h *Host) settings() config.Settings {
	s := config.Defaults()
	s.State, s.Name, s.Region = h.folder, h.name, h.at.Region
	if h.at.Settings != nil {
		h.at.Settings(&s)
	}
	return s
}

func (h *Host) config(p *process) node.Config {
	w := h.world
	return node.Config{
		Settings: h.settings(), Bind: smallCard{h.card}, NoSync: true, NetworkChanges: p.changes, Rand: h.random(), Now: h.clock.now, Disk: h.disk.mount(h.folder),
		Log:           slog.New(&hostLog{world: w, host: h.name}),
		OpenInterface: p.open, OnPeer: release, Shelf: w.shelf, Multicast: openAir(p),
	}
}

// smallCard hands over few packets at once. WireGuard keeps a buffer of 64 KiB for each packet of a batch and receiver: with the card's own eight they
// were a third of a node's memory.
type smallCard struct{ *underlaytest.Host }

// BatchSize is two, so that there still are batches.
func (smallCard) BatchSize() int { return 2 }

// open is the host's side of the tunnels.
func (p *process) open(spec node.InterfaceSpec) (dataplane.Interface, error) {
	pipe := dataplane.OpenPipe(spec.Addresses, spec.MTU)
	p.host.world.procs.Go(func() { p.echo.serve(pipe) })
	return pipe, nil
}

func (p *process) run(ctx context.Context) {
	p.err = p.node.Run(ctx)
	p.cancel()
	p.host.proc.CompareAndSwap(p, nil)
	if !p.killed.Load() {
		why := "in order"
		var f *localapi.Failure
		if errors.As(p.err, &f) && f.Class == localapi.Refused {
			p.host.outcast.Store(true)
		}
		if p.err != nil {
			why = p.err.Error()
		}
		p.host.world.Record(p.host.name, "exit", "%s", why)
	}
	close(p.done)
}

// random is the node's randomness, another one for each of its lives.
func (h *Host) random() *source {
	var seed [32]byte
	r := rand.New(rand.NewPCG(h.world.cfg.Seed, 1000+nameHash(h.name)+uint64(h.lives)))
	for i := range seed {
		seed[i] = byte(r.Uint32())
	}
	return &source{stream: rand.NewChaCha8(seed)}
}

// nameHash draws a number from a host's name.
func nameHash(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}

// source is a stream of random bytes for many goroutines.
type source struct {
	mu     sync.Mutex
	stream *rand.ChaCha8
}

func (s *source) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Read(b)
}

// Stop begins the orderly end of the node, as phantom down does. Running tells when it has come.
func (h *Host) Stop() {
	if p := h.proc.Load(); p != nil {
		h.world.Record(h.name, "stop", "in order")
		p.leaving.Store(true)
		p.cancel()
	}
}

// stopping reports whether the node that runs is about to end.
func (h *Host) stopping() bool {
	p := h.proc.Load()
	return p != nil && p.leaving.Load()
}

// Kill ends the node as SIGKILL does: nothing more of it reaches the network, and the state folder stays as it is at this instant. The
// goroutines of the process cannot be killed, so they go on alone, on a network card without addresses and on a folder that nobody will
// read again, until they have ended by themselves.
func (h *Host) Kill() error { return h.end("kill", func(string) {}) }

// CutPower ends the node as Kill does, and of its disk only that is left which was synced, and of the rest what chance will have.
func (h *Host) CutPower() error {
	return h.end("power", func(kept string) {
		h.world.Record(h.name, "power", "%d changes of the disk are lost", h.disk.cut(kept))
	})
}

// end takes the node off the network and puts a copy of its folder, after what is done to it, in place of the folder.
func (h *Host) end(kind string, then func(kept string)) error {
	p := h.proc.Load()
	if p == nil {
		return nil
	}
	synctest.Wait() // nobody is in the middle of a write, but where a slow disk keeps him waiting
	kept := h.world.folder(h.name, h.lives)
	if err := copyFolder(kept, h.folder); err != nil {
		return fmt.Errorf("keep the disk of %s: %w", h.name, err)
	}
	then(kept)
	h.folder = kept
	h.crash()
	h.plug()
	h.world.Record(h.name, kind, "life %d", h.lives)
	return nil
}

// crash takes the node off the network and lets it end unseen.
func (h *Host) crash() {
	p := h.proc.Swap(nil)
	if p == nil {
		return
	}
	p.killed.Store(true)
	h.air.Store(nil)
	h.card.Move()
	p.cancel()
}

// Wipe removes the state folder of a host on which nothing runs, as if the machine had been set up anew.
func (h *Host) Wipe() error {
	if h.Running() {
		return ErrRunning
	}
	h.folder, h.wiped = h.world.folder(h.name, h.lives)+".new", true
	h.outcast.Store(false)
	return nil
}

// Move gives the host other addresses, as a laptop that changes networks; a node that runs is told as by its system.
func (h *Host) Move(addrs ...netip.Addr) {
	h.at.Addrs = addrs
	h.addrs.Store(&addrs)
	h.world.links.place(place{region: h.at.Region, owner: h.name, lan: h.at.LAN}, addrs...)
	h.card.Move(addrs...)
	if p := h.proc.Load(); p != nil {
		select {
		case p.changes <- struct{}{}:
		default:
		}
	}
	h.world.Record(h.name, "move", "to %v", addrs)
}

// copyFolder copies what a folder holds at this instant. The lock of the process that has it stays behind.
func copyFolder(to, from string) error {
	return filepath.WalkDir(from, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o700)
		case !e.Type().IsRegular(), rel == "lock":
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, 0o600)
	})
}

// Enter brings the host's node into a mesh, and returns when it is online. It may be called beside the driver.
func (h *Host) Enter(ctx context.Context, e localapi.Entry) error {
	n := h.Node()
	if n == nil {
		return fmt.Errorf("no node runs on %s", h.name)
	}
	return n.Enter(ctx, e)
}

// Travel moves the host to addresses in another region's network.
func (h *Host) Travel(region string, addrs ...netip.Addr) {
	h.at.Region = region
	h.Move(addrs...)
}
