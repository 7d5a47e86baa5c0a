// SPDX-License-Identifier: GPL-2.0-only
/*
 * The vDPA management device "vduse": "vdpa dev add name NAME mgmtdev vduse"
 * puts a vDPA device on top of the VDUSE device of that name, "vdpa dev del"
 * takes it away.
 *
 * The vDPA core calls dev_add and dev_del with vdpa_dev_lock held for writing,
 * so they never run at the same time. VDUSE_VDPA, set here and cleared when
 * the vDPA device is freed, keeps VDUSE_DESTROY_DEV away meanwhile.
 */
#include <linux/dma-mapping.h>
#include <linux/dma-map-ops.h>
#include <linux/mod_devicetable.h>
#include <linux/slab.h>
#include <uapi/linux/virtio_ids.h>

#include "trace.h"
#include "vduse.h"

/**
 * struct vduse_mgmt - the management device
 * @mgmt: what the vDPA core knows
 * @dev: its device; owns the memory
 */
struct vduse_mgmt {
	struct vdpa_mgmt_dev mgmt;
	struct device dev;
};

static struct vduse_mgmt *vduse_mgmt;

struct vduse_domain *vduse_dma_dev_domain(struct device *dev)
{
	return vdpa_to_vduse(dev_to_vdpa(dev))->domain;
}

/* Drivers create rings of every virtqueue: the daemon must have sized all. */
static bool vqs_are_set_up(const struct vduse_dev *dev)
{
	unsigned int i;

	for (i = 0; i < dev->vq_num; i++)
		if (!dev->vqs[i]->max_size)
			return false;
	return true;
}

/* Find the device for dev_add, and take it with a reference for the caller. */
static int claim_dev(const char *name, struct vduse_dev **ret_dev)
{
	struct device *mgmt = &vduse_mgmt->dev;
	struct vduse_dev *dev;
	int ret = 0;

	mutex_lock(&vduse_table_lock);
	dev = vduse_table_find(name);
	if (!dev) {
		dev_notice(mgmt, "%s: no VDUSE device has this name\n", name);
		ret = -EINVAL;
		goto unlock;
	}

	spin_lock(&dev->state_lock);
	if (test_bit(VDUSE_VDPA, &dev->state))
		ret = -EEXIST;
	else if (!vqs_are_set_up(dev))
		ret = -EINVAL;
	else
		set_bit(VDUSE_VDPA, &dev->state);
	spin_unlock(&dev->state_lock);

	if (ret == -EINVAL)
		dev_notice(mgmt, "%s: a virtqueue is not set up\n", name);
	if (!ret)
		*ret_dev = to_vduse_dev(get_device(&dev->dev));
unlock:
	mutex_unlock(&vduse_table_lock);
	return ret;
}

static int make_domain(struct vduse_dev *dev)
{
	int ret = 0;

	mutex_lock(&dev->domain_lock);
	if (!dev->domain)
		ret = vduse_domain_create(VDUSE_IOVA_LAST, dev->bounce_size,
					  &dev->domain);
	mutex_unlock(&dev->domain_lock);
	return ret;
}

/* Takes over the caller's claim and reference, success or not. */
static int make_vdpa(struct vduse_dev *dev, struct vduse_vdpa **ret_vdpa)
{
	struct vduse_vdpa *vdpa;
	struct device *d;
	int ret;

	vdpa = vdpa_alloc_device(struct vduse_vdpa, vdpa, &dev->dev,
				 &vduse_vdpa_ops, 1, 1, vduse_dev_name(dev),
				 true);
	if (IS_ERR(vdpa)) {
		spin_lock(&dev->state_lock);
		clear_bit(VDUSE_VDPA, &dev->state);
		spin_unlock(&dev->state_lock);
		put_device(&dev->dev);
		return PTR_ERR(vdpa);
	}

	vdpa->dev = dev;
	d = &vdpa->vdpa.dev;
	d->dma_mask = &d->coherent_dma_mask;
	ret = dma_set_mask_and_coherent(d, DMA_BIT_MASK(64));
	if (ret) {
		put_device(d);
		return ret;
	}
	set_dma_ops(d, &vduse_dma_ops);
	vdpa->vdpa.dma_dev = d;
	vdpa->vdpa.mdev = &vduse_mgmt->mgmt;
	*ret_vdpa = vdpa;
	return 0;
}

static int vduse_dev_add(struct vdpa_mgmt_dev *mdev, const char *name,
			 const struct vdpa_dev_set_config *config)
{
	struct vduse_vdpa *vdpa;
	struct vduse_dev *dev;
	int ret;

	ret = claim_dev(name, &dev);
	if (ret)
		return ret;
	ret = make_vdpa(dev, &vdpa);
	if (ret)
		return ret;

	ret = make_domain(dev);
	if (ret)
		goto err_put;

	vduse_teardown_adding(dev);
	ret = _vdpa_register_device(&vdpa->vdpa, dev->vq_num);
	vduse_teardown_added(dev);
	if (ret)
		goto err_put;
	return 0;

err_put:
	put_device(&vdpa->vdpa.dev);
	return ret;
}

static void vduse_dev_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdpa)
{
	struct vduse_dev *dev = vdpa_to_vduse(vdpa);

	/* Freeing the vDPA device drops the reference it has. */
	get_device(&dev->dev);
	vduse_teardown_begin(dev);
	_vdpa_unregister_device(vdpa);
	vduse_teardown_end(dev);
	put_device(&dev->dev);
}

static const struct vdpa_mgmtdev_ops vduse_mgmt_ops = {
	.dev_add = vduse_dev_add,
	.dev_del = vduse_dev_del,
};

/* As vduse_device_id_allowed(). */
static struct virtio_device_id vduse_id_table[] = {
	{ VIRTIO_ID_BLOCK, VIRTIO_DEV_ANY_ID },
	{ VIRTIO_ID_NET, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

static void vduse_mgmt_release(struct device *dev)
{
	kfree(container_of(dev, struct vduse_mgmt, dev));
}

int vduse_mgmt_init(void)
{
	int ret;

	vduse_mgmt = kzalloc(sizeof(*vduse_mgmt), GFP_KERNEL);
	if (!vduse_mgmt)
		return -ENOMEM;

	vduse_mgmt->dev.release = vduse_mgmt_release;
	vduse_mgmt->dev.init_name = "vduse";
	ret = device_register(&vduse_mgmt->dev);
	if (ret)
		goto err_put;

	vduse_mgmt->mgmt.id_table = vduse_id_table;
	vduse_mgmt->mgmt.ops = &vduse_mgmt_ops;
	vduse_mgmt->mgmt.device = &vduse_mgmt->dev;
	vduse_mgmt->mgmt.max_supported_vqs = VDUSE_VQ_NUM_MAX;
	ret = vdpa_mgmtdev_register(&vduse_mgmt->mgmt);
	if (ret)
		goto err_del;
	return 0;

err_del:
	device_del(&vduse_mgmt->dev);
err_put:
	put_device(&vduse_mgmt->dev);
	return ret;
}

void vduse_mgmt_exit(void)
{
	vdpa_mgmtdev_unregister(&vduse_mgmt->mgmt);
	device_unregister(&vduse_mgmt->dev);
}
