/* Three ways not to wait for ever: one attempt, a deadline, a number of attempts with growing pauses.
 *
 *     ./timeouts [url]
 *
 * The lock is held by a "crashed" holder: its lease is one second, nobody renews it and nobody releases it. So the
 * first two ways fail, and the third succeeds when the lease has run out.
 */
#include <dlock.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static void check(dlock_status status, const dlock_error *err, const char *doing) {
    if (status != DLOCK_OK) {
        fprintf(stderr, "%s: %s: %s\n", doing, dlock_status_name(status), err->message);
        exit(EXIT_FAILURE);
    }
}

/* Some failures are answers. Anything but the expected one ends the program. */
static void expect(dlock_status wanted, dlock_status status, const dlock_error *err, const char *doing) {
    if (status == DLOCK_OK) {
        fprintf(stderr, "%s: expected %s, but it succeeded\n", doing, dlock_status_name(wanted));
        exit(EXIT_FAILURE);
    }
    if (status != wanted) {
        check(status, err, doing);
    }
}

static dlock_locker *make_locker(const char *url, uint64_t lease_ms, bool renew) {
    dlock_error err;
    dlock_options *options;
    dlock_locker *locker;
    check(dlock_options_new(&options, &err), &err, "making options");
    check(dlock_options_set_url(options, url, &err), &err, "setting the URL");
    check(dlock_options_set_lease_ms(options, lease_ms, &err), &err, "setting the lease");
    check(dlock_options_set_auto_renew(options, renew, &err), &err, "setting the renewal");
    check(dlock_locker_new(options, &locker, &err), &err, "making a locker");
    dlock_options_free(options);
    return locker;
}

int main(int argc, char **argv) {
    const char *url = argc > 1 ? argv[1] : "redis://localhost:6379";
    dlock_error err;
    dlock_status status;

    dlock_locker *crashed_locker = make_locker(url, 1000, false);
    dlock_locker *locker = make_locker(url, 30000, true);
    dlock_lock *crashed;
    dlock_lock *lock;
    check(dlock_lock_new(crashed_locker, "timeouts", "examples", &crashed, &err), &err, "making a lock");
    check(dlock_lock_new(locker, "timeouts", "examples", &lock, &err), &err, "making a lock");
    check(dlock_lock_acquire(crashed, &err), &err, "acquiring as the holder that will crash");

    /* One attempt. That somebody else holds the lock is no error here. */
    bool acquired;
    check(dlock_lock_try_acquire(lock, &acquired, &err), &err, "trying");
    printf("try: %s\n", acquired ? "acquired" : "held by somebody else");

    /* Wait in the queue, but not beyond a deadline. */
    status = dlock_lock_acquire_timeout(lock, 100, &err);
    expect(DLOCK_ERR_LOCK_TIMEOUT, status, &err, "acquiring within 100 ms");
    printf("timeout of 100 ms: %s\n", dlock_status_name(status));

    /* One attempt, then up to 6 more after 50, 100, 200, 400, 800 and 1600 ms. The attempts stay out of the queue:
     * whoever waits there goes first. Prefer the deadline unless that is what you want. */
    check(dlock_lock_acquire_retry_backoff(lock, 6, 50, &err), &err, "acquiring with backoff");
    printf("backoff: acquired\n");

    /* The old holder cannot release what it no longer holds. */
    status = dlock_lock_release(crashed, &err);
    expect(DLOCK_ERR_NOT_OWNER, status, &err, "releasing as the old holder");
    printf("release by the old holder: %s\n", dlock_status_name(status));

    check(dlock_lock_release(lock, &err), &err, "releasing");
    dlock_lock_free(lock);
    dlock_lock_free(crashed);
    dlock_locker_free(locker);
    dlock_locker_free(crashed_locker);
    return EXIT_SUCCESS;
}
