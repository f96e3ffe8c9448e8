//go:build !(linux && amd64)

package replay

import (
	"context"
	"os"
	"time"
)

// Run fails with ErrUnsupported.
func Run(context.Context, uint64, *os.File, ...string) (int, error) { return 0, ErrUnsupported }

// Wall is never asked for where there are no children.
func Wall() time.Duration { return 0 }

func traced() bool { return false }
