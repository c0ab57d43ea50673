/*
 * Who holds one lock over a short time: some threads take turns and hold it for 0.2 ms each, by the library, or by the
 * classic lock, asked for every 10 ms. Prints `thread begin end` for each time it was held, in microseconds.
 *
 *     timeline <port> dlock|polling <threads> <milliseconds>
 */
#include <pthread.h>
#include <stdatomic.h>

#include "client.h"

enum { MOST_THREADS = 32, MOST_HOLDS = 4096, HOLD_US = 200, POLL_US = 10000 };

static struct { const char *port; bool polls; dlock_locker *locker; uint64_t begin, end; } run;
static struct { int thread; uint64_t begin, end; } holds[MOST_HOLDS];
static atomic_int taken;
static pthread_barrier_t together;

static void hold(int thread)
{
    int at = atomic_fetch_add(&taken, 1);
    if (at >= MOST_HOLDS)
        die("more turns than expected");
    holds[at].thread = thread;
    holds[at].begin = now_ns();
    while (now_ns() < holds[at].begin + HOLD_US * 1000) {
    }
    holds[at].end = now_ns();
}

static void take_turns(int thread)
{
    dlock_error err;
    dlock_lock *lock = open_lock(run.locker, "timeline");
    pthread_barrier_wait(&together);
    while (now_ns() < run.end) {
        must(dlock_lock_acquire(lock, &err), &err, "acquire");
        hold(thread);
        must(dlock_lock_release(lock, &err), &err, "release");
    }
    dlock_lock_free(lock);
}

static void poll_for_turns(int thread)
{
    char value[16], sha[41];
    struct bare *bare = bare_open(run.port);
    snprintf(value, sizeof value, "%d", thread);
    bare_load(bare, CLASSIC_RELEASE, sha);
    pthread_barrier_wait(&together);
    while (now_ns() < run.end) {
        if (*BARE_CALL(bare, "SET", "bench:timeline-polled", value, "NX", "PX", LEASE) == '+') {
            hold(thread);
            BARE_CALL(bare, "EVALSHA", sha, "1", "bench:timeline-polled", value);
        } else {
            sleep_us(POLL_US);
        }
    }
}

static void *work(void *argument)
{
    int thread = (int)(intptr_t)argument;
    if (run.polls)
        poll_for_turns(thread);
    else
        take_turns(thread);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[MOST_THREADS];
    char url[64];
    int count = argc == 5 ? atoi(argv[3]) : 0;
    if (count < 1 || count > MOST_THREADS)
        die("usage: timeline <port> dlock|polling <threads> <milliseconds>, at most %d threads", MOST_THREADS);
    run.port = argv[1];
    run.polls = strcmp(argv[2], "polling") == 0;
    redis_url(url, sizeof url, run.port);
    run.locker = open_locker(url);
    run.end = UINT64_MAX;
    pthread_barrier_init(&together, NULL, (unsigned)count + 1);
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i) != 0)
            die("no thread");
    run.begin = now_ns();
    run.end = run.begin + (uint64_t)atol(argv[4]) * 1000000u;
    pthread_barrier_wait(&together);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < atomic_load(&taken); i++)
        printf("%d %.1f %.1f\n", holds[i].thread, (double)(holds[i].begin - run.begin) / 1000, (double)(holds[i].end - run.begin) / 1000);
    dlock_locker_free(run.locker);
    return 0;
}
