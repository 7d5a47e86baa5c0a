// SPDX-License-Identifier: GPL-2.0-only
/*
 * Vmemmap entries.
 *
 * Nobody but this module (and, on x86, the kernel's own HVO on folios that it
 * holds alone) writes page entries of the vmemmap of online memory; they are
 * made when memory is added and freed when it is removed. hvo_remap_mutex
 * therefore is all that keeps two writers apart. Hardware table walkers read
 * at any time: an entry is changed by one store.
 */
#include <linux/bug.h>

#include "hvo.h"
#include "pgtable.h"
#include "pte.h"
#include "symbols.h"
#include "verify.h"

pmd_t *hvo_pmd(unsigned long address)
{
	pgd_t *pgd = pgd_offset_pgd(hvo_kernel.init_mm->pgd, address);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(READ_ONCE(*pgd)))
		return NULL;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(READ_ONCE(*p4d)))
		return NULL;
	pud = pud_offset(p4d, address);
	if (pud_none(READ_ONCE(*pud)) || pud_leaf(READ_ONCE(*pud)))
		return NULL;
	return pmd_offset(pud, address);
}

pte_t *hvo_pte(unsigned long address)
{
	pmd_t *pmd = hvo_pmd(address);

	if (!pmd || pmd_none(pmdp_get(pmd)) || pmd_leaf(pmdp_get(pmd)))
		return NULL;
	return pte_offset_kernel(pmd, address);
}

struct page *hvo_frame(unsigned long address)
{
	return pte_page(ptep_get(hvo_pte(address)));
}

void hvo_pte_step(unsigned long address, enum hvo_step step, struct page *frame)
{
	pte_t *ptep = hvo_pte(address);
	pte_t old = ptep_get(ptep), new = old;

	switch (step) {
	case HVO_PROTECT:
		new = pte_wrprotect(old);
		break;
	case HVO_UNPROTECT:
		new = pte_mkwrite_novma(old);
		break;
	case HVO_SHARE:
	case HVO_UNSHARE:
	case HVO_NATIVE:
		/*
		 * What was written to the new frame, through the linear map,
		 * must be there for whoever reads it through this entry.
		 */
		smp_wmb();
		new = pfn_pte(page_to_pfn(frame), pte_pgprot(old));
		break;
	}
	hvo_verify_step(address, step, old, new);
	hvo_arch_pte_set(ptep, new);
}

void hvo_flush_add(struct hvo_flush *flush, unsigned long start, unsigned long end)
{
	if (!hvo_arch_flush_is_costly()) {
		hvo_arch_flush(start, end);
		hvo_verify_flushed(start, end);
	} else if (!flush->ranges) {
		flush->start = start;
		flush->end = end;
	}
	flush->ranges++;
}

void hvo_flush_done(struct hvo_flush *flush)
{
	if (hvo_arch_flush_is_costly() && flush->ranges) {
		if (flush->ranges == 1) {
			hvo_arch_flush(flush->start, flush->end);
			hvo_verify_flushed(flush->start, flush->end);
		} else {
			hvo_arch_flush_all();
			hvo_verify_flushed(0, ULONG_MAX);
		}
	}
	*flush = (struct hvo_flush){};
}
