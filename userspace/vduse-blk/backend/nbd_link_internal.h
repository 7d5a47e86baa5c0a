/* SPDX-License-Identifier: MIT */
/*
 * What nbd_link.c (connections), nbd_link_io.c (requests) and nbd_flush.c
 * (flushes of several links) know of each other.
 */
#ifndef BACKEND_NBD_LINK_INTERNAL_H
#define BACKEND_NBD_LINK_INTERNAL_H

#include "backend/nbd_conn.h"
#include "backend/nbd_link.h"
#include "backend/nbd_replay.h"
#include "loop/drain.h"

/* req->state */
#define NBD_REQ_INTERNAL (1u << 0) /* of the link itself: done() goes straight to its maker */
#define NBD_REQ_AGAIN	 (1u << 1) /* was on the wire before; its own late self does not hold it */
#define NBD_REQ_REPLAYED (1u << 2) /* of a replay: mark is its number in the log */
#define NBD_REQ_ANSWERED (1u << 3) /* internal: its error is the server's, not this side's */

enum nbd_link_state {
	NBD_LINK_CONNECTING,
	NBD_LINK_HANDSHAKE,
	NBD_LINK_RECOVERING,
	NBD_LINK_READY,
	NBD_LINK_BACKOFF,
	NBD_LINK_IDLING,
	NBD_LINK_IDLE,
	NBD_LINK_CLOSING,
	NBD_LINK_CLOSED,
	_NBD_LINK_STATE_MAX,
};

/* By next, first in, first out. */
struct nbd_list {
	struct backend_request *first;
	struct backend_request **last;
};

