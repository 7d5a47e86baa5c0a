/* SPDX-License-Identifier: MIT */
/*
 * inflight.h: the log of requests in flight of one virtqueue, in memory that
 * outlives the process.
 *
 * The layout is that of the vhost-user specification ("Inflight I/O tracking",
 * queue region of a split and of a packed virtqueue), so that the memory may
 * come from a vhost-user front-end as well as from a file. A virtqueue that is
 * given a log (struct virtqueue_params) keeps it, and when it is initialized
 * with one that a killed process left, virtqueue_pop() hands out that process's
 * requests again before anything new. inflight.c says why that is exact.
 *
 * The memory may be shared with others and hold anything: a region that makes no
 * sense is refused or breaks the queue, like a ring that makes none.
 */
#ifndef VIRTIO_INFLIGHT_H
#define VIRTIO_INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct inflight;

/* Alignment of a region, and what its size is a multiple of. */
#define INFLIGHT_ALIGN	64u

/**
 * inflight_region_bytes() - size of the region of one virtqueue
 * @num: ring size, at most VIRTQUEUE_MAX_NUM
 *
 * Enough for a ring of either format, since the format is known later.
 *
 * Return: bytes, a multiple of INFLIGHT_ALIGN.
 */
size_t inflight_region_bytes(unsigned int num);

/**
 * inflight_create() - make a log from a region
 * @region: shared memory aligned to INFLIGHT_ALIGN; stays the caller's and
 *	outlives the log. All zero, or what a predecessor left.
 * @bytes: its size
 * @max_num: longest ring it is used with
 * @ret_log: written only on success
 * @e: error text
 *
 * Looks at nothing in the region yet: virtqueue_init() does.
 *
 * Context: any thread, allocates. The log then belongs to the thread of the
 * virtqueue that it is given to.
 *
 * Return: 0, -EINVAL when @region is too small or unaligned, or -ENOMEM.
 */
int inflight_create(void *region, size_t bytes, unsigned int max_num, struct inflight **ret_log,
		    struct error *e);

/**
 * inflight_destroy() - free the log, leave the region as it is
 * @log: no virtqueue uses it any more; may be NULL
 */
void inflight_destroy(struct inflight *log);

/**
 * inflight_forget() - the driver has reset the device: nothing is in flight
 * @log: no virtqueue uses it now
 *
 * The next virtqueue_init() starts from virtqueue_params.state with an empty log.
 */
void inflight_forget(struct inflight *log);

/**
 * inflight_pending() - requests of a predecessor that were not handed out yet
 * @log: of an initialized virtqueue
 *
 * Return: how many calls of virtqueue_pop() will return them.
 */
unsigned int inflight_pending(const struct inflight *log);

#endif /* VIRTIO_INFLIGHT_H */
