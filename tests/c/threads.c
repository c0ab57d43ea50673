/* Two processes with eight threads each, 10,000 acquisitions of one lock, and a checker in memory that they share:
 * never two holders, tokens strictly growing in the order of holding.
 *
 *     threads <url of a Redis> [acquisitions]
 *
 * The checker trusts nothing of the library: the holder writes itself into a shared word and must find it empty.
 */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>
#include <sys/mman.h>

enum { PROCESSES = 2, THREADS = 8 };

struct shared {
    uint64_t wanted;
    uint64_t acquisitions;
    uint64_t holder;
    uint64_t last_token;
    uint64_t overlaps;
    uint64_t falling_tokens;
    uint64_t timeouts;
    uint64_t errors;
    uint64_t per_thread[PROCESSES * THREADS];
    char first_error[256];
};

static struct shared *shared;
static dlock_locker *locker;

static void note_error(const char *doing, const dlock_error *err) {
    if (__atomic_fetch_add(&shared->errors, 1, __ATOMIC_SEQ_CST) == 0) {
        snprintf(shared->first_error, sizeof shared->first_error, "%s: %s: %.150s", doing,
                 dlock_status_name(err->status), err->message);
    }
}

/* What a holder does: sees that it is alone, and that its token is the largest so far. */
static void critical_section(uint64_t me, uint64_t token) {
    if (__atomic_exchange_n(&shared->holder, me, __ATOMIC_SEQ_CST) != 0) {
        __atomic_fetch_add(&shared->overlaps, 1, __ATOMIC_SEQ_CST);
    }
    uint64_t last = __atomic_exchange_n(&shared->last_token, token, __ATOMIC_SEQ_CST);
    if (token <= last) {
        __atomic_fetch_add(&shared->falling_tokens, 1, __ATOMIC_SEQ_CST);
    }
    __atomic_fetch_add(&shared->acquisitions, 1, __ATOMIC_SEQ_CST);
    shared->per_thread[me - 1]++;
    sched_yield(); /* Long enough that a second holder would come in. */
    if (__atomic_exchange_n(&shared->holder, 0, __ATOMIC_SEQ_CST) != me) {
        __atomic_fetch_add(&shared->overlaps, 1, __ATOMIC_SEQ_CST);
    }
}

/* Every way to acquire takes part; some give up early, so that waiters leave the queue all the time. */
static dlock_status acquire_somehow(dlock_lock *lock, uint64_t round, dlock_error *err) {
    bool acquired = false;
    dlock_status status;
    switch (round % 8) {
    case 0:
        return dlock_lock_acquire_timeout(lock, 2, err);
    case 1:
        return dlock_lock_acquire_timeout(lock, 60000, err);
    case 2:
        status = dlock_lock_try_acquire(lock, &acquired, err);
        return status == DLOCK_OK && !acquired ? DLOCK_ERR_LOCK_TIMEOUT : status;
    default:
        return dlock_lock_acquire(lock, err);
    }
}

static void *contend(void *argument) {
    uint64_t me = (uint64_t)(uintptr_t)argument;
    dlock_error err = {0};
    dlock_lock *lock = NULL;
    uint64_t token = 0;
    if (dlock_lock_new(locker, "threads", "test", &lock, &err) != DLOCK_OK) {
        note_error("dlock_lock_new", &err);
        return NULL;
    }
    for (uint64_t round = me; __atomic_load_n(&shared->acquisitions, __ATOMIC_SEQ_CST) < shared->wanted &&
                              __atomic_load_n(&shared->errors, __ATOMIC_SEQ_CST) == 0;
         round++) {
        dlock_status status = acquire_somehow(lock, round, &err);
        if (status == DLOCK_ERR_LOCK_TIMEOUT) {
            __atomic_fetch_add(&shared->timeouts, 1, __ATOMIC_SEQ_CST);
            continue;
        }
        if (status != DLOCK_OK) {
            note_error("acquiring", &err);
        } else if (dlock_lock_fencing_token(lock, &token, &err) != DLOCK_OK) {
            note_error("dlock_lock_fencing_token", &err);
        } else {
            critical_section(me, token);
            if (dlock_lock_release(lock, &err) != DLOCK_OK) {
                note_error("dlock_lock_release", &err);
            }
        }
    }
    dlock_lock_free(lock);
    return NULL;
}

static int process(uint64_t number) {
    pthread_t threads[THREADS];
    locker = new_locker(0, true);
    for (uint64_t i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, contend, (void *)(uintptr_t)(number * THREADS + i + 1)) != 0) {
            return 1;
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    dlock_locker_free(locker);
    return 0;
}

static void report(bool good, const char *name) { printf("%s - %s\n", good ? "ok" : "not ok", name); }

int main(int argc, char **argv) {
    check_arguments(argc, argv);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        return 2;
    }
    shared->wanted = argc > 2 ? strtoull(argv[2], NULL, 10) : 10000;
    pid_t children[PROCESSES];
    uint64_t start = now_ms();
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            alarm(120);
            _exit(process((uint64_t)i));
        }
    }
    bool ended = true;
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        waitpid(children[i], &status, 0);
        ended = ended && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    bool all_took_part = true;
    for (int i = 0; i < PROCESSES * THREADS; i++) {
        all_took_part = all_took_part && shared->per_thread[i] > 0;
    }
    printf("# %llu acquisitions in %llu ms, %llu attempts without success\n", (unsigned long long)shared->acquisitions,
           (unsigned long long)(now_ms() - start), (unsigned long long)shared->timeouts);
    if (shared->errors != 0) {
        printf("  %llu errors, the first: %s\n", (unsigned long long)shared->errors, shared->first_error);
    }
    report(ended, "threads: both processes end by themselves");
    report(shared->errors == 0, "threads: no call fails");
    report(shared->acquisitions >= shared->wanted && all_took_part,
           "threads: all acquisitions made, by all 16 threads");
    report(shared->overlaps == 0, "threads: never two holders");
    report(shared->falling_tokens == 0, "threads: tokens strictly growing in the order of holding");
    bool good = ended && shared->errors == 0 && shared->acquisitions >= shared->wanted && all_took_part &&
                shared->overlaps == 0 && shared->falling_tokens == 0;
    return good ? 0 : 1;
}
