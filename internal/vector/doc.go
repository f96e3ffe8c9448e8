// Package vector is for tests: it keeps the test vectors of testdata/vectors.
//
//  1. A generator test makes its vectors from fixed seeds (Rand), so the same code makes the same bytes on every machine.
//  2. Check compares them with the file, or rewrites the file when the test was run with -update.
//  3. Whoever else consumes such bytes reads the same file (Read), so maker and consumers cannot drift apart.
//
// The package starts no goroutine and is imported by tests only.
package vector
