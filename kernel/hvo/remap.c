// SPDX-License-Identifier: GPL-2.0-only
/*
 * Optimizing and restoring the vmemmap of a folio.
 *
 * States of a folio, as its entries show them (hvo_layout()):
 *
 *	PLAIN --- hvo_remap_optimize() ---> SHARED
 *	      <-- hvo_remap_restore() -----
 *
 * and, on kernels with HVO of their own, NATIVE_SHARED, which we only leave.
 *
 * Who may do it. The caller holds hvo_remap_mutex, and the folio cannot leave
 * the pool meanwhile: either nobody else has seen it yet, or its flag
 * HPG_vmemmap_optimized was set under hugetlb_lock while it was in the pool or
 * in use. A folio with that flag is only freed by way of our hook, which takes
 * the mutex. So a folio in use can be mapped, written, forked, migrated and
 * freed at any time; what is excluded is that its struct pages become those of
 * small pages.
 *
 * Lock order, outermost first:
 *
 *	pool.c's switch mutex
 *	hstate.resize_lock		held by the kernel around some hooks
 *	cpu_hotplug_lock (read)		before the mutex, because the kernel
 *	mem_hotplug_lock (read)		offlines memory, and calls hooks, with
 *					both held
 *	hvo_remap_mutex
 *	hugetlb_lock			spinlock, interrupts off
 *
 * mf_mutex is held by memory_failure() while it may free a folio through our
 * hook, so here it is only tried.
 *
 * Optimizing, for a batch of folios, step by step:
 *
 *  1. Blocks that map the vmemmap are split (split.c).
 *  2. Writers from before the folio was a HugeTLB folio are waited for. There
 *     are two kinds that write to a struct page after a look at what it was:
 *     page_ref_add_unless() looks and writes in one RCU section, so a grace
 *     period ends all that saw a reference count other than 0; memory_failure()
 *     looks and writes PG_hwpoison under mf_mutex, so it has gone when the
 *     mutex is found free once. Those that look later see a tail of a HugeTLB
 *     folio with reference count 0 and keep off.
 *  3. Leftover words of the tails are made equal, while they are writable.
 *  4. HVO_PROTECT: pages 1 and later become read-only; flush. Only permissions
 *     change: no break-before-make. From here on nobody can write, and if step
 *     2 or the inventory of writers were wrong, the kernel would say so by a
 *     fault instead of losing the write.
 *  5. The frames are compared; a folio whose tails differ goes back to
 *     read-write.
 *  6. HVO_SHARE: pages 2 and later change to the frame of page 1. Both old and
 *     new entry are read-only and both frames say the same, which is what the
 *     Arm ARM asks for an output address to change without break-before-make.
 *     A reader gets either frame, and the same words. Flush.
 *  7. No TLB has the old frames now: they are given back.
 *
 * Restoring: new frames are filled with what the shared one says;
 * HVO_UNSHARE changes the addresses, read-only to read-only with equal
 * contents; flush: the shared frame has one entry again; HVO_UNPROTECT makes
 * all of them read-write; flush. Until that ends nobody writes to the tails:
 * the folio is still a HugeTLB folio, and what would take it apart waits in
 * our hook or behind the mutex.
 *
 * Readers run at any time without a lock (page_folio() of any pfn,
 * /proc/kpageflags, compaction): every word they read is the same before,
 * during and after each step.
 *
 * A natively optimized folio is another matter: all its pages show the first
 * frame, where some struct pages are not plain tails. It is only restored when
 * the kernel is about to free it or take it apart, so nobody uses it; readers
 * that walk by pfn know of such fake heads as long as the kernel's static key
 * is on, which our caller takes back only after the restore. The addresses
 * change to frames with other contents (HVO_NATIVE), which x86 allows, and
 * only x86 has such folios. As the kernel does, we wait for a grace period
 * before, so that nobody is between the fake-head test and the write in
 * page_ref_add_unless().
 *
 * Each optimized folio holds a reference to the module.
 */
