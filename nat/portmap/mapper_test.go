package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeRouter speaks PCP in memory.
type fakeRouter struct {
	mu       sync.Mutex
	external netip.Addr
	mute     bool
	start    time.Time      // of its epoch
	ports    map[uint16]int // internal ports: how often mapped
}

func (f *fakeRouter) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		b := make([]byte, pcpMessageMax)
		for {
			n, err := theirs.Read(b)
			if err != nil {
				return
			}
			if a := f.answer(b[:n]); a != nil {
				theirs.Write(a)
			}
		}
	}()
	return ours, nil
}

func (f *fakeRouter) answer(b []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mute || b[0] != pcpVersion {
		return nil
	}
	b[1] |= pcpResponse
	clear(b[8:24])
	binary.BigEndian.PutUint32(b[8:], uint32(time.Since(f.start)/time.Second))
	if b[1] == pcpMap|pcpResponse {
		port := binary.BigEndian.Uint16(b[40:])
		if binary.BigEndian.Uint32(b[4:]) == 0 {
			delete(f.ports, port)
		} else {
			f.ports[port]++
		}
		addr := f.external.As16()
		copy(b[44:], addr[:])
	}
	return b
}

func (f *fakeRouter) mapped(port uint16) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ports[port]
}

// withRouter runs a mapper against a fake router in virtual time.
func withRouter(t *testing.T, play func(t *testing.T, f *fakeRouter, m *Mapper, changed chan<- struct{}, gateway *Gateway)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRouter{external: netip.MustParseAddr("198.51.100.1"), start: time.Now().Add(-time.Hour), ports: map[uint16]int{}}
		changed := make(chan struct{})
		gateway := Gateway{router, client}
		m := New(Config{Port: 51820, Changed: changed, Dial: f.dial,
			Gateway: func() (Gateway, error) { return gateway, nil },
			Listen:  func(context.Context, string, string) (net.PacketConn, error) { return nil, errors.New("no multicast") }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Run(ctx)
		}()
		synctest.Wait()
		play(t, f, m, changed, &gateway)
		cancel()
		began := time.Now()
		<-done
		if took := time.Since(began); took > removeTimeout {
			t.Errorf("the end took %v", took)
		}
		if len(m.Mappings()) != 0 {
			t.Error("mappings are published after the end")
		}
	})
}

func TestAMappingIsRenewedAndRemoved(t *testing.T) {
	withRouter(t, func(t *testing.T, f *fakeRouter, m *Mapper, _ chan<- struct{}, _ *Gateway) {
		got := m.Mappings()
		if len(got) != 1 || got[0].External != netip.MustParseAddrPort("198.51.100.1:51820") || !got[0].Public || got[0].Protocol != PCP {
			t.Fatalf("%+v", got)
		}
		time.Sleep(time.Hour + time.Second)
		if n := f.mapped(51820); n != 1+6 {
			t.Errorf("mapped %d times in an hour", n)
		}
		t.Cleanup(func() {
			if f.mapped(51820) != 0 {
				t.Error("not removed")
			}
		})
	})
}

func TestARestartedRouterIsAskedAgainWithinAMinute(t *testing.T) {
	withRouter(t, func(t *testing.T, f *fakeRouter, m *Mapper, _ chan<- struct{}, _ *Gateway) {
		f.mu.Lock()
		f.start, f.ports = time.Now(), map[uint16]int{}
		f.mu.Unlock()
		time.Sleep(checkDefault + time.Second)
		if f.mapped(51820) == 0 {
			t.Error("not mapped again")
		}
	})
}

func TestAMappingBehindAnotherNATIsMarked(t *testing.T) {
	withRouter(t, func(t *testing.T, f *fakeRouter, m *Mapper, changed chan<- struct{}, _ *Gateway) {
		for addr, public := range map[string]bool{"100.64.1.2": false, "192.168.0.2": false, "198.51.100.9": true} {
			f.mu.Lock()
			f.external = netip.MustParseAddr(addr)
			f.mu.Unlock()
			changed <- struct{}{}
			synctest.Wait()
			if got := m.Mappings(); len(got) != 1 || got[0].External.Addr().String() != addr || got[0].Public != public {
				t.Errorf("%s: %+v", addr, got)
			}
		}
	})
}

func TestAnotherNetworkBeginsAnew(t *testing.T) {
	withRouter(t, func(t *testing.T, f *fakeRouter, m *Mapper, changed chan<- struct{}, gateway *Gateway) {
		*gateway = Gateway{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.5")}
		changed <- struct{}{}
		synctest.Wait()
		if got := m.Mappings(); len(got) != 1 || got[0].Internal.Addr() != gateway.Local {
			t.Errorf("%+v", got)
		}
	})
}

func TestASilentRouterIsNotWaitedForAtTheEnd(t *testing.T) {
	withRouter(t, func(t *testing.T, f *fakeRouter, m *Mapper, _ chan<- struct{}, _ *Gateway) {
		changes, cancel := m.Watch()
		defer cancel()
		f.mu.Lock()
		f.mute = true
		f.mu.Unlock()
		<-changes // given up
		if len(m.Mappings()) != 0 {
			t.Errorf("%+v", m.Mappings())
		}
		f.mu.Lock()
		f.mute = false
		f.mu.Unlock()
		<-changes // found again
		f.mu.Lock()
		f.mute = true
		f.mu.Unlock()
	})
}

func TestTheHTTPClientTalksToTheGatewayOnly(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another server was asked") }))
	defer other.Close()
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
		case "/long":
			io.Copy(w, io.LimitReader(zeros{}, 4*descriptionMax))
		}
	}))
	defer gateway.Close()
	u := &upnp{gateway: Gateway{Addr: netip.MustParseAddr("127.0.0.1")}, dial: (&net.Dialer{}).DialContext}
	for _, path := range []string{gateway.URL + "/away", "http://localhost:1/", "http://192.0.2.1/"} {
		if response, err := u.client().Get(path); err == nil {
			response.Body.Close()
			t.Errorf("%s was fetched", path)
		}
	}
	response, err := u.client().Get(gateway.URL + "/long")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if b, _ := io.ReadAll(response.Body); len(b) > descriptionMax {
		t.Errorf("%d bytes were read", len(b))
	}
	long, err := url.Parse(gateway.URL + "/long")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.describe(t.Context(), long); !errors.Is(err, errForm) {
		t.Errorf("a description of zeros: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
