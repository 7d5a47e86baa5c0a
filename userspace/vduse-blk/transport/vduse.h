/* SPDX-License-Identifier: MIT */
/*
 * A virtio-blk disk behind a VDUSE device: creates the device and its queue
 * threads, answers the kernel's control messages and follows the driver.
 *
 * Attaching the device to the vDPA bus is not done here but by whoever speaks
 * netlink (vdpa_netlink.h); from then on the kernel sends messages.
 *
 * Everything here belongs to the thread that runs the main loop.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDUSE_H
#define VDUSE_BLK_TRANSPORT_VDUSE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/error.h"
#include "loop/loop.h"
#include "virtio/virtio_blk.h"

struct vduse;

/**
 * struct vduse_params - what to create
 * @name:	device name
 * @control_fd:	from vduse_control_open(); stays the caller's
 * @disk:	features and configuration; must outlive the device
 * @backend:	open backend; stays the caller's
 * @nqueues:	number of virtqueues
 * @queue_size:	longest ring
 * @bounce_size: see struct vduse_dev_params
 * @loop:	main loop
 * @thread_init: called first on every queue thread; or NULL
 */
struct vduse_params {
	const char *name;
	int control_fd;
	const struct vblk_device *disk;
	struct backend *backend;
	unsigned int nqueues;
	unsigned int queue_size;
	uint32_t bounce_size;
	struct loop *loop;
	void (*thread_init)(void);
};

/**
 * vduse_create() - create the device, start its threads, listen for messages
 * @params:	copied; @params->name must outlive the device
 * @ret_vduse:	written only on success
 * @e:		error text
 *
 * Sleeps. Messages are answered once the main loop runs.
 *
 * Return: 0 or -errno.
 */
int vduse_create(const struct vduse_params *params, struct vduse **ret_vduse, struct error *e);

/**
 * vduse_close() - stop the threads and destroy the device
 * @v:	may be NULL; the main loop is not running (this runs it)
 * @e:	error text
 *
 * Should be detached from the vDPA bus by now; the kernel keeps the device
 * otherwise, without a process behind it.
 *
 * Return: 0, or -errno when the device is still there.
 */
int vduse_close(struct vduse *v, struct error *e);

/**
 * vduse_abandon() - leave the device to the kernel, requests in flight included
 * @v:	the device
 *
 * For storage that does not answer: the kernel sees the process gone and may
 * fail what it waits for. The queue threads notice nothing. Only the end of the
 * process may follow; the device can be destroyed with vduse_dev_destroy().
 */
void vduse_abandon(struct vduse *v);

/**
 * struct vduse_status - what a device is doing
 * @driver_status:	virtio status byte
 * @features:		what the driver accepted; valid with DRIVER_OK
 * @running:		queues serve their rings
 */
struct vduse_status {
	uint8_t driver_status;
	uint64_t features;
	bool running;
};

/**
 * vduse_status() - what the device is doing
 * @v:		the device
 * @ret_status:	filled
 */
void vduse_status(const struct vduse *v, struct vduse_status *ret_status);

/**
 * vduse_queue_at() - a queue, for its counters
 * @v:		the device
 * @index:	smaller than the number of queues
 *
 * Return: the queue.
 */
struct queue_thread *vduse_queue_at(const struct vduse *v, unsigned int index);

#endif
