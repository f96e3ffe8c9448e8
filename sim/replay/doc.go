// Package replay repeats a run of the simulator exactly: the same packets, byte for byte, at the same instants, from the same seed and program.
//
// What makes two runs of one seed differ is not in the project's code. It is the scheduler, which lets wall time and several CPUs say who goes
// first; the runtime's chance, by which select, maps and timers of one instant are ordered; and the keys that TLS, WireGuard and Raft draw. [Run]
// starts the same program again as a child and answers for all of these from outside, by ptrace(2):
//
//   - The child has one P (GOMAXPROCS=1) on one CPU, and of its threads one runs at a time: a turn ends when the thread waits in the kernel.
//   - The runtime's monitor thread (sysmon) is held before its first instruction. It is what preempts goroutines, takes the P from system calls and
//     starts collections, all by wall time. Preemption by signals is off, and garbage is collected at instants of virtual time (see [Child]).
//   - AT_RANDOM, from which the runtime seeds its own generators, holds bytes of the seed. Addresses are not randomised: maps hash pointers.
//   - The child is given no vDSO, so it asks the kernel for the time and for random bytes, and the parent answers: with a clock that goes on by a
//     microsecond with each look at it (a mutex is handed over after waiting for a millisecond), and with a stream of the seed.
//
// The program itself has no hook for any of this, and is the one that users run. The other known way, a build with an edited runtime, needs the
// toolchain with its sources wherever a run is repeated, and repeats another program than the one that failed.
//
// A run in this mode is a legal run, but one schedule of many: many seeds in the ordinary mode find more. Another build of the program, or another
// version of the toolchain, is another schedule.
package replay
