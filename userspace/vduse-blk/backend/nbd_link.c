// SPDX-License-Identifier: MIT
/*
 * A link's connections.
 *
 *	            .---------------------------------------------------.
 *	            v                                                   |
 *	  .--> CONNECTING --> HANDSHAKE --(check)--> RECOVERING --> READY
 *	  |         |              |                     |            |  ^
 *	  |         '------.-------'---------------------'            |  |
 *	  |                v                                          |  |
 *	  '------------ BACKOFF                    IDLING <--idle_ms--'  |
 *	  |                                          v                   |
 *	  '-------------------------a request----- IDLE ---> CONNECTING -'
 *
 *	any state --nbd_link_close()--> CLOSING --> CLOSED
 *
 * CONNECTING and HANDSHAKE have a time limit each (state_timer). The check is
 * one step: what the server says of the export against what the device was
 * promised (nbd_session_check()). RECOVERING is where a link waits while the
 * session replays (nbd_recovery.h); mostly it takes no time. In READY requests
 * flow; nbd_link_io.c has them.
 *
 * After a loss the first attempt is made at once, the following after pauses
 * that double from reconnect_min_ms to reconnect_max_ms, each shortened by a
 * random part of up to a quarter so that many clients do not come at the same
 * time. A server that accepts connections and answers nothing has its attempts
 * counted on: only an answer to a request makes them start from zero. Attempts
 * go on without limit, also while nothing waits, so that one hears of a server
 * that is back, or has changed.
 *
 * What a server says to an attempt (no such export, TLS, shutting down) may be
 * different the next time, so it is never final. It is logged when it differs
 * from what was logged last.
 *
 * Ownership: everything is the loop's thread's. Settings are a copy that is
 * renewed on order; the session has what several links share.
 */
#include "backend/nbd_link.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "backend/nbd_link_internal.h"
#include "backend/nbd_recovery.h"
#include "base/clock.h"
#include "base/log.h"

#define MAX_BACKOFF 16 /* doublings */
#define LEAVE_MS    1000

static const char *const state_names[_NBD_LINK_STATE_MAX] = {
	[NBD_LINK_CONNECTING] = "connecting",
	[NBD_LINK_HANDSHAKE] = "handshake",
	[NBD_LINK_RECOVERING] = "recovering",
	[NBD_LINK_READY] = "ready",
	[NBD_LINK_BACKOFF] = "backoff",
	[NBD_LINK_IDLING] = "idling",
	[NBD_LINK_IDLE] = "idle",
	[NBD_LINK_CLOSING] = "closing",
	[NBD_LINK_CLOSED] = "closed",
};

static void try_connect(struct nbd_link *link);

void nbd_link_update_flowing(struct nbd_link *link)
{
	link->open = link->state == NBD_LINK_READY && !link->paused && !link->renewing;
	link->flowing = link->open && !link->restricted;
}

void nbd_link_show_state(struct nbd_link *link)
{
	const char *name = state_names[link->state];

	if (link->failing)
		name = "failed";
	else if (link->fenced)
		name = "fenced";
	__atomic_store_n(&link->stats->state, name, __ATOMIC_RELAXED);
}

static void set_state(struct nbd_link *link, enum nbd_link_state state)
{
	loop_timer_cancel(link->loop, &link->state_timer);
	link->state = state;
	link->state_since_ns = loop_now_ns(link->loop);
	nbd_link_update_flowing(link);
	nbd_link_show_state(link);
}

/* The limit counts from the beginning of the state, also when it changes meanwhile. */
static void limit_state(struct nbd_link *link, uint32_t ms)
{
	uint64_t passed = (loop_now_ns(link->loop) - link->state_since_ns) / NS_PER_MS;

	loop_timer_cancel(link->loop, &link->state_timer);
	if (ms != BACKEND_NEVER)
		loop_timer_arm(link->loop, &link->state_timer,
			       (unsigned int)(passed < ms ? ms - passed : 0));
}

/* --- attempts --- */

