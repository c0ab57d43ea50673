/*
 * What distance costs: through a process that delays each direction by half a round trip, in blocks that take turns,
 * a PING, an uncontended acquire + release, and the hand-off of a lock from one process to another.
 *
 *     distance <port> <round trip in microseconds> <samples>
 *
 * Of a hand-off two times are taken, both from before dlock_lock_release(): until dlock_lock_acquire() returns in the other
 * process, and until that and the release have both returned.
 */
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "delay.h"

enum { ROUNDS = 5, SETTLE_US = 1000 };
enum { IDLE, WAIT, ARRIVED, STOP };

struct shared {
    _Atomic int step;
    _Atomic uint64_t arrived_ns;
};

/* --- the process that waits --- */

static void waiter(const char *url, struct shared *shared)
{
    dlock_error err;
    dlock_locker *locker = open_locker(url);
    dlock_lock *lock = open_lock(locker, "distance");
    for (int step; (step = atomic_load(&shared->step)) != STOP;) {
        if (step != WAIT) {
            sleep_us(50);
            continue;
        }
        must(dlock_lock_acquire(lock, &err), &err, "the waiter's acquire");
        atomic_store(&shared->arrived_ns, now_ns());
        must(dlock_lock_release(lock, &err), &err, "the waiter's release");
        atomic_store(&shared->step, ARRIVED);
    }
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* --- the process that measures --- */

struct setting {
    struct bare *far, *control;
    dlock_lock *alone, *shared_lock;
    struct shared *shared;
    struct samples ping, pair, arrived, both;
};

static void ping(struct setting *s)
{
    uint64_t before = now_ns();
    BARE_CALL(s->far, "PING");
    samples_add(&s->ping, now_ns() - before);
}

static void pair(struct setting *s)
{
    dlock_error err;
    uint64_t before = now_ns();
    must(dlock_lock_acquire(s->alone, &err), &err, "acquire");
    must(dlock_lock_release(s->alone, &err), &err, "release");
    samples_add(&s->pair, now_ns() - before);
}

static void hand_off(struct setting *s)
{
    dlock_error err;
    must(dlock_lock_acquire(s->shared_lock, &err), &err, "acquire");
    atomic_store(&s->shared->step, WAIT);
    while (bare_waiting(s->control, "distance") == 0)
        sleep_us(100);
    sleep_us(SETTLE_US);
    uint64_t before = now_ns();
    must(dlock_lock_release(s->shared_lock, &err), &err, "release");
    uint64_t released = now_ns();
    while (atomic_load(&s->shared->step) != ARRIVED)
        sleep_us(50);
    uint64_t arrived = atomic_load(&s->shared->arrived_ns);
    samples_add(&s->arrived, arrived - before);
    samples_add(&s->both, (arrived > released ? arrived : released) - before);
}

static void print_median(const char *name, struct samples *samples)
{
    printf("%s_us %.1f\n", name, (double)percentile(samples->ns, samples->count, 0.5) / 1000);
}

static void measure(struct setting *s, int count)
{
    void (*const kinds[])(struct setting *) = {ping, pair, hand_off};
    struct samples *all[] = {&s->ping, &s->pair, &s->arrived, &s->both};
    for (int i = 0; i < 4; i++)
        *all[i] = samples_new((size_t)count + ROUNDS);
    for (int i = 0; i < 3; i++)
        kinds[i](s);
    for (int i = 0; i < 4; i++)
        all[i]->count = 0; /* that was for warming up */
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < count / ROUNDS; j++)
                kinds[(round + i) % 3](s);
}

int main(int argc, char **argv)
{
    char port[16], url[64];
    if (argc != 4 || atoi(argv[3]) < ROUNDS)
        die("usage: distance <port> <round trip in us> <samples>");
    delay_start(argv[1], strtoull(argv[2], NULL, 10) / 2, port);
    redis_url(url, sizeof url, port);
    struct setting s = {.shared = mmap(NULL, sizeof *s.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)};
    if (s.shared == MAP_FAILED)
        die("no shared memory");
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        waiter(url, s.shared);
        return 0;
    }
    dlock_locker *locker = open_locker(url);
    s.alone = open_lock(locker, "alone");
    s.shared_lock = open_lock(locker, "distance");
    s.far = bare_open(port);
    s.control = bare_open(argv[1]);
    measure(&s, atoi(argv[3]));
    atomic_store(&s.shared->step, STOP);
    print_median("round_trip", &s.ping);
    print_median("pair", &s.pair);
    print_median("handoff_arrived", &s.arrived);
    print_median("handoff_both", &s.both);
    dlock_lock_free(s.alone);
    dlock_lock_free(s.shared_lock);
    dlock_locker_free(locker);
    int status = 0;
    waitpid(child, &status, 0);
    return status != 0; /* the process in between ends with this one */
}
