package dlock

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestLockAndUnlock(t *testing.T) {
	r := newLocker(t)
	lock := newLock(t, r, freshName())
	want(t, r.Lock(lock))
	exists, owner, err := r.Owner(lock)
	want(t, err)
	if !exists || owner != lock.userID || owner != lock.ID() {
		t.Fatalf("owner %v %v, want %v", exists, owner, lock.userID)
	}
	mine, err := r.IsLockedByMe(lock)
	want(t, err)
	locked, err := r.IsLocked(lock)
	want(t, err)
	if !mine || !locked || lock.Token() == 0 || lock.Remaining() < 25*time.Second {
		t.Fatal(mine, locked, lock.Token(), lock.Remaining())
	}
	want(t, r.Unlock(lock))
	exists, owner, err = r.Owner(lock)
	want(t, err)
	if exists || owner != uuid.Nil || lock.Token() != 0 || lock.Remaining() != 0 {
		t.Fatal("still held", exists, owner)
	}
	want(t, r.Unlock(lock), ErrUnlockUnlocked)
}

func TestTokensRise(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	var last uint64
	for range 20 {
		lock := newLock(t, r, name)
		want(t, r.Lock(lock))
		if token := lock.Token(); token <= last {
			t.Fatalf("token %d after %d", token, last)
		} else {
			last = token
		}
		want(t, r.Unlock(lock))
	}
}

func TestTryLock(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	one, two := newLock(t, r, name), newLock(t, r, name)
	for _, each := range []struct {
		lock *Lock
		want bool
	}{{one, true}, {two, false}, {one, false}} {
		if got, err := r.TryLock(each.lock); err != nil || got != each.want {
			t.Fatal(got, err, each.want)
		}
	}
	want(t, r.Unlock(two), ErrNotOwner)
	if mine, err := r.IsLockedByMe(two); mine || err != nil {
		t.Fatal(mine, err)
	}
	want(t, r.Unlock(one))
	if got, err := r.TryLock(two); err != nil || !got || two.Token() == 0 {
		t.Fatal(got, err)
	}
	want(t, r.Unlock(two))
}

func TestLockOfAHeldLockIsAnError(t *testing.T) {
	r := newLocker(t)
	lock := newLock(t, r, freshName())
	want(t, r.Lock(lock))
	want(t, r.Lock(lock), ErrAlreadyHeld)
	want(t, r.LockWithTimeout(lock, time.Second), ErrAlreadyHeld)
	if mine, err := r.IsLockedByMe(lock); !mine || err != nil {
		t.Fatal(mine, err)
	}
	if n := r.opened.core.native; n.held[lock.state.id] == nil {
		t.Fatal("the lock held is no longer kept")
	}
	want(t, r.Unlock(lock))
}

func TestLockWithTimeout(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	one, two := newLock(t, r, name), newLock(t, r, name)
	// At once, whatever the timeout.
	want(t, r.LockWithTimeout(one, 0))
	for _, timeout := range []time.Duration{0, time.Microsecond, 200 * time.Millisecond} {
		begun := time.Now()
		want(t, r.LockWithTimeout(two, timeout), ErrLockTimeout)
		if took := time.Since(begun); took < timeout || took > timeout+time.Second {
			t.Fatalf("%v for a timeout of %v", took, timeout)
		}
	}
	done := make(chan error)
	go func() { done <- r.LockWithTimeout(two, time.Minute) }()
	eventually(t, "it waits", func() bool { return waitersOf(two) == "1" })
	want(t, r.Unlock(one))
	want(t, <-done)
	want(t, r.Unlock(two))
}

// waitersOf is how many wait in the server for a lock of the test group.
func waitersOf(lock *Lock) string {
	answer, _ := shared.command("EVAL", "local n = 0; for _, k in ipairs(redis.call('KEYS', ':dlock:wait:*"+
		lock.group+":"+lock.name+"')) do n = n + redis.call('ZCARD', k) end return n", "0")
	return strings.TrimPrefix(answer, ":")
}

