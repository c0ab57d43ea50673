/*
 * The clients that the library is compared with, and that read the server's own figures: hiredis, where it is
 * installed, and a bare socket with one write and one read for each round trip, which is the floor of what a client can
 * do. Both do the classic lock: `SET key value NX PX 30000`, then a script that deletes the key if the value is ours.
 * Knows nothing of libdlock.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

#define LEASE "30000"
/* Who holds: new with each acquisition, as it must be; `next_value` counts up in its last digits. */
#define VALUE "0f8fad5b-d9cb-469f-a165-70867728950e:10000"
#define CLASSIC_RELEASE \
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"

/* `value` is a VALUE, or points at one within a command. */
static inline void next_value(char *value)
{
    char *digit = value + sizeof VALUE - 2;
    while (*digit == '9')
        *digit-- = '0';
    ++*digit;
}

/* --- a bare socket --- */

struct bare {
    int fd;
    size_t have;
    char in[1 << 16];
};

/* One command in the Redis protocol, appended at `out`; returns its length. */
static inline size_t resp_command(char *out, size_t size, int argc, const char *const *argv)
{
    size_t at = (size_t)snprintf(out, size, "*%d\r\n", argc);
    for (int i = 0; i < argc; i++) {
        if (at + strlen(argv[i]) + 32 > size)
            die("a command is too long");
        at += (size_t)snprintf(out + at, size - at, "$%zu\r\n%s\r\n", strlen(argv[i]), argv[i]);
    }
    return at;
}

/* The end of the reply that begins at `p`, or NULL while it is incomplete. */
static inline const char *resp_end(const char *p, const char *end)
{
    const char *line = memchr(p, '\n', (size_t)(end - p));
    if (!line)
        return NULL;
    long n = strtol(p + 1, NULL, 10);
    const char *rest = line + 1;
    switch (*p) {
    case '-':
        die("the server answered: %.*s", (int)(line - p - 1), p);
    case '$':
        if (n >= 0)
            rest += n + 2;
        return rest <= end ? rest : NULL;
    case '*':
        for (long i = 0; i < n && rest; i++)
            rest = rest < end ? resp_end(rest, end) : NULL;
        return rest;
    default:
        return rest;
    }
}

static inline struct bare *bare_open(const char *port)
{
    struct bare *bare = must_alloc(1, sizeof *bare);
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int one = 1;
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bare->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bare->fd < 0 || connect(bare->fd, (struct sockaddr *)&peer, sizeof peer) < 0)
        die("cannot connect to port %s: %s", port, strerror(errno));
    setsockopt(bare->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return bare;
}

static inline void bare_send(struct bare *bare, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t n = write(bare->fd, bytes, length);
        if (n <= 0)
            die("cannot write: %s", strerror(errno));
        bytes += n;
        length -= (size_t)n;
    }
}

/* Reads so many replies; they are in `in`, up to `have`, until the next call. */
static inline void bare_receive(struct bare *bare, int replies)
{
    const char *next = bare->in;
    bare->have = 0;
    while (replies > 0) {
        ssize_t n = read(bare->fd, bare->in + bare->have, sizeof bare->in - 1 - bare->have);
        if (n <= 0)
            die("the server closed the connection: %s", n < 0 ? strerror(errno) : "end of file");
        bare->have += (size_t)n;
        bare->in[bare->have] = 0;
        while (replies > 0 && next < bare->in + bare->have) {
            const char *end = resp_end(next, bare->in + bare->have);
            if (!end)
                break;
            next = end;
            replies--;
        }
    }
}

/* One round trip; the reply is in `in`. */
static inline const char *bare_call(struct bare *bare, int argc, const char *const *argv)
{
    char out[1 << 14];
    bare_send(bare, out, resp_command(out, sizeof out, argc, argv));
    bare_receive(bare, 1);
    return bare->in;
}

