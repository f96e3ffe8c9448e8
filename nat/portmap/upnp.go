package portmap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
	"github.com/huin/goupnp/soap"
)

const (
	ssdpPort = 1900
	// ssdpGroup is where devices listen (UPnP Device Architecture 1.1 §1.3.2); the gateway is asked directly too, as some routers do not
	// hear multicast from wireless clients.
	ssdpGroup = "239.255.255.250:1900"
	// ssdpRepeat separates the searches, of which there may be as many as the probe's time allows.
	ssdpRepeat = 700 * time.Millisecond
	// descriptionMax bounds whatever the router sends over HTTP; descriptions have 5 to 40 KB.
	descriptionMax = 256 << 10
	// httpTimeout bounds one HTTP request.
	httpTimeout = 4 * time.Second
	// portTries is how many external ports are asked for when the first is another's.
	portTries = 3
	// mappingName is what the router shows to its owner.
	mappingName = "PhantomMesh"
)

// UPnP's error codes (WANIPConnection:2 §2.5).
const (
	upnpNoSuchEntry   = 714
	upnpConflict      = 718
	upnpOnlyPermanent = 725
)

// connection is the service that maps ports, of whichever version.
type connection interface {
	AddPortMappingCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string, internalPort uint16,
		internalClient string, enabled bool, description string, lease uint32) error
	DeletePortMappingCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string) error
	GetExternalIPAddressCtx(ctx context.Context) (string, error)
	GetSpecificPortMappingEntryCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string) (internalPort uint16,
		internalClient string, enabled bool, description string, lease uint32, err error)
}

// upnp speaks UPnP-IGD with one gateway.
type upnp struct {
	gateway Gateway
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	listen  func(ctx context.Context, network, addr string) (net.PacketConn, error)
	service connection // found by probe
}

func (*upnp) name() string { return UPnP }

func (u *upnp) probe(ctx context.Context) error {
	location, err := u.search(ctx)
	if err != nil {
		return err
	}
	u.service, err = u.describe(ctx, location)
	return err
}

// search finds the URL of the gateway's description (SSDP, UPnP Device Architecture 1.1 §1.3).
func (u *upnp) search(ctx context.Context) (*url.URL, error) {
	conn, err := u.listen(ctx, "udp4", netip.AddrPortFrom(u.gateway.Local, 0).String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	b := make([]byte, 2048)
	for {
		if err := u.sendSearch(conn); err != nil {
			return nil, cause(ctx, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(ssdpRepeat)); err != nil {
			return nil, cause(ctx, err)
		}
		for {
			n, from, err := conn.ReadFrom(b)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil {
				break
			}
			if err != nil {
				return nil, cause(ctx, err)
			}
			if udp, ok := from.(*net.UDPAddr); !ok || udp.AddrPort().Addr().Unmap() != u.gateway.Addr {
				continue
			}
			if location, err := parseSSDP(b[:n], u.gateway.Addr); err == nil {
				return location, nil
			}
		}
	}
}

func (u *upnp) sendSearch(conn net.PacketConn) error {
	group, err := net.ResolveUDPAddr("udp4", ssdpGroup)
	if err != nil {
		return err
	}
	direct := net.UDPAddrFromAddrPort(netip.AddrPortFrom(u.gateway.Addr, ssdpPort))
	sent := false
	for _, device := range []string{"InternetGatewayDevice:2", "InternetGatewayDevice:1"} {
		search := "M-SEARCH * HTTP/1.1\r\nHOST: " + ssdpGroup + "\r\nST: urn:schemas-upnp-org:device:" + device +
			"\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\r\n"
		for _, to := range []*net.UDPAddr{direct, group} {
			var e error
			if _, e = conn.WriteTo([]byte(search), to); e == nil {
				sent = true
			} else {
				err = e
			}
		}
	}
	if sent {
		return nil
	}
	return err
}

// parseSSDP reads the answer to a search. A URL that does not lead to the gateway by its address is refused.
func parseSSDP(b []byte, gateway netip.Addr) (*url.URL, error) {
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: SSDP: %w", errForm, err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: SSDP status %d", errForm, response.StatusCode)
	}
	location, err := url.Parse(response.Header.Get("Location"))
	if err != nil {
		return nil, fmt.Errorf("%w: SSDP: %w", errForm, err)
	}
	if err := onGateway(location, gateway); err != nil {
		return nil, err
	}
	return location, nil
}

func onGateway(u *url.URL, gateway netip.Addr) error {
	host, err := netip.ParseAddr(u.Hostname())
	if u.Scheme != "http" || err != nil || host.Unmap() != gateway || u.User != nil {
		return fmt.Errorf("%w: %s is not on the gateway %s", errForm, u.Redacted(), gateway)
	}
	return nil
}

