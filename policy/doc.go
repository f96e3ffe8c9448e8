// Package policy is the language of the mesh's packet filter: who may open which connections to whom. It is pure: text and members go in,
// decisions come out; it has no I/O, no clock and no goroutine.
//
// The way of a policy:
//
//  1. [Parse] reads the YAML that a person wrote: strictly, within bounds, errors with their line.
//  2. [Policy.Check] tries its expect lines on the mesh's members. The leader refuses a policy with one that fails.
//  3. [Compare] says what it would change, for people.
//  4. [Compile] makes a [Matcher] for one node: for each address of a peer, what it may send here and what may be sent to it. The dataplane
//     asks it for every new flow; looking up costs one map access and a binary search, whatever the number of rules.
//
// Rules only allow, so their order has no meaning; what no rule allows is denied. A rule speaks of who opens a connection; that answers
// pass is the dataplane's business. A policy is about the tunnels of the mesh and nothing else: the control channel, over which
// policies travel, is not subject to it.
//
// Text comes from any member and reaches every node through the ledger, so nothing in it may make Parse panic, hang or grow.
package policy
