/* SPDX-License-Identifier: MIT */
/*
 * virtqueue.h: the device side of a virtqueue (virtio 1.2, 2.7 split and 2.8
 * packed).
 *
 * The rings are memory that the driver may change at any time and that may
 * hold anything. Every field is read once, into a local copy, and the copy is
 * checked. A ring that breaks the rules makes the queue *broken*: from then on
 * nothing is read or written, every call returns -EIO, and virtqueue_error()
 * says what the driver did.
 *
 * One thread owns a virtqueue: no locks, and nothing is allocated after
 * virtqueue_init().
 *
 * The order of calls in one batch:
 *
 *	while (virtqueue_pop(vq, elem) > 0) ...		take work; if there is some:
 *	virtqueue_disable_notify()
 *	virtqueue_push(vq, elem, written) ...		give back, in any order
 *	if (virtqueue_commit(vq)) interrupt		publish what was pushed
 *	if (virtqueue_enable_notify(vq)) start over	else wait for a kick
 */
#ifndef VIRTIO_VIRTQUEUE_H
#define VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "virtio/iotlb.h"

#define VIRTQUEUE_MAX_NUM	32768u

/**
 * struct virtqueue_state - position in the ring, enough to resume there
 * @avail_idx: split: free-running available index (used_idx is in the ring);
 *	packed: offset of the next descriptor to be read
 * @used_idx: packed: offset of the next used descriptor; split: not used
 * @avail_wrap, @used_wrap: packed: wrap counters, both true on a fresh ring
 */
struct virtqueue_state {
	uint16_t avail_idx;
	uint16_t used_idx;
	bool avail_wrap;
	bool used_wrap;
};

/* A fresh ring of either format. */
#define VIRTQUEUE_STATE_INIT \
	((struct virtqueue_state){ .avail_wrap = true, .used_wrap = true })

/**
 * struct virtqueue_elem - a descriptor chain taken from the ring
 * @iov: the caller's array, set before virtqueue_pop(): driver-readable memory
 *	first, then device-writable memory. Never an empty entry.
 * @max_iov: entries in @iov
 * @out_num: driver-readable entries
 * @in_num: device-writable entries, at @iov[@out_num]
 * @out_bytes, @in_bytes: their lengths in total; neither exceeds 4 GiB - 1
 * @id: buffer ID (packed) or head of the chain (split)
 * @ndesc: ring entries that the chain occupies (packed)
 * @resubmitted: a predecessor had it in flight when it died
 * @first, @last: entries of the log (packed, and only with one)
 * @hold: keeps the memory mapped until virtqueue_push()
 *
 * The memory behind @iov belongs to the device until virtqueue_push().
 */
struct virtqueue_elem {
	struct iovec *iov;
	unsigned int max_iov;
	unsigned int out_num;
	unsigned int in_num;
	uint32_t out_bytes;
	uint32_t in_bytes;
	uint16_t id;
	uint16_t ndesc;
	uint16_t first;
	uint16_t last;
	bool resubmitted;
	unsigned int hold;
};

/**
 * struct virtqueue_params - what the driver set up
 * @num: ring size; a power of two for a split ring, at most 32768
 * @packed: VIRTIO_F_RING_PACKED was negotiated
 * @event_idx: VIRTIO_F_RING_EVENT_IDX was negotiated
 * @indirect: VIRTIO_F_RING_INDIRECT_DESC was negotiated
 * @max_chain: longest chain accepted, in descriptors
 * @desc, @driver, @device: IOVA of the three areas (virtio 1.2, 2.7 and 2.8)
 * @state: where to begin
 * @iotlb: must outlive the virtqueue
 * @inflight: log of what is in flight, not in use by another virtqueue; NULL: keep
 *	none. One that a predecessor used says where to begin, whatever @state is.
 */
struct virtqueue_params {
	unsigned int num;
	bool packed;
	bool event_idx;
	bool indirect;
	unsigned int max_chain;
	uint64_t desc;
	uint64_t driver;
	uint64_t device;
	struct virtqueue_state state;
	struct iotlb *iotlb;
	struct inflight *inflight;
};

struct inflight;
struct vring_avail;
struct vring_desc;
struct vring_packed_desc;
struct vring_packed_desc_event;
struct vring_used;

/**
 * struct virtqueue - device side of one ring; private to virtqueue*.c
 * @num: ring size
 * @packed, @event_idx, @indirect: what was negotiated
 * @broken: the driver broke the rules, see @error
 * @max_chain: longest chain accepted
 * @in_flight: packed: ring entries taken whose used entry is not committed
 * @generation: of @iotlb when the pointers below were made
 * @avail_idx: split: next available entry; packed: offset
 * @avail_seen: split: last value read of the driver's index
 * @used_idx: next used entry to be written, pushed ones included
 * @used_committed: value of @used_idx at the last commit
 * @avail_wrap, @used_wrap, @committed_wrap: packed: wrap counters that belong
 *	to the three indices
 * @notify_on: the driver was asked to kick
 * @notify_at: for which entry, as in the event fields
 * @first_word: packed: the first used descriptor of the batch, written last
 * @iotlb, @inflight: as in @params
 * @desc, @avail, @used: split: the rings
 * @ring, @driver_event, @device_event: packed: the ring and its event structures
 * @params: as given
 * @error: why it is broken
 */
