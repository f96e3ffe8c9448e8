package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

func member(i int, name, region string, tags ...string) Member {
	id := identity.NodeID{byte(i), byte(i >> 8), 1}
	v6 := netip.AddrFrom16([16]byte{0xfd, 0x12, 14: byte(i >> 8), 15: byte(i)})
	return Member{ID: id, Name: name, Region: region, Tags: tags, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 86, byte(i >> 8), byte(i)}), v6}}
}

// home is the mesh of most tests.
var home = []Member{
	member(1, "atlas", "home", "admin"), member(2, "nas", "home", "server"), member(3, "laptop-1", "road", "laptop"), member(4, "laptop-2", "home", "laptop"),
}

func must(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

func TestErrorsNameTheLineAndWhatWasMeant(t *testing.T) {
	rule := func(from, to, allow string) string {
		return "rules:\n  - from: " + from + "\n    to: " + to + "\n    allow: " + allow + "\n"
	}
	many := func(n int, item string) string { return "[" + strings.Repeat(item+", ", n) + item + "]" }
	for text, want := range map[string]string{
		"":                                                     "the policy is empty",
		"# nothing\n":                                          "the policy is empty",
		"- a\n":                                                "line 1: want rules:",
		"expect: []\n":                                         "the policy has no rules; to deny everything, write so: rules: []",
		"rules:\n":                                             "line 1: rules takes a list",
		"rules: {a: b}\n":                                      "line 1: rules takes a list",
		"rule: []\n":                                           `line 1: unknown key "rule"; did you mean "rules"?`,
		"rules: []\nrules: []\n":                               "rules", // the library sees it or we do
		"rules: []\n---\nrules: []\n":                          "a second document",
		"rules: [\n":                                           "line 1",
		"rules:\n  - from: [a]\n":                              `line 2: from: "a" selects nothing; write tag:a, node:a, region:a`,
		"rules: &a []\nexpect: *a\n":                           "line 2: expect takes a list",
		"rules:\n\t- from: x\n":                                `spaces, not with tabs`,
		rule("tag:x", "*", "[icmp]"):                           `a * needs quotes`,
		rule("tag:x", "[]", "[icmp]"):                          "line 3: to is empty",
		rule("tag:x", `"*"`, "[tcp/0]"):                        "line 4: allow: \"tcp/0\": ports are 1 to 65535",
		rule("tag:x", `"*"`, "[tcp/70000]"):                    "ports are 1 to 65535",
		rule("tag:x", `"*"`, "[tcp/20-10]"):                    "ports are 1 to 65535",
		rule("tag:x", `"*"`, "[tpc/22]"):                       `"tpc/22" is no service; did you mean "tcp"?`,
		rule("tag:x", `"*"`, "[icmp/8]"):                       "icmp has no ports",
		rule("tags:x", `"*"`, "[icmp]"):                        `unknown selector "tags:"; did you mean "tag"?`,
		rule("tag:Big", `"*"`, "[icmp]"):                       "tag:Big",
		rule("10.86.1.1/24", `"*"`, "[icmp]"):                  "no address range",
		rule("::ffff:10.0.0.0/104", `"*"`, "[icmp]"):           "no address range",
		rule("tag:x", `"*"`, "[{a: b}]"):                       "allow takes a list of plain words",
		rule("tag:x", `"*"`, many(servicesMax, "icmp")):        "more than 256",
		rule("tag:x", many(selectorsMax, "tag:a"), "[icmp]"):   "more than 256",
		"rules:\n  - from: tag:a\n    alow: [icmp]\n":          `line 3: unknown key "alow"; did you mean "allow"?`,
		"rules: []\nexpect:\n  - a -> b\n":                     "line 3: expect:",
		"rules: []\nexpect:\n  - a -> b tcp/22\n":              "ends in neither allow nor deny",
		"rules: []\nexpect:\n  - a -> b allow\n":               "names no port or protocol",
		"rules: []\nexpect:\n  - a -> b:99999 allow\n":         "ports are 1 to 65535",
		"rules: []\nexpect:\n  - a -> b \"*\" allow\n":         "is no service",
		"rules: []\nexpect:\n  - a -> b * allow\n":             "name what is to be allowed",
		"rules: []\nexpect: " + many(ExpectsMax, "a") + "\n":   "more than 1024",
		"rules: " + many(RulesMax, "a") + "\n":                 "more than 4096",
		"rules: []\n#" + strings.Repeat("x", TextMax):          "longer than 256 KiB",
		"rules: []\n# \xff\n":                                  "not UTF-8",
		strings.Repeat("[", TextMax):                           "",
		"rules: [{from: &a tag:x, to: '*', allow: [icmp]}]\n":  "plain words",
		"rules: [{from: tag:x, to: '*', allow: [!!str ~, a]}]": "is no service",
	} {
		_, err := Parse([]byte(text))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: got %v, want %q", text, err, want)
		}
	}
}

