// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernels with HVO of their own (amd64 6.12).
 *
 * All that the kernel does with a folio's vmemmap it does in four functions,
 * which are hooked:
 *
 * hugetlb_vmemmap_restore_folio(s)	called with folios that are removed from
 *		the pool, before anything writes their tails, in a context that
 *		may sleep. Replaced: ours restores either layout. (From 6.12.115
 *		on the kernel's own leaves copies of the head's struct pages in
 *		the tails; selftest.c finds out.)
 * hugetlb_vmemmap_optimize_folio(s)	called with new folios before they enter
 *		the pool. The kernel's goes first, if it is switched on; what it
 *		left plain is ours.
 *
 * A natively optimized folio counts in the static key
 * hugetlb_optimize_vmemmap_key, which makes readers look out for fake heads:
 * it is decremented when such a folio is restored, outside of hvo_remap_mutex,
 * because that takes cpu_hotplug_lock.
 */
#include <linux/jump_label.h>
#include <linux/page-flags.h>
#include <linux/static_call.h>

#include "hvo.h"
#include "backend.h"
#include "hook.h"
#include "pool.h"
#include "remap.h"
#include "symbols.h"

typedef int restore_folio_fn(const struct hstate *h, struct folio *folio);
typedef void optimize_folio_fn(struct hstate *h, struct folio *folio);
typedef void optimize_folios_fn(struct hstate *h, struct list_head *list);

/* The kernel's functions, by direct calls: see symbols.h. */
DEFINE_STATIC_CALL_NULL(hvo_native_restore_folio, restore_folio_fn);
DEFINE_STATIC_CALL_NULL(hvo_native_optimize_folio, optimize_folio_fn);
DEFINE_STATIC_CALL_NULL(hvo_native_optimize_folios, optimize_folios_fn);

/* Folios of a list that are restored at a time. */
#define RESTORE_MAX	32

static struct hvo_hook restore_hook, restore_list_hook;
static struct hvo_hook optimize_hook, optimize_list_hook;

#ifndef CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP
#error "this kernel has no HVO of its own: see backend_inline.c"
#endif

/* Restores and counts down the kernel's key for each that was its own. */
static unsigned int restore(const struct hstate *h, struct folio **folios,
			    unsigned int count)
{
	unsigned int i, done;
	unsigned long native = 0;

	BUILD_BUG_ON(RESTORE_MAX > BITS_PER_LONG);
	for (i = 0; i < count; i++)
		if (hvo_layout(folios[i], h->order) == HVO_NATIVE_SHARED)
			__set_bit(i, &native);
	done = hvo_pool_restore(h, folios, count);
	for_each_set_bit(i, &native, done)
		static_branch_dec(&hugetlb_optimize_vmemmap_key);
	return done;
}

static int restore_one(const struct hstate *h, struct folio *folio)
{
	if (!folio_test_hugetlb_vmemmap_optimized(folio))
		return 0;
	return restore(h, &folio, 1) ? 0 : -ENOMEM;
}

static noinline int restore_folio(const struct hstate *h, struct folio *folio)
{
	int ret = restore_one(h, folio);

	hvo_hook_leave(&restore_hook);
	return ret;
}

/* Up to RESTORE_MAX folios from the front of @list that have the flag. */
static unsigned int take_flagged(struct list_head *list, struct list_head *plain,
				 struct folio **folios)
{
	struct folio *folio, *next;
	unsigned int count = 0;

	list_for_each_entry_safe(folio, next, list, lru) {
		if (count == RESTORE_MAX)
			break;
		if (folio_test_hugetlb_vmemmap_optimized(folio))
			folios[count++] = folio;
		else
			list_move(&folio->lru, plain);
	}
	return count;
}

/*
 * Folios whose vmemmap is plain are moved to @plain. Returns how many of them
 * were restored here; on the first that could not be, -ENOMEM, with that one
 * and others still on @list.
 */
static long restore_list(const struct hstate *h, struct list_head *list,
			 struct list_head *plain)
{
	struct folio *folios[RESTORE_MAX];
	unsigned int count, done, i;
	long restored = 0;

	while ((count = take_flagged(list, plain, folios))) {
		done = restore(h, folios, count);
		for (i = 0; i < done; i++)
			list_move(&folios[i]->lru, plain);
		restored += done;
		if (done < count)
			return -ENOMEM;
		cond_resched();
	}
	return restored;
}

static noinline long restore_folios(const struct hstate *h, struct list_head *list,
				    struct list_head *plain)
{
	long ret = restore_list(h, list, plain);

	hvo_hook_leave(&restore_list_hook);
	return ret;
}

static noinline void optimize_folio(struct hstate *h, struct folio *folio)
{
	LIST_HEAD(list);

	static_call(hvo_native_optimize_folio)(h, folio);
	/* In no list yet. */
	list_add(&folio->lru, &list);
	hvo_pool_new_folios(h, &list, false);
	list_del_init(&folio->lru);
	hvo_hook_leave(&optimize_hook);
}

static noinline void optimize_folios(struct hstate *h, struct list_head *list)
{
	static_call(hvo_native_optimize_folios)(h, list);
	hvo_pool_new_folios(h, list, false);
	hvo_hook_leave(&optimize_list_hook);
}

static int native_restore(const struct hstate *h, struct folio *folio)
{
	return static_call(hvo_native_restore_folio)(h, folio);
}

static struct hvo_hook restore_hook = {
	.name = "hugetlb_vmemmap_restore_folio",
	.replacement = restore_folio,
};

static struct hvo_hook restore_list_hook = {
	.name = "hugetlb_vmemmap_restore_folios",
	.replacement = restore_folios,
};

static struct hvo_hook optimize_hook = {
	.name = "hugetlb_vmemmap_optimize_folio",
	.replacement = optimize_folio,
};

static struct hvo_hook optimize_list_hook = {
	.name = "hugetlb_vmemmap_optimize_folios",
	.replacement = optimize_folios,
};

/* What restores first: nothing may be optimized without it. */
static struct hvo_hook *const hooks[] = {
	&restore_hook, &restore_list_hook, &optimize_hook, &optimize_list_hook,
};

/* The replacements call the originals as soon as they are registered. */
static int find_originals(void)
{
	unsigned long restore, optimize, optimize_list;
	int ret;

	ret = hvo_symbol_function(restore_hook.name, false, &restore) ?:
	      hvo_symbol_function(optimize_hook.name, false, &optimize) ?:
	      hvo_symbol_function(optimize_list_hook.name, false, &optimize_list);
	if (ret)
		return ret;
	static_call_update(hvo_native_restore_folio, (restore_folio_fn *)restore);
	static_call_update(hvo_native_optimize_folio, (optimize_folio_fn *)optimize);
	static_call_update(hvo_native_optimize_folios, (optimize_folios_fn *)optimize_list);
	return 0;
}

static int attach(void)
{
	return find_originals() ?: hvo_hooks_register(hooks, ARRAY_SIZE(hooks));
}

static void detach(void)
{
	hvo_hooks_unregister(hooks, ARRAY_SIZE(hooks));
}

const struct hvo_backend hvo_backend = {
	.name = "6.12 with HVO, 6 of 8 pages",
	.attach = attach,
	.detach = detach,
	.has_native = true,
	.native_restore = native_restore,
};
