// SPDX-License-Identifier: GPL-2.0-only
/*
 * The vDPA core waits for us with its lock held in two places: dev_add, while
 * a driver probes (virtio_blk reads the partition table), and dev_del, while
 * it removes one (virtio_blk waits for its requests, and writes back). Nothing
 * else in the vDPA subsystem moves meanwhile, so these waits must end even if
 * the daemon does not serve its requests any more. There is a timeout neither
 * in the core nor in virtio_blk: this file decides that the daemon is not to
 * be waited for, and then fails the requests.
 *
 *   removing, no daemon                      at once
 *   removing, a daemon that completes
 *     nothing for msg_timeout seconds        then
 *   adding, a daemon has gone, and since
 *     nothing was completed for msg_timeout  then
 *   otherwise                                never
 *
 * A daemon that is there learns of its removal from poll(2), which reports
 * POLLPRI as long as it lasts: one that waits for its storage can then fail its
 * requests itself, at once, instead of being waited for and cut off.
 *
 * msg_timeout 0 means "for ever" here as well. While adding, a daemon that is
 * there may take its time, its storage may be slow; the user can end it. But
 * if it goes and leaves requests, its successors get no more than the timeout,
 * or a daemon that crashes and is restarted again and again would keep the
 * lock for ever. When nobody holds the lock, a daemon that dies leaves its
 * requests waiting for the next one.
 *
 * Failing (VDUSE_FAILING) is final for the vDPA device. From then on the
 * module is the device: the daemon's mappings of rings and bounce memory are
 * taken away, so that one that only slept cannot use a ring behind our back;
 * nobody may open the device; its interrupts are refused; control messages
 * wait for nobody. dev->watch then fails what is outstanding, and what becomes
 * outstanding, until the driver is gone: on kicks, and at intervals because the
 * daemon may have switched kicks off.
 *
 * dev->watch is queued by whoever changes dev->state so that there is
 * something to watch, and requeues itself as long as there is. The domain and
 * the virtqueues live while it may run: vduse_teardown_end() cancels it.
 */
#include <linux/jiffies.h>

#include "trace.h"
#include "vduse.h"

/* Between looks at a device whose daemon may still complete its requests. */
#define VDUSE_WATCH_PERIOD	max(HZ / 4, 1)

/* Between looks at a device that fails its requests: somebody waits, or not. */
#define VDUSE_FAIL_PERIOD_WAITED	max(HZ / 100, 1)
#define VDUSE_FAIL_PERIOD		HZ

static void trace_state(struct vduse_dev *dev)
{
	trace_vduse_state(vduse_dev_name(dev), dev->state,
			  vduse_msgq_status(&dev->msgq));
}

/* Outstanding requests of all virtqueues; how far they came in @ret_used. */
static unsigned int count_inflight(struct vduse_dev *dev, u64 *ret_used)
{
	unsigned int i, count = 0;
	u64 used = 0;

	for (i = 0; i < dev->vq_num; i++) {
		count += vduse_inflight_count(&dev->vqs[i]->inflight);
		used += vduse_inflight_used(&dev->vqs[i]->inflight);
	}
	*ret_used = used;
	return count;
}

/* Whether the requests in flight have been waited for long enough. */
static bool out_of_patience(struct vduse_dev *dev)
{
	u32 timeout = READ_ONCE(dev->msgq.timeout);
	unsigned int count;
	u64 used;

	count = count_inflight(dev, &used);
	if (!count || used != dev->progress) {
		dev->progress = used;
		dev->progress_since = jiffies;
		WRITE_ONCE(dev->deserted,
			   !test_bit(VDUSE_DAEMON, &dev->state));
		return false;
	}
	if (!test_bit(VDUSE_REMOVING, &dev->state) &&
	    !READ_ONCE(dev->deserted)) {
		dev->progress_since = jiffies;
		return false;
	}
	return timeout && time_after_eq(jiffies, dev->progress_since +
					(unsigned long)timeout * HZ);
}

static void fail_requests(struct vduse_dev *dev)
{
	struct vduse_virtqueue *vq;
	unsigned int i;

	if (!dev->revoked) {
		if (test_bit(VDUSE_DAEMON, &dev->state))
			dev_notice(&dev->dev,
				   "the daemon completes nothing: cut off\n");
		vduse_msgq_set_patience(&dev->msgq, VDUSE_MSG_WAIT_NONE);
		vduse_domain_revoke(dev->domain);
		dev->revoked = true;
	}

	for (i = 0; i < dev->vq_num; i++) {
		vq = dev->vqs[i];
		if (vduse_inflight_fail(&vq->inflight) > 0)
			vduse_vq_call(vq);
	}
}

