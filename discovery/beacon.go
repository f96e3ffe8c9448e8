package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A beacon is a DNS-SD service (RFC 6763) in multicast DNS (RFC 6762):
//
//	_phantommesh._udp.local            PTR  LABEL._phantommesh._udp.local
//	LABEL._phantommesh._udp.local      SRV  port, target LABEL.local
//	LABEL._phantommesh._udp.local      TXT  "v=1" "mesh=NAME" "id=FINGERPRINT"
//	                                   TXT  "v=1" "seek=0"   (a machine that looks for a mesh; 1: it is founding one)
//	LABEL.local                        AAAA over IPv6, of the interface it goes out on
//
// LABEL is 16 random hexadecimal digits, made anew with every start, so that it names no machine.
const (
	serviceName = "_phantommesh._udp.local."
	labelSize   = 16
	beaconTTL   = 120 // seconds, RFC 6762 §10 for records with a host name

	// recordsMax and questionsMax bound what is looked at in one message.
	recordsMax   = 64
	questionsMax = 16
	// beaconAddrsMax is the most AAAA records of one beacon.
	beaconAddrsMax = 4
	txtMax         = 8
)

// Stage is what the machine behind a beacon is doing.
type Stage uint8

// The stages.
const (
	StageMember   Stage = iota // it is in the mesh of the beacon
	StageSeeking               // it looks for a mesh
	StageFounding              // it has found none and is founding one
)

// Beacon is what a machine of the LAN says of itself. Nothing in it is proven.
type Beacon struct {
	Label string
	Stage Stage
	// Mesh and Fingerprint are those of StageMember: a name, and the first eight characters of the mesh's ID.
	Mesh, Fingerprint string
	Port              uint16
	// Addrs are the AAAA records.
	Addrs []netip.Addr
	// Bye says that the machine takes the beacon back.
	Bye bool
}

var (
	// errBeacon: the message speaks of our service, but not in the form of a beacon.
	errBeacon = errors.New("discovery: malformed beacon")
	// errForeign: an mDNS message about other things, or none at all.
	errForeign = errors.New("discovery: no message of this service")
)

// check tells what keeps a beacon from being sent or believed.
func (b Beacon) check() error {
	if len(b.Label) != labelSize || strings.Trim(b.Label, "0123456789abcdef") != "" {
		return fmt.Errorf("%w: label", errBeacon)
	}
	if b.Port == 0 {
		return fmt.Errorf("%w: port", errBeacon)
	}
	if b.Stage != StageMember {
		return nil
	}
	if certificate.CheckLabel(b.Mesh) != nil || !IsFingerprint(b.Fingerprint) {
		return fmt.Errorf("%w: mesh", errBeacon)
	}
	return nil
}

// fingerprintSize: eight characters of base32, 40 bits, as people are shown a mesh's ID.
var fingerprintSize = len(identity.MeshID{}.Short())

// IsFingerprint reports whether text can be the fingerprint of a mesh.
func IsFingerprint(text string) bool {
	return len(text) == fingerprintSize && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// texts are the strings of the TXT record.
func (b Beacon) texts() []string {
	switch b.Stage {
	case StageSeeking:
		return []string{"v=1", "seek=0"}
	case StageFounding:
		return []string{"v=1", "seek=1"}
	}
	return []string{"v=1", "mesh=" + b.Mesh, "id=" + b.Fingerprint}
}

// encodeQuery asks who offers the service.
func encodeQuery() ([]byte, error) {
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(serviceName), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}}
	return m.Pack()
}

// encodeBeacon answers it.
func encodeBeacon(b Beacon) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	ttl := uint32(beaconTTL)
	if b.Bye {
		ttl = 0
	}
	instance, host := dnsmessage.MustNewName(b.Label+"."+serviceName), dnsmessage.MustNewName(b.Label+".local.")
	// The top bit of the class says that the record replaces what is cached (RFC 6762 §10.2); the shared PTR has it not.
	const flush = dnsmessage.ClassINET | 1<<15
	own := func(name dnsmessage.Name) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: name, Class: flush, TTL: ttl}
	}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{Response: true, Authoritative: true},
		Answers: []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(serviceName), Class: dnsmessage.ClassINET, TTL: ttl},
			Body: &dnsmessage.PTRResource{PTR: instance}}},
		Additionals: []dnsmessage.Resource{
			{Header: own(instance), Body: &dnsmessage.SRVResource{Port: b.Port, Target: host}},
			{Header: own(instance), Body: &dnsmessage.TXTResource{TXT: b.texts()}},
		},
	}
	for _, a := range b.Addrs[:min(len(b.Addrs), beaconAddrsMax)] {
		if a.Is6() && !a.Is4In6() {
			m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: own(host), Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return m.Pack()
}

// message is what one packet held for us.
type message struct {
	query  bool // it asks for our service
	beacon *Beacon
}

// parseMessage reads a packet of the mDNS port: errForeign if it is not about our service, errBeacon if it is and cannot be believed.
func parseMessage(raw []byte) (message, error) {
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil || h.OpCode != 0 || h.RCode != 0 { // RFC 6762 §18.3, §18.11
		return message{}, errForeign
	}
	asks, err := parseQuestions(&p)
	if err != nil {
		return message{}, err
	}
	if !h.Response {
		if !asks {
			return message{}, errForeign
		}
		return message{query: true}, nil
	}
	r := records{}
	if err := r.read(&p); err != nil {
		return message{}, err
	}
	b, err := r.beacon()
	return message{beacon: b}, err
}

// parseQuestions reads past the questions and tells whether one of them is ours.
func parseQuestions(p *dnsmessage.Parser) (asks bool, err error) {
	for range questionsMax + 1 {
		q, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return asks, nil
		}
		if err != nil {
			return false, errForeign
		}
		if strings.EqualFold(q.Name.String(), serviceName) && (q.Type == dnsmessage.TypePTR || q.Type == dnsmessage.TypeALL) {
			asks = true
		}
	}
	return false, errForeign
}

