/* The smallest use: one lock, acquired, held while something is done, released.
 *
 *     ./minimal [url]        the default is redis://localhost:6379
 */
#include <dlock.h>
#include <stdio.h>
#include <stdlib.h>

/* Every call that can fail answers a status and, if asked, a message in a struct that the caller owns. */
static void check(dlock_status status, const dlock_error *err, const char *doing) {
    if (status != DLOCK_OK) {
        fprintf(stderr, "%s: %s: %s\n", doing, dlock_status_name(status), err->message);
        exit(EXIT_FAILURE);
    }
}

int main(int argc, char **argv) {
    const char *url = argc > 1 ? argv[1] : "redis://localhost:6379";
    dlock_error err;

    dlock_options *options;
    check(dlock_options_new(&options, &err), &err, "making options");
    check(dlock_options_set_url(options, url, &err), &err, "setting the URL");

    /* A locker holds the connections. It copies the options and does not connect yet. */
    dlock_locker *locker;
    check(dlock_locker_new(options, &locker, &err), &err, "making a locker");
    dlock_options_free(options);

    /* A lock handle is one contender for the lock of that name and group, anywhere on that server. */
    dlock_lock *lock;
    check(dlock_lock_new(locker, "minimal", "examples", &lock, &err), &err, "making a lock");

    check(dlock_lock_acquire(lock, &err), &err, "acquiring");
    printf("holding the lock: nobody else does, in any process on any machine\n");
    check(dlock_lock_release(lock, &err), &err, "releasing");
    printf("released\n");

    dlock_lock_free(lock);
    dlock_locker_free(locker);
    return EXIT_SUCCESS;
}
