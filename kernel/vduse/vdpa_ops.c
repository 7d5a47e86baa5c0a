// SPDX-License-Identifier: GPL-2.0-only
/*
 * The operations of the vDPA core on a device: what virtio_vdpa or vhost_vdpa
 * ask of it. Each either reads or writes the device's own idea of its
 * configuration, or turns into a control message for the daemon (set_status,
 * reset, get_vq_state, set_map, reset_map).
 *
 * The core calls set_status, reset, and the configuration space operations
 * under cf_lock. Both drivers configure a virtqueue from one thread at a time
 * and pass an index below vq_num.
 *
 * Lifetime: the vDPA device holds a reference of the VDUSE device from its
 * allocation (mgmt.c) until vduse_vdpa_free().
 */
#include <linux/vhost_iotlb.h>

#include "trace.h"
#include "vduse.h"

static struct vduse_virtqueue *vdpa_to_vq(struct vdpa_device *vdpa, u16 idx)
{
	return vdpa_to_vduse(vdpa)->vqs[idx];
}

static int vduse_vdpa_set_vq_address(struct vdpa_device *vdpa, u16 idx,
				     u64 desc_area, u64 driver_area,
				     u64 device_area)
{
	struct vduse_virtqueue *vq = vdpa_to_vq(vdpa, idx);
	unsigned long flags;

	spin_lock_irqsave(&vq->lock, flags);
	vq->desc_addr = desc_area;
	vq->driver_addr = driver_area;
	vq->device_addr = device_area;
	spin_unlock_irqrestore(&vq->lock, flags);
	return 0;
}

static void vduse_vdpa_set_vq_num(struct vdpa_device *vdpa, u16 idx, u32 num)
{
	struct vduse_virtqueue *vq = vdpa_to_vq(vdpa, idx);
	unsigned long flags;

	spin_lock_irqsave(&vq->lock, flags);
	vq->num = num;
	spin_unlock_irqrestore(&vq->lock, flags);
}

static u16 vduse_vdpa_get_vq_size(struct vdpa_device *vdpa, u16 idx)
{
	struct vduse_virtqueue *vq = vdpa_to_vq(vdpa, idx);

	return READ_ONCE(vq->num) ?: vq->max_size;
}

static void vduse_vdpa_kick_vq(struct vdpa_device *vdpa, u16 idx)
{
	vduse_vq_kick(vdpa_to_vq(vdpa, idx));
}

static void vduse_vdpa_set_vq_cb(struct vdpa_device *vdpa, u16 idx,
				 struct vdpa_callback *cb)
{
	vduse_vq_set_cb(vdpa_to_vq(vdpa, idx), cb);
}

static void vduse_vdpa_set_vq_ready(struct vdpa_device *vdpa, u16 idx,
				    bool ready)
{
	vduse_vq_set_ready(vdpa_to_vq(vdpa, idx), ready);
}

static bool vduse_vdpa_get_vq_ready(struct vdpa_device *vdpa, u16 idx)
{
	return READ_ONCE(vdpa_to_vq(vdpa, idx)->ready);
}

static int vduse_vdpa_set_vq_state(struct vdpa_device *vdpa, u16 idx,
				   const struct vdpa_vq_state *state)
{
	struct vduse_virtqueue *vq = vdpa_to_vq(vdpa, idx);
	unsigned long flags;

	spin_lock_irqsave(&vq->lock, flags);
	vq->state = *state;
	spin_unlock_irqrestore(&vq->lock, flags);
	return 0;
}

static int vduse_vdpa_get_vq_state(struct vdpa_device *vdpa, u16 idx,
				   struct vdpa_vq_state *state)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);
	struct vduse_vq_state answer;
	int ret;

	ret = vduse_msg_get_vq_state(&dev->msgq, idx, &answer);
	if (ret)
		return ret;

	if (!vduse_dev_packed(dev)) {
		state->split.avail_index = answer.split.avail_index;
		return 0;
	}
	state->packed.last_avail_counter = answer.packed.last_avail_counter & 1;
	state->packed.last_avail_idx = answer.packed.last_avail_idx & 0x7fff;
	state->packed.last_used_counter = answer.packed.last_used_counter & 1;
	state->packed.last_used_idx = answer.packed.last_used_idx & 0x7fff;
	return 0;
}

