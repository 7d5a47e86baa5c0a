/* SPDX-License-Identifier: GPL-2.0-only */
/* Vmemmap block mappings become tables of page entries. */
#ifndef HVO_SPLIT_H
#define HVO_SPLIT_H

#include <linux/hugetlb.h>

/**
 * hvo_split_needed() - does a block map some of a folio's vmemmap?
 * @folio: a HugeTLB folio
 * @order: its order
 *
 * Context: process; caller holds hvo_remap_mutex.
 */
bool hvo_split_needed(const struct folio *folio, unsigned int order);

/**
 * hvo_split_folio() - replace the blocks that map a folio's vmemmap by tables
 * @h: its size
 * @folio: a HugeTLB folio, or what looks like one; its vmemmap stays mapped
 *
 * Costs a page per block, for good: a table is not merged again. Blocks are
 * collected over calls and replaced together by hvo_split_flush().
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex and, if
 * hvo_arch_split_stops(), cpus_read_lock().
 * Return: 0 or -ENOMEM.
 */
int hvo_split_folio(struct hstate *h, struct folio *folio);

/**
 * hvo_split_flush() - replace what hvo_split_folio() collected
 *
 * Context: as hvo_split_folio().
 */
void hvo_split_flush(void);

#endif /* HVO_SPLIT_H */
