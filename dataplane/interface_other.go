//go:build !linux

package dataplane

import (
	"errors"
	"net/netip"
)

// RangeInUse is there on Linux only.
func RangeInUse(netip.Prefix) (device string, used bool) { return "", false }

// OpenTUN is there on Linux only.
func OpenTUN(name string, _, _ []netip.Prefix, _ int) (Interface, error) {
	return nil, &InterfaceError{Name: name, Kind: ErrNoTUN, Err: errors.ErrUnsupported, Next: "use --tun userspace"}
}
