/* The library loaded with dlopen, used and closed again, twenty times: no thread and no descriptor is left.
 *
 *     dlopen <url> <path of libdlock.so>
 *
 * Not linked with the library.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <dlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int entries(const char *directory) {
    DIR *open = opendir(directory);
    int count = 0;
    for (struct dirent *entry; open != NULL && (entry = readdir(open)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    if (open != NULL) {
        closedir(open);
    }
    return count;
}

static void fail(const char *what, const char *why) {
    printf("  %s: %s\nnot ok - dlopen, use, close, dlclose, twenty times\n", what, why);
    exit(1);
}

/* A function of the library, by its name; declared with the type that the header gives it. */
#define FUNCTION(name)                                                                                                 \
    __typeof__(&name) p_##name;                                                                                        \
    *(void **)&p_##name = dlsym(library, #name);                                                                       \
    if (p_##name == NULL) {                                                                                            \
        fail(#name, "not exported");                                                                                   \
    }

#define OK(call)                                                                                                       \
    if ((call) != DLOCK_OK) {                                                                                          \
        fail(#call, err.message);                                                                                      \
    }

static void use(void *library, const char *url) {
    FUNCTION(dlock_options_new)
    FUNCTION(dlock_options_set_url)
    FUNCTION(dlock_options_free)
    FUNCTION(dlock_locker_new)
    FUNCTION(dlock_locker_free)
    FUNCTION(dlock_lock_new)
    FUNCTION(dlock_lock_free)
    FUNCTION(dlock_lock_acquire)
    FUNCTION(dlock_lock_release)
    FUNCTION(dlock_queue_new)
    FUNCTION(dlock_queue_free)
    FUNCTION(dlock_queue_wait)
    FUNCTION(dlock_submit_acquire)
    dlock_error err = {0};
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    dlock_lock *holder = NULL, *waiter = NULL;
    dlock_queue *queue = NULL;
    OK(p_dlock_options_new(&options, &err))
    OK(p_dlock_options_set_url(options, url, &err))
    OK(p_dlock_locker_new(options, &locker, &err))
    p_dlock_options_free(options);
    OK(p_dlock_lock_new(locker, "dlopen", "test", &holder, &err))
    OK(p_dlock_lock_new(locker, "dlopen", "test", &waiter, &err))
    OK(p_dlock_queue_new(locker, &queue, &err))
    OK(p_dlock_lock_acquire(holder, &err))
    /* Something that waits, so that the background thread and the subscription are there. */
    OK(p_dlock_submit_acquire(queue, waiter, DLOCK_WAIT_FOREVER, 1, &err))
    OK(p_dlock_lock_release(holder, &err))
    dlock_event event;
    size_t count = 0;
    OK(p_dlock_queue_wait(queue, &event, 1, 5000, &count, &err))
    if (count != 1 || event.status != DLOCK_OK) {
        fail("waiting for the hand-off", count == 0 ? "nothing came" : event.message);
    }
    p_dlock_queue_free(queue);
    p_dlock_lock_free(holder);
    p_dlock_lock_free(waiter);
    p_dlock_locker_free(locker);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        return 2;
    }
    int descriptors = entries("/proc/self/fd");
    for (int round = 0; round < 20; round++) {
        void *library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            fail("dlopen", dlerror());
        }
        use(library, argv[1]);
        /* A joined thread can be listed for a moment longer. */
        for (int i = 0; i < 500 && entries("/proc/self/task") != 1; i++) {
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        }
        if (entries("/proc/self/task") != 1) {
            fail("closing", "a thread is left");
        }
        if (entries("/proc/self/fd") != descriptors) {
            fail("closing", "a descriptor is left");
        }
        if (dlclose(library) != 0) {
            fail("dlclose", dlerror());
        }
    }
    printf("ok - dlopen, use, close, dlclose, twenty times: no thread, no descriptor left\n");
    return 0;
}
