// SPDX-License-Identifier: MIT
/*
 * One virtqueue of a VDUSE device: its set-up, memory and interrupts, by ioctls
 * on the queue's own thread.
 *
 * Kicks: one eventfd for the life of the queue. A reset makes the kernel forget
 * it, so every start hands it over again.
 *
 * Mappings: a region is mapped into each queue's address space when the queue
 * first meets an address in it. Page-table entries are all that is duplicated.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/vduse_dev.h"
#include "transport/vduse_memory.h"
#include "transport/vduse_queue.h"

/*
 * Between our answer to DRIVER_OK and the kernel taking note of it an interrupt
 * is refused: try again, for as long as a stopped virtual CPU might take.
 */
#define IRQ_RETRY_MS	2
#define IRQ_RETRIES	2500

struct vduse_queue {
	struct queue_thread *thread;
	unsigned int index;
	int dev_fd;
	int kick_fd;
	struct inflight *log; /* may be NULL */
	bool announce; /* a command's: interrupt the driver when started */

	/* An interrupt that was refused; see IRQ_RETRY_MS. The queue's thread's. */
	struct loop_timer irq_timer;
	unsigned int irq_retries;
};

static int map_fault(void *opaque, uint64_t iova, uint32_t perm, struct iotlb_region *ret)
{
	struct vduse_queue *q = opaque;
	int err;

	(void)perm; /* the whole region is mapped, with all that it allows */
	err = vduse_memory_map(q->dev_fd, iova, ret);
	if (!err)
		log_debug("virtqueue %u: mapped %#llx-%#llx", q->index,
			  (unsigned long long)ret->iova,
			  (unsigned long long)(ret->iova + ret->size - 1));
	return err;
}

static void map_release(void *opaque, const struct iotlb_region *region)
{
	(void)opaque;
	vduse_memory_unmap(region);
}

/* Notifications */

static void inject_irq(struct vduse_queue *q)
{
	int err = vduse_dev_inject_irq(q->dev_fd, q->index);

	if (likely(!err)) {
		q->irq_retries = 0;
		return;
	}
	if (err == -EINVAL && q->irq_retries < IRQ_RETRIES) {
		q->irq_retries++;
		loop_timer_arm(queue_thread_loop(q->thread), &q->irq_timer, IRQ_RETRY_MS);
		return;
	}
	log_warning_ratelimited("virtqueue %u: interrupt was refused: %s", q->index,
				strerror(-err));
}

static void irq_timer_expired(struct loop_timer *timer)
{
	inject_irq(container_of(timer, struct vduse_queue, irq_timer));
}

static void notify_driver(void *opaque, unsigned int index)
{
	(void)index;
	inject_irq(opaque);
}

/*
 * VDUSE keeps the status byte in the kernel and has no call that sets
 * DEVICE_NEEDS_RESET, so the queue stays silent until the driver resets.
 */
static void needs_reset(void *opaque, unsigned int index, const char *reason)
{
	(void)opaque;
	(void)reason;
	log_warning_ratelimited("virtqueue %u stays stopped until the driver resets the device",
				index);
}

/* Start and stop */

static struct virtqueue_state state_from_info(const struct vduse_vq_info *info, bool packed)
{
	struct virtqueue_state state = VIRTQUEUE_STATE_INIT;

	if (!packed) {
		state.avail_idx = info->split.avail_index;
		return state;
	}
	state.avail_idx = info->packed.last_avail_idx;
	state.avail_wrap = info->packed.last_avail_counter & 1;
	state.used_idx = info->packed.last_used_idx;
	state.used_wrap = info->packed.last_used_counter & 1;
	return state;
}

static int prepare(void *opaque, bool fresh, struct queue_thread_setup *setup)
{
	const bool packed = setup->vblk.features & (1ULL << VIRTIO_F_RING_PACKED);
	struct vduse_queue *q = opaque;
	struct vduse_vq_info info;
	int err;

	err = vduse_dev_vq_info(q->dev_fd, q->index, &info);
	if (err) {
		log_error("virtqueue %u: read its set-up: %s", q->index, strerror(-err));
		return err;
	}
	if (!info.ready)
		return 0;

	setup->ready = true;
	setup->kick_fd = q->kick_fd;
	setup->vblk.num = info.num;
	setup->vblk.desc = info.desc_addr;
	setup->vblk.driver = info.driver_addr;
	setup->vblk.device = info.device_addr;
	setup->vblk.inflight = q->log;
	if (fresh)
		setup->vblk.state = state_from_info(&info, packed);

	/* Before the first look at the ring, so that no kick is lost in between. */
	err = vduse_dev_vq_kickfd(q->dev_fd, q->index, q->kick_fd);
	if (err)
		log_error("virtqueue %u: set its kick eventfd: %s", q->index, strerror(-err));
	return err;
}

/*
 * A pause for a new address space must not swallow an interrupt. Nor must the
 * death of a predecessor, which may have published something and not said so.
 */
static void started(void *opaque, bool fresh)
{
	struct vduse_queue *q = opaque;
	const bool owed = q->announce || (!fresh && q->irq_retries);

	q->announce = false;
	q->irq_retries = 0;
	if (owed)
		inject_irq(q);
}

static void stopped(void *opaque)
{
	struct vduse_queue *q = opaque;

	loop_timer_cancel(queue_thread_loop(q->thread), &q->irq_timer);
	queue_thread_stopped(q->thread);
}

static const struct queue_thread_ops thread_ops = {
	.prepare = prepare,
	.started = started,
	.stopped = stopped,
	.vblk = { .notify = notify_driver, .needs_reset = needs_reset },
	.iotlb = { .fault = map_fault, .release = map_release },
};

/* On the main thread */

int vduse_queue_create(const struct queue_thread_params *params, int dev_fd,
		       struct inflight *log, struct vduse_queue **ret_queue, struct error *e)
{
	struct queue_thread_params thread_params = *params;
	struct vduse_queue *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return err_set(e, ENOMEM, "out of memory");
	q->index = params->index;
	q->dev_fd = dev_fd;
	q->log = log;
	q->irq_timer.expired = irq_timer_expired;
	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->kick_fd < 0) {
		err = err_set_errno(e, errno, "create an eventfd");
		goto free_queue;
	}
	thread_params.ops = &thread_ops;
	thread_params.opaque = q;
	err = queue_thread_create(&thread_params, &q->thread, e);
	if (err)
		goto close_kick_fd;

	*ret_queue = q;
	return 0;

close_kick_fd:
	close(q->kick_fd);
free_queue:
	free(q);
	return err;
}

void vduse_queue_destroy(struct vduse_queue *q)
{
	if (!q)
		return;
	queue_thread_destroy(q->thread);
	close(q->kick_fd);
	free(q);
}

void vduse_queue_announce(struct vduse_queue *q)
{
	q->announce = true;
}

struct queue_thread *vduse_queue_thread(const struct vduse_queue *q)
{
	return q->thread;
}
