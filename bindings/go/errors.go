package dlock

import (
	"context"
	"errors"
)

// What can go wrong. The errors that calls return carry more text and wrap one or more of these: ask with
// [errors.Is], not with ==.
var (
	// ErrLockerError: the server answered with an error, which the text quotes, or the owner found is no UUID.
	ErrLockerError = errors.New("locker error")
	// ErrNotOwner: somebody else holds the lock that was to be released.
	ErrNotOwner = errors.New("not the owner of the lock")
	// ErrUnlockUnlocked: nobody holds the lock that was to be released, or this Lock does not hold it.
	ErrUnlockUnlocked = errors.New("unlocking an unlocked lock")
	// ErrLockTimeout: the time was over, or the retries were used up, before the lock could be had.
	ErrLockTimeout = errors.New("lock timeout")
	// ErrRedisClientNotConnected: the server cannot be reached, or refused the handshake (a wrong password, still
	// loading, not a Redis). Where a connection was lost later, such an error also is an ErrLockerError.
	ErrRedisClientNotConnected = errors.New("Can't connect to redis server") //nolint:staticcheck // the text users know

	// ErrInvalidArgument: an argument or an option is out of range; the text names it.
	ErrInvalidArgument = errors.New("invalid argument")
	// ErrAlreadyHeld: this very Lock holds the lock, so waiting for it would never end.
	ErrAlreadyHeld = errors.New("this Lock already holds the lock")
	// ErrCancelled: the context of the call ended it; the context's own error is in the chain too.
	ErrCancelled = errors.New("waiting for the lock was cancelled")
	// ErrLost: the lock was held and then lost: its lease ran out, or the server forgot it. Such an error also is an
	// ErrUnlockUnlocked.
	ErrLost = errors.New("the lock was lost")
	// ErrClosed: the locker is closed.
	ErrClosed = errors.New("the locker is closed")
	// ErrBusy: another goroutine is using this Lock. Each goroutine needs a Lock of its own, from NewLock.
	ErrBusy = errors.New("the Lock is in use by another goroutine")
	// ErrForked: the locker was made by the parent of this process.
	ErrForked = errors.New("the locker belongs to the parent process")
	// ErrInternal: a defect inside the library, which the text describes. Make another locker.
	ErrInternal = errors.New("a defect in dlock")
)

// lockError is what calls return: the text of the C library, and the variables above that it answers to.
type lockError struct {
	text  string
	kinds []error
}

func (e *lockError) Error() string   { return "dlock: " + e.text }
func (e *lockError) Unwrap() []error { return e.kinds }

// newError's text is the kind's own, then the detail.
func newError(detail string, kinds ...error) error {
	text := kinds[0].Error()
	if detail != "" {
		text += ": " + detail
	}
	return &lockError{text: text, kinds: kinds}
}

func invalid(detail string) error { return newError(detail, ErrInvalidArgument) }

// cancelled is the error of a call that its context ended.
func cancelled(ctx context.Context) error {
	kinds := []error{ErrCancelled, ctx.Err()}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kinds = append(kinds, ErrLockTimeout)
	}
	cause := context.Cause(ctx)
	if cause != ctx.Err() {
		kinds = append(kinds, cause)
	}
	return newError(cause.Error(), kinds...)
}
