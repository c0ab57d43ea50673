/* Every status of the header, provoked at least once through the C ABI, and every parameter of every function given
 * what it refuses.
 *
 *     errors <url of a Redis> [part of a name]
 *
 * A refused call names the parameter in its message, leaves its out-parameters alone, and takes NULL for the error
 * struct. The status PANIC needs a library built with the feature `provoke-panic`: see panic.c.
 */
#define _GNU_SOURCE
#include "check.h"

#define NOT_UTF8 "\xff\xfe"

static dlock_error err;

/* Makes `call` twice, with `e` as its error struct and with none: both answer INVALID_ARGUMENT, and the message of the
 * first names `parameter`. */
#define REFUSED(parameter, call)                                                                                       \
    do {                                                                                                               \
        dlock_error *e = &err;                                                                                         \
        memset(&err, 0x7f, sizeof err);                                                                                \
        dlock_status with_ = (call);                                                                                   \
        e = NULL;                                                                                                      \
        dlock_status without_ = (call);                                                                                \
        refused(__LINE__, parameter, #call, with_, without_);                                                          \
    } while (0)

static void refused(int line, const char *parameter, const char *call, dlock_status with, dlock_status without) {
    if (with != DLOCK_ERR_INVALID_ARGUMENT || without != with) {
        fail_at(__FILE__, line, "%s: %s, and %s without an error struct", call, dlock_status_name(with),
                dlock_status_name(without));
    } else if (err.status != with) {
        fail_at(__FILE__, line, "%s: the struct says %s", call, dlock_status_name(err.status));
    } else if (memchr(err.message, 0, sizeof err.message) == NULL || strstr(err.message, parameter) == NULL) {
        fail_at(__FILE__, line, "%s: the message does not name %s: %.255s", call, parameter, err.message);
    }
}

static char too_long[514];

static void options_arguments(void) {
    dlock_options *o = NULL;
    REFUSED("out", dlock_options_new(NULL, e));
    OK(dlock_options_new(&o, &err));
    REFUSED("options", dlock_options_set_host(NULL, "localhost", e));
    REFUSED("host", dlock_options_set_host(o, NULL, e));
    REFUSED("host", dlock_options_set_host(o, NOT_UTF8, e));
    REFUSED("host", dlock_options_set_host(o, "", e));
    REFUSED("options", dlock_options_set_port(NULL, 6379, e));
    REFUSED("port", dlock_options_set_port(o, 0, e));
    REFUSED("options", dlock_options_set_url(NULL, "redis://localhost", e));
    REFUSED("url", dlock_options_set_url(o, NULL, e));
    REFUSED("url", dlock_options_set_url(o, NOT_UTF8, e));
    REFUSED("options", dlock_options_set_lease_ms(NULL, 1000, e));
    REFUSED("lease", dlock_options_set_lease_ms(o, 0, e));
    REFUSED("lease", dlock_options_set_lease_ms(o, 99, e));
    OK(dlock_options_set_lease_ms(o, 100, &err));
    REFUSED("options", dlock_options_set_auto_renew(NULL, true, e));
    REFUSED("options", dlock_options_set_connect_timeout_ms(NULL, 1000, e));
    REFUSED("timeout", dlock_options_set_connect_timeout_ms(o, 0, e));
    REFUSED("options", dlock_options_set_response_timeout_ms(NULL, 1000, e));
    REFUSED("timeout", dlock_options_set_response_timeout_ms(o, 0, e));
    dlock_options_free(o);
}

static void bad_urls(void) {
    static const char *const urls[] = {
        "",
        "localhost",
        "localhost:6379",
        "http://localhost:6379",
        "redis:/localhost",
        "redis://",
        "redis://:6379",
        "redis://localhost:0",
        "redis://localhost:65536",
        "redis://localhost:port",
        "redis://local\nhost",
        "redis://localhost:-1",
        "redis://localhost/db",
        "redis://localhost/-1",
        "redis://[::1",
        "redis+unix://",
        "unix",
        "://",
        "redis://user:secret@localhost:99999",
        "redis://localhost?nothing=such",
        "redis://localhost?client_name=a b",
        "redis://localhost?ca=/secured/only",
        "redis://user:sec?secret@localhost",
        "redis+unix:///s?user=u&pass=x&secret=y",
    };
    dlock_options *o = NULL;
    OK(dlock_options_new(&o, &err));
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        dlock_status status = dlock_options_set_url(o, urls[i], &err);
        if (status != DLOCK_ERR_INVALID_ARGUMENT) {
            fail_at(__FILE__, __LINE__, "\"%s\" is accepted: %s", urls[i], dlock_status_name(status));
        } else if (strcasestr(err.message, "url") == NULL) {
            fail_at(__FILE__, __LINE__, "\"%s\": the message does not name the URL: %s", urls[i], err.message);
        } else if (strstr(err.message, "secret") != NULL) {
            fail_at(__FILE__, __LINE__, "a password is in the message: %s", err.message);
        }
    }
    dlock_options_free(o);
}

