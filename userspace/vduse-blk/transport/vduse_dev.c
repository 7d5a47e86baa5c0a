// SPDX-License-Identifier: MIT
/*
 * The two character devices of VDUSE.
 *
 * A device outlives the process that created it: it is there until it is
 * destroyed through the control device, which the kernel refuses while somebody
 * has it open or while it is attached to the vDPA bus. Creating therefore copes
 * with what a killed predecessor left.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/vduse_dev.h"

#define CONTROL_PATH	"/dev/vduse/control"
/* devtmpfs makes the node at once; another /dev waits for udev. */
#define NODE_WAIT_MS	3000
#define NODE_POLL_MS	10
#define VQ_ALIGN	4096

int vduse_control_open(struct error *e)
{
	auto_close int fd = open(CONTROL_PATH, O_RDWR | O_CLOEXEC);
	uint64_t version = VDUSE_API_VERSION;

	if (fd < 0 && (errno == ENOENT || errno == ENXIO || errno == ENODEV))
		return err_set(e, ENOENT,
			       "no %s: is the module vduse loaded, and is /dev the host's?",
			       CONTROL_PATH);
	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return err_set(e, errno, "may not open %s: creating a device needs root",
			       CONTROL_PATH);
	if (fd < 0)
		return err_set_errno(e, errno, "open %s", CONTROL_PATH);
	if (ioctl(fd, VDUSE_SET_API_VERSION, &version))
		return err_set_errno(e, errno, "the kernel's VDUSE does not speak API version %u",
				     VDUSE_API_VERSION);
	return take_fd(&fd);
}

static int create(int control_fd, const struct vduse_dev_params *params)
{
	auto_free struct vduse_dev_config *config = NULL;

	config = calloc(1, sizeof(*config) + params->config_size);
	if (!config)
		return -ENOMEM;
	memcpy(config->name, params->name, strlen(params->name) + 1);
	config->vendor_id = params->vendor_id;
	config->device_id = params->device_id;
	config->features = params->features;
	config->vq_num = params->nqueues;
	config->vq_align = VQ_ALIGN;
	config->config_size = params->config_size;
	memcpy(config->config, params->config, params->config_size);

	return ioctl(control_fd, VDUSE_CREATE_DEV, config) ? -errno : 0;
}

static int create_or_replace(int control_fd, const struct vduse_dev_params *params,
			     struct error *e)
{
	int err = create(control_fd, params);

	if (err != -EEXIST)
		return err ? err_set_errno(e, -err, "create VDUSE device \"%s\"", params->name) : 0;

	err = vduse_dev_destroy(control_fd, params->name, NULL);
	if (err == -EBUSY)
		return err_set(e, EBUSY,
			       "a VDUSE device \"%s\" exists and is in use; if its process is dead, remove it with: vdpa dev del %s",
			       params->name, params->name);
	if (err)
		return err_set_errno(e, -err, "replace VDUSE device \"%s\"", params->name);
	log_warning("replaced VDUSE device \"%s\", which nobody was using", params->name);

	err = create(control_fd, params);
	return err ? err_set_errno(e, -err, "create VDUSE device \"%s\"", params->name) : 0;
}

bool vduse_dev_exists(const char *name)
{
	char path[sizeof("/sys/class/vduse/") + VDUSE_NAME_MAX];

	snprintf(path, sizeof(path), "/sys/class/vduse/%s", name);
	return !access(path, F_OK);
}

/* On the bus it has the same name, and the VDUSE device for a parent. */
bool vduse_dev_attached(const char *name)
{
	char path[sizeof("/sys/class/vduse//") + 2 * VDUSE_NAME_MAX];

	snprintf(path, sizeof(path), "/sys/class/vduse/%s/%s", name, name);
	return !access(path, F_OK);
}

/* @again: an errno besides ENOENT that goes away. */
static int open_node(const char *name, int again, struct error *e)
{
	const struct timespec pause = { .tv_nsec = NODE_POLL_MS * 1000000L };
	char path[sizeof("/dev/vduse/") + VDUSE_NAME_MAX];
	unsigned int waited = 0;
	int fd;

	snprintf(path, sizeof(path), "/dev/vduse/%s", name);
	for (;;) {
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		if ((errno != ENOENT && errno != again) || waited >= NODE_WAIT_MS)
			return err_set_errno(e, errno, "open %s", path);
		nanosleep(&pause, NULL);
		waited += NODE_POLL_MS;
	}
}

