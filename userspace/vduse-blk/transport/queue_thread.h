/* SPDX-License-Identifier: MIT */
/*
 * One virtqueue with its thread, loop, address space, and backend connection,
 * whatever transport it belongs to.
 *
 * The main thread creates and destroys queues and sends them commands; a queue
 * carries one command at a time out on its own thread and reports back. Nothing
 * is shared but counters. What only the transport knows, it tells through
 * struct queue_thread_ops, on the queue's thread.
 */
#ifndef VDUSE_BLK_TRANSPORT_QUEUE_THREAD_H
#define VDUSE_BLK_TRANSPORT_QUEUE_THREAD_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/error.h"
#include "loop/loop.h"
#include "virtio/virtio_blk.h"

struct queue_thread;

/**
 * struct queue_thread_setup - what a queue is started with
 * @ready:	the driver wants this queue served
 * @kick_fd:	becomes readable with every notification of the driver; watched
 *		and never read while the queue runs; stays the transport's
 * @vblk:	ring, position and so on; @vblk.features, @vblk.iotlb and, unless
 *		the start is fresh, @vblk.state are not the transport's to fill
 */
struct queue_thread_setup {
	bool ready;
	int kick_fd;
	struct vblk_queue_start_params vblk;
};

/**
 * struct queue_thread_ops - the transport's side
 * @prepare:	fill @setup, which is all zero but for features; @fresh as given
 *		to queue_thread_start(). Kicks from here on must not get lost.
 *		An error, which the transport has logged, fails the start
 * @started:	the ring is served; may be NULL
 * @stopped:	nothing is in flight and the ring is not looked at any more; the
 *		transport calls queue_thread_stopped() once it has nothing under
 *		way on this queue's loop, perhaps from inside. Called at every
 *		stop, also of a queue that did not run
 * @update:	take over settings that the main thread has changed; may be NULL
 *		when queue_thread_update() is not used
 * @vblk:	calls from the virtio-blk core
 * @iotlb:	how addresses are mapped
 *
 * All are called on the queue's thread with the opaque of the parameters.
 */
struct queue_thread_ops {
	int (*prepare)(void *opaque, bool fresh, struct queue_thread_setup *setup);
	void (*started)(void *opaque, bool fresh);
	void (*stopped)(void *opaque);
	void (*update)(void *opaque);
	struct vblk_transport_ops vblk;
	struct iotlb_ops iotlb;
};

/**
 * struct queue_thread_params - what a queue is made of
 * @index:	virtqueue index
 * @size:	longest ring
 * @disk:	features and configuration, constant
 * @backend:	where requests go
 * @main:	loop of the thread that sends commands
 * @thread_init: first thing the thread does, for instance give up rights; or NULL
 * @ops:	the transport's side
 * @opaque:	first argument of the ops
 */
struct queue_thread_params {
	unsigned int index;
	unsigned int size;
	const struct vblk_device *disk;
	struct backend *backend;
	struct loop *main;
	void (*thread_init)(void);
	const struct queue_thread_ops *ops;
	void *opaque;
};

/**
 * typedef queue_thread_done - a command was carried out
 * @opaque:	as given with the command
 * @q:		the queue
 * @error:	0 or -errno
 *
 * Runs on the main thread, from its loop.
 */
typedef void queue_thread_done(void *opaque, struct queue_thread *q, int error);

/**
 * queue_thread_create() - start the thread and wait until it is usable
 * @params:	copied
 * @ret_queue:	written only on success
 * @e:		error text
 *
 * Queues are created in the order of their index. Sleeps.
 *
 * Return: 0 or -errno.
 */
int queue_thread_create(const struct queue_thread_params *params,
			struct queue_thread **ret_queue, struct error *e);

/**
 * queue_thread_destroy() - end the thread and free the queue
 * @q:	may be NULL; stopped, without a command or a flush at work
 *
 * Queues are destroyed in the reverse order of their index, from outside the
 * main loop (which this runs). Sleeps until the thread has ended.
 */
void queue_thread_destroy(struct queue_thread *q);

/**
 * queue_thread_start() - command: serve the ring as the driver set it up
 * @q:		a stopped queue
 * @features:	what was negotiated
 * @fresh:	begin where the transport says; false: where the queue stopped
 * @done:	called once
 * @opaque:	its argument
 *
 * A virtqueue that the driver did not make ready stays stopped, without error.
 */
void queue_thread_start(struct queue_thread *q, uint64_t features, bool fresh,
			queue_thread_done *done, void *opaque);

