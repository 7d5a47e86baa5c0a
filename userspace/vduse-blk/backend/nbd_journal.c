// SPDX-License-Identifier: MIT
/*
 * Numbers. Every acknowledged write takes the next of one sequence, before its
 * done(): if the driver sent one write after it had heard of the end of
 * another, it has the larger number, whichever queue it used. Of two that
 * overlapped in time the driver knows no order, so any will do.
 *
 * Trimming. A flush makes stable what was acknowledged on its own connection
 * before it was sent. But an entry may leave the log only when everything older
 * is stable on *all* connections: if A was replaced by B on another connection,
 * B was flushed and forgotten, and then the server lost, replaying A alone would
 * undo B. So a log drops what is older than the oldest unflushed write of all
 * logs (the horizon); what is stable but newer stays and is replayed with the
 * others, in order, which does no harm. A replay begins at the horizon: a stable
 * write with FUA may be newer than what is before it, and in no log.
 *
 * A log without room drops everything at once and remembers up to which number
 * something is missing (the gap). It is complete again when the horizon has
 * passed the gap. New entries are logged meanwhile.
 *
 * Memory: the ring is mapped once, and its pages come into being as they are
 * first used.
 */
#include "backend/nbd_journal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "loop/iov.h"

/* Small writes fill the entries before the ring. */
#define BYTES_PER_ENTRY 2048
#define MIN_ENTRIES	64

static void publish_oldest(struct nbd_journal *j, uint64_t seq)
{
	__atomic_store_n(&j->oldest_unflushed, seq, __ATOMIC_RELEASE);
}

static uint64_t horizon(const struct nbd_journals *all)
{
	uint64_t oldest = NBD_JOURNAL_NONE;

	for (unsigned int i = 0; i < all->n; i++)
		oldest = min(oldest, __atomic_load_n(&all->journals[i].oldest_unflushed,
						     __ATOMIC_ACQUIRE));
	return oldest;
}

static struct nbd_journal_entry *entry_at(const struct nbd_journal *j, unsigned int i)
{
	return &j->entries[(j->first + i) % j->max];
}

static size_t data_bytes(const struct nbd_journal_entry *entry)
{
	return entry->op == BACKEND_WRITE ? entry->length : 0;
}

static bool is_stable(const struct nbd_journal *j, const struct nbd_journal_entry *entry)
{
	return entry->flags & BACKEND_REQ_FUA || entry->seq <= j->flushed_seq;
}

static void drop_first(struct nbd_journal *j)
{
	size_t bytes = data_bytes(entry_at(j, 0));

	j->begin = j->size ? (j->begin + bytes) % j->size : 0;
	j->used -= bytes;
	j->first = (j->first + 1) % j->max;
	j->n--;
}

static void trim(struct nbd_journal *j)
{
	const uint64_t limit = horizon(j->all);

	while (j->n && entry_at(j, 0)->seq < limit)
		drop_first(j);
	if (j->gap_seq < limit)
		j->gap_seq = 0;
}

static bool has_room(const struct nbd_journal *j, size_t bytes)
{
	return j->n < j->max && bytes <= j->size - j->used;
}

static void copy_in(struct nbd_journal *j, size_t at, const struct backend_request *req)
{
	size_t head = min(req->length, j->size - at);

	iov_gather(req->iov, req->niov, 0, j->bytes + at, head);
	if (head < req->length)
		iov_gather(req->iov, req->niov, head, j->bytes, req->length - head);
}

static void append(struct nbd_journal *j, const struct backend_request *req, uint64_t seq)
{
	struct nbd_journal_entry *entry = entry_at(j, j->n);

	*entry = (struct nbd_journal_entry){ .seq = seq,
					     .offset = req->offset,
					     .length = req->length,
					     .op = req->op,
					     .flags = req->flags &
						      (BACKEND_REQ_FUA | BACKEND_REQ_MAY_UNMAP) };
	if (req->op == BACKEND_WRITE) {
		entry->at = (j->begin + j->used) % j->size;
		copy_in(j, entry->at, req);
		j->used += req->length;
	}
	j->n++;
}

void nbd_journal_add(struct nbd_journal *j, const struct backend_request *req)
{
	const size_t bytes = req->op == BACKEND_WRITE ? req->length : 0;
	const bool stable = req->flags & BACKEND_REQ_FUA;
	uint64_t seq;

	if (stable && horizon(j->all) == NBD_JOURNAL_NONE)
		return;
	seq = __atomic_add_fetch(&j->all->seq, 1, __ATOMIC_RELAXED);
	if (!stable) {
		j->last_seq = seq;
		if (!nbd_journal_dirty(j))
			publish_oldest(j, seq);
	}
	if (unlikely(!has_room(j, bytes)))
		trim(j);
	if (likely(has_room(j, bytes))) {
		append(j, req, seq);
		return;
	}
	while (j->n)
		drop_first(j);
	j->gap_seq = seq;
}

