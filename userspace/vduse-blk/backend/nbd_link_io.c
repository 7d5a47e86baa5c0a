// SPDX-License-Identifier: MIT
/*
 * A link's requests.
 *
 *	submit -> on the wire (nbd_conn) -> answered -> logged -> finished
 *	   \        |  ^
 *	    \       v  |
 *	     \--> waiting <--> held (by the fence)
 *
 * A request is in exactly one of these places. It waits while there is no
 * connection, or a recovery is under way; a loss brings what was on the wire
 * back to the front. It is held if it writes where an older write of a connection
 * that was cut may still arrive (nbd_fence.h). What is sent again does not wait for
 * itself, but it does for an entry of the log that a replay has left behind: that
 * was acknowledged, and so is older.
 *
 * The old connection. Its writes may still be carried out: those that were sent
 * and not answered go into the fence before anything is sent again. A socket that
 * the peer has not closed is half-closed and drained. Half-closing is enough, a
 * reset is not needed first: this process sends nothing on it any more, the kernel
 * sends what it had taken before, and all of that belongs to writes that are
 * fenced.
 *
 * A server that closes has mostly done with its writes. But the peer need not be
 * the server (tunnels and proxies close one side and go on with the other), and a
 * server may have put them into a queue of its own. So a close, or a reset, by the
 * peer only shortens the fence, to fence_closed_ms from then on. A peer that does
 * not close in time (fence_ms) is taken to have forgotten them, and reset: what is
 * in our own send buffer still must not leave once newer writes may. What comes later
 * than that, NBD has no means against.
 *
 * Time. A timer is armed while something is on the wire or waits, and looks at
 * the oldest; it is not touched by requests, so under load it runs once in the
 * length of a timeout, and after the last request once more.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "backend/nbd_link_internal.h"
#include "backend/nbd_recovery.h"
#include "base/clock.h"
#include "base/log.h"

#define NEVER	     UINT64_MAX
#define MAX_PATIENCE 4 /* 2^n times request_ms */

static void on_the_wire(struct nbd_link *link, struct backend_request *req)
{
	if (req->op == BACKEND_FLUSH)
		req->mark = nbd_journal_mark(link->journal);
	nbd_conn_submit(link->conn, req);
	if (unlikely(!link->watching))
		nbd_link_watch(link);
}

static void wait(struct nbd_link *link, struct backend_request *req)
{
	nbd_list_push(&link->waiting, req);
	counter_add(&link->stats->waiting, 1);
}

/* --- in --- */

/* Completes from a hook: done() is never called from inside submit(). */
static void refuse(struct nbd_link *link, struct backend_request *req)
{
	nbd_list_push(&link->refused, req);
	loop_hook_schedule(link->loop, &link->refuse_hook);
}

static void end_request(struct nbd_link *link, struct backend_request *req, int error)
{
	if (req->state & NBD_REQ_INTERNAL)
		req->done(req, error);
	else
		nbd_link_complete(link, req, error);
}

void nbd_link_end_list(struct nbd_link *link, struct backend_request *req, int error)
{
	while (req) {
		struct backend_request *next = req->next;

		end_request(link, req, error);
		req = next;
	}
}

static void refuse_all(struct loop_hook *hook)
{
	struct nbd_link *link = container_of(hook, struct nbd_link, refuse_hook);

	nbd_link_end_list(link, nbd_list_take(&link->refused), -EIO);
}

/* Of a write that a replay or a driver has sent, or wants to send. */
static uint64_t age(const struct backend_request *req)
{
	if (req->state & NBD_REQ_REPLAYED)
		return req->mark;
	if (req->state & NBD_REQ_AGAIN || req->flags & BACKEND_REQ_RESUBMIT)
		return NBD_FENCE_UNLOGGED;
	return NBD_FENCE_UNSENT;
}

static bool is_fenced(struct nbd_link *link, const struct backend_request *req)
{
	if (!nbd_writes(req))
		return false;
	/* Nobody else may look at the time: those ranges can be a killed process's. */
	if (!link->fence_timer.armed)
		nbd_link_look_at_fence(link);
	return nbd_fence_blocks(&link->session->fence, req->offset, req->length, age(req));
}

