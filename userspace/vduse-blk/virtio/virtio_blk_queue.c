// SPDX-License-Identifier: MIT
/*
 * virtio_blk_queue.c: a request queue on its event loop.
 *
 * Batches. Work is found by a kick, or by looking at the ring when the loop has
 * nothing else to do; everything there is taken in one go, and the backend
 * sends it in one go. Completions are pushed as they come; the hook at the end
 * of the loop's batch publishes them together and interrupts the driver once,
 * if at all.
 *
 * Notifications are off while the loop is busy. Before it sleeps it asks the
 * driver to kick and looks once more (the idle callback), so an idle queue costs
 * nothing and a busy one takes no kicks.
 *
 * Phases: STOPPED -> RUNNING -> STOPPING (nothing new is taken, what is in
 * flight goes on) -> STOPPED, or back to RUNNING. A queue whose driver broke the
 * rules stays RUNNING, with the virtqueue refusing all work, until the transport
 * stops it.
 *
 * Ownership: a request is the pool's, or the backend's between submit and done,
 * or this code's in between. The pool has one for each ring entry, and the
 * virtqueue hands out no more than that.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>

#include "base/log.h"
#include "virtio/virtio_blk_internal.h"

#define FEATURE(bit)	(1ull << (bit))

/* One writer: a plain sum, stored in one piece for readers on other threads. */
static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static uint32_t in_flight(const struct vblk_queue *q)
{
	return q->pool.total - READ_ONCE(q->pool.available);
}

/* Tell the transport, once for each start. */
static void check_broken(struct vblk_queue *q)
{
	const char *why = virtqueue_error(&q->vq);

	if (likely(!why) || q->reset_asked)
		return;
	q->reset_asked = true;
	log_error_ratelimited("queue %u: the driver broke the ring, it needs a reset: %s",
			      q->params.index, why);
	q->params.transport->needs_reset(q->params.opaque, q->params.index, why);
}

static void open_batch(struct vblk_queue *q)
{
	if (q->batch_open)
		return;
	q->batch_open = true;
	loop_hook_schedule(q->params.loop, &q->batch_end);
}

static const uint8_t latency_of[_VBLK_KIND_MAX] = {
	[VBLK_READ] = VBLK_LATENCY_READ,
	[VBLK_WRITE] = VBLK_LATENCY_WRITE,
	[VBLK_FLUSH] = VBLK_LATENCY_FLUSH,
	[VBLK_DISCARD] = VBLK_LATENCY_OTHER,
	[VBLK_WRITE_ZEROES] = VBLK_LATENCY_OTHER,
	[VBLK_OTHER] = VBLK_LATENCY_OTHER,
};

void vblk_queue_complete(struct vblk_request *req, uint8_t status)
{
	struct vblk_queue *q = req->queue;
	const uint64_t took = loop_now_ns(q->params.loop) - req->popped_ns;
	uint32_t written = 1;

	if (likely(req->status))
		*req->status = status;
	if (likely(status == VIRTIO_BLK_S_OK)) {
		written = req->written;
		count(&q->bytes[req->kind], req->payload);
	} else {
		count(&q->errors[req->kind], 1);
	}
	count(&q->ops[req->kind], 1);
	histogram_record(&q->latency[latency_of[req->kind]], took);
	virtqueue_push(&q->vq, &req->elem, written);
	pool_put(&q->pool, req);
	open_batch(q);
}

/*
 * Take everything that is in the ring. Returns how much that was. A loop that
 * woke up for something else leaves notifications as they are.
 */
static unsigned int serve(struct vblk_queue *q)
{
	struct vblk_request *req;
	unsigned int n = 0;
	uint64_t now = 0;

	if (unlikely(q->phase != VBLK_RUNNING))
		return 0;
	while ((req = pool_get(&q->pool))) {
		if (virtqueue_pop(&q->vq, &req->elem) <= 0) {
			pool_put(&q->pool, req);
			break;
		}
		if (!n++) {
			virtqueue_disable_notify(&q->vq);
			now = loop_now_ns(q->params.loop);
		}
		req->popped_ns = now;
		vblk_request_start(req);
	}
	check_broken(q);
	return n;
}

