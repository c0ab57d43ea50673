package dlock

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// RedisLocker is a [Locker] on a Redis or Valkey server. Make it with [New] or [NewRedisLocker]; one is enough for a
// program and a server. It may be used by any number of goroutines.
//
// It needs no Close: a locker that nobody refers to any more is freed by the garbage collector, unless one of its locks is
// held or waited for.
type RedisLocker struct {
	host     string
	port     string
	url      string
	settings []setting
	// opened is what copies share; nil in a RedisLocker that New did not make.
	opened *opened
}

// opened is made by the first call that needs the library.
type opened struct {
	once sync.Once
	core *core
	err  error
}

// core is alive as long as a RedisLocker or a Lock of it is. The goroutine that collects events refers to native only, so
// that it does not keep the core alive.
type core struct {
	native *native
	server string
}

var _ Locker = (*RedisLocker)(nil)

// NewRedisLocker makes a [RedisLocker], of "localhost:6379" without options. No I/O: the first NewLock connects, and tells
// what is wrong with the options.
func NewRedisLocker(opts ...RedisLockerOption) Locker {
	return New(opts...)
}

// New is NewRedisLocker for those who want what a RedisLocker has beyond a [Locker].
func New(opts ...RedisLockerOption) *RedisLocker {
	r := &RedisLocker{host: "localhost", port: "6379", opened: &opened{}}
	for _, opt := range opts {
		if opt != nil {
			opt(r)
		}
	}
	return r
}

func (r *RedisLocker) open() (*core, error) {
	if r == nil || r.opened == nil {
		return nil, invalid("locker: nil or zero; New makes lockers")
	}
	o := r.opened
	o.once.Do(func() {
		n, err := openNative(r.settings)
		if err != nil {
			o.err = err
			return
		}
		o.core = &core{native: n, server: r.server()}
		runtime.AddCleanup(o.core, func(n *native) { go n.close() }, o.core.native)
	})
	return o.core, o.err
}

func (r *RedisLocker) server() string {
	if r.url != "" {
		return fmt.Sprintf("%s (%s:%s)", redacted(r.url), r.host, r.port)
	}
	return r.host + ":" + r.port
}

// state finds what is behind a Lock. A Lock of another locker of the same server goes on with its own.
func (r *RedisLocker) state(lock *Lock) (*lockState, error) {
	core, err := r.open()
	if err != nil {
		return nil, err
	}
	if lock == nil || lock.state == nil {
		return nil, invalid("lock: nil or zero; NewLock makes locks")
	}
	if lock.state.core != core {
		if core.native.isClosed() {
			return nil, newError("", ErrClosed)
		}
		if other := lock.state.core.server; other != core.server {
			return nil, invalid("lock: made by a locker for " + other + ", used with one for " + core.server)
		}
	}
	return lock.state, nil
}

// NewLock makes a Lock; see [Locker]. The error of a server that cannot be reached is [ErrRedisClientNotConnected].
func (r *RedisLocker) NewLock(name string, group string) (*Lock, error) {
	core, err := r.open()
	if err != nil {
		return nil, err
	}
	state, id, err := newLockState(core, name, group)
	if err != nil {
		return nil, err
	}
	return &Lock{userID: id, name: name, group: group, state: state}, nil
}

// Lock waits for the lock; see [Locker]. If the connection is lost meanwhile, it tries to reconnect for the response
// timeout.
func (r *RedisLocker) Lock(lock *Lock) error {
	return r.LockContext(context.Background(), lock)
}

// LockContext is Lock until ctx is done: then it gives up its place in the queue, and returns an error that wraps
// [ErrCancelled] and ctx.Err().
func (r *RedisLocker) LockContext(ctx context.Context, lock *Lock) error {
	state, err := r.state(lock)
	if err != nil {
		return err
	}
	return state.acquire(ctx, noDeadline)
}

// LockWithTimeout is Lock with a limit; see [Locker].
func (r *RedisLocker) LockWithTimeout(lock *Lock, timeout time.Duration) error {
	state, err := r.state(lock)
	if err != nil {
		return err
	}
	if timeout < 0 {
		return invalid(fmt.Sprintf("timeout: %v is negative", timeout))
	}
	return state.acquire(context.Background(), timeout)
}

// LockWithRetryBackoff makes attempts; see [Locker].
func (r *RedisLocker) LockWithRetryBackoff(lock *Lock, retry int, backoff time.Duration) error {
	state, err := r.state(lock)
	switch {
	case err != nil:
		return err
	case retry < 0:
		return invalid(fmt.Sprintf("retry: %d is negative", retry))
	case backoff < 0:
		return invalid(fmt.Sprintf("backoff: %v is negative", backoff))
	}
	return state.acquireRetryBackoff(retry, backoff)
}

