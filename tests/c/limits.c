/* What happens when the process runs out of something, or ends in the middle: descriptors, threads, memory, its life.
 *
 *     limits <url> [part of a check's name]
 */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <sys/resource.h>

/* Allocations of the whole process pass here; the one with that number, and all after it if so wanted, fail. */
static _Atomic long long allocations, fails_at = -1;
static bool fails_from_there;

static bool refused(void) {
    long long number = __atomic_fetch_add((long long *)&allocations, 1, __ATOMIC_RELAXED);
    return fails_at >= 0 && (number == fails_at || (fails_from_there && number > fails_at));
}

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size) { return refused() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return refused() ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return refused() ? NULL : __libc_realloc(old, size); }

/* --- descriptors --- */

static int highest_descriptor(void) {
    int highest = 2;
    DIR *directory = opendir("/proc/self/fd");
    REQUIRE(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        int number = atoi(entry->d_name);
        highest = number > highest && number != dirfd(directory) ? number : highest;
    }
    closedir(directory);
    return highest;
}

static int fillers[4096], filled;

/* No descriptor is left but `room`. */
static void exhaust(int room) {
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)highest_descriptor() + 64;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (filled = 0; filled < 4096 && (fillers[filled] = dup(0)) >= 0; filled++) {
    }
    REQUIRE(errno == EMFILE);
    while (room-- > 0 && filled > 0) {
        close(fillers[--filled]);
    }
}

static void relieve(void) {
    while (filled > 0) {
        close(fillers[--filled]);
    }
}

static bool says_descriptors(const dlock_error *err) {
    return strstr(err->message, "descriptor") != NULL || strstr(err->message, "open files") != NULL;
}

/* With any number of descriptors left there is an answer, and with enough of them all is well again. */
static void without_descriptors(void) {
    for (int room = 0; room < 12; room++) {
        dlock_error err = {0};
        dlock_options *options = NULL;
        dlock_locker *locker = NULL;
        dlock_lock *lock = NULL;
        dlock_queue *queue = NULL;
        OK(dlock_options_new(&options, &err));
        OK(dlock_options_set_url(options, url, &err));
        exhaust(room);
        dlock_status status = dlock_locker_new(options, &locker, &err);
        dlock_options_free(options);
        if (status != DLOCK_OK) {
            EXPECT(status == DLOCK_ERR_LOCKER && says_descriptors(&err));
            relieve();
            continue;
        }
        status = dlock_lock_new(locker, "limits", "test", &lock, &err);
        EXPECT(status == DLOCK_OK || (status == DLOCK_ERR_NOT_CONNECTED && says_descriptors(&err)));
        if (status == DLOCK_OK) {
            status = dlock_lock_acquire_timeout(lock, 300, &err);
            EXPECT(status == DLOCK_OK || status == DLOCK_ERR_NOT_CONNECTED);
            status = dlock_queue_new(locker, &queue, &err);
            EXPECT(status == DLOCK_OK || (status == DLOCK_ERR_LOCKER && says_descriptors(&err)));
        }
        dlock_lock_free(lock);
        lock = NULL;
        relieve();
        OK(dlock_lock_new(locker, "limits", "test", &lock, &err));
        OK(dlock_lock_acquire_timeout(lock, 10000, &err));
        OK(dlock_lock_release(lock, &err));
        dlock_lock_free(lock);
        dlock_queue_free(queue);
        dlock_locker_free(locker);
    }
}

