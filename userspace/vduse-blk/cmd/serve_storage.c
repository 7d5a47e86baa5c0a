// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: the storage, and the disk that is made of it.
 *
 * The storage may change while it is used. What the driver was promised is in
 * struct vblk_device. More of it is announced. Less cannot be: requests fail that
 * cannot be carried out, and --on-shrink says whether others still may write.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>

#include <jansson.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/serve.h"
#include "transport/vduse_dev.h"

/* For a server that does not answer. */
#define RESIZE_MS	3000

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

/* What the driver was promised and the storage cannot do any more. */
#define PROMISES (BACKEND_F_FLUSH | BACKEND_F_DISCARD | BACKEND_F_WRITE_ZEROES)

static uint64_t disk_bytes(const struct serve *s)
{
	return s->disk.capacity << VBLK_SECTOR_SHIFT;
}

/* The storage has been asked, or could not be: what is known now may be old then. */
static void answer_resize(void *opaque, int error)
{
	struct error e = ERROR_INIT;
	struct control_request *r;
	struct serve *s = opaque;

	loop_timer_cancel(s->loop, &s->resize_timer);
	while ((r = s->resizing)) {
		s->resizing = r->next;
		if (error) {
			err_set_errno(&e, -error, "cannot ask the storage for its size");
			control_refuse(r, &e);
			continue;
		}
		control_answer(r, json_pack("{s:I, s:I}", "size", (json_int_t)disk_bytes(s),
					    "storage_size",
					    (json_int_t)s->backend->info.size));
	}
}

static void resize_timer_expired(struct loop_timer *timer)
{
	answer_resize(container_of(timer, struct serve, resize_timer), -ETIMEDOUT);
}

void serve_refuse_resizes(struct serve *s)
{
	answer_resize(s, -ECANCELED);
}

void serve_resize(struct serve *s, struct control_request *r)
{
	r->next = s->resizing;
	s->resizing = r;
	s->resize_timer.expired = resize_timer_expired;
	loop_timer_arm(s->loop, &s->resize_timer, RESIZE_MS);
	backend_refresh(s->backend);
}

static void grow(struct serve *s, uint64_t size)
{
	const uint64_t before = disk_bytes(s);
	struct error e = ERROR_INIT;

	if (vblk_device_set_capacity(&s->disk, size))
		return;
	log_info("%s: the storage has grown from %" PRIu64 " to %" PRIu64 " bytes",
		 s->options.name, before, disk_bytes(s));
	/* Standing by, the device is another's; its driver hears when it is taken over. */
	if (s->transport && !(s->standby && !s->gone) && transport_config_changed(s->transport, &e))
		log_error("%s", e.text);
}

void serve_apply_policy(struct serve *s)
{
	const bool less = s->shrunk || s->lost_flags;

	if (s->options.read_only)
		return;
	vblk_device_set_read_only(&s->disk, less &&
				  s->options.tunables.on_shrink == ON_SHRINK_READ_ONLY);
}

/* Compared with what the driver knows; the storage may also come back to that. */
static void compare(struct serve *s, const struct backend_info *now)
{
	const bool less = s->shrunk || s->lost_flags;

	s->shrunk = now->size < disk_bytes(s);
	s->lost_flags = s->disk.backend_flags & PROMISES & ~now->flags;
	if (!s->options.read_only)
		s->lost_flags |= now->flags & BACKEND_F_READ_ONLY;
	if (s->shrunk)
		log_error("%s: the storage has shrunk from %" PRIu64 " to %" PRIu64 " bytes",
			  s->options.name, disk_bytes(s), now->size);
	if (s->lost_flags)
		log_error("%s: the storage does not offer any more:%s%s%s%s", s->options.name,
			  s->lost_flags & BACKEND_F_READ_ONLY ? " writing" : "",
			  s->lost_flags & BACKEND_F_FLUSH ? " flush" : "",
			  s->lost_flags & BACKEND_F_DISCARD ? " discard" : "",
			  s->lost_flags & BACKEND_F_WRITE_ZEROES ? " write-zeroes" : "");
	if (less && !s->shrunk && !s->lost_flags)
		log_info("%s: the storage is again what it was", s->options.name);
	serve_apply_policy(s);
}

static void storage_changed(void *opaque, const struct backend_info *now,
			    enum backend_change what)
{
	struct serve *s = opaque;

	/* It is for the successor to find out. */
	if (serve_gone(s))
		return;
	switch (what) {
	case BACKEND_GROWN:
	case BACKEND_SHRUNK:
	case BACKEND_FLAGS_CHANGED:
		grow(s, now->size);
		compare(s, now);
		break;
	default:
		break; /* the backend logs it, the statistics show it */
	}
}

/*
 * The device of a killed daemon is there, whether its server is or not: its user waits,
 * and can be told to wait no longer. What the driver was promised is in the log, but not
 * how storage without flush makes writes stable.
 */
static bool assume_storage(const struct serve *s, struct backend_assumed *ret_assumed)
{
	static const struct {
		unsigned int feature;
		uint32_t flag;
	} map[] = {
		{ VIRTIO_BLK_F_FLUSH, BACKEND_F_FLUSH },
		{ VIRTIO_BLK_F_DISCARD, BACKEND_F_DISCARD },
		{ VIRTIO_BLK_F_WRITE_ZEROES, BACKEND_F_WRITE_ZEROES },
	};
	const struct vduse_log_facts *facts;
	struct backend_assumed assumed = {
		.flags = s->options.read_only ? BACKEND_F_READ_ONLY : 0,
	};

	if (!s->recovery || s->standby)
		return false;
	facts = vduse_log_facts(s->recovery->log);
	if (!(facts->offered & (1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_RO)))
		return false;
	assumed.size = facts->capacity << VBLK_SECTOR_SHIFT;
	assumed.block_size = facts->block_size;
	assumed.journal = vduse_log_journal(s->recovery->log, &assumed.journal_bytes);
	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (facts->offered & 1ull << map[i].feature)
			assumed.flags |= map[i].flag;
	*ret_assumed = assumed;
	return true;
}

int serve_open_storage(struct serve *s, struct error *e)
{
	struct backend_assumed assumed;
	const struct backend_options options = {
		.read_only = s->options.read_only,
		.block_size = s->options.block_size,
		.queues = s->options.queues,
		.queue_depth = s->options.queue_size,
		.tunables = s->options.tunables.backend,
		.replay_log = s->options.replay_log,
		.events = {
			.main = s->loop,
			.changed = storage_changed,
			.refreshed = answer_resize,
			.opaque = s,
		},
		.assumed = assume_storage(s, &assumed) ? &assumed : NULL,
		.descriptor = s->offered ? &s->offer.offer.fds[HANDOVER_FD_STORAGE] : NULL,
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
	if (s->recovery && !s->standby)
		vduse_recovery_prior_writes(s->recovery, s->backend);
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
