package replay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Run starts this program again with other arguments, as a child that repeats, and waits for its end. The child's output goes to out, its complaints
// to this process's standard error. It gets an interrupt when ctx ends. The exit code is the child's; 128 plus the number if a signal ended it. The
// child's folder is removed afterwards. The error is ErrUnsupported where the system does not let a parent do this.
func Run(ctx context.Context, seed uint64, out *os.File, args ...string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	dir, err := folder(seed)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	env := []string{variable + "=" + dir, "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=off", "GODEBUG=asyncpreemptoff=1", "GOTRACEBACK=all"}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name == "PATH" || name == "HOME" || name == "TMPDIR" || name == "TERM" || name == "NO_COLOR" {
			env = append(env, v)
		}
	}
	t := &tracer{seed: seed, random: mathrand.NewChaCha8(derive(seed, "crypto")), clock: clockBegin, asked: map[int]question{}}
	type end struct {
		code int
		err  error
	}
	done := make(chan end, 1)
	go func() {
		// All requests of ptrace come from the thread that started the child. The thread has other settings now: it ends with its goroutine.
		runtime.LockOSThread()
		code, err := t.run(ctx, self, append([]string{self}, args...), env, out)
		done <- end{code, err}
	}()
	e := <-done
	return e.code, e.err
}

// folder makes one in memory, where there is some, under the name that the other runs of the seed have, if nobody else runs the seed just now.
func folder(seed uint64) (string, error) {
	base := os.TempDir()
	if unix.Access("/dev/shm", unix.W_OK) == nil {
		base = "/dev/shm"
	}
	for n := 0; ; n++ {
		dir := fmt.Sprintf("%s/phantom-replay-%d-%02d", base, seed, n)
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, os.ErrExist) {
			return dir, err
		}
	}
}

// tracer holds one child.
type tracer struct {
	seed    uint64
	random  *mathrand.ChaCha8 // what the child's getrandom gives
	clock   int64             // what the child's clock shows, in ns
	monitor int               // the thread that stays held
	running int               // the thread whose turn it is; 0: all wait in the kernel
	ready   []thread          // those that have stopped and wait for their turn
	asked   map[int]question  // by thread, while it is within a system call
}

func (t *tracer) run(ctx context.Context, self string, argv, env []string, out *os.File) (int, error) {
	restrict()
	pid, err := syscall.ForkExec(self, argv, &syscall.ProcAttr{Env: env, Files: []uintptr{0, out.Fd(), 2}, Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		return 0, fmt.Errorf("%w: start it: %w", ErrUnsupported, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(pid, syscall.SIGINT) })
	defer stop()
	code, err := t.follow(pid)
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	}
	return code, err
}

// restrict makes the thread, and what it starts, run on one CPU, with fixed addresses. Where that is refused the run's own test of its hash says so.
func restrict() {
	var all, one unix.CPUSet
	if unix.SchedGetaffinity(0, &all) == nil {
		for i := range len(all) * 64 {
			if all.IsSet(i) {
				one.Set(i)
				break
			}
		}
		_ = unix.SchedSetaffinity(0, &one)
	}
	const addrNoRandomize = 0x0040000 // ADDR_NO_RANDOMIZE of personality(2)
	_, _, _ = syscall.RawSyscall(syscall.SYS_PERSONALITY, addrNoRandomize, 0, 0)
}

// follow goes along with the child's threads until it ends.
func (t *tracer) follow(pid int) (int, error) {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return 0, err
	}
	if !status.Stopped() {
		return 0, fmt.Errorf("%w: the child ended at once: %v", ErrUnsupported, status)
	}
	if err := t.prepare(pid); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACECLONE|syscall.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_EXITKILL); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err := syscall.PtraceSyscall(pid, 0); err != nil {
		return 0, err
	}
	t.running = pid
	for {
		tid, err := syscall.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return 0, err
		case status.Exited() || status.Signaled():
			delete(t.asked, tid)
			if tid == pid {
				return exitCode(status), nil
			}
			if tid == t.running {
				err = t.next()
			}
		case status.Stopped():
			err = t.stopped(tid, status)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return 0, err
		}
	}
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// syscallStop is what a stop at a system call's begin or end looks like with PTRACE_O_TRACESYSGOOD.
const syscallStop = syscall.SIGTRAP | 0x80

// thread is one that has stopped, with the signal that it is to get when it goes on.
type thread struct{ tid, signal int }

// stopped is told that a thread has stopped. The running one goes on, unless it is about to wait for another; any other waits for its turn.
func (t *tracer) stopped(tid int, status syscall.WaitStatus) error {
	sig := status.StopSignal()
	does := nothing
	switch {
	case sig == syscallStop:
		var err error
		if does, err = t.call(tid); err != nil {
			return err
		}
		sig = 0
	case sig == syscall.SIGTRAP && status.TrapCause() == syscall.PTRACE_EVENT_CLONE:
		if t.monitor == 0 {
			// The first thread that the runtime starts is its monitor.
			id, err := syscall.PtraceGetEventMsg(tid)
			if err != nil {
				return err
			}
			t.monitor = int(id)
		}
		sig = 0
	case tid == t.monitor:
		return nil
	case sig == syscall.SIGSTOP || sig == syscall.SIGTRAP:
		sig = 0
	}
	self := thread{tid, int(sig)}
	switch {
	case tid != t.running:
		t.ready = append(t.ready, self)
		if t.running == 0 {
			return t.next()
		}
		return nil
	case does == yields:
		t.ready = append(t.ready, self)
		return t.next()
	case does == waits:
		if err := syscall.PtraceSyscall(tid, self.signal); err != nil {
			return err
		}
		return t.next()
	default:
		return syscall.PtraceSyscall(tid, self.signal)
	}
}