uint32_t nbd_link_pause_ms(const struct backend_tunables *t, unsigned int attempts,
			   uint16_t random)
{
	unsigned int doublings = min(attempts - 1, (unsigned int)MAX_BACKOFF);
	uint64_t ms = min((uint64_t)t->reconnect_min_ms << doublings,
			  (uint64_t)t->reconnect_max_ms);

	return (uint32_t)(ms - (ms / 4) * random / 65536);
}

static uint32_t pause_ms(struct nbd_link *link)
{
	link->random = link->random * 1664525u + 1013904223u;
	return nbd_link_pause_ms(&link->t, link->attempts, (uint16_t)(link->random >> 16));
}

static void back_off(struct nbd_link *link)
{
	set_state(link, NBD_LINK_BACKOFF);
	limit_state(link, pause_ms(link));
}

static void show_lost(struct nbd_link *link)
{
	if (!link->down_since_ns)
		link->down_since_ns = loop_now_ns(link->loop);
	nbd_session_set_lost(link->session, link->loop, link->params.index, true);
}

static void log_failure(struct nbd_link *link, enum backend_loss loss, const struct error *e)
{
	if (link->starting || (link->logged == loss && link->logged_errnum == e->errnum))
		return;
	link->logged = loss;
	link->logged_errnum = e->errnum;
	log_warning("%s (it is tried again)", e->text);
}

/* No connection has come about. */
static void attempt_failed(struct nbd_link *link, enum backend_loss loss, const struct error *e)
{
	counter_add(&link->stats->losses[loss], 1);
	log_failure(link, loss, e);
	link->start_error = *e;
	if (!link->starting)
		show_lost(link);
	/* One that answers, however badly, is the server that was meant. */
	if (link->state == NBD_LINK_CONNECTING && link->addr + 1 < link->session->naddrs) {
		link->addr++;
		try_connect(link);
		return;
	}
	link->addr = 0;
	back_off(link);
	if (link->starting)
		loop_stop(link->loop);
}

static void try_connect(struct nbd_link *link)
{
	struct error e = ERROR_INIT;

	counter_add(&link->stats->attempts, 1);
	if (!link->addr)
		link->attempts++;
	link->troubled = true;
	set_state(link, NBD_LINK_CONNECTING);
	if (nbd_conn_connect(link->conn, &link->session->addrs[link->addr], &e) < 0)
		attempt_failed(link, BACKEND_LOSS_REFUSED, &e);
	else
		limit_state(link, link->t.connect_ms);
}

static void state_expired(struct loop_timer *timer)
{
	struct nbd_link *link = container_of(timer, struct nbd_link, state_timer);

	if (link->state == NBD_LINK_BACKOFF)
		try_connect(link);
	else
		nbd_conn_cut(link->conn, BACKEND_LOSS_TIMEOUT, ETIMEDOUT);
}

void nbd_link_wake(struct nbd_link *link)
{
	if (link->state == NBD_LINK_IDLE)
		try_connect(link);
}

/* --- a connection is there --- */

static void arm_idle(struct nbd_link *link, uint64_t ms)
{
	if (link->t.idle_ms == BACKEND_NEVER)
		loop_timer_cancel(link->loop, &link->idle);
	else
		loop_timer_arm(link->loop, &link->idle, (unsigned int)ms);
}

static void log_return(struct nbd_link *link)
{
	uint64_t ms = (loop_now_ns(link->loop) - link->down_since_ns) / NS_PER_MS;

	if (link->down_since_ns)
		log_info("nbd: connection %u is back after %" PRIu64 " ms", link->params.index, ms);
	link->down_since_ns = 0;
	link->logged = _BACKEND_LOSS_MAX;
}

/*
 * The export has grown, but a server holds each connection to the size that it
 * has told on it.
 */
static void renew(struct nbd_link *link)
{
	if (link->state != NBD_LINK_READY ||
	    nbd_conn_export(link->conn)->size >= nbd_session_size(link->session))
		return;
	link->renewing = true;
	nbd_link_update_flowing(link);
	nbd_link_check_quiet(link);
}

