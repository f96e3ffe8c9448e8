// Package portmap asks the router for an open port: by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP-IGD, versions 1 and 2.
//
// The flow of a [Mapper]:
//
//  1. The default gateway is looked up (Config.Gateway).
//  2. It is asked by all three protocols side by side whether it speaks them; the best that answers, in the order of the list above,
//     maps our UDP port and, if wished, the same TCP port.
//  3. Mappings are renewed at half their lifetime. Between, the router is asked now and then whether it has forgotten them, which a
//     restart does: PCP and NAT-PMP tell by an epoch that went back, UPnP by the entry itself.
//  4. After a change of the network, or when renewal fails, it all begins anew; at the end the mappings are taken back, in two seconds
//     or not at all: they expire.
//
// PCP and NAT-PMP are a few dozen bytes in one UDP exchange, and no kept Go library speaks PCP, so both codecs are here (pcp.go,
// natpmp.go), strict and fuzzed, over one exchange that obeys a context. UPnP's XML and SOAP are github.com/huin/goupnp's, fed by an
// HTTP client of ours.
//
// Run's goroutine owns everything; the goroutines of stage 2 end with it. Time is package time's, sockets come from Config.
//
// Trust: the router is believed when it says which port it has opened, and nobody else is asked. PCP and NAT-PMP sockets are connected to
// the gateway, and PCP answers must carry our nonce. SSDP answers count only from the gateway's address and with a URL on it; the HTTP
// client connects to nothing else, follows no redirect and reads a bounded body, so that nobody on the LAN can have us fetch a URL of his
// choice. An external address that is not public is marked ([Mapping.Public]): it is another NAT's inside. A router that lies makes us
// announce an address at which nobody answers; checks find that out.
package portmap
