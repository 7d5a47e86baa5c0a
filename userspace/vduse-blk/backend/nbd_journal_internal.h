/* SPDX-License-Identifier: MIT */
/*
 * Between nbd_journal.c, what is logged, and nbd_journal_memory.c, where it lies.
 */
#ifndef BACKEND_NBD_JOURNAL_INTERNAL_H
#define BACKEND_NBD_JOURNAL_INTERNAL_H

#include "backend/nbd_journal.h"

#define NBD_JOURNAL_ENTRY_FLAGS (BACKEND_REQ_FUA | BACKEND_REQ_MAY_UNMAP)

static inline void nbd_journal_before_store(void)
{
#ifdef TEST_SHARED_STORES
	if (nbd_journal_test_store)
		nbd_journal_test_store();
#endif
}

/* Everything in front of it in the program is in memory when this is. */
static inline void nbd_journal_publish(uint64_t *field, uint64_t value)
{
	nbd_journal_before_store();
	__atomic_store_n(field, value, __ATOMIC_RELEASE);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* The one that is so far behind the first. */
static inline struct nbd_journal_entry *nbd_journal_entry_at(const struct nbd_journal *j,
							     unsigned int i)
{
	return &j->entries[(j->first + i) % j->max];
}

static inline size_t nbd_journal_data_bytes(const struct nbd_journal_entry *entry)
{
	return entry->op == BACKEND_WRITE ? entry->length : 0;
}

/**
 * nbd_journal_entry_check() - what &nbd_journal_entry.check has to be
 * @entry: with its seq
 *
 * Return: the number.
 */
uint32_t nbd_journal_entry_check(const struct nbd_journal_entry *entry);

/**
 * nbd_journal_back_data() - reserve pages of the data ring
 * @j: a log
 * @end: so many bytes from its front, more than are reserved
 *
 * Return: false if the memory is not to be had.
 */
bool nbd_journal_back_data(struct nbd_journal *j, size_t end);

/**
 * nbd_journal_back_slots() - reserve pages of the entries, and empty them
 * @j: a log
 *
 * Return: false if the memory is not to be had.
 */
bool nbd_journal_back_slots(struct nbd_journal *j);

/**
 * nbd_journals_lay_out() - begin anew, with a log for each connection of this process
 * @all: nothing in it counts any more
 */
void nbd_journals_lay_out(struct nbd_journals *all);

#endif
