/* SPDX-License-Identifier: MIT */
/*
 * Memory for the logs of requests in flight, which the frontend keeps for a
 * daemon that may die: made by GET_INFLIGHT_FD, brought back by
 * SET_INFLIGHT_FD. Queue i's log (virtio/inflight.h) is the i-th of equal parts.
 *
 * Everything here belongs to the main thread; a log is its queue's while the
 * queue runs.
 */
#ifndef VDUSE_BLK_TRANSPORT_VHOST_USER_INFLIGHT_H
#define VDUSE_BLK_TRANSPORT_VHOST_USER_INFLIGHT_H

#include "base/error.h"
#include "transport/vhost_user_proto.h"
#include "virtio/inflight.h"

struct vhost_user_logs;

/**
 * vhost_user_logs_make_file() - a file for empty logs
 * @wanted:	number of queues and longest ring, checked
 * @ret_desc:	the same with size and offset; written only on success
 * @ret_fd:	a descriptor that the caller closes; written only on success
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int vhost_user_logs_make_file(const struct vhost_user_inflight *wanted,
			      struct vhost_user_inflight *ret_desc, int *ret_fd, struct error *e);

/**
 * vhost_user_logs_open() - use the logs in a file
 * @desc:	from the frontend
 * @fd:		likewise; stays the caller's
 * @ret_logs:	written only on success
 * @e:		error text
 *
 * What is in the logs is looked at when a ring starts.
 *
 * Return: 0, -EINVAL when size, offset or file do not fit, or another -errno.
 */
int vhost_user_logs_open(const struct vhost_user_inflight *desc, int fd,
			 struct vhost_user_logs **ret_logs, struct error *e);

/**
 * vhost_user_logs_close() - unmap the file, which stays as it is
 * @logs: may be NULL; no queue uses one of them
 */
void vhost_user_logs_close(struct vhost_user_logs *logs);

/**
 * vhost_user_logs_at() - the log of a queue
 * @logs:	may be NULL
 * @index:	any
 *
 * Return: the log, or NULL when there is none for that queue.
 */
struct inflight *vhost_user_logs_at(const struct vhost_user_logs *logs, unsigned int index);

#endif
