/* SPDX-License-Identifier: MIT */
/*
 * What the links of one disk (nbd_link.h) have in common.
 *
 * Links run on threads of their own. They talk by orders: bits in the mailbox
 * of the receiver, whose one message is on its way while any bit is set. So
 * nothing is allocated, nothing can pile up, and a link that has left hears
 * nothing any more. What an order is about is read from here.
 *
 * The lock guards what is marked so. It is taken when a connection comes or
 * goes and when a setting changes, never on the way of a request.
 */
#ifndef BACKEND_NBD_SESSION_H
#define BACKEND_NBD_SESSION_H

#include <pthread.h>

#include "backend/backend.h"
#include "backend/nbd_fence.h"
#include "backend/nbd_journal.h"
#include "backend/nbd_proto.h"
#include "loop/stream.h"

#define NBD_MAX_ADDRS 8

struct nbd_link;

enum nbd_order {
	NBD_ORDER_TUNABLES = 1u << 0, /* they have changed */
	NBD_ORDER_FAIL = 1u << 1,     /* give up what waits */
	NBD_ORDER_REFRESH = 1u << 2,  /* ask the server what the export is */
	NBD_ORDER_FENCE = 1u << 3,    /* something was lifted */
	NBD_ORDER_RECOVERY = 1u << 4, /* its state has changed */
	NBD_ORDER_FLUSH = 1u << 5,    /* another link wants a flush of this one's writes */
	NBD_ORDER_FLUSHED = 1u << 6,  /* another link has answered */
	NBD_ORDER_ROOM = 1u << 7,     /* flush, somebody's log fills up */
	NBD_ORDER_RENEW = 1u << 8,    /* the export has grown: connect anew */
	NBD_ORDER_CLOSED = 1u << 31,  /* private: nobody is there */
};

/* What one link shows the others. Lives as long as the session. */
struct nbd_member {
	unsigned int orders; /* atomic */
	struct loop_msg msg; /* belongs to whoever set the first bit */
	struct loop *loop;
	struct nbd_link *link; /* for its own thread */

	/* Flushes, by link: who wants one from this link; what the others answered. Atomic. */
	uint8_t *wanted_by;
	uint8_t *answer_of;

	/* Written by the link's thread. */
	struct backend_link_stats stats;
	struct stream_stats stream_stats;
	uint64_t finished;

	/* Under the lock. */
	bool present;
	bool up;    /* has a connection on which a replay could run */
	bool quiet; /* since the recovery began, nothing is on the wire any more */
	bool lost;  /* had a connection and has none: for the events */
};

enum nbd_recovery {
	NBD_RECOVERY_NONE,
	NBD_RECOVERY_PAUSING,	/* until all links are quiet, and one is up */
	NBD_RECOVERY_REPLAYING, /* by session->replayer */
};

/* In the changes that the main thread is told of: the server was asked. */
#define NBD_SESSION_REFRESHED (1u << 31)

struct nbd_session {
	/* Constant. */
	struct stream_addr addrs[NBD_MAX_ADDRS];
	unsigned int naddrs;
	char *export_name;
	unsigned int nlinks;
	bool read_only;
	bool journaling; /* the server has a volatile cache, and is written to */
	struct nbd_export promised; /* what the device was made from; see @assumed */
	bool patient; /* links that begin do not wait until they are ready */
	uint32_t block_size;	    /* set before the first link */
	struct backend_events events;

	struct nbd_member *members;
	struct nbd_fence fence;
	struct nbd_journals journals;

	/*
	 * Acknowledged writes were lost for good: so many times; not reported yet;
	 * when the flush that reported it ended, or 0. Changed under the lock, read
	 * by every flush: atomic.
	 */
	unsigned int losses;
	unsigned int unreported;
	uint64_t told_ns;

	pthread_mutex_t lock;
	/* Under the lock. */
	struct backend_tunables tunables;
	struct nbd_export known; /* as the server said last */
	unsigned int sizes;	 /* how often its size has changed */
	uint64_t largest;	 /* size that was ever known */
	bool assumed; /* @promised is not from the server, which was never reached */
	enum nbd_recovery recovery;
	bool cache_lost; /* perhaps: @recovery is because of a connection that was lost */
	bool lent; /* another process uses the logs: there is nothing to recover */
	unsigned int replayer;

	unsigned int refresh_due; /* atomic: the main thread waits for nbd_session_refreshed() */
	int refresh_error;	  /* with NBD_SESSION_REFRESHED */

	/* To the main thread. */
	unsigned int changes; /* atomic: bit n is enum backend_change n; NBD_SESSION_REFRESHED */
	struct loop_msg changes_msg;
	void (*changed)(struct nbd_session *session, unsigned int changes);
	bool closing;
};

/**
 * nbd_session_init() - before any link
 * @s: zeroed but for the constants and @changed
 * @replay_log: bytes
 *
 * Return: 0 or -ENOMEM; nbd_session_release() is safe after both.
 */
int nbd_session_init(struct nbd_session *s, uint32_t replay_log);

/**
 * nbd_session_use_journal() - keep the logs where a successor finds them
 * @s: the session, before any link; or its links have not carried a request yet, and
 *     the predecessor was told to flush
 * @memory: see nbd_journals_place(); NULL: a predecessor has left none
 * @bytes: its size
 * @inherited: a predecessor's
 * @now_ns: time
 *
 * What a predecessor has left unflushed is written again before anything else.
 */
void nbd_session_use_journal(struct nbd_session *s, void *memory, size_t bytes, bool inherited,
			     uint64_t now_ns);