static u32 vduse_vdpa_get_vq_align(struct vdpa_device *vdpa)
{
	return vdpa_to_vduse(vdpa)->vq_align;
}

static u64 vduse_vdpa_get_device_features(struct vdpa_device *vdpa)
{
	return vdpa_to_vduse(vdpa)->device_features;
}

static int vduse_vdpa_set_driver_features(struct vdpa_device *vdpa,
					  u64 features)
{
	WRITE_ONCE(vdpa_to_vduse(vdpa)->driver_features, features);
	return 0;
}

static u64 vduse_vdpa_get_driver_features(struct vdpa_device *vdpa)
{
	return READ_ONCE(vdpa_to_vduse(vdpa)->driver_features);
}

static void vduse_vdpa_set_config_cb(struct vdpa_device *vdpa,
				     struct vdpa_callback *cb)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);

	spin_lock_bh(&dev->irq_lock);
	dev->config_cb = *cb;
	spin_unlock_bh(&dev->irq_lock);
}

static u16 vduse_vdpa_get_vq_num_max(struct vdpa_device *vdpa)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);
	u16 max_size = 0;
	unsigned int i;

	for (i = 0; i < dev->vq_num; i++)
		max_size = max(max_size, dev->vqs[i]->max_size);
	return max_size;
}

static u32 vduse_vdpa_get_device_id(struct vdpa_device *vdpa)
{
	return vdpa_to_vduse(vdpa)->device_id;
}

static u32 vduse_vdpa_get_vendor_id(struct vdpa_device *vdpa)
{
	return vdpa_to_vduse(vdpa)->vendor_id;
}

static u8 vduse_vdpa_get_status(struct vdpa_device *vdpa)
{
	return vduse_msgq_status(&vdpa_to_vduse(vdpa)->msgq);
}

static void vduse_vdpa_set_status(struct vdpa_device *vdpa, u8 status)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);
	int ret;

	ret = vduse_msg_set_status(&dev->msgq, status);
	if (ret)
		dev_dbg(&dev->dev, "status 0x%02x: %d\n", status, ret);
	trace_vduse_state(vduse_dev_name(dev), dev->state,
			  vduse_msgq_status(&dev->msgq));
}

static size_t vduse_vdpa_get_config_size(struct vdpa_device *vdpa)
{
	return vdpa_to_vduse(vdpa)->config_size;
}

static void vduse_vdpa_get_config(struct vdpa_device *vdpa,
				  unsigned int offset, void *buf,
				  unsigned int len)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);
	unsigned int there = 0;

	if (offset < dev->config_size)
		there = min(len, dev->config_size - offset);

	spin_lock(&dev->config_lock);
	memcpy(buf, dev->config + offset, there);
	spin_unlock(&dev->config_lock);
	memset(buf + there, 0, len - there);
}

/*
 * The configuration space is the daemon's; CREATE_DEV refuses the features
 * that would let a driver write to it.
 */
static void vduse_vdpa_set_config(struct vdpa_device *vdpa,
				  unsigned int offset, const void *buf,
				  unsigned int len)
{
}

static u32 vduse_vdpa_get_generation(struct vdpa_device *vdpa)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);
	u32 generation;

	spin_lock(&dev->config_lock);
	generation = dev->generation;
	spin_unlock(&dev->config_lock);
	return generation;
}

static int vduse_vdpa_set_vq_affinity(struct vdpa_device *vdpa, u16 idx,
				      const struct cpumask *cpu_mask)
{
	vduse_vq_set_affinity(vdpa_to_vq(vdpa, idx), cpu_mask, false);
	return 0;
}

static const struct cpumask *
vduse_vdpa_get_vq_affinity(struct vdpa_device *vdpa, u16 idx)
{
	return &vdpa_to_vq(vdpa, idx)->affinity;
}

