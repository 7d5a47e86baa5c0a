// SPDX-License-Identifier: GPL-2.0-only
/*
 * sysfs: /sys/class/vduse/NAME/{msg_timeout,bounce_size,vqN/irq_cb_affinity}.
 *
 * Attributes are removed before the object they belong to goes, and removing
 * waits for whoever is inside show or store; so these need no reference.
 */
#include <linux/cpumask.h>
#include <linux/kstrtox.h>
#include <linux/slab.h>

#include "sysfs.h"
#include "vduse.h"

static char *vduse_devnode(const struct device *dev, umode_t *mode)
{
	return kasprintf(GFP_KERNEL, "vduse/%s", dev_name(dev));
}

const struct class vduse_class = {
	.name = "vduse",
	.devnode = vduse_devnode,
};

/* Seconds an operation waits for the daemon; 0: for ever. */
static ssize_t msg_timeout_show(struct device *device,
				struct device_attribute *attr, char *buf)
{
	struct vduse_dev *dev = dev_get_drvdata(device);

	return sysfs_emit(buf, "%u\n", READ_ONCE(dev->msgq.timeout));
}

static ssize_t msg_timeout_store(struct device *device,
				 struct device_attribute *attr,
				 const char *buf, size_t count)
{
	struct vduse_dev *dev = dev_get_drvdata(device);
	unsigned int timeout;
	int ret;

	ret = kstrtouint(buf, 10, &timeout);
	if (ret)
		return ret;

	WRITE_ONCE(dev->msgq.timeout, timeout);
	return count;
}
static DEVICE_ATTR_RW(msg_timeout);

/* Bytes of bounce memory; fixed once the device was added to the vDPA bus. */
static ssize_t bounce_size_show(struct device *device,
				struct device_attribute *attr, char *buf)
{
	struct vduse_dev *dev = dev_get_drvdata(device);

	return sysfs_emit(buf, "%u\n", READ_ONCE(dev->bounce_size));
}

static ssize_t bounce_size_store(struct device *device,
				 struct device_attribute *attr,
				 const char *buf, size_t count)
{
	struct vduse_dev *dev = dev_get_drvdata(device);
	unsigned int size;
	int ret;

	ret = kstrtouint(buf, 10, &size);
	if (ret)
		return ret;
	if (size < VDUSE_BOUNCE_SIZE_MIN || size > VDUSE_BOUNCE_SIZE_MAX)
		return -EINVAL;

	mutex_lock(&dev->domain_lock);
	if (dev->domain)
		ret = -EPERM;
	else
		WRITE_ONCE(dev->bounce_size, size & PAGE_MASK);
	mutex_unlock(&dev->domain_lock);
	return ret ?: count;
}
static DEVICE_ATTR_RW(bounce_size);

static struct attribute *vduse_dev_attrs[] = {
	&dev_attr_msg_timeout.attr,
	&dev_attr_bounce_size.attr,
	NULL
};

static const struct attribute_group vduse_dev_group = {
	.attrs = vduse_dev_attrs,
};

const struct attribute_group *vduse_dev_groups[] = {
	&vduse_dev_group,
	NULL
};

static struct vduse_virtqueue *kobj_to_vq(struct kobject *kobj)
{
	return container_of(kobj, struct vduse_virtqueue, kobj);
}

static ssize_t irq_cb_affinity_show(struct kobject *kobj,
				    struct kobj_attribute *attr, char *buf)
{
	struct vduse_virtqueue *vq = kobj_to_vq(kobj);

	return sysfs_emit(buf, "%*pb\n", cpumask_pr_args(&vq->affinity));
}

static ssize_t irq_cb_affinity_store(struct kobject *kobj,
				     struct kobj_attribute *attr,
				     const char *buf, size_t count)
{
	cpumask_var_t mask;
	int ret;

	if (!zalloc_cpumask_var(&mask, GFP_KERNEL))
		return -ENOMEM;

	ret = cpumask_parse(buf, mask);
	if (!ret && !cpumask_intersects(mask, cpu_online_mask))
		ret = -EINVAL;
	if (!ret)
		vduse_vq_set_affinity(kobj_to_vq(kobj), mask,
				      !cpumask_subset(cpu_possible_mask, mask));
	free_cpumask_var(mask);
	return ret ?: count;
}

static struct kobj_attribute irq_cb_affinity_attr =
	__ATTR_RW(irq_cb_affinity);

static struct attribute *vduse_vq_attrs[] = {
	&irq_cb_affinity_attr.attr,
	NULL
};
ATTRIBUTE_GROUPS(vduse_vq);

static void vduse_vq_release(struct kobject *kobj)
{
	struct vduse_virtqueue *vq = kobj_to_vq(kobj);

	kfree_rcu(vq, rcu);
}

const struct kobj_type vduse_vq_ktype = {
	.release = vduse_vq_release,
	.sysfs_ops = &kobj_sysfs_ops,
	.default_groups = vduse_vq_groups,
};
