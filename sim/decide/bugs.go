package decide

import "github.com/phantommesh/phantommesh/coordinator"

// bugs are planted by tests, to see that the checkers find them. The zero value plants none, and nothing else can.
type bugs struct {
	decider func([]coordinator.Decider) []coordinator.Decider
	tick    func(*group) // before the leader looks
	apply   func(follower bool, c coordinator.Command) coordinator.Command
}
