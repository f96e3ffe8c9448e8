package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// fakeNode is a node without a network: enough of a mesh for the command line to talk about. Its membership survives in the state folder.
// The first byte of a token's mesh ID says how joining goes: r is refused, t takes forever, p fails for the port.
type fakeNode struct {
	settings config.Settings
	log      *slog.Logger
	stop     chan struct{}
	stopOnce sync.Once
	ready    chan struct{}
	online   chan struct{} // closed when in a mesh

	mu          sync.Mutex
	mesh        fakeMesh
	pending     *api.Pending
	invitations []api.Invitation
	policies    []api.Policy
}

type fakeMesh struct{ ID, Name string }

func newFakeNode(s config.Settings, log *slog.Logger) (runner, error) {
	if s.Port == 1 {
		return nil, &localapi.Failure{Class: localapi.Failed, What: "UDP port 1 is in use", Next: "choose another with --port"}
	}
	n := &fakeNode{settings: s, log: log, stop: make(chan struct{}), ready: make(chan struct{}), online: make(chan struct{})}
	if b, err := os.ReadFile(n.file()); err == nil {
		if err := json.Unmarshal(b, &n.mesh); err != nil {
			return nil, fmt.Errorf("%s is damaged: %w", n.file(), err)
		}
		close(n.online)
	}
	return n, nil
}

func (n *fakeNode) file() string { return filepath.Join(n.settings.State, "mesh.json") }

func (n *fakeNode) Ready() <-chan struct{} { return n.ready }

func (n *fakeNode) Run(ctx context.Context) error {
	n.log.Info("fake node runs")
	close(n.ready)
	select {
	case <-ctx.Done():
	case <-n.stop:
	}
	return nil
}

