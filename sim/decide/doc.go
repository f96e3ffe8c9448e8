// Package decide is the simulator's decide tier: the mesh's pure decisions, and nothing else of it, in one thread and in virtual time, from
// a seed. The same seed gives the same run, byte for byte, on every machine; a thousand runs take about a minute.
//
// What is real: the deciders and the ledger of package coordinator, path choice of package underlay, the plans of package nat, the
// key exchange's machine. What is modelled: everything around them. Raft is a log that a leader with a majority appends to, gossip is
// a delay after which a leader notices who is there, a link is a round trip and a loss rate, a NAT is its mapping and filtering behaviour
// (RFC 4787). So a run says whether decisions are right, and nothing about the programs that carry them out: that is
// the mesh tier's part (package sim).
//
// Flow of a run:
//
//  1. decide.go: Run gives each part (Parts) a world with its own stream of randomness, drawn from the seed and the part's name.
//  2. A part draws its topology and a list of faults, and schedules them. A fault draws from a stream of its own, so that leaving one
//     out (Options.Without) leaves the others as they were.
//  3. Safety phase: events happen in order of virtual time; checkers look after each. Then all faults are healed, and the liveness phase has a bound in
//     which everything must be as promised.
//  4. Every event goes into the trace, whose SHA-256 is the run's hash. The first violation ends the run, with the last events before it.
//
// One goroutine runs a run; Run starts none. Trust: nothing comes from outside but the options.
package decide
