package control

import (
	"context"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// HeaderSize is the size of a stream's header.
const HeaderSize = headerSize

// RawStream opens a stream without a header on a connection that is in the pool.
func RawStream(ctx context.Context, h *Host, id identity.NodeID) (*quic.Stream, error) {
	return h.connsOf(id)[0].quic.OpenStreamSync(ctx)
}
