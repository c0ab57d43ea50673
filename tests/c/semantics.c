/* What a caller may rely on, each promise as a named check, through the C ABI alone.
 *
 *     semantics <url> [part of a name]
 *
 * Runs against a Redis and against memory://<name>; checks that look at the server's keys are for Redis only.
 */
#define _GNU_SOURCE
#include "check.h"
#include <sys/un.h>

static dlock_error err;

/* ---- not held ---- */

static void not_held(dlock_lock *lock, dlock_status expected) {
    uint64_t value = 77;
    EXPECT_STATUS(dlock_lock_fencing_token(lock, &value, &err), expected);
    EXPECT_STATUS(dlock_lock_remaining_ms(lock, &value, &err), expected);
    EXPECT_STATUS(dlock_lock_extend(lock, 1000, &err), expected);
    EXPECT_U64(value, 77);
}

static void never_held(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "never_held");
    not_held(lock, DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void released(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "released");
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_release(lock, &err));
    not_held(lock, DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static bool is_lost(dlock_lock *lock) {
    uint64_t remaining;
    return dlock_lock_remaining_ms(lock, &remaining, NULL) == DLOCK_ERR_LOST;
}

static void lost_by_lease(void) {
    dlock_locker *locker = new_locker(150, false);
    dlock_lock *lock = new_lock(locker, "lost_by_lease");
    OK(dlock_lock_acquire(lock, &err));
    uint64_t before = token_of(lock);
    EVENTUALLY(is_lost(lock), 1000);
    not_held(lock, DLOCK_ERR_LOST);
    OK(dlock_lock_acquire_timeout(lock, 2000, &err));
    EXPECT(token_of(lock) > before);
    OK(dlock_lock_release(lock, &err));
    not_held(lock, DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* ---- extend ---- */

static void extend_longer(void) {
    dlock_locker *locker = new_locker(500, false);
    dlock_locker *other_locker = new_locker(500, false);
    dlock_lock *lock = new_lock(locker, "extend_longer");
    dlock_lock *other = new_lock(other_locker, "extend_longer");
    uint64_t remaining = 0;
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_extend(lock, 5000, &err));
    OK(dlock_lock_remaining_ms(lock, &remaining, &err));
    EXPECT(remaining > 4000 && remaining <= 5000);
    EXPECT_STATUS(dlock_lock_acquire_timeout(other, 900, &err), DLOCK_ERR_LOCK_TIMEOUT);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void extend_renewals(void) {
    dlock_locker *locker = new_locker(300, true);
    dlock_lock *lock = new_lock(locker, "extend_renewals");
    uint64_t remaining = 0;
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_extend(lock, 900, &err));
    /* Renewals fall every third of the lease, 300 ms: the validity is set back to about 900 ms again and again. */
    pause_ms(1500);
    OK(dlock_lock_remaining_ms(lock, &remaining, &err));
    EXPECT(remaining > 300);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void extend_shorter(void) {
    dlock_locker *locker = new_locker(20000, false);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "extend_shorter");
    dlock_lock *other = new_lock(other_locker, "extend_shorter");
    uint64_t remaining = 0;
    bool flag = false;
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_extend(lock, 200, &err));
    OK(dlock_lock_remaining_ms(lock, &remaining, &err));
    EXPECT(remaining <= 200);
    if (on_redis()) {
        EXPECT(raw_number("PTTL test:extend_shorter") > 15000);
    }
    EVENTUALLY(is_lost(lock), 1000);
    OK(dlock_lock_is_locked(other, &flag, &err));
    EXPECT(flag);
    /* One's own validity was over: the key is freed if still there, and the answer is LOST, once. */
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_LOST);
    OK(dlock_lock_is_locked(other, &flag, &err));
    EXPECT(!flag);
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void extend_too_short(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "extend_too_short");
    uint64_t remaining = 0;
    OK(dlock_lock_acquire(lock, &err));
    EXPECT_STATUS(dlock_lock_extend(lock, 99, &err), DLOCK_ERR_INVALID_ARGUMENT);
    OK(dlock_lock_remaining_ms(lock, &remaining, &err));
    EXPECT(remaining > 20000);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* ---- renewal ---- */

static void renewal_holds(void) {
    dlock_locker *locker = new_locker(300, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "renewal_holds");
    dlock_lock *other = new_lock(other_locker, "renewal_holds");
    OK(dlock_lock_acquire(lock, &err));
    EXPECT_STATUS(dlock_lock_acquire_timeout(other, 1500, &err), DLOCK_ERR_LOCK_TIMEOUT);
    EXPECT(!is_lost(lock));
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void no_renewal_expires(void) {
    dlock_locker *locker = new_locker(300, false);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "no_renewal");
    dlock_lock *other = new_lock(other_locker, "no_renewal");
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_acquire_timeout(other, 3000, &err));
    EXPECT(is_lost(lock));
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void remaining_of_default(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "default_lease");
    uint64_t remaining = 0;
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_remaining_ms(lock, &remaining, &err));
    EXPECT(remaining > 29000 && remaining < 30000);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* ---- release ---- */

static void release_nobody(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "release_nobody");
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_UNLOCK_UNLOCKED);
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_release(lock, &err));
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void release_not_owner(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *holder = new_lock(locker, "release_not_owner");
    dlock_lock *other = new_lock(locker, "release_not_owner");
    bool mine = false;
    OK(dlock_lock_acquire(holder, &err));
    EXPECT_STATUS(dlock_lock_release(other, &err), DLOCK_ERR_NOT_OWNER);
    OK(dlock_lock_is_locked_by_me(holder, &mine, &err));
    EXPECT(mine);
    OK(dlock_lock_release(holder, &err));
    dlock_lock_free(holder);
    dlock_lock_free(other);
    dlock_locker_free(locker);
}

