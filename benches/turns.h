/*
 * Contenders that do pairs of acquire and release in blocks that take turns, so that whatever else the machine does meets
 * all of them, and how their blocks compare. Knows nothing of how a pair is done.
 */
#ifndef TURNS_H
#define TURNS_H

#include "bench.h"

enum { MOST_ROUNDS = 64 };

struct contender {
    const char *name;
    void (*pair)(void *state);
    void *state;
    struct samples samples;
    double p50[MOST_ROUNDS]; /* of each block, in nanoseconds */
};

static inline void block(struct contender *contender, int round, int pairs)
{
    uint64_t *first = contender->samples.ns + contender->samples.count;
    for (int i = 0; i < pairs; i++) {
        uint64_t before = now_ns();
        contender->pair(contender->state);
        samples_add(&contender->samples, now_ns() - before);
    }
    contender->p50[round] = (double)percentile(first, (size_t)pairs, 0.5);
}

/* So many rounds of a block of each, which begin with another one each; before that, a block that does not count. */
static inline void take_turns(struct contender *contenders, int count, int rounds, int pairs)
{
    for (int i = 0; i < count; i++) {
        contenders[i].samples = samples_new((size_t)rounds * (size_t)pairs);
        for (int j = 0; j < pairs; j++)
            contenders[i].pair(contenders[i].state);
    }
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < count; i++)
            block(&contenders[(round + i) % count], round, pairs);
}

/* Sorts the samples. */
static inline void print_times(struct contender *c)
{
    printf("p50_%s %.2f\n", c->name, (double)percentile(c->samples.ns, c->samples.count, 0.5) / 1000);
    printf("p99_%s %.2f\n", c->name, (double)percentile(c->samples.ns, c->samples.count, 0.99) / 1000);
}

/* The middle half of the ratios of two contenders' blocks of one round, as what is known of `name`. */
static inline void print_ratios(const char *name, const struct contender *over, const struct contender *under, int rounds)
{
    double ratios[MOST_ROUNDS];
    for (int i = 0; i < rounds; i++)
        ratios[i] = over->p50[i] / under->p50[i];
    printf("ratio_low_%s %.3f\n", name, quantile(ratios, (size_t)rounds, 0.25));
    printf("ratio_high_%s %.3f\n", name, quantile(ratios, (size_t)rounds, 0.75));
}

#endif
