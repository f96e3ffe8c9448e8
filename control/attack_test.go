package control_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay"
)

// attacker speaks QUIC by hand from its own place on the network.
type attacker struct {
	t         *testing.T
	key       *identity.Key
	transport *quic.Transport
	tls       *tls.Config
}

func newAttacker(t *testing.T, n *controltest.Network) *attacker {
	t.Helper()
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	port := n.Attach(key.Public())
	a := &attacker{t: t, key: key, transport: &quic.Transport{Conn: port}, tls: clientTLS(t, key.Ed25519())}
	t.Cleanup(func() { _ = a.transport.Close(); _ = port.Close() })
	return a
}

// clientTLS is a proper configuration for a key, to be spoiled.
func clientTLS(t *testing.T, key crypto.Signer) *tls.Config {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:         []string{control.ALPN},
		InsecureSkipVerify: true,
	}
}

// connect makes a QUIC connection to a node and waits for its end if the other side ends it in the handshake.
func (a *attacker) connect(to *controltest.Node) (*quic.Conn, error) {
	a.t.Helper()
	qc, err := a.transport.Dial(within(a.t), underlay.Addr{Key: to.Key.Public().WireGuard}, a.tls, nil)
	if err == nil {
		a.t.Cleanup(func() { _ = qc.CloseWithError(0, "") })
	}
	return qc, err
}

// ending is the error the other side ends a connection with.
func ending(t *testing.T, qc *quic.Conn, err error) error {
	t.Helper()
	if err != nil {
		return err
	}
	select {
	case <-qc.Context().Done():
		return context.Cause(qc.Context())
	case <-within(t).Done():
		t.Fatal("the connection was not ended")
		return nil
	}
}

