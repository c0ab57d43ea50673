// One process of a run with faults: the same as worker.c, by the Go package. What it writes down, and what it hears on
// stdin, is described there.
//
//	worker <url> <lease ms> <timeout ms> <name> <history file> <register file> <threads> <locks> <seed>
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/araminian/dlock"
)

const (
	faults = iota
	calm
	stop
)

var (
	process      string
	lease        time.Duration
	locks        int
	history      *os.File
	phase        atomic.Int32
	acquisitions atomic.Uint64
)

type contender struct {
	number  int
	random  *rand.Rand
	reg     *os.File
	locker  *dlock.RedisLocker
	handles []*dlock.Lock
}

// now is CLOCK_BOOTTIME, which all processes share, in microseconds.
func now() int64 {
	const clockBoottime = 7
	var ts syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic(errno)
	}
	return ts.Nano() / 1000
}

func fatal(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %s: %v\n", process, what, err)
	os.Exit(2)
}

// expires: its locker does not renew.
func (c *contender) expires() bool { return c.number%4 == 3 }

func (c *contender) below(bound int) int { return c.random.IntN(bound) }

func (c *contender) pause(atMost time.Duration) {
	time.Sleep(time.Duration(c.random.Int64N(int64(atMost))))
}

// note writes one line with one system call.
func (c *contender) note(kind string, at int64, lock int, rest string) {
	line := fmt.Sprintf("%s at=%d lock=lock%d by=%s.t%d.l%d%s\n", kind, at, lock, process, c.number, lock, rest)
	if _, err := history.WriteString(line); err != nil {
		fatal("the history", err)
	}
}

// write reaches what the lock protects.
func (c *contender) write(lock int, token uint64) {
	for syscall.Flock(int(c.reg.Fd()), syscall.LOCK_EX) == syscall.EINTR {
	}
	at := now()
	var bytes [8]byte
	if _, err := c.reg.ReadAt(bytes[:], int64(lock)*8); err != nil {
		fatal("the register", err)
	}
	if token >= binary.NativeEndian.Uint64(bytes[:]) {
		binary.NativeEndian.PutUint64(bytes[:], token)
		if _, err := c.reg.WriteAt(bytes[:], int64(lock)*8); err != nil {
			fatal("the register", err)
		}
	}
	c.note("writes", at, lock, fmt.Sprintf(" token=%d", token))
	_ = syscall.Flock(int(c.reg.Fd()), syscall.LOCK_UN)
}

// ask asks for the lock in some way; what it takes is written down.
func (c *contender) ask(lock int) error {
	way, handle, at := 0, c.handles[lock], now()
	if phase.Load() == faults {
		way = c.below(100)
	}
	switch {
	case way < 40:
		c.note("asks", at, lock, "")
		return c.locker.Lock(handle)
	case way < 45:
		patience := time.Duration(20+c.below(500)) * time.Millisecond
		c.note("asks", at, lock, fmt.Sprintf(" deadline=%d", at))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return c.locker.LockContext(ctx, handle)
	case way < 75:
		timeout := time.Duration(20+c.below(2000)) * time.Millisecond
		c.note("asks", at, lock, fmt.Sprintf(" deadline=%d", at+timeout.Microseconds()))
		return c.locker.LockWithTimeout(handle, timeout)
	}
	c.note("asks", at, lock, fmt.Sprintf(" deadline=%d", at))
	if way < 88 {
		taken, err := c.locker.TryLock(handle)
		if err == nil && !taken {
			return dlock.ErrLockTimeout
		}
		return err
	}
	return c.locker.LockWithRetryBackoff(handle, 3, 5*time.Millisecond)
}

// look answers until when the lock is certainly held.
func (c *contender) look(lock int) (until int64, held bool) {
	at := now()
	remaining := c.handles[lock].Remaining()
	return at + remaining.Microseconds(), remaining > 0
}

