/* SPDX-License-Identifier: MIT */
/*
 * One virtqueue of a VDUSE device: what only VDUSE knows about it. Its thread
 * and everything else is queue_thread.h.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDUSE_QUEUE_H
#define VDUSE_BLK_TRANSPORT_VDUSE_QUEUE_H

#include "base/error.h"
#include "transport/queue_thread.h"
#include "virtio/inflight.h"

struct vduse_queue;

/**
 * vduse_queue_create() - start the thread and wait until it is usable
 * @params:	as for queue_thread_create(); @ops and @opaque are filled in here
 * @dev_fd:	/dev/vduse/NAME; stays the caller's
 * @log:	of requests in flight; stays the caller's; or NULL
 * @ret_queue:	written only on success
 * @e:		error text
 *
 * Queues are created in the order of their index. Sleeps.
 *
 * Return: 0 or -errno.
 */
int vduse_queue_create(const struct queue_thread_params *params, int dev_fd,
		       struct inflight *log, struct vduse_queue **ret_queue, struct error *e);

/**
 * vduse_queue_destroy() - end the thread and free the queue
 * @q:	may be NULL; see queue_thread_destroy()
 */
void vduse_queue_destroy(struct vduse_queue *q);

/**
 * vduse_queue_announce() - interrupt the driver once the queue has been started
 * @q:	stopped, without a command at work
 *
 * For what a predecessor may have published without saying so.
 */
void vduse_queue_announce(struct vduse_queue *q);

/**
 * vduse_queue_thread() - to send commands to the queue
 * @q: the queue
 *
 * Return: valid as long as the queue.
 */
struct queue_thread *vduse_queue_thread(const struct vduse_queue *q);

#endif
