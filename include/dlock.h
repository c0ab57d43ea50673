/*
 * dlock: distributed locks on Redis.
 *
 * A lock is named by a group and a name, and held by at most one handle at a time, whichever
 * process or machine that handle is on. It has a lease: should its holder die, the server frees the
 * lock when the lease ends. While the holder lives, the lease is renewed in the background. Those
 * who wait are served in order of arrival, and woken by the release itself.
 *
 *     #include <dlock.h>
 *     #include <stdio.h>
 *
 *     int main(void)
 *     {
 *         dlock_locker *locker = NULL;
 *         dlock_lock *lock = NULL;
 *         dlock_error err;
 *
 *         if (dlock_locker_new(NULL, &locker, &err) == DLOCK_OK &&     // localhost:6379
 *             dlock_lock_new(locker, "report", "billing", &lock, &err) == DLOCK_OK &&
 *             dlock_lock_acquire_timeout(lock, 5000, &err) == DLOCK_OK) {
 *             puts("nobody else writes the billing report now");
 *             dlock_lock_release(lock, &err);
 *         }
 *         if (err.status != DLOCK_OK)
 *             fprintf(stderr, "%s: %s\n", dlock_status_name(err.status), err.message);
 *         dlock_lock_free(lock);
 *         dlock_locker_free(locker);
 *         return err.status != DLOCK_OK;
 *     }
 *
 * Build it with: cc example.c -ldlock
 *
 *
 * RULES, which hold for every function below
 *
 * Results. A function that can fail returns a dlock_status, and writes its results through its
 * pointers only if that is DLOCK_OK. Its last parameter is a dlock_error of yours, or NULL: a
 * failure leaves its status and a message for people there, success resets it. There is no "last
 * error" of a thread, so tasks that move between threads see their own. A NULL or non-UTF-8
 * argument answers DLOCK_ERR_INVALID_ARGUMENT with a message that names the parameter; a defect
 * inside the library answers DLOCK_ERR_PANIC. Be prepared for statuses that this header does not
 * list: later versions may add some.
 *
 * Handles. dlock_options, dlock_locker, dlock_lock and dlock_queue are opaque. What _new made, only
 * the _free of that type may free, once; _free(NULL) does nothing. A locker may be freed before its
 * locks and queues: they stay valid memory, answer DLOCK_ERR_CLOSED, and are still to be freed.
 *
 * Threads. A locker and a queue may be used from any thread, by many at once. A lock handle may
 * move between threads, but has one user at a time: a second one gets DLOCK_ERR_BUSY. Only
 * dlock_lock_cancel() and what reads (id, fencing_token, remaining_ms, is_locked, is_locked_by_me,
 * owner) may run beside a blocked call on it. Options are for one thread. In the prototypes `const`
 * marks a handle that the function may share with calls on other threads, as far as just said; it
 * does not mean that nothing changes. Every blocking call says how long it blocks.
 *     Two things are forbidden, since no library can catch them: using a handle after its _free,
 * and freeing a handle during a call that takes that very handle. Closing or freeing a locker while
 * calls on its locks are blocked is fine: they return DLOCK_ERR_CLOSED.
 *
 * Strings. What goes in is NUL-terminated UTF-8 and copied before the call returns. What comes out
 * goes into buffers of yours, of the size given here; the few texts returned as a pointer are
 * static. Nothing is to be freed but handles.
 *
 * Time is in milliseconds, uint64_t. DLOCK_WAIT_FOREVER as a timeout means no deadline.
 *
 * fork(). In the child every handle of the parent answers DLOCK_ERR_FORKED and leaves the parent's
 * connections alone; its locks stay the parent's. Free the handles in the child, which closes its
 * copies of the descriptors, or leave them to exit() or exec(); then make a locker of the child's
 * own. Options are plain data and can be used on. A memory:// store stays the parent's, too: in the
 * child its name stands for another one, empty at first.
 *
 * The process. The library never prints, exits, installs a signal handler or touches the locale. A
 * locker runs a background thread named "dlock" from first need until it is freed, and for moments
 * others whose names begin so, all with every signal blocked; after that nothing is left behind. Before dlclose(), free every
 * locker, lock and queue: code that a thread still runs must not be unmapped. It may end at any
 * time, with threads blocked in calls. Where the system refuses memory, the process is aborted, as
 * Rust's standard library does; where it has no descriptor left, the call says so.
 *
 * Versions. DLOCK_VERSION is that of this header, dlock_version() that of the library loaded. The
 * SONAME changes with the major version of the ABI. Within one, structs keep their size and numbers
 * their meaning; enumerations only gain values.
 *
 *
 * WHAT A CALLER MAY RELY ON
 *
 * Holding. dlock_lock_remaining_ms() is the holder's careful view: while it says more than 0,
 * nobody else can have acquired the lock, provided that the server keeps its data and its wall
 * clock is not stepped. A process that is stopped for longer than its lease does lose the lock;
 * what must never be written by two should check the fencing token (dlock_lock_fencing_token()),
 * which rises with every acquisition of a lock.
 *
 * Not holding. token, remaining and extend answer DLOCK_ERR_UNLOCK_UNLOCKED where the handle never
 * held the lock or has released it, DLOCK_ERR_LOST where it lost it. Acquiring with such a handle
 * starts anew. A release that comes after the handle's time was over answers DLOCK_ERR_LOST, once.
 *
 * Deadlines. At its deadline a call returns DLOCK_ERR_LOCK_TIMEOUT, at most 50 ms late, even where
 * the server is silent; DLOCK_ERR_NOT_CONNECTED, if the server could not be reached at that moment.
 * A call without a deadline tries for the response timeout to reconnect.
 *
 * DLOCK_ERR_NOT_CONNECTED or DLOCK_ERR_LOCKER. Whenever the connection is gone, and until its
 * handshake has succeeded (a wrong password, a server that is still loading, something that is no
 * Redis at all), it is NOT_CONNECTED. What the server answers after that, if it is an error, is
 * LOCKER, with the server's words in the message.
 *
 *
 * WAITING WITHOUT A THREAD
 *
 * A blocked call costs its caller a thread. Programs with an event loop or green threads submit the
 * operation to a dlock_queue instead, which returns at once, and take its outcome later with
 * dlock_queue_wait(): from one thread, or when the descriptor dlock_queue_fd() becomes readable.
 * Every accepted submission ends in exactly one event, which carries the `user_data` given with it;
 * use a number of yours there rather than a pointer to what may be gone by then.
 */


