package underlay

import (
	"sync"
	"sync/atomic"
)

// slots is a bounded table of values under numbers of 31 bits that it gives out. Reading takes no lock. A number that was given back
// comes again only after all others of its slot, so that what still carries it meets nobody else.
type slots[T any] struct {
	mu    sync.Mutex
	free  []uint32 // indices, used as a queue so that a slot rests as long as possible
	round []uint32 // of each slot: what its next number begins with
	at    []atomic.Pointer[numbered[T]]
}

type numbered[T any] struct {
	number uint32
	value  *T
}

// newSlots makes a table of at most size values. Numbers begin at a round of the caller's choice.
func newSlots[T any](size int, round uint32) *slots[T] {
	s := &slots[T]{free: make([]uint32, size), round: make([]uint32, size), at: make([]atomic.Pointer[numbered[T]], size)}
	for i := range s.free {
		s.free[i], s.round[i] = uint32(i), round
	}
	return s
}

// get returns the value under the number, nil if there is none.
func (s *slots[T]) get(number uint32) *T {
	if len(s.at) == 0 {
		return nil
	}
	if e := s.at[number%uint32(len(s.at))].Load(); e != nil && e.number == number {
		return e.value
	}
	return nil
}

// put enters a value. It returns false if the table is full. fill, called before anybody can find the value, is told the number.
func (s *slots[T]) put(value *T, fill func(number uint32)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 {
		return false
	}
	i := s.free[0]
	s.free = s.free[1:]
	rounds := (uint32(1)<<31 - 1 - i) / uint32(len(s.at)) // so that the number has 31 bits and is never 0
	number := i + uint32(len(s.at))*(1+s.round[i]%max(rounds, 1))
	s.round[i]++
	fill(number)
	s.at[i].Store(&numbered[T]{number, value})
	return true
}

// remove takes the value under the number out and reports whether it was there.
func (s *slots[T]) remove(number uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.get(number) == nil {
		return false
	}
	i := number % uint32(len(s.at))
	s.at[i].Store(nil)
	s.free = append(s.free, i)
	return true
}

// size is how many values are in the table.
func (s *slots[T]) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.at) - len(s.free)
}
