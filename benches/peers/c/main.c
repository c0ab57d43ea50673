/*
 * dlock in two ways: a thread for each lock, and one thread with a task for each, through the completion queue. And the
 * lock that C programs write by hand with hiredis (SET NX PX, then a script that compares and deletes), in two ways: a
 * connection for each thread, and one that the threads share under a mutex. Serves the lines that ../README.md describes.
 * Knows nothing of other programs.
 *
 *     peers-c <port>
 */
#include <pthread.h>
#include <stdbool.h>

#include "client.h"

/* By hand there is no default for the pause between two attempts; a tenth of the usual 100 ms, to the peer's favour. */
enum { MOST_THREADS = 64, RETRY_US = 10000 };

struct worker;

/* What a thread acquires and releases; `state` is its own. In a block, `serve` may do what so many threads would. */
struct contender {
    const char *name;
    void *(*open)(const char *lock, int thread);
    void (*acquire)(void *state);
    void (*release)(void *state);
    void (*serve)(struct worker *workers, int count);
    void *own[MOST_THREADS], *hot[MOST_THREADS], *passed; /* as opened by earlier requests */
};

struct worker {
    pthread_t thread;
    const struct contender *contender;
    void *state;
    long pairs;
    uint64_t before, took, longest_ns, *ns;
    size_t capacity;
};

static const char *port;
static pthread_barrier_t ready, set;
static uint64_t end_ns;
static bool hot;

/* A pair was done; only those within the block count. */
static void note(struct worker *worker, uint64_t took, uint64_t after)
{
    worker->longest_ns = took > worker->longest_ns ? took : worker->longest_ns;
    if (after > end_ns)
        return;
    if ((size_t)worker->pairs == worker->capacity) {
        worker->capacity = worker->capacity ? 2 * worker->capacity : 4096;
        worker->ns = realloc(worker->ns, worker->capacity * sizeof *worker->ns);
        if (!worker->ns)
            die("out of memory");
    }
    worker->ns[worker->pairs++] = took;
}

/* --- dlock --- */

static dlock_locker *our_locker(void)
{
    static dlock_locker *locker;
    if (!locker) {
        char url[64];
        redis_url(url, sizeof url, port);
        locker = open_locker(url);
    }
    return locker;
}

static void *ours_open(const char *lock, int thread)
{
    (void)thread;
    return open_lock(our_locker(), lock);
}

static void ours_acquire(void *state)
{
    dlock_error err;
    must(dlock_lock_acquire(state, &err), &err, "acquire");
}

static void ours_release(void *state)
{
    dlock_error err;
    must(dlock_lock_release(state, &err), &err, "release");
}

/* --- dlock by its completion queue --- */

static dlock_queue *our_queue(void)
{
    static dlock_queue *queue;
    dlock_error err;
    if (!queue)
        must(dlock_queue_new(our_locker(), &queue, &err), &err, "queue_new");
    return queue;
}

static void queue_one(void)
{
    dlock_event event;
    dlock_error err;
    size_t n;
    must(dlock_queue_wait(our_queue(), &event, 1, DLOCK_WAIT_FOREVER, &n, &err), &err, "queue_wait");
    if (event.status != DLOCK_OK)
        die("%s: %s", dlock_status_name(event.status), event.message);
}

static void queue_acquire(void *state)
{
    dlock_error err;
    must(dlock_submit_acquire(our_queue(), state, DLOCK_WAIT_FOREVER, 0, &err), &err, "submit_acquire");
    queue_one();
}

static void queue_release(void *state)
{
    dlock_error err;
    must(dlock_submit_release(our_queue(), state, 0, &err), &err, "submit_release");
    queue_one();
}

