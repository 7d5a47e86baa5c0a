// SPDX-License-Identifier: GPL-2.0-only
/*
 * Contents of the tails.
 *
 * A tail of a HugeTLB folio beyond the first page of struct pages says only
 * "my head is there". prep_compound_tail() writes compound_head, mapping
 * (TAIL_MAPPING) and private (0); reference count 0 and mapcount -1 come with
 * them. Two words are left from the page's earlier life and read by nobody
 * while it is a tail: lru.prev and index; so is the last cpupid in flags,
 * which NUMA balancing keeps in heads only. Everything else must be equal: a
 * difference is information (a hardware error, say), and the folio is left
 * alone.
 *
 * Nobody writes these struct pages while the folio is a HugeTLB folio
 * (Documentation/design/hvo-tail-writers.rst), so plain stores do.
 */
#include <linux/poison.h>

#include "hvo.h"
#include "contents.h"
#include "pte.h"

#define WORDS			(sizeof(struct page) / sizeof(unsigned long))
#define WORD(member)		(offsetof(struct page, member) / sizeof(unsigned long))
#define TAILS_PER_PAGE		(PAGE_SIZE / sizeof(struct page))

#ifdef LAST_CPUPID_NOT_IN_PAGE_FLAGS
#define STALE_FLAGS		0UL
#else
#define STALE_FLAGS		((unsigned long)LAST_CPUPID_MASK << LAST_CPUPID_PGSHIFT)
#endif

/* Bits of each word that may be left over. */
static const unsigned long stale[WORDS] = {
	[WORD(flags)] = STALE_FLAGS,
	[WORD(lru.prev)] = ~0UL,
	[WORD(index)] = ~0UL,
};

static bool is_plain_tail(const struct page *page, const struct folio *folio)
{
	return READ_ONCE(page->compound_head) == (unsigned long)folio + 1 &&
	       page->mapping == TAIL_MAPPING && !page_private(page) &&
	       !page_ref_count(page) && atomic_read(&page->_mapcount) == -1 &&
	       !PageHWPoison(page);
}

/*
 * Returns false if @page differs from @model in more than stale bits; it is
 * not written then. One loop without branches: this runs for every struct page
 * of a folio, and the first time most of them have leftovers.
 */
static bool align(struct page *page, const struct page *model)
{
	unsigned long *to = (unsigned long *)page;
	const unsigned long *from = (const unsigned long *)model;
	unsigned long diff = 0, leftover = 0;
	unsigned int i;

#pragma GCC unroll 8
	for (i = 0; i < WORDS; i++) {
		diff |= (to[i] ^ from[i]) & ~stale[i];
		leftover |= (to[i] ^ from[i]) & stale[i];
	}
	if (diff)
		return false;
	if (!leftover)
		return true;
#pragma GCC unroll 8
	for (i = 0; i < WORDS; i++)
		if (stale[i])
			WRITE_ONCE(to[i], from[i]);
	return true;
}

bool hvo_tails_align(struct folio *folio, unsigned int order)
{
	struct page *model = folio_page(folio, HVO_SHARED_PAGE * TAILS_PER_PAGE);
	struct page *end = folio_page(folio, 0) + (1UL << order);
	struct page *page;

	BUILD_BUG_ON(sizeof(struct page) % sizeof(unsigned long));
	if (!is_plain_tail(model, folio))
		return false;
	for (page = model + 1; page < end; page++) {
		if (!align(page, model))
			return false;
		hvo_resched(page - model);
	}
	return true;
}

bool hvo_tails_equal(struct folio *folio, unsigned int order)
{
	void *model = page_address(hvo_frame(hvo_vmemmap_address(folio, HVO_SHARED_PAGE)));
	unsigned long i;

	for (i = HVO_KEPT_PAGES; i < hvo_vmemmap_pages(order); i++) {
		if (memcmp(model, (void *)hvo_vmemmap_address(folio, i), PAGE_SIZE))
			return false;
		hvo_resched(i);
	}
	return true;
}
