/*
 * An uncontended acquire + release on servers that are reached or kept in different ways, in blocks that take turns.
 *
 *     deployments <name> <url> [<name> <url>]...
 *
 * Prints the median and the 99th percentile of each, and how far the medians of its blocks are from the first one's, in its
 * middle half. Leases are 2 s, since the servers of a quorum count only when they have been up for one.
 */
#include "turns.h"

enum { MOST = 16, ROUNDS = 20, PAIRS = 100, PATIENCE_S = 30 };

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

int main(int argc, char **argv)
{
    static struct contender contenders[MOST];
    int count = (argc - 1) / 2;
    if (count < 1 || count > MOST || argc % 2 == 0)
        die("usage: deployments <name> <url> [<name> <url>]...");
    for (int i = 0; i < count; i++)
        contenders[i] = (struct contender){.name = argv[1 + 2 * i], .pair = dlock_pair, .state = lock_of(argv[2 + 2 * i])};
    take_turns(contenders, count, ROUNDS, PAIRS);
    for (int i = 0; i < count; i++) {
        print_times(&contenders[i]);
        print_ratios(contenders[i].name, &contenders[i], &contenders[0], ROUNDS);
    }
    return 0;
}