/* An event of one operation submits the next. */
static void queue_serve(struct worker *workers, int count)
{
    dlock_queue *queue = our_queue();
    dlock_event events[MOST_THREADS];
    dlock_error err;
    int running = count;
    for (int i = 0; i < count; i++) {
        workers[i].before = now_ns();
        must(dlock_submit_acquire(queue, workers[i].state, DLOCK_WAIT_FOREVER, (uint64_t)i, &err), &err, "submit_acquire");
    }
    while (running > 0) {
        size_t n;
        must(dlock_queue_wait(queue, events, MOST_THREADS, 60000, &n, &err), &err, "queue_wait");
        if (n == 0)
            die("no event for a minute");
        for (size_t i = 0; i < n; i++) {
            struct worker *worker = &workers[events[i].user_data];
            uint64_t now = now_ns();
            if (events[i].status != DLOCK_OK)
                die("%s: %s", dlock_status_name(events[i].status), events[i].message);
            if (events[i].kind == DLOCK_EVENT_ACQUIRE) {
                worker->took = now - worker->before;
                must(dlock_submit_release(queue, worker->state, events[i].user_data, &err), &err, "submit_release");
                continue;
            }
            note(worker, hot ? worker->took : now - worker->before, now);
            worker->before = now;
            if (now < end_ns)
                must(dlock_submit_acquire(queue, worker->state, DLOCK_WAIT_FOREVER, events[i].user_data, &err), &err,
                     "submit_acquire");
            else
                running--;
        }
    }
}

/* --- hiredis --- */

#ifdef HAVE_HIREDIS
struct by_hand {
    struct classic *connection;
    char key[64], value[64];
};

static pthread_mutex_t sharing = PTHREAD_MUTEX_INITIALIZER;

static struct by_hand *by_hand(struct classic *connection, const char *lock, int thread)
{
    struct by_hand *c = must_alloc(1, sizeof *c);
    c->connection = connection;
    snprintf(c->key, sizeof c->key, "%s", lock);
    snprintf(c->value, sizeof c->value, "%s", VALUE);
    c->value[0] = (char)('A' + thread); /* each thread has values of its own */
    return c;
}

static void *alone_open(const char *lock, int thread)
{
    static struct classic *connections[MOST_THREADS];
    if (!connections[thread])
        connections[thread] = classic_open(port, "");
    return by_hand(connections[thread], lock, thread);
}

static void *shared_open(const char *lock, int thread)
{
    static struct classic *connection;
    if (!connection)
        connection = classic_open(port, "");
    return by_hand(connection, lock, thread);
}

static bool set_nx(struct by_hand *c)
{
    redisReply *reply = redisCommand(c->connection->context, "SET %s %s NX PX " LEASE, c->key, c->value);
    if (!reply || (reply->type != REDIS_REPLY_STATUS && reply->type != REDIS_REPLY_NIL))
        die("SET NX by hiredis failed");
    bool taken = reply->type == REDIS_REPLY_STATUS;
    freeReplyObject(reply);
    return taken;
}

static void alone_acquire(void *state)
{
    struct by_hand *c = state;
    next_value(c->value);
    while (!set_nx(c))
        sleep_us(RETRY_US);
}

static void alone_release(void *state)
{
    struct by_hand *c = state;
    classic_check(redisCommand(c->connection->context, "EVALSHA %s 1 %s %s", c->connection->sha, c->key, c->value),
                  REDIS_REPLY_INTEGER);
}

static void shared_acquire(void *state)
{
    struct by_hand *c = state;
    next_value(c->value);
    for (;;) {
        pthread_mutex_lock(&sharing);
        bool taken = set_nx(c);
        pthread_mutex_unlock(&sharing);
        if (taken)
            return;
        sleep_us(RETRY_US);
    }
}

static void shared_release(void *state)
{
    pthread_mutex_lock(&sharing);
    alone_release(state);
    pthread_mutex_unlock(&sharing);
}
#endif

static struct contender contenders[] = {
    {.name = "dlock", .open = ours_open, .acquire = ours_acquire, .release = ours_release},
    {.name = "dlock-queue", .open = ours_open, .acquire = queue_acquire, .release = queue_release, .serve = queue_serve},
#ifdef HAVE_HIREDIS
    {.name = "hiredis", .open = alone_open, .acquire = alone_acquire, .release = alone_release},
    {.name = "hiredis-shared", .open = shared_open, .acquire = shared_acquire, .release = shared_release},
#endif
};

/* --- a block --- */

