// Command wgplain is the yardstick of `make bench`: the WireGuard library of the same module
// version as phantom's, on its own TUN device and sockets, with nothing of ours around it.
//
//	wgplain NAME MTU < configuration
//
// reads a configuration in the userspace protocol (private_key=…, one setting a line) until the
// end of input, makes the TUN device, prints "up" and runs until a signal. Addresses are set from
// outside with ip(8). It trusts its input.
package main
