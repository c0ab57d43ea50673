/* Why a lock needs a fencing token, and how to use it.
 *
 *     ./fenced_work [url]
 *
 * A lock with a lease cannot stop a holder that was paused (by the scheduler, a debugger, a laptop's lid) beyond its
 * lease and then goes on writing. What can stop it is the resource: each acquisition comes with a number greater than
 * all before it, and the resource refuses a write whose number is smaller than one that it has seen.
 *
 * Here a slow worker loses its lock in the middle of its work, a second one takes over, and the slow one's late write
 * is refused. Then it asks its own handle, learns that the lock is lost, and stops.
 */
#include <dlock.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* Stands for a table with a column "token" and an UPDATE … WHERE token <= ?, an object store's metadata, … */
struct resource {
    uint64_t highest_token;
    int writes;
};

static bool resource_write(struct resource *resource, uint64_t token) {
    if (token < resource->highest_token) {
        return false;
    }
    resource->highest_token = token;
    resource->writes++;
    return true;
}

static void check(dlock_status status, const dlock_error *err, const char *doing) {
    if (status != DLOCK_OK) {
        fprintf(stderr, "%s: %s: %s\n", doing, dlock_status_name(status), err->message);
        exit(EXIT_FAILURE);
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

/* Writes up to `steps` times, and stops early when the lock is lost or the resource refuses. */
static void work(const char *who, dlock_lock *lock, uint64_t token, struct resource *resource, int steps) {
    dlock_error err;
    uint64_t remaining;
    int accepted = 0;
    for (int step = 0; step < steps; step++) {
        /* Asks nobody: the handle's own, cautious view. It spares useless work, but it proves nothing about the
         * moment in which the write arrives. That is what the token is for. */
        dlock_status status = dlock_lock_remaining_ms(lock, &remaining, &err);
        if (status == DLOCK_ERR_LOST) {
            printf("%s: the lock is lost, I stop\n", who);
            return;
        }
        check(status, &err, "asking how long the lock is held");
        if (!resource_write(resource, token)) {
            printf("%s: write refused\n", who);
            return;
        }
        accepted++;
    }
    printf("%s: %d writes accepted\n", who, accepted);
}

int main(int argc, char **argv) {
    const char *url = argc > 1 ? argv[1] : "redis://localhost:6379";
    struct resource resource = {0, 0};
    dlock_error err;
    uint64_t slow_token;
    uint64_t quick_token;

    /* A program of yours leaves renewal on, so that a living process keeps its lock for as long as it likes. It is off
     * here because a lease that is not renewed is what a paused process looks like. */
    dlock_locker *slow_locker = make_locker(url, 1000, false);
    dlock_locker *quick_locker = make_locker(url, 30000, true);
    dlock_lock *slow;
    dlock_lock *quick;
    check(dlock_lock_new(slow_locker, "fenced_work", "examples", &slow, &err), &err, "making a lock");
    check(dlock_lock_new(quick_locker, "fenced_work", "examples", &quick, &err), &err, "making a lock");

    check(dlock_lock_acquire(slow, &err), &err, "acquiring");
    /* Read once for each acquisition: it does not change while the lock is held. */
    check(dlock_lock_fencing_token(slow, &slow_token, &err), &err, "reading the fencing token");
    work("slow", slow, slow_token, &resource, 3);

    /* The slow worker is paused. Its lease runs out, and the next in line gets the lock. */
    check(dlock_lock_acquire(quick, &err), &err, "acquiring after the pause");
    check(dlock_lock_fencing_token(quick, &quick_token, &err), &err, "reading the fencing token");
    work("quick", quick, quick_token, &resource, 3);

    /* The slow worker's write was already on its way, past every check that a client can make. */
    if (resource_write(&resource, slow_token)) {
        fprintf(stderr, "a stale write was accepted\n");
        return EXIT_FAILURE;
    }
    printf("slow: late write refused, its token is older\n");
    work("slow", slow, slow_token, &resource, 3);

    check(dlock_lock_release(quick, &err), &err, "releasing");
    dlock_lock_free(slow);
    dlock_lock_free(quick);
    dlock_locker_free(slow_locker);
    dlock_locker_free(quick_locker);
    printf("%d writes in the resource\n", resource.writes);
    return resource.writes == 6 ? EXIT_SUCCESS : EXIT_FAILURE;
}
