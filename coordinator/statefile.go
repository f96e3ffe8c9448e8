package coordinator

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/phantommesh/phantommesh/internal/durable"
)

// stateFileMax bounds what is read of state.cbor: maxSnapshotBytes holds for both.
const stateFileMax = maxSnapshotBytes

// stateMagic begins the file: name and format.
const stateMagic = "phantommesh state 1\n"

// encodeState is the content of a state file.
func encodeState(to io.Writer, s *State) error {
	if _, err := io.WriteString(to, stateMagic); err != nil {
		return err
	}
	w := newRecordWriter(to)
	writeState(w, s, 0)
	return w.end()
}

func decodeState(from io.Reader, shelf *Shelf) (*State, error) {
	return decodeStateFrom(bufio.NewReader(io.LimitReader(from, stateFileMax)), shelf)
}

// decodeStateFrom reads a state and nothing behind it.
func decodeStateFrom(r io.Reader, shelf *Shelf) (*State, error) {
	magic := make([]byte, len(stateMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != stateMagic {
		return nil, errors.New("it does not begin as a state file of this program version does")
	}
	b := newBuilder(nil)
	b.shelf = shelf
	err := readRecords(r, func(kind uint8, body []byte) error {
		known, err := b.add(kind, body)
		if err == nil && !known {
			err = fmt.Errorf("unknown record")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return b.build()
}

const damagedState = "move it away together with the folder it is in, then join again with a new invitation; " +
	"if this was the only coordinator, restore a backup"

func readStateFile(path string, shelf *Shelf) (*State, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &DamagedError{Path: path, Err: errors.New("the file is missing"), Next: damagedState}
	}
	if err != nil {
		return nil, fmt.Errorf("coordinator: read the state: %w", err)
	}
	defer f.Close()
	s, err := decodeState(f, shelf)
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err, Next: damagedState}
	}
	return s, nil
}

func writeStateFile(d durable.Disk, path string, s *State) error {
	var buf bytes.Buffer
	if err := encodeState(&buf, s); err != nil {
		return err
	}
	return d.WriteFile(path, buf.Bytes())
}

// Waits of keep: changes come in bursts (ten machines join), and a full disk does not get better within a second. The whole file is written each time, so
// that a mesh of thousands in which something changes every second would wear disks out: savePace is what is written on average at most, in bytes a
// second. Five members are saved at once, a thousand every 40 s. A policy, a key, and that somebody is out do not wait: a machine that loses power and
// starts alone must not go by what was before.
const (
	saveDelay = 50 * time.Millisecond
	saveAgain = 5 * time.Second
	savePace  = 128 << 10
)

// keep writes state.cbor after changes. A voter's ledger is safe in its log, others can pull again: so the file may lag.
func (g *Group) keep() {
	failing := false
	for {
		select {
		case <-g.dirty:
		case <-g.ctx.Done():
			return
		}
		delay := saveDelay
		size, err := g.save()
		switch {
		case err != nil:
			if !failing {
				g.cfg.Log.Warn("coordinator: the mesh state could not be saved, trying again"+diskHint(err), "err", err)
			}
			failing, delay = true, saveAgain
			poke(g.dirty)
		case failing:
			failing = false
			g.cfg.Log.Info("coordinator: the mesh state is saved again")
		}
		wait(g.ctx, delay)
		select {
		case <-time.After(savePause(size)):
		case <-g.pressing:
		case <-g.ctx.Done():
			return
		}
	}
}

// savePause is how long a file of so many bytes is let be before it is written again, beside saveDelay.
func savePause(size int) time.Duration { return time.Duration(size) * time.Second / savePace }

// save writes the file and returns its size.
func (g *Group) save() (size int, err error) {
	s := g.State()
	if head := g.headOf(s); head != nil {
		s = s.withHead(head)
	}
	var buf bytes.Buffer
	if err := encodeState(&buf, s); err != nil {
		return 0, err
	}
	return buf.Len(), g.cfg.Disk.WriteFile(filepath.Join(g.mesh, stateName), buf.Bytes())
}