func (n *fakeNode) Enter(ctx context.Context, e localapi.Entry) error {
	n.log.Info("entering", "entry", e)
	m := fakeMesh{ID: "mesh-" + e.New, Name: e.New}
	if e.Mesh == "closed" { // nobody approves
		n.mu.Lock()
		n.pending = &api.Pending{Code: "482913", Mesh: api.Mesh{ID: "mesh-closed", Name: "closed"}, Address: "192.0.2.7:51820", Expires: time.Now().Add(time.Minute)}
		n.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	if e.Found {
		m = fakeMesh{ID: "mesh-found", Name: "found"}
	}
	if e.Token != "" {
		t, err := invitation.Parse(e.Token)
		if err != nil {
			return err
		}
		switch t.Mesh[0] {
		case 'r':
			return &localapi.Failure{Class: localapi.Refused, What: "the mesh did not let this machine in", Why: "the invitation is used up", Next: "ask a member for a new one: phantom invite"}
		case 't':
			<-ctx.Done()
			return ctx.Err()
		}
		m = fakeMesh{ID: t.Mesh.String(), Name: "lab"}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.file(), b, 0o600); err != nil {
		return err
	}
	n.mu.Lock()
	n.mesh = m
	n.mu.Unlock()
	close(n.online)
	return nil
}

func (n *fakeNode) Status(context.Context) (*api.Status, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &api.Status{Mesh: api.Mesh{ID: n.mesh.ID, Name: n.mesh.Name}, Self: api.Self{ID: "n-" + strings.Repeat("a", 52), Name: n.settings.Name,
		Region: n.settings.Region, State: localapi.StateOffline, NAT: "unknown"}}
	if s.Self.Pending = n.pending; n.pending != nil {
		s.Self.State = localapi.StatePending
	}
	if n.mesh.ID != "" {
		s.Self.State, s.Self.Role, s.Self.Addresses = localapi.StateOnline, localapi.RoleCoordinator, []string{"10.86.0.1", "fd00::1"}
		s.Self.Interface = "phantom0"
		if n.settings.SOCKS5 != "" {
			s.Self.Proxies = &localapi.Proxies{SOCKS5: "127.0.0.1:1080", HTTP: "127.0.0.1:8118"}
		}
		s.Coordinators = api.Coordinators{Quorum: true, Leader: s.Self.ID, Term: 1, Voters: []string{s.Self.ID}}
		s.Peers = []api.Peer{fakePeer}
	}
	return s, nil
}

var fakePeer = api.Peer{ID: "n-" + strings.Repeat("b", 52), Name: "nas", Addresses: []string{"10.86.0.2", "fd00::2"}, Region: "home", State: "alive",
	Path:   api.Path{Kind: localapi.PathDirect, Endpoint: "192.0.2.9:51820", RTTMs: 0.41, MTU: 1420},
	Tunnel: api.Tunnel{State: localapi.TunnelUp, PostQuantum: true, PSKEpoch: 12, RxBytes: 1 << 20, TxBytes: 512}}

func (n *fakeNode) Members(context.Context) (*api.MemberList, error) {
	return &api.MemberList{Members: []api.Member{{ID: fakePeer.ID, Name: "nas", Addresses: fakePeer.Addresses, Region: "home", State: localapi.MemberActive,
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}}}, nil
}

func (n *fakeNode) Coordinators(context.Context) (*api.CoordinatorList, error) {
	return &api.CoordinatorList{Quorum: true, Leader: fakePeer.ID, Term: 3,
		Voters: []api.Voter{{ID: fakePeer.ID, Name: "nas", Since: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}}}, nil
}

var fakeRequest = api.Request{Code: "482913", Name: "nas", ID: fakePeer.ID, From: "192.0.2.7", LAN: true, Since: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	At: fakePeer.ID, AtName: "atlas"}

func (n *fakeNode) Requests(context.Context) (*api.RequestList, error) {
	return &api.RequestList{Requests: []api.Request{fakeRequest}}, nil
}

func (n *fakeNode) Approve(_ context.Context, r api.ApproveRequest) (*api.Request, error) {
	if r.Code != fakeRequest.Code {
		return nil, &localapi.Failure{Class: localapi.Failed, What: "cannot approve " + r.Code, Why: "no machine that waits shows this code"}
	}
	return &fakeRequest, nil
}

func (n *fakeNode) Pair(_ context.Context, r api.PairRequest) (*api.Request, error) {
	if r.For < time.Second {
		return nil, &localapi.Failure{Class: localapi.TimedOut, What: "nobody asked to join", Why: "the window is closed"}
	}
	return &fakeRequest, nil
}

func (n *fakeNode) Invite(_ context.Context, r api.InviteRequest) (*api.Invite, error) {
	text, err := invitation.Token{Mesh: identity.MeshID{'l'}, Members: []invitation.Member{{}}}.Text()
	if err != nil {
		return nil, err
	}
	i := api.Invitation{ID: "0123456789abcdef", Uses: r.Uses, Expires: time.Now().Add(r.Expires).UTC(), State: "open", Name: r.Name, Tags: r.Tags}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.invitations = append(n.invitations, i)
	return &api.Invite{Token: text, ID: i.ID, Uses: i.Uses, Expires: i.Expires}, nil
}

func (n *fakeNode) Invitations(context.Context) (*api.InvitationList, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &api.InvitationList{Invitations: n.invitations}, nil
}

func (n *fakeNode) CancelInvitation(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.invitations {
		if n.invitations[i].ID == id {
			n.invitations[i].State = "cancelled"
			return nil
		}
	}
	return &localapi.Failure{Class: localapi.Failed, What: "no invitation " + id, Next: "phantom invitations lists them"}
}

func (n *fakeNode) find(name string) (api.Peer, error) {
	switch name {
	case "nas", fakePeer.ID, "10.86.0.2":
		return fakePeer, nil
	case "n":
		return api.Peer{}, localapi.Ambiguous("n", []string{"nas n-bbbbbbbb 10.86.0.2", "net n-cccccccc 10.86.0.3"})
	}
	return api.Peer{}, localapi.UnknownNode(name)
}

func (n *fakeNode) Revoke(_ context.Context, r api.RevokeRequest) (*api.Revoked, error) {
	p, err := n.find(r.Node)
	if err != nil {
		return nil, err
	}
	return &api.Revoked{ID: p.ID, Name: p.Name}, nil
}

// Recover has a quorum unless the node is called lonely.
func (n *fakeNode) Recover(_ context.Context, r api.RecoverRequest) (*api.Recovered, error) {
	if n.settings.Name != "lonely" {
		return nil, localapi.Fail(localapi.Refused, "cannot recover the group", errors.New("the group has a quorum; nothing to recover"), "")
	}
	return &api.Recovered{Recovered: !r.Plan, Generation: 1, ID: "n-aaaaaaaaaaaa", Name: "lonely", Whole: true,
		Lost: []api.LostVoter{{ID: "n-bbbbbbbbbbbb", Name: "nas"}}}, nil
}

func (n *fakeNode) Tag(_ context.Context, r api.TagRequest) (*api.Tagged, error) {
	p, err := n.find(r.Node)
	if err != nil {
		return nil, err
	}
	return &api.Tagged{ID: p.ID, Name: p.Name, Tags: r.Tags}, nil
}

func (n *fakeNode) Rename(_ context.Context, r api.RenameRequest) (*api.Renamed, error) {
	p, err := n.find(r.Node)
	if err != nil {
		return nil, err
	}
	return &api.Renamed{ID: p.ID, Name: r.Name, Was: p.Name}, nil
}

func (n *fakeNode) Settings(context.Context) (*api.SettingList, error) {
	s := api.Setting{Key: localapi.SettingRegion, Value: n.settings.Region, Told: n.settings.Region}
	if s.Told == "" {
		s.Value, s.Why = "default", "there is no other region"
	}
	return &api.SettingList{Settings: localapi.List[api.Setting]{s}}, nil
}

func (n *fakeNode) Set(ctx context.Context, r api.SetRequest) (*api.SettingList, error) {
	n.settings.Region = r.Value
	return n.Settings(ctx)
}

// Audit holds two entries. A node called rewritten has a leader that changed the past.
func (n *fakeNode) Audit(_ context.Context, verify bool) (*api.Audit, error) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	out := &api.Audit{Dropped: 1, Head: "ff" + strings.Repeat("0", 62), Entries: []api.AuditEntry{
		{Index: 4, Time: at, By: fakePeer.ID, ByName: "nas", Action: "invite", Subject: "0123456789abcdef", Outcome: "done", Hash: "fe" + strings.Repeat("0", 62)},
		{Index: 5, Time: at, Action: "renew", Subject: "nas", Outcome: "done", Hash: "ff" + strings.Repeat("0", 62)},
	}}
	if verify {
		good := n.settings.Name != "rewritten"
		w := api.AuditWitness{ID: fakePeer.ID, Name: "nas", Entries: 3, Says: localapi.WitnessAgrees}
		if !good {
			w.Says = localapi.WitnessContradicts
		}
		out.Verified, out.Witnesses = &good, []api.AuditWitness{w}
	}
	return out, nil
}

