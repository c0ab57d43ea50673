// Package dlock gives distributed locks on Redis: atomic, expiring with their holder, served in order of arrival.
//
//	locker := dlock.NewRedisLocker(dlock.WithRedisHost("localhost"), dlock.WithRedisPort("6379"))
//	lock, err := locker.NewLock("my-resource", "my-group")
//	if err != nil {
//		return err
//	}
//	if err := locker.Lock(lock); err != nil {
//		return err
//	}
//	defer locker.Unlock(lock)
//
// or, in one call, with a context that is cancelled should the lock be lost:
//
//	err := dlock.New().Do(ctx, "my-resource", "my-group", func(ctx context.Context) error { … })
//
// # What a lock promises
//
// One Lock at a time holds a lock, among all processes and machines. A lock has a lease, 30 seconds if nothing else is
// said, which is renewed in the background while it is held: a holder that crashes keeps the others waiting no longer than
// that. A process that is stopped for longer than its lease does lose the lock; [Lock.Lost] and [Lock.Context] tell, and
// what must never be written by two checks the fencing token, [Lock.Token].
//
// # Goroutines
//
// A [RedisLocker] may be used by any number of goroutines; each of them needs a [Lock] of its own. A goroutine that waits
// for a lock costs no thread.
//
// # Lifetimes
//
// Nothing has to be closed. What nobody refers to any more is freed by the garbage collector, but never a lock that is
// held: it stays held, and renewed, until it is unlocked, its locker is closed or the process ends. [RedisLocker.Close]
// is for those who want to give everything back at once.
//
// # Errors
//
// Compare with [errors.Is]: the errors carry the text of what happened around the Err… variables of this package.
//
// # Building
//
// The package stands on libdlock, so it needs cgo, a C compiler, and the library, in one of three ways:
//
//   - Without a build tag: as `make build` leaves it in the repository that this package is a part of. A program built so
//     finds the library there when it runs. For a library in another place add its directory to CGO_CFLAGS (-I) and
//     CGO_LDFLAGS (-L, and -Wl,-rpath, where it is not one of the system's).
//   - With -tags dlock_static: libdlock.a from the same place becomes a part of the program, which can then be copied
//     to a container without libdlock.so.
//   - With -tags dlock_pkgconfig: as pkg-config describes the package dlock.
package dlock
