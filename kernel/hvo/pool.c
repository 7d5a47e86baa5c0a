// SPDX-License-Identifier: GPL-2.0-only
/*
 * The folios of the pools.
 *
 * A pass finds folios by their page frame numbers, node by node. That needs
 * no list of the kernel's to stay as it is between two batches, sees folios
 * that are isolated for migration, and goes on where it was after any pause.
 * What it finds is only a hint until hugetlb_lock is held.
 *
 * Claim. HPG_vmemmap_optimized is set under hugetlb_lock on a folio that
 *  - is in the pool (HPG_freed), or
 *  - is in use (reference count not 0).
 * Whoever frees or takes apart such a folio removes it from the pool under
 * hugetlb_lock first and finds the flag set, so that it comes by our hook,
 * which waits for hvo_remap_mutex. Claims are only made with that mutex held,
 * and resolved before it is dropped: the folio is optimized, or the claim is
 * given up.
 *
 * The flag is cleared under the same conditions. A folio that is neither free
 * nor referenced may be between remove_hugetlb_folio(), which left PG_hugetlb
 * to be cleared later because of the flag, and update_and_free_hugetlb_folio(),
 * which frees in the caller's context, perhaps an interrupt, if it finds the
 * flag clear. There the flag stays, whatever the layout is, and the hook
 * clears it.
 *
 * switch_mutex keeps passes apart. It is the outermost lock of the module
 * (remap.c has the order), and no hook takes it. While the kernel demotes
 * folios that were restored for that, passes pause: nr_demoting.
 */
#include <linux/cpu.h>
#include <linux/delay.h>
#include <linux/memory_hotplug.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "hvo.h"
#include "pgtable.h"
#include "pool.h"
#include "remap.h"
#include "split.h"
#include "stats.h"
#include "symbols.h"
#include "trace.h"
#include "vpages.h"

struct hvo_settings hvo_settings = {
	.in_use = 1,
	.batch = HVO_BATCH_DEFAULT,
};

static DEFINE_MUTEX(switch_mutex);
/* Writers that wait for it; and, guarded by it, is the worker at work? */
static atomic_t switch_waiters;
static bool sweeping;

/* Demotions at work; guarded by hvo_remap_mutex, zero wakes who waits. */
static unsigned int nr_demoting;
static DECLARE_WAIT_QUEUE_HEAD(demoted);

/* The batch in work; guarded by hvo_remap_mutex. */
static struct hvo_candidate *candidates;
static struct folio **folios;

/* How many places of the node are looked at with the locks held. */
#define SCAN_MAX	4096

/* How many places further on blocks are split with those of a batch. */
#define SPLIT_AHEAD	2048

/* Where a pass is. */
struct cursor {
	struct hstate *h;
	int nid;
	unsigned long pfn;
	unsigned long end;
};

static void cursor_init(struct cursor *cursor, struct hstate *h, int nid)
{
	cursor->h = h;
	cursor->nid = nid;
	cursor->pfn = ALIGN(node_start_pfn(nid), pages_per_huge_page(h));
	cursor->end = node_end_pfn(nid);
}

static bool cursor_at_end(const struct cursor *cursor)
{
	return cursor->pfn >= cursor->end;
}

/*
 * The folio at the cursor, which moves on; NULL if there is none of this size
 * and node. Nothing keeps the folio from changing. Caller holds
 * mem_hotplug_lock.
 */
static struct folio *cursor_next(struct cursor *cursor)
{
	unsigned long pfn = cursor->pfn;
	struct page *page = pfn_to_online_page(pfn);
	struct folio *folio;

	if (!page) {
		cursor->pfn = ALIGN(SECTION_ALIGN_UP(pfn + 1),
				    pages_per_huge_page(cursor->h));
		return NULL;
	}
	cursor->pfn += pages_per_huge_page(cursor->h);
	folio = page_folio(page);
	if (folio_pfn(folio) != pfn || !folio_test_hugetlb(folio) ||
	    folio_order(folio) != cursor->h->order || folio_nid(folio) != cursor->nid)
		return NULL;
	return folio;
}

