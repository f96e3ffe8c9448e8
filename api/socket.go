package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

const (
	// sunPathMax is what sun_path of unix(7) holds without its closing zero. A longer path goes by way of /proc/self/fd.
	sunPathMax = 107
	// dialTimeout is generous for a local connect: it waits only while the accept queue is full.
	dialTimeout = 5 * time.Second
)

// listenUnix opens the control socket. A socket file nobody answers on is what a kill -9 leaves and is replaced; one that answers means
// that another node runs here.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, localapi.Fail(localapi.Failed, "cannot make the state folder", err, "check the permissions of the folder above, or use --state")
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", short)
	if err != nil {
		return nil, localapi.Fail(localapi.Failed, "cannot open the control socket "+path, reason(err), "check the permissions of its folder")
	}
	// Closing by the short name would act on whatever the descriptor number means by then; the server removes the file itself.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, localapi.Fail(localapi.Failed, "cannot make the control socket private", err, "check the permissions of its folder")
	}
	return l, nil
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return localapi.Fail(localapi.Failed, "cannot look at the control socket", err, "check the permissions of the state folder")
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return &localapi.Failure{Class: localapi.Failed, What: path + " is in the way", Why: "it should be a socket and is something else",
			Next: "move it away"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	c, err := dialUnix(ctx, path)
	if err == nil {
		c.Close()
		return &localapi.Failure{Class: localapi.Failed, What: "a node runs on this state folder already", Why: "something answers on " + path,
			Next: "stop it with phantom down, or give this one its own folder with --state"}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return localapi.Fail(localapi.Failed, "cannot tell whether a node runs on "+path, reason(err), "check who owns the state folder")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return localapi.Fail(localapi.Failed, "cannot remove the socket a dead node left", err, "remove it by hand")
	}
	return nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, "unix", short)
}

// shorten gives a name for path that fits a socket address. Call done after use.
func shorten(path string) (short string, done func(), err error) {
	if len(path) <= sunPathMax {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, fmt.Errorf("state folder: %w", err)
	}
	short = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), filepath.Base(path))
	return short, func() { dir.Close() }, nil
}

// reason is the innermost errno of a network error: the rest repeats addresses the message has already.
func reason(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