func (n *fakeNode) Ping(ctx context.Context, r api.PingRequest, emit func(api.PingReply) error) error {
	lost := r.Node == "lost"
	p := fakePeer
	if !lost {
		var err error
		if p, err = n.find(r.Node); err != nil {
			return err
		}
	}
	for i := range r.Count {
		reply := api.PingReply{Sequence: i + 1, Node: p.ID, Name: p.Name, Address: p.Addresses[0], Path: p.Path, TimeMs: float64(i + 1), Lost: lost}
		if err := emit(reply); err != nil {
			return err
		}
	}
	return nil
}

func (n *fakeNode) Wait(ctx context.Context, r api.WaitRequest) error {
	select {
	case <-n.online:
	case <-n.stop:
		return errors.New("stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.Node == "" {
		return nil
	}
	_, err := n.find(r.Node)
	return err
}

func (n *fakeNode) Doctor(context.Context) (*api.Doctor, error) {
	return &api.Doctor{OK: true, Findings: []api.Finding{fine("quorum", "the coordinators have a quorum")}}, nil
}

func (n *fakeNode) Netcheck(context.Context) (*api.Netcheck, error) { return exampleNetcheck(), nil }

func (n *fakeNode) Why(_ context.Context, r api.WhyRequest) (*api.Why, error) {
	if _, err := n.find(r.Node); err != nil {
		return nil, err
	}
	return exampleWhy(), nil
}

func (n *fakeNode) Down(context.Context) error {
	n.stopOnce.Do(func() { close(n.stop) })
	return nil
}

func (n *fakeNode) Leave(ctx context.Context) error {
	if err := os.Remove(n.file()); err != nil {
		return err
	}
	return n.Down(ctx)
}

func (n *fakeNode) Version(context.Context) (*api.Version, error) {
	return &api.Version{Version: "fake"}, nil
}

func (n *fakeNode) Metrics(_ context.Context, w io.Writer) error {
	_, err := fmt.Fprintf(w, "phantom_build_info{version=\"fake\"} 1\n")
	return err
}

// Snapshot implements api.Backend.
func (n *fakeNode) Snapshot(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "snapshot")
	return err
}
