package dlock

// Everything that crosses into C: one small function for each, so that a call costs one crossing. Knows nothing about
// when to wait and how.

/*
#if !__has_include(<dlock.h>)
#error "dlock: dlock.h is not found. This package is a part of the dlock repository: use it from a checkout, and run `make build` in its root; or see 'Building' in the documentation of this package."
#endif
#include <dlock.h>
#include <stdlib.h>

// A handle, its owner id, and a watch with the handle's number.
static dlock_status dlock_go_open(const dlock_locker *locker, const dlock_queue *queue, const char *names, size_t group,
                                  uint64_t id, dlock_lock **out, char *owner, dlock_error *err) {
	dlock_lock *lock = NULL;
	dlock_status status = dlock_lock_new(locker, names, names + group, &lock, err);
	if (status != DLOCK_OK)
		return status;
	dlock_lock_id(lock, owner);
	status = dlock_lock_watch(lock, queue, id, err);
	if (status != DLOCK_OK)
		dlock_lock_free(lock);
	else
		*out = lock;
	return status;
}

// The operations, as events number them. The blocking form: one attempt without a wait, or a question.
static dlock_status dlock_go_call(const dlock_lock *lock, int kind, bool *flag, uint64_t *token, char *owner,
                                  dlock_error *err) {
	dlock_status status = DLOCK_ERR_INVALID_ARGUMENT;
	switch (kind) {
	case DLOCK_EVENT_ACQUIRE:
		status = dlock_lock_acquire_timeout(lock, 0, err);
		if (status == DLOCK_OK)
			(void)dlock_lock_fencing_token(lock, token, NULL);
		return status;
	case DLOCK_EVENT_TRY_ACQUIRE:
		status = dlock_lock_try_acquire(lock, flag, err);
		if (status == DLOCK_OK && *flag)
			(void)dlock_lock_fencing_token(lock, token, NULL);
		return status;
	case DLOCK_EVENT_RELEASE:
		return dlock_lock_release(lock, err);
	case DLOCK_EVENT_IS_LOCKED:
		return dlock_lock_is_locked(lock, flag, err);
	case DLOCK_EVENT_IS_LOCKED_BY_ME:
		return dlock_lock_is_locked_by_me(lock, flag, err);
	case DLOCK_EVENT_OWNER:
		return dlock_lock_owner(lock, flag, owner, err);
	}
	return status;
}

static dlock_status dlock_go_submit(const dlock_queue *queue, const dlock_lock *lock, int kind, uint64_t milliseconds,
                                    uint32_t retries, uint64_t id, dlock_error *err) {
	switch (kind) {
	case DLOCK_EVENT_ACQUIRE:
		return dlock_submit_acquire(queue, lock, milliseconds, id, err);
	case DLOCK_EVENT_TRY_ACQUIRE:
		return dlock_submit_try_acquire(queue, lock, id, err);
	case DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF:
		return dlock_submit_acquire_retry_backoff(queue, lock, retries, milliseconds, id, err);
	case DLOCK_EVENT_RELEASE:
		return dlock_submit_release(queue, lock, id, err);
	case DLOCK_EVENT_IS_LOCKED:
		return dlock_submit_is_locked(queue, lock, id, err);
	case DLOCK_EVENT_IS_LOCKED_BY_ME:
		return dlock_submit_is_locked_by_me(queue, lock, id, err);
	case DLOCK_EVENT_OWNER:
		return dlock_submit_owner(queue, lock, id, err);
	}
	return DLOCK_ERR_INVALID_ARGUMENT;
}

#cgo noescape dlock_go_open
#cgo nocallback dlock_go_open
#cgo noescape dlock_go_call
#cgo nocallback dlock_go_call
#cgo noescape dlock_go_submit
#cgo nocallback dlock_go_submit
#cgo noescape dlock_queue_wait
#cgo nocallback dlock_queue_wait
#cgo noescape dlock_lock_cancel
#cgo nocallback dlock_lock_cancel
#cgo noescape dlock_lock_fencing_token
#cgo nocallback dlock_lock_fencing_token
#cgo noescape dlock_lock_remaining_ms
#cgo nocallback dlock_lock_remaining_ms
#cgo noescape dlock_lock_extend
#cgo nocallback dlock_lock_extend
*/
import "C"

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/google/uuid"
)