/* What may go, goes: to the wire, to those that are held, or back. */
static void let_in(struct nbd_link *link, struct backend_request *req)
{
	if (link->restricted && !nbd_session_fits(nbd_conn_export(link->conn), req)) {
		log_warning_ratelimited("nbd: %s of %" PRIu64 " bytes at %" PRIu64
					" failed: the export offers that no longer",
					backend_op_name(req->op), req->length, req->offset);
		refuse(link, req);
	} else if (nbd_fence_active(&link->session->fence) && is_fenced(link, req)) {
		nbd_list_push(&link->held, req);
		counter_add(&link->stats->held, 1);
		counter_add(&link->stats->waiting, 1);
		if (!link->watching)
			nbd_link_watch(link);
		/* Whoever cut that connection may leave before it is lifted. */
		nbd_link_look_at_fence(link);
	} else {
		on_the_wire(link, req);
	}
}

/* Without a connection for longer than anything may wait. */
static bool outage_is_too_long(struct nbd_link *link, uint64_t now)
{
	return link->t.io_timeout_ms != BACKEND_NEVER && link->down_since_ns &&
	       now >= link->down_since_ns + link->t.io_timeout_ms * NS_PER_MS;
}

static void cannot_flow(struct nbd_link *link, struct backend_request *req)
{
	if (link->open) {
		let_in(link, req);
		return;
	}
	if (link->failing || outage_is_too_long(link, req->since_ns)) {
		refuse(link, req);
		return;
	}
	wait(link, req);
	if (!link->watching)
		nbd_link_watch(link);
	nbd_link_wake(link);
}

void nbd_link_enter(struct nbd_link *link, struct backend_request *req)
{
	if (likely(link->flowing && !nbd_fence_active(&link->session->fence)))
		on_the_wire(link, req);
	else
		cannot_flow(link, req);
}

void nbd_link_submit(struct nbd_link *link, struct backend_request *req)
{
	req->state = 0;
	req->since_ns = loop_now_ns(link->loop);
	link->last_ns = req->since_ns;
	counter_add(&link->stats->requests, 1);
	if (req->op == BACKEND_FLUSH)
		nbd_flush_submit(link, req);
	else
		nbd_link_enter(link, req);
}

void nbd_link_advance(struct nbd_link *link)
{
	struct backend_request *req = nbd_list_take(&link->waiting);

	while (req) {
		struct backend_request *next = req->next;

		/* One that was let in may have had consequences. */
		if (link->open) {
			counter_add(&link->stats->waiting, (uint64_t)-1);
			let_in(link, req);
		} else {
			nbd_list_push(&link->waiting, req);
		}
		req = next;
	}
}

static void release_held(struct nbd_link *link)
{
	struct backend_request *req = nbd_list_take(&link->held);

	while (req) {
		struct backend_request *next = req->next;

		counter_add(&link->stats->waiting, (uint64_t)-1);
		nbd_link_enter(link, req);
		req = next;
	}
}

/* --- out --- */

void nbd_link_complete(struct nbd_link *link, struct backend_request *req, int error)
{
	counter_add(&link->member->finished, 1);
	if (unlikely(error))
		counter_add(&link->stats->errors, 1);
	link->params.finished(link->params.owner, req, error);
}

/*
 * The server answers, so it deserves a quick reconnect and the usual patience again. But
 * each replay begins with writes, and it may be its flush that takes so long.
 */
static void calm_down(struct nbd_link *link, const struct backend_request *req)
{
	if (req->state & NBD_REQ_REPLAYED && req->op != BACKEND_FLUSH)
		return;
	link->attempts = 0;
	link->patience = 0;
	link->troubled = false;
}

static void keep_books(struct nbd_link *link, const struct backend_request *req)
{
	if (req->op == BACKEND_FLUSH) {
		nbd_journal_flushed(link->journal, req->mark);
	} else if (nbd_writes(req)) {
		nbd_journal_add(link->journal, req);
		if (unlikely(nbd_journal_crowded(link->journal)))
			nbd_flush_make_room(link);
	} else {
		return;
	}
	counter_set(&link->stats->unflushed, link->journal->used);
}

void nbd_link_finished(void *owner, struct backend_request *req, int error)
{
	struct nbd_link *link = owner;
	const bool internal = req->state & NBD_REQ_INTERNAL;

	if (unlikely(link->troubled))
		calm_down(link, req);
	if (req->op == BACKEND_FLUSH && unlikely(error))
		nbd_flush_refused(link);
	else if (req->op == BACKEND_FLUSH && !internal)
		error = nbd_flush_verdict(link, req);
	/* A replay's writes are in the logs already; its flush clears them all at once. */
	if (link->journaling && !error && likely(!link->replay.running))
		keep_books(link, req);
	if (unlikely(internal)) {
		req->state |= NBD_REQ_ANSWERED;
		req->done(req, error);
	} else {
		nbd_link_complete(link, req, error);
	}
	if (unlikely(!link->open))
		nbd_link_check_quiet(link);
}

