/*
 * Distance: a process between client and server that passes on what it reads only after so long, in either direction.
 * Knows nothing of what it carries. Bytes keep their order; a connection's end travels like its bytes.
 */
#ifndef DELAY_H
#define DELAY_H

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>

#include "client.h"

enum { DELAY_PIPES = 64, DELAY_READ = 1 << 16 };

struct delayed {
    struct delayed *next;
    uint64_t due_ns;
    size_t length; /* 0: the end */
    char bytes[];
};

/* One direction of one connection. */
struct delay_pipe {
    int from, to;
    struct delayed *first, **last;
};

struct delay_proxy {
    int listener, epoll, timer, server_port, count;
    uint64_t delay_ns;
    struct delay_pipe pipes[DELAY_PIPES];
};

static inline void delay_watch(struct delay_proxy *proxy, int fd, int index)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)index};
    if (epoll_ctl(proxy->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

static inline void delay_accept(struct delay_proxy *proxy)
{
    char port[16];
    int one = 1, client = accept(proxy->listener, NULL, NULL);
    if (client < 0 || proxy->count + 2 > DELAY_PIPES)
        die("the proxy cannot take another connection");
    snprintf(port, sizeof port, "%d", proxy->server_port);
    int server = bare_open(port)->fd;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (int i = 0; i < 2; i++) {
        struct delay_pipe *pipe = &proxy->pipes[proxy->count];
        *pipe = (struct delay_pipe){i ? server : client, i ? client : server, NULL, &pipe->first};
        delay_watch(proxy, pipe->from, proxy->count++);
    }
}

static inline void delay_read(struct delay_proxy *proxy, struct delay_pipe *pipe)
{
    static char buffer[DELAY_READ];
    ssize_t n = read(pipe->from, buffer, sizeof buffer);
    size_t length = n > 0 ? (size_t)n : 0;
    struct delayed *chunk = must_alloc(1, sizeof *chunk + length);
    memcpy(chunk->bytes, buffer, length);
    chunk->length = length;
    chunk->due_ns = now_ns() + proxy->delay_ns;
    *pipe->last = chunk;
    pipe->last = &chunk->next;
    if (length == 0)
        epoll_ctl(proxy->epoll, EPOLL_CTL_DEL, pipe->from, NULL);
}

/* Passes on what is due; returns when the next will be. */
static inline uint64_t delay_deliver(struct delay_proxy *proxy)
{
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < proxy->count; i++) {
        struct delay_pipe *pipe = &proxy->pipes[i];
        for (struct delayed *chunk; (chunk = pipe->first) && chunk->due_ns <= now_ns();) {
            /* Whoever closed his end is not to be written to any more, and ends what comes back. */
            for (size_t at = 0; at < chunk->length;) {
                ssize_t n = write(pipe->to, chunk->bytes + at, chunk->length - at);
                if (n <= 0)
                    break;
                at += (size_t)n;
            }
            if (chunk->length == 0)
                shutdown(pipe->to, SHUT_WR);
            pipe->first = chunk->next;
            if (!pipe->first)
                pipe->last = &pipe->first;
            free(chunk);
        }
        if (pipe->first && pipe->first->due_ns < next)
            next = pipe->first->due_ns;
    }
    return next;
}

static inline void delay_run(struct delay_proxy *proxy)
{
    enum { LISTENER = DELAY_PIPES, TIMER };
    delay_watch(proxy, proxy->listener, LISTENER);
    delay_watch(proxy, proxy->timer, TIMER);
    for (;;) {
        struct epoll_event events[DELAY_PIPES];
        int count = epoll_wait(proxy->epoll, events, DELAY_PIPES, -1);
        for (int i = 0; i < count; i++) {
            uint64_t expired;
            if (events[i].data.u32 == LISTENER)
                delay_accept(proxy);
            else if (events[i].data.u32 == TIMER)
                (void)!read(proxy->timer, &expired, sizeof expired);
            else
                delay_read(proxy, &proxy->pipes[events[i].data.u32]);
        }
        uint64_t next = delay_deliver(proxy);
        struct itimerspec at = {0};
        if (next != UINT64_MAX)
            at.it_value = (struct timespec){(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
        timerfd_settime(proxy->timer, TFD_TIMER_ABSTIME, &at, NULL);
    }
}

/* Starts the process, which ends with its parent; `port` gets where it listens. Each direction takes `delay_us`. */
static inline pid_t delay_start(const char *server_port, uint64_t delay_us, char port[16])
{
    struct sockaddr_in here = {.sin_family = AF_INET};
    socklen_t size = sizeof here;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct delay_proxy *proxy = must_alloc(1, sizeof *proxy);
    proxy->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(proxy->listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(proxy->listener, 64) < 0
        || getsockname(proxy->listener, (struct sockaddr *)&here, &size) < 0)
        die("the proxy cannot listen: %s", strerror(errno));
    snprintf(port, 16, "%d", ntohs(here.sin_port));
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGPIPE, SIG_IGN);
        proxy->epoll = epoll_create1(0);
        proxy->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        proxy->server_port = atoi(server_port);
        proxy->delay_ns = delay_us * 1000;
        delay_run(proxy);
    }
    close(proxy->listener);
    free(proxy);
    return child;
}

#endif
