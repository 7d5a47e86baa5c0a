/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vDPA Device in Userspace: the device object and what the files of the
 * module call in one another.
 *
 * Who holds a struct vduse_dev:
 *  - the device table, from VDUSE_CREATE_DEV until VDUSE_DESTROY_DEV;
 *  - the vDPA device on top of it, from dev_add until its last reference goes;
 *  - every open file of /dev/vduse/NAME.
 * The references are those of the embedded struct device.
 *
 * Locks, outermost first:
 *  vdpa_dev_lock (vDPA core)  held around dev_add and dev_del
 *  vdpa_device.cf_lock (core) held around set_status, reset, get/set_config
 *  vduse_dev.domain_lock      domain pointer and bounce_size
 *  vduse_table_lock           the table of devices, open against destroy
 *  vduse_virtqueue.irq_lock   held over the driver's callback
 *  vduse_dev.state_lock       who is attached, teardown
 *  vduse_dev.config_lock      contents of the configuration space
 *  vduse_msgq.lock, vduse_virtqueue.lock   leaves (an eventfd's lock below)
 *
 * vduse_table_lock is never held while a vDPA device is registered or
 * unregistered: a driver's probe and removal talk to the daemon, and wait.
 */
#ifndef _VDUSE_H
#define _VDUSE_H

#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/vdpa.h>
#include <linux/workqueue.h>
#include <uapi/linux/vduse.h>

#include "domain.h"
#include "message.h"
#include "virtqueue.h"

/* Bounce buffer of one device, bytes; a multiple of the page size. */
#define VDUSE_BOUNCE_SIZE_MIN		SZ_1M
#define VDUSE_BOUNCE_SIZE_MAX		SZ_1G
#define VDUSE_BOUNCE_SIZE_DEFAULT	SZ_64M

/* Highest IOVA: the largest bounce buffer plus 128 MiB for rings. */
#define VDUSE_IOVA_LAST			((u64)VDUSE_BOUNCE_SIZE_MAX + SZ_128M - 1)

/* Time an operation waits for the daemon's answer, seconds. */
#define VDUSE_MSG_TIMEOUT_DEFAULT	30

#define VDUSE_VQ_NUM_MAX		0xffffU
#define VDUSE_CONFIG_SIZE_MAX		PAGE_SIZE

/* Minor 0 is /dev/vduse/control. */
#define VDUSE_CONTROL_MINOR		0
#define VDUSE_MINORS			BIT(MINORBITS)

struct vduse_dev;

/**
 * struct vduse_vdpa - the vDPA device that drivers bind to
 * @vdpa: the object of the vDPA core; must be first (vdpa_alloc_device())
 * @dev: the VDUSE device below it; a reference is held
 */
struct vduse_vdpa {
	struct vdpa_device vdpa;
	struct vduse_dev *dev;
};

/**
 * enum vduse_attach - what is attached to a device, and what is going on
 * @VDUSE_DAEMON: a daemon has the character device open
 * @VDUSE_VDPA: a vDPA device exists on top
 * @VDUSE_ADDING: the vDPA core waits for us, probing a driver
 * @VDUSE_REMOVING: the vDPA core waits for us, removing the driver
 * @VDUSE_FAILING: requests are answered with an error by the module itself;
 *	final until the vDPA device is gone: no daemon may open the device
 * @VDUSE_DYING: VDUSE_DESTROY_DEV has chosen this device
 *
 * Bit numbers in vduse_dev.state, changed under vduse_dev.state_lock.
 */
enum vduse_attach {
	VDUSE_DAEMON,
	VDUSE_VDPA,
	VDUSE_ADDING,
	VDUSE_REMOVING,
	VDUSE_FAILING,
	VDUSE_DYING,
};

/**
 * struct vduse_dev - one device created through /dev/vduse/control
 * @dev: class device; its name is the VDUSE device's name
 * @minor: of /dev/vduse/NAME
 * @device_id: virtio device ID; fixed at creation, like the next four
 * @vendor_id: virtio vendor ID
 * @device_features: virtio features offered
 * @vq_num: number of virtqueues
 * @vq_align: alignment of the rings, bytes
 * @vqs: the virtqueues, @vq_num pointers
 * @config_size: size of @config, bytes; fixed at creation
 * @config: configuration space, contents under @config_lock
 * @generation: of the configuration space, under @config_lock
 * @config_lock: see above
 * @driver_features: features the driver accepted; written by the driver's
 *	side under cf_lock, read by ioctls without
 * @irq_lock: guards @config_cb and is held over its call; BH
 * @config_cb: the driver's configuration change callback
 * @msgq: control messages, and the device status the daemon agreed to
 * @domain: IOVA space, created by the first dev_add, kept until the end
 * @bounce_size: bytes; may change until @domain exists
 * @domain_lock: guards the two above
 * @state: bits of enum vduse_attach, changed under @state_lock
 * @state_lock: see above
 * @watch: while the core waits for us: fails requests nobody will answer
 * @revoked: the daemon's access to the rings was cut off; only for @watch
 * @progress: how far the device had come when @watch looked last
 * @progress_since: jiffies when it was seen to come further
 * @deserted: a daemon has closed the device since
 */
struct vduse_dev {
	struct device dev;
	int minor;

	u32 device_id;
	u32 vendor_id;
	u64 device_features;
	u32 vq_num;
	u32 vq_align;
	struct vduse_virtqueue **vqs;

	u32 config_size;
	void *config;
	u32 generation;
	spinlock_t config_lock; /* contents of config, generation */

	u64 driver_features;

	spinlock_t irq_lock; /* config_cb */
	struct vdpa_callback config_cb;

	struct vduse_msgq msgq;

	struct vduse_domain *domain;
	unsigned int bounce_size;
	struct mutex domain_lock; /* domain, bounce_size */

	unsigned long state;
	spinlock_t state_lock; /* state */

	struct delayed_work watch;
	bool revoked;
	u64 progress;
	unsigned long progress_since;
	bool deserted;
};

static inline struct vduse_dev *vdpa_to_vduse(struct vdpa_device *vdpa)
{
	return container_of(vdpa, struct vduse_vdpa, vdpa)->dev;
}

static inline struct vduse_dev *to_vduse_dev(struct device *dev)
{
	return container_of(dev, struct vduse_dev, dev);
}

static inline const char *vduse_dev_name(const struct vduse_dev *dev)
{
	return dev_name(&dev->dev);
}

static inline bool vduse_dev_packed(const struct vduse_dev *dev)
{
	return READ_ONCE(dev->driver_features) & BIT_ULL(VIRTIO_F_RING_PACKED);
}

/* The module. */

/* First device number of the module, that of /dev/vduse/control. */
extern dev_t vduse_devt;

/* Work of virtqueues and teardown: may be needed to write memory back. */
extern struct workqueue_struct *vduse_wq;

/* The table of devices. */

/* Guards the device table, and open against VDUSE_DESTROY_DEV. */
extern struct mutex vduse_table_lock;

/* File operations of /dev/vduse/control. */
extern const struct file_operations vduse_control_fops;

/**
 * vduse_table_find() - look a device up by name
 * @name: the name
 *
 * Context: vduse_table_lock held.
 * Return: the device, valid while the lock is held; NULL.
 */
struct vduse_dev *vduse_table_find(const char *name);

/**
 * vduse_table_find_minor() - look a device up by its minor number
 * @minor: the minor number
 *
 * Context: vduse_table_lock held.
 * Return: the device, valid while the lock is held; NULL.
 */
struct vduse_dev *vduse_table_find_minor(int minor);

/**
 * vduse_table_exit() - free the empty table
 *
 * Context: module exit.
 */
void vduse_table_exit(void);

/**
 * vduse_device_id_allowed() - virtio device IDs that may be created
 * @id: the ID
 *
 * Return: true if VDUSE_CREATE_DEV takes it.
 */
bool vduse_device_id_allowed(u32 id);

/* The daemon's side. */

/* File operations of /dev/vduse/NAME. */
extern const struct file_operations vduse_dev_fops;

/**
 * vduse_dev_ioctl() - an ioctl of /dev/vduse/NAME with the native layout
 * @file: the open device
 * @cmd: which
 * @arg: user address
 *
 * Context: process, may sleep.
 * Return: depends on @cmd; a negative errno on failure.
 */
long vduse_dev_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/**
 * vduse_dev_find_region() - VDUSE_IOTLB_GET_FD without its user memory
 * @dev: the device
 * @entry: the range to look for; overwritten by the region that was found
 * @ret_file: its file; the caller puts it
 *
 * Context: process, may sleep.
 * Return: 0, or -EINVAL: no such region.
 */
int vduse_dev_find_region(struct vduse_dev *dev,
			  struct vduse_iotlb_entry *entry,
			  struct file **ret_file);

/**
 * vduse_dev_install_region() - give the daemon a descriptor for a region
 * @entry: the region
 * @file: its file
 *
 * Context: process, may sleep.
 * Return: the descriptor or a negative errno.
 */
int vduse_dev_install_region(const struct vduse_iotlb_entry *entry,
			     struct file *file);

/**
 * vduse_dev_vq() - the virtqueue that a daemon means
 * @dev: the device
 * @index: what the daemon wrote
 *
 * Context: any.
 * Return: the virtqueue; NULL: @index is out of range.
 */
struct vduse_virtqueue *vduse_dev_vq(struct vduse_dev *dev, u32 index);

#ifdef CONFIG_COMPAT
/**
 * vduse_dev_compat_ioctl() - vduse_dev_ioctl() for a 32-bit daemon
 * @file: the open device
 * @cmd: which
 * @arg: user address
 *
 * Context: process, may sleep.
 * Return: as vduse_dev_ioctl().
 */
long vduse_dev_compat_ioctl(struct file *file, unsigned int cmd,
			    unsigned long arg);
#else
#define vduse_dev_compat_ioctl	NULL
#endif

/* The driver's side. */

/* What the vDPA core calls in a device. */
extern const struct vdpa_config_ops vduse_vdpa_ops;

/**
 * vduse_dev_reset() - forget what the driver configured
 * @dev: the device
 *
 * Afterwards none of the driver's callbacks runs or will be called. Does not
 * tell the daemon.
 *
 * Context: process, sleeps.
 */
void vduse_dev_reset(struct vduse_dev *dev);

/* Netlink. */

/**
 * vduse_mgmt_init() - register the vDPA management device "vduse"
 *
 * Context: module initialisation.
 * Return: 0 or a negative errno.
 */
int vduse_mgmt_init(void);

/**
 * vduse_mgmt_exit() - unregister it
 *
 * Context: module exit.
 */
void vduse_mgmt_exit(void);

/* Adding and removing; what to do when nobody serves requests. */

/**
 * vduse_teardown_init() - prepare a new device
 * @dev: the device
 */
void vduse_teardown_init(struct vduse_dev *dev);

/**
 * vduse_teardown_adding() - a driver is about to probe, with vdpa_dev_lock held
 * @dev: the device
 *
 * Context: process.
 */
void vduse_teardown_adding(struct vduse_dev *dev);

/**
 * vduse_teardown_added() - the probe is over
 * @dev: the device
 *
 * Context: process, sleeps.
 */
void vduse_teardown_added(struct vduse_dev *dev);

/**
 * vduse_teardown_begin() - the driver is about to be removed
 * @dev: the device
 *
 * Context: process.
 */
void vduse_teardown_begin(struct vduse_dev *dev);

/**
 * vduse_teardown_end() - the driver has gone
 * @dev: the device, with a reference of the caller
 *
 * Context: process, sleeps.
 */
void vduse_teardown_end(struct vduse_dev *dev);

/**
 * vduse_teardown_daemon_gone() - the daemon has closed the device
 * @dev: the device, with VDUSE_DAEMON cleared already
 *
 * Context: process.
 */
void vduse_teardown_daemon_gone(struct vduse_dev *dev);

/**
 * vduse_teardown_poke() - there may be more requests to fail
 * @dev: the device
 *
 * Context: any.
 */
void vduse_teardown_poke(struct vduse_dev *dev);
#endif
