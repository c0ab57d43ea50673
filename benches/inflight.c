/*
 * Many pairs at once from one thread: the completion queue with so many locks in flight, against the classic lock pipelined
 * on one connection, in blocks that take turns. For each: pairs a second, and what a pair costs server and client.
 *
 * The classic lock is pipelined in two ways: all SETs at once, then all scripts; and, as the completion queue does it, each
 * lock going on as soon as its own reply is there.
 *
 *     inflight <port> <locks in flight>
 */
#include "client.h"

enum { ROUNDS = 7, BLOCK_MS = 500, MOST = 1024 };

struct figures {
    double rate[ROUNDS], server_us[ROUNDS], client_us[ROUNDS];
};

static double server_seconds(struct bare *control)
{
    static const char *const names[] = {"used_cpu_sys:", "used_cpu_user:"};
    const char *info = BARE_CALL(control, "INFO", "cpu");
    double sum = 0;
    for (int i = 0; i < 2; i++) {
        const char *found = strstr(info, names[i]);
        if (!found)
            die("INFO cpu has no %s", names[i]);
        sum += atof(found + strlen(names[i]));
    }
    return sum;
}

/* --- the completion queue: each lock is submitted again as soon as its event is there --- */

static long queue_block(const dlock_queue *queue, dlock_lock **locks, int count)
{
    enum { BATCH = 256 };
    static dlock_event events[BATCH];
    dlock_error err;
    long pairs = 0;
    int in_flight = count;
    uint64_t end = now_ns() + (uint64_t)BLOCK_MS * 1000000u;
    for (int i = 0; i < count; i++)
        must(dlock_submit_acquire(queue, locks[i], DLOCK_WAIT_FOREVER, (uint64_t)i, &err), &err, "submit_acquire");
    while (in_flight > 0) {
        size_t n;
        must(dlock_queue_wait(queue, events, BATCH, 10000, &n, &err), &err, "queue_wait");
        if (n == 0)
            die("nothing was done for ten seconds");
        bool over = now_ns() > end;
        for (size_t i = 0; i < n; i++) {
            dlock_lock *lock = locks[events[i].user_data];
            if (events[i].status != DLOCK_OK)
                die("an operation failed: %s", events[i].message);
            if (events[i].kind == DLOCK_EVENT_ACQUIRE) {
                must(dlock_submit_release(queue, lock, events[i].user_data, &err), &err, "submit_release");
                continue;
            }
            pairs++;
            if (over)
                in_flight--;
            else
                must(dlock_submit_acquire(queue, lock, DLOCK_WAIT_FOREVER, events[i].user_data, &err), &err, "submit_acquire");
        }
    }
    return pairs;
}

/* --- the classic lock: all SETs in one write, then all scripts --- */

#ifdef HAVE_HIREDIS
static void take_replies(redisContext *context, int count, int type)
{
    for (int i = 0; i < count; i++) {
        void *reply = NULL;
        if (redisGetReply(context, &reply) != REDIS_OK)
            die("hiredis: %s", context->errstr);
        classic_check(reply, type);
    }
}

static void append_lock(struct classic *c, const char *name)
{
    const char *lock[] = {"SET", name, c->value, "NX", "PX", LEASE};
    redisAppendCommandArgv(c->context, 6, lock, NULL);
}

static void append_unlock(struct classic *c, const char *name)
{
    const char *unlock[] = {"EVALSHA", c->sha, "1", name, c->value};
    redisAppendCommandArgv(c->context, 5, unlock, NULL);
}

static long classic_block(struct classic *c, char (*names)[64], int count)
{
    long pairs = 0;
    uint64_t end = now_ns() + (uint64_t)BLOCK_MS * 1000000u;
    while (now_ns() < end) {
        next_value(c->value);
        for (int i = 0; i < count; i++)
            append_lock(c, names[i]);
        take_replies(c->context, count, REDIS_REPLY_STATUS);
        for (int i = 0; i < count; i++)
            append_unlock(c, names[i]);
        take_replies(c->context, count, REDIS_REPLY_INTEGER);
        pairs += count;
    }
    return pairs;
}

/* Replies come in the order of the commands, so the locks take turns; what is appended while replies are left in hiredis'
 * buffer is written when they are taken. One value for all: which lock it is for says the key. */
