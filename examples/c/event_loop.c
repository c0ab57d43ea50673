/* Many locks in one thread: an epoll loop around the completion queue.
 *
 *     ./event_loop [url]         Linux, because of epoll and timerfd; the queue itself is not bound to them
 *
 * Four jobs want the same lock, a fifth wants another one. Each submits its acquire and goes on; the loop collects
 * what has finished. A job holds its lock for 50 ms (a timer, not a sleep) and then submits the release. The last job
 * in line never releases and nothing renews its lease, so in the end the watch reports that it lost its lock.
 */
#define _GNU_SOURCE
#include <dlock.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { JOBS = 5, FORGETFUL = 3, QUEUE = JOBS, BATCH = 16 };

struct job {
    dlock_lock *lock;
    int timer;
};

static struct job jobs[JOBS];
static dlock_queue *queue;
static int finished;

static void check(dlock_status status, const dlock_error *err, const char *doing) {
    if (status != DLOCK_OK) {
        fprintf(stderr, "%s: %s: %s\n", doing, dlock_status_name(status), err->message);
        exit(EXIT_FAILURE);
    }
}

static void check_system(int result, const char *doing) {
    if (result < 0) {
        perror(doing);
        exit(EXIT_FAILURE);
    }
}

static void watch_descriptor(int epoll, int descriptor, uint32_t identity) {
    struct epoll_event event = {.events = EPOLLIN, .data = {.u32 = identity}};
    check_system(epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event), "epoll_ctl");
}

static void start_timer(int timer, long milliseconds) {
    struct itimerspec time = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000000}};
    check_system(timerfd_settime(timer, 0, &time, NULL), "timerfd_settime");
}

/* One finished operation. `user_data` is what was given to the submission: here the job's number. */
static void handle(const dlock_event *event) {
    unsigned number = (unsigned)event->user_data;
    if (event->kind == DLOCK_EVENT_LOST) {
        printf("job %u lost its lock\n", number);
        finished++;
        return;
    }
    if (event->status != DLOCK_OK) {
        fprintf(stderr, "job %u: %s: %s\n", number, dlock_status_name(event->status), event->message);
        exit(EXIT_FAILURE);
    }
    if (event->kind == DLOCK_EVENT_ACQUIRE) {
        /* event->token is the fencing token: hand it to whatever the lock protects. */
        printf("job %u acquired\n", number);
        if (number != FORGETFUL) {
            start_timer(jobs[number].timer, 50);
        }
    } else if (event->kind == DLOCK_EVENT_RELEASE) {
        printf("job %u released\n", number);
        finished++;
    }
}

/* The descriptor is readable while events are pending: take what is there, without waiting. What does not fit into
 * this batch keeps it readable. */
static void collect(void) {
    dlock_error err;
    dlock_event events[BATCH];
    size_t count;
    check(dlock_queue_wait(queue, events, BATCH, 0, &count, &err), &err, "collecting events");
    for (size_t i = 0; i < count; i++) {
        handle(&events[i]);
    }
}

static void timer_fired(unsigned number) {
    dlock_error err;
    uint64_t ticks;
    if (read(jobs[number].timer, &ticks, sizeof ticks) == (ssize_t)sizeof ticks) {
        check(dlock_submit_release(queue, jobs[number].lock, number, &err), &err, "submitting a release");
    }
}

static dlock_locker *make_locker(const char *url) {
    dlock_error err;
    dlock_options *options;
    dlock_locker *locker;
    check(dlock_options_new(&options, &err), &err, "making options");
    check(dlock_options_set_url(options, url, &err), &err, "setting the URL");
    check(dlock_options_set_lease_ms(options, 1000, &err), &err, "setting the lease");
    check(dlock_options_set_auto_renew(options, false, &err), &err, "switching renewal off");
    check(dlock_locker_new(options, &locker, &err), &err, "making a locker");
    dlock_options_free(options);
    return locker;
}

int main(int argc, char **argv) {
    dlock_locker *locker = make_locker(argc > 1 ? argv[1] : "redis://localhost:6379");
    dlock_error err;
    check(dlock_queue_new(locker, &queue, &err), &err, "making a completion queue");

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    check_system(epoll, "epoll_create1");
    watch_descriptor(epoll, dlock_queue_fd(queue), QUEUE);

    for (unsigned i = 0; i < JOBS; i++) {
        const char *name = i < 4 ? "event_loop" : "event_loop_2";
        jobs[i].timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        check_system(jobs[i].timer, "timerfd_create");
        watch_descriptor(epoll, jobs[i].timer, i);
        check(dlock_lock_new(locker, name, "examples", &jobs[i].lock, &err), &err, "making a lock");
        /* From now on one event for each time that this handle loses the lock. */
        check(dlock_lock_watch(jobs[i].lock, queue, i, &err), &err, "watching a lock");
        /* Returns at once. Exactly one event follows, unless this call itself is refused. */
        check(dlock_submit_acquire(queue, jobs[i].lock, DLOCK_WAIT_FOREVER, i, &err), &err, "submitting an acquire");
    }

    while (finished < JOBS) {
        struct epoll_event ready[BATCH];
        int count = epoll_wait(epoll, ready, BATCH, 10000);
        if (count == 0) {
            fprintf(stderr, "nothing happened for ten seconds\n");
            return EXIT_FAILURE;
        }
        for (int i = 0; i < count; i++) {
            if (ready[i].data.u32 == QUEUE) {
                collect();
            } else {
                timer_fired(ready[i].data.u32);
            }
        }
    }

    for (unsigned i = 0; i < JOBS; i++) {
        dlock_lock_free(jobs[i].lock);
        close(jobs[i].timer);
    }
    dlock_queue_free(queue);
    dlock_locker_free(locker);
    close(epoll);
    return EXIT_SUCCESS;
}
