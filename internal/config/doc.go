// Package config is what a node can be told: one table of settings, read from flags, the environment and files.
//
// The flow from words to a node's settings:
//
//  1. Every source becomes a Layer: raw words by key, each with the place it came from (a flag, a variable, a file and its line).
//  2. Resolve picks for every key the first layer that has it: flags, environment, the saved settings of earlier phantom up, the
//     configuration file, the default.
//  3. The words are parsed by the table (keys.go); an error names the key, the value and the place.
//
// Layers are also what is kept: settings.yaml in the state folder is the layer of flags given to phantom up so far, so that down and up
// remember them and a default that changes in a later version is followed.
//
// The package starts no goroutine and trusts nobody: unknown keys, wrong types, repeated keys and oversized files are errors.
package config
