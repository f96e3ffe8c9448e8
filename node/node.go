package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/durable"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/place"
	"github.com/phantommesh/phantommesh/reach"
	"github.com/phantommesh/phantommesh/underlay"
)

// Config is what a node is made of. Settings is required; the rest has defaults that make a real node on this host.
type Config struct {
	Settings config.Settings
	Version  localapi.Version
	// Bind is the UDP socket; the simulator has its own.
	Bind conn.Bind
	// OpenInterface makes the host's side of the tunnels; nil: a TUN device or userspace networking, as the settings say.
	OpenInterface func(InterfaceSpec) (dataplane.Interface, error)
	// Mapper asks the router for a port; nil: nat/portmap does, unless Bind is given or the settings forbid it. changed signals that the
	// machine's network has changed.
	Mapper func(port uint16, changed <-chan struct{}) reach.Mapper
	// Multicast is the LAN for beacons; nil: the host's own, unless Bind is given.
	Multicast discovery.Multicast
	// Resolver looks up the names of --bootstrap; nil: the host's own.
	Resolver discovery.Resolver
	// NetworkChanges is signalled when the network that Bind stands for has changed. With Bind given, this machine's own is not watched.
	NetworkChanges <-chan struct{}
	// OnPeer is told of every WireGuard peer that is made, see dataplane.Config; NoSync leaves out fsync of the replicated log. Both are for
	// simulations only.
	OnPeer func(*device.Peer)
	NoSync bool
	// Shelf has what the nodes of one process read of the mesh's state be in memory once; nil: each has its own. For simulations too.
	Shelf *coordinator.Shelf
	// Disk is what the state folder is written through; nil: the operating system's.
	Disk durable.Disk
	Rand io.Reader
	// Now is what the machine believes the time to be, which people and programs set; nil: time.Now. It is for what others have written, or will
	// read; whatever only waits or measures goes by package time, which goes on evenly.
	Now func() time.Time
	Log *slog.Logger
}

// Node is a running node. Its methods are safe for concurrent use.
type Node struct {
	cfg     Config
	log     *slog.Logger
	started time.Time

	// Constant after New.
	folder   *folder
	key      *identity.Key
	peers    *peer.Table
	socket   *underlay.Socket
	control  *control.Host
	book     *discovery.Book
	sequence *sequence
	place    *place.Client // where this node is among the others

	lan            *discovery.LAN // nil: --no-lan
	petitions      *petitions     // machines that ask this member to be let in
	applying       atomic.Pointer[application]
	lanChanged     chan struct{} // 1: as networkChanged, for the LAN
	networkChanged chan struct{} // 1: the machine's addresses or routes have changed, or it was asleep
	reach          atomic.Pointer[reach.Reach]

	// mesh is nil while the node is in no mesh. It may be under way still: online is the same membership once all its parts are there.
	mesh, online atomic.Pointer[membership]
	// entering is full while somebody founds, joins or stops: one at a time. A channel, as that may take long, and who waits may give up.
	entering chan struct{}
	keeping  chan struct{}                   // the same for the file of kept settings: a disk may be slow
	phase    atomic.Value                    // localapi.StateOnline and so on
	leaving  atomic.Bool                     // the membership was given up: erase it at the end
	outcast  atomic.Pointer[identity.NodeID] // a member that says we were revoked, whose word alone does not end us

	ready    chan struct{} // closed when Enter may be asked for
	stop     chan struct{} // closed when the node shall end
	stopOnce sync.Once
	ended    error // why; set before stop is closed
}

