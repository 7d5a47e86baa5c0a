/* SPDX-License-Identifier: MIT */
/*
 * Writes the logs again, in order, then flushes.
 *
 * The requests are of its own; where they go is the caller's business. Their mark
 * is the number of their entry. Of a connection that dies meanwhile the caller gets
 * them back and forgets them, after which the replay may be started again from the
 * beginning.
 */
#ifndef BACKEND_NBD_REPLAY_H
#define BACKEND_NBD_REPLAY_H

#include "backend/nbd_journal.h"

#define NBD_REPLAY_WINDOW 16

struct nbd_replay;

struct nbd_replay_slot {
	struct backend_request req;
	struct iovec iov[2];
	struct nbd_replay *replay;
	bool busy;
};

struct nbd_replay {
	/* Send it; its done() is called as usual, never from inside this. */
	void (*submit)(struct nbd_replay *r, struct backend_request *req);
	/* Must an entry wait? Then nbd_replay_go_on() follows when that may have changed. */
	bool (*blocked)(struct nbd_replay *r, const struct nbd_journal_entry *entry);
	/* All is written and flushed, or the server has refused: 0 or -errno. */
	void (*done)(struct nbd_replay *r, int error);
	uint64_t written; /* entries, over all runs */

	/* Private. */
	const struct nbd_journals *journals;
	bool running;
	bool flushing;
	uint64_t last; /* seq of the last entry that was sent */
	unsigned int in_flight;
	int error;
	struct nbd_replay_slot slots[NBD_REPLAY_WINDOW];
};

/**
 * nbd_replay_start() - begin from the oldest entry
 * @r: zeroed but for @submit, @blocked and @done; not running
 * @journals: whose threads keep still until done()
 */
void nbd_replay_start(struct nbd_replay *r, const struct nbd_journals *journals);

/**
 * nbd_replay_go_on() - an entry that was blocked may be so no longer
 * @r: running or not; not from inside its callbacks
 */
void nbd_replay_go_on(struct nbd_replay *r);

/**
 * nbd_replay_abort() - the connection is gone and its requests with it
 * @r: running or not; done() is not called
 */
void nbd_replay_abort(struct nbd_replay *r);

#endif
