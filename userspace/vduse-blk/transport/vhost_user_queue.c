// SPDX-License-Identifier: MIT
/*
 * One virtqueue of a vhost-user device.
 *
 * Ownership: @next is the main thread's until it sends a command, then the
 * queue's thread takes over what has changed; everything else belongs to the
 * queue's thread. Descriptors in @next that were never taken over are closed
 * when they are replaced.
 *
 * Interrupts are written through the loop, one at a time: the eventfd is the
 * frontend's and may be one that blocks, which must not stop the thread. What
 * comes due while a write is under way is made good by one more write. A stop
 * waits for the last write, for a driver that misses an interrupt hangs; but
 * not for ever, for a frontend may have filled its eventfd.
 *
 * An interrupt that came due while there was no eventfd is kept for the next
 * one: frontends set it before or after they start the ring.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/vhost_user_proto.h"
#include "transport/vhost_user_queue.h"

/* How long a stop waits for the frontend to make room in its eventfd. */
#define CALL_GRACE_MS	1000

struct vhost_user_queue {
	struct queue_thread *thread;
	struct backend *backend;
	unsigned int index;

	struct {
		struct vhost_user_start start;
		struct vhost_user_mem *mem;
		int call_fd, err_fd;
		bool mem_changed, call_changed, err_changed;
	} next;

	struct vhost_user_mem *mem;
	int call_fd, err_fd;
	struct loop_op call_op;
	bool call_busy;	  /* @call_op is in flight */
	bool call_due;	  /* interrupt once more when it is done, or possible */
	struct loop_op err_op;
	bool err_busy;	  /* likewise; a frontend can let it stay so */
	bool stopping;	  /* queue_thread_stopped() is owed */
	struct loop_timer grace;
};

static const uint64_t one = 1;

/* Notifications */

static void call_driver(struct vhost_user_queue *q)
{
	if (q->call_busy || q->call_fd < 0) {
		q->call_due = true;
		return;
	}
	q->call_due = false;
	q->call_busy = true;
	io_uring_prep_write(loop_sqe(queue_thread_loop(q->thread), &q->call_op), q->call_fd, &one,
			    sizeof(one), (uint64_t)-1);
}

static void called(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct vhost_user_queue *q = container_of(op, struct vhost_user_queue, call_op);

	(void)cqe_flags;
	q->call_busy = false;
	/* A full eventfd is readable: the driver is going to look anyway. */
	if (res < 0 && res != -EAGAIN && res != -ECANCELED)
		log_warning_ratelimited("virtqueue %u: interrupt was refused: %s", q->index,
					strerror(-res));
	if (q->call_due && q->call_fd >= 0)
		call_driver(q);
	if (q->stopping && !q->call_busy) {
		q->stopping = false;
		loop_timer_cancel(queue_thread_loop(q->thread), &q->grace);
		queue_thread_stopped(q->thread);
	}
}

static void notify(void *opaque, unsigned int index)
{
	(void)index;
	call_driver(opaque);
}

static void error_told(struct loop_op *op, int res, uint32_t cqe_flags)
{
	(void)res; /* -EAGAIN: the frontend is going to look anyway */
	(void)cqe_flags;
	container_of(op, struct vhost_user_queue, err_op)->err_busy = false;
}

static void needs_reset(void *opaque, unsigned int index, const char *reason)
{
	struct vhost_user_queue *q = opaque;

	(void)reason;
	log_warning_ratelimited("virtqueue %u stays stopped until the driver resets the device",
				index);
	if (q->err_fd < 0 || q->err_busy)
		return;
	q->err_busy = true;
	io_uring_prep_write(loop_sqe(queue_thread_loop(q->thread), &q->err_op), q->err_fd, &one,
			    sizeof(one), (uint64_t)-1);
}

/* Address space */

static int map_fault(void *opaque, uint64_t iova, uint32_t perm, struct iotlb_region *ret)
{
	const struct vhost_user_queue *q = opaque;

	(void)perm; /* guest memory allows everything */
	return vhost_user_mem_fault(q->mem, iova, ret);
}

static void map_release(void *opaque, const struct iotlb_region *region)
{
	(void)opaque;
	vhost_user_mem_release(region);
}

/* Commands */

static const struct queue_thread_ops thread_ops;

/* What a killed predecessor may still be writing, before any of it is submitted again. */
static int fence_prior_writes(struct vhost_user_queue *q,
			      const struct vblk_queue_start_params *start)
{
	struct vblk_queue_start_params params = *start;
	struct error e = ERROR_INIT;
	int err = iotlb_create(&thread_ops.iotlb, q, &params.iotlb);

	if (err)
		return err;
	err = vblk_prior_writes(&params, q->backend, &e);
	iotlb_destroy(params.iotlb);
	if (err)
		log_error("virtqueue %u: its log of requests in flight: %s", q->index, e.text);
	return err;
}

