/* SPDX-License-Identifier: GPL-2.0-only */
/* Attributes below /sys/class/vduse/NAME, and the class itself. */
#ifndef _VDUSE_SYSFS_H
#define _VDUSE_SYSFS_H

#include <linux/device/class.h>
#include <linux/kobject.h>
#include <linux/sysfs.h>

/* Class of /dev/vduse/control and of every device. */
extern const struct class vduse_class;

/* msg_timeout and bounce_size of a device. */
extern const struct attribute_group *vduse_dev_groups[];

/* The folder vqN of a virtqueue; owns the memory of struct vduse_virtqueue. */
extern const struct kobj_type vduse_vq_ktype;
#endif
