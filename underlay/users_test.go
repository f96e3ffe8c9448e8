package underlay

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// twoReal opens two members on the operating system's loopback.
func twoReal(t *testing.T) (a, b *end) {
	lo := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	a, b = open(t, 0, Config{Listen: lo}), open(t, 1, Config{Listen: lo})
	t.Cleanup(func() { a.Close(); b.Close() })
	a.knows(b)
	b.knows(a)
	return a, b
}

// wireGuardDevice starts the real device on a socket, with the other as its peer.
func wireGuardDevice(t *testing.T, e, other *end, otherAddr string) (*wgdevice.Device, *tunnel) {
	tun := tuntest.NewChannelTUN()
	d := wgdevice.NewDevice(tun.TUN(), e.Bind(), wgdevice.NewLogger(wgdevice.LogLevelSilent, t.Name()))
	private, theirs := e.key.WireGuardPrivate(), other.key.Public().WireGuard
	if err := d.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=%s/32\n",
		hex.EncodeToString(private[:]), hex.EncodeToString(theirs[:]), other.id(), otherAddr)); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	// What comes out is taken out at once: a device whose TUN is not read stops.
	out := &tunnel{in: tun.Outbound, out: make(chan []byte, 1024)}
	go func() {
		for {
			select {
			case p := <-tun.Inbound:
				out.out <- p
			case <-d.Wait():
				return
			}
		}
	}()
	return d, out
}

// tunnel is a device's TUN.
type tunnel struct {
	in  chan<- []byte
	out chan []byte
}

// TestTheRealDeviceRunsOnIt carries a ping between two WireGuard devices, through restarts of one, with QUIC on the same port.
func TestTheRealDeviceRunsOnIt(t *testing.T) {
	a, b := twoReal(t)
	da, ta := wireGuardDevice(t, a, b, "10.0.0.2")
	db, tb := wireGuardDevice(t, b, a, "10.0.0.1")
	defer da.Close()
	a.mustConnect(b)
	for range 3 {
		// The restarted side begins: the other still believes in its old session, for as long as WireGuard does (15 s).
		carry(t, tb, ta, tuntest.Ping(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")))
		carry(t, ta, tb, tuntest.Ping(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")))
		quicPing(t, a, b)
		if got, err := da.IpcGet(); err != nil || !bytes.Contains([]byte(got), []byte("endpoint="+b.id().String())) {
			t.Errorf("the device's endpoint is not the node: %v", err)
		}
		// WireGuard's handshakes carry a timestamp of 17 ms resolution: a device that restarts faster looks like a replay.
		time.Sleep(50 * time.Millisecond)
		closed := make(chan struct{})
		go func() { db.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(5 * time.Second):
			t.Fatal("Device.Close hangs")
		}
		db, tb = wireGuardDevice(t, b, a, "10.0.0.1")
	}
	db.Close()
}

// carry puts a packet into one tunnel until it comes out of the other.
func carry(t *testing.T, from, to *tunnel, packet []byte) {
	t.Helper()
	for len(to.out) > 0 {
		<-to.out // repeated by an earlier call
	}
	tries := time.NewTicker(500 * time.Millisecond)
	defer tries.Stop()
	for range 30 {
		from.in <- packet
		select {
		case got := <-to.out:
			if !bytes.Equal(got, packet) {
				t.Fatal("another packet arrived")
			}
			return
		case <-tries.C:
		}
	}
	t.Fatal("the packet did not arrive")
}

func selfSigned(t *testing.T) *tls.Config {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"t"}, InsecureSkipVerify: true}
}

// TestQUICRunsOnIt moves a megabyte between two quic-go transports, and hears no complaint about socket buffers.
func TestQUICRunsOnIt(t *testing.T) {
	var noise bytes.Buffer
	log.SetOutput(&noise)
	defer log.SetOutput(log.Default().Writer())
	a, b := twoReal(t)
	config := &quic.Config{InitialPacketSize: 1200, DisablePathMTUDiscovery: true}
	ta, tb := &quic.Transport{Conn: a.PacketConn()}, &quic.Transport{Conn: b.PacketConn()}
	defer ta.Close()
	defer tb.Close()
	l, err := tb.Listen(selfSigned(t), config)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 20
	go func() {
		c, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		if s, err := c.OpenUniStream(); err == nil {
			_, _ = io.Copy(s, io.LimitReader(rand.Reader, size))
			s.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a.mustConnect(b)
	addr, _ := a.AddrOf(b.id())
	c, err := ta.Dial(ctx, addr, selfSigned(t), config)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.AcceptUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, s); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if c.RemoteAddr().String() != addr.String() {
		t.Errorf("remote address %v", c.RemoteAddr())
	}
	_ = c.CloseWithError(0, "")
	if noise.Len() > 0 {
		t.Errorf("logged: %s", &noise)
	}
}
