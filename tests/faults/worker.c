/* One process of a run with faults: threads that take turns on a few locks and write down what they see, in the format of
 * tests/history/src/file.rs. It knows nothing of the faults.
 *
 *     worker <url> <lease ms> <timeout ms> <name> <history file> <register file> <threads> <locks> <seed>
 *
 * Every fourth thread lives on its first lease: its locker does not renew. While there are faults, calls are cancelled
 * here and there, and leases lengthened and shortened.
 *
 * What the locks protect is the register file: one number a lock, the highest token that has written. A write that comes with
 * a lower one is refused.
 *
 * On stdin: `calm` (from now on everybody asks without a deadline and must be served), `stop` or the end (everybody
 * finishes what it is at, everything is freed). Each is answered by a line.
 */
#define _GNU_SOURCE
#include <dlock.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LOCKS = 16 };
enum phase { FAULTS, CALM, STOP };

static const char *process;
static uint64_t lease_ms, timeout_ms; /* the timeout: of connecting, and of an answer */
static int locks;
static const char *register_path;
static dlock_locker *renewing, *expiring;
static FILE *history;
static atomic_int phase;
static atomic_ulong acquisitions;
static struct contender *contenders;
static int threads;

struct contender {
    int number;
    uint64_t random;
    int reg;
    dlock_lock *handles[MAX_LOCKS];
};

static uint64_t now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_BOOTTIME, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

static void pause_us(uint64_t us) { usleep((useconds_t)us); }

static void fatal(const char *what, const dlock_error *err) {
    fprintf(stderr, "%s: %s: %s\n", process, what, err ? err->message : "");
    exit(2);
}

/* xorshift */
static uint64_t below(struct contender *me, uint64_t bound) {
    me->random ^= me->random << 13;
    me->random ^= me->random >> 7;
    me->random ^= me->random << 17;
    return me->random % bound;
}

/* Does its locker not renew? */
static bool expires(const struct contender *me) { return me->number % 4 == 3; }

/* One line; stdio locks the stream, and the line is in the file before this returns. */
__attribute__((format(printf, 5, 6))) static void note(const char *kind, uint64_t at, const struct contender *me, int lock,
                                                       const char *rest, ...) {
    char more[160];
    va_list arguments;
    va_start(arguments, rest);
    vsnprintf(more, sizeof more, rest, arguments);
    va_end(arguments);
    fprintf(history, "%s at=%llu lock=lock%d by=%s.t%d.l%d%s\n", kind, (unsigned long long)at, lock, process, me->number,
            lock, more);
}

/* A write reaches what the lock protects. */
static void write_register(struct contender *me, int lock, uint64_t token) {
    uint64_t highest = 0;
    flock(me->reg, LOCK_EX);
    uint64_t at = now_us();
    if (pread(me->reg, &highest, sizeof highest, lock * 8) < 0) {
        fatal("the register cannot be read", NULL);
    }
    if (token >= highest && pwrite(me->reg, &token, sizeof token, lock * 8) != 8) {
        fatal("the register cannot be written", NULL);
    }
    note("writes", at, me, lock, " token=%llu", (unsigned long long)token);
    flock(me->reg, LOCK_UN);
}

/* How the lock is asked for; what it takes is written down. */
static dlock_status ask(struct contender *me, int lock, dlock_error *err) {
    const dlock_lock *handle = me->handles[lock];
    uint64_t way = atomic_load(&phase) == FAULTS ? below(me, 100) : 0;
    uint64_t at = now_us();
    dlock_status status;
    if (way < 45) {
        note("asks", at, me, lock, "%s", "");
        return dlock_lock_acquire(handle, err);
    }
    if (way < 75) {
        uint64_t timeout_ms = 20 + below(me, 2000);
        note("asks", at, me, lock, " deadline=%llu", (unsigned long long)(at + timeout_ms * 1000));
        return dlock_lock_acquire_timeout(handle, timeout_ms, err);
    }
    note("asks", at, me, lock, " deadline=%llu", (unsigned long long)at);
    if (way < 88) {
        bool taken = false;
        status = dlock_lock_try_acquire(handle, &taken, err);
        return status == DLOCK_OK && !taken ? DLOCK_ERR_LOCK_TIMEOUT : status;
    }
    return dlock_lock_acquire_retry_backoff(handle, 3, 5, err);
}

