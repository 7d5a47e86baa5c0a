// SPDX-License-Identifier: MIT
/*
 * All queues of a device stop, and go on later.
 *
 *	NONE --begin--> ENTERING --all stopped--> REACHED --end--> LEAVING --> NONE
 *			   |					      ^
 *			   +--end--> RECALLING --all know--> ---------+
 *
 * A pause that is ended early finds some queues stopped and others waiting for
 * storage, perhaps for ever: each is asked to take its stop back, and says whether it
 * was in time. Those that had stopped are started again; the others never did.
 */
#include <errno.h>

#include "transport/queue_pause.h"

static void finish(struct queue_pause *p, enum queue_pause_state state, int error)
{
	p->state = state;
	p->done(p->opaque, error);
}

static void start_report(void *opaque, struct queue_thread *q, int error)
{
	struct queue_pause *p = opaque;

	(void)q;
	if (error && !p->error)
		p->error = error;
	if (!--p->pending)
		finish(p, QUEUE_PAUSE_NONE, p->error);
}

static void start_stopped(struct queue_pause *p)
{
	unsigned int i;

	p->state = QUEUE_PAUSE_LEAVING;
	p->error = 0;
	p->pending = 1; /* this loop */
	for (i = 0; i < p->n; i++) {
		if (!p->stopped[i])
			continue;
		p->pending++;
		queue_thread_start(p->queues[i], p->features, false, start_report, p);
	}
	start_report(p, NULL, 0);
}

static void answered(struct queue_pause *p)
{
	if (--p->pending)
		return;
	if (p->state == QUEUE_PAUSE_RECALLING)
		start_stopped(p);
	else
		finish(p, QUEUE_PAUSE_REACHED, 0);
}

static void stop_report(void *opaque, struct queue_thread *q, int error)
{
	struct queue_pause *p = opaque;

	p->stopped[queue_thread_index(q)] = error != -ECANCELED;
	answered(p);
}

static void unstop_report(void *opaque, struct queue_thread *q, int error)
{
	(void)q;
	(void)error;
	answered(opaque);
}

void queue_pause_begin(struct queue_pause *p, struct queue_thread *const *queues, unsigned int n,
		       void (*done)(void *opaque, int error), void *opaque)
{
	unsigned int i;

	*p = (struct queue_pause) {
		.state = QUEUE_PAUSE_ENTERING,
		.n = n,
		.pending = n,
		.done = done,
		.opaque = opaque,
	};
	for (i = 0; i < n; i++) {
		p->queues[i] = queues[i];
		queue_thread_stop(queues[i], 1, 0, stop_report, p);
	}
}

void queue_pause_end(struct queue_pause *p, uint64_t features,
		     void (*done)(void *opaque, int error), void *opaque)
{
	unsigned int i;

	p->features = features;
	p->done = done;
	p->opaque = opaque;
	if (p->state == QUEUE_PAUSE_REACHED) {
		start_stopped(p);
		return;
	}
	p->state = QUEUE_PAUSE_RECALLING;
	p->pending += p->n;
	for (i = 0; i < p->n; i++)
		queue_thread_unstop(p->queues[i], unstop_report, p);
}
