/* The completion queue: what was accepted ends in exactly one event, what was refused in none.
 *
 *     queue <url> [part of a name]
 */
#define _GNU_SOURCE
#include "check.h"
#include <poll.h>

static dlock_error err;

static dlock_queue *new_queue(dlock_locker *locker) {
    dlock_queue *queue = NULL;
    OK(dlock_queue_new(locker, &queue, &err));
    return queue;
}

/* The next event; fails the check if none comes in time. */
static dlock_event next(dlock_queue *queue) {
    dlock_event event;
    size_t count = 0;
    memset(&event, 0x7f, sizeof event);
    OK(dlock_queue_wait(queue, &event, 1, 10000, &count, &err));
    REQUIRE(count == 1);
    return event;
}

static void no_more(dlock_queue *queue) {
    dlock_event event;
    size_t count = 77;
    OK(dlock_queue_wait(queue, &event, 1, 50, &count, &err));
    EXPECT_U64(count, 0);
}

static void expect_event(int line, const dlock_event *event, uint64_t user_data, dlock_event_kind kind,
                         dlock_status status) {
    if (event->user_data != user_data || event->kind != kind || event->status != status) {
        fail_at(__FILE__, line, "event %llu of kind %d with %s (%.255s), expected %llu, %d, %s",
                (unsigned long long)event->user_data, (int)event->kind, dlock_status_name(event->status),
                event->message, (unsigned long long)user_data, (int)kind, dlock_status_name(status));
    }
    if (memchr(event->message, 0, sizeof event->message) == NULL ||
        (event->message[0] == 0) != (event->status == DLOCK_OK)) {
        fail_at(__FILE__, line, "a message belongs to a failure, and to nothing else");
    }
}

#define EXPECT_EVENT(event, user_data, kind, status) expect_event(__LINE__, &(event), user_data, kind, status)

static void every_kind(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *lock = new_lock(locker, "every_kind");
    char id[DLOCK_UUID_SIZE];
    (void)dlock_lock_id(lock, id);

    OK(dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, 1, &err));
    dlock_event event = next(queue);
    EXPECT_EVENT(event, 1, DLOCK_EVENT_ACQUIRE, DLOCK_OK);
    EXPECT_U64(event.token, token_of(lock));

    OK(dlock_submit_is_locked(queue, lock, 2, &err));
    event = next(queue);
    EXPECT_EVENT(event, 2, DLOCK_EVENT_IS_LOCKED, DLOCK_OK);
    EXPECT(event.flag);

    OK(dlock_submit_is_locked_by_me(queue, lock, 3, &err));
    event = next(queue);
    EXPECT_EVENT(event, 3, DLOCK_EVENT_IS_LOCKED_BY_ME, DLOCK_OK);
    EXPECT(event.flag);

    OK(dlock_submit_owner(queue, lock, UINT64_MAX, &err));
    event = next(queue);
    EXPECT_EVENT(event, UINT64_MAX, DLOCK_EVENT_OWNER, DLOCK_OK);
    EXPECT(event.flag && strcmp(event.owner, id) == 0);

    OK(dlock_submit_release(queue, lock, 5, &err));
    event = next(queue);
    EXPECT_EVENT(event, 5, DLOCK_EVENT_RELEASE, DLOCK_OK);

    OK(dlock_submit_owner(queue, lock, 6, &err));
    event = next(queue);
    EXPECT_EVENT(event, 6, DLOCK_EVENT_OWNER, DLOCK_OK);
    EXPECT(!event.flag && event.owner[0] == 0);

    OK(dlock_submit_try_acquire(queue, lock, 7, &err));
    event = next(queue);
    EXPECT_EVENT(event, 7, DLOCK_EVENT_TRY_ACQUIRE, DLOCK_OK);
    EXPECT(event.flag);
    EXPECT_U64(event.token, token_of(lock));

    OK(dlock_submit_try_acquire(queue, lock, 8, &err));
    event = next(queue);
    EXPECT_EVENT(event, 8, DLOCK_EVENT_TRY_ACQUIRE, DLOCK_OK);
    EXPECT(!event.flag);
    OK(dlock_lock_release(lock, &err));

    OK(dlock_submit_acquire_retry_backoff(queue, lock, 2, 10, 9, &err));
    event = next(queue);
    EXPECT_EVENT(event, 9, DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF, DLOCK_OK);
    EXPECT_U64(event.token, token_of(lock));
    OK(dlock_lock_release(lock, &err));
    no_more(queue);
    dlock_lock_free(lock);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void failures_as_events(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *holder = new_lock(locker, "failures");
    dlock_lock *lock = new_lock(locker, "failures");
    OK(dlock_lock_acquire(holder, &err));

    uint64_t start = now_ms();
    OK(dlock_submit_acquire(queue, lock, 100, 1, &err));
    dlock_event event = next(queue);
    EXPECT_EVENT(event, 1, DLOCK_EVENT_ACQUIRE, DLOCK_ERR_LOCK_TIMEOUT);
    EXPECT(now_ms() - start >= 99 && now_ms() - start < 150 + SLACK_MS);

    OK(dlock_submit_acquire(queue, lock, 0, 2, &err));
    event = next(queue);
    EXPECT_EVENT(event, 2, DLOCK_EVENT_ACQUIRE, DLOCK_ERR_LOCK_TIMEOUT);

    OK(dlock_submit_acquire_retry_backoff(queue, lock, 2, 10, 3, &err));
    event = next(queue);
    EXPECT_EVENT(event, 3, DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF, DLOCK_ERR_LOCK_TIMEOUT);

    OK(dlock_submit_release(queue, lock, 4, &err));
    event = next(queue);
    EXPECT_EVENT(event, 4, DLOCK_EVENT_RELEASE, DLOCK_ERR_NOT_OWNER);

    OK(dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, 5, &err));
    OK(dlock_lock_cancel(lock, &err));
    event = next(queue);
    EXPECT_EVENT(event, 5, DLOCK_EVENT_ACQUIRE, DLOCK_ERR_CANCELLED);

    OK(dlock_lock_release(holder, &err));
    OK(dlock_submit_release(queue, lock, 6, &err));
    event = next(queue);
    EXPECT_EVENT(event, 6, DLOCK_EVENT_RELEASE, DLOCK_ERR_UNLOCK_UNLOCKED);
    no_more(queue);
    dlock_lock_free(lock);
    dlock_lock_free(holder);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