/*
 * Is it a folio of this size that is free in the pool or in use? If not, it is
 * about to enter the pool, or to leave it, or it is frozen for a moment.
 */
static bool settled(const struct hstate *h, struct folio *folio)
{
	lockdep_assert_held(hvo_kernel.hugetlb_lock);
	return folio_test_hugetlb(folio) && folio_order(folio) == h->order &&
	       (folio_test_hugetlb_freed(folio) || folio_ref_count(folio));
}

static void skip(struct hstate *h, struct folio *folio, enum hvo_stat reason)
{
	hvo_stat_add(h, folio_nid(folio), reason, 1);
	trace_hvo_skip(folio, reason);
}

/* What claim() may say of a folio besides a reason to skip it. */
enum claim {
	CLAIMED,
	NOT_WANTED,	/* optimized already, or in use and that is not asked for */
	GONE,		/* no such folio any more */
	REFUSED,	/* *ret_reason says why */
};

static enum claim claim_locked(struct hstate *h, struct folio *folio, bool *ret_in_use,
			       enum hvo_stat *ret_reason)
{
	bool in_use;

	if (!folio_test_hugetlb(folio) || folio_order(folio) != h->order)
		return GONE;
	if (!settled(h, folio)) {
		*ret_reason = HVO_SKIPPED_BUSY;
		return REFUSED;
	}
	in_use = !folio_test_hugetlb_freed(folio);
	if (in_use && !READ_ONCE(hvo_settings.in_use))
		return NOT_WANTED;
	if (folio_test_hugetlb_vmemmap_optimized(folio)) {
		switch (hvo_layout(folio, h->order)) {
		case HVO_SHARED:
			return NOT_WANTED;
		case HVO_NATIVE_SHARED:
			*ret_reason = HVO_SKIPPED_NATIVE;
			return REFUSED;
		case HVO_PLAIN:
			/* A claim was given up while it was unsettled. */
			break;
		}
	}
	if (folio_test_hwpoison(folio)) {
		*ret_reason = HVO_SKIPPED_POISONED;
		return REFUSED;
	}
	folio_set_hugetlb_vmemmap_optimized(folio);
	*ret_in_use = in_use;
	return CLAIMED;
}

/* Adds a folio to the batch, or counts why not. */
static bool claim(struct hstate *h, struct folio *folio, struct hvo_candidate *ret)
{
	enum hvo_stat reason = HVO_NOT_SKIPPED;
	bool in_use = false;
	enum claim result;

	spin_lock_irq(hvo_kernel.hugetlb_lock);
	result = claim_locked(h, folio, &in_use, &reason);
	spin_unlock_irq(hvo_kernel.hugetlb_lock);
	if (result == REFUSED)
		skip(h, folio, reason);
	if (result != CLAIMED)
		return false;
	*ret = (struct hvo_candidate){ .folio = folio, .in_use = in_use };
	return true;
}

/* The vmemmap is plain: the flag goes, if this is a moment when it may. */
static void release(const struct hstate *h, struct folio *folio)
{
	spin_lock_irq(hvo_kernel.hugetlb_lock);
	if (settled(h, folio))
		folio_clear_hugetlb_vmemmap_optimized(folio);
	spin_unlock_irq(hvo_kernel.hugetlb_lock);
}

/* The locks of a batch, in their order. */
static void lock_batch(void)
{
	cpus_read_lock();
	hvo_get_online_mems();
	mutex_lock(&hvo_remap_mutex);
}

static void unlock_batch(void)
{
	mutex_unlock(&hvo_remap_mutex);
	hvo_put_online_mems();
	cpus_read_unlock();
}

/*
 * The blocks of the folios to come, so that one stop of the machine does for
 * many batches. A hint is enough: a block that was split for nothing is harmless.
 */
