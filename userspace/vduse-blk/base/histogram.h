/* SPDX-License-Identifier: MIT */
/*
 * Histogram of durations, from nanoseconds to an hour, in fixed memory.
 *
 * Log-linear: every power of two is cut into 16 equal buckets, so a bucket is
 * at most 1/16 of its values wide, and a percentile that is read out of it is
 * at most 6.25 % too high. Durations below 32 ns have a bucket each.
 *
 * One thread records. Any thread reads, without a lock: every counter is stored
 * and loaded in one piece. A reader may see a sample in one of the counters and
 * not yet in another, so it adds what it finds to a histogram of its own and
 * works on that.
 */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <stdint.h>

#include "base/util.h"

#define HISTOGRAM_SUB_BITS 4u
#define HISTOGRAM_MAX_BITS 42u /* longer than 2^42 ns, 73 minutes, counts as that */
#define HISTOGRAM_MAX_NS   ((1ull << HISTOGRAM_MAX_BITS) - 1)
#define HISTOGRAM_BUCKETS  ((HISTOGRAM_MAX_BITS - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

/* Zeroed memory is an empty histogram. */
struct histogram {
	uint64_t max_ns;
	uint64_t sum_ns;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* Which bucket: linear inside a power of two, and below two of the smallest. */
static inline unsigned int histogram_bucket(uint64_t ns)
{
	const unsigned int top = 63u - (unsigned int)__builtin_clzll(ns | 1u << HISTOGRAM_SUB_BITS);
	const unsigned int shift = top - HISTOGRAM_SUB_BITS;

	return (shift << HISTOGRAM_SUB_BITS) + (unsigned int)(ns >> shift);
}

/**
 * histogram_record() - count one sample
 * @h: the calling thread's own
 * @ns: its duration
 */
static inline void histogram_record(struct histogram *h, uint64_t ns)
{
	uint64_t *bucket;

	if (unlikely(ns > HISTOGRAM_MAX_NS))
		ns = HISTOGRAM_MAX_NS;
	bucket = &h->buckets[histogram_bucket(ns)];
	if (unlikely(ns > h->max_ns))
		__atomic_store_n(&h->max_ns, ns, __ATOMIC_RELAXED);
	__atomic_store_n(&h->sum_ns, h->sum_ns + ns, __ATOMIC_RELAXED);
	__atomic_store_n(bucket, *bucket + 1, __ATOMIC_RELAXED);
}

/**
 * histogram_add() - add the samples of one histogram to another
 * @to: the calling thread's own
 * @from: anybody's; samples may be recorded meanwhile
 */
void histogram_add(struct histogram *to, const struct histogram *from);

/**
 * struct histogram_summary - a histogram in a few numbers
 * @count: samples
 * @mean_ns: their mean
 * @p50_ns, @p90_ns, @p99_ns, @p999_ns: as many samples in 1000 (500, 900, 990,
 *	999) took at most that long
 * @max_ns: the longest
 *
 * All zero if there is no sample.
 */
struct histogram_summary {
	uint64_t count;
	uint64_t mean_ns;
	uint64_t p50_ns, p90_ns, p99_ns, p999_ns;
	uint64_t max_ns;
};

/**
 * histogram_summarize() - percentiles
 * @h: the calling thread's own
 * @ret_summary: filled
 */
void histogram_summarize(const struct histogram *h, struct histogram_summary *ret_summary);

#endif
