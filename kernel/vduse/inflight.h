/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which requests of a virtqueue are in flight, and how to fail them.
 *
 * A tracker follows one virtqueue whose rings live in coherent memory of a
 * domain (virtio_vdpa). It needs no help from the daemon, so it still knows
 * the requests in flight when the daemon has died.
 */
#ifndef _VDUSE_INFLIGHT_H
#define _VDUSE_INFLIGHT_H

#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/vdpa.h>

struct vduse_domain;

/**
 * struct vduse_ring - where a virtqueue is and how it is laid out
 * @num: descriptors in the ring
 * @packed: packed layout (VIRTIO_F_RING_PACKED), else split
 * @desc: IOVA of the descriptor area
 * @driver: IOVA of the driver area (avail ring, driver event suppression)
 * @device: IOVA of the device area (used ring, device event suppression)
 * @state: where the device starts, as given by set_vq_state
 */
struct vduse_ring {
	u32 num;
	bool packed;
	u64 desc;
	u64 driver;
	u64 device;
	struct vdpa_vq_state state;
};

struct vduse_inflight_ring;

/**
 * struct vduse_inflight - tracker of one virtqueue
 *
 * Embedded in the virtqueue. Zeroed memory plus vduse_inflight_init() is a
 * stopped tracker. Only @name and @index are for its owner.
 *
 * @name: whose virtqueue it is, for the log; set by the owner, or NULL
 * @index: number of the virtqueue, for the log; set by the owner
 * @lock: guards what @ring points to, and makes the module the only device
 *	while it fails requests; taken with interrupts off
 * @ring: what is known; NULL while stopped. Changed under @lock, read under
 *	@lock or RCU
 */
struct vduse_inflight {
	const char *name;
	unsigned int index;
	spinlock_t lock; /* the ring */
	struct vduse_inflight_ring __rcu *ring;
};

/**
 * vduse_inflight_init - prepare a tracker
 * @t: the tracker, zeroed
 *
 * Context: any.
 */
void vduse_inflight_init(struct vduse_inflight *t);

/**
 * vduse_inflight_start - begin to follow a virtqueue
 * @t: a stopped tracker
 * @d: domain of the device; must outlive the tracking
 * @ring: the virtqueue; it must be idle, as it is when it becomes ready
 *
 * Call it when the driver sets the virtqueue ready, before it can add a
 * buffer. Only for devices whose driver maps every buffer through the DMA API
 * before it makes it available (virtio_blk does).
 *
 * Context: may sleep.
 * Return: 0; -EOPNOTSUPP when the rings are not coherent memory of @d
 * (vhost_vdpa); -EINVAL for a size or state that cannot be; -EBUSY when it is
 * started already; -ENOMEM.
 */
int vduse_inflight_start(struct vduse_inflight *t, struct vduse_domain *d,
			 const struct vduse_ring *ring);

/**
 * vduse_inflight_stop - cease to follow a virtqueue
 * @t: the tracker, started or not
 *
 * Call it when the virtqueue is no longer ready or the device is reset. The
 * memory that @t is part of may be reused at once, but must not be freed
 * before an RCU grace period has passed.
 *
 * Context: any but hard interrupt; does not sleep.
 */
void vduse_inflight_stop(struct vduse_inflight *t);

/**
 * vduse_inflight_observe - take note of new avail and used entries
 * @t: the tracker, started or not
 *
 * Observing happens by itself on the map path as often as exactness needs it;
 * calling it elsewhere only makes vduse_inflight_count() fresher.
 *
 * Context: any but hard interrupt.
 */
void vduse_inflight_observe(struct vduse_inflight *t);

/**
 * vduse_inflight_count - observe, and count the requests in flight
 * @t: the tracker, started or not
 *
 * Context: any but hard interrupt.
 * Return: requests that were made available and not used.
 */
unsigned int vduse_inflight_count(struct vduse_inflight *t);

/**
 * vduse_inflight_used - how far the device has come
 * @t: the tracker, started or not
 *
 * Context: any but hard interrupt.
 * Return: number of buffers the device has used since the start, modulo 2^32;
 * for telling whether a daemon makes progress.
 */
u32 vduse_inflight_used(struct vduse_inflight *t);

/**
 * vduse_inflight_fail - complete what is in flight with an I/O error
 * @t: the tracker, started or not
 *
 * Everything outstanding and everything newly available gets
 * VIRTIO_BLK_S_IOERR and a used entry. Only for VIRTIO_ID_BLOCK. From the
 * first call on, the module is the device: no daemon may use the rings again
 * until the virtqueue was stopped and started. Call it again for every kick.
 *
 * Context: any but hard interrupt; does not sleep. The caller must be sure
 * that no daemon writes to the rings (see vduse_domain_revoke()).
 * Return: number of requests completed; if it is not 0 the caller runs the
 * virtqueue's callback.
 */
int vduse_inflight_fail(struct vduse_inflight *t);

/**
 * vduse_inflight_look - observe, and tell how much may pass unobserved
 * @t: the tracker, started or not
 *
 * For watch.c. Context: any; interrupts are off.
 * Return: ring size minus requests in flight.
 */
unsigned int vduse_inflight_look(struct vduse_inflight *t);

/**
 * vduse_inflight_peek - observe if there is anything new
 * @t: the tracker, started or not
 *
 * For watch.c. Costs a few loads when there is nothing new.
 *
 * Context: any; inside an RCU read-side section.
 */
void vduse_inflight_peek(struct vduse_inflight *t);

#endif /* _VDUSE_INFLIGHT_H */
