// Who holds the lock? REDIS_HOST and REDIS_PORT say where the server is.
package main

import (
	"cmp"
	"errors"
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
	mine, err := locker.NewLock("resource-name", "group-name")
	if err != nil {
		log.Fatal(err)
	}
	other, err := locker.NewLock("resource-name", "group-name")
	if err != nil {
		log.Fatal(err)
	}
	show := func(when string) {
		locked, err := locker.IsLocked(other)
		if err != nil {
			log.Fatal(err)
		}
		byMine, err := locker.IsLockedByMe(mine)
		if err != nil {
			log.Fatal(err)
		}
		byOther, err := locker.IsLockedByMe(other)
		if err != nil {
			log.Fatal(err)
		}
		exists, owner, err := locker.Owner(other)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: locked %v, by mine %v, by other %v, owner is mine %v\n", when, locked, byMine, byOther,
			exists && owner == mine.ID())
	}

	show("before")
	if err := locker.Lock(mine); err != nil {
		log.Fatal(err)
	}
	show("held")
	fmt.Println("unlocking somebody else's, not owner:", errors.Is(locker.Unlock(other), dlock.ErrNotOwner))
	if err := locker.Unlock(mine); err != nil {
		log.Fatal(err)
	}
	show("after")
	fmt.Println("unlocking again, unlocked:", errors.Is(locker.Unlock(mine), dlock.ErrUnlockUnlocked))
}
