package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
)

func TestDamageAnywhereIsNoticed(t *testing.T) {
	b := Wrap("identity", []byte("content"))
	if got, err := Unwrap("identity", b); err != nil || string(got) != "content" {
		t.Fatalf("%q, %v", got, err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		if got, err := Unwrap("identity", bad); err == nil {
			t.Errorf("byte %d changed, and %q came out", i, got)
		} else if errors.Is(err, ErrWrongKind) {
			t.Errorf("byte %d changed: taken for another kind", i)
		}
		if got, err := Unwrap("identity", b[:i]); err == nil {
			t.Errorf("cut at %d, and %q came out", i, got)
		}
	}
	if _, err := Unwrap("identity", append(b, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte too many: %v", err)
	}
	if _, err := Unwrap("ledger", b); !errors.Is(err, ErrWrongKind) {
		t.Errorf("another kind: %v", err)
	}
}

func TestASealedFileNeedsItsPassphrase(t *testing.T) {
	b, err := Seal("backup", []byte("secret content"), "correct horse", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("secret content")) {
		t.Fatal("the content is in the clear")
	}
	if got, err := Open("backup", b, "correct horse"); err != nil || string(got) != "secret content" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := Open("backup", b, "wrong"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := Open("identity", b, "correct horse"); !errors.Is(err, ErrWrongKind) {
		t.Errorf("another kind: %v", err)
	}
	if _, err := Open("backup", b[:40], "correct horse"); !errors.Is(err, ErrDamaged) {
		t.Errorf("cut off: %v", err)
	}
	if _, err := Seal("backup", nil, "", rand.Reader); !errors.Is(err, ErrEmpty) {
		t.Errorf("no passphrase: %v", err)
	}
	if _, err := Unwrap("backup", b); !errors.Is(err, ErrSealed) {
		t.Errorf("unwrapped: %v", err)
	}
	if _, err := Open("backup", Wrap("backup", nil), "x"); !errors.Is(err, ErrNotSealed) {
		t.Errorf("opened: %v", err)
	}
}

func FuzzUnwrap(f *testing.F) {
	f.Add(Wrap("identity", []byte("content")))
	f.Add([]byte("PMSK\x01\x08identity"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if content, err := Unwrap("identity", b); err == nil && !bytes.Equal(Wrap("identity", content), b) {
			t.Fatalf("%x has two forms", b)
		}
	})
}

// FuzzOpen stays short of a whole envelope, where each try costs 0.4 s: what is parsed is what comes before.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("PMSE\x01\x06backup"))
	f.Add([]byte("PMSE\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 40 {
			return
		}
		if _, err := Open("backup", b, "x"); err == nil {
			t.Fatal("opened")
		}
	})
}
