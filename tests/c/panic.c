/* A panic inside the library becomes DLOCK_ERR_PANIC: it neither unwinds into C nor ends the process.
 *
 *     panic <url> [part of a name]
 *
 * Needs a library built with the feature `provoke-panic`, which panics for one lock name.
 */
#define _GNU_SOURCE
#include "check.h"

static void panic_is_caught(void) {
    dlock_error err;
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = NULL;
    memset(&err, 0x7f, sizeof err);
    for (int i = 0; i < 3; i++) {
        EXPECT(dlock_lock_new(locker, "dlock:provoke-panic", "test", &lock, &err) == DLOCK_ERR_PANIC);
        EXPECT(err.status == DLOCK_ERR_PANIC && strstr(err.message, "provoked") != NULL);
        EXPECT(dlock_lock_new(locker, "dlock:provoke-panic", "test", &lock, NULL) == DLOCK_ERR_PANIC);
        EXPECT(lock == NULL);
    }
    OK(dlock_lock_new(locker, "panic", "test", &lock, &err));
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

int main(int argc, char **argv) {
    check_arguments(argc, argv);
    run_check("PANIC: answered with its text, and the locker goes on working", panic_is_caught);
    return check_result();
}
