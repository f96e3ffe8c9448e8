package dataplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Echo pings with an ICMP endpoint of the stack, which chooses the identifier, fills in the checksums and hands over only the
// replies to it.
func (u *userspace) Echo(ctx context.Context, dst netip.Addr, size int) (time.Duration, error) {
	to, protocol := fullAddress(netip.AddrPortFrom(dst, 0))
	transport := icmp.ProtocolNumber4
	if protocol == ipv6.ProtocolNumber {
		transport = icmp.ProtocolNumber6
	}
	var queue waiter.Queue
	ep, tcpErr := u.stack.NewEndpoint(transport, protocol, &queue)
	if tcpErr != nil {
		return 0, fmt.Errorf("open a ping socket: %s", tcpErr)
	}
	defer ep.Close()
	readable, notify := waiter.NewChannelEntry(waiter.ReadableEvents)
	queue.EventRegister(&readable)
	defer queue.EventUnregister(&readable)

	request, err := echoRequest(dst.Is6(), 0, size)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if _, tcpErr := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{To: &to}); tcpErr != nil {
		return 0, fmt.Errorf("send: %s", tcpErr)
	}
	for {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-u.stop:
			return 0, ErrClosed
		case <-notify:
		}
		var reply bytes.Buffer
		result, tcpErr := ep.Read(&reply, tcpip.ReadOptions{NeedRemoteAddr: true})
		took := time.Since(begun)
		if tcpErr != nil {
			if _, again := tcpErr.(*tcpip.ErrWouldBlock); again {
				continue
			}
			return 0, fmt.Errorf("receive: %s", tcpErr)
		}
		if from, _ := netip.AddrFromSlice(result.RemoteAddr.Addr.AsSlice()); from != dst {
			continue
		}
		if _, err := parseEcho(reply.Bytes(), dst.Is6()); errors.Is(err, errNotEcho) {
			continue
		}
		return took, nil
	}
}
