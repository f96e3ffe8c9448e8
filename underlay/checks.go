package underlay

import (
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/nat"
)

const (
	// transactionsMax bounds the checks under way: 200 searches of 16 addresses. The oldest would have been given up first anyway.
	transactionsMax = 4096
	// transactionLife is how long an answer is waited for: longer than any retransmission of a search.
	transactionLife = 5 * time.Second
)

// transaction is a check that we sent and whose answer we wait for.
type transaction struct {
	node *node // nil: the key of who sits there is unknown (first contact, plain STUN)
	addr netip.AddrPort
	sent instant
	// plain is a request to a STUN server: no keyed answer is expected, and none makes a path.
	plain bool
	// anywhere: a plain request whose answer shall come from elsewhere (RFC 5780 §7.2). The transaction ID is all that vouches for it.
	anywhere bool
	// reply, if not nil, gets the answer too; it has room for one of each request.
	reply chan answer
	// size is what the request was padded to, to see whether so much arrives; 0: nothing.
	size int
	// fan is one of many-port probing, which has its own bound.
	fan bool
	// counts is what WireGuard packets had been sent to the address before.
	counts counts
}

// transactions are the checks under way, by transaction ID.
type transactions struct {
	mu   sync.Mutex
	byID map[nat.TransactionID]transaction
	fans int // of many-port probing, among them
}

// add enters a transaction. It returns false if there are too many.
func (t *transactions) add(id nat.TransactionID, tx transaction) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = map[nat.TransactionID]transaction{}
	}
	if !t.roomLocked(tx.fan) {
		t.sweepLocked(tx.sent)
		if !t.roomLocked(tx.fan) {
			return false
		}
	}
	t.byID[id] = tx
	if tx.fan {
		t.fans++
	}
	return true
}

func (t *transactions) roomLocked(fan bool) bool {
	if fan {
		return t.fans < fanTransactionsMax
	}
	return len(t.byID)-t.fans < transactionsMax
}

func (t *transactions) removeLocked(id nat.TransactionID, tx transaction) {
	delete(t.byID, id)
	if tx.fan {
		t.fans--
	}
}

// peek returns the transaction without ending it: a forged answer must not keep the true one out.
func (t *transactions) peek(id nat.TransactionID, from netip.AddrPort) (transaction, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tx, ok := t.byID[id]
	return tx, ok && (tx.addr == from || tx.anywhere)
}

// finish ends a transaction and reports whether it was still under way.
func (t *transactions) finish(id nat.TransactionID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	tx, ok := t.byID[id]
	if ok {
		t.removeLocked(id, tx)
	}
	return ok
}

// sweep forgets the transactions that are too old.
func (t *transactions) sweep(now instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweepLocked(now)
}

func (t *transactions) sweepLocked(now instant) {
	for id, tx := range t.byID {
		if now-tx.sent >= transactionLife {
			t.removeLocked(id, tx)
		}
	}
}

// answer is a keyed answer to a check of ours (or a plain one), already verified.
type answer struct {
	node      *node
	addr      netip.AddrPort
	endpoint  conn.Endpoint // the real one, with the local address it arrived on
	rtt       time.Duration
	validated bool // they have validated our address too
	mapped    netip.AddrPort
	other     netip.AddrPort // from where else a server that tests NAT behaviour answers; invalid: it does not
	at        instant
	asked     instant     // when the check was sent
	sent      counts      // what had been sent there before that
	report    *nat.Report // what of it has arrived; nil: not told
	size      int         // what the check was padded to; 0: nothing
}

// checkPacket is a STUN request on its way to the owner.
type checkPacket struct {
	data     []byte
	endpoint conn.Endpoint
	at       instant
	report   *nat.Report // what had come from there before; nil if it was nobody's address
}

// check sends a check to an address of the node. opening pads it, so that the other side may challenge us back.
func (s *Socket) check(n *node, to netip.AddrPort, opening bool, reply chan answer) error {
	key, err := n.pairKey()
	if err != nil {
		return err
	}
	return s.request(transaction{node: n, addr: to, reply: reply}, func(id nat.TransactionID) []byte {
		return nat.CheckRequest{Transaction: id, Sender: s.public, Key: &key, Opening: opening}.Encode()
	})
}

