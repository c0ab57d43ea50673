/* A few macros with which a C program reports named checks, one line each, in the way that run.py reads.
 *
 * Each check runs in a child process of its own, so that one that crashes or hangs fails alone, and what one leaves
 * behind in the library cannot help or hurt the next. Knows nothing of locks but dlock's error struct, and a raw way
 * to send a command to the server under test. Include after _GNU_SOURCE is defined.
 */
#ifndef CHECK_H
#define CHECK_H

#include <dlock.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <netdb.h>

/* How late an answer may be on a machine that is busy with something else. */
#define SLACK_MS 400
/* No check may take longer than this. */
#define CHECK_SECONDS 60

static const char *url = "redis://localhost:6379";
static const char *only;
static int failures;
static int checks_failed;
static int checks_run;

__attribute__((format(printf, 3, 4), unused)) static void fail_at(const char *file, int line, const char *text, ...) {
    va_list arguments;
    va_start(arguments, text);
    printf("  %s:%d: ", file, line);
    vprintf(text, arguments);
    printf("\n");
    va_end(arguments);
    failures++;
}

/* Goes on after a failure: the rest often says why. */
#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fail_at(__FILE__, __LINE__, "not true: %s", #condition);                                                   \
        }                                                                                                              \
    } while (0)

/* Ends the check: without this the rest makes no sense. */
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fail_at(__FILE__, __LINE__, "not true: %s", #condition);                                                   \
            fflush(stdout);                                                                                            \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define EXPECT_U64(actual, expected)                                                                                   \
    do {                                                                                                               \
        unsigned long long actual_ = (actual), expected_ = (expected);                                                 \
        if (actual_ != expected_) {                                                                                    \
            fail_at(__FILE__, __LINE__, "%s is %llu, expected %llu", #actual, actual_, expected_);                     \
        }                                                                                                              \
    } while (0)

/* `call` takes `&err` as its last argument, or `e` for both forms at once: see REFUSED in errors.c. */
#define EXPECT_STATUS(call, expected)                                                                                  \
    do {                                                                                                               \
        dlock_status status_ = (call);                                                                                 \
        if (status_ != (expected)) {                                                                                   \
            fail_at(__FILE__, __LINE__, "%s: %s (%s), expected %s", #call, dlock_status_name(status_), err.message,    \
                    dlock_status_name(expected));                                                                      \
        }                                                                                                              \
    } while (0)

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        dlock_status status_ = (call);                                                                                 \
        if (status_ != DLOCK_OK) {                                                                                     \
            fail_at(__FILE__, __LINE__, "%s: %s: %s", #call, dlock_status_name(status_), err.message);                 \
            fflush(stdout);                                                                                            \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

__attribute__((unused)) static uint64_t now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

__attribute__((unused)) static uint64_t now_ms(void) { return now_us() / 1000; }

__attribute__((unused)) static void pause_ms(uint64_t milliseconds) {
    struct timespec time = {(time_t)(milliseconds / 1000), (long)(milliseconds % 1000) * 1000000};
    while (nanosleep(&time, &time) != 0) {
    }
}

/* Waits until `condition` holds, at most `milliseconds`; is it true then? For what another thread or the server will
 * do without telling us. */
#define EVENTUALLY(condition, milliseconds)                                                                            \
    do {                                                                                                               \
        uint64_t end_ = now_ms() + (milliseconds);                                                                     \
        while (!(condition) && now_ms() < end_) {                                                                      \
            pause_ms(2);                                                                                               \
        }                                                                                                              \
        EXPECT(condition);                                                                                             \
    } while (0)

/* Runs one check in a child process. The name is the sentence that run.py prints. */
__attribute__((unused)) static void run_check(const char *name, void (*check)(void)) {
    if (only != NULL && strstr(name, only) == NULL) {
        return;
    }
    fflush(stdout);
    checks_run++;
    pid_t child = fork();
    if (child == 0) {
        alarm(CHECK_SECONDS);
        check();
        fflush(stdout);
        _exit(failures == 0 ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    bool passed = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (WIFSIGNALED(status)) {
        printf("  ended by signal %d (%s)\n", WTERMSIG(status),
               WTERMSIG(status) == SIGALRM ? "it took too long" : strsignal(WTERMSIG(status)));
    }
    printf("%s - %s\n", passed ? "ok" : "not ok", name);
    fflush(stdout);
    checks_failed += passed ? 0 : 1;
}

/* argv: [url] [part of the names of the checks to run] */
__attribute__((unused)) static void check_arguments(int argc, char **argv) {
    if (argc > 1) {
        url = argv[1];
    }
    if (argc > 2) {
        only = argv[2];
    }
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

__attribute__((unused)) static int check_result(void) {
    printf("# %d checks, %d failed\n", checks_run, checks_failed);
    return checks_failed == 0 ? 0 : 1;
}

__attribute__((unused)) static bool on_redis(void) { return strncmp(url, "redis", 5) == 0; }

/* A locker of the server under test; lease 0 leaves the default. Asserts success. */
__attribute__((unused)) static dlock_locker *new_locker(uint64_t lease_ms, bool renew) {
    dlock_error err = {0};
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    OK(dlock_options_new(&options, &err));
    OK(dlock_options_set_url(options, url, &err));
    OK(dlock_options_set_auto_renew(options, renew, &err));
    if (lease_ms != 0) {
        OK(dlock_options_set_lease_ms(options, lease_ms, &err));
    }
    OK(dlock_locker_new(options, &locker, &err));
    dlock_options_free(options);
    return locker;
}

__attribute__((unused)) static dlock_lock *new_lock(dlock_locker *locker, const char *name) {
    dlock_error err = {0};
    dlock_lock *lock = NULL;
    OK(dlock_lock_new(locker, name, "test", &lock, &err));
    return lock;
}

__attribute__((unused)) static uint64_t token_of(dlock_lock *lock) {
    dlock_error err = {0};
    uint64_t token = 0;
    OK(dlock_lock_fencing_token(lock, &token, &err));
    return token;
}

/* A blocking call in a thread of its own, for what one thread cannot show. */
struct blocked {
    pthread_t thread;
    dlock_lock *lock;
    uint64_t timeout_ms;
    dlock_status status;
    dlock_error err;
    uint64_t returned_ms;
    volatile bool done;
};

static void *blocked_body(void *argument) {
    struct blocked *self = argument;
    if (self->timeout_ms == DLOCK_WAIT_FOREVER) {
        self->status = dlock_lock_acquire(self->lock, &self->err);
    } else {
        self->status = dlock_lock_acquire_timeout(self->lock, self->timeout_ms, &self->err);
    }
    self->returned_ms = now_ms();
    __atomic_store_n(&self->done, true, __ATOMIC_SEQ_CST);
    return NULL;
}

__attribute__((unused)) static void blocked_start(struct blocked *self, dlock_lock *lock, uint64_t timeout_ms) {
    memset(self, 0, sizeof *self);
    self->lock = lock;
    self->timeout_ms = timeout_ms;
    REQUIRE(pthread_create(&self->thread, NULL, blocked_body, self) == 0);
}

__attribute__((unused)) static dlock_status blocked_join(struct blocked *self) {
    pthread_join(self->thread, NULL);
    return self->status;
}

/* Is that handle inside an acquire? Then extend answers BUSY; on one that holds nothing it fails otherwise, at once. */
__attribute__((unused)) static bool is_busy(dlock_lock *lock) {
    return dlock_lock_extend(lock, 30000, NULL) == DLOCK_ERR_BUSY;
}

/* Sends one inline command (words without spaces) to the server under test over a connection of its own and answers
 * the raw reply, cut to the buffer: "+OK\r\n", ":1\r\n", "$3\r\nabc\r\n". */
__attribute__((unused)) static const char *raw(const char *format, ...) {
    static char reply[65536];
    char command[1024], host[256] = "", port[16] = "6379";
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(command, sizeof command - 2, format, arguments);
    va_end(arguments);
    memcpy(command + length, "\r\n", 2);
    /* Without TLS, where the URL is one with. */
    const char *plain = getenv("DLOCK_TEST_PLAIN_URL");
    REQUIRE(sscanf(plain ? plain : url, "redis://%255[^:/]:%15[0-9]", host, port) == 2);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *address = NULL;
    REQUIRE(getaddrinfo(host, port, &hints, &address) == 0);
    int descriptor = socket(address->ai_family, SOCK_STREAM, 0);
    REQUIRE(connect(descriptor, address->ai_addr, address->ai_addrlen) == 0);
    freeaddrinfo(address);
    REQUIRE(write(descriptor, command, (size_t)length + 2) == length + 2);
    shutdown(descriptor, SHUT_WR);
    size_t total = 0;
    ssize_t count;
    while (total < sizeof reply - 1 && (count = read(descriptor, reply + total, sizeof reply - 1 - total)) > 0) {
        total += (size_t)count;
    }
    reply[total] = 0;
    close(descriptor);
    return reply;
}

__attribute__((unused)) static long long raw_number(const char *command) {
    const char *reply = raw("%s", command);
    REQUIRE(reply[0] == ':');
    return strtoll(reply + 1, NULL, 10);
}

#endif
