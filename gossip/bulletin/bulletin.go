package bulletin

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

const (
	// MembersMax bounds a region's list: as many members as a ledger has.
	MembersMax = 65_536
	// Max bounds an encoded bulletin: two bitmaps of MembersMax, and 256 for the rest.
	Max = 2*(1+MembersMax/8) + 256
	// regionMax is the longest name of a region, that of a DNS label.
	regionMax = 63
	// DarkMax is how many names of regions fit a horizon, so that it fits a rumour. Of more, the others stay as they were last seen.
	DarkMax = 64
	// HorizonMax bounds an encoded horizon.
	HorizonMax = 512
)

const (
	bulletinContext = "phantommesh bulletin v1"
	horizonContext  = "phantommesh horizon v1"
)

// ErrForm says that something is no bulletin, or no horizon; ErrSignature that it is not its author's.
var (
	ErrForm      = errors.New("bulletin: malformed")
	ErrSignature = errors.New("bulletin: not signed by its author")
)

// Mark says who speaks for a region, and in which order what was said is to be taken.
type Mark struct {
	Region string
	Author identity.NodeID
	// Term is the region's, and the fence; Number grows with everything that is said in it, whoever speaks. It is a time in Unix ms, or one
	// more than the number before.
	Term, Number uint64
}

// newer reports whether what bears the mark comes after what bears another.
func (m Mark) newer(than Mark) bool {
	return m.Term > than.Term || m.Term == than.Term && m.Number > than.Number
}

// Roll is the hash of a region's list of members.
type Roll [8]byte

// RollOf hashes the active members of a region, which must be sorted.
func RollOf(members []identity.NodeID) Roll {
	h := sha256.New()
	h.Write([]byte("phantommesh roll v1"))
	for _, id := range members {
		h.Write(id[:])
	}
	return Roll(h.Sum(nil)[:8])
}

// Bulletin says who is alive in a region.
type Bulletin struct {
	Mark
	Version uint64 // of the state that the author held
	Roll    Roll   // of the list by which members are named
	// Away and Left have a place for each member of the list: who is not alive, and who of those went on purpose.
	Away, Left []bool
	// Keys is the version of the keyring that all who are alive hold, as far as the author knows; 0: not all hold the one it knows.
	Keys uint64
}

type bulletinWire struct {
	_         struct{} `cbor:",toarray"`
	Region    string
	Author    identity.NodeID
	Term      uint64
	Number    uint64
	Version   uint64
	Roll      Roll
	Members   uint32
	Away      []byte
	Left      []byte
	Keys      uint64
	Signature []byte // over the same with it empty
}

// Sign encodes and signs a bulletin with its author's key.
func (b Bulletin) Sign(mesh identity.MeshID, key *identity.Key) ([]byte, error) {
	w := bulletinWire{
		Region: b.Region, Author: key.ID(), Term: b.Term, Number: b.Number, Version: b.Version, Roll: b.Roll, Members: uint32(len(b.Away)),
		Away: encodeSet(b.Away), Left: encodeSet(b.Left), Keys: b.Keys, Signature: []byte{},
	}
	body, err := wire.Marshal(&w)
	if err != nil {
		return nil, fmt.Errorf("bulletin: encode: %w", err)
	}
	w.Signature = key.SignEd25519(bulletinContext, append(mesh[:], body...))
	return wire.Marshal(&w)
}

// Parse reads a bulletin without checking its signature.
func Parse(b []byte) (Bulletin, error) {
	out, _, err := parse(b)
	return out, err
}

