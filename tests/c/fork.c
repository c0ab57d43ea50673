/* fork(), in each state that a locker can be in: in the child every handle answers FORKED, at once and without touching
 * the parent's connections, may be freed, and leaves no descriptor; the child works with a locker of its own and exits as
 * it likes. The parent goes on as if nothing had been.
 *
 *     fork <url> [part of a name]
 *
 * A state is entered by the parent, which knows by an event that it is there; then children are forked, each under an
 * alarm; then the parent sees to it that what was under way came to its end. run.py checks that every function of the
 * header is called in the child.
 */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>

/* A child that hangs is ended by this; no call on an inherited handle takes longer than that. */
#define CHILD_SECONDS 15
#define AT_ONCE_MS 1000
/* As a timeout of calls that must not begin to wait. */
#define LONG_MS 60000

static dlock_error err;
static bool in_a_child;

/* The library leaks in a child on purpose: other threads' mutexes may have been held. Asked by LeakSanitizer. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return in_a_child; }

/* --- what a child inherits --- */

static dlock_options *options;
static dlock_locker *lockers[2]; /* the one that the state is about; another one, to hold locks against it */
static dlock_queue *queues[1];
static dlock_lock *locks[4];

#define LOCKER lockers[0]
#define OTHER lockers[1]
#define QUEUE queues[0]
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Written by children: the token that the last of them got. */
static uint64_t *childs_token;

static bool descriptors_before[4096];

static int each_descriptor(void (*visit)(int)) {
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    REQUIRE(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        int number = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && number != dirfd(directory) && number < (int)COUNT(descriptors_before)) {
            visit(number);
            count++;
        }
    }
    closedir(directory);
    return count;
}

static void note_descriptor(int number) { descriptors_before[number] = true; }

static void expect_descriptor(int number) {
    if (!descriptors_before[number]) {
        char path[64], what[256] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%d", number);
        if (readlink(path, what, sizeof what - 1) >= 0) {
            fail_at(__FILE__, __LINE__, "descriptor %d is open in the child after free: %s", number, what);
        }
    }
}

/* --- in the child --- */

