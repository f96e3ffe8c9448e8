// Package seal puts what a node keeps into an envelope that tells damage from content: a magic number, the kind of content, its length and a
// checksum. With a passphrase the content is encrypted as well (scrypt and XChaCha20-Poly1305).
//
//	 0      4    5    6        6+n       10+n                    42+n
//	+------+----+----+--------+---------+-----------------------+---------+
//	| PMSK | v1 |  n | kind   | length  | SHA-256               | content |    Wrap
//	+------+----+----+--------+---------+-----------------------+---------+
//	| PMSE | v1 |  n | kind   | salt 16 | nonce 24              | sealed  |    Seal
//	+------+----+----+--------+---------+-----------------------+---------+
//
// The kind keeps one file from being taken for another: it is part of what the checksum and the encryption cover.
//
// The package does no I/O, reads no clock and starts no goroutine; randomness is an argument.
package seal