static void ready(struct nbd_link *link)
{
	link->failing = false;
	set_state(link, NBD_LINK_READY);
	counter_add(&link->stats->connects, 1);
	log_return(link);
	nbd_session_set_lost(link->session, link->loop, link->params.index, false);
	link->last_ns = loop_now_ns(link->loop);
	arm_idle(link, link->t.idle_ms);
	/* The order may have come, or the growth been seen, since this handshake began. */
	if (!link->starting)
		renew(link);
	nbd_link_advance(link);
	if (link->starting)
		loop_stop(link->loop);
}

/* The state of the recovery has changed, or that of this link. */
static void follow_recovery(struct nbd_link *link)
{
	const bool was_paused = link->paused;

	link->paused = nbd_recovery_paused(link->session);
	nbd_link_update_flowing(link);
	if (link->state == NBD_LINK_RECOVERING && !link->paused) {
		ready(link);
	} else if (link->state == NBD_LINK_READY && was_paused && !link->paused) {
		link->failing = false;
		nbd_link_show_state(link);
		nbd_link_advance(link);
	}
	if (!link->paused) {
		/* The order to renew the connection may have come meanwhile. */
		if (link->renewing)
			nbd_link_check_quiet(link);
		return;
	}
	if (link->state == NBD_LINK_RECOVERING || link->state == NBD_LINK_READY)
		nbd_link_replay(link);
	nbd_link_check_quiet(link);
}

void nbd_link_check_quiet(struct nbd_link *link)
{
	if (nbd_conn_oldest(link->conn))
		return;
	if (link->paused) {
		nbd_recovery_quiet(link->session, link->loop, link->params.index);
	} else if (link->renewing && link->state == NBD_LINK_READY) {
		set_state(link, NBD_LINK_IDLING);
		nbd_conn_close(link->conn);
	}
}

static bool same_export(const struct nbd_export *a, const struct nbd_export *b)
{
	return a->size == b->size && a->flags == b->flags && a->min_block == b->min_block &&
	       a->max_block == b->max_block;
}

static void take_up(struct nbd_link *link)
{
	const struct nbd_export *export = nbd_conn_export(link->conn);

	link->start_error = ERROR_INIT;
	link->restricted = nbd_session_check(link->session, link->loop, export, link->sizes);
	link->journaling = link->session->journaling && export->flags & NBD_FLAG_SEND_FLUSH;
	set_state(link, NBD_LINK_RECOVERING);
	nbd_recovery_up(link->session, link->loop, link->params.index);
	follow_recovery(link);
}

/* --- the connection's view --- */

static void connected(void *owner)
{
	struct nbd_link *link = owner;

	link->sizes = nbd_session_sizes(link->session);
	set_state(link, NBD_LINK_HANDSHAKE);
	limit_state(link, link->t.handshake_ms);
}

static void opened(void *owner)
{
	struct nbd_link *link = owner;

	if (link->starting && !same_export(nbd_conn_export(link->conn), &link->session->promised)) {
		err_set(&link->start_error, EPROTO,
			"nbd: the export changed between two connections");
		loop_stop(link->loop);
		return;
	}
	take_up(link);
}

static void lost(struct nbd_link *link, const struct nbd_conn_end *end)
{
	counter_add(&link->stats->losses[end->loss], 1);
	log_error("nbd: %s", end->error.text);
	show_lost(link);
	nbd_recovery_down(link->session, link->loop, link->params.index, true);
	link->paused = nbd_recovery_paused(link->session);
	link->addr = 0;
	if (link->attempts)
		back_off(link);
	else
		try_connect(link);
	if (link->failing)
		nbd_link_fail_waiting(link);
	nbd_link_watch(link);
}

/* This side has closed the connection, to have none or to have a new one. */
static void left(struct nbd_link *link)
{
	const bool renew = link->renewing;

	/* If the server dies before the next one is there, nobody would notice. */
	nbd_recovery_down(link->session, link->loop, link->params.index, renew);
	link->paused = nbd_recovery_paused(link->session);
	link->renewing = false;
	link->addr = 0;
	if (renew || link->waiting.first) {
		try_connect(link);
		return;
	}
	link->failing = false;
	set_state(link, NBD_LINK_IDLE);
}

