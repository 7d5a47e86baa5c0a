/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Vmemmap entries: reading them, and the only ways to change them.
 */
#ifndef HVO_PTE_H
#define HVO_PTE_H

#include <linux/mm_types.h>
#include <linux/pgtable.h>

/**
 * enum hvo_step - how a vmemmap entry may change
 * @HVO_PROTECT: read-write to read-only, same frame
 * @HVO_SHARE: read-only to read-only, from a frame of its own to the shared
 *	one, same contents; flushed since HVO_PROTECT
 * @HVO_UNSHARE: read-only to read-only, from the shared frame to one of its
 *	own, same contents
 * @HVO_UNPROTECT: read-only to read-write, same frame, which no other entry
 *	maps; flushed since HVO_UNSHARE
 * @HVO_NATIVE: read-only to read-only, other frame, other contents: to or from
 *	the layout of the kernel's own HVO. Only where the architecture changes
 *	live entries freely (x86), and only for a folio that nobody uses.
 *
 * Test builds check each of these conditions (verify.h).
 */
enum hvo_step {
	HVO_PROTECT,
	HVO_SHARE,
	HVO_UNSHARE,
	HVO_UNPROTECT,
	HVO_NATIVE,
};

/**
 * hvo_pmd() - the entry of an address in the kernel's tables of level 2
 * @address: any kernel address
 *
 * Context: any; the caller keeps the range mapped.
 * Return: the entry, or NULL if a higher level maps nothing or a block.
 */
pmd_t *hvo_pmd(unsigned long address);

/**
 * hvo_pte() - the page entry of an address in the kernel's tables
 * @address: any kernel address
 *
 * Context: any; the caller keeps the range mapped.
 * Return: the entry, or NULL if the address has none (a block mapping).
 */
pte_t *hvo_pte(unsigned long address);

/**
 * hvo_frame() - the page that an address is mapped to
 * @address: of a mapped page; hvo_pte() is not NULL
 *
 * Context: any.
 */
struct page *hvo_frame(unsigned long address);

/**
 * hvo_pte_step() - change one vmemmap entry
 * @address: what it maps
 * @step: how
 * @frame: the new frame, for the steps that change it; NULL for the others
 *
 * The only function of the module that writes a page entry. The change is in
 * force everywhere after the next hvo_flush_done() on a range that was added
 * after the call.
 *
 * Context: process; caller holds hvo_remap_mutex.
 */
void hvo_pte_step(unsigned long address, enum hvo_step step, struct page *frame);

/**
 * struct hvo_flush - ranges whose old entries are to be forgotten
 * @start: of the only range, if there is one
 * @end: its end
 * @ranges: how many were added
 */
struct hvo_flush {
	unsigned long start;
	unsigned long end;
	unsigned int ranges;
};

/**
 * hvo_flush_add() - entries of a range were changed
 * @flush: zero at first
 * @start: first address
 * @end: behind the last
 *
 * Context: process.
 */
void hvo_flush_add(struct hvo_flush *flush, unsigned long start, unsigned long end);

/**
 * hvo_flush_done() - no processor uses what was in force before
 * @flush: zero afterwards
 *
 * Context: process, interrupts on.
 */
void hvo_flush_done(struct hvo_flush *flush);

#endif /* HVO_PTE_H */
