package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// hostTUN is a Linux TUN interface with our addresses and routes. The kernel removes all of it when the device is closed, even if
// this process is killed.
type hostTUN struct {
	tun.Device
	addresses []netip.Prefix
	netlink   *netlink.Handle // of the namespace in which the device is, whichever thread calls
	index     int
	v6        bool // the interface may have IPv6 addresses

	taken []RangeTaken // constant after OpenTUN

	mu     sync.Mutex // guards what follows
	closed bool
	routes []netlink.Route
	paths  map[netip.Addr]netlink.Route // of members whose path differs; nil if the MTU is fixed
}

// OpenTUN makes a TUN interface, gives it the addresses, brings it up and leads the routes to it. An empty name is DefaultName, or the next
// number that is free. With an MTU of zero each member has its own (RoutePath) up to MaxMTU, and MinMTU to begin with; any other holds for all. IPv6
// addresses and routes are left out where the host has IPv6 switched off, and a range to which a route of somebody else leads already (Taken). It needs
// CAP_NET_ADMIN; its errors are *InterfaceError with ErrNoPermission, ErrNameInUse, ErrRangeTaken or ErrNoTUN. Closing it leaves the host as it was.
func OpenTUN(name string, addresses, routes []netip.Prefix, mtu int) (i Interface, err error) {
	if name != "" {
		return openTUN(name, addresses, routes, mtu)
	}
	for n := range namesMax {
		if i, err = openTUN(fmt.Sprintf("%s%d", namePrefix, n), addresses, routes, mtu); !errors.Is(err, ErrNameInUse) {
			break
		}
	}
	return i, err
}

func openTUN(name string, addresses, routes []netip.Prefix, mtu int) (Interface, error) {
	if _, err := netlink.LinkByName(name); err == nil {
		return nil, &InterfaceError{Name: name, Kind: ErrNameInUse, Err: os.ErrExist,
			Next: "choose another name with --tun, or find out which program made it: ip -d link show " + name}
	}
	perPath := mtu == 0
	if perPath {
		mtu = MaxMTU
	}
	dev, err := tun.CreateTUN(name, mtuOrDefault(mtu))
	if err != nil {
		return nil, explainTUN(name, err)
	}
	// What CreateTUN reports first is that the link is up or down: nobody waits for that.
	h := &hostTUN{Device: dev, addresses: addresses}
	if h.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		_ = dev.Close()
		return nil, &InterfaceError{Name: name, Err: err}
	}
	if perPath {
		h.paths = map[netip.Addr]netlink.Route{}
	}
	if err := h.configure(name, routes); err != nil {
		_ = h.Close()
		return nil, err
	}
	return h, nil
}

// explainTUN turns what the system says into what a person can do.
func explainTUN(name string, err error) error {
	e := &InterfaceError{Name: name, Err: err}
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Kind = ErrNoPermission
		e.Next = "run as root or give the program CAP_NET_ADMIN (a container needs --cap-add NET_ADMIN and --device /dev/net/tun); " +
			"without that right use --tun userspace"
	case errors.Is(err, unix.EBUSY):
		e.Kind = ErrNameInUse
		e.Next = "another program holds it; choose another name with --tun"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO), missingDevice():
		e.Kind = ErrNoTUN
		e.Next = "load the module (modprobe tun), or in a container pass --device /dev/net/tun; else use --tun userspace"
	}
	return e
}

// missingDevice: CreateTUN reports a missing device file as text only.
func missingDevice() bool {
	_, err := os.Stat("/dev/net/tun")
	return errors.Is(err, fs.ErrNotExist)
}

