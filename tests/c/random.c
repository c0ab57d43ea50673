/* Random calls, legal and illegal, on a few handles from several threads; every answer must be one that the header names.
 *
 *     random <url> [seconds] [seed]
 *
 * The only two rules that are kept are the header's own: no handle is used after its free, and none is freed during a call
 * that takes it. Half of the time a thread has a lock handle for itself, and then each answer is known exactly.
 */
#define _GNU_SOURCE
#include "check.h"
#include <poll.h>

enum { THREADS = 4, LOCKERS = 2, QUEUES = 3, LOCKS = 8, NAMES = 3, TICKETS = 1 << 16 };

/* A handle, and who may use it: calls share it, its free has it alone. */
struct slot {
    pthread_rwlock_t use;
    void *handle;
    int locker; /* a lock's or queue's: which locker slot it was made by, and in which of that one's lives */
    uint64_t life;
    int name;
};

/* What became of a submission. */
enum ticket { UNUSED, SUBMITTED, REFUSED, ENDED };

static struct slot lockers[LOCKERS], queues[QUEUES], locks[LOCKS];
static uint64_t lives[LOCKERS];
static _Atomic int tickets[TICKETS];
static _Atomic uint64_t next_ticket, calls, highest[NAMES];
static _Atomic bool stop, failed;
static uint64_t seed;

struct random {
    uint64_t state;
};

static uint64_t below(struct random *r, uint64_t bound) {
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state % bound;
}

#define WRONG(...)                                                                                                     \
    do {                                                                                                               \
        fail_at(__FILE__, __LINE__, __VA_ARGS__);                                                                      \
        failed = true;                                                                                                 \
    } while (0)

/* Sets of statuses, as bits. */
#define S(name) (1u << DLOCK_##name)
#define ALWAYS (S(OK) | S(ERR_CLOSED))
#define ASKING (ALWAYS | S(ERR_NOT_CONNECTED) | S(ERR_LOCKER))
#define ACQUIRING (ASKING | S(ERR_ALREADY_HELD) | S(ERR_CANCELLED) | S(ERR_BUSY))
#define READING (ALWAYS | S(ERR_UNLOCK_UNLOCKED) | S(ERR_LOST))
#define RELEASING (ASKING | S(ERR_UNLOCK_UNLOCKED) | S(ERR_NOT_OWNER) | S(ERR_LOST) | S(ERR_BUSY))

/* Is this answer one of those, and does the error struct say the same? */
static void judge(const char *call, dlock_status status, unsigned allowed, const dlock_error *err) {
    calls++;
    if (!(allowed & (1u << status))) {
        WRONG("%s answers %s: %s", call, dlock_status_name(status), err ? err->message : "");
    }
    if (!err) {
        return;
    }
    if (err->status != status || memchr(err->message, 0, sizeof err->message) == NULL ||
        (status == DLOCK_OK) != (err->message[0] == 0)) {
        WRONG("%s answers %s, the error struct says %s: %.60s", call, dlock_status_name(status),
              dlock_status_name(err->status), err->message);
    }
}

#define CALL(allowed, function, ...) judge(#function, function(__VA_ARGS__), allowed, err)

static dlock_locker *make_locker(struct random *r) {
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    dlock_error err_, *err = &err_;
    CALL(S(OK), dlock_options_new, &options, err);
    CALL(S(OK), dlock_options_set_url, options, url, err);
    CALL(S(ERR_INVALID_ARGUMENT), dlock_options_set_lease_ms, options, below(r, 100), err);
    CALL(S(ERR_INVALID_ARGUMENT), dlock_options_set_port, NULL, 1, err);
    CALL(S(ERR_INVALID_ARGUMENT), dlock_options_set_url, options, "redis://\xff", err);
    CALL(S(OK), dlock_options_set_lease_ms, options, 100 + below(r, 900), err);
    CALL(S(OK), dlock_options_set_auto_renew, options, below(r, 2) == 0, err);
    CALL(S(OK), dlock_options_set_response_timeout_ms, options, 2000, err);
    CALL(S(OK), dlock_locker_new, options, &locker, err);
    dlock_options_free(options);
    return locker;
}