#include <linux/module.h>
#include <linux/rcupdate.h>

#include "hvo.h"
#include "contents.h"
#include "pgtable.h"
#include "pte.h"
#include "remap.h"
#include "split.h"
#include "symbols.h"
#include "trace.h"
#include "vpages.h"

/* For every change of a vmemmap entry; its place among the locks is above. */
DEFINE_MUTEX(hvo_remap_mutex);

enum hvo_layout hvo_layout(const struct folio *folio, unsigned int order)
{
	pte_t *pte[3];
	int i;

	for (i = 0; i < 3; i++) {
		pte[i] = hvo_pte(hvo_vmemmap_address(folio, i));
		if (!pte[i])
			return HVO_PLAIN;
	}
	if (pte_pfn(ptep_get(pte[1])) != pte_pfn(ptep_get(pte[2])))
		return HVO_PLAIN;
	return pte_pfn(ptep_get(pte[0])) == pte_pfn(ptep_get(pte[1])) ?
	       HVO_NATIVE_SHARED : HVO_SHARED;
}

/* The same step for vmemmap pages @from and later; to be flushed. */
static void step_all(const struct folio *folio, unsigned int order,
		     unsigned long from, enum hvo_step step, struct hvo_flush *flush)
{
	unsigned long i, pages = hvo_vmemmap_pages(order);

	for (i = from; i < pages; i++) {
		hvo_pte_step(hvo_vmemmap_address(folio, i), step, NULL);
		hvo_resched(i);
	}
	hvo_flush_add(flush, hvo_vmemmap_address(folio, from),
		      hvo_vmemmap_address(folio, pages));
}

/* Is there something about how the vmemmap is mapped that forbids changes? */
static enum hvo_stat mapping_obstacle(const struct folio *folio, unsigned int order)
{
	unsigned long address = (unsigned long)folio;
	unsigned long end = address + hvo_vmemmap_pages(order) * PAGE_SIZE;
	struct page *frame;
	pmd_t *pmd;
	pte_t *pte;

	/* No architecture of ours maps the vmemmap by larger blocks. */
	pmd = hvo_pmd(address);
	if (!pmd)
		return HVO_SKIPPED_CONTIGUOUS;
	/*
	 * With memmap_on_memory the struct pages lie in the very memory block
	 * that they describe, at its start: looking at the first is enough.
	 */
	pte = hvo_pte(address);
	frame = pte ? pte_page(ptep_get(pte)) :
		      pmd_page(pmdp_get(pmd)) + pte_index(address);
	if (PageVmemmapSelfHosted(frame))
		return HVO_SKIPPED_SELF_HOSTED;

	for (; address < end; address += PAGE_SIZE) {
		pte = hvo_pte(address);
		if (pte ? hvo_arch_pte_contiguous(ptep_get(pte)) :
			  hvo_arch_pmd_contiguous(pmdp_get(hvo_pmd(address))))
			return HVO_SKIPPED_CONTIGUOUS;
	}
	return HVO_NOT_SKIPPED;
}

void hvo_remap_split_ahead(struct hstate *h, struct folio *folio)
{
	lockdep_assert_held(&hvo_remap_mutex);
	/* Without memory for that, hvo_remap_optimize() will say so. */
	if (mapping_obstacle(folio, h->order) == HVO_NOT_SKIPPED &&
	    hvo_split_needed(folio, h->order))
		hvo_split_folio(h, folio);
}

