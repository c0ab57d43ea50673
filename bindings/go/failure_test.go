package dlock

import (
	"context"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func (s *server) pause(t testing.TB) {
	t.Helper()
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func (s *server) resume(t testing.TB) {
	t.Helper()
	if err := s.process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

func TestUnreachableServer(t *testing.T) {
	port, err := freePort()
	want(t, err)
	var r Locker = NewRedisLocker(WithRedisHost("127.0.0.1"), WithRedisPort(port))
	_, err = r.NewLock("n", "g")
	want(t, err, ErrRedisClientNotConnected)
	if !strings.Contains(err.Error(), "127.0.0.1:"+port) {
		t.Fatalf("it does not say which server: %v", err)
	}
}

// A server that accepts and never answers: as many as there are wait no longer than one of them.
func TestASilentServerDelaysNewLockOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	want(t, err)
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	r := New(WithRedisHost("127.0.0.1"), WithRedisPort(port), WithConnectTimeout(300*time.Millisecond),
		WithResponseTimeout(300*time.Millisecond))
	defer r.Close()
	begun := time.Now()
	var group sync.WaitGroup
	for range 200 {
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := r.NewLock("n", "g"); err == nil {
				t.Error("a lock without a server")
			}
		}()
	}
	group.Wait()
	if took := time.Since(begun); took > 5*time.Second {
		t.Fatalf("it took %v", took)
	}
}

func TestServerKilledDuringLock(t *testing.T) {
	s := privateServer(t)
	r := s.locker(t, WithResponseTimeout(500*time.Millisecond))
	one, two := newLock(t, r, "n"), newLock(t, r, "n")
	want(t, r.Lock(one))
	done := make(chan error)
	go func() { done <- r.Lock(two) }()
	eventually(t, "it waits", func() bool { return r.opened.core.native.waiters.Load() == 1 })
	begun := time.Now()
	s.kill()
	want(t, <-done, ErrRedisClientNotConnected, ErrLockerError)
	if took := time.Since(begun); took > 3*time.Second {
		t.Fatalf("it took %v", took)
	}
	begun = time.Now()
	want(t, r.LockWithTimeout(two, 100*time.Millisecond), ErrRedisClientNotConnected)
	if took := time.Since(begun); took > time.Second {
		t.Fatalf("it took %v", took)
	}
	// What is left to do is done where the server is back.
	want(t, s.start())
	eventually(t, "it reconnects", func() bool { return r.LockWithTimeout(two, time.Second) == nil })
	want(t, r.Unlock(two))
}

func TestAnOutageIsSurvivedWhereTheDeadlineAllows(t *testing.T) {
	s := privateServer(t)
	r := s.locker(t)
	one, two := newLock(t, r, "n"), newLock(t, r, "n")
	want(t, r.Lock(one))
	done := make(chan error)
	go func() { done <- r.LockWithTimeout(two, 30*time.Second) }()
	eventually(t, "it waits", func() bool { return r.opened.core.native.waiters.Load() == 1 })
	s.kill() // and with it all that it knew
	want(t, s.start())
	want(t, <-done)
	want(t, r.Unlock(two))
}

func TestClose(t *testing.T) {
	r := newLocker(t)
	name := freshName()
	held, waiting := newLock(t, r, name), newLock(t, r, name)
	want(t, r.Lock(held))
	ctx := held.Context(t.Context())
	const waiters = 50
	done := make(chan error, waiters)
	go func() { done <- r.Lock(waiting) }()
	for range waiters - 1 {
		lock := newLock(t, r, name)
		go func() { done <- r.Lock(lock) }()
	}
	eventually(t, "they wait", func() bool { return waitersOf(held) == "50" })
	var group sync.WaitGroup
	for range 4 {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	group.Wait()
	for range waiters {
		want(t, <-done, ErrClosed)
	}
	<-ctx.Done()
	want(t, context.Cause(ctx), ErrClosed)
	want(t, r.Lock(held), ErrClosed)
	want(t, r.Unlock(held), ErrClosed)
	want(t, r.Extend(held, time.Second), ErrClosed)
	_, err := r.IsLocked(held)
	want(t, err, ErrClosed)
	_, err = r.NewLock(name, "test")
	want(t, err, ErrClosed)
	if held.Token() != 0 {
		t.Fatal("a token after Close")
	}
	want(t, newLocker(t).Lock(held), ErrClosed)

	other := newLocker(t)
	want(t, other.LockWithTimeout(newLock(t, other, name), 0)) // Close has released it
	unused := New()
	want(t, unused.Close())
	_, err = unused.NewLock("n", "g")
	want(t, err, ErrClosed)
}
