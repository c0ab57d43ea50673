/* fork(): in the child every handle answers FORKED, at once and without touching the parent's connections, whatever
 * the parent's threads were doing in that instant.
 *
 *     fork <url> [part of a name]
 */
#define _GNU_SOURCE
#include "check.h"

static dlock_error err;

/* Runs `body` in a child; fails if it does not end well within ten seconds. */
static void in_child(void (*body)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(10);
        body();
        fflush(stdout);
        _exit(failures == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_at(__FILE__, __LINE__, "the child %s %d", WIFSIGNALED(status) ? "was ended by signal" : "exited with",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
}

static dlock_locker *locker;
static dlock_queue *queue;
static dlock_lock *held;
static dlock_lock *idle;

static void parent(void) {
    locker = new_locker(0, true);
    OK(dlock_queue_new(locker, &queue, &err));
    held = new_lock(locker, "fork_held");
    idle = new_lock(locker, "fork_idle");
    OK(dlock_lock_acquire(held, &err));
}

static void parent_still_works(void) {
    bool mine = false;
    OK(dlock_lock_is_locked_by_me(held, &mine, &err));
    EXPECT(mine);
    OK(dlock_lock_acquire_timeout(idle, 2000, &err));
    OK(dlock_lock_release(idle, &err));
    OK(dlock_lock_release(held, &err));
    dlock_lock_free(held);
    dlock_lock_free(idle);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void every_function(void) {
    bool flag = true;
    uint64_t value = 77;
    size_t count = 77;
    char owner[DLOCK_UUID_SIZE] = "untouched";
    dlock_event event;
    dlock_lock *lock = NULL;
    dlock_queue *other = NULL;
    EXPECT_STATUS(dlock_lock_new(locker, "n", "test", &lock, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_queue_new(locker, &other, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_locker_close(locker, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_acquire(idle, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_try_acquire(idle, &flag, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_acquire_timeout(idle, 100, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_acquire_retry_backoff(idle, 1, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_release(held, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_is_locked(held, &flag, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_is_locked_by_me(held, &flag, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_owner(held, &flag, owner, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_fencing_token(held, &value, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_remaining_ms(held, &value, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_extend(held, 1000, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_cancel(held, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_watch(held, queue, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_submit_acquire(queue, idle, 1, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_submit_try_acquire(queue, idle, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_submit_acquire_retry_backoff(queue, idle, 1, 1, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_submit_release(queue, held, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_submit_is_locked(queue, held, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_submit_is_locked_by_me(queue, held, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_submit_owner(queue, held, 1, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_queue_wait(queue, &event, 1, 100, &count, &err), DLOCK_ERR_FORKED);
    EXPECT(flag && value == 77 && count == 77 && strcmp(owner, "untouched") == 0 && lock == NULL && other == NULL);
}

static void answers_forked(void) {
    parent();
    in_child(every_function);
    parent_still_works();
}

static void free_all(void) {
    dlock_lock_free(held);
    dlock_lock_free(idle);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
}

static void free_locker_first(void) {
    dlock_locker_free(locker);
    dlock_queue_free(queue);
    dlock_lock_free(idle);
    dlock_lock_free(held);
}

static void child_frees(void) {
    parent();
    in_child(free_all);
    in_child(free_locker_first);
    parent_still_works();
}

static void child_with_its_own(void) {
    dlock_locker *own = new_locker(0, true);
    dlock_lock *lock = new_lock(own, "fork_own");
    dlock_lock *wanted = new_lock(own, "fork_held");
    bool acquired = true;
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_release(lock, &err));
    OK(dlock_lock_try_acquire(wanted, &acquired, &err));
    /* A memory store is the process's own: the child's is another one, or answers what it copied. */
    EXPECT(!acquired || !on_redis());
    dlock_lock_free(lock);
    dlock_lock_free(wanted);
    dlock_locker_free(own);
}

static void child_works(void) {
    parent();
    in_child(child_with_its_own);
    parent_still_works();
}

static void child_exits(void) {
    fflush(stdout);
    exit(0);
}

static void normal_exit(void) {
    parent();
    in_child(child_exits);
    parent_still_works();
}

static volatile bool stop;

static void *use_locks(void *argument) {
    dlock_lock *lock = argument;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        if (dlock_lock_acquire(lock, NULL) == DLOCK_OK) {
            dlock_lock_release(lock, NULL);
        }
    }
    return NULL;
}

static void busy_child(void) {
    bool flag;
    EXPECT_STATUS(dlock_lock_is_locked(idle, &flag, &err), DLOCK_ERR_FORKED);
    EXPECT_STATUS(dlock_lock_acquire(held, &err), DLOCK_ERR_FORKED);
    free_all();
}

/* Mutexes that other threads of the parent hold in the instant of the fork are held for ever in the child. */
static void while_threads_are_inside(void) {
    dlock_lock *locks[3];
    pthread_t threads[3];
    parent();
    for (int i = 0; i < 3; i++) {
        locks[i] = new_lock(locker, "fork_busy");
        REQUIRE(pthread_create(&threads[i], NULL, use_locks, locks[i]) == 0);
    }
    for (int i = 0; i < 40 && failures == 0; i++) {
        in_child(busy_child);
    }
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        dlock_lock_free(locks[i]);
    }
    parent_still_works();
}

int main(int argc, char **argv) {
    check_arguments(argc, argv);
    run_check("fork: every function answers FORKED in the child, results untouched", answers_forked);
    run_check("fork: the child may free everything, in any order; the parent goes on", child_frees);
    run_check("fork: the child makes a locker of its own", child_works);
    run_check("fork: the child exits normally", normal_exit);
    run_check("fork: while other threads are inside the library, the child never hangs", while_threads_are_inside);
    return check_result();
}