int vduse_dev_open(const char *name, int *ret_fd, struct error *e)
{
	int fd = open_node(name, EBUSY, e);

	if (fd == -EBUSY)
		return err_set(e, EBUSY,
			       "another process has the VDUSE device \"%s\" open", name);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

static int set_bounce_size(const char *name, uint32_t bytes, struct error *e)
{
	char path[sizeof("/sys/class/vduse//bounce_size") + VDUSE_NAME_MAX];
	auto_close int fd = -1;

	snprintf(path, sizeof(path), "/sys/class/vduse/%s/bounce_size", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || dprintf(fd, "%u", bytes) < 0)
		return err_set_errno(e, errno, "set %s to %u", path, bytes);
	return 0;
}

static int setup_queues(int fd, const struct vduse_dev_params *params, struct error *e)
{
	uint32_t i;

	for (i = 0; i < params->nqueues; i++) {
		struct vduse_vq_config vq = { .index = i, .max_size = params->queue_size };

		if (ioctl(fd, VDUSE_VQ_SETUP, &vq))
			return err_set_errno(e, errno, "set up virtqueue %u of \"%s\"", i,
					     params->name);
	}
	return 0;
}

int vduse_dev_create(int control_fd, const struct vduse_dev_params *params, int *ret_fd,
		     struct error *e)
{
	auto_close int fd = -1;
	int err;

	if (strlen(params->name) >= VDUSE_NAME_MAX)
		return err_set(e, ENAMETOOLONG, "device name longer than %d bytes",
			       VDUSE_NAME_MAX - 1);

	err = create_or_replace(control_fd, params, e);
	if (err)
		return err;
	if (params->bounce_size)
		err = set_bounce_size(params->name, params->bounce_size, e);
	if (!err) {
		fd = open_node(params->name, 0, e);
		err = min(fd, 0);
	}
	if (!err)
		err = setup_queues(fd, params, e);
	if (err) {
		if (fd >= 0)
			close(take_fd(&fd));
		vduse_dev_destroy(control_fd, params->name, NULL);
		return err;
	}
	*ret_fd = take_fd(&fd);
	return 0;
}

int vduse_dev_destroy(int control_fd, const char *name, struct error *e)
{
	char buf[VDUSE_NAME_MAX] = "";

	snprintf(buf, sizeof(buf), "%s", name);
	if (ioctl(control_fd, VDUSE_DESTROY_DEV, buf))
		return err_set_errno(e, errno, "destroy VDUSE device \"%s\"", name);
	return 0;
}

int vduse_dev_features(int fd, uint64_t *ret_features)
{
	uint64_t features;

	if (ioctl(fd, VDUSE_DEV_GET_FEATURES, &features))
		return -errno;
	*ret_features = features;
	return 0;
}

int vduse_dev_set_config(int fd, const void *config, uint32_t size)
{
	auto_free struct vduse_config_data *data = calloc(1, sizeof(*data) + size);

	if (!data)
		return -ENOMEM;
	data->length = size;
	memcpy(data->buffer, config, size);
	return ioctl(fd, VDUSE_DEV_SET_CONFIG, data) ? -errno : 0;
}

int vduse_dev_inject_config_irq(int fd)
{
	return ioctl(fd, VDUSE_DEV_INJECT_CONFIG_IRQ) ? -errno : 0;
}

int vduse_dev_vq_info(int fd, uint32_t index, struct vduse_vq_info *ret_info)
{
	struct vduse_vq_info info = { .index = index };

	if (ioctl(fd, VDUSE_VQ_GET_INFO, &info))
		return -errno;
	*ret_info = info;
	return 0;
}

int vduse_dev_vq_kickfd(int fd, uint32_t index, int eventfd)
{
	struct vduse_vq_eventfd arg = { .index = index, .fd = eventfd };

	return ioctl(fd, VDUSE_VQ_SETUP_KICKFD, &arg) ? -errno : 0;
}

int vduse_dev_inject_irq(int fd, uint32_t index)
{
	return ioctl(fd, VDUSE_VQ_INJECT_IRQ, &index) ? -errno : 0;
}

int vduse_dev_iotlb_get(int fd, uint64_t iova, struct vduse_iotlb_entry *ret_entry)
{
	struct vduse_iotlb_entry entry = { .start = iova, .last = iova };
	int map_fd = ioctl(fd, VDUSE_IOTLB_GET_FD, &entry);

	if (map_fd < 0)
		return -errno;
	*ret_entry = entry;
	return map_fd;
}