#define AT_ONCE_AS(call, expected)                                                                                     \
    do {                                                                                                               \
        uint64_t begun_ = now_ms();                                                                                    \
        EXPECT_STATUS(call, expected);                                                                                 \
        if (now_ms() - begun_ > AT_ONCE_MS) {                                                                          \
            fail_at(__FILE__, __LINE__, "%s took %llu ms", #call, (unsigned long long)(now_ms() - begun_));            \
        }                                                                                                              \
    } while (0)
#define FORKED(call) AT_ONCE_AS(call, DLOCK_ERR_FORKED)

static void locker_functions(dlock_locker *locker) {
    dlock_lock *lock = NULL;
    dlock_queue *queue = NULL;
    FORKED(dlock_lock_new(locker, "n", "test", &lock, &err));
    FORKED(dlock_queue_new(locker, &queue, &err));
    FORKED(dlock_locker_close(locker, &err));
    char text[8] = "as it is";
    FORKED(dlock_locker_warnings(locker, text, sizeof text, &err));
    EXPECT(memcmp(text, "as it is", sizeof text) == 0);
    EXPECT(lock == NULL && queue == NULL);
}

static void lock_functions(dlock_lock *lock) {
    bool flag = true;
    uint64_t value = 77;
    char owner[DLOCK_UUID_SIZE] = "untouched";
    FORKED(dlock_lock_acquire(lock, &err));
    FORKED(dlock_lock_try_acquire(lock, &flag, &err));
    FORKED(dlock_lock_acquire_timeout(lock, LONG_MS, &err));
    FORKED(dlock_lock_acquire_retry_backoff(lock, 1, LONG_MS, &err));
    FORKED(dlock_lock_release(lock, &err));
    FORKED(dlock_lock_is_locked(lock, &flag, &err));
    FORKED(dlock_lock_is_locked_by_me(lock, &flag, &err));
    FORKED(dlock_lock_owner(lock, &flag, owner, &err));
    FORKED(dlock_lock_id(lock, owner));
    FORKED(dlock_lock_fencing_token(lock, &value, &err));
    FORKED(dlock_lock_remaining_ms(lock, &value, &err));
    FORKED(dlock_lock_extend(lock, 1000, &err));
    FORKED(dlock_lock_cancel(lock, &err));
    EXPECT(flag && value == 77 && strcmp(owner, "untouched") == 0);
}

static void queue_functions(dlock_queue *queue) {
    dlock_event event;
    size_t count = 77;
    FORKED(dlock_queue_wait(queue, &event, 1, LONG_MS, &count, &err));
    EXPECT(count == 77 && dlock_queue_fd(queue) == -1);
}

static void submit_functions(dlock_queue *queue, dlock_lock *lock) {
    FORKED(dlock_lock_watch(lock, queue, 1, &err));
    FORKED(dlock_submit_acquire(queue, lock, LONG_MS, 1, &err));
    FORKED(dlock_submit_try_acquire(queue, lock, 1, &err));
    FORKED(dlock_submit_acquire_retry_backoff(queue, lock, 1, LONG_MS, 1, &err));
    FORKED(dlock_submit_release(queue, lock, 1, &err));
    FORKED(dlock_submit_is_locked(queue, lock, 1, &err));
    FORKED(dlock_submit_is_locked_by_me(queue, lock, 1, &err));
    FORKED(dlock_submit_owner(queue, lock, 1, &err));
}

/* Options are plain data, and the rest has no handle: these answer as in the parent. */
static void functions_that_work(void) {
    dlock_options *own = NULL;
    EXPECT(strcmp(dlock_version(), DLOCK_VERSION) == 0);
    EXPECT(strcmp(dlock_status_name(DLOCK_ERR_FORKED), "DLOCK_ERR_FORKED") == 0);
    AT_ONCE_AS(dlock_options_set_lease_ms(options, 9000, &err), DLOCK_OK);
    AT_ONCE_AS(dlock_options_set_auto_renew(options, false, &err), DLOCK_OK);
    AT_ONCE_AS(dlock_options_set_connect_timeout_ms(options, 5000, &err), DLOCK_OK);
    AT_ONCE_AS(dlock_options_set_response_timeout_ms(options, 5000, &err), DLOCK_OK);
    AT_ONCE_AS(dlock_options_new(&own, &err), DLOCK_OK);
    AT_ONCE_AS(dlock_options_set_host(own, "localhost", &err), DLOCK_OK);
    AT_ONCE_AS(dlock_options_set_port(own, 6379, &err), DLOCK_OK);
    AT_ONCE_AS(dlock_options_set_url(own, url, &err), DLOCK_OK);
    dlock_options_free(own);
}

static void every_function(void) {
    for (size_t i = 0; i < COUNT(lockers); i++) {
        if (lockers[i] != NULL) {
            locker_functions(lockers[i]);
        }
    }
    for (size_t i = 0; i < COUNT(locks); i++) {
        if (locks[i] != NULL) {
            lock_functions(locks[i]);
            if (QUEUE != NULL) {
                submit_functions(QUEUE, locks[i]);
            }
        }
    }
    if (QUEUE != NULL) {
        queue_functions(QUEUE);
    }
    functions_that_work();
}

static void free_locks(void) {
    for (size_t i = 0; i < COUNT(locks); i++) {
        dlock_lock_free(locks[i]);
        locks[i] = NULL;
    }
}

static void free_lockers(void) {
    for (size_t i = 0; i < COUNT(lockers); i++) {
        dlock_locker_free(lockers[i]);
        lockers[i] = NULL;
    }
}

static void free_all(void) {
    free_locks();
    dlock_queue_free(QUEUE);
    QUEUE = NULL;
    free_lockers();
    dlock_options_free(options);
    options = NULL;
}

static void free_locker_first(void) {
    free_lockers();
    free_all();
}

/* All in one: how long may it take, and what is left? */
static void freed(void (*frees)(void)) {
    uint64_t begun = now_ms();
    frees();
    EXPECT(now_ms() - begun < AT_ONCE_MS);
    each_descriptor(expect_descriptor);
}

static void calls_and_frees(void) {
    every_function();
    freed(free_all);
}

static void frees_locker_first(void) { freed(free_locker_first); }

static void free_at_exit(void) {
    freed(free_all);
    fflush(stdout);
    if (failures > 0) {
        _exit(1);
    }
}

static void frees_in_an_exit_handler(void) {
    atexit(free_at_exit);
    exit(failures == 0 ? 0 : 1);
}

static void call_at_exit(void) {
    every_function();
    fflush(stdout);
    if (failures > 0) {
        _exit(1);
    }
}

static void frees_nothing_and_calls_in_an_exit_handler(void) {
    atexit(call_at_exit);
    exit(failures == 0 ? 0 : 1);
}

/* A locker of the child's own, in use; the parent's locks are as they were. Then a child of the child. */
static void works(void) {
    freed(free_all);
    if (on_redis()) {
        raw("CLIENT UNPAUSE");
    }
    options = NULL;
    LOCKER = new_locker(0, true);
    OK(dlock_queue_new(LOCKER, &QUEUE, &err));
    locks[0] = new_lock(LOCKER, "child");
    OK(dlock_lock_acquire(locks[0], &err));
    *childs_token = token_of(locks[0]);
    OK(dlock_lock_release(locks[0], &err));
    OK(dlock_submit_acquire(QUEUE, locks[0], 5000, 3, &err));
    dlock_event event;
    size_t count = 0;
    OK(dlock_queue_wait(QUEUE, &event, 1, 5000, &count, &err));
    EXPECT(count == 1 && event.status == DLOCK_OK && event.token > *childs_token);
    pid_t grandchild = fork();
    if (grandchild == 0) {
        alarm(CHILD_SECONDS);
        OK(dlock_options_new(&options, &err));
        every_function();
        freed(free_all);
        fflush(stdout);
        _exit(failures == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(grandchild, &status, 0);
    EXPECT(status == 0);
    dlock_lock *wanted = new_lock(LOCKER, "held");
    bool acquired = false;
    OK(dlock_lock_try_acquire(wanted, &acquired, &err));
    /* A memory store is of one process: the child's is another one, and empty. */
    EXPECT(acquired || on_redis());
    dlock_lock_free(wanted);
    freed(free_all);
    exit(failures == 0 ? 0 : 1);
}

static void in_child(const char *what, void (*body)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        in_a_child = true;
        failures = 0;
        alarm(CHILD_SECONDS);
        body();
        fflush(stdout);
        _exit(failures == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_at(__FILE__, __LINE__, "the child that %s %s %d", what,
                WIFSIGNALED(status) ? "was ended by signal" : "exited with",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
}

/* --- the states, in the parent --- */

static struct blocked waiter;

static dlock_locker *locker_with(const char *at, uint64_t lease_ms, bool renew, uint64_t response_timeout_ms) {
    dlock_options *made = NULL;
    dlock_locker *locker = NULL;
    OK(dlock_options_new(&made, &err));
    OK(dlock_options_set_url(made, at, &err));
    OK(dlock_options_set_lease_ms(made, lease_ms, &err));
    OK(dlock_options_set_auto_renew(made, renew, &err));
    OK(dlock_options_set_response_timeout_ms(made, response_timeout_ms, &err));
    OK(dlock_locker_new(made, &locker, &err));
    dlock_options_free(made);
    return locker;
}

static void begin(uint64_t lease_ms, bool renew) {
    LOCKER = locker_with(url, lease_ms, renew, 10000);
    OK(dlock_queue_new(LOCKER, &QUEUE, &err));
}

static bool mine(dlock_lock *lock) {
    bool answer = false;
    OK(dlock_lock_is_locked_by_me(lock, &answer, &err));
    return answer;
}

/* Does a client of the server have that in its line? */
static bool in_a_cluster(void) { return strncmp(url, "redis-cluster:", 14) == 0; }

static bool a_client_has(const char *words) { return strstr(raw("CLIENT LIST"), words) != NULL; }

/* Writes are put off, and those who send them blocked, until CLIENT UNPAUSE. */
static void pause_server(void) { REQUIRE(strcmp(raw("CLIENT PAUSE 30000 WRITE"), "+OK\r\n") == 0); }
static void resume_server(void) { REQUIRE(strcmp(raw("CLIENT UNPAUSE"), "+OK\r\n") == 0); }

static void nothing_connected(void) { begin(30000, true); }

static void connects_now(void) {
    locks[0] = new_lock(LOCKER, "idle");
    OK(dlock_lock_acquire(locks[0], &err));
    OK(dlock_lock_release(locks[0], &err));
}

static void idle(void) {
    begin(30000, true);
    locks[0] = new_lock(LOCKER, "idle");
}

static void idle_works(void) {
    OK(dlock_lock_acquire_timeout(locks[0], 5000, &err));
    OK(dlock_lock_release(locks[0], &err));
}

static uint64_t held_token;

static void await_renewal(void) {
    uint64_t before = UINT64_MAX, left = 0, end = now_ms() + 5000;
    for (;; before = left, pause_ms(2)) {
        OK(dlock_lock_remaining_ms(locks[0], &left, &err));
        if (left > before || now_ms() > end) {
            break;
        }
    }
    EXPECT(left > before);
}

static void held(void) {
    begin(1200, true);
    locks[0] = new_lock(LOCKER, "held");
    OK(dlock_lock_acquire(locks[0], &err));
    held_token = token_of(locks[0]);
    await_renewal();
}

static void still_held(void) {
    EXPECT(mine(locks[0]));
    EXPECT_U64(token_of(locks[0]), held_token);
    await_renewal();
    await_renewal();
    OK(dlock_lock_release(locks[0], &err));
}

/* The other locker holds the lock, and locks[0] is to wait for it. */
static void held_by_other(void) {
    OTHER = locker_with(url, 30000, true, 10000);
    locks[1] = new_lock(OTHER, "held");
    OK(dlock_lock_acquire(locks[1], &err));
    held_token = token_of(locks[1]);
    locks[0] = new_lock(LOCKER, "held");
}

static bool somebody_queues(void) { return !on_redis() || strstr(raw("KEYS :dlock:wait:*"), "test:held") != NULL; }

static void queued(void) {
    begin(30000, true);
    held_by_other();
    blocked_start(&waiter, locks[0], DLOCK_WAIT_FOREVER);
    EVENTUALLY(is_busy(locks[0]) && somebody_queues(), 5000);
}

static void is_served(void) {
    EXPECT(mine(locks[1]) && token_of(locks[1]) == held_token);
    OK(dlock_lock_release(locks[1], &err));
    blocked_join(&waiter);
    err = waiter.err;
    EXPECT_STATUS(waiter.status, DLOCK_OK);
    EXPECT(token_of(locks[0]) > held_token && mine(locks[0]));
    OK(dlock_lock_release(locks[0], &err));
}

static pthread_t thread;
static dlock_status thread_status;

static void *tries(void *lock) {
    bool acquired = false;
    thread_status = dlock_lock_try_acquire(lock, &acquired, NULL);
    return acquired ? lock : NULL;
}

static void round_trip(void) {
    begin(30000, true);
    locks[0] = new_lock(LOCKER, "idle");
    pause_server();
    REQUIRE(pthread_create(&thread, NULL, tries, locks[0]) == 0);
    /* In a cluster the slot's counter is lifted first. */
    const char *paused = in_a_cluster() ? "cmd=eval " : "multi=0";
    EVENTUALLY(is_busy(locks[0]) && (a_client_has(paused) || a_client_has("multi=2")), 5000);
}

static void round_trip_ends(void) {
    void *acquired = NULL;
    resume_server();
    pthread_join(thread, &acquired);
    EXPECT(thread_status == DLOCK_OK && acquired != NULL && mine(locks[0]));
    OK(dlock_lock_release(locks[0], &err));
}

static void pending(void) {
    begin(30000, true);
    held_by_other();
    OK(dlock_submit_acquire(QUEUE, locks[0], DLOCK_WAIT_FOREVER, 11, &err));
    EVENTUALLY(is_busy(locks[0]) && somebody_queues(), 5000);
}

static void pending_ends(void) {
    dlock_event event = {0};
    size_t count = 0;
    OK(dlock_lock_release(locks[1], &err));
    OK(dlock_queue_wait(QUEUE, &event, 1, 5000, &count, &err));
    EXPECT(count == 1 && event.user_data == 11 && event.status == DLOCK_OK && event.token > held_token);
    OK(dlock_lock_release(locks[0], &err));
}

static void uncollected(void) {
    begin(30000, true);
    locks[0] = new_lock(LOCKER, "idle");
    OK(dlock_submit_acquire(QUEUE, locks[0], 5000, 21, &err));
    OK(dlock_submit_is_locked(QUEUE, locks[0], 22, &err));
    struct pollfd readable = {.fd = dlock_queue_fd(QUEUE), .events = POLLIN};
    REQUIRE(poll(&readable, 1, 5000) == 1);
}

static void collected(void) {
    dlock_event events[4];
    size_t count = 0, more = 0;
    OK(dlock_queue_wait(QUEUE, events, 4, 5000, &count, &err));
    if (count == 1) {
        OK(dlock_queue_wait(QUEUE, events + 1, 3, 5000, &more, &err));
    }
    EXPECT_U64(count + more, 2);
    EXPECT(events[0].user_data + events[1].user_data == 43);
    EXPECT(events[0].status == DLOCK_OK && events[1].status == DLOCK_OK);
    OK(dlock_queue_wait(QUEUE, events, 4, 0, &count, &err));
    EXPECT_U64(count, 0);
    OK(dlock_lock_release(locks[0], &err));
}

static void watched(void) {
    begin(2000, false);
    locks[0] = new_lock(LOCKER, "held");
    OK(dlock_lock_watch(locks[0], QUEUE, 31, &err));
    OK(dlock_lock_acquire(locks[0], &err));
    held_token = token_of(locks[0]);
}

static void loss_is_told(void) {
    dlock_event events[2];
    size_t count = 0;
    OK(dlock_queue_wait(QUEUE, events, 2, 10000, &count, &err));
    EXPECT(count == 1 && events[0].kind == DLOCK_EVENT_LOST && events[0].user_data == 31);
    EXPECT_U64(events[0].token, held_token);
}

static int listener = -1, accepted = -1;
static char silent_url[64];

static void *connects(void *locker) {
    dlock_lock *lock = NULL;
    thread_status = dlock_lock_new(locker, "n", "test", &lock, NULL);
    return NULL;
}

/* The server takes the connection, reads the greeting, and says nothing. */
static void connecting(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    char byte;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0);
    REQUIRE(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    snprintf(silent_url, sizeof silent_url, "redis://127.0.0.1:%d", ntohs(address.sin_port));
    LOCKER = locker_with(silent_url, 30000, true, 30000);
    OK(dlock_queue_new(LOCKER, &QUEUE, &err));
    REQUIRE(pthread_create(&thread, NULL, connects, LOCKER) == 0);
    accepted = accept(listener, NULL, NULL);
    REQUIRE(accepted >= 0 && read(accepted, &byte, 1) == 1);
    note_descriptor(listener);
    note_descriptor(accepted);
}

static void connecting_fails(void) {
    close(accepted);
    close(listener);
    pthread_join(thread, NULL);
    EXPECT(thread_status == DLOCK_ERR_NOT_CONNECTED);
}

/* Something is held and somebody waits; all connections end, and the new ones' handshakes are not answered. */
static void reconnecting(void) {
    queued();
    locks[2] = new_lock(LOCKER, "kept");
    OK(dlock_lock_acquire(locks[2], &err));
    pause_server();
    raw("CLIENT KILL TYPE pubsub");
    raw("CLIENT KILL TYPE normal");
    /* The first of the rights that are asked for and the subscription's first command count as writes. */
    EVENTUALLY((in_a_cluster() || a_client_has("cmd=publish")) && a_client_has("cmd=set"), 10000);
    EXPECT(!a_client_has("cmd=subscribe"));
}

static void reconnected(void) {
    resume_server();
    EXPECT(mine(locks[2]));
    OK(dlock_lock_release(locks[2], &err));
    is_served();
}

static void closed(void) {
    held();
    OK(dlock_locker_close(LOCKER, &err));
}

static void still_closed(void) {
    bool flag;
    EXPECT_STATUS(dlock_lock_is_locked(locks[0], &flag, &err), DLOCK_ERR_CLOSED);
    OK(dlock_locker_close(LOCKER, &err));
}

static void lost(void) {
    uint64_t token = 0;
    begin(100, false);
    locks[0] = new_lock(LOCKER, "held");
    OK(dlock_lock_acquire(locks[0], &err));
    EVENTUALLY(dlock_lock_fencing_token(locks[0], &token, &err) == DLOCK_ERR_LOST, 5000);
}

static void still_lost(void) {
    uint64_t token = 0;
    EXPECT_STATUS(dlock_lock_fencing_token(locks[0], &token, &err), DLOCK_ERR_LOST);
    OK(dlock_lock_acquire(locks[0], &err));
    OK(dlock_lock_release(locks[0], &err));
}

static void *closes(void *locker) {
    thread_status = dlock_locker_close(locker, NULL);
    return NULL;
}

/* The release that closing sends is not answered. */
static void closing(void) {
    begin(30000, true);
    locks[0] = new_lock(LOCKER, "held");
    OK(dlock_lock_acquire(locks[0], &err));
    pause_server();
    REQUIRE(pthread_create(&thread, NULL, closes, LOCKER) == 0);
    EVENTUALLY(dlock_lock_cancel(locks[0], NULL) == DLOCK_ERR_CLOSED && a_client_has("cmd=evalsha"), 5000);
}

static void closing_ends(void) {
    resume_server();
    pthread_join(thread, NULL);
    EXPECT(thread_status == DLOCK_OK);
    EXPECT(strcmp(raw("EXISTS test:held"), ":0\r\n") == 0);
}

static volatile bool stop;

static void *uses(void *lock) {
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        if (dlock_lock_acquire(lock, NULL) == DLOCK_OK) {
            dlock_lock_release(lock, NULL);
        }
    }
    return NULL;
}

/* Makes and frees lockers: what is the process's own, and not a locker's, is in use. */
static void *makes(void *unused) {
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        dlock_locker *locker = new_locker(0, true);
        dlock_lock_free(new_lock(locker, "made"));
        dlock_locker_free(locker);
    }
    return unused;
}

static pthread_t users[3];

static void busy(void) {
    begin(30000, true);
    for (int i = 0; i < 3; i++) {
        locks[i] = new_lock(LOCKER, "busy");
        REQUIRE(pthread_create(&users[i], NULL, uses, locks[i]) == 0);
    }
}

/* Mutexes that other threads of the parent hold in the instant of the fork are held for ever in the child. */
static void busy_on(void) {
    for (int i = 0; i < 40 && failures == 0; i++) {
        in_child("calls and frees", calls_and_frees);
    }
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 3; i++) {
        pthread_join(users[i], NULL);
    }
    idle_works();
}

/* The child's work with a locker of its own, however much its parent's threads made lockers in that instant. Their
 * descriptors are nobody's to free. */
static void fresh_lockers(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "fresh");
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void while_lockers_are_made(void) {
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_create(&users[i], NULL, makes, NULL) == 0);
    }
    for (int i = 0; i < 100 && failures == 0; i++) {
        in_child("makes a locker", fresh_lockers);
    }
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 2; i++) {
        pthread_join(users[i], NULL);
    }
}

