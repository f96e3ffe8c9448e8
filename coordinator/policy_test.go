package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/policy"
)

const pingOnly = "rules:\n  - {from: '*', to: '*', allow: [icmp]}\n"

func setPolicy(t testing.TB, l *Ledger, index uint64, text string) *Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r := l.Apply(must(t, KindPolicy, day0, testKey(0).ID(), policyBody{ID: [16]byte{1, byte(index), byte(index >> 8)}, Text: text, Hash: p.Hash()}), index)
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return r.Policy
}

func TestEveryVersionOfThePolicyIsKeptAndCanComeBack(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	index := uint64(foundingIndex)
	text := func(i int) string { return fmt.Sprintf("rules: [{from: '*', to: '*', allow: [tcp/%d]}]", i) }
	back := func(chosen bool, to uint64) Result {
		body := policyBody{ID: [16]byte{2, byte(index)}, Back: true, Of: to, Replaces: l.policyNumber()}
		if !chosen {
			var r *Refused
			if body.Of, r = l.policyBefore(); r != nil {
				return Result{Refused: r}
			}
		}
		index++
		return l.Apply(must(t, KindPolicy, day0, testKey(0).ID(), body), index)
	}
	if r := back(false, 0); r.Err() == nil {
		t.Error("rolled back before there was a policy")
	}
	for i := 1; i <= 3; i++ {
		index++
		if p := setPolicy(t, l, index, text(i)); p.Number != uint64(i) || p.Of != p.Number || l.State().Policy != p || l.State().Version != index {
			t.Fatalf("version %d: %+v", i, p)
		}
	}
	// One step back after the other, down to none.
	for _, want := range []string{text(2), text(1), ""} {
		if r := back(false, 0); r.Err() != nil || l.State().Policy.Text != want {
			t.Fatalf("want %q: %v, %+v", want, r.Err(), l.State().Policy)
		}
	}
	if r := back(false, 0); r.Err() == nil {
		t.Error("rolled back from none")
	}
	if r := back(true, 3); r.Err() != nil || r.Policy.Text != text(3) || r.Policy.Number != 7 || r.Policy.Of != 3 {
		t.Errorf("%v %+v", r.Err(), r.Policy)
	}
	for _, to := range []uint64{6, 8, 99} { // none, itself, never was
		if r := back(true, to); r.Err() == nil {
			t.Errorf("version %d was brought back", to)
		}
	}
	// What was set after none goes back to none.
	back(true, 0)
	index++
	setPolicy(t, l, index, text(4))
	if r := back(false, 0); r.Err() != nil || r.Policy.Of != 0 {
		t.Errorf("%v %+v", r.Err(), r.Policy)
	}
	again := l.reload(t)
	if again.state.Digest() != l.state.Digest() || len(again.Policies()) != len(l.Policies()) || *again.Policies()[2] != *l.Policies()[2] {
		t.Error("a snapshot lost versions")
	}
	if err := l.audit.export().Verify(); err != nil {
		t.Error(err)
	}
	last := l.audit.entries[len(l.audit.entries)-1]
	if last.Action != "policy" || !strings.Contains(last.Subject, "brings back 0") || last.Asker != testKey(0).ID() {
		t.Errorf("%+v", last)
	}
}

func TestAPolicyAskedForTwiceIsSetOnce(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	c := must(t, KindPolicy, day0, testKey(0).ID(), policyBody{ID: [16]byte{7}, Text: pingOnly})
	first, second := l.Apply(c, 5), l.Apply(c, 6)
	if first.Policy == nil || second.Policy != first.Policy || len(l.Policies()) != 1 {
		t.Errorf("%+v %+v", first, second)
	}
}

func TestTheVersionsOfThePolicyAreBounded(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	for i := range uint64(100) {
		setPolicy(t, l, 3+i, pingOnly+"# "+strings.Repeat("x", 100)+fmt.Sprint(i))
	}
	if n := len(l.Policies()); n != policiesKept || l.Policies()[n-1].Number != 100 {
		t.Errorf("%d kept", n)
	}
	for i := range uint64(20) {
		setPolicy(t, l, 200+i, pingOnly+"# "+strings.Repeat("x", policy.TextMax-1000))
	}
	if n := len(l.Policies()); n != policyBytesKept/(policy.TextMax-1000) {
		t.Errorf("%d long ones kept", n)
	}
	l.reload(t)
	r := l.Apply(must(t, KindPolicy, day0, testKey(0).ID(), policyBody{ID: [16]byte{9}, Text: strings.Repeat("x", policy.TextMax+1)}), 300)
	if r.Refused == nil {
		t.Error("a policy over the bound was taken")
	}
}

