// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the module tries when it is loaded, before it touches anybody's memory.
 *
 * A compound page is made to look like a HugeTLB folio that the kernel has just
 * allocated: frozen, marked as HugeTLB, on no list. Whoever comes by (compaction,
 * memory failure) treats it like one that is about to enter the pool and waits
 * or leaves. It is optimized and restored by the functions that do so with
 * real folios; its struct pages must read the same at each point. Where the
 * kernel has HVO itself, selftest_native.c goes on.
 *
 * A folio that could not be brought back is not freed: the allocator would
 * write to its struct pages.
 */
#include <linux/cpu.h>
#include <linux/slab.h>

#include "hvo.h"
#include "backend.h"
#include "contents.h"
#include "pte.h"
#include "remap.h"
#include "selftest.h"
#include "selftest_folio.h"
#include "symbols.h"
#include "vpages.h"

/* Something else is at work on the page: try another one. */
#define ATTEMPTS	3

/* Struct pages 0 to 2 of a new folio say something about the folio. */
#define FIRST_PLAIN_TAIL	3
/* Struct pages in a vmemmap page. */
#define PER_PAGE		(PAGE_SIZE / sizeof(struct page))

static char result[64] = "not run";

void hvo_test_folio_lock(void)
{
	cpus_read_lock();
	hvo_get_online_mems();
	mutex_lock(&hvo_remap_mutex);
}

void hvo_test_folio_unlock(void)
{
	mutex_unlock(&hvo_remap_mutex);
	hvo_put_online_mems();
	cpus_read_unlock();
}

unsigned long hvo_test_folio_difference(const struct hvo_test_folio *test)
{
	const struct page *now = &test->folio->page;
	unsigned long i;

	for (i = 1; i < 1UL << test->h->order; i++)
		if (memcmp(&now[i], &test->before[i], sizeof(*now)))
			return i;
	return 0;
}

void hvo_test_folio_repair(struct hvo_test_folio *test)
{
	struct page *pages = &test->folio->page;
	unsigned long i;

	for (i = 1; i < 1UL << test->h->order; i++)
		pages[i] = test->before[i];
}

bool hvo_test_folio_is_plain(const struct hvo_test_folio *test)
{
	unsigned long i, pages = hvo_vmemmap_pages(test->h->order);
	bool plain;

	hvo_test_folio_lock();
	plain = hvo_layout(test->folio, test->h->order) == HVO_PLAIN;
	for (i = 0; plain && i < pages; i++) {
		pte_t *pte = hvo_pte(hvo_vmemmap_address(test->folio, i));

		/* A block that was never split is read-write. */
		plain = !pte || pte_write(ptep_get(pte));
	}
	hvo_test_folio_unlock();
	return plain;
}

static int check_restored(const struct hvo_test_folio *test)
{
	unsigned long difference = hvo_test_folio_difference(test);

	if (difference) {
		pr_err("struct page %lu is wrong after the restore\n", difference);
		return -EIO;
	}
	if (!hvo_test_folio_is_plain(test)) {
		pr_err("struct pages are not writable after the restore\n");
		return -EIO;
	}
	return 0;
}

int hvo_test_folio_restore(struct hvo_test_folio *test)
{
	unsigned int done;

	hvo_test_folio_lock();
	done = hvo_remap_restore(test->h, &test->folio, 1, false);
	/* Filled for a folio that is plain again. */
	hvo_reserve_fill();
	hvo_test_folio_unlock();
	if (!done)
		return -ENOMEM;
	folio_clear_hugetlb_vmemmap_optimized(test->folio);
	return check_restored(test);
}

/*
 * Returns -EBUSY if the page cannot be used, for a reason that does not say
 * anything about the module.
 */
static int optimize(struct hvo_test_folio *test)
{
	struct hvo_candidate candidate = { .folio = test->folio };
	int ret;

	folio_set_hugetlb_vmemmap_optimized(test->folio);
	hvo_test_folio_lock();
	ret = hvo_remap_optimize(test->h, &candidate, 1, true);
	hvo_test_folio_unlock();
	if (candidate.skipped == HVO_NOT_SKIPPED)
		return 0;
	folio_clear_hugetlb_vmemmap_optimized(test->folio);
	if (ret == -ENOMEM)
		return ret;
	snprintf(result, sizeof(result), "not run: %s", hvo_stat_names[candidate.skipped]);
	return -EBUSY;
}