/* --- the table --- */

static const struct state {
    const char *name;
    void (*enter)(void);
    /* In the parent, after the children: what was under way comes to its end. */
    void (*leave)(void);
    /* Has this state no counterpart without a network? */
    bool network;
} states[] = {
    {"nothing is connected", nothing_connected, connects_now, false},
    {"connected, the lock is idle", idle, idle_works, false},
    {"a lock is held and renewed", held, still_held, false},
    {"a thread waits in the queue", queued, is_served, false},
    {"a thread is in the middle of a round trip", round_trip, round_trip_ends, true},
    {"a submission is pending", pending, pending_ends, false},
    {"events are not collected yet", uncollected, collected, false},
    {"a lock is watched", watched, loss_is_told, false},
    {"the connect is under way, the server is silent", connecting, connecting_fails, true},
    {"the connections are lost, reconnecting", reconnecting, reconnected, true},
    {"the locker is closed", closed, still_closed, false},
    {"the lock is lost", lost, still_lost, false},
    {"another thread is closing the locker", closing, closing_ends, true},
    {"other threads are inside the library", busy, busy_on, false},
};

static const struct state *state;

static bool only_the_counter(void) {
    const char *keys = raw("KEYS *");
    if (!in_a_cluster()) {
        return strcmp(keys, "*0\r\n") == 0 || strcmp(keys, "*1\r\n$12\r\n:dlock:fence\r\n") == 0;
    }
    return strstr(keys, ":dlock:wait:") == NULL && strstr(keys, "\ntest:") == NULL;
}

