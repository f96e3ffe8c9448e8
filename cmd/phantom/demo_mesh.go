package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

var demoNames = [...]string{"atlas", "nas", "laptop", "printer", "pi"}

// demo is the mesh of one run.
type demo struct {
	app   *app
	dir   string
	began time.Time
	nodes []*demoNode

	requests, pings int // answered
}

// demoNode is one node with the page behind it.
type demoNode struct {
	settings config.Settings
	entry    localapi.Entry
	process  *background
	page     *http.Server
	address  string // overlay IPv4
}

// found starts the first node and lets it found the mesh.
func (d *demo) found(ctx context.Context) error {
	d.step("starting %s, which founds the mesh demo", demoNames[0])
	n, err := d.startNode(demoNames[0], localapi.Entry{New: "demo"})
	if err != nil {
		return err
	}
	return d.ready(ctx, n)
}

// join invites four machines, one token each, and brings them in side by side.
func (d *demo) join(ctx context.Context) error {
	var nodes []*demoNode
	for _, name := range demoNames[1:] {
		i, err := d.nodes[0].process.client.Invite(ctx, api.InviteRequest{Uses: 1, Expires: time.Hour, Name: name})
		if err != nil {
			return err
		}
		d.step("%s invites %s: %.20s… (%d characters)", demoNames[0], name, i.Token, len(i.Token))
		n, err := d.startNode(name, localapi.Entry{Token: i.Token})
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	return each(nodes, func(n *demoNode) error { return d.online(ctx, n) }, func(n *demoNode) { d.announce(n) })
}

// startNode starts a node that listens on the loopback address only, with a page behind its overlay port 80.
func (d *demo) startNode(name string, entry localapi.Entry) (*demoNode, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, localapi.Fail(localapi.Failed, "cannot serve a page for the demo", err, "")
	}
	hello := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "hello from %s\n", name) }
	n := &demoNode{entry: entry, page: &http.Server{ReadHeaderTimeout: demoRequestTimeout, Handler: http.HandlerFunc(hello)}}
	go func() { _ = n.page.Serve(l) }() // ends with cleanUp's Close
	d.nodes = append(d.nodes, n)
	n.settings = config.Settings{State: filepath.Join(d.dir, name), Name: name}
	n.process, err = startNode(start{settings: n.settings, attached: true, args: []string{
		"--config", os.DevNull, "--name", name, "--port", "0", "--listen", "127.0.0.1", "--tun", config.Userspace, "--no-lan", "--timing", config.LAN,
		"--socks5", "127.0.0.1:0", "--http-proxy", "127.0.0.1:0", "--forward", "80=" + l.Addr().String()}})
	return n, err
}

func (d *demo) ready(ctx context.Context, n *demoNode) error {
	if err := d.online(ctx, n); err != nil {
		return err
	}
	d.announce(n)
	return nil
}

func (d *demo) online(ctx context.Context, n *demoNode) error {
	if err := n.process.enter(ctx, upRequest{entry: n.entry}); err != nil {
		return err
	}
	s, err := n.process.client.Status(ctx)
	if err != nil {
		return err
	}
	for _, a := range s.Self.Addresses {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
			n.address = a
		}
	}
	if s.Self.Proxies == nil {
		return &api.Failure{Class: localapi.Failed, What: n.settings.Name + " has no proxy into the overlay"}
	}
	n.settings.SOCKS5 = s.Self.Proxies.SOCKS5
	if n.address == "" {
		return &api.Failure{Class: localapi.Failed, What: n.settings.Name + " has no overlay IPv4 address", Why: strings.Join(s.Self.Addresses, " ")}
	}
	return nil
}

func (d *demo) announce(n *demoNode) { d.step("%s is online at %s", n.settings.Name, n.address) }

