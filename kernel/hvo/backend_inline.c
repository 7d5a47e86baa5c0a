// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernels without HVO of their own (arm64 6.12).
 *
 * There the calls that would optimize and restore a folio are empty inline
 * functions, so the functions around them are hooked:
 *
 * __update_and_free_hugetlb_folio	every folio that leaves the pool for the
 *		buddy allocator passes here, already removed from the pool. For
 *		a folio with HPG_vmemmap_optimized set the kernel calls it in a
 *		context that may sleep (it defers to a work item otherwise); for
 *		one without, in any context. What follows it may write the
 *		tails: it restores and clears the flag before.
 * alloc_fresh_hugetlb_folio		new folios one by one (surplus, migration)
 * prep_and_add_allocated_folios	new folios by the list (nr_hugepages, demotion)
 * isolate_or_dissolve_huge_page	replaces a free folio by a new one that
 *		passes neither: the worker looks for it
 * demote_store	skips folios with the flag: enough of them are restored before
 *
 * If memory is too short even for the reserve to restore a folio, it goes
 * back to the pool as a surplus folio, as the kernel's own HVO does it.
 */
#include <linux/kobject.h>

#include "hvo.h"
#include "backend.h"
#include "hook.h"
#include "pool.h"
#include "remap.h"
#include "symbols.h"

#ifdef CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP
#error "this kernel has HVO of its own: see backend_native.c"
#endif

typedef void (*free_folio_fn)(unsigned long arg0, unsigned long arg1);
typedef struct folio *(*alloc_fresh_fn)(struct hstate *h, gfp_t gfp, int nid,
					nodemask_t *nodes);
typedef void (*prep_and_add_fn)(struct hstate *h, struct list_head *list);
typedef int (*isolate_fn)(struct page *page, struct list_head *list);
typedef ssize_t (*demote_store_fn)(struct kobject *kobj, struct kobj_attribute *attr,
				   const char *buf, size_t len);

static struct hvo_hook free_hook, alloc_hook, prep_hook, isolate_hook, demote_hook;

static struct hstate *hstate_of_order(unsigned int order)
{
	int i;

	for (i = 0; i < *hvo_kernel.max_hstate; i++)
		if (hvo_kernel.hstates[i].order == order)
			return &hvo_kernel.hstates[i];
	return NULL;
}

/* The kernel has taken the folio out of the pool; it goes back as surplus. */
static void put_back_as_surplus(struct hstate *h, struct folio *folio)
{
	bool unreliable = folio_test_hugetlb_raw_hwp_unreliable(folio);
	int nid = folio_nid(folio);

	spin_lock_irq(hvo_kernel.hugetlb_lock);
	/*
	 * As for any folio that enters the pool, flags go; but not the one that
	 * says that some of its pages are bad, and nobody knows which.
	 */
	folio_change_private(folio, NULL);
	if (unreliable)
		folio_set_hugetlb_raw_hwp_unreliable(folio);
	folio_set_hugetlb_vmemmap_optimized(folio);
	folio_set_hugetlb_freed(folio);
	arch_clear_hugetlb_flags(folio);
	list_add(&folio->lru, &h->hugepage_freelists[nid]);
	h->nr_huge_pages++;
	h->nr_huge_pages_node[nid]++;
	h->surplus_huge_pages++;
	h->surplus_huge_pages_node[nid]++;
	h->free_huge_pages++;
	h->free_huge_pages_node[nid]++;
	spin_unlock_irq(hvo_kernel.hugetlb_lock);
}

/*
 * The compiler may have dropped the first parameter (h), so which argument is
 * the folio shows by its address.
 */
static noinline void free_folio(unsigned long arg0, unsigned long arg1)
{
	bool first = arg0 >= VMEMMAP_START && arg0 < VMEMMAP_END;
	struct folio *folio = (struct folio *)(first ? arg0 : arg1);
	struct hstate *h;

	if (folio_test_hugetlb_vmemmap_optimized(folio)) {
		h = hstate_of_order(folio_order(folio));
		if (!hvo_pool_restore(h, &folio, 1)) {
			put_back_as_surplus(h, folio);
			goto out;
		}
	}
	((free_folio_fn)free_hook.address)(arg0, arg1);
out:
	hvo_hook_leave(&free_hook);
}

