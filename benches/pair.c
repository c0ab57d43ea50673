/*
 * One uncontended acquire + release, one thread: the library, its peer doing the classic lock, two PINGs, and a bare
 * socket with the classic commands and with the library's own, in blocks that take turns, so that whatever else the
 * machine does meets all of them.
 *
 *     pair <port> <file with the library's release script>
 *     pair memory
 */
#include "client.h"
#include "turns.h"

enum { ROUNDS = 40, PAIRS = 250, CONTENDERS = 6 };

/* --- the library's commands by bare socket: what of the difference is the protocol's, and what the client's --- */

struct own_commands {
    struct bare *bare;
    char lock[1024], unlock[1024], *lock_value, *unlock_value, *member;
    size_t lock_length, unlock_length;
};

static struct own_commands *own_commands_open(const char *port, const char *script)
{
    struct own_commands *c = must_alloc(1, sizeof *c);
    char sha[41];
    const char *key = "bench:own", *queue = ":dlock:wait:{0}:bench:own", *fence = ":dlock:fence";
    const char *member = VALUE "@3000@:dlock:channel:0f8fad5bd9cb469fa16570867728950e";
    c->bare = bare_open(port);
    bare_load_file(c->bare, script, sha);
    const char *multi[] = {"MULTI"}, *set[] = {"SET", key, VALUE, "NX", "PX", LEASE}, *incr[] = {"INCR", fence};
    const char *exec[] = {"EXEC"}, *unlock[] = {"EVALSHA", sha, "3", key, queue, fence, VALUE, member};
    size_t at = resp_command(c->lock, sizeof c->lock, 1, multi);
    at += resp_command(c->lock + at, sizeof c->lock - at, 6, set);
    at += resp_command(c->lock + at, sizeof c->lock - at, 2, incr);
    at += resp_command(c->lock + at, sizeof c->lock - at, 1, exec);
    c->lock_length = at;
    c->unlock_length = resp_command(c->unlock, sizeof c->unlock, 8, unlock);
    c->lock_value = strstr(c->lock, VALUE);
    c->unlock_value = strstr(c->unlock, VALUE);
    c->member = strstr(c->unlock_value + 1, VALUE);
    return c;
}

static void own_commands_pair(void *state)
{
    struct own_commands *c = state;
    next_value(c->lock_value);
    next_value(c->unlock_value);
    next_value(c->member);
    bare_send(c->bare, c->lock, c->lock_length);
    bare_receive(c->bare, 4);
    if (!strstr(c->bare->in, "*2\r\n+OK"))
        die("the transaction answered %s", c->bare->in);
    bare_send(c->bare, c->unlock, c->unlock_length);
    bare_receive(c->bare, 1);
    if (!strstr(c->bare->in, "released"))
        die("the release script answered %s", c->bare->in);
}

static int against_redis(const char *port, const char *script)
{
    char url[64];
    redis_url(url, sizeof url, port);
    dlock_locker *locker = open_locker(url);
    dlock_lock *lock = open_lock(locker, "pair");
    struct classic *classic = classic_open(port, "bench:classic");
    struct contender contenders[CONTENDERS] = {
        {.name = "dlock", .pair = dlock_pair, .state = lock},
        {.name = "classic", .pair = classic_pair, .state = classic},
        {.name = "argv", .pair = classic_pair_argv, .state = classic_open(port, "bench:argv")},
        {.name = "pings", .pair = classic_pings, .state = classic},
        {.name = "bare", .pair = bare_classic_pair, .state = bare_classic_open(port, "bench:bare")},
        {.name = "own", .pair = own_commands_pair, .state = own_commands_open(port, script)},
    };
    take_turns(contenders, CONTENDERS, ROUNDS, PAIRS);
    printf("peer %s\n", PEER);
    for (int i = 0; i < CONTENDERS; i++) {
        print_times(&contenders[i]);
        print_distribution(contenders[i].name, &contenders[i].samples);
        print_ratios(contenders[i].name, &contenders[0], &contenders[i], ROUNDS);
    }
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    return 0;
}

static int in_memory(void)
{
    enum { BLOCKS = 100, BLOCK = 1000 };
    dlock_locker *locker = open_locker("memory://");
    dlock_lock *lock = open_lock(locker, "pair");
    struct samples samples = samples_new(BLOCKS);
    for (int i = 0; i < BLOCKS; i++) {
        uint64_t before = now_ns();
        for (int j = 0; j < BLOCK; j++)
            dlock_pair(lock);
        samples_add(&samples, (now_ns() - before) / BLOCK);
    }
    printf("memory_ns %llu\n", (unsigned long long)percentile(samples.ns, samples.count, 0.5));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "memory") == 0)
        return in_memory();
    if (argc != 3)
        die("usage: pair <port> <release script> | pair memory");
    return against_redis(argv[1], argv[2]);
}