/* Everything with NULL where a handle or a result belongs. */
static void without_arguments(struct random *r, dlock_error *err) {
    const unsigned no = S(ERR_INVALID_ARGUMENT);
    bool flag;
    uint64_t number;
    size_t count;
    char id[DLOCK_UUID_SIZE];
    dlock_event event;
    switch (below(r, 16)) {
    case 0: CALL(no, dlock_lock_acquire, NULL, err); break;
    case 1: CALL(no, dlock_lock_try_acquire, NULL, &flag, err); break;
    case 2: CALL(no, dlock_lock_acquire_timeout, NULL, 1, err); break;
    case 3: CALL(no, dlock_lock_acquire_retry_backoff, NULL, 1, 1, err); break;
    case 4: CALL(no, dlock_lock_release, NULL, err); break;
    case 5: CALL(no, dlock_lock_is_locked, NULL, &flag, err); break;
    case 6: CALL(no, dlock_lock_owner, NULL, &flag, id, err); break;
    case 7: CALL(no, dlock_lock_fencing_token, NULL, &number, err); break;
    case 8: CALL(no, dlock_lock_remaining_ms, NULL, &number, err); break;
    case 9: CALL(no, dlock_lock_extend, NULL, 1000, err); break;
    case 10: CALL(no, dlock_lock_cancel, NULL, err); break;
    case 11: CALL(no, dlock_queue_wait, NULL, &event, 1, 0, &count, err); break;
    case 12: CALL(no, dlock_locker_close, NULL, err); break;
    case 13: CALL(no, dlock_queue_new, NULL, NULL, err); break;
    case 14: CALL(no, dlock_submit_acquire, NULL, NULL, 1, 1, err); break;
    default:
        dlock_lock_free(NULL);
        dlock_queue_free(NULL);
        dlock_locker_free(NULL);
        dlock_options_free(NULL);
        if (dlock_queue_fd(NULL) != -1) {
            WRONG("dlock_queue_fd(NULL) is not -1");
        }
    }
}

/* A new handle in place of an old one, which nobody uses at this moment. */
static void renew_lock(struct random *r, struct slot *slot, dlock_error *err) {
    int from = (int)below(r, LOCKERS);
    char name[16], longest[1024];
    dlock_lock *lock = NULL;
    dlock_lock_free(slot->handle);
    slot->handle = NULL;
    slot->name = (int)below(r, NAMES);
    snprintf(name, sizeof name, "random%d", slot->name);
    pthread_rwlock_rdlock(&lockers[from].use);
    memset(longest, 'x', 513);
    longest[513] = 0;
    const char *const bad[] = {"", NULL, "\xc3\x28", longest};
    const unsigned no = S(ERR_INVALID_ARGUMENT);
    CALL(no, dlock_lock_new, lockers[from].handle, bad[below(r, 4)], "test", &lock, err);
    CALL(no, dlock_lock_new, lockers[from].handle, name, below(r, 2) ? "a:b" : bad[below(r, 4)], &lock, err);
    CALL(ASKING, dlock_lock_new, lockers[from].handle, name, "test", &lock, err);
    slot->handle = lock;
    slot->locker = from;
    slot->life = lives[from];
    pthread_rwlock_unlock(&lockers[from].use);
}

static void renew_queue(struct random *r, struct slot *slot, dlock_error *err) {
    int from = (int)below(r, LOCKERS);
    dlock_queue *queue = NULL;
    dlock_queue_free(slot->handle);
    slot->handle = NULL;
    pthread_rwlock_rdlock(&lockers[from].use);
    CALL(ALWAYS, dlock_queue_new, lockers[from].handle, &queue, err);
    slot->handle = queue;
    slot->locker = from;
    slot->life = lives[from];
    pthread_rwlock_unlock(&lockers[from].use);
}

static void renew_locker(struct random *r, int which) {
    dlock_error err_, *err = &err_;
    if (below(r, 2)) {
        CALL(ALWAYS, dlock_locker_close, lockers[which].handle, err);
    }
    dlock_locker_free(lockers[which].handle);
    lives[which]++;
    lockers[which].handle = make_locker(r);
}

