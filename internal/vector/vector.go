package vector

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Rand gives an endless stream of bytes that depends on the seed alone (ChaCha8 under its SHA-256).
func Rand(seed string) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte(seed))) }

// Hex is bytes that are written as hexadecimal digits.
type Hex []byte

// MarshalText gives the digits.
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText reads the digits.
func (h *Hex) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// Sum gives the SHA-256 of bytes that are too long to be looked at.
func Sum(b []byte) Hex {
	s := sha256.Sum256(b)
	return s[:]
}

func path(t testing.TB, name string) string {
	t.Helper()
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("vector: cannot tell where testdata/vectors is")
	}
	return filepath.Join(filepath.Dir(here), "..", "..", "testdata", "vectors", name+".json")
}

// Read reads the vectors of the name into v.
func Read(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("vectors %s: %v", name, err)
	}
}

// Check compares v with the vectors of the name, or writes them if update.
func Check(t testing.TB, name string, v any, update bool) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if update {
		if err := os.WriteFile(path(t, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path(t, name))
	if err != nil {
		t.Fatalf("%v (run the test with -update to make it)", err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("vectors %s have changed: what is signed and stored today would not be read; if that is meant, run with -update", name)
	}
}
