// SPDX-License-Identifier: GPL-2.0-only
/*
 * 32-bit daemons on a 64-bit kernel.
 *
 * Where the 32-bit ABI aligns 64-bit integers to four bytes (i386), two
 * structures have less padding at their end, and as the size is part of an
 * ioctl's number, the ioctls have other numbers: IOTLB_GET_FD (28 bytes, not
 * 32) and VQ_GET_INFO (44, not 48). Elsewhere (arm) sizes and numbers are the
 * same, and these functions do what the native ones do. All other structures,
 * and the messages, have one layout. Nothing here takes a lock.
 */
#include <linux/compat.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/uaccess.h>

#include "vduse.h"

/* Layout of struct vduse_iotlb_entry for 32-bit programs. */
struct vduse_iotlb_entry32 {
	compat_u64 offset;
	compat_u64 start;
	compat_u64 last;
	u8 perm;
};

/* Layout of struct vduse_vq_info for 32-bit programs. */
struct vduse_vq_info32 {
	u32 index;
	u32 num;
	compat_u64 desc_addr;
	compat_u64 driver_addr;
	compat_u64 device_addr;
	union {
		struct vduse_vq_state_split split;
		struct vduse_vq_state_packed packed;
	};
	u8 ready;
};

#define VDUSE_IOTLB_GET_FD32	_IOWR(VDUSE_BASE, 0x10, \
				      struct vduse_iotlb_entry32)
#define VDUSE_VQ_GET_INFO32	_IOWR(VDUSE_BASE, 0x15, \
				      struct vduse_vq_info32)

static long iotlb_get_fd32(struct vduse_dev *dev,
			   struct vduse_iotlb_entry32 __user *argp)
{
	struct vduse_iotlb_entry32 entry32;
	struct vduse_iotlb_entry entry;
	struct file *file;
	int ret;

	if (copy_from_user(&entry32, argp, sizeof(entry32)))
		return -EFAULT;
	entry.start = entry32.start;
	entry.last = entry32.last;
	ret = vduse_dev_find_region(dev, &entry, &file);
	if (ret)
		return ret;

	entry32.offset = entry.offset;
	entry32.start = entry.start;
	entry32.last = entry.last;
	entry32.perm = entry.perm;
	if (copy_to_user(argp, &entry32, sizeof(entry32)))
		ret = -EFAULT;
	else
		ret = vduse_dev_install_region(&entry, file);
	fput(file);
	return ret;
}

static long vq_get_info32(struct vduse_dev *dev,
			  struct vduse_vq_info32 __user *argp)
{
	struct vduse_vq_info32 info32;
	struct vduse_virtqueue *vq;
	struct vduse_vq_info info = {};

	if (copy_from_user(&info32, argp, sizeof(info32)))
		return -EFAULT;
	vq = vduse_dev_vq(dev, info32.index);
	if (!vq)
		return -EINVAL;

	vduse_vq_get_info(vq, &info);
	info32.num = info.num;
	info32.desc_addr = info.desc_addr;
	info32.driver_addr = info.driver_addr;
	info32.device_addr = info.device_addr;
	info32.packed = info.packed;
	info32.ready = info.ready;
	return copy_to_user(argp, &info32, sizeof(info32)) ? -EFAULT : 0;
}

long vduse_dev_compat_ioctl(struct file *file, unsigned int cmd,
			    unsigned long arg)
{
	struct vduse_dev *dev = file->private_data;

	switch (cmd) {
	case VDUSE_IOTLB_GET_FD32:
		return iotlb_get_fd32(dev, compat_ptr(arg));
	case VDUSE_VQ_GET_INFO32:
		return vq_get_info32(dev, compat_ptr(arg));
	}
	return vduse_dev_ioctl(file, cmd, (unsigned long)compat_ptr(arg));
}
