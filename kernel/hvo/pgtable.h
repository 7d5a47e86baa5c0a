/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the architectures in the kernel's own page tables.
 * pgtable_arm64.c and pgtable_x86.c implement it; pte.c and split.c are the
 * only callers.
 */
#ifndef HVO_PGTABLE_H
#define HVO_PGTABLE_H

#include <linux/list.h>
#include <linux/mm.h>
#include <linux/pgtable.h>

/**
 * struct hvo_split - a block mapping that is to become a table
 * @node: in the list of one stop
 * @pmd: the entry
 * @address: first virtual address below it
 * @table: maps the same frames with the same permissions, page by page
 */
struct hvo_split {
	struct list_head node;
	pmd_t *pmd;
	unsigned long address;
	pte_t *table;
};

/**
 * hvo_arch_split_entry() - entry @index of the table that replaces a block
 * @block: the block mapping
 * @index: 0 to PTRS_PER_PTE - 1
 *
 * Return: an entry with the block's permissions and memory type.
 */
pte_t hvo_arch_split_entry(pmd_t block, unsigned int index);

/**
 * hvo_split_block_frames() - the frames of a block become pages of their own
 * @block: a block mapping
 *
 * A vmemmap block of memory that was added after boot is one high-order page
 * of the buddy allocator; the parts of it are freed one by one later.
 *
 * Context: nobody else splits the block.
 */
static inline void hvo_split_block_frames(pmd_t block)
{
	if (!PageReserved(pmd_page(block)))
		split_page(pmd_page(block), get_order(PMD_SIZE));
}

/**
 * hvo_arch_split_stops() - does hvo_arch_split() stop the machine?
 *
 * If so, its caller has to hold cpus_read_lock().
 */
bool hvo_arch_split_stops(void);

/**
 * hvo_arch_split() - replace block mappings by tables
 * @splits: list of struct hvo_split; @table of those that are in place is
 *	NULL afterwards
 *
 * arm64: stops the machine; takes as long as its slowest processor needs to
 * come to the stop, plus one TLBI per block.
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex.
 * Return: how long the machine was stopped, in ns; 0 where it was not.
 */
u64 hvo_arch_split(struct list_head *splits);

/** hvo_arch_pte_set() - one store; a flush must follow */
void hvo_arch_pte_set(pte_t *ptep, pte_t pte);

/**
 * hvo_arch_flush() - the TLBs of all processors forget a range
 * @start: first address
 * @end: behind the last
 *
 * Stores to entries before the call are visible to table walks before it
 * returns, and no processor uses an older entry after it.
 *
 * Context: process, interrupts on.
 */
void hvo_arch_flush(unsigned long start, unsigned long end);

/**
 * hvo_arch_flush_is_costly() - is one flush of everything cheaper than many
 * of ranges? (Where a flush interrupts every processor.)
 */
bool hvo_arch_flush_is_costly(void);

/** hvo_arch_flush_all() - the same for every kernel address */
void hvo_arch_flush_all(void);

/* Is the entry part of a contiguous-bit group, which may only change as one? */
bool hvo_arch_pmd_contiguous(pmd_t pmd);
bool hvo_arch_pte_contiguous(pte_t pte);

#endif /* HVO_PGTABLE_H */