/**
 * queue_thread_stop() - command: finish what is in flight, then rest
 * @q:		the queue, in any state
 * @first:	then forget mappings that touch [@first, @last];
 * @last:	nothing when @first > @last
 * @done:	called once
 * @opaque:	its argument
 */
void queue_thread_stop(struct queue_thread *q, uint64_t first, uint64_t last,
		       queue_thread_done *done, void *opaque);

/**
 * queue_thread_unstop() - take a stop back
 * @q:		the queue, with a queue_thread_stop() at work or just done
 * @done:	called once, besides the stop's own callback, in either order: that has
 *		-ECANCELED when the queue serves its ring again, and 0 when it was too
 *		late and the queue has stopped
 * @opaque:	its argument
 *
 * No other command is sent until both have been called.
 */
void queue_thread_unstop(struct queue_thread *q, queue_thread_done *done, void *opaque);

/**
 * queue_thread_flush() - have the storage flush on the queue's connection
 * @q:		the queue, in any state, whatever command is at work
 * @done:	called once, with the storage's error
 * @opaque:	its argument
 *
 * Covers what was completed on all queues before. Takes as long as the storage
 * does; counts as a request in flight. One at a time.
 */
void queue_thread_flush(struct queue_thread *q, queue_thread_done *done, void *opaque);

/**
 * queue_thread_flushing() - is a queue_thread_flush() at work?
 * @q: the queue
 *
 * Return: true until its callback.
 */
bool queue_thread_flushing(const struct queue_thread *q);

/**
 * struct queue_thread_times - when a queue did what, by CLOCK_MONOTONIC
 * @stopped_ns:	began its last stop: took nothing new from its ring; 0: never
 * @started_ns:	began to serve its ring; 0: never
 */
struct queue_thread_times {
	uint64_t stopped_ns;
	uint64_t started_ns;
};

/**
 * queue_thread_times() - when the last commands were carried out
 * @q:	without a command at work
 *
 * Return: by value.
 */
struct queue_thread_times queue_thread_times(const struct queue_thread *q);

/**
 * queue_thread_update() - command: let the transport take new settings over
 * @q:		the queue, in any state; it goes on meanwhile
 * @forget:	then forget all mappings; what requests in flight use stays mapped
 *		until they are done
 * @done:	called once
 * @opaque:	its argument
 */
void queue_thread_update(struct queue_thread *q, bool forget, queue_thread_done *done,
			 void *opaque);

/**
 * queue_thread_query() - command: where is the queue in its ring?
 * @q:		the queue, in any state
 * @done:	called once; then queue_thread_result() has the answer
 * @opaque:	its argument
 */
void queue_thread_query(struct queue_thread *q, queue_thread_done *done, void *opaque);

/**
 * queue_thread_result() - answer to queue_thread_query()
 * @q: the queue
 *
 * Return: valid until the next command.
 */
const struct virtqueue_state *queue_thread_result(const struct queue_thread *q);

/**
 * queue_thread_index() - number of the virtqueue
 * @q: the queue
 *
 * Return: the index it was created with.
 */
unsigned int queue_thread_index(const struct queue_thread *q);

/**
 * queue_thread_stats() - counters
 * @q:		the queue
 * @ret_stats:	a copy; see vblk_queue_stats()
 *
 * Context: the main thread.
 */
void queue_thread_stats(const struct queue_thread *q, struct vblk_queue_stats *ret_stats);

/**
 * queue_thread_latency() - how long requests took
 * @q:		the queue
 * @kind:	of requests
 * @sum:	added to; see vblk_queue_latency()
 *
 * Context: the main thread.
 */
void queue_thread_latency(const struct queue_thread *q, enum vblk_latency kind,
			  struct histogram *sum);

/**
 * queue_thread_loop_rung() - which io_uring features the queue's loop uses
 * @q: the queue
 *
 * Return: static text.
 */
const char *queue_thread_loop_rung(const struct queue_thread *q);

/**
 * queue_thread_loop() - the queue's loop, for the transport's own operations
 * @q: the queue
 *
 * Context: the queue's thread.
 * Return: valid as long as the queue.
 */
struct loop *queue_thread_loop(const struct queue_thread *q);

/**
 * queue_thread_stopped() - the transport's answer to &queue_thread_ops.stopped
 * @q: the queue
 *
 * Context: the queue's thread.
 */
void queue_thread_stopped(struct queue_thread *q);

#endif