static void split_ahead(struct cursor cursor)
{
	struct folio *folio;
	unsigned int i;

	for (i = 0; i < SPLIT_AHEAD && !cursor_at_end(&cursor); i++) {
		folio = cursor_next(&cursor);
		if (folio && (READ_ONCE(hvo_settings.in_use) || folio_test_hugetlb_freed(folio)))
			hvo_remap_split_ahead(cursor.h, folio);
		hvo_resched(i);
	}
}

static bool needs_split(const struct hstate *h, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		if (hvo_split_needed(candidates[i].folio, h->order))
			return true;
	return false;
}

/*
 * Returns 0; -ENOMEM; and if the batch has to be tried again, -EAGAIN for
 * memory_failure(), -EBUSY for a demotion.
 */
static int optimize_batch(struct cursor *cursor)
{
	unsigned int i, count = 0, batch = READ_ONCE(hvo_settings.batch);
	struct hstate *h = cursor->h;
	struct folio *folio;
	int ret = 0;

	lock_batch();
	if (nr_demoting) {
		unlock_batch();
		return -EBUSY;
	}
	for (i = 0; i < SCAN_MAX && count < batch && !cursor_at_end(cursor); i++) {
		folio = cursor_next(cursor);
		if (folio && claim(h, folio, &candidates[count]))
			count++;
	}
	if (needs_split(h, count))
		split_ahead(*cursor);
	if (count)
		ret = hvo_remap_optimize(h, candidates, count, true);
	for (i = 0; i < count; i++) {
		if (candidates[i].skipped == HVO_NOT_SKIPPED)
			continue;
		release(h, candidates[i].folio);
		if (ret != -EAGAIN)
			skip(h, candidates[i].folio, candidates[i].skipped);
	}
	unlock_batch();
	return ret;
}

/* Both are rare and short. */
static int wait_for(int obstacle)
{
	if (obstacle == -EBUSY)
		return wait_event_interruptible(demoted, !READ_ONCE(nr_demoting));
	if (mutex_lock_interruptible(hvo_kernel.mf_mutex))
		return -EINTR;
	mutex_unlock(hvo_kernel.mf_mutex);
	return 0;
}

/* A sweep gives way to whoever writes to the switch. */
static bool interrupted(void)
{
	return signal_pending(current) || (sweeping && atomic_read(&switch_waiters));
}

static int optimize_node(struct hstate *h, int nid)
{
	struct cursor cursor, before;
	int ret, result = 0;

	cursor_init(&cursor, h, nid);
	while (!cursor_at_end(&cursor)) {
		if (interrupted())
			return -EINTR;
		before = cursor;
		ret = optimize_batch(&cursor);
		if (ret == -EAGAIN || ret == -EBUSY) {
			if (wait_for(ret))
				return -EINTR;
			cursor = before;
		} else if (ret) {
			result = ret;
		}
		cond_resched();
	}
	return result;
}

/* Why no folio of this size can be optimized; HVO_NOT_SKIPPED if they can. */
static enum hvo_stat size_obstacle(const struct hstate *h)
{
	if (!is_power_of_2(sizeof(struct page)))
		return HVO_SKIPPED_NOT_POWER_OF_TWO;
	return hvo_freed_pages(h->order) ? HVO_NOT_SKIPPED : HVO_SKIPPED_TOO_SMALL;
}

/* Sizes that cannot be optimized at all: say so for each folio. */
static bool unsuitable(struct hstate *h)
{
	enum hvo_stat reason = size_obstacle(h);
	int nid;

	if (reason == HVO_NOT_SKIPPED)
		return false;
	for_each_online_node(nid)
		hvo_stat_add(h, nid, reason, READ_ONCE(h->nr_huge_pages_node[nid]));
	return true;
}

static int optimize_all(void)
{
	int i, nid, ret, result = 0;
	struct hstate *h;

	lockdep_assert_held(&switch_mutex);
	for (i = 0; i < *hvo_kernel.max_hstate; i++) {
		h = &hvo_kernel.hstates[i];
		hvo_stat_reset_skips(h);
		if (unsuitable(h))
			continue;
		for_each_online_node(nid) {
			ret = optimize_node(h, nid);
			if (ret == -EINTR)
				return ret;
			if (ret)
				result = ret;
		}
	}
	return result;
}