/* --- a loss --- */

/* Returns the epoch, or 0 if there is nothing that could come late. */
static uint32_t fence(struct nbd_link *link, const struct nbd_conn_end *end, bool kept)
{
	struct nbd_fence_range range = { .since_ns = loop_now_ns(link->loop), .kept = kept };

	for (const struct backend_request *req = end->unanswered; req; req = req->next) {
		if (!nbd_writes(req) || !req->progress)
			continue;
		if (!range.epoch)
			range.epoch = nbd_fence_epoch(&link->session->fence, kept);
		range.start = req->offset;
		range.end = req->offset + req->length;
		range.age = min(age(req), NBD_FENCE_UNLOGGED);
		nbd_fence_add(&link->session->fence, &range);
	}
	return range.epoch;
}

static void drained(struct drain *drain, bool by_peer)
{
	struct nbd_link_drain *d = container_of(drain, struct nbd_link_drain, drain);
	struct nbd_link *link = d->link;

	/* Otherwise the network has failed, which says nothing, or it was reset. */
	if (by_peer)
		nbd_fence_closed(&link->session->fence, d->epoch, loop_now_ns(link->loop));
	nbd_fence_gone(&link->session->fence, d->epoch);
	nbd_link_look_at_fence(link);
	if (link->draining)
		loop_stop(link->loop);
}

static struct nbd_link_drain *free_drain(struct nbd_link *link)
{
	for (unsigned int i = 0; i < NBD_LINK_DRAINS; i++)
		if (!link->drains[i].drain.busy)
			return &link->drains[i];
	return NULL;
}

/* From here on nothing but the past comes out of that socket. */
static void retire_socket(struct nbd_link *link, struct nbd_link_drain *d, int fd, uint32_t epoch)
{
	d->link = link;
	d->epoch = epoch;
	d->drain.done = drained;
	drain_start(&d->drain, link->loop, fd);
}

static void see_to_late_writes(struct nbd_link *link, const struct nbd_conn_end *end)
{
	struct nbd_link_drain *d = end->fd >= 0 ? free_drain(link) : NULL;
	uint32_t epoch = fence(link, end, d != NULL);

	if (d && epoch)
		retire_socket(link, d, end->fd, epoch);
	else if (end->fd >= 0)
		drain_reset_fd(end->fd);
	if (!epoch)
		return;
	/* When the network has failed, no word from the peer can be hoped for. */
	if (end->fd < 0 && end->loss != BACKEND_LOSS_NETWORK)
		nbd_fence_closed(&link->session->fence, epoch, loop_now_ns(link->loop));
	nbd_link_look_at_fence(link);
}

void nbd_link_take_back(struct nbd_link *link, const struct nbd_conn_end *end)
{
	struct backend_request *req = end->unanswered, *next;
	struct nbd_list again;
	unsigned int n = 0;

	see_to_late_writes(link, end);
	nbd_list_init(&again);
	for (; req; req = next) {
		next = req->next;
		/* The replay begins anew, with the same requests. */
		if (req->state & NBD_REQ_REPLAYED)
			continue;
		if (req->progress || req->op == BACKEND_FLUSH) {
			req->state |= NBD_REQ_AGAIN;
			counter_add(&link->stats->resubmitted, 1);
		}
		nbd_list_push(&again, req);
		n++;
	}
	nbd_replay_abort(&link->replay);
	link->fenced = false;
	if (!n)
		return;
	counter_add(&link->stats->waiting, n);
	*again.last = link->waiting.first;
	if (!link->waiting.first)
		link->waiting.last = again.last;
	link->waiting.first = again.first;
}

/* --- time --- */

static bool is_overdue(struct nbd_link *link, const struct backend_request *req, uint64_t now)
{
	return now >= req->since_ns + link->t.io_timeout_ms * NS_PER_MS;
}

/* Moves what is overdue to @late; returns when the next one will be. */
static uint64_t sort_out(struct nbd_link *link, struct nbd_list *list, uint64_t now,
			 struct nbd_list *late)
{
	struct backend_request *req = nbd_list_take(list), *next;
	uint64_t due = NEVER;

	for (; req; req = next) {
		next = req->next;
		if (is_overdue(link, req, now)) {
			counter_add(&link->stats->waiting, (uint64_t)-1);
			nbd_list_push(late, req);
		} else {
			due = min(due, req->since_ns + link->t.io_timeout_ms * NS_PER_MS);
			nbd_list_push(list, req);
		}
	}
	return due;
}

