// Package peer holds what a node believes about the others: the signed record in which every node speaks for itself, and the
// table in which certificates, records and gossip's verdicts meet.
//
// The flow, in stages:
//
//  1. A member certificate that the mesh's trust accepts is admitted ([Table.Admit]); only then does the node exist for the table.
//  2. The node's own record (endpoints, region, versions) arrives by gossip, DHT or push/pull; its Ed25519 signature is checked
//     against the admitted certificate ([VerifyRecord]) and the newest sequence number wins ([Table.Update]).
//  3. Gossip says who is alive ([Table.SetState]), the ledger says who is revoked ([Table.Revoke]).
//  4. Underlay, control, dataplane and API read, without locks, and watch for changes ([Table.Watch]).
//
// The package starts no goroutine and does no I/O. Writers are serialised by one mutex; readers never take it on the paths that
// packets travel ([Table.Get], [Table.ByKey], [Table.ByAddress]): an entry is immutable and is replaced as a whole.
//
// It trusts its callers to have verified what they admit: certificates against the mesh's trust, records against the certificate.
// Bytes from outside are parsed by [ParseRecord] alone, which never panics and never allocates more than the record's own size.
package peer