// next gives the turn to the thread that has waited for it longest.
func (t *tracer) next() error {
	t.running = 0
	if len(t.ready) == 0 {
		return nil
	}
	first := t.ready[0]
	t.ready = t.ready[1:]
	t.running = first.tid
	return syscall.PtraceSyscall(first.tid, first.signal)
}

// What the begin of a system call means to the other threads.
const (
	nothing = iota
	waits   // the thread waits in the kernel
	yields  // the thread spins: another must go on first
)

// Of futex(2).
const (
	futexWait       = 0
	futexWaitBitset = 9
	futexCommand    = 0x7f
)

// meaning tells what a call does to the thread's turn.
func meaning(r *syscall.PtraceRegs) int {
	switch r.Orig_rax {
	case unix.SYS_FUTEX:
		if op := r.Rsi & futexCommand; op == futexWait || op == futexWaitBitset {
			return waits
		}
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_POLL, unix.SYS_PPOLL, unix.SYS_SELECT, unix.SYS_PSELECT6,
		unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_PAUSE, unix.SYS_WAIT4, unix.SYS_WAITID:
		return waits
	case unix.SYS_SCHED_YIELD, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP:
		return yields
	}
	return nothing
}

// question is a system call that the parent answers in the kernel's stead.
type question struct {
	call      uint64
	at, bytes uint64
}

// call is told of the begin and of the end of every system call of a thread, in turn.
func (t *tracer) call(tid int) (does int, err error) {
	q, within := t.asked[tid]
	if within && q.call == 0 {
		delete(t.asked, tid)
		return nothing, nil
	}
	var r syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &r); err != nil {
		return nothing, err
	}
	if !within {
		switch {
		case r.Orig_rax == syscall.SYS_CLOCK_GETTIME && (r.Rdi == unix.CLOCK_REALTIME || r.Rdi == unix.CLOCK_MONOTONIC):
			q = question{call: r.Orig_rax, at: r.Rsi}
		case r.Orig_rax == unix.SYS_GETRANDOM:
			q = question{call: r.Orig_rax, at: r.Rdi, bytes: min(r.Rsi, randomMax)}
		default:
			t.asked[tid] = question{}
			return meaning(&r), nil
		}
		t.asked[tid] = q
		r.Orig_rax = ^uint64(0) // no such call: the kernel does nothing
		return nothing, syscall.PtraceSetRegs(tid, &r)
	}
	delete(t.asked, tid)
	var answer []byte
	if q.call == unix.SYS_GETRANDOM {
		answer = make([]byte, q.bytes)
		_, _ = t.random.Read(answer)
		r.Rax = q.bytes
	} else {
		t.clock += tick
		answer = binary.NativeEndian.AppendUint64(nil, uint64(t.clock/1e9))
		answer = binary.NativeEndian.AppendUint64(answer, uint64(t.clock%1e9))
		r.Rax = 0
	}
	if len(answer) > 0 {
		if _, err := syscall.PtracePokeData(tid, uintptr(q.at), answer); err != nil {
			return nothing, err
		}
	}
	return nothing, syscall.PtraceSetRegs(tid, &r)
}

const (
	// randomMax is the most that one call of getrandom is given, in bytes; the caller asks again.
	randomMax = 4096
	// The child's clock begins at clockBegin and goes on by tick with each look at it, in ns.
	clockBegin = 1_000_000_000_000_000_000
	tick       = 1_000
)

const (
	atIgnore      = 1  // AT_IGNORE of getauxval(3)
	atRandom      = 25 // AT_RANDOM
	atSysinfoEHDR = 33 // AT_SYSINFO_EHDR
	wordSize      = 8
)

// prepare changes what the kernel has told the program on its stack: the bytes of AT_RANDOM are the seed's, and there is no vDSO, so that the
// clock and randomness are asked for by system calls.
func (t *tracer) prepare(pid int) error {
	var r syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(pid, &r); err != nil {
		return err
	}
	at := uintptr(r.Rsp)
	word := func() (uint64, error) {
		b := make([]byte, wordSize)
		_, err := syscall.PtracePeekData(pid, at, b)
		at += wordSize
		return binary.NativeEndian.Uint64(b), err
	}
	// The count of arguments, the arguments, a zero, the environment, a zero, the auxiliary vector (System V ABI, AMD64, section 3.4.1).
	count, err := word()
	if err != nil {
		return err
	}
	at += uintptr(count+1) * wordSize
	for v := uint64(1); v != 0 && err == nil; {
		v, err = word()
	}
	found := false
	for err == nil {
		place := at
		var key, value uint64
		if key, err = word(); err != nil || key == 0 {
			break
		}
		if value, err = word(); err != nil {
			break
		}
		switch key {
		case atRandom:
			want := derive(t.seed, "runtime")
			_, err = syscall.PtracePokeData(pid, uintptr(value), want[:16])
			found = true
		case atSysinfoEHDR:
			_, err = syscall.PtracePokeData(pid, place, binary.NativeEndian.AppendUint64(nil, atIgnore))
		}
	}
	if err == nil && !found {
		err = errors.New("the kernel gave no AT_RANDOM")
	}
	return err
}

// Wall is the time since the machine began, by a clock that a child sees as it is.
func Wall() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// traced tells whether a parent follows this process.
func traced() bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\nTracerPid:\t")
	line, _, _ := strings.Cut(rest, "\n")
	return line != "" && line != "0"
}
