package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// answerMax bounds an answer: the members of a mesh of ten thousand at a kilobyte each, with room.
const answerMax = 64 << 20

// StoppedWhileAnswering is what failed when the node ended in the middle of an answer.
const StoppedWhileAnswering = "the node stopped while it answered"

// Client speaks to the node of one state folder. It is a Backend: what works on a node works through its socket. Every error is a *Failure.
type Client struct {
	socket string
	http   *http.Client
}

var _ Backend = (*Client)(nil)

// NewClient makes a client of a control socket. Nothing is opened until a method is called.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dialUnix(ctx, socket) },
		DisableKeepAlives:  true, // one command, one question: nothing to keep, nothing to leak
		DisableCompression: true,
	}}
	return c
}

func (c *Client) Status(ctx context.Context) (*Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Peers is the peers part of Status.
func (c *Client) Peers(ctx context.Context) (*PeerList, error) {
	return get[PeerList](ctx, c, "/v1/peers")
}

func (c *Client) Members(ctx context.Context) (*MemberList, error) {
	return get[MemberList](ctx, c, "/v1/members")
}

func (c *Client) Coordinators(ctx context.Context) (*CoordinatorList, error) {
	return get[CoordinatorList](ctx, c, "/v1/coordinators")
}

func (c *Client) Invitations(ctx context.Context) (*InvitationList, error) {
	return get[InvitationList](ctx, c, "/v1/invitations")
}

func (c *Client) Requests(ctx context.Context) (*RequestList, error) {
	return get[RequestList](ctx, c, "/v1/requests")
}

func (c *Client) Approve(ctx context.Context, r ApproveRequest) (*Request, error) {
	return ask[Request](ctx, c, http.MethodPost, "/v1/approve", r)
}

func (c *Client) Pair(ctx context.Context, r PairRequest) (*Request, error) {
	return ask[Request](ctx, c, http.MethodPost, "/v1/pair", r)
}

func (c *Client) Doctor(ctx context.Context) (*Doctor, error) {
	return get[Doctor](ctx, c, "/v1/doctor")
}

func (c *Client) Netcheck(ctx context.Context) (*Netcheck, error) {
	return get[Netcheck](ctx, c, "/v1/netcheck")
}

func (c *Client) Why(ctx context.Context, r WhyRequest) (*Why, error) {
	return ask[Why](ctx, c, http.MethodPost, "/v1/why", r)
}

func (c *Client) Version(ctx context.Context) (*Version, error) {
	return get[Version](ctx, c, "/v1/version")
}

// Process describes the process behind the socket.
func (c *Client) Process(ctx context.Context) (*Process, error) {
	return get[Process](ctx, c, "/v1/process")
}

func (c *Client) Recover(ctx context.Context, r RecoverRequest) (*Recovered, error) {
	return ask[Recovered](ctx, c, http.MethodPost, "/v1/coordinators/recover", r)
}

func (c *Client) Invite(ctx context.Context, r InviteRequest) (*Invite, error) {
	return ask[Invite](ctx, c, http.MethodPost, "/v1/invite", r)
}

func (c *Client) Revoke(ctx context.Context, r RevokeRequest) (*Revoked, error) {
	return ask[Revoked](ctx, c, http.MethodPost, "/v1/revoke", r)
}

func (c *Client) Tag(ctx context.Context, r TagRequest) (*Tagged, error) {
	return ask[Tagged](ctx, c, http.MethodPost, "/v1/tag", r)
}

// Settings asks for the settings that a running node can change.
func (c *Client) Settings(ctx context.Context) (*SettingList, error) {
	return get[SettingList](ctx, c, "/v1/settings")
}

// Set changes one.
func (c *Client) Set(ctx context.Context, r SetRequest) (*SettingList, error) {
	return ask[SettingList](ctx, c, http.MethodPost, "/v1/settings", r)
}

func (c *Client) Rename(ctx context.Context, r RenameRequest) (*Renamed, error) {
	return ask[Renamed](ctx, c, http.MethodPost, "/v1/rename", r)
}

func (c *Client) Audit(ctx context.Context, verify bool) (*Audit, error) {
	if verify {
		return get[Audit](ctx, c, "/v1/audit/verified")
	}
	return get[Audit](ctx, c, "/v1/audit")
}

func (c *Client) CancelInvitation(ctx context.Context, id string) error {
	_, err := ask[nothing](ctx, c, http.MethodDelete, "/v1/invitations/"+url.PathEscape(id), nil)
	return err
}

// Policy is the packet filter policy in force.
func (c *Client) Policy(ctx context.Context) (*Policy, error) {
	return get[Policy](ctx, c, "/v1/policy")
}

func (c *Client) PolicyText(ctx context.Context, version uint64) (*Policy, error) {
	return get[Policy](ctx, c, "/v1/policy/"+strconv.FormatUint(version, 10))
}

func (c *Client) PolicyHistory(ctx context.Context) (*PolicyHistory, error) {
	return get[PolicyHistory](ctx, c, "/v1/policy/history")
}

func (c *Client) CheckPolicy(ctx context.Context, r PolicyRequest) (*PolicyCheck, error) {
	return ask[PolicyCheck](ctx, c, http.MethodPost, "/v1/policy/check", r)
}

func (c *Client) SetPolicy(ctx context.Context, r PolicyRequest) (*PolicyVersion, error) {
	return ask[PolicyVersion](ctx, c, http.MethodPost, "/v1/policy/set", r)
}

func (c *Client) RollbackPolicy(ctx context.Context, r PolicyRollback) (*PolicyVersion, error) {
	return ask[PolicyVersion](ctx, c, http.MethodPost, "/v1/policy/rollback", r)
}

func (c *Client) Enter(ctx context.Context, e Entry) error { return c.post(ctx, "/v1/enter", e) }

// Wait waits no longer than r.Timeout, and says so as a failure of class timed out.
func (c *Client) Wait(ctx context.Context, r WaitRequest) error {
	if r.Timeout > 0 {
		// The node gives the better message: let it speak first.
		const late = time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout+late)
		defer cancel()
	}
	return c.post(ctx, "/v1/wait", r)
}

