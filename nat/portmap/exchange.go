package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// serverPort is where a router takes PCP and NAT-PMP requests (RFC 6887 §19.1).
	serverPort = 5351
	// askTimeout bounds one exchange: a router on the same link answers in milliseconds, one that is busy writing rules in one or two seconds.
	askTimeout = 4 * time.Second
	// askFirst is the wait before the first repetition; the waits double (RFC 6886 §3.1).
	askFirst = 250 * time.Millisecond
)

// exchange sends requests of PCP and NAT-PMP to a gateway and takes its answers.
type exchange struct {
	gateway Gateway
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
}

// ask sends a request until read accepts an answer. Answers that read calls malformed, which are others' or a former request's, are passed
// over; any other error ends the exchange. The socket is connected, so that the kernel drops what does not come from the gateway.
func (e *exchange) ask(ctx context.Context, request []byte, read func([]byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := e.dial(ctx, "udp", net.JoinHostPort(e.gateway.Addr.String(), fmt.Sprint(serverPort)))
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	b := make([]byte, pcpMessageMax+1)
	for wait := askFirst; ; wait *= 2 {
		if _, err := conn.Write(request); err != nil {
			return cause(ctx, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return cause(ctx, err)
		}
		for {
			n, err := conn.Read(b)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil {
				break
			}
			if err != nil {
				return cause(ctx, err) // refused: nobody listens there
			}
			if err := read(b[:n]); !errors.Is(err, errForm) {
				return err
			}
		}
	}
}

// cause prefers the context's error to that of the socket which it closed.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
