package api

import (
	"net"
	"sync"
)

// boundedListener accepts at most cap(slots) connections at a time and hands out connections that know their caller.
type boundedListener struct {
	net.Listener
	slots     chan struct{}
	closed    chan struct{}
	closeOnce sync.Once
}

func newBoundedListener(l net.Listener, connections int) *boundedListener {
	return &boundedListener{Listener: l, slots: make(chan struct{}, connections), closed: make(chan struct{})}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	// Read once, now: by the next request the process on the other end may have become another.
	who, err := credentials(c)
	// Over TCP there is nobody to know; what is served there asks for no one.
	return &knownConn{Conn: c, who: who, known: err == nil, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *boundedListener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// knownConn is a connection with the credentials of who made it.
type knownConn struct {
	net.Conn
	who     caller
	known   bool // who could be asked for
	release func()
}

func (c *knownConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
