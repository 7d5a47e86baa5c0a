// SPDX-License-Identifier: GPL-2.0-only
/*
 * The counters: one allocation, [size][node][figure].
 *
 * There is room for every node that may ever exist, so memory that is plugged in
 * later is counted like any other. Sizes are never added after boot. Each counter
 * is atomic by itself and nothing orders one against another: a reader may see a
 * folio in none of two figures, or in both.
 *
 * The room outlives everything that counts or reads: it is there before the first
 * hook and file, and goes after the last of them.
 */
#include <linux/atomic.h>
#include <linux/math64.h>
#include <linux/nodemask.h>
#include <linux/slab.h>

#include "hvo.h"
#include "stats.h"
#include "symbols.h"

const char *const hvo_stat_names[HVO_STAT_MAX] = {
	[HVO_OPTIMIZED]			= "optimized",
	[HVO_RESTORE_FAILURES]		= "restore_failures",
	[HVO_PMD_SPLITS]		= "pmd_splits",
	[HVO_SKIPPED_NOT_POWER_OF_TWO]	= "skipped_not_power_of_two",
	[HVO_SKIPPED_TOO_SMALL]		= "skipped_too_small",
	[HVO_SKIPPED_SELF_HOSTED]	= "skipped_self_hosted",
	[HVO_SKIPPED_CONTIGUOUS]	= "skipped_contiguous",
	[HVO_SKIPPED_CONTENTS]		= "skipped_contents",
	[HVO_SKIPPED_BUSY]		= "skipped_busy",
	[HVO_SKIPPED_POISONED]		= "skipped_poisoned",
	[HVO_SKIPPED_NATIVE]		= "skipped_native",
	[HVO_SKIPPED_NO_MEMORY]		= "skipped_no_memory",
};

static atomic_long_t *hvo_counters;
static atomic64_t hvo_stop_max_ns;

static atomic_long_t *hvo_counter(const struct hstate *h, int nid, enum hvo_stat stat)
{
	size_t size = h - hvo_kernel.hstates;

	return &hvo_counters[(size * nr_node_ids + nid) * HVO_STAT_MAX + stat];
}

void hvo_stat_add(const struct hstate *h, int nid, enum hvo_stat stat, long delta)
{
	atomic_long_add(delta, hvo_counter(h, nid, stat));
}

long hvo_stat_read(const struct hstate *h, int nid, enum hvo_stat stat)
{
	long sum = 0;

	if (nid != NUMA_NO_NODE)
		return atomic_long_read(hvo_counter(h, nid, stat));

	for_each_node(nid)
		sum += atomic_long_read(hvo_counter(h, nid, stat));
	return sum;
}

void hvo_stat_reset_skips(const struct hstate *h)
{
	int nid, stat;

	for_each_node(nid)
		for (stat = HVO_SKIPPED_FIRST; stat <= HVO_SKIPPED_LAST; stat++)
			atomic_long_set(hvo_counter(h, nid, stat), 0);
}

static unsigned long hvo_size_saved_kb(const struct hstate *h, int nid)
{
	unsigned long folios = hvo_stat_read(h, nid, HVO_OPTIMIZED);

	return folios * hvo_freed_pages(h->order) << (PAGE_SHIFT - 10);
}

unsigned long hvo_stat_saved_kb(const struct hstate *h, int nid)
{
	const struct hstate *end = hvo_kernel.hstates + *hvo_kernel.max_hstate;
	unsigned long sum = 0;

	if (h)
		return hvo_size_saved_kb(h, nid);

	for (h = hvo_kernel.hstates; h < end; h++)
		sum += hvo_size_saved_kb(h, nid);
	return sum;
}

void hvo_stat_stopped(u64 ns)
{
	s64 max = atomic64_read(&hvo_stop_max_ns);

	while (ns > max && !atomic64_try_cmpxchg(&hvo_stop_max_ns, &max, ns))
		;
}

unsigned long hvo_stat_stop_max_us(void)
{
	return div_u64(atomic64_read(&hvo_stop_max_ns), NSEC_PER_USEC);
}

int hvo_stats_alloc(void)
{
	size_t count = array3_size(*hvo_kernel.max_hstate, nr_node_ids, HVO_STAT_MAX);

	hvo_counters = kvcalloc(count, sizeof(*hvo_counters), GFP_KERNEL);
	return hvo_counters ? 0 : -ENOMEM;
}

void hvo_stats_free(void)
{
	kvfree(hvo_counters);
	hvo_counters = NULL;
}
