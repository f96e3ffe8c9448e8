package exchange

import (
	"bytes"
	"errors"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/vector"
)

// vectors is testdata/vectors/exchange.json: one exchange, message by message.
type vectors struct {
	Our, Their identity.NodeID
	Exporter   vector.Hex
	Offer      vector.Hex
	Accept     vector.Hex
	Confirm    vector.Hex
	PSK        vector.Hex
	Epoch      uint64
}

func TestVectors(t *testing.T) {
	a, b := pair("vector")
	exporter := exporterOf(1)
	o, err := a.Start()
	if err != nil {
		t.Fatal(err)
	}
	accept, err := b.HandleOffer(o, exporter)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.HandleAccept(accept, exporter)
	if err != nil {
		t.Fatal(err)
	}
	psk, epoch, _ := a.Current()
	vector.Check(t, "exchange", vectors{Our: a.our, Their: a.their, Exporter: exporter[:], Offer: o.Marshal(), Accept: accept.Marshal(),
		Confirm: c.Marshal(), PSK: psk[:], Epoch: epoch}, *update)
}

func TestMessagesOfOtherVersionsStillLeadToTheirKey(t *testing.T) {
	var v vectors
	vector.Read(t, "exchange", &v)
	a, _ := pair("vector") // its private key comes from the seed
	if _, err := a.Start(); err != nil {
		t.Fatal(err)
	}
	accept, err := ParseAccept(v.Accept)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.HandleAccept(accept, [32]byte(v.Exporter))
	if err != nil || !bytes.Equal(c.Marshal(), v.Confirm) {
		t.Fatalf("another confirm (%v)", err)
	}
	if psk, epoch, _ := a.Current(); !bytes.Equal(psk[:], v.PSK) || epoch != v.Epoch {
		t.Fatal("another key")
	}
}

func TestMessagesHaveOneForm(t *testing.T) {
	var v vectors
	vector.Read(t, "exchange", &v)
	parse := map[string]func([]byte) error{
		"offer":   func(b []byte) error { _, err := ParseOffer(b); return err },
		"accept":  func(b []byte) error { _, err := ParseAccept(b); return err },
		"confirm": func(b []byte) error { _, err := ParseConfirm(b); return err },
	}
	for name, good := range map[string][]byte{"offer": v.Offer, "accept": v.Accept, "confirm": v.Confirm} {
		if err := parse[name](good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		unset := bytes.Clone(good)
		clear(unset[:epochSize])
		for what, bad := range map[string][]byte{"nothing": nil, "short": good[1:], "long": append(bytes.Clone(good), 0), "epoch 0": unset} {
			if err := parse[name](bad); !errors.Is(err, ErrMessage) {
				t.Errorf("%s %s: %v", what, name, err)
			}
		}
	}
	odd := bytes.Clone(v.Offer)
	odd[epochSize] |= 2
	if _, err := ParseOffer(odd); !errors.Is(err, ErrMessage) {
		t.Errorf("an unknown flag: %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	var v vectors
	vector.Read(f, "exchange", &v)
	f.Add([]byte(v.Offer))
	f.Add([]byte(v.Accept))
	f.Add([]byte(v.Confirm))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, _ := pair("fuzz")
		if _, err := a.Start(); err != nil {
			t.Fatal(err)
		}
		a.Abandon()
		if o, err := ParseOffer(b); err == nil {
			if !bytes.Equal(o.Marshal(), b) {
				t.Fatal("an offer has two forms")
			}
			_, _ = a.HandleOffer(o, exporterOf(1))
		}
		if acc, err := ParseAccept(b); err == nil {
			if !bytes.Equal(acc.Marshal(), b) {
				t.Fatal("an accept has two forms")
			}
			if o, err := a.Start(); err == nil {
				acc.Epoch = o.Epoch
				_, _ = a.HandleAccept(acc, exporterOf(1))
			}
		}
		if c, err := ParseConfirm(b); err == nil {
			if !bytes.Equal(c.Marshal(), b) {
				t.Fatal("a confirm has two forms")
			}
			if a.HandleConfirm(c) == nil {
				t.Fatal("a confirm out of nothing")
			}
		}
	})
}
