//go:build !linux

package underlay

import "net"

// limitUnsent bounds what the kernel holds of the connection's data. Here there is only the send buffer, which bounds what is on the
// way as well: at 50 ms, 4 × 32 KiB are 21 Mbit/s.
func limitUnsent(c *net.TCPConn) { _ = c.SetWriteBuffer(4 * pipeSendBuffer) }
