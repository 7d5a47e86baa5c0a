/* SPDX-License-Identifier: GPL-2.0-only */
/* The folio that selftest.c and selftest_native.c try things on. */
#ifndef HVO_SELFTEST_FOLIO_H
#define HVO_SELFTEST_FOLIO_H

#include <linux/hugetlb.h>

/**
 * struct hvo_test_folio - a folio that nobody else uses
 * @h: its size
 * @folio: looks like a HugeTLB folio before it enters the pool: frozen,
 *	PG_hugetlb, on no list
 * @before: a copy of its struct pages when they were plain; NULL at first
 */
struct hvo_test_folio {
	struct hstate *h;
	struct folio *folio;
	struct page *before;
};

/**
 * hvo_test_folio_difference() - is it described as before?
 * @test: the folio
 *
 * The head is left out: flag and private change, and it is never remapped.
 *
 * Return: number of the first struct page that differs; 0 if there is none.
 */
unsigned long hvo_test_folio_difference(const struct hvo_test_folio *test);

/**
 * hvo_test_folio_repair() - describe it as before
 * @test: the folio; plain
 */
void hvo_test_folio_repair(struct hvo_test_folio *test);

/**
 * hvo_test_folio_is_plain() - can its struct pages be written again?
 * @test: the folio
 *
 * Context: process; sleeps.
 * Return: true if each vmemmap page is mapped read-write by a frame of its own.
 */
bool hvo_test_folio_is_plain(const struct hvo_test_folio *test);

/**
 * hvo_test_folio_restore() - by our own restore, from any layout
 * @test: the folio
 *
 * Context: process; sleeps.
 * Return: 0; -ENOMEM; -EIO, with a message, if it is not as before.
 */
int hvo_test_folio_restore(struct hvo_test_folio *test);

/* Around every change of its vmemmap entries. */
void hvo_test_folio_lock(void);
void hvo_test_folio_unlock(void);

/**
 * hvo_selftest_native() - try the kernel's own restore, and ours on its layout
 * @test: a plain folio
 * @ret_broken: the kernel's own leaves wrong struct pages
 *
 * Only where the kernel has HVO itself.
 *
 * Context: process; sleeps.
 * Return: 0 and a plain folio; -ENOMEM; -EIO if our restore is wrong.
 */
int hvo_selftest_native(struct hvo_test_folio *test, bool *ret_broken);

#endif /* HVO_SELFTEST_FOLIO_H */
