// Command nat measures what docs/nat.md states about paths between nodes behind NATs, and its tests assert it: all with the real binary in
// network namespaces behind real (nftables) routers.
//
//		go run ./test/nat [-kinds public,easy,…] [-write docs/nat.md]
//
//	 1. world.go builds the internet: two public nodes that relay, and two machines of every kind, each in a network of its own; one mesh of all.
//	 2. grid.go walks through all pairs of kinds, one after another: both ends start afresh, then one pings the other at a steady pace.
//	    theory says which kind of path there should be, the ping's lines say which there is.
//	 3. table.go writes what was found between two marks of a document.
//
// Its tests break paths under a stream (stream_test.go), one by one as they hold it to a pause; then they walk through the pairs, attack (hostile_test.go)
// and flood (throughput_test.go), each in a world of its own, side by side. All of it needs root. The program owns no goroutine but those of package mesh.
package main