static void release_expired(void) {
    dlock_locker *locker = new_locker(150, false);
    dlock_lock *lock = new_lock(locker, "release_expired");
    bool flag = true;
    OK(dlock_lock_acquire(lock, &err));
    EVENTUALLY(dlock_lock_is_locked(lock, &flag, &err) == DLOCK_OK && !flag, 1000);
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_LOST);
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void release_expired_and_taken(void) {
    dlock_locker *locker = new_locker(150, false);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "expired_taken");
    dlock_lock *other = new_lock(other_locker, "expired_taken");
    bool mine = false;
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_acquire_timeout(other, 3000, &err));
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_NOT_OWNER);
    OK(dlock_lock_is_locked_by_me(other, &mine, &err));
    EXPECT(mine);
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void release_flushed_and_taken(void) {
    dlock_locker *locker = new_locker(0, false);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "flushed_taken");
    dlock_lock *other = new_lock(other_locker, "flushed_taken");
    OK(dlock_lock_acquire(lock, &err));
    uint64_t before = token_of(lock);
    raw("FLUSHALL");
    OK(dlock_lock_acquire_timeout(other, 3000, &err));
    EXPECT(token_of(other) > before);
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_NOT_OWNER);
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void release_flushed(void) {
    dlock_locker *locker = new_locker(0, false);
    dlock_lock *lock = new_lock(locker, "flushed");
    OK(dlock_lock_acquire(lock, &err));
    raw("FLUSHALL");
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void renewal_finds_loss(void) {
    dlock_locker *locker = new_locker(300, true);
    dlock_lock *lock = new_lock(locker, "renewal_finds_loss");
    OK(dlock_lock_acquire(lock, &err));
    raw("DEL test:renewal_finds_loss");
    EVENTUALLY(is_lost(lock), 1000);
    not_held(lock, DLOCK_ERR_LOST);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* ---- deadlines ---- */

static void timeout_zero(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "timeout_zero");
    dlock_lock *other = new_lock(locker, "timeout_zero");
    OK(dlock_lock_acquire_timeout(lock, 0, &err));
    uint64_t start = now_ms();
    EXPECT_STATUS(dlock_lock_acquire_timeout(other, 0, &err), DLOCK_ERR_LOCK_TIMEOUT);
    EXPECT(now_ms() - start < 50 + SLACK_MS);
    OK(dlock_lock_release(lock, &err));
    OK(dlock_lock_acquire_timeout(other, 0, &err));
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
}

static void timeout_is_kept(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "timeout_is_kept");
    dlock_lock *other = new_lock(locker, "timeout_is_kept");
    OK(dlock_lock_acquire(lock, &err));
    for (uint64_t timeout = 50; timeout <= 400; timeout *= 2) {
        uint64_t start = now_us();
        EXPECT_STATUS(dlock_lock_acquire_timeout(other, timeout, &err), DLOCK_ERR_LOCK_TIMEOUT);
        uint64_t elapsed = now_us() - start;
        EXPECT(elapsed >= timeout * 1000);
        EXPECT(elapsed <= (timeout + 50 + SLACK_MS) * 1000);
    }
    /* It left the queue: the lock goes to nobody. */
    OK(dlock_lock_release(lock, &err));
    bool flag = true;
    OK(dlock_lock_is_locked(lock, &flag, &err));
    EXPECT(!flag);
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
}

static void timeout_silent_server(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "timeout_silent");
    dlock_lock *other = new_lock(other_locker, "timeout_silent");
    OK(dlock_lock_acquire(lock, &err));
    raw("CLIENT PAUSE 1500 ALL");
    uint64_t start = now_ms();
    dlock_status status = dlock_lock_acquire_timeout(other, 200, &err);
    uint64_t elapsed = now_ms() - start;
    EXPECT(status == DLOCK_ERR_LOCK_TIMEOUT || status == DLOCK_ERR_NOT_CONNECTED);
    EXPECT(elapsed >= 199 && elapsed <= 250 + SLACK_MS);
    /* The request that was given up must not take the lock later: once the server goes on, the holder releases, and
     * then nobody holds it. */
    OK(dlock_lock_release(lock, &err));
    bool flag = true;
    EVENTUALLY(dlock_lock_is_locked(lock, &flag, &err) == DLOCK_OK && !flag, 2000);
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void ignore_signal(int number) { (void)number; }

static _Atomic bool pestering;

static void *pester(void *thread) {
    while (pestering) {
        pthread_kill(*(pthread_t *)thread, SIGUSR1);
        pause_ms(1);
    }
    return NULL;
}

/* Signals that come more often than anything else that ends a wait must not keep a call from looking at the clock. */
static void timeout_silent_server_among_signals(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "timeout_signals");
    struct sigaction action = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART};
    pthread_t self = pthread_self(), other;
    sigaction(SIGUSR1, &action, NULL);
    pestering = true;
    REQUIRE(pthread_create(&other, NULL, pester, &self) == 0);
    raw("CLIENT PAUSE 1500 ALL");
    uint64_t start = now_ms();
    dlock_status status = dlock_lock_acquire_timeout(lock, 200, &err);
    uint64_t elapsed = now_ms() - start;
    pestering = false;
    pthread_join(other, NULL);
    EXPECT(status == DLOCK_ERR_LOCK_TIMEOUT || status == DLOCK_ERR_NOT_CONNECTED);
    EXPECT(elapsed >= 199 && elapsed <= 250 + SLACK_MS);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* Nor must they end what waits for room in a socket's backlog. */
static void connecting_among_signals(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/tmp/dlock-signals-%ld", (long)getpid());
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 0) == 0);
    while (connect(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), (struct sockaddr *)&address, sizeof address) == 0) {
    }
    char there[160];
    snprintf(there, sizeof there, "redis+unix://%s", address.sun_path);
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    dlock_lock *lock = NULL;
    OK(dlock_options_new(&options, &err));
    OK(dlock_options_set_url(options, there, &err));
    OK(dlock_options_set_connect_timeout_ms(options, 300, &err));
    OK(dlock_locker_new(options, &locker, &err));
    dlock_options_free(options);
    struct sigaction action = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART};
    pthread_t self = pthread_self(), other;
    sigaction(SIGUSR1, &action, NULL);
    pestering = true;
    REQUIRE(pthread_create(&other, NULL, pester, &self) == 0);
    uint64_t start = now_ms();
    EXPECT_STATUS(dlock_lock_new(locker, "signals", "test", &lock, &err), DLOCK_ERR_NOT_CONNECTED);
    uint64_t elapsed = now_ms() - start;
    pestering = false;
    pthread_join(other, NULL);
    EXPECT(strstr(err.message, "no connection within 300 ms") != NULL);
    EXPECT(elapsed >= 290 && elapsed <= 350 + SLACK_MS);
    unlink(address.sun_path);
    dlock_locker_free(locker);
}

