/*
 * The hand-off of a lock between two processes, against its floor, in blocks that take turns.
 *
 *     handoff <port>
 *
 * Hand-off: from just before dlock_lock_release() in the one process to the return of dlock_lock_acquire() in the other.
 * Floor: from just before sending an EVAL of GET, INCR, PUBLISH to the other process's socket being readable.
 */
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>

#include "client.h"

enum { ROUNDS = 20, HANDOFFS = 50, SETTLE_US = 1000 };

#define CHANNEL "bench:floor"
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
    while (bare_number(BARE_CALL(control, "EVAL", "return #redis.call('KEYS', ':dlock:wait:*')", "0")) == 0)
        sleep_us(100);
    sleep_us(SETTLE_US);
    uint64_t before = now_ns();
    must(dlock_lock_release(lock, &err), &err, "release");
    await_step(shared, ARRIVED);
    return atomic_load(&shared->arrived_ns) - before;
}

static uint64_t floor_of_it(struct shared *shared, struct bare *sender, const char *command, size_t length)
{
    atomic_store(&shared->ready, 0);
    atomic_store(&shared->step, WAIT_FOR_MESSAGE);
    while (!atomic_load(&shared->ready))
        sleep_us(100);
    sleep_us(SETTLE_US);
    uint64_t before = now_ns();
    bare_send(sender, command, length);
    bare_receive(sender, 1);
    await_step(shared, ARRIVED);
    return atomic_load(&shared->arrived_ns) - before;
}

static void releaser(const char *port, struct shared *shared)
{
    char url[64], command[1024];
    redis_url(url, sizeof url, port);
    dlock_locker *locker = open_locker(url);
    dlock_lock *lock = open_lock(locker, "handoff");
    struct bare *control = bare_open(port);
    const char *argv[] = {"EVAL", FLOOR_SCRIPT, "2", "bench:floor:lock", "bench:floor:fence", CHANNEL,
                          "handoff 0f8fad5b-d9cb-469f-a165-70867728950e:1 1790000000000000 bench:handoff"};
    size_t length = resp_command(command, sizeof command, 7, argv);
    struct samples ours = samples_new((size_t)ROUNDS * HANDOFFS), floor = samples_new((size_t)ROUNDS * HANDOFFS);
    for (int i = 0; i < HANDOFFS; i++) {
        hand_off(shared, control, lock);
        floor_of_it(shared, control, command, length);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int half = 0; half < 2; half++)
            for (int i = 0; i < HANDOFFS; i++)
                if (half == round % 2)
                    samples_add(&ours, hand_off(shared, control, lock));
                else
                    samples_add(&floor, floor_of_it(shared, control, command, length));
    }
    atomic_store(&shared->step, STOP);
    printf("p50_dlock %.1f\n", (double)percentile(ours.ns, ours.count, 0.5) / 1000);
    printf("p99_dlock %.1f\n", (double)percentile(ours.ns, ours.count, 0.99) / 1000);
    printf("p50_floor %.1f\n", (double)percentile(floor.ns, floor.count, 0.5) / 1000);
    printf("p99_floor %.1f\n", (double)percentile(floor.ns, floor.count, 0.99) / 1000);
    print_distribution("dlock", &ours);
    print_distribution("floor", &floor);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        die("usage: handoff <port>");
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("no shared memory");
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        waiter(argv[1], shared);
        return 0;
    }
    releaser(argv[1], shared);
    int status = 0;
    waitpid(child, &status, 0);
    return status != 0;
}
