// Package mesh drives the phantom binary on the hosts of a lab, through its command line and
// nothing else: what it relies on is what docs/cli.md promises. The shapes of --json answers are
// written down here a second time on purpose, so that a renamed field breaks a test.
//
//  1. Binary builds bin/phantom once a process.
//  2. Start runs a node in the foreground (phantom run) on a host, with a state folder of its own.
//  3. Found, Join, Invite, Status … are the verbs.
//  4. Grow builds the usual mesh: the first host founds, the others join with one invitation.
//
// Nodes are processes of the lab, which ends them. Echo owns a goroutine a connection, which ends
// with the other side; Steady owns one, which Stop and the end of the test end.
package mesh