// New makes a node on its state folder. What it does about a mesh begins with Run. Errors are *localapi.Failure.
func New(cfg Config) (*Node, error) {
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Disk == nil {
		cfg.Disk = durable.OS{}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	n := &Node{cfg: cfg, log: cfg.Log, started: time.Now(), ready: make(chan struct{}), stop: make(chan struct{}),
		entering: make(chan struct{}, 1), keeping: make(chan struct{}, 1), networkChanged: make(chan struct{}, 1), lanChanged: make(chan struct{}, 1), petitions: newPetitions()}
	n.phase.Store(localapi.StateOffline)
	if err := n.open(); err != nil {
		n.release()
		return nil, startFailure(err, cfg.Settings)
	}
	return n, nil
}

// open makes the parts that exist with and without a mesh, in the order in which they need each other.
func (n *Node) open() (err error) {
	if n.folder, err = openFolder(n.cfg.Disk, n.cfg.Settings.State); err != nil {
		return err
	}
	if n.key, err = n.folder.loadIdentity(n.cfg.Rand); err != nil {
		return err
	}
	if n.sequence, err = n.folder.openSequence(n.cfg.Now()); err != nil {
		return err
	}
	if n.book, err = discovery.OpenBook(discovery.BookConfig{Path: n.folder.file(bookFile), Disk: discovery.OSDisk{On: n.cfg.Disk}, Now: n.cfg.Now, Log: n.log}); n.book == nil {
		return err
	} else if err != nil {
		// The book is a convenience: what was in it is known to others. The damaged one was put aside.
		n.log.Warn("address book not read, starting with an empty one", "err", err)
	}
	n.peers, n.place = peer.NewTable(n.key.ID()), place.New(n.key.ID())
	n.socket, err = underlay.Open(underlay.Config{
		Key: n.key, Peers: n.peers, Bind: n.cfg.Bind, Port: n.cfg.Settings.Port, Listen: n.cfg.Settings.Listen,
		Exclude: n.isOverlay, Changes: n.networkChanged, Measured: n.measured, Assist: n.assist, Pipes: !n.cfg.Settings.NoRelay,
		RelayCapacity: n.relayCapacity(), Rand: n.cfg.Rand, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.control, err = control.New(control.Config{
		Key: n.key, Network: n.socket, Trust: n.trust, Chain: n.chain, Known: n.isMemberKey, TLSKey: n.tlsKey,
		Member: n.isMember, Refused: n.refusedBy, Rand: n.cfg.Rand, Now: n.cfg.Now, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.control.OnConnection(n.connectionChanged)
	n.control.Handle(protocolPair, control.Anyone, n.servePair)
	n.control.Handle(protocolPending, control.MembersOnly, n.servePending)
	n.control.Handle(protocolNews, control.MembersOnly, n.serveNews)
	n.openLAN()
	return nil
}

// trust is what control connections are verified against; nil in no mesh.
func (n *Node) trust() *certificate.Trust {
	if m := n.mesh.Load(); m != nil {
		return m.group.Trust()
	}
	return nil
}

// chain is what this node shows of itself; nil in no mesh.
func (n *Node) chain() *certificate.Chain {
	if m := n.mesh.Load(); m != nil {
		return m.group.Chain()
	}
	return nil
}

func (n *Node) isMemberKey(k identity.WireGuardKey) bool {
	_, ok := n.peers.ByKey(k)
	return ok
}

// tlsKey is the key that a member proves in TLS.
func (n *Node) tlsKey(id identity.NodeID) (key [32]byte, known bool) {
	e, ok := n.peers.Get(id)
	if !ok || e.Member == nil {
		return key, false
	}
	return e.Member.Public.Ed25519, true
}

// isMember reports whether a node is a member now.
func (n *Node) isMember(id identity.NodeID) bool {
	e, ok := n.peers.Get(id)
	return ok && e.MemberAt(n.cfg.Now())
}

// ID is the node's ID.
func (n *Node) ID() identity.NodeID { return n.key.ID() }

// Port is the UDP port the node is bound to.
func (n *Node) Port() uint16 { return n.socket.Port() }

// Joined reports whether the state folder belongs to a mesh already.
func (n *Node) Joined() bool { return coordinator.Exists(n.folder.path) }

// Run takes part in the mesh that the state folder belongs to, or in none until Enter is asked for, and serves until ctx ends, Down or Leave is
// asked for, or the mesh turns the node away. It returns nil after an orderly stop, else a *localapi.Failure. It may be called once; afterwards
// the node is closed.
func (n *Node) Run(ctx context.Context) error {
	defer n.release()
	defer context.AfterFunc(ctx, func() { n.finish(nil) })()
	watching, endWatch := context.WithCancel(ctx)
	defer endWatch()
	go n.watchNetwork(watching)
	if err := n.tryInterface(); err != nil {
		return startFailure(err, n.cfg.Settings)
	}
	if n.Joined() {
		if err := n.resume(); err != nil {
			n.shutDown()
			return startFailure(err, n.cfg.Settings)
		}
	}
	close(n.ready)
	<-n.stop
	n.log.Info("stopping")
	n.shutDown()
	return n.ended
}

// Ready is closed once Run takes part in the mesh of the state folder, or knows that there is none: from then on Enter may be asked for.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// shutdownMax bounds the orderly stop: handing over leadership takes one election, telling gossip some rounds.
const shutdownMax = 8 * time.Second

// shutDown hands over duties and takes the membership down.
func (n *Node) shutDown() {
	// Whoever is entering a mesh just now notices that the node ends.
	n.finish(nil)
	n.entering <- struct{}{}
	defer func() { <-n.entering }()
	n.endApplication()
	n.phase.Store(localapi.StateOffline)
	if n.lan != nil {
		n.lan.Silence()
	}
	m := n.mesh.Load()
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownMax)
	defer cancel()
	m.close(ctx)
	if !n.leaving.Load() {
		return
	}
	if err := n.erase(); err != nil {
		n.log.Error("state not removed", "err", err)
	}
}

// finish begins the end of the node; the first reason counts.
func (n *Node) finish(why error) {
	n.stopOnce.Do(func() {
		n.ended = why
		close(n.stop)
	})
}

// release closes what open made, in the opposite order.
func (n *Node) release() {
	if n.lan != nil {
		n.lan.Close()
	}
	if n.control != nil {
		n.control.Close()
	}
	if n.socket != nil {
		n.socket.Close()
	}
	if n.book != nil {
		if err := n.book.Close(); err != nil {
			n.log.Warn("address book not kept", "err", err)
		}
	}
	if n.folder != nil {
		n.folder.Close()
	}
}

// erase removes what makes this machine a member, after it has left: the mesh's state and the identity that may never come back.
func (n *Node) erase() error {
	errs := []error{coordinator.Forget(n.cfg.Disk, n.folder.path)}
	for _, name := range []string{identityFile, bookFile, sequenceFile} {
		errs = append(errs, n.cfg.Disk.RemoveAll(filepath.Join(n.folder.path, name)))
	}
	return errors.Join(errs...)
}

// startFailure explains to people why a node does not start.
func startFailure(err error, s config.Settings) error {
	var f *localapi.Failure
	if errors.As(err, &f) {
		return f
	}
	const what = "the node cannot start"
	switch {
	case errors.Is(err, ErrFolderInUse):
		return localapi.Fail(localapi.Failed, what, err, "see phantom status; stop it with phantom down, or use another folder with --state")
	case errors.Is(err, underlay.ErrPortInUse):
		return localapi.Fail(localapi.Failed, what, fmt.Errorf("UDP port %d is in use by another program", s.Port), fmt.Sprintf("stop what uses UDP port %d, or choose another with --port N (--port 0 finds one)", s.Port))
	case errors.Is(err, os.ErrPermission):
		return localapi.Fail(localapi.Failed, what, err, "run it as the folder's owner, or choose another folder with --state")
	}
	return localapi.Fail(failureClass(err), what, err, nextStep(err))
}
