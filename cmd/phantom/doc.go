// Command phantom is PhantomMesh on the command line: one file a verb.
//
// The flow of a command:
//
//  1. main hands the words to cobra; a wrong word is wrong usage, exit code 2.
//  2. settings.go makes config.Settings of flags, environment and files.
//  3. The verb asks the node over the control socket (api.Client) and prints the answer: a table for people, --json for scripts.
//  4. An error becomes a message of what, why and next on stderr, and its class the exit code.
//
// Two verbs do more. run is the node itself, in this process (run.go). up and join start run in the background where no service manager
// does (background.go), hear through a pipe how that went, and give it the invitation over its socket, never through its arguments.
//
// Goroutines: the node's are the node's; what a verb starts ends before the verb returns.
package main
