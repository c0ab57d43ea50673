/*
 * The first lock: from before dlopen() to held, in a process of its own each time, against a bare connection with one PING.
 *
 *     start <port> <libdlock.so>
 */
#include <dlfcn.h>
#include <sys/wait.h>

#include "client.h"

enum { ROUNDS = 200 };

/* For must(): this program is not linked with the library, whose loading it measures. */
const char *dlock_status_name(int32_t status)
{
    static char name[32];
    snprintf(name, sizeof name, "status %d", (int)status);
    return name;
}

static void *function(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (!found)
        die("no %s: %s", name, dlerror());
    return found;
}

/* ISO C knows no conversion from an object pointer to a function's. */
#define CALL(library, name, ...) (*(__typeof__(&name) *)&(void *){function(library, #name)})(__VA_ARGS__)

static uint64_t first_lock(const char *url, const char *path)
{
    dlock_error err;
    dlock_options *options;
    dlock_locker *locker;
    dlock_lock *lock;
    uint64_t begin = now_ns();
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        die("%s", dlerror());
    must(CALL(library, dlock_options_new, &options, &err), &err, "options_new");
    must(CALL(library, dlock_options_set_url, options, url, &err), &err, "options_set_url");
    must(CALL(library, dlock_locker_new, options, &locker, &err), &err, "locker_new");
    must(CALL(library, dlock_lock_new, locker, "start", "bench", &lock, &err), &err, "lock_new");
    must(CALL(library, dlock_lock_acquire, lock, &err), &err, "acquire");
    uint64_t took = now_ns() - begin;
    CALL(library, dlock_lock_release, lock, &err);
    CALL(library, dlock_lock_free, lock);
    CALL(library, dlock_locker_free, locker);
    return took;
}

static uint64_t bare_ping(const char *port)
{
    uint64_t begin = now_ns();
    struct bare *bare = bare_open(port);
    BARE_CALL(bare, "PING");
    return now_ns() - begin;
}

/* What that takes in a process that has done nothing yet. */
static uint64_t in_a_child(const char *port, const char *url, const char *path)
{
    int ends[2], status;
    uint64_t took;
    if (pipe(ends) < 0)
        die("no pipe");
    pid_t child = fork();
    if (child == 0) {
        took = path ? first_lock(url, path) : bare_ping(port);
        _exit(write(ends[1], &took, sizeof took) != sizeof took);
    }
    close(ends[1]);
    if (read(ends[0], &took, sizeof took) != sizeof took || waitpid(child, &status, 0) != child || status != 0)
        die("the child failed");
    close(ends[0]);
    return took;
}

int main(int argc, char **argv)
{
    char url[64];
    if (argc != 3)
        die("usage: start <port> <libdlock.so>");
    redis_url(url, sizeof url, argv[1]);
    struct samples ours = samples_new(ROUNDS), bare = samples_new(ROUNDS);
    for (int i = 0; i < ROUNDS; i++) {
        samples_add(&ours, in_a_child(argv[1], url, argv[2]));
        samples_add(&bare, in_a_child(argv[1], url, NULL));
    }
    printf("first_lock_us %.0f\n", (double)percentile(ours.ns, ours.count, 0.5) / 1000);
    printf("bare_connect_us %.0f\n", (double)percentile(bare.ns, bare.count, 0.5) / 1000);
    return 0;
}
