package node

import (
	"errors"
	"testing"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func TestAWitnessThatHoldsAnotherPastContradicts(t *testing.T) {
	hash := func(b byte) [32]byte { return [32]byte{b} }
	chain := coordinator.Audit{Base: hash(5), Dropped: 5, Entries: []coordinator.AuditEntry{{Hash: hash(6)}, {Hash: hash(7)}}}
	for name, c := range map[string]struct {
		count uint64
		head  [32]byte
		err   error
		want  string
	}{
		"the same":                       {7, hash(7), nil, localapi.WitnessAgrees},
		"another newest entry":           {7, hash(9), nil, localapi.WitnessContradicts},
		"one entry behind":               {6, hash(6), nil, localapi.WitnessBehind},
		"one entry behind and different": {6, hash(9), nil, localapi.WitnessContradicts},
		"at the base":                    {5, hash(5), nil, localapi.WitnessBehind},
		"another base":                   {5, hash(9), nil, localapi.WitnessContradicts},
		"before what is kept":            {4, hash(9), nil, localapi.WitnessBehind},
		"newer":                          {8, hash(8), nil, localapi.WitnessSilent},
		"not reached":                    {0, hash(0), errors.New("no answer"), localapi.WitnessSilent},
	} {
		got := witness(chain, coordinator.AuditWitness{Count: c.count, Head: c.head, Err: c.err})
		if got.Says != c.want {
			t.Errorf("%s: %s, want %s", name, got.Says, c.want)
		}
	}
}
