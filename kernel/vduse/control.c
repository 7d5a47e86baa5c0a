// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/vduse/control: the table of devices, and the ioctls that create and
 * destroy them.
 *
 * vduse_table_lock covers the table, and creation and destruction as a whole.
 * A device is in the table from the end of its creation, when everything about
 * it works, until its destruction begins; opening /dev/vduse/NAME and dev_add
 * look it up under the lock and mark the device as used before they drop it.
 * So nothing that destruction takes apart is in use: a device with a daemon or
 * a vDPA device is busy.
 *
 * The table owns one reference of each device, and one of the module, so that
 * the module stays as long as devices exist.
 */
#include <linux/capability.h>
#include <linux/ctype.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>
#include <uapi/linux/virtio_blk.h>
#include <uapi/linux/virtio_ids.h>
#include <uapi/linux/virtio_net.h>
#include <uapi/linux/virtio_ring.h>

#include "sysfs.h"
#include "trace.h"
#include "vduse.h"

/**
 * struct vduse_control - one open file of /dev/vduse/control
 * @api_version: VDUSE API version this caller speaks
 */
struct vduse_control {
	u64 api_version;
};

/* Devices by minor, and what creation and destruction do. */
DEFINE_MUTEX(vduse_table_lock);
static DEFINE_XARRAY_ALLOC1(vduse_table);

struct vduse_dev *vduse_table_find(const char *name)
{
	struct vduse_dev *dev;
	unsigned long minor;

	lockdep_assert_held(&vduse_table_lock);
	xa_for_each(&vduse_table, minor, dev)
		if (!strcmp(vduse_dev_name(dev), name))
			return dev;
	return NULL;
}

struct vduse_dev *vduse_table_find_minor(int minor)
{
	lockdep_assert_held(&vduse_table_lock);
	return xa_load(&vduse_table, minor);
}

void vduse_table_exit(void)
{
	WARN_ON(!xa_empty(&vduse_table));
	xa_destroy(&vduse_table);
}

bool vduse_device_id_allowed(u32 id)
{
	return id == VIRTIO_ID_BLOCK || id == VIRTIO_ID_NET;
}

/* Names become file names, and lines of uevents. */
static bool name_is_valid(const char *name)
{
	const char *c;

	if (strnlen(name, VDUSE_NAME_MAX) == VDUSE_NAME_MAX || !name[0])
		return false;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (c = name; *c; c++)
		if (!isascii(*c) || !isgraph(*c) || *c == '/' || *c == '!')
			return false;
	return true;
}

/*
 * A daemon maps its own copy of the buffers, which only ACCESS_PLATFORM makes
 * a driver use. The rest would let a driver write to the configuration space,
 * or give commands to a network device, which the daemon could refuse to
 * answer for ever.
 */
static bool features_are_valid(u32 device_id, u64 features)
{
	if (!(features & BIT_ULL(VIRTIO_F_ACCESS_PLATFORM)))
		return false;

	switch (device_id) {
	case VIRTIO_ID_BLOCK:
		return !(features & BIT_ULL(VIRTIO_BLK_F_CONFIG_WCE));
	case VIRTIO_ID_NET:
		return !(features & BIT_ULL(VIRTIO_NET_F_CTRL_VQ)) &&
		       (features & BIT_ULL(VIRTIO_F_VERSION_1));
	}
	return false;
}

static int config_validate(const struct vduse_dev_config *config)
{
	if (memchr_inv(config->reserved, 0, sizeof(config->reserved)))
		return -EINVAL;
	if (!name_is_valid(config->name))
		return -EINVAL;
	if (!vduse_device_id_allowed(config->device_id) ||
	    !features_are_valid(config->device_id, config->features))
		return -EINVAL;
	if (!config->vq_num || config->vq_num > VDUSE_VQ_NUM_MAX)
		return -EINVAL;
	if (config->vq_align < VRING_USED_ALIGN_SIZE ||
	    config->vq_align > PAGE_SIZE || !is_power_of_2(config->vq_align))
		return -EINVAL;
	if (config->config_size > VDUSE_CONFIG_SIZE_MAX)
		return -EINVAL;

	if (config->device_id == VIRTIO_ID_NET && !capable(CAP_NET_ADMIN))
		return -EPERM;
	return 0;
}