/* Step 1. Returns -ENOMEM if a folio was skipped for that. */
static int split_blocks(struct hstate *h, struct hvo_candidate *candidates,
			unsigned int count, bool may_split)
{
	struct hvo_candidate *c;
	int ret = 0;

	for (c = candidates; c < candidates + count; c++) {
		c->skipped = mapping_obstacle(c->folio, h->order);
		if (c->skipped != HVO_NOT_SKIPPED ||
		    !hvo_split_needed(c->folio, h->order))
			continue;
		if (!may_split) {
			c->skipped = HVO_SKIPPED_BUSY;
		} else if (hvo_split_folio(h, c->folio)) {
			c->skipped = HVO_SKIPPED_NO_MEMORY;
			ret = -ENOMEM;
		}
	}
	hvo_split_flush();
	return ret;
}

/* Step 2. Returns false if memory_failure() is at work. */
static bool wait_for_writers(void)
{
	synchronize_rcu_expedited();
	if (!mutex_trylock(hvo_kernel.mf_mutex))
		return false;
	mutex_unlock(hvo_kernel.mf_mutex);
	return true;
}

/* Steps 3 to 5. */
static void protect(struct hstate *h, struct hvo_candidate *candidates,
		    unsigned int count)
{
	struct hvo_flush flush = {};
	struct hvo_candidate *c;

	for (c = candidates; c < candidates + count; c++) {
		if (c->skipped != HVO_NOT_SKIPPED)
			continue;
		if (hvo_tails_align(c->folio, h->order))
			step_all(c->folio, h->order, HVO_SHARED_PAGE, HVO_PROTECT, &flush);
		else
			c->skipped = HVO_SKIPPED_CONTENTS;
	}
	hvo_flush_done(&flush);

	for (c = candidates; c < candidates + count; c++) {
		if (c->skipped != HVO_NOT_SKIPPED || hvo_tails_equal(c->folio, h->order))
			continue;
		c->skipped = HVO_SKIPPED_CONTENTS;
		step_all(c->folio, h->order, HVO_SHARED_PAGE, HVO_UNPROTECT, &flush);
	}
	hvo_flush_done(&flush);
}

/* Step 6. The frames that no entry maps any more are added to @frames. */
static void share(const struct folio *folio, unsigned int order,
		  struct list_head *frames, struct hvo_flush *flush)
{
	unsigned long i, pages = hvo_vmemmap_pages(order);
	struct page *shared = hvo_frame(hvo_vmemmap_address(folio, HVO_SHARED_PAGE));

	for (i = HVO_KEPT_PAGES; i < pages; i++) {
		unsigned long address = hvo_vmemmap_address(folio, i);

		list_add(&hvo_frame(address)->lru, frames);
		hvo_pte_step(address, HVO_SHARE, shared);
		hvo_resched(i);
	}
	hvo_flush_add(flush, hvo_vmemmap_address(folio, HVO_KEPT_PAGES),
		      hvo_vmemmap_address(folio, pages));
}

int hvo_remap_optimize(struct hstate *h, struct hvo_candidate *candidates,
		       unsigned int count, bool may_split)
{
	struct hvo_flush flush = {};
	struct hvo_candidate *c;
	LIST_HEAD(frames);
	int ret;

	lockdep_assert_held(&hvo_remap_mutex);
	ret = split_blocks(h, candidates, count, may_split);
	if (!wait_for_writers()) {
		for (c = candidates; c < candidates + count; c++)
			c->skipped = HVO_SKIPPED_BUSY;
		return -EAGAIN;
	}
	protect(h, candidates, count);

	for (c = candidates; c < candidates + count; c++) {
		if (c->skipped != HVO_NOT_SKIPPED)
			continue;
		share(c->folio, h->order, &frames, &flush);
		__module_get(THIS_MODULE);
		hvo_stat_add(h, folio_nid(c->folio), HVO_OPTIMIZED, 1);
		hvo_reserve_account(h, 1);
		trace_hvo_convert(c->folio, c->in_use);
	}
	hvo_flush_done(&flush);
	hvo_vpages_free(&frames);
	hvo_reserve_fill();
	return ret;
}

