package dlock

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func threads(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0 // not on Linux
	}
	return len(entries)
}

func TestManyWaitersInOrderOnFewThreads(t *testing.T) {
	const waiters = 10_000
	r := newLocker(t)
	name := freshName()
	holder := newLock(t, r, name)
	want(t, r.Lock(holder))
	n := r.opened.core.native
	var order []int
	var group sync.WaitGroup
	for i := range waiters {
		lock := newLock(t, r, name)
		group.Add(1)
		go func() {
			defer group.Done()
			if err := r.Lock(lock); err != nil {
				t.Error(err)
				return
			}
			order = append(order, i) // the lock is what keeps this from racing
			if err := r.Unlock(lock); err != nil {
				t.Error(err)
			}
		}()
		for n.submitted.Load() < int64(i+1) {
			runtime.Gosched()
		}
	}
	if got := threads(t); got > 24 {
		t.Errorf("%d threads", got)
	}
	t.Logf("%d threads with %d waiting", threads(t), waiters)
	want(t, r.Unlock(holder))
	most := 0
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-time.After(20 * time.Millisecond):
			most = max(most, threads(t))
		}
	}
	t.Logf("at most %d threads while they took turns", most)
	if most > 24 {
		t.Errorf("%d threads", most)
	}
	if len(order) != waiters {
		t.Fatalf("%d turns", len(order))
	}
	for i, got := range order {
		if got != i {
			t.Fatalf("turn %d is that of waiter %d", i, got)
		}
	}
}

func TestMutualExclusionAndTokens(t *testing.T) {
	lockers := []*RedisLocker{newLocker(t), newLocker(t)}
	name := freshName()
	var inside atomic.Int32
	var last uint64
	var group sync.WaitGroup
	for i := range 32 {
		r := lockers[i%len(lockers)]
		group.Add(1)
		go func() {
			defer group.Done()
			for range 40 {
				lock, err := r.NewLock(name, "test")
				if err != nil {
					t.Error(err)
					return
				}
				if err := r.Lock(lock); err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two inside")
				}
				if token := lock.Token(); token <= last {
					t.Errorf("token %d after %d", token, last)
				} else {
					last = token
				}
				inside.Add(-1)
				if err := r.Unlock(lock); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
}

func TestManyLocksAtOnce(t *testing.T) {
	r := newLocker(t)
	var group sync.WaitGroup
	for range 64 {
		name := freshName()
		group.Add(1)
		go func() {
			defer group.Done()
			for range 50 {
				lock, err := r.NewLock(name, "test")
				if err != nil {
					t.Error(err)
					return
				}
				if err := r.Lock(lock); err != nil {
					t.Error(err)
				}
				if err := r.Unlock(lock); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
	if got := threads(t); got > 32 {
		t.Errorf("%d threads", got)
	}
}