// checkSize sends a check of so many bytes of UDP payload, to see whether the path carries that. It is never fragmented.
func (s *Socket) checkSize(n *node, to netip.AddrPort, size int) error {
	key, err := n.pairKey()
	if err != nil {
		return err
	}
	return s.request(transaction{node: n, addr: to, size: size}, func(id nat.TransactionID) []byte {
		return nat.CheckRequest{Transaction: id, Sender: s.public, Key: &key, Size: size}.Encode()
	})
}

// request enters the transaction and sends the request that encode makes for it.
func (s *Socket) request(tx transaction, encode func(nat.TransactionID) []byte) error {
	var id nat.TransactionID
	if err := s.fillRandom(id[:]); err != nil {
		return err
	}
	tx.sent = s.now()
	if src := s.sources.get(tx.addr); src != nil && src.node == tx.node {
		tx.counts = src.sent.load()
	}
	if !s.transactions.add(id, tx) {
		return errTooManyChecks
	}
	s.stats.checks.Add(1)
	if err := s.sendCheck(encode(id), tx); err != nil {
		s.transactions.finish(id)
		return err
	}
	return nil
}

// sendCheck sends a check to where its transaction says.
func (s *Socket) sendCheck(b []byte, tx transaction) error {
	f, ok := s.bind.(fragmenter)
	if tx.size == 0 || !ok || isLinkAddr(tx.addr.Addr()) {
		return s.sendTo(b, tx.addr)
	}
	e, err := s.bind.ParseEndpoint(tx.addr.String())
	if err != nil {
		return err
	}
	return f.SendWhole([][]byte{b}, e)
}

// handleResponse verifies an answer and enters its source. It runs in the goroutine that read.
func (s *Socket) handleResponse(b []byte, ep conn.Endpoint, now instant) {
	m, err := nat.Parse(b)
	if err != nil {
		s.stats.drop(dropMalformed, 1)
		return
	}
	from := addrOf(ep)
	tx, ok := s.transactions.peek(m.Transaction, from)
	if !ok {
		s.stats.drop(dropUnasked, 1)
		return
	}
	a := answer{node: tx.node, addr: from, endpoint: ep, rtt: now - tx.sent, validated: m.Validated, mapped: m.Mapped, other: m.Other, at: now,
		asked: tx.sent, sent: tx.counts, size: tx.size}
	if m.HasReport {
		a.report = &m.Report
	}
	if tx.plain {
		if s.transactions.finish(m.Transaction) {
			tx.reply <- a
		}
		return
	}
	if a.node == nil {
		if a.node = s.nodeOf(m.Sender); a.node == nil {
			s.stats.drop(dropForged, 1)
			return
		}
	}
	if key, err := a.node.pairKey(); err != nil || !m.HasSender || m.Sender != a.node.key || m.Verify(key) != nil {
		s.stats.drop(dropForged, 1)
		return
	}
	if !s.transactions.finish(m.Transaction) || !s.nodes.has(a.node) {
		return
	}
	s.accept(a, tx.reply)
}

// accept makes the address of a verified answer the node's, and tells the owner and whoever waits for it.
func (s *Socket) accept(a answer, reply chan answer) {
	select {
	case s.answers <- a:
	default:
		s.stats.drop(dropQueueFull, 1)
		return
	}
	s.stats.answers.Add(1)
	src := s.sources.put(a.addr, a.node, a.at)
	src.heard(a.at)
	// The packet right behind this answer may be a QUIC packet, and be answered before the owner has chosen a path.
	a.node.active.CompareAndSwap(nil, answeredRoute(a.endpoint, src))
	if reply != nil {
		reply <- a
	}
}

