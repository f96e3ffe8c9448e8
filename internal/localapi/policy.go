package localapi

import "time"

// PolicyTextMax bounds the text of a policy in bytes; the reader of policies has the same bound.
const PolicyTextMax = 256 << 10

// PolicyVersion is one version of the mesh's packet filter policy.
type PolicyVersion struct {
	Version uint64    `json:"version"`
	Of      uint64    `json:"of"`   // the version whose text it has: itself, or one that was brought back; 0: no policy
	Hash    string    `json:"hash"` // of the canonical form, hex; empty: no policy
	By      string    `json:"by"`   // node ID of who set it
	ByName  string    `json:"by_name"`
	At      time.Time `json:"at"`
}

// Policy answers phantom policy show.
type Policy struct {
	Set     bool           `json:"set"`               // false: no policy, everything may pass
	Current *PolicyVersion `json:"current,omitempty"` // missing: none was ever set
	Text    string         `json:"text"`
	Rules   int            `json:"rules"`
	Filter  PolicyFilter   `json:"filter"` // of this node
}

// PolicyFilter is the packet filter of this node.
type PolicyFilter struct {
	InForce bool             `json:"in_force"`          // packets are filtered
	Problem string           `json:"problem,omitempty"` // why the policy is not in force as it stands
	Flows   int              `json:"flows"`             // remembered now
	Dropped uint64           `json:"dropped"`           // packets since the node started
	Last    List[PolicyDrop] `json:"last_drops"`        // the newest first
}

// PolicyDrop is a packet that the filter dropped.
type PolicyDrop struct {
	At        time.Time `json:"at"`
	Direction string    `json:"direction"` // in, out
	Reason    string    `json:"reason"`    // no_rule, malformed, fragment, foreign, unrelated_error
	From      string    `json:"from"`      // name of the node, or the address
	To        string    `json:"to"`
	Service   string    `json:"service"` // tcp/445, icmp, protocol 47
}

// PolicyRequest carries the text of a policy, to be checked or set.
type PolicyRequest struct {
	Text string `json:"text"`
}

// PolicyProblem is something about a line of a policy.
type PolicyProblem struct {
	Line int    `json:"line"`
	Text string `json:"text"`
	Why  string `json:"why"`
}

// PolicyChange is what a policy changes between two groups of nodes.
type PolicyChange struct {
	From   List[string] `json:"from"` // names, the first few of the group
	To     List[string] `json:"to"`
	Pairs  int          `json:"pairs"`
	Family string       `json:"family"` // IPv4, IPv6, or empty: both
	Gained List[string] `json:"gained"`
	Lost   List[string] `json:"lost"`
}

// PolicyFlow is a live flow of this node.
type PolicyFlow struct {
	Peer    string `json:"peer"`    // name
	Inbound bool   `json:"inbound"` // opened by the peer
	Service string `json:"service"` // tcp/22
	Family  string `json:"family"`
	IdleS   int    `json:"idle_s"`
}

// PolicyCheck answers phantom policy check.
type PolicyCheck struct {
	OK           bool                `json:"ok"` // the mesh would take it
	Hash         string              `json:"hash"`
	Rules        int                 `json:"rules"`
	Expects      int                 `json:"expects"`
	Failed       List[PolicyProblem] `json:"failed"`   // expect lines that do not hold
	Warnings     List[PolicyProblem] `json:"warnings"` // selectors that select nobody
	Same         bool                `json:"same"`     // it means the same as the policy in force
	Changes      List[PolicyChange]  `json:"changes"`  // the first ones
	ChangesTotal int                 `json:"changes_total"`
	Partial      bool                `json:"partial"`    // the mesh is too diverse to compare all of it
	Pairs        int                 `json:"pairs"`      // of nodes that any change concerns
	Flows        int                 `json:"flows"`      // live ones of this node
	Cut          List[PolicyFlow]    `json:"cut"`        // the first of those that it would end
	CutTotal     int                 `json:"cut_total"`  //
	WatchedMs    int                 `json:"watched_ms"` // without a policy in force, flows were looked for so long; else 0
}

// PolicyRollback asks for an earlier policy.
type PolicyRollback struct {
	To *uint64 `json:"to,omitempty"` // a version, 0 for no policy; missing: the one before
}

// PolicyHistory answers phantom policy history.
type PolicyHistory struct {
	Versions List[PolicyVersion] `json:"versions"` // that are kept, the newest first
}
