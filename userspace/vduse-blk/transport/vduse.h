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
#include "transport/transport.h"
#include "virtio/virtio_blk.h"

struct vduse_recovery;

/**
 * struct vduse_params - what to create
 * @name:	device name
 * @control_fd:	from vduse_control_open(); stays the caller's
 * @disk:	features and configuration; must outlive the device
 * @backend:	open backend; stays the caller's
 * @nqueues:	number of virtqueues
 * @queue_size:	longest ring
 * @bounce_size: see struct vduse_dev_params
 * @dir_fd:	the runtime folder, for the log of requests in flight
 * @recovery:	a device to go on with, or NULL to create one
 * @standby:	@recovery is of a daemon that lives and hands the device over: touch
 *		nothing until vduse_take_over()
 * @taken_over:	with @standby: called on the main loop when the queues are served
 * @failed:	called on the main loop when that device turned out not to be one to
 *		go on with; @error says why. The loop should end
 * @removing:	called on the main loop: true when somebody removes the device from
 *		the vDPA bus, while its driver waits for requests in flight; false
 *		when that driver has gone. Only our vduse.ko tells; or NULL
 * @opaque:	their first argument
 * @loop:	main loop
 * @thread_init: called first on every queue thread; or NULL
 */
struct vduse_params {
	const char *name;
	int control_fd;
	struct vblk_device *disk;
	struct backend *backend;
	unsigned int nqueues;
	unsigned int queue_size;
	uint32_t bounce_size;
	int dir_fd;
	struct vduse_recovery *recovery;
	bool standby;
	void (*taken_over)(void *opaque);
	void (*failed)(void *opaque, const struct error *error);
	void (*removing)(void *opaque, bool removing);
	void *opaque;
	struct loop *loop;
	void (*thread_init)(void);
};

/**
 * vduse_create() - create the device, start its threads, listen for messages
 * @params:	copied; @params->name must outlive the device
 * @ret_transport: written only on success
 * @e:		error text
 *
 * Sleeps. Messages are answered once the main loop runs, and so are requests that
 * a predecessor had in flight. A device that was recovered is never destroyed
 * here when something fails.
 *
 * The device should be detached from the vDPA bus before transport_close(): the
 * kernel keeps the device otherwise, without a process behind it. After
 * transport_abandon() the kernel sees the process gone and may fail what it
 * waits for; the device can then be destroyed with vduse_dev_destroy().
 *
 * Return: 0 or -errno.
 */
int vduse_create(const struct vduse_params *params, struct transport **ret_transport,
		 struct error *e);

/**
 * vduse_take_over() - the predecessor has paused: serve its queues
 * @t:	created with &vduse_params.standby
 * @e:	error text
 *
 * What can fail has been tried before, but the kernel or the storage may have
 * changed since. &vduse_params.taken_over is called when the queues are served,
 * perhaps from inside, or &vduse_params.failed. Control messages are left alone.
 *
 * Return: 0 or -errno.
 */
int vduse_take_over(struct transport *t, struct error *e);

/**
 * vduse_descriptor() - the device, for a successor
 * @t: a transport of vduse_create()
 *
 * Return: a descriptor that stays the transport's.
 */
int vduse_descriptor(const struct transport *t);

/**
 * vduse_listen() - the predecessor has let go of the device: answer its messages
 * @t:	after &vduse_params.taken_over
 */
void vduse_listen(struct transport *t);

#endif
