/* One process of the demo: some threads that take turns on one lock. What it says on stdout and hears on stdin is
 * described at the top of demo.py; it knows nothing of the others.
 *
 *     contender <url> <first number> <threads> <seconds> <lease ms>
 *
 * The lock is `demo`, unless the environment names another by DLOCK_DEMO_LOCK.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlock.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static dlock_locker *locker;
static uint64_t end_ns;
static bool stick;

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void pause_us(uint64_t microseconds) {
    struct timespec time = {(time_t)(microseconds / 1000000), (long)(microseconds % 1000000) * 1000};
    nanosleep(&time, NULL);
}

/* Marsaglia's xorshift: between 0 and `below`. */
static uint64_t chance(uint64_t *state, uint64_t below) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state % below;
}

static void check(dlock_status status, const dlock_error *err, uint64_t number) {
    if (status != DLOCK_OK) {
        printf("failed %" PRIu64 " %s: %s\n", number, dlock_status_name(status), err->message);
        exit(EXIT_FAILURE);
    }
}

static void take_turn(dlock_lock *lock, uint64_t number, uint64_t hold_us) {
    dlock_error err;
    uint64_t token;
    uint64_t waits = now_ns();
    check(dlock_lock_acquire(lock, &err), &err, number);
    uint64_t held = now_ns();
    check(dlock_lock_fencing_token(lock, &token, &err), &err, number);
    if (__atomic_exchange_n(&stick, false, __ATOMIC_SEQ_CST)) {
        printf("stuck %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", number, waits, held, token);
        pause(); /* Until somebody kills this process. */
    }
    pause_us(hold_us);
    uint64_t freed = now_ns();
    dlock_status released = dlock_lock_release(lock, &err);
    /* The server has lost the lock; no failure of the holder's. */
    bool lost = released == DLOCK_ERR_LOST || released == DLOCK_ERR_UNLOCK_UNLOCKED || released == DLOCK_ERR_NOT_OWNER;
    check(lost ? DLOCK_OK : released, &err, number);
    printf(lost ? "lost" : "turn");
    printf(" %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", number, waits, held, freed, token);
}

static void *contend(void *argument) {
    uint64_t number = (uint64_t)(uintptr_t)argument;
    uint64_t random = now_ns() ^ (number + 1) * 0x9e3779b97f4a7c15;
    dlock_error err;
    dlock_lock *lock;
    const char *name = getenv("DLOCK_DEMO_LOCK");
    check(dlock_lock_new(locker, name != NULL ? name : "demo", "demo", &lock, &err), &err, number);
    while (now_ns() < end_ns) {
        take_turn(lock, number, 1000 + chance(&random, 12000));
        pause_us(chance(&random, 40000));
    }
    dlock_lock_free(lock);
    return NULL;
}

/* Hears what demo.py says. The end of the input means that nobody listens any more. */
static void *listen_to_stdin(void *argument) {
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "stick\n") == 0) {
            __atomic_store_n(&stick, true, __ATOMIC_SEQ_CST);
        }
    }
    _exit(EXIT_FAILURE);
    return argument;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: contender <url> <first number> <threads> <seconds> <lease ms>\n");
        return 2;
    }
    uint64_t first = strtoull(argv[2], NULL, 10);
    uint64_t count = strtoull(argv[3], NULL, 10);
    pthread_t listener, threads[64];
    dlock_error err;
    dlock_options *options;
    if (count > 64) {
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    end_ns = now_ns() + (uint64_t)(strtod(argv[4], NULL) * 1e9);

    check(dlock_options_new(&options, &err), &err, first);
    check(dlock_options_set_url(options, argv[1], &err), &err, first);
    check(dlock_options_set_lease_ms(options, strtoull(argv[5], NULL, 10), &err), &err, first);
    check(dlock_locker_new(options, &locker, &err), &err, first);
    dlock_options_free(options);

    bool started = pthread_create(&listener, NULL, listen_to_stdin, NULL) == 0;
    for (uint64_t i = 0; i < count; i++) {
        started = started && pthread_create(&threads[i], NULL, contend, (void *)(uintptr_t)(first + i)) == 0;
    }
    if (!started) {
        printf("failed %" PRIu64 " cannot start a thread\n", first);
        return EXIT_FAILURE;
    }
    for (uint64_t i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
    dlock_locker_free(locker);
    return EXIT_SUCCESS;
}