// describe reads the gateway's description and picks its connection service, the newest first.
func (u *upnp) describe(ctx context.Context, location *url.URL) (connection, error) {
	client := u.client()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, location.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: description: status %d", errForm, response.StatusCode)
	}
	root, err := parseDescription(response.Body, location, u.gateway.Addr)
	if err != nil {
		return nil, err
	}
	for _, s := range services(root, location) {
		s.soap.HTTPClient = *client
		if err := onGateway(&s.soap.EndpointURL, u.gateway.Addr); err == nil {
			return s.connection, nil
		}
	}
	return nil, fmt.Errorf("%w: no service that maps ports", errVersion)
}

// parseDescription reads a device description. What it names as its base must be on the gateway too.
func parseDescription(r io.Reader, location *url.URL, gateway netip.Addr) (*goupnp.RootDevice, error) {
	root := new(goupnp.RootDevice)
	decoder := xml.NewDecoder(r)
	decoder.DefaultSpace = goupnp.DeviceXMLNamespace
	if err := decoder.Decode(root); err != nil {
		return nil, fmt.Errorf("%w: description: %w", errForm, err)
	}
	base := location
	if root.URLBaseStr != "" {
		var err error
		if base, err = url.Parse(root.URLBaseStr); err != nil {
			return nil, fmt.Errorf("%w: description: %w", errForm, err)
		}
	}
	if err := onGateway(base, gateway); err != nil {
		return nil, err
	}
	root.SetURLBase(base)
	return root, nil
}

type service struct {
	connection
	soap *soap.SOAPClient
}

// services lists those of a description that map ports. Errors of the library mean that there is none of the kind.
func services(root *goupnp.RootDevice, location *url.URL) (out []service) {
	if all, err := internetgateway2.NewWANIPConnection2ClientsFromRootDevice(root, location); err == nil {
		for _, c := range all {
			out = append(out, service{c, c.SOAPClient})
		}
	}
	if all, err := internetgateway2.NewWANIPConnection1ClientsFromRootDevice(root, location); err == nil {
		for _, c := range all {
			out = append(out, service{c, c.SOAPClient})
		}
	}
	if all, err := internetgateway2.NewWANPPPConnection1ClientsFromRootDevice(root, location); err == nil {
		for _, c := range all {
			out = append(out, service{c, c.SOAPClient})
		}
	}
	return out
}

// client returns an HTTP client that talks to the gateway and to nobody else.
func (u *upnp) client() *http.Client {
	transport := &http.Transport{
		DisableKeepAlives:      true, // no goroutine and no connection stays
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil || to.Addr().Unmap() != u.gateway.Addr {
				return nil, fmt.Errorf("portmap: %s is not the gateway", addr)
			}
			return u.dial(ctx, network, addr)
		},
	}
	return &http.Client{
		Transport:     bounded{transport},
		Timeout:       httpTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("portmap: the router redirects") },
	}
}

// bounded cuts off long bodies.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, descriptionMax), response.Body}
	}
	return response, err
}

func (u *upnp) add(ctx context.Context, r request) (grant, error) {
	text, err := u.service.GetExternalIPAddressCtx(ctx)
	if err != nil {
		return grant{}, err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.IsUnspecified() {
		return grant{}, fmt.Errorf("%w: the router has no external address (%q)", errRefused, text)
	}
	port, lifetime := r.suggested.Port(), r.lifetime
	for try := 1; ; try++ {
		err := u.service.AddPortMappingCtx(ctx, "", port, r.transport.upnp(), r.internal, u.gateway.Local.String(), true,
			mappingName, uint32(lifetime/time.Second))
		code := upnpCode(err)
		switch {
		case err == nil:
			return grant{external: netip.AddrPortFrom(addr, port), lifetime: r.lifetime}, nil
		case try == portTries:
			return grant{}, err
		case code == upnpOnlyPermanent: // old routers: it is renewed all the same, and removed at the end
			lifetime = 0
		case code == upnpConflict: // another machine's: try elsewhere
			port = port%60000 + 1024
		default:
			return grant{}, err
		}
	}
}

func (u *upnp) remove(ctx context.Context, r request) error {
	return u.service.DeletePortMappingCtx(ctx, "", r.suggested.Port(), r.transport.upnp())
}

func (u *upnp) forgotten(ctx context.Context, r request) (bool, error) {
	_, client, _, _, _, err := u.service.GetSpecificPortMappingEntryCtx(ctx, "", r.suggested.Port(), r.transport.upnp())
	if upnpCode(err) == upnpNoSuchEntry {
		return true, nil
	}
	return err == nil && client != u.gateway.Local.String(), err
}

func upnpCode(err error) int {
	var fault *soap.SOAPFaultError
	if errors.As(err, &fault) {
		return fault.Detail.UPnPError.Errorcode
	}
	return 0
}