// The operations, numbered as the library's events are.
type opKind int

const (
	opAcquire             opKind = C.DLOCK_EVENT_ACQUIRE
	opTryAcquire          opKind = C.DLOCK_EVENT_TRY_ACQUIRE
	opAcquireRetryBackoff opKind = C.DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF
	opRelease             opKind = C.DLOCK_EVENT_RELEASE
	opIsLocked            opKind = C.DLOCK_EVENT_IS_LOCKED
	opIsLockedByMe        opKind = C.DLOCK_EVENT_IS_LOCKED_BY_ME
	opOwner               opKind = C.DLOCK_EVENT_OWNER
	opLost                opKind = C.DLOCK_EVENT_LOST
)

type status int

const (
	statusOK           status = C.DLOCK_OK
	statusNotOwner     status = C.DLOCK_ERR_NOT_OWNER
	statusUnlocked     status = C.DLOCK_ERR_UNLOCK_UNLOCKED
	statusTimeout      status = C.DLOCK_ERR_LOCK_TIMEOUT
	statusNotConnected status = C.DLOCK_ERR_NOT_CONNECTED
	statusAlreadyHeld  status = C.DLOCK_ERR_ALREADY_HELD
	statusCancelled    status = C.DLOCK_ERR_CANCELLED
	statusLost         status = C.DLOCK_ERR_LOST
	statusClosed       status = C.DLOCK_ERR_CLOSED
	statusBusy         status = C.DLOCK_ERR_BUSY
)

// What answers to which status. Those that later versions add are locker errors.
var kindsOfStatus = map[status][]error{
	C.DLOCK_ERR_LOCKER: {ErrLockerError},
	statusNotOwner:     {ErrNotOwner},
	statusUnlocked:     {ErrUnlockUnlocked},
	statusTimeout:      {ErrLockTimeout},
	// Where it was connected before, callers of the original package check for a locker error.
	statusNotConnected:           {ErrRedisClientNotConnected, ErrLockerError},
	C.DLOCK_ERR_INVALID_ARGUMENT: {ErrInvalidArgument},
	statusAlreadyHeld:            {ErrAlreadyHeld},
	statusCancelled:              {ErrCancelled},
	statusLost:                   {ErrLost, ErrUnlockUnlocked},
	statusClosed:                 {ErrClosed},
	C.DLOCK_ERR_FORKED:           {ErrForked},
	C.DLOCK_ERR_PANIC:            {ErrInternal},
	statusBusy:                   {ErrBusy},
}

func (s status) err(message string) error {
	if s == statusOK {
		return nil
	}
	kinds := kindsOfStatus[s]
	if kinds == nil {
		kinds = []error{ErrLockerError}
	}
	return newError(message, kinds...)
}

// answer is how an operation ended.
type answer struct {
	status  status
	flag    bool
	token   uint64
	owner   uuid.UUID
	message string
}

func (a *answer) err() error { return a.status.err(a.message) }

func (a *answer) setOwner(array []C.char) {
	text := before(array)
	owner, err := uuid.ParseBytes(text)
	if err != nil {
		a.status, a.message = C.DLOCK_ERR_LOCKER, fmt.Sprintf("the owner %q is no UUID", text)
	}
	a.owner = owner
}

// text is a copy of what is before the NUL. (What is given to C.GoString escapes to the heap.)
func text(array []C.char) string { return string(before(array)) }

func before(array []C.char) []byte {
	whole := unsafe.Slice((*byte)(unsafe.Pointer(&array[0])), len(array))
	text, _, _ := bytes.Cut(whole, []byte{0})
	return text
}

