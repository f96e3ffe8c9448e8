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

func decodeState(from io.Reader) (*State, error) {
	return decodeStateFrom(bufio.NewReader(io.LimitReader(from, stateFileMax)))
}

// decodeStateFrom reads a state and nothing behind it.
func decodeStateFrom(r io.Reader) (*State, error) {
	magic := make([]byte, len(stateMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != stateMagic {
		return nil, errors.New("it does not begin as a state file of this program version does")
	}
	b := newBuilder(nil)
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

func readStateFile(path string) (*State, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &DamagedError{Path: path, Err: errors.New("the file is missing"), Next: damagedState}
	}
	if err != nil {
		return nil, fmt.Errorf("coordinator: read the state: %w", err)
	}
	defer f.Close()
	s, err := decodeState(f)
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

// Waits of keep: changes come in bursts (ten machines join), and a full disk does not get better within a second.
const (
	saveDelay = 50 * time.Millisecond
	saveAgain = 5 * time.Second
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
		switch err := g.save(); {
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
		select {
		case <-time.After(delay):
		case <-g.ctx.Done():
			return
		}
	}
}

func (g *Group) save() error {
	s := g.State()
	if head := g.headOf(s); head != nil {
		s = s.withHead(head)
	}
	return writeStateFile(g.cfg.Disk, filepath.Join(g.mesh, stateName), s)
}
