// One process of the demo: some goroutines that take turns on one lock. What it says on stdout and hears on stdin is
// described at the top of demo.py; it knows nothing of the others.
//
//	contender <url> <first number> <threads> <seconds> <lease ms>
package main

import (
	"bufio"
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

var stick atomic.Bool

// now is CLOCK_MONOTONIC, which all processes share; Go's own clock counts from the start of the program.
func now() int64 {
	const clockMonotonic = 1
	var ts syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic(errno)
	}
	return ts.Nano()
}

func check(number int, err error) {
	if err != nil {
		fmt.Printf("failed %d %v\n", number, err)
		os.Exit(1)
	}
}

func pause(atMost time.Duration) { time.Sleep(rand.N(atMost)) }

func turn(locker *dlock.RedisLocker, lock *dlock.Lock, number int) {
	waits := now()
	check(number, locker.Lock(lock))
	held := now()
	token := lock.Token()
	if stick.Swap(false) {
		fmt.Printf("stuck %d %d %d %d\n", number, waits, held, token)
		select {} // until somebody kills this process
	}
	time.Sleep(time.Millisecond)
	pause(12 * time.Millisecond)
	freed := now()
	check(number, locker.Unlock(lock))
	fmt.Printf("turn %d %d %d %d %d\n", number, waits, held, freed, token)
}

func contend(locker *dlock.RedisLocker, number int, end time.Time) {
	lock, err := locker.NewLock("demo", "demo")
	check(number, err)
	for time.Now().Before(end) {
		turn(locker, lock, number)
		pause(40 * time.Millisecond)
	}
}

// listen hears what demo.py says. The end of the input means that nobody listens any more.
func listen() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if lines.Text() == "stick" {
			stick.Store(true)
		}
	}
	os.Exit(1)
}

func numbers() (first, count int, seconds float64, lease int) {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: contender <url> <first number> <threads> <seconds> <lease ms>")
		os.Exit(2)
	}
	var errs [4]error
	first, errs[0] = strconv.Atoi(os.Args[2])
	count, errs[1] = strconv.Atoi(os.Args[3])
	seconds, errs[2] = strconv.ParseFloat(os.Args[4], 64)
	lease, errs[3] = strconv.Atoi(os.Args[5])
	for _, err := range errs {
		check(first, err)
	}
	return first, count, seconds, lease
}

func main() {
	first, count, seconds, lease := numbers()
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	locker := dlock.New(dlock.WithURL(os.Args[1]), dlock.WithLease(time.Duration(lease)*time.Millisecond))
	go listen()
	var all sync.WaitGroup
	for i := range count {
		all.Add(1)
		go func() {
			defer all.Done()
			contend(locker, first+i, end)
		}()
	}
	all.Wait()
	check(first, locker.Close())
}