// milliseconds rounds up: a wait is never cut short.
func milliseconds(d time.Duration) C.uint64_t {
	if d == noDeadline {
		return C.DLOCK_WAIT_FOREVER
	}
	ms := d / time.Millisecond
	if d%time.Millisecond > 0 {
		ms++
	}
	return C.uint64_t(ms)
}

// clamp keeps a count within what the library takes.
func clamp(count int) C.uint32_t {
	if int64(count) > math.MaxUint32 {
		return math.MaxUint32
	}
	return C.uint32_t(count)
}

// redacted leaves the credentials out of a URL, however malformed.
func redacted(url string) string {
	scheme, rest, found := strings.Cut(url, "://")
	if !found {
		return "a malformed URL"
	}
	rest, _, _ = strings.Cut(rest, "?") // parameters may hold a password, with an @ in it
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = rest[at+1:]
	}
	return scheme + "://" + rest
}

// --- lockers and queues ---

type handles struct {
	locker *C.dlock_locker
	queue  *C.dlock_queue
}

func openHandles(settings []setting) (handles, error) {
	var e C.dlock_error
	var h handles
	var options *C.dlock_options
	if s := C.dlock_options_new(&options, &e); s != C.DLOCK_OK {
		return h, status(s).err(text(e.message[:]))
	}
	defer C.dlock_options_free(options)
	for _, each := range settings {
		if err := each.apply(options); err != nil {
			return h, err
		}
	}
	if s := C.dlock_locker_new(options, &h.locker, &e); s != C.DLOCK_OK {
		return h, status(s).err(text(e.message[:]))
	}
	if s := C.dlock_queue_new(h.locker, &h.queue, &e); s != C.DLOCK_OK {
		C.dlock_locker_free(h.locker)
		return h, status(s).err(text(e.message[:]))
	}
	return h, nil
}

func (s setting) apply(options *C.dlock_options) error {
	var e C.dlock_error
	var result C.dlock_status
	if strings.ContainsRune(s.text, 0) {
		return invalid("the server's name contains a NUL")
	}
	value := C.CString(s.text)
	defer C.free(unsafe.Pointer(value))
	if s.duration < 0 {
		return invalid(fmt.Sprintf("%v: a negative duration", s.duration))
	}
	switch s.what {
	case setHost:
		result = C.dlock_options_set_host(options, value, &e)
	case setPort:
		port, err := strconv.ParseUint(s.text, 10, 16)
		if err != nil || port == 0 {
			return invalid(fmt.Sprintf("port: %q is no number from 1 to 65535", s.text))
		}
		result = C.dlock_options_set_port(options, C.uint16_t(port), &e)
	case setURL:
		result = C.dlock_options_set_url(options, value, &e)
	case setLease:
		result = C.dlock_options_set_lease_ms(options, milliseconds(s.duration), &e)
	case setAutoRenew:
		result = C.dlock_options_set_auto_renew(options, C.bool(s.flag), &e)
	case setConnectTimeout:
		result = C.dlock_options_set_connect_timeout_ms(options, milliseconds(s.duration), &e)
	case setResponseTimeout:
		result = C.dlock_options_set_response_timeout_ms(options, milliseconds(s.duration), &e)
	}
	return status(result).err(text(e.message[:]))
}

// file is the queue's descriptor, a copy of it, for Go's netpoller.
func (h handles) file() (*os.File, error) {
	fd, err := syscall.Dup(int(C.dlock_queue_fd(h.queue)))
	if err != nil {
		return nil, newError("cannot copy a descriptor: "+err.Error(), ErrLockerError)
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "dlock"), nil
}

func (h handles) warnings() (string, answer) {
	var e C.dlock_error
	var buffer [C.DLOCK_WARNINGS_SIZE]C.char
	s := C.dlock_locker_warnings(h.locker, &buffer[0], C.DLOCK_WARNINGS_SIZE, &e)
	a := answer{status: status(s)}
	if s != C.DLOCK_OK {
		a.message = text(e.message[:])
		return "", a
	}
	return C.GoString(&buffer[0]), a
}