func TestTheExampleIsAPolicy(t *testing.T) {
	p := must(t, Example)
	if len(p.Rules) != 3 || len(p.Check(home)) != 0 {
		t.Errorf("%d rules, %v", len(p.Rules), p.Check(home))
	}
	if w := p.Warnings(home); len(w) != 0 {
		t.Errorf("warnings %v", w)
	}
}

func TestTheGuidesExamplesArePolicies(t *testing.T) {
	guide, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(guide), "```yaml\n")[1:]
	if len(blocks) < 4 {
		t.Errorf("%d examples", len(blocks))
	}
	for _, b := range blocks {
		text, _, _ := strings.Cut(b, "```")
		must(t, text)
	}
}

func TestTheCanonicalFormForgetsWhatHasNoMeaning(t *testing.T) {
	a := must(t, "rules:\n- {from: [tag:b, tag:a], to: '*', allow: [tcp/22-22, icmp]}\n- {from: node:x, to: region:y, allow: udp}\nexpect: [a -> b:22 deny]")
	b := must(t, "# other\nexpect:\n - 'a  ->  b tcp/22 deny'\nrules:\n - from: node:x\n   to: [region:y, region:y]\n   allow: ['udp/*']\n"+
		" - allow: [icmp, tcp/22, icmp]\n   to: ['*']\n   from: [tag:a, tag:b]\n")
	if a.Hash() != b.Hash() {
		t.Errorf("\n%s\n%s", a.Canonical(), b.Canonical())
	}
	if c := must(t, string(a.Canonical())); c.Hash() != a.Hash() {
		t.Errorf("the canonical form does not lead to itself: %s", c.Canonical())
	}
	if d := must(t, "rules: []"); d.Hash() == a.Hash() {
		t.Error("another policy, the same hash")
	}
}

