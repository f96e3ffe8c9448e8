// Package scenarios is the library of scenarios for the simulator: one YAML file each, built into the program.
package scenarios

import "embed"

// Files are the scenarios, NAME.yaml each.
//
//go:embed *.yaml
var Files embed.FS