func TestLockWithRetryBackoff(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	one, two := newLock(t, r, name), newLock(t, r, name)
	want(t, r.LockWithRetryBackoff(one, 0, 0))
	begun := time.Now()
	want(t, r.LockWithRetryBackoff(two, 2, 50*time.Millisecond), ErrLockTimeout)
	if took := time.Since(begun); took < 150*time.Millisecond {
		t.Fatalf("%v for waits of 50 and 100 ms", took)
	}
	want(t, r.Unlock(one))
	want(t, r.LockWithRetryBackoff(two, 2, 50*time.Millisecond))
	want(t, r.Unlock(two))
}

func TestWhatIsOutOfRangeIsAnError(t *testing.T) {
	r := newLocker(t)
	lock := newLock(t, r, freshName())
	want(t, r.LockWithTimeout(lock, -1), ErrInvalidArgument)
	want(t, r.LockWithRetryBackoff(lock, -1, time.Second), ErrInvalidArgument)
	want(t, r.LockWithRetryBackoff(lock, 1, -time.Second), ErrInvalidArgument)
	want(t, r.Extend(lock, -time.Second), ErrInvalidArgument)
	for _, names := range [][2]string{{"", "g"}, {"n", ""}, {"n\x00m", "g"}, {"n", "g\x00h"}, {"n", "g:h"}, {"\xff", "g"},
		{strings.Repeat("n", 513), "g"}} {
		_, err := r.NewLock(names[0], names[1])
		want(t, err, ErrInvalidArgument)
	}
	for _, opt := range []RedisLockerOption{WithRedisPort("redis"), WithRedisPort("0"), WithRedisPort("65536"), WithRedisPort(""),
		WithRedisPort("-1"), WithRedisHost(""), WithRedisHost("a\x00b"), WithURL("http://x"), WithLease(time.Millisecond),
		WithLease(-1), WithConnectTimeout(-1), WithResponseTimeout(0)} {
		r := New(opt, nil)
		_, err := r.NewLock("n", "g")
		want(t, err, ErrInvalidArgument)
		want(t, r.Close())
	}
}

func TestNilAndZeroAreErrors(t *testing.T) {
	r := newLocker(t)
	for _, lock := range []*Lock{nil, {}, {name: "n", group: "g", userID: uuid.New()}} {
		want(t, r.Lock(lock), ErrInvalidArgument)
		want(t, r.Unlock(lock), ErrInvalidArgument)
		want(t, r.LockWithTimeout(lock, time.Second), ErrInvalidArgument)
		want(t, r.LockWithRetryBackoff(lock, 1, time.Second), ErrInvalidArgument)
		want(t, r.LockContext(t.Context(), lock), ErrInvalidArgument)
		want(t, r.Extend(lock, time.Second), ErrInvalidArgument)
		_, err := r.TryLock(lock)
		want(t, err, ErrInvalidArgument)
		_, err = r.IsLocked(lock)
		want(t, err, ErrInvalidArgument)
		_, err = r.IsLockedByMe(lock)
		want(t, err, ErrInvalidArgument)
		_, _, err = r.Owner(lock)
		want(t, err, ErrInvalidArgument)
		if lock.Token() != 0 || lock.Remaining() != 0 || lock.Lost() != nil {
			t.Fatal("an unmade lock that holds")
		}
		want(t, context.Cause(lock.Context(t.Context())), ErrInvalidArgument)
	}
	_, err := (*RedisLocker)(nil).NewLock("n", "g")
	want(t, err, ErrInvalidArgument)
	_, err = new(RedisLocker).NewLock("n", "g")
	want(t, err, ErrInvalidArgument)
	want(t, new(RedisLocker).Close())
}

func TestALockGoesWithAnyLockerOfItsServer(t *testing.T) {
	one, two := newLocker(t), newLocker(t)
	lock := newLock(t, one, freshName())
	want(t, two.Lock(lock))
	copied := *lock
	if mine, err := two.IsLockedByMe(&copied); !mine || err != nil {
		t.Fatal(mine, err)
	}
	want(t, one.Unlock(&copied))
	want(t, two.Unlock(lock), ErrUnlockUnlocked)

	other := New(WithURL("memory://other"))
	defer other.Close()
	err := other.Lock(lock)
	want(t, err, ErrInvalidArgument)
	if !strings.Contains(err.Error(), "memory://other") || !strings.Contains(err.Error(), shared.port) {
		t.Fatalf("it does not say why: %v", err)
	}
}