#ifndef DLOCK_H
#define DLOCK_H

/* Generated from src/ffi and cbindgen.toml: change the text there, then run `make header`. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The version of this header, as numbers and as a text; see dlock_version().
 */
#define DLOCK_VERSION_MAJOR 0
#define DLOCK_VERSION_MINOR 1
#define DLOCK_VERSION_PATCH 0
#define DLOCK_VERSION "0.1.0"

/**
 * The size of the buffer for an owner id: 36 characters (lower-case hexadecimal digits and hyphens) and a NUL.
 */
#define DLOCK_UUID_SIZE 37

/**
 * The size of the message in `dlock_error` and `dlock_event`, the NUL included. Longer texts are cut at a character.
 */
#define DLOCK_ERROR_MESSAGE_SIZE 256

/**
 * As a timeout: no deadline.
 */
#define DLOCK_WAIT_FOREVER UINT64_MAX

/**
 * A size for the text of dlock_locker_warnings() that is enough for all that this version knows.
 */
#define DLOCK_WARNINGS_SIZE 4096

/**
 * The outcome of a call. The numbers never change; later versions may add more.
 */
typedef enum {
    /**
     * The call did what it says.
     */
    DLOCK_OK = 0,
    /**
     * The server answered with an error, which the message quotes, or the owner found is no UUID.
     */
    DLOCK_ERR_LOCKER = 1,
    /**
     * Somebody else holds the lock.
     */
    DLOCK_ERR_NOT_OWNER = 2,
    /**
     * Nobody holds the lock, or this handle never acquired it or has released it.
     */
    DLOCK_ERR_UNLOCK_UNLOCKED = 3,
    /**
     * The deadline passed, or the retries were used up, before the lock could be had.
     */
    DLOCK_ERR_LOCK_TIMEOUT = 4,
    /**
     * The server cannot be reached, or refused the handshake (authentication, loading, not a Redis).
     */
    DLOCK_ERR_NOT_CONNECTED = 5,
    /**
     * A parameter is NULL, not UTF-8 or out of range; the message names it.
     */
    DLOCK_ERR_INVALID_ARGUMENT = 6,
    /**
     * This very handle holds the lock: waiting for it would never end.
     */
    DLOCK_ERR_ALREADY_HELD = 7,
    /**
     * dlock_lock_cancel() or dlock_queue_free() ended the call, or its lock was freed.
     */
    DLOCK_ERR_CANCELLED = 8,
    /**
     * The lock was held and then lost: its lease ran out, or the server forgot it.
     */
    DLOCK_ERR_LOST = 9,
    /**
     * The locker is closed or freed.
     */
    DLOCK_ERR_CLOSED = 10,
    /**
     * The handle belongs to the parent of this process.
     */
    DLOCK_ERR_FORKED = 11,
    /**
     * A defect inside the library, which the message describes. Free the locker.
     */
    DLOCK_ERR_PANIC = 12,
    /**
     * Another call is using this lock handle.
     */
    DLOCK_ERR_BUSY = 13,
} dlock_status;

/**
 * Which operation an event reports on. The numbers never change; later versions may add more.
 */
typedef enum {
    /**
     * dlock_submit_acquire() ended.
     */
    DLOCK_EVENT_ACQUIRE = 1,
    /**
     * dlock_submit_try_acquire() ended; `flag`: was the lock taken?
     */
    DLOCK_EVENT_TRY_ACQUIRE = 2,
    /**
     * dlock_submit_acquire_retry_backoff() ended.
     */
    DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF = 3,
    /**
     * dlock_submit_release() ended.
     */
    DLOCK_EVENT_RELEASE = 4,
    /**
     * dlock_submit_is_locked() ended; `flag`: does anybody hold the lock?
     */
    DLOCK_EVENT_IS_LOCKED = 5,
    /**
     * dlock_submit_is_locked_by_me() ended; `flag`: does this handle hold the lock?
     */
    DLOCK_EVENT_IS_LOCKED_BY_ME = 6,
    /**
     * dlock_submit_owner() ended; `flag`: does anybody hold the lock? `owner`: who.
     */
    DLOCK_EVENT_OWNER = 7,
    /**
     * A lock watched by dlock_lock_watch() was lost; `token`: that of the acquisition lost. `status` is
     * `DLOCK_ERR_LOST`, and `message` says why.
     */
    DLOCK_EVENT_LOST = 8,
} dlock_event_kind;