static void vduse_dev_release(struct device *device)
{
	struct vduse_dev *dev = container_of(device, struct vduse_dev, dev);

	vduse_msgq_destroy(&dev->msgq);
	kvfree(dev->config);
	kvfree(dev->vqs);
	kfree(dev);
}

/* A device with its locks and lists, unknown to anybody. */
static struct vduse_dev *dev_alloc(const struct vduse_dev_config *config)
{
	struct vduse_dev *dev = kzalloc(sizeof(*dev), GFP_KERNEL_ACCOUNT);

	if (!dev)
		return NULL;

	device_initialize(&dev->dev);
	dev->dev.class = &vduse_class;
	dev->dev.release = vduse_dev_release;
	dev->dev.groups = vduse_dev_groups;
	dev_set_drvdata(&dev->dev, dev);

	dev->device_id = config->device_id;
	dev->vendor_id = config->vendor_id;
	dev->device_features = config->features;
	dev->vq_align = config->vq_align;
	dev->config_size = config->config_size;
	dev->bounce_size = VDUSE_BOUNCE_SIZE_DEFAULT;
	spin_lock_init(&dev->config_lock);
	spin_lock_init(&dev->irq_lock);
	spin_lock_init(&dev->state_lock);
	mutex_init(&dev->domain_lock);
	vduse_teardown_init(dev);
	vduse_msgq_init(&dev->msgq, NULL);
	dev->msgq.timeout = VDUSE_MSG_TIMEOUT_DEFAULT;
	return dev;
}

static void destroy_vqs(struct vduse_dev *dev)
{
	while (dev->vq_num)
		vduse_vq_destroy(dev->vqs[--dev->vq_num]);
}

static int create_vqs(struct vduse_dev *dev, u32 vq_num)
{
	int ret;

	dev->vqs = kvcalloc(vq_num, sizeof(*dev->vqs), GFP_KERNEL_ACCOUNT);
	if (!dev->vqs)
		return -ENOMEM;

	for (; dev->vq_num < vq_num; dev->vq_num++) {
		ret = vduse_vq_create(dev, dev->vq_num,
				      &dev->vqs[dev->vq_num]);
		if (!ret && fatal_signal_pending(current)) {
			dev->vq_num++;
			ret = -EINTR;
		}
		if (ret) {
			destroy_vqs(dev);
			return ret;
		}
		cond_resched();
	}
	return 0;
}

/* Make @dev known: sysfs, /dev, and last the table. */
static int dev_publish(struct vduse_dev *dev, u32 vq_num)
{
	int ret;

	ret = xa_alloc(&vduse_table, &dev->minor, NULL,
		       XA_LIMIT(VDUSE_CONTROL_MINOR + 1, VDUSE_MINORS - 1),
		       GFP_KERNEL);
	if (ret)
		return ret;

	dev->dev.devt = MKDEV(MAJOR(vduse_devt), dev->minor);
	ret = device_add(&dev->dev);
	if (ret)
		goto err_minor;
	ret = create_vqs(dev, vq_num);
	if (ret)
		goto err_device;

	__module_get(THIS_MODULE);
	xa_store(&vduse_table, dev->minor, dev, GFP_KERNEL);
	return 0;

err_device:
	device_del(&dev->dev);
err_minor:
	xa_erase(&vduse_table, dev->minor);
	return ret;
}

