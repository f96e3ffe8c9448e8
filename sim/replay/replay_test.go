package replay_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/phantommesh/phantommesh/sim"
	"github.com/phantommesh/phantommesh/sim/replay"
)

// With a traced parent the tests' program is a child of one of them.
func TestMain(m *testing.M) {
	if dir, ok := replay.Child(); ok {
		if err := play(dir, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(m.Run())
}

const scenario = `
name: short
proves: a run repeats
for: 20s
regions: [{name: home, nodes: 3, loss: 1%, jitter: 2ms}, {name: away, nodes: 1, nat: easy}]
load: {every: 500ms}
timeline:
  - {at: 1s, disk: {slow: 100ms, who: all}, for: 17s}
  - {at: 2s, clock: {skew: 20m, drift: -1m, who: n2}, for: 8s}
  - {at: 3s, kill: leader, for: 5s}
  - {at: 12s, stop: any, for: 2s}
  - {at: 15s, power: n2, for: 2s}
`

func play(dir, seed string) error {
	s, err := sim.Parse("short.yaml", []byte(scenario))
	if err != nil {
		return err
	}
	cfg := sim.Config{Dir: dir, Exact: true}
	if _, err := fmt.Sscan(seed, &cfg.Seed); err != nil {
		return err
	}
	r, err := sim.Play(context.Background(), cfg, s)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// run is one run of a seed.
func run(t *testing.T, seed uint64) sim.Result {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	code, err := replay.Run(t.Context(), seed, out, fmt.Sprint(seed))
	if errors.Is(err, replay.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v", code, err)
	}
	var r sim.Result
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(out).Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Trace == "" || r.Figures["packets"] == 0 {
		t.Fatalf("%+v: nothing was traced", r)
	}
	return r
}

func TestTenRunsOfASeedAreOne(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has threads and randomness of its own")
	}
	first := run(t, 7)
	t.Logf("%.0f packets, trace %s", first.Figures["packets"], first.Trace)
	for n := 2; n <= 10; n++ {
		if again := run(t, 7); again.Trace != first.Trace {
			t.Fatalf("run %d: trace %s of %.0f packets, the first was %s of %.0f", n, again.Trace, again.Figures["packets"], first.Trace, first.Figures["packets"])
		}
	}
	if other := run(t, 8); other.Trace == first.Trace {
		t.Error("another seed has the same trace: it does not see the packets")
	}
}

func TestTheChildsExitCodeIsPassedOn(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has threads and randomness of its own")
	}
	code, err := replay.Run(t.Context(), 1, os.Stdout, "not a number")
	if errors.Is(err, replay.ErrUnsupported) {
		t.Skip(err)
	}
	if code != 3 || err != nil {
		t.Errorf("code %d, %v; want 3", code, err)
	}
	if left, _ := filepath.Glob("/dev/shm/phantom-replay-1-*"); len(left) > 0 {
		t.Errorf("%s are left", left)
	}
}
