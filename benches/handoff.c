/*
 * The hand-off of a lock between two processes, against its floor, in blocks that take turns.
 *
 *     handoff <port> <release.lua>
 *
 * Hand-off: from just before dlock_lock_release() in the one process to the return of dlock_lock_acquire() in the other.
 * Floor: from just before sending an EVAL of GET, INCR, PUBLISH to the other process's socket being readable.
 * Step: the same with the library's release script, which hands a queued lock over: what the protocol costs without a client.
 */
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>

#include "client.h"

enum { ROUNDS = 20, HANDOFFS = 50, SETTLE_US = 1000, KINDS = 3 };

#define CHANNEL "bench:floor"
#define WAITER "7c9e6679-7425-40de-944b-e07fc1f90ae7:1@3000@" CHANNEL
#define FLOOR_SCRIPT "redis.call('GET', KEYS[1]) redis.call('INCR', KEYS[2]) return redis.call('PUBLISH', ARGV[1], ARGV[2])"

/* Steps of one hand-off, in this order; the releaser sets STOP at the end. */
enum { IDLE, WAIT_FOR_LOCK, WAIT_FOR_MESSAGE, ARRIVED, STOP };

struct shared {
    _Atomic int step;
    _Atomic uint64_t arrived_ns;
    _Atomic int ready;
};

/* Spinning would take one of the two cores from the server: sleep a little instead, outside of what is measured. */
static void await_step(struct shared *shared, int step)
{
    while (atomic_load(&shared->step) != step)
        sleep_us(50);
}

/* --- the process that waits --- */

static void wait_for_lock(struct shared *shared, dlock_lock *lock)
{
    dlock_error err;
    must(dlock_lock_acquire(lock, &err), &err, "acquire");
    atomic_store(&shared->arrived_ns, now_ns());
    must(dlock_lock_release(lock, &err), &err, "release");
}

static void wait_for_message(struct shared *shared, struct bare *subscriber)
{
    struct pollfd readable = {subscriber->fd, POLLIN, 0};
    atomic_store(&shared->ready, 1);
    if (poll(&readable, 1, 5000) != 1)
        die("no message came");
    atomic_store(&shared->arrived_ns, now_ns());
    bare_receive(subscriber, 1);
}

static void waiter(const char *port, struct shared *shared)
{
    char url[64];
    redis_url(url, sizeof url, port);
    dlock_locker *locker = open_locker(url);
    dlock_lock *lock = open_lock(locker, "handoff");
    struct bare *subscriber = bare_open(port);
    BARE_CALL(subscriber, "SUBSCRIBE", CHANNEL);
    for (;;) {
        int step = atomic_load(&shared->step);
        if (step == STOP)
            break;
        if (step == WAIT_FOR_LOCK)
            wait_for_lock(shared, lock);
        else if (step == WAIT_FOR_MESSAGE)
            wait_for_message(shared, subscriber);
        else {
            sleep_us(50);
            continue;
        }
        atomic_store(&shared->step, ARRIVED);
    }
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* --- the process that releases --- */

static uint64_t hand_off(struct shared *shared, struct bare *control, dlock_lock *lock)
{
    dlock_error err;
    must(dlock_lock_acquire(lock, &err), &err, "acquire");
    atomic_store(&shared->step, WAIT_FOR_LOCK);
    while (bare_waiting(control, "handoff") == 0)
        sleep_us(100);
    sleep_us(SETTLE_US);
    uint64_t before = now_ns();
    must(dlock_lock_release(lock, &err), &err, "release");
    await_step(shared, ARRIVED);
    return atomic_load(&shared->arrived_ns) - before;
}

/* What the bare socket does: some commands that prepare it, then one that is timed. */
struct message {
    char prepare[512], command[1024];
    int prepared;
    size_t prepare_length, length;
};

static struct message *floor_message(void)
{
    struct message *m = must_alloc(1, sizeof *m);
    const char *argv[] = {"EVAL", FLOOR_SCRIPT, "2", "bench:floor:lock", "bench:floor:fence", CHANNEL,
                          "handoff 0f8fad5b-d9cb-469f-a165-70867728950e:1 1790000000000000 bench:handoff"};
    m->length = resp_command(m->command, sizeof m->command, 7, argv);
    return m;
}

/* Held by one, and another waits. */
static struct message *step_message(struct bare *control, const char *script)
{
    struct message *m = must_alloc(1, sizeof *m);
    char sha[41];
    bare_load_file(control, script, sha);
    const char *key = "bench:step", *queue = ":dlock:wait:{0}:bench:step", *fence = ":dlock:fence";
    const char *set[] = {"SET", key, VALUE, "PX", LEASE}, *add[] = {"ZADD", queue, "1790000000000000", WAITER};
    const char *release[] = {"EVALSHA", sha, "3", key, queue, fence, VALUE, VALUE "@3000@:dlock:wake:own"};
    m->prepared = 2;
    m->prepare_length = resp_command(m->prepare, sizeof m->prepare, 5, set);
    m->prepare_length += resp_command(m->prepare + m->prepare_length, sizeof m->prepare - m->prepare_length, 4, add);
    m->length = resp_command(m->command, sizeof m->command, 8, release);
    return m;
}

static uint64_t until_readable(struct shared *shared, struct bare *sender, const struct message *message)
{
    atomic_store(&shared->ready, 0);
    atomic_store(&shared->step, WAIT_FOR_MESSAGE);
    bare_send(sender, message->prepare, message->prepare_length);
    bare_receive(sender, message->prepared);
    while (!atomic_load(&shared->ready))
        sleep_us(100);
    sleep_us(SETTLE_US);
    uint64_t before = now_ns();
    bare_send(sender, message->command, message->length);
    bare_receive(sender, 1);
    await_step(shared, ARRIVED);
    return atomic_load(&shared->arrived_ns) - before;
}

static void releaser(const char *port, const char *script, struct shared *shared)
{
    static const char *const names[KINDS] = {"dlock", "floor", "step"};
    char url[64];
    redis_url(url, sizeof url, port);
    dlock_locker *locker = open_locker(url);
    dlock_lock *lock = open_lock(locker, "handoff");
    struct bare *control = bare_open(port);
    const struct message *messages[KINDS] = {NULL, floor_message(), step_message(control, script)};
    struct samples samples[KINDS];
    for (int kind = 0; kind < KINDS; kind++)
        samples[kind] = samples_new((size_t)ROUNDS * HANDOFFS);
    for (int round = -1; round < ROUNDS; round++) /* the first is not counted */
        for (int turn = 0; turn < KINDS; turn++) {
            int kind = (round + 1 + turn) % KINDS;
            for (int i = 0; i < HANDOFFS; i++) {
                uint64_t took = messages[kind] ? until_readable(shared, control, messages[kind])
                                               : hand_off(shared, control, lock);
                if (round >= 0)
                    samples_add(&samples[kind], took);
            }
        }
    atomic_store(&shared->step, STOP);
    for (int kind = 0; kind < KINDS; kind++) {
        const struct samples *s = &samples[kind];
        printf("p50_%s %.1f\n", names[kind], (double)percentile(s->ns, s->count, 0.5) / 1000);
        printf("p99_%s %.1f\n", names[kind], (double)percentile(s->ns, s->count, 0.99) / 1000);
        print_distribution(names[kind], s);
    }
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        die("usage: handoff <port> <release.lua>");
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("no shared memory");
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        waiter(argv[1], shared);
        return 0;
    }
    releaser(argv[1], argv[2], shared);
    int status = 0;
    waitpid(child, &status, 0);
    return status != 0;
}
