package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// Bounds of the control socket. It serves people and scripts of one machine.
const (
	connectionsMax  = 64                               // at once; a stuck script cannot take the node's descriptors
	headerMax       = 16 << 10                         // bytes
	bodyMax         = 64 << 10                         // bytes; the longest request but for policies is an invitation with its tags
	policyBodyMax   = 6*localapi.PolicyTextMax + 1<<10 // JSON may write a byte as six
	headerTimeout   = 5 * time.Second                  // to send a header
	bodyTimeout     = 10 * time.Second                 // to send a body
	writeTimeout    = 10 * time.Second                 // for one write to a caller that reads no more
	idleTimeout     = 30 * time.Second                 // between two requests of a connection
	closeGrace      = 500 * time.Millisecond           // for answers under way when the node stops
	queryTimeout    = 15 * time.Second                 // for what the node answers by itself
	decisionTimeout = 30 * time.Second                 // for what the mesh decides; without quorum it fails at once
	enterTimeout    = 15 * time.Minute                 // finding a mesh, enrolling, ten minutes for somebody to approve; a command gives up earlier
	approveTimeout  = 30 * time.Second                 // asking all members, a decision, telling who waits
	pairTimeoutMax  = time.Hour + time.Minute          // the longest window
	recoverTimeout  = 30 * time.Second                 // to be sure that nobody leads, then an election of one
	waitTimeoutMax  = 24 * time.Hour                   // a script that waits longer has lost its owner
	stopTimeout     = 30 * time.Second                 // handing over duties
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Socket  string // path of the control socket
	Backend Backend
	Process Process
	Log     *slog.Logger

	// uid is the user that may speak besides root; set by Listen, changed in tests.
	uid uint32
}

// Server serves the local API on a unix socket.
type Server struct {
	cfg      ServerConfig
	listener net.Listener
	http     *http.Server
	cancel   context.CancelFunc // ends the context of every request

	closeOnce sync.Once
}

// Listen opens the control socket. The error is a *Failure; when a node answers there already it says so.
func Listen(cfg ServerConfig) (*Server, error) {
	l, err := listenUnix(cfg.Socket)
	if err != nil {
		return nil, err
	}
	cfg.uid = uint32(os.Geteuid())
	return newServer(cfg, l), nil
}

func newServer(cfg ServerConfig, l net.Listener) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	base, cancel := context.WithCancel(context.Background())
	s := &Server{cfg: cfg, listener: newBoundedListener(l, connectionsMax), cancel: cancel}
	s.http = &http.Server{
		Handler:           s.guard(s.routes()),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerMax,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       remember,
	}
	return s
}

// Serve answers until Close. It returns nil after Close.
func (s *Server) Serve() error {
	err := s.http.Serve(s.listener)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Close stops the server: running requests have a moment to finish, then their contexts end. The socket file is removed first, so that
// nobody starts a conversation with a node that is going.
func (s *Server) Close() error {
	var err error
	s.closeOnce.Do(func() {
		if rm := os.Remove(s.cfg.Socket); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = rm
		}
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		stopped := s.http.Shutdown(ctx)
		s.cancel()
		if stopped != nil {
			s.http.Close()
		}
		s.listener.Close()
	})
	return err
}

type callerKey struct{}

// remember makes the caller's credentials part of the context of every request on the connection.
func remember(ctx context.Context, c net.Conn) context.Context {
	if k, ok := c.(*knownConn); ok && k.known {
		return context.WithValue(ctx, callerKey{}, k.who)
	}
	return ctx
}

// maySpeak is the whole access rule of the control socket.
func maySpeak(who caller, uid uint32) bool { return who.uid == 0 || who.uid == uid }

// guard lets only the right callers through and keeps a bug in a handler from becoming a silent hang-up.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, known := r.Context().Value(callerKey{}).(caller)
		if !known || !maySpeak(who, s.cfg.uid) {
			s.cfg.Log.Warn("a stranger spoke on the control socket", "uid", who.uid, "pid", who.pid)
			writeFailure(w, &localapi.Failure{Class: localapi.Refused, What: "the control socket is not yours",
				Why: fmt.Sprintf("the node runs as user %d, you are user %d", s.cfg.uid, who.uid), Next: "run the command as root, or as that user"})
			return
		}
		defer func() {
			bug := recover()
			if bug == nil {
				return
			}
			if bug == http.ErrAbortHandler {
				panic(bug)
			}
			s.cfg.Log.Error("request failed by a bug", "path", r.URL.Path, "err", fmt.Sprint(bug))
			writeFailure(w, &localapi.Failure{Class: localapi.Failed, What: "the node has a bug here", Why: fmt.Sprint(bug),
				Next: "report it with the node's log"})
		}()
		next.ServeHTTP(w, r)
	})
}