/* The handle holds the lock: said as a refusal or as the event, in either case once. */
static void already_held(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *lock = new_lock(locker, "already_held");
    OK(dlock_lock_acquire(lock, &err));
    dlock_status status = dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, 1, &err);
    if (status == DLOCK_OK) {
        dlock_event event = next(queue);
        EXPECT_EVENT(event, 1, DLOCK_EVENT_ACQUIRE, DLOCK_ERR_ALREADY_HELD);
    } else {
        EXPECT_STATUS(status, DLOCK_ERR_ALREADY_HELD);
    }
    no_more(queue);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void rejected(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *holder = new_lock(locker, "rejected");
    dlock_lock *lock = new_lock(locker, "rejected");
    OK(dlock_lock_acquire(holder, &err));
    OK(dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, 1, &err));
    EXPECT_STATUS(dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, 2, &err), DLOCK_ERR_BUSY);
    EXPECT_STATUS(dlock_submit_release(queue, lock, 3, &err), DLOCK_ERR_BUSY);
    EXPECT_STATUS(dlock_lock_acquire(lock, &err), DLOCK_ERR_BUSY);
    no_more(queue);
    OK(dlock_lock_release(holder, &err));
    dlock_event event = next(queue);
    EXPECT_EVENT(event, 1, DLOCK_EVENT_ACQUIRE, DLOCK_OK);
    no_more(queue);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_lock_free(holder);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static bool readable(int descriptor, int milliseconds) {
    struct pollfd entry = {.fd = descriptor, .events = POLLIN};
    return poll(&entry, 1, milliseconds) == 1 && (entry.revents & POLLIN) != 0;
}

