package identity

import (
	"encoding/base64"
	"encoding/hex"
)

// WireGuardKey is an X25519 public key (RFC 7748).
type WireGuardKey [32]byte

// String gives base64, as wg shows it.
func (k WireGuardKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether k is no key.
func (k WireGuardKey) IsZero() bool { return k == WireGuardKey{} }

// lowOrderPoints are the u-coordinates of the points of order 1, 2, 4 and 8 on the curve and its twist, as X25519 reads them (little-endian, top
// bit ignored), with their non-canonical forms p and p+1. RFC 7748 §6.1 tells to check for the zero secret that they all lead to; knowing
// them keeps such a key out of certificates, before anybody agrees on a secret with it.
var lowOrderPoints = points(
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)

func points(texts ...string) (out []WireGuardKey) {
	for _, t := range texts {
		b, err := hex.DecodeString(t)
		if err != nil {
			panic("identity: low-order point: " + err.Error())
		}
		out = append(out, WireGuardKey(b))
	}
	return out
}

// lowOrder reports whether every secret agreed on with k is zero. The key is public, so this need not run in constant time.
func (k WireGuardKey) lowOrder() bool {
	k[31] &= 127
	for _, p := range lowOrderPoints {
		if k == p {
			return true
		}
	}
	return false
}