func (h *hostTUN) configure(name string, routes []netip.Prefix) error {
	link, err := h.netlink.LinkByName(name)
	if err != nil {
		return &InterfaceError{Name: name, Err: err}
	}
	h.index = link.Attrs().Index
	h.v6 = ipv6On(name)
	if routes, err = h.leaveTaken(name, routes); err != nil {
		return err
	}
	for _, a := range h.addresses {
		if a.Addr().Is6() && !h.v6 || slices.ContainsFunc(h.taken, func(t RangeTaken) bool { return t.Range.Contains(a.Addr()) }) {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD} // we are alone on this link
		if slices.Contains(routes, a.Masked()) {
			addr.Flags |= unix.IFA_F_NOPREFIXROUTE // the kernel's own route would go before ours and knows no MTU
		}
		if err := h.netlink.AddrReplace(link, addr); err != nil {
			return h.failed(name, fmt.Sprintf("add address %s", a), err)
		}
	}
	if err := h.netlink.LinkSetUp(link); err != nil {
		return h.failed(name, "bring it up", err)
	}
	for _, r := range routes {
		if r.Addr().Is6() && !h.v6 {
			continue
		}
		route := h.route(r.Masked(), MinMTU)
		if err := h.netlink.RouteAdd(&route); err != nil { // never in the place of another's
			return h.failed(name, fmt.Sprintf("add route %s", r), err)
		}
		h.routes = append(h.routes, route)
	}
	if h.v6 {
		h.awaitAddresses()
	}
	return nil
}

// leaveTaken leaves the ranges out to which other routes lead: a host may be in several meshes of the same range.
func (h *hostTUN) leaveTaken(name string, routes []netip.Prefix) (free []netip.Prefix, err error) {
	for _, r := range routes {
		if device := h.routeTo(r.Masked()); device != "" {
			h.taken = append(h.taken, RangeTaken{r.Masked(), device})
		} else {
			free = append(free, r)
		}
	}
	if len(h.taken) > 0 && len(free) == 0 {
		return nil, &InterfaceError{Name: name, Kind: ErrRangeTaken, Err: fmt.Errorf("%s leads to %s", h.taken[0].Range, h.taken[0].Device),
			Next: "is another node of this mesh running on this machine? Stop it, or use --tun userspace"}
	}
	return free, nil
}

// routeTo returns the device to which a route to exactly this range leads; empty: there is none, or the routes cannot be listed, while they change for
// example: then adding ours says whether there is one.
func (h *hostTUN) routeTo(to netip.Prefix) string {
	family := netlink.FAMILY_V4
	if to.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	found, err := h.netlink.RouteListFiltered(family, &netlink.Route{Dst: ipNet(to), Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil || len(found) == 0 {
		return ""
	}
	link, err := h.netlink.LinkByIndex(found[0].LinkIndex)
	if err != nil {
		return "another interface" // it goes away just now, or several share the route
	}
	return link.Attrs().Name
}

// RangeInUse returns the device to which a route leads that has to do with a range: into it, or to more than it. A default route does not count.
func RangeInUse(p netip.Prefix) (device string, used bool) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", false
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if to := netip.PrefixFrom(addr, ones); !ok || ones == 0 || !to.Overlaps(p) {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			device = link.Attrs().Name
		}
		return device, true
	}
	return "", false
}

// Taken implements the method of the same name.
func (h *hostTUN) Taken() []RangeTaken { return h.taken }

// route is a route into the device. Unless the MTU is fixed, packets on it have at most mtu bytes.
func (h *hostTUN) route(to netip.Prefix, mtu int) netlink.Route {
	r := netlink.Route{LinkIndex: h.index, Dst: ipNet(to), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC}
	header := headerLen4
	if to.Addr().Is6() {
		r.Scope, header = netlink.SCOPE_UNIVERSE, headerLen6
	}
	for _, a := range h.addresses {
		if a.Addr().Is4() && to.Addr().Is4() {
			r.Src = a.Addr().AsSlice()
		}
	}
	if h.paths != nil {
		r.MTU = mtu
		// What TCP tells the other end is how much it may send us, which is settled when a connection opens and can not grow: what the
		// interface carries. How much fits the path is for the sender to know.
		r.AdvMSS = MaxMTU - header - headerLenTCP
	}
	return r
}

