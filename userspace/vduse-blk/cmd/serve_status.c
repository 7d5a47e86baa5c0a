// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: the status document.
 */
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdio.h>

#include "cmd/json_text.h"
#include "cmd/serve.h"

static const char *const state_names[] = {
	[SERVE_STARTING] = "starting",
	[SERVE_ATTACHING] = "attaching",
	[SERVE_SERVING] = "serving",
	[SERVE_DETACHING] = "detaching",
	[SERVE_CLOSING] = "closing",
};

static json_t *describe_queue(const struct serve *s, unsigned int index)
{
	struct vblk_queue_stats stats;

	queue_thread_stats(transport_queue(s->transport, index), &stats);
	return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:b}",
			 "index", (int)index,
			 "reads", (json_int_t)stats.read_ops,
			 "writes", (json_int_t)stats.write_ops,
			 "flushes", (json_int_t)stats.flush_ops,
			 "discards", (json_int_t)stats.discard_ops,
			 "write_zeroes", (json_int_t)stats.write_zeroes_ops,
			 "others", (json_int_t)stats.other_ops,
			 "read_bytes", (json_int_t)stats.read_bytes,
			 "write_bytes", (json_int_t)stats.write_bytes,
			 "errors", (json_int_t)stats.errors,
			 "kicks", (json_int_t)stats.kicks,
			 "interrupts", (json_int_t)stats.notifies,
			 "in_flight", (int)stats.in_flight,
			 "broken", (int)stats.broken);
}

/* "up", "connecting" and so on; with several connections the one that is worst off. */
static const char *server_state(const struct serve *s)
{
	struct backend_link_stats stats;
	const char *state = "local";
	unsigned int i;

	for (i = 0; !backend_link_stats(s->backend, i, &stats); i++) {
		if (!i || stats.waiting)
			state = stats.state;
	}
	return state;
}

/* As the driver was promised? */
static const char *storage_state(const struct serve *s)
{
	return s->shrunk ? "shrunk" : s->lost_flags ? "changed" : "ok";
}

const char *serve_state_name(enum serve_state state)
{
	return state_names[state];
}

json_t *serve_describe(const struct serve *s)
{
	const struct backend_info *info = &s->backend->info;
	struct transport_status status;
	char features[32];
	json_t *queues, *document;
	unsigned int i;

	transport_status(s->transport, &status);
	snprintf(features, sizeof(features), "%#" PRIx64, status.features);
	queues = json_array();
	for (i = 0; i < s->options.queues; i++)
		json_array_append_new(queues, describe_queue(s, i));

	document = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:o, s:s, s:I, s:i, s:s, s:b, s:i, s:i, s:s, s:o, s:b, s:b, s:i, s:s, s:s, s:i, s:s, s:o, s:o}",
			     "name", s->options.name,
			     "pid", (int)getpid(),
			     "state", state_names[s->state],
			     "path", s->path,
			     "transport", transport_kind_name(s->options.transport),
			     "bind", bind_target_name(s->options.bind),
			     "uri", json_text(s->options.uri),
			     "server", server_state(s),
			     "size", (json_int_t)(s->disk.capacity << VBLK_SECTOR_SHIFT),
			     "block_size", (int)s->disk.block_size,
			     "storage", storage_state(s),
			     "read_only", (int)s->disk.read_only,
			     "queues", (int)s->options.queues,
			     "queue_size", (int)s->options.queue_size,
			     "serial", s->options.serial,
			     "backend", json_text(info->description),
			     "driver_ready", (int)status.running,
			     "packed", (int)!!(status.running &&
					       status.features & (1ULL << VIRTIO_F_RING_PACKED)),
			     "driver_status", (int)status.driver_status,
			     "features", features,
			     "upgrade", serve_upgrade_phase(s),
			     "upgrades", (int)s->upgrades,
			     "io_uring", queue_thread_loop_rung(transport_queue(s->transport, 0)),
			     "options", tunables_describe(&s->options.tunables,
							  &s->backend->options.tunables),
			     "virtqueues", queues);
	return document;
}
