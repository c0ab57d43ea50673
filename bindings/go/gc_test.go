package dlock

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// watched says when the object is gone.
func watched[T any](object *T) *atomic.Bool {
	gone := new(atomic.Bool)
	runtime.AddCleanup(object, func(gone *atomic.Bool) { gone.Store(true) }, gone)
	return gone
}

func collected(gone *atomic.Bool) func() bool {
	return func() bool {
		runtime.GC()
		return gone.Load()
	}
}

func TestAForgottenLockIsFreed(t *testing.T) {
	r := newLocker(t)
	lock := newLock(t, r, freshName())
	want(t, r.Lock(lock))
	want(t, r.Unlock(lock))
	gone := watched(lock.state)
	lock = nil
	eventually(t, "the lock is freed", collected(gone))
	// One that was waited for in vain, and one that was lost.
	holder := newLock(t, r, freshName())
	want(t, r.Lock(holder))
	waiter := newLock(t, r, holder.name)
	want(t, r.LockWithTimeout(waiter, 10*time.Millisecond), ErrLockTimeout)
	gone = watched(waiter.state)
	waiter = nil
	eventually(t, "the waiter is freed", collected(gone))
	want(t, r.Unlock(holder))

	short := newLocker(t, WithLease(100*time.Millisecond), WithoutRenewal())
	lost := newLock(t, short, freshName())
	want(t, short.Lock(lost))
	<-lost.Lost()
	gone = watched(lost.state)
	lost = nil
	eventually(t, "the lost lock is freed", collected(gone))
}

func TestAForgottenLockerIsFreed(t *testing.T) {
	r := New(WithRedisHost("127.0.0.1"), WithRedisPort(shared.port))
	lock := newLock(t, r, freshName())
	want(t, r.Lock(lock))
	want(t, r.Unlock(lock))
	n := r.opened.core.native
	r, lock = nil, nil
	eventually(t, "the locker is closed", func() bool { runtime.GC(); return n.isClosed() })
	<-n.collected
}

func TestAHeldLockIsNeverFreed(t *testing.T) {
	name := freshName()
	var handle *native
	func() {
		r := New(WithRedisHost("127.0.0.1"), WithRedisPort(shared.port), WithLease(200*time.Millisecond))
		want(t, r.Lock(newLock(t, r, name)))
		handle = r.opened.core.native
	}()
	other := newLocker(t)
	probe := newLock(t, other, name)
	for begun := time.Now(); time.Since(begun) < time.Second; time.Sleep(50 * time.Millisecond) {
		runtime.GC()
		if locked, err := other.IsLocked(probe); !locked || err != nil {
			t.Fatal("the lock is gone", err)
		}
	}
	if handle.isClosed() {
		t.Fatal("the locker of a held lock was closed")
	}
	handle.close()
	want(t, other.LockWithTimeout(probe, 0))
	want(t, other.Unlock(probe))
}
