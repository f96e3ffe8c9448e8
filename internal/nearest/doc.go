// Package nearest finds the word that a person may have meant: configuration keys, keys of a policy, names of nodes.
package nearest
