// SPDX-License-Identifier: MIT
/*
 * A flush that covers several connections.
 *
 * The asking side. A flush covers every write whose done() came before it, on
 * whichever link. Links that carried no unflushed write (nbd_journal_dirty())
 * have nothing to answer; if there are others, a round begins: each of them is
 * asked for a flush of its own, this link sends one too, and the round is over
 * when all have answered. Flushes that come meanwhile wait for the next round,
 * and all of them are answered by it. A link that has lost its connection
 * answers when it has recovered; so does this one. Who gives up (backend_fail())
 * does not wait for that: other links may have nothing that they would give up.
 *
 * The asked side. One flush is on its way for others at a time. Who asks
 * meanwhile gets the answer to the next one, since the one under way may have
 * left before the writes that he means.
 *
 * Lies. session->losses counts how often acknowledged writes were lost for good, or
 * may have been.
 * A flush that saw it change while it was under way fails, as does the next one
 * after a loss that no flush has reported yet.
 *
 * A server that could not make writes stable may say so once, and succeed with the
 * next flush though it has dropped them. So flushes that were under way when it said so
 * fail, too. If it says so to a flush that the link sent
 * on its own account, for room in the log or before it goes idle, no flush of the
 * driver has heard it: that is such a loss, too.
 */
#include <errno.h>

#include "backend/nbd_link_internal.h"
#include "base/clock.h"
#include "base/log.h"

enum {
	ANSWER_NONE,
	ANSWER_OK,
	ANSWER_FAILED,
};

int nbd_flush_init(struct nbd_link *link)
{
	struct nbd_flush *f = &link->flush;

	nbd_list_init(&f->round);
	nbd_list_init(&f->waiting);
	f->serving = calloc(link->session->nlinks, 1);
	f->next = calloc(link->session->nlinks, 1);
	return f->serving && f->next ? 0 : -ENOMEM;
}

void nbd_flush_release(struct nbd_link *link)
{
	free(link->flush.serving);
	free(link->flush.next);
}

/*
 * The two below, and a new loss, take turns: a loss that comes between the flush that
 * tells of the one before and the time it did so must not be forgotten with that.
 */
