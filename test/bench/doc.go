// Command bench measures what docs/performance.md states and prints it as Markdown tables.
//
//	go run ./test/bench [-only micro,throughput,join,idle,exchange,failover,succession,revocation] [-pairs N] [-seconds N] [-joins N]
//	    [-kills N] [-revokes N]
//
// In order:
//
//  1. micro: every Go benchmark of every package, one table.
//  2. throughput: iperf3 between two namespaces, phantom's tunnel against wgplain (the same
//     library alone), in alternating runs, so that a drifting machine harms both alike.
//  3. join: from starting `phantom join` on a machine with no state to the first ping reply.
//  4. idle: memory, CPU and traffic of each node of an idle five-node mesh.
//  5. exchange: what the first ping between two nodes costs, and what the next one does.
//  6. failover: from kill -9 of the leader to a new one, and to the next decision taken.
//  7. succession: from kill -9 of a region's coordinator to another.
//  8. revocation: from `phantom revoke` to every other member having closed its tunnel.
//
// Medians are printed with minimum and maximum; a ratio is the median of the ratios of the pairs.
// All but micro need root. The program owns no goroutine; a lab's reaper cleans up after it.
package main
