// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's own HVO, put to the test on a folio of ours.
 *
 * In its layout all virtual vmemmap pages show the frame of the first one; its
 * restore has to fill each new frame with plain tails. From 6.12.115 on it
 * copies the first frame instead, so that every 64th struct page is a second
 * head, and the folio is lost when it is freed. No version number is asked:
 * the folio is put into that layout here, and the kernel's function, called
 * past our hook, restores it. What it did wrong is repaired from the copy.
 *
 * Then ours restores the same layout, which it must do right on every kernel.
 */
#include <linux/jump_label.h>
#include <linux/page-flags.h>
#include <linux/rcupdate.h>

#include "hvo.h"
#include "backend.h"
#include "pte.h"
#include "remap.h"
#include "selftest_folio.h"
#include "verify.h"
#include "vpages.h"

static void step_all(const struct folio *folio, unsigned int order, enum hvo_step step,
		     struct page *frame)
{
	unsigned long i, pages = hvo_vmemmap_pages(order);
	struct hvo_flush flush = {};

	for (i = 1; i < pages; i++)
		hvo_pte_step(hvo_vmemmap_address(folio, i), step, frame);
	hvo_flush_add(&flush, hvo_vmemmap_address(folio, 1),
		      hvo_vmemmap_address(folio, pages));
	hvo_flush_done(&flush);
}

/*
 * As the kernel does: who reads struct pages must look out for fake heads
 * before there are any, so first the key, then a grace period.
 */
static void make_native(struct hvo_test_folio *test)
{
	unsigned long i, pages = hvo_vmemmap_pages(test->h->order);
	struct folio *folio = test->folio;
	LIST_HEAD(frames);

	static_branch_inc(&hugetlb_optimize_vmemmap_key);
	synchronize_rcu();
	folio_set_hugetlb_vmemmap_optimized(folio);

	hvo_test_folio_lock();
	step_all(folio, test->h->order, HVO_PROTECT, NULL);
	for (i = 1; i < pages; i++)
		list_add(&hvo_frame(hvo_vmemmap_address(folio, i))->lru, &frames);
	step_all(folio, test->h->order, HVO_NATIVE, hvo_frame((unsigned long)folio));
	hvo_vpages_free(&frames);
	hvo_test_folio_unlock();
}

static void forget_entries(const struct hvo_test_folio *test)
{
	hvo_test_folio_lock();
	hvo_verify_forget(hvo_vmemmap_address(test->folio, 0),
			  hvo_vmemmap_address(test->folio, hvo_vmemmap_pages(test->h->order)));
	hvo_test_folio_unlock();
}

/* The kernel's function takes the flag and the key back if it succeeds. */
static int try_kernels_restore(struct hvo_test_folio *test, bool *ret_broken)
{
	unsigned long difference;
	int ret;

	ret = hvo_backend.native_restore(test->h, test->folio);
	if (ret)
		return ret;
	forget_entries(test);
	if (!hvo_test_folio_is_plain(test)) {
		pr_err("the kernel's own restore does not restore\n");
		return -EIO;
	}
	difference = hvo_test_folio_difference(test);
	if (difference) {
		hvo_test_folio_repair(test);
		pr_warn("the kernel's own HVO restores wrong struct pages (number %lu is the first); the module does it in its place while it is loaded\n",
			difference);
	}
	*ret_broken = difference;
	return 0;
}

static int try_our_restore(struct hvo_test_folio *test)
{
	int ret = hvo_test_folio_restore(test);

	if (ret != -ENOMEM)
		static_branch_dec(&hugetlb_optimize_vmemmap_key);
	return ret;
}

int hvo_selftest_native(struct hvo_test_folio *test, bool *ret_broken)
{
	bool broken;
	int ret;

	make_native(test);
	ret = try_kernels_restore(test, &broken);
	if (ret == -ENOMEM)
		try_our_restore(test);
	if (ret)
		return ret;
	make_native(test);
	ret = try_our_restore(test);
	if (ret)
		return ret;
	*ret_broken = broken;
	return 0;
}