static bool tell_loss(struct nbd_session *s, bool reports)
{
	bool tells;

	pthread_mutex_lock(&s->lock);
	tells = reports || __atomic_load_n(&s->unreported, __ATOMIC_ACQUIRE);
	if (tells) {
		/* Not the loop's time: flushes may have been submitted elsewhere since that. */
		__atomic_store_n(&s->told_ns, clock_now_ns(), __ATOMIC_RELEASE);
		__atomic_store_n(&s->unreported, 0, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&s->lock);
	return tells;
}

/*
 * A successor need not tell of the loss any more when the flush that failed is
 * known to have been published. One that was submitted after its end, and went to
 * the server and back since, says so as far as anything here can.
 */
static void forget_loss(struct nbd_session *s, const struct backend_request *req)
{
	pthread_mutex_lock(&s->lock);
	if (req->since_ns > s->told_ns && s->told_ns &&
	    !__atomic_load_n(&s->unreported, __ATOMIC_ACQUIRE)) {
		nbd_journals_set_lost(&s->journals, false);
		__atomic_store_n(&s->told_ns, 0, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&s->lock);
}

int nbd_flush_verdict(struct nbd_link *link, const struct backend_request *req)
{
	struct nbd_session *s = link->session;
	unsigned int losses = __atomic_load_n(&s->losses, __ATOMIC_ACQUIRE);
	bool reports = losses != req->losses;

	if (likely(!reports && !__atomic_load_n(&s->unreported, __ATOMIC_ACQUIRE))) {
		if (unlikely(__atomic_load_n(&s->told_ns, __ATOMIC_ACQUIRE)))
			forget_loss(s, req);
		return 0;
	}
	if (!tell_loss(s, reports))
		return 0;
	log_error("nbd: a flush fails, because acknowledged writes were lost");
	return -EIO;
}

void nbd_flush_refused(struct nbd_link *link)
{
	__atomic_add_fetch(&link->session->losses, 1, __ATOMIC_ACQ_REL);
}

/* --- asking --- */

static void start_round(struct nbd_link *link);

static void finish_round(struct nbd_link *link)
{
	struct nbd_flush *f = &link->flush;
	struct backend_request *req = nbd_list_take(&f->round);
	/* The first that ends may be followed by a flush that begins a new round. */
	const int error = f->error;

	f->active = false;
	while (req) {
		struct backend_request *next = req->next;

		nbd_link_complete(link, req, error ? error : nbd_flush_verdict(link, req));
		req = next;
	}
	if (f->waiting.first && !f->active) {
		f->round = f->waiting;
		nbd_list_init(&f->waiting);
		start_round(link);
	}
}

static void answered(struct nbd_link *link, int error)
{
	struct nbd_flush *f = &link->flush;

	if (error && !f->error)
		f->error = error;
	if (!--f->pending)
		finish_round(link);
}

static void own_done(struct backend_request *req, int error)
{
	answered(container_of(req, struct nbd_link, flush.own), error);
}

static bool ask(struct nbd_link *link, unsigned int other)
{
	struct nbd_session *s = link->session;
	struct nbd_member *m = &s->members[other];

	if (other == link->params.index || !nbd_journal_dirty(&s->journals.journals[other]))
		return false;
	__atomic_store_n(&m->wanted_by[link->params.index], 1, __ATOMIC_RELEASE);
	if (nbd_session_post(s, link->loop, other, NBD_ORDER_FLUSH))
		return true;
	/*
	 * It has left; multi-conn promises that a flush elsewhere covers its writes. But
	 * if it has seen the question on its way out, it answers.
	 */
	return !__atomic_exchange_n(&m->wanted_by[link->params.index], 0, __ATOMIC_ACQ_REL);
}

/* The round's flushes are in f->round. */
static void start_round(struct nbd_link *link)
{
	struct nbd_flush *f = &link->flush;

	f->active = true;
	f->error = 0;
	f->pending = 1;
	for (unsigned int i = 0; i < link->session->nlinks; i++)
		f->pending += ask(link, i);
	/* One of them goes to the wire for all. */
	f->own = (struct backend_request){ .op = BACKEND_FLUSH,
					   .done = own_done,
					   .state = NBD_REQ_INTERNAL,
					   .since_ns = f->round.first->since_ns };
	nbd_link_enter(link, &f->own);
}

static bool others_dirty(const struct nbd_link *link)
{
	const struct nbd_session *s = link->session;

	for (unsigned int i = 0; i < s->nlinks; i++)
		if (i != link->params.index && nbd_journal_dirty(&s->journals.journals[i]))
			return true;
	return false;
}

void nbd_flush_submit(struct nbd_link *link, struct backend_request *req)
{
	struct nbd_flush *f = &link->flush;

	req->losses = __atomic_load_n(&link->session->losses, __ATOMIC_ACQUIRE);
	if (unlikely(link->failing)) {
		nbd_link_enter(link, req);
		return;
	}
	if (f->active) {
		nbd_list_push(&f->waiting, req);
		return;
	}
	if (likely(link->session->nlinks == 1) || !others_dirty(link)) {
		nbd_link_enter(link, req);
		return;
	}
	nbd_list_push(&f->round, req);
	start_round(link);
}

bool nbd_flush_waits(const struct nbd_link *link)
{
	return link->flush.round.first || link->flush.waiting.first;
}

/* A round that has begun goes on until all have answered, but is nobody's any more. */
void nbd_flush_fail(struct nbd_link *link)
{
	struct backend_request *round = nbd_list_take(&link->flush.round);
	struct backend_request *waiting = nbd_list_take(&link->flush.waiting);

	nbd_link_end_list(link, round, -EIO);
	nbd_link_end_list(link, waiting, -EIO);
}

static void collect_answers(struct nbd_link *link)
{
	struct nbd_member *m = link->member;

	for (unsigned int i = 0; i < link->session->nlinks; i++) {
		uint8_t answer = __atomic_exchange_n(&m->answer_of[i], ANSWER_NONE,
						     __ATOMIC_ACQ_REL);

		if (answer != ANSWER_NONE)
			answered(link, answer == ANSWER_OK ? 0 : -EIO);
	}
}

/* --- being asked --- */

static void serve(struct nbd_link *link);

/* Does anybody get it? */
static bool answer(struct nbd_link *link, int error)
{
	struct nbd_session *s = link->session;
	struct nbd_flush *f = &link->flush;
	bool heard = false;

	for (unsigned int i = 0; i < s->nlinks; i++) {
		if (!f->serving[i])
			continue;
		f->serving[i] = 0;
		__atomic_store_n(&s->members[i].answer_of[link->params.index],
				 error ? ANSWER_FAILED : ANSWER_OK, __ATOMIC_RELEASE);
		heard |= nbd_session_post(s, link->loop, i, NBD_ORDER_FLUSHED);
	}
	return heard;
}

static void owe_error(struct nbd_session *s)
{
	log_error_ratelimited("nbd: a flush of the daemon's own failed; the next flush fails");
	pthread_mutex_lock(&s->lock);
	nbd_session_owe_flush_error(s);
	pthread_mutex_unlock(&s->lock);
}

static void served(struct backend_request *req, int error)
{
	struct nbd_link *link = container_of(req, struct nbd_link, flush.req);

	link->flush.busy = false;
	if (!answer(link, error) && error && req->state & NBD_REQ_ANSWERED)
		owe_error(link->session);
	if (link->flush.again)
		serve(link);
	if (link->leaving)
		loop_stop(link->loop);
}

/*
 * The link is going, and who has asked it in the last moment must not wait for
 * ever. Its writes are left to the promise of multi-conn.
 */
void nbd_flush_leave(struct nbd_link *link)
{
	struct nbd_flush *f = &link->flush;

	if (!f->serving || !f->next)
		return;
	for (unsigned int i = 0; i < link->session->nlinks; i++)
		if (__atomic_exchange_n(&link->member->wanted_by[i], 0, __ATOMIC_ACQ_REL) ||
		    f->next[i])
			f->serving[i] = 1;
	answer(link, 0);
}

static void serve(struct nbd_link *link)
{
	struct nbd_flush *f = &link->flush;

	f->again = false;
	for (unsigned int i = 0; i < link->session->nlinks; i++) {
		f->serving[i] = f->next[i];
		f->next[i] = 0;
	}
	if (!nbd_journal_dirty(link->journal)) {
		answer(link, 0);
		return;
	}
	f->busy = true;
	f->req = (struct backend_request){ .op = BACKEND_FLUSH,
					   .done = served,
					   .state = NBD_REQ_INTERNAL,
					   .since_ns = loop_now_ns(link->loop) };
	counter_add(&link->stats->flushes, 1);
	nbd_link_enter(link, &f->req);
}

void nbd_flush_make_room(struct nbd_link *link)
{
	struct nbd_session *s = link->session;

	/* What is old on another connection keeps what is newer here in the log. */
	for (unsigned int i = 0; i < s->nlinks; i++)
		if (i != link->params.index && nbd_journal_dirty(&s->journals.journals[i]))
			nbd_session_post(s, link->loop, i, NBD_ORDER_ROOM);
	if (!link->flush.busy)
		serve(link);
}

void nbd_flush_ordered(struct nbd_link *link, unsigned int orders)
{
	struct nbd_flush *f = &link->flush;

	if (orders & NBD_ORDER_FLUSH) {
		for (unsigned int i = 0; i < link->session->nlinks; i++)
			if (__atomic_exchange_n(&link->member->wanted_by[i], 0, __ATOMIC_ACQ_REL))
				f->next[i] = 1;
		f->again = true;
	}
	if (orders & NBD_ORDER_ROOM && !f->busy)
		f->again = true;
	if (f->again && !f->busy)
		serve(link);
	if (orders & NBD_ORDER_FLUSHED)
		collect_answers(link);
}