static void *work(void *argument)
{
    struct worker *worker = argument;
    pthread_barrier_wait(&ready);
    pthread_barrier_wait(&set);
    for (uint64_t before = now_ns(); before < end_ns;) {
        worker->contender->acquire(worker->state);
        uint64_t acquired = now_ns();
        worker->contender->release(worker->state);
        uint64_t after = now_ns();
        note(worker, (hot ? acquired : after) - before, after);
        before = after;
    }
    return NULL;
}

static void run_threads(struct worker *workers, int count, uint64_t ms)
{
    pthread_barrier_init(&ready, NULL, (unsigned)count + 1);
    pthread_barrier_init(&set, NULL, (unsigned)count + 1);
    for (int i = 0; i < count; i++)
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            die("no thread");
    pthread_barrier_wait(&ready);
    end_ns = now_ns() + ms * 1000000;
    pthread_barrier_wait(&set);
    for (int i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&ready);
    pthread_barrier_destroy(&set);
}

static void block(struct contender *contender, int count, uint64_t ms)
{
    static struct worker workers[MOST_THREADS];
    static struct samples all;
    for (int i = 0; i < count; i++) {
        void **state = hot ? &contender->hot[i] : &contender->own[i];
        if (!*state) {
            char lock[64];
            snprintf(lock, sizeof lock, hot ? "%s:hot" : "%s:own-%d", contender->name, i);
            *state = contender->open(lock, i);
        }
        workers[i].contender = contender;
        workers[i].state = *state;
        workers[i].pairs = 0;
        workers[i].longest_ns = 0;
    }
    if (contender->serve) {
        end_ns = now_ns() + ms * 1000000;
        contender->serve(workers, count);
    } else {
        run_threads(workers, count, ms);
    }
    long pairs = 0, least = INT64_MAX, most = 0;
    uint64_t longest = 0;
    for (int i = 0; i < count; i++) {
        pairs += workers[i].pairs;
        least = workers[i].pairs < least ? workers[i].pairs : least;
        most = workers[i].pairs > most ? workers[i].pairs : most;
        longest = workers[i].longest_ns > longest ? workers[i].longest_ns : longest;
    }
    free(all.ns);
    all = samples_new((size_t)pairs + 1);
    for (int i = 0; i < count; i++)
        for (long j = 0; j < workers[i].pairs; j++)
            samples_add(&all, workers[i].ns[j]);
    double p50 = pairs ? (double)percentile(all.ns, all.count, 0.5) / 1e3 : 0;
    double p99 = pairs ? (double)percentile(all.ns, all.count, 0.99) / 1e3 : 0;
    printf("%ld %.1f %.1f %.1f %ld %ld\n", pairs, p50, p99, (double)longest / 1e3, least, most);
}

/* One acquire or release of the lock that another process wants too; answers when it was acquired, or is released. */
static void pass(struct contender *contender, bool take)
{
    uint64_t at = now_ns();
    if (!contender->passed) {
        char lock[64];
        snprintf(lock, sizeof lock, "%s:passed", contender->name);
        contender->passed = contender->open(lock, 0);
    }
    if (take) {
        contender->acquire(contender->passed);
        at = now_ns();
    } else {
        contender->release(contender->passed);
    }
    printf("%.1f\n", (double)at / 1e3);
}

int main(int argc, char **argv)
{
    char line[128], name[32], mode[8];
    int threads = 0;
    unsigned ms = 0;
    if (argc != 2)
        die("usage: peers-c <port>");
    port = argv[1];
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin) && strcmp(line, "quit\n") != 0) {
        struct contender *asked = NULL;
        int words = sscanf(line, "%31s %7s %d %u", name, mode, &threads, &ms);
        bool passing = words == 2 && (strcmp(mode, "take") == 0 || strcmp(mode, "give") == 0);
        if (!passing && (words != 4 || threads < 1 || threads > MOST_THREADS))
            die("not a request: %s", line);
        for (size_t i = 0; i < sizeof contenders / sizeof *contenders; i++)
            if (strcmp(contenders[i].name, name) == 0)
                asked = &contenders[i];
        hot = strcmp(mode, "hot") == 0;
        if (!asked)
            printf("! no such contender\n");
        else if (passing)
            pass(asked, strcmp(mode, "take") == 0);
        else
            block(asked, threads, ms);
    }
    return 0;
}
