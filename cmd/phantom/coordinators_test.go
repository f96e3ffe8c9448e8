package main

import (
	"reflect"
	"testing"

	"github.com/phantommesh/phantommesh/api"
)

func TestEveryChangeOfTheCoordinatorsIsToldOnce(t *testing.T) {
	a, b := api.Voter{ID: "n-a", Name: "atlas"}, api.Voter{ID: "n-b", Name: "nas"}
	was := &api.CoordinatorList{Quorum: true, Leader: "n-a", Term: 3, Voters: []api.Voter{a, b},
		Regions: []api.RegionDetail{{Region: "home", Coordinator: "n-a", Name: "atlas"}, {Region: "moon", Coordinator: "n-b", Name: "nas",
			Relays: []api.RelayDuty{{ID: "n-c", Name: "attic"}}}}}
	with := func(change func(*api.CoordinatorList)) *api.CoordinatorList {
		l := *was
		change(&l)
		return &l
	}
	for name, c := range map[string]struct {
		is   *api.CoordinatorList
		want []string
	}{
		"nothing":   {was, nil},
		"elections": {with(func(l *api.CoordinatorList) { l.Term = 5 }), []string{"term 5"}},
		"no leader": {with(func(l *api.CoordinatorList) { l.Quorum, l.Leader = false, "" }),
			[]string{"quorum is lost: decisions wait, traffic goes on", "no leader: atlas leads no more"}},
		"another leads": {with(func(l *api.CoordinatorList) { l.Leader, l.Term = "n-b", 4 }), []string{"nas leads, term 4"}},
		"another votes": {with(func(l *api.CoordinatorList) { l.Voters = []api.Voter{a, {ID: "n-c", Name: "attic"}} }),
			[]string{"attic votes now", "nas votes no more"}},
		"regions": {with(func(l *api.CoordinatorList) {
			l.Regions = []api.RegionDetail{{Region: "home", Coordinator: "n-b", Name: "nas"}, {Region: "sea", Coordinator: "n-a", Name: "atlas"}}
		}), []string{"nas coordinates region home", "atlas coordinates region sea", "region moon has no coordinator"}},
		"relays": {with(func(l *api.CoordinatorList) {
			l.Regions = []api.RegionDetail{l.Regions[0], l.Regions[1]}
			l.Regions[0].Relays, l.Regions[1].Relays = []api.RelayDuty{{ID: "n-b", Name: "nas"}}, nil
		}), []string{"nas relays for region home", "attic relays for region moon no more"}},
	} {
		if got := coordinatorChanges(was, c.is); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
