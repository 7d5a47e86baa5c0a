/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Optimizing and restoring the vmemmap of folios. remap.c has the protocol.
 */
#ifndef HVO_REMAP_H
#define HVO_REMAP_H

#include <linux/hugetlb.h>
#include <linux/mutex.h>

#include "stats.h"

/* Held for every change of a vmemmap entry. See remap.c for its place. */
extern struct mutex hvo_remap_mutex;

/**
 * enum hvo_layout - how the vmemmap of a folio is mapped
 * @HVO_PLAIN: each page by a frame of its own
 * @HVO_SHARED: ours
 * @HVO_NATIVE_SHARED: the kernel's: all pages by the frame of the first
 */
enum hvo_layout {
	HVO_PLAIN,
	HVO_SHARED,
	HVO_NATIVE_SHARED,
};

/**
 * hvo_layout() - how the vmemmap of a folio is mapped now
 * @folio: a HugeTLB folio
 * @order: its order; hvo_freed_pages() of it is not 0
 *
 * Context: any; stable under hvo_remap_mutex, else a hint.
 */
enum hvo_layout hvo_layout(const struct folio *folio, unsigned int order);

/* No reason to skip a candidate. */
#define HVO_NOT_SKIPPED		HVO_STAT_MAX

/**
 * struct hvo_candidate - a folio that is to be optimized
 * @folio: claimed: HPG_vmemmap_optimized is set, and the folio is not freed
 *	while the caller holds hvo_remap_mutex
 * @in_use: for the trace
 * @skipped: result: HVO_NOT_SKIPPED, or why it was left as it was
 */
struct hvo_candidate {
	struct folio *folio;
	bool in_use;
	enum hvo_stat skipped;
};

/**
 * hvo_remap_optimize() - give back the vmemmap of some folios of one size
 * @h: the size
 * @candidates: the folios
 * @count: how many
 * @may_split: block mappings may be split: the caller holds cpus_read_lock(),
 *	or hvo_arch_split_stops() is false; else folios that need that are
 *	skipped as busy
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex.
 * Return: 0; -ENOMEM if page tables could not be had for some; -EAGAIN if
 * memory_failure() was at work, and nothing was done (all skipped as busy).
 */
int hvo_remap_optimize(struct hstate *h, struct hvo_candidate *candidates,
		       unsigned int count, bool may_split);

/**
 * hvo_remap_split_ahead() - prepare to split the blocks of a folio
 * @h: its size
 * @folio: looks like a HugeTLB folio of this size; need not be claimed
 *
 * Where splitting stops the machine, many blocks at a time keep the stops few.
 * Those that are prepared here are split by the next hvo_remap_optimize(), in
 * between if they are many, or by hvo_split_flush().
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex, mem_hotplug_lock or
 * else owns the folio, and whatever splitting needs (may_split above).
 */
void hvo_remap_split_ahead(struct hstate *h, struct folio *folio);

/**
 * hvo_remap_restore() - bring the vmemmap of folios back
 * @h: their size
 * @folios: each in any layout; HPG_vmemmap_optimized is not changed
 * @count: how many
 * @reserved: the reserve may be used if memory is short
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex.
 * Return: how many were restored or were plain already, from the first on; if
 * fewer than @count, memory was too short for the next.
 */
unsigned int hvo_remap_restore(const struct hstate *h, struct folio **folios,
			       unsigned int count, bool reserved);

#endif /* HVO_REMAP_H */