// RoutePath implements pathRouter. Somebody else's route to the same host is left alone, and goes before ours.
func (h *hostTUN) RoutePath(to []netip.Addr, mtu int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.paths == nil || h.closed {
		return nil
	}
	var failures []error
	for _, a := range to {
		old, there := h.paths[a]
		if !a.IsValid() || there && old.MTU == mtu {
			continue
		}
		if there {
			// Removed and added rather than replaced, which could hit a route that is not ours. In between MinMTU holds.
			delete(h.paths, a)
			if err := h.netlink.RouteDel(&old); err != nil && !errors.Is(err, unix.ESRCH) {
				failures = append(failures, fmt.Errorf("remove the route to %s: %w", a, err))
			}
		}
		if mtu == 0 || mtu == MinMTU || a.Is6() && !h.v6 {
			continue
		}
		route := h.route(netip.PrefixFrom(a, a.BitLen()), mtu)
		if err := h.netlink.RouteAdd(&route); err != nil {
			failures = append(failures, fmt.Errorf("add a route to %s: %w", a, err))
			continue
		}
		h.paths[a] = route
	}
	return errors.Join(failures...)
}

// Bounds on waiting for the kernel, which takes a millisecond as a rule.
const (
	addressWait = 500 * time.Millisecond
	addressPoll = time.Millisecond
)

// awaitAddresses waits until the kernel takes packets for our IPv6 addresses: it puts them into service in the background, and drops
// what comes before. An address that is late is no failure.
func (h *hostTUN) awaitAddresses() {
	until := time.Now().Add(addressWait)
	for _, a := range h.addresses {
		for a.Addr().Is6() && time.Now().Before(until) {
			routes, err := h.netlink.RouteGet(a.Addr().AsSlice())
			if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
				break
			}
			time.Sleep(addressPoll)
		}
	}
}

func (h *hostTUN) failed(name, what string, err error) error {
	e := &InterfaceError{Name: name, Err: fmt.Errorf("%s: %w", what, err)}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		e.Kind = ErrNoPermission
		e.Next = "run as root or give the program CAP_NET_ADMIN"
	}
	return e
}

// ipv6On reports whether the interface may have IPv6 addresses.
func ipv6On(name string) bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
	return err == nil && len(b) > 0 && b[0] == '0'
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Read reads a batch. An interrupt is a read deadline in the past: the kernel's device is left as it is, and no packet is lost.
func (h *hostTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := h.Device.Read(bufs, sizes, offset)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		// Cleared before the caller looks for what it was woken for: a later interrupt is not lost.
		if err := h.Device.File().SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
		return 0, nil
	}
	return n, err
}

// MTU implements tun.Device. The library asks in the namespace of whoever calls.
func (h *hostTUN) MTU() (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, os.ErrClosed
	}
	link, err := h.netlink.LinkByIndex(h.index)
	if err != nil {
		return 0, err
	}
	return link.Attrs().MTU, nil
}

func (h *hostTUN) Interrupt() { _ = h.Device.File().SetReadDeadline(time.Unix(1, 0)) }

func (h *hostTUN) Addresses() []netip.Prefix { return h.addresses }

func (h *hostTUN) DialContext(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, to.String())
}

func (h *hostTUN) ListenTCP(at netip.AddrPort) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
}

func (h *hostTUN) Echo(ctx context.Context, dst netip.Addr, size int) (time.Duration, error) {
	return echoByHost(ctx, dst, size)
}

// Close removes the routes, then the device; the addresses go with it.
func (h *hostTUN) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return closeDevice(h.Device)
	}
	h.closed = true
	for _, r := range h.paths {
		_ = h.netlink.RouteDel(&r) // gone with the device at the latest
	}
	for _, r := range h.routes {
		_ = h.netlink.RouteDel(&r)
	}
	h.routes = nil
	clear(h.paths)
	h.netlink.Close()
	h.mu.Unlock()
	return closeDevice(h.Device)
}

// closeDevice closes a device. It tells its listener to end through a pipe, which the listener closes when it ends; one that has just noticed by itself
// closes it before, and the device reports that, closed all the same.
func closeDevice(d tun.Device) error {
	if err := d.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