/* Looks how long the lock is certainly held; false: it is not. */
static bool look(struct contender *me, int lock, uint64_t *until) {
    uint64_t remaining_ms = 0, at = now_us();
    if (dlock_lock_remaining_ms(me->handles[lock], &remaining_ms, NULL) != DLOCK_OK) {
        return false;
    }
    *until = at + remaining_ms * 1000;
    return true;
}

/* A longer or a shorter lease, from now on. How that ends, the next look shows. */
static void extend(struct contender *me, int lock) {
    dlock_error err;
    dlock_status status = dlock_lock_extend(me->handles[lock], 100 + below(me, 2 * lease_ms), &err);
    if (status != DLOCK_OK && status != DLOCK_ERR_LOST && status != DLOCK_ERR_NOT_CONNECTED && status != DLOCK_ERR_LOCKER) {
        fatal("extend", &err);
    }
}

/* Holds for a while, looks, and writes. `until` gets until when the lock was last seen to be certainly held. False: it was
 * lost. */
static bool work(struct contender *me, int lock, uint64_t token, uint64_t *until) {
    bool faults = atomic_load(&phase) == FAULTS;
    uint64_t steps = 1 + below(me, 4);
    if (faults && below(me, expires(me) ? 12 : 100) == 0) {
        pause_us(below(me, 2 * lease_ms * 1000)); /* lives on its renewals, or to the end of its lease */
    }
    for (uint64_t step = 0; step < steps; step++) {
        if (!look(me, lock, until)) {
            note("lost", now_us(), me, lock, "%s", "");
            return false;
        }
        note("renewed", now_us(), me, lock, " until=%llu", (unsigned long long)*until);
        if (faults && below(me, 250) == 0) {
            pause_us(below(me, 3 * lease_ms * 1000)); /* looked, dawdled, writes */
        }
        write_register(me, lock, token);
        if (faults && below(me, 40) == 0) {
            extend(me, lock);
        }
        pause_us(below(me, 4000));
    }
    return true;
}

static void turn(struct contender *me) {
    int lock = (int)below(me, (uint64_t)locks);
    const dlock_lock *handle = me->handles[lock];
    dlock_error err;
    uint64_t token = 0, until = 0;
    bool calm = atomic_load(&phase) != FAULTS;
    dlock_status status = ask(me, lock, &err);
    if (status != DLOCK_OK) {
        note("fails", now_us(), me, lock, " status=%d", (int)status);
        if (status == DLOCK_ERR_INVALID_ARGUMENT || status == DLOCK_ERR_ALREADY_HELD || status == DLOCK_ERR_PANIC) {
            fatal("an acquire", &err);
        }
        pause_us(status == DLOCK_ERR_LOCK_TIMEOUT ? 500 : 5000);
        return;
    }
    bool held = dlock_lock_fencing_token(handle, &token, NULL) == DLOCK_OK && look(me, lock, &until);
    if (held) {
        note("acquired", now_us(), me, lock, " token=%llu until=%llu", (unsigned long long)token,
             (unsigned long long)until);
        atomic_fetch_add(&acquisitions, 1);
        held = work(me, lock, token, &until);
    } else {
        note("misses", now_us(), me, lock, "%s", "");
    }
    if (held) {
        note("released", now_us(), me, lock, "%s", "");
    }
    status = dlock_lock_release(handle, &err);
    /* Its lease may have ended on the way, where the server's disk or the machine stood still. */
    if (calm && held && status != DLOCK_OK && now_us() < until) {
        fprintf(stderr, "%s: a release in calm: %s\n", process, err.message);
        exit(3);
    }
    if (status == DLOCK_ERR_PANIC || status == DLOCK_ERR_INVALID_ARGUMENT) {
        fatal("a release", &err);
    }
    pause_us(below(me, 1000));
}

static void *contend(void *argument) {
    struct contender *me = argument;
    while (atomic_load(&phase) != STOP) {
        turn(me);
    }
    return NULL;
}

/* Ends whatever some handle waits for, until the calm. */
static void *cancel(void *argument) {
    struct contender me = {.random = (uint64_t)(uintptr_t)argument | 1};
    while (atomic_load(&phase) == FAULTS) {
        int number = (int)below(&me, (uint64_t)threads), lock = (int)below(&me, (uint64_t)locks);
        dlock_lock_cancel(contenders[number].handles[lock], NULL);
        pause_us(below(&me, 50000));
    }
    return NULL;
}

