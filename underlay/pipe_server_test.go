package underlay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

func TestPipesAreHybridOrNotAtAll(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		host := w.Host(victim.Addr())
		for _, c := range []struct {
			name string
			cfg  *tls.Config
			ok   bool
		}{
			{"hybrid", &tls.Config{InsecureSkipVerify: true}, true},
			{"classical", &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}, false},
			{"TLS 1.2", &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}, false},
		} {
			raw, err := host.DialTCP(t.Context(), nodeB)
			if err != nil {
				t.Fatal(err)
			}
			client := tls.Client(raw, c.cfg)
			err = client.Handshake()
			if err == nil {
				_ = client.SetReadDeadline(time.Now().Add(time.Second))
				if _, err = client.Read(make([]byte, 1)); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
					err = nil // it waits for us to speak
				}
			}
			if (err == nil) != c.ok {
				t.Errorf("a %s client: %v", c.name, err)
			}
			raw.Close()
		}

		// Nor do we speak to a server that will not.
		l, err := host.ListenTCP(victim)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			cfg := w.b.pipes.tls.Clone()
			cfg.VerifyConnection, cfg.CurvePreferences = nil, []tls.CurveID{tls.X25519}
			server := tls.Server(c, cfg)
			_ = server.Handshake()
			_, _ = io.Copy(io.Discard, server)
			c.Close()
		}()
		if _, err := w.a.DialPipe(t.Context(), victim); err == nil {
			t.Error("spoke to a classical server")
		}
		time.Sleep(time.Second) // until the server has noticed
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// stranger is a TLS client that speaks to a node over a pipe.
func stranger(t *testing.T, h *underlaytest.Host) *tls.Conn {
	t.Helper()
	raw, err := h.DialTCP(t.Context(), nodeB)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStrangersOverAPipeGetNoMoreThanOverUDP(t *testing.T) {
	key, pair := someKey, nat.PairKey{1}
	for name, b := range map[string][]byte{
		"padded STUN":    nat.PaddedRequest(nat.TransactionID{1}),
		"opening":        nat.CheckRequest{Sender: key, Opening: true}.Encode(),
		"challenge":      nat.CheckRequest{Sender: key, Key: &pair}.Encode(),
		"a member's key": nat.CheckRequest{Sender: keys[0].Public().WireGuard, Opening: true}.Encode(),
		"QUIC":           append([]byte{0xc0}, make([]byte, 1200)...),
		"WireGuard":      append([]byte{1, 0, 0, 0}, make([]byte, 144)...),
		"relay frame":    {relayByte, 0, 0, 0, 1, 4, 0, 0, 0},
		"gossip":         {gossipByte, 1, 2, 3},
		"noise":          {0xa5, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newPipeWorld(t)
				defer w.close()
				w.b.knows(w.a)
				dev := attach(t, w.b.Socket)
				defer dev.down()
				c := stranger(t, w.Host(victim.Addr()))
				defer c.Close()
				const packets = 500
				go func() {
					for range packets {
						if _, err := c.Write(frame(string(b))); err != nil {
							return
						}
					}
				}()
				_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
				got, _ := io.ReadAll(c)
				if len(got) > packets*(len(b)+nat.PacketOverhead) {
					t.Errorf("%d bytes for %d packets of %d", len(got), packets, len(b))
				}
				answers, _ := readAll(bytes.NewReader(got))
				if most := int(knocks.burst+knocks.perSecond) * 2; len(answers) > most {
					t.Errorf("%d answers, at most %d are due", len(answers), most)
				}
				for _, a := range answers {
					if classify([]byte(a)) != classSTUN {
						t.Errorf("answered with %x…", a[0])
					}
				}
				if len(dev.got) != 0 || len(w.b.quic) != 0 {
					t.Error("a stranger's packet got in")
				}
			})
		})
	}
}

func TestAcceptedPipesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		host := w.Host(victim.Addr())
		var conns []net.Conn
		defer func() {
			for _, c := range conns {
				c.Close()
			}
		}()
		connect := func() bool {
			raw, err := host.DialTCP(t.Context(), nodeB)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, raw)
			return tls.Client(raw, &tls.Config{InsecureSkipVerify: true}).Handshake() == nil
		}
		taken := 0
		for range 3 * pipesPrefixMax {
			if connect() {
				taken++
			}
		}
		if taken != pipesPrefixMax || w.b.pipesOpen() != pipesPrefixMax {
			t.Errorf("%d pipes from one address, want %d", w.b.pipesOpen(), pipesPrefixMax)
		}
		// Others are served meanwhile.
		w.blocked.Store(true)
		w.a.knows(w.b)
		w.b.knows(w.a)
		w.a.mustConnect(w.b)
		// What nobody proves to be his goes after ten seconds, what a member has stays.
		time.Sleep(pipeUnprovenLife + 2*pipeKeepInterval)
		if w.b.pipesOpen() != 1 {
			t.Errorf("%d pipes left", w.b.pipesOpen())
		}
	})
}

// TestSlowHandshakesHoldNobodyUp opens connections that say nothing, or say it slowly.
func TestSlowHandshakesHoldNobodyUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		var conns []net.Conn
		var hosts []*underlaytest.Host
		for i := range 4 {
			hosts = append(hosts, w.Host(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})))
		}
		for i := range 40 {
			c, err := hosts[i%4].DialTCP(t.Context(), nodeB)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			go func() {
				for _, b := range []byte{22, 3, 1, 2, 0} { // the beginning of a client hello
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
		}
		synctest.Wait()
		w.b.pipes.mu.Lock()
		if got := w.b.pipes.handshakes; got == 0 || got > 4*handshakesPrefixMax {
			t.Errorf("%d handshakes under way", got)
		}
		w.b.pipes.mu.Unlock()
		w.blocked.Store(true)
		w.a.knows(w.b)
		w.b.knows(w.a)
		w.a.mustConnect(w.b)
		time.Sleep(pipeHandshakeTimeout + time.Second)
		w.b.pipes.mu.Lock()
		if got := w.b.pipes.handshakes; got != 0 || len(w.b.pipes.greeting) != 0 {
			t.Errorf("%d handshakes are still under way", got)
		}
		w.b.pipes.mu.Unlock()
		for _, c := range conns {
			if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Error("a slow connection is still open")
			}
			c.Close()
		}
	})
}

func TestAPipeThatSpeaksAnotherProtocolIsClosed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		c := stranger(t, w.Host(victim.Addr()))
		defer c.Close()
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("it answered")
		}
		if w.b.pipesOpen() != 0 || w.b.Stats().Dropped["malformed"] != 1 {
			t.Errorf("%d pipes open, dropped %v", w.b.pipesOpen(), w.b.Stats().Dropped)
		}
	})
}
