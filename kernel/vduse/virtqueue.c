// SPDX-License-Identifier: GPL-2.0-only
/*
 * Virtqueues: configuration, kicks, interrupts.
 *
 * Configuration comes from the driver through the vDPA core, which serialises
 * it per virtqueue; the daemon reads it (VQ_GET_INFO). vq->lock makes what it
 * reads consistent, and orders kicks against the kick eventfd. It is taken
 * with interrupts off, because drivers kick from wherever they add buffers.
 *
 * Interrupts: the daemon's ioctl calls the driver's callback right here, in
 * the daemon's thread, where a workqueue hop would cost more than the callback
 * itself. This is what a driver expects of an interrupt:
 *  - bottom halves are off, so the callback is not interrupted by its own
 *    softirq, and a completion it raises runs as soon as they are on again;
 *  - vq->irq_lock serialises the callbacks of one virtqueue;
 *  - no other lock of this module is held, so the callback may kick;
 *  - vduse_vq_set_ready(false) and vduse_vq_reset() pass through irq_lock:
 *    once they return, the callback neither runs nor will it.
 * The callback is atomic and returns, so the daemon is delayed by no more than
 * a device's interrupt would delay it.
 *
 * The driver spreads affinity masks over the virtqueues as a hint; block and
 * network stack route completions themselves, so the hint is not worth a hop.
 * A mask written to irq_cb_affinity is an order: a daemon thread that runs on
 * a CPU outside of it passes the callback to a work item on one inside.
 *
 * vhost also gives the eventfd its callback signals (cb.trigger). It is not
 * used: vhost drops its reference before it replaces the callback, and calling
 * the callback, which reads the eventfd anew, costs the same.
 */
#include <linux/slab.h>

#include "sysfs.h"
#include "trace.h"
#include "vduse.h"

static void vq_signal(struct vduse_virtqueue *vq)
{
	unsigned long flags;

	spin_lock_irqsave(&vq->lock, flags);
	if (vq->ready) {
		if (vq->kickfd)
			eventfd_signal(vq->kickfd);
		else
			vq->kicked = true;
	}
	spin_unlock_irqrestore(&vq->lock, flags);
}

static void vq_kick_work(struct work_struct *work)
{
	vq_signal(container_of(work, struct vduse_virtqueue, kick_work));
}

void vduse_vq_kick(struct vduse_virtqueue *vq)
{
	struct vduse_dev *dev = vq->dev;

	trace_vduse_kick(vduse_dev_name(dev), vq->index);

	/* vhost kicks from an eventfd's wakeup, where signalling could nest. */
	if (eventfd_signal_allowed())
		vq_signal(vq);
	else
		queue_work(vduse_wq, &vq->kick_work);

	if (unlikely(test_bit(VDUSE_FAILING, &dev->state)))
		vduse_teardown_poke(dev);
}

/* Returns the eventfd in use until now, for the caller to put. */
static struct eventfd_ctx *vq_swap_kickfd(struct vduse_virtqueue *vq,
					  struct eventfd_ctx *ctx)
{
	struct eventfd_ctx *old = vq->kickfd;

	lockdep_assert_held(&vq->lock);
	vq->kickfd = ctx;
	if (ctx && vq->ready && vq->kicked) {
		eventfd_signal(ctx);
		vq->kicked = false;
	}
	return old;
}

int vduse_vq_set_kickfd(struct vduse_virtqueue *vq, int fd)
{
	struct eventfd_ctx *ctx = NULL;
	unsigned long flags;

	if (fd < VDUSE_EVENTFD_DEASSIGN)
		return -EINVAL;
	if (fd != VDUSE_EVENTFD_DEASSIGN) {
		ctx = eventfd_ctx_fdget(fd);
		if (IS_ERR(ctx))
			return PTR_ERR(ctx);
	}

	spin_lock_irqsave(&vq->lock, flags);
	ctx = vq_swap_kickfd(vq, ctx);
	spin_unlock_irqrestore(&vq->lock, flags);
	if (ctx)
		eventfd_ctx_put(ctx);
	return 0;
}

