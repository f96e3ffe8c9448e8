package api

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// caller is who is on the other end of a connection, as the kernel saw it when the connection was made.
type caller struct {
	pid int
	uid uint32
}

// credentials asks the kernel. Not even a caller with the socket's descriptor can lie here.
func credentials(c net.Conn) (caller, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return caller{}, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return caller{}, err
	}
	var cred *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) { cred, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err == nil {
		err = failure
	}
	if err != nil {
		return caller{}, err
	}
	return caller{pid: int(cred.Pid), uid: cred.Uid}, nil
}

// waitGone returns when no process has the ID any more, or when done is closed.
func waitGone(pid int, done <-chan struct{}) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // no such process
	}
	defer unix.Close(fd)
	const sliceMillis = 100 // how late a closed done is noticed
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, sliceMillis)
		if n > 0 || err != nil && err != unix.EINTR {
			return
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
