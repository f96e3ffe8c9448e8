package main

import (
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// kind is where a machine stands.
type kind string

const (
	public  kind = "public"  // both IP versions, no NAT, no firewall
	easy    kind = "easy"    // one port for all destinations
	hard    kind = "hard"    // another port for every destination
	blocked kind = "blocked" // easy, and a firewall that lets no UDP through
	carrier kind = "carrier" // easy behind the carrier's easy one
	mapped  kind = "mapped"  // easy, and the router maps ports for who asks
	ipv6    kind = "ipv6"    // no IPv4, a public IPv6 address behind a firewall that lets answers in
)

// kinds in the order of the table.
var kinds = []kind{public, easy, hard, blocked, carrier, mapped, ipv6}

var kindNames = map[kind]string{
	public: "public", easy: "easy NAT", hard: "hard NAT", blocked: "UDP blocked", carrier: "easy behind easy",
	mapped: "easy + port mapping", ipv6: "IPv6 only",
}

// tools are what a world needs.
var tools = []string{"nft", "conntrack", "miniupnpd", "ping", lab.TUN}

// settled bounds what a node does by itself when it has time.
const settled = 60 * time.Second

// end is a node and the routers between it and the internet, the nearest first.
type end struct {
	*mesh.Node
	kind    kind
	routers []*lab.Router
}

// forget makes every router on the way lose its mappings.
func (e *end) forget() {
	for _, r := range e.routers {
		r.Forget()
	}
}

// world is an internet with one mesh.
type world struct {
	t    lab.T
	lab  *lab.Lab
	hubs []*mesh.Node // public, in nobody's way
	// token admits everybody.
	token string
	count int
}

// newWorld makes two public nodes and nothing else. prepare, if any, is done to their hosts before.
func newWorld(t lab.T, prepare ...func(*lab.Host)) *world {
	t.Helper()
	w := &world{t: t, lab: lab.New(t)}
	for _, name := range []string{"hub1", "hub2"} {
		h := w.lab.Host(name)
		for _, f := range prepare {
			f(h)
		}
		w.hubs = append(w.hubs, mesh.Start(t, w.lab, h))
	}
	w.hubs[0].Found("lab")
	w.token = w.hubs[0].Invite("--uses", "100").Token
	w.hubs[1].Join(w.token)
	return w
}

// place makes a machine of a kind in a network of its own.
func (w *world) place(k kind) (*lab.Host, []*lab.Router) {
	w.t.Helper()
	w.count++
	name := fmt.Sprintf("%s%d", k, w.count)
	router := func(cfg lab.RouterConfig) (*lab.Host, []*lab.Router) {
		r := w.lab.Router("r-"+name, cfg)
		return r.AddHost(name), []*lab.Router{r}
	}
	switch k {
	case public:
		return w.lab.Host(name), nil
	case easy:
		return router(lab.RouterConfig{NAT: lab.EasyNAT})
	case hard:
		return router(lab.RouterConfig{NAT: lab.HardNAT})
	case blocked:
		return router(lab.RouterConfig{NAT: lab.EasyNAT, BlockUDP: true})
	case mapped:
		return router(lab.RouterConfig{NAT: lab.EasyNAT, PortMapping: true})
	case ipv6:
		return router(lab.RouterConfig{IPv6Only: true})
	case carrier:
		outer := w.lab.Router("c-"+name, lab.RouterConfig{NAT: lab.EasyNAT, Subnet: "100.64.0.0/24"})
		h, routers := router(lab.RouterConfig{NAT: lab.EasyNAT, Behind: outer})
		return h, append(routers, outer)
	}
	w.t.Fatalf("no kind %q", k)
	return nil, nil
}

// join adds a node of a kind to the mesh.
func (w *world) join(k kind, flags ...string) *end {
	w.t.Helper()
	h, routers := w.place(k)
	e := &end{Node: mesh.Start(w.t, w.lab, h, flags...), kind: k, routers: routers}
	e.Join(w.token)
	return e
}
