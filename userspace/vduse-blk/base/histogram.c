// SPDX-License-Identifier: MIT
/*
 * Reading histograms. What is recorded while they are read may be missing, in
 * part; nothing is counted twice.
 */
#include "base/histogram.h"

void histogram_add(struct histogram *to, const struct histogram *from)
{
	const uint64_t longest = __atomic_load_n(&from->max_ns, __ATOMIC_RELAXED);
	unsigned int i;

	to->max_ns = max(to->max_ns, longest);
	to->sum_ns += __atomic_load_n(&from->sum_ns, __ATOMIC_RELAXED);
	for (i = 0; i < HISTOGRAM_BUCKETS; i++)
		to->buckets[i] += __atomic_load_n(&from->buckets[i], __ATOMIC_RELAXED);
}

/* The longest duration that this bucket stands for. */
static uint64_t bucket_end(unsigned int bucket)
{
	const unsigned int smallest = 1u << HISTOGRAM_SUB_BITS;
	unsigned int shift;

	if (bucket < 2 * smallest)
		return bucket;
	shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
	return (((uint64_t)bucket - ((uint64_t)shift << HISTOGRAM_SUB_BITS) + 1) << shift) - 1;
}

static uint64_t percentile(const struct histogram *h, uint64_t count, unsigned int of_1000)
{
	/* Rounded up: one sample in two is half of them. No overflow in a lifetime. */
	const uint64_t wanted = (count * of_1000 + 999) / 1000;
	uint64_t seen = 0;
	unsigned int i;

	for (i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen >= wanted)
			break;
	}
	return min(bucket_end(i), h->max_ns);
}

void histogram_summarize(const struct histogram *h, struct histogram_summary *ret_summary)
{
	uint64_t count = 0;
	unsigned int i;

	for (i = 0; i < HISTOGRAM_BUCKETS; i++)
		count += h->buckets[i];
	*ret_summary = (struct histogram_summary){ .count = count };
	if (!count)
		return;
	ret_summary->mean_ns = h->sum_ns / count;
	ret_summary->p50_ns = percentile(h, count, 500);
	ret_summary->p90_ns = percentile(h, count, 900);
	ret_summary->p99_ns = percentile(h, count, 990);
	ret_summary->p999_ns = percentile(h, count, 999);
	ret_summary->max_ns = h->max_ns;
}
