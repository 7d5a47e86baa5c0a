// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/vduse/NAME: the daemon's side of a device.
 *
 * One daemon has a device open at a time (VDUSE_DAEMON); a file holds a
 * reference of the device. Every ioctl validates what it is given before it
 * changes anything, and works on a device that nobody has added to the vDPA
 * bus, on one in use, and on one that is being removed.
 *
 * Closing takes back what the daemon lent: its memory as bounce memory, and
 * its kick eventfds. Control messages go back to the queue (message.c).
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "trace.h"
#include "vduse.h"

struct vduse_virtqueue *vduse_dev_vq(struct vduse_dev *dev, u32 index)
{
	if (index >= dev->vq_num)
		return NULL;
	return dev->vqs[array_index_nospec(index, dev->vq_num)];
}

int vduse_dev_find_region(struct vduse_dev *dev,
			  struct vduse_iotlb_entry *entry,
			  struct file **ret_file)
{
	int ret = -EINVAL;

	if (entry->start > entry->last)
		return -EINVAL;

	mutex_lock(&dev->domain_lock);
	if (dev->domain)
		ret = vduse_domain_get_fd(dev->domain, entry->start,
					  entry->last, entry, ret_file);
	mutex_unlock(&dev->domain_lock);
	return ret;
}

int vduse_dev_install_region(const struct vduse_iotlb_entry *entry,
			     struct file *file)
{
	switch (entry->perm) {
	case VDUSE_ACCESS_RO:
		return receive_fd(file, NULL, O_RDONLY);
	case VDUSE_ACCESS_WO:
		return receive_fd(file, NULL, O_WRONLY);
	case VDUSE_ACCESS_RW:
		return receive_fd(file, NULL, O_RDWR);
	}
	return -EINVAL;
}

static long dev_iotlb_get_fd(struct vduse_dev *dev, void __user *argp)
{
	struct vduse_iotlb_entry entry;
	struct file *file;
	int ret;

	if (copy_from_user(&entry, argp, sizeof(entry)))
		return -EFAULT;
	ret = vduse_dev_find_region(dev, &entry, &file);
	if (ret)
		return ret;

	if (copy_to_user(argp, &entry, sizeof(entry)))
		ret = -EFAULT;
	else
		ret = vduse_dev_install_region(&entry, file);
	fput(file);
	return ret;
}

static long dev_iotlb_get_info(struct vduse_dev *dev, void __user *argp)
{
	struct vduse_iova_info info;
	int ret = -EINVAL;

	if (copy_from_user(&info, argp, sizeof(info)))
		return -EFAULT;
	if (info.start > info.last ||
	    memchr_inv(info.reserved, 0, sizeof(info.reserved)))
		return -EINVAL;

	mutex_lock(&dev->domain_lock);
	if (dev->domain)
		ret = vduse_domain_get_info(dev->domain, &info);
	mutex_unlock(&dev->domain_lock);
	if (ret)
		return ret;

	return copy_to_user(argp, &info, sizeof(info)) ? -EFAULT : 0;
}

static long dev_umem(struct vduse_dev *dev, unsigned int cmd,
		     const void __user *argp)
{
	struct vduse_iova_umem umem;
	int ret = -EINVAL;

	if (copy_from_user(&umem, argp, sizeof(umem)))
		return -EFAULT;
	if (memchr_inv(umem.reserved, 0, sizeof(umem.reserved)))
		return -EINVAL;

	mutex_lock(&dev->domain_lock);
	if (!dev->domain)
		ret = cmd == VDUSE_IOTLB_REG_UMEM ? -EINVAL : -ENOENT;
	else if (cmd == VDUSE_IOTLB_REG_UMEM)
		ret = vduse_domain_reg_umem(dev->domain, umem.iova,
					    umem.uaddr, umem.size);
	else
		ret = vduse_domain_dereg_umem(dev->domain, umem.iova,
					      umem.size);
	mutex_unlock(&dev->domain_lock);
	return ret;
}

