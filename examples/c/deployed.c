/* A lock on a server as it is in production: TLS, a user, a name by which those on call see this program. All of that
 * is in the URL (docs/deployments.md). What the server is set up for badly is told once, for the log.
 *
 *     ./deployed 'rediss://billing:password@redis.example?ca=/etc/ssl/redis-ca.pem&client_name=billing-worker'
 */
#include <dlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(dlock_status status, const dlock_error *err, const char *doing) {
    if (status != DLOCK_OK) {
        fprintf(stderr, "%s: %s: %s\n", doing, dlock_status_name(status), err->message); /* never shows the password */
        exit(EXIT_FAILURE);
    }
}

/* One line each: a policy that may throw locks away, a right that is missed. */
static void log_warnings(const dlock_locker *locker) {
    char text[DLOCK_WARNINGS_SIZE];
    dlock_error err;
    check(dlock_locker_warnings(locker, text, sizeof text, &err), &err, "asking for warnings");
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        printf("warning: %s\n", line);
    }
}

int main(int argc, char **argv) {
    const char *url = argc > 1 ? argv[1] : "redis://localhost:6379?client_name=billing-worker";
    dlock_error err;

    dlock_options *options;
    dlock_locker *locker;
    check(dlock_options_new(&options, &err), &err, "making options");
    check(dlock_options_set_url(options, url, &err), &err, "setting the URL"); /* names what is wrong in it */
    check(dlock_locker_new(options, &locker, &err), &err, "making a locker");
    dlock_options_free(options);

    /* Connects: a certificate that is not trusted, a missing right or a wrong password is told here. */
    dlock_lock *lock;
    check(dlock_lock_new(locker, "report", "billing", &lock, &err), &err, "connecting");
    log_warnings(locker);

    check(dlock_lock_acquire_timeout(lock, 5000, &err), &err, "acquiring");
    printf("holding the lock\n");
    check(dlock_lock_release(lock, &err), &err, "releasing");

    dlock_lock_free(lock);
    dlock_locker_free(locker);
    return EXIT_SUCCESS;
}
