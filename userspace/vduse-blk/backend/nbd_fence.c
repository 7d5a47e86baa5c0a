// SPDX-License-Identifier: MIT
/*
 * The ranges are kept in the order of being added, without holes; lifting moves
 * the rest together. A table without room merges a new range with the last one
 * of the same connection, or with the last of all: what lies between waits too,
 * and longer than it had to, but nothing passes that should wait.
 *
 * Whether a write is let through is decided when it is submitted; nothing that
 * was let through is looked at again. So the order that matters is: ranges are
 * added before the writes that they stand for are submitted again, hence before
 * the driver can learn of their end and send a newer one.
 *
 * A socket that is kept may have bytes of late writes in its own send buffer. A peer
 * that does not read for a while, and then does, would get them whatever time has
 * passed. So such a range is not lifted before the socket is closed, whichever link
 * looks at the table. One that was merged of two connections is not lifted while any
 * socket is kept.
 */
#include "backend/nbd_fence.h"

#include <string.h>

void nbd_fence_init(struct nbd_fence *f)
{
	memset(f, 0, sizeof(*f));
	pthread_mutex_init(&f->lock, NULL);
}

void nbd_fence_release(struct nbd_fence *f)
{
	pthread_mutex_destroy(&f->lock);
}

static void set_count(struct nbd_fence *f, unsigned int n)
{
	__atomic_store_n(&f->count, n, __ATOMIC_RELEASE);
}

uint32_t nbd_fence_epoch(struct nbd_fence *f, bool kept)
{
	uint32_t epoch;

	pthread_mutex_lock(&f->lock);
	if (!++f->last_epoch)
		f->last_epoch = 1;
	epoch = f->last_epoch;
	f->sockets += kept;
	pthread_mutex_unlock(&f->lock);
	return epoch;
}

static void merge(struct nbd_fence *f, const struct nbd_fence_range *add)
{
	struct nbd_fence_range *into = &f->ranges[f->count - 1];

	for (unsigned int i = f->count; i-- > 0;) {
		if (f->ranges[i].epoch == add->epoch) {
			into = &f->ranges[i];
			break;
		}
	}
	into->start = min(into->start, add->start);
	into->end = max(into->end, add->end);
	into->since_ns = max(into->since_ns, add->since_ns);
	into->age = min(into->age, add->age);
	into->kept = into->kept || add->kept;
	/* NBD_FENCE_NEVER, if one of the two is not closed. */
	into->closed_ns = max(into->closed_ns, add->closed_ns);
	/* Of two connections: that one of them is closed is not enough, so it has to age. */
	if (into->epoch != add->epoch)
		into->epoch = 0;
}

void nbd_fence_add(struct nbd_fence *f, const struct nbd_fence_range *range)
{
	struct nbd_fence_range r = *range;

	r.closed_ns = NBD_FENCE_NEVER;
	pthread_mutex_lock(&f->lock);
	if (f->count < NBD_FENCE_RANGES) {
		f->ranges[f->count] = r;
		set_count(f, f->count + 1);
	} else {
		merge(f, &r);
	}
	pthread_mutex_unlock(&f->lock);
}

bool nbd_fence_blocks(struct nbd_fence *f, uint64_t offset, uint64_t length, uint64_t age)
{
	bool blocks = false;

	pthread_mutex_lock(&f->lock);
	for (unsigned int i = 0; i < f->count && !blocks; i++)
		blocks = f->ranges[i].age < age && offset < f->ranges[i].end &&
			 f->ranges[i].start < offset + length;
	pthread_mutex_unlock(&f->lock);
	return blocks;
}

void nbd_fence_closed(struct nbd_fence *f, uint32_t epoch, uint64_t now_ns)
{
	pthread_mutex_lock(&f->lock);
	for (unsigned int i = 0; i < f->count; i++)
		if (f->ranges[i].epoch == epoch)
			f->ranges[i].closed_ns = min(f->ranges[i].closed_ns, now_ns);
	pthread_mutex_unlock(&f->lock);
}

/* @since and @limit may be NBD_FENCE_NEVER. */
static uint64_t later(uint64_t since, uint64_t limit)
{
	return limit < NBD_FENCE_NEVER - since ? since + limit : NBD_FENCE_NEVER;
}

static uint64_t due(const struct nbd_fence_range *r, const struct nbd_fence_limits *limits)
{
	return min(later(r->since_ns, limits->age), later(r->closed_ns, limits->after_close));
}

static bool is_due(const struct nbd_fence_range *r, uint64_t now_ns,
		   const struct nbd_fence_limits *limits)
{
	const uint64_t at = due(r, limits);

	return at != NBD_FENCE_NEVER && now_ns >= at;
}

bool nbd_fence_outlived(struct nbd_fence *f, uint32_t epoch, uint64_t now_ns,
			const struct nbd_fence_limits *limits)
{
	bool outlived = true;

	pthread_mutex_lock(&f->lock);
	for (unsigned int i = 0; i < f->count && outlived; i++)
		outlived = f->ranges[i].epoch != epoch || is_due(&f->ranges[i], now_ns, limits);
	pthread_mutex_unlock(&f->lock);
	return outlived;
}

void nbd_fence_gone(struct nbd_fence *f, uint32_t epoch)
{
	pthread_mutex_lock(&f->lock);
	f->sockets--;
	for (unsigned int i = 0; i < f->count; i++)
		if (f->ranges[i].epoch == epoch || !f->sockets)
			f->ranges[i].kept = false;
	pthread_mutex_unlock(&f->lock);
}

uint64_t nbd_fence_expire(struct nbd_fence *f, uint64_t now_ns,
			  const struct nbd_fence_limits *limits, bool *ret_lifted)
{
	uint64_t next = NBD_FENCE_NEVER;
	unsigned int n = 0;

	pthread_mutex_lock(&f->lock);
	for (unsigned int i = 0; i < f->count; i++) {
		const struct nbd_fence_range r = f->ranges[i];
		const bool over = is_due(&r, now_ns, limits);

		if (over && !r.kept)
			continue;
		if (!over)
			next = min(next, due(&r, limits));
		f->ranges[n++] = r;
	}
	*ret_lifted = n < f->count;
	set_count(f, n);
	pthread_mutex_unlock(&f->lock);
	return next;
}
