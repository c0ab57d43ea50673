// Two goroutines compete for one lock, each with a Lock of its own. REDIS_HOST and REDIS_PORT say where the server is.
package main

import (
	"cmp"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/araminian/dlock"
)

func contend(locker dlock.Locker, number int, work time.Duration) {
	lock, err := locker.NewLock("shared-resource", "group1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("Goroutine %d: Attempting to acquire lock\n", number)
	if err := locker.Lock(lock); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("Goroutine %d: Lock acquired\n", number)
	time.Sleep(work)
	// Before the release: who waits acquires at once, and would else often be the first to print.
	fmt.Printf("Goroutine %d: Lock released\n", number)
	if err := locker.Unlock(lock); err != nil {
		log.Fatal(err)
	}
}

func main() {
	locker := dlock.NewRedisLocker(
		dlock.WithRedisHost(cmp.Or(os.Getenv("REDIS_HOST"), "localhost")),
		dlock.WithRedisPort(cmp.Or(os.Getenv("REDIS_PORT"), "6379")),
	)
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		contend(locker, 1, 2*time.Second)
	}()
	go func() {
		defer both.Done()
		time.Sleep(500 * time.Millisecond)
		contend(locker, 2, time.Second)
	}()
	both.Wait()
}