func TestALockSharedByTwoGoroutinesIsAnError(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	holder, sharedLock := newLock(t, r, name), newLock(t, r, name)
	want(t, r.Lock(holder))
	first := make(chan error)
	go func() { first <- r.Lock(sharedLock) }()
	eventually(t, "the first waits", func() bool { return waitersOf(holder) == "1" })
	want(t, r.Lock(sharedLock), ErrBusy)
	want(t, r.Unlock(sharedLock), ErrBusy)
	_, err := r.TryLock(sharedLock)
	want(t, err, ErrBusy)
	want(t, r.Unlock(holder))
	want(t, <-first)
	want(t, r.Lock(sharedLock), ErrAlreadyHeld)
	want(t, r.Unlock(sharedLock))

	// Any number of them, at any moment: an error at worst, and never two holders.
	var group sync.WaitGroup
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 100 {
				if err := r.LockWithTimeout(sharedLock, time.Second); err == nil {
					want2(t, r.Unlock(sharedLock))
				} else if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrAlreadyHeld) {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
	if err := r.Unlock(sharedLock); err != nil {
		want(t, err, ErrUnlockUnlocked)
	}
	want(t, r.LockWithTimeout(holder, 0))
	want(t, r.Unlock(holder))
}

func want2(t *testing.T, err error) {
	if err != nil && !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
}

func TestLockContext(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	one, two := newLock(t, r, name), newLock(t, r, name)
	want(t, r.Lock(one))

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.LockContext(ctx, two) }()
	eventually(t, "it waits", func() bool { return waitersOf(two) == "1" })
	cancel()
	want(t, <-done, ErrCancelled, context.Canceled)
	eventually(t, "its place is given up", func() bool { return waitersOf(two) == "0" })
	want(t, r.LockContext(ctx, two), ErrCancelled, context.Canceled)

	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	want(t, r.LockContext(ctx, two), ErrCancelled, context.DeadlineExceeded, ErrLockTimeout)

	because := errors.New("because")
	caused, cancelCause := context.WithCancelCause(t.Context())
	cancelCause(because)
	want(t, r.LockContext(caused, two), because, context.Canceled)

	want(t, r.Unlock(one))
	want(t, r.LockContext(t.Context(), two))
	want(t, r.Unlock(two))
}

