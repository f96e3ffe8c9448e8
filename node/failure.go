package node

import (
	"context"
	"errors"
	"syscall"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// failureClass sorts an error into an exit code: what the mesh refuses, what took too long, and everything else.
func failureClass(err error) localapi.Class {
	var refused *coordinator.Refused
	var turned *control.Refused
	var f *localapi.Failure
	switch {
	case errors.As(err, &f):
		return f.Class
	case errors.As(err, &refused):
		return localapi.Refused
	case errors.As(err, &turned) && !turned.Ours:
		return localapi.Refused
	case errors.Is(err, context.DeadlineExceeded):
		return localapi.TimedOut
	}
	return localapi.Failed
}

// nextStep says what to do about errors that any verb can meet; errors that say so themselves get nothing more.
func nextStep(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "make room on the disk that holds the state folder; nothing was lost"
	case errors.Is(err, coordinator.ErrNoMesh):
		return "phantom up --new NAME founds a mesh, phantom join TOKEN joins one"
	case errors.Is(err, context.DeadlineExceeded):
		return "try again, or see phantom doctor"
	}
	return ""
}

// failed makes the failure of a verb.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	var f *localapi.Failure
	if errors.As(err, &f) {
		return f
	}
	return localapi.Fail(failureClass(err), what, err, nextStep(err))
}
