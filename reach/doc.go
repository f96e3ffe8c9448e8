// Package reach is how this node gets to the others and how they get to it: it finds out what NAT stands in front of the node, keeps
// relays at hand, relays for others, and turns relayed paths into direct ones.
//
// The flow, each stage a driver of its own:
//
//  1. Learn (learn.go): members and STUN servers are asked at which address they see us; what nat.Discovery makes of it is the
//     node's Situation, and the addresses that several of them agree on become endpoints of its record (endpoints.go, pure).
//  2. Relays at hand (attend.go): a node that others cannot reach by itself registers at two relays before it needs one (choose.go,
//     pure) and lists them in its record. A node that others can reach offers to be one (offer.go, pure).
//  3. Assist (assist.go): the underlay searches for a member and has no direct path. Channels are opened through the member's relays
//     and our own, side by side, and tried like any other address.
//  4. Punch (punch.go): over the connection that now works both sides tell each other their situation and candidates and send checks
//     at the same time. While the path stays relayed this is tried again, quietly (pace.go, pure).
//  5. Explain and Netcheck (explain.go, netcheck.go): what is so and why, for people.
//
// Two protocols on control streams, for members only: `relay` (wire.go, client.go, server.go) and `punch`. A relay's grant lives as
// long as its stream. A relay is used over a direct path only and forwards over direct paths only, so no chain of relays can form,
// whatever the records say.
//
// Goroutines, all owned by Reach and waited for in Close: one for each of learn, attend, assist and upkeep (which punches and gives
// up channels), one a lease that we hold, one an assist or a punch under way (bounded), one for the port mapper. Streams are served
// in the control host's goroutines, which end with the stream or with Close.
//
// Trust: a member is who control says it is; nothing else it says is believed. What a relay forwards is checked end to end by the
// underlay. Candidates of a peer draw a bounded number of checks (pace.go has the figures), and an address that a single member says
// we have is not published.
package reach
