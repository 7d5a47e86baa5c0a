// SPDX-License-Identifier: MIT
/*
 * Finding the device of a killed daemon.
 *
 * A device is gone on with only while it is attached to the vDPA bus: before that
 * nobody uses it, so it is made anew. The lock of the runtime folder says that no
 * other vduse-blk has it; that of the kernel, one opener a device, that nobody
 * else does. A process that was killed a moment ago may have lost its lock and
 * not yet its descriptor, hence the wait.
 *
 * What a predecessor may still be writing is read here, from log and rings, with
 * mappings of its own. Where that makes no sense, for instance because the driver
 * has been reset since, it is the whole disk: what a dead process sent to a server
 * does not depend on what became of the driver.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/sigbus.h"
#include "transport/vdpa_sysfs.h"
#include "transport/vduse_dev.h"
#include "transport/vduse_memory.h"
#include "transport/vduse_recovery.h"
#include "virtio/inflight.h"
#include "virtio/virtio_blk.h"

static int map_fault(void *opaque, uint64_t iova, uint32_t perm, struct iotlb_region *ret)
{
	(void)perm;
	return vduse_memory_map(*(const int *)opaque, iova, ret);
}

static void map_release(void *opaque, const struct iotlb_region *region)
{
	(void)opaque;
	vduse_memory_unmap(region);
}

static const struct iotlb_ops map_ops = { .fault = map_fault, .release = map_release };

int vduse_recovery_matches(const struct vduse_log_queue *was, int fd, unsigned int index)
{
	struct vduse_vq_info info;
	int err = vduse_dev_vq_info(fd, index, &info);

	if (err)
		return err;
	if (!info.ready || !was->ready)
		return info.ready == was->ready;
	return info.num == was->num && info.desc_addr == was->desc &&
	       info.driver_addr == was->driver && info.device_addr == was->device;
}

static int read_queue(const struct vduse_recovery *r, unsigned int index, struct backend *backend,
		      struct error *e)
{
	const struct vduse_log_facts *facts = vduse_log_facts(r->log);
	const struct vduse_log_queue *was = &facts->queues[index];
	struct vblk_queue_start_params params = {
		.features = facts->features,
		.num = was->num,
		.desc = was->desc,
		.driver = was->driver,
		.device = was->device,
		.state = VIRTQUEUE_STATE_INIT,
	};
	int fd = r->fd, matches;
	size_t bytes;
	void *region;
	int err;

	matches = vduse_recovery_matches(was, fd, index);
	if (matches < 0)
		return err_set_errno(e, -matches, "read its set-up");
	if (!matches)
		return err_set(e, ESTALE, "the driver has set it up anew");
	if (!was->ready)
		return 0;
	region = vduse_log_region(r->log, index, &bytes);
	err = inflight_create(region, bytes, facts->queue_size, &params.inflight, e);
	if (err)
		return err;
	err = iotlb_create(&map_ops, &fd, &params.iotlb);
	if (err) {
		err = err_set_errno(e, -err, "address space");
		goto destroy_log;
	}
	err = vblk_prior_writes(&params, backend, e);
	iotlb_destroy(params.iotlb);
destroy_log:
	inflight_destroy(params.inflight);
	return err;
}

void vduse_recovery_prior_writes(const struct vduse_recovery *r, struct backend *backend)
{
	const struct vduse_log_facts *facts = vduse_log_facts(r->log);
	struct error e = ERROR_INIT;
	unsigned int i;
	int err = 0;

	if (!(facts->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	for (i = 0; i < facts->num_queues && !err; i++)
		err = read_queue(r, i, backend, &e);
	if (!err)
		return;
	log_warning("%s: virtqueue %u: %s: new writes to the whole disk wait for what the old process may have sent",
		    facts->name, i - 1, e.text);
	backend_prior_write(backend, 0, facts->capacity << VBLK_SECTOR_SHIFT);
}

int vduse_recovery_advice(struct error *e, const char *name)
{
	const struct error why = *e;

	return err_set(e, why.errnum, "cannot go on with \"%s\", whose process was killed: %s; to give up its requests in flight, remove it with: vdpa dev del %s",
		       name, why.text, name);
}

static int open_log(const char *name, int dir_fd, struct vduse_recovery *r, struct error *e)
{
	int err = vduse_log_open(dir_fd, &r->log, e);

	if (err)
		return err;
	if (strcmp(vduse_log_facts(r->log)->name, name))
		return err_set(e, EINVAL, "the log of requests in flight is of a device \"%s\"",
			       vduse_log_facts(r->log)->name);
	return 0;
}

/* Its log, but not yet its device. */
static int begin(const char *name, int dir_fd, struct vduse_recovery **ret_recovery,
		 struct error *e)
{
	struct vduse_recovery *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return err_set(e, ENOMEM, "out of memory");
	r->fd = -1;
	err = sigbus_guard_install(e);
	if (!err)
		err = open_log(name, dir_fd, r, e);
	if (err) {
		vduse_recovery_free(r);
		return err;
	}
	*ret_recovery = r;
	return 0;
}

int vduse_recovery_find(const char *name, int dir_fd, struct vduse_recovery **ret_recovery,
			struct error *e)
{
	struct vduse_recovery *r;
	int err;

	if (!vduse_dev_attached(name)) {
		*ret_recovery = NULL;
		return 0;
	}
	err = begin(name, dir_fd, &r, e);
	if (err)
		return vduse_recovery_advice(e, name);
	err = vduse_dev_open(name, &r->fd, e);
	if (err) {
		vduse_recovery_free(r);
		return err;
	}
	log_info("%s: going on where a killed process left off", name);
	*ret_recovery = r;
	return 0;
}

int vduse_recovery_inherit(const char *name, int dir_fd, int fd,
			   struct vduse_recovery **ret_recovery, struct error *e)
{
	int err = begin(name, dir_fd, ret_recovery, e);

	if (!err)
		(*ret_recovery)->fd = fd;
	return err;
}

void vduse_recovery_free(struct vduse_recovery *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	vduse_log_close(r->log);
	free(r);
}