/* The caller may hold the locks of memory hotplug: no machine stop here. */
static noinline struct folio *alloc_fresh(struct hstate *h, gfp_t gfp, int nid,
					  nodemask_t *nodes)
{
	struct folio *folio;
	LIST_HEAD(list);

	folio = ((alloc_fresh_fn)alloc_hook.address)(h, gfp, nid, nodes);
	if (folio) {
		list_add(&folio->lru, &list);
		hvo_pool_new_folios(h, &list, false);
		list_del_init(&folio->lru);
	}
	hvo_hook_leave(&alloc_hook);
	return folio;
}

static noinline void prep_and_add(struct hstate *h, struct list_head *list)
{
	hvo_pool_new_folios(h, list, true);
	((prep_and_add_fn)prep_hook.address)(h, list);
	hvo_hook_leave(&prep_hook);
}

static noinline int isolate_or_dissolve(struct page *page, struct list_head *list)
{
	int ret = ((isolate_fn)isolate_hook.address)(page, list);

	hvo_pool_sweep_later();
	hvo_hook_leave(&isolate_hook);
	return ret;
}

#define DEMOTE_TRIES	3

/* .../hugepages-SIZEkB/demote, below mm/hugepages or nodeN/hugepages */
static struct hstate *demote_target(struct kobject *kobj, int *ret_nid)
{
	unsigned long kb;
	int nid;

	if (sscanf(kobject_name(kobj), "hugepages-%lukB", &kb) != 1)
		return NULL;
	if (kobj->parent && kobj->parent->parent &&
	    sscanf(kobject_name(kobj->parent->parent), "node%d", &nid) == 1)
		*ret_nid = nid;
	else
		*ret_nid = NUMA_NO_NODE;
	return hstate_of_order(get_order(kb * SZ_1K));
}

static ssize_t demote_prepared(struct kobject *kobj, struct kobj_attribute *attr,
			       const char *buf, size_t len)
{
	demote_store_fn demote = (demote_store_fn)demote_hook.address;
	unsigned long count;
	struct hstate *h;
	int nid, tries = 0;
	ssize_t ret;

	h = demote_target(kobj, &nid);
	/* What the kernel refuses, it refuses with its own error. */
	if (!h || kstrtoul(buf, 10, &count))
		return demote(kobj, attr, buf, len);
	do {
		ret = hvo_pool_demote_begin(h, nid, count);
		if (ret)
			return ret;
		ret = demote(kobj, attr, buf, len);
		hvo_pool_demote_end(h);
		/*
		 * A folio that was freed in between is the first of the free
		 * list, and optimized: the kernel found that one instead.
		 */
	} while (ret == -EBUSY && ++tries < DEMOTE_TRIES);
	return ret;
}

static noinline ssize_t demote_store(struct kobject *kobj, struct kobj_attribute *attr,
				     const char *buf, size_t len)
{
	ssize_t ret = demote_prepared(kobj, attr, buf, len);

	hvo_hook_leave(&demote_hook);
	return ret;
}

static struct hvo_hook free_hook = {
	.name = "__update_and_free_hugetlb_folio",
	.replacement = free_folio,
	.any_signature = true,
};

static struct hvo_hook alloc_hook = {
	.name = "alloc_fresh_hugetlb_folio",
	.replacement = alloc_fresh,
};

static struct hvo_hook prep_hook = {
	.name = "prep_and_add_allocated_folios",
	.replacement = prep_and_add,
};

static struct hvo_hook isolate_hook = {
	.name = "isolate_or_dissolve_huge_page",
	.replacement = isolate_or_dissolve,
};

static struct hvo_hook demote_hook = {
	.name = "demote_store",
	.replacement = demote_store,
};

/* The first hook first: nothing may be optimized without it. */
static struct hvo_hook *const hooks[] = {
	&free_hook, &demote_hook, &isolate_hook, &alloc_hook, &prep_hook,
};

static int attach(void)
{
	return hvo_hooks_register(hooks, ARRAY_SIZE(hooks));
}

static void detach(void)
{
	hvo_hooks_unregister(hooks, ARRAY_SIZE(hooks));
}

const struct hvo_backend hvo_backend = {
	.name = "6.12 without HVO, 6 of 8 pages",
	.attach = attach,
	.detach = detach,
};
