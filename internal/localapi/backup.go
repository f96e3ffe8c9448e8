package localapi

import "time"

// What a backup holds of the mesh.
const (
	BackupLedger = "ledger" // a coordinator's: everything the mesh has decided, invitations and audit log too
	BackupState  = "state"  // a plain member's: members, keys and policy, signed by a coordinator
)

// Backup says what is in a backup; it is its manifest as well.
type Backup struct {
	Format          int       `json:"format"`
	Made            time.Time `json:"made"`
	Version         string    `json:"version"` // of the program that made it
	Mesh            string    `json:"mesh"`
	MeshID          string    `json:"mesh_id"`
	Node            string    `json:"node"`
	ID              string    `json:"id"`
	Holds           string    `json:"holds"` // ledger, state
	RootKey         bool      `json:"root_key"`
	StateVersion    uint64    `json:"state_version"`
	OnlyCoordinator bool      `json:"only_coordinator"` // nobody else could decide when it was made
}

// The roles in which a machine comes back.
const (
	RestoredMember      = "member"
	RestoredCoordinator = "coordinator"
)

// Restored says what was restored, and as what.
type Restored struct {
	Backup
	Role string `json:"role"` // member, coordinator
}
