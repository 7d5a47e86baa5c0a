/* SPDX-License-Identifier: MIT */
/*
 * All queues of a device stop, and go on later where they stopped, while the driver
 * notices nothing but the delay.
 *
 * Belongs to the main thread.
 */
#ifndef VDUSE_BLK_TRANSPORT_QUEUE_PAUSE_H
#define VDUSE_BLK_TRANSPORT_QUEUE_PAUSE_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/queue_thread.h"

#define QUEUE_PAUSE_MAX	64u

/**
 * enum queue_pause_state - what the queues are doing
 * @QUEUE_PAUSE_NONE:	no pause
 * @QUEUE_PAUSE_ENTERING: they finish what is in flight
 * @QUEUE_PAUSE_REACHED: nothing is in flight
 * @QUEUE_PAUSE_RECALLING: it was ended early: those still draining go on
 * @QUEUE_PAUSE_LEAVING: those that had stopped start again
 */
enum queue_pause_state {
	QUEUE_PAUSE_NONE,
	QUEUE_PAUSE_ENTERING,
	QUEUE_PAUSE_REACHED,
	QUEUE_PAUSE_RECALLING,
	QUEUE_PAUSE_LEAVING,
};

/**
 * struct queue_pause - a pause; all fields are private; zeroed: none
 * @state:	see there
 * @n:		queues
 * @queues:	these
 * @stopped:	has this one stopped?
 * @pending:	answers awaited
 * @error:	of the first queue that could not be started again
 * @features:	to start them with
 * @done:	who asked for what is under way
 * @opaque:	first argument
 */
struct queue_pause {
	enum queue_pause_state state;
	unsigned int n;
	struct queue_thread *queues[QUEUE_PAUSE_MAX];
	bool stopped[QUEUE_PAUSE_MAX];
	unsigned int pending;
	int error;
	uint64_t features;
	void (*done)(void *opaque, int error);
	void *opaque;
};

/**
 * queue_pause_begin() - take nothing new, finish what is in flight
 * @p:		no pause
 * @queues:	running, without a command at work; copied
 * @n:		how many, QUEUE_PAUSE_MAX at most
 * @done:	called once, with 0, unless the pause is ended before
 * @opaque:	its argument
 *
 * Takes as long as the storage does.
 */
void queue_pause_begin(struct queue_pause *p, struct queue_thread *const *queues, unsigned int n,
		       void (*done)(void *opaque, int error), void *opaque);

/**
 * queue_pause_end() - go on, whether the pause was reached or not
 * @p:		a pause, not being ended
 * @features:	what was negotiated
 * @done:	called once; -errno when a queue could not be started again
 * @opaque:	its argument
 *
 * Does not wait for the storage. The callback of queue_pause_begin() is not called
 * any more.
 */
void queue_pause_end(struct queue_pause *p, uint64_t features,
		     void (*done)(void *opaque, int error), void *opaque);

/**
 * queue_pause_busy() - are commands at work?
 * @p: a pause, or none
 *
 * Return: true if a callback will come.
 */
static inline bool queue_pause_busy(const struct queue_pause *p)
{
	return p->state != QUEUE_PAUSE_NONE && p->state != QUEUE_PAUSE_REACHED;
}

#endif
