// The lines of tests/c/agent.c, by the Go package.
//
//	agent <url> <lease ms> <renew 0|1> <connect timeout ms> <response timeout ms> <group> <name>
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/araminian/dlock"
)

// What an error is called in C; of several that it is, the first.
var statuses = []struct {
	err  error
	name string
}{
	{dlock.ErrLost, "LOST"},
	{dlock.ErrInvalidArgument, "INVALID_ARGUMENT"},
	{dlock.ErrAlreadyHeld, "ALREADY_HELD"},
	{dlock.ErrNotOwner, "NOT_OWNER"},
	{dlock.ErrUnlockUnlocked, "UNLOCK_UNLOCKED"},
	{dlock.ErrLockTimeout, "LOCK_TIMEOUT"},
	{dlock.ErrRedisClientNotConnected, "NOT_CONNECTED"},
	{dlock.ErrCancelled, "CANCELLED"},
	{dlock.ErrClosed, "CLOSED"},
	{dlock.ErrBusy, "BUSY"},
	{dlock.ErrForked, "FORKED"},
	{dlock.ErrInternal, "PANIC"},
	{dlock.ErrLockerError, "LOCKER"},
}

func status(err error) string {
	if err == nil {
		return "DLOCK_OK"
	}
	for _, known := range statuses {
		if errors.Is(err, known.err) {
			return "DLOCK_ERR_" + known.name
		}
	}
	return "unknown"
}

type agent struct {
	locker *dlock.RedisLocker
	lock   *dlock.Lock
}

func milliseconds(word string) time.Duration {
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		fatal(err)
	}
	return time.Duration(n) * time.Millisecond
}

func fatal(what any) {
	fmt.Fprintln(os.Stderr, what)
	os.Exit(1)
}

func (a *agent) open(group, name string) error {
	lock, err := a.locker.NewLock(strings.ReplaceAll(name, "''", ""), strings.ReplaceAll(group, "''", ""))
	if err == nil {
		a.lock = lock
	}
	return err
}

// run answers the value, and the error.
func (a *agent) run(words []string, group, name string) (string, error) {
	flag := func(value bool, err error) (string, error) { return strconv.FormatBool(value), err }
	switch words[0] {
	case "new":
		return "-", a.open(group, name)
	case "open":
		return "-", a.open(words[1], words[2])
	case "acquire":
		return "-", a.locker.Lock(a.lock)
	case "acquire_timeout":
		return "-", a.locker.LockWithTimeout(a.lock, milliseconds(words[1]))
	case "try":
		return flag(a.locker.TryLock(a.lock))
	case "backoff":
		retries, err := strconv.Atoi(words[1])
		if err != nil {
			fatal(err)
		}
		return "-", a.locker.LockWithRetryBackoff(a.lock, retries, milliseconds(words[2]))
	case "release":
		return "-", a.locker.Unlock(a.lock)
	case "extend":
		return "-", a.locker.Extend(a.lock, milliseconds(words[1]))
	case "is_locked":
		return flag(a.locker.IsLocked(a.lock))
	case "is_locked_by_me":
		return flag(a.locker.IsLockedByMe(a.lock))
	case "owner":
		exists, owner, err := a.locker.Owner(a.lock)
		if !exists {
			return "nobody", err
		}
		return owner.String(), err
	case "id":
		return a.lock.ID().String(), nil
	case "token":
		return strconv.FormatUint(a.lock.Token(), 10), nil
	case "remaining":
		return strconv.FormatInt(a.lock.Remaining().Milliseconds(), 10), nil
	case "cycle":
		if err := a.locker.Lock(a.lock); err != nil {
			return "-", err
		}
		token := a.lock.Token()
		return strconv.FormatUint(token, 10), a.locker.Unlock(a.lock)
	}
	fatal("unknown command " + words[0])
	return "", nil
}

func main() {
	if len(os.Args) != 8 {
		fatal("agent <url> <lease ms> <renew 0|1> <connect timeout ms> <response timeout ms> <group> <name>")
	}
	locker := dlock.New(
		dlock.WithURL(os.Args[1]),
		dlock.WithLease(milliseconds(os.Args[2])),
		dlock.WithAutoRenew(os.Args[3] == "1"),
		dlock.WithConnectTimeout(milliseconds(os.Args[4])),
		dlock.WithResponseTimeout(milliseconds(os.Args[5])),
	)
	a := agent{locker: locker}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		begun := time.Now()
		value, err := a.run(words, os.Args[6], os.Args[7])
		message := ""
		if err != nil {
			value, message = "-", strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Printf("%s %d %s %s\n", status(err), time.Since(begun).Milliseconds(), value, message)
	}
	if err := locker.Close(); err != nil {
		fatal(err)
	}
}
