// Command testsummary runs the stages of `make test` and prints one summary.
//
// Each argument is a stage: NAME|COMMAND, where the command is a `go test -json …` (split at
// spaces, no shell), or NAME|skip: REASON for a stage that cannot run here. In order it
//
//  1. runs the command and reads its event stream line by line,
//  2. prints one line a package as it finishes, and the whole output of every test that failed,
//  3. lists at the end every skipped test with the reason it gave, and every failure,
//  4. closes with "N passed, N failed, N skipped" and exits 1 if anything failed.
//
// Tests and subtests are counted alike. A package that does not compile, panics or exits early
// counts as one failure. It trusts the event stream's format (see `go doc test2json`) and nothing
// else: lines that are no events are printed as they are.
package main
