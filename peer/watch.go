package peer

// Watch returns a channel that gets a signal after the table has changed. Signals are coalesced: one that has not been taken
// stands for every change until it is, so a slow watcher holds nobody up and misses nothing by reading the table anew. cancel
// ends the watch; the channel is not closed.
func (t *Table) Watch() (signal <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	t.mu.Lock()
	t.watchers[c] = true
	t.mu.Unlock()
	return c, func() {
		t.mu.Lock()
		delete(t.watchers, c)
		t.mu.Unlock()
	}
}

// Version grows with every change of the table.
func (t *Table) Version() uint64 { return t.version.Load() }

// changedLocked counts a change and wakes the watchers.
func (t *Table) changedLocked() {
	t.version.Add(1)
	for c := range t.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