static void good_urls(void) {
    static const char *const urls[] = {
        "redis://localhost",
        "redis://localhost/",
        "redis://localhost:6379/3",
        "redis://:secret@localhost",
        "redis://user:p%40ss@127.0.0.1:1",
        "redis://[::1]:6379",
        "redis+unix:///tmp/redis.sock",
        "redis+unix:///tmp/redis.sock?db=1&user=u&pass=secret&client_name=n&keepalive_ms=0",
        "memory://",
        "memory://name",
    };
    dlock_options *o = NULL;
    dlock_locker *locker = NULL;
    OK(dlock_options_new(&o, &err));
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        EXPECT_STATUS(dlock_options_set_url(o, urls[i], &err), DLOCK_OK);
        EXPECT_STATUS(dlock_locker_new(o, &locker, &err), DLOCK_OK);
        dlock_locker_free(locker);
    }
    dlock_options_free(o);
    EXPECT_STATUS(dlock_locker_new(NULL, &locker, &err), DLOCK_OK);
    dlock_locker_free(locker);
}

/* TLS may not be built in; then the answer says so, from the setter or from the locker. */
static void tls_url(void) {
    dlock_options *o = NULL;
    dlock_locker *locker = NULL;
    OK(dlock_options_new(&o, &err));
    dlock_status status = dlock_options_set_url(o, "rediss://localhost", &err);
    if (status == DLOCK_OK) {
        status = dlock_locker_new(o, &locker, &err);
        dlock_locker_free(locker);
    }
    EXPECT(status == DLOCK_OK || strstr(err.message, "TLS") != NULL);
    dlock_options_free(o);
}

static void locker_arguments(void) {
    REFUSED("out", dlock_locker_new(NULL, NULL, e));
    REFUSED("locker", dlock_locker_close(NULL, e));
    char text[DLOCK_WARNINGS_SIZE] = "x";
    REFUSED("locker", dlock_locker_warnings(NULL, text, sizeof text, e));
    dlock_locker *locker = new_locker(0, true);
    REFUSED("text", dlock_locker_warnings(locker, NULL, sizeof text, e));
    REFUSED("size", dlock_locker_warnings(locker, text, 0, e));
    EXPECT(strcmp(text, "x") == 0);
    EXPECT_STATUS(dlock_locker_warnings(locker, text, 1, &err), DLOCK_OK);
    EXPECT(text[0] == 0);
    dlock_locker_free(locker);
}

static void lock_new_arguments(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *const untouched = (dlock_lock *)&err;
    dlock_lock *lock = untouched;
    memset(too_long, 'x', 513);
    REFUSED("locker", dlock_lock_new(NULL, "name", "group", &lock, e));
    REFUSED("name", dlock_lock_new(locker, NULL, "group", &lock, e));
    REFUSED("name", dlock_lock_new(locker, "", "group", &lock, e));
    REFUSED("name", dlock_lock_new(locker, NOT_UTF8, "group", &lock, e));
    REFUSED("name", dlock_lock_new(locker, too_long, "group", &lock, e));
    REFUSED("group", dlock_lock_new(locker, "name", NULL, &lock, e));
    REFUSED("group", dlock_lock_new(locker, "name", "", &lock, e));
    REFUSED("group", dlock_lock_new(locker, "name", NOT_UTF8, &lock, e));
    REFUSED("group", dlock_lock_new(locker, "name", too_long, &lock, e));
    REFUSED("group", dlock_lock_new(locker, "name", "with:colon", &lock, e));
    REFUSED("out", dlock_lock_new(locker, "name", "group", NULL, e));
    EXPECT(lock == untouched);
    dlock_locker_free(locker);
}

