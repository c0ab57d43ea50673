/*
 * An uncontended acquire + release on servers that are reached or kept in different ways, in blocks that take turns.
 *
 *     deployments <name> <url> [<name> <url>]...
 *
 * Prints the median and the 99th percentile of each, and how far the medians of its blocks are from the first one's, in its
 * middle half. Leases are 2 s, since the servers of a quorum count only when they have been up for one.
 */
#include "bench.h"

enum { MOST = 16, ROUNDS = 20, PAIRS = 100, PATIENCE_S = 30 };

struct contender {
    const char *name;
    dlock_lock *lock;
    struct samples samples;
    double p50[ROUNDS];
};

static dlock_locker *locker_of(const char *url)
{
    dlock_options *options;
    dlock_locker *locker;
    dlock_error err;
    must(dlock_options_new(&options, &err), &err, "dlock_options_new");
    must(dlock_options_set_url(options, url, &err), &err, url);
    must(dlock_options_set_lease_ms(options, 2000, &err), &err, "dlock_options_set_lease_ms");
    must(dlock_locker_new(options, &locker, &err), &err, "dlock_locker_new");
    dlock_options_free(options);
    return locker;
}

static dlock_lock *lock_of(const char *url)
{
    dlock_locker *locker = locker_of(url); /* as long as the process */
    dlock_lock *lock;
    dlock_error err;
    uint64_t begin = now_ns();
    while (dlock_lock_new(locker, "pair", "bench", &lock, &err) == DLOCK_ERR_NOT_CONNECTED
           && now_ns() - begin < PATIENCE_S * 1000000000u)
        sleep_us(100000);
    must(err.status, &err, url);
    return lock;
}

static void pair(dlock_lock *lock)
{
    dlock_error err;
    must(dlock_lock_acquire(lock, &err), &err, "acquire");
    must(dlock_lock_release(lock, &err), &err, "release");
}

static void block(struct contender *contender, int round)
{
    uint64_t *first = contender->samples.ns + contender->samples.count;
    for (int i = 0; i < PAIRS; i++) {
        uint64_t before = now_ns();
        pair(contender->lock);
        samples_add(&contender->samples, now_ns() - before);
    }
    contender->p50[round] = (double)percentile(first, PAIRS, 0.5);
}

int main(int argc, char **argv)
{
    static struct contender contenders[MOST];
    int count = (argc - 1) / 2;
    if (count < 1 || count > MOST || argc % 2 == 0)
        die("usage: deployments <name> <url> [<name> <url>]...");
    for (int i = 0; i < count; i++) {
        contenders[i].name = argv[1 + 2 * i];
        contenders[i].lock = lock_of(argv[2 + 2 * i]);
        contenders[i].samples = samples_new((size_t)ROUNDS * PAIRS);
        for (int j = 0; j < PAIRS; j++)
            pair(contenders[i].lock);
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < count; i++)
            block(&contenders[(round + i) % count], round);
    for (int i = 0; i < count; i++) {
        struct contender *c = &contenders[i];
        double ratios[ROUNDS];
        for (int round = 0; round < ROUNDS; round++)
            ratios[round] = c->p50[round] / contenders[0].p50[round];
        printf("p50_%s %.2f\n", c->name, (double)percentile(c->samples.ns, c->samples.count, 0.5) / 1000);
        printf("p99_%s %.2f\n", c->name, (double)percentile(c->samples.ns, c->samples.count, 0.99) / 1000);
        printf("low_%s %.3f\nhigh_%s %.3f\n", c->name, quantile(ratios, ROUNDS, 0.25), c->name, quantile(ratios, ROUNDS, 0.75));
    }
    return 0;
}
