package exchange

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/vector"
)

var update = flag.Bool("update", false, "rewrite the traces and vectors")

// Traces are stories of two nodes, a with the lower ID and b with the higher. A line is a command; the lines indented below it are what came
// of it and are rewritten by -update:
//
//	a starts             an offer is made; messages are numbered 1, 2, … in the order in which they are made
//	b takes 1            message 1 arrives, over TLS session 1
//	b takes 1 over 2     the same, but b's side of the channel is TLS session 2
//	b takes 1 damaged    its last byte was changed on the way
//	a proves 3           the driver saw a WireGuard handshake under the key of epoch 3
//	a abandons, a wipes, a restarts
//
// A key stands as its epoch, a colon and the beginning of its hash, with a star once the peer has proven it.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newStage().play(t, string(in))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(in) {
				t.Errorf("%s: the story goes otherwise (rewrite it with -update if that is meant):\n%s", file, got)
			}
		})
	}
}

// stage is where a trace plays.
type stage struct {
	machines map[string]*Machine
	sent     []any // Offer, Accept, Confirm
	starts   int
}

func newStage() *stage {
	s := &stage{machines: map[string]*Machine{}}
	s.place("a")
	s.place("b")
	return s
}

// place sets up a node with no memory.
func (s *stage) place(who string) {
	a, b := identity.NodeID{1}, identity.NodeID{2}
	if who == "b" {
		a, b = b, a
	}
	s.starts++
	s.machines[who] = New(a, b, vector.Rand(fmt.Sprint("node ", who, s.starts)))
}

func exporterOf(session int) [32]byte { return sha256.Sum256([]byte(fmt.Sprint("session ", session))) }

func (s *stage) play(t *testing.T, in string) string {
	var out strings.Builder
	for _, line := range strings.Split(strings.TrimRight(in, "\n"), "\n") {
		if strings.HasPrefix(line, "\t") {
			continue
		}
		out.WriteString(line + "\n")
		words := strings.Fields(line)
		if len(words) < 2 || words[0] == "#" {
			continue
		}
		m, ok := s.machines[words[0]]
		if !ok {
			t.Fatalf("%q: nobody is called %s", line, words[0])
		}
		result := s.do(t, m, words)
		fmt.Fprintf(&out, "\t%s\n\t%s: %s\n", result, words[0], describe(s.machines[words[0]]))
	}
	return out.String()
}

func (s *stage) do(t *testing.T, m *Machine, words []string) string {
	switch words[1] {
	case "starts":
		o, err := m.Start()
		return s.send(o, err)
	case "takes":
		return s.take(t, m, words[2:])
	case "proves":
		epoch, err := strconv.ParseUint(words[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return outcome(m.Proven(epoch))
	case "abandons":
		m.Abandon()
	case "wipes":
		m.Wipe()
	case "restarts":
		s.place(words[0])
	default:
		t.Fatalf("what is %q?", words[1])
	}
	return "done"
}

func (s *stage) take(t *testing.T, m *Machine, words []string) string {
	n, err := strconv.Atoi(words[0])
	if err != nil || n < 1 || n > len(s.sent) {
		t.Fatalf("there is no message %s", words[0])
	}
	session, damaged := 1, false
	for i, w := range words[1:] {
		switch w {
		case "over":
			if session, err = strconv.Atoi(words[i+2]); err != nil {
				t.Fatal(err)
			}
		case "damaged":
			damaged = true
		}
	}
	switch msg := s.sent[n-1].(type) {
	case Offer:
		if damaged {
			msg.PublicKey[0], msg.PublicKey[1] = 0xff, 0xff // no element of the field (FIPS 203 §7.2)
		}
		a, err := m.HandleOffer(msg, exporterOf(session))
		return s.send(a, err)
	case Accept:
		if damaged {
			msg.Ciphertext[CiphertextSize-1] ^= 1
		}
		c, err := m.HandleAccept(msg, exporterOf(session))
		return s.send(c, err)
	case Confirm:
		if damaged {
			msg.MAC[31] ^= 1
		}
		return outcome(m.HandleConfirm(msg))
	}
	panic("unreachable")
}

func (s *stage) send(msg any, err error) string {
	if err != nil {
		return outcome(err)
	}
	s.sent = append(s.sent, msg)
	n := len(s.sent)
	switch msg := msg.(type) {
	case Offer:
		if msg.Fresh {
			return fmt.Sprintf("%d: fresh offer of %d", n, msg.Epoch)
		}
		return fmt.Sprintf("%d: offer of %d", n, msg.Epoch)
	case Accept:
		return fmt.Sprintf("%d: accept of %d", n, msg.Epoch)
	case Confirm:
		return fmt.Sprintf("%d: confirm of %d", n, msg.Epoch)
	}
	panic("unreachable")
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	for _, sentinel := range []struct {
		name string
		err  error
	}{{"ErrYield", ErrYield}, {"ErrStale", ErrStale}, {"ErrUnexpected", ErrUnexpected}, {"ErrConfirm", ErrConfirm}, {"ErrMessage", ErrMessage}} {
		if errors.Is(err, sentinel.err) {
			return sentinel.name
		}
	}
	return "untyped error: " + err.Error()
}

func describe(m *Machine) string {
	show := func(k key) string {
		if k.epoch == 0 {
			return "-"
		}
		hash := sha256.Sum256(k.psk[:])
		text := fmt.Sprintf("%d:%x", k.epoch, hash[:2])
		if k.proven {
			text += "*"
		}
		return text
	}
	offered := "-"
	if m.offered != 0 {
		offered = fmt.Sprint(m.offered)
	}
	return fmt.Sprintf("current %s, previous %s, pending %s, offered %s", show(m.current), show(m.previous), show(m.pending), offered)
}
