package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// stub is a Backend that answers what a test gives it and remembers what it was asked.
type stub struct {
	Backend // what a test does not expect panics

	err   error
	asked chan any
	ended chan error // receives the context's error when a blocked call ends
}

func newStub() *stub { return &stub{asked: make(chan any, 16), ended: make(chan error, 16)} }

var aTime = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func (s *stub) Status(context.Context) (*Status, error) {
	return &Status{Mesh: Mesh{ID: "m", Name: "lab"}, Peers: []Peer{{ID: "n-b", Name: "nas"}}}, s.err
}
func (s *stub) Members(context.Context) (*MemberList, error) {
	return &MemberList{Members: []Member{{ID: "n-b", NotAfter: aTime}}}, s.err
}
func (s *stub) Invite(_ context.Context, r InviteRequest) (*Invite, error) {
	s.asked <- r
	return &Invite{Token: "pm1x", ID: "1", Uses: r.Uses, Expires: aTime}, s.err
}
func (s *stub) Tag(context.Context, TagRequest) (*Tagged, error)        { return nil, s.err }
func (s *stub) Rename(context.Context, RenameRequest) (*Renamed, error) { return nil, s.err }
func (s *stub) Settings(context.Context) (*SettingList, error)          { return nil, s.err }
func (s *stub) Set(context.Context, SetRequest) (*SettingList, error)   { return nil, s.err }
func (s *stub) Snapshot(_ context.Context, w io.Writer) error {
	if s.err != nil {
		return s.err
	}
	_, err := w.Write(bytes.Repeat([]byte("snapshot"), 1<<18))
	return err
}

func (s *stub) Recover(context.Context, RecoverRequest) (*Recovered, error) { return nil, s.err }
func (s *stub) Audit(_ context.Context, verify bool) (*Audit, error) {
	return &Audit{Verified: &verify}, s.err
}
func (s *stub) CancelInvitation(_ context.Context, id string) error { s.asked <- id; return s.err }
func (s *stub) Enter(_ context.Context, e Entry) error              { s.asked <- e; return s.err }
func (s *stub) Down(context.Context) error                          { s.asked <- "down"; return s.err }
func (s *stub) Revoke(context.Context, RevokeRequest) (*Revoked, error) {
	panic("a bug")
}
func (s *stub) Wait(ctx context.Context, r WaitRequest) error {
	s.asked <- r
	<-ctx.Done()
	s.ended <- ctx.Err()
	return ctx.Err()
}
func (s *stub) Ping(ctx context.Context, r PingRequest, emit func(PingReply) error) error {
	s.asked <- r
	for i := range r.Count {
		if err := emit(PingReply{Sequence: i + 1, TimeMs: 1}); err != nil {
			return err
		}
	}
	return s.err
}
func (s *stub) Metrics(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "phantom_build_info 1\n")
	return err
}

// serveStub serves b on a socket in a fresh folder and returns a client of it.
func serveStub(t *testing.T, b Backend) (*Client, *Server) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s", "phantom.sock")
	s, err := Listen(ServerConfig{Socket: socket, Backend: b, Process: Process{Manner: localapi.MannerForeground}})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s)
	return NewClient(socket), s
}

func serve(t *testing.T, s *Server) {
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
}

func TestQuestionsAndAnswersCrossTheSocketUnchanged(t *testing.T) {
	b := newStub()
	c, _ := serveStub(t, b)
	ctx := t.Context()
	if st, err := c.Status(ctx); err != nil || st.Mesh.Name != "lab" || len(st.Peers) != 1 {
		t.Errorf("status %+v %v", st, err)
	}
	if p, err := c.Peers(ctx); err != nil || len(p.Peers) != 1 || p.Peers[0].Name != "nas" {
		t.Errorf("peers %+v %v", p, err)
	}
	if m, err := c.Members(ctx); err != nil || !m.Members[0].NotAfter.Equal(aTime) {
		t.Errorf("members %+v %v", m, err)
	}
	request := InviteRequest{Uses: 3, Expires: time.Hour, Tags: []string{"server"}, Name: "x"}
	if i, err := c.Invite(ctx, request); err != nil || i.Uses != 3 || !i.Expires.Equal(aTime) {
		t.Errorf("invite %+v %v", i, err)
	}
	if got := <-b.asked; !reflect.DeepEqual(got, request) {
		t.Errorf("the backend was asked %+v", got)
	}
	if err := c.CancelInvitation(ctx, "a/b ?"); err != nil {
		t.Error(err)
	}
	if got := <-b.asked; got != "a/b ?" {
		t.Errorf("cancelled %q", got)
	}
	if err := c.Enter(ctx, Entry{Token: "pm1"}); err != nil {
		t.Error(err)
	}
	if got := <-b.asked; got != (Entry{Token: "pm1"}) {
		t.Errorf("entered by %v", got)
	}
	if p, err := c.Process(ctx); err != nil || p.PID != os.Getpid() || p.Manner != localapi.MannerForeground {
		t.Errorf("process %+v %v", p, err)
	}
	var out bytes.Buffer
	if err := c.Metrics(ctx, &out); err != nil || out.String() != "phantom_build_info 1\n" {
		t.Errorf("metrics %q %v", out.String(), err)
	}
}