/**
 * One contender for one lock, with an owner id of its own. Two handles with the same name and group compete, also
 * within one thread; a handle acquired twice does not nest.
 *
 * One user at a time: while an acquire, a release or an extend is under way, blocked or submitted, another of them
 * answers `DLOCK_ERR_BUSY`. dlock_lock_cancel() and what only reads (id, fencing token, remaining time, is_locked,
 * is_locked_by_me, owner) may be called beside it, from any thread. May outlive its locker, and then answers
 * `DLOCK_ERR_CLOSED`.
 */
typedef struct dlock_lock dlock_lock;

/**
 * The connections, the background thread and the locks that belong together. A program needs one a server.
 *
 * May be used from any thread, by many at once. Locks and queues may outlive it, and then answer `DLOCK_ERR_CLOSED`.
 */
typedef struct dlock_locker dlock_locker;

/**
 * Where the locks live and how long they last; read once, by dlock_locker_new().
 *
 * Not for two threads at once. May be freed as soon as dlock_locker_new() has returned.
 */
typedef struct dlock_options dlock_options;

/**
 * Collects what submitted operations answer: waiting for many locks without a thread for each.
 *
 * May be used from any thread, by many at once. May outlive its locker.
 */
typedef struct dlock_queue dlock_queue;

/**
 * What went wrong, for people. The caller owns it; it need not be initialised, and any function that takes one
 * accepts NULL instead. A call that succeeds sets it to `DLOCK_OK` and an empty text.
 */
typedef struct {
    /**
     * The same as the function returned.
     */
    dlock_status status;
    /**
     * A NUL-terminated UTF-8 text, without a newline at its end.
     */
    char message[DLOCK_ERROR_MESSAGE_SIZE];
} dlock_error;

/**
 * One finished operation. The caller owns it; it need not be initialised.
 */
typedef struct {
    /**
     * The number given with the submission or the watch.
     */
    uint64_t user_data;
    /**
     * Which operation.
     */
    dlock_event_kind kind;
    /**
     * How it ended: what the blocking function of the same name returns.
     */
    dlock_status status;
    /**
     * Was the lock taken, is it locked, locked by this handle, does anybody hold it? False on failure.
     */
    bool flag;
    /**
     * The fencing token of the lock acquired, or lost; 0 otherwise.
     */
    uint64_t token;
    /**
     * The answer of owner; an empty text otherwise.
     */
    char owner[DLOCK_UUID_SIZE];
    /**
     * What went wrong, NUL-terminated UTF-8; an empty text if nothing did.
     */
    char message[DLOCK_ERROR_MESSAGE_SIZE];
} dlock_event;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library that was loaded, such as "0.1.0"; `DLOCK_VERSION` is that of the header compiled against.
 *
 * The text is static: it lives as long as the library is loaded. Never blocks, never fails; any thread.
 */
const char *dlock_version(void);

/**
 * The name of a status, such as "DLOCK_ERR_LOCKER"; "DLOCK_ERR_UNKNOWN" for a number that this version does not know.
 *
 * The text is static: it lives as long as the library is loaded. Never blocks, never fails; any thread.
 */
const char *dlock_status_name(int32_t status);

/**
 * Makes a set of options: `localhost:6379`, leases of 30,000 ms, renewal on, timeouts of 5,000 ms.
 *
 * `out` gets the options, to be freed with dlock_options_free().
 *
 * Never blocks. Any thread. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `out` is NULL.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_options_new(dlock_options **out, dlock_error *err);

/**
 * Frees options. Lockers made with them are not concerned. NULL is fine.
 *
 * Never blocks. No other call may be using the options.
 */
void dlock_options_free(dlock_options *options);