func TestALedgerWithoutAPolicyIsWhatItWasBeforeThereWereAny(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	c := must(t, KindCancel, day0, testKey(0).ID(), cancelBody{ID: "x"})
	if c.Format != 1 {
		t.Errorf("an old command has format %d, which older voters do not follow", c.Format)
	}
	var buf bytes.Buffer
	if err := l.Encode(&buf); err != nil {
		t.Fatal(err)
	}
	kinds := map[uint8]int{}
	format := uint8(0)
	_ = readRecords(bytes.NewReader(buf.Bytes()), func(kind uint8, body []byte) error {
		if kinds[kind]++; kind == recordLedger {
			format = body[1]
		}
		return nil
	})
	if kinds[recordPolicy]+kinds[recordPolicyKept] != 0 || format != 1 {
		t.Errorf("records %v, format %d", kinds, format)
	}
	digest := l.state.Digest()
	setPolicy(t, l, 5, pingOnly)
	if l.state.Digest() == digest {
		t.Error("the digest does not cover the policy")
	}
	// A program of format 1 refuses the kind under that number, and so must we.
	old := must(t, KindPolicy, day0, testKey(0).ID(), policyBody{ID: [16]byte{3}, Text: pingOnly})
	old.Format = 1
	if r := l.Apply(old, 6); r.Refused == nil || r.Frozen != nil {
		t.Errorf("%+v", r)
	}
}

func TestAPolicyReachesEveryMemberAndSurvivesWithoutQuorum(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		var plain *member // no voter
		for _, m := range nodes {
			if !m.group.Voting() {
				plain = m
			}
		}
		ctx := context.Background()
		text := pingOnly + "expect:\n  - node-1 -> node-2 icmp allow\n  - node-1 -> node-2 tcp/22 deny\n"
		set, err := plain.group.SetPolicy(ctx, text)
		if err != nil || set.Number != 1 || set.By != plain.id() || set.Text != text {
			t.Fatalf("%v %+v", err, set)
		}
		everywhere := func(number uint64) {
			t.Helper()
			for _, m := range nodes {
				m.group.PullSoon(l.leader().id())
				l.eventually(time.Minute, "the policy is known", func() bool {
					p := m.group.State().Policy
					return p != nil && p.Number == number
				})
			}
		}
		everywhere(1)

		for text, want := range map[string]string{
			"rules: [": "has an error",
			"rules: []\nexpect: [node-1 -> node-2:22 allow]\n": "line 2: node-1 -> node-2 tcp/22 allow: node-1 to node-2 tcp/22 is denied",
			"rules: []\nexpect: [nobody -> node-2:22 deny]\n":  "no member is nobody",
			strings.Repeat(" ", policy.TextMax+1):              "longer than",
		} {
			_, err := plain.group.SetPolicy(ctx, text)
			var refused *Refused
			if !errors.As(err, &refused) || refused.Code != RefusedPolicy || !strings.Contains(err.Error(), want) {
				t.Errorf("%.60q: got %v, want %q", text, err, want)
			}
		}
		// A long one fits the way through question, log and state.
		long := pingOnly + "#" + strings.Repeat("x", policy.TextMax-len(pingOnly)-1)
		if _, err := plain.group.SetPolicy(ctx, long); err != nil {
			t.Fatal(err)
		}
		everywhere(2)
		if back, err := nodes[1].group.RollbackPolicy(ctx, nil); err != nil || back.Number != 3 || back.Of != 1 || back.Text != text {
			t.Fatalf("%v %+v", err, back)
		}
		everywhere(3)
		list, err := plain.group.Policies(ctx)
		if err != nil || len(list) != 3 || list[2].Of != 1 || list[0].By != plain.id() {
			t.Errorf("%v %v", err, list)
		}
		if p, err := plain.group.PolicyText(ctx, 2); err != nil || p.Text != long {
			t.Errorf("%v", err)
		}

		// Everybody dies but the plain member, which comes back alone and still knows.
		for _, m := range nodes {
			if m != plain {
				m.kill()
			}
		}
		plain.kill()
		plain.open()
		if p := plain.group.State().Policy; p == nil || p.Number != 3 || p.Text != text {
			t.Errorf("after a restart without quorum: %+v", p)
		}
	})
}

func TestAJoinerHasThePolicyBeforeItsFirstPull(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		first.found()
		token := first.invite(InviteSpec{Uses: 2})
		if _, err := first.group.SetPolicy(context.Background(), pingOnly); err != nil {
			t.Fatal(err)
		}
		joiner := l.node(1)
		a, err := joiner.tryJoin(context.Background(), first, token)
		if err != nil {
			t.Fatal(err)
		}
		if p := a.state.Policy; p == nil || p.Text != pingOnly || a.state.Version != 0 {
			t.Errorf("the answer holds %+v", p)
		}
		joiner.join(first, token)
		if p := joiner.group.State().Policy; p == nil || p.Number != 1 || p.Version == 0 {
			t.Errorf("after the first pull %+v", p)
		}
	})
}