static void timeout_succeeds_in_time(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "timeout_succeeds");
    dlock_lock *other = new_lock(locker, "timeout_succeeds");
    struct blocked waiter;
    OK(dlock_lock_acquire(lock, &err));
    blocked_start(&waiter, other, 10000);
    EVENTUALLY(is_busy(other), 2000);
    OK(dlock_lock_release(lock, &err));
    EXPECT(blocked_join(&waiter) == DLOCK_OK);
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
}

static void backoff_used_up(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "backoff");
    dlock_lock *other = new_lock(locker, "backoff");
    OK(dlock_lock_acquire(lock, &err));
    uint64_t start = now_ms();
    EXPECT_STATUS(dlock_lock_acquire_retry_backoff(other, 3, 40, &err), DLOCK_ERR_LOCK_TIMEOUT);
    uint64_t elapsed = now_ms() - start;
    EXPECT(elapsed >= 40 + 80 + 160 - 1 && elapsed <= 280 + SLACK_MS);
    start = now_ms();
    EXPECT_STATUS(dlock_lock_acquire_retry_backoff(other, 0, 10000, &err), DLOCK_ERR_LOCK_TIMEOUT);
    EXPECT(now_ms() - start < SLACK_MS);
    OK(dlock_lock_release(lock, &err));
    OK(dlock_lock_acquire_retry_backoff(other, 0, 10000, &err));
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
}

static void backoff_succeeds(void) {
    dlock_locker *locker = new_locker(300, false);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "backoff_succeeds");
    dlock_lock *other = new_lock(other_locker, "backoff_succeeds");
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_acquire_retry_backoff(other, 8, 20, &err));
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

/* ---- the same handle ---- */

static void own_try(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "own_try");
    bool acquired = true;
    OK(dlock_lock_acquire(lock, &err));
    uint64_t token = token_of(lock);
    OK(dlock_lock_try_acquire(lock, &acquired, &err));
    EXPECT(!acquired);
    EXPECT_U64(token_of(lock), token);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void own_acquire(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "own_acquire");
    OK(dlock_lock_acquire(lock, &err));
    uint64_t start = now_ms();
    EXPECT_STATUS(dlock_lock_acquire(lock, &err), DLOCK_ERR_ALREADY_HELD);
    EXPECT_STATUS(dlock_lock_acquire_timeout(lock, 5000, &err), DLOCK_ERR_ALREADY_HELD);
    EXPECT_STATUS(dlock_lock_acquire_retry_backoff(lock, 5, 1000, &err), DLOCK_ERR_ALREADY_HELD);
    EXPECT(now_ms() - start < SLACK_MS);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void busy_handle(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *holder = new_lock(locker, "busy");
    dlock_lock *lock = new_lock(locker, "busy");
    struct blocked waiter;
    bool flag = true;
    uint64_t value = 77;
    char id[DLOCK_UUID_SIZE] = "";
    OK(dlock_lock_acquire(holder, &err));
    blocked_start(&waiter, lock, DLOCK_WAIT_FOREVER);
    EVENTUALLY(is_busy(lock), 2000);
    EXPECT_STATUS(dlock_lock_acquire(lock, &err), DLOCK_ERR_BUSY);
    EXPECT_STATUS(dlock_lock_try_acquire(lock, &flag, &err), DLOCK_ERR_BUSY);
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_BUSY);
    EXPECT_STATUS(dlock_lock_extend(lock, 1000, &err), DLOCK_ERR_BUSY);
    /* What only reads may run beside it. */
    EXPECT_STATUS(dlock_lock_fencing_token(lock, &value, &err), DLOCK_ERR_UNLOCK_UNLOCKED);
    EXPECT_STATUS(dlock_lock_remaining_ms(lock, &value, &err), DLOCK_ERR_UNLOCK_UNLOCKED);
    EXPECT_STATUS(dlock_lock_is_locked(lock, &flag, &err), DLOCK_OK);
    EXPECT(flag);
    (void)dlock_lock_id(lock, id);
    EXPECT(strlen(id) == 36);
    OK(dlock_lock_release(holder, &err));
    EXPECT(blocked_join(&waiter) == DLOCK_OK);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_lock_free(holder);
    dlock_locker_free(locker);
}

/* ---- asking the server ---- */

static void asks_the_server(void) {
    dlock_locker *locker = new_locker(0, false);
    dlock_lock *lock = new_lock(locker, "asks");
    bool locked = false, mine = false, exists = false;
    char id[DLOCK_UUID_SIZE] = "", owner[DLOCK_UUID_SIZE] = "";
    (void)dlock_lock_id(lock, id);
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_is_locked(lock, &locked, &err));
    OK(dlock_lock_is_locked_by_me(lock, &mine, &err));
    OK(dlock_lock_owner(lock, &exists, owner, &err));
    EXPECT(locked && mine && exists);
    EXPECT(strcmp(id, owner) == 0);
    raw("DEL test:asks");
    strcpy(owner, "untouched");
    OK(dlock_lock_is_locked(lock, &locked, &err));
    OK(dlock_lock_is_locked_by_me(lock, &mine, &err));
    OK(dlock_lock_owner(lock, &exists, owner, &err));
    EXPECT(!locked && !mine && !exists);
    raw("SET test:asks 0f8fad5b-d9cb-469f-a165-70867728950e");
    OK(dlock_lock_is_locked(lock, &locked, &err));
    OK(dlock_lock_is_locked_by_me(lock, &mine, &err));
    OK(dlock_lock_owner(lock, &exists, owner, &err));
    EXPECT(locked && !mine && exists);
    EXPECT(strcmp(owner, "0f8fad5b-d9cb-469f-a165-70867728950e") == 0);
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_NOT_OWNER);
    raw("DEL test:asks");
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void owner_of_others(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "owner");
    dlock_lock *other = new_lock(other_locker, "owner");
    bool flag = true;
    char id[DLOCK_UUID_SIZE] = "", owner[DLOCK_UUID_SIZE] = "";
    OK(dlock_lock_is_locked(other, &flag, &err));
    EXPECT(!flag);
    OK(dlock_lock_owner(other, &flag, owner, &err));
    EXPECT(!flag);
    OK(dlock_lock_acquire(lock, &err));
    (void)dlock_lock_id(lock, id);
    OK(dlock_lock_owner(other, &flag, owner, &err));
    EXPECT(flag && strcmp(id, owner) == 0);
    OK(dlock_lock_is_locked(other, &flag, &err));
    EXPECT(flag);
    OK(dlock_lock_is_locked_by_me(other, &flag, &err));
    EXPECT(!flag);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void owner_no_uuid(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "owner_no_uuid");
    bool flag = false, exists = true;
    char owner[DLOCK_UUID_SIZE] = "untouched";
    raw("SET test:owner_no_uuid somebody");
    OK(dlock_lock_is_locked(lock, &flag, &err));
    EXPECT(flag);
    EXPECT_STATUS(dlock_lock_owner(lock, &exists, owner, &err), DLOCK_ERR_LOCKER);
    EXPECT(exists && strcmp(owner, "untouched") == 0);
    raw("DEL test:owner_no_uuid");
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* ---- identity and names ---- */

