/* SPDX-License-Identifier: MIT */
/*
 * One virtqueue of a VDUSE device with its thread, loop, address space, and
 * backend connection.
 *
 * The main thread creates and destroys queues and sends them commands; a queue
 * carries one command at a time out on its own thread and reports back. Nothing
 * is shared but counters.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDUSE_QUEUE_H
#define VDUSE_BLK_TRANSPORT_VDUSE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/error.h"
#include "loop/loop.h"
#include "virtio/virtio_blk.h"

struct vduse_queue;

/**
 * struct vduse_queue_params - what a queue is made of
 * @index:	virtqueue index
 * @size:	longest ring
 * @dev_fd:	/dev/vduse/NAME; stays the caller's
 * @disk:	features and configuration, constant
 * @backend:	where requests go
 * @main:	loop of the thread that sends commands
 * @thread_init: first thing the thread does, for instance give up rights; or NULL
 */
struct vduse_queue_params {
	unsigned int index;
	unsigned int size;
	int dev_fd;
	const struct vblk_device *disk;
	struct backend *backend;
	struct loop *main;
	void (*thread_init)(void);
};

/**
 * typedef vduse_queue_done - a command was carried out
 * @opaque:	as given with the command
 * @q:		the queue
 * @error:	0 or -errno
 *
 * Runs on the main thread, from its loop.
 */
typedef void vduse_queue_done(void *opaque, struct vduse_queue *q, int error);

/**
 * vduse_queue_create() - start the thread and wait until it is usable
 * @params:	copied
 * @ret_queue:	written only on success
 * @e:		error text
 *
 * Queues are created in the order of their index. Sleeps.
 *
 * Return: 0 or -errno.
 */
int vduse_queue_create(const struct vduse_queue_params *params, struct vduse_queue **ret_queue,
		       struct error *e);

/**
 * vduse_queue_destroy() - end the thread and free the queue
 * @q:	may be NULL; stopped, without a command at work
 *
 * Queues are destroyed in the reverse order of their index, from outside the
 * main loop (which this runs). Sleeps until the thread has ended.
 */
void vduse_queue_destroy(struct vduse_queue *q);

/**
 * vduse_queue_start() - command: serve the ring as the driver set it up
 * @q:		a stopped queue
 * @features:	what was negotiated
 * @fresh:	begin where the kernel says; false: where the queue stopped
 * @done:	called once
 * @opaque:	its argument
 *
 * A virtqueue that the driver did not make ready stays stopped, without error.
 */
void vduse_queue_start(struct vduse_queue *q, uint64_t features, bool fresh,
		       vduse_queue_done *done, void *opaque);

/**
 * vduse_queue_stop() - command: finish what is in flight, then rest
 * @q:		the queue, in any state
 * @first:	then forget mappings that touch [@first, @last];
 * @last:	nothing when @first > @last
 * @done:	called once
 * @opaque:	its argument
 */
void vduse_queue_stop(struct vduse_queue *q, uint64_t first, uint64_t last,
		      vduse_queue_done *done, void *opaque);

/**
 * vduse_queue_query() - command: where is the queue in its ring?
 * @q:		the queue, in any state
 * @done:	called once; then vduse_queue_result() has the answer
 * @opaque:	its argument
 */
void vduse_queue_query(struct vduse_queue *q, vduse_queue_done *done, void *opaque);

/**
 * vduse_queue_result() - answer to vduse_queue_query()
 * @q: the queue
 *
 * Return: valid until the next command.
 */
const struct virtqueue_state *vduse_queue_result(const struct vduse_queue *q);

/**
 * vduse_queue_index() - number of the virtqueue
 * @q: the queue
 *
 * Return: the index it was created with.
 */
unsigned int vduse_queue_index(const struct vduse_queue *q);

/**
 * vduse_queue_stats() - counters
 * @q:		the queue
 * @ret_stats:	a copy; see vblk_queue_stats()
 *
 * Context: the main thread.
 */
void vduse_queue_stats(const struct vduse_queue *q, struct vblk_queue_stats *ret_stats);

/**
 * vduse_queue_loop_rung() - which io_uring features the queue's loop uses
 * @q: the queue
 *
 * Return: static text.
 */
const char *vduse_queue_loop_rung(const struct vduse_queue *q);

#endif
