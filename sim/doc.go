// Package sim runs the project's own node, unchanged, over a simulated internet, in virtual time, from a seed.
//
//  1. [Bubble] opens a testing/synctest bubble from an ordinary program and gives it a [World]: a network in memory
//     (underlay/underlaytest), and hosts on it. Time in a bubble stands still while anybody works and jumps when everybody waits, so
//     an hour of the mesh takes as long as its computing.
//  2. A [Host] is a machine: it starts a node on its state folder, stops it, kills it (the folder stays as it was at that instant),
//     cuts its network, gives it other addresses. Behind the node's network interface the host answers pings through the tunnels.
//  3. A [Scenario] is a YAML file: who is there, what is done to them and when, what load they carry, what must be true of it.
//  4. [Play] makes the world of a scenario, carries out its timeline, and asks every [Checker] all the while (safety). Then the
//     faults end, and what must come true within a bound is asked for (liveness).
//  5. [Result] is what came of it: violations with what happened just before them, and figures.
//
// Faults (fault.go) know nothing of checkers, checkers (check_*.go) nothing of faults: a checker sees the nodes as a user does,
// through their local API, and the packets on the wire.
//
// Goroutines: the caller's is the driver, the only one to advance time and to change the world. Every node has its own, every host one
// that answers pings, every question that may take time one more. All end with the bubble; Bubble reports one that does not.
//
// What is real: all code of the node, with memberlist, Raft, QUIC, WireGuard and their timers; the state folder is a real one. What is
// not: the network, the clock (one for all hosts), and the exact interleaving of goroutines. A seed fixes the world, the faults and all
// randomness that is the node's own, but neither the scheduler nor the libraries' own randomness: a run repeated with its seed is
// much like the first, not its copy. Package sim/replay takes the rest away, for runs that are equal byte for byte.
package sim