func TestExpectationsSayWhichRuleDecided(t *testing.T) {
	const rules = `rules:
  - {from: [tag:laptop], to: [tag:server], allow: [tcp/443, tcp/8000-8049]}
  - {from: [tag:laptop], to: [node:nas], allow: [tcp/8050-8100]}
  - {from: [10.86.0.4], to: ["*"], allow: [udp/53]}
  - {from: ["*"], to: [region:home], allow: [icmp]}
expect:
  - `
	for line, want := range map[string]string{
		"laptop-1 -> nas:443 allow":                          "",
		"laptop-1 -> nas tcp/8000-8100 allow":                "", // two rules together
		"laptop-1 -> nas tcp/8000-8101 allow":                "denied: no rule allows it (line 2 allows tcp/443 tcp/8000-8049, line 3 allows tcp/8050-8100, line 5 allows icmp)",
		"laptop-1 -> nas tcp/445 deny":                       "",
		"laptop-1 -> nas tcp/445 allow":                      "no rule allows it (line 2 allows",
		"laptop-1 -> nas tcp/443 deny":                       "laptop-1 to nas tcp/443 is allowed by the rule in line 2",
		"laptop-1 -> nas tcp deny":                           "allowed by the rule in line 2",
		"nas -> laptop-1 tcp/443 allow":                      "no rule is from the one to the other",
		"nas -> laptop-1 '*' deny":                           "is no service",
		"nas -> laptop-1 * deny":                             "",
		"nas -> laptop-2 * deny":                             "line 5",
		"tag:laptop -> tag:laptop tcp deny":                  "",
		"tag:laptop -> tag:server:443 allow":                 "",
		"laptop-2 -> nas udp/53 allow":                       "is denied", // over IPv6 it is not
		"10.86.0.4 -> nas udp/53 allow":                      "",
		"laptp-1 -> nas:443 allow":                           "no member is laptp-1; did you mean laptop-1?",
		"tag:laptops -> nas:443 allow":                       "no member has the tag laptops; did you mean laptop?",
		"region:mars -> nas:443 allow":                       "no member is in the region mars",
		"nas -> nas:443 allow":                               "a node and itself",
		"'* -> region:home icmp allow'":                      "",
		member(2, "", "").ID.String() + " -> nas icmp allow": "a node and itself",
	} {
		p, err := Parse([]byte(rules + line + "\n"))
		got := ""
		if err != nil {
			got = err.Error()
		} else if problems := p.Check(home); len(problems) > 0 {
			got = problems[0].String()
		}
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

func TestTooManyPairsAreSaidNotSkipped(t *testing.T) {
	p := must(t, "rules: []\nexpect: ['* -> * icmp deny']")
	var many []Member
	for i := range 500 {
		many = append(many, member(i, fmt.Sprint("n", i), ""))
	}
	if got := p.Check(many); len(got) != 1 || !strings.Contains(got[0].Why, "more than") {
		t.Error(got)
	}
}

func TestAMatcherAgreesWithTheRules(t *testing.T) {
	p := must(t, `rules:
  - {from: [tag:laptop, node:atlas], to: [tag:server], allow: [tcp/22, tcp/8000-8100, tcp/8050-8200, tcp/8201, icmp]}
  - {from: [10.86.0.4/31], to: [region:home], allow: [udp]}
  - {from: [region:road], to: [node:atlas], allow: ["*"]}
`)
	nas := Compile(p, home[1].ID, home)
	in := func(m *Matcher, from Member, v4 bool, protocol uint8, port uint16) bool {
		a, _ := from.address(v4)
		return m.Peers[a].In.Allows(protocol, port)
	}
	for _, c := range []struct {
		from     int
		v4       bool
		protocol uint8
		port     uint16
		want     bool
	}{
		{2, true, 6, 22, true}, {2, false, 6, 22, true}, {2, true, 6, 23, false}, {2, true, 6, 7999, false}, {2, true, 6, 8000, true}, {2, true, 6, 8150, true},
		{2, true, 6, 8201, true}, {2, true, 6, 8202, false}, {2, true, 1, 0, true}, {2, false, 58, 0, true}, {2, true, 17, 22, false}, {2, true, 47, 0, false},
		{0, true, 6, 22, true}, {0, true, 17, 1, false}, {3, true, 17, 1, true}, {3, true, 17, 65535, true}, {3, false, 17, 53, false}, {3, true, 6, 22, true},
	} {
		if got := in(nas, home[c.from], c.v4, c.protocol, c.port); got != c.want {
			t.Errorf("%s to nas, IPv4 %v, protocol %d port %d: %v", home[c.from].Name, c.v4, c.protocol, c.port, got)
		}
	}
	laptop := Compile(p, home[2].ID, home)
	if out := laptop.Peers[home[1].Addresses[0]].Out; !out.Allows(6, 22) || out.Allows(6, 445) {
		t.Error("what the laptop may open at nas")
	}
	if out := laptop.Peers[home[0].Addresses[1]].Out; !out.Allows(132, 0) || !out.Allows(6, 1) {
		t.Error("* is not everything")
	}
	if len(laptop.Peers) != 6 || laptop.Peers[home[2].Addresses[0]].In != nil {
		t.Error("peers of the matcher")
	}
	if stranger := Compile(p, identity.NodeID{99}, home); len(stranger.Peers) != 0 {
		t.Error("who is no member may something")
	}
}

func TestComparingPoliciesNamesGroupsAndServices(t *testing.T) {
	old := must(t, "rules:\n- {from: tag:laptop, to: tag:server, allow: [tcp/1-100, icmp]}")
	next := must(t, "rules:\n- {from: tag:laptop, to: tag:server, allow: [tcp/50-120]}\n- {from: 10.86.0.2, to: tag:laptop, allow: udp/53}")
	text := func(c Changes) string {
		var b strings.Builder
		fmt.Fprintf(&b, "%d pairs %d changes\n", c.Pairs, c.Total)
		for _, d := range c.List {
			fmt.Fprintf(&b, "%v -> %v %d %s +%v -%v\n", d.From, d.To, d.Pairs, d.Family, d.Gained, d.Lost)
		}
		return b.String()
	}
	// Laptops in two regions are one group: no rule tells them apart.
	want := "4 pairs 2 changes\n[nas] -> [laptop-1 laptop-2] 2 IPv4 +[udp/53] -[]\n[laptop-1 laptop-2] -> [nas] 2  +[tcp/101-120] -[tcp/1-49 icmp]\n"
	if got := text(Compare(old, next, home, 10)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := Compare(next, next, home, 10); got.Total != 0 {
		t.Errorf("a policy differs from itself: %s", text(got))
	}
	first := Compare(nil, old, home, 1)
	if first.Pairs != 12 || len(first.List) != 1 || first.Total < 2 {
		t.Error(text(first))
	}
	all := Compare(nil, old, home, 10)
	found := false
	for _, d := range all.List {
		found = found || (d.To[0] == "nas" && d.From[0] == "laptop-1" && fmt.Sprint(d.Lost) == "[* except tcp/1-100 icmp]")
	}
	if !found {
		t.Error(text(all))
	}
	if back := Compare(old, nil, home, 10); back.Pairs != 12 || fmt.Sprint(back.List[0].Lost) != "[]" {
		t.Error(text(back))
	}
}

func TestRangesAreSubtractedExactly(t *testing.T) {
	r := func(p ...uint16) (out []portRange) {
		for i := 0; i < len(p); i += 2 {
			out = append(out, portRange{p[i], p[i+1]})
		}
		return out
	}
	for _, c := range []struct{ a, b, want []portRange }{
		{r(1, 65535), nil, r(1, 65535)}, {r(1, 65535), r(1, 65535), nil}, {r(1, 65535), r(5, 10), r(1, 4, 11, 65535)},
		{r(10, 20), r(1, 9, 21, 30), r(10, 20)}, {r(10, 20), r(1, 10, 20, 30), r(11, 19)}, {r(10, 20, 30, 40), r(15, 35), r(10, 14, 36, 40)},
		{r(65535, 65535), r(65535, 65535), nil}, {r(65530, 65535), r(65535, 65535), r(65530, 65534)},
	} {
		if got := without(c.a, c.b); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%v without %v: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Example))
	f.Add([]byte("rules:\n- {from: 'fd00::/8', to: node:x, allow: [udp/1-2, tcp, icmp]}\nexpect: [a -> b:22 allow]"))
	f.Add([]byte("rules: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		again, err := Parse(p.Canonical())
		if err != nil || again.Hash() != p.Hash() {
			t.Fatalf("the canonical form leads elsewhere: %v\n%s", err, p.Canonical())
		}
		p.Check(home)
		p.Warnings(home)
		Compare(nil, p, home, 5)
		m := Compile(p, home[1].ID, home)
		for a, peer := range m.Peers {
			from := home[a.As16()[15]-1]
			for _, port := range []uint16{1, 22, 443, 65535} {
				want := allowedSlowly(p, from, home[1], a.Is4(), port)
				if got := peer.In.Allows(numberTCP, port); got != want {
					t.Fatalf("%v tcp/%d: %v, the rules say %v\n%s", a, port, got, want, p.Canonical())
				}
			}
		}
	})
}

// allowedSlowly asks one rule after another.
func allowedSlowly(p *Policy, from, to Member, v4 bool, port uint16) bool {
	a, _ := from.address(v4)
	b, _ := to.address(v4)
	any := func(side []Selector, m Member, at netip.Addr) bool {
		for _, s := range side {
			if s.selects(&m, at) {
				return true
			}
		}
		return false
	}
	for _, r := range p.Rules {
		for _, s := range r.Allow {
			if any(r.From, from, a) && any(r.To, to, b) && (s.Protocol == AnyProtocol || s.Protocol == TCP && s.First <= port && port <= s.Last) {
				return true
			}
		}
	}
	return false
}

// thousand is a policy of 1,000 rules over a mesh of 100 nodes.
func thousand(t testing.TB) (*Policy, []Member) {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - {from: [tag:t%d, node:n%d], to: [tag:t%d], allow: [tcp/%d, tcp/%d-%d, udp/%d]}\n", i%50, i%100, (i+1)%50, i+1, 2000+i*10, 2005+i*10, i+1)
	}
	var members []Member
	for i := range 100 {
		members = append(members, member(i, fmt.Sprint("n", i), "r", fmt.Sprint("t", i%50), fmt.Sprint("t", (i+7)%50)))
	}
	return must(t, b.String()), members
}

func BenchmarkParse1000Rules(b *testing.B) {
	p, _ := thousand(b)
	text := p.Canonical()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile1000Rules(b *testing.B) {
	p, members := thousand(b)
	for b.Loop() {
		Compile(p, members[0].ID, members)
	}
}

func BenchmarkLookup1000Rules(b *testing.B) {
	p, members := thousand(b)
	m := Compile(p, members[1].ID, members)
	from := members[0].Addresses[0]
	b.ReportAllocs()
	port := uint16(0)
	for b.Loop() {
		port += 7
		m.Peers[from].In.Allows(numberTCP, port)
	}
}
