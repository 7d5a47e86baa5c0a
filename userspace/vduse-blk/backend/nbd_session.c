// SPDX-License-Identifier: MIT
/*
 * Mailboxes. A receiver's message belongs to the thread that turned its orders
 * from none to some, until it arrives; the receiver takes all bits at once and
 * so frees it. A mailbox begins and ends closed. Closing it while a message is
 * on its way leaves that to be received, and no other will follow.
 */
#include "backend/nbd_session.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"

/* --- orders --- */

bool nbd_session_post(struct nbd_session *s, struct loop *from, unsigned int index,
		      unsigned int order)
{
	struct nbd_member *m = &s->members[index];
	unsigned int old = __atomic_load_n(&m->orders, __ATOMIC_RELAXED);

	do {
		if (old & NBD_ORDER_CLOSED)
			return false;
	} while (!__atomic_compare_exchange_n(&m->orders, &old, old | order, false,
					      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	if (!old)
		loop_send(from, m->loop, &m->msg, 0);
	return true;
}

void nbd_session_post_all(struct nbd_session *s, struct loop *from, unsigned int order)
{
	for (unsigned int i = 0; i < s->nlinks; i++)
		nbd_session_post(s, from, i, order);
}

unsigned int nbd_session_orders(struct nbd_session *s, unsigned int index)
{
	struct nbd_member *m = &s->members[index];
	unsigned int orders = __atomic_load_n(&m->orders, __ATOMIC_ACQUIRE);

	if (orders & NBD_ORDER_CLOSED)
		return NBD_ORDER_CLOSED;
	orders = __atomic_exchange_n(&m->orders, 0, __ATOMIC_ACQ_REL);
	return orders;
}

void nbd_session_join(struct nbd_session *s, unsigned int index, struct loop *loop,
		      void (*received)(struct loop_op *op, int res, uint32_t cqe_flags))
{
	struct nbd_member *m = &s->members[index];

	m->loop = loop;
	m->msg.op.complete = received;
	__atomic_store_n(&m->orders, 0, __ATOMIC_RELEASE);
}

bool nbd_session_leave(struct nbd_session *s, unsigned int index)
{
	return __atomic_fetch_or(&s->members[index].orders, NBD_ORDER_CLOSED, __ATOMIC_ACQ_REL) !=
	       0;
}

struct backend_tunables nbd_session_tunables(struct nbd_session *s)
{
	struct backend_tunables t;

	pthread_mutex_lock(&s->lock);
	t = s->tunables;
	pthread_mutex_unlock(&s->lock);
	return t;
}

/* --- events --- */

static void changes_arrived(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct nbd_session *s = container_of(op, struct nbd_session, changes_msg.op);
	unsigned int changes = __atomic_exchange_n(&s->changes, 0, __ATOMIC_ACQ_REL);

	(void)res;
	(void)cqe_flags;
	if (s->closing)
		loop_stop(s->events.main);
	else
		s->changed(s, changes);
}

static void tell(struct nbd_session *s, struct loop *from, unsigned int change)
{
	if (!s->events.main)
		return;
	if (!__atomic_fetch_or(&s->changes, change, __ATOMIC_ACQ_REL))
		loop_send(from, s->events.main, &s->changes_msg, 0);
}

void nbd_session_event(struct nbd_session *s, struct loop *from, enum backend_change change)
{
	tell(s, from, 1u << change);
}

void nbd_session_refresh(struct nbd_session *s)
{
	__atomic_store_n(&s->refresh_due, 1, __ATOMIC_RELEASE);
	if (!nbd_session_post(s, s->events.main, 0, NBD_ORDER_REFRESH))
		nbd_session_refreshed(s, s->events.main, -ENOTCONN);
}

void nbd_session_refreshed(struct nbd_session *s, struct loop *from, int error)
{
	if (!__atomic_exchange_n(&s->refresh_due, 0, __ATOMIC_ACQ_REL))
		return;
	s->refresh_error = error;
	tell(s, from, NBD_SESSION_REFRESHED);
}

void nbd_session_set_lost(struct nbd_session *s, struct loop *from, unsigned int index, bool lost)
{
	unsigned int others = 0;
	bool changed;

	pthread_mutex_lock(&s->lock);
	changed = s->members[index].lost != lost;
	s->members[index].lost = lost;
	for (unsigned int i = 0; i < s->nlinks; i++)
		others += i != index && s->members[i].lost;
	pthread_mutex_unlock(&s->lock);
	if (changed && !others)
		nbd_session_event(s, from, lost ? BACKEND_LOST : BACKEND_RESTORED);
}

/* --- the export --- */

/* Those that requests depend on. */
#define NEEDED_FLAGS \
	(NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES)

/* Whatever its size. */
static bool offers_less(const struct nbd_session *s, const struct nbd_export *x)
{
	return (s->promised.flags & ~x->flags & NEEDED_FLAGS) ||
	       (x->flags & ~s->promised.flags & NBD_FLAG_READ_ONLY) || x->min_block > s->block_size;
}

static bool less_than_promised(const struct nbd_session *s, const struct nbd_export *x)
{
	return x->size < s->largest || offers_less(s, x);
}

/*
 * The server is there for the first time. A driver was promised sizes and commands; the
 * rest is what it is.
 */
static void meet(struct nbd_session *s, const struct nbd_export *export, struct nbd_export *before)
{
	s->assumed = false;
	s->promised.flags |= export->flags & NBD_FLAG_SEND_FUA;
	if (offers_less(s, export))
		return;
	before->flags = export->flags;
	before->min_block = export->min_block;
}

unsigned int nbd_session_sizes(struct nbd_session *s)
{
	unsigned int sizes;

	pthread_mutex_lock(&s->lock);
	sizes = s->sizes;
	pthread_mutex_unlock(&s->lock);
	return sizes;
}

bool nbd_session_check(struct nbd_session *s, struct loop *from, const struct nbd_export *export,
		       unsigned int sizes)
{
	struct nbd_export before;
	bool less, old;

	pthread_mutex_lock(&s->lock);
	before = s->known;
	old = sizes != s->sizes && export->size < before.size;
	if (!old)
		s->known = *export;
	s->sizes += s->known.size != before.size;
	s->largest = max(s->largest, export->size);
	less = less_than_promised(s, export);
	if (s->assumed)
		meet(s, export, &before);
	pthread_mutex_unlock(&s->lock);

	if (old)
		return less;
	if (export->size != before.size) {
		log_warning("nbd: the export's size was %" PRIu64 " bytes and is %" PRIu64 " now",
			    before.size, export->size);
		if (export->size > before.size)
			nbd_session_post_all(s, from, NBD_ORDER_RENEW);
		nbd_session_event(s, from,
				  export->size > before.size ? BACKEND_GROWN : BACKEND_SHRUNK);
	}
	if (export->flags != before.flags || export->min_block != before.min_block) {
		log_warning("nbd: the export's flags were 0x%04x and are 0x%04x now, its minimum block size was %u and is %u",
			    before.flags, export->flags, before.min_block, export->min_block);
		nbd_session_event(s, from, BACKEND_FLAGS_CHANGED);
	}
	return less;
}

struct nbd_export nbd_session_known(struct nbd_session *s)
{
	struct nbd_export known;

	pthread_mutex_lock(&s->lock);
	known = s->known;
	pthread_mutex_unlock(&s->lock);
	return known;
}

bool nbd_session_assumed(struct nbd_session *s)
{
	bool assumed;

	pthread_mutex_lock(&s->lock);
	assumed = s->assumed;
	pthread_mutex_unlock(&s->lock);
	return assumed;
}

bool nbd_session_lost(struct nbd_session *s)
{
	bool lost = false;

	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < s->nlinks; i++)
		lost = lost || s->members[i].lost;
	pthread_mutex_unlock(&s->lock);
	return lost;
}

uint64_t nbd_session_size(struct nbd_session *s)
{
	uint64_t size;

	pthread_mutex_lock(&s->lock);
	size = s->known.size;
	pthread_mutex_unlock(&s->lock);
	return size;
}

static bool offers(const struct nbd_export *export, const struct backend_request *req)
{
	const uint16_t flags = export->flags;

	switch (req->op) {
	case BACKEND_READ:
		return true;
	case BACKEND_FLUSH:
		return flags & NBD_FLAG_SEND_FLUSH;
	case BACKEND_DISCARD:
		if (!(flags & NBD_FLAG_SEND_TRIM))
			return false;
		break;
	case BACKEND_WRITE_ZEROES:
		if (!(flags & NBD_FLAG_SEND_WRITE_ZEROES))
			return false;
		break;
	default:
		break;
	}
	/* Neither of the two that could make it stable before it is answered. */
	if (req->flags & BACKEND_REQ_FUA && !(flags & (NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_FLUSH)))
		return false;
	return !(flags & NBD_FLAG_READ_ONLY);
}

bool nbd_session_fits(const struct nbd_export *export, const struct backend_request *req)
{
	if (!offers(export, req))
		return false;
	if (req->op == BACKEND_FLUSH)
		return true;
	return req->length <= export->size && req->offset <= export->size - req->length &&
	       is_aligned(req->offset | req->length, export->min_block);
}

/* --- losses --- */

void nbd_session_owe_flush_error(struct nbd_session *s)
{
	nbd_journals_set_lost(&s->journals, true);
	__atomic_store_n(&s->unreported, 1, __ATOMIC_RELEASE);
	__atomic_add_fetch(&s->losses, 1, __ATOMIC_ACQ_REL);
}

bool nbd_session_owes_flush(struct nbd_session *s)
{
	bool owes;

	pthread_mutex_lock(&s->lock);
	owes = nbd_journals_dirty(&s->journals) ||
	       __atomic_load_n(&s->unreported, __ATOMIC_ACQUIRE);
	pthread_mutex_unlock(&s->lock);
	return owes;
}

/* --- statistics --- */

/*
 * Each number is whole, but they are not of the same moment: what is in flight
 * is the rest of a sum that may have changed between two looks.
 */
void nbd_session_stats(const struct nbd_session *s, unsigned int index,
		       struct backend_link_stats *ret_stats)
{
	const struct nbd_member *m = &s->members[index];
	const struct backend_link_stats *from = &m->stats;
	uint64_t finished = counter_read(&m->finished);
	uint64_t waiting = counter_read(&from->waiting);
	uint64_t requests = counter_read(&from->requests);

	*ret_stats = (struct backend_link_stats){
		.state = __atomic_load_n(&from->state, __ATOMIC_RELAXED),
		.connects = counter_read(&from->connects),
		.attempts = counter_read(&from->attempts),
		.requests = requests,
		.errors = counter_read(&from->errors),
		.resubmitted = counter_read(&from->resubmitted),
		.held = counter_read(&from->held),
		.replayed = counter_read(&from->replayed),
		.flushes = counter_read(&from->flushes),
		.bytes_sent = counter_read(&m->stream_stats.bytes_sent),
		.bytes_received = counter_read(&m->stream_stats.bytes_received),
		.waiting = waiting,
		.in_flight = requests - finished > waiting ? requests - finished - waiting : 0,
		.unflushed = counter_read(&from->unflushed),
		.memory = counter_read(&from->memory),
		.fenced = nbd_fence_ranges(&s->fence),
	};
	for (int i = 0; i < _BACKEND_LOSS_MAX; i++)
		ret_stats->losses[i] = counter_read(&from->losses[i]);
}

/* --- beginning and end --- */

int nbd_session_init(struct nbd_session *s, uint32_t replay_log)
{
	pthread_mutex_init(&s->lock, NULL);
	nbd_fence_init(&s->fence);
	s->known = s->promised;
	s->largest = s->promised.size;
	s->assumed = s->patient;
	s->changes_msg.op.complete = changes_arrived;
	s->members = calloc(s->nlinks, sizeof(*s->members));
	if (!s->members)
		return -ENOMEM;
	for (unsigned int i = 0; i < s->nlinks; i++) {
		struct nbd_member *m = &s->members[i];

		m->orders = NBD_ORDER_CLOSED;
		m->stats.state = "closed";
		m->wanted_by = calloc(s->nlinks, 1);
		m->answer_of = calloc(s->nlinks, 1);
		if (!m->wanted_by || !m->answer_of)
			return -ENOMEM;
	}
	return nbd_journals_create(&s->journals, s->nlinks, s->journaling ? replay_log : 0);
}

/*
 * What a predecessor was writing again may still come: newer writes wait, as with its
 * other writes, and so do younger entries of the log.
 */
static void fence_replayed(struct nbd_session *s, uint64_t now_ns)
{
	struct nbd_fence_range range = { .since_ns = now_ns };
	const struct nbd_journal_entry *entry;
	const struct nbd_journal *j;

	while ((entry = nbd_journals_next(&s->journals, range.age, &j))) {
		range.start = entry->offset;
		range.end = entry->offset + entry->length;
		range.age = entry->seq;
		nbd_fence_add(&s->fence, &range);
	}
}

static bool links_are_there(const struct nbd_session *s)
{
	for (unsigned int i = 0; i < s->nlinks; i++)
		if (s->members[i].present)
			return true;
	return false;
}

static void mistrust(struct nbd_session *s, const char *why)
{
	log_error("nbd: %s; the next flush fails", why);
	__atomic_store_n(&s->unreported, 1, __ATOMIC_RELEASE);
}

static void use_journal(struct nbd_session *s, void *memory, size_t bytes, bool inherited,
			uint64_t now_ns)
{
	enum nbd_journal_found found = NBD_JOURNAL_CLEAN;
	struct error e = ERROR_INIT;
	bool lost = false;
	int err;

	if (!memory && inherited)
		mistrust(s, "the killed process has left no log of its unflushed writes");
	if (!memory)
		return;
	err = nbd_journals_place(&s->journals, memory, bytes, inherited, &found, &lost, &e);
	if (err) {
		log_error("nbd: what is not flushed will be unknown to a successor: %s", e.text);
		if (inherited)
			mistrust(s, "the killed process's log of unflushed writes is not used");
	} else if (found == NBD_JOURNAL_REFUSED) {
		err_prefix(&e, "the killed process's log of unflushed writes cannot be used");
		mistrust(s, e.text);
	} else if (lost) {
		mistrust(s, "the killed process had lost acknowledged writes");
	}
	if (err || found != NBD_JOURNAL_WRITES)
		return;
	if (links_are_there(s)) {
		/* One that is alive has flushed before it handed the device over. */
		mistrust(s, "the predecessor has not flushed what it had acknowledged");
		nbd_journals_set_lost(&s->journals, true);
		nbd_journals_reset(&s->journals);
		return;
	}
	/* As if a connection had been lost that carried them: whose cache, nobody knows. */
	s->recovery = NBD_RECOVERY_PAUSING;
	s->cache_lost = true;
	log_info("nbd: the killed process had acknowledged writes that were not flushed");
	if (nbd_journals_was_replaying(&s->journals))
		fence_replayed(s, now_ns);
}

void nbd_session_use_journal(struct nbd_session *s, void *memory, size_t bytes, bool inherited,
			     uint64_t now_ns)
{
	if (!s->journaling)
		return;
	pthread_mutex_lock(&s->lock);
	use_journal(s, memory, bytes, inherited, now_ns);
	pthread_mutex_unlock(&s->lock);
}

void nbd_session_release(struct nbd_session *s)
{
	s->closing = true;
	while (__atomic_load_n(&s->changes, __ATOMIC_ACQUIRE))
		if (loop_run(s->events.main) < 0)
			break;
	for (unsigned int i = 0; s->members && i < s->nlinks; i++) {
		free(s->members[i].wanted_by);
		free(s->members[i].answer_of);
	}
	free(s->members);
	nbd_journals_destroy(&s->journals);
	nbd_fence_release(&s->fence);
	pthread_mutex_destroy(&s->lock);
}