static void ended(void *owner, const struct nbd_conn_end *end)
{
	struct nbd_link *link = owner;

	loop_timer_cancel(link->loop, &link->idle);
	nbd_link_take_back(link, end);
	if (link->state == NBD_LINK_CLOSING) {
		set_state(link, NBD_LINK_CLOSED);
		loop_stop(link->loop);
	} else if (end->wanted) {
		left(link);
	} else if (end->opened) {
		lost(link, end);
	} else {
		attempt_failed(link, end->loss, &end->error);
	}
}

static const struct nbd_conn_ops conn_ops = {
	.connected = connected,
	.opened = opened,
	.finished = nbd_link_finished,
	.ended = ended,
};

/* --- idle --- */

/*
 * Nothing has been asked for a while: the connection is closed in due form, but
 * not while the server holds unflushed writes, since its loss would be missed.
 */
static void idle_expired(struct loop_timer *timer)
{
	struct nbd_link *link = container_of(timer, struct nbd_link, idle);
	uint64_t quiet_ms = (loop_now_ns(link->loop) - link->last_ns) / NS_PER_MS;

	if (link->state != NBD_LINK_READY)
		return;
	if (quiet_ms < link->t.idle_ms) {
		arm_idle(link, link->t.idle_ms - quiet_ms);
	} else if (nbd_conn_oldest(link->conn) || link->paused ||
		   nbd_recovery_lent(link->session)) {
		arm_idle(link, link->t.idle_ms);
	} else if (nbd_journal_dirty(link->journal)) {
		nbd_flush_make_room(link);
		arm_idle(link, link->t.idle_ms);
	} else {
		set_state(link, NBD_LINK_IDLING);
		nbd_conn_close(link->conn);
	}
}

/* --- asking what the export is --- */

static void asked(void *owner)
{
	struct nbd_link *link = owner;

	nbd_session_check(link->session, link->loop, nbd_conn_export(link->asking),
			  link->asking_sizes);
	nbd_conn_close(link->asking);
}

static void asking_ended(void *owner, const struct nbd_conn_end *end)
{
	struct nbd_link *link = owner;

	int error = 0;

	if (!end->wanted) {
		log_warning("%s (while asking for the size)", end->error.text);
		error = end->error.errnum ? -end->error.errnum : -EIO;
	}
	nbd_session_refreshed(link->session, link->loop, error);
	loop_timer_cancel(link->loop, &link->asking_timer);
	nbd_conn_destroy(link->asking);
	link->asking = NULL;
	if (link->state == NBD_LINK_CLOSED)
		loop_stop(link->loop);
}

static const struct nbd_conn_ops asking_ops = {
	.opened = asked,
	.finished = nbd_link_finished,
	.ended = asking_ended,
};

static void asking_expired(struct loop_timer *timer)
{
	struct nbd_link *link = container_of(timer, struct nbd_link, asking_timer);

	nbd_conn_cut(link->asking, BACKEND_LOSS_TIMEOUT, ETIMEDOUT);
}

static void refresh(struct nbd_link *link)
{
	struct nbd_conn_params params = {
		.export_name = link->session->export_name,
		.depth = 1,
		.ops = &asking_ops,
		.owner = link,
	};
	struct error e = ERROR_INIT;
	int ret;

	if (link->asking)
		return;
	link->asking_sizes = nbd_session_sizes(link->session);
	ret = nbd_conn_create(link->loop, &params, &link->asking, &e);
	if (!ret)
		ret = nbd_conn_connect(link->asking, &link->session->addrs[link->addr], &e);
	if (ret < 0) {
		log_warning("%s (while asking for the size)", e.text);
		nbd_conn_destroy(take_ptr(link->asking));
		nbd_session_refreshed(link->session, link->loop, ret);
		return;
	}
	link->asking_timer.expired = asking_expired;
	loop_timer_arm(link->loop, &link->asking_timer,
		       min(link->t.connect_ms, (uint32_t)INT32_MAX));
}

/* --- orders --- */