// TryLock takes the lock if it is free; see [Locker]. On a Lock that holds it already the answer is false.
func (r *RedisLocker) TryLock(lock *Lock) (bool, error) {
	state, err := r.state(lock)
	if err != nil {
		return false, err
	}
	return state.tryAcquire()
}

// Unlock releases the lock; see [Locker]. It returns [ErrNotOwner] where somebody else holds the lock and keeps it,
// [ErrUnlockUnlocked] where nobody does, and [ErrLost], once, where the lock was lost before.
func (r *RedisLocker) Unlock(lock *Lock) error {
	state, err := r.state(lock)
	if err != nil {
		return err
	}
	return state.release()
}

// IsLocked asks the server; see [Locker].
func (r *RedisLocker) IsLocked(lock *Lock) (bool, error) {
	state, err := r.state(lock)
	if err != nil {
		return false, err
	}
	answer, err := state.ask(opIsLocked)
	return answer.flag, err
}

// IsLockedByMe asks the server; see [Locker].
func (r *RedisLocker) IsLockedByMe(lock *Lock) (bool, error) {
	state, err := r.state(lock)
	if err != nil {
		return false, err
	}
	answer, err := state.ask(opIsLockedByMe)
	return answer.flag, err
}

// Owner asks the server; see [Locker]. A holder that is no UUID, under a key set by another program, gives
// [ErrLockerError].
func (r *RedisLocker) Owner(lock *Lock) (bool, uuid.UUID, error) {
	state, err := r.state(lock)
	if err != nil {
		return false, uuid.Nil, err
	}
	answer, err := state.ask(opOwner)
	return answer.flag, answer.owner, err
}

// Warnings tells what is not as locks would have it at the server connected to last, one sentence each: a policy that may
// evict locks, a right that the user lacks and can do without. For a log; nil before the first NewLock.
func (r *RedisLocker) Warnings() ([]string, error) {
	core, err := r.open()
	if err != nil {
		return nil, err
	}
	told, a := core.native.tell()
	if a.status != statusOK {
		return nil, a.status.err(a.message)
	}
	if told == "" {
		return nil, nil
	}
	return strings.Split(told, "\n"), nil
}

// Extend sets the lease of a lock that is held to this long from now, for later renewals too.
func (r *RedisLocker) Extend(lock *Lock, lease time.Duration) error {
	state, err := r.state(lock)
	if err != nil {
		return err
	}
	if lease < 0 {
		return invalid(fmt.Sprintf("lease: %v is negative", lease))
	}
	return state.extend(lease)
}

// Close ends the locker: locks that are held are released, which takes at most one response timeout, and calls under way
// return [ErrClosed], as do later ones. Closing again does nothing.
func (r *RedisLocker) Close() error {
	if r == nil || r.opened == nil {
		return nil
	}
	// Without a call before, there is nothing to open either.
	r.opened.once.Do(func() { r.opened.err = newError("", ErrClosed) })
	if core := r.opened.core; core != nil {
		core.native.close()
	}
	return nil
}

// Do runs f under the lock: it waits for the lock as LockContext does, releases it when f returns or panics, and returns
// f's error, joined with that of the release. The context given to f is also cancelled when the lock is lost; f's error is
// then joined with one that wraps [ErrLost].
func (r *RedisLocker) Do(ctx context.Context, name, group string, f func(ctx context.Context) error) (err error) {
	lock, err := r.NewLock(name, group)
	if err != nil {
		return err
	}
	if err := r.LockContext(ctx, lock); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Unlock(lock)) }()
	return f(lock.Context(ctx))
}

// Mutex makes a [sync.Locker] of lock, which may be shared by goroutines: those of this process queue at the Mutex, and one
// of them at a time waits for the lock. Nothing else should use lock. Its Lock and Unlock panic where those of the locker
// return an error.
func (r *RedisLocker) Mutex(lock *Lock) sync.Locker {
	return &mutex{turn: make(chan struct{}, 1), locker: r, lock: lock}
}

type mutex struct {
	turn   chan struct{} // full while somebody holds the lock or waits for it
	locker *RedisLocker
	lock   *Lock
}

func (m *mutex) Lock() {
	m.turn <- struct{}{}
	if err := m.locker.Lock(m.lock); err != nil {
		<-m.turn
		panic(err)
	}
}

func (m *mutex) Unlock() {
	err := m.locker.Unlock(m.lock)
	if !errors.Is(err, ErrBusy) { // else somebody waits for the lock, and it is not the caller's
		select {
		case <-m.turn:
		default:
		}
	}
	if err != nil {
		panic(err)
	}
}
