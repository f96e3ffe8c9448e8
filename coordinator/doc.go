// Package coordinator is how a mesh decides: one Raft group made of the members' own nodes, the ledger it replicates, and the
// deciders that keep the group itself in shape.
//
// A decision travels in these stages:
//
//  1. call.go: any member asks (invite, revoke, enrol ...). On the leader the question is answered in place; anywhere else it is
//     forwarded to the leader over the control protocol "decide". Who asked is the peer that control authenticated.
//  2. execute.go, admission.go, author.go: the leader checks the question against its ledger, signs what has to be signed, and proposes
//     one command.
//  3. replica.go: hashicorp/raft replicates the command over control streams ("raft") and stores it in bbolt. Who leads, canvass.go helps to decide,
//     over streams that greet.go keeps; begun.go tells when a new leader may begin.
//  4. ledger.go: every voter applies the command. Apply is pure: no clock, no randomness, the same result everywhere.
//  5. state.go: what changed becomes a new immutable State. Group.State and Group.Trust return it at once on every voter.
//  6. pull.go: all other members fetch what is newer than theirs (protocol "state") from any member, verify every object
//     against the mesh root and the whole against a head that a coordinator signed, and keep it in state.cbor.
//
// A quorum that is lost for good is replaced by a person's word: recover.go on the node that is chosen, recovery.go for what the mesh
// keeps of it, overrule.go on those that were away.
//
// Every region has a coordinator: decider_regions.go elects it, office.go has the leader notice its loss and it notice that it was cut off,
// region.go is what it does. What it says is fenced by its term.
//
// The deciders (deciders.go, decider_*.go) run on the leader: pure functions of the ledger, observations and the time, in a
// table. They choose the voters, get them issuer certificates, renew members' certificates, change the gossip keys, elect the regions' coordinators
// and appoint relays. Admission and leases are decided in the same way, but when somebody asks (decider_admission.go, decider_leases.go). A further
// decider is one new file, with its actions and how they are carried out, and one new row.
//
// Goroutines. Group owns four: steer (ticks the deciders, and keeps this node's duties: reopening a fenced replica, giving up one
// that lost its vote), fetch (pulls the state), keep (writes state.cbor) and announce (calls OnState). hashicorp/raft owns its
// own, and replica.stop ends them all. Handlers run on goroutines of the control package and end with their stream. Close stops
// everything and waits.
//
// Locks. Group.publishing and Group.mu are never held together; publish runs on raft's goroutines, also while Group.mu is held
// to open a replica, and so must not take it. No lock is held across a wait for the network.
//
// Trust. A raft stream is accepted only from an active member that holds an issuer certificate signed by the mesh root or by
// an issuer the root allowed to make issuers. Commands from the log are still verified: a certificate enters the ledger only
// if it verifies there. A coordinator is trusted with every decision while it leads; revoke it when it cannot be. A state pulled from a member may be old, but neither altered nor cut: its digest is signed.
//
// Backups. backup.go writes what a node knows, restore.go brings it back without ever bringing back a vote or a log.
//
// Files, all below Config.Dir in mesh/: state.cbor (every member), root.key (the founder), voter and raft/ (voters).
// The folder appears by one rename, so that founding and enrolling leave either nothing or a member.
package coordinator
