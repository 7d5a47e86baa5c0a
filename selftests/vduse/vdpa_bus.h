/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The vDPA bus as an administrator sees it: netlink to create and delete the
 * vDPA device of a VDUSE device, sysfs to choose its driver, and where that
 * driver put its device node.
 */
#ifndef VDUSE_TEST_VDPA_BUS_H
#define VDUSE_TEST_VDPA_BUS_H

#include <stddef.h>

/**
 * vdpa_dev_add() - VDPA_CMD_DEV_NEW, then bind a driver
 * @name: VDUSE device
 * @driver: "virtio_vdpa", "vhost_vdpa", or NULL to leave it without one
 *
 * Both drivers probe synchronously and talk to the daemon, so something has to
 * answer control messages meanwhile.
 *
 * Return: 0 or -errno.
 */
int vdpa_dev_add(const char *name, const char *driver);

/* VDPA_CMD_DEV_NEW alone: no driver is bound. 0 or -errno. */
int vdpa_dev_new(const char *name);

/* VDPA_CMD_DEV_DEL. 0 or -errno. */
int vdpa_dev_del(const char *name);

/* Bind and unbind through sysfs. 0 or -errno. */
int vdpa_bind(const char *name, const char *driver);
int vdpa_unbind(const char *name, const char *driver);

/* Does /sys/bus/vdpa/devices/NAME exist? */
int vdpa_exists(const char *name);

/* Opens the /dev/vhost-vdpa-N of @name. Return: descriptor or -errno. */
int vdpa_vhost_open(const char *name);

/**
 * vdpa_blk_path() - find the disk of a device bound to virtio_vdpa
 * @name: VDUSE device
 * @ret_path: receives "/dev/vdX"
 * @size: room in @ret_path
 * @ms: how long to wait for it to appear with its capacity
 *
 * Return: 0 or -ENOENT.
 */
int vdpa_blk_path(const char *name, char *ret_path, size_t size,
		  unsigned int ms);

#endif
