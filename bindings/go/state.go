package dlock

// What the copies of one Lock share: the handle of the library, who uses it, what is known of the acquisition that holds.

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// cancelPatience is how long a cancelled call waits for the library to say that it has left the queue: it takes a round
// trip, which a silent server does not complete.
const cancelPatience = 50 * time.Millisecond

type lockState struct {
	core   *core
	handle lockHandle
	id     uint64
	name   lockName
	busy   atomic.Bool

	mu sync.Mutex
	// acquired is the token of the acquisition that holds; 0: none.
	acquired uint64
	// gone is the token of the last acquisition known to be lost; the news may be here before the acquisition's own.
	gone uint64
	// acquiring: an acquire is under way.
	acquiring bool
	// lost is made when somebody asks for it, for one acquisition.
	lost       chan struct{}
	lostClosed bool
	contexts   map[*context.CancelCauseFunc]context.CancelCauseFunc
}

func newLockState(c *core, name, group string) (*lockState, uuid.UUID, error) {
	if strings.ContainsRune(name, 0) {
		return nil, uuid.Nil, invalid("name: contains a NUL")
	}
	if strings.ContainsRune(group, 0) {
		return nil, uuid.Nil, invalid("group: contains a NUL")
	}
	handle, id, a, owner := c.native.open(name, group)
	if a.status == statusNotConnected {
		return nil, uuid.Nil, newError(a.message, ErrRedisClientNotConnected)
	}
	if err := a.err(); err != nil {
		return nil, uuid.Nil, err
	}
	s := &lockState{core: c, handle: handle, id: id, name: lockName{group, name}}
	runtime.AddCleanup(s, freeLock, handle)
	return s, owner, nil
}

// --- acquiring ---

// begin makes the caller the handle's only user. kept: the lock was held already.
func (s *lockState) begin() (kept bool, err error) {
	if s.core.native.isClosed() {
		return false, newError("", ErrClosed)
	}
	if !s.busy.CompareAndSwap(false, true) {
		return false, newError("make a Lock for each goroutine", ErrBusy)
	}
	s.mu.Lock()
	s.acquiring = true
	s.mu.Unlock()
	return s.core.native.keep(s), nil
}

// finish is the end of what begin began.
func (s *lockState) finish(kept bool, taken bool, token uint64) {
	n := s.core.native
	s.mu.Lock()
	s.acquiring = false
	lostAlready := false
	if taken {
		if s.lostClosed {
			s.lost, s.lostClosed = nil, false
		}
		s.acquired = token
		lostAlready = s.gone == token
	}
	forget := !taken && (!kept || s.acquired == 0)
	s.mu.Unlock()
	if forget {
		n.forget(s)
	}
	if lostAlready {
		s.noteLost(token, "")
	}
	s.busy.Store(false)
	runtime.KeepAlive(s)
}

func (s *lockState) acquire(ctx context.Context, wait time.Duration) error {
	if ctx.Err() != nil {
		return cancelled(ctx)
	}
	kept, err := s.begin()
	if err != nil {
		return err
	}
	n := s.core.native
	begun := time.Now()
	if !n.awaited(s.name) {
		if at, ok := n.enterDirect(); ok {
			a := callLock(s.handle, opAcquire)
			n.leaveDirect(at)
			// Not to be had at once, or no connection: that is for the queue to wait for.
			if wait == 0 || (a.status != statusTimeout && a.status != statusNotConnected) {
				s.finish(kept, a.status == statusOK, a.token)
				return a.err()
			}
		}
	}
	if wait > 0 {
		wait = max(0, wait-time.Since(begun))
	}
	return s.waitFor(ctx, kept, wait)
}

// waitFor acquires through the queue.
func (s *lockState) waitFor(ctx context.Context, kept bool, wait time.Duration) error {
	n := s.core.native
	n.beginWaiting(s.name)
	defer n.endWaiting(s.name)
	id, op, a := n.submit(s, opAcquire, wait, 0)
	if op == nil {
		s.finish(kept, false, 0)
		return a.err()
	}
	select {
	case <-op.done:
	case <-ctx.Done():
		cancelLock(s.handle)
		if !s.awaitCancel(id, op, kept) {
			return cancelled(ctx)
		}
	}
	a = n.recycle(op)
	s.finish(kept, a.status == statusOK, a.token)
	if a.status == statusCancelled && ctx.Err() != nil {
		return cancelled(ctx)
	}
	return a.err()
}

// awaitCancel waits a little for a cancelled operation. False: it goes on by itself, and the handle is in use until its end.
func (s *lockState) awaitCancel(id uint64, op *operation, kept bool) bool {
	patience := time.NewTimer(cancelPatience)
	defer patience.Stop()
	select {
	case <-op.done:
		return true
	case <-patience.C:
	}
	n := s.core.native
	left := func(a answer) {
		s.finish(kept, a.status == statusOK, a.token)
		if a.status == statusOK { // the lock came before the cancel
			go func() { _ = s.release() }()
		}
	}
	if n.abandon(id, op, left) {
		return false
	}
	<-op.done
	return true
}

