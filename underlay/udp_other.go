//go:build !linux

package underlay

import (
	"net"

	"golang.zx2c4.com/wireguard/conn"
)

// udpSender sends over one socket, one packet a system call.
type udpSender struct{ conn *net.UDPConn }

func newUDPSender(c *net.UDPConn, _ any) *udpSender { return &udpSender{conn: c} }

func (s *udpSender) send(bufs [][]byte, e *conn.StdNetEndpoint) error {
	for _, b := range bufs {
		if _, err := s.conn.WriteToUDPAddrPort(b, e.AddrPort); err != nil {
			return err
		}
	}
	return nil
}

// whole does nothing: the system decides about fragments here.
func whole(*net.UDPConn, bool) {}

func (s *udpSender) sendFragmented(bufs [][]byte, e *conn.StdNetEndpoint) error {
	return s.send(bufs, e)
}
