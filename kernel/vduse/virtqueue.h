/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One virtqueue: its configuration, kicks towards the daemon, interrupts
 * towards the driver. virtqueue.c has the locking.
 */
#ifndef _VDUSE_VIRTQUEUE_H
#define _VDUSE_VIRTQUEUE_H

#include <linux/cpumask.h>
#include <linux/eventfd.h>
#include <linux/kobject.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/vdpa.h>
#include <linux/workqueue.h>
#include <uapi/linux/vduse.h>

#include "inflight.h"

struct vduse_dev;

/**
 * struct vduse_virtqueue - one virtqueue of a device
 * @kobj: the sysfs folder vqN; its release frees the structure
 * @dev: the device it belongs to, which outlives it
 * @index: its number
 * @max_size: largest ring the daemon takes, descriptors; 0: not set up yet
 * @lock: guards the fields up to @kicked; taken with interrupts off
 * @num: ring size the driver chose, descriptors
 * @desc_addr: IOVA of the descriptor area
 * @driver_addr: IOVA of the driver area
 * @device_addr: IOVA of the device area
 * @state: where the driver wants the device to start
 * @ready: the driver has finished its configuration
 * @kickfd: signalled when the driver kicks
 * @kicked: kicked while there was no @kickfd
 * @kick_work: kicks when eventfd_signal() is not allowed in the caller
 * @irq_lock: guards the fields below it and is held over the callback; BH
 * @cb: the driver's callback
 * @irq_ready: as @ready
 * @affinity: CPUs the callback should run on
 * @affinity_pinned: @affinity is an order of the administrator, not a hint
 * @irq_cpu: CPU that @irq_work was queued on last
 * @irq_work: runs the callback on a chosen CPU
 * @inflight: which buffers the daemon holds; has a lock of its own
 * @rcu: defers the free past those who walk the trackers of a domain
 */
struct vduse_virtqueue {
	struct kobject kobj;
	struct vduse_dev *dev;
	u16 index;
	u16 max_size;

	spinlock_t lock; /* configuration, kickfd, kicked */
	u32 num;
	u64 desc_addr;
	u64 driver_addr;
	u64 device_addr;
	struct vdpa_vq_state state;
	bool ready;
	struct eventfd_ctx *kickfd;
	bool kicked;
	struct work_struct kick_work;

	spinlock_t irq_lock; /* callback, affinity */
	struct vdpa_callback cb;
	bool irq_ready;
	struct cpumask affinity;
	bool affinity_pinned;
	int irq_cpu;
	struct work_struct irq_work;

	struct vduse_inflight inflight;
	struct rcu_head rcu;
};

/**
 * vduse_vq_create() - make a virtqueue and its sysfs folder
 * @dev: the device, registered
 * @index: number of the virtqueue
 * @ret_vq: the virtqueue, for vduse_vq_destroy()
 *
 * Context: process, may sleep.
 * Return: 0 or a negative errno.
 */
int vduse_vq_create(struct vduse_dev *dev, u16 index,
		    struct vduse_virtqueue **ret_vq);

/**
 * vduse_vq_destroy() - remove a virtqueue
 * @vq: the virtqueue; reset, and nobody kicks it or injects interrupts
 *
 * Context: process, sleeps.
 */
void vduse_vq_destroy(struct vduse_virtqueue *vq);

/**
 * vduse_vq_reset() - forget the driver's configuration
 * @vq: the virtqueue
 *
 * After the return the driver's callback is not running and will not be
 * called, and the kick eventfd is released.
 *
 * Context: process, sleeps.
 */
void vduse_vq_reset(struct vduse_virtqueue *vq);

/**
 * vduse_vq_set_ready() - the driver has, or has not, finished configuring
 * @vq: the virtqueue
 * @ready: what it says
 *
 * After @ready false the driver's callback is not running and will not be
 * called.
 *
 * Context: process, may sleep.
 */
void vduse_vq_set_ready(struct vduse_virtqueue *vq, bool ready);

/**
 * vduse_vq_set_cb() - set the driver's callback
 * @vq: the virtqueue
 * @cb: the callback
 *
 * Context: process.
 */
void vduse_vq_set_cb(struct vduse_virtqueue *vq,
		     const struct vdpa_callback *cb);

/**
 * vduse_vq_kick() - the driver has made buffers available
 * @vq: the virtqueue
 *
 * Context: any.
 */
void vduse_vq_kick(struct vduse_virtqueue *vq);

/**
 * vduse_vq_set_kickfd() - choose the eventfd that kicks go to
 * @vq: the virtqueue
 * @fd: an eventfd of the caller, or VDUSE_EVENTFD_DEASSIGN
 *
 * A kick that came while there was no eventfd is signalled now.
 *
 * Context: process.
 * Return: 0; -EBADF: not open; -EINVAL: not an eventfd, or below -1.
 */
int vduse_vq_set_kickfd(struct vduse_virtqueue *vq, int fd);

/**
 * vduse_vq_drop_kickfd() - the daemon that chose the eventfd has gone
 * @vq: the virtqueue
 *
 * The next eventfd is signalled when it is set: the daemon may have gone
 * with a kick that it did not act upon.
 *
 * Context: process.
 */
void vduse_vq_drop_kickfd(struct vduse_virtqueue *vq);

/**
 * vduse_vq_inject_irq() - the daemon has used buffers
 * @vq: the virtqueue
 *
 * Context: process.
 * Return: 0; -EINVAL: the driver is not there (no DRIVER_OK); -EIO: the
 * daemon was cut off, its requests are being failed.
 */
int vduse_vq_inject_irq(struct vduse_virtqueue *vq);

/**
 * vduse_vq_call() - run the driver's callback here
 * @vq: the virtqueue
 *
 * Context: process or BH, no lock held that the driver's callback takes.
 */
void vduse_vq_call(struct vduse_virtqueue *vq);

/**
 * vduse_vq_set_affinity() - choose the CPUs for the callback
 * @vq: the virtqueue
 * @mask: the CPUs; NULL: any
 * @pinned: keep to @mask; else it is a hint, and calling where the daemon
 *	runs is preferred
 *
 * Context: process.
 */
void vduse_vq_set_affinity(struct vduse_virtqueue *vq,
			   const struct cpumask *mask, bool pinned);

/**
 * vduse_vq_get_info() - take a consistent copy of the configuration
 * @vq: the virtqueue
 * @info: filled, except for its index
 *
 * Context: process.
 */
void vduse_vq_get_info(struct vduse_virtqueue *vq, struct vduse_vq_info *info);
#endif
