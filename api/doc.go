// Package api is the local API of a node: HTTP over a unix socket in the state folder, and the client every command uses.
//
// It speaks to a Backend, which the node implements, and knows nothing else of the node. The flow of a request:
//
//  1. Client dials <state>/phantom.sock; nobody there is the failure "no node is running".
//  2. Server reads the caller's user from the kernel (SO_PEERCRED) as the connection is accepted: root and the user the node runs as may
//     speak, nobody else.
//  3. The handler decodes a bounded, strict JSON body, calls the Backend with the request's context, and writes the answer: one JSON object,
//     or one a line for a stream.
//  4. A failure travels as JSON with its exit code class, what, why and next, and comes out of the Client as the same *Failure.
//
// Goroutines: Server.Serve owns the HTTP server's; Server.Close ends them all and waits. The Client has none of its own.
//
// Trust: the socket is 0600 in a 0700 folder, and the peer's credentials are checked besides. A caller that passes may do everything a
// command can do; bodies, headers, connections and times are bounded all the same.
package api
