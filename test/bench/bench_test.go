package main

import (
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
)

// The yardstick itself must work, or a ratio to it says nothing.
func TestPlainWireGuardCarriesTraffic(t *testing.T) {
	lab.Need(t, "ping", "iperf3", lab.TUN)
	s := &session{}
	defer func() {
		if why, failed := recover().(lab.Stop); failed {
			t.Error(why.Why)
		}
		s.End(t.Failed())
	}()
	l := lab.New(s)
	hosts := l.AddHosts("h", 2)
	c := plain(s, l, hosts...)
	c.client, c.gbit, c.cpu = hosts[0], map[int][]float64{}, map[int][]float64{}
	s.must(hosts[0].Ping(c.to, 10*time.Second))
	hosts[1].Start("iperf3", "-s", "--forceflush").WaitOutput("listening", ready)
	c.iperf(s, 1, 1)
	if c.gbit[1][0] <= 0 || c.cpu[1][0] <= 0 {
		t.Errorf("figures make no sense: %v Gbit/s, %v CPU s per GB", c.gbit, c.cpu)
	}
	t.Logf("%.2f Gbit/s, %.2f CPU s per GB", c.gbit[1][0], c.cpu[1][0])
}

func TestFiguresOfARun(t *testing.T) {
	if m := median([]float64{3, 1, 2}); m != 2 {
		t.Errorf("median of three: %v", m)
	}
	if m := median([]float64{4, 1, 2, 3}); m != 2.5 {
		t.Errorf("median of four: %v", m)
	}
	if s := spread(ratios([]float64{2, 3}, []float64{1, 1}), "%.1f"); s != "2.5 (2.0 – 3.0)" {
		t.Errorf("spread: %s", s)
	}
}
