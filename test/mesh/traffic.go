package mesh

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
)

const (
	// beat is the pace of steady traffic: a pause of the promised length loses many beats.
	beat = 20 * time.Millisecond
	// connectTimeout covers a first packet that has to build its tunnel, and TCP's first
	// retransmissions if it was lost.
	connectTimeout = 10 * time.Second
)

// Echo answers every TCP connection to the node's host with what it sends, over both families,
// until the test ends. It returns the port.
func (n *Node) Echo() uint16 {
	n.t.Helper()
	l, err := n.Host.Listen("[::]:0")
	if err != nil {
		n.t.Fatalf("%s: %v", n.Name, err)
	}
	n.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the other side, at the latest with the lab
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// Talk sends size random bytes from the node to an echo and wants them back.
func (n *Node) Talk(to netip.AddrPort, size int) error {
	sent := make([]byte, size)
	rand.Read(sent)
	return n.Say(to, sent)
}

// Say sends these bytes from the node to an echo and wants them back.
func (n *Node) Say(to netip.AddrPort, sent []byte) error {
	c, err := n.Host.Dial("tcp", to.String(), connectTimeout)
	if err != nil {
		return fmt.Errorf("%s to %s: %w", n.Name, to, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(connectTimeout))
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
	}()
	back := make([]byte, len(sent))
	if _, err := io.ReadFull(c, back); err != nil {
		return fmt.Errorf("%s to %s: reading the echo: %w", n.Name, to, err)
	}
	if err := <-wrote; err != nil {
		return fmt.Errorf("%s to %s: %w", n.Name, to, err)
	}
	if !bytes.Equal(sent, back) {
		return fmt.Errorf("%s to %s: the echo differs", n.Name, to)
	}
	return nil
}

// Steady is a connection with one small message and its echo every beat.
type Steady struct {
	name  string
	conn  net.Conn
	stop  chan struct{}
	ended chan struct{}
	worst time.Duration // valid once ended is closed
	err   error
}

// Steady starts steady traffic from the node to an echo.
func (n *Node) Steady(to netip.AddrPort) *Steady {
	n.t.Helper()
	c, err := n.Host.Dial("tcp", to.String(), connectTimeout)
	if err != nil {
		n.t.Fatalf("%s to %s: %v", n.Name, to, err)
	}
	s := &Steady{name: n.Name + " to " + to.String(), conn: c, stop: make(chan struct{}), ended: make(chan struct{})}
	go s.run()
	n.t.Cleanup(func() { s.conn.Close(); <-s.ended })
	return s
}

func (s *Steady) run() {
	defer close(s.ended)
	defer s.conn.Close()
	message, back := []byte("still there?"), make([]byte, 12)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		begin := time.Now()
		s.conn.SetDeadline(begin.Add(connectTimeout))
		if _, s.err = s.conn.Write(message); s.err != nil {
			return
		}
		if _, s.err = io.ReadFull(s.conn, back); s.err != nil {
			return
		}
		s.worst = max(s.worst, time.Since(begin))
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
	}
}

// Stop ends the traffic. It is an error if it broke, or if one answer took longer than pauseMax.
func (s *Steady) Stop(pauseMax time.Duration) error {
	close(s.stop)
	<-s.ended
	switch {
	case s.err != nil:
		return fmt.Errorf("steady traffic from %s broke: %w", s.name, s.err)
	case s.worst > pauseMax:
		return fmt.Errorf("steady traffic from %s paused for %s, at most %s was promised", s.name, s.worst, pauseMax)
	}
	return nil
}

// Pause is the longest that one answer took, once the traffic was stopped.
func (s *Steady) Pause() time.Duration { return s.worst }

// Reach checks ping and TCP from one node to another over both families.
func Reach(from, to *Node, echo uint16) error {
	for _, addr := range to.Addresses() {
		if err := from.Host.Ping(addr, connectTimeout); err != nil {
			return err
		}
		if err := from.Talk(netip.AddrPortFrom(addr, echo), 64<<10); err != nil {
			return err
		}
	}
	return nil
}

// CutOff waits until an address does not answer pings of a host any more.
func CutOff(host *lab.Host, addr netip.Addr, within time.Duration) error {
	return lab.Eventually(within, func() error {
		if host.PingOnce(addr) == nil {
			return fmt.Errorf("%s still gets ping replies from %s", host.Name, addr)
		}
		return nil
	})
}
