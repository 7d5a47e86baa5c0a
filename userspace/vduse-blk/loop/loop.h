/* SPDX-License-Identifier: MIT */
/*
 * Event loop on one io_uring.
 *
 * A loop belongs to the thread that created it: every function here is called
 * on that thread, except where it says otherwise. One iteration:
 *
 *	1. all completions that are ready: op->complete() of each
 *	2. expired timers
 *	3. idle callbacks look for work that makes no event (idle->poll)
 *	4. hooks that were scheduled meanwhile, each once ("one send for all")
 *	5. is more ready by now? Then again, without sleeping. Else the idle
 *	   callbacks re-enable what wakes the loop and look again (idle->arm)
 *	6. one io_uring_enter that submits everything and, if there is nothing
 *	   to do, sleeps until a completion or the next timer
 *
 * So one system call serves a whole batch, and a loop without work sleeps
 * without a wake-up until something happens.
 */
#ifndef LOOP_LOOP_H
#define LOOP_LOOP_H

#include <liburing.h>

#include "base/error.h"
#include "base/util.h"

struct loop;

/*
 * An operation in flight. Its address is the SQE's user_data, so a completion
 * finds its object without a table. It must stay at its place, and its memory
 * valid, until complete() is called with flags lacking IORING_CQE_F_MORE.
 */
struct loop_op {
	void (*complete)(struct loop_op *op, int res, uint32_t cqe_flags);
};

/* Kept in the order in which they were scheduled. */
struct loop_hook {
	void (*run)(struct loop_hook *hook);
	struct loop_hook *next; /* private */
	bool scheduled;		/* private */
};

/*
 * Source of work that makes no completion event (a ring in shared memory).
 * Either callback may be NULL.
 */
struct loop_idle {
	/*
	 * After each batch: handle what is there, cheaply, notifications stay
	 * off. Returns true if it found work.
	 */
	bool (*poll)(struct loop_idle *idle);
	/*
	 * The loop is about to sleep: switch notifications on, then look once
	 * more. Returns true if work was found and handled (notifications off
	 * again); the loop then does not sleep.
	 */
	bool (*arm)(struct loop_idle *idle);
	struct loop_idle *next; /* private */
};

/* Runs once, when its time has come. Re-arming it in the callback is fine. */
struct loop_timer {
	void (*expired)(struct loop_timer *timer);
	struct loop_timer *next; /* private */
	int64_t deadline_ms;	 /* private */
	bool armed;		 /* private */
};

/*
 * A message to another loop. It belongs to the sender until loop_send(), then
 * to the receiver: op.complete() runs on the receiving loop's thread with
 * res = the value. Its memory must stay valid until then.
 */
struct loop_msg {
	struct loop_op op;
	struct loop *to;       /* private */
	struct loop_msg *next; /* private */
	int value;	       /* private */
};

enum loop_rung {
	LOOP_RUNG_DEFER, /* SINGLE_ISSUER | DEFER_TASKRUN (Linux 6.1) */
	LOOP_RUNG_COOP,	 /* COOP_TASKRUN | TASKRUN_FLAG (Linux 5.19) */
	LOOP_RUNG_PLAIN, /* no flags */
	_LOOP_RUNG_MAX,
};

struct loop_params {
	const char *name;	  /* for the log; "" or NULL: none */
	unsigned int sq_entries;  /* 0: 256 */
	unsigned int cq_entries;  /* 0: 4 * sq_entries */
	enum loop_rung best_rung; /* start at this rung; 0 tries all */
};

/* Counters since creation; plain reads by the owning thread. */
struct loop_stats {
	enum loop_rung rung;
	uint64_t iterations;
	uint64_t enters; /* io_uring_enter system calls */
	uint64_t sleeps; /* of those, calls that were allowed to block */
	uint64_t sqes;
	uint64_t cqes;
};

/**
 * loop_create() - set up a ring for the calling thread
 * @params: sizes
 * @ret_loop: written only on success
 * @e: error text
 *
 * Return: 0 or -errno (-ENOSYS/-EPERM when io_uring is missing or forbidden).
 */
int loop_create(const struct loop_params *params, struct loop **ret_loop, struct error *e);

/**
 * loop_destroy() - release the ring
 * @loop: may be NULL. No operation may be in flight, no hook scheduled and no
 *	  timer armed any more. Messages that were sent still go out.
 */