#define BARE_CALL(bare, ...) \
    bare_call((bare), (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

/* Loads a script; `sha` gets its name. */
static inline void bare_load(struct bare *bare, const char *script, char sha[41])
{
    const char *reply = BARE_CALL(bare, "SCRIPT", "LOAD", script);
    if (sscanf(reply, "$40\r\n%40s", sha) != 1)
        die("SCRIPT LOAD answered %s", reply);
}

/* The same for the script in a file. */
static inline void bare_load_file(struct bare *bare, const char *path, char sha[41])
{
    FILE *file = fopen(path, "r");
    char *text = must_alloc(1, 1 << 14);
    if (!file || fread(text, 1, (1 << 14) - 1, file) == 0)
        die("cannot read %s", path);
    fclose(file);
    bare_load(bare, text, sha);
    free(text);
}

/* The number that the server answers. */
static inline long bare_number(const char *reply)
{
    if (*reply != ':')
        die("not a number: %s", reply);
    return strtol(reply + 1, NULL, 10);
}

/* How many wait in the library's queue for the benchmark lock of that name. */
static inline long bare_waiting(struct bare *bare, const char *name)
{
    static const char script[] = "local k = redis.call('KEYS', ':dlock:wait:*:bench:' .. ARGV[1]) "
                                 "if #k == 0 then return 0 end return redis.call('ZCARD', k[1])";
    return bare_number(BARE_CALL(bare, "EVAL", script, "0", name));
}

/* --- the classic lock by bare socket --- */

struct bare_classic {
    struct bare *bare;
    char lock[512], unlock[512], ping[64], *lock_value, *unlock_value;
    size_t lock_length, unlock_length, ping_length;
};

static inline struct bare_classic *bare_classic_open(const char *port, const char *key)
{
    struct bare_classic *c = must_alloc(1, sizeof *c);
    char sha[41];
    c->bare = bare_open(port);
    bare_load(c->bare, CLASSIC_RELEASE, sha);
    const char *lock[] = {"SET", key, VALUE, "NX", "PX", LEASE}, *unlock[] = {"EVALSHA", sha, "1", key, VALUE};
    const char *ping[] = {"PING"};
    c->lock_length = resp_command(c->lock, sizeof c->lock, 6, lock);
    c->unlock_length = resp_command(c->unlock, sizeof c->unlock, 5, unlock);
    c->ping_length = resp_command(c->ping, sizeof c->ping, 1, ping);
    c->lock_value = strstr(c->lock, VALUE);
    c->unlock_value = strstr(c->unlock, VALUE);
    return c;
}

static inline void bare_classic_pair(void *state)
{
    struct bare_classic *c = state;
    next_value(c->lock_value);
    next_value(c->unlock_value);
    bare_send(c->bare, c->lock, c->lock_length);
    bare_receive(c->bare, 1);
    if (*c->bare->in != '+')
        die("SET NX answered %s", c->bare->in);
    bare_send(c->bare, c->unlock, c->unlock_length);
    bare_receive(c->bare, 1);
    if (strncmp(c->bare->in, ":1", 2) != 0)
        die("the classic release answered %s", c->bare->in);
}

static inline void bare_classic_pings(void *state)
{
    struct bare_classic *c = state;
    for (int i = 0; i < 2; i++) {
        bare_send(c->bare, c->ping, c->ping_length);
        bare_receive(c->bare, 1);
    }
}

/* --- the same by hiredis --- */

#ifdef HAVE_HIREDIS
#include <hiredis/hiredis.h>

#define PEER "hiredis"

struct classic {
    redisContext *context;
    char key[64], value[64], sha[41];
};

static inline struct classic *classic_open(const char *port, const char *key)
{
    struct classic *c = must_alloc(1, sizeof *c);
    c->context = redisConnect("127.0.0.1", atoi(port));
    if (!c->context || c->context->err)
        die("hiredis cannot connect to port %s", port);
    snprintf(c->key, sizeof c->key, "%s", key);
    snprintf(c->value, sizeof c->value, "%s", VALUE);
    redisReply *reply = redisCommand(c->context, "SCRIPT LOAD %s", CLASSIC_RELEASE);
    if (!reply || reply->type != REDIS_REPLY_STRING)
        die("SCRIPT LOAD by hiredis failed");
    snprintf(c->sha, sizeof c->sha, "%s", reply->str);
    freeReplyObject(reply);
    return c;
}

static inline void classic_check(redisReply *reply, int type)
{
    if (!reply || reply->type != type || (type == REDIS_REPLY_INTEGER && reply->integer != 1))
        die("the classic lock by hiredis failed");
    freeReplyObject(reply);
}

/* As its documentation does it. */
static inline void classic_pair(void *state)
{
    struct classic *c = state;
    next_value(c->value);
    classic_check(redisCommand(c->context, "SET %s %s NX PX " LEASE, c->key, c->value), REDIS_REPLY_STATUS);
    classic_check(redisCommand(c->context, "EVALSHA %s 1 %s %s", c->sha, c->key, c->value), REDIS_REPLY_INTEGER);
}

/* The quicker way, without a format. */
static inline void classic_pair_argv(void *state)
{
    struct classic *c = state;
    next_value(c->value);
    const char *lock[] = {"SET", c->key, c->value, "NX", "PX", LEASE};
    const char *unlock[] = {"EVALSHA", c->sha, "1", c->key, c->value};
    classic_check(redisCommandArgv(c->context, 6, lock, NULL), REDIS_REPLY_STATUS);
    classic_check(redisCommandArgv(c->context, 5, unlock, NULL), REDIS_REPLY_INTEGER);
}

static inline void classic_pings(void *state)
{
    struct classic *c = state;
    for (int i = 0; i < 2; i++)
        classic_check(redisCommand(c->context, "PING"), REDIS_REPLY_STATUS);
}

#else

#define PEER "bare socket"
#define classic bare_classic
#define classic_open bare_classic_open
#define classic_pair bare_classic_pair
#define classic_pair_argv bare_classic_pair
#define classic_pings bare_classic_pings

#endif
#endif
