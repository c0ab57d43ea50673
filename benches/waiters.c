/*
 * Many waiters for one lock in one process, through the completion queue, while another process holds it: threads,
 * memory, and what the waiting asks of the server; then they are all served, in order of submission.
 *
 *     waiters <port> <count> <seconds of quiet>
 */
#include <dirent.h>
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "client.h"

/* --- what the system says about this process --- */

static int threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    if (!tasks)
        return -1;
    for (struct dirent *entry; (entry = readdir(tasks));)
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* --- what the server says --- */

static long stat_of(const char *info, const char *name)
{
    const char *found = strstr(info, name);
    return found ? strtol(found + strlen(name), NULL, 10) : 0;
}

/* Commands that clients sent: a script counts once, and what it calls is among none of these. */
static long sent_by_clients(struct bare *control)
{
    static const char *const counted[] = {"evalsha", "eval", "ping", "multi", "exec", "subscribe", "unsubscribe"};
    const char *info = BARE_CALL(control, "INFO", "commandstats");
    long sum = 0;
    for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) {
        char name[64];
        snprintf(name, sizeof name, "cmdstat_%s:calls=", counted[i]);
        sum += stat_of(info, name);
    }
    return sum;
}

/* Everything executed, calls from within scripts included. */
static long executed(struct bare *control)
{
    return stat_of(BARE_CALL(control, "INFO", "stats"), "total_commands_processed:");
}

/* --- the process that holds --- */

static void hold(const char *url, int from_parent, int to_parent)
{
    dlock_error err;
    char byte = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dlock_locker *locker = open_locker(url);
    dlock_lock *lock = open_lock(locker, "waiters");
    must(dlock_lock_acquire(lock, &err), &err, "the holder's acquire");
    if (write(to_parent, &byte, 1) != 1 || read(from_parent, &byte, 1) != 1)
        die("the other process is gone");
    must(dlock_lock_release(lock, &err), &err, "the holder's release");
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* --- the process that waits --- */

static void quiet_phase(struct bare *control, int seconds)
{
    long own = 2, most = 0, first_sent = sent_by_clients(control), first_executed = executed(control), sent = first_sent;
    double cpu = cpu_seconds();
    uint64_t begin = now_ns();
    for (int i = 0; i < seconds; i++) {
        sleep_us(1000000);
        long now = sent_by_clients(control);
        own++;
        most = now - sent > most ? now - sent : most;
        sent = now;
    }
    double took = (double)(now_ns() - begin) / 1e9;
    printf("requests_per_second %.0f\n", (double)(sent - first_sent) / took);
    printf("requests_busiest_second %ld\n", most);
    printf("executed_per_second %.0f\n", (double)(executed(control) - first_executed - own) / took);
    printf("cpu_percent %.2f\n", 100 * (cpu_seconds() - cpu) / took);
}

static void serve(const dlock_queue *queue, dlock_lock **locks, long count)
{
    enum { BATCH = 256 };
    static dlock_event events[BATCH];
    dlock_error err;
    long acquired = 0, released = 0, disorder = 0;
    uint64_t last_token = 0, furthest = 0, begin = now_ns();
    while (released < count) {
        size_t n;
        must(dlock_queue_wait(queue, events, BATCH, 60000, &n, &err), &err, "queue_wait");
        if (n == 0)
            die("nobody was served for a minute: %ld of %ld so far", acquired, count);
        for (size_t i = 0; i < n; i++) {
            if (events[i].status != DLOCK_OK)
                die("waiter %llu: %s: %s", (unsigned long long)events[i].user_data,
                    dlock_status_name(events[i].status), events[i].message);
            if (events[i].kind == DLOCK_EVENT_RELEASE) {
                released++;
                continue;
            }
            /* Served after one that was submitted later. */
            disorder += events[i].user_data < furthest;
            furthest = events[i].user_data > furthest ? events[i].user_data : furthest;
            if (events[i].token <= last_token)
                die("a fencing token fell");
            last_token = events[i].token;
            acquired++;
            dlock_lock *lock = locks[events[i].user_data];
            must(dlock_submit_release(queue, lock, events[i].user_data, &err), &err, "submit_release");
        }
    }
    printf("served %ld\nout_of_order %ld\nserving_seconds %.5f\n", acquired, disorder, (double)(now_ns() - begin) / 1e9);
}

int main(int argc, char **argv)
{
    char url[64], byte = 0;
    int to_child[2], to_parent[2], status = 0;
    dlock_error err;
    dlock_queue *queue;
    if (argc != 4)
        die("usage: waiters <port> <count> <seconds>");
    long count = atol(argv[2]);
    redis_url(url, sizeof url, argv[1]);
    if (pipe(to_child) < 0 || pipe(to_parent) < 0)
        die("no pipe");
    pid_t child = fork();
    if (child == 0) {
        hold(url, to_child[0], to_parent[1]);
        return 0;
    }
    if (read(to_parent[0], &byte, 1) != 1)
        die("the holder is gone");

    struct bare *control = bare_open(argv[1]);
    dlock_locker *locker = open_locker(url);
    dlock_lock **locks = must_alloc((size_t)count, sizeof *locks);
    memset(locks, 1, (size_t)count * sizeof *locks);
    dlock_lock_free(open_lock(locker, "connect"));
    must(dlock_queue_new(locker, &queue, &err), &err, "queue_new");
    long rss = rss_bytes();
    size_t allocated = mallinfo2().uordblks;
    for (long i = 0; i < count; i++)
        locks[i] = open_lock(locker, "waiters");
    printf("handle_allocated %ld\n", (long)(mallinfo2().uordblks - allocated) / count);
    uint64_t begin = now_ns();
    for (long i = 0; i < count; i++)
        must(dlock_submit_acquire(queue, locks[i], DLOCK_WAIT_FOREVER, (uint64_t)i, &err), &err, "submit_acquire");
    printf("submitting_seconds %.5f\n", (double)(now_ns() - begin) / 1e9);
    while (bare_waiting(control, "waiters") < count) {
        if (now_ns() - begin > 60000000000u)
            die("only %ld of %ld queued within a minute", bare_waiting(control, "waiters"), count);
        sleep_us(20000);
    }
    printf("queueing_seconds %.2f\n", (double)(now_ns() - begin) / 1e9);
    sleep_us(1000000);
    printf("threads %d\n", threads());
    printf("rss_per_waiter %ld\n", (rss_bytes() - rss) / count);
    printf("allocated_per_waiter %ld\n", (long)(mallinfo2().uordblks - allocated) / count);
    quiet_phase(control, atoi(argv[3]));
    printf("threads_after %d\n", threads());
    if (write(to_child[1], &byte, 1) != 1)
        die("the holder is gone");
    serve(queue, locks, count);
    for (long i = 0; i < count; i++)
        dlock_lock_free(locks[i]);
    dlock_queue_free(queue);
    dlock_locker_free(locker);
    waitpid(child, &status, 0);
    return status != 0;
}
