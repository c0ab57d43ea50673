/* Two contenders for one lock. The second starts half a second after the first and waits until the first releases:
 *
 *     1 attempts
 *     1 acquired
 *     2 attempts
 *     1 released
 *     2 acquired
 *     2 released
 *
 *     ./contenders [url] [percent]     percent: 10 makes all pauses a tenth as long
 *
 * Each contender has a thread and a locker of its own, as if they were two programs on two machines.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlock.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct contender {
    int number;
    long start_after_ms;
    long hold_ms;
};

static const char *url = "redis://localhost:6379";
static long percent = 100;

static void check(dlock_status status, const dlock_error *err, const char *doing) {
    if (status != DLOCK_OK) {
        fprintf(stderr, "%s: %s: %s\n", doing, dlock_status_name(status), err->message);
        exit(EXIT_FAILURE);
    }
}

static void pause_ms(long milliseconds) {
    milliseconds = milliseconds * percent / 100;
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static void *contend(void *argument) {
    const struct contender *self = argument;
    dlock_error err;
    dlock_options *options;
    dlock_locker *locker;
    dlock_lock *lock;
    check(dlock_options_new(&options, &err), &err, "making options");
    check(dlock_options_set_url(options, url, &err), &err, "setting the URL");
    check(dlock_locker_new(options, &locker, &err), &err, "making a locker");
    dlock_options_free(options);
    check(dlock_lock_new(locker, "contenders", "examples", &lock, &err), &err, "making a lock");

    pause_ms(self->start_after_ms);
    printf("%d attempts\n", self->number);
    check(dlock_lock_acquire(lock, &err), &err, "acquiring");
    printf("%d acquired\n", self->number);
    pause_ms(self->hold_ms);
    /* Said while the lock is still held: the release hands it over, and the other may speak before the call returns. */
    printf("%d released\n", self->number);
    check(dlock_lock_release(lock, &err), &err, "releasing");

    dlock_lock_free(lock);
    dlock_locker_free(locker);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        url = argv[1];
    }
    if (argc > 2) {
        percent = strtol(argv[2], NULL, 10);
    }
    struct contender contenders[2] = {{1, 0, 2000}, {2, 500, 1000}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, contend, &contenders[i]) != 0) {
            fprintf(stderr, "cannot start a thread\n");
            return EXIT_FAILURE;
        }
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    return EXIT_SUCCESS;
}
