/* SPDX-License-Identifier: MIT */
/*
 * virtio_blk_internal.h: what virtio_blk_queue.c and virtio_blk_request.c share.
 */
#ifndef VIRTIO_VIRTIO_BLK_INTERNAL_H
#define VIRTIO_VIRTIO_BLK_INTERNAL_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "backend/backend.h"
#include "base/histogram.h"
#include "loop/loop.h"
#include "loop/pool.h"
#include "virtio/virtio_blk.h"

/*
 * Entries of a request's iov: a chain of VBLK_SEG_MAX segments, header and
 * status, and some more for buffers that cross from one mapping to the next.
 */
#define VBLK_CHAIN_MAX		(VBLK_SEG_MAX + 2)
#define VBLK_IOV_MAX		(VBLK_CHAIN_MAX + 16)

/* What a request is counted as. */
enum vblk_kind {
	VBLK_READ,
	VBLK_WRITE,
	VBLK_FLUSH,
	VBLK_DISCARD,
	VBLK_WRITE_ZEROES,
	VBLK_OTHER,
	_VBLK_KIND_MAX,
};

struct vblk_range {
	uint64_t offset;
	uint64_t length;
};

/*
 * A request from pop to push. @link is the pool's while it is free. The fields
 * that every request needs come first; @ranges is read by discard and
 * write-zeroes alone: a checked copy, since the driver can change its own.
 */
struct vblk_request {
	struct pool_link link;
	struct vblk_queue *queue;
	struct backend_request backend;
	struct virtqueue_elem elem;
	uint8_t *status;
	uint64_t popped_ns; /* loop_now_ns() of the batch that took it */
	uint32_t payload; /* bytes read or written, for the counters */
	uint32_t written; /* device-writable bytes filled when it succeeds */
	uint8_t kind; /* enum vblk_kind */
	bool flush_after; /* not done before a flush is */
	uint8_t next_range;
	uint8_t num_ranges;
	struct vblk_range ranges[VBLK_RANGES_MAX];
};

enum vblk_queue_phase {
	VBLK_STOPPED,
	VBLK_RUNNING,
	VBLK_STOPPING, /* until nothing is in flight */
};

struct vblk_queue {
	struct vblk_queue_params params;
	const struct vblk_device *dev;
	enum vblk_queue_phase phase;
	bool write_through; /* the driver sends no flush: writes are stable when done */
	bool batch_open; /* @batch_end is scheduled */
	bool reset_asked;
	struct virtqueue vq;
	struct pool pool;
	struct iovec *iovs; /* VBLK_IOV_MAX for each request */
	struct loop_hook batch_end;
	struct loop_idle idle;
	struct virtqueue_state last_state; /* when stopped */
	void (*stopped)(struct vblk_queue *q, void *opaque);
	void *stopped_opaque;

	/* Written by the queue's thread, read by any. */
	uint64_t ops[_VBLK_KIND_MAX];
	uint64_t bytes[_VBLK_KIND_MAX];
	uint64_t errors[_VBLK_KIND_MAX];
	uint64_t kicks, notifies;
	struct histogram latency[_VBLK_LATENCY_MAX];
};

/* The ring, as the virtqueue wants it. */
static inline struct virtqueue_params
vblk_virtqueue_params(const struct vblk_queue_start_params *p)
{
	return (struct virtqueue_params){
		.num = p->num,
		.packed = p->features & (1ull << VIRTIO_F_RING_PACKED),
		.event_idx = p->features & (1ull << VIRTIO_RING_F_EVENT_IDX),
		.indirect = p->features & (1ull << VIRTIO_RING_F_INDIRECT_DESC),
		.max_chain = VBLK_CHAIN_MAX,
		.desc = p->desc,
		.driver = p->driver,
		.device = p->device,
		.state = p->state,
		.iotlb = p->iotlb,
		.inflight = p->inflight,
	};
}

/*
 * A chain was taken from the ring: check it and begin to carry it out. It ends
 * with vblk_queue_complete(), now or from the loop, or breaks the queue.
 */
void vblk_request_start(struct vblk_request *req);

/* The status is known: give the chain back and the request to the pool. */
void vblk_queue_complete(struct vblk_request *req, uint8_t status);

#endif /* VIRTIO_VIRTIO_BLK_INTERNAL_H */