func TestFailuresKeepClassAndWords(t *testing.T) {
	b := newStub()
	c, _ := serveStub(t, b)
	for _, tt := range []struct {
		name string
		err  error
		want localapi.Failure
	}{
		{"refused", &Failure{Class: localapi.Refused, What: "no", Why: "revoked", Next: "ask"}, localapi.Failure{Class: 4, What: "no", Why: "revoked", Next: "ask"}},
		{"wrapped", fmt.Errorf("outer: %w", &Failure{Class: localapi.Usage, What: "which"}), localapi.Failure{Class: 2, What: "which"}},
		{"ambiguous", localapi.Ambiguous("n", []string{"nas", "net"}), *localapi.Ambiguous("n", []string{"nas", "net"})},
		{"plain", errors.New("disk on fire"), localapi.Failure{Class: 1, What: "disk on fire"}},
		{"deadline", context.DeadlineExceeded, localapi.Failure{Class: 5, What: "timed out", Why: "context deadline exceeded", Next: "try again, or see phantom doctor"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.err = tt.err
			_, err := c.Status(t.Context())
			var f *Failure
			if !errors.As(err, &f) || !reflect.DeepEqual(*f, tt.want) {
				t.Errorf("got %#v, want %#v", err, tt.want)
			}
		})
	}
}

func TestABugInTheBackendIsAFailureAndTheServerLives(t *testing.T) {
	c, _ := serveStub(t, newStub())
	if _, err := c.Revoke(t.Context(), RevokeRequest{Node: "x"}); err == nil || !strings.Contains(err.Error(), "the node has a bug here: a bug") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWithoutANodeEveryQuestionSaysSo(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	leaveSocket(t, dead)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "none.sock"), filepath.Join(dir, "no", "folder.sock"), dead, file} {
		_, err := NewClient(path).Status(t.Context())
		var f *Failure
		if !errors.As(err, &f) || f.Class != localapi.NotRunning {
			t.Errorf("%s: %v", path, err)
		}
		if err := NewClient(path).Ping(t.Context(), PingRequest{}, nil); !errors.As(err, &f) || f.Class != localapi.NotRunning {
			t.Errorf("ping %s: %v", path, err)
		}
		c := NewClient(path)
		if err := c.Stopped(t.Context(), c.Down); !errors.As(err, &f) || f.Class != localapi.NotRunning {
			t.Errorf("down %s: %v", path, err)
		}
	}
}

// leaveSocket leaves a socket file that nobody answers on, as kill -9 does.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestTheSocketIsPrivateReplacedWhenStaleAndNeverStolen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	socket := filepath.Join(dir, "phantom.sock")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	leaveSocket(t, socket)
	s, err := Listen(ServerConfig{Socket: socket, Backend: newStub()})
	if err != nil {
		t.Fatal("a stale socket stopped the node: ", err)
	}
	serve(t, s)
	if fi, _ := os.Stat(socket); fi.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v", fi.Mode())
	}
	if _, err := Listen(ServerConfig{Socket: socket, Backend: newStub()}); err == nil || !strings.Contains(err.Error(), "a node runs on this state folder already") {
		t.Errorf("second node: %v", err)
	}
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Error("the first node lost its socket: ", err)
	}
	s.Close()
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file stayed: %v", err)
	}
	if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ServerConfig{Socket: socket, Backend: newStub()}); err == nil || !strings.Contains(err.Error(), "is in the way") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, _ := os.ReadFile(socket); string(b) != "precious" {
		t.Error("the file in the way was removed")
	}
}

