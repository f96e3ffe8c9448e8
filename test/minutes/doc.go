// Package minutes holds promises like those of test/e2e that take minutes to show, nearly all of them waiting. They are a package of their own so that
// they begin with the others and nothing waits for them at the end.
package minutes