/*
 * Is there something of ours to undo, the layout or only the flag? (A claim
 * that was given up at a bad moment leaves the flag.) Counts the folios whose
 * flag cannot be cleared yet. Those that the kernel leaks, because it lost track
 * of which of their pages are bad, keep it for ever and are not waited for.
 *
 * Our layout does not change while hvo_remap_mutex is held, so it is undone
 * wherever the folio is. A plain one with the flag may be in the hands of the
 * kernel's own HVO, which optimizes folios before they enter the pool and
 * knows nothing of the mutex: unless it is settled, it is left alone.
 */
static bool restorable(struct hstate *h, struct folio *folio, unsigned long *unsettled)
{
	enum hvo_layout layout = hvo_layout(folio, h->order);
	bool flagged, ok;

	if (layout == HVO_NATIVE_SHARED)
		return false;
	spin_lock_irq(hvo_kernel.hugetlb_lock);
	flagged = folio_test_hugetlb_vmemmap_optimized(folio);
	ok = settled(h, folio);
	if (flagged && !ok && !folio_test_hugetlb_raw_hwp_unreliable(folio))
		++*unsettled;
	spin_unlock_irq(hvo_kernel.hugetlb_lock);
	return flagged && (ok || layout == HVO_SHARED);
}

/* Returns 0 or -ENOMEM. */
static int restore_batch(struct cursor *cursor, unsigned long *unsettled)
{
	unsigned int i, done, count = 0, batch = READ_ONCE(hvo_settings.batch);
	struct hstate *h = cursor->h;
	struct folio *folio;

	lock_batch();
	for (i = 0; i < SCAN_MAX && count < batch && !cursor_at_end(cursor); i++) {
		folio = cursor_next(cursor);
		if (folio && restorable(h, folio, unsettled))
			folios[count++] = folio;
	}
	done = hvo_remap_restore(h, folios, count, false);
	for (i = 0; i < done; i++)
		release(h, folios[i]);
	unlock_batch();
	return done < count ? -ENOMEM : 0;
}

