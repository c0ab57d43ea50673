// Attempts with growing pauses. REDIS_HOST and REDIS_PORT say where the server is.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/araminian/dlock"
)

func main() {
	locker := dlock.NewRedisLocker(
		dlock.WithRedisHost(cmp.Or(os.Getenv("REDIS_HOST"), "localhost")),
		dlock.WithRedisPort(cmp.Or(os.Getenv("REDIS_PORT"), "6379")),
	)
	holder, err := locker.NewLock("resource-name", "group-name")
	if err != nil {
		log.Fatal(err)
	}
	other, err := locker.NewLock("resource-name", "group-name")
	if err != nil {
		log.Fatal(err)
	}
	if err := locker.Lock(holder); err != nil {
		log.Fatal(err)
	}

	// Four attempts, with waits of 10, 20 and 40 ms between them.
	err = locker.LockWithRetryBackoff(other, 3, 10*time.Millisecond)
	fmt.Println("while it is held, timed out:", errors.Is(err, dlock.ErrLockTimeout))

	// The holder is done after 100 ms; attempts after 50, 150 and 350 ms.
	time.AfterFunc(100*time.Millisecond, func() {
		if err := locker.Unlock(holder); err != nil {
			log.Fatal(err)
		}
	})
	err = locker.LockWithRetryBackoff(other, 10, 50*time.Millisecond)
	fmt.Println("while it is being released:", err)
	if err := locker.Unlock(other); err != nil {
		log.Fatal(err)
	}
}