/* A handle for each lock, as soon as the server can be reached. */
static void open_handles(struct contender *me) {
    for (int lock = 0; lock < locks; lock++) {
        char name[16];
        dlock_error err;
        dlock_status status;
        snprintf(name, sizeof name, "lock%d", lock);
        const dlock_locker *locker = expires(me) ? expiring : renewing;
        while ((status = dlock_lock_new(locker, name, "faults", &me->handles[lock], &err)) == DLOCK_ERR_NOT_CONNECTED) {
            pause_us(5000);
        }
        if (status != DLOCK_OK) {
            fatal("a handle", &err);
        }
    }
    me->reg = open(register_path, O_RDWR | O_CLOEXEC);
    if (me->reg < 0) {
        fatal("no register", NULL);
    }
}

static dlock_locker *open_locker(const char *url, bool renews) {
    dlock_options *options = NULL;
    dlock_locker *opened = NULL;
    dlock_error err;
    if (dlock_options_new(&options, &err) != DLOCK_OK || dlock_options_set_url(options, url, &err) != DLOCK_OK ||
        dlock_options_set_lease_ms(options, lease_ms, &err) != DLOCK_OK ||
        dlock_options_set_auto_renew(options, renews, &err) != DLOCK_OK ||
        dlock_options_set_connect_timeout_ms(options, timeout_ms, &err) != DLOCK_OK ||
        dlock_options_set_response_timeout_ms(options, timeout_ms, &err) != DLOCK_OK ||
        dlock_locker_new(options, &opened, &err) != DLOCK_OK) {
        fatal("no locker", &err);
    }
    dlock_options_free(options);
    return opened;
}

int main(int argc, char **argv) {
    if (argc != 10) {
        fprintf(stderr, "usage: worker <url> <lease ms> <timeout ms> <name> <history> <register> <threads> <locks> <seed>\n");
        return 2;
    }
    lease_ms = strtoull(argv[2], NULL, 10);
    timeout_ms = strtoull(argv[3], NULL, 10);
    process = argv[4];
    history = fopen(argv[5], "ae");
    register_path = argv[6];
    threads = atoi(argv[7]);
    locks = atoi(argv[8]);
    uint64_t seed = strtoull(argv[9], NULL, 10);
    if (!history || locks < 1 || locks > MAX_LOCKS) {
        fatal("arguments", NULL);
    }
    setvbuf(history, NULL, _IOLBF, 1 << 16);
    fprintf(history, "history 1\n");
    renewing = open_locker(argv[1], true);
    expiring = open_locker(argv[1], false);
    struct contender *all = contenders = calloc((size_t)threads, sizeof *all);
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    for (int n = 0; n < threads; n++) {
        all[n].number = n;
        all[n].random = (seed + 1) * 0x9E3779B97F4A7C15u + (uint64_t)n * 0xBF58476D1CE4E5B9u + 1;
        open_handles(&all[n]);
    }
    for (int n = 0; n < threads; n++) {
        pthread_create(&ids[n], NULL, contend, &all[n]);
    }
    pthread_t canceller;
    pthread_create(&canceller, NULL, cancel, (void *)(uintptr_t)seed);
    printf("ready\n");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin) && strcmp(line, "stop\n") != 0) {
        if (strcmp(line, "calm\n") == 0) {
            atomic_store(&phase, CALM);
            pthread_join(canceller, NULL); /* what is asked for from now on is not cancelled */
            printf("calm\n");
            fflush(stdout);
        }
    }
    if (atomic_exchange(&phase, STOP) == FAULTS) {
        pthread_join(canceller, NULL);
    }
    for (int n = 0; n < threads; n++) {
        pthread_join(ids[n], NULL);
        for (int lock = 0; lock < locks; lock++) {
            dlock_lock_free(all[n].handles[lock]);
        }
        close(all[n].reg);
    }
    dlock_locker_free(renewing);
    dlock_locker_free(expiring);
    printf("done %lu\n", atomic_load(&acquisitions));
    free(all);
    free(ids);
    fclose(history);
    return 0;
}
