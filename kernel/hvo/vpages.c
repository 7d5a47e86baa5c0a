// SPDX-License-Identifier: GPL-2.0-only
/*
 * The frames that hold struct pages.
 *
 * At boot memblock gives them out: they are PG_reserved and outside of what
 * the buddy allocator manages (totalram). Freeing one adds it there for good.
 * What is allocated when a folio is restored comes from the buddy allocator,
 * like the vmemmap of memory that is added later, and goes back to it. The
 * kernel counts the two kinds apart: nr_memmap_boot_pages and nr_memmap_pages.
 *
 * On kernels that register boot memory for hot-removal (x86), a reserved frame
 * has a second reference and a type in page->index; put_page_bootmem() undoes
 * both and frees it.
 *
 * The reserve is a list of frames that is guarded by hvo_remap_mutex. It is
 * used when the kernel frees a folio and memory is too short to restore its
 * vmemmap: without the module that would have worked, so it has to work now.
 */
#include <linux/bootmem_info.h>
#include <linux/gfp.h>
#include <linux/kmemleak.h>
#include <linux/moduleparam.h>

#include "hvo.h"
#include "remap.h"
#include "stats.h"
#include "symbols.h"
#include "verify.h"
#include "vpages.h"

/* Failure is handled, and must not fill the log. */
#define HVO_GFP		(GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)
#define HVO_GFP_LIGHT	(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN)

static LIST_HEAD(reserve);
static unsigned long nr_reserve, nr_wanted;

/* Optimized folios of each size; guarded by hvo_remap_mutex. */
static long nr_optimized[HUGE_MAX_HSTATE];

#ifdef HVO_TEST
static int fail_alloc = -1;
module_param(fail_alloc, int, 0644);
MODULE_PARM_DESC(fail_alloc, "So many more vmemmap pages can be had, then none (-1: off)");

static bool fail_reserve;
module_param(fail_reserve, bool, 0644);
MODULE_PARM_DESC(fail_reserve, "The reserve pretends to be empty");

static bool injection(void)
{
	return READ_ONCE(fail_alloc) >= 0;
}

static bool injected_failure(void)
{
	int left = READ_ONCE(fail_alloc);

	if (left > 0)
		WRITE_ONCE(fail_alloc, left - 1);
	return !left;
}

static bool injected_empty_reserve(void)
{
	return READ_ONCE(fail_reserve);
}
#else
static bool injection(void)
{
	return false;
}

static bool injected_failure(void)
{
	return false;
}

static bool injected_empty_reserve(void)
{
	return false;
}
#endif

static void free_boot_frame(struct page *page)
{
#ifdef CONFIG_HAVE_BOOTMEM_INFO_NODE
	unsigned long type = page->index;

	if (page_ref_count(page) == 2 &&
	    (type == SECTION_INFO || type == MIX_SECTION_INFO)) {
		hvo_put_page_bootmem(page);
		return;
	}
#endif
	kmemleak_free_part_phys(PFN_PHYS(page_to_pfn(page)), PAGE_SIZE);
	free_reserved_page(page);
}

void hvo_vpages_free(struct list_head *frames)
{
	struct page *page, *next;
	long boot = 0, buddy = 0;

	list_for_each_entry_safe(page, next, frames, lru) {
		list_del(&page->lru);
		hvo_verify_frame_free(page);
		if (PageReserved(page)) {
			free_boot_frame(page);
			boot++;
		} else {
			__free_page(page);
			buddy++;
		}
		hvo_resched(boot + buddy);
	}
	if (boot)
		hvo_memmap_boot_pages_add(-boot);
	if (buddy)
		hvo_memmap_pages_add(-buddy);
}

static struct page *take_reserve(void)
{
	struct page *page;

	if (list_empty(&reserve) || injected_empty_reserve())
		return NULL;
	page = list_first_entry(&reserve, struct page, lru);
	list_del(&page->lru);
	WRITE_ONCE(nr_reserve, nr_reserve - 1);
	return page;
}

static void put_reserve(struct page *page)
{
	list_add(&page->lru, &reserve);
	WRITE_ONCE(nr_reserve, nr_reserve + 1);
}

int hvo_vpages_alloc(int nid, unsigned long count, bool reserved,
		     struct list_head *frames)
{
	struct page *page, *next;
	unsigned long i = 0;
	LIST_HEAD(got);

	/* As many as the processor's free lists have, then one by one. */
	if (!injection())
		i = __alloc_pages_bulk(HVO_GFP, nid, NULL, count, &got, NULL);
	for (; i < count; i++) {
		page = injected_failure() ? NULL : alloc_pages_node(nid, HVO_GFP, 0);
		if (!page && reserved)
			page = take_reserve();
		if (!page)
			goto free;
		list_add(&page->lru, &got);
		hvo_resched(i);
	}
	hvo_memmap_pages_add(count);
	list_splice(&got, frames);
	return 0;

free:
	/* Frames of the reserve must not be lost to others here. */
	list_for_each_entry_safe(page, next, &got, lru) {
		list_del(&page->lru);
		if (reserved)
			put_reserve(page);
		else
			__free_page(page);
	}
	return -ENOMEM;
}

void hvo_reserve_account(const struct hstate *h, long delta)
{
	long *optimized = &nr_optimized[h - hvo_kernel.hstates];
	unsigned long wanted = 0;
	int i;

	lockdep_assert_held(&hvo_remap_mutex);
	*optimized += delta;
	/* Only the first and the last folio of a size make a difference. */
	if (*optimized && *optimized != delta)
		return;
	for (i = 0; i < *hvo_kernel.max_hstate; i++)
		if (nr_optimized[i])
			wanted = max(wanted, hvo_freed_pages(hvo_kernel.hstates[i].order));
	nr_wanted = wanted;
}

void hvo_reserve_fill(void)
{
	struct page *page;

	lockdep_assert_held(&hvo_remap_mutex);
	while (nr_reserve < nr_wanted) {
		page = injected_failure() ? NULL : alloc_pages_node(numa_mem_id(), HVO_GFP_LIGHT,
								    0);
		if (!page)
			return;
		put_reserve(page);
	}
	while (nr_reserve > nr_wanted) {
		page = list_first_entry(&reserve, struct page, lru);
		list_del(&page->lru);
		WRITE_ONCE(nr_reserve, nr_reserve - 1);
		__free_page(page);
	}
}

bool hvo_reserve_is_short(void)
{
	return nr_reserve < nr_wanted;
}

unsigned long hvo_reserve_kb(void)
{
	return READ_ONCE(nr_reserve) << (PAGE_SHIFT - 10);
}
