// Package localapi holds the words of the local API: the questions a command may ask a running node and the shapes of the answers.
//
// It is a vocabulary and nothing else: no I/O, no goroutine, no clock. Package node fills the shapes, package api carries them over the
// control socket and gives them their public names, the command line prints them. They live at the bottom of the import order because node
// may not import api.
//
// The JSON names are a promise to scripts: fields are added, never renamed or removed. A list is never null (see List). Times are RFC 3339
// in UTC; a number's unit ends its name (_ms, _s, _bytes).
package localapi
