/* SPDX-License-Identifier: GPL-2.0-only */
/* Finding the folios of the pools, claiming them, and the switch. */
#ifndef HVO_POOL_H
#define HVO_POOL_H

#include <linux/hugetlb.h>

#define HVO_BATCH_MIN		1
#define HVO_BATCH_MAX		512
#define HVO_BATCH_DEFAULT	64

/**
 * struct hvo_settings - what the sysctls say
 * @enabled: direction in force: the pool is, or is being, optimized
 * @in_use: folios in use are optimized, too
 * @new_folios: folios that enter the pool are optimized
 * @batch: folios between two points where other tasks may run
 *
 * Written by sysctl.c (in_use, new_folios, batch) and by hvo_pool_set()
 * (enabled, new_folios); read with READ_ONCE().
 */
struct hvo_settings {
	int enabled;
	int in_use;
	int new_folios;
	int batch;
};

extern struct hvo_settings hvo_settings;

/**
 * hvo_pool_set() - write to vm.hvo.enabled
 * @enable: true optimizes every folio of the pools that can be, and whatever
 *	enters them later; false restores every folio
 *
 * One caller at a time; a second one waits for the first.
 *
 * Context: process; sleeps. Takes and drops every lock of remap.h.
 * Return: 0; -EINTR if a signal came (what was done stays done; a second call
 * goes on); -ENOMEM if memory for page tables, or for restoring, was too
 * short (the rest was done).
 */
int hvo_pool_set(bool enable);

/**
 * hvo_pool_in_use() - optimized folios that are in use now
 * @h: the size
 * @nid: the node, or NUMA_NO_NODE for all of them
 *
 * Counts by a walk over the node's memory.
 *
 * Context: process; sleeps.
 */
unsigned long hvo_pool_in_use(struct hstate *h, int nid);

/**
 * hvo_pool_new_folios() - folios that are about to enter the pool
 * @h: their size
 * @folios: linked by lru; nobody else has seen them yet: frozen, on no list
 *	of @h
 * @may_stop: the caller does not hold cpu_hotplug_lock, so that the machine
 *	can be stopped, where splitting block mappings needs that; otherwise a
 *	folio that needs it is left to the worker
 *
 * Does nothing unless hvo_settings.new_folios.
 *
 * Context: process; sleeps.
 */
void hvo_pool_new_folios(struct hstate *h, struct list_head *folios, bool may_stop);

/**
 * hvo_pool_sweep_later() - let the worker look for folios that were left
 *
 * For what enters the pool past the hooks. Does nothing unless
 * hvo_settings.enabled.
 *
 * Context: any.
 */
void hvo_pool_sweep_later(void);

/**
 * hvo_pool_restore() - folios that the kernel is about to free or take apart
 * @h: their size
 * @list: removed from the pool; nobody uses them. Any layout, ours or the
 *	kernel's; the flag of those that are restored is cleared
 * @count: how many
 *
 * Uses the reserve if memory is short, after an attempt to fill it.
 *
 * Context: process; sleeps. Takes hvo_remap_mutex.
 * Return: how many were restored, from the first on; if fewer than @count,
 * memory was too short for the next.
 */
unsigned int hvo_pool_restore(const struct hstate *h, struct folio **list,
			      unsigned int count);

/**
 * hvo_pool_demote_begin() - free folios become ready to be demoted
 * @h: their size
 * @nid: of this node, or of each node if NUMA_NO_NODE
 * @count: so many on each node, in the order of the free list
 *
 * For kernels that do not restore them in demote_store(). Until
 * hvo_pool_demote_end() no pass optimizes them again.
 *
 * Context: process; sleeps.
 * Return: 0; or, and then hvo_pool_demote_end() is not called, -ENOMEM if one
 * could not be restored.
 */
int hvo_pool_demote_begin(struct hstate *h, int nid, unsigned long count);
void hvo_pool_demote_end(struct hstate *h);

/** hvo_pool_init() - 0 or -ENOMEM */
int hvo_pool_init(void);

/**
 * hvo_pool_quiesce() - no flag of ours is left on any folio
 *
 * The module has no reference left, so nothing is optimized; but a claim that
 * was given up while a folio was frozen may have left its flag, and with
 * hvo_settings.new_folios a last folio may just have entered the pool.
 *
 * Context: module exit, the hooks still in place; sleeps.
 */
void hvo_pool_quiesce(void);

/**
 * hvo_pool_exit() - undo hvo_pool_init()
 *
 * Context: module exit, the hooks gone; sleeps.
 */
void hvo_pool_exit(void);

#endif /* HVO_POOL_H */
