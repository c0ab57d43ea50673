/*
 * Many held locks of one process, and what their renewal costs: CPU of the client, commands, how they are batched, and
 * how close to its end any lease came.
 *
 *     held <port> <locks> <seconds>
 */
#include "client.h"

enum { LEASE_MS = 30000 };

static double client_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long stat_of(struct bare *control, const char *section, const char *name)
{
    const char *found = strstr(BARE_CALL(control, "INFO", section), name);
    return found ? strtol(found + strlen(name), NULL, 10) : 0;
}

/* The least remaining life of these locks, on the server: every so many of them. */
static long least_pttl(struct bare *control, long count, long step)
{
    long least = LEASE_MS;
    char key[64];
    for (long i = 0; i < count; i += step) {
        snprintf(key, sizeof key, "bench:held-%ld", i);
        long pttl = bare_number(BARE_CALL(control, "PTTL", key));
        least = pttl < least ? pttl : least;
    }
    return least;
}

int main(int argc, char **argv)
{
    char url[64], name[64];
    dlock_error err;
    dlock_queue *queue;
    static dlock_event events[256];
    if (argc != 4)
        die("usage: held <port> <locks> <seconds>");
    long count = atol(argv[2]), taken = 0;
    redis_url(url, sizeof url, argv[1]);
    struct bare *control = bare_open(argv[1]);
    dlock_locker *locker = open_locker(url);
    must(dlock_queue_new(locker, &queue, &err), &err, "queue_new");
    dlock_lock **locks = must_alloc((size_t)count, sizeof *locks);
    uint64_t begin = now_ns();
    for (long i = 0; i < count; i++) {
        snprintf(name, sizeof name, "held-%ld", i);
        locks[i] = open_lock(locker, name);
        must(dlock_submit_acquire(queue, locks[i], DLOCK_WAIT_FOREVER, (uint64_t)i, &err), &err, "submit_acquire");
        /* Not all of them at once: nobody who takes so many locks does that. */
        for (size_t n = 1; n > 0 && (i % 256 == 255 || i == count - 1) && taken <= i;) {
            must(dlock_queue_wait(queue, events, 256, 10000, &n, &err), &err, "queue_wait");
            for (size_t j = 0; j < n; j++)
                must(events[j].status, &err, events[j].message);
            taken += (long)n;
        }
    }
    if (taken != count)
        die("%ld of %ld locks are held", taken, count);
    printf("taking_seconds %.2f\n", (double)(now_ns() - begin) / 1e9);

    long renewals = stat_of(control, "commandstats", "cmdstat_evalsha:calls=");
    long reads = stat_of(control, "stats", "total_reads_processed:");
    long own = 0, least = LEASE_MS, step = count > 200 ? count / 200 : 1;
    double cpu = client_seconds();
    begin = now_ns();
    uint64_t end = begin + (uint64_t)atol(argv[3]) * 1000000000u;
    double measuring = 0;
    while (now_ns() < end) {
        sleep_us(250000);
        double before = client_seconds();
        long pttl = least_pttl(control, count, step);
        own += (count + step - 1) / step;
        least = pttl < least ? pttl : least;
        measuring += client_seconds() - before; /* about: the library's thread is in it too, so the rest is not too small */
    }
    double took = (double)(now_ns() - begin) / 1e9;
    cpu = client_seconds() - cpu - measuring;
    renewals = stat_of(control, "commandstats", "cmdstat_evalsha:calls=") - renewals;
    reads = stat_of(control, "stats", "total_reads_processed:") - reads - own;
    printf("cpu_percent %.2f\n", 100 * cpu / took);
    printf("renewals_per_second %.0f\n", (double)renewals / took);
    printf("renewals_per_read %.1f\n", (double)renewals / (double)(reads > 0 ? reads : 1));
    printf("least_left_ms %ld\n", least);
    uint64_t shortest = LEASE_MS;
    for (long i = 0; i < count; i++) {
        uint64_t left;
        must(dlock_lock_remaining_ms(locks[i], &left, &err), &err, "a held lock");
        shortest = left < shortest ? left : shortest;
    }
    printf("shortest_validity_ms %llu\n", (unsigned long long)shortest);
    begin = now_ns();
    dlock_locker_free(locker); /* releases them all */
    printf("closing_seconds %.2f\n", (double)(now_ns() - begin) / 1e9);
    printf("left_behind %ld\n", bare_number(BARE_CALL(control, "DBSIZE")));
    for (long i = 0; i < count; i++)
        dlock_lock_free(locks[i]);
    dlock_queue_free(queue);
    return 0;
}