/**
 * Sets the server's host: a name, an IPv4 or an IPv6 address. The text is copied.
 *
 * Replaces the host of an earlier dlock_options_set_url(). No name is looked up before the connecting.
 *
 * Never blocks. One thread at a time. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `options` or `host` is NULL; `host` is not UTF-8, or no usable host.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_options_set_host(dlock_options *options,
                                    const char *host,
                                    dlock_error *err);

/**
 * Sets the server's TCP port, not 0. Replaces the port of an earlier dlock_options_set_url().
 *
 * Never blocks. One thread at a time. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL, or `port` is 0.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_options_set_port(dlock_options *options, uint16_t port, dlock_error *err);

/**
 * Sets the server by a URL. The text is copied.
 *
 * - `redis://[[user]:password@]host[:port][/db]`: TCP; the port is 6379 if not given.
 * - `rediss://…`: the same with TLS. Parameters: `ca`, a file with the certificates of the CAs to trust instead of the
 *   platform's; `cert` and `key`, files with the client's certificate and its private key; `server_name`, the name that the
 *   server's certificate must have instead of the host's. Files are PEM, and read for each connection.
 * - `redis-sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db]`: the server that these sentinels name as the
 *   primary of that service, asked for with each connection; their port is 26379 if not given. `rediss-sentinel://…`: the same
 *   with TLS. Parameters: `sentinel_username` and `sentinel_password`, the login at the sentinels (that in front of the hosts is
 *   the servers'); `sentinel_tls=no`, TLS to the servers only.
 * - `redis-cluster://[user:password@]host[:port][,host[:port]…]`: a Redis Cluster, on Linux; `rediss-cluster://…` with
 *   TLS. The nodes named are those to begin with; every lock is on the node that has its slot.
 * - `redis-quorum://[[user]:password@]host[:port],host[:port],host[:port][/db]`: 3, 5 or 7 independent servers, of which a
 *   majority holds each lock; all else is the same for all of them. `rediss-quorum://…`: with TLS. On Linux only. Calls
 *   answer DLOCK_ERR_NOT_CONNECTED where fewer than a majority can be used, and name those that cannot; a server that was
 *   restarted or flushed cannot be used for the longest lease. No replicas may be asked for.
 * - `redis+unix:///path/to/socket`: a unix socket. Parameters: `db`, `user`, `pass`.
 * - `memory://name`: no server; one store for all lockers of this process that name it, gone with the last of them.
 *   For tests. A bare `memory://` is private to its locker.
 *
 * Parameters stand behind a `?`, as in `rediss://host/3?ca=/etc/ca.pem&client_name=billing`. Those of every server:
 * `client_name`, what CLIENT LIST calls the connections, "dlock" if not given; `keepalive_ms`, how long a connection may
 * be unused before a ping keeps it open, from 100 to a day, 0 for no pings, 30,000 if not given; `replicas`, how many
 * replicas (1 to 100) must have a lock for it to count as acquired or renewed, and `aof=1`, that it must be on disk, there
 * and at the primary; `replicas_timeout_ms`, how long to wait for that, 1,000 if not given, and at most half of the
 * response timeout. Too few in time: `DLOCK_ERR_LOCKER`, and the lock is given up. What is special in a URL
 * (`% / ? # @ & : [ ]`, and spaces) is written as `%` and two hexadecimal digits in a part that contains it; `+` stands for itself.
 *
 * Replaces all that an earlier URL, host or port set, as a later dlock_options_set_host() or dlock_options_set_port() replaces the
 * URL's host (of a cluster, a quorum or sentinels: all its hosts; of a unix socket: the path) or port and leaves the rest, TLS and
 * login included: of two setters the last wins. A password never appears in a message.
 *
 * Never blocks. One thread at a time. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `options` or `url` is NULL; `url` is not UTF-8, or none of the above; the message names
 *   what is wrong. `rediss…` in a build without TLS.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_options_set_url(dlock_options *options,
                                   const char *url,
                                   dlock_error *err);

/**
 * Sets how long the server keeps a lock that is not renewed, in milliseconds: from 100 to a year; 30,000 if
 * never set.
 *
 * This is how long others wait for a holder that crashed.
 *
 * Never blocks. One thread at a time. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL, or `lease_ms` is out of range.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_options_set_lease_ms(dlock_options *options,
                                        uint64_t lease_ms,
                                        dlock_error *err);

/**
 * Sets whether held locks are renewed in the background, every third of their lease; true if never set.
 *
 * With false a lock is lost when its lease ends, unless dlock_lock_extend() lengthens it.
 *
 * Never blocks. One thread at a time. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_options_set_auto_renew(dlock_options *options,
                                          bool auto_renew,
                                          dlock_error *err);

/**
 * Sets how long one attempt to connect may take, TLS handshake included, in milliseconds: from 1 to a day; 5,000 if never set.
 * The look-up of a host name is not bounded by it: it takes as long as the system's resolver takes.
 *
 * Never blocks. One thread at a time. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL, or `timeout_ms` is out of range.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_options_set_connect_timeout_ms(dlock_options *options,
                                                  uint64_t timeout_ms,
                                                  dlock_error *err);

/**
 * Sets how long the server may take to answer before the connection counts as lost, in milliseconds: from 1
 * to a day; 5,000 if never set. Calls without a deadline of their own also try this long to reconnect.
 *
 * Never blocks. One thread at a time. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `options` is NULL, or `timeout_ms` is out of range.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_options_set_response_timeout_ms(dlock_options *options,
                                                   uint64_t timeout_ms,
                                                   dlock_error *err);

/**
 * Makes a locker. Does no I/O: the first dlock_lock_new() connects.
 *
 * `options` are copied; NULL stands for those of dlock_options_new(): a Redis at `localhost:6379`. `out` gets the
 * locker, to be freed with dlock_locker_free().
 *
 * Never blocks. Any thread. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `out` is NULL.
 * - `DLOCK_ERR_LOCKER`: the system has no descriptor left.
 * - `DLOCK_ERR_PANIC`
 */