static void watch_work(struct work_struct *work)
{
	struct vduse_dev *dev = container_of(to_delayed_work(work),
					     struct vduse_dev, watch);
	unsigned long waiting = BIT(VDUSE_ADDING) | BIT(VDUSE_REMOVING);

	if (!test_bit(VDUSE_FAILING, &dev->state)) {
		if (!(READ_ONCE(dev->state) & waiting))
			return;
		if (!out_of_patience(dev)) {
			queue_delayed_work(vduse_wq, &dev->watch,
					   VDUSE_WATCH_PERIOD);
			return;
		}
		spin_lock(&dev->state_lock);
		set_bit(VDUSE_FAILING, &dev->state);
		spin_unlock(&dev->state_lock);
		trace_state(dev);
	}

	fail_requests(dev);
	queue_delayed_work(vduse_wq, &dev->watch,
			   READ_ONCE(dev->state) & waiting ?
			   VDUSE_FAIL_PERIOD_WAITED : VDUSE_FAIL_PERIOD);
}

void vduse_teardown_poke(struct vduse_dev *dev)
{
	mod_delayed_work(vduse_wq, &dev->watch, 0);
}

void vduse_teardown_init(struct vduse_dev *dev)
{
	INIT_DELAYED_WORK(&dev->watch, watch_work);
}

void vduse_teardown_adding(struct vduse_dev *dev)
{
	spin_lock(&dev->state_lock);
	set_bit(VDUSE_ADDING, &dev->state);
	spin_unlock(&dev->state_lock);
	trace_state(dev);

	dev->progress_since = jiffies;
	queue_delayed_work(vduse_wq, &dev->watch, VDUSE_WATCH_PERIOD);
}

void vduse_teardown_added(struct vduse_dev *dev)
{
	bool failing;

	spin_lock(&dev->state_lock);
	clear_bit(VDUSE_ADDING, &dev->state);
	failing = test_bit(VDUSE_FAILING, &dev->state);
	spin_unlock(&dev->state_lock);
	trace_state(dev);

	if (!failing)
		cancel_delayed_work_sync(&dev->watch);
}

void vduse_teardown_begin(struct vduse_dev *dev)
{
	bool failing;

	spin_lock(&dev->state_lock);
	set_bit(VDUSE_REMOVING, &dev->state);
	if (!test_bit(VDUSE_DAEMON, &dev->state))
		set_bit(VDUSE_FAILING, &dev->state);
	failing = test_bit(VDUSE_FAILING, &dev->state);
	spin_unlock(&dev->state_lock);
	trace_state(dev);

	vduse_msgq_set_patience(&dev->msgq, failing ? VDUSE_MSG_WAIT_NONE :
						      VDUSE_MSG_WAIT_DAEMON);
	vduse_msgq_wake_poll(&dev->msgq);
	dev->progress_since = jiffies;
	vduse_teardown_poke(dev);
}

void vduse_teardown_daemon_gone(struct vduse_dev *dev)
{
	WRITE_ONCE(dev->deserted, true);
	spin_lock(&dev->state_lock);
	if (test_bit(VDUSE_REMOVING, &dev->state)) {
		set_bit(VDUSE_FAILING, &dev->state);
		vduse_teardown_poke(dev);
	}
	spin_unlock(&dev->state_lock);
	trace_state(dev);
}

void vduse_teardown_end(struct vduse_dev *dev)
{
	/* From here on nobody queues dev->watch. */
	spin_lock(&dev->state_lock);
	clear_bit(VDUSE_REMOVING, &dev->state);
	spin_unlock(&dev->state_lock);
	cancel_delayed_work_sync(&dev->watch);

	vduse_dev_reset(dev);

	if (dev->revoked) {
		mutex_lock(&dev->domain_lock);
		vduse_domain_release_umem(dev->domain);
		vduse_domain_put(dev->domain);
		dev->domain = NULL;
		mutex_unlock(&dev->domain_lock);
		dev->revoked = false;
	}

	vduse_msgq_set_patience(&dev->msgq, VDUSE_MSG_WAIT);
	spin_lock(&dev->state_lock);
	clear_bit(VDUSE_FAILING, &dev->state);
	spin_unlock(&dev->state_lock);
	trace_state(dev);
}