func TestAStateFolderWithALongPathWorks(t *testing.T) {
	socket := filepath.Join(t.TempDir(), strings.Repeat("long", 40), "phantom.sock")
	s, err := Listen(ServerConfig{Socket: socket, Backend: newStub()})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s)
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOnlyRootAndTheNodesUserMaySpeak(t *testing.T) {
	for _, tt := range []struct {
		caller, node uint32
		want         bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1001, 1000, false}, {1000, 0, false}} {
		if got := maySpeak(caller{uid: tt.caller}, tt.node); got != tt.want {
			t.Errorf("user %d to a node of user %d: %v", tt.caller, tt.node, got)
		}
	}
	// The same through the kernel: the node claims to be another user, and the caller is not root.
	if os.Getenv("PHANTOM_TEST_SOCKET") != "" {
		_, err := NewClient(os.Getenv("PHANTOM_TEST_SOCKET")).Status(t.Context())
		fmt.Println("answer:", err)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	dir, err := os.MkdirTemp("", "phantom-api-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "phantom.sock")
	s, err := Listen(ServerConfig{Socket: socket, Backend: newStub()})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s)
	// Open what protects the socket, so that only the credentials stand between.
	os.Chmod(dir, 0o755)
	os.Chmod(socket, 0o666)
	out := runAsNobody(t, dir, socket)
	if !strings.Contains(out, "the control socket is not yours") {
		t.Errorf("nobody was answered: %s", out)
	}
}

func runAsNobody(t *testing.T, dir, socket string) string {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "api.test")
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(binary, []string{binary, "-test.run", "^TestOnlyRootAndTheNodesUserMaySpeak$"}, &os.ProcAttr{
		Dir: "/", Env: []string{"PHANTOM_TEST_SOCKET=" + socket}, Files: []*os.File{nil, w, w},
		Sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	p.Wait()
	return string(out)
}

func TestWaitEndsInTimeOrWithItsCaller(t *testing.T) {
	b := newStub()
	c, _ := serveStub(t, b)
	err := c.Wait(t.Context(), WaitRequest{Node: "nas", Timeout: 20 * time.Millisecond})
	var f *Failure
	if !errors.As(err, &f) || f.Class != localapi.TimedOut || !strings.Contains(f.What, "nas cannot be reached yet") {
		t.Errorf("got %v", err)
	}
	<-b.asked
	<-b.ended
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Wait(ctx, WaitRequest{}) }()
	<-b.asked
	cancel()
	if err := <-done; err == nil {
		t.Error("an interrupted wait succeeded")
	}
	if err := <-b.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the backend went on waiting for nobody: %v", err)
	}
}

