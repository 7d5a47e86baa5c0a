/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The frames that hold struct pages: giving them back, getting new ones, and a
 * reserve of them.
 */
#ifndef HVO_VPAGES_H
#define HVO_VPAGES_H

#include <linux/list.h>
#include <linux/mm_types.h>

struct hstate;

/**
 * hvo_vpages_free() - give frames back
 * @frames: linked by lru; no entry maps them any more, no TLB has one that did
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex.
 */
void hvo_vpages_free(struct list_head *frames);

/**
 * hvo_vpages_alloc() - frames for the vmemmap
 * @nid: preferably on this node
 * @count: how many
 * @reserved: may the reserve be used if memory is short?
 * @frames: they are added to this list, all or none
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex.
 * Return: 0 or -ENOMEM.
 */
int hvo_vpages_alloc(int nid, unsigned long count, bool reserved,
		     struct list_head *frames);

/**
 * hvo_reserve_account() - folios were optimized or restored
 * @h: their size
 * @delta: how many more are optimized now
 *
 * Says what the reserve should hold: what the largest optimized folio needs to
 * be restored. Then the kernel can always free one, and freeing it pays for the
 * next. If nothing is optimized, it should be empty.
 *
 * Context: process; caller holds hvo_remap_mutex.
 */
void hvo_reserve_account(const struct hstate *h, long delta);

/**
 * hvo_reserve_fill() - bring the reserve to what it should hold
 *
 * Does its best without reclaiming memory.
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex.
 */
void hvo_reserve_fill(void);

/**
 * hvo_reserve_is_short() - does it hold less than it should?
 *
 * Context: process; caller holds hvo_remap_mutex.
 */
bool hvo_reserve_is_short(void);

/**
 * hvo_reserve_kb() - what the reserve holds now
 *
 * Context: any.
 * Return: kB.
 */
unsigned long hvo_reserve_kb(void);

#endif /* HVO_VPAGES_H */
