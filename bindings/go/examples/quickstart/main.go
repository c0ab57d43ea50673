// The smallest use: one lock around a critical section. REDIS_HOST and REDIS_PORT say where the server is.
package main

import (
	"cmp"
	"fmt"
	"log"
	"os"

	"github.com/araminian/dlock"
)

func main() {
	locker := dlock.NewRedisLocker(
		dlock.WithRedisHost(cmp.Or(os.Getenv("REDIS_HOST"), "localhost")),
		dlock.WithRedisPort(cmp.Or(os.Getenv("REDIS_PORT"), "6379")),
	)

	lock, err := locker.NewLock("my-resource", "my-group")
	if err != nil {
		log.Fatal(err)
	}
	if err := locker.Lock(lock); err != nil {
		log.Fatal(err)
	}
	defer locker.Unlock(lock)

	fmt.Println("Executing critical section...")
}