func (s *lockState) acquireRetryBackoff(retries int, backoff time.Duration) error {
	kept, err := s.begin()
	if err != nil {
		return err
	}
	a := s.submitAndWait(opAcquireRetryBackoff, backoff, retries)
	s.finish(kept, a.status == statusOK, a.token)
	return a.err()
}

func (s *lockState) tryAcquire() (bool, error) {
	kept, err := s.begin()
	if err != nil {
		return false, err
	}
	a := s.roundTrip(opTryAcquire)
	taken := a.status == statusOK && a.flag
	s.finish(kept, taken, a.token)
	return taken, a.err()
}

// --- calls of one round trip ---

// roundTrip does an operation on this thread if few do, else through the queue.
func (s *lockState) roundTrip(kind opKind) (a answer) {
	n := s.core.native
	if at, ok := n.enterDirect(); ok {
		a = callLock(s.handle, kind)
		n.leaveDirect(at)
	} else {
		n.roundTrips.Add(1)
		a = s.submitAndWait(kind, 0, 0)
		n.roundTrips.Add(-1)
	}
	runtime.KeepAlive(s)
	return a
}

func (s *lockState) submitAndWait(kind opKind, wait time.Duration, retries int) answer {
	n := s.core.native
	_, op, a := n.submit(s, kind, wait, retries)
	if op != nil {
		a = n.wait(op)
	}
	runtime.KeepAlive(s)
	return a
}

func (s *lockState) ask(kind opKind) (answer, error) {
	if s.core.native.isClosed() {
		return answer{}, newError("", ErrClosed)
	}
	a := s.roundTrip(kind)
	if err := a.err(); err != nil {
		return answer{}, err
	}
	return a, nil
}

func (s *lockState) release() error {
	if s.core.native.isClosed() {
		return newError("", ErrClosed)
	}
	if !s.busy.CompareAndSwap(false, true) {
		return newError("make a Lock for each goroutine", ErrBusy)
	}
	a := s.roundTrip(opRelease)
	if a.status != statusBusy {
		s.core.native.forget(s)
		switch a.status {
		case statusLost, statusUnlocked, statusNotOwner:
			s.mu.Lock()
			token := s.acquired
			s.mu.Unlock()
			if token != 0 { // it was held, and the server did not know
				s.noteLost(token, a.message)
			}
		}
		s.end(ErrUnlockUnlocked)
	}
	s.busy.Store(false)
	return a.err()
}

func (s *lockState) extend(lease time.Duration) error {
	n := s.core.native
	if n.isClosed() {
		return newError("", ErrClosed)
	}
	if !s.busy.CompareAndSwap(false, true) {
		return newError("make a Lock for each goroutine", ErrBusy)
	}
	n.crossings <- struct{}{}
	err := extendLock(s.handle, lease)
	<-n.crossings
	s.busy.Store(false)
	runtime.KeepAlive(s)
	return err
}

// --- what is known without asking ---

func (s *lockState) token() uint64 {
	token := tokenOfLock(s.handle)
	runtime.KeepAlive(s)
	return token
}

func (s *lockState) remaining() time.Duration {
	left := remainingOfLock(s.handle)
	runtime.KeepAlive(s)
	return left
}

func (s *lockState) lostChannel() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = make(chan struct{})
		if s.acquired == 0 && s.gone != 0 && !s.acquiring {
			close(s.lost)
			s.lostClosed = true
		}
	}
	return s.lost
}

// bind makes a context end with the acquisition that holds.
func (s *lockState) bind(ctx context.Context, cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.acquired != 0:
	case s.gone != 0:
		cancel(newError("", ErrLost, ErrUnlockUnlocked))
		return
	default:
		cancel(newError("the lock is not held", ErrUnlockUnlocked))
		return
	}
	if s.contexts == nil {
		s.contexts = make(map[*context.CancelCauseFunc]context.CancelCauseFunc)
	}
	key := &cancel
	s.contexts[key] = cancel
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		delete(s.contexts, key)
		s.mu.Unlock()
	})
}

// noteLost is told by the collecting goroutine, or by a release that found the lock gone.
func (s *lockState) noteLost(token uint64, why string) {
	s.mu.Lock()
	s.gone = token
	if token != s.acquired {
		s.mu.Unlock()
		return
	}
	s.acquired = 0
	if s.lost == nil {
		s.lost = make(chan struct{})
	}
	if !s.lostClosed {
		close(s.lost)
		s.lostClosed = true
	}
	contexts := s.contexts
	s.contexts = nil
	forget := !s.acquiring
	s.mu.Unlock()
	if forget {
		s.core.native.forget(s)
	}
	cancelAll(contexts, newError(why, ErrLost, ErrUnlockUnlocked))
}

// end is the end of an acquisition that was not lost, or whose loss was noted.
func (s *lockState) end(why error) {
	s.mu.Lock()
	if !s.lostClosed {
		s.lost, s.gone = nil, 0
	}
	s.acquired = 0
	contexts := s.contexts
	s.contexts = nil
	s.mu.Unlock()
	if len(contexts) > 0 {
		cancelAll(contexts, newError("", why))
	}
}

func cancelAll(contexts map[*context.CancelCauseFunc]context.CancelCauseFunc, cause error) {
	for _, cancel := range contexts {
		cancel(cause)
	}
}
