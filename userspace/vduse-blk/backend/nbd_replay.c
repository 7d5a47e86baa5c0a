// SPDX-License-Identifier: MIT
/*
 * Servers carry out requests that are on the wire together in any order. So
 * several entries are on the wire at a time, for speed, but an entry that
 * overlaps one of them waits, and with it all that follow. An older entry that an
 * earlier attempt has left on the wire of its connection is no different, only that
 * its end is not known for certain (blocked()). After an error nothing more is
 * sent: what the server refuses once leaves a hole, and newer entries cannot fill
 * it.
 */
#include "backend/nbd_replay.h"

#include <string.h>

static bool overlaps(const struct nbd_replay *r, const struct nbd_journal_entry *entry)
{
	for (unsigned int i = 0; i < NBD_REPLAY_WINDOW; i++) {
		const struct nbd_replay_slot *slot = &r->slots[i];

		if (slot->busy && entry->offset < slot->req.offset + slot->req.length &&
		    slot->req.offset < entry->offset + entry->length)
			return true;
	}
	return false;
}

static struct nbd_replay_slot *free_slot(struct nbd_replay *r)
{
	for (unsigned int i = 0; i < NBD_REPLAY_WINDOW; i++)
		if (!r->slots[i].busy)
			return &r->slots[i];
	return NULL;
}

static void advance(struct nbd_replay *r);

static void slot_done(struct backend_request *req, int error)
{
	struct nbd_replay_slot *slot = container_of(req, struct nbd_replay_slot, req);
	struct nbd_replay *r = slot->replay;

	slot->busy = false;
	r->in_flight--;
	if (error && !r->error)
		r->error = error;
	advance(r);
}

static void send_slot(struct nbd_replay *r, struct nbd_replay_slot *slot)
{
	slot->replay = r;
	slot->busy = true;
	slot->req.done = slot_done;
	r->in_flight++;
	r->submit(r, &slot->req);
}

static void send_entry(struct nbd_replay *r, struct nbd_replay_slot *slot,
		       const struct nbd_journal *j, const struct nbd_journal_entry *entry)
{
	/* The flush at the end makes it stable. */
	slot->req = (struct backend_request){
		.op = (enum backend_op)entry->op,
		.flags = entry->flags & ~BACKEND_REQ_FUA,
		.offset = entry->offset,
		.length = entry->length,
		.iov = slot->iov,
		.mark = entry->seq,
	};
	if (entry->op == BACKEND_WRITE)
		slot->req.niov = nbd_journal_data(j, entry, slot->iov);
	r->last = entry->seq;
	r->written++;
	send_slot(r, slot);
}

static void finish(struct nbd_replay *r)
{
	r->running = false;
	r->done(r, r->error);
}

/* Sends what may be sent, then the flush, then says so. */
static void advance(struct nbd_replay *r)
{
	const struct nbd_journal_entry *entry = NULL;
	const struct nbd_journal *j = NULL;
	struct nbd_replay_slot *slot;

	while (!r->error && !r->flushing) {
		entry = nbd_journals_next(r->journals, r->last, &j);
		slot = entry ? free_slot(r) : NULL;
		if (!slot || overlaps(r, entry) || r->blocked(r, entry))
			break;
		send_entry(r, slot, j, entry);
	}
	if (r->in_flight || (entry && !r->error && !r->flushing))
		return;
	if (r->error || r->flushing) {
		finish(r);
		return;
	}
	r->flushing = true;
	slot = &r->slots[0];
	slot->req = (struct backend_request){ .op = BACKEND_FLUSH };
	send_slot(r, slot);
}

void nbd_replay_start(struct nbd_replay *r, const struct nbd_journals *journals)
{
	r->journals = journals;
	r->running = true;
	r->flushing = false;
	r->last = 0;
	r->error = 0;
	advance(r);
}

void nbd_replay_go_on(struct nbd_replay *r)
{
	if (r->running)
		advance(r);
}

void nbd_replay_abort(struct nbd_replay *r)
{
	for (unsigned int i = 0; i < NBD_REPLAY_WINDOW; i++)
		r->slots[i].busy = false;
	r->in_flight = 0;
	r->running = false;
}