void loop_destroy(struct loop *loop);

/**
 * loop_sqe() - next submission entry, with its user_data already set
 * @loop: the loop
 * @op: completion callback; NULL: nobody is told, whatever the result
 *
 * The entry is submitted at the end of the iteration. It has to be prepared
 * (io_uring_prep_*) before the next call into the loop. Preparing clears no
 * user_data. When the submission queue is full this submits (without waiting).
 *
 * Return: never NULL.
 */
struct io_uring_sqe *loop_sqe(struct loop *loop, struct loop_op *op);

/**
 * loop_cancel() - ask the kernel to cancel @op
 * @loop: the loop
 * @op: operation in flight on this loop
 *
 * @op still completes, once, through its callback: with -ECANCELED if it was
 * caught, with its own result otherwise.
 */
void loop_cancel(struct loop *loop, struct loop_op *op);

/**
 * loop_run() - iterate until loop_stop()
 * @loop: the loop
 *
 * May be called again afterwards, but not from inside a callback.
 *
 * Return: 0, or -errno when the ring itself failed.
 */
int loop_run(struct loop *loop);

/**
 * loop_stop() - let loop_run() return at the end of this iteration
 * @loop: the loop; to stop the loop of another thread send it a message
 */
void loop_stop(struct loop *loop);

/**
 * loop_submit() - hand what is prepared to the kernel, and messages to their receivers
 * @loop: a loop that may not run again. Nobody is called back, no timer expires.
 *
 * Return: 0, or -errno when the ring itself failed.
 */
int loop_submit(struct loop *loop);

/**
 * loop_hook_schedule() - run @hook at the end of the current batch
 * @loop: the loop
 * @hook: ignored if it is scheduled already. A hook that is scheduled by a
 *	  hook runs in the same iteration, unless hooks keep scheduling hooks.
 */
void loop_hook_schedule(struct loop *loop, struct loop_hook *hook);

/**
 * loop_hook_cancel() - forget a scheduled hook
 * @loop: the loop
 * @hook: may be not scheduled
 */
void loop_hook_cancel(struct loop *loop, struct loop_hook *hook);

/**
 * loop_idle_add() - register a source of work without events
 * @loop: the loop
 * @idle: stays registered until loop_idle_del()
 */
void loop_idle_add(struct loop *loop, struct loop_idle *idle);

/**
 * loop_idle_del() - take it out again
 * @loop: the loop
 * @idle: may be not registered. From inside idle callbacks too.
 */
void loop_idle_del(struct loop *loop, struct loop_idle *idle);

/**
 * loop_timer_arm() - call timer->expired() once, in @ms milliseconds or later
 * @loop: the loop
 * @timer: an armed timer is moved
 * @ms: 0: in the next iteration. The clock is only read while a timer is armed.
 */
void loop_timer_arm(struct loop *loop, struct loop_timer *timer, unsigned int ms);

/**
 * loop_timer_cancel() - disarm
 * @loop: the loop
 * @timer: may be not armed. When this returns, expired() will not be called.
 */
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);

/**
 * loop_send() - pass a message to another loop (or to this one)
 * @from: the calling thread's loop
 * @to: receiver; must not be destroyed before it has seen the message
 * @msg: see struct loop_msg
 * @value: arrives as res, must not be negative
 *
 * Goes out with the next submission of @from. No lock is involved. A receiver
 * whose completion queue is full for the moment is retried, so no order
 * between two messages is promised.
 */
void loop_send(struct loop *from, struct loop *to, struct loop_msg *msg, int value);

/**
 * loop_now_ns() - CLOCK_MONOTONIC, read once for a batch
 * @loop: the loop, inside loop_run()
 *
 * For timing many things cheaply: the value is the same until the loop begins
 * a new iteration or has been to the kernel, so it is older than now by what
 * the callbacks of this iteration have taken.
 *
 * Return: nanoseconds, never 0.
 */
uint64_t loop_now_ns(struct loop *loop);

/**
 * loop_stats() - counters
 * @loop: the loop
 *
 * Return: valid as long as the loop.
 */
const struct loop_stats *loop_stats(const struct loop *loop);

/**
 * loop_rung_name() - for logs and statistics
 * @rung: which
 *
 * Return: static text.
 */
const char *loop_rung_name(enum loop_rung rung);

#endif
