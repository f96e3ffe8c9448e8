package replay

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
)

// ErrUnsupported says that this system cannot repeat runs exactly.
var ErrUnsupported = errors.New("exact replay needs Linux on amd64 with ptrace")

// variable is by what a child knows that it is one: the folder for the simulated disks.
const variable = "PHANTOM_SIM_REPLAY"

// Child tells whether this process was started by Run, and which empty folder is its own. A child plays one run and exits; it collects garbage at
// fixed instants of the run, by runtime.GC, or never.
func Child() (dir string, ok bool) {
	dir, ok = os.LookupEnv(variable)
	return dir, ok && traced()
}

// derive makes the bytes of one purpose out of a seed.
func derive(seed uint64, purpose string) [32]byte {
	return sha256.Sum256(binary.BigEndian.AppendUint64([]byte("phantom replay "+purpose+" "), seed))
}