dlock_status dlock_locker_new(const dlock_options *options,
                              dlock_locker **out,
                              dlock_error *err);

/**
 * Tells what is not as locks would have it at the server that the locker connected to last, such as an eviction policy
 * that may throw locks away, or a right that the user lacks and can do without.
 *
 * `text` gets one sentence a line, ended by NUL, or an empty text where there is nothing to tell or no connection was made
 * yet. `size` is what `text` has room for, in bytes, 1 at least; `DLOCK_WARNINGS_SIZE` is enough for all that this version
 * knows. What does not fit is left out, from the end. For a log; the words may change from version to version.
 *
 * Never blocks, no I/O. Any thread. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `locker` or `text` is NULL, or `size` is 0.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_locker_warnings(const dlock_locker *locker,
                                   char *text,
                                   size_t size,
                                   dlock_error *err);

/**
 * Closes a locker: calls that are blocked on its locks return `DLOCK_ERR_CLOSED`, submitted operations end with such
 * an event, and locks that are held are released. From then on its locks and queues answer `DLOCK_ERR_CLOSED`; events
 * that are there already can still be taken. Closing again does nothing.
 *
 * Blocks for the releases, at most one response timeout. Any thread, also while others use the locker, its locks or
 * its queues. Returns:
 * - `DLOCK_OK`: closed. A lock that could not be released in that time is ended by its lease.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `locker` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_locker_close(const dlock_locker *locker,
                                dlock_error *err);

/**
 * Closes a locker if dlock_locker_close() has not, ends its thread, and frees it. NULL is fine.
 *
 * Its locks and queues stay valid memory, answer `DLOCK_ERR_CLOSED`, and are still to be freed.
 *
 * Blocks like dlock_locker_close(), and where a connection is just being made until that has been given up: soon, but at the
 * latest when the system's resolver has answered and the connect timeout is over. Any thread, also while calls on its locks
 * and queues are blocked: they return `DLOCK_ERR_CLOSED`. No call that takes this very locker may be running.
 */
void dlock_locker_free(dlock_locker *locker);

/**
 * Makes a lock handle with a fresh owner id. The lock is not acquired yet.
 *
 * `name` and `group` together name the lock; the server's key is `group:name`. Each has 1 to 512 bytes of UTF-8, and
 * `group` no ':'. They are copied. `out` gets the handle, to be freed with dlock_lock_free().
 *
 * Blocks while the locker has no connection known to be up: it then connects, at most for the connect timeout and
 * the response timeout together. Otherwise no I/O. Any thread. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_NOT_CONNECTED`: the server cannot be reached, or refused the handshake.
 * - `DLOCK_ERR_CLOSED`: the locker is closed.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: a parameter is NULL; `name` or `group` is not UTF-8, empty or too long; a ':' in
 *   `group`.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_new(const dlock_locker *locker,
                            const char *name,
                            const char *group,
                            dlock_lock **out,
                            dlock_error *err);

/**
 * Frees a lock handle. NULL is fine.
 *
 * A lock still held is released in the background. An operation still pending in a queue ends with an event of
 * status `DLOCK_ERR_CANCELLED`. Watches end; events of theirs that are there already can still be taken.
 *
 * Never blocks. Any thread. No call that takes this handle may be running: dlock_lock_cancel() ends a blocked one,
 * but wait until it has returned.
 */
void dlock_lock_free(dlock_lock *lock);

/**
 * Acquires the lock, waiting for it as long as it takes, first come, first served.
 *
 * On a handle that lost its lock this starts anew.
 *
 * Blocks until the lock is held. If the connection is lost meanwhile, it reconnects for the response timeout, counted
 * anew with each loss. Any thread, one at a time. Returns:
 * - `DLOCK_OK`: held.
 * - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout.
 * - `DLOCK_ERR_LOCKER`: the server answered with an error.
 * - `DLOCK_ERR_ALREADY_HELD`: this handle holds the lock.
 * - `DLOCK_ERR_CANCELLED`: dlock_lock_cancel() was called.
 * - `DLOCK_ERR_CLOSED`: the locker is closed, or was closed meanwhile.
 * - `DLOCK_ERR_BUSY`: another call is using this handle.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 *
 * After any error the lock is not held; should the server have granted it all the same, it is given back in the
 * background.
 */
dlock_status dlock_lock_acquire(const dlock_lock *lock,
                                dlock_error *err);

