/*
 * Many held locks of one process, and what their renewal costs: CPU of the client, commands, how they are batched, and how
 * near to its end any lease came.
 *
 *     held <port> <locks> <seconds>
 *
 * The server is asked by another process, so that the CPU measured is the library's alone.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "client.h"

/* For the life of so many keys the server is asked at a time, in one script, and of so many a second. */
enum { LEASE_MS = 30000, KEYS_A_CALL = 500, KEYS_A_SECOND = 20000 };

struct seen {
    double seconds;
    long renewals, reads, shortest_life_ms;
};

/* --- the process that asks the server --- */

static long stat_of(struct bare *control, const char *section, const char *name)
{
    const char *found = strstr(BARE_CALL(control, "INFO", section), name);
    return found ? strtol(found + strlen(name), NULL, 10) : 0;
}

/* The shortest life among these keys; 0 where one is gone. */
static long shortest_life(struct bare *control, long first, long last)
{
    static const char script[] = "local least = 1e9 for i = ARGV[1], ARGV[2] do "
                                 "local life = redis.call('PTTL', string.format('bench:held-%d', i)) "
                                 "if life < least then least = life end end return math.max(least, 0)";
    char from[24], to[24];
    snprintf(from, sizeof from, "%ld", first);
    snprintf(to, sizeof to, "%ld", last);
    return bare_number(BARE_CALL(control, "EVAL", script, "0", from, to));
}

/* Goes around the keys for so long. */
static struct seen watch(struct bare *control, long count, long seconds)
{
    struct seen seen = {.shortest_life_ms = LEASE_MS};
    long renewals = stat_of(control, "commandstats", "cmdstat_evalsha:calls="), at = 0;
    long reads = stat_of(control, "stats", "total_reads_processed:"), own = 1;
    uint64_t begin = now_ns(), end = begin + (uint64_t)seconds * 1000000000u;
    for (; now_ns() < end; own++) {
        sleep_us(1000000 / (KEYS_A_SECOND / KEYS_A_CALL));
        long next = at + KEYS_A_CALL < count ? at + KEYS_A_CALL : count;
        long life = shortest_life(control, at, next - 1);
        seen.shortest_life_ms = life < seen.shortest_life_ms ? life : seen.shortest_life_ms;
        at = next < count ? next : 0;
    }
    seen.seconds = (double)(now_ns() - begin) / 1e9;
    seen.renewals = stat_of(control, "commandstats", "cmdstat_evalsha:calls=") - renewals;
    seen.reads = stat_of(control, "stats", "total_reads_processed:") - reads - own - 1;
    return seen;
}

static void watcher(const char *port, long count, long seconds, int go, int out)
{
    char byte = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct bare *control = bare_open(port);
    if (read(go, &byte, 1) != 1)
        die("the process that holds is gone");
    struct seen seen = watch(control, count, seconds);
    if (write(out, &seen, sizeof seen) != sizeof seen)
        die("the process that holds is gone");
}

/* --- the process that holds --- */

/* At most 256 at a time: nobody who takes so many locks asks for all of them at once. */
static dlock_lock **take(const dlock_locker *locker, const dlock_queue *queue, long count)
{
    static dlock_event events[256];
    dlock_error err;
    dlock_lock **locks = must_alloc((size_t)count, sizeof *locks);
    memset(locks, 1, (size_t)count * sizeof *locks);
    for (long submitted = 0, taken = 0; taken < count;) {
        for (; submitted < count && submitted - taken < 256; submitted++) {
            char name[64];
            snprintf(name, sizeof name, "held-%ld", submitted);
            locks[submitted] = open_lock(locker, name);
            must(dlock_submit_acquire(queue, locks[submitted], DLOCK_WAIT_FOREVER, 0, &err), &err, "submit_acquire");
        }
        size_t n;
        must(dlock_queue_wait(queue, events, 256, 10000, &n, &err), &err, "queue_wait");
        if (n == 0)
            die("no lock was taken for ten seconds: %ld so far", taken);
        for (size_t i = 0; i < n; i++)
            if (events[i].status != DLOCK_OK)
                die("a lock was not taken: %s", events[i].message);
        taken += (long)n;
    }
    return locks;
}

static uint64_t shortest_validity(dlock_lock **locks, long count)
{
    dlock_error err;
    uint64_t least = LEASE_MS, left;
    for (long i = 0; i < count; i++) {
        must(dlock_lock_remaining_ms(locks[i], &left, &err), &err, "a held lock");
        least = left < least ? left : least;
    }
    return least;
}

int main(int argc, char **argv)
{
    char url[64], byte = 0;
    int go[2], done[2], status = 0;
    dlock_error err;
    dlock_queue *queue;
    struct seen seen;
    if (argc != 4)
        die("usage: held <port> <locks> <seconds>");
    long count = atol(argv[2]);
    if (pipe(go) < 0 || pipe(done) < 0)
        die("no pipe");
    pid_t child = fork();
    if (child == 0) {
        watcher(argv[1], count, atol(argv[3]), go[0], done[1]);
        return 0;
    }
    redis_url(url, sizeof url, argv[1]);
    dlock_locker *locker = open_locker(url);
    must(dlock_queue_new(locker, &queue, &err), &err, "queue_new");
    long rss = rss_bytes();
    uint64_t begin = now_ns();
    dlock_lock **locks = take(locker, queue, count);
    printf("taking_seconds %.2f\n", (double)(now_ns() - begin) / 1e9);
    printf("rss_per_lock %ld\n", (rss_bytes() - rss) / count);
    double cpu = cpu_seconds();
    if (write(go[1], &byte, 1) != 1 || read(done[0], &seen, sizeof seen) != sizeof seen)
        die("the process that watches is gone");
    cpu = cpu_seconds() - cpu;
    printf("cpu_percent %.3f\n", 100 * cpu / seen.seconds);
    printf("renewals_per_second %.1f\n", (double)seen.renewals / seen.seconds);
    printf("renewals_per_read %.1f\n", (double)seen.renewals / (double)(seen.reads > 0 ? seen.reads : 1));
    printf("cpu_us_per_renewal %.2f\n", cpu * 1e6 / (double)(seen.renewals > 0 ? seen.renewals : 1));
    printf("shortest_life_ms %ld\n", seen.shortest_life_ms);
    printf("shortest_validity_ms %llu\n", (unsigned long long)shortest_validity(locks, count));
    begin = now_ns();
    dlock_locker_free(locker); /* releases them all */
    printf("closing_seconds %.2f\n", (double)(now_ns() - begin) / 1e9);
    for (long i = 0; i < count; i++)
        dlock_lock_free(locks[i]);
    dlock_queue_free(queue);
    waitpid(child, &status, 0);
    return status != 0;
}
