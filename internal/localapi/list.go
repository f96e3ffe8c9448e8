package localapi

import "encoding/json"

// List is a slice whose JSON form is never null: scripts may iterate over it without asking first.
type List[T any] []T

// MarshalJSON writes an empty list as [].
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}