static void publish(struct vblk_queue *q)
{
	q->batch_open = false;
	if (virtqueue_commit(&q->vq)) {
		count(&q->notifies, 1);
		q->params.transport->notify(q->params.opaque, q->params.index);
	}
	check_broken(q);
}

/* Nothing is in flight any more. The callback may free the queue. */
static void finish_stop(struct vblk_queue *q)
{
	q->phase = VBLK_STOPPED;
	virtqueue_state(&q->vq, &q->last_state);
	loop_idle_del(q->params.loop, &q->idle);
	q->stopped(q, q->stopped_opaque);
}

static void batch_end(struct loop_hook *hook)
{
	struct vblk_queue *q = container_of(hook, struct vblk_queue, batch_end);

	publish(q);
	if (unlikely(q->phase == VBLK_STOPPING) && !in_flight(q))
		finish_stop(q);
}

static bool idle_poll(struct loop_idle *idle)
{
	return serve(container_of(idle, struct vblk_queue, idle)) > 0;
}

static bool idle_arm(struct loop_idle *idle)
{
	struct vblk_queue *q = container_of(idle, struct vblk_queue, idle);

	if (q->phase != VBLK_RUNNING || !virtqueue_enable_notify(&q->vq)) {
		check_broken(q);
		return false;
	}
	return serve(q) > 0;
}

static void wire_requests(struct vblk_queue *q)
{
	struct vblk_request *req, *list = NULL;
	unsigned int i;

	for (i = 0; (req = pool_get(&q->pool)); i++) {
		req->queue = q;
		req->elem.iov = q->iovs + (size_t)i * VBLK_IOV_MAX;
		req->elem.max_iov = VBLK_IOV_MAX;
		req->backend.next = list ? &list->backend : NULL;
		list = req;
	}
	while (list) {
		req = list;
		list = req->backend.next ?
		       container_of(req->backend.next, struct vblk_request, backend) : NULL;
		pool_put(&q->pool, req);
	}
}

int vblk_queue_create(const struct vblk_queue_params *params, struct vblk_queue **ret_q,
		      struct error *e)
{
	struct vblk_queue *q;
	int err;

	if (!params->max_num || params->max_num > VIRTQUEUE_MAX_NUM)
		return err_set(e, EINVAL, "queue size %u is not within 1 to %u", params->max_num,
			       VIRTQUEUE_MAX_NUM);
	q = calloc(1, sizeof(*q));
	if (!q)
		goto no_memory;
	q->params = *params;
	q->dev = params->dev;
	q->batch_end.run = batch_end;
	q->idle.poll = idle_poll;
	q->idle.arm = idle_arm;
	q->last_state = VIRTQUEUE_STATE_INIT;
	q->iovs = calloc(params->max_num, VBLK_IOV_MAX * sizeof(struct iovec));
	if (!q->iovs)
		goto free_queue;
	err = pool_create(&q->pool, sizeof(struct vblk_request), params->max_num);
	if (err)
		goto free_iovs;
	wire_requests(q);
	*ret_q = q;
	return 0;

free_iovs:
	free(q->iovs);
free_queue:
	free(q);
no_memory:
	return err_set(e, ENOMEM, "no memory for a queue of %u requests", params->max_num);
}

void vblk_queue_destroy(struct vblk_queue *q)
{
	if (!q)
		return;
	loop_hook_cancel(q->params.loop, &q->batch_end);
	pool_destroy(&q->pool);
	free(q->iovs);
	free(q);
}

static int check_start(const struct vblk_queue *q, const struct vblk_queue_start_params *p,
		       struct error *e)
{
	if (q->phase != VBLK_STOPPED)
		return err_set(e, EBUSY, "queue %u is not stopped", q->params.index);
	if (p->features & ~q->dev->features)
		return err_set(e, EINVAL, "features 0x%" PRIx64 " were accepted, not offered",
			       p->features & ~q->dev->features);
	if (!(p->features & FEATURE(VIRTIO_F_VERSION_1)))
		return err_set(e, EINVAL, "VIRTIO_F_VERSION_1 was not accepted");
	if (p->num > q->params.max_num)
		return err_set(e, EINVAL, "queue size %u is larger than %u", p->num,
			       q->params.max_num);
	return 0;
}