/* The first vmemmap page that shares another one's frame. */
static unsigned long first_sharing(enum hvo_layout layout)
{
	return layout == HVO_NATIVE_SHARED ? 1 : HVO_KEPT_PAGES;
}

/*
 * Struct pages for a frame of tails. The shared frame has nothing else; of the
 * frame that the kernel's HVO shares, the last struct page is a plain tail.
 */
static void fill_tails(void *to, void *shared, enum hvo_layout layout)
{
	const size_t size = sizeof(struct page);
	void *tail = shared + PAGE_SIZE - size;
	size_t at;

	if (layout == HVO_SHARED) {
		copy_page(to, shared);
		return;
	}
	for (at = 0; at < PAGE_SIZE; at += size)
		memcpy(to + at, tail, size);
}

static void unshare(const struct folio *folio, unsigned int order,
		    enum hvo_layout layout, struct list_head *frames,
		    struct hvo_flush *flush)
{
	unsigned long i, from = first_sharing(layout), pages = hvo_vmemmap_pages(order);
	void *shared = page_address(hvo_frame(hvo_vmemmap_address(folio, from)));
	struct page *frame;

	for (i = from; i < pages; i++) {
		frame = list_first_entry(frames, struct page, lru);
		list_del(&frame->lru);
		fill_tails(page_address(frame), shared, layout);
		hvo_pte_step(hvo_vmemmap_address(folio, i),
			     layout == HVO_SHARED ? HVO_UNSHARE : HVO_NATIVE, frame);
		hvo_resched(i);
	}
	hvo_flush_add(flush, hvo_vmemmap_address(folio, from),
		      hvo_vmemmap_address(folio, pages));
}

/* Folios that are restored with the same two flushes. */
#define RESTORE_BATCH	32

static unsigned int restore_batch(const struct hstate *h, struct folio **folios,
				  unsigned int count, bool reserved)
{
	enum hvo_layout layout[RESTORE_BATCH];
	struct hvo_flush flush = {};
	unsigned int i, done;
	bool native = false;
	LIST_HEAD(frames);

	for (done = 0; done < count; done++) {
		struct folio *folio = folios[done];

		layout[done] = hvo_layout(folio, h->order);
		if (layout[done] == HVO_PLAIN)
			continue;
		if (layout[done] == HVO_NATIVE_SHARED && !native) {
			synchronize_rcu();
			native = true;
		}
		if (hvo_vpages_alloc(folio_nid(folio), hvo_vmemmap_pages(h->order) -
				     first_sharing(layout[done]), reserved, &frames)) {
			hvo_stat_add(h, folio_nid(folio), HVO_RESTORE_FAILURES, 1);
			trace_hvo_restore(folio, -ENOMEM);
			break;
		}
		unshare(folio, h->order, layout[done], &frames, &flush);
	}
	hvo_flush_done(&flush);

	for (i = 0; i < done; i++) {
		if (layout[i] == HVO_PLAIN)
			continue;
		/* The kernel's HVO leaves page 0 read-write. */
		step_all(folios[i], h->order, HVO_SHARED_PAGE, HVO_UNPROTECT, &flush);
		trace_hvo_restore(folios[i], 0);
		if (layout[i] == HVO_NATIVE_SHARED)
			continue;
		hvo_stat_add(h, folio_nid(folios[i]), HVO_OPTIMIZED, -1);
		hvo_reserve_account(h, -1);
		module_put(THIS_MODULE);
	}
	hvo_flush_done(&flush);
	return done;
}

unsigned int hvo_remap_restore(const struct hstate *h, struct folio **folios,
			       unsigned int count, bool reserved)
{
	unsigned int done = 0, batch, n;

	lockdep_assert_held(&hvo_remap_mutex);
	while (done < count) {
		batch = min_t(unsigned int, count - done, RESTORE_BATCH);
		n = restore_batch(h, folios + done, batch, reserved);
		done += n;
		if (n < batch)
			break;
	}
	return done;
}
