package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/seal"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// The file is an envelope of crypto/seal (magic, kind, length, SHA-256) around canonical CBOR:
//
//	[1, [[id, seen, [[address, port], …]], …]]
//
// id is 32 bytes, seen Unix time in seconds, an address 4 or 16 bytes. Entries stand in ascending order of their IDs.
const (
	bookKind    = "address book"
	bookVersion = 1
	// fileMax is the largest file that is read, in bytes. EntriesMax full entries take about 230 KiB.
	fileMax = 1 << 20
	// seenMax is the last second of the year 9999.
	seenMax = 253402300799
)

var errForm = errors.New("discovery: malformed address book")

type bookFile struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Entries []entryFile
}

type entryFile struct {
	_     struct{} `cbor:",toarray"`
	ID    []byte
	Seen  uint64
	Addrs []addrFile
}

type addrFile struct {
	_    struct{} `cbor:",toarray"`
	Addr []byte
	Port uint16
}

// encodeBook returns the file of the entries.
func encodeBook(entries map[identity.NodeID]Entry) ([]byte, error) {
	f := bookFile{Version: bookVersion, Entries: []entryFile{}}
	for _, e := range entries {
		out := entryFile{ID: e.ID[:], Seen: uint64(max(e.Seen.Unix(), 0)), Addrs: []addrFile{}}
		for _, a := range e.Addrs {
			out.Addrs = append(out.Addrs, addrFile{Addr: a.Addr().AsSlice(), Port: a.Port()})
		}
		f.Entries = append(f.Entries, out)
	}
	slices.SortFunc(f.Entries, func(a, b entryFile) int { return slices.Compare(a.ID, b.ID) })
	body, err := wire.Marshal(&f)
	if err != nil {
		return nil, fmt.Errorf("discovery: encode address book: %w", err)
	}
	return seal.Wrap(bookKind, body), nil
}

// decodeBook reads a file. It accepts what encodeBook writes and nothing else.
func decodeBook(b []byte) (map[identity.NodeID]Entry, error) {
	if len(b) > fileMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errForm, len(b), fileMax)
	}
	body, err := seal.Unwrap(bookKind, b)
	if err != nil {
		return nil, err
	}
	var f bookFile
	if err := wire.Unmarshal(body, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", errForm, err)
	}
	if f.Version != bookVersion || f.Entries == nil || len(f.Entries) > EntriesMax {
		return nil, fmt.Errorf("%w: version %d, %d entries", errForm, f.Version, len(f.Entries))
	}
	out := make(map[identity.NodeID]Entry, len(f.Entries))
	var last []byte
	for i, in := range f.Entries {
		e, err := in.entry()
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", errForm, i+1, err)
		}
		if slices.Compare(last, in.ID) >= 0 {
			return nil, fmt.Errorf("%w: entry %d is out of order", errForm, i+1)
		}
		last = in.ID
		out[e.ID] = e
	}
	return out, nil
}

func (f entryFile) entry() (Entry, error) {
	if len(f.ID) != len(identity.NodeID{}) || f.Seen > seenMax || f.Addrs == nil || len(f.Addrs) > AddrsMax {
		return Entry{}, fmt.Errorf("ID of %d bytes, %d addresses, seen at %d", len(f.ID), len(f.Addrs), f.Seen)
	}
	e := Entry{ID: identity.NodeID(f.ID), Seen: time.Unix(int64(f.Seen), 0)}
	for _, a := range f.Addrs {
		addr, ok := netip.AddrFromSlice(a.Addr)
		ap := netip.AddrPortFrom(addr, a.Port)
		if !ok || !usable(ap) || slices.Contains(e.Addrs, ap) {
			return Entry{}, fmt.Errorf("address %s is not usable or stands twice", ap)
		}
		e.Addrs = append(e.Addrs, ap)
	}
	return e, nil
}

// usable reports whether an address may stand in the book: unicast, in its plain form, with a port.
func usable(a netip.AddrPort) bool {
	ip := a.Addr()
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.Is4In6() && ip.Zone() == "" && a.Port() != 0
}