static void ids(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *a = new_lock(locker, "ids");
    dlock_lock *b = new_lock(locker, "ids");
    char id[DLOCK_UUID_SIZE] = "", again[DLOCK_UUID_SIZE] = "", other[DLOCK_UUID_SIZE] = "";
    (void)dlock_lock_id(a, id);
    (void)dlock_lock_id(a, again);
    (void)dlock_lock_id(b, other);
    EXPECT(strlen(id) == 36 && id[8] == '-' && id[13] == '-' && id[14] == '4' && id[18] == '-' && id[23] == '-');
    EXPECT(strchr("89ab", id[19]) != NULL);
    EXPECT(strcmp(id, again) == 0);
    EXPECT(strcmp(id, other) != 0);
    dlock_lock_free(a);
    dlock_lock_free(b);
    dlock_locker_free(locker);
}

static void names(void) {
    char longest[513];
    memset(longest, 'n', 512);
    longest[512] = 0;
    const char *pairs[][2] = {{"n", "g"},         {"n", "g2"},          {"g", "n"},
                              {"a:b", "g"},       {":", "g"},           {"{x}", "{y}"},
                              {"}{", "{"},        {"with space", "g"},  {"\xc3\xa9\xe6\xbc\xa2", "\xc3\xa9"},
                              {longest, longest}, {"line\nbreak", "g"}, {"n", "*"}};
    enum { COUNT = sizeof pairs / sizeof *pairs };
    dlock_lock *locks[COUNT], *others[COUNT];
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    for (int i = 0; i < COUNT; i++) {
        bool acquired = false;
        OK(dlock_lock_new(locker, pairs[i][0], pairs[i][1], &locks[i], &err));
        OK(dlock_lock_new(other_locker, pairs[i][0], pairs[i][1], &others[i], &err));
        OK(dlock_lock_try_acquire(locks[i], &acquired, &err));
        EXPECT(acquired);
    }
    for (int i = 0; i < COUNT; i++) {
        bool acquired = true;
        OK(dlock_lock_try_acquire(others[i], &acquired, &err));
        EXPECT(!acquired);
        OK(dlock_lock_release(locks[i], &err));
        OK(dlock_lock_acquire_timeout(others[i], 1000, &err));
        OK(dlock_lock_release(others[i], &err));
        dlock_lock_free(locks[i]);
        dlock_lock_free(others[i]);
    }
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void names_copied(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = NULL;
    dlock_lock *same = NULL;
    char name[] = "copied", group[] = "test";
    bool acquired = true;
    OK(dlock_lock_new(locker, name, group, &lock, &err));
    memset(name, 'x', strlen(name));
    memset(group, 'x', strlen(group));
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_new(locker, "copied", "test", &same, &err));
    OK(dlock_lock_try_acquire(same, &acquired, &err));
    EXPECT(!acquired);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_lock_free(same);
    dlock_locker_free(locker);
}

/* ---- order and tokens ---- */

enum { WAITERS = 12 };

static dlock_lock *line[WAITERS];
static int served[WAITERS];
static int served_count;

static void *stand_in_line(void *argument) {
    int number = (int)(intptr_t)argument;
    dlock_error own = {0};
    if (dlock_lock_acquire(line[number], &own) != DLOCK_OK) {
        fail_at(__FILE__, __LINE__, "waiter %d: %s", number, own.message);
        return NULL;
    }
    served[served_count++] = number;
    if (dlock_lock_release(line[number], &own) != DLOCK_OK) {
        fail_at(__FILE__, __LINE__, "waiter %d: %s", number, own.message);
    }
    return NULL;
}

static void first_come_first_served(void) {
    dlock_locker *lockers[2] = {new_locker(0, true), new_locker(0, true)};
    dlock_lock *holder = new_lock(lockers[0], "fifo");
    pthread_t threads[WAITERS];
    OK(dlock_lock_acquire(holder, &err));
    for (int i = 0; i < WAITERS; i++) {
        line[i] = new_lock(lockers[i % 2], "fifo");
        REQUIRE(pthread_create(&threads[i], NULL, stand_in_line, (void *)(intptr_t)i) == 0);
        EVENTUALLY(is_busy(line[i]), 2000);
        /* Busy says that the call has begun, not that its request has arrived. */
        pause_ms(30);
    }
    OK(dlock_lock_release(holder, &err));
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    EXPECT(served_count == WAITERS);
    for (int i = 0; i < served_count; i++) {
        EXPECT(served[i] == i);
    }
    for (int i = 0; i < WAITERS; i++) {
        dlock_lock_free(line[i]);
    }
    dlock_lock_free(holder);
    dlock_locker_free(lockers[0]);
    dlock_locker_free(lockers[1]);
}

