// SPDX-License-Identifier: GPL-2.0-only
/*
 * Vmemmap block mappings become tables of page entries.
 *
 * At boot the kernel maps the vmemmap by blocks (PMD_SIZE each, 2 MiB, the
 * struct pages of 128 MiB). Before entries can change one by one, the block is
 * replaced by a table that maps the same frames. Tables are written in full
 * here, while nobody can reach them; hvo_arch_split() then puts many in place
 * at once, at most HVO_SPLITS_AT_ONCE, so that the time for which an
 * architecture may have to stop the machine is bounded.
 *
 * The pending list is guarded by hvo_remap_mutex. A table belongs to the list
 * until its block points to it, then to the kernel.
 */
#include <linux/slab.h>
#include <asm/pgalloc.h>

#include "hvo.h"
#include "pgtable.h"
#include "pte.h"
#include "remap.h"
#include "split.h"
#include "stats.h"
#include "symbols.h"
#include "trace.h"

#define HVO_SPLITS_AT_ONCE	32

/* As for any table of the kernel; but nobody is killed for an optimization. */
#define HVO_SPLIT_GFP	(GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

static LIST_HEAD(pending);
static unsigned int nr_pending;

bool hvo_split_needed(const struct folio *folio, unsigned int order)
{
	unsigned long address = (unsigned long)folio;
	unsigned long end = address + hvo_vmemmap_pages(order) * PAGE_SIZE;

	for (; address < end; address = pmd_addr_end(address, end))
		if (!hvo_pte(address))
			return true;
	return false;
}

static bool is_pending(pmd_t *pmd)
{
	struct hvo_split *split;

	list_for_each_entry(split, &pending, node)
		if (split->pmd == pmd)
			return true;
	return false;
}

static struct hvo_split *prepare(pmd_t *pmd, unsigned long address)
{
	struct hvo_split *split;
	struct ptdesc *table;
	unsigned int i;

	split = kzalloc(sizeof(*split), HVO_SPLIT_GFP);
	if (!split)
		return NULL;
	table = pagetable_alloc(HVO_SPLIT_GFP, 0);
	if (!table) {
		kfree(split);
		return NULL;
	}
	split->table = ptdesc_address(table);
	split->pmd = pmd;
	split->address = address;
	for (i = 0; i < PTRS_PER_PTE; i++)
		WRITE_ONCE(split->table[i], hvo_arch_split_entry(pmdp_get(pmd), i));
	return split;
}

int hvo_split_folio(struct hstate *h, struct folio *folio)
{
	unsigned long address = (unsigned long)folio;
	unsigned long end = address + hvo_vmemmap_pages(h->order) * PAGE_SIZE;
	struct hvo_split *split;

	for (; address < end; address = pmd_addr_end(address, end)) {
		pmd_t *pmd = hvo_pmd(address);

		if (!pmd_leaf(pmdp_get(pmd)) || is_pending(pmd))
			continue;
		split = prepare(pmd, address & PMD_MASK);
		if (!split)
			return -ENOMEM;
		list_add_tail(&split->node, &pending);
		hvo_stat_add(h, folio_nid(folio), HVO_PMD_SPLITS, 1);
		if (++nr_pending == HVO_SPLITS_AT_ONCE)
			hvo_split_flush();
	}
	return 0;
}

void hvo_split_flush(void)
{
	struct hvo_split *split, *next;
	unsigned long first;
	u64 ns;

	lockdep_assert_held(&hvo_remap_mutex);
	if (list_empty(&pending))
		return;
	first = list_first_entry(&pending, struct hvo_split, node)->address;
	ns = hvo_arch_split(&pending);
	if (ns)
		hvo_stat_stopped(ns);
	trace_hvo_split(first, nr_pending, ns);
	list_for_each_entry_safe(split, next, &pending, node) {
		if (split->table)
			pte_free_kernel(hvo_kernel.init_mm, split->table);
		kfree(split);
	}
	INIT_LIST_HEAD(&pending);
	nr_pending = 0;
}