// work holds for a while, looks, and writes. It answers until when the lock was last seen to be certainly held, and false
// where it was lost.
func (c *contender) work(lock int, token uint64) (until int64, held bool) {
	disturbed := phase.Load() == faults
	seldom := 100
	if c.expires() {
		seldom = 12
	}
	if disturbed && c.below(seldom) == 0 {
		c.pause(2 * lease) // lives on its renewals, or to the end of its lease
	}
	for range 1 + c.below(4) {
		until, held = c.look(lock)
		if !held {
			c.note("lost", now(), lock, "")
			return until, false
		}
		c.note("renewed", now(), lock, fmt.Sprintf(" until=%d", until))
		if disturbed && c.below(250) == 0 {
			c.pause(3 * lease) // looked, dawdled, writes
		}
		c.write(lock, token)
		if disturbed && c.below(40) == 0 {
			_ = c.locker.Extend(c.handles[lock], 100*time.Millisecond+time.Duration(c.below(int(2*lease))))
		}
		c.pause(4 * time.Millisecond)
	}
	return until, true
}

func (c *contender) turn() {
	lock := c.below(locks)
	isCalm := phase.Load() != faults
	if err := c.ask(lock); err != nil {
		c.note("fails", now(), lock, " status=error")
		if errors.Is(err, dlock.ErrLockTimeout) {
			time.Sleep(500 * time.Microsecond)
		} else {
			time.Sleep(5 * time.Millisecond)
		}
		return
	}
	token := c.handles[lock].Token()
	until, held := c.look(lock)
	held = held && token != 0
	if held {
		c.note("acquired", now(), lock, fmt.Sprintf(" token=%d until=%d", token, until))
		acquisitions.Add(1)
		until, held = c.work(lock, token)
	} else {
		c.note("misses", now(), lock, "")
	}
	if held {
		c.note("released", now(), lock, "")
	}
	// Its lease may have ended on the way, where the server's disk or the machine stood still.
	if err := c.locker.Unlock(c.handles[lock]); isCalm && held && err != nil && now() < until {
		fatal("a release in calm", err)
	}
	c.pause(time.Millisecond)
}

// open makes a handle for each lock, as soon as the server can be reached.
func (c *contender) open(register string) {
	for n := range locks {
		lock, err := c.locker.NewLock("lock"+strconv.Itoa(n), "faults")
		for errors.Is(err, dlock.ErrRedisClientNotConnected) {
			time.Sleep(5 * time.Millisecond)
			lock, err = c.locker.NewLock("lock"+strconv.Itoa(n), "faults")
		}
		if err != nil {
			fatal("a handle", err)
		}
		c.handles = append(c.handles, lock)
	}
	var err error
	if c.reg, err = os.OpenFile(register, os.O_RDWR, 0); err != nil {
		fatal("the register", err)
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		fatal("arguments", err)
	}
	return n
}

func main() {
	if len(os.Args) != 10 {
		fatal("arguments", errors.New("<url> <lease ms> <timeout ms> <name> <history> <register> <threads> <locks> <seed>"))
	}
	lease, process, locks = time.Duration(number(os.Args[2]))*time.Millisecond, os.Args[4], number(os.Args[8])
	var err error
	if history, err = os.OpenFile(os.Args[5], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		fatal("the history", err)
	}
	_, _ = history.WriteString("history 1\n")
	timeout := time.Duration(number(os.Args[3])) * time.Millisecond
	open := func(renews bool) *dlock.RedisLocker {
		return dlock.New(dlock.WithURL(os.Args[1]), dlock.WithLease(lease), dlock.WithAutoRenew(renews),
			dlock.WithConnectTimeout(timeout), dlock.WithResponseTimeout(timeout))
	}
	renewing, expiring := open(true), open(false)
	threads, seed := number(os.Args[7]), uint64(number(os.Args[9]))
	all := make([]*contender, threads)
	for n := range all {
		all[n] = &contender{number: n, random: rand.New(rand.NewPCG(seed, uint64(n))), locker: renewing}
		if all[n].expires() {
			all[n].locker = expiring
		}
		all[n].open(os.Args[6])
	}
	var running sync.WaitGroup
	for _, c := range all {
		running.Add(1)
		go func() {
			defer running.Done()
			for phase.Load() != stop {
				c.turn()
			}
		}()
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() && lines.Text() != "stop" {
		if lines.Text() == "calm" {
			phase.Store(calm)
			fmt.Println("calm")
		}
	}
	phase.Store(stop)
	running.Wait()
	for _, locker := range []*dlock.RedisLocker{renewing, expiring} {
		if err := locker.Close(); err != nil {
			fatal("closing", err)
		}
	}
	fmt.Printf("done %d\n", acquisitions.Load())
}