// records collects the records of one response.
type records struct {
	instance string // of the PTR
	bye      bool
	port     uint16
	host     string
	srv, txt bool
	texts    []string
	hosts    []hostAddr
	count    int
	err      error
}

type hostAddr struct {
	host string
	addr netip.Addr
}

// read takes the answers and the additional records.
func (r *records) read(p *dnsmessage.Parser) error {
	if err := r.section(p, p.AnswerHeader, p.SkipAnswer); err != nil {
		return err
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return errForeign
	}
	return r.section(p, p.AdditionalHeader, p.SkipAdditional)
}

func (r *records) section(p *dnsmessage.Parser, next func() (dnsmessage.ResourceHeader, error), skip func() error) error {
	for {
		h, err := next()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if r.count++; err != nil || r.count > recordsMax {
			return errForeign
		}
		taken, err := r.take(p, h)
		if err == nil && !taken {
			err = skip()
		}
		if err != nil {
			return errForeign
		}
	}
}

// take reads a record that a beacon is made of, and reports whether it was one.
func (r *records) take(p *dnsmessage.Parser, h dnsmessage.ResourceHeader) (bool, error) {
	name := strings.ToLower(h.Name.String())
	switch h.Type {
	case dnsmessage.TypePTR:
		body, err := p.PTRResource()
		if err == nil && name == serviceName {
			r.once(&r.instance, strings.ToLower(body.PTR.String()))
			r.bye = h.TTL == 0
		}
		return true, err
	case dnsmessage.TypeSRV:
		body, err := p.SRVResource()
		if err == nil && strings.HasSuffix(name, "."+serviceName) {
			r.mine(name, &r.srv)
			r.port, r.host = body.Port, strings.ToLower(body.Target.String())
		}
		return true, err
	case dnsmessage.TypeTXT:
		body, err := p.TXTResource()
		if err == nil && strings.HasSuffix(name, "."+serviceName) {
			r.mine(name, &r.txt)
			r.texts = body.TXT
		}
		return true, err
	case dnsmessage.TypeAAAA:
		body, err := p.AAAAResource()
		if err == nil && len(r.hosts) < beaconAddrsMax {
			r.hosts = append(r.hosts, hostAddr{name, netip.AddrFrom16(body.AAAA)})
		}
		return true, err
	}
	return false, nil
}

// once sets what a beacon has one of.
func (r *records) once(field *string, value string) {
	if *field != "" && *field != value {
		r.err = fmt.Errorf("%w: several instances", errBeacon)
	}
	*field = value
}

// mine notes a record of the instance.
func (r *records) mine(name string, seen *bool) {
	if *seen {
		r.err = fmt.Errorf("%w: a record twice", errBeacon)
	}
	*seen = true
	r.once(&r.instance, name)
}

// beacon puts the records together.
func (r *records) beacon() (*Beacon, error) {
	switch {
	case r.instance == "":
		return nil, errForeign
	case r.err != nil:
		return nil, r.err
	case !r.srv || !r.txt:
		return nil, fmt.Errorf("%w: no SRV or TXT record", errBeacon)
	}
	b := &Beacon{Label: strings.TrimSuffix(r.instance, "."+serviceName), Port: r.port, Bye: r.bye}
	for _, h := range r.hosts {
		if h.host == r.host && !h.addr.Is4In6() && !h.addr.IsLinkLocalUnicast() {
			b.Addrs = append(b.Addrs, h.addr)
		}
	}
	if err := b.parseTexts(r.texts); err != nil {
		return nil, err
	}
	return b, b.check()
}

// parseTexts reads the strings of the TXT record. Keys of later versions are passed over (RFC 6763 §6.4).
func (b *Beacon) parseTexts(texts []string) error {
	if len(texts) > txtMax {
		return fmt.Errorf("%w: %d strings", errBeacon, len(texts))
	}
	values := map[string]string{}
	for _, t := range texts {
		key, value, _ := strings.Cut(t, "=")
		if _, twice := values[key]; !twice { // the first counts, RFC 6763 §6.4
			values[key] = value
		}
	}
	if values["v"] != "1" {
		return fmt.Errorf("%w: version", errBeacon)
	}
	seek, seeking := values["seek"]
	switch {
	case !seeking:
		b.Mesh, b.Fingerprint = values["mesh"], values["id"]
	case seek == "0":
		b.Stage = StageSeeking
	case seek == "1":
		b.Stage = StageFounding
	default:
		return fmt.Errorf("%w: stage", errBeacon)
	}
	return nil
}
