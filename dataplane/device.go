package dataplane

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/phantommesh/phantommesh/crypto/exchange"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// What is said to the WireGuard device, in its configuration protocol. Everything here but newDevice runs in the conductor.
//
// A peer is configured in one IpcSet with its preshared key in it: the device starts a peer only at the end of its section, so it
// is never seen without the key (fail closed).

// newDevice makes the device, up, without peers.
func (p *Plane) newDevice() error {
	quiet := &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { p.log.Debug("wireguard: " + fmt.Sprintf(format, args...)) },
	}
	p.device = device.NewDevice(p.host, p.wire, quiet)
	// A peer's endpoint is its node ID; where that is, is the underlay's business.
	p.device.DisableSomeRoamingForBrokenMobileSemantics()
	private := p.cfg.Key.WireGuardPrivate()
	defer clear(private[:])
	if err := p.device.IpcSet("private_key=" + hex.EncodeToString(private[:]) + "\n"); err != nil {
		p.device.Close()
		return fmt.Errorf("dataplane: set the private key: %w", err)
	}
	if err := p.device.Up(); err != nil {
		p.device.Close()
		return fmt.Errorf("dataplane: bring the WireGuard device up: %w", err)
	}
	return nil
}

// errNoKey is our own mistake: a peer was about to be configured without a key.
var errNoKey = errors.New("dataplane: refusing to configure a peer without a preshared key")

// peerConfig is the section of a peer that is made, or made anew when replace is set.
func peerConfig(key identity.WireGuardKey, psk *exchange.PSK, id identity.NodeID, addresses []netip.Addr, replace bool) (string, error) {
	if *psk == (exchange.PSK{}) {
		return "", errNoKey
	}
	public := hex.EncodeToString(key[:])
	var b strings.Builder
	if replace {
		fmt.Fprintf(&b, "public_key=%s\nremove=true\n", public)
	}
	fmt.Fprintf(&b, "public_key=%s\npreshared_key=%s\nendpoint=%s\nreplace_allowed_ips=true\n", public, hex.EncodeToString(psk[:]), id)
	for _, a := range addresses {
		if a.IsValid() {
			fmt.Fprintf(&b, "allowed_ip=%s\n", netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return b.String(), nil
}

// installPeer makes the tunnel's peer. One that exists is replaced: its sessions are dead, and with it goes the time stamp of the
// last handshake, which a peer that came back with its clock behind could not surpass (WireGuard whitepaper §5.1).
func (p *Plane) installPeer(t *tunnel, psk *exchange.PSK) error {
	replace := t.peer != nil
	if replace {
		t.before = t.before.add(p.countersOf(t))
		p.out.settle(&t.account)
	}
	config, err := peerConfig(t.key, psk, t.id, t.addresses, replace)
	if err == nil {
		p.making = t
		err = p.device.IpcSet(config)
		p.making = nil
	}
	if err != nil {
		p.removePeer(t)
		return fmt.Errorf("dataplane: configure peer %s: %w", t.id.Short(), err)
	}
	t.peer = p.device.LookupPeer(device.NoisePublicKey(t.key))
	if p.cfg.OnPeer != nil && t.peer != nil {
		p.cfg.OnPeer(t.peer)
	}
	if p.cfg.Known != nil {
		p.cfg.Known(t.key, true)
	}
	return nil
}

// renewKey gives a running peer the key of the next epoch. Its sessions stay; the next handshake uses the key.
func (p *Plane) renewKey(t *tunnel, psk *exchange.PSK) error {
	if *psk == (exchange.PSK{}) {
		return errNoKey
	}
	config := fmt.Sprintf("public_key=%s\nupdate_only=true\npreshared_key=%s\n", hex.EncodeToString(t.key[:]), hex.EncodeToString(psk[:]))
	if err := p.device.IpcSet(config); err != nil {
		return fmt.Errorf("dataplane: renew the key of peer %s: %w", t.id.Short(), err)
	}
	return nil
}

// removePeer removes the peer. Its key is overwritten first, with another random one: the device does not clear it, and a zero
// one would for a moment allow a handshake without it.
func (p *Plane) removePeer(t *tunnel) {
	t.open.Store(false)
	t.waiting.hold()
	p.leavePath(t)
	if t.peer == nil {
		return
	}
	t.peer = nil
	var junk exchange.PSK
	if _, err := io.ReadFull(p.cfg.Rand, junk[:]); err != nil {
		junk[0] = 1
	}
	public := hex.EncodeToString(t.key[:])
	config := fmt.Sprintf("public_key=%s\nupdate_only=true\npreshared_key=%s\nremove=true\n", public, hex.EncodeToString(junk[:]))
	if err := p.device.IpcSet(config); err != nil {
		p.log.Warn("peer not removed", "peer", t.id.Short(), "err", err)
	}
	p.out.settle(&t.account)
	if p.cfg.Known != nil {
		p.cfg.Known(t.key, false)
	}
}

// handshake sends a handshake initiation unless the device has sent one in the last 5 s.
func (p *Plane) handshake(t *tunnel) {
	if t.peer == nil {
		return
	}
	if err := t.peer.SendHandshakeInitiation(false); err != nil {
		p.log.Debug("handshake not sent", "peer", t.id.Short(), "err", err)
	}
}

// verifySession asks for a handshake if the last one is older than the key.
func (p *Plane) verifySession(t *tunnel) {
	status, err := p.deviceStatus()
	if err != nil {
		p.log.Warn("device status not read", "err", err)
		return
	}
	if status[t.key].handshake.Before(t.state.keyAt) {
		p.handshake(t)
		return
	}
	t.state.verifyAt = time.Time{}
}

// deviceStatus reads the state of all peers.
func (p *Plane) deviceStatus() (map[identity.WireGuardKey]peerStatus, error) {
	var b secretBuffer
	defer b.wipe()
	if err := p.device.IpcGetOperation(&b); err != nil {
		return nil, err
	}
	return parseDeviceStatus(b.bytes)
}

// countersOf returns the bytes of the tunnel's present peer.
func (p *Plane) countersOf(t *tunnel) traffic {
	status, err := p.deviceStatus()
	if err != nil {
		return traffic{}
	}
	return status[t.key].traffic
}

func (a traffic) add(b traffic) traffic { return traffic{rx: a.rx + b.rx, tx: a.tx + b.tx} }

// secretBuffer holds the device's status, which contains its keys, until it is wiped.
type secretBuffer struct{ bytes []byte }

var _ io.Writer = (*secretBuffer)(nil)

func (b *secretBuffer) Write(p []byte) (int, error) {
	grown := append(slices.Clip(b.bytes), p...)
	clear(b.bytes)
	b.bytes = grown
	return len(p), nil
}

func (b *secretBuffer) wipe() { clear(b.bytes) }

func sameAddresses(a, b []netip.Addr) bool { return slices.Equal(a, b) }