/**
 * Acquires the lock if it is free, without waiting for it.
 *
 * `acquired` gets true if the lock is now held by this call, false if somebody holds it already: another handle, or
 * this one.
 *
 * Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, one at a
 * time. Returns:
 * - `DLOCK_OK`: see `acquired`.
 * - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout.
 * - `DLOCK_ERR_LOCKER`: the server answered with an error.
 * - `DLOCK_ERR_CANCELLED`: dlock_lock_cancel() was called during the round trip.
 * - `DLOCK_ERR_CLOSED`: the locker is closed, or was closed meanwhile.
 * - `DLOCK_ERR_BUSY`: another call is using this handle.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `acquired` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_try_acquire(const dlock_lock *lock,
                                    bool *acquired,
                                    dlock_error *err);

/**
 * Acquires the lock like dlock_lock_acquire(), but waits for it no longer than `timeout_ms` milliseconds.
 *
 * 0 makes one attempt; `DLOCK_WAIT_FOREVER` waits as dlock_lock_acquire() does.
 *
 * Blocks at most for `timeout_ms` and 50 ms, even if the server is silent. Any thread, one at a time. Returns:
 * - `DLOCK_OK`: held.
 * - `DLOCK_ERR_LOCK_TIMEOUT`: the lock was not to be had in that time.
 * - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached when the time was over.
 * - `DLOCK_ERR_LOCKER`, `DLOCK_ERR_ALREADY_HELD`, `DLOCK_ERR_CANCELLED`, `DLOCK_ERR_CLOSED`, `DLOCK_ERR_BUSY`,
 *   `DLOCK_ERR_INVALID_ARGUMENT`, `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`: as from dlock_lock_acquire().
 */
dlock_status dlock_lock_acquire_timeout(const dlock_lock *lock,
                                        uint64_t timeout_ms,
                                        dlock_error *err);

/**
 * Acquires the lock by attempts: one, then up to `retries` more, after waits of 1, 2, 4, 8 and so on times
 * `initial_backoff_ms` milliseconds.
 *
 * It does not queue, so those who wait in dlock_lock_acquire() come first.
 *
 * Blocks for the waits and one round trip each. Any thread, one at a time. Returns:
 * - `DLOCK_OK`: held.
 * - `DLOCK_ERR_LOCK_TIMEOUT`: the retries are used up.
 * - `DLOCK_ERR_NOT_CONNECTED`, `DLOCK_ERR_LOCKER`, `DLOCK_ERR_ALREADY_HELD`, `DLOCK_ERR_CANCELLED`,
 *   `DLOCK_ERR_CLOSED`, `DLOCK_ERR_BUSY`, `DLOCK_ERR_INVALID_ARGUMENT`, `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`: as
 *   from dlock_lock_acquire().
 */
dlock_status dlock_lock_acquire_retry_backoff(const dlock_lock *lock,
                                              uint32_t retries,
                                              uint64_t initial_backoff_ms,
                                              dlock_error *err);

/**
 * Releases the lock. The first who waits for it becomes its holder in the same step.
 *
 * The server is asked also where this handle holds nothing, so that the answer says what is the case.
 *
 * Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, one at a
 * time. Returns:
 * - `DLOCK_OK`: released.
 * - `DLOCK_ERR_UNLOCK_UNLOCKED`: nobody holds the lock.
 * - `DLOCK_ERR_NOT_OWNER`: somebody else holds the lock, and keeps it.
 * - `DLOCK_ERR_LOST`: this handle's time was over before the release: others may have held the lock meanwhile. It
 *   is not held now; releasing again answers `DLOCK_ERR_UNLOCK_UNLOCKED`.
 * - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout. The lease ends the lock.
 * - `DLOCK_ERR_LOCKER`: the server answered with an error.
 * - `DLOCK_ERR_CLOSED`: the locker is closed, and has released the lock.
 * - `DLOCK_ERR_BUSY`: another call is using this handle.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_release(const dlock_lock *lock,
                                dlock_error *err);

/**
 * Asks the server whether anybody holds the lock: `locked` gets the answer, which may be out of date on arrival.
 *
 * Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, also beside a
 * blocked call. Returns:
 * - `DLOCK_OK`: see `locked`.
 * - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout.
 * - `DLOCK_ERR_LOCKER`: the server answered with an error.
 * - `DLOCK_ERR_CLOSED`: the locker is closed, or was closed meanwhile.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `locked` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_is_locked(const dlock_lock *lock,
                                  bool *locked,
                                  dlock_error *err);

/**
 * Asks the server whether this very handle holds the lock: `locked_by_me` gets the answer, which may be out of date on
 * arrival. How long the lock is certainly still held, without asking, says dlock_lock_remaining_ms().
 *
 * Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, also beside a
 * blocked call. Returns:
 * - `DLOCK_OK`: see `locked_by_me`.
 * - `DLOCK_ERR_NOT_CONNECTED`, `DLOCK_ERR_LOCKER`, `DLOCK_ERR_CLOSED`, `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`: as from
 *   dlock_lock_is_locked().
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `locked_by_me` is NULL.
 */
dlock_status dlock_lock_is_locked_by_me(const dlock_lock *lock,
                                        bool *locked_by_me,
                                        dlock_error *err);

/**
 * Asks the server who holds the lock.
 *
 * `exists` gets whether anybody does; `owner` the owner id (see dlock_lock_id()) of the handle that does, or an empty
 * text. The answer may be out of date on arrival.
 *
 * Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, also beside a
 * blocked call. Returns:
 * - `DLOCK_OK`: see `exists` and `owner`.
 * - `DLOCK_ERR_LOCKER`: the server answered with an error, or the key was set by another program and names no UUID.
 * - `DLOCK_ERR_NOT_CONNECTED`, `DLOCK_ERR_CLOSED`, `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`: as from
 *   dlock_lock_is_locked().
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock`, `exists` or `owner` is NULL.
 *
 */
