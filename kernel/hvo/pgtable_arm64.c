// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernel page tables of arm64.
 *
 * The architecture wants break-before-make (D8.16.1 of the Arm ARM: write an
 * invalid entry, TLBI, write the new entry) where the size of a mapping
 * changes, or its output address changes while one of the two is writable or
 * the contents differ. Page entries never need it here, because remap.c
 * changes addresses only between read-only entries with identical contents.
 * Splitting a block does: between break and make an access to the 128 MiB of
 * memory whose struct pages the block maps would fault. That is why it is
 * done while stop_machine() holds every other processor in a loop with
 * interrupts masked: that loop and the code below use the stack, the kernel
 * image and the linear map, never the vmemmap. (A pseudo-NMI or SDEI handler
 * that looks at a struct page would not be held; none in the kernel does.)
 */
#include <linux/ktime.h>
#include <linux/sizes.h>
#include <asm/pgalloc.h>
#include <asm/tlbflush.h>

#include "hvo.h"
#include "pgtable.h"
#include "symbols.h"
#include "verify.h"

pte_t hvo_arch_split_entry(pmd_t block, unsigned int index)
{
	pte_t pte = pmd_pte(block);
	pgprot_t prot = __pgprot((pgprot_val(pte_pgprot(pte)) & ~PTE_TYPE_MASK) |
				 PTE_TYPE_PAGE);

	return pfn_pte(pmd_pfn(block) + index, prot);
}

static void set_block(struct hvo_split *split, pmd_t pmd)
{
	hvo_verify_block(split->address, pmdp_get(split->pmd), pmd);
	set_pmd(split->pmd, pmd);
}

/*
 * Runs on one processor; the others are stopped. The table's entries were
 * written long before; the barrier in the flush orders them before the entry
 * that makes the table reachable.
 */
static int split_stopped(void *data)
{
	struct list_head *splits = data;
	struct hvo_split *split;

	hvo_verify_stopped(true);
	list_for_each_entry(split, splits, node) {
		pmd_t table;

		pmd_populate_kernel(NULL, &table, split->table);
		set_block(split, __pmd(0));
		__flush_tlb_kernel_pgtable(split->address);
		hvo_verify_flushed(split->address, split->address + PMD_SIZE);
		set_block(split, table);
	}
	hvo_verify_stopped(false);
	return 0;
}

bool hvo_arch_split_stops(void)
{
	return true;
}

u64 hvo_arch_split(struct list_head *splits)
{
	struct hvo_split *split;
	u64 start, ns;

	/* Struct pages of the frames: nothing to touch while stopped. */
	list_for_each_entry(split, splits, node)
		hvo_split_block_frames(pmdp_get(split->pmd));

	/*
	 * From the call on, the first processors that stopped wait for the
	 * last: the whole call is what an operator may see as a pause.
	 */
	start = ktime_get_ns();
	hvo_stop_machine_cpuslocked(split_stopped, splits);
	ns = ktime_get_ns() - start;

	list_for_each_entry(split, splits, node)
		split->table = NULL;
	return ns;
}

void hvo_arch_pte_set(pte_t *ptep, pte_t pte)
{
	__set_pte_nosync(ptep, pte);
}

void hvo_arch_flush(unsigned long start, unsigned long end)
{
	flush_tlb_kernel_range(start, end);
}

/* A TLBI is broadcast by the hardware and interrupts nobody. */
bool hvo_arch_flush_is_costly(void)
{
	return false;
}

void hvo_arch_flush_all(void)
{
	flush_tlb_all();
}

bool hvo_arch_pmd_contiguous(pmd_t pmd)
{
	return pmd_val(pmd) & PTE_CONT;
}

bool hvo_arch_pte_contiguous(pte_t pte)
{
	return pte_val(pte) & PTE_CONT;
}