int vblk_queue_start(struct vblk_queue *q, const struct vblk_queue_start_params *params,
		     struct error *e)
{
	const struct virtqueue_params vq_params = vblk_virtqueue_params(params);
	int err;

	err = check_start(q, params, e);
	if (err)
		return err;
	err = virtqueue_init(&q->vq, &vq_params, e);
	if (err)
		return err_prefix(e, "queue %u", q->params.index);
	/*
	 * 5.2.6.2: a driver that does not flush wants writes to be stable when
	 * done. It cannot flush storage that only offers FUA, either.
	 */
	q->write_through = !(params->features & FEATURE(VIRTIO_BLK_F_FLUSH)) &&
			   (q->dev->backend_flags & (BACKEND_F_FLUSH | BACKEND_F_FUA));
	q->reset_asked = false;
	q->phase = VBLK_RUNNING;
	loop_idle_add(q->params.loop, &q->idle);
	serve(q);
	return 0;
}

void vblk_queue_kick(struct vblk_queue *q)
{
	count(&q->kicks, 1);
	serve(q);
}

int vblk_queue_stop(struct vblk_queue *q, void (*stopped)(struct vblk_queue *q, void *opaque),
		    void *opaque)
{
	if (q->phase == VBLK_STOPPING)
		return -EBUSY;
	if (q->phase == VBLK_STOPPED) {
		stopped(q, opaque);
		return 0;
	}
	q->stopped = stopped;
	q->stopped_opaque = opaque;
	q->phase = VBLK_STOPPING;
	if (in_flight(q))
		return 0;
	loop_hook_cancel(q->params.loop, &q->batch_end);
	publish(q);
	finish_stop(q);
	return 0;
}

bool vblk_queue_resume(struct vblk_queue *q)
{
	if (q->phase != VBLK_STOPPING)
		return false;
	q->phase = VBLK_RUNNING;
	serve(q);
	return true;
}

void vblk_queue_state(const struct vblk_queue *q, struct virtqueue_state *ret_state)
{
	if (q->phase == VBLK_STOPPED)
		*ret_state = q->last_state;
	else
		virtqueue_state(&q->vq, ret_state);
}

static uint64_t counted(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

void vblk_queue_stats(const struct vblk_queue *q, struct vblk_queue_stats *ret_stats)
{
	const uint64_t reads = counted(&q->errors[VBLK_READ]);
	const uint64_t writes = counted(&q->errors[VBLK_WRITE]);
	const uint64_t flushes = counted(&q->errors[VBLK_FLUSH]);
	const uint64_t others = counted(&q->errors[VBLK_DISCARD]) +
				counted(&q->errors[VBLK_WRITE_ZEROES]) +
				counted(&q->errors[VBLK_OTHER]);

	*ret_stats = (struct vblk_queue_stats){
		.read_ops = counted(&q->ops[VBLK_READ]),
		.write_ops = counted(&q->ops[VBLK_WRITE]),
		.flush_ops = counted(&q->ops[VBLK_FLUSH]),
		.discard_ops = counted(&q->ops[VBLK_DISCARD]),
		.write_zeroes_ops = counted(&q->ops[VBLK_WRITE_ZEROES]),
		.other_ops = counted(&q->ops[VBLK_OTHER]),
		.read_bytes = counted(&q->bytes[VBLK_READ]),
		.write_bytes = counted(&q->bytes[VBLK_WRITE]),
		.errors = reads + writes + flushes + others,
		.read_errors = reads,
		.write_errors = writes,
		.flush_errors = flushes,
		.other_errors = others,
		.kicks = counted(&q->kicks),
		.notifies = counted(&q->notifies),
		.in_flight = in_flight(q),
		.broken = READ_ONCE(q->vq.broken),
	};
}

void vblk_queue_latency(const struct vblk_queue *q, enum vblk_latency kind, struct histogram *sum)
{
	histogram_add(sum, &q->latency[kind]);
}
