// Package wire is the one encoding of everything structured that crosses a network or a disk: deterministic CBOR (RFC 8949 §4.2.1), strictly
// read, and messages framed by a length on streams.
//
// Strict means: no repeated map keys, no indefinite lengths, no tags, no unknown fields, bounded nesting and element counts, and bytes that are
// not the one canonical form of what they say are refused. So a signed object has one encoding, and who re-encodes it gets the same bytes.
//
// The package starts no goroutine and trusts no input. A reader of messages must give its own bound on size.
package wire