static long dev_set_config(struct vduse_dev *dev, const void __user *argp)
{
	size_t size = offsetof(struct vduse_config_data, buffer);
	struct vduse_config_data config;
	void *data;

	if (copy_from_user(&config, argp, size))
		return -EFAULT;
	if (!config.length || config.offset > dev->config_size ||
	    config.length > dev->config_size - config.offset)
		return -EINVAL;

	data = memdup_user(argp + size, config.length);
	if (IS_ERR(data))
		return PTR_ERR(data);

	spin_lock(&dev->config_lock);
	memcpy(dev->config + config.offset, data, config.length);
	dev->generation++;
	spin_unlock(&dev->config_lock);
	kfree(data);
	return 0;
}

static long dev_inject_config_irq(struct vduse_dev *dev)
{
	if (!(vduse_msgq_status(&dev->msgq) & VIRTIO_CONFIG_S_DRIVER_OK))
		return -EINVAL;

	spin_lock_bh(&dev->irq_lock);
	if (dev->config_cb.callback)
		dev->config_cb.callback(dev->config_cb.private);
	spin_unlock_bh(&dev->irq_lock);
	return 0;
}

/* Drivers rely on the size: it may change only while there is none. */
static long dev_vq_setup(struct vduse_dev *dev, const void __user *argp)
{
	struct vduse_vq_config config;
	struct vduse_virtqueue *vq;
	int ret = 0;

	if (copy_from_user(&config, argp, sizeof(config)))
		return -EFAULT;
	vq = vduse_dev_vq(dev, config.index);
	if (!vq || memchr_inv(config.reserved, 0, sizeof(config.reserved)))
		return -EINVAL;

	spin_lock(&dev->state_lock);
	if (!test_bit(VDUSE_VDPA, &dev->state))
		vq->max_size = config.max_size;
	else if (vq->max_size != config.max_size)
		ret = -EBUSY;
	spin_unlock(&dev->state_lock);
	return ret;
}

static long dev_vq_get_info(struct vduse_dev *dev, void __user *argp)
{
	struct vduse_virtqueue *vq;
	struct vduse_vq_info info;

	if (copy_from_user(&info, argp, sizeof(info)))
		return -EFAULT;
	vq = vduse_dev_vq(dev, info.index);
	if (!vq)
		return -EINVAL;

	vduse_vq_get_info(vq, &info);
	return copy_to_user(argp, &info, sizeof(info)) ? -EFAULT : 0;
}

static long dev_vq_setup_kickfd(struct vduse_dev *dev, const void __user *argp)
{
	struct vduse_vq_eventfd eventfd;
	struct vduse_virtqueue *vq;

	if (copy_from_user(&eventfd, argp, sizeof(eventfd)))
		return -EFAULT;
	vq = vduse_dev_vq(dev, eventfd.index);
	if (!vq)
		return -EINVAL;
	return vduse_vq_set_kickfd(vq, eventfd.fd);
}

static long dev_vq_inject_irq(struct vduse_dev *dev, const u32 __user *argp)
{
	struct vduse_virtqueue *vq;
	u32 index;

	if (get_user(index, argp))
		return -EFAULT;
	vq = vduse_dev_vq(dev, index);
	if (!vq)
		return -EINVAL;
	return vduse_vq_inject_irq(vq);
}