static void descriptor(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *locks[3];
    int fd = dlock_queue_fd(queue);
    EXPECT(fd >= 0);
    EXPECT(dlock_queue_fd(queue) == fd);
    for (int round = 0; round < 3; round++) {
        EXPECT(!readable(fd, 20));
        for (int i = 0; i < 3; i++) {
            char name[32];
            snprintf(name, sizeof name, "descriptor_%d", i);
            locks[i] = new_lock(locker, name);
            OK(dlock_submit_acquire(queue, locks[i], 5000, (uint64_t)i, &err));
        }
        for (int i = 0; i < 3; i++) {
            EXPECT(readable(fd, 5000));
            /* Looking does not take it away. */
            EXPECT(readable(fd, 0));
            dlock_event event;
            size_t count = 0;
            OK(dlock_queue_wait(queue, &event, 1, 0, &count, &err));
            EXPECT_U64(count, 1);
        }
        EXPECT(!readable(fd, 20));
        for (int i = 0; i < 3; i++) {
            dlock_lock_free(locks[i]);
        }
    }
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void wait_times(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_event events[4];
    size_t count = 77;
    uint64_t start = now_ms();
    OK(dlock_queue_wait(queue, events, 4, 0, &count, &err));
    EXPECT_U64(count, 0);
    EXPECT(now_ms() - start < SLACK_MS);
    count = 77;
    OK(dlock_queue_wait(queue, events, 4, 150, &count, &err));
    EXPECT_U64(count, 0);
    EXPECT(now_ms() - start >= 149 && now_ms() - start < 150 + 2 * SLACK_MS);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

/* A wait without a deadline in one thread, an event from another. */
static void *collect_one(void *queue) {
    dlock_event event;
    size_t count = 0;
    dlock_error own;
    dlock_status status = dlock_queue_wait(queue, &event, 1, DLOCK_WAIT_FOREVER, &count, &own);
    return (void *)(intptr_t)(status == DLOCK_OK && count == 1 && event.user_data == 9);
}

static void wait_for_ever(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *lock = new_lock(locker, "wait_for_ever");
    pthread_t thread;
    void *good = NULL;
    REQUIRE(pthread_create(&thread, NULL, collect_one, queue) == 0);
    pause_ms(50);
    OK(dlock_submit_acquire(queue, lock, 1000, 9, &err));
    pthread_join(thread, &good);
    EXPECT(good != NULL);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void free_queue_pending(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *holder = new_lock(other_locker, "free_queue");
    dlock_lock *locks[5];
    OK(dlock_lock_acquire(holder, &err));
    for (int i = 0; i < 5; i++) {
        locks[i] = new_lock(locker, "free_queue");
        OK(dlock_submit_acquire(queue, locks[i], DLOCK_WAIT_FOREVER, (uint64_t)i, &err));
    }
    pause_ms(50);
    dlock_queue_free(queue);
    /* The waiters are gone: the lock becomes free, not theirs. */
    OK(dlock_lock_release(holder, &err));
    OK(dlock_lock_acquire_timeout(holder, 2000, &err));
    OK(dlock_lock_release(holder, &err));
    for (int i = 0; i < 5; i++) {
        EXPECT_STATUS(dlock_lock_acquire_timeout(locks[i], 2000, &err), DLOCK_OK);
        OK(dlock_lock_release(locks[i], &err));
        dlock_lock_free(locks[i]);
    }
    dlock_lock_free(holder);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void free_queue_in_the_instant(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *holder = new_lock(other_locker, "free_instant");
    dlock_lock *lock = new_lock(locker, "free_instant");
    for (int i = 0; i < 20; i++) {
        dlock_queue *queue = new_queue(locker);
        OK(dlock_lock_acquire_timeout(holder, 3000, &err));
        OK(dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, 1, &err));
        pause_ms(3);
        OK(dlock_lock_release(holder, &err));
        dlock_queue_free(queue);
        /* Either it was acquired before the queue was freed and is held, or it was handed on. */
        uint64_t token;
        pause_ms(20);
        if (dlock_lock_fencing_token(lock, &token, &err) == DLOCK_OK) {
            OK(dlock_lock_release(lock, &err));
        }
    }
    OK(dlock_lock_acquire_timeout(holder, 3000, &err));
    OK(dlock_lock_release(holder, &err));
    dlock_lock_free(holder);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void free_lock_pending(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *holder = new_lock(locker, "free_lock");
    dlock_lock *lock = new_lock(locker, "free_lock");
    OK(dlock_lock_acquire(holder, &err));
    OK(dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, 1, &err));
    dlock_lock_free(lock);
    dlock_event event = next(queue);
    EXPECT_EVENT(event, 1, DLOCK_EVENT_ACQUIRE, DLOCK_ERR_CANCELLED);
    no_more(queue);
    OK(dlock_lock_release(holder, &err));
    OK(dlock_lock_acquire_timeout(holder, 2000, &err));
    OK(dlock_lock_release(holder, &err));
    dlock_lock_free(holder);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void close_pending(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *holder = new_lock(other_locker, "close_pending");
    dlock_lock *lock = new_lock(locker, "close_pending");
    OK(dlock_lock_acquire(holder, &err));
    OK(dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, 1, &err));
    OK(dlock_locker_close(locker, &err));
    dlock_event event = next(queue);
    EXPECT_EVENT(event, 1, DLOCK_EVENT_ACQUIRE, DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_submit_acquire(queue, lock, 1, 2, &err), DLOCK_ERR_CLOSED);
    dlock_locker_free(locker);
    EXPECT_STATUS(dlock_submit_release(queue, lock, 3, &err), DLOCK_ERR_CLOSED);
    dlock_lock_free(lock);
    dlock_queue_free(queue);
    OK(dlock_lock_release(holder, &err));
    dlock_lock_free(holder);
    dlock_locker_free(other_locker);
}

static void free_locker_pending(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *holder = new_lock(other_locker, "free_locker");
    dlock_lock *locks[3];
    OK(dlock_lock_acquire(holder, &err));
    for (int i = 0; i < 3; i++) {
        locks[i] = new_lock(locker, "free_locker");
        OK(dlock_submit_acquire(queue, locks[i], DLOCK_WAIT_FOREVER, 1, &err));
    }
    dlock_locker_free(locker);
    for (int i = 0; i < 3; i++) {
        dlock_event event = next(queue);
        EXPECT_EVENT(event, 1, DLOCK_EVENT_ACQUIRE, DLOCK_ERR_CLOSED);
        dlock_lock_free(locks[i]);
    }
    dlock_queue_free(queue);
    OK(dlock_lock_release(holder, &err));
    bool flag = true;
    OK(dlock_lock_is_locked(holder, &flag, &err));
    EXPECT(!flag);
    dlock_lock_free(holder);
    dlock_locker_free(other_locker);
}

static void watch_lease(void) {
    dlock_locker *locker = new_locker(200, false);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *lock = new_lock(locker, "watch_lease");
    OK(dlock_lock_watch(lock, queue, 42, &err));
    for (int i = 0; i < 2; i++) {
        OK(dlock_lock_acquire_timeout(lock, 2000, &err));
        uint64_t token = token_of(lock);
        uint64_t start = now_ms();
        dlock_event event = next(queue);
        EXPECT_EVENT(event, 42, DLOCK_EVENT_LOST, DLOCK_ERR_LOST);
        EXPECT_U64(event.token, token);
        EXPECT(now_ms() - start < 200 + SLACK_MS);
        no_more(queue);
    }
    /* One that is released is not lost. */
    OK(dlock_lock_acquire_timeout(lock, 2000, &err));
    OK(dlock_lock_release(lock, &err));
    dlock_event event;
    size_t count = 77;
    OK(dlock_queue_wait(queue, &event, 1, 400, &count, &err));
    EXPECT_U64(count, 0);
    dlock_lock_free(lock);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void watch_deleted(void) {
    dlock_locker *locker = new_locker(300, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *lock = new_lock(locker, "watch_deleted");
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_watch(lock, queue, 7, &err));
    no_more(queue);
    raw("DEL test:watch_deleted");
    uint64_t start = now_ms();
    dlock_event event = next(queue);
    EXPECT_EVENT(event, 7, DLOCK_EVENT_LOST, DLOCK_ERR_LOST);
    EXPECT(now_ms() - start < 300 + SLACK_MS);
    no_more(queue);
    dlock_lock_free(lock);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void watch_ends(void) {
    dlock_locker *locker = new_locker(150, false);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *lock = new_lock(locker, "watch_ends");
    OK(dlock_lock_watch(lock, queue, 7, &err));
    OK(dlock_lock_acquire(lock, &err));
    dlock_lock_free(lock);
    dlock_event event;
    size_t count = 77;
    OK(dlock_queue_wait(queue, &event, 1, 400, &count, &err));
    EXPECT_U64(count, 0);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

enum { MANY = 1000 };

static dlock_lock *many[MANY];

static void many_in_order(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *holder = new_lock(other_locker, "many");
    OK(dlock_lock_acquire(holder, &err));
    uint64_t last = token_of(holder);
    for (unsigned i = 0; i < MANY; i++) {
        many[i] = new_lock(locker, "many");
        OK(dlock_submit_acquire(queue, many[i], DLOCK_WAIT_FOREVER, i, &err));
    }
    no_more(queue);
    OK(dlock_lock_release(holder, &err));
    unsigned acquired = 0, gone = 0;
    while (gone < MANY) {
        dlock_event events[64];
        size_t count = 0;
        OK(dlock_queue_wait(queue, events, 64, 20000, &count, &err));
        REQUIRE(count > 0);
        for (size_t i = 0; i < count; i++) {
            REQUIRE(events[i].status == DLOCK_OK);
            if (events[i].kind == DLOCK_EVENT_ACQUIRE) {
                /* In order, and one at a time: the one before has submitted its release. */
                EXPECT_U64(events[i].user_data, acquired);
                EXPECT(events[i].token > last);
                last = events[i].token;
                acquired++;
                OK(dlock_submit_release(queue, many[events[i].user_data], events[i].user_data, &err));
            } else {
                gone++;
            }
        }
        REQUIRE(failures < 10);
    }
    EXPECT_U64(acquired, MANY);
    no_more(queue);
    for (unsigned i = 0; i < MANY; i++) {
        dlock_lock_free(many[i]);
    }
    dlock_lock_free(holder);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static int threads_of_process(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char text[256];
    int count = -1;
    while (file != NULL && fgets(text, sizeof text, file) != NULL) {
        if (sscanf(text, "Threads: %d", &count) == 1) {
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return count;
}

static void many_without_threads(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_queue *queue = new_queue(locker);
    dlock_lock *holder = new_lock(locker, "many_threads");
    OK(dlock_lock_acquire(holder, &err));
    for (unsigned i = 0; i < MANY; i++) {
        many[i] = new_lock(locker, "many_threads");
        OK(dlock_submit_acquire(queue, many[i], DLOCK_WAIT_FOREVER, i, &err));
    }
    EXPECT(threads_of_process() <= 4);
    dlock_queue_free(queue);
    OK(dlock_lock_release(holder, &err));
    for (unsigned i = 0; i < MANY; i++) {
        dlock_lock_free(many[i]);
    }
    dlock_lock_free(holder);
    dlock_locker_free(locker);
}

int main(int argc, char **argv) {
    check_arguments(argc, argv);
    run_check("queue: every kind of operation, one event each, with its result", every_kind);
    run_check("queue: failures come as events with status and message", failures_as_events);
    run_check("queue: acquiring what the handle holds: ALREADY_HELD, once", already_held);
    run_check("queue: a rejected submission gives no event; a pending one makes the handle BUSY", rejected);
    run_check("queue: the descriptor is readable while events are pending, and only then", descriptor);
    run_check("queue: a wait that times out is OK with a count of 0", wait_times);
    run_check("queue: a wait without a deadline is woken by an event", wait_for_ever);
    run_check("queue: freeing it cancels what is pending; the locks can be used again", free_queue_pending);
    run_check("queue: freeing it in the instant of a hand-off hands the lock on", free_queue_in_the_instant);
    run_check("queue: freeing a lock with an operation pending: CANCELLED", free_lock_pending);
    run_check("queue: closing the locker ends what is pending: CLOSED", close_pending);
    run_check("queue: freeing the locker ends what is pending: CLOSED", free_locker_pending);
    run_check("queue: watch tells once of each acquisition lost, not of those released", watch_lease);
    run_check("queue: a watch ends with its lock", watch_ends);
    run_check("queue: 1,000 waiters in order, tokens growing", many_in_order);
    run_check("queue: 1,000 waiters take no more than 4 threads", many_without_threads);
    if (on_redis()) {
        run_check("queue: watch tells that the key was deleted", watch_deleted);
    }
    return check_result();
}
