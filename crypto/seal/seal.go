package seal

import (
	"crypto/cipher"
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

// scrypt's cost: 2^17 · 8 · 128 bytes = 128 MiB and about 0.4 s a guess (RFC 7914 §2). What is sealed is a mesh's root, opened once in years.
const (
	scryptN = 1 << 17
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
	ErrEmpty      = errors.New("seal: the passphrase is empty")
)

func head(magic, kind string) []byte {
	if len(kind) == 0 || len(kind) > kindMax {
		panic("seal: kind of " + fmt.Sprint(len(kind)) + " bytes")
	}
	b := append([]byte(magic), version, byte(len(kind)))
	return append(b, kind...)
}

// split reads the head and gives the kind in it and what follows it.
func split(magic string, b []byte) (kind string, rest []byte, err error) {
	if len(b) < len(magic)+2 || string(b[:len(magic)]) != magic {
		return "", nil, ErrDamaged
	}
	if b[len(magic)] > version {
		return "", nil, ErrNewer
	}
	n := int(b[len(magic)+1])
	rest = b[len(magic)+2:]
	if b[len(magic)] != version || n == 0 || len(rest) < n {
		return "", nil, ErrDamaged
	}
	return string(rest[:n]), rest[n:], nil
}

func checkKind(got, want string) error {
	if got != want {
		return fmt.Errorf("%w: %q, not %q", ErrWrongKind, got, want)
	}
	return nil
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
	got, rest, err := split(plainMagic, b)
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
	// After the checksum: a damaged kind is damage, not another kind.
	if err := checkKind(got, kind); err != nil {
		return nil, err
	}
	return content, nil
}

// Seal encrypts content under a passphrase into an envelope of the kind. It takes 128 MiB of memory and about 0.4 s.
func Seal(kind string, content []byte, passphrase string, rand io.Reader) ([]byte, error) {
	if passphrase == "" {
		return nil, ErrEmpty
	}
	out := head(sealedMagic, kind)
	headSize := len(out)
	out = append(out, make([]byte, saltSize+chacha20poly1305.NonceSizeX)...)
	if _, err := io.ReadFull(rand, out[headSize:]); err != nil {
		return nil, fmt.Errorf("seal: randomness: %w", err)
	}
	aead, err := cipherOf(passphrase, out[headSize:headSize+saltSize])
	if err != nil {
		return nil, err
	}
	nonce := out[headSize+saltSize:]
	return aead.Seal(out, nonce, content, out[:headSize]), nil
}

// Open gives the content of what Seal made. It returns [ErrPassphrase], [ErrDamaged], [ErrWrongKind], [ErrNewer] or [ErrNotSealed].
func Open(kind string, b []byte, passphrase string) ([]byte, error) {
	if len(b) >= len(plainMagic) && string(b[:len(plainMagic)]) == plainMagic {
		return nil, ErrNotSealed
	}
	got, rest, err := split(sealedMagic, b)
	if err != nil {
		return nil, err
	}
	if err := checkKind(got, kind); err != nil {
		return nil, err
	}
	if len(rest) < saltSize+chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead {
		return nil, ErrDamaged
	}
	salt, rest := rest[:saltSize], rest[saltSize:]
	nonce, sealed := rest[:chacha20poly1305.NonceSizeX], rest[chacha20poly1305.NonceSizeX:]
	aead, err := cipherOf(passphrase, salt)
	if err != nil {
		return nil, err
	}
	content, err := aead.Open(nil, nonce, sealed, head(sealedMagic, kind))
	if err != nil {
		return nil, ErrPassphrase
	}
	return content, nil
}

// cipherOf derives the cipher of a passphrase and wipes the key that leads to it.
func cipherOf(passphrase string, salt []byte) (cipher.AEAD, error) {
	key, err := scrypt.Key([]byte(passphrase), salt, scryptN, scryptR, scryptP, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	defer clear(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead, nil
}
