/* SPDX-License-Identifier: MIT */
/*
 * A virtio-blk disk behind a vhost-user socket: a virtual machine monitor
 * connects, shares the guest's memory and hands rings over. No kernel module is
 * involved.
 *
 * One frontend at a time; when it goes, the next may come.
 */
#ifndef VDUSE_BLK_TRANSPORT_VHOST_USER_H
#define VDUSE_BLK_TRANSPORT_VHOST_USER_H

#include "backend/backend.h"
#include "base/error.h"
#include "loop/loop.h"
#include "transport/transport.h"
#include "virtio/virtio_blk.h"

/* Virtqueues are numbered by eight bits in some messages. */
#define VHOST_USER_MAX_QUEUES 256u

/**
 * struct vhost_user_params - what to serve, and where
 * @name:	device name, for the log
 * @socket_path: UNIX socket to listen on; made here, mode 0600
 * @disk:	features and configuration; must outlive the device
 * @backend:	open backend; stays the caller's
 * @nqueues:	number of virtqueues
 * @queue_size:	longest ring
 * @loop:	main loop
 * @thread_init: called first on every queue thread; or NULL
 */
struct vhost_user_params {
	const char *name;
	const char *socket_path;
	const struct vblk_device *disk;
	struct backend *backend;
	unsigned int nqueues;
	unsigned int queue_size;
	struct loop *loop;
	void (*thread_init)(void);
};

/**
 * vhost_user_create() - start the queue threads and listen
 * @params:	copied; its strings must outlive the device
 * @ret_transport: written only on success
 * @e:		error text
 *
 * A socket that nobody listens on any more is replaced. Sleeps. Frontends are
 * served once the main loop runs.
 *
 * Return: 0; -EADDRINUSE when somebody listens there, -EEXIST when the path is
 * something else; or another -errno.
 */
int vhost_user_create(const struct vhost_user_params *params, struct transport **ret_transport,
		      struct error *e);

#endif
