/* Compiled by tests/header.rs as C99, C11, C++11 and C++17, never run: sizes, values and prototypes that the ABI fixes. */
#include <dlock.h>
#include <dlock.h> /* the guard */

#define CHECK(name, condition) typedef char check_##name[(condition) ? 1 : -1]

CHECK(uuid_size, DLOCK_UUID_SIZE == 37);
CHECK(message_size, DLOCK_ERROR_MESSAGE_SIZE == 256);
CHECK(warnings_size, DLOCK_WARNINGS_SIZE == 4096);
CHECK(wait_forever, DLOCK_WAIT_FOREVER == UINT64_MAX);
CHECK(version, DLOCK_VERSION_MAJOR >= 0 && DLOCK_VERSION_MINOR >= 0 && DLOCK_VERSION_PATCH >= 0);
CHECK(version_text, sizeof DLOCK_VERSION >= sizeof "0.0.0");

CHECK(ok, DLOCK_OK == 0);
CHECK(locker, DLOCK_ERR_LOCKER == 1);
CHECK(not_owner, DLOCK_ERR_NOT_OWNER == 2);
CHECK(unlock_unlocked, DLOCK_ERR_UNLOCK_UNLOCKED == 3);
CHECK(lock_timeout, DLOCK_ERR_LOCK_TIMEOUT == 4);
CHECK(not_connected, DLOCK_ERR_NOT_CONNECTED == 5);
CHECK(invalid_argument, DLOCK_ERR_INVALID_ARGUMENT == 6);
CHECK(already_held, DLOCK_ERR_ALREADY_HELD == 7);
CHECK(cancelled, DLOCK_ERR_CANCELLED == 8);
CHECK(lost, DLOCK_ERR_LOST == 9);
CHECK(closed, DLOCK_ERR_CLOSED == 10);
CHECK(forked, DLOCK_ERR_FORKED == 11);
CHECK(panic, DLOCK_ERR_PANIC == 12);
CHECK(busy, DLOCK_ERR_BUSY == 13);

CHECK(event_acquire, DLOCK_EVENT_ACQUIRE == 1);
CHECK(event_try_acquire, DLOCK_EVENT_TRY_ACQUIRE == 2);
CHECK(event_acquire_retry_backoff, DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF == 3);
CHECK(event_release, DLOCK_EVENT_RELEASE == 4);
CHECK(event_is_locked, DLOCK_EVENT_IS_LOCKED == 5);
CHECK(event_is_locked_by_me, DLOCK_EVENT_IS_LOCKED_BY_ME == 6);
CHECK(event_owner, DLOCK_EVENT_OWNER == 7);
CHECK(event_lost, DLOCK_EVENT_LOST == 8);

CHECK(error_size, sizeof(dlock_error) == sizeof(dlock_status) + 256);
CHECK(status_size, sizeof(dlock_status) == sizeof(int));
CHECK(event_owner_size, sizeof(((dlock_event *)0)->owner) == 37);
CHECK(event_message_size, sizeof(((dlock_event *)0)->message) == 256);

/* One entry of every function, with the exact type that a caller, or a dlsym(), would write. */
typedef struct table {
    const char *(*version)(void);
    const char *(*status_name)(int32_t);
    dlock_status (*options_new)(dlock_options **, dlock_error *);
    void (*options_free)(dlock_options *);
    dlock_status (*options_set_text[2])(dlock_options *, const char *, dlock_error *);
    dlock_status (*options_set_port)(dlock_options *, uint16_t, dlock_error *);
    dlock_status (*options_set_ms[3])(dlock_options *, uint64_t, dlock_error *);
    dlock_status (*options_set_auto_renew)(dlock_options *, bool, dlock_error *);
    dlock_status (*locker_new)(const dlock_options *, dlock_locker **, dlock_error *);
    dlock_status (*locker_close)(const dlock_locker *, dlock_error *);
    dlock_status (*locker_warnings)(const dlock_locker *, char *, size_t, dlock_error *);
    void (*locker_free)(dlock_locker *);
    dlock_status (*lock_new)(const dlock_locker *, const char *, const char *, dlock_lock **, dlock_error *);
    void (*lock_free)(dlock_lock *);
    dlock_status (*lock_plain[3])(const dlock_lock *, dlock_error *);
    dlock_status (*lock_flag[3])(const dlock_lock *, bool *, dlock_error *);
    dlock_status (*lock_ms[2])(const dlock_lock *, uint64_t, dlock_error *);
    dlock_status (*lock_number[2])(const dlock_lock *, uint64_t *, dlock_error *);
    dlock_status (*lock_acquire_retry_backoff)(const dlock_lock *, uint32_t, uint64_t, dlock_error *);
    dlock_status (*lock_owner)(const dlock_lock *, bool *, char[DLOCK_UUID_SIZE], dlock_error *);
    dlock_status (*lock_id)(const dlock_lock *, char[DLOCK_UUID_SIZE]);
    dlock_status (*lock_watch)(const dlock_lock *, const dlock_queue *, uint64_t, dlock_error *);
    dlock_status (*queue_new)(const dlock_locker *, dlock_queue **, dlock_error *);
    void (*queue_free)(dlock_queue *);
    dlock_status (*submit[5])(const dlock_queue *, const dlock_lock *, uint64_t, dlock_error *);
    dlock_status (*submit_acquire)(const dlock_queue *, const dlock_lock *, uint64_t, uint64_t, dlock_error *);
    dlock_status (*submit_acquire_retry_backoff)(const dlock_queue *, const dlock_lock *, uint32_t, uint64_t, uint64_t,
                                                 dlock_error *);
    dlock_status (*queue_wait)(const dlock_queue *, dlock_event *, size_t, uint64_t, size_t *, dlock_error *);
    int (*queue_fd)(const dlock_queue *);
} table;

extern const table functions;

const table functions = {
    dlock_version,
    dlock_status_name,
    dlock_options_new,
    dlock_options_free,
    {dlock_options_set_host, dlock_options_set_url},
    dlock_options_set_port,
    {dlock_options_set_lease_ms, dlock_options_set_connect_timeout_ms, dlock_options_set_response_timeout_ms},
    dlock_options_set_auto_renew,
    dlock_locker_new,
    dlock_locker_close,
    dlock_locker_warnings,
    dlock_locker_free,
    dlock_lock_new,
    dlock_lock_free,
    {dlock_lock_acquire, dlock_lock_release, dlock_lock_cancel},
    {dlock_lock_try_acquire, dlock_lock_is_locked, dlock_lock_is_locked_by_me},
    {dlock_lock_acquire_timeout, dlock_lock_extend},
    {dlock_lock_fencing_token, dlock_lock_remaining_ms},
    dlock_lock_acquire_retry_backoff,
    dlock_lock_owner,
    dlock_lock_id,
    dlock_lock_watch,
    dlock_queue_new,
    dlock_queue_free,
    {dlock_submit_try_acquire, dlock_submit_release, dlock_submit_is_locked, dlock_submit_is_locked_by_me,
     dlock_submit_owner},
    dlock_submit_acquire,
    dlock_submit_acquire_retry_backoff,
    dlock_queue_wait,
    dlock_queue_fd,
};
