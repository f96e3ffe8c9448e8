package exchange

import (
	"fmt"
	"io"
	"log/slog"
)

// PSK is the preshared key of a tunnel for one epoch. It redacts itself in fmt and slog, under every verb: an array of bytes would otherwise show
// itself under %d.
type PSK [32]byte

const redacted = "PSK(redacted)"

// String hides the key.
func (PSK) String() string { return redacted }

// GoString hides the key.
func (PSK) GoString() string { return redacted }

// Format hides the key.
func (PSK) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the key.
func (PSK) LogValue() slog.Value { return slog.StringValue(redacted) }
