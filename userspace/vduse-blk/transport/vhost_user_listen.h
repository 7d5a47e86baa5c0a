/* SPDX-License-Identifier: MIT */
/*
 * The UNIX socket that vhost-user frontends connect to.
 *
 * Everything here belongs to the thread that runs the loop.
 */
#ifndef VDUSE_BLK_TRANSPORT_VHOST_USER_LISTEN_H
#define VDUSE_BLK_TRANSPORT_VHOST_USER_LISTEN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "loop/loop.h"

/**
 * struct vhost_user_listener - private but for the callbacks
 * @connected:	somebody has connected; @fd is the owner's
 * @closed:	vhost_user_listener_close() is done
 */
struct vhost_user_listener {
	void (*connected)(struct vhost_user_listener *l, int fd);
	void (*closed)(struct vhost_user_listener *l);

	struct loop *loop;
	const char *path;
	dev_t dev; /* of the socket's file */
	ino_t ino;
	int fd;
	struct loop_op op;
	bool accepting; /* @op is in flight */
	struct loop_timer again;
	bool paused;
	bool closing;
};

/**
 * vhost_user_listener_open() - make the socket and wait for connections
 * @l:		the callbacks are set, everything else is filled in
 * @loop:	the calling thread's loop
 * @path:	where; must stay valid. A socket there that nobody listens on is
 *		replaced. The new one has mode 0600
 * @e:		error text
 *
 * Return: 0; -EADDRINUSE, -EEXIST, or another -errno.
 */
int vhost_user_listener_open(struct vhost_user_listener *l, struct loop *loop, const char *path,
			     struct error *e);

/**
 * vhost_user_listener_pause() - let who connects from now on wait
 * @l: the listener
 */
void vhost_user_listener_pause(struct vhost_user_listener *l);

/**
 * vhost_user_listener_resume() - go on
 * @l: the listener
 */
void vhost_user_listener_resume(struct vhost_user_listener *l);

/**
 * vhost_user_listener_close() - remove the socket
 * @l: the listener
 *
 * closed() is called once, perhaps from inside.
 */
void vhost_user_listener_close(struct vhost_user_listener *l);

/**
 * vhost_user_listener_unlink() - remove the socket's file, if it is still ours
 * @l: the listener
 */
void vhost_user_listener_unlink(const struct vhost_user_listener *l);

#endif
