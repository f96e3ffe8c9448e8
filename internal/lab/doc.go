// Package lab builds small real networks out of Linux network namespaces, for tests that drive
// the program as a user does.
//
// One lab is one Ethernet segment: a namespace of its own holds the bridge, every host is a
// namespace with one veth cable to it, an IPv4 address of 192.0.2.0/24 and an IPv6 address of
// 2001:db8:1ab::/64. Nothing is created in the namespace the tests run in, so a lab cannot
// disturb the machine, and its names carry a random part, so labs can run side by side.
//
// The flow of a test:
//
//  1. Need skips the test, with the reason, where namespaces or tools are missing.
//  2. New makes the segment and its reaper; Host adds machines.
//     Router adds a private network behind a NAT of a kind, and AddHost machines to it: the segment
//     is the internet then. Whatever is on the segment has no route into a private network, and two
//     private networks use the same addresses, as at home.
//  3. Host.Run, Start, Listen and Dial act as that machine; Cut, Partition, Heal break and
//     mend cables; Drop, SetMTU, Readdress, Rebind do what real networks do to them; Capture
//     listens on the bridge.
//  4. The end of the test, however it comes, hands the lab to the reaper.
//
// The reaper is a shell in a session of its own that waits for its standard input to close. The
// kernel closes it when the test process dies for any reason, so a panic, a test timeout or a
// kill -9 removes processes, mounts and namespaces exactly as the normal end does.
//
// A lab owns one goroutine a started process (it waits for the exit); all end at cleanup.
// The package trusts its caller: arguments are not checked beyond what the tools check.
package lab
