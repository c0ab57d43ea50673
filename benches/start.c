/*
 * The first lock: from before dlopen() to held, in a process of its own each time, against a bare connection with one PING.
 *
 *     start <port> <libdlock.so>
 *
 * Of the former, also how long it took until the library was loaded, and until the locker was made.
 */
#include <dlfcn.h>
#include <sys/wait.h>

#include "client.h"

enum { ROUNDS = 200, STAGES = 3 };

/* Since the beginning: loaded, made, held; for the bare connection only the last. */
struct stages {
    uint64_t ns[STAGES];
};

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

static struct stages first_lock(const char *url, const char *path)
{
    dlock_error err;
    dlock_options *options;
    dlock_locker *locker;
    dlock_lock *lock;
    uint64_t begin = now_ns();
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        die("%s", dlerror());
    uint64_t loaded = now_ns();
    must(CALL(library, dlock_options_new, &options, &err), &err, "options_new");
    must(CALL(library, dlock_options_set_url, options, url, &err), &err, "options_set_url");
    must(CALL(library, dlock_locker_new, options, &locker, &err), &err, "locker_new");
    must(CALL(library, dlock_lock_new, locker, "start", "bench", &lock, &err), &err, "lock_new");
    uint64_t made = now_ns();
    must(CALL(library, dlock_lock_acquire, lock, &err), &err, "acquire");
    struct stages took = {{loaded - begin, made - begin, now_ns() - begin}};
    CALL(library, dlock_lock_release, lock, &err);
    CALL(library, dlock_lock_free, lock);
    CALL(library, dlock_locker_free, locker);
    return took;
}

static struct stages bare_ping(const char *port)
{
    uint64_t begin = now_ns();
    struct bare *bare = bare_open(port);
    BARE_CALL(bare, "PING");
    return (struct stages){{0, 0, now_ns() - begin}};
}

/* What that takes in a process that has done nothing yet. */
static struct stages in_a_child(const char *port, const char *url, const char *path)
{
    int ends[2], status;
    struct stages took;
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
    static const char *const names[] = {"loaded", "made", "first_lock", "bare_connect"};
    struct samples samples[STAGES + 1];
    for (int i = 0; i <= STAGES; i++)
        samples[i] = samples_new(ROUNDS);
    for (int i = 0; i < ROUNDS; i++) {
        struct stages ours = in_a_child(argv[1], url, argv[2]), bare = in_a_child(argv[1], url, NULL);
        for (int stage = 0; stage < STAGES; stage++)
            samples_add(&samples[stage], ours.ns[stage]);
        samples_add(&samples[STAGES], bare.ns[STAGES - 1]);
    }
    for (int i = 0; i <= STAGES; i++)
        printf("%s_us %.0f\n", names[i], (double)percentile(samples[i].ns, ROUNDS, 0.5) / 1000);
    return 0;
}