func TestALongWaitOutlivesEveryTimeoutOfABody(t *testing.T) {
	// A read deadline left from the body would cancel the request's context.
	b := newStub()
	c, s := serveStub(t, b)
	done := make(chan error, 1)
	go func() { done <- c.Wait(t.Context(), WaitRequest{}) }()
	<-b.asked
	select {
	case err := <-b.ended:
		t.Fatal("the wait ended by itself: ", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.Close() // the node stops: waiting callers hear of it at once
	<-b.ended
	if err := <-done; err == nil {
		t.Error("wait succeeded on a node that stopped")
	}
}

func TestPingStreamsAndEndsWithItsFailure(t *testing.T) {
	b := newStub()
	c, _ := serveStub(t, b)
	var got []int
	collect := func(r PingReply) error { got = append(got, r.Sequence); return nil }
	if err := c.Ping(t.Context(), PingRequest{Node: "nas", Count: 3}, collect); err != nil || !reflect.DeepEqual(got, []int{1, 2, 3}) {
		t.Errorf("%v %v", got, err)
	}
	if asked := (<-b.asked).(PingRequest); asked.Interval != time.Second || asked.Timeout != pingReplyTimeout {
		t.Errorf("what was left out was not filled: %+v", asked)
	}
	b.err = &Failure{Class: localapi.Refused, What: "revoked meanwhile"}
	got = nil
	if err := c.Ping(t.Context(), PingRequest{Node: "nas", Count: 2}, collect); err == nil || len(got) != 2 || err.(*Failure).Class != localapi.Refused {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []PingRequest{{Count: 1}, {Node: "x"}, {Node: "x", Count: 1 << 30}, {Node: "x", Count: 1, Interval: 1}, {Node: "x", Count: 1, Size: 1 << 20}} {
		if err := c.Ping(t.Context(), bad, collect); err == nil || err.(*Failure).Class != localapi.Usage {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestRequestsAreStrictAndBounded(t *testing.T) {
	b := newStub()
	_, s := serveStub(t, b)
	h := s.routes()
	for _, tt := range []struct{ name, path, body, want string }{
		{"unknown field", "/v1/invite", `{"uses":1,"usez":2}`, "unknown field"},
		{"two objects", "/v1/invite", `{}{}`, "something follows"},
		{"not JSON", "/v1/invite", `hello`, "cannot read the request"},
		{"too long", "/v1/invite", `{"name":"` + strings.Repeat("x", bodyMax) + `"}`, "too large"},
		{"unknown path", "/v1/nothing", `{}`, "the node knows no POST /v1/nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, tt.path, strings.NewReader(tt.body)))
			var f Failure
			if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil || w.Code != http.StatusBadRequest || f.Class != localapi.Usage || !strings.Contains(f.Error(), tt.want) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

func TestConnectionsAreBoundedAndComeBack(t *testing.T) {
	c, _ := serveStub(t, newStub())
	var held []net.Conn
	for range connectionsMax {
		conn, err := dialUnix(t.Context(), c.socket)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); err == nil {
		t.Error("one connection too many was served")
	}
	for _, conn := range held {
		conn.Close()
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("after the others went: %v", err)
	}
}

func TestListsAreNeverNull(t *testing.T) {
	for _, v := range []any{Status{}, PeerList{}, MemberList{}, CoordinatorList{}, InvitationList{}, Doctor{}, Netcheck{}, Why{}, Member{}, Peer{}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		// The one null is the certificate a node without a mesh has not.
		if s := strings.ReplaceAll(string(b), `"not_after":null`, ""); strings.Contains(s, "null") {
			t.Errorf("%T: %s", v, b)
		}
	}
}

func TestSummaryHasTheFiguresOfAPing(t *testing.T) {
	var replies []PingReply
	for i := 100; i > 0; i-- {
		replies = append(replies, PingReply{TimeMs: float64(i)})
	}
	replies = append(replies, PingReply{Lost: true}, PingReply{Lost: true})
	s := Summarize(replies)
	if s.Sent != 102 || s.Received != 100 || s.MinMs != 1 || s.MaxMs != 100 || s.AvgMs != 50.5 || s.P50Ms != 50 || s.P99Ms != 99 {
		t.Errorf("%+v", s)
	}
	if s := Summarize([]PingReply{{Lost: true}}); s.LossPercent != 100 || s.MaxMs != 0 {
		t.Errorf("all lost: %+v", s)
	}
	if s := Summarize(nil); s.LossPercent != 0 {
		t.Errorf("none: %+v", s)
	}
	if s := Summarize([]PingReply{{TimeMs: 7}}); s.P50Ms != 7 || s.P99Ms != 7 {
		t.Errorf("one: %+v", s)
	}
}

func TestMetricsOverTCPServeNothingElse(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	m, err := ListenMetrics("127.0.0.1:0", newStub(), log)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for path, want := range map[string]int{"/metrics": http.StatusOK, "/v1/status": http.StatusNotFound, "/": http.StatusNotFound} {
		r, err := http.Get("http://" + m.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, r.StatusCode, want)
		}
	}
	if _, err := ListenMetrics(m.Addr().String(), newStub(), log); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a taken address: %v", err)
	}
}

func TestCloseEndsEveryGoroutine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "phantom.sock")
	b := newStub()
	s, err := Listen(ServerConfig{Socket: socket, Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { s.Serve() })
	c := NewClient(socket)
	for range 3 {
		running.Go(func() { c.Wait(t.Context(), WaitRequest{}) })
		<-b.asked
	}
	began := time.Now()
	s.Close()
	s.Close()
	running.Wait()
	for range 3 {
		<-b.ended
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func FuzzRequest(f *testing.F) {
	s := newServer(ServerConfig{Backend: drain{newStub()}}, nil)
	h := s.routes()
	paths := []string{"/v1/invite", "/v1/enter", "/v1/ping"}
	for i := range paths {
		f.Add(uint8(i), []byte(`{}`))
	}
	f.Add(uint8(0), []byte(`{"uses":1,"expires_ns":1,"tags":["a"],"name":"b"}`))
	f.Add(uint8(2), []byte(`{"node":"n","count":1,"interval_ns":10000000}`))
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, paths[int(which)%len(paths)], bytes.NewReader(body)))
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}

// drain forgets what it is asked.
type drain struct{ *stub }

func (d drain) Invite(context.Context, InviteRequest) (*Invite, error)         { return &Invite{}, nil }
func (d drain) Enter(context.Context, Entry) error                             { return nil }
func (d drain) Ping(context.Context, PingRequest, func(PingReply) error) error { return nil }