static int restore_node(struct hstate *h, int nid, bool interruptible,
			unsigned long *unsettled)
{
	struct cursor cursor;
	int ret;

	cursor_init(&cursor, h, nid);
	while (!cursor_at_end(&cursor)) {
		if (interruptible && signal_pending(current))
			return -EINTR;
		ret = restore_batch(&cursor, unsettled);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

static int restore_all(bool interruptible)
{
	unsigned long unsettled;
	struct hstate *h;
	int i, nid, ret;

	lockdep_assert_held(&switch_mutex);
	do {
		unsettled = 0;
		for (i = 0; i < *hvo_kernel.max_hstate; i++) {
			h = &hvo_kernel.hstates[i];
			if (!hvo_freed_pages(h->order))
				continue;
			for_each_online_node(nid) {
				ret = restore_node(h, nid, interruptible,
						   &unsettled);
				if (ret)
					return ret;
			}
		}
		/* On their way into the pool or out of it: not for long. */
		if (unsettled)
			msleep(20);
	} while (unsettled);

	mutex_lock(&hvo_remap_mutex);
	hvo_reserve_fill();
	mutex_unlock(&hvo_remap_mutex);
	return 0;
}

int hvo_pool_set(bool enable)
{
	int ret;

	atomic_inc(&switch_waiters);
	ret = mutex_lock_interruptible(&switch_mutex);
	atomic_dec(&switch_waiters);
	if (ret)
		return -EINTR;
	/* enabled=1 is a reference to the module, like an optimized folio. */
	if (enable && !hvo_settings.enabled)
		__module_get(THIS_MODULE);
	if (!enable && hvo_settings.enabled)
		module_put(THIS_MODULE);
	WRITE_ONCE(hvo_settings.new_folios, enable);
	WRITE_ONCE(hvo_settings.enabled, enable);
	ret = enable ? optimize_all() : restore_all(true);
	mutex_unlock(&switch_mutex);
	return ret;
}

unsigned long hvo_pool_in_use(struct hstate *h, int nid)
{
	unsigned long count = 0, looked = 0;
	struct cursor cursor;
	struct folio *folio;
	int n;

	if (!hvo_freed_pages(h->order))
		return 0;
	for_each_online_node(n) {
		if (nid != NUMA_NO_NODE && n != nid)
			continue;
		cursor_init(&cursor, h, n);
		hvo_get_online_mems();
		while (!cursor_at_end(&cursor)) {
			folio = cursor_next(&cursor);
			if (folio && folio_test_hugetlb_vmemmap_optimized(folio) &&
			    !folio_test_hugetlb_freed(folio) && folio_ref_count(folio) &&
			    hvo_layout(folio, h->order) == HVO_SHARED)
				count++;
			if (++looked % SCAN_MAX == 0)
				cond_resched();
		}
		hvo_put_online_mems();
	}
	return count;
}

/*
 * Nobody else can see these folios, so the flag is set and cleared without
 * hugetlb_lock.
 */
static void optimize_new(struct hstate *h, unsigned int count, bool may_split)
{
	unsigned int i;
	bool again = false;

	for (i = 0; i < count; i++)
		folio_set_hugetlb_vmemmap_optimized(candidates[i].folio);
	hvo_remap_optimize(h, candidates, count, may_split);
	for (i = 0; i < count; i++) {
		struct hvo_candidate *c = &candidates[i];

		if (c->skipped == HVO_NOT_SKIPPED)
			continue;
		folio_clear_hugetlb_vmemmap_optimized(c->folio);
		skip(h, c->folio, c->skipped);
		if (c->skipped == HVO_SKIPPED_BUSY)
			again = true;
	}
	if (again)
		hvo_pool_sweep_later();
}

void hvo_pool_new_folios(struct hstate *h, struct list_head *list, bool may_stop)
{
	unsigned int count = 0, batch = READ_ONCE(hvo_settings.batch);
	bool stops = hvo_arch_split_stops();
	enum hvo_stat obstacle = size_obstacle(h);
	bool may_split = may_stop || !stops;
	struct folio *folio;

	if (!READ_ONCE(hvo_settings.new_folios))
		return;
	if (obstacle != HVO_NOT_SKIPPED) {
		list_for_each_entry(folio, list, lru)
			skip(h, folio, obstacle);
		return;
	}

	if (may_stop && stops)
		cpus_read_lock();
	mutex_lock(&hvo_remap_mutex);
	if (may_split)
		list_for_each_entry(folio, list, lru)
			hvo_remap_split_ahead(h, folio);
	list_for_each_entry(folio, list, lru) {
		/* Switched off since: restore_all() may be past these. */
		if (!READ_ONCE(hvo_settings.new_folios))
			break;
		if (folio_test_hugetlb_vmemmap_optimized(folio)) {
			skip(h, folio, HVO_SKIPPED_NATIVE);
			continue;
		}
		candidates[count++] = (struct hvo_candidate){ .folio = folio };
		if (count == batch) {
			optimize_new(h, count, may_split);
			count = 0;
			cond_resched();
		}
	}
	if (count)
		optimize_new(h, count, may_split);
	/* None of them may stay pending, also if it was switched off. */
	hvo_split_flush();
	mutex_unlock(&hvo_remap_mutex);
	if (may_stop && stops)
		cpus_read_unlock();
}

static void sweep(struct work_struct *work)
{
	int ret = 0;

	mutex_lock(&switch_mutex);
	sweeping = true;
	if (hvo_settings.enabled)
		ret = optimize_all();
	sweeping = false;
	mutex_unlock(&switch_mutex);
	if (ret == -EINTR)
		hvo_pool_sweep_later();
}

static DECLARE_WORK(sweep_work, sweep);

void hvo_pool_sweep_later(void)
{
	if (READ_ONCE(hvo_settings.enabled))
		queue_work(system_unbound_wq, &sweep_work);
}

/* Returns how many of the first @count folios of a free list are optimized. */
static unsigned int collect_free(struct hstate *h, int nid, unsigned long count)
{
	unsigned int found = 0;
	struct folio *folio;

	spin_lock_irq(hvo_kernel.hugetlb_lock);
	list_for_each_entry(folio, &h->hugepage_freelists[nid], lru) {
		/* The kernel passes those over. */
		if (folio_test_hwpoison(folio))
			continue;
		if (!count-- || found == HVO_BATCH_MAX)
			break;
		if (folio_test_hugetlb_vmemmap_optimized(folio))
			folios[found++] = folio;
	}
	spin_unlock_irq(hvo_kernel.hugetlb_lock);
	return found;
}

static int restore_free(struct hstate *h, int nid, unsigned long count)
{
	unsigned int i, found, done;

	do {
		mutex_lock(&hvo_remap_mutex);
		found = collect_free(h, nid, count);
		hvo_reserve_fill();
		done = hvo_remap_restore(h, folios, found, true);
		for (i = 0; i < done; i++)
			release(h, folios[i]);
		mutex_unlock(&hvo_remap_mutex);
		if (done < found)
			return -ENOMEM;
		cond_resched();
	} while (found);
	return 0;
}

int hvo_pool_demote_begin(struct hstate *h, int nid, unsigned long count)
{
	int n, ret;

	if (!hvo_freed_pages(h->order))
		return 0;
	mutex_lock(&hvo_remap_mutex);
	nr_demoting++;
	mutex_unlock(&hvo_remap_mutex);
	for_each_online_node(n) {
		if (nid != NUMA_NO_NODE && n != nid)
			continue;
		ret = restore_free(h, n, count);
		if (ret) {
			hvo_pool_demote_end(h);
			return ret;
		}
	}
	return 0;
}

void hvo_pool_demote_end(struct hstate *h)
{
	if (!hvo_freed_pages(h->order))
		return;
	mutex_lock(&hvo_remap_mutex);
	if (!--nr_demoting)
		wake_up_all(&demoted);
	mutex_unlock(&hvo_remap_mutex);
	hvo_pool_sweep_later();
}

static void refill(struct work_struct *work)
{
	mutex_lock(&hvo_remap_mutex);
	hvo_reserve_fill();
	mutex_unlock(&hvo_remap_mutex);
}

static DECLARE_WORK(refill_work, refill);

unsigned int hvo_pool_restore(const struct hstate *h, struct folio **list,
			      unsigned int count)
{
	unsigned int i, done;

	mutex_lock(&hvo_remap_mutex);
	hvo_reserve_fill();
	done = hvo_remap_restore(h, list, count, true);
	for (i = 0; i < done; i++)
		folio_clear_hugetlb_vmemmap_optimized(list[i]);
	hvo_reserve_fill();
	/* The caller is about to free what pays for it. */
	if (hvo_reserve_is_short())
		queue_work(system_unbound_wq, &refill_work);
	mutex_unlock(&hvo_remap_mutex);
	return done;
}

int hvo_pool_init(void)
{
	candidates = kvcalloc(HVO_BATCH_MAX, sizeof(*candidates), GFP_KERNEL);
	folios = kvcalloc(HVO_BATCH_MAX, sizeof(*folios), GFP_KERNEL);
	if (!candidates || !folios) {
		kvfree(folios);
		kvfree(candidates);
		return -ENOMEM;
	}
	return 0;
}

void hvo_pool_quiesce(void)
{
	WRITE_ONCE(hvo_settings.new_folios, 0);
	mutex_lock(&switch_mutex);
	while (restore_all(false))
		msleep(100);
	mutex_unlock(&switch_mutex);
}

void hvo_pool_exit(void)
{
	cancel_work_sync(&sweep_work);
	cancel_work_sync(&refill_work);
	kvfree(folios);
	kvfree(candidates);
}