void vduse_dev_reset(struct vduse_dev *dev)
{
	unsigned int i;

	spin_lock_bh(&dev->irq_lock);
	memset(&dev->config_cb, 0, sizeof(dev->config_cb));
	spin_unlock_bh(&dev->irq_lock);

	for (i = 0; i < dev->vq_num; i++)
		vduse_vq_reset(dev->vqs[i]);

	WRITE_ONCE(dev->driver_features, 0);
	spin_lock(&dev->config_lock);
	dev->generation++;
	spin_unlock(&dev->config_lock);

	if (dev->domain)
		vduse_domain_reset_bounce_map(dev->domain);
}

/* The daemon hears of it first, so that it stops using the rings. */
static int vduse_vdpa_reset(struct vdpa_device *vdpa)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);
	int ret;

	ret = vduse_msg_set_status(&dev->msgq, 0);
	vduse_dev_reset(dev);
	trace_vduse_state(vduse_dev_name(dev), dev->state, 0);
	return ret;
}

/*
 * The daemon hears of a new map once it is in force: what it then asks for is
 * new. If it does not answer, the operation fails, but the map stays: vhost
 * sets the one before in turn, and the message stays as well (message.c), so
 * the daemon drops its old mappings before it does anything else.
 */
static int vduse_vdpa_set_map(struct vdpa_device *vdpa, unsigned int asid,
			      struct vhost_iotlb *iotlb)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);
	int ret;

	ret = vduse_domain_set_map(dev->domain, iotlb);
	if (ret)
		return ret;

	return vduse_msg_update_iotlb(&dev->msgq, 0, U64_MAX);
}

/* vhost has closed its address space: keep no guest's memory alive. */
static int vduse_vdpa_reset_map(struct vdpa_device *vdpa, unsigned int asid)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);
	struct vhost_iotlb none;
	int ret;

	vhost_iotlb_init(&none, 0, 0);
	ret = vduse_domain_set_map(dev->domain, &none);
	if (ret)
		return ret;
	return vduse_msg_update_iotlb(&dev->msgq, 0, U64_MAX);
}

static void vduse_vdpa_free(struct vdpa_device *vdpa)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);

	spin_lock(&dev->state_lock);
	clear_bit(VDUSE_VDPA, &dev->state);
	spin_unlock(&dev->state_lock);
	put_device(&dev->dev);
}

const struct vdpa_config_ops vduse_vdpa_ops = {
	.set_vq_address		= vduse_vdpa_set_vq_address,
	.set_vq_num		= vduse_vdpa_set_vq_num,
	.get_vq_size		= vduse_vdpa_get_vq_size,
	.kick_vq		= vduse_vdpa_kick_vq,
	.set_vq_cb		= vduse_vdpa_set_vq_cb,
	.set_vq_ready		= vduse_vdpa_set_vq_ready,
	.get_vq_ready		= vduse_vdpa_get_vq_ready,
	.set_vq_state		= vduse_vdpa_set_vq_state,
	.get_vq_state		= vduse_vdpa_get_vq_state,
	.get_vq_align		= vduse_vdpa_get_vq_align,
	.get_device_features	= vduse_vdpa_get_device_features,
	.set_driver_features	= vduse_vdpa_set_driver_features,
	.get_driver_features	= vduse_vdpa_get_driver_features,
	.set_config_cb		= vduse_vdpa_set_config_cb,
	.get_vq_num_max		= vduse_vdpa_get_vq_num_max,
	.get_device_id		= vduse_vdpa_get_device_id,
	.get_vendor_id		= vduse_vdpa_get_vendor_id,
	.get_status		= vduse_vdpa_get_status,
	.set_status		= vduse_vdpa_set_status,
	.get_config_size	= vduse_vdpa_get_config_size,
	.get_config		= vduse_vdpa_get_config,
	.set_config		= vduse_vdpa_set_config,
	.get_generation		= vduse_vdpa_get_generation,
	.set_vq_affinity	= vduse_vdpa_set_vq_affinity,
	.get_vq_affinity	= vduse_vdpa_get_vq_affinity,
	.reset			= vduse_vdpa_reset,
	.set_map		= vduse_vdpa_set_map,
	.reset_map		= vduse_vdpa_reset_map,
	.free			= vduse_vdpa_free,
};