static long sliding_block(struct classic *c, char (*names)[64], int count)
{
    long pairs = 0;
    bool over = false;
    uint64_t end = now_ns() + (uint64_t)BLOCK_MS * 1000000u;
    next_value(c->value);
    for (int i = 0; i < count; i++)
        append_lock(c, names[i]);
    while (!over) {
        over = now_ns() > end;
        for (int i = 0; i < count; i++) {
            take_replies(c->context, 1, REDIS_REPLY_STATUS);
            append_unlock(c, names[i]);
        }
        for (int i = 0; i < count; i++) {
            take_replies(c->context, 1, REDIS_REPLY_INTEGER);
            if (!over)
                append_lock(c, names[i]);
        }
        pairs += count;
    }
    return pairs;
}
#endif

/* --- taking turns --- */

#ifdef HAVE_HIREDIS
enum { OURS, CLASSIC, SLIDING, CONTENDERS };
#else
enum { OURS, CONTENDERS };
#endif
static const char *const contenders[] = {"dlock", "classic", "sliding"};

struct setting {
    struct bare *control;
    dlock_queue *queue;
    dlock_lock *locks[MOST];
    struct classic *classic;
    char names[MOST][64];
    int count;
};

static long pairs_of(struct setting *s, int contender)
{
#ifdef HAVE_HIREDIS
    if (contender != OURS)
        return (contender == CLASSIC ? classic_block : sliding_block)(s->classic, s->names, s->count);
#endif
    (void)contender;
    return queue_block(s->queue, s->locks, s->count);
}

static void block(struct setting *s, int contender, struct figures *figures, int round)
{
    double server = server_seconds(s->control), client = cpu_seconds();
    uint64_t begin = now_ns();
    double pairs = (double)pairs_of(s, contender), took = (double)(now_ns() - begin) / 1e9;
    figures->rate[round] = pairs / took;
    figures->client_us[round] = (cpu_seconds() - client) * 1e6 / pairs;
    figures->server_us[round] = (server_seconds(s->control) - server) * 1e6 / pairs;
}

/* The ratio of the rounds' rates, and the middle half of them. */
static void print_ratios(const char *name, struct figures *ours, struct figures *theirs)
{
    double ratios[ROUNDS];
    for (int i = 0; i < ROUNDS; i++)
        ratios[i] = ours->rate[i] / theirs->rate[i];
    printf("%s_ratio_low %.3f\n%s_ratio_high %.3f\n", name, quantile(ratios, ROUNDS, 0.25), name, quantile(ratios, ROUNDS, 0.75));
}

static void print_figures(const char *name, struct figures *figures)
{
    printf("%s_per_second %.0f\n", name, quantile(figures->rate, ROUNDS, 0.5));
    printf("%s_server_us %.2f\n", name, quantile(figures->server_us, ROUNDS, 0.5));
    printf("%s_client_us %.2f\n", name, quantile(figures->client_us, ROUNDS, 0.5));
}

int main(int argc, char **argv)
{
    static struct setting s;
    static struct figures figures[CONTENDERS];
    char url[64];
    dlock_error err;
    s.count = argc == 3 ? atoi(argv[2]) : 0;
    if (s.count < 1 || s.count > MOST)
        die("usage: inflight <port> <locks in flight>, at most %d", MOST);
    redis_url(url, sizeof url, argv[1]);
    dlock_locker *locker = open_locker(url);
    must(dlock_queue_new(locker, &s.queue, &err), &err, "queue_new");
    s.control = bare_open(argv[1]);
    s.classic = classic_open(argv[1], "bench:classic");
    for (int i = 0; i < s.count; i++) {
        snprintf(s.names[i], sizeof s.names[i], "flight-%d", i);
        s.locks[i] = open_lock(locker, s.names[i]);
        snprintf(s.names[i], sizeof s.names[i], "bench:classic-%d", i);
    }
    for (int i = 0; i < CONTENDERS; i++)
        block(&s, i, &figures[i], 0); /* for warming up */
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < CONTENDERS; i++)
            block(&s, (round + i) % CONTENDERS, &figures[(round + i) % CONTENDERS], round);
    for (int i = OURS + 1; i < CONTENDERS; i++)
        print_ratios(contenders[i], &figures[OURS], &figures[i]);
    for (int i = 0; i < CONTENDERS; i++)
        print_figures(contenders[i], &figures[i]);
    for (int i = 0; i < s.count; i++)
        dlock_lock_free(s.locks[i]);
    dlock_queue_free(s.queue);
    dlock_locker_free(locker);
    return 0;
}
