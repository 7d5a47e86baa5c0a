/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Figures, per huge page size and NUMA node.
 *
 * A counter belongs to one hstate and node; /sys/kernel/mm/hvo shows it per
 * node and added up. The skip counters say how many folios the last pass over
 * the pool, and what entered the pool since, left alone for each reason.
 */
#ifndef HVO_STATS_H
#define HVO_STATS_H

#include <linux/hugetlb.h>

/* Names: hvo_stat_names. */
enum hvo_stat {
	HVO_OPTIMIZED,			/* folios that are optimized now */
	HVO_RESTORE_FAILURES,		/* restores that found no memory */
	HVO_PMD_SPLITS,			/* vmemmap block mappings split */
	HVO_SKIPPED_NOT_POWER_OF_TWO,	/* sizeof(struct page) is odd */
	HVO_SKIPPED_TOO_SMALL,		/* nothing to give back */
	HVO_SKIPPED_SELF_HOSTED,	/* memmap_on_memory */
	HVO_SKIPPED_CONTIGUOUS,		/* contiguous-bit mapping */
	HVO_SKIPPED_CONTENTS,		/* tails differ */
	HVO_SKIPPED_BUSY,		/* being freed, migrated, examined */
	HVO_SKIPPED_POISONED,		/* has a hardware error */
	HVO_SKIPPED_NATIVE,		/* the kernel optimized it */
	HVO_SKIPPED_NO_MEMORY,		/* no page for a page table */
	HVO_STAT_MAX,
	HVO_SKIPPED_FIRST = HVO_SKIPPED_NOT_POWER_OF_TWO,
	HVO_SKIPPED_LAST = HVO_SKIPPED_NO_MEMORY,
};

/* As the files in sysfs and the reasons in hvo:hvo_skip are called. */
extern const char *const hvo_stat_names[HVO_STAT_MAX];

/**
 * hvo_stat_add() - change a figure
 * @h: the size
 * @nid: the node
 * @stat: which
 * @delta: by how much
 *
 * Context: any.
 */
void hvo_stat_add(const struct hstate *h, int nid, enum hvo_stat stat, long delta);

/**
 * hvo_stat_read() - one figure
 * @h: the size
 * @nid: the node, or NUMA_NO_NODE for all of them
 * @stat: which
 *
 * Context: any.
 */
long hvo_stat_read(const struct hstate *h, int nid, enum hvo_stat stat);

/**
 * hvo_stat_reset_skips() - a new pass over a pool begins
 * @h: the size
 *
 * Context: any.
 */
void hvo_stat_reset_skips(const struct hstate *h);

/**
 * hvo_stat_saved_kb() - memory given back
 * @h: the size, or NULL for all
 * @nid: the node, or NUMA_NO_NODE for all of them
 *
 * Context: any.
 * Return: kB.
 */
unsigned long hvo_stat_saved_kb(const struct hstate *h, int nid);

/**
 * hvo_stat_stopped() - a stop of all processors has ended
 * @ns: how long it took
 *
 * Context: any.
 */
void hvo_stat_stopped(u64 ns);

/** hvo_stat_stop_max_us() - the longest stop of all processors, in us */
unsigned long hvo_stat_stop_max_us(void);

/**
 * hvo_stats_alloc() - room for the counters of every size and node
 *
 * Context: module init, after hvo_symbols_resolve(); sleeps.
 * Return: 0 or -ENOMEM.
 */
int hvo_stats_alloc(void);
void hvo_stats_free(void);

#endif /* HVO_STATS_H */