dlock_status dlock_lock_owner(const dlock_lock *lock,
                              bool *exists,
                              char owner[DLOCK_UUID_SIZE],
                              dlock_error *err);

/**
 * Writes this handle's owner id into `id`: a random UUID in lower case. It never changes.
 *
 * Never blocks, no I/O. Any thread, also beside a blocked call. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `id` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 *
 */
dlock_status dlock_lock_id(const dlock_lock *lock, char id[DLOCK_UUID_SIZE]);

/**
 * Tells the fencing token of the lock held: `token` gets a number greater than that of every earlier acquisition of
 * this lock. Send it along with what the lock protects, and refuse there what carries a smaller one.
 *
 * Never blocks, no I/O. Any thread, also beside a blocked call. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_UNLOCK_UNLOCKED`: this handle never acquired the lock, or has released it.
 * - `DLOCK_ERR_LOST`: this handle has lost the lock.
 * - `DLOCK_ERR_CLOSED`: the locker is closed.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `token` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_fencing_token(const dlock_lock *lock,
                                      uint64_t *token,
                                      dlock_error *err);

/**
 * Tells for how many milliseconds the lock is certainly still held: `remaining_ms` gets the holder's own, careful
 * view. Background renewals set it up again.
 *
 * Never blocks, no I/O. Any thread, also beside a blocked call. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_UNLOCK_UNLOCKED`: this handle never acquired the lock, or has released it.
 * - `DLOCK_ERR_LOST`: this handle has lost the lock.
 * - `DLOCK_ERR_CLOSED`: the locker is closed.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `remaining_ms` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_remaining_ms(const dlock_lock *lock,
                                     uint64_t *remaining_ms,
                                     dlock_error *err);

/**
 * Sets the lease of the lock held to `lease_ms` milliseconds from now, for later renewals too; from 100 to a year.
 * A new acquisition has the locker's lease again.
 *
 * A shorter lease than before shortens what dlock_lock_remaining_ms() says, not what the server keeps.
 *
 * Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, one at a
 * time. Returns:
 * - `DLOCK_OK`: the lock is held for that long.
 * - `DLOCK_ERR_UNLOCK_UNLOCKED`: this handle never acquired the lock, or has released it.
 * - `DLOCK_ERR_LOST`: this handle has lost the lock.
 * - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout.
 * - `DLOCK_ERR_LOCKER`: the server answered with an error.
 * - `DLOCK_ERR_CLOSED`: the locker is closed, or was closed meanwhile.
 * - `DLOCK_ERR_BUSY`: another call is using this handle.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` is NULL, or `lease_ms` is out of range.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_extend(const dlock_lock *lock,
                               uint64_t lease_ms,
                               dlock_error *err);

/**
 * Ends the acquire call, blocked or submitted, that is under way on this handle: it answers `DLOCK_ERR_CANCELLED`. A
 * lock handed over in that very instant is handed on. Where nothing is blocked this does nothing, now or later.
 *
 * During a round trip the call ends when the reply is there. Releases and questions are not cancelled; they end by
 * themselves, within the response timeout.
 *
 * Never blocks. Any thread: this is the call to make beside a blocked one. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_CLOSED`: the locker is closed.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_cancel(const dlock_lock *lock,
                               dlock_error *err);

/**
 * Asks for an event of kind `DLOCK_EVENT_LOST` in `queue` whenever this handle loses the lock that it holds: one for
 * each acquisition lost, with `user_data`, until the handle or the queue is freed. A lock that is released, or whose
 * locker is closed, is not lost. A handle has one watch: a later call replaces it.
 *
 * Never blocks. Any thread. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_CLOSED`: the locker is closed.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `queue` is NULL, or they belong to different lockers.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_lock_watch(const dlock_lock *lock,
                              const dlock_queue *queue,
                              uint64_t user_data,
                              dlock_error *err);

/**
 * Makes a completion queue for the locks of `locker`. `out` gets it, to be freed with dlock_queue_free().
 *
 * Never blocks. Any thread. Returns:
 * - `DLOCK_OK`
 * - `DLOCK_ERR_LOCKER`: the system has no descriptor left.
 * - `DLOCK_ERR_CLOSED`: the locker is closed.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `locker` or `out` is NULL.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_queue_new(const dlock_locker *locker,
                             dlock_queue **out,
                             dlock_error *err);

/**
 * Frees a queue. NULL is fine. What is pending is cancelled without an event. Events not taken are gone, and a lock
 * whose acquisition is among them, or comes in that instant, is handed on. Watches end.
 *
 * Never blocks. Any thread. No call that takes this queue may be running, dlock_queue_wait() included.
 */
void dlock_queue_free(dlock_queue *queue);

