// Package layout holds no code, only tests that keep the house in order: which package may import
// which, that every package explains itself, and how long files, functions and parameter lists
// may grow. The rules are data at the top of layout_test.go; an exception is a line there with
// its reason.
package layout
