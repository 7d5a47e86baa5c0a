// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: bringing the device to rest, for a successor to go on with, or for
 * good.
 *
 * At rest nothing is in flight, the log of requests in flight is empty, and the
 * storage has flushed all that was acknowledged: should the server lose what it has
 * not written yet, no successor has to know of it.
 *
 * The flush is the daemon's own. An error that the storage reports to it, once, is
 * owed to the driver, whose next flush fails.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "cmd/serve.h"

static struct queue_thread *flush_queue(const struct serve *s)
{
	return transport_queue(s->transport, 0);
}

bool serve_flushing(const struct serve *s)
{
	return queue_thread_flushing(flush_queue(s));
}

static void flushed(void *opaque, struct queue_thread *q, int error)
{
	struct serve *s = opaque;
	void (*done)(struct serve *s, int error) = s->flush_done;

	(void)q;
	if (error) {
		log_error("%s: a flush failed: %s", s->options.name, strerror(-error));
		vblk_device_owe_flush_error(&s->disk);
	}
	s->flush_done = NULL;
	if (done)
		done(s, error);
	if (s->state == SERVE_CLOSING)
		loop_stop(s->loop);
}

void serve_flush(struct serve *s, void (*done)(struct serve *s, int error))
{
	if (!(s->disk.backend_flags & BACKEND_F_FLUSH)) {
		done(s, 0);
		return;
	}
	if (serve_flushing(s)) {
		done(s, -EBUSY);
		return;
	}
	s->flush_done = done;
	queue_thread_flush(flush_queue(s), flushed, s);
}

void serve_forget_flush(struct serve *s)
{
	s->flush_done = NULL;
}

/* Before an end that does not keep the device: nobody will know what is not flushed. */

/* A driver that wanted to be sure has flushed itself: only an error is a failure. */
static void last_flushed(struct serve *s, int error)
{
	if (error && !s->given_up)
		s->exit_status = EXIT_FAILURE;
}

void serve_flush_last(struct serve *s)
{
	s->last_flush = true;
	if (backend_owes_flush(s->backend))
		serve_flush(s, last_flushed);
	while (serve_flushing(s))
		loop_run(s->loop);
}

/* Before an end that keeps the device. Whatever comes of it, the end comes. */

static void end_keeping(struct serve *s)
{
	loop_timer_cancel(s->loop, &s->keep_timer);
	loop_stop(s->loop);
}

static void kept_flushed(struct serve *s, int error)
{
	(void)error;
	end_keeping(s);
}

static void kept_paused(void *opaque, int error)
{
	struct serve *s = opaque;

	if (error)
		end_keeping(s);
	else
		serve_flush(s, kept_flushed);
}

static void keep_timer_expired(struct loop_timer *timer)
{
	struct serve *s = container_of(timer, struct serve, keep_timer);

	log_warning("%s: the storage does not answer: it is left without a flush",
		    s->options.name);
	loop_stop(s->loop);
}

void serve_end_keeping(struct serve *s)
{
	s->keep_timer.expired = keep_timer_expired;
	if (s->options.tunables.stop_ms != BACKEND_NEVER)
		loop_timer_arm(s->loop, &s->keep_timer, s->options.tunables.stop_ms);
	if (transport_can_pause(s->transport))
		transport_pause(s->transport, kept_paused, s);
	else
		serve_flush(s, kept_flushed);
}