static void in_state(void) {
    childs_token = mmap(NULL, sizeof *childs_token, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(childs_token != MAP_FAILED);
    each_descriptor(note_descriptor);
    OK(dlock_options_new(&options, &err));
    state->enter();
    in_child("calls and frees", calls_and_frees);
    in_child("frees the locker first", frees_locker_first);
    in_child("frees in an exit handler", frees_in_an_exit_handler);
    in_child("calls in an exit handler", frees_nothing_and_calls_in_an_exit_handler);
    in_child("works with its own", works);
    state->leave();
    free_all();
    if (on_redis()) {
        dlock_locker *locker = new_locker(0, true);
        dlock_lock *lock = new_lock(locker, "child");
        OK(dlock_lock_acquire(lock, &err));
        EXPECT(*childs_token > 0 && token_of(lock) > *childs_token);
        OK(dlock_lock_release(lock, &err));
        dlock_lock_free(lock);
        dlock_locker_free(locker);
        EVENTUALLY(only_the_counter(), 5000);
    }
}

int main(int argc, char **argv) {
    check_arguments(argc, argv);
    for (size_t i = 0; i < COUNT(states); i++) {
        char name[128];
        state = &states[i];
        snprintf(name, sizeof name, "fork: %s", state->name);
        if (on_redis() || !state->network) {
            run_check(name, in_state);
        }
    }
    run_check("fork: other threads make lockers, the child makes its own", while_lockers_are_made);
    return check_result();
}
