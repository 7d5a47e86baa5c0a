/* SPDX-License-Identifier: MIT */
/*
 * The part of vDPA's generic netlink family that puts a VDUSE device on the
 * vDPA bus and takes it off again.
 *
 * Both requests run the bus driver's probe or removal inside the system call,
 * which waits for the device's own answers: call them from a thread that does
 * not serve the device.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDPA_NETLINK_H
#define VDUSE_BLK_TRANSPORT_VDPA_NETLINK_H

#include <stddef.h>
#include <stdint.h>

#include <linux/netlink.h>

#include "base/error.h"

/**
 * vdpa_dev_add() - attach a VDUSE device to the vDPA bus
 * @name:	device name
 * @e:		error text; tells a missing capability, another network
 *		namespace and a missing module apart
 *
 * Sleeps until a bus driver, if there is one, has probed the device.
 *
 * Return: 0 or -errno.
 */
int vdpa_dev_add(const char *name, struct error *e);

/**
 * vdpa_dev_del() - detach a device from the vDPA bus
 * @name:	device name
 * @e:		error text
 *
 * Sleeps until the bus driver has let it go.
 *
 * Return: 0 or -errno; -ENODEV when no such device is attached.
 */
int vdpa_dev_del(const char *name, struct error *e);

/**
 * struct vdpa_dev_info - what the kernel says of an attached device
 * @name:		device name
 * @mgmtdev:		management device that made it ("vduse")
 * @device_id:		virtio device ID
 * @vendor_id:		virtio vendor ID
 * @max_vqs:		number of virtqueues
 * @max_vq_size:	longest ring
 */
struct vdpa_dev_info {
	char name[256];
	char mgmtdev[64];
	uint32_t device_id;
	uint32_t vendor_id;
	uint32_t max_vqs;
	uint16_t max_vq_size;
};

/**
 * vdpa_dev_get() - ask about one device
 * @name:	device name
 * @ret_info:	written only on success
 * @e:		error text
 *
 * Return: 0 or -errno; -ENODEV when no such device is attached.
 */
int vdpa_dev_get(const char *name, struct vdpa_dev_info *ret_info, struct error *e);

/**
 * vdpa_parse_dev() - take a VDPA_CMD_DEV_NEW message apart
 * @attrs:	the attributes, after the generic netlink header
 * @len:	their length in bytes
 * @ret_info:	written only on success
 *
 * Unknown attributes are skipped; a name is required.
 *
 * Return: 0 or -EBADMSG.
 */
int vdpa_parse_dev(const void *attrs, size_t len, struct vdpa_dev_info *ret_info);

/**
 * vdpa_parse_ack() - take a netlink acknowledgement apart
 * @nlh:	an NLMSG_ERROR message
 * @len:	bytes received of it
 * @text:	where the kernel's own words go, empty if there are none
 * @size:	size of @text
 *
 * Return: the errno in it, 0 or negative; -EBADMSG when it is malformed.
 */
int vdpa_parse_ack(const struct nlmsghdr *nlh, size_t len, char *text, size_t size);

#endif