func (c *Client) Down(ctx context.Context) error  { return c.post(ctx, "/v1/down", nothing{}) }
func (c *Client) Leave(ctx context.Context) error { return c.post(ctx, "/v1/leave", nothing{}) }

func (c *Client) post(ctx context.Context, path string, body any) error {
	_, err := ask[nothing](ctx, c, http.MethodPost, path, body)
	return err
}

func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	r, err := c.send(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(w, io.LimitReader(r.Body, answerMax)); err != nil {
		return c.broken(ctx, err)
	}
	return nil
}

func (c *Client) Ping(ctx context.Context, q PingRequest, emit func(PingReply) error) error {
	r, err := c.send(ctx, http.MethodPost, "/v1/ping", q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		var line pingLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return localapi.Fail(localapi.Failed, "cannot read the node's answer", err, "is the command of another version than the node? see phantom version")
		}
		if line.Failure != nil {
			return line.Failure
		}
		if line.Reply == nil {
			continue
		}
		if err := emit(*line.Reply); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return c.broken(ctx, err)
	}
	return nil
}

// Stopped calls stop (Down or Leave of the same client) and returns when the node's process is gone.
func (c *Client) Stopped(ctx context.Context, stop func(context.Context) error) error {
	conn, err := dialUnix(ctx, c.socket)
	if err != nil {
		return c.unreachable(err)
	}
	who, err := credentials(conn)
	conn.Close()
	if err != nil {
		return localapi.Fail(localapi.Failed, "cannot see which process the node is", err, "")
	}
	if err := stop(ctx); err != nil {
		return err
	}
	waitGone(who.pid, ctx.Done())
	if ctx.Err() != nil {
		return localapi.Fail(localapi.TimedOut, "the node does not stop", ctx.Err(), "see its log; kill -9 loses nothing that was acknowledged")
	}
	return nil
}

func get[A any](ctx context.Context, c *Client, path string) (*A, error) {
	return ask[A](ctx, c, http.MethodGet, path, nil)
}

func ask[A any](ctx context.Context, c *Client, method, path string, body any) (*A, error) {
	r, err := c.send(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	a := new(A)
	if err := json.NewDecoder(io.LimitReader(r.Body, answerMax)).Decode(a); err != nil {
		return nil, c.broken(ctx, err)
	}
	return a, nil
}

// send gives the response of a request that succeeded, or its failure.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return nil, localapi.Fail(localapi.Failed, "cannot write the request", err, "")
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://phantom"+path, bytes.NewReader(b))
	if err != nil {
		return nil, localapi.Fail(localapi.Failed, "cannot write the request", err, "")
	}
	response, err := c.http.Do(r)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	f := &Failure{}
	if err := json.NewDecoder(io.LimitReader(response.Body, bodyMax)).Decode(f); err != nil || f.What == "" {
		return nil, &Failure{Class: localapi.Failed, What: "the node answered " + response.Status, Next: "see the node's log"}
	}
	if f.Class < localapi.Failed || f.Class > localapi.TimedOut {
		f.Class = localapi.Failed
	}
	return nil, f
}

// broken explains why there is no answer.
func (c *Client) broken(ctx context.Context, err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial" && ctx.Err() == nil, errors.Is(err, fs.ErrNotExist):
		return c.unreachable(err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &Failure{Class: localapi.TimedOut, What: "the node did not answer in time", Next: "see phantom status and the node's log"}
	case errors.Is(ctx.Err(), context.Canceled):
		return localapi.Fail(localapi.Failed, "interrupted", ctx.Err(), "")
	}
	return localapi.Fail(localapi.Failed, StoppedWhileAnswering, reason(err), "see the node's log")
}

func (c *Client) unreachable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return &Failure{Class: localapi.NotRunning, What: "no node is running", Why: "nothing answers on " + c.socket,
			Next: "start it with phantom up, or name its folder with --state"}
	case errors.Is(err, fs.ErrPermission):
		return &Failure{Class: localapi.Failed, What: "cannot reach the node", Why: "the control socket " + c.socket + " belongs to another user",
			Next: "run the command as root, or as the user the node runs as"}
	}
	return localapi.Fail(localapi.Failed, "cannot reach the node on "+c.socket, reason(err), "see phantom doctor")
}
