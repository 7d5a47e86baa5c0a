// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: the storage, and the disk that is made of it.
 */
#include <inttypes.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/serve.h"
#include "transport/vduse_dev.h"

/*
 * With packed rings, running out of bounce memory must be impossible. A driver
 * that cannot map a request waits and tries again with split rings, but Linux
 * (virtqueue_add_packed(), -EIO) fails it with packed ones, and an I/O error is
 * what the user sees. So every ring entry gets its share of the memory, which
 * grows up to what the module allows, and no request takes more than half of
 * it; the other half is for headers, status bytes, indirect tables and
 * rounding. Below vhost_vdpa and with vhost-user there is no bounce memory.
 */
#define BOUNCE_SHARE	(256u << 10)

struct serve_bounce serve_plan_bounce(const struct serve_options *o)
{
	const uint64_t entries = (uint64_t)o->queues * o->queue_size;
	uint64_t size = min(entries * BOUNCE_SHARE, (uint64_t)VDUSE_BOUNCE_MAX);
	struct serve_bounce bounce = { 0 };

	if (!o->packed || o->bind == BIND_VHOST || o->transport != TRANSPORT_VDUSE)
		return bounce;
	size = max(size, (uint64_t)VDUSE_BOUNCE_DEFAULT);
	bounce.max_request = (uint32_t)min(size / entries, (uint64_t)BOUNCE_SHARE) / 2;
	if (size > VDUSE_BOUNCE_DEFAULT)
		bounce.size = (uint32_t)size;
	return bounce;
}

int serve_open_storage(struct serve *s, struct error *e)
{
	const struct backend_options options = {
		.read_only = s->options.read_only,
		.block_size = s->options.block_size,
		.queues = s->options.queues,
		.queue_depth = s->options.queue_size,
		.tunables = s->options.tunables.backend,
		.replay_log = s->options.replay_log,
		.prior_writes = s->recovery ? s->recovery->writes : NULL,
		.prior_writes_n = s->recovery ? s->recovery->num_writes : 0,
	};
	struct vblk_device_params params = {
		.num_queues = s->options.queues,
		.queue_size = s->options.queue_size,
		.packed = s->options.packed,
		.read_only = s->options.read_only,
		.serial = s->options.serial,
		.max_request = serve_plan_bounce(&s->options).max_request,
	};
	int err;

	err = backend_open(s->options.uri, &options, &s->backend, e);
	if (err)
		return err;
	params.info = &s->backend->info;
	params.block_size = s->backend->info.block_size;
	err = vblk_device_init(&s->disk, &params, e);
	if (err) {
		backend_close(s->backend);
		return err;
	}
	log_info("%s: %s, %" PRIu64 " bytes in blocks of %u", s->options.name,
		 s->backend->info.description, s->backend->info.size, s->disk.block_size);
	return 0;
}