static void apply_tunables(struct nbd_link *link)
{
	link->t = nbd_session_tunables(link->session);
	nbd_conn_set_keepalive(link->conn,
			       link->t.keepalive_ms == BACKEND_NEVER ? 0 : link->t.keepalive_ms);
	if (link->state == NBD_LINK_CONNECTING)
		limit_state(link, link->t.connect_ms);
	else if (link->state == NBD_LINK_HANDSHAKE)
		limit_state(link, link->t.handshake_ms);
	else if (link->state == NBD_LINK_BACKOFF)
		limit_state(link, pause_ms(link));
	else if (link->state == NBD_LINK_READY)
		arm_idle(link, link->t.idle_ms);
	nbd_link_watch(link);
	nbd_link_look_at_fence(link);
}

static void fail(struct nbd_link *link)
{
	const bool on_the_wire = nbd_conn_oldest(link->conn) != NULL;
	/* An idle link has no connection, but nothing says that it could not have one. */
	const bool well = link->open || link->state == NBD_LINK_IDLE;

	if (well && !on_the_wire && !link->held.first && !nbd_flush_waits(link))
		return;
	link->failing = !well || on_the_wire;
	log_warning("nbd: connection %u: %s", link->params.index,
		    link->failing ? "requests fail until the server is back" :
				    "requests that wait fail");
	nbd_link_show_state(link);
	nbd_flush_fail(link);
	nbd_link_fail_waiting(link);
	/* What the server has got comes back through ended(), and fails there. */
	if (on_the_wire)
		nbd_conn_cut(link->conn, BACKEND_LOSS_FAILED, ECANCELED);
}

static void orders_received(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct nbd_member *member = container_of(op, struct nbd_member, msg.op);
	struct nbd_link *link = member->link;
	unsigned int orders = nbd_session_orders(link->session, link->params.index);

	(void)res;
	(void)cqe_flags;
	if (orders & NBD_ORDER_CLOSED) {
		link->mail = false;
		loop_stop(link->loop);
		return;
	}
	if (orders & NBD_ORDER_TUNABLES)
		apply_tunables(link);
	if (orders & NBD_ORDER_FAIL)
		fail(link);
	if (orders & NBD_ORDER_REFRESH)
		refresh(link);
	if (orders & NBD_ORDER_RECOVERY)
		follow_recovery(link);
	if (orders & NBD_ORDER_RENEW)
		renew(link);
	if (orders & NBD_ORDER_FENCE)
		nbd_link_fence_lifted(link);
	if (orders & (NBD_ORDER_FLUSH | NBD_ORDER_FLUSHED | NBD_ORDER_ROOM))
		nbd_flush_ordered(link, orders);
}

/* --- beginning and end --- */

static void link_free(struct nbd_link *link)
{
	/* Only a flush for others is left; it has had its time, and they get an answer. */
	nbd_link_fail_waiting(link);
	nbd_flush_leave(link);
	loop_timer_cancel(link->loop, &link->state_timer);
	loop_timer_cancel(link->loop, &link->idle);
	nbd_link_io_release(link);
	nbd_conn_destroy(link->conn);
	__atomic_store_n(&link->stats->state, state_names[NBD_LINK_CLOSED], __ATOMIC_RELAXED);
	free(link);
}

static int link_new(struct loop *loop, const struct nbd_link_params *params,
		    struct nbd_link **ret_link, struct error *e)
{
	struct nbd_session *s = params->session;
	struct nbd_link *link = calloc(1, sizeof(*link));
	struct nbd_conn_params cp = {
		.export_name = s->export_name,
		.depth = params->depth,
		.one_of_several = s->nlinks > 1,
		.ops = &conn_ops,
		.owner = link,
		.stats = &s->members[params->index].stream_stats,
	};
	int ret;

	if (!link)
		return err_set(e, ENOMEM, "nbd: out of memory");
	link->loop = loop;
	link->session = s;
	link->params = *params;
	link->member = &s->members[params->index];
	link->member->link = link;
	link->stats = &link->member->stats;
	link->journal = &s->journals.journals[params->index];
	link->state = NBD_LINK_CLOSED;
	link->logged = _BACKEND_LOSS_MAX;
	link->random = params->index * 2654435761u + (uint32_t)loop_now_ns(loop);
	link->state_timer.expired = state_expired;
	link->idle.expired = idle_expired;
	link->loop = loop;
	if (nbd_link_io_init(link) < 0) {
		ret = err_set(e, ENOMEM, "nbd: out of memory");
		goto fail;
	}
	ret = nbd_conn_create(loop, &cp, &link->conn, e);
	if (ret < 0)
		goto fail;
	counter_set(&link->stats->memory, sizeof(*link) + nbd_conn_memory(link->conn) +
						  nbd_journal_memory(link->journal));
	*ret_link = link;
	return 0;

fail:
	link_free(link);
	return ret;
}

