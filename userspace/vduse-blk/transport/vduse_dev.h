/* SPDX-License-Identifier: MIT */
/*
 * The two character devices of VDUSE: /dev/vduse/control, which creates and
 * destroys devices, and /dev/vduse/NAME, which the process behind the device
 * holds open. Thin: one function per ioctl, errors with a text that says what
 * to do about them.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDUSE_DEV_H
#define VDUSE_BLK_TRANSPORT_VDUSE_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/vduse.h>

#include "base/error.h"

/* Of bounce memory: what the module starts with, and the most it takes. */
#define VDUSE_BOUNCE_DEFAULT	(64u << 20)
#define VDUSE_BOUNCE_MAX	(1u << 30)

/**
 * struct vduse_dev_params - what a device is created with
 * @name:		device name, a single path component
 * @device_id:		virtio device ID
 * @vendor_id:		virtio vendor ID
 * @features:		virtio features offered
 * @nqueues:		number of virtqueues
 * @queue_size:		largest ring size of each virtqueue
 * @bounce_size:	bytes of bounce memory that virtio_vdpa may use; 0: the
 *			module's default. It is allocated as it is used
 * @config:		configuration space, copied
 * @config_size:	its length in bytes
 */
struct vduse_dev_params {
	const char *name;
	uint32_t device_id;
	uint32_t vendor_id;
	uint64_t features;
	uint32_t nqueues;
	uint16_t queue_size;
	uint32_t bounce_size;
	const void *config;
	uint32_t config_size;
};

/**
 * vduse_control_open() - open /dev/vduse/control and agree on the API version
 * @e: error text
 *
 * May sleep. Needs write permission on the device node.
 *
 * Return: a file descriptor or -errno.
 */
int vduse_control_open(struct error *e);

/**
 * vduse_dev_create() - create a device and set up its virtqueues
 * @control_fd:	from vduse_control_open()
 * @params:	what to create
 * @ret_fd:	/dev/vduse/NAME, opened non-blocking; written only on success
 * @e:		error text
 *
 * A device of that name which a dead process left behind is replaced, unless
 * it is still attached to the vDPA bus. The caller has made sure that no other
 * vduse-blk uses the name. May sleep.
 *
 * Return: 0 or -errno.
 */
int vduse_dev_create(int control_fd, const struct vduse_dev_params *params,
		     int *ret_fd, struct error *e);

/**
 * vduse_dev_exists() - does the kernel know a device of that name?
 * @name:	device name
 *
 * Return: true if so.
 */
bool vduse_dev_exists(const char *name);

/**
 * vduse_dev_attached() - is a VDUSE device of that name on the vDPA bus?
 * @name:	device name
 *
 * Return: true if so.
 */
bool vduse_dev_attached(const char *name);

/**
 * vduse_dev_open() - open a device that exists
 * @name:	device name
 * @ret_fd:	/dev/vduse/NAME, opened non-blocking; written only on success
 * @e:		error text
 *
 * Sleeps for a moment while another process has it: one that was killed may not
 * be gone yet.
 *
 * Return: 0 or -errno; -EBUSY when another process keeps it open.
 */
int vduse_dev_open(const char *name, int *ret_fd, struct error *e);

/**
 * vduse_dev_destroy() - destroy a device
 * @control_fd:	from vduse_control_open()
 * @name:	device name; nobody may have it open, nor may it be attached
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int vduse_dev_destroy(int control_fd, const char *name, struct error *e);

/**
 * vduse_dev_features() - features that the driver accepted
 * @fd:			the device
 * @ret_features:	written only on success
 *
 * Return: 0 or -errno.
 */
int vduse_dev_features(int fd, uint64_t *ret_features);

/**
 * vduse_dev_set_config() - replace the configuration space
 * @fd:		the device
 * @config:	the whole configuration space
 * @size:	its length in bytes, as at creation
 *
 * Return: 0 or -errno.
 */
int vduse_dev_set_config(int fd, const void *config, uint32_t size);

/**
 * vduse_dev_inject_config_irq() - tell the driver that the configuration changed
 * @fd: the device
 *
 * Return: 0 or -errno; -EINVAL while there is no driver, or while it has not
 * got an answer to its DRIVER_OK.
 */
int vduse_dev_inject_config_irq(int fd);

/**
 * vduse_dev_vq_info() - what the driver set up for a virtqueue
 * @fd:		the device
 * @index:	virtqueue index
 * @ret_info:	written only on success
 *
 * Return: 0 or -errno.
 */
int vduse_dev_vq_info(int fd, uint32_t index, struct vduse_vq_info *ret_info);

/**
 * vduse_dev_vq_kickfd() - choose the eventfd that the driver's kicks signal
 * @fd:		the device
 * @index:	virtqueue index
 * @eventfd:	the eventfd; a kick that came before is signalled at once
 *
 * A reset of the device takes it away again.
 *
 * Return: 0 or -errno.
 */
int vduse_dev_vq_kickfd(int fd, uint32_t index, int eventfd);

/**
 * vduse_dev_inject_irq() - interrupt the driver of a virtqueue
 * @fd:		the device
 * @index:	virtqueue index
 *
 * Return: 0 or -errno; -EINVAL while the driver has not got an answer to its
 * DRIVER_OK.
 */
int vduse_dev_inject_irq(int fd, uint32_t index);

/**
 * vduse_dev_iotlb_get() - find the memory behind an I/O virtual address
 * @fd:		the device
 * @iova:	any address of the region
 * @ret_entry:	region, permission and offset; written only on success
 *
 * Return: a file descriptor to mmap, which the caller closes, or -errno;
 * -EINVAL when nothing is mapped there.
 */
int vduse_dev_iotlb_get(int fd, uint64_t iova, struct vduse_iotlb_entry *ret_entry);

#endif