// handleRequest answers a STUN request. It runs on the owner.
func (o *owner) handleRequest(p checkPacket) {
	m, err := nat.Parse(p.data)
	if err != nil || m.Kind != nat.Request {
		o.stats.drop(dropMalformed, 1)
		return
	}
	from := addrOf(p.endpoint)
	if m.HasChange {
		o.stats.drop(dropMalformed, 1) // we have no second address, and an answer from this one would mislead (RFC 5780 §7.2)
		return
	}
	if !m.HasSender {
		if b := nat.PlainResponse(m.Transaction, tellableAddr(p.endpoint), m.Size); b != nil {
			_ = o.transmit([][]byte{b}, p.endpoint)
		} else {
			o.stats.drop(dropLimited, 1)
		}
		return
	}
	n, why := o.requester(&m, rationedAddr(p.endpoint), p.at)
	if n == nil {
		o.stats.drop(why, 1)
		return
	}
	src := o.sources.get(from)
	validated := src != nil && src.node == n
	var report *nat.Report
	if validated {
		src.heard(p.at)
		if report = p.report; report == nil {
			report = reportOf(src)
		}
	}
	o.respond(n, &m, p.endpoint, report)
	if m.Keyed {
		o.theyChallenged(n, from, p.at)
	}
}

// respond answers a check, with a report to a source that is validated already. Any other it challenges, unless the request was too small
// for both.
func (o *owner) respond(n *node, m *nat.Message, ep conn.Endpoint, report *nat.Report) {
	validated := report != nil
	key, err := n.pairKey()
	if err != nil {
		return
	}
	from := addrOf(ep)
	b := nat.CheckResponse{Transaction: m.Transaction, Sender: o.public, Mapped: tellableAddr(ep), Validated: validated, Report: report, Key: key}.Encode()
	if len(b) > m.Size && !validated {
		return
	}
	_ = o.transmit([][]byte{b}, ep) // lost is lost: they ask again
	if validated || !nat.Budget(m.Size, len(b)) {
		return
	}
	bucket, rate := &o.strangeChallenges, strangeChallenges
	if m.Keyed {
		bucket, rate = &o.keyedChallenges, keyedChallenges
	}
	if !bucket.take(rate, o.now()) {
		o.stats.drop(dropLimited, 1)
		return
	}
	_ = o.check(n, from, false, nil)
}

// requester returns the node that sent a check, or why it gets no answer. The first check under a key costs a curve operation: a
// stranger's is rationed before that.
func (o *owner) requester(m *nat.Message, from netip.Addr, now instant) (*node, dropReason) {
	if m.Sender == o.public || m.Sender.IsZero() {
		return nil, dropForged
	}
	if !m.Keyed && m.Size < nat.OpeningSize {
		return nil, dropMalformed
	}
	n := o.nodes.get(m.Sender)
	if n == nil {
		var why dropReason
		if n, why = o.newRequester(m, from, now); n == nil {
			return nil, why
		}
	}
	key, err := n.pairKey()
	if err != nil || m.Keyed && m.Verify(key) != nil {
		if n.member.Load() == nil && n.born == now {
			o.removeStranger(n)
		}
		return nil, dropForged
	}
	return n, 0
}

// newRequester makes a node of a key that we see for the first time.
func (o *owner) newRequester(m *nat.Message, from netip.Addr, now instant) (*node, dropReason) {
	if e, ok := o.peers.ByKey(m.Sender); ok {
		return o.memberNode(e.ID), dropStranger
	}
	if m.Size < nat.OpeningSize || !o.newKeys.allow(from, now) || !o.newKeysTotal.take(newKeysTotal, now) {
		return nil, dropLimited
	}
	o.makeRoom()
	n := o.nodeOf(m.Sender)
	if n != nil {
		n.born = now
	}
	return n, dropStranger
}

// theyChallenged notes that the node has had a keyed answer of ours from the address: it has validated it, as far as we can know.
func (o *owner) theyChallenged(n *node, from netip.AddrPort, now instant) {
	if n.attempt != nil {
		n.attempt.challenged[from] = true
	}
	p := n.paths.find(from)
	if p == nil {
		return
	}
	p.asked = now
	if !p.mutual {
		p.mutual = true
		o.reached(n)
	}
}
