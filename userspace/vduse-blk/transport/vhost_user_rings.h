/* SPDX-License-Identifier: MIT */
/*
 * All rings of a vhost-user device: what the frontend said of each, and the
 * queue threads that follow.
 *
 * Setters only note what the frontend wants; vhost_user_rings_settle() then
 * brings the queues there: it stops those that shall rest, hands new settings
 * over, starts those that shall run. One settling at a time, and no setter
 * meanwhile: the owner takes the frontend's messages one by one.
 *
 * Everything here belongs to the thread that runs the main loop.
 */
#ifndef VDUSE_BLK_TRANSPORT_VHOST_USER_RINGS_H
#define VDUSE_BLK_TRANSPORT_VHOST_USER_RINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/error.h"
#include "loop/loop.h"
#include "transport/queue_thread.h"
#include "transport/vhost_user_inflight.h"
#include "transport/vhost_user_mem.h"
#include "transport/vhost_user_proto.h"

struct vhost_user_rings;

/**
 * struct vhost_user_rings_params - what the queues are made of
 * @name:	for the log
 * @n:		number of virtqueues
 * @size:	longest ring
 * @disk:	features and configuration
 * @backend:	where requests go
 * @main:	the main loop
 * @thread_init: first thing each thread does; or NULL
 */
struct vhost_user_rings_params {
	const char *name;
	unsigned int n;
	unsigned int size;
	const struct vblk_device *disk;
	struct backend *backend;
	struct loop *main;
	void (*thread_init)(void);
};

/**
 * typedef vhost_user_rings_done - the queues are where they shall be
 * @opaque:	as given
 * @error:	0, or -errno of a ring that could not be started
 */
typedef void vhost_user_rings_done(void *opaque, int error);

/**
 * vhost_user_rings_create() - start the threads, every ring stopped
 * @params:	copied
 * @ret_rings:	written only on success
 * @e:		error text
 *
 * Sleeps. Return: 0 or -errno.
 */
int vhost_user_rings_create(const struct vhost_user_rings_params *params,
			    struct vhost_user_rings **ret_rings, struct error *e);

/**
 * vhost_user_rings_destroy() - end the threads
 * @rs:	may be NULL; after vhost_user_rings_forget() has been settled. The main
 *	loop is not running (this runs it)
 */
void vhost_user_rings_destroy(struct vhost_user_rings *rs);

/**
 * vhost_user_rings_settle() - let the queues follow
 * @rs:		the rings
 * @done:	called once, perhaps from inside
 * @opaque:	its argument
 */
void vhost_user_rings_settle(struct vhost_user_rings *rs, vhost_user_rings_done *done,
			     void *opaque);

/**
 * vhost_user_rings_base() - position of a ring that was stopped
 * @rs:		the rings, settled after vhost_user_rings_stop()
 * @index:	which ring
 * @done:	called once, perhaps from inside; then
 *		vhost_user_rings_base_result() has the answer
 * @opaque:	its argument
 */
void vhost_user_rings_base(struct vhost_user_rings *rs, unsigned int index,
			   vhost_user_rings_done *done, void *opaque);

/**
 * vhost_user_rings_base_result() - as GET_VRING_BASE answers
 * @rs:		the rings
 * @index:	which ring
 *
 * Return: the number.
 */
uint32_t vhost_user_rings_base_result(const struct vhost_user_rings *rs, unsigned int index);

/* Setters; an index is always valid, values have been checked. */

/**
 * vhost_user_rings_set_features() - what the driver accepted
 * @rs:		the rings
 * @features:	in force for rings that start from now on
 */
void vhost_user_rings_set_features(struct vhost_user_rings *rs, uint64_t features);

/**
 * vhost_user_rings_set_mem() - the frontend's memory is another
 * @rs:		the rings
 * @mem:	NULL: none; referenced as long as needed
 */
void vhost_user_rings_set_mem(struct vhost_user_rings *rs, struct vhost_user_mem *mem);