static void lock_arguments(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "arguments");
    dlock_queue *queue = NULL;
    bool flag = true;
    uint64_t value = 77;
    char text[DLOCK_UUID_SIZE] = "untouched";
    OK(dlock_queue_new(locker, &queue, &err));
    REFUSED("lock", dlock_lock_acquire(NULL, e));
    REFUSED("lock", dlock_lock_try_acquire(NULL, &flag, e));
    REFUSED("acquired", dlock_lock_try_acquire(lock, NULL, e));
    REFUSED("lock", dlock_lock_acquire_timeout(NULL, 1, e));
    REFUSED("lock", dlock_lock_acquire_retry_backoff(NULL, 1, 1, e));
    REFUSED("lock", dlock_lock_release(NULL, e));
    REFUSED("lock", dlock_lock_is_locked(NULL, &flag, e));
    REFUSED("locked", dlock_lock_is_locked(lock, NULL, e));
    REFUSED("lock", dlock_lock_is_locked_by_me(NULL, &flag, e));
    REFUSED("locked_by_me", dlock_lock_is_locked_by_me(lock, NULL, e));
    REFUSED("lock", dlock_lock_owner(NULL, &flag, text, e));
    REFUSED("exists", dlock_lock_owner(lock, NULL, text, e));
    REFUSED("owner", dlock_lock_owner(lock, &flag, NULL, e));
    REFUSED("lock", dlock_lock_fencing_token(NULL, &value, e));
    REFUSED("token", dlock_lock_fencing_token(lock, NULL, e));
    REFUSED("lock", dlock_lock_remaining_ms(NULL, &value, e));
    REFUSED("remaining_ms", dlock_lock_remaining_ms(lock, NULL, e));
    REFUSED("lock", dlock_lock_extend(NULL, 1000, e));
    REFUSED("lock", dlock_lock_cancel(NULL, e));
    REFUSED("lock", dlock_lock_watch(NULL, queue, 1, e));
    REFUSED("queue", dlock_lock_watch(lock, NULL, 1, e));
    EXPECT(dlock_lock_id(NULL, text) == DLOCK_ERR_INVALID_ARGUMENT);
    EXPECT(dlock_lock_id(lock, NULL) == DLOCK_ERR_INVALID_ARGUMENT);
    OK(dlock_lock_acquire(lock, &err));
    REFUSED("lease", dlock_lock_extend(lock, 99, e));
    REFUSED("token", dlock_lock_fencing_token(lock, NULL, e));
    OK(dlock_lock_release(lock, &err));
    EXPECT(flag && value == 77 && strcmp(text, "untouched") == 0);
    dlock_queue_free(queue);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void queue_arguments(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "arguments");
    dlock_queue *queue = NULL;
    dlock_queue *others_queue = NULL;
    dlock_event event = {.user_data = 77};
    size_t count = 77;
    REFUSED("locker", dlock_queue_new(NULL, &queue, e));
    REFUSED("out", dlock_queue_new(locker, NULL, e));
    EXPECT(queue == NULL);
    OK(dlock_queue_new(locker, &queue, &err));
    OK(dlock_queue_new(other_locker, &others_queue, &err));
    REFUSED("queue", dlock_submit_acquire(NULL, lock, 1, 1, e));
    REFUSED("lock", dlock_submit_acquire(queue, NULL, 1, 1, e));
    REFUSED("queue", dlock_submit_try_acquire(NULL, lock, 1, e));
    REFUSED("lock", dlock_submit_try_acquire(queue, NULL, 1, e));
    REFUSED("queue", dlock_submit_acquire_retry_backoff(NULL, lock, 1, 1, 1, e));
    REFUSED("lock", dlock_submit_acquire_retry_backoff(queue, NULL, 1, 1, 1, e));
    REFUSED("queue", dlock_submit_release(NULL, lock, 1, e));
    REFUSED("lock", dlock_submit_release(queue, NULL, 1, e));
    REFUSED("queue", dlock_submit_is_locked(NULL, lock, 1, e));
    REFUSED("lock", dlock_submit_is_locked(queue, NULL, 1, e));
    REFUSED("queue", dlock_submit_is_locked_by_me(NULL, lock, 1, e));
    REFUSED("lock", dlock_submit_is_locked_by_me(queue, NULL, 1, e));
    REFUSED("queue", dlock_submit_owner(NULL, lock, 1, e));
    REFUSED("lock", dlock_submit_owner(queue, NULL, 1, e));
    REFUSED("queue", dlock_queue_wait(NULL, &event, 1, 0, &count, e));
    REFUSED("events", dlock_queue_wait(queue, NULL, 1, 0, &count, e));
    REFUSED("capacity", dlock_queue_wait(queue, &event, 0, 0, &count, e));
    REFUSED("count", dlock_queue_wait(queue, &event, 1, 0, NULL, e));
    /* A queue collects what the locks of its own locker do. */
    EXPECT_STATUS(dlock_submit_acquire(others_queue, lock, 1, 1, &err), DLOCK_ERR_INVALID_ARGUMENT);
    EXPECT_STATUS(dlock_lock_watch(lock, others_queue, 1, &err), DLOCK_ERR_INVALID_ARGUMENT);
    EXPECT(event.user_data == 77 && count == 77);
    /* None of the refused submissions gave an event. */
    OK(dlock_queue_wait(queue, &event, 1, 50, &count, &err));
    EXPECT_U64(count, 0);
    dlock_queue_free(queue);
    dlock_queue_free(others_queue);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void status_ok(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "status_ok");
    memset(&err, 0x7f, sizeof err);
    EXPECT_STATUS(dlock_lock_acquire(lock, &err), DLOCK_OK);
    EXPECT(err.status == DLOCK_OK && err.message[0] == 0);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* The message of a failure: what the function returned, terminated, not empty. */
