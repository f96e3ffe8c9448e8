// Package place answers: where does this node stand among the others, and to which region does it belong?
//
//   - [Client] keeps this node's network coordinate: serf's Vivaldi, fed with round trips to members whose coordinate is known. It bounds
//     what one observation can do, so that a member that lies about its coordinate, or delays its answers, cannot throw ours far.
//   - [Said] decides when the coordinate has moved so much that the node's record must say so. Pure.
//   - [Chooser] decides to which region a node belongs that was not told one. Pure: it knows no network, and says what should be measured
//     before it moves the node.
//
// There is no goroutine and no I/O here. The Client has a mutex of its own, held for microseconds, never while it calls out.
//
// What others say of their coordinates is believed only as far as the bounds go; that a machine is near is believed when it has been
// measured, since nobody can answer sooner than he gets the question.
package place
