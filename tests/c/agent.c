/* One locker and one lock handle, driven by lines on stdin: for run.py, which kills it, stops it, and takes its server
 * away.
 *
 *     agent <url> <lease ms> <renew 0|1> <connect timeout ms> <response timeout ms> <group> <name>
 *
 * A line is one call; each is answered by one line `<status> <elapsed ms> <value> <message>`, `-` for no value.
 *
 *     new · open <group> <name> ('' for an empty one) · acquire · acquire_timeout <ms> · try ·
 *     backoff <retries> <ms> · release · extend <ms> · is_locked · is_locked_by_me · owner · id · token ·
 *     remaining · cycle (acquire, token, release)
 *
 * The end of the input frees the handles and ends the program.
 */
#define _GNU_SOURCE
#include <dlock.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static dlock_locker *locker;
static dlock_lock *lock;
static dlock_error err;
static char value[64];

static uint64_t now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static dlock_status with_flag(dlock_status (*call)(dlock_lock *, bool *)) {
    bool flag = false;
    dlock_status status = call(lock, &flag);
    if (status == DLOCK_OK) {
        strcpy(value, flag ? "true" : "false");
    }
    return status;
}

static dlock_status try_acquire(dlock_lock *handle, bool *flag) { return dlock_lock_try_acquire(handle, flag, &err); }
static dlock_status is_locked(dlock_lock *handle, bool *flag) { return dlock_lock_is_locked(handle, flag, &err); }
static dlock_status is_mine(dlock_lock *handle, bool *flag) { return dlock_lock_is_locked_by_me(handle, flag, &err); }

static dlock_status owner(void) {
    bool exists = false;
    char text[DLOCK_UUID_SIZE] = "";
    dlock_status status = dlock_lock_owner(lock, &exists, text, &err);
    if (status == DLOCK_OK) {
        strcpy(value, exists ? text : "nobody");
    }
    return status;
}

static dlock_status token(void) {
    uint64_t number = 0;
    dlock_status status = dlock_lock_fencing_token(lock, &number, &err);
    if (status == DLOCK_OK) {
        snprintf(value, sizeof value, "%llu", (unsigned long long)number);
    }
    return status;
}

static dlock_status remaining(void) {
    uint64_t number = 0;
    dlock_status status = dlock_lock_remaining_ms(lock, &number, &err);
    if (status == DLOCK_OK) {
        snprintf(value, sizeof value, "%llu", (unsigned long long)number);
    }
    return status;
}

static dlock_status cycle(void) {
    dlock_status status = dlock_lock_acquire(lock, &err);
    if (status == DLOCK_OK) {
        status = token();
    }
    return status == DLOCK_OK ? dlock_lock_release(lock, &err) : status;
}

static dlock_status open_lock(const char *group, const char *name) {
    dlock_lock_free(lock);
    lock = NULL;
    return dlock_lock_new(locker, name, group, &lock, &err);
}

/* What was meant by a word: '' is nothing. */
static const char *meant(const char *word) { return strcmp(word, "''") == 0 ? "" : word; }

static dlock_status run(char **argv, const char *command, const char *first, const char *second) {
    unsigned long long a = strtoull(first, NULL, 10), b = strtoull(second, NULL, 10);
    if (strcmp(command, "new") == 0) {
        return open_lock(argv[6], argv[7]);
    }
    if (strcmp(command, "open") == 0) {
        return open_lock(meant(first), meant(second));
    }
    if (strcmp(command, "extend") == 0) {
        return dlock_lock_extend(lock, a, &err);
    }
    if (strcmp(command, "acquire") == 0) {
        return dlock_lock_acquire(lock, &err);
    }
    if (strcmp(command, "acquire_timeout") == 0) {
        return dlock_lock_acquire_timeout(lock, a, &err);
    }
    if (strcmp(command, "try") == 0) {
        return with_flag(try_acquire);
    }
    if (strcmp(command, "backoff") == 0) {
        return dlock_lock_acquire_retry_backoff(lock, (uint32_t)a, b, &err);
    }
    if (strcmp(command, "release") == 0) {
        return dlock_lock_release(lock, &err);
    }
    if (strcmp(command, "is_locked") == 0) {
        return with_flag(is_locked);
    }
    if (strcmp(command, "is_locked_by_me") == 0) {
        return with_flag(is_mine);
    }
    if (strcmp(command, "owner") == 0) {
        return owner();
    }
    if (strcmp(command, "id") == 0) {
        return dlock_lock_id(lock, value);
    }
    if (strcmp(command, "token") == 0) {
        return token();
    }
    if (strcmp(command, "remaining") == 0) {
        return remaining();
    }
    if (strcmp(command, "cycle") == 0) {
        return cycle();
    }
    fprintf(stderr, "unknown command %s\n", command);
    exit(2);
}

static void must(dlock_status status) {
    if (status != DLOCK_OK) {
        fprintf(stderr, "%s: %s\n", dlock_status_name(status), err.message);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 8) {
        return 2;
    }
    dlock_options *options = NULL;
    must(dlock_options_new(&options, &err));
    must(dlock_options_set_url(options, argv[1], &err));
    must(dlock_options_set_lease_ms(options, strtoull(argv[2], NULL, 10), &err));
    must(dlock_options_set_auto_renew(options, argv[3][0] == '1', &err));
    must(dlock_options_set_connect_timeout_ms(options, strtoull(argv[4], NULL, 10), &err));
    must(dlock_options_set_response_timeout_ms(options, strtoull(argv[5], NULL, 10), &err));
    must(dlock_locker_new(options, &locker, &err));
    dlock_options_free(options);
    char line[2048];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char command[64] = "", first[1024] = "", second[1024] = "";
        sscanf(line, "%63s %1023s %1023s", command, first, second);
        strcpy(value, "-");
        memset(&err, 0, sizeof err);
        uint64_t start = now_ms();
        dlock_status status = run(argv, command, first, second);
        printf("%s %llu %s %s\n", dlock_status_name(status), (unsigned long long)(now_ms() - start), value,
               err.message);
        fflush(stdout);
    }
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    return 0;
}
