package netchange

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linux reads addresses and routes over one netlink socket and listens for changes on another.
type linux struct {
	handle *netlink.Handle
	news   *nl.NetlinkSocket
	sign   chan struct{}
}

// groups are what the kernel shall tell of.
var groups = []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE}

// open prefers netlink. Where that is closed to us (some sandboxes), addresses are polled.
func open(log *slog.Logger) system {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		log.Warn("changes of the network are polled: no netlink", "err", err)
		return newFallback()
	}
	news, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		handle.Close()
		log.Warn("changes of the network are polled: no netlink", "err", err)
		return newFallback()
	}
	l := &linux{handle: handle, news: news, sign: make(chan struct{}, 1)}
	go l.listen()
	return l
}

// listen turns messages into signs; it ends when the socket is closed. What they say does not matter, and so neither does a loss.
func (l *linux) listen() {
	for {
		_, _, err := l.news.Receive()
		switch {
		case err == nil, errors.Is(err, unix.ENOBUFS): // a flood: some were lost
		case errors.Is(err, unix.EINTR):
			continue
		default: // closed, or beyond repair: the clock's comparison goes on
			return
		}
		select {
		case l.sign <- struct{}{}:
		default:
		}
	}
}

func (l *linux) signs() <-chan struct{} { return l.sign }

func (l *linux) Close() error {
	l.news.Close()
	l.handle.Close()
	return nil
}

// dumpTries is how often a listing that a change interrupted is begun anew; the change itself is a further sign.
const dumpTries = 3

func (l *linux) snapshot(ignore func(string) bool) (snapshot, error) {
	for try := 1; ; try++ {
		s, err := l.read(ignore)
		if try < dumpTries && errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		return s, err
	}
}

func (l *linux) read(ignore func(string) bool) (snapshot, error) {
	links, err := l.handle.LinkList()
	if err != nil {
		return snapshot{}, fmt.Errorf("interfaces: %w", err)
	}
	names, mtus := map[int]string{}, map[int]int{} // of interfaces that count
	for _, link := range links {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback == 0 && !ignore(a.Name) {
			names[a.Index], mtus[a.Index] = a.Name, a.MTU
			if a.Flags&net.FlagRunning == 0 {
				names[a.Index] = "" // no carrier: its addresses reach nobody, its routes lead nowhere
			}
		}
	}
	addrs, err := l.handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return snapshot{}, fmt.Errorf("addresses: %w", err)
	}
	var s snapshot
	for _, a := range addrs {
		usable := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 && !a.IP.IsLinkLocalUnicast()
		if name := names[a.LinkIndex]; name != "" && usable {
			s.addresses = append(s.addresses, fmt.Sprintf("%s dev %s mtu %d", a.IPNet, name, mtus[a.LinkIndex]))
		}
	}
	routes, err := l.handle.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return snapshot{}, fmt.Errorf("routes: %w", err)
	}
	for _, r := range routes {
		if line := routeLine(r, names); line != "" {
			s.routes = append(s.routes, line)
		}
	}
	slices.Sort(s.addresses)
	slices.Sort(s.routes)
	return s, nil
}

// routeLine is what matters of a route; empty if nothing does.
func routeLine(r netlink.Route, names map[int]string) string {
	if r.Dst != nil && r.Dst.IP.IsLinkLocalUnicast() {
		return ""
	}
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	to := "default"
	if r.Dst != nil {
		to = r.Dst.String()
	}
	line := ""
	for _, hop := range hops {
		name := names[hop.LinkIndex]
		if name == "" && hop.LinkIndex != 0 { // 0: a blackhole or the like
			continue
		}
		gateway := ""
		if hop.Gw != nil {
			gateway = hop.Gw.String()
		} else if hop.Via != nil {
			gateway = hop.Via.String()
		}
		line += fmt.Sprintf(" via %s dev %s", gateway, name)
	}
	if line == "" {
		return ""
	}
	return fmt.Sprintf("%s type %d metric %d%s", to, r.Type, r.Priority, line)
}

// asleep is the time that the machine was suspended since it was started: the boot clock counts it, the monotonic one does not
// (clock_gettime(2)).
func (*linux) asleep() time.Duration { return clock(unix.CLOCK_BOOTTIME) - clock(unix.CLOCK_MONOTONIC) }

func clock(id int32) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		panic("netchange: " + os.NewSyscallError("clock_gettime", err).Error()) // both clocks exist since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}
