// Package held is the word in which the parts of a node tell how full their queues and tables are: metrics show it, and the simulator holds every
// part to its bounds. It has no goroutines and trusts nobody: it is two numbers and a name.
package held

// Use is how much of one kind of thing a node holds now, and the most that it may.
type Use struct {
	Of       string // snake_case, the part's name in front
	Now, Max int
}

// Queue is the use of a channel.
func Queue[T any](of string, c chan T) Use { return Use{of, len(c), cap(c)} }
