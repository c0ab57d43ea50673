// Waiting with a limit, and not at all. REDIS_HOST and REDIS_PORT say where the server is.
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

	acquired, err := locker.TryLock(holder)
	fmt.Println("TryLock of the first:", acquired, err)
	acquired, err = locker.TryLock(other)
	fmt.Println("TryLock of the second:", acquired, err)

	err = locker.LockWithTimeout(other, 200*time.Millisecond)
	fmt.Println("timed out:", errors.Is(err, dlock.ErrLockTimeout))

	if err := locker.Unlock(holder); err != nil {
		log.Fatal(err)
	}
	err = locker.LockWithTimeout(other, 200*time.Millisecond)
	fmt.Println("after the release:", err)
	if err := locker.Unlock(other); err != nil {
		log.Fatal(err)
	}
}
