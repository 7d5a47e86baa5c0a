/* SPDX-License-Identifier: MIT */
/*
 * What sysfs says of a device on the vDPA bus, and how it gets its bus driver.
 *
 * Everything here may sleep and belongs on the thread that attaches, not on one
 * that serves the device: binding a driver waits for the device's answers.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDPA_SYSFS_H
#define VDUSE_BLK_TRANSPORT_VDPA_SYSFS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* The bus drivers of vDPA. */
#define VDPA_DRIVER_VIRTIO	"virtio_vdpa"
#define VDPA_DRIVER_VHOST	"vhost_vdpa"

/**
 * vdpa_load_driver() - load the modules that a bus driver needs
 * @driver:	VDPA_DRIVER_VIRTIO or VDPA_DRIVER_VHOST
 *
 * Best effort: without modprobe, or without the right to use it, it does
 * nothing, and vdpa_bind() says so if the driver turns out to be missing.
 */
void vdpa_load_driver(const char *driver);

/**
 * vdpa_attached() - is a device of this name on the vDPA bus?
 * @name: device name
 *
 * Return: true if it is.
 */
bool vdpa_attached(const char *name);

/**
 * vdpa_bind() - make sure that a device has the right bus driver
 * @name:	device on the vDPA bus
 * @driver:	driver it should have
 * @e:		error text
 *
 * Needs write permission in sysfs if another driver has it now.
 *
 * Return: 0 or -errno.
 */
int vdpa_bind(const char *name, const char *driver, struct error *e);

/**
 * vdpa_wait_path() - wait for the device that the bus driver makes
 * @name:	device on the vDPA bus
 * @driver:	its driver
 * @wait_ms:	how long to wait at most
 * @ret_path:	"/dev/vdX" or "/dev/vhost-vdpa-N"; written only on success
 * @size:	size of @ret_path
 * @e:		error text
 *
 * Return: 0 or -errno; -ETIMEDOUT when it did not come.
 */
int vdpa_wait_path(const char *name, const char *driver, unsigned int wait_ms, char *ret_path,
		   size_t size, struct error *e);

#endif