func TestClassicalKeyExchangeIsRefused(t *testing.T) {
	m := controltest.New(t, 1)
	for name, curves := range map[string][]tls.CurveID{
		"X25519": {tls.X25519}, "P-256": {tls.CurveP256}, "all classical": {tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521},
	} {
		t.Run("a dialer with "+name, func(t *testing.T) {
			a := newAttacker(t, m.Network)
			a.tls.CurvePreferences = curves
			qc, err := a.connect(m.Nodes[0])
			var alert *quic.TransportError
			if err = ending(t, qc, err); !errors.As(err, &alert) || !alert.Remote || !alert.ErrorCode.IsCryptoError() {
				t.Errorf("got %v", err)
			}
		})
		t.Run("a listener with "+name, func(t *testing.T) {
			a := newAttacker(t, m.Network)
			a.tls.CurvePreferences = curves
			l, err := a.transport.Listen(a.tls, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			_, err = m.Nodes[0].Host.Open(within(t), a.key.ID(), "echo")
			if !errors.Is(err, control.ErrPostQuantum) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("the same dialer with X25519MLKEM768 gets through", func(t *testing.T) {
		a := newAttacker(t, m.Network)
		a.tls.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
		qc, err := a.connect(m.Nodes[0])
		if err != nil || qc.ConnectionState().TLS.CurveID != tls.X25519MLKEM768 {
			t.Errorf("got %v", err)
		}
	})
}

func TestTLSTakesNothingButAnEd25519KeyAndOurProtocol(t *testing.T) {
	m := controltest.New(t, 1)
	classical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
		"an ECDSA key":   func(c *tls.Config) { c.Certificates = clientTLS(t, classical).Certificates },
		"two of them": func(c *tls.Config) {
			cert := &c.Certificates[0]
			cert.Certificate = append(cert.Certificate, cert.Certificate[0])
		},
		"another ALPN": func(c *tls.Config) { c.NextProtos = []string{"h3"} },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttacker(t, m.Network)
			spoil(a.tls)
			qc, err := a.connect(m.Nodes[0])
			var alert *quic.TransportError
			if err = ending(t, qc, err); !errors.As(err, &alert) || !alert.Remote {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestHellosThatAreNoneEndTheConnection sends rubbish where the hello belongs.
func TestHellosThatAreNoneEndTheConnection(t *testing.T) {
	m := controltest.New(t, 1)
	for name, b := range map[string][]byte{
		"too large": binary.BigEndian.AppendUint32(nil, 1<<31),
		"rubbish":   append(binary.BigEndian.AppendUint32(nil, 4), 1, 2, 3, 4),
		"empty":     binary.BigEndian.AppendUint32(nil, 0),
	} {
		t.Run(name, func(t *testing.T) {
			qc, err := newAttacker(t, m.Network).connect(m.Nodes[0])
			if err != nil {
				t.Fatal(err)
			}
			s, err := qc.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(b); err != nil {
				t.Fatal(err)
			}
			var app *quic.ApplicationError
			if err := ending(t, qc, nil); !errors.As(err, &app) || control.Reason(app.ErrorCode) != control.ReasonBadHello {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestADialerShowsItselfOnlyToWhoHoldsTheMembersKey puts somebody in the middle, who answers at a member's address with a TLS key of its own.
func TestADialerShowsItselfOnlyToWhoHoldsTheMembersKey(t *testing.T) {
	m := controltest.New(t, 2)
	victim, member := m.Nodes[0], m.Nodes[1]
	member.Kill()
	port := m.Network.Attach(member.Key.Public())
	middle := &quic.Transport{Conn: port}
	defer func() { _ = middle.Close(); _ = port.Close() }()
	own, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l, err := middle.Listen(clientTLS(t, own.Ed25519()), nil)
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan int, 1) // bytes of the victim's hello
	go func() {
		defer close(said)
		qc, err := l.Accept(within(t))
		if err != nil {
			return
		}
		s, err := qc.AcceptStream(within(t))
		if err != nil {
			return
		}
		b, _ := io.ReadAll(s)
		said <- len(b)
	}()
	_, err = victim.Host.Open(within(t), member.ID, "echo")
	if !errors.Is(err, &control.Refused{Code: uint64(control.ReasonWrongNode)}) {
		t.Errorf("the victim says: %v", err)
	}
	if n := <-said; n > 0 {
		t.Errorf("the victim said %d bytes to somebody in the middle", n)
	}
}

// TestASlowHelloCostsAPlaceOnlyForSeconds connects and says nothing, or one byte.
func TestASlowHelloCostsAPlaceOnlyForSeconds(t *testing.T) {
	synctest.Test(t, slowHelloCostsAPlaceOnlyForSeconds)
}

func slowHelloCostsAPlaceOnlyForSeconds(t *testing.T) {
	m := controltest.New(t, 1)
	a := newAttacker(t, m.Network)
	silent, err := a.connect(m.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	dripping, err := a.connect(m.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	s, err := dripping.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both count as strangers", func() bool { return m.Nodes[0].Host.Stats().Strangers == 2 })
	began := time.Now()
	for _, qc := range []*quic.Conn{silent, dripping} {
		var app *quic.ApplicationError
		if err := ending(t, qc, nil); !errors.As(err, &app) {
			t.Errorf("got %v", err)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("they were kept for %v", took)
	}
	eventually(t, "the places are free again", func() bool { return m.Nodes[0].Host.Stats().Strangers == 0 })
}

// TestStrangersCannotTakeMembersPlaces fills every place strangers have and then has a member connect.
func TestStrangersCannotTakeMembersPlaces(t *testing.T) {
	m := controltest.New(t, 2)
	target := m.Nodes[0]
	target.Host.Handle("echo", control.MembersOnly, echo)
	refused := 0
	for refused == 0 {
		a := newAttacker(t, m.Network)
		for range 10 { // more than one address may have
			if _, err := a.connect(target); err != nil {
				refused++
				break
			}
		}
		if refused == 1 && target.Host.Stats().Strangers < 20 {
			refused = 0 // only this address is full; go on until all places are
		}
	}
	if st := target.Host.Stats(); st.Strangers > 64 || st.TurnedAway == 0 {
		t.Errorf("%+v", st)
	}
	mustOpen(t, m.Nodes[1], target, "echo").Close()
}

func TestStreamsHaveALimit(t *testing.T) {
	m := controltest.New(t, 2)
	member, joiner := m.Nodes[0], m.Stranger()
	for _, protocol := range []string{"enroll", "hold"} {
		member.Host.Handle(protocol, control.Anyone, func(ctx context.Context, s *control.Stream) {
			<-ctx.Done()
			s.Close()
		})
	}
	open := func(from *controltest.Node) (n int, err error) {
		for n = 0; n < 1000; n++ {
			var s *control.Stream
			s, err = from.Host.OpenTo(within(t), underlay.Addr{Key: member.Key.Public().WireGuard}, member.ID, "hold")
			if err != nil {
				return n, err
			}
			t.Cleanup(s.Reset)
		}
		return n, nil
	}
	if n, err := open(joiner); n != 4 || !errors.Is(err, control.ErrBusy) {
		t.Errorf("a stranger got %d streams, then %v", n, err)
	}
	if n, err := open(m.Nodes[1]); n != 256 || !errors.Is(err, control.ErrBusy) {
		t.Errorf("a member got %d streams, then %v", n, err)
	}
	if !member.Host.Connected(joiner.ID) || !member.Host.Connected(m.Nodes[1].ID) {
		t.Error("reaching the limit cost the connection")
	}
}

// TestABrokenHeaderEndsOnlyItsStream has a member open streams that no version of ours would.
func TestABrokenHeaderEndsOnlyItsStream(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	s := mustOpen(t, a, b, "echo")
	defer s.Close()
	for name, header := range map[string][control.HeaderSize]byte{
		"a name that is too long":  {255},
		"something in the padding": {1, 'x', 'y'},
		"a name that is none":      {1, '!'},
	} {
		raw, err := control.RawStream(within(t), a.Host, b.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Write(header[:]); err != nil {
			t.Fatal(err)
		}
		var broken *quic.StreamError
		if _, err := raw.Read(make([]byte, 1)); !errors.As(err, &broken) || !broken.Remote {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := say(t, s, "alive"); got != "alive" {
		t.Errorf("got %q", got)
	}
}