static inline void nbd_list_init(struct nbd_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

static inline void nbd_list_push(struct nbd_list *list, struct backend_request *req)
{
	req->next = NULL;
	*list->last = req;
	list->last = &req->next;
}

static inline struct backend_request *nbd_list_take(struct nbd_list *list)
{
	struct backend_request *first = list->first;

	nbd_list_init(list);
	return first;
}

/* Old connections that may still be heard of. More are reset at once. */
#define NBD_LINK_DRAINS 4

struct nbd_link_drain {
	struct drain drain;
	struct nbd_link *link;
	uint32_t epoch;
};

struct nbd_flush {
	struct nbd_list round;	 /* flushes that this round answers */
	struct nbd_list waiting; /* for the next */
	bool active;
	struct backend_request own; /* the round's flush on this link */
	unsigned int pending; /* answers that are missing, the own one included */
	int error;
	/* For others, or to make room. */
	struct backend_request req;
	bool busy;
	bool again;
	uint8_t *serving; /* by link: gets the answer */
	uint8_t *next;	  /* by link: of the flush after this one */
};

struct nbd_link {
	struct loop *loop;
	struct nbd_session *session;
	struct nbd_member *member;
	struct backend_link_stats *stats;
	struct nbd_journal *journal;
	struct nbd_link_params params;
	struct backend_tunables t; /* a copy */

	struct nbd_conn *conn;
	enum nbd_link_state state;
	bool flowing;	 /* open, nothing to look at: requests go straight to the wire */
	bool open;	 /* READY, and neither of the next two */
	bool paused;	 /* by a recovery */
	bool renewing;	 /* the connection is replaced as soon as nothing is on the wire */
	bool restricted; /* the export is less than the device was promised */
	bool failing;	 /* nothing waits: backend_fail() */
	bool journaling;
	bool troubled; /* attempts or patience are not 0 */
	bool starting; /* inside nbd_link_open() */
	bool draining; /* inside nbd_link_close() */
	bool mail;     /* likewise: a message is still on its way */
	bool leaving;  /* likewise: a flush for others is awaited */
	struct loop_timer leave_timer;
	struct error start_error;

	/* Connecting. */
	unsigned int addr;
	unsigned int attempts; /* failed, in a row, without an answer to anything */
	unsigned int patience; /* request timeouts in a row: the limit doubles */
	unsigned int sizes; /* nbd_session_sizes() when the handshake began */
	uint64_t state_since_ns;
	uint64_t down_since_ns;
	uint32_t random;
	enum backend_loss logged; /* the last failure that was logged; _MAX: none */
	int logged_errnum;
	struct loop_timer state_timer;

	/* Requests. */
	struct nbd_list waiting;
	struct nbd_list held; /* by the fence */
	struct nbd_list refused;
	struct loop_hook refuse_hook;
	struct loop_timer watch;
	bool watching;
	struct loop_timer idle;
	uint64_t last_ns;
	struct nbd_flush flush;
	struct nbd_replay replay;
	bool fenced; /* the replay waits for late writes of an earlier attempt */

	struct nbd_link_drain drains[NBD_LINK_DRAINS];
	struct loop_timer fence_timer;

	/* A connection that only asks. */
	struct nbd_conn *asking;
	unsigned int asking_sizes;
	struct loop_timer asking_timer;
};

static inline bool nbd_writes(const struct backend_request *req)
{
	return req->op == BACKEND_WRITE || req->op == BACKEND_WRITE_ZEROES ||
	       req->op == BACKEND_DISCARD;
}

/* --- nbd_link.c --- */

/* Before the next attempt, after @attempts (1 or more) that failed in a row. */
uint32_t nbd_link_pause_ms(const struct backend_tunables *t, unsigned int attempts,
			   uint16_t random);
/* A request waits: see to it that there will be a connection. */
void nbd_link_wake(struct nbd_link *link);
/* Something was on the wire and is not any more, or was let in. */
void nbd_link_check_quiet(struct nbd_link *link);
void nbd_link_update_flowing(struct nbd_link *link);
/* For status: the state's name, or why nothing goes on in it. */
void nbd_link_show_state(struct nbd_link *link);

/* --- nbd_link_io.c --- */

int nbd_link_io_init(struct nbd_link *link);
void nbd_link_io_release(struct nbd_link *link);
/* To the wire, or to those that wait. */
void nbd_link_enter(struct nbd_link *link, struct backend_request *req);
/* Let in what may go now. */
void nbd_link_advance(struct nbd_link *link);
/* conn's finished() */
void nbd_link_finished(void *owner, struct backend_request *req, int error);
/* The end of a request that came through nbd_link_submit(). Not from inside it. */
void nbd_link_complete(struct nbd_link *link, struct backend_request *req, int error);
/* Likewise for each of a list, which its owner has let go of, and for internal ones. */
void nbd_link_end_list(struct nbd_link *link, struct backend_request *req, int error);
/* What a dead connection had; the socket and its fence. */
void nbd_link_take_back(struct nbd_link *link, const struct nbd_conn_end *end);
/* Everything that waits fails. */
void nbd_link_fail_waiting(struct nbd_link *link);
void nbd_link_watch(struct nbd_link *link);
/* Look at the fence's expiry anew. */
void nbd_link_look_at_fence(struct nbd_link *link);
/* NBD_ORDER_FENCE */
void nbd_link_fence_lifted(struct nbd_link *link);
/* Start or continue what a recovery asks of this link. */
void nbd_link_replay(struct nbd_link *link);

/* --- nbd_flush.c --- */

int nbd_flush_init(struct nbd_link *link);
void nbd_flush_release(struct nbd_link *link);
void nbd_flush_submit(struct nbd_link *link, struct backend_request *req);
/* NBD_ORDER_FLUSH, NBD_ORDER_FLUSHED, NBD_ORDER_ROOM */
void nbd_flush_ordered(struct nbd_link *link, unsigned int orders);
/* In place of orders that will not be carried out: nothing of this link is under way. */
void nbd_flush_leave(struct nbd_link *link);
/* The log is crowded. */
void nbd_flush_make_room(struct nbd_link *link);
/* Do flushes of this link wait for the answers of others? */
bool nbd_flush_waits(const struct nbd_link *link);
/* The server has answered one with an error: it may not say so to those beside it. */
void nbd_flush_refused(struct nbd_link *link);
/* They fail. */
void nbd_flush_fail(struct nbd_link *link);
/* A flush that has succeeded on every connection: 0, or -EIO if it would lie. */
int nbd_flush_verdict(struct nbd_link *link, const struct backend_request *req);

#endif