/**
 * nbd_session_release() - after the last link; main thread
 * @s: initialised. The main loop is run if it has not seen a change yet.
 */
void nbd_session_release(struct nbd_session *s);

/**
 * nbd_session_join() - a link is there
 * @s: the session
 * @index: of the link
 * @loop: its loop
 * @received: called on it when orders have come; see nbd_session_orders()
 */
void nbd_session_join(struct nbd_session *s, unsigned int index, struct loop *loop,
		      void (*received)(struct loop_op *op, int res, uint32_t cqe_flags));

/**
 * nbd_session_leave() - a link is about to go
 * @s: the session
 * @index: of the link
 *
 * Return: true if a message is still on its way and has to be received.
 */
bool nbd_session_leave(struct nbd_session *s, unsigned int index);

/**
 * nbd_session_orders() - take what has been ordered
 * @s: the session
 * @index: of the calling link, in its received()
 *
 * Return: NBD_ORDER_* bits; NBD_ORDER_CLOSED alone after nbd_session_leave().
 */
unsigned int nbd_session_orders(struct nbd_session *s, unsigned int index);

/**
 * nbd_session_post() - order something
 * @s: the session
 * @from: the calling thread's loop
 * @index: receiver
 * @order: NBD_ORDER_* bits
 *
 * Return: false if the receiver is not there.
 */
bool nbd_session_post(struct nbd_session *s, struct loop *from, unsigned int index,
		      unsigned int order);

/**
 * nbd_session_post_all() - likewise, to every link
 * @s: the session
 * @from: the calling thread's loop
 * @order: NBD_ORDER_* bits
 */
void nbd_session_post_all(struct nbd_session *s, struct loop *from, unsigned int order);

/**
 * nbd_session_tunables() - those in force
 * @s: the session
 *
 * Return: a copy.
 */
struct backend_tunables nbd_session_tunables(struct nbd_session *s);

/**
 * nbd_session_event() - tell the main thread
 * @s: the session
 * @from: the calling thread's loop
 * @change: what
 */
void nbd_session_event(struct nbd_session *s, struct loop *from, enum backend_change change);

/**
 * nbd_session_refresh() - have link 0 ask the server what the export is
 * @s: the session
 *
 * Main thread, which is told NBD_SESSION_REFRESHED; not again before that.
 */
void nbd_session_refresh(struct nbd_session *s);

/**
 * nbd_session_refreshed() - the answer; nothing if none is due
 * @s: the session
 * @from: the calling thread's loop
 * @error: 0, or -errno when the server could not be asked
 */
void nbd_session_refreshed(struct nbd_session *s, struct loop *from, int error);

/**
 * nbd_session_set_lost() - a link has lost its connection, or has one again
 * @s: the session
 * @from: the calling thread's loop
 * @index: of the link
 * @lost: which
 *
 * The first that is lost and the last that is back are events.
 */
void nbd_session_set_lost(struct nbd_session *s, struct loop *from, unsigned int index, bool lost);

/**
 * nbd_session_sizes() - how often the size of the export has changed
 * @s: the session
 *
 * Return: the number, for nbd_session_check().
 */
unsigned int nbd_session_sizes(struct nbd_session *s);

/**
 * nbd_session_check() - the server has said what the export is
 * @s: the session
 * @from: the calling thread's loop
 * @export: what it said
 * @sizes: nbd_session_sizes() before it was asked
 *
 * What is new is logged and becomes an event, once for all links. What may be older
 * than what another link was told meanwhile is not new; the link sees from
 * nbd_session_size() that it has to ask again.
 *
 * Return: true if the device was promised more, so that each request has to
 * pass nbd_session_fits().
 */
bool nbd_session_check(struct nbd_session *s, struct loop *from, const struct nbd_export *export,
		       unsigned int sizes);

/**
 * nbd_session_size() - of the export, as the server said last
 * @s: the session
 *
 * Return: bytes.
 */
uint64_t nbd_session_size(struct nbd_session *s);

/**
 * nbd_session_known() - the export, as the server said last
 * @s: the session
 *
 * Return: a copy.
 */
struct nbd_export nbd_session_known(struct nbd_session *s);

/**
 * nbd_session_assumed() - has the server never been reached?
 * @s: the session
 *
 * Return: true if what is known of the export is what a predecessor promised.
 */
bool nbd_session_assumed(struct nbd_session *s);

/**
 * nbd_session_lost() - is any link without its connection?
 * @s: the session
 *
 * Return: true if so.
 */
bool nbd_session_lost(struct nbd_session *s);

/**
 * nbd_session_owe_flush_error() - acknowledged writes are lost, or may be
 * @s: the session, its lock held
 *
 * Every flush that is under way fails, or else the next one does, a successor's, too.
 */
void nbd_session_owe_flush_error(struct nbd_session *s);

/**
 * nbd_session_owes_flush() - backend_owes_flush()
 * @s: the session
 *
 * Return: true if a write is not known to be stable, or a loss has yet to be told.
 */
bool nbd_session_owes_flush(struct nbd_session *s);

/**
 * nbd_session_stats() - a link's counters
 * @s: the session
 * @index: of the link
 * @ret_stats: a copy
 *
 * Any thread.
 */
void nbd_session_stats(const struct nbd_session *s, unsigned int index,
		       struct backend_link_stats *ret_stats);

/**
 * nbd_session_fits() - can this export do that?
 * @export: of a connection
 * @req: any request
 *
 * Return: true if it can.
 */
bool nbd_session_fits(const struct nbd_export *export, const struct backend_request *req);

#endif