/* The connection is lost, and there is no descriptor for another; nor for the subscription of one who waits. */
static void reconnecting_without_descriptors(void) {
    dlock_error err = {0};
    dlock_options *options = NULL;
    dlock_locker *locker = NULL, *other = new_locker(30000, true);
    OK(dlock_options_new(&options, &err));
    OK(dlock_options_set_url(options, url, &err));
    OK(dlock_options_set_response_timeout_ms(options, 1500, &err));
    OK(dlock_locker_new(options, &locker, &err));
    dlock_options_free(options);
    dlock_lock *lock = new_lock(locker, "limits"), *held = new_lock(other, "limits");
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_release(lock, &err));
    if (on_redis()) {
        raw("CLIENT KILL TYPE normal");
        exhaust(0);
        dlock_status status = dlock_lock_acquire(lock, &err);
        /* The lost connection's own descriptor may do for the new one. */
        EXPECT(status == DLOCK_OK || (status == DLOCK_ERR_NOT_CONNECTED && says_descriptors(&err)));
        relieve();
        if (status == DLOCK_OK) {
            OK(dlock_lock_release(lock, &err));
        }
    }
    OK(dlock_lock_acquire_timeout(held, 10000, &err));
    exhaust(0);
    struct blocked waiter;
    bool started = pthread_create(&waiter.thread, NULL, blocked_body,
                                  (memset(&waiter, 0, sizeof waiter), waiter.lock = lock, waiter.timeout_ms = 400,
                                   &waiter)) == 0;
    REQUIRE(started);
    blocked_join(&waiter);
    if (waiter.status != DLOCK_ERR_LOCK_TIMEOUT) { /* polls, since it cannot subscribe */
        fail_at(__FILE__, __LINE__, "%s: %s", dlock_status_name(waiter.status), waiter.err.message);
    }
    relieve();
    blocked_start(&waiter, lock, 10000);
    OK(dlock_lock_release(held, &err));
    EXPECT(blocked_join(&waiter) == DLOCK_OK);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_lock_free(held);
    dlock_locker_free(locker);
    dlock_locker_free(other);
}

/* --- threads --- */

/* More than the library gives a thread of its own as a stack, and glibc takes room for it from there. */
static _Thread_local volatile char large[400 * 1024];

static _Atomic int threads_left = 1000000;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return threads_left-- > 0 ? real(thread, attributes, body, argument) : EAGAIN;
}

/* With any number of threads left calls keep their deadlines, and with enough of them all is well again. */
static void without_threads(void) {
    for (int room = 0; room < 5; room++) {
        dlock_error err = {0};
        dlock_locker *other = new_locker(30000, true), *locker;
        dlock_lock *held = new_lock(other, "limits"), *lock;
        dlock_queue *queue = NULL;
        OK(dlock_lock_acquire(held, &err));
        threads_left = room;
        locker = new_locker(30000, true);
        OK(dlock_queue_new(locker, &queue, &err));
        lock = new_lock(locker, "limits");
        if (room == 0) {
            EXPECT_STATUS(dlock_submit_acquire(queue, lock, 10, 0, &err), DLOCK_ERR_LOCKER);
            EXPECT(strstr(err.message, "thread") != NULL);
        }
        uint64_t begun = now_ms();
        EXPECT_STATUS(dlock_lock_acquire_timeout(lock, 300, &err), DLOCK_ERR_LOCK_TIMEOUT);
        EXPECT(now_ms() - begun >= 299 && now_ms() - begun <= 350 + SLACK_MS);
        OK(dlock_lock_release(held, &err));
        OK(dlock_lock_acquire_timeout(lock, 1000, &err));
        OK(dlock_lock_release(lock, &err));
        OK(dlock_lock_acquire(held, &err));
        threads_left = 1000000;
        struct blocked waiter;
        blocked_start(&waiter, lock, 10000);
        EVENTUALLY(is_busy(lock), 2000);
        OK(dlock_lock_release(held, &err));
        EXPECT(blocked_join(&waiter) == DLOCK_OK);
        OK(dlock_lock_release(lock, &err));
        dlock_lock_free(lock);
        dlock_lock_free(held);
        dlock_queue_free(queue);
        dlock_locker_free(locker);
        dlock_locker_free(other);
    }
}

