/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every file of hvo.ko shares: the words of the layout.
 *
 * The struct pages of a HugeTLB folio fill a whole number of pages themselves,
 * its vmemmap pages. The first two stay: page 0 holds the struct pages that the
 * kernel writes while the folio is in the pool or in use, page 1 is the one
 * that all later virtual pages are mapped to, read-only, once the folio is
 * optimized. Every struct page in pages 1 and later is a plain tail; nobody
 * writes it (Documentation/design/hvo-tail-writers.rst).
 *
 *	virtual		0    1    2    3    4    5    6    7     (2 MiB folio)
 *	before		p0   p1   p2   p3   p4   p5   p6   p7    all read-write
 *	after		p0   p1   p1   p1   p1   p1   p1   p1    1.. read-only
 */
#ifndef HVO_H
#define HVO_H

#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/sched.h>

#undef pr_fmt
#define pr_fmt(fmt) "hvo: " fmt

/* Vmemmap pages of a folio that keep a frame of their own. */
#define HVO_KEPT_PAGES		2
/* The vmemmap page whose frame the later ones share. */
#define HVO_SHARED_PAGE		(HVO_KEPT_PAGES - 1)

/* A folio of this order is described by so many vmemmap pages. */
static inline unsigned long hvo_vmemmap_pages(unsigned int order)
{
	return (sizeof(struct page) << order) >> PAGE_SHIFT;
}

/* So many of them are given back; 0 if the folio is too small. */
static inline unsigned long hvo_freed_pages(unsigned int order)
{
	unsigned long pages = hvo_vmemmap_pages(order);

	return pages > HVO_KEPT_PAGES ? pages - HVO_KEPT_PAGES : 0;
}

/* Virtual address of vmemmap page @index of @folio. */
static inline unsigned long hvo_vmemmap_address(const struct folio *folio,
						unsigned long index)
{
	return (unsigned long)folio + index * PAGE_SIZE;
}

/*
 * In every loop over the vmemmap pages of a folio: a 1 GiB folio has thousands,
 * and some kernels only reschedule when asked to.
 */
static inline void hvo_resched(unsigned long index)
{
	if (!(index % 512))
		cond_resched();
}

#endif /* HVO_H */