static void expect_error(int line, dlock_status status, dlock_status expected) {
    if (status != expected) {
        fail_at(__FILE__, line, "%s (%.255s), expected %s", dlock_status_name(status), err.message,
                dlock_status_name(expected));
    } else if (err.status != expected || err.message[0] == 0 || memchr(err.message, 0, sizeof err.message) == NULL) {
        fail_at(__FILE__, line, "%s: the error struct is not filled", dlock_status_name(status));
    }
    memset(&err, 0x7f, sizeof err);
}

#define EXPECT_ERROR(call, expected) expect_error(__LINE__, (call), (expected))

static void status_locker(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "status_locker");
    bool flag = false;
    char owner[DLOCK_UUID_SIZE];
    raw("RPUSH test:status_locker element");
    EXPECT_ERROR(dlock_lock_owner(lock, &flag, owner, &err), DLOCK_ERR_LOCKER);
    raw("DEL test:status_locker");
    /* A counter that is no integer: the lock is not taken, and the message says where the trouble is. */
    raw("SET :dlock:fence nonsense");
    dlock_status status = dlock_lock_try_acquire(lock, &flag, &err);
    EXPECT(status == DLOCK_ERR_LOCKER && strstr(err.message, ":dlock:fence") != NULL);
    EXPECT_ERROR(status, DLOCK_ERR_LOCKER);
    raw("DEL :dlock:fence");
    OK(dlock_lock_is_locked(lock, &flag, &err));
    EXPECT(!flag);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void status_not_owner(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *holder = new_lock(locker, "status_not_owner");
    dlock_lock *lock = new_lock(locker, "status_not_owner");
    OK(dlock_lock_acquire(holder, &err));
    EXPECT_ERROR(dlock_lock_release(lock, &err), DLOCK_ERR_NOT_OWNER);
    EXPECT_ERROR(dlock_lock_acquire_timeout(lock, 10, &err), DLOCK_ERR_LOCK_TIMEOUT);
    EXPECT_ERROR(dlock_lock_acquire_retry_backoff(lock, 1, 1, &err), DLOCK_ERR_LOCK_TIMEOUT);
    EXPECT_ERROR(dlock_lock_acquire(holder, &err), DLOCK_ERR_ALREADY_HELD);
    OK(dlock_lock_release(holder, &err));
    EXPECT_ERROR(dlock_lock_release(holder, &err), DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(holder);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void status_not_connected(void) {
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    dlock_lock *lock = NULL;
    OK(dlock_options_new(&options, &err));
    OK(dlock_options_set_host(options, "127.0.0.1", &err));
    OK(dlock_options_set_port(options, 1, &err));
    OK(dlock_locker_new(options, &locker, &err));
    dlock_status status = dlock_lock_new(locker, "name", "test", &lock, &err);
    EXPECT(strstr(err.message, "127.0.0.1") != NULL && strstr(err.message, "1") != NULL);
    EXPECT_ERROR(status, DLOCK_ERR_NOT_CONNECTED);
    dlock_locker_free(locker);
    OK(dlock_options_set_host(options, "nowhere.invalid", &err));
    OK(dlock_locker_new(options, &locker, &err));
    status = dlock_lock_new(locker, "name", "test", &lock, &err);
    EXPECT(strstr(err.message, "nowhere.invalid") != NULL);
    EXPECT_ERROR(status, DLOCK_ERR_NOT_CONNECTED);
    EXPECT(lock == NULL);
    dlock_locker_free(locker);
    dlock_options_free(options);
}

static void status_cancelled_and_busy(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *holder = new_lock(locker, "status_cancelled");
    dlock_lock *lock = new_lock(locker, "status_cancelled");
    struct blocked waiter;
    OK(dlock_lock_acquire(holder, &err));
    blocked_start(&waiter, lock, DLOCK_WAIT_FOREVER);
    EVENTUALLY(is_busy(lock), 2000);
    EXPECT_ERROR(dlock_lock_acquire(lock, &err), DLOCK_ERR_BUSY);
    OK(dlock_lock_cancel(lock, &err));
    EXPECT(blocked_join(&waiter) == DLOCK_ERR_CANCELLED);
    EXPECT(waiter.err.status == DLOCK_ERR_CANCELLED && waiter.err.message[0] != 0);
    OK(dlock_lock_release(holder, &err));
    dlock_lock_free(holder);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static bool is_lost(dlock_lock *lock) {
    uint64_t remaining;
    return dlock_lock_remaining_ms(lock, &remaining, NULL) == DLOCK_ERR_LOST;
}

static void status_lost(void) {
    dlock_locker *locker = new_locker(100, false);
    dlock_lock *lock = new_lock(locker, "status_lost");
    uint64_t value = 77;
    OK(dlock_lock_acquire(lock, &err));
    EVENTUALLY(is_lost(lock), 2000);
    EXPECT_ERROR(dlock_lock_fencing_token(lock, &value, &err), DLOCK_ERR_LOST);
    EXPECT_ERROR(dlock_lock_release(lock, &err), DLOCK_ERR_LOST);
    EXPECT_U64(value, 77);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void status_closed(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "status_closed");
    OK(dlock_locker_close(locker, &err));
    OK(dlock_locker_close(locker, &err));
    EXPECT_ERROR(dlock_lock_acquire(lock, &err), DLOCK_ERR_CLOSED);
    dlock_locker_free(locker);
    EXPECT_ERROR(dlock_lock_acquire(lock, &err), DLOCK_ERR_CLOSED);
    dlock_lock_free(lock);
}

static void status_forked(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "status_forked");
    pid_t child = fork();
    if (child == 0) {
        EXPECT_ERROR(dlock_lock_acquire(lock, &err), DLOCK_ERR_FORKED);
        fflush(stdout);
        _exit(failures);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* A long name makes a long message: cut, terminated, still UTF-8 (the name is of two-byte letters). */
static void long_message(void) {
    char host[501];
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    dlock_lock *lock = NULL;
    for (int i = 0; i < 500; i += 2) {
        memcpy(host + i, "\xc3\xa9", 2);
    }
    host[500] = 0;
    OK(dlock_options_new(&options, &err));
    memset(&err, 0x7f, sizeof err);
    dlock_status status = dlock_options_set_host(options, host, &err);
    if (status == DLOCK_OK) {
        OK(dlock_locker_new(options, &locker, &err));
        memset(&err, 0x7f, sizeof err);
        status = dlock_lock_new(locker, "name", "test", &lock, &err);
    }
    EXPECT(status == DLOCK_ERR_NOT_CONNECTED || status == DLOCK_ERR_INVALID_ARGUMENT);
    const char *end = memchr(err.message, 0, sizeof err.message);
    REQUIRE(end != NULL && end > err.message);
    EXPECT((unsigned char)end[-1] != 0xc3);
    dlock_options_free(options);
    dlock_locker_free(locker);
}

int main(int argc, char **argv) {
    check_arguments(argc, argv);
    run_check("INVALID_ARGUMENT: every parameter of the options", options_arguments);
    run_check("INVALID_ARGUMENT: URLs that are none", bad_urls);
    run_check("URLs of every kind are accepted, and so are no options", good_urls);
    run_check("a TLS URL works or is answered with a message that says TLS", tls_url);
    run_check("INVALID_ARGUMENT: every parameter of the locker", locker_arguments);
    run_check("INVALID_ARGUMENT: every parameter of dlock_lock_new; out is untouched", lock_new_arguments);
    run_check("INVALID_ARGUMENT: every parameter of the lock functions; results are untouched", lock_arguments);
    run_check("INVALID_ARGUMENT: every parameter of the queue functions; no event follows", queue_arguments);
    run_check("OK resets the error struct", status_ok);
    run_check("LOCKER: a foreign type under the key, a counter that is no number", status_locker);
    run_check("NOT_OWNER, LOCK_TIMEOUT, ALREADY_HELD, UNLOCK_UNLOCKED", status_not_owner);
    run_check("NOT_CONNECTED: nobody listens, no such host; the message names them", status_not_connected);
    run_check("CANCELLED and BUSY", status_cancelled_and_busy);
    run_check("LOST", status_lost);
    run_check("CLOSED, after close and after free; closing twice is fine", status_closed);
    run_check("FORKED", status_forked);
    run_check("a message too long for its buffer is cut between two letters", long_message);
    return check_result();
}