static uint64_t fail_overdue(struct nbd_link *link, uint64_t now)
{
	struct nbd_list late;
	uint64_t due;

	if (link->t.io_timeout_ms == BACKEND_NEVER)
		return NEVER;
	/* Those that end make room for new ones, which are due later: look again. */
	for (;;) {
		nbd_list_init(&late);
		due = sort_out(link, &link->waiting, now, &late);
		due = min(due, sort_out(link, &link->held, now, &late));
		if (!late.first)
			return due;
		log_error_ratelimited("nbd: requests fail, they have waited for %u ms",
				      link->t.io_timeout_ms);
		nbd_link_end_list(link, nbd_list_take(&late), -EIO);
	}
}

void nbd_link_fail_waiting(struct nbd_link *link)
{
	struct backend_request *waiting = nbd_list_take(&link->waiting);
	struct backend_request *held = nbd_list_take(&link->held);

	counter_set(&link->stats->waiting, 0);
	nbd_link_end_list(link, waiting, -EIO);
	nbd_link_end_list(link, held, -EIO);
}

static uint64_t request_limit_ns(const struct nbd_link *link)
{
	return (uint64_t)link->t.request_ms * NS_PER_MS << link->patience;
}

/*
 * When the first of what is on the wire will have waited for too long. What was held, or
 * is sent again, can have waited for longer than what was sent before it. A replay has no
 * such limit: cut, it would begin anew. It counts as if it had been sent now, so that the
 * next look is in time for whatever comes meanwhile.
 */
static uint64_t wire_overdue_ns(const struct nbd_link *link, uint64_t now)
{
	const struct backend_request *req = nbd_conn_oldest(link->conn);
	uint64_t since = now;

	if (link->t.io_timeout_ms == BACKEND_NEVER)
		return NEVER;
	for (; req; req = req->next)
		since = min(since, req->state & NBD_REQ_REPLAYED ? now : req->since_ns);
	return since + link->t.io_timeout_ms * NS_PER_MS;
}

/* What is on the wire: has the server had its time, or the driver's patience an end? */
static uint64_t check_wire(struct nbd_link *link, uint64_t now)
{
	const struct backend_request *oldest = nbd_conn_oldest(link->conn);
	uint64_t due = NEVER, overdue;

	if (!oldest || !oldest->sent_ns)
		return NEVER;
	if (link->t.request_ms != BACKEND_NEVER)
		due = oldest->sent_ns + request_limit_ns(link);
	if (now >= due) {
		link->patience = min(link->patience + 1, (unsigned int)MAX_PATIENCE);
		link->troubled = true;
		nbd_conn_cut(link->conn, BACKEND_LOSS_REQUEST, ETIMEDOUT);
		return NEVER;
	}
	overdue = wire_overdue_ns(link, now);
	if (now >= overdue) {
		nbd_conn_cut(link->conn, BACKEND_LOSS_REQUEST, ETIMEDOUT);
		return NEVER;
	}
	return min(due, overdue);
}

static void arm(struct loop *loop, struct loop_timer *timer, uint64_t now, uint64_t due)
{
	uint64_t ms = due > now ? (due - now + NS_PER_MS - 1) / NS_PER_MS : 0;

	loop_timer_arm(loop, timer, (unsigned int)min(ms, (uint64_t)INT32_MAX));
}

void nbd_link_watch(struct nbd_link *link)
{
	uint64_t now = loop_now_ns(link->loop);
	uint64_t due = fail_overdue(link, now);

	due = min(due, check_wire(link, now));
	link->watching = due != NEVER;
	if (link->watching)
		arm(link->loop, &link->watch, now, due);
	else
		loop_timer_cancel(link->loop, &link->watch);
}

static void watch_expired(struct loop_timer *timer)
{
	nbd_link_watch(container_of(timer, struct nbd_link, watch));
}

/* --- the fence's end --- */

/* What is not lifted before they are gone is lifted then: drained() looks again. */
static void reset_outlived(struct nbd_link *link, uint64_t now,
			   const struct nbd_fence_limits *limits)
{
	for (unsigned int i = 0; i < NBD_LINK_DRAINS; i++) {
		struct nbd_link_drain *d = &link->drains[i];

		if (d->drain.busy &&
		    nbd_fence_outlived(&link->session->fence, d->epoch, now, limits))
			drain_reset(&d->drain);
	}
}