/**
 * vhost_user_rings_set_logs() - where requests in flight are logged
 * @rs:		the rings
 * @logs:	for rings that start from now on, theirs until another takes its
 *		place or vhost_user_rings_forget() is settled; NULL: nowhere
 *
 * Return: 0 and the rings own @logs, or -EBUSY while a ring runs.
 */
int vhost_user_rings_set_logs(struct vhost_user_rings *rs, struct vhost_user_logs *logs);

/**
 * vhost_user_rings_set_num() - SET_VRING_NUM
 * @rs:		the rings
 * @index:	which ring
 * @num:	its size
 *
 * Return: 0, or -EBUSY when the ring runs with another.
 */
int vhost_user_rings_set_num(struct vhost_user_rings *rs, unsigned int index, uint32_t num);

/**
 * vhost_user_rings_set_addr() - SET_VRING_ADDR
 * @rs:		the rings
 * @addr:	with the index
 *
 * Return: 0, -EBUSY when the ring runs elsewhere, -EFAULT when it is not in the
 * frontend's memory.
 */
int vhost_user_rings_set_addr(struct vhost_user_rings *rs,
			      const struct vhost_user_vring_addr *addr);

/**
 * vhost_user_rings_set_base() - SET_VRING_BASE
 * @rs:		the rings
 * @index:	which ring
 * @base:	where it starts
 *
 * Return: 0, or -EBUSY when the ring runs.
 */
int vhost_user_rings_set_base(struct vhost_user_rings *rs, unsigned int index, uint32_t base);

/**
 * vhost_user_rings_set_kick() - SET_VRING_KICK: the ring is started
 * @rs:		the rings
 * @index:	which ring
 * @fd:		eventfd, the rings' from now on
 */
void vhost_user_rings_set_kick(struct vhost_user_rings *rs, unsigned int index, int fd);

/**
 * vhost_user_rings_set_call() - SET_VRING_CALL
 * @rs:		the rings
 * @index:	which ring
 * @fd:		eventfd, the rings' from now on; -1: none
 */
void vhost_user_rings_set_call(struct vhost_user_rings *rs, unsigned int index, int fd);

/**
 * vhost_user_rings_set_err() - SET_VRING_ERR
 * @rs:		the rings
 * @index:	which ring
 * @fd:		eventfd, the rings' from now on; -1: none
 */
void vhost_user_rings_set_err(struct vhost_user_rings *rs, unsigned int index, int fd);

/**
 * vhost_user_rings_enable() - SET_VRING_ENABLE
 * @rs:		the rings
 * @index:	which ring
 * @on:		enabled or not; a ring remembers where it was
 */
void vhost_user_rings_enable(struct vhost_user_rings *rs, unsigned int index, bool on);

/**
 * vhost_user_rings_stop() - GET_VRING_BASE: the ring is stopped
 * @rs:		the rings
 * @index:	which ring
 */
void vhost_user_rings_stop(struct vhost_user_rings *rs, unsigned int index);

/**
 * vhost_user_rings_reset() - stop and disable all, as after a reset of the device
 * @rs: the rings; eventfds for interrupts and the memory stay
 */
void vhost_user_rings_reset(struct vhost_user_rings *rs);

/**
 * vhost_user_rings_forget() - the frontend is gone, with all that it gave
 * @rs: the rings
 */
void vhost_user_rings_forget(struct vhost_user_rings *rs);

/**
 * vhost_user_rings_running() - does any ring run?
 * @rs: the rings
 *
 * Return: true if one does.
 */
bool vhost_user_rings_running(const struct vhost_user_rings *rs);

/**
 * vhost_user_rings_broken() - does any ring wait for a reset?
 * @rs: the rings
 *
 * Return: true when its driver broke it or it could not be started.
 */
bool vhost_user_rings_broken(const struct vhost_user_rings *rs);

/**
 * vhost_user_rings_at() - a queue, for its counters
 * @rs:		the rings
 * @index:	which
 *
 * Return: the queue.
 */
struct queue_thread *vhost_user_rings_at(const struct vhost_user_rings *rs, unsigned int index);

#endif