void nbd_journal_flushed(struct nbd_journal *j, uint64_t mark)
{
	uint64_t oldest = NBD_JOURNAL_NONE;

	j->flushed_seq = max(j->flushed_seq, mark);
	/* What is missing counts as if it were right behind the flush. */
	if (j->last_seq > j->flushed_seq && j->gap_seq > j->flushed_seq)
		oldest = j->flushed_seq + 1;
	for (unsigned int i = 0; i < j->n && oldest == NBD_JOURNAL_NONE; i++)
		if (!is_stable(j, entry_at(j, i)))
			oldest = entry_at(j, i)->seq;
	publish_oldest(j, oldest);
	trim(j);
}

static bool half_full(const struct nbd_journal *j)
{
	return j->used > j->size / 2 || j->n > j->max / 2 || j->gap_seq;
}

bool nbd_journal_crowded(struct nbd_journal *j)
{
	if (likely(!half_full(j)) || !j->size)
		return false;
	/* Other connections may have been flushed meanwhile. */
	trim(j);
	return half_full(j);
}

bool nbd_journals_dirty(const struct nbd_journals *all)
{
	return horizon(all) != NBD_JOURNAL_NONE;
}

bool nbd_journals_complete(const struct nbd_journals *all)
{
	const uint64_t limit = horizon(all);

	for (unsigned int i = 0; i < all->n; i++)
		if (all->journals[i].gap_seq && all->journals[i].gap_seq >= limit)
			return false;
	return true;
}

/* The first entry of @j behind @after: they are sorted. */
static const struct nbd_journal_entry *first_after(const struct nbd_journal *j, uint64_t after)
{
	unsigned int low = 0, high = j->n;

	while (low < high) {
		unsigned int middle = low + (high - low) / 2;

		if (entry_at(j, middle)->seq <= after)
			low = middle + 1;
		else
			high = middle;
	}
	return low < j->n ? entry_at(j, low) : NULL;
}

const struct nbd_journal_entry *nbd_journals_next(const struct nbd_journals *all, uint64_t after,
						  const struct nbd_journal **ret_journal)
{
	const uint64_t limit = horizon(all);
	const struct nbd_journal_entry *best = NULL;

	/* A log that had nothing to do may still hold what could have been trimmed. */
	if (limit != NBD_JOURNAL_NONE)
		after = max(after, limit - 1);
	for (unsigned int i = 0; i < all->n; i++) {
		const struct nbd_journal_entry *entry = first_after(&all->journals[i], after);

		if (entry && (!best || entry->seq < best->seq)) {
			best = entry;
			*ret_journal = &all->journals[i];
		}
	}
	return best;
}

unsigned int nbd_journal_data(const struct nbd_journal *j, const struct nbd_journal_entry *entry,
			      struct iovec iov[2])
{
	size_t head = min(entry->length, j->size - entry->at);

	iov[0] = (struct iovec){ j->bytes + entry->at, head };
	iov[1] = (struct iovec){ j->bytes, entry->length - head };
	return iov[1].iov_len ? 2 : 1;
}

size_t nbd_journal_memory(const struct nbd_journal *j)
{
	return j->size + j->max * sizeof(struct nbd_journal_entry);
}

void nbd_journals_reset(struct nbd_journals *all)
{
	for (unsigned int i = 0; i < all->n; i++) {
		struct nbd_journal *j = &all->journals[i];

		while (j->n)
			drop_first(j);
		j->begin = 0;
		j->gap_seq = 0;
		j->flushed_seq = j->last_seq;
		publish_oldest(j, NBD_JOURNAL_NONE);
	}
}

static int create_ring(struct nbd_journal *j, size_t bytes)
{
	void *memory;

	j->max = (unsigned int)max(bytes / BYTES_PER_ENTRY, (size_t)MIN_ENTRIES);
	j->entries = calloc(j->max, sizeof(*j->entries));
	if (!j->entries)
		return -ENOMEM;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return -ENOMEM;
	j->bytes = memory;
	j->size = bytes;
	return 0;
}

int nbd_journals_create(struct nbd_journals *all, unsigned int n, size_t bytes)
{
	*all = (struct nbd_journals){ .journals = calloc(n, sizeof(struct nbd_journal)) };
	if (!all->journals)
		return -ENOMEM;
	all->n = n;
	for (unsigned int i = 0; i < n; i++) {
		struct nbd_journal *j = &all->journals[i];

		j->all = all;
		j->oldest_unflushed = NBD_JOURNAL_NONE;
		if (bytes / n && create_ring(j, bytes / n) < 0) {
			nbd_journals_destroy(all);
			return -ENOMEM;
		}
	}
	return 0;
}

void nbd_journals_destroy(struct nbd_journals *all)
{
	for (unsigned int i = 0; i < all->n; i++) {
		struct nbd_journal *j = &all->journals[i];

		if (j->bytes)
			munmap(j->bytes, j->size);
		free(j->entries);
	}
	free(all->journals);
	*all = (struct nbd_journals){ 0 };
}