/* The handle is this thread's alone: each answer is known, unless the locker is closed meanwhile. */
static void alone(struct random *r, struct slot *slot, dlock_error *err) {
    dlock_lock *lock = slot->handle;
    uint64_t token = 0, left = 0, before = highest[slot->name];
    bool flag = false;
    char id[DLOCK_UUID_SIZE], owner[DLOCK_UUID_SIZE];
    CALL(RELEASING, dlock_lock_release, lock, err);
    if (err->status == DLOCK_ERR_BUSY) {
        return; /* something that was submitted is under way */
    }
    CALL(READING & ~S(OK), dlock_lock_fencing_token, lock, &token, err);
    dlock_status status = dlock_lock_acquire_timeout(lock, below(r, 100), err);
    judge("acquire_timeout, alone", status, ASKING | S(ERR_LOCK_TIMEOUT), err);
    if (status != DLOCK_OK) {
        CALL(READING & ~S(OK), dlock_lock_remaining_ms, lock, &left, err);
        return;
    }
    CALL(READING & ~S(ERR_UNLOCK_UNLOCKED), dlock_lock_fencing_token, lock, &token, err);
    if (err->status == DLOCK_OK && token <= before) {
        WRONG("token %llu after %llu", (unsigned long long)token, (unsigned long long)before);
    }
    uint64_t seen = before;
    while (err->status == DLOCK_OK && seen < token &&
           !__atomic_compare_exchange_n((uint64_t *)&highest[slot->name], &seen, token, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
    }
    status = dlock_lock_remaining_ms(lock, &left, err);
    judge("remaining, alone", status, READING & ~S(ERR_UNLOCK_UNLOCKED), err);
    bool held = status == DLOCK_OK && left > 50;
    judge("dlock_lock_id", dlock_lock_id(lock, id), S(OK), NULL);
    status = dlock_lock_owner(lock, &flag, owner, err);
    judge("owner, alone", status, ASKING, err);
    if (held && status == DLOCK_OK && dlock_lock_remaining_ms(lock, &left, NULL) == DLOCK_OK && strcmp(owner, id) != 0) {
        WRONG("held, and the owner is %s", owner);
    }
    status = dlock_lock_acquire(lock, err);
    judge("acquire of what is held", status, ACQUIRING & ~S(ERR_BUSY) & ~S(ERR_CANCELLED), err);
    CALL(RELEASING & ~S(ERR_BUSY), dlock_lock_release, lock, err);
    CALL(READING & ~S(OK) & ~S(ERR_LOST), dlock_lock_remaining_ms, lock, &left, err);
}

/* Others use the handle as well. */
static void together(struct random *r, struct slot *slot, dlock_error *err) {
    dlock_lock *lock = slot->handle;
    bool flag = false;
    uint64_t number = 0;
    char id[DLOCK_UUID_SIZE];
    switch (below(r, 13)) {
    case 0: CALL(ACQUIRING | S(ERR_LOCK_TIMEOUT), dlock_lock_acquire_timeout, lock, below(r, 60), err); break;
    case 1: CALL(ACQUIRING & ~S(ERR_ALREADY_HELD), dlock_lock_try_acquire, lock, &flag, err); break;
    case 2: CALL(ACQUIRING | S(ERR_LOCK_TIMEOUT), dlock_lock_acquire_retry_backoff, lock, 2, below(r, 5), err); break;
    case 3:
    case 4: CALL(RELEASING, dlock_lock_release, lock, err); break;
    case 5: CALL(ASKING, dlock_lock_is_locked, lock, &flag, err); break;
    case 6: CALL(ASKING, dlock_lock_is_locked_by_me, lock, &flag, err); break;
    case 7: CALL(ASKING, dlock_lock_owner, lock, &flag, id, err); break;
    case 8: CALL(READING, dlock_lock_fencing_token, lock, &number, err); break;
    case 9: CALL(READING, dlock_lock_remaining_ms, lock, &number, err); break;
    case 10:
        CALL(READING | ASKING | S(ERR_BUSY) | S(ERR_INVALID_ARGUMENT), dlock_lock_extend, lock,
             below(r, 4) ? 100 + below(r, 1000) : below(r, 100), err);
        break;
    default: CALL(ALWAYS, dlock_lock_cancel, lock, err);
    }
}

/* Submits something; the queue and the lock may belong to different lockers. */
static void submit(struct random *r, struct slot *queue_slot, struct slot *lock_slot, dlock_error *err) {
    const dlock_queue *queue = queue_slot->handle;
    const dlock_lock *lock = lock_slot->handle;
    uint64_t ticket = next_ticket++;
    if (ticket >= TICKETS) {
        return;
    }
    bool strangers = queue_slot->locker != lock_slot->locker || queue_slot->life != lock_slot->life;
    dlock_status status;
    tickets[ticket] = SUBMITTED;
    switch (below(r, 7)) {
    case 0: status = dlock_submit_acquire(queue, lock, below(r, 80), ticket, err); break;
    case 1: status = dlock_submit_try_acquire(queue, lock, ticket, err); break;
    case 2: status = dlock_submit_acquire_retry_backoff(queue, lock, 2, 1, ticket, err); break;
    case 3: status = dlock_submit_release(queue, lock, ticket, err); break;
    case 4: status = dlock_submit_is_locked(queue, lock, ticket, err); break;
    case 5: status = dlock_submit_is_locked_by_me(queue, lock, ticket, err); break;
    default: status = dlock_submit_owner(queue, lock, ticket, err);
    }
    unsigned allowed = strangers ? S(ERR_INVALID_ARGUMENT) | S(ERR_CLOSED) : ALWAYS | S(ERR_BUSY);
    judge("a submission", status, allowed, err);
    if (status != DLOCK_OK) {
        int was = SUBMITTED;
        if (!__atomic_compare_exchange_n((int *)&tickets[ticket], &was, REFUSED, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST)) {
            WRONG("a submission that was refused had an event");
        }
    }
    if (below(r, 8) == 0) {
        CALL(strangers ? S(ERR_INVALID_ARGUMENT) | S(ERR_CLOSED) : ALWAYS, dlock_lock_watch, lock, queue, TICKETS, err);
    }
}

/* Takes events; each submission has one. */
static void collect(struct random *r, struct slot *slot, dlock_error *err) {
    const dlock_queue *queue = slot->handle;
    dlock_event events[4];
    size_t count = 0;
    if (below(r, 8) == 0) {
        CALL(S(ERR_INVALID_ARGUMENT), dlock_queue_wait, queue, events, 0, 0, &count, err);
        CALL(S(ERR_INVALID_ARGUMENT), dlock_queue_wait, queue, NULL, 1, 0, &count, err);
        struct pollfd descriptor = {.fd = dlock_queue_fd(queue), .events = POLLIN};
        poll(&descriptor, 1, 0);
    }
    CALL(ALWAYS, dlock_queue_wait, queue, events, 1 + below(r, 4), below(r, 5), &count, err);
    for (size_t n = 0; n < count && err->status == DLOCK_OK; n++) {
        uint64_t ticket = events[n].user_data;
        int was = SUBMITTED;
        if (events[n].kind == DLOCK_EVENT_LOST ? ticket != TICKETS : ticket >= TICKETS) {
            WRONG("an event of kind %d with user data %llu", (int)events[n].kind, (unsigned long long)ticket);
        } else if (events[n].kind != DLOCK_EVENT_LOST &&
                   !__atomic_compare_exchange_n((int *)&tickets[ticket], &was, ENDED, false, __ATOMIC_SEQ_CST,
                                                __ATOMIC_SEQ_CST)) {
            WRONG("submission %llu has an event in state %d", (unsigned long long)ticket, was);
        }
        if (events[n].status == DLOCK_ERR_PANIC) {
            WRONG("an event of a panic: %s", events[n].message);
        }
    }
}

/* One step; what it uses is held on to until it is over. */
static void step(struct random *r) {
    dlock_error err_, *err = below(r, 8) ? &err_ : NULL;
    struct slot *lock = &locks[below(r, LOCKS)], *queue = &queues[below(r, QUEUES)];
    uint64_t what = below(r, 1000);
    if (what < 30) {
        without_arguments(r, err);
    } else if (what < 60 && pthread_rwlock_trywrlock(&lock->use) == 0) {
        renew_lock(r, lock, err);
        pthread_rwlock_unlock(&lock->use);
    } else if (what < 70 && pthread_rwlock_trywrlock(&queue->use) == 0) {
        renew_queue(r, queue, err);
        pthread_rwlock_unlock(&queue->use);
    } else if (what < 73) {
        int which = (int)below(r, LOCKERS);
        if (pthread_rwlock_trywrlock(&lockers[which].use) == 0) {
            renew_locker(r, which);
            pthread_rwlock_unlock(&lockers[which].use);
        }
    } else if (what < 400 && pthread_rwlock_trywrlock(&lock->use) == 0) {
        if (lock->handle) {
            alone(r, lock, &err_);
        }
        pthread_rwlock_unlock(&lock->use);
    } else if (what < 600) {
        pthread_rwlock_rdlock(&queue->use);
        pthread_rwlock_rdlock(&lock->use);
        if (queue->handle && lock->handle) {
            submit(r, queue, lock, err);
        }
        pthread_rwlock_unlock(&lock->use);
        pthread_rwlock_unlock(&queue->use);
    } else if (what < 750) {
        pthread_rwlock_rdlock(&queue->use);
        if (queue->handle) {
            collect(r, queue, &err_);
        }
        pthread_rwlock_unlock(&queue->use);
    } else {
        pthread_rwlock_rdlock(&lock->use);
        if (lock->handle) {
            together(r, lock, err);
        }
        pthread_rwlock_unlock(&lock->use);
    }
}

static void *body(void *argument) {
    struct random r = {(seed * THREADS + (uint64_t)(uintptr_t)argument + 1) * 0x9E3779B97F4A7C15u};
    while (!stop && !failed) {
        step(&r);
    }
    return NULL;
}

static uint64_t seconds = 8;

static void random_calls(void) {
    pthread_t threads[THREADS];
    struct random r = {seed | 1};
    dlock_error err_, *err = &err_;
    for (int n = 0; n < LOCKERS; n++) {
        pthread_rwlock_init(&lockers[n].use, NULL);
        lockers[n].handle = make_locker(&r);
    }
    for (int n = 0; n < QUEUES; n++) {
        pthread_rwlock_init(&queues[n].use, NULL);
        renew_queue(&r, &queues[n], err);
    }
    for (int n = 0; n < LOCKS; n++) {
        pthread_rwlock_init(&locks[n].use, NULL);
        renew_lock(&r, &locks[n], err);
    }
    for (uintptr_t n = 0; n < THREADS; n++) {
        REQUIRE(pthread_create(&threads[n], NULL, body, (void *)n) == 0);
    }
    uint64_t end = now_ms() + seconds * 1000;
    while (now_ms() < end && !failed) {
        pause_ms(50);
    }
    stop = true;
    for (int n = 0; n < THREADS; n++) {
        pthread_join(threads[n], NULL);
    }
    for (int n = 0; n < LOCKERS; n++) {
        dlock_locker_free(lockers[n].handle);
    }
    for (int n = 0; n < LOCKS; n++) {
        uint64_t token;
        if (locks[n].handle) {
            CALL(S(ERR_CLOSED), dlock_lock_fencing_token, locks[n].handle, &token, err);
        }
        dlock_lock_free(locks[n].handle);
    }
    for (int n = 0; n < QUEUES; n++) {
        dlock_queue_free(queues[n].handle);
    }
    EXPECT(calls > 100);
    printf("# random: %llu calls, %llu submissions, seed %llu\n", (unsigned long long)calls,
           (unsigned long long)next_ticket, (unsigned long long)seed);
}

int main(int argc, char **argv) {
    check_arguments(argc > 1 ? 2 : argc, argv);
    seconds = argc > 2 ? strtoull(argv[2], NULL, 10) : seconds;
    seed = argc > 3 ? strtoull(argv[3], NULL, 10) : (uint64_t)time(NULL);
    char name[80];
    snprintf(name, sizeof name, "random calls from %d threads are answered as the header says (seed %llu)", THREADS,
             (unsigned long long)seed);
    run_check(name, random_calls);
    return check_result();
}
