/* SPDX-License-Identifier: MIT */
/*
 * transport.h: what a transport does for the virtio-blk core.
 *
 * A transport (VDUSE today) owns the device's life: it negotiates features,
 * learns where the rings are, maps memory and carries the two notifications.
 * It calls vblk_queue_*() (virtio_blk.h); the core calls back only through
 * these ops.
 */
#ifndef VIRTIO_TRANSPORT_H
#define VIRTIO_TRANSPORT_H

/**
 * struct vblk_transport_ops - calls from a queue to its transport
 *
 * Every call is made on the queue's own thread, with the @opaque given at
 * vblk_queue_create(), and must not call back into the queue.
 *
 * @notify: used buffers were published and the driver wants an interrupt.
 *	At most once for each batch.
 * @needs_reset: the driver broke the ring's rules; @reason (one line, already
 *	logged) says how. The queue touches its rings no more until it is
 *	stopped and started again. Called once for each start. The transport
 *	sets DEVICE_NEEDS_RESET if it has a way to (virtio 1.2, 2.1.2).
 */
struct vblk_transport_ops {
	void (*notify)(void *opaque, unsigned int index);
	void (*needs_reset)(void *opaque, unsigned int index, const char *reason);
};

#endif /* VIRTIO_TRANSPORT_H */