static int test_own(struct hvo_test_folio *test)
{
	unsigned long difference;
	int ret;

	ret = optimize(test);
	if (ret)
		return ret;
	if (hvo_layout(test->folio, test->h->order) != HVO_SHARED) {
		pr_err("the vmemmap is not shared after optimizing\n");
		return -EIO;
	}
	difference = hvo_test_folio_difference(test);
	if (difference) {
		pr_err("struct page %lu is wrong while optimized\n", difference);
		return -EIO;
	}
	return hvo_test_folio_restore(test);
}

/* The largest size that the buddy allocator has and that is worth it. */
static struct hstate *find_size(void)
{
	struct hstate *h, *found = NULL;
	int i;

	for (i = 0; i < *hvo_kernel.max_hstate; i++) {
		h = &hvo_kernel.hstates[i];
		if (h->order > MAX_PAGE_ORDER || !hvo_freed_pages(h->order))
			continue;
		if (!found || h->order > found->order)
			found = h;
	}
	return found;
}

/*
 * Leftover words of the tails are made equal now, not by the first optimizing:
 * after that, everything has to stay as it is. Also those of the first vmemmap
 * page, from which the struct pages come if it is the one that was shared.
 */
static int remember(struct hvo_test_folio *test)
{
	size_t size = sizeof(struct page) << test->h->order;
	struct page *pages = &test->folio->page;
	unsigned int i;

	if (!hvo_tails_align(test->folio, test->h->order)) {
		snprintf(result, sizeof(result), "not run: %s",
			 hvo_stat_names[HVO_SKIPPED_CONTENTS]);
		return -EBUSY;
	}
	for (i = FIRST_PLAIN_TAIL; i < PER_PAGE; i++)
		pages[i] = pages[PER_PAGE];
	test->before = kvmemdup(pages, size, GFP_KERNEL);
	return test->before ? 0 : -ENOMEM;
}

static int alloc_test_folio(struct hvo_test_folio *test)
{
	struct page *page;

	page = alloc_pages(GFP_KERNEL | __GFP_COMP | __GFP_RETRY_MAYFAIL | __GFP_NOWARN,
			   test->h->order);
	if (!page)
		return -ENOMEM;
	test->folio = page_folio(page);
	if (!folio_ref_freeze(test->folio, 1)) {
		__free_pages(page, test->h->order);
		test->folio = NULL;
		snprintf(result, sizeof(result), "not run: %s",
			 hvo_stat_names[HVO_SKIPPED_BUSY]);
		return -EBUSY;
	}
	__folio_set_hugetlb(test->folio);
	test->folio->private = NULL;
	INIT_LIST_HEAD(&test->folio->lru);
	return 0;
}

static void free_test_folio(struct hvo_test_folio *test)
{
	if (!test->folio)
		return;
	if (!hvo_test_folio_is_plain(test)) {
		pr_err("the folio of the self-test is lost\n");
		goto free_copy;
	}
	if (test->before)
		hvo_test_folio_repair(test);
	__folio_clear_hugetlb(test->folio);
	test->folio->private = NULL;
	folio_ref_unfreeze(test->folio, 1);
	__free_pages(&test->folio->page, test->h->order);
free_copy:
	kvfree(test->before);
}

static int run(struct hstate *h)
{
	struct hvo_test_folio test = { .h = h };
	bool broken;
	int ret;

	ret = alloc_test_folio(&test) ?: remember(&test) ?: test_own(&test);
	if (ret)
		goto free;
	strscpy(result, "ok", sizeof(result));
	if (IS_ENABLED(CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP) && hvo_backend.has_native) {
		ret = hvo_selftest_native(&test, &broken);
		if (ret)
			goto free;
		snprintf(result, sizeof(result), "ok; native restore: %s",
			 broken ? "broken, replaced while loaded" : "ok");
	}

free:
	free_test_folio(&test);
	return ret;
}

int hvo_selftest_run(void)
{
	struct hstate *h = find_size();
	int attempt, ret = -EBUSY;

	if (!h) {
		strscpy(result, "not run: no size that fits", sizeof(result));
		return 0;
	}
	for (attempt = 0; attempt < ATTEMPTS && ret == -EBUSY; attempt++)
		ret = run(h);
	if (ret == -EIO)
		strscpy(result, "restored struct pages are wrong", sizeof(result));
	else if (ret == -ENOMEM)
		strscpy(result, "out of memory", sizeof(result));
	/* Nothing is known to be wrong: each folio is checked when it comes. */
	return ret == -EBUSY ? 0 : ret;
}

const char *hvo_selftest_result(void)
{
	return result;
}