void nbd_link_look_at_fence(struct nbd_link *link)
{
	const struct backend_tunables *t = &link->t;
	const struct nbd_fence_limits limits = {
		.age = t->fence_ms == BACKEND_NEVER ? NBD_FENCE_NEVER : t->fence_ms * NS_PER_MS,
		.after_close = t->fence_closed_ms == BACKEND_NEVER ?
				       0 :
				       t->fence_closed_ms * NS_PER_MS,
	};
	uint64_t now = loop_now_ns(link->loop);
	uint64_t due;
	bool lifted;

	reset_outlived(link, now, &limits);
	due = nbd_fence_expire(&link->session->fence, now, &limits, &lifted);
	if (lifted)
		nbd_session_post_all(link->session, link->loop, NBD_ORDER_FENCE);
	if (due == NBD_FENCE_NEVER)
		loop_timer_cancel(link->loop, &link->fence_timer);
	else
		arm(link->loop, &link->fence_timer, now, due);
}

static void fence_expired(struct loop_timer *timer)
{
	nbd_link_look_at_fence(container_of(timer, struct nbd_link, fence_timer));
}

void nbd_link_fence_lifted(struct nbd_link *link)
{
	release_held(link);
	if (link->fenced)
		nbd_replay_go_on(&link->replay);
}

/* --- replay --- */

static void send_replayed(struct nbd_replay *r, struct backend_request *req)
{
	struct nbd_link *link = container_of(r, struct nbd_link, replay);

	req->state = NBD_REQ_INTERNAL | NBD_REQ_REPLAYED;
	req->since_ns = loop_now_ns(link->loop);
	on_the_wire(link, req);
}

static void set_fenced(struct nbd_link *link, bool fenced)
{
	if (link->fenced == fenced)
		return;
	link->fenced = fenced;
	nbd_link_show_state(link);
	if (fenced && link->starting)
		loop_stop(link->loop);
	if (fenced)
		log_info("nbd: the replay waits for late writes of an earlier attempt");
}

static bool replay_blocked(struct nbd_replay *r, const struct nbd_journal_entry *entry)
{
	struct nbd_link *link = container_of(r, struct nbd_link, replay);
	struct nbd_fence *fence = &link->session->fence;

	set_fenced(link, nbd_fence_active(fence) && nbd_fence_blocks(fence, entry->offset,
								      entry->length, entry->seq));
	/* The attempt may have been of a link that has left, or of a killed process. */
	if (link->fenced)
		nbd_link_look_at_fence(link);
	return link->fenced;
}

static void replayed(struct nbd_replay *r, int error)
{
	struct nbd_link *link = container_of(r, struct nbd_link, replay);

	counter_set(&link->stats->replayed, r->written);
	counter_set(&link->stats->unflushed, 0);
	set_fenced(link, false);
	log_info("nbd: %" PRIu64 " acknowledged writes were sent again, %s", r->written,
		 error ? strerror(-error) : "and are stable now");
	nbd_journals_set_replaying(&link->session->journals, false);
	nbd_recovery_done(link->session, link->loop, error);
}

void nbd_link_replay(struct nbd_link *link)
{
	struct nbd_session *s = link->session;

	if (link->replay.running || !nbd_recovery_is_mine(s, link->params.index))
		return;
	nbd_journals_set_replaying(&s->journals, true);
	nbd_replay_start(&link->replay, &s->journals);
}

/* --- beginning and end --- */

int nbd_link_io_init(struct nbd_link *link)
{
	nbd_list_init(&link->waiting);
	nbd_list_init(&link->held);
	nbd_list_init(&link->refused);
	link->refuse_hook.run = refuse_all;
	link->watch.expired = watch_expired;
	link->fence_timer.expired = fence_expired;
	link->replay.submit = send_replayed;
	link->replay.blocked = replay_blocked;
	link->replay.done = replayed;
	return nbd_flush_init(link);
}

void nbd_link_io_release(struct nbd_link *link)
{
	loop_hook_cancel(link->loop, &link->refuse_hook);
	loop_timer_cancel(link->loop, &link->watch);
	link->draining = true;
	for (unsigned int i = 0; i < NBD_LINK_DRAINS; i++) {
		drain_reset(&link->drains[i].drain);
		while (link->drains[i].drain.busy)
			if (loop_run(link->loop) < 0)
				break;
	}
	loop_timer_cancel(link->loop, &link->fence_timer);
	nbd_flush_release(link);
}