void vduse_vq_drop_kickfd(struct vduse_virtqueue *vq)
{
	struct eventfd_ctx *ctx;
	unsigned long flags;

	spin_lock_irqsave(&vq->lock, flags);
	ctx = vq_swap_kickfd(vq, NULL);
	if (ctx)
		vq->kicked = vq->ready;
	spin_unlock_irqrestore(&vq->lock, flags);
	if (ctx)
		eventfd_ctx_put(ctx);
}

void vduse_vq_call(struct vduse_virtqueue *vq)
{
	spin_lock_bh(&vq->irq_lock);
	if (vq->irq_ready && vq->cb.callback) {
		trace_vduse_irq(vduse_dev_name(vq->dev), vq->index);
		vq->cb.callback(vq->cb.private);
	}
	spin_unlock_bh(&vq->irq_lock);
}

static void vq_irq_work(struct work_struct *work)
{
	vduse_vq_call(container_of(work, struct vduse_virtqueue, irq_work));
}

/* Choose the CPU for the callback in turn; -1: this one will do. */
static int vq_irq_cpu(struct vduse_virtqueue *vq)
{
	int cpu = -1;

	spin_lock_bh(&vq->irq_lock);
	if (!cpumask_test_cpu(smp_processor_id(), &vq->affinity)) {
		cpu = cpumask_next_and(vq->irq_cpu, &vq->affinity,
				       cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = cpumask_first_and(&vq->affinity,
						cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = -1;
		vq->irq_cpu = cpu;
	}
	spin_unlock_bh(&vq->irq_lock);
	return cpu;
}

int vduse_vq_inject_irq(struct vduse_virtqueue *vq)
{
	struct vduse_dev *dev = vq->dev;
	int cpu = -1;

	if (!(vduse_msgq_status(&dev->msgq) & VIRTIO_CONFIG_S_DRIVER_OK))
		return -EINVAL;
	if (unlikely(test_bit(VDUSE_FAILING, &dev->state)))
		return -EIO;

	if (READ_ONCE(vq->affinity_pinned))
		cpu = vq_irq_cpu(vq);
	if (cpu < 0)
		vduse_vq_call(vq);
	else
		queue_work_on(cpu, vduse_wq, &vq->irq_work);
	return 0;
}

void vduse_vq_set_affinity(struct vduse_virtqueue *vq,
			   const struct cpumask *mask, bool pinned)
{
	spin_lock_bh(&vq->irq_lock);
	cpumask_copy(&vq->affinity, mask ?: cpu_possible_mask);
	WRITE_ONCE(vq->affinity_pinned, pinned);
	spin_unlock_bh(&vq->irq_lock);
}

void vduse_vq_set_cb(struct vduse_virtqueue *vq,
		     const struct vdpa_callback *cb)
{
	spin_lock_bh(&vq->irq_lock);
	vq->cb = *cb;
	spin_unlock_bh(&vq->irq_lock);
}

/*
 * Follow the requests in flight, so that they can be failed. virtio_blk is
 * the driver whose removal waits for its requests without a limit, and it maps
 * every buffer. The removal of virtio_net does not wait.
 */
static void vq_track(struct vduse_virtqueue *vq)
{
	struct vduse_dev *dev = vq->dev;
	struct vduse_ring ring;
	int ret;

	if (dev->device_id != VIRTIO_ID_BLOCK)
		return;

	ring.num = vq->num;
	ring.packed = vduse_dev_packed(dev);
	ring.desc = vq->desc_addr;
	ring.driver = vq->driver_addr;
	ring.device = vq->device_addr;
	ring.state = vq->state;
	ret = vduse_inflight_start(&vq->inflight, dev->domain, &ring);
	if (ret && ret != -EOPNOTSUPP && ret != -EBUSY)
		dev_warn(&dev->dev, "vq%u: cannot follow its requests: %d\n",
			 vq->index, ret);
}

static void vq_write_ready(struct vduse_virtqueue *vq, bool ready)
{
	unsigned long flags;

	spin_lock_irqsave(&vq->lock, flags);
	vq->ready = ready;
	spin_unlock_irqrestore(&vq->lock, flags);

	spin_lock_bh(&vq->irq_lock);
	vq->irq_ready = ready;
	spin_unlock_bh(&vq->irq_lock);
}

void vduse_vq_set_ready(struct vduse_virtqueue *vq, bool ready)
{
	if (ready) {
		vq_track(vq);
		vq_write_ready(vq, true);
	} else {
		vq_write_ready(vq, false);
		vduse_inflight_stop(&vq->inflight);
	}
}

void vduse_vq_reset(struct vduse_virtqueue *vq)
{
	static const struct vdpa_callback no_cb;
	struct eventfd_ctx *ctx;
	unsigned long flags;

	vduse_vq_set_ready(vq, false);
	vduse_vq_set_cb(vq, &no_cb);
	cancel_work_sync(&vq->kick_work);
	cancel_work_sync(&vq->irq_work);

	spin_lock_irqsave(&vq->lock, flags);
	vq->num = 0;
	vq->desc_addr = 0;
	vq->driver_addr = 0;
	vq->device_addr = 0;
	memset(&vq->state, 0, sizeof(vq->state));
	ctx = vq_swap_kickfd(vq, NULL);
	vq->kicked = false;
	spin_unlock_irqrestore(&vq->lock, flags);
	if (ctx)
		eventfd_ctx_put(ctx);
}

void vduse_vq_get_info(struct vduse_virtqueue *vq, struct vduse_vq_info *info)
{
	const struct vdpa_vq_state_packed *packed = &vq->state.packed;
	unsigned long flags;

	spin_lock_irqsave(&vq->lock, flags);
	info->num = vq->num;
	info->desc_addr = vq->desc_addr;
	info->driver_addr = vq->driver_addr;
	info->device_addr = vq->device_addr;
	info->ready = vq->ready;
	if (vduse_dev_packed(vq->dev)) {
		info->packed.last_avail_counter = packed->last_avail_counter;
		info->packed.last_avail_idx = packed->last_avail_idx;
		info->packed.last_used_counter = packed->last_used_counter;
		info->packed.last_used_idx = packed->last_used_idx;
	} else {
		info->split.avail_index = vq->state.split.avail_index;
	}
	spin_unlock_irqrestore(&vq->lock, flags);
}

int vduse_vq_create(struct vduse_dev *dev, u16 index,
		    struct vduse_virtqueue **ret_vq)
{
	struct vduse_virtqueue *vq = kzalloc(sizeof(*vq), GFP_KERNEL_ACCOUNT);
	int ret;

	if (!vq)
		return -ENOMEM;

	vq->dev = dev;
	vq->index = index;
	vq->irq_cpu = -1;
	spin_lock_init(&vq->lock);
	spin_lock_init(&vq->irq_lock);
	INIT_WORK(&vq->kick_work, vq_kick_work);
	INIT_WORK(&vq->irq_work, vq_irq_work);
	cpumask_copy(&vq->affinity, cpu_possible_mask);
	vduse_inflight_init(&vq->inflight);
	vq->inflight.name = vduse_dev_name(dev);
	vq->inflight.index = index;

	ret = kobject_init_and_add(&vq->kobj, &vduse_vq_ktype, &dev->dev.kobj,
				   "vq%u", index);
	if (ret) {
		kobject_put(&vq->kobj);
		return ret;
	}
	*ret_vq = vq;
	return 0;
}

void vduse_vq_destroy(struct vduse_virtqueue *vq)
{
	kobject_del(&vq->kobj);
	kobject_put(&vq->kobj);
}