static void with_large_thread_locals(void) {
    dlock_error err = {0};
    dlock_locker *locker = new_locker(400, true);
    dlock_lock *lock = new_lock(locker, "limits");
    large[sizeof large - 1] = 1;
    OK(dlock_lock_acquire(lock, &err));
    pause_ms(1200); /* three leases: they are renewed by a thread */
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* --- memory --- */

static void use_once(void) {
    dlock_error err;
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    dlock_lock *lock = NULL;
    if (dlock_options_new(&options, &err) == DLOCK_OK && dlock_options_set_url(options, url, &err) == DLOCK_OK &&
        dlock_options_set_lease_ms(options, 500, &err) == DLOCK_OK &&
        dlock_locker_new(options, &locker, &err) == DLOCK_OK &&
        dlock_lock_new(locker, "limits-memory", "test", &lock, &err) == DLOCK_OK &&
        dlock_lock_acquire_timeout(lock, 2000, &err) == DLOCK_OK) {
        dlock_lock_release(lock, &err);
    }
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    dlock_options_free(options);
}

/* Memory that is refused is an error, or the abort that Rust makes of it: no hang, no access to what is not there. */
static void without_memory(void) {
    int well = 0, aborted = 0, ends[2];
    long long needed = 0;
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    REQUIRE(pipe(ends) == 0);
    pid_t counting = fork();
    if (counting == 0) {
        allocations = 0;
        use_once();
        needed = allocations;
        _exit(write(ends[1], &needed, sizeof needed) == sizeof needed ? 0 : 1);
    }
    REQUIRE(read(ends[0], &needed, sizeof needed) == sizeof needed);
    waitpid(counting, NULL, 0);
    for (int mode = 0; mode < 2; mode++) {
        for (long long number = 0; number <= needed; number += mode ? 7 : 1) {
            fflush(stdout);
            pid_t child = fork();
            if (child == 0) {
                alarm(20);
                freopen("/dev/null", "w", stderr); /* the standard library says that memory is out */
                fails_from_there = mode == 1;
                allocations = 0;
                fails_at = number;
                use_once();
                _exit(0);
            }
            int status = 0;
            waitpid(child, &status, 0);
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
                well++;
            } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) {
                aborted++;
            } else {
                fail_at(__FILE__, __LINE__, "allocation %lld of %lld refused: status %#x", number, needed, (unsigned)status);
            }
        }
    }
    EXPECT(needed > 10);
    printf("# limits: %lld allocations, each refused: %d times all went on or answered, %d times aborted\n", needed, well,
           aborted);
}

/* --- the end of the process --- */

static void *wait_for_ever(void *lock) {
    dlock_lock_acquire(lock, NULL);
    return NULL;
}

/* A child whose threads are blocked ends as it likes. */
static void ends_while_blocked(void) {
    for (int way = 0; way < 3; way++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            dlock_locker *locker = new_locker(2000, true);
            dlock_lock *held = new_lock(locker, "limits-end"), *waiting = new_lock(locker, "limits-end");
            dlock_lock_acquire(held, NULL);
            pthread_t thread;
            pthread_create(&thread, NULL, wait_for_ever, waiting);
            while (!is_busy(waiting)) {
                pause_ms(1);
            }
            if (way == 0) {
                exit(7);
            }
            if (way == 1) {
                dlock_locker_close(locker, NULL);
                exit(7);
            }
            quick_exit(7);
        }
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    }
    dlock_locker *locker = new_locker(2000, true);
    dlock_lock *lock = new_lock(locker, "limits-end");
    dlock_error err = {0};
    OK(dlock_lock_acquire_timeout(lock, 20000, &err)); /* the lease of the dead is over */
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

int main(int argc, char **argv) {
    check_arguments(argc, argv);
    run_check("limits: no descriptor is left: an answer that says so, and all is well with some again", without_descriptors);
    run_check("limits: reconnecting and subscribing without a descriptor", reconnecting_without_descriptors);
    run_check("limits: no thread is left: deadlines are kept, and all is well with some again", without_threads);
    run_check("limits: thread-local variables larger than a stack: leases are renewed", with_large_thread_locals);
    run_check("limits: each allocation is refused: an error or an abort, no hang", without_memory);
    run_check("limits: the process ends while threads are blocked", ends_while_blocked);
    return check_result();
}