func TestCancelEndsTheWaitAlsoWhereTheServerIsSilent(t *testing.T) {
	s := privateServer(t)
	r := s.locker(t)
	lock, other := newLock(t, r, "n"), newLock(t, r, "n")
	want(t, r.Lock(other))
	s.pause(t)
	defer s.resume(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	want(t, r.LockContext(ctx, lock), ErrCancelled, context.DeadlineExceeded)
	if took := time.Since(begun); took > time.Second {
		t.Fatalf("it took %v", took)
	}
}

func TestLostIsTold(t *testing.T) {
	r := newLocker(t, WithLease(150*time.Millisecond), WithoutRenewal())
	lock := newLock(t, r, freshName())
	want(t, r.Lock(lock))
	first := lock.Lost()
	ctx := lock.Context(t.Context())
	select {
	case <-first:
		t.Fatal("lost while it is held")
	default:
	}
	<-first
	<-ctx.Done()
	want(t, context.Cause(ctx), ErrLost, ErrUnlockUnlocked)
	want(t, context.Cause(lock.Context(t.Context())), ErrLost)
	if lock.Token() != 0 {
		t.Fatal("a token without the lock")
	}
	if n := len(r.opened.core.native.held); n != 0 {
		t.Fatalf("%d locks are still kept", n)
	}
	want(t, r.Unlock(lock), ErrLost, ErrUnlockUnlocked)
	err := r.Unlock(lock)
	want(t, err, ErrUnlockUnlocked)
	if errors.Is(err, ErrLost) {
		t.Fatal("told twice")
	}

	// The next acquisition has a channel and a context of its own.
	want(t, r.Lock(lock))
	second := lock.Lost()
	ctx = lock.Context(t.Context())
	select {
	case <-second:
		t.Fatal("the second is lost at once")
	default:
	}
	want(t, r.Extend(lock, time.Minute))
	if lock.Remaining() < 50*time.Second {
		t.Fatal(lock.Remaining())
	}
	want(t, r.Unlock(lock))
	<-ctx.Done()
	want(t, context.Cause(ctx), ErrUnlockUnlocked)
	select {
	case <-second:
		t.Fatal("a released lock is not lost")
	default:
	}
}

func TestRenewalKeepsTheLock(t *testing.T) {
	r := newLocker(t, WithLease(150*time.Millisecond))
	name := freshName()
	lock, other := newLock(t, r, name), newLock(t, r, name)
	want(t, r.Lock(lock))
	want(t, r.LockWithTimeout(other, 600*time.Millisecond), ErrLockTimeout)
	if mine, err := r.IsLockedByMe(lock); !mine || err != nil {
		t.Fatal(mine, err)
	}
	want(t, r.Unlock(lock))
}

func TestUnlockNeverRemovesSomebodyElsesLock(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	one, two := newLock(t, r, name), newLock(t, r, name)
	want(t, r.Lock(one))
	ctx := one.Context(t.Context())
	shared.must(t, "DEL", "test:"+name)
	want(t, r.Lock(two))
	want(t, r.Unlock(one), ErrNotOwner)
	<-ctx.Done()
	want(t, context.Cause(ctx), ErrLost)
	<-one.Lost()
	if mine, err := r.IsLockedByMe(two); !mine || err != nil {
		t.Fatal(mine, err)
	}
	want(t, r.Unlock(two))
}

func TestTheListOfTheOriginalCountsAsHeld(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	lock := newLock(t, r, name)
	theirs := uuid.New()
	shared.must(t, "LPUSH", "test:"+name, theirs.String())
	if got, err := r.TryLock(lock); got || err != nil {
		t.Fatal(got, err)
	}
	if locked, err := r.IsLocked(lock); !locked || err != nil {
		t.Fatal(locked, err)
	}
	want(t, r.Unlock(lock), ErrNotOwner)
	_, _, err := r.Owner(lock)
	want(t, err, ErrLockerError)
	done := make(chan error)
	go func() { done <- r.LockWithTimeout(lock, 20*time.Second) }()
	want(t, r.LockWithTimeout(newLock(t, r, name), 100*time.Millisecond), ErrLockTimeout)
	shared.must(t, "LPOP", "test:"+name)
	want(t, <-done)
	want(t, r.Unlock(lock))
}

func TestDo(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	probe := newLock(t, r, name)
	mistake := errors.New("mistake")
	var inside context.Context
	err := r.Do(t.Context(), name, "test", func(ctx context.Context) error {
		inside = ctx
		if locked, err := r.IsLocked(probe); !locked || err != nil {
			t.Error(locked, err)
		}
		return mistake
	})
	want(t, err, mistake)
	if inside.Err() == nil {
		t.Fatal("the context outlives the lock")
	}
	want(t, r.Do(t.Context(), name, "test", func(context.Context) error { return nil }))

	func() {
		defer func() {
			if recover() != "panic" {
				t.Error("the panic is gone")
			}
		}()
		_ = r.Do(t.Context(), name, "test", func(context.Context) error { panic("panic") })
	}()
	if locked, err := r.IsLocked(probe); locked || err != nil {
		t.Fatal("held after the panic", locked, err)
	}

	short := newLocker(t, WithLease(100*time.Millisecond), WithoutRenewal())
	err = short.Do(t.Context(), name, "test", func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
	want(t, err, ErrLost)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = r.Do(ctx, name, "test", func(context.Context) error { t.Error("it ran"); return nil })
	want(t, err, context.Canceled)
}

func TestMutex(t *testing.T) {
	r := newLocker(t)
	m := r.Mutex(newLock(t, r, freshName()))
	count := 0
	var group sync.WaitGroup
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 50 {
				m.Lock()
				count++
				m.Unlock()
			}
		}()
	}
	group.Wait()
	if count != 400 {
		t.Fatal(count)
	}
	defer func() {
		err, _ := recover().(error)
		want(t, err, ErrUnlockUnlocked)
	}()
	m.Unlock()
}

func TestMemory(t *testing.T) {
	r := New(WithURL("memory://"))
	defer r.Close()
	one, two := newLock(t, r, "n"), newLock(t, r, "n")
	want(t, r.Lock(one))
	want(t, r.LockWithTimeout(two, 20*time.Millisecond), ErrLockTimeout)
	done := make(chan error)
	go func() { done <- r.Lock(two) }()
	want(t, r.Unlock(one))
	want(t, <-done)
	want(t, r.Unlock(two))
}