/**
 * Starts what dlock_lock_acquire_timeout() does, and returns at once. With `DLOCK_WAIT_FOREVER` as `timeout_ms`
 * (milliseconds) it is what dlock_lock_acquire() does.
 *
 * The event is of kind `DLOCK_EVENT_ACQUIRE`, with `user_data`; its status is what the blocking call would return, its
 * `token` the fencing token of the lock acquired.
 *
 * This holds for every dlock_submit function: a submission that returned `DLOCK_OK` ends in exactly one event, any
 * other in none. Until the event of an acquire or a release is there, the handle is in use. The event may be there
 * before this returns.
 *
 * Never blocks. Any thread, one at a time for a lock. Returns:
 * - `DLOCK_OK`: submitted.
 * - `DLOCK_ERR_LOCKER`: the system has no thread left.
 * - `DLOCK_ERR_CLOSED`: the locker is closed.
 * - `DLOCK_ERR_BUSY`: another call is using this handle.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `queue` or `lock` is NULL, or they belong to different lockers.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_submit_acquire(const dlock_queue *queue,
                                  const dlock_lock *lock,
                                  uint64_t timeout_ms,
                                  uint64_t user_data,
                                  dlock_error *err);

/**
 * Starts what dlock_lock_try_acquire() does, and returns at once.
 *
 * The event is of kind `DLOCK_EVENT_TRY_ACQUIRE`, with `user_data`; its `flag` says whether the lock was acquired, its
 * `token` with which fencing token.
 *
 * Blocks, threads, statuses: as dlock_submit_acquire().
 */
dlock_status dlock_submit_try_acquire(const dlock_queue *queue,
                                      const dlock_lock *lock,
                                      uint64_t user_data,
                                      dlock_error *err);

/**
 * Starts what dlock_lock_acquire_retry_backoff() does, with the same `retries` and `initial_backoff_ms`
 * (milliseconds), and returns at once.
 *
 * The event is of kind `DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF`, with `user_data`; its `token` is the fencing token of the
 * lock acquired.
 *
 * Blocks, threads, statuses: as dlock_submit_acquire().
 */
dlock_status dlock_submit_acquire_retry_backoff(const dlock_queue *queue,
                                                const dlock_lock *lock,
                                                uint32_t retries,
                                                uint64_t initial_backoff_ms,
                                                uint64_t user_data,
                                                dlock_error *err);

/**
 * Starts what dlock_lock_release() does, and returns at once.
 *
 * The event is of kind `DLOCK_EVENT_RELEASE`, with `user_data`.
 *
 * Blocks, threads, statuses: as dlock_submit_acquire().
 */
dlock_status dlock_submit_release(const dlock_queue *queue,
                                  const dlock_lock *lock,
                                  uint64_t user_data,
                                  dlock_error *err);

/**
 * Starts what dlock_lock_is_locked() does, and returns at once.
 *
 * The event is of kind `DLOCK_EVENT_IS_LOCKED`, with `user_data`; its `flag` is the answer.
 *
 * Blocks, threads, statuses: as dlock_submit_acquire().
 */
dlock_status dlock_submit_is_locked(const dlock_queue *queue,
                                    const dlock_lock *lock,
                                    uint64_t user_data,
                                    dlock_error *err);

/**
 * Starts what dlock_lock_is_locked_by_me() does, and returns at once.
 *
 * The event is of kind `DLOCK_EVENT_IS_LOCKED_BY_ME`, with `user_data`; its `flag` is the answer.
 *
 * Blocks, threads, statuses: as dlock_submit_acquire().
 */
dlock_status dlock_submit_is_locked_by_me(const dlock_queue *queue,
                                          const dlock_lock *lock,
                                          uint64_t user_data,
                                          dlock_error *err);

/**
 * Starts what dlock_lock_owner() does, and returns at once.
 *
 * The event is of kind `DLOCK_EVENT_OWNER`, with `user_data`; its `flag` says whether anybody holds the lock, its
 * `owner` who.
 *
 * Blocks, threads, statuses: as dlock_submit_acquire().
 */
dlock_status dlock_submit_owner(const dlock_queue *queue,
                                const dlock_lock *lock,
                                uint64_t user_data,
                                dlock_error *err);

/**
 * Takes finished operations out of the queue, the oldest first; waits for the first of them.
 *
 * `events` is an array of `capacity` (at least 1) structs of the caller; `count` gets how many were written.
 * `timeout_ms` is in milliseconds: 0 only looks, `DLOCK_WAIT_FOREVER` has no deadline. Nothing finished in that time
 * is no error: `DLOCK_OK` with a count of 0.
 *
 * Blocks until something is finished, at most for `timeout_ms`. Any thread, also many at once: each event goes to one
 * of them. Returns:
 * - `DLOCK_OK`: see `count`.
 * - `DLOCK_ERR_CLOSED`: the locker is closed, and no event is left to take.
 * - `DLOCK_ERR_INVALID_ARGUMENT`: `queue`, `events` or `count` is NULL, or `capacity` is 0.
 * - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
 */
dlock_status dlock_queue_wait(const dlock_queue *queue,
                              dlock_event *events,
                              size_t capacity,
                              uint64_t timeout_ms,
                              size_t *count,
                              dlock_error *err);

/**
 * Tells the descriptor that is readable while events are pending, for epoll, kqueue, poll or an event loop; -1 where
 * there is none, in a forked child, or `queue` is NULL.
 *
 * Only watch it: reading, writing and closing it is the library's business, and it ends with the queue. When it is
 * readable, take events with dlock_queue_wait() and a timeout of 0 until the count is 0.
 *
 * Never blocks. Any thread.
 */
int dlock_queue_fd(const dlock_queue *queue);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DLOCK_H */
