package main

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// logMax bounds the log of a node in the background: with the one before it, 16 MiB at most.
const logMax = 8 << 20

// boundedLog is the log file of a node in the background. When it is full it becomes FILE.1, in place of the one before, and a new one
// starts. stderr goes there as well, for what the runtime says when the process dies.
type boundedLog struct {
	name       string
	keepStderr bool // leave stderr where it is

	mu   sync.Mutex // guards what follows
	file *os.File
	size int64
}

func openLog(name string) (*boundedLog, error) {
	l := &boundedLog{name: name}
	if fi, err := os.Stat(name); err == nil && fi.Size() >= logMax {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return l, l.openLocked()
}

func (l *boundedLog) openLocked() error {
	f, err := os.OpenFile(l.name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size = f, fi.Size()
	if l.keepStderr {
		return nil
	}
	return unix.Dup3(int(f.Fd()), 2, 0)
}

// Write never fails for a full disk: the node is worth more than its log.
func (l *boundedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(b)) > logMax {
		if os.Rename(l.name, l.name+".1") == nil {
			_ = l.openLocked()
		}
	}
	n, _ := l.file.Write(b)
	l.size += int64(n)
	return len(b), nil
}

func (l *boundedLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
