package seal

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"
)

const (
	plainMagic  = "PMSK"
	sealedMagic = "PMSE"
	version     = 1
	saltSize    = 16
	kindMax     = 255
)

// scrypt's cost: 2^15 · 8 · 128 bytes = 32 MiB and about 0.1 s a guess (RFC 7914 §2; twice the interactive setting of its paper).
const (
	scryptN = 1 << 15
	scryptR = 8
	scryptP = 1
)

// Why an envelope was not opened.
var (
	ErrDamaged    = errors.New("seal: damaged: the checksum does not match")
	ErrWrongKind  = errors.New("seal: holds something else")
	ErrSealed     = errors.New("seal: sealed with a passphrase")
	ErrNotSealed  = errors.New("seal: not sealed with a passphrase")
	ErrPassphrase = errors.New("seal: wrong passphrase, or damaged")
	ErrNewer      = errors.New("seal: written by a newer version")
)

func head(magic, kind string) []byte {
	if len(kind) == 0 || len(kind) > kindMax {
		panic("seal: kind of " + fmt.Sprint(len(kind)) + " bytes")
	}
	b := append([]byte(magic), version, byte(len(kind)))
	return append(b, kind...)
}

// split checks the head and gives what follows it.
func split(magic, kind string, b []byte) ([]byte, error) {
	if len(b) < len(magic)+2 || string(b[:len(magic)]) != magic {
		return nil, ErrDamaged
	}
	if b[len(magic)] > version {
		return nil, ErrNewer
	}
	n := int(b[len(magic)+1])
	rest := b[len(magic)+2:]
	if b[len(magic)] != version || n == 0 || len(rest) < n {
		return nil, ErrDamaged
	}
	if got := string(rest[:n]); got != kind {
		return nil, fmt.Errorf("%w: %q, not %q", ErrWrongKind, got, kind)
	}
	return rest[n:], nil
}

// Wrap puts content into an envelope of the kind, unencrypted.
func Wrap(kind string, content []byte) []byte {
	out := head(plainMagic, kind)
	out = binary.BigEndian.AppendUint32(out, uint32(len(content)))
	sum := checksum(out, content)
	out = append(out, sum[:]...)
	return append(out, content...)
}

func checksum(head, content []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(head)
	h.Write(content)
	return [sha256.Size]byte(h.Sum(nil))
}

// Unwrap gives the content of what Wrap made. It returns [ErrDamaged], [ErrWrongKind], [ErrNewer] or [ErrSealed].
func Unwrap(kind string, b []byte) ([]byte, error) {
	if len(b) >= len(sealedMagic) && string(b[:len(sealedMagic)]) == sealedMagic {
		return nil, ErrSealed
	}
	rest, err := split(plainMagic, kind, b)
	if err != nil {
		return nil, err
	}
	if len(rest) < 4+sha256.Size {
		return nil, ErrDamaged
	}
	covered := b[:len(b)-len(rest)+4]
	content := rest[4+sha256.Size:]
	if uint64(binary.BigEndian.Uint32(rest)) != uint64(len(content)) || checksum(covered, content) != [sha256.Size]byte(rest[4:]) {
		return nil, ErrDamaged
	}
	return content, nil
}

// Seal encrypts content under a passphrase into an envelope of the kind.
func Seal(kind string, content []byte, passphrase string, rand io.Reader) ([]byte, error) {
	out := head(sealedMagic, kind)
	headSize := len(out)
	out = append(out, make([]byte, saltSize+chacha20poly1305.NonceSizeX)...)
	if _, err := io.ReadFull(rand, out[headSize:]); err != nil {
		return nil, fmt.Errorf("seal: randomness: %w", err)
	}
	key, err := scrypt.Key([]byte(passphrase), out[headSize:headSize+saltSize], scryptN, scryptR, scryptP, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	nonce := out[headSize+saltSize:]
	return aead.Seal(out, nonce, content, out[:headSize]), nil
}

// Open gives the content of what Seal made. It returns [ErrPassphrase], [ErrDamaged], [ErrWrongKind], [ErrNewer] or [ErrNotSealed].
func Open(kind string, b []byte, passphrase string) ([]byte, error) {
	if len(b) >= len(plainMagic) && string(b[:len(plainMagic)]) == plainMagic {
		return nil, ErrNotSealed
	}
	rest, err := split(sealedMagic, kind, b)
	if err != nil {
		return nil, err
	}
	const prefix = saltSize + chacha20poly1305.NonceSizeX
	if len(rest) < prefix+chacha20poly1305.Overhead {
		return nil, ErrDamaged
	}
	key, err := scrypt.Key([]byte(passphrase), rest[:saltSize], scryptN, scryptR, scryptP, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	content, err := aead.Open(nil, rest[saltSize:prefix], rest[prefix:], b[:len(b)-len(rest)])
	if err != nil {
		return nil, ErrPassphrase
	}
	return content, nil
}