static int prepare(void *opaque, bool fresh, struct queue_thread_setup *setup)
{
	struct vhost_user_queue *q = opaque;
	const struct vhost_user_start *start = &q->next.start;
	const bool packed = setup->vblk.features & (1ULL << VIRTIO_F_RING_PACKED);

	setup->ready = true;
	setup->kick_fd = start->kick_fd;
	setup->vblk.num = start->num;
	setup->vblk.desc = start->desc;
	setup->vblk.driver = start->avail;
	setup->vblk.device = start->used;
	setup->vblk.inflight = start->inflight;
	if (fresh)
		setup->vblk.state = vhost_user_base_decode(start->base, packed);
	return fresh && start->inflight ? fence_prior_writes(q, &setup->vblk) : 0;
}

static void grace_expired(struct loop_timer *timer)
{
	struct vhost_user_queue *q = container_of(timer, struct vhost_user_queue, grace);

	log_warning("virtqueue %u: the frontend takes no interrupts", q->index);
	q->call_due = false;
	loop_cancel(queue_thread_loop(q->thread), &q->call_op);
}

static void stopped(void *opaque)
{
	struct vhost_user_queue *q = opaque;

	if (q->err_busy)
		loop_cancel(queue_thread_loop(q->thread), &q->err_op);
	if (!q->call_busy) {
		queue_thread_stopped(q->thread);
		return;
	}
	q->stopping = true;
	loop_timer_arm(queue_thread_loop(q->thread), &q->grace, CALL_GRACE_MS);
}

static void replace_fd(int *fd, int with)
{
	if (*fd >= 0)
		close(*fd);
	*fd = with;
}

static void update(void *opaque)
{
	struct vhost_user_queue *q = opaque;

	if (q->next.mem_changed) {
		vhost_user_mem_put(q->mem);
		q->mem = take_ptr(q->next.mem);
		q->next.mem_changed = false;
	}
	if (q->next.call_changed) {
		/* A write under way holds the file, not the number. */
		replace_fd(&q->call_fd, take_fd(&q->next.call_fd));
		q->next.call_changed = false;
		if (q->call_due)
			call_driver(q);
	}
	if (q->next.err_changed) {
		replace_fd(&q->err_fd, take_fd(&q->next.err_fd));
		q->next.err_changed = false;
	}
}

static const struct queue_thread_ops thread_ops = {
	.prepare = prepare,
	.stopped = stopped,
	.update = update,
	.vblk = { .notify = notify, .needs_reset = needs_reset },
	.iotlb = { .fault = map_fault, .release = map_release },
};

/* On the main thread */

int vhost_user_queue_create(const struct queue_thread_params *params,
			    struct vhost_user_queue **ret_queue, struct error *e)
{
	struct queue_thread_params thread_params = *params;
	struct vhost_user_queue *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return err_set(e, ENOMEM, "out of memory");
	q->index = params->index;
	q->backend = params->backend;
	q->call_fd = -1;
	q->err_fd = -1;
	q->next.call_fd = -1;
	q->next.err_fd = -1;
	q->call_op.complete = called;
	q->err_op.complete = error_told;
	q->grace.expired = grace_expired;
	thread_params.ops = &thread_ops;
	thread_params.opaque = q;
	err = queue_thread_create(&thread_params, &q->thread, e);
	if (err) {
		free(q);
		return err;
	}
	*ret_queue = q;
	return 0;
}

void vhost_user_queue_destroy(struct vhost_user_queue *q)
{
	if (!q)
		return;
	queue_thread_destroy(q->thread);
	replace_fd(&q->call_fd, -1);
	replace_fd(&q->err_fd, -1);
	replace_fd(&q->next.call_fd, -1);
	replace_fd(&q->next.err_fd, -1);
	vhost_user_mem_put(q->mem);
	vhost_user_mem_put(q->next.mem);
	free(q);
}

struct queue_thread *vhost_user_queue_thread(const struct vhost_user_queue *q)
{
	return q->thread;
}

void vhost_user_queue_set_start(struct vhost_user_queue *q, const struct vhost_user_start *start)
{
	q->next.start = *start;
}

void vhost_user_queue_set_mem(struct vhost_user_queue *q, struct vhost_user_mem *mem)
{
	vhost_user_mem_put(q->next.mem);
	q->next.mem = vhost_user_mem_get(mem);
	q->next.mem_changed = true;
}

void vhost_user_queue_set_call(struct vhost_user_queue *q, int fd)
{
	replace_fd(&q->next.call_fd, fd);
	q->next.call_changed = true;
}

void vhost_user_queue_set_err(struct vhost_user_queue *q, int fd)
{
	replace_fd(&q->next.err_fd, fd);
	q->next.err_changed = true;
}