static bool run(struct nbd_link *link)
{
	int ret = loop_run(link->loop);

	if (ret < 0)
		err_set_errno(&link->start_error, -ret, "nbd: io_uring");
	return ret >= 0;
}

int nbd_link_open(struct loop *loop, const struct nbd_link_params *params, int fd,
		  struct nbd_link **ret_link, struct error *e)
{
	struct nbd_session *s = params->session;
	struct nbd_link *link = NULL;
	int ret;

	ret = link_new(loop, params, &link, e);
	if (ret < 0) {
		if (fd >= 0)
			close(fd);
		return ret;
	}
	nbd_session_join(s, params->index, loop, orders_received);
	nbd_recovery_join(s, params->index);
	link->starting = !s->patient;
	apply_tunables(link);
	if (fd >= 0) {
		nbd_conn_adopt(link->conn, fd, &s->addrs[0], &s->promised);
		take_up(link);
	} else {
		if (!link->starting)
			show_lost(link);
		try_connect(link);
	}
	while (link->starting && link->state != NBD_LINK_READY && !link->fenced &&
	       !link->start_error.errnum)
		if (!run(link))
			break;
	/* The fence may take long: what waits for that can be ended, a start cannot. */
	if (link->fenced)
		s->patient = true;
	if (link->starting && link->start_error.errnum && link->state != NBD_LINK_READY) {
		ret = -link->start_error.errnum;
		if (e)
			*e = link->start_error;
		nbd_link_close(link);
		return ret;
	}
	link->starting = false;
	renew(link);
	*ret_link = link;
	return 0;
}

static void leave_expired(struct loop_timer *timer)
{
	struct nbd_link *link = container_of(timer, struct nbd_link, leave_timer);

	link->leaving = false;
	loop_stop(link->loop);
}

/* Other links hear nothing of this one any more, but get the answers that they wait for. */
static void leave(struct nbd_link *link)
{
	link->mail = nbd_session_leave(link->session, link->params.index);
	link->leaving = true;
	link->leave_timer.expired = leave_expired;
	loop_timer_arm(link->loop, &link->leave_timer, LEAVE_MS);
	while (link->mail || (link->flush.busy && link->leaving))
		if (!run(link))
			break;
	loop_timer_cancel(link->loop, &link->leave_timer);
	link->leaving = false;
	if (!link->flush.busy)
		nbd_flush_leave(link);
}

void nbd_link_close(struct nbd_link *link)
{
	enum nbd_link_state was;
	bool busy;

	if (!link)
		return;
	leave(link);
	was = link->state;
	busy = nbd_conn_oldest(link->conn) != NULL;
	set_state(link, NBD_LINK_CLOSING);
	if (was == NBD_LINK_BACKOFF || was == NBD_LINK_IDLE)
		set_state(link, NBD_LINK_CLOSED);
	else if (busy)
		nbd_conn_cut(link->conn, BACKEND_LOSS_CLOSED, ECANCELED);
	else if (was != NBD_LINK_IDLING)
		nbd_conn_close(link->conn);
	while (link->state != NBD_LINK_CLOSED || link->asking) {
		if (link->state == NBD_LINK_CLOSED && link->asking)
			nbd_conn_cut(link->asking, BACKEND_LOSS_CLOSED, ECANCELED);
		if (!run(link))
			break;
	}
	/* A replay that another link takes over has to know what may still come of this one's. */
	nbd_recovery_leave(link->session, link->loop, link->params.index);
	/* An order to ask that came too late. */
	if (!link->params.index)
		nbd_session_refreshed(link->session, link->loop, -ECANCELED);
	link_free(link);
}
