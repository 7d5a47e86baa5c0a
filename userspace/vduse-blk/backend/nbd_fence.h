/* SPDX-License-Identifier: MIT */
/*
 * Bytes that a write of a connection which has ended may still change.
 *
 * Such a write was sent and not answered. It has been submitted again, with the
 * same data, so that it happens twice is no harm; but a newer write to the same
 * bytes has to wait until the old one can no longer follow it. Nobody tells for
 * certain when that is: time has to pass, less of it when the peer has closed.
 *
 * Which of two is newer is told by their ages: that of a write which a replay has
 * sent is its number in the log; then come those that were sent and are in no log,
 * in no order that a driver could know; then those that were never sent.
 *
 * One table serves all queues: the newer write may come on another one. Any
 * thread may call everything here; only the first look is on the way of every
 * write, and it reads one counter.
 */
#ifndef BACKEND_NBD_FENCE_H
#define BACKEND_NBD_FENCE_H

#include <pthread.h>

#include "base/util.h"

/* More ranges than that are merged, which makes some writes wait without need. */
#define NBD_FENCE_RANGES 1024

/* Ages. Below them: numbers in the log (nbd_journal.h). */
#define NBD_FENCE_UNLOGGED (UINT64_MAX - 1)
#define NBD_FENCE_UNSENT   UINT64_MAX

struct nbd_fence_range {
	uint64_t start, end;
	uint64_t since_ns;  /* for nbd_fence_expire() */
	uint64_t closed_ns; /* when the peer closed; NBD_FENCE_NEVER: it has not */
	uint64_t age;	    /* what is younger waits */
	uint32_t epoch;	    /* of its connection; 0: nobody will see that close */
	bool kept;	    /* the socket is there, and may still have some of it to send */
};

struct nbd_fence {
	unsigned int count; /* atomic; changed under the lock */
	pthread_mutex_t lock;
	uint32_t last_epoch;
	unsigned int sockets; /* that are kept */
	struct nbd_fence_range ranges[NBD_FENCE_RANGES];
};

/* A moment that never comes. */
#define NBD_FENCE_NEVER UINT64_MAX

/* How long a range stays, in nanoseconds. */
struct nbd_fence_limits {
	uint64_t age;	       /* since it was added; NBD_FENCE_NEVER */
	uint64_t after_close; /* and since the peer closed, whichever ends first */
};

/**
 * nbd_fence_init() - nothing is fenced
 * @f: to initialise
 */
void nbd_fence_init(struct nbd_fence *f);

/**
 * nbd_fence_release() - the counterpart
 * @f: initialised
 */
void nbd_fence_release(struct nbd_fence *f);

/**
 * nbd_fence_epoch() - name for the ranges of one connection
 * @f: the table
 * @kept: its socket stays, until nbd_fence_gone(); its ranges then have to say so
 *
 * Return: never 0.
 */
uint32_t nbd_fence_epoch(struct nbd_fence *f, bool kept);

/**
 * nbd_fence_add() - a write to these bytes may come late
 * @f: the table
 * @range: copied; the peer has not closed
 */
void nbd_fence_add(struct nbd_fence *f, const struct nbd_fence_range *range);

/**
 * nbd_fence_active() - is anything fenced?
 * @f: the table
 *
 * Return: if not, nbd_fence_blocks() need not be asked.
 */
static inline bool nbd_fence_active(const struct nbd_fence *f)
{
	return __atomic_load_n(&f->count, __ATOMIC_ACQUIRE) != 0;
}

/**
 * nbd_fence_ranges() - how many ranges are fenced?
 * @f: the table
 *
 * Return: their number, now.
 */
static inline unsigned int nbd_fence_ranges(const struct nbd_fence *f)
{
	return __atomic_load_n(&f->count, __ATOMIC_ACQUIRE);
}

/**
 * nbd_fence_blocks() - must a write wait?
 * @f: the table
 * @offset: first byte
 * @length: bytes
 * @age: of the write
 *
 * Return: true if an older one may still change any of its bytes.
 */
bool nbd_fence_blocks(struct nbd_fence *f, uint64_t offset, uint64_t length, uint64_t age);

/**
 * nbd_fence_closed() - the peer has closed a connection
 * @f: the table
 * @epoch: of the connection
 * @now_ns: time
 *
 * Lifts nothing: nbd_fence_expire() does, and has to be called anew.
 */
void nbd_fence_closed(struct nbd_fence *f, uint32_t epoch, uint64_t now_ns);

/**
 * nbd_fence_outlived() - has a socket been kept for long enough?
 * @f: the table
 * @epoch: of the connection
 * @now_ns: time
 * @limits: when a range is lifted
 *
 * Return: true if all its ranges are due: they are lifted when it is gone.
 */
bool nbd_fence_outlived(struct nbd_fence *f, uint32_t epoch, uint64_t now_ns,
			const struct nbd_fence_limits *limits);

/**
 * nbd_fence_gone() - a socket that was kept is closed
 * @f: the table
 * @epoch: of the connection
 *
 * Lifts nothing, as above.
 */
void nbd_fence_gone(struct nbd_fence *f, uint32_t epoch);

/**
 * nbd_fence_expire() - lift what is too old, and has no socket any more
 * @f: the table
 * @now_ns: time
 * @limits: when a range is lifted
 * @ret_lifted: set to whether something was
 *
 * Return: when the next one is due; NBD_FENCE_NEVER if there is none. What is due and
 * kept does not count: it is nbd_fence_gone() that comes next.
 */
uint64_t nbd_fence_expire(struct nbd_fence *f, uint64_t now_ns,
			  const struct nbd_fence_limits *limits, bool *ret_lifted);

#endif
