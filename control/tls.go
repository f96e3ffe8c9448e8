package control

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// ALPN is the application protocol of the control plane's own connections.
const ALPN = "phantommesh/1"

// resetLabel separates the stateless reset key from everything else derived from the identity.
const resetLabel = "phantommesh stateless reset v1"

// certificateMax is the largest TLS certificate in bytes that we look at; ours has 260.
const certificateMax = 1024

// keyCertificate makes the certificate that carries our Ed25519 key into TLS. It says nothing else: no name, no date that a clock
// could be wrong about. Who we are is proven in the hello.
func keyCertificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // none: RFC 5280 §4.1.2.5
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("control: make TLS certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// tlsConfig is the configuration for both roles: TLS 1.3, one hybrid group, a certificate from both sides, no resumption (every
// connection has its own exporter and its own proof).
func tlsConfig(cert tls.Certificate, rand io.Reader) *tls.Config {
	return &tls.Config{
		Rand:                   rand,
		Certificates:           []tls.Certificate{cert},
		NextProtos:             []string{ALPN},
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768},
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequireAnyClientCert,
		// There is no name and no authority to verify against: VerifyPeerCertificate checks the form, the hello the identity.
		InsecureSkipVerify: true,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			_, err := certificateKey(raw)
			return err
		},
	}
}

// certificateKey returns the Ed25519 key of the one certificate a peer may show.
func certificateKey(raw [][]byte) ([ed25519.PublicKeySize]byte, error) {
	var key [ed25519.PublicKeySize]byte
	if len(raw) != 1 || len(raw[0]) > certificateMax {
		return key, fmt.Errorf("control: peer shows %d certificates, want one of at most %d bytes", len(raw), certificateMax)
	}
	cert, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return key, fmt.Errorf("control: peer's TLS certificate: %w", err)
	}
	pub, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok || len(pub) != len(key) {
		return key, errors.New("control: peer's TLS certificate holds no Ed25519 key")
	}
	copy(key[:], pub)
	return key, nil
}

// peerKey returns the Ed25519 key that the peer proved in TLS, after checking that the handshake was a post-quantum one. The
// configuration allows no other; this is the second lock on the door.
func peerKey(state tls.ConnectionState) ([ed25519.PublicKeySize]byte, error) {
	if state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519MLKEM768 {
		return [ed25519.PublicKeySize]byte{}, fmt.Errorf("%w: TLS %#x, group %s", ErrPostQuantum, state.Version, state.CurveID)
	}
	var raw [][]byte
	for _, c := range state.PeerCertificates {
		raw = append(raw, c.Raw)
	}
	return certificateKey(raw)
}

// resetKey derives the key of QUIC's stateless resets (RFC 9000 §10.3) from the identity, so that a node that was restarted can
// still tell its peers that their old connections are gone.
func resetKey(key *identity.Key) (*quic.StatelessResetKey, error) {
	b, err := hkdf.Key(sha256.New, key.Ed25519().Seed(), nil, resetLabel, len(quic.StatelessResetKey{}))
	if err != nil {
		return nil, fmt.Errorf("control: derive stateless reset key: %w", err)
	}
	k := quic.StatelessResetKey(b)
	return &k, nil
}

// quicConfig is the QUIC side of a connection, the same for both roles.
func quicConfig(keepAlive time.Duration) *quic.Config {
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           handshakeTimeout,
		MaxIdleTimeout:                 idleTimeout,
		KeepAlivePeriod:                keepAlive,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindowMax,
		InitialConnectionReceiveWindow: connectionWindow,
		MaxConnectionReceiveWindow:     connectionWindowMax,
		MaxIncomingStreams:             streamsMax + 1, // and the hello
		MaxIncomingUniStreams:          -1,             // none
		InitialPacketSize:              initialPacketSize,
		DisablePathMTUDiscovery:        true,
	}
}

// strangerConfig is what a dialer gets whose key is not known to be a member's.
func strangerConfig(keepAlive time.Duration) *quic.Config {
	c := quicConfig(keepAlive)
	c.InitialStreamReceiveWindow, c.MaxStreamReceiveWindow = strangerWindow, strangerWindow
	c.InitialConnectionReceiveWindow, c.MaxConnectionReceiveWindow = strangerWindow, strangerWindow
	return c
}
