package dataplane

import (
	"testing"
	"time"
)

func TestWaitQueue(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var q waitQueue
	packet := []byte{1}
	if q.put(packet, now) != waits {
		t.Fatal("the gate is open from the start")
	}
	packet[0] = 9 // the caller's buffer is its own
	q.put([]byte{2}, now.Add(time.Second))
	if got := q.expired(now.Add(waitTime)); len(got) != 1 || got[0][0] != 1 {
		t.Errorf("expired %v, want the first packet as it was", got)
	}
	if q.next() != now.Add(time.Second).Add(waitTime) {
		t.Error("the next to expire is not the second packet")
	}
	var passed [][]byte
	q.open(func(p []byte) { passed = append(passed, p) })
	if len(passed) != 1 || passed[0][0] != 2 {
		t.Errorf("passed %v", passed)
	}
	if q.put(packet, now) != passes {
		t.Error("the gate is closed after open")
	}
	q.hold()
	for range waitPackets {
		if q.put(packet, now) != waits {
			t.Fatal("no room")
		}
	}
	if q.put(packet, now) != full {
		t.Error("more than the bound wait")
	}
	if got := q.close(); len(got) != waitPackets {
		t.Errorf("close returned %d packets", len(got))
	}
	if q.put(packet, now) != gone || !q.next().IsZero() {
		t.Error("a closed queue takes packets")
	}
}
