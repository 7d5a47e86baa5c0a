// SPDX-License-Identifier: MIT
/*
 *	NONE --a connection is lost, and something is not flushed--> PAUSING
 *	NONE --a connection is made, likewise--> PAUSING
 *	PAUSING --all links quiet, logs complete, one link up--> REPLAYING
 *	PAUSING --all links quiet, logs not complete--> NONE, writes are lost if one was
 *	REPLAYING --everything written again and flushed--> NONE
 *	REPLAYING --the server refuses a write--> NONE, writes are lost
 *	REPLAYING --that connection is lost too--> PAUSING
 *
 * Why everybody pauses: a replay writes what was acknowledged, in that order,
 * over whatever is there. A newer write that is on the wire at the same time, on
 * another connection, could be overwritten after it was carried out. So nothing
 * is on the wire when the replay begins, what was acknowledged until then is in
 * the logs, and what was not is sent again after it.
 *
 * An attempt that was cut short leaves entries on its connection, which may come late.
 * The next one need not care for those that it sends again, in the same order; but where
 * a younger entry changes the same bytes, it waits (nbd_fence.h).
 *
 * Whether a lost connection means a lost cache nobody tells us: the process may
 * have died, or only the cable. Replaying is right in both cases.
 *
 * Whether a new connection leads to the same process nobody tells us, either: the
 * links that have unflushed writes may not have noticed yet that theirs is gone. What
 * the new one reads, and what is written because of that, must not be older than what
 * was acknowledged, so it begins with a replay, too. Where that cannot be, nothing is
 * lost before a connection is.
 *
 * A device that was taken over from a killed process begins in PAUSING if its logs
 * say that something is not flushed: the first link that is up does the replay.
 *
 * Lost writes are never hidden. Every flush that was not answered yet fails, and
 * if there is none, the next one (nbd_flush.c). A write with FUA that succeeds
 * says nothing of other writes, so it does not report the loss.
 */
#include "backend/nbd_recovery.h"

#include <errno.h>

#include "base/log.h"

static const char *const outcome_incomplete =
	"the replay log is off or was too small for what was not flushed";

static bool everybody_quiet(const struct nbd_session *s)
{
	for (unsigned int i = 0; i < s->nlinks; i++)
		if (s->members[i].present && !s->members[i].quiet)
			return false;
	return true;
}

static void go_on(struct nbd_session *s, struct loop *from)
{
	s->recovery = NBD_RECOVERY_NONE;
	s->cache_lost = false;
	nbd_session_post_all(s, from, NBD_ORDER_RECOVERY);
}

static void end_recovery(struct nbd_session *s, struct loop *from)
{
	nbd_journals_reset(&s->journals);
	go_on(s, from);
}

static void give_up(struct nbd_session *s, struct loop *from, const char *why)
{
	log_error("nbd: acknowledged writes are lost with the server's cache (%s); the next flush fails",
		  why);
	nbd_session_owe_flush_error(s);
	end_recovery(s, from);
}

/* Something has changed while PAUSING: what is next? */
static void evaluate(struct nbd_session *s, struct loop *from)
{
	if (s->recovery != NBD_RECOVERY_PAUSING || !everybody_quiet(s))
		return;
	if (!nbd_journals_complete(&s->journals)) {
		if (s->cache_lost)
			give_up(s, from, outcome_incomplete);
		else
			go_on(s, from);
		return;
	}
	for (unsigned int i = 0; i < s->nlinks; i++) {
		if (!s->members[i].up)
			continue;
		s->recovery = NBD_RECOVERY_REPLAYING;
		s->replayer = i;
		nbd_session_post(s, from, i, NBD_ORDER_RECOVERY);
		return;
	}
}

/* Unless one is under way, or there would be nothing to do. */
static void begin(struct nbd_session *s, struct loop *from)
{
	if (s->lent || s->recovery != NBD_RECOVERY_NONE || !nbd_journals_dirty(&s->journals))
		return;
	s->recovery = NBD_RECOVERY_PAUSING;
	for (unsigned int i = 0; i < s->nlinks; i++)
		s->members[i].quiet = false;
	nbd_session_post_all(s, from, NBD_ORDER_RECOVERY);
}

void nbd_recovery_join(struct nbd_session *s, unsigned int index)
{
	pthread_mutex_lock(&s->lock);
	s->members[index].present = true;
	s->members[index].up = false;
	s->members[index].quiet = true;
	pthread_mutex_unlock(&s->lock);
}

void nbd_recovery_leave(struct nbd_session *s, struct loop *from, unsigned int index)
{
	pthread_mutex_lock(&s->lock);
	s->members[index].present = false;
	s->members[index].up = false;
	if (s->recovery == NBD_RECOVERY_REPLAYING && s->replayer == index)
		s->recovery = NBD_RECOVERY_PAUSING;
	evaluate(s, from);
	pthread_mutex_unlock(&s->lock);
}

int nbd_recovery_lend(struct nbd_session *s, bool lent)
{
	int err = 0;

	pthread_mutex_lock(&s->lock);
	if (s->recovery == NBD_RECOVERY_NONE)
		s->lent = lent;
	else
		err = -EAGAIN;
	pthread_mutex_unlock(&s->lock);
	return err;
}

bool nbd_recovery_lent(struct nbd_session *s)
{
	bool lent;

	pthread_mutex_lock(&s->lock);
	lent = s->lent;
	pthread_mutex_unlock(&s->lock);
	return lent;
}

void nbd_recovery_up(struct nbd_session *s, struct loop *from, unsigned int index)
{
	pthread_mutex_lock(&s->lock);
	begin(s, from);
	s->members[index].up = true;
	s->members[index].quiet = true;
	evaluate(s, from);
	pthread_mutex_unlock(&s->lock);
}

void nbd_recovery_down(struct nbd_session *s, struct loop *from, unsigned int index, bool lost)
{
	pthread_mutex_lock(&s->lock);
	s->members[index].up = false;
	if (s->recovery == NBD_RECOVERY_REPLAYING && s->replayer == index)
		s->recovery = NBD_RECOVERY_PAUSING;
	else if (lost)
		begin(s, from);
	if (lost && s->recovery != NBD_RECOVERY_NONE)
		s->cache_lost = true;
	s->members[index].quiet = true;
	evaluate(s, from);
	pthread_mutex_unlock(&s->lock);
}

void nbd_recovery_quiet(struct nbd_session *s, struct loop *from, unsigned int index)
{
	pthread_mutex_lock(&s->lock);
	s->members[index].quiet = true;
	evaluate(s, from);
	pthread_mutex_unlock(&s->lock);
}

bool nbd_recovery_paused(struct nbd_session *s)
{
	bool paused;

	pthread_mutex_lock(&s->lock);
	paused = s->recovery != NBD_RECOVERY_NONE;
	pthread_mutex_unlock(&s->lock);
	return paused;
}

bool nbd_recovery_is_mine(struct nbd_session *s, unsigned int index)
{
	bool mine;

	pthread_mutex_lock(&s->lock);
	mine = s->recovery == NBD_RECOVERY_REPLAYING && s->replayer == index;
	pthread_mutex_unlock(&s->lock);
	return mine;
}

void nbd_recovery_done(struct nbd_session *s, struct loop *from, int error)
{
	pthread_mutex_lock(&s->lock);
	if (error)
		give_up(s, from, "the server refuses to take them again");
	else
		end_recovery(s, from);
	pthread_mutex_unlock(&s->lock);
}
