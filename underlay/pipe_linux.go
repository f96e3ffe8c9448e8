package underlay

import (
	"net"

	"golang.org/x/sys/unix"
)

// limitUnsent bounds what the kernel holds of the connection's data that was not sent yet (TCP_NOTSENT_LOWAT, tcp(7)). What is on the
// way is not bounded by it, as a small send buffer would: a long fat path still fills.
func limitUnsent(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, pipeSendBuffer)
	})
}