func (h handles) closeLocker() { C.dlock_locker_close(h.locker, nil) }
func (h handles) freeLocker()  { C.dlock_locker_free(h.locker) }
func (h handles) freeQueue()   { C.dlock_queue_free(h.queue) }

// events is room for what one look into the queue brings.
type events []C.dlock_event

func roomFor(count int) events { return make(events, count) }

// take passes on what is there. False: the locker is closed, and nothing is left. Whoever is told only of changes, as Go's
// netpoller is, must look until there is nothing once the locker is being closed: that news comes after the last event.
func (h handles) take(room events, closing *atomic.Bool, each func(id uint64, kind opKind, a answer)) bool {
	for {
		var count C.size_t
		if s := C.dlock_queue_wait(h.queue, &room[0], C.size_t(len(room)), 0, &count, nil); s != C.DLOCK_OK {
			return false
		}
		for i := range room[:count] {
			event := &room[i]
			a := answer{status: status(event.status), flag: bool(event.flag), token: uint64(event.token)}
			if a.status != statusOK {
				a.message = text(event.message[:])
			}
			if event.owner[0] != 0 {
				a.setOwner(event.owner[:])
			}
			each(uint64(event.user_data), opKind(event.kind), a)
		}
		if count == 0 || (int(count) < len(room) && !closing.Load()) {
			return true
		}
	}
}

// --- locks ---

type lockHandle = *C.dlock_lock

// openLock makes a handle, watched in the queue under the number id.
func (h handles) openLock(name, group string, id uint64) (lockHandle, uuid.UUID, answer) {
	var e C.dlock_error
	var lock lockHandle
	var owner [C.DLOCK_UUID_SIZE]C.char
	names := make([]byte, 0, 128)
	names = append(append(names, name...), 0)
	start := len(names)
	names = append(append(names, group...), 0)
	s := C.dlock_go_open(h.locker, h.queue, (*C.char)(unsafe.Pointer(&names[0])), C.size_t(start), C.uint64_t(id), &lock,
		&owner[0], &e)
	a := answer{status: status(s)}
	if s != C.DLOCK_OK {
		a.message = text(e.message[:])
		return nil, uuid.Nil, a
	}
	a.setOwner(owner[:])
	return lock, a.owner, a
}

func freeLock(lock lockHandle) { C.dlock_lock_free(lock) }

func callLock(lock lockHandle, kind opKind) (a answer) {
	var e C.dlock_error
	var flag C.bool
	var token C.uint64_t
	var owner [C.DLOCK_UUID_SIZE]C.char
	s := C.dlock_go_call(lock, C.int(kind), &flag, &token, &owner[0], &e)
	a.status, a.flag, a.token = status(s), bool(flag), uint64(token)
	if s != C.DLOCK_OK {
		a.message = text(e.message[:])
	} else if kind == opOwner && a.flag {
		a.setOwner(owner[:])
	}
	return a
}

func (h handles) submitLock(lock lockHandle, kind opKind, wait time.Duration, retries int, id uint64) (a answer) {
	var e C.dlock_error
	s := C.dlock_go_submit(h.queue, lock, C.int(kind), milliseconds(wait), clamp(retries), C.uint64_t(id), &e)
	a.status = status(s)
	if s != C.DLOCK_OK {
		a.message = text(e.message[:])
	}
	return a
}

func cancelLock(lock lockHandle) { C.dlock_lock_cancel(lock, nil) }

func tokenOfLock(lock lockHandle) uint64 {
	var token C.uint64_t
	if C.dlock_lock_fencing_token(lock, &token, nil) != C.DLOCK_OK {
		return 0
	}
	return uint64(token)
}

func remainingOfLock(lock lockHandle) time.Duration {
	var left C.uint64_t
	if C.dlock_lock_remaining_ms(lock, &left, nil) != C.DLOCK_OK {
		return 0
	}
	return time.Duration(min(uint64(left), math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
}

func extendLock(lock lockHandle, lease time.Duration) error {
	var e C.dlock_error
	s := C.dlock_lock_extend(lock, milliseconds(lease), &e)
	return status(s).err(text(e.message[:]))
}
