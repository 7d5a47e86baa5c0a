/* SPDX-License-Identifier: GPL-2.0-only */
/* Are the tails of a folio alike, so that one page can stand for all? */
#ifndef HVO_CONTENTS_H
#define HVO_CONTENTS_H

#include <linux/mm_types.h>

/**
 * hvo_tails_align() - make the tails of a folio equal where nobody looks
 * @folio: a claimed HugeTLB folio; its vmemmap is writable
 * @order: its order
 *
 * Words of a tail that the kernel leaves behind from an earlier life of the
 * page and never reads are set to those of the first tail that is shared.
 *
 * Context: process; caller holds hvo_remap_mutex.
 * Return: true if the tails are equal now; false if they differ in a word that
 * means something (nothing was written to the one that does).
 */
bool hvo_tails_align(struct folio *folio, unsigned int order);

/**
 * hvo_tails_equal() - do the frames that would be given back say the same?
 * @folio: a claimed folio whose vmemmap is read-only from HVO_SHARED_PAGE on
 * @order: its order
 *
 * Context: process; caller holds hvo_remap_mutex.
 */
bool hvo_tails_equal(struct folio *folio, unsigned int order);

#endif /* HVO_CONTENTS_H */