func parse(b []byte) (Bulletin, *bulletinWire, error) {
	if len(b) > Max {
		return Bulletin{}, nil, fmt.Errorf("%w: %d bytes", ErrForm, len(b))
	}
	var w bulletinWire
	if err := wire.Unmarshal(b, &w); err != nil {
		return Bulletin{}, nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	if len(w.Region) == 0 || len(w.Region) > regionMax || w.Members > MembersMax || len(w.Signature) != 64 {
		return Bulletin{}, nil, fmt.Errorf("%w: fields out of bounds", ErrForm)
	}
	out := Bulletin{
		Mark:    Mark{Region: w.Region, Author: w.Author, Term: w.Term, Number: w.Number},
		Version: w.Version, Roll: w.Roll, Keys: w.Keys,
	}
	var err error
	for _, s := range []struct {
		to   *[]bool
		from []byte
	}{{&out.Away, w.Away}, {&out.Left, w.Left}} {
		if *s.to, err = decodeSet(s.from, int(w.Members)); err != nil || !bytes.Equal(encodeSet(*s.to), s.from) {
			return Bulletin{}, nil, fmt.Errorf("%w: a set of its members", ErrForm)
		}
	}
	for i, left := range out.Left {
		if left && !out.Away[i] {
			return Bulletin{}, nil, fmt.Errorf("%w: a member that left and is not away", ErrForm)
		}
	}
	return out, &w, nil
}

// verify checks the signature with the author's key.
func (w *bulletinWire) verify(mesh identity.MeshID, public *identity.Public) error {
	unsigned := *w
	unsigned.Signature = []byte{}
	body, err := wire.Marshal(&unsigned)
	if err != nil {
		return err
	}
	if err := public.VerifyEd25519(bulletinContext, append(mesh[:], body...), w.Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}

// Dark names a region in a horizon by a hash, so that many fit: as out of sight, or as headless.
type Dark [4]byte

// DarkOf returns the name of a region that is out of sight.
func DarkOf(region string) Dark { return darkOf("phantommesh dark region v1", region) }

// HeadlessOf returns the name of a region whose coordinator is lost, while another speaks in its place.
func HeadlessOf(region string) Dark { return darkOf("phantommesh headless region v1", region) }

func darkOf(label, region string) Dark {
	sum := sha256.Sum256([]byte(label + region))
	return Dark(sum[:4])
}

// Horizon says which other regions those who speak for a region have lost sight of, and which are headless.
type Horizon struct {
	Mark
	Dark []Dark // at most DarkMax
}

type horizonWire struct {
	_         struct{} `cbor:",toarray"`
	Region    string
	Author    identity.NodeID
	Term      uint64
	Number    uint64
	Dark      []Dark
	Signature []byte
}

// Sign encodes and signs a horizon with its author's key.
func (h Horizon) Sign(mesh identity.MeshID, key *identity.Key) ([]byte, error) {
	w := horizonWire{Region: h.Region, Author: key.ID(), Term: h.Term, Number: h.Number, Signature: []byte{}}
	w.Dark = append([]Dark{}, h.Dark[:min(len(h.Dark), DarkMax)]...)
	body, err := wire.Marshal(&w)
	if err != nil {
		return nil, fmt.Errorf("bulletin: encode a horizon: %w", err)
	}
	w.Signature = key.SignEd25519(horizonContext, append(mesh[:], body...))
	return wire.Marshal(&w)
}

func parseHorizon(b []byte) (Horizon, *horizonWire, error) {
	if len(b) > HorizonMax {
		return Horizon{}, nil, fmt.Errorf("%w: %d bytes", ErrForm, len(b))
	}
	var w horizonWire
	if err := wire.Unmarshal(b, &w); err != nil {
		return Horizon{}, nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	if len(w.Region) == 0 || len(w.Region) > regionMax || len(w.Dark) > DarkMax || len(w.Signature) != 64 {
		return Horizon{}, nil, fmt.Errorf("%w: fields out of bounds", ErrForm)
	}
	return Horizon{Mark: Mark{Region: w.Region, Author: w.Author, Term: w.Term, Number: w.Number}, Dark: w.Dark}, &w, nil
}

func (w *horizonWire) verify(mesh identity.MeshID, public *identity.Public) error {
	unsigned := *w
	unsigned.Signature = []byte{}
	body, err := wire.Marshal(&unsigned)
	if err != nil {
		return err
	}
	if err := public.VerifyEd25519(horizonContext, append(mesh[:], body...), w.Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}
