package dlock_test

// What programs written for the original package rely on: this file compiles against both.

import (
	"reflect"
	"testing"
	"time"

	"github.com/araminian/dlock"
	"github.com/google/uuid"
)

// mock is what users have in their tests: it has the nine methods and no other.
type mock struct{}

func (mock) NewLock(name string, group string) (*dlock.Lock, error)              { return &dlock.Lock{}, nil }
func (mock) Lock(lock *dlock.Lock) error                                         { return nil }
func (mock) Unlock(lock *dlock.Lock) error                                       { return nil }
func (mock) TryLock(lock *dlock.Lock) (bool, error)                              { return true, nil }
func (mock) LockWithTimeout(lock *dlock.Lock, timeout time.Duration) error       { return nil }
func (mock) LockWithRetryBackoff(lock *dlock.Lock, r int, b time.Duration) error { return nil }
func (mock) Owner(lock *dlock.Lock) (bool, uuid.UUID, error)                     { return true, uuid.Nil, nil }
func (mock) IsLockedByMe(lock *dlock.Lock) (bool, error)                         { return true, nil }
func (mock) IsLocked(lock *dlock.Lock) (bool, error)                             { return true, nil }

var (
	_ dlock.Locker = mock{}
	_ dlock.Locker = (*dlock.RedisLocker)(nil)

	_ func(...dlock.RedisLockerOption) dlock.Locker = dlock.NewRedisLocker
	_ func(string) dlock.RedisLockerOption          = dlock.WithRedisHost
	_ func(string) dlock.RedisLockerOption          = dlock.WithRedisPort
	_ dlock.RedisLockerOption                       = func(*dlock.RedisLocker) {}

	_ func(dlock.Locker, string, string) (*dlock.Lock, error)        = dlock.Locker.NewLock
	_ func(dlock.Locker, *dlock.Lock) error                          = dlock.Locker.Lock
	_ func(dlock.Locker, *dlock.Lock) error                          = dlock.Locker.Unlock
	_ func(dlock.Locker, *dlock.Lock) (bool, error)                  = dlock.Locker.TryLock
	_ func(dlock.Locker, *dlock.Lock, time.Duration) error           = dlock.Locker.LockWithTimeout
	_ func(dlock.Locker, *dlock.Lock, int, time.Duration) error      = dlock.Locker.LockWithRetryBackoff
	_ func(dlock.Locker, *dlock.Lock) (bool, uuid.UUID, error)       = dlock.Locker.Owner
	_ func(dlock.Locker, *dlock.Lock) (bool, error)                  = dlock.Locker.IsLockedByMe
	_ func(dlock.Locker, *dlock.Lock) (bool, error)                  = dlock.Locker.IsLocked
	_ func(*dlock.RedisLocker, string, string) (*dlock.Lock, error)  = (*dlock.RedisLocker).NewLock
	_ func(*dlock.RedisLocker, *dlock.Lock) (bool, uuid.UUID, error) = (*dlock.RedisLocker).Owner
)

func TestAPIOfTheOriginal(t *testing.T) {
	if n := reflect.TypeFor[dlock.Locker]().NumMethod(); n != 9 {
		t.Errorf("Locker has %d methods", n)
	}
	for _, each := range []reflect.Type{reflect.TypeFor[dlock.Lock](), reflect.TypeFor[dlock.RedisLocker]()} {
		for i := range each.NumField() {
			if each.Field(i).IsExported() {
				t.Errorf("%v has the exported field %s", each, each.Field(i).Name)
			}
		}
	}
	for name, kind := range map[string]reflect.Type{"userID": reflect.TypeFor[uuid.UUID](), "name": reflect.TypeFor[string](),
		"group": reflect.TypeFor[string]()} {
		if field, ok := reflect.TypeFor[dlock.Lock]().FieldByName(name); !ok || field.Type != kind {
			t.Errorf("Lock.%s is %v", name, field.Type)
		}
	}
	if _, ok := dlock.NewRedisLocker().(*dlock.RedisLocker); !ok {
		t.Error("NewRedisLocker gives something else")
	}
	for err, text := range map[error]string{
		dlock.ErrLockerError:             "locker error",
		dlock.ErrNotOwner:                "not the owner of the lock",
		dlock.ErrUnlockUnlocked:          "unlocking an unlocked lock",
		dlock.ErrLockTimeout:             "lock timeout",
		dlock.ErrRedisClientNotConnected: "Can't connect to redis server",
	} {
		if err.Error() != text {
			t.Errorf("%q, was %q", err, text)
		}
	}
}
