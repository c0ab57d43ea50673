/* What a foreign project builds: one lock, by the C header. */
#include <dlock.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    dlock_lock *lock = NULL;
    dlock_error err;
    if (argc != 2 || strcmp(dlock_version(), DLOCK_VERSION) != 0) {
        return 2;
    }
    if (dlock_options_new(&options, &err) == DLOCK_OK && dlock_options_set_url(options, argv[1], &err) == DLOCK_OK &&
        dlock_locker_new(options, &locker, &err) == DLOCK_OK &&
        dlock_lock_new(locker, "foreign", "packages", &lock, &err) == DLOCK_OK &&
        dlock_lock_acquire_timeout(lock, 10000, &err) == DLOCK_OK && dlock_lock_release(lock, &err) == DLOCK_OK) {
        puts("locked and released");
    } else {
        puts(err.message);
    }
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    dlock_options_free(options);
    return err.status != DLOCK_OK;
}
