// Package bulletin is what regions tell each other of who is alive in them. A region's gossip stays in the region; of another region a node knows
// what that region's bulletin says: a signed, numbered list of its members that are away, of a few bytes as long as few are.
//
// The way of a bulletin:
//
//  1. Whoever speaks for a region (its coordinator; without one the voter, else the member with the lowest ID) composes it from the region's
//     pool and signs it (bulletin.go, set.go). It names members by their place in the region's sorted list, of which it carries the hash.
//  2. It travels as a rumour, or in the exchanges of gossip where a rumour was missed or it does not fit one.
//  3. Everybody holds the newest of each region on a [Board] (board.go), which decides whether to believe it: its author must be the region's
//     coordinator in the state that is held here, in the term that is known here. Terms fence: what a coordinator that has been replaced says
//     is refused by whoever knows of its successor.
//
// While a region's halves are cut off from each other two may speak for it in one term, and others believe the newest. So who speaks says it anew when it
// hears another who is not believed here (Outbid), and when its own clock was wrong. While the coordinator is held alive here its word takes the place of
// another's though it be older, and who has spoken in its place is refused, and looked at again (Reconsider) when the coordinator turns out to be lost.
//
// A [Horizon] is what those who speak for a region tell their own region's members, and nobody else: which other regions they have lost sight of, and which
// are headless, that is, whose coordinator is lost while another speaks for them. It counts in its speaker's present term only. A bulletin itself does not get old; that there is nobody left who would issue another, only who speaks with
// the others notices.
//
// The package is pure: no goroutine, no clock, no I/O. What it trusts is the [View] of its caller, the mesh's signed state.
package bulletin