// gather waits until every node can reach every other.
func (d *demo) gather(ctx context.Context) error {
	err := each(d.nodes, func(n *demoNode) error {
		for _, other := range d.nodes {
			if other == n {
				continue
			}
			if err := n.waitFor(ctx, other.settings.Name); err != nil {
				return because(err, "%s does not reach %s", n.settings.Name, other.settings.Name)
			}
		}
		return nil
	}, func(*demoNode) {})
	if err != nil {
		return err
	}
	d.step("every node reaches every other")
	return nil
}

// waitFor waits for a peer, even one this node has not heard of yet: news takes a moment to get around.
func (n *demoNode) waitFor(ctx context.Context, name string) error {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		err := n.process.client.Wait(ctx, api.WaitRequest{Node: name})
		var f *api.Failure
		if err == nil || !errors.As(err, &f) || f.Class != localapi.Failed {
			return err
		}
		select {
		case <-t.C:
		case <-n.process.ended:
			return n.process.cause
		case <-ctx.Done():
			return err
		}
	}
}

// traffic sends an HTTP request one way and a ping the other through every pair's tunnel.
func (d *demo) traffic(ctx context.Context) error {
	fmt.Fprintln(d.app.stdout)
	t := d.app.newTable("HTTP THROUGH SOCKS5", "ANSWER", "TIME", "PING", "PATH", "TIME")
	for i, from := range d.nodes {
		for _, to := range d.nodes[i+1:] {
			began := time.Now()
			answer, err := from.get(ctx, to)
			if err != nil {
				return because(err, "%s gets no page from %s", from.settings.Name, to.settings.Name)
			}
			took := float64(time.Since(began).Microseconds()) / 1000
			reply, err := to.ping(ctx, from)
			if err != nil {
				return because(err, "%s cannot ping %s", to.settings.Name, from.settings.Name)
			}
			d.requests, d.pings = d.requests+1, d.pings+1
			t.add(from.settings.Name+" -> "+to.settings.Name, answer, millis(took),
				to.settings.Name+" -> "+from.settings.Name, describePath(reply.Path), millis(reply.TimeMs))
		}
	}
	t.print(d.app.stdout)
	return nil
}

// because says which step failed, in front of why.
func because(err error, format string, args ...any) error {
	f := *localapi.AsFailure(err)
	f.Why = strings.TrimSuffix(f.What+": "+f.Why, ": ")
	f.What = fmt.Sprintf(format, args...)
	return &f
}

// demoRequestTimeout is for one request or ping; the first of a pair brings its tunnel up.
const demoRequestTimeout = 10 * time.Second

// get fetches to's page through from's SOCKS5 proxy: from the proxy on, it travels in the overlay.
func (n *demoNode) get(ctx context.Context, to *demoNode) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, demoRequestTimeout)
	defer cancel()
	proxy := &url.URL{Scheme: "socks5", Host: n.settings.SOCKS5}
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.address+"/", nil)
	if err != nil {
		return "", err
	}
	response, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return "", err
	}
	answer := strings.TrimSpace(string(b))
	if want := "hello from " + to.settings.Name; answer != want {
		return "", fmt.Errorf("the answer was %q", answer)
	}
	return answer, nil
}

func (n *demoNode) ping(ctx context.Context, to *demoNode) (api.PingReply, error) {
	var last api.PingReply
	err := n.process.client.Ping(ctx, api.PingRequest{Node: to.address, Count: 1, Timeout: demoRequestTimeout}, func(r api.PingReply) error {
		last = r
		return nil
	})
	if err == nil && last.Lost {
		err = fmt.Errorf("lost: %s", last.Error)
	}
	return last, err
}

// each works on all nodes at once, tells of each that is done, in the order they finish, and gives the first error.
func each(nodes []*demoNode, work func(*demoNode) error, done func(*demoNode)) error {
	type outcome struct {
		node *demoNode
		err  error
	}
	outcomes := make(chan outcome, len(nodes))
	for _, n := range nodes {
		go func() { outcomes <- outcome{n, work(n)} }()
	}
	var first error
	for range nodes {
		o := <-outcomes
		if o.err == nil && first == nil {
			done(o.node)
		}
		if first == nil {
			first = o.err
		}
	}
	return first
}