static int vduse_create_dev(const struct vduse_dev_config *config,
			    const void __user *config_data)
{
	struct vduse_dev *dev;
	int ret;

	/* The name of /dev/vduse/control is taken. */
	if (vduse_table_find(config->name) || !strcmp(config->name, "control"))
		return -EEXIST;

	dev = dev_alloc(config);
	if (!dev)
		return -ENOMEM;

	ret = dev_set_name(&dev->dev, "%s", config->name);
	if (ret)
		goto err_put;
	dev->msgq.name = vduse_dev_name(dev);

	dev->config = vmemdup_user(config_data, config->config_size);
	if (IS_ERR(dev->config)) {
		ret = PTR_ERR(dev->config);
		dev->config = NULL;
		goto err_put;
	}

	ret = dev_publish(dev, config->vq_num);
	if (ret)
		goto err_put;
	return 0;

err_put:
	put_device(&dev->dev);
	return ret;
}

static int vduse_destroy_dev(const char *name)
{
	struct vduse_dev *dev = vduse_table_find(name);
	bool busy;

	if (!dev)
		return -EINVAL;

	spin_lock(&dev->state_lock);
	busy = dev->state;
	if (!busy)
		set_bit(VDUSE_DYING, &dev->state);
	spin_unlock(&dev->state_lock);
	if (busy)
		return -EBUSY;

	xa_erase(&vduse_table, dev->minor);
	trace_vduse_state(vduse_dev_name(dev), dev->state, 0);
	vduse_dev_reset(dev);
	destroy_vqs(dev);
	device_del(&dev->dev);
	vduse_domain_put(dev->domain);
	dev->domain = NULL;
	put_device(&dev->dev);
	module_put(THIS_MODULE);
	return 0;
}

static long control_create_dev(void __user *argp)
{
	size_t size = offsetof(struct vduse_dev_config, config);
	struct vduse_dev_config config;
	int ret;

	if (copy_from_user(&config, argp, size))
		return -EFAULT;
	ret = config_validate(&config);
	if (ret)
		return ret;

	mutex_lock(&vduse_table_lock);
	ret = vduse_create_dev(&config, argp + size);
	mutex_unlock(&vduse_table_lock);
	return ret;
}

static long control_destroy_dev(void __user *argp)
{
	char name[VDUSE_NAME_MAX];
	int ret;

	if (copy_from_user(name, argp, sizeof(name)))
		return -EFAULT;
	if (!name_is_valid(name))
		return -EINVAL;

	mutex_lock(&vduse_table_lock);
	ret = vduse_destroy_dev(name);
	mutex_unlock(&vduse_table_lock);
	return ret;
}

static long control_set_api_version(struct vduse_control *control,
				    const u64 __user *argp)
{
	u64 version;

	if (get_user(version, argp))
		return -EFAULT;
	if (version > VDUSE_API_VERSION)
		return -EINVAL;
	WRITE_ONCE(control->api_version, version);
	return 0;
}

static long vduse_control_ioctl(struct file *file, unsigned int cmd,
				unsigned long arg)
{
	struct vduse_control *control = file->private_data;
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case VDUSE_GET_API_VERSION:
		return put_user(READ_ONCE(control->api_version),
				(u64 __user *)argp);
	case VDUSE_SET_API_VERSION:
		return control_set_api_version(control, argp);
	case VDUSE_CREATE_DEV:
		return control_create_dev(argp);
	case VDUSE_DESTROY_DEV:
		return control_destroy_dev(argp);
	}
	return -ENOTTY;
}

static int vduse_control_open(struct inode *inode, struct file *file)
{
	struct vduse_control *control = kmalloc(sizeof(*control), GFP_KERNEL);

	if (!control)
		return -ENOMEM;
	control->api_version = VDUSE_API_VERSION;
	file->private_data = control;
	return 0;
}

static int vduse_control_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

/* The layouts of these ioctls are the same for 32-bit callers. */
const struct file_operations vduse_control_fops = {
	.owner		= THIS_MODULE,
	.open		= vduse_control_open,
	.release	= vduse_control_release,
	.unlocked_ioctl	= vduse_control_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.llseek		= noop_llseek,
};
