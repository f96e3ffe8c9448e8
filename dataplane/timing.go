package dataplane

import "time"

// timing are the durations of the policy that can be configured.
type timing struct {
	rekey time.Duration // age at which the key of an active tunnel is replaced
	idle  time.Duration // silence after which the peer is removed
}

const (
	// rotateLeadDivisor says how much earlier than its interval a rotation begins, as a fraction of the interval. WireGuard's own rekey
	// comes 120 s after the session began, which is about one interval after the last rotation: ours is to be done by then.
	rotateLeadDivisor = 24
	// rotateSlackDivisor is the fraction of the interval that the side that answered the last exchange waits longer than the
	// side that began it, so that as a rule only one side begins.
	rotateSlackDivisor = 8
	// recentDivisor: traffic counts as going on at a rotation that is due if it was seen within this fraction of the interval.
	recentDivisor = 4
	// sampleDivisor is the fraction of the idle time after which traffic is looked at again.
	sampleDivisor = 4
	// kickFirst is how long the session may take before its handshake is sent anew, doubled kicksMax times: 0.5, 1.5, 3.5 and 7.5 s
	// after the key was there. WireGuard would wait 5 s each time (its RekeyTimeout).
	kickFirst = 500 * time.Millisecond
	kicksMax  = 4
	// settleMax is how long the answering side leaves the opening of the session to the other. It lies between two kicks of that
	// side, because handshakes that cross void each other, and within the time that a packet waits.
	settleMax = 2500 * time.Millisecond
	// verifyAfter is when we look whether the session has moved to the new key: WireGuard keeps 5 s between two handshakes, so
	// one that was asked for too early was not sent. It is looked at verifyMax times.
	verifyAfter = 5500 * time.Millisecond
	verifyMax   = 3
	// retryFirst to retryMax: the waits between exchanges that fail, doubled each time.
	retryFirst = 200 * time.Millisecond
	retryMax   = 30 * time.Second
	// yieldWait is how long we leave the field to the other side's exchange after ours has yielded to it.
	yieldWait = 2 * time.Second
	// refusedFirst to refusedMax: how long a peer that has refused us is left alone, doubled each time. The first refusals may only say that it has
	// not heard yet that we are a member, which takes about a second.
	refusedFirst = time.Second
	refusedMax   = 30 * time.Second
	// wantedFor is how long a wish for a tunnel is pursued after it was last expressed. Longer than the wait of a packet (3 s)
	// and than the first retransmissions of TCP (1, 3, 7 s), so that these meet a tunnel already on its way.
	wantedFor = 10 * time.Second
	// forgetAfter is how long a tunnel without a peer is remembered: its backoff must outlive it.
	forgetAfter = time.Minute
	// lostQuiet: a control connection lost so soon after an exchange says nothing new.
	lostQuiet = 10 * time.Second
	// lostCheck is how long we then listen for the other end: if packets still come from it, only the connection was at an end (an
	// idle one ends by itself); if ours get no answer, its keys may be lost. A few round trips, well within a second.
	lostCheck = 500 * time.Millisecond
)
