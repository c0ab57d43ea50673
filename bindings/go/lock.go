package dlock

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Lock is one contender for one lock, with an owner id of its own; [Locker.NewLock] makes it. Two Locks with the same
// name and group compete for the same lock, also within one process.
//
// A Lock is for one goroutine at a time. Where a second one uses it during a call, it gets [ErrBusy]; where a second one
// locks it while it is held, [ErrAlreadyHeld]. The methods below may be called at any time. A copy of a Lock is the same
// contender. A nil or zero Lock gives [ErrInvalidArgument].
type Lock struct {
	// userID is the owner id, which the server keeps while the lock is held.
	userID uuid.UUID
	name   string
	group  string
	// state is what copies share; nil in a Lock that no locker made.
	state *lockState
}

// Locker is what the locks of one server can be asked. [RedisLocker] is the implementation.
type Locker interface {
	// NewLock makes a Lock, which is not locked yet. It connects where the locker has no connection, and costs no round
	// trip where it has one. Name and group have 1 to 512 bytes of UTF-8 without NUL; group has no ':'.
	NewLock(name string, group string) (*Lock, error)

	// Lock waits for the lock as long as it takes, first come, first served.
	Lock(lock *Lock) error

	// Unlock releases the lock. Whoever waited longest for it becomes its holder in the same step.
	Unlock(lock *Lock) error

	// TryLock takes the lock if it is free, and says whether it did.
	TryLock(lock *Lock) (bool, error)

	// LockWithTimeout is Lock with a limit, after which it returns ErrLockTimeout. It tries at once; 0 makes one attempt.
	LockWithTimeout(lock *Lock, timeout time.Duration) error

	// LockWithRetryBackoff makes one attempt and then up to retry more, after waits of 1, 2, 4, … times backoff. It does
	// not queue: those who wait in Lock come first. Without success it returns ErrLockTimeout.
	LockWithRetryBackoff(lock *Lock, retry int, backoff time.Duration) error

	// IsLocked asks the server whether anybody holds the lock.
	IsLocked(lock *Lock) (bool, error)

	// IsLockedByMe asks the server whether this Lock holds the lock.
	IsLockedByMe(lock *Lock) (bool, error)

	// Owner asks the server who holds the lock: false where nobody does, else the owner id of the holder's Lock.
	Owner(lock *Lock) (bool, uuid.UUID, error)
}

// ID is the owner id of this Lock: what [Locker.Owner] tells while it holds the lock.
func (l *Lock) ID() uuid.UUID {
	if l == nil {
		return uuid.Nil
	}
	return l.userID
}

// Name is the name given to NewLock.
func (l *Lock) Name() string {
	if l == nil {
		return ""
	}
	return l.name
}

// Group is the group given to NewLock.
func (l *Lock) Group() string {
	if l == nil {
		return ""
	}
	return l.group
}

// Token is the fencing token of the lock held, 0 while it is not held or was lost. It is greater than the token of every
// earlier acquisition of this lock: send it along with what the lock protects, and refuse there what carries a smaller
// one. No I/O.
func (l *Lock) Token() uint64 {
	if l == nil || l.state == nil {
		return 0
	}
	return l.state.token()
}

// Remaining is the time for which the lock is certainly still held, by the holder's own careful view; 0 while it is not
// held. Renewals in the background set it up again. No I/O.
func (l *Lock) Remaining() time.Duration {
	if l == nil || l.state == nil {
		return 0
	}
	return l.state.remaining()
}

// Lost returns a channel that is closed when the lock is lost: when its lease ran out before it could be renewed, or the
// server forgot it. It is about the acquisition that holds, else about the next one. A lock that is released is not lost.
// The channel of a Lock that no locker made is never closed.
func (l *Lock) Lost() <-chan struct{} {
	if l == nil || l.state == nil {
		return nil
	}
	return l.state.lostChannel()
}

// Context returns a context for work under the lock: a child of parent that is also cancelled when the lock is lost,
// released, or ended by Close. [context.Cause] tells which: [ErrLost], [ErrUnlockUnlocked] or [ErrClosed]. While the lock
// is not held, the context returned is cancelled already.
func (l *Lock) Context(parent context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(parent)
	if l == nil || l.state == nil {
		cancel(invalid("lock: nil or zero; NewLock makes locks"))
		return ctx
	}
	l.state.bind(ctx, cancel)
	return ctx
}