static void tokens_grow(void) {
    uint64_t last = 0;
    for (int round = 0; round < 3; round++) {
        dlock_locker *lockers[2] = {new_locker(0, true), new_locker(0, true)};
        dlock_lock *locks[2] = {new_lock(lockers[0], "tokens"), new_lock(lockers[1], "tokens")};
        for (int i = 0; i < 20; i++) {
            dlock_lock *lock = locks[i * 7 % 2];
            OK(dlock_lock_acquire_timeout(lock, 1000, &err));
            uint64_t token = token_of(lock);
            EXPECT(token > last);
            EXPECT(token >= (uint64_t)1 << 50);
            last = token;
            OK(dlock_lock_release(lock, &err));
        }
        dlock_lock_free(locks[0]);
        dlock_lock_free(locks[1]);
        dlock_locker_free(lockers[0]);
        dlock_locker_free(lockers[1]);
        /* A named memory store is gone with its last locker, and its counter with it: one round there. */
        if (!on_redis()) {
            break;
        }
    }
}

static void tokens_grow_after_flush(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "tokens_flush");
    uint64_t last = 0;
    for (int i = 0; i < 5; i++) {
        OK(dlock_lock_acquire(lock, &err));
        EXPECT(token_of(lock) > last);
        last = token_of(lock);
        OK(dlock_lock_release(lock, &err));
        raw("FLUSHALL");
    }
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* ---- cancel, close, free ---- */

static void cancel_blocked(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *holder = new_lock(locker, "cancel");
    dlock_lock *lock = new_lock(locker, "cancel");
    struct blocked waiter;
    OK(dlock_lock_acquire(holder, &err));
    blocked_start(&waiter, lock, DLOCK_WAIT_FOREVER);
    EVENTUALLY(is_busy(lock), 2000);
    pause_ms(50);
    uint64_t start = now_ms();
    OK(dlock_lock_cancel(lock, &err));
    EXPECT(blocked_join(&waiter) == DLOCK_ERR_CANCELLED);
    EXPECT(waiter.err.status == DLOCK_ERR_CANCELLED && waiter.err.message[0] != 0);
    EXPECT(waiter.returned_ms - start < SLACK_MS);
    /* It left the queue and can be used again. */
    OK(dlock_lock_release(holder, &err));
    OK(dlock_lock_acquire_timeout(lock, 1000, &err));
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_lock_free(holder);
    dlock_locker_free(locker);
}

static void cancel_backoff(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *holder = new_lock(locker, "cancel_timeout");
    dlock_lock *lock = new_lock(locker, "cancel_timeout");
    struct blocked waiter;
    OK(dlock_lock_acquire(holder, &err));
    blocked_start(&waiter, lock, 20000);
    EVENTUALLY(is_busy(lock), 2000);
    OK(dlock_lock_cancel(lock, &err));
    EXPECT(blocked_join(&waiter) == DLOCK_ERR_CANCELLED);
    OK(dlock_lock_release(holder, &err));
    dlock_lock_free(lock);
    dlock_lock_free(holder);
    dlock_locker_free(locker);
}

static void cancel_nothing(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "cancel_nothing");
    OK(dlock_lock_cancel(lock, &err));
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_cancel(lock, &err));
    EXPECT(token_of(lock) > 0);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

/* The race of cancel with a hand-off: whoever wins, the lock is never stuck. */
static void cancel_races_hand_off(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *holder = new_lock(locker, "cancel_race");
    dlock_lock *lock = new_lock(other_locker, "cancel_race");
    int cancelled = 0, acquired = 0;
    for (int i = 0; i < 60; i++) {
        struct blocked waiter;
        OK(dlock_lock_acquire_timeout(holder, 3000, &err));
        blocked_start(&waiter, lock, DLOCK_WAIT_FOREVER);
        EVENTUALLY(is_busy(lock), 2000);
        pause_ms(2);
        OK(dlock_lock_release(holder, &err));
        for (int spin = 0; spin < i * 50; spin++) {
            __asm__ volatile("" ::: "memory");
        }
        OK(dlock_lock_cancel(lock, &err));
        dlock_status status = blocked_join(&waiter);
        if (status == DLOCK_OK) {
            acquired++;
            OK(dlock_lock_release(lock, &err));
        } else {
            EXPECT_STATUS(status, DLOCK_ERR_CANCELLED);
            cancelled++;
        }
    }
    EXPECT(cancelled + acquired == 60);
    OK(dlock_lock_acquire_timeout(holder, 2000, &err));
    OK(dlock_lock_release(holder, &err));
    dlock_lock_free(holder);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    dlock_locker_free(other_locker);
}

