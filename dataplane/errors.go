package dataplane

import (
	"errors"
	"fmt"
)

// Why there is no tunnel to a node.
var (
	// ErrNotMember: the mesh, as this node knows it, has no such member.
	ErrNotMember = errors.New("no such member in the mesh")
	// ErrRevoked: the member has been revoked.
	ErrRevoked = errors.New("the member has been revoked")
	// ErrRefused: the other node does not accept us; it may know of a revocation that we do not.
	ErrRefused = errors.New("the other node refused the tunnel")
	// ErrUnreachable: no way to the node was found in time, or WireGuard got no answer over it.
	ErrUnreachable = errors.New("the node can not be reached")
	// ErrDropped: the tunnel was dropped while it was being made.
	ErrDropped = errors.New("the tunnel was dropped")
	// ErrClosed: the plane has been closed.
	ErrClosed = errors.New("the dataplane is closed")
	// ErrOffOverlay: the address is not one of the mesh.
	ErrOffOverlay = errors.New("the address is outside the mesh")
)

// Why there is no interface.
var (
	// ErrNoPermission: this process may not make a network interface.
	ErrNoPermission = errors.New("no permission to create a network interface")
	// ErrNameInUse: another interface has the name.
	ErrNameInUse = errors.New("the interface name is in use")
	// ErrRangeTaken: other routes lead to all ranges of the mesh.
	ErrRangeTaken = errors.New("the mesh's addresses are in use")
	// ErrNoTUN: this system has no TUN devices.
	ErrNoTUN = errors.New("this system has no TUN devices")
)

// InterfaceError is a failure to open an interface, with what a person can do about it.
type InterfaceError struct {
	Name string // of the interface
	Kind error  // ErrNoPermission, ErrNameInUse, ErrNoTUN or nil
	Err  error  // what the system said
	Next string // what to do
}

func (e *InterfaceError) Error() string {
	kind := e.Kind
	if kind == nil {
		kind = errors.New("could not be set up")
	}
	text := fmt.Sprintf("interface %s: %v (%v)", e.Name, kind, e.Err)
	if e.Next != "" {
		text += "; " + e.Next
	}
	return text
}

// Unwrap makes errors.Is work for both the kind and the cause.
func (e *InterfaceError) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}