long vduse_dev_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vduse_dev *dev = file->private_data;
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case VDUSE_VQ_INJECT_IRQ:
		return dev_vq_inject_irq(dev, argp);
	case VDUSE_IOTLB_GET_FD:
		return dev_iotlb_get_fd(dev, argp);
	case VDUSE_IOTLB_GET_INFO:
		return dev_iotlb_get_info(dev, argp);
	case VDUSE_IOTLB_REG_UMEM:
	case VDUSE_IOTLB_DEREG_UMEM:
		return dev_umem(dev, cmd, argp);
	case VDUSE_DEV_GET_FEATURES:
		return put_user(READ_ONCE(dev->driver_features),
				(u64 __user *)argp);
	case VDUSE_DEV_SET_CONFIG:
		return dev_set_config(dev, argp);
	case VDUSE_DEV_INJECT_CONFIG_IRQ:
		return dev_inject_config_irq(dev);
	case VDUSE_VQ_SETUP:
		return dev_vq_setup(dev, argp);
	case VDUSE_VQ_GET_INFO:
		return dev_vq_get_info(dev, argp);
	case VDUSE_VQ_SETUP_KICKFD:
		return dev_vq_setup_kickfd(dev, argp);
	}
	return -ENOTTY;
}

static ssize_t vduse_dev_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct file *file = iocb->ki_filp;
	struct vduse_dev *dev = file->private_data;
	bool nonblock = (file->f_flags & O_NONBLOCK) ||
			(iocb->ki_flags & IOCB_NOWAIT);

	return vduse_msgq_read(&dev->msgq, to, nonblock);
}

static ssize_t vduse_dev_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct vduse_dev *dev = iocb->ki_filp->private_data;

	return vduse_msgq_write(&dev->msgq, from);
}

/* vduse_teardown_begin() sets the bit before it wakes those who poll. */
static __poll_t vduse_dev_poll(struct file *file, poll_table *wait)
{
	struct vduse_dev *dev = file->private_data;
	__poll_t mask = vduse_msgq_poll(&dev->msgq, file, wait);

	if (test_bit(VDUSE_REMOVING, &dev->state))
		mask |= EPOLLPRI;
	return mask;
}

static int vduse_dev_open(struct inode *inode, struct file *file)
{
	unsigned long taken = BIT(VDUSE_DAEMON) | BIT(VDUSE_FAILING) |
			      BIT(VDUSE_DYING);
	struct vduse_dev *dev;
	int ret = -ENODEV;

	mutex_lock(&vduse_table_lock);
	dev = vduse_table_find_minor(iminor(inode));
	if (dev) {
		spin_lock(&dev->state_lock);
		ret = dev->state & taken ? -EBUSY : 0;
		if (!ret)
			set_bit(VDUSE_DAEMON, &dev->state);
		spin_unlock(&dev->state_lock);
	}
	if (!ret)
		get_device(&dev->dev);
	mutex_unlock(&vduse_table_lock);
	if (ret)
		return ret;

	vduse_msgq_attach(&dev->msgq);
	trace_vduse_state(vduse_dev_name(dev), dev->state,
			  vduse_msgq_status(&dev->msgq));
	file->private_data = dev;
	return 0;
}

static int vduse_dev_close(struct inode *inode, struct file *file)
{
	struct vduse_dev *dev = file->private_data;
	unsigned int i;

	mutex_lock(&dev->domain_lock);
	if (dev->domain)
		vduse_domain_release_umem(dev->domain);
	mutex_unlock(&dev->domain_lock);

	for (i = 0; i < dev->vq_num; i++)
		vduse_vq_drop_kickfd(dev->vqs[i]);
	vduse_msgq_detach(&dev->msgq);

	spin_lock(&dev->state_lock);
	clear_bit(VDUSE_DAEMON, &dev->state);
	spin_unlock(&dev->state_lock);
	vduse_teardown_daemon_gone(dev);

	put_device(&dev->dev);
	return 0;
}

const struct file_operations vduse_dev_fops = {
	.owner		= THIS_MODULE,
	.open		= vduse_dev_open,
	.release	= vduse_dev_close,
	.read_iter	= vduse_dev_read_iter,
	.write_iter	= vduse_dev_write_iter,
	.poll		= vduse_dev_poll,
	.unlocked_ioctl	= vduse_dev_ioctl,
	.compat_ioctl	= vduse_dev_compat_ioctl,
	.llseek		= noop_llseek,
};
