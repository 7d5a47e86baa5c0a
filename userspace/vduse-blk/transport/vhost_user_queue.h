/* SPDX-License-Identifier: MIT */
/*
 * One virtqueue of a vhost-user device: what only this transport knows of it.
 * Its thread and everything else is queue_thread.h.
 */
#ifndef VDUSE_BLK_TRANSPORT_VHOST_USER_QUEUE_H
#define VDUSE_BLK_TRANSPORT_VHOST_USER_QUEUE_H

#include "base/error.h"
#include "transport/queue_thread.h"
#include "transport/vhost_user_mem.h"

struct vhost_user_queue;

/**
 * struct vhost_user_start - the ring as the frontend set it up
 * @num:	ring size
 * @desc:	guest address of the descriptor table or ring
 * @avail:	of the available ring, or the driver's event structure
 * @used:	of the used ring, or the device's event structure
 * @base:	as in SET_VRING_BASE, for a fresh start
 * @kick_fd:	eventfd; open at least until the queue has stopped
 * @inflight:	log of requests in flight, the queue's until it has stopped; or NULL
 */
struct vhost_user_start {
	unsigned int num;
	uint64_t desc, avail, used;
	uint32_t base;
	int kick_fd;
	struct inflight *inflight;
};

/**
 * vhost_user_queue_create() - start the thread and wait until it is usable
 * @params:	as for queue_thread_create(); @ops and @opaque are filled in here
 * @ret_queue:	written only on success
 * @e:		error text
 *
 * Queues are created in the order of their index. Sleeps.
 *
 * Return: 0 or -errno.
 */
int vhost_user_queue_create(const struct queue_thread_params *params,
			    struct vhost_user_queue **ret_queue, struct error *e);

/**
 * vhost_user_queue_destroy() - end the thread and free the queue
 * @q:	may be NULL; see queue_thread_destroy()
 */
void vhost_user_queue_destroy(struct vhost_user_queue *q);

/**
 * vhost_user_queue_thread() - to send commands to the queue
 * @q: the queue
 *
 * Return: valid as long as the queue.
 */
struct queue_thread *vhost_user_queue_thread(const struct vhost_user_queue *q);

/**
 * vhost_user_queue_set_start() - what the next queue_thread_start() starts with
 * @q:		the queue, without a command at work
 * @start:	copied
 */
void vhost_user_queue_set_start(struct vhost_user_queue *q, const struct vhost_user_start *start);

/*
 * Settings. Each takes effect with the next queue_thread_update(), and is set
 * while no command is at work.
 */

/**
 * vhost_user_queue_set_mem() - the memory that the queue's addresses are in
 * @q:		the queue
 * @mem:	NULL: none; a reference of its own is taken
 *
 * The update has to forget the old mappings.
 */
void vhost_user_queue_set_mem(struct vhost_user_queue *q, struct vhost_user_mem *mem);

/**
 * vhost_user_queue_set_call() - the eventfd that interrupts the driver
 * @q:	the queue
 * @fd:	the queue's from now on; -1: the driver does without
 */
void vhost_user_queue_set_call(struct vhost_user_queue *q, int fd);

/**
 * vhost_user_queue_set_err() - the eventfd that says that the queue is broken
 * @q:	the queue
 * @fd:	the queue's from now on; -1: nobody is told
 */
void vhost_user_queue_set_err(struct vhost_user_queue *q, int fd);

#endif
