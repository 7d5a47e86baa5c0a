// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernel page tables of x86-64.
 *
 * The architecture lets a live entry change to any other; a processor uses
 * the old or the new one until the TLB flush. A block is split into a table
 * that maps the same, so either is right at any time, and no machine stop is
 * needed. The kernel's own HVO splits vmemmap blocks, too, under
 * init_mm.page_table_lock: whoever comes second finds a table.
 */
#include <asm/pgalloc.h>

#include "hvo.h"
#include "pgtable.h"
#include "symbols.h"
#include "verify.h"

pte_t hvo_arch_split_entry(pmd_t block, unsigned int index)
{
	pgprot_t prot = pgprot_large_2_4k(pmd_pgprot(block));

	return pfn_pte(pmd_pfn(block) + index, prot);
}

bool hvo_arch_split_stops(void)
{
	return false;
}

u64 hvo_arch_split(struct list_head *splits)
{
	struct mm_struct *mm = hvo_kernel.init_mm;
	struct hvo_split *split;
	pmd_t table;

	list_for_each_entry(split, splits, node) {
		spin_lock(&mm->page_table_lock);
		if (pmd_leaf(*split->pmd)) {
			hvo_split_block_frames(*split->pmd);
			/* The table's entries before the table. */
			smp_wmb();
			pmd_populate_kernel(mm, &table, split->table);
			hvo_verify_block(split->address, *split->pmd, table);
			set_pmd(split->pmd, table);
			split->table = NULL;
		}
		spin_unlock(&mm->page_table_lock);
	}
	hvo_flush_tlb_all();
	return 0;
}

void hvo_arch_pte_set(pte_t *ptep, pte_t pte)
{
	set_pte(ptep, pte);
}

void hvo_arch_flush(unsigned long start, unsigned long end)
{
	hvo_flush_tlb_kernel_range(start, end);
}

/* A flush is an interrupt on every processor, however short its range. */
bool hvo_arch_flush_is_costly(void)
{
	return true;
}

void hvo_arch_flush_all(void)
{
	hvo_flush_tlb_all();
}

bool hvo_arch_pmd_contiguous(pmd_t pmd)
{
	return false;
}

bool hvo_arch_pte_contiguous(pte_t pte)
{
	return false;
}
