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
 * Surviving a kill. The process may die between any two stores; its successor
 * (nbd_journals_place()) has to find every write whose done() was called, or that
 * something is missing. A write that was logged and whose done() was not called is in
 * the log of requests in flight too: it is sent again after the replay, so it does no
 * harm here. Only a log's own thread stores to it, in this order:
 *
 *	add	1 oldest_unflushed, if it is the first: from here on the log is dirty
 *		2 room: entries below the horizon, seq = 0 each, the oldest first. What
 *		  is below the horizon counts for nobody, there or not
 *		3 the entry but for its seq, its data; nobody looks, the slot is free
 *		4 seq. Now it counts, and may be acknowledged
 *	no room	gap_seq before the entries go: between, there is too much, and
 *		it is said to be incomplete
 *	flushed	oldest_unflushed, one store. Before it, stable writes are repeated,
 *		which is right as long as all that is newer is repeated too, and the
 *		horizon has not moved; after it, entries may go
 *	reset	every log's oldest_unflushed first. The horizon rises with each and
 *		what it leaves behind is stable; when all are clean nothing counts
 *	slots	zeroed before the number that makes them count
 *	lost	set before what was lost leaves the log (reset), and cleared when a
 *		flush that came later has succeeded: at worst it is said twice
 *	layout	only while nothing counts: in_use = 0, geometry, checksum, in_use = 1.
 *		A successor that finds 0 has nothing to repeat; "lost" counts all the
 *		same. What is refused keeps its in_use until the last store and has
 *		"lost" first, so it is refused again, or lost
 *
 * The order of the program is the order that counts (only the process dies), and
 * the barriers keep the compiler to it.
 */
#include "backend/nbd_journal_internal.h"

#include <string.h>

#include "loop/iov.h"

static void publish_oldest(struct nbd_journal *j, uint64_t seq)
{
	nbd_journal_publish(&j->state->oldest_unflushed, seq);
}

static uint64_t horizon(const struct nbd_journals *all)
{
	uint64_t oldest = NBD_JOURNAL_NONE;

	for (unsigned int i = 0; i < all->n; i++)
		oldest = min(oldest, __atomic_load_n(&all->journals[i].state->oldest_unflushed,
						     __ATOMIC_ACQUIRE));
	return oldest;
}

/* --- the log --- */

static bool back_data(struct nbd_journal *j, size_t end)
{
	return likely(end <= j->backed) || nbd_journal_back_data(j, end);
}

static bool back_slot(struct nbd_journal *j, unsigned int slot)
{
	return likely(slot < j->state->slots) || nbd_journal_back_slots(j);
}

static bool is_stable(const struct nbd_journal *j, const struct nbd_journal_entry *entry)
{
	return entry->flags & BACKEND_REQ_FUA || entry->seq <= j->flushed_seq;
}

static void drop_first(struct nbd_journal *j)
{
	struct nbd_journal_entry *entry = nbd_journal_entry_at(j, 0);
	size_t bytes = nbd_journal_data_bytes(entry);

	nbd_journal_publish(&entry->seq, 0);
	j->begin = j->size ? (j->begin + bytes) % j->size : 0;
	j->used -= bytes;
	j->first = (j->first + 1) % j->max;
	/* What is small stays small: pages that were never used need not be. */
	if (--j->n)
		return;
	j->begin = 0;
	j->first = 0;
}

static void trim(struct nbd_journal *j)
{
	const uint64_t limit = horizon(j->all);

	while (j->n && nbd_journal_entry_at(j, 0)->seq < limit)
		drop_first(j);
	if (j->state->gap_seq && j->state->gap_seq < limit)
		nbd_journal_publish(&j->state->gap_seq, 0);
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

/* False if the memory is not to be had. */
static bool append(struct nbd_journal *j, const struct backend_request *req, uint64_t seq)
{
	const bool data = req->op == BACKEND_WRITE;
	struct nbd_journal_entry *entry = nbd_journal_entry_at(j, j->n), e;
	const size_t at = data ? (j->begin + j->used) % j->size : 0;

	if (!back_slot(j, (j->first + j->n) % j->max) ||
	    (data && !back_data(j, min(at + req->length, j->size))))
		return false;
	e = (struct nbd_journal_entry){ .seq = seq,
					.offset = req->offset,
					.length = req->length,
					.at = at,
					.op = (uint32_t)req->op,
					.flags = req->flags & NBD_JOURNAL_ENTRY_FLAGS };
	e.check = nbd_journal_entry_check(&e);
	e.seq = 0;
	nbd_journal_before_store();
	*entry = e;
	if (data)
		copy_in(j, at, req);
	nbd_journal_publish(&entry->seq, seq);
	j->used += nbd_journal_data_bytes(entry);
	j->n++;
	return true;
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
	if (likely(has_room(j, bytes)) && append(j, req, seq))
		return;
	nbd_journal_publish(&j->state->gap_seq, seq);
	while (j->n)
		drop_first(j);
}

void nbd_journal_flushed(struct nbd_journal *j, uint64_t mark)
{
	uint64_t oldest = NBD_JOURNAL_NONE;

	j->flushed_seq = max(j->flushed_seq, mark);
	/* What is missing counts as if it were right behind the flush. */
	if (j->last_seq > j->flushed_seq && j->state->gap_seq > j->flushed_seq)
		oldest = j->flushed_seq + 1;
	for (unsigned int i = 0; i < j->n && oldest == NBD_JOURNAL_NONE; i++)
		if (!is_stable(j, nbd_journal_entry_at(j, i)))
			oldest = nbd_journal_entry_at(j, i)->seq;
	publish_oldest(j, oldest);
	trim(j);
}

static bool half_full(const struct nbd_journal *j)
{
	return j->used > j->size / 2 || j->n > j->max / 2 || j->state->gap_seq;
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

	for (unsigned int i = 0; i < all->n; i++) {
		const uint64_t gap = all->journals[i].state->gap_seq;

		if (gap && gap >= limit)
			return false;
	}
	return true;
}

/* The first entry of @j behind @after: they are sorted. */
static const struct nbd_journal_entry *first_after(const struct nbd_journal *j, uint64_t after)
{
	unsigned int low = 0, high = j->n;

	while (low < high) {
		unsigned int middle = low + (high - low) / 2;

		if (nbd_journal_entry_at(j, middle)->seq <= after)
			low = middle + 1;
		else
			high = middle;
	}
	return low < j->n ? nbd_journal_entry_at(j, low) : NULL;
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

void nbd_journals_reset(struct nbd_journals *all)
{
	for (unsigned int i = 0; i < all->n; i++)
		publish_oldest(&all->journals[i], NBD_JOURNAL_NONE);
	if (all->n != all->links) {
		nbd_journals_lay_out(all);
		return;
	}
	for (unsigned int i = 0; i < all->n; i++) {
		struct nbd_journal *j = &all->journals[i];

		nbd_journal_publish(&j->state->gap_seq, 0);
		while (j->n)
			drop_first(j);
		j->flushed_seq = j->last_seq;
	}
}
