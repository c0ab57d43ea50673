/*
 * Many threads of one process: each with a lock of its own, against the classic lock with a connection for each thread,
 * in blocks that take turns; or all of them at one hot lock.
 *
 *     threads own <port> <threads> <rounds> <milliseconds of a block>
 *     threads hot <port> <threads>
 */
#include <pthread.h>
#include <stdatomic.h>

#include "client.h"

enum { MOST_ROUNDS = 100, HOT_MS = 5000, MOST_THREADS = 256, WINDOW = 10000, WARM_UP = 1000, MOST_TURNS = 1 << 20 };

struct worker {
    pthread_t thread;
    void (*pair)(void *);
    void *state;
    long pairs;
    uint64_t longest_ns;
    unsigned char index;
};

static atomic_bool go, stop;

/* Whose turn it was, one by one; written by the holder alone. */
static unsigned char turn[MOST_TURNS];
static long turns;

static void *work(void *argument)
{
    struct worker *worker = argument;
    while (!atomic_load(&go))
        sleep_us(100);
    while (!atomic_load(&stop)) {
        worker->pair(worker->state);
        worker->pairs++;
    }
    return NULL;
}

/* Acquisitions of one lock, with the time from the call to its return. */
static void *work_hot(void *argument)
{
    struct worker *worker = argument;
    dlock_error err;
    while (!atomic_load(&go))
        sleep_us(100);
    while (!atomic_load(&stop)) {
        uint64_t before = now_ns();
        must(dlock_lock_acquire(worker->state, &err), &err, "acquire");
        uint64_t waited = now_ns() - before;
        if (turns < MOST_TURNS)
            turn[turns++] = worker->index;
        must(dlock_lock_release(worker->state, &err), &err, "release");
        worker->longest_ns = waited > worker->longest_ns ? waited : worker->longest_ns;
        worker->pairs++;
    }
    return NULL;
}

/* Runs them for so long; returns the pairs a second. */
static double run(struct worker *workers, int count, void *(*body)(void *), int ms)
{
    atomic_store(&go, false);
    atomic_store(&stop, false);
    for (int i = 0; i < count; i++) {
        workers[i].pairs = 0;
        if (pthread_create(&workers[i].thread, NULL, body, &workers[i]) != 0)
            die("no thread");
    }
    uint64_t begin = now_ns();
    atomic_store(&go, true);
    sleep_us((uint64_t)ms * 1000);
    atomic_store(&stop, true);
    long pairs = 0;
    uint64_t took = now_ns() - begin;
    for (int i = 0; i < count; i++) {
        pthread_join(workers[i].thread, NULL);
        pairs += workers[i].pairs;
    }
    return (double)pairs * 1e9 / (double)took;
}

static void own_locks(dlock_locker *locker, const char *port, int count, int rounds, int block_ms)
{
    static struct worker ours[MOST_THREADS], theirs[MOST_THREADS];
    double our_rates[MOST_ROUNDS], their_rates[MOST_ROUNDS], ratios[MOST_ROUNDS];
    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "own-%d", i);
        ours[i] = (struct worker){.pair = dlock_pair, .state = open_lock(locker, name)};
        snprintf(name, sizeof name, "bench:classic-%d", i);
        theirs[i] = (struct worker){.pair = classic_pair, .state = classic_open(port, name)};
    }
    run(ours, count, work, block_ms / 3);
    run(theirs, count, work, block_ms / 3);
    for (int round = 0; round < rounds; round++) {
        if (round % 2 == 0)
            our_rates[round] = run(ours, count, work, block_ms);
        their_rates[round] = run(theirs, count, work, block_ms);
        if (round % 2 == 1)
            our_rates[round] = run(ours, count, work, block_ms);
        ratios[round] = our_rates[round] / their_rates[round];
    }
    printf("peer %s\n", PEER);
    printf("dlock_per_second %.0f\n", quantile(our_rates, rounds, 0.5));
    printf("classic_per_second %.0f\n", quantile(their_rates, rounds, 0.5));
    printf("ratio %.3f\n", quantile(ratios, rounds, 0.5));
    printf("ratio_low %.3f\nratio_high %.3f\n", ratios[0], ratios[rounds - 1]);
    for (int i = 0; i < count; i++)
        dlock_lock_free(ours[i].state);
}

/* How far apart the threads' shares are, most - least, at worst among windows of so many turns past the start; -1: no window. */
static long share_spread(int count)
{
    long worst = -1;
    for (long first = WARM_UP; first + WINDOW <= turns; first += WINDOW) {
        long share[MOST_THREADS] = {0}, least = WINDOW, most = 0;
        for (long i = first; i < first + WINDOW; i++)
            share[turn[i]]++;
        for (int i = 0; i < count; i++) {
            least = share[i] < least ? share[i] : least;
            most = share[i] > most ? share[i] : most;
        }
        worst = most - least > worst ? most - least : worst;
    }
    return worst;
}

static void hot_lock(dlock_locker *locker, int count)
{
    static struct worker workers[MOST_THREADS];
    for (int i = 0; i < count; i++)
        workers[i] = (struct worker){.state = open_lock(locker, "hot"), .index = (unsigned char)i};
    double rate = run(workers, count, work_hot, HOT_MS);
    long least = workers[0].pairs, most = 0;
    uint64_t longest = 0;
    for (int i = 0; i < count; i++) {
        least = workers[i].pairs < least ? workers[i].pairs : least;
        most = workers[i].pairs > most ? workers[i].pairs : most;
        longest = workers[i].longest_ns > longest ? workers[i].longest_ns : longest;
        dlock_lock_free(workers[i].state);
    }
    printf("per_second %.0f\nlongest_wait_ms %.2f\n", rate, (double)longest / 1e6);
    printf("least %ld\nmost %ld\nshare_spread %ld\n", least, most, share_spread(count));
}

int main(int argc, char **argv)
{
    bool own = argc == 6 && strcmp(argv[1], "own") == 0;
    int count = own || (argc == 4 && strcmp(argv[1], "hot") == 0) ? atoi(argv[3]) : 0;
    int rounds = own ? atoi(argv[4]) : 1, block_ms = own ? atoi(argv[5]) : 1;
    if (count < 1 || count > MOST_THREADS || rounds < 1 || rounds > MOST_ROUNDS || block_ms < 1)
        die("usage: threads own <port> <threads> <rounds> <ms> | threads hot <port> <threads>; at most %d threads, %d rounds",
            MOST_THREADS, MOST_ROUNDS);
    char url[64];
    redis_url(url, sizeof url, argv[2]);
    dlock_locker *locker = open_locker(url);
    if (own)
        own_locks(locker, argv[2], count, rounds, block_ms);
    else
        hot_lock(locker, count);
    dlock_locker_free(locker);
    return 0;
}
