/*
 * What the benchmark programs share: clocks, memory, samples and their percentiles, and how to fail. Knows neither Redis nor
 * what is measured. Every result is printed as a line `name value`, which run.py reads.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <dlock.h>

/* CLOCK_MONOTONIC: one clock for all processes of a machine. */
static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void sleep_us(uint64_t us)
{
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline void must(dlock_status status, const dlock_error *err, const char *what)
{
    if (status != DLOCK_OK)
        die("%s: %s: %s", what, dlock_status_name(status), err->message);
}

static inline void *must_alloc(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory)
        die("out of memory");
    return memory;
}

/* What this process has used so far. */
static inline double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline long rss_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long size, resident = 0;
    if (!file || fscanf(file, "%ld %ld", &size, &resident) != 2)
        die("cannot read /proc/self/statm");
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

static inline dlock_locker *open_locker(const char *url)
{
    dlock_options *options;
    dlock_locker *locker;
    dlock_error err;
    must(dlock_options_new(&options, &err), &err, "dlock_options_new");
    must(dlock_options_set_url(options, url, &err), &err, "dlock_options_set_url");
    must(dlock_locker_new(options, &locker, &err), &err, "dlock_locker_new");
    dlock_options_free(options);
    return locker;
}

static inline dlock_lock *open_lock(const dlock_locker *locker, const char *name)
{
    dlock_lock *lock;
    dlock_error err;
    must(dlock_lock_new(locker, name, "bench", &lock, &err), &err, "dlock_lock_new");
    return lock;
}

/* `state` is a lock. */
static inline void dlock_pair(void *state)
{
    dlock_error err;
    must(dlock_lock_acquire(state, &err), &err, "acquire");
    must(dlock_lock_release(state, &err), &err, "release");
}

static inline void redis_url(char *url, size_t size, const char *port)
{
    snprintf(url, size, "redis://127.0.0.1:%s", port);
}

/* --- samples --- */

struct samples {
    uint64_t *ns;
    size_t count, capacity;
};

static inline struct samples samples_new(size_t capacity)
{
    struct samples samples = {must_alloc(capacity, sizeof(uint64_t)), 0, capacity};
    return samples;
}

static inline void samples_add(struct samples *samples, uint64_t ns)
{
    if (samples->count == samples->capacity)
        die("more samples than expected");
    samples->ns[samples->count++] = ns;
}

static inline int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static inline int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of `count` numbers, the one below which that share of them lies; sorts them. */
static inline uint64_t percentile(uint64_t *ns, size_t count, double share)
{
    if (count == 0)
        die("no samples");
    qsort(ns, count, sizeof *ns, compare_u64);
    size_t at = (size_t)(share * (double)count);
    return ns[at < count ? at : count - 1];
}

/* Every half percent of sorted samples, in microseconds: what a plot of their distribution needs. */
static inline void print_distribution(const char *name, const struct samples *sorted)
{
    printf("distribution_%s ", name);
    for (int i = 0; i <= 200; i++) {
        size_t at = (size_t)i * (sorted->count - 1) / 200;
        printf("%s%.1f", i ? "," : "", (double)sorted->ns[at] / 1000);
    }
    printf("\n");
}

static inline double quantile(double *values, size_t count, double share)
{
    qsort(values, count, sizeof *values, compare_double);
    size_t at = (size_t)(share * (double)count);
    return values[at < count ? at : count - 1];
}

#endif