static void closed_answers(dlock_lock *lock) {
    bool flag;
    uint64_t value;
    char owner[DLOCK_UUID_SIZE];
    EXPECT_STATUS(dlock_lock_acquire(lock, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_try_acquire(lock, &flag, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_acquire_timeout(lock, 100, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_acquire_retry_backoff(lock, 1, 10, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_release(lock, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_is_locked(lock, &flag, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_is_locked_by_me(lock, &flag, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_owner(lock, &flag, owner, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_fencing_token(lock, &value, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_remaining_ms(lock, &value, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_lock_extend(lock, 1000, &err), DLOCK_ERR_CLOSED);
}

static void close_locker(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *held = new_lock(locker, "close_held");
    dlock_lock *waiting = new_lock(locker, "close_waits");
    dlock_lock *other = new_lock(other_locker, "close_held");
    dlock_lock *blocker = new_lock(other_locker, "close_waits");
    struct blocked waiter, heir;
    OK(dlock_lock_acquire(held, &err));
    OK(dlock_lock_acquire(blocker, &err));
    blocked_start(&waiter, waiting, DLOCK_WAIT_FOREVER);
    blocked_start(&heir, other, 10000);
    EVENTUALLY(is_busy(waiting) && is_busy(other), 2000);
    pause_ms(50);
    OK(dlock_locker_close(locker, &err));
    EXPECT(blocked_join(&waiter) == DLOCK_ERR_CLOSED);
    EXPECT(blocked_join(&heir) == DLOCK_OK);
    closed_answers(held);
    closed_answers(waiting);
    dlock_lock *none = NULL;
    dlock_queue *queue = NULL;
    EXPECT_STATUS(dlock_lock_new(locker, "n", "test", &none, &err), DLOCK_ERR_CLOSED);
    EXPECT_STATUS(dlock_queue_new(locker, &queue, &err), DLOCK_ERR_CLOSED);
    EXPECT(none == NULL && queue == NULL);
    OK(dlock_lock_release(blocker, &err));
    bool flag = true;
    OK(dlock_lock_is_locked(blocker, &flag, &err));
    EXPECT(!flag);
    OK(dlock_lock_release(other, &err));
    dlock_locker_free(locker);
    /* Freed before its locks: they stay valid memory. */
    closed_answers(held);
    dlock_lock_free(held);
    dlock_lock_free(waiting);
    dlock_lock_free(other);
    dlock_lock_free(blocker);
    dlock_locker_free(other_locker);
}

static void *free_locker(void *locker) {
    dlock_locker_free(locker);
    return NULL;
}

static void free_locker_while_blocked(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *blocker = new_lock(other_locker, "free_blocked");
    dlock_lock *locks[4];
    struct blocked waiters[4];
    pthread_t thread;
    OK(dlock_lock_acquire(blocker, &err));
    for (int i = 0; i < 4; i++) {
        locks[i] = new_lock(locker, "free_blocked");
        blocked_start(&waiters[i], locks[i], DLOCK_WAIT_FOREVER);
        EVENTUALLY(is_busy(locks[i]), 2000);
    }
    uint64_t start = now_ms();
    REQUIRE(pthread_create(&thread, NULL, free_locker, locker) == 0);
    for (int i = 0; i < 4; i++) {
        EXPECT(blocked_join(&waiters[i]) == DLOCK_ERR_CLOSED);
    }
    pthread_join(thread, NULL);
    EXPECT(now_ms() - start < 5000);
    for (int i = 0; i < 4; i++) {
        dlock_lock_free(locks[i]);
    }
    OK(dlock_lock_release(blocker, &err));
    dlock_lock_free(blocker);
    dlock_locker_free(other_locker);
}

static void free_locker_releases(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "free_releases");
    dlock_lock *other = new_lock(other_locker, "free_releases");
    bool acquired = false;
    OK(dlock_lock_acquire(lock, &err));
    dlock_locker_free(locker);
    OK(dlock_lock_try_acquire(other, &acquired, &err));
    EXPECT(acquired);
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(lock);
    dlock_lock_free(other);
    dlock_locker_free(other_locker);
}

static void free_lock_releases(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "free_lock");
    dlock_lock *other = new_lock(locker, "free_lock");
    OK(dlock_lock_acquire(lock, &err));
    dlock_lock_free(lock);
    OK(dlock_lock_acquire_timeout(other, 2000, &err));
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(other);
    dlock_locker_free(locker);
}

static void free_lock_then_locker(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_locker *other_locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "free_both");
    dlock_lock *other = new_lock(other_locker, "free_both");
    bool acquired = false;
    OK(dlock_lock_acquire(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    OK(dlock_lock_try_acquire(other, &acquired, &err));
    EXPECT(acquired);
    OK(dlock_lock_release(other, &err));
    dlock_lock_free(other);
    dlock_locker_free(other_locker);
}

static void free_null(void) {
    dlock_options_free(NULL);
    dlock_locker_free(NULL);
    dlock_lock_free(NULL);
    dlock_queue_free(NULL);
    EXPECT(dlock_queue_fd(NULL) == -1);
}

/* ---- options and connections ---- */

static dlock_locker *locker_with(const char *first_url, const char *host, int port, const char *last_url) {
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    OK(dlock_options_new(&options, &err));
    if (first_url != NULL) {
        OK(dlock_options_set_url(options, first_url, &err));
    }
    if (host != NULL) {
        OK(dlock_options_set_host(options, host, &err));
    }
    if (port != 0) {
        OK(dlock_options_set_port(options, (uint16_t)port, &err));
    }
    if (last_url != NULL) {
        OK(dlock_options_set_url(options, last_url, &err));
    }
    OK(dlock_locker_new(options, &locker, &err));
    dlock_options_free(options);
    return locker;
}

static void options_last_wins(void) {
    char host[256] = "", port_text[16] = "";
    dlock_lock *lock = NULL;
    REQUIRE(sscanf(url, "redis://%255[^:/]:%15[0-9]", host, port_text) == 2);
    int port = (int)strtol(port_text, NULL, 10);
    dlock_locker *by_host = locker_with("redis://nowhere.invalid:1", host, port, NULL);
    EXPECT_STATUS(dlock_lock_new(by_host, "options", "test", &lock, &err), DLOCK_OK);
    dlock_lock_free(lock);
    dlock_locker *by_url = locker_with(NULL, "nowhere.invalid", 1, url);
    EXPECT_STATUS(dlock_lock_new(by_url, "options", "test", &lock, &err), DLOCK_OK);
    dlock_lock_free(lock);
    dlock_locker *port_last = locker_with(url, NULL, 1, NULL);
    EXPECT_STATUS(dlock_lock_new(port_last, "options", "test", &lock, &err), DLOCK_ERR_NOT_CONNECTED);
    dlock_locker_free(by_host);
    dlock_locker_free(by_url);
    dlock_locker_free(port_last);
}

static void options_are_copied(void) {
    dlock_options *options = NULL;
    dlock_locker *locker = NULL;
    dlock_lock *lock = NULL;
    uint64_t remaining = 0;
    OK(dlock_options_new(&options, &err));
    OK(dlock_options_set_url(options, url, &err));
    OK(dlock_options_set_lease_ms(options, 7000, &err));
    OK(dlock_locker_new(options, &locker, &err));
    OK(dlock_options_set_lease_ms(options, 90000, &err));
    OK(dlock_options_set_url(options, "redis://nowhere.invalid:1", &err));
    OK(dlock_lock_new(locker, "copied_options", "test", &lock, &err));
    OK(dlock_lock_acquire(lock, &err));
    OK(dlock_lock_remaining_ms(lock, &remaining, &err));
    EXPECT(remaining > 6000 && remaining <= 7000);
    dlock_options_free(options);
    OK(dlock_lock_release(lock, &err));
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void lock_new_no_round_trip(void) {
    enum { HANDLES = 200 };
    static dlock_lock *locks[HANDLES];
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *first = new_lock(locker, "no_round_trip");
    OK(dlock_lock_acquire(first, &err));
    OK(dlock_lock_release(first, &err));
    const char *text = strstr(raw("INFO stats"), "total_commands_processed:");
    REQUIRE(text != NULL);
    long long before = strtoll(strchr(text, ':') + 1, NULL, 10);
    for (int i = 0; i < HANDLES; i++) {
        locks[i] = new_lock(locker, "no_round_trip");
    }
    text = strstr(raw("INFO stats"), "total_commands_processed:");
    REQUIRE(text != NULL);
    long long after = strtoll(strchr(text, ':') + 1, NULL, 10);
    EXPECT(after - before < 20);
    for (int i = 0; i < HANDLES; i++) {
        dlock_lock_free(locks[i]);
    }
    dlock_lock_free(first);
    dlock_locker_free(locker);
}

static void locker_new_no_io(void) {
    dlock_locker *locker = locker_with("redis://127.0.0.1:1", NULL, 0, NULL);
    dlock_lock *lock = NULL;
    EXPECT_STATUS(dlock_lock_new(locker, "n", "test", &lock, &err), DLOCK_ERR_NOT_CONNECTED);
    EXPECT(strstr(err.message, "127.0.0.1") != NULL && strstr(err.message, ":1") != NULL);
    EXPECT(lock == NULL);
    dlock_locker_free(locker);
}

static void nothing_remains(void) {
    raw("FLUSHALL");
    dlock_locker *lockers[2] = {new_locker(0, true), new_locker(0, true)};
    dlock_lock *holder = new_lock(lockers[0], "remains");
    struct blocked waiters[6];
    dlock_lock *locks[6];
    OK(dlock_lock_acquire(holder, &err));
    for (int i = 0; i < 6; i++) {
        locks[i] = new_lock(lockers[i % 2], "remains");
        blocked_start(&waiters[i], locks[i], i < 3 ? 200 : DLOCK_WAIT_FOREVER);
    }
    for (int i = 0; i < 3; i++) {
        EXPECT(blocked_join(&waiters[i]) == DLOCK_ERR_LOCK_TIMEOUT);
    }
    for (int i = 3; i < 5; i++) {
        EVENTUALLY(is_busy(locks[i]), 2000);
        OK(dlock_lock_cancel(locks[i], &err));
        EXPECT(blocked_join(&waiters[i]) == DLOCK_ERR_CANCELLED);
    }
    OK(dlock_lock_release(holder, &err));
    EXPECT(blocked_join(&waiters[5]) == DLOCK_OK);
    OK(dlock_lock_release(locks[5], &err));
    for (int i = 0; i < 6; i++) {
        dlock_lock_free(locks[i]);
    }
    dlock_lock_free(holder);
    dlock_locker_free(lockers[0]);
    dlock_locker_free(lockers[1]);
    EXPECT(strcmp(raw("KEYS *"), "*1\r\n$12\r\n:dlock:fence\r\n") == 0);
}

/* ---- memory stores ---- */

static dlock_locker *memory_locker(const char *store) { return locker_with(store, NULL, 0, NULL); }

static void memory_named(void) {
    dlock_locker *a = memory_locker("memory://one");
    dlock_locker *b = memory_locker("memory://one");
    dlock_locker *c = memory_locker("memory://two");
    dlock_lock *la = new_lock(a, "n"), *lb = new_lock(b, "n"), *lc = new_lock(c, "n");
    bool acquired = false;
    OK(dlock_lock_acquire(la, &err));
    OK(dlock_lock_try_acquire(lb, &acquired, &err));
    EXPECT(!acquired);
    OK(dlock_lock_try_acquire(lc, &acquired, &err));
    EXPECT(acquired);
    struct blocked waiter;
    blocked_start(&waiter, lb, 5000);
    EVENTUALLY(is_busy(lb), 2000);
    OK(dlock_lock_release(la, &err));
    EXPECT(blocked_join(&waiter) == DLOCK_OK);
    dlock_lock_free(la);
    dlock_lock_free(lb);
    dlock_lock_free(lc);
    dlock_locker_free(a);
    dlock_locker_free(b);
    dlock_locker_free(c);
}

static void memory_private(void) {
    dlock_locker *a = memory_locker("memory://");
    dlock_locker *b = memory_locker("memory://");
    dlock_lock *la = new_lock(a, "n"), *lb = new_lock(b, "n"), *la2 = new_lock(a, "n");
    bool acquired = false;
    OK(dlock_lock_acquire(la, &err));
    OK(dlock_lock_try_acquire(lb, &acquired, &err));
    EXPECT(acquired);
    OK(dlock_lock_try_acquire(la2, &acquired, &err));
    EXPECT(!acquired);
    dlock_lock_free(la);
    dlock_lock_free(lb);
    dlock_lock_free(la2);
    dlock_locker_free(a);
    dlock_locker_free(b);
}

/* Gone with the last: a foreign holder that nobody released cannot be there any more. */
static void memory_gone(void) {
    for (int i = 0; i < 2; i++) {
        dlock_locker *a = memory_locker("memory://gone");
        dlock_lock *lock = new_lock(a, "n");
        bool acquired = false;
        OK(dlock_lock_try_acquire(lock, &acquired, &err));
        EXPECT(acquired);
        dlock_locker_free(a);
        dlock_lock_free(lock);
    }
}

/* ---- errors and versions ---- */

static void error_struct(void) {
    dlock_locker *locker = new_locker(0, true);
    dlock_lock *lock = new_lock(locker, "error_struct");
    dlock_error own;
    memset(&own, 0x7f, sizeof own);
    EXPECT(dlock_lock_release(lock, &own) == DLOCK_ERR_UNLOCK_UNLOCKED);
    EXPECT(own.status == DLOCK_ERR_UNLOCK_UNLOCKED);
    EXPECT(memchr(own.message, 0, sizeof own.message) != NULL && own.message[0] != 0);
    EXPECT(dlock_lock_acquire(lock, &own) == DLOCK_OK);
    EXPECT(own.status == DLOCK_OK && own.message[0] == 0);
    EXPECT(dlock_lock_release(lock, NULL) == DLOCK_OK);
    EXPECT(dlock_lock_release(lock, NULL) == DLOCK_ERR_UNLOCK_UNLOCKED);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
}

static void version(void) {
    char text[64];
    snprintf(text, sizeof text, "%d.%d.%d", DLOCK_VERSION_MAJOR, DLOCK_VERSION_MINOR, DLOCK_VERSION_PATCH);
    EXPECT(strcmp(dlock_version(), text) == 0);
}

static void status_names(void) {
    for (int32_t a = DLOCK_OK; a <= DLOCK_ERR_BUSY; a++) {
        EXPECT(dlock_status_name(a) != NULL && dlock_status_name(a)[0] != 0);
        for (int32_t b = DLOCK_OK; b < a; b++) {
            EXPECT(strcmp(dlock_status_name(a), dlock_status_name(b)) != 0);
        }
    }
    EXPECT(dlock_status_name(-1) != NULL && dlock_status_name(12345) != NULL);
}

int main(int argc, char **argv) {
    check_arguments(argc, argv);
    run_check("token, remaining, extend on a handle that never held: UNLOCK_UNLOCKED", never_held);
    run_check("token, remaining, extend after release: UNLOCK_UNLOCKED", released);
    run_check("token, remaining, extend after the lease ran out: LOST; acquire starts anew", lost_by_lease);
    run_check("extend sets the lease from now on", extend_longer);
    run_check("extend sets the lease of renewals too", extend_renewals);
    run_check("a shorter extend shortens the holder's validity, not the key's lease; release frees, LOST once",
              extend_shorter);
    run_check("extend below 100 ms is refused and changes nothing", extend_too_short);
    run_check("renewal keeps a held lock beyond its lease", renewal_holds);
    run_check("without renewal the lease ends and a waiter gets the lock", no_renewal_expires);
    run_check("the default lease is 30 s", remaining_of_default);
    run_check("release of a lock that nobody holds: UNLOCK_UNLOCKED", release_nobody);
    run_check("release of somebody else's lock: NOT_OWNER, and it stays", release_not_owner);
    run_check("release after the lease ran out: LOST once, then UNLOCK_UNLOCKED", release_expired);
    run_check("release after the lease ran out and another took it: NOT_OWNER", release_expired_and_taken);
    run_check("acquire_timeout(0) is one attempt", timeout_zero);
    run_check("timeouts are kept, and the waiter leaves the queue", timeout_is_kept);
    run_check("acquire_timeout returns when the lock is handed over", timeout_succeeds_in_time);
    run_check("backoff: waits of 1, 2, 4 times, then LOCK_TIMEOUT", backoff_used_up);
    run_check("backoff: acquires when the lock becomes free", backoff_succeeds);
    run_check("try_acquire on a lock held by the same handle answers false", own_try);
    run_check("acquire on a lock held by the same handle: ALREADY_HELD at once", own_acquire);
    run_check("a second user of a handle: BUSY; what only reads may run beside a blocked call", busy_handle);
    run_check("owner, is_locked, is_locked_by_me see other lockers' locks", owner_of_others);
    run_check("the id is a version 4 UUID, one per handle", ids);
    run_check("names: pairs compete, other pairs do not; 512 bytes, braces, UTF-8", names);
    run_check("names are copied", names_copied);
    run_check("waiters are served first come, first served", first_come_first_served);
    run_check("fencing tokens grow across handles and lockers", tokens_grow);
    run_check("cancel ends a blocked acquire; the handle can be used again", cancel_blocked);
    run_check("cancel ends a blocked acquire_timeout", cancel_backoff);
    run_check("cancel with nothing blocked does nothing", cancel_nothing);
    run_check("cancel in the instant of a hand-off: the lock is never stuck", cancel_races_hand_off);
    run_check("close ends waits, releases what is held; everything answers CLOSED", close_locker);
    run_check("freeing a locker while its locks block: CLOSED, promptly", free_locker_while_blocked);
    run_check("freeing a locker releases what is held", free_locker_releases);
    run_check("freeing a held lock releases it in the background", free_lock_releases);
    run_check("freeing a held lock and then the locker releases it", free_lock_then_locker);
    run_check("free of NULL is fine; the descriptor of no queue is -1", free_null);
    run_check("options are copied by dlock_locker_new", options_are_copied);
    run_check("the error struct: filled on failure, reset by success, may be NULL", error_struct);
    run_check("dlock_version is what the macros say", version);
    run_check("every status has a name of its own; unknown ones are answered too", status_names);
    if (on_redis()) {
        run_check("release after a flush and another's acquire: NOT_OWNER; the token grew", release_flushed_and_taken);
        run_check("release after a flush: UNLOCK_UNLOCKED", release_flushed);
        run_check("renewal finds out that the lock is gone: LOST", renewal_finds_loss);
        run_check("a deadline is kept where the server is silent, and nothing is taken later", timeout_silent_server);
        run_check("a deadline is kept where the server is silent and signals come all the time",
                  timeout_silent_server_among_signals);
        run_check("connecting waits for its time where signals come all the time", connecting_among_signals);
        run_check("is_locked, is_locked_by_me, owner ask the server", asks_the_server);
        run_check("a foreign value that is no UUID: locked; owner answers LOCKER", owner_no_uuid);
        run_check("fencing tokens grow after FLUSHALL", tokens_grow_after_flush);
        run_check("options: of two setters the last wins", options_last_wins);
        run_check("dlock_lock_new costs no round trip while connected", lock_new_no_round_trip);
        run_check("dlock_locker_new does no I/O; an unreachable server: host and port in the message",
                  locker_new_no_io);
        run_check("after everything is released only the counter remains", nothing_remains);
    } else {
        run_check("memory://name is one store for all lockers that name it", memory_named);
        run_check("bare memory:// is private to its locker", memory_private);
        run_check("a memory store is gone with its last locker", memory_gone);
    }
    return check_result();
}
