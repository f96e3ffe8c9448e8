package dataplane

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// TunnelState is what a person is told about a tunnel.
type TunnelState string

// The states, as in `status --json`.
const (
	TunnelUp         TunnelState = "up"         // packets pass
	TunnelConnecting TunnelState = "connecting" // the key or the session is being agreed on
	TunnelIdle       TunnelState = "idle"       // nothing to carry; the next packet makes it anew
)

// TunnelStatus is the state of the tunnel to one member.
type TunnelStatus struct {
	ID    identity.NodeID
	State TunnelState
	// PostQuantum: the tunnel has a preshared key from an exchange. A tunnel that carries anything has.
	PostQuantum bool
	PSKEpoch    uint64        // zero: no key
	PSKAge      time.Duration // zero: no key
	// HandshakeAge is the time since WireGuard's last handshake, -1 if there was none.
	HandshakeAge time.Duration
	Rx, Tx       uint64 // bytes on the wire, since the tunnel was made
}

// sessionLife is how long a WireGuard session may be used after its handshake (RejectAfterTime).
const sessionLife = 180 * time.Second

// Tunnels returns the tunnels of this node, sorted by node ID. Members without one were not talked to lately.
func (p *Plane) Tunnels() []TunnelStatus {
	status, err := p.deviceStatus()
	if err != nil {
		p.log.Warn("device status not read", "err", err)
	}
	now := time.Now()
	var out []TunnelStatus
	p.tunnels.each(func(t *tunnel) { out = append(out, t.view.Load().status(t.id, status, now)) })
	slices.SortFunc(out, func(a, b TunnelStatus) int { return a.ID.Compare(b.ID) })
	return out
}

func (v *view) status(id identity.NodeID, device map[identity.WireGuardKey]peerStatus, now time.Time) TunnelStatus {
	live := v.phase == settling || v.phase == open
	peer, exists := device[v.key]
	total := v.before.add(peer.traffic)
	s := TunnelStatus{ID: id, State: TunnelIdle, HandshakeAge: -1, Rx: total.rx, Tx: total.tx}
	if live && exists && peer.keyed {
		s.PostQuantum, s.PSKEpoch, s.PSKAge = true, v.epoch, max(now.Sub(v.keyAt), 0)
	}
	if !peer.handshake.IsZero() {
		s.HandshakeAge = max(now.Sub(peer.handshake), 0)
	}
	switch {
	case v.phase == connecting, live && !v.session && s.HandshakeAge < 0:
		s.State = TunnelConnecting
	case live && s.HandshakeAge >= 0 && s.HandshakeAge < sessionLife:
		s.State = TunnelUp
	}
	return s
}

// peerStatus is what the device says of a peer.
type peerStatus struct {
	keyed     bool // it has a preshared key
	handshake time.Time
	traffic   traffic
}

// errStatus: the device's status is not in the form that this version knows.
var errStatus = errors.New("malformed device status")

// parseDeviceStatus reads the answer of the device to a "get" of its configuration protocol
// (https://www.wireguard.com/xplatform/#configuration-protocol). Unknown keys, repeated peers and values out of range are errors.
func parseDeviceStatus(b []byte) (map[identity.WireGuardKey]peerStatus, error) {
	out := map[identity.WireGuardKey]peerStatus{}
	var key identity.WireGuardKey
	var now *peerParser
	flush := func() {
		if now != nil {
			out[key] = now.finish()
		}
	}
	for line := range bytes.Lines(b) {
		name, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte("="))
		if !ok {
			return nil, fmt.Errorf("%w: a line without \"=\"", errStatus)
		}
		if string(name) != "public_key" {
			if err := now.line(string(name), value); err != nil {
				return nil, err
			}
			continue
		}
		flush()
		if err := hexKey(key[:], value); err != nil {
			return nil, err
		}
		if _, again := out[key]; again {
			return nil, fmt.Errorf("%w: a peer is listed twice", errStatus)
		}
		now = &peerParser{}
	}
	flush()
	return out, nil
}

// peerParser collects the lines of one peer; nil: those of the device, before the first peer.
type peerParser struct {
	status    peerStatus
	sec, nsec uint64
}

func (p *peerParser) finish() peerStatus {
	if p.sec != 0 || p.nsec != 0 {
		p.status.handshake = time.Unix(int64(p.sec), int64(p.nsec))
	}
	return p.status
}

// Values are never put into an error: some are keys.
func (p *peerParser) line(name string, value []byte) (err error) {
	const secMax, nsecMax = 1 << 40, 1e9 - 1
	if p == nil {
		switch name {
		case "private_key":
			return hexKey(new([32]byte)[:], value)
		case "listen_port":
			_, err = number(name, value, 1<<16-1)
			return err
		case "fwmark":
			_, err = number(name, value, 1<<32-1)
			return err
		}
		return fmt.Errorf("%w: unknown device key %.40q", errStatus, name)
	}
	switch name {
	case "preshared_key":
		var psk [32]byte
		err = hexKey(psk[:], value)
		p.status.keyed = psk != [32]byte{}
		clear(psk[:])
	case "last_handshake_time_sec":
		p.sec, err = number(name, value, secMax)
	case "last_handshake_time_nsec":
		p.nsec, err = number(name, value, nsecMax)
	case "tx_bytes":
		p.status.traffic.tx, err = number(name, value, 1<<64-1)
	case "rx_bytes":
		p.status.traffic.rx, err = number(name, value, 1<<64-1)
	case "persistent_keepalive_interval":
		_, err = number(name, value, 1<<16-1)
	case "protocol_version":
		_, err = number(name, value, 1)
	case "allowed_ip":
		if _, bad := netip.ParsePrefix(string(value)); bad != nil {
			err = fmt.Errorf("%w: allowed_ip", errStatus)
		}
	case "endpoint":
	default:
		err = fmt.Errorf("%w: unknown peer key %.40q", errStatus, name)
	}
	return err
}

func hexKey(dst, value []byte) error {
	if len(value) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("%w: a key of %d digits", errStatus, len(value))
	}
	if _, err := hex.Decode(dst, value); err != nil {
		return fmt.Errorf("%w: a key that is not hexadecimal", errStatus)
	}
	return nil
}

func number(name string, value []byte, limit uint64) (uint64, error) {
	n, err := strconv.ParseUint(string(value), 10, 64)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%w: %s", errStatus, name)
	}
	return n, nil
}