struct virtqueue {
	uint16_t num;
	bool packed;
	bool event_idx;
	bool indirect;
	bool broken;
	unsigned int max_chain;
	unsigned int in_flight;
	uint32_t generation;

	uint16_t avail_idx;
	uint16_t avail_seen;
	uint16_t used_idx;
	uint16_t used_committed;
	bool avail_wrap;
	bool used_wrap;
	bool committed_wrap;
	bool notify_on;
	uint16_t notify_at;
	uint64_t first_word;

	struct iotlb *iotlb;
	struct inflight *inflight;
	union {
		struct {
			struct vring_desc *desc;
			struct vring_avail *avail;
			struct vring_used *used;
		};
		struct {
			struct vring_packed_desc *ring;
			struct vring_packed_desc_event *driver_event;
			struct vring_packed_desc_event *device_event;
		};
	};

	struct virtqueue_params params;
	struct error error;
};

/**
 * virtqueue_init() - check the driver's set-up and map the rings
 * @vq: to be filled; on an error it must not be used
 * @params: from the driver, checked here
 * @e: says what is wrong
 *
 * There is nothing to undo: a virtqueue owns no memory.
 *
 * Return: 0; -EINVAL for a bad size, alignment or state, or a log that does not
 * fit; -EFAULT, -EACCES, -E2BIG or another errno of the iotlb when an area is not
 * mapped as needed.
 */
int virtqueue_init(struct virtqueue *vq, const struct virtqueue_params *params,
		   struct error *e);

/**
 * virtqueue_pop() - take the next chain
 * @vq: the queue
 * @elem: @iov and @max_iov set by the caller; filled on success
 *
 * Chains that were in flight when a predecessor died come first, in the order in
 * which it had taken them.
 *
 * Return: 1 with a chain; 0 when the ring is empty; -EIO when the queue is
 * broken.
 */
int virtqueue_pop(struct virtqueue *vq, struct virtqueue_elem *elem);

/**
 * virtqueue_push() - give a chain back
 * @vq: the queue
 * @elem: from virtqueue_pop(); its memory is the driver's again after the commit
 * @written: bytes written into the device-writable part, counted from its start
 *
 * Order among chains is free. The driver sees nothing before virtqueue_commit().
 * On a broken queue the chain is dropped.
 */
void virtqueue_push(struct virtqueue *vq, const struct virtqueue_elem *elem,
		    uint32_t written);

/**
 * virtqueue_commit() - publish everything pushed since the last commit
 * @vq: the queue
 *
 * Return: true when the driver asked for an interrupt (virtio 1.2, 2.7.7 and
 * 2.8.10). Nothing pushed: false.
 */
bool virtqueue_commit(struct virtqueue *vq);

/**
 * virtqueue_disable_notify() - ask the driver not to kick
 * @vq: the queue
 *
 * A hint: kicks may still come, and before the first virtqueue_enable_notify() it
 * does nothing.
 */
void virtqueue_disable_notify(struct virtqueue *vq);

/**
 * virtqueue_enable_notify() - ask the driver to kick for the next buffer
 * @vq: the queue
 *
 * Looks at the ring after having asked, so that no buffer is missed.
 *
 * Return: true when buffers are available now: the caller pops before it sleeps.
 */
bool virtqueue_enable_notify(struct virtqueue *vq);

/**
 * virtqueue_state() - where the device is in the ring
 * @vq: the queue
 * @ret_state: what virtqueue_params.state would resume; chains in flight count
 *	as taken
 */
void virtqueue_state(const struct virtqueue *vq, struct virtqueue_state *ret_state);

/**
 * virtqueue_break() - stop using the ring because the driver broke a rule
 * @vq: the queue; nothing happens when it is broken already
 * @fmt: why, one line without newline
 *
 * For device types whose requests have rules of their own.
 *
 * Return: -EIO, so that "return virtqueue_break(...)" is the error path.
 */
int virtqueue_break(struct virtqueue *vq, const char *fmt, ...) PRINTF_FORMAT(2, 3);

/**
 * virtqueue_error() - why the queue is broken
 * @vq: the queue
 *
 * Return: one line without newline, or NULL when it is not broken.
 */
const char *virtqueue_error(const struct virtqueue *vq);

#endif /* VIRTIO_VIRTQUEUE_H */
