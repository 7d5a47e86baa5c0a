// SPDX-License-Identifier: MIT
/*
 * From a URI to an open backend.
 *
 * Each backend says what it found; what a virtio-blk device can make of it is
 * decided here, once for all of them: logical block size, size, read-only.
 */
#include "backend/backend.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MIN_BLOCK_SIZE		   512
#define DEFAULT_QUEUE_DEPTH	   128
#define MAX_QUEUE_DEPTH		   4096
#define DEFAULT_CONNECT_TIMEOUT_MS 10000
#define DEFAULT_REQUEST_MS	   30000
#define DEFAULT_KEEPALIVE_MS	   15000
#define DEFAULT_RECONNECT_MIN_MS   100
#define DEFAULT_RECONNECT_MAX_MS   5000
#define DEFAULT_FENCE_MS	   30000
#define DEFAULT_FENCE_CLOSED_MS	   2000

static const struct backend_ops *const all_ops[] = {
	&nbd_backend_ops,
	&nbd_unix_backend_ops,
	&file_backend_ops,
	&null_backend_ops,
};

static const char *const op_names[_BACKEND_OP_MAX] = {
	[BACKEND_READ] = "read",
	[BACKEND_WRITE] = "write",
	[BACKEND_FLUSH] = "flush",
	[BACKEND_DISCARD] = "discard",
	[BACKEND_WRITE_ZEROES] = "write-zeroes",
};

static const char *const loss_names[_BACKEND_LOSS_MAX] = {
	[BACKEND_LOSS_REFUSED] = "refused",
	[BACKEND_LOSS_HANDSHAKE] = "export-refused",
	[BACKEND_LOSS_CLOSED] = "closed",
	[BACKEND_LOSS_SHUTDOWN] = "shutdown",
	[BACKEND_LOSS_NETWORK] = "network",
	[BACKEND_LOSS_TIMEOUT] = "timeout",
	[BACKEND_LOSS_REQUEST] = "request-timeout",
	[BACKEND_LOSS_FAILED] = "failed-by-user",
	[BACKEND_LOSS_BAD_HANDSHAKE] = "bad-handshake",
	[BACKEND_LOSS_BAD_MAGIC] = "bad-magic",
	[BACKEND_LOSS_BAD_HEADER] = "bad-header",
	[BACKEND_LOSS_BAD_COOKIE] = "bad-cookie",
	[BACKEND_LOSS_BAD_CHUNK] = "bad-chunk",
	[BACKEND_LOSS_BAD_LENGTH] = "bad-length",
};

const char *backend_loss_name(enum backend_loss loss)
{
	return loss >= 0 && loss < _BACKEND_LOSS_MAX ? loss_names[loss] : "unknown";
}

const char *backend_op_name(enum backend_op op)
{
	return op >= 0 && op < _BACKEND_OP_MAX ? op_names[op] : "unknown";
}

static const struct backend_ops *find_ops(const char *scheme)
{
	for (size_t i = 0; i < ARRAY_SIZE(all_ops); i++)
		if (!strcmp(all_ops[i]->scheme, scheme))
			return all_ops[i];
	return NULL;
}

static void default_to(uint32_t *field, uint32_t value)
{
	if (!*field)
		*field = value;
}

static void complete_tunables(struct backend_tunables *t, uint32_t connect_timeout_ms)
{
	default_to(&t->connect_ms, connect_timeout_ms);
	default_to(&t->handshake_ms, connect_timeout_ms);
	default_to(&t->request_ms, DEFAULT_REQUEST_MS);
	default_to(&t->keepalive_ms, DEFAULT_KEEPALIVE_MS);
	default_to(&t->idle_ms, BACKEND_NEVER);
	default_to(&t->io_timeout_ms, BACKEND_NEVER);
	default_to(&t->reconnect_min_ms, DEFAULT_RECONNECT_MIN_MS);
	default_to(&t->reconnect_max_ms, DEFAULT_RECONNECT_MAX_MS);
	default_to(&t->fence_ms, DEFAULT_FENCE_MS);
	default_to(&t->fence_closed_ms, DEFAULT_FENCE_CLOSED_MS);
	t->reconnect_max_ms = max(t->reconnect_max_ms, t->reconnect_min_ms);
}

static int check_options(struct backend_options *o, struct error *e)
{
	if (o->block_size && (!is_power_of_2(o->block_size) || o->block_size < MIN_BLOCK_SIZE ||
			      o->block_size > BACKEND_MAX_BLOCK_SIZE))
		return err_set(e, EINVAL, "block size %u is not a power of two in %d...%d",
			       o->block_size, MIN_BLOCK_SIZE, BACKEND_MAX_BLOCK_SIZE);
	if (!o->queues)
		o->queues = 1;
	if (!o->queue_depth)
		o->queue_depth = DEFAULT_QUEUE_DEPTH;
	o->queue_depth = min(o->queue_depth, (uint32_t)MAX_QUEUE_DEPTH);
	if (!o->connect_timeout_ms)
		o->connect_timeout_ms = DEFAULT_CONNECT_TIMEOUT_MS;
	complete_tunables(&o->tunables, o->connect_timeout_ms);
	return 0;
}

static int choose_block_size(struct backend_info *info, const struct backend_options *o,
			     struct error *e)
{
	uint32_t smallest = max(info->min_block, (uint32_t)MIN_BLOCK_SIZE);

	if (smallest > BACKEND_MAX_BLOCK_SIZE)
		return err_set(e, EINVAL,
			       "the storage needs blocks of %u bytes, a virtio disk has %d at most",
			       smallest, BACKEND_MAX_BLOCK_SIZE);
	info->block_size = o->block_size ? o->block_size : smallest;
	if (info->block_size < smallest)
		return err_set(e, EINVAL, "block size %u is smaller than the storage's, %u",
			       info->block_size, smallest);
	if (!info->size)
		return err_set(e, EINVAL, "the size is zero");
	if (info->size % info->block_size)
		return err_set(e, EINVAL,
			       "the size, %" PRIu64
			       " bytes, is not a multiple of the block size, %u",
			       info->size, info->block_size);
	if (!is_power_of_2(info->preferred_block) || info->preferred_block < info->block_size)
		info->preferred_block = max(info->block_size, 4096u);
	return 0;
}

static int apply_read_only(struct backend_info *info, const struct backend_options *o,
			   struct error *e)
{
	if ((info->flags & BACKEND_F_READ_ONLY) && !o->read_only)
		return err_set(e, EROFS, "it is read-only (use --read-only)");
	if (o->read_only) {
		info->flags |= BACKEND_F_READ_ONLY;
		info->flags &= ~(BACKEND_F_DISCARD | BACKEND_F_WRITE_ZEROES | BACKEND_F_FLUSH |
				 BACKEND_F_FUA);
	}
	return 0;
}

int backend_open(const char *uri_text, const struct backend_options *options,
		 struct backend **ret_backend, struct error *e)
{
	struct backend_options o = *options;
	const struct backend_ops *ops;
	struct backend *backend;
	struct uri uri;
	int ret;

	ret = check_options(&o, e);
	if (ret < 0)
		return ret;
	ret = uri_parse(uri_text, &uri, e);
	if (ret < 0)
		return ret;

	ops = find_ops(uri.scheme);
	if (!ops) {
		ret = err_set(e, EINVAL,
			      "URI: unknown scheme '%s' (nbd, nbd+unix, file and null exist)",
			      uri.scheme);
		goto out_uri;
	}
	ret = ops->open(&uri, &o, &backend, e);
	if (ret < 0)
		goto out_uri;

	ret = choose_block_size(&backend->info, &o, e);
	if (!ret)
		ret = apply_read_only(&backend->info, &o, e);
	if (ret < 0) {
		err_prefix(e, "cannot use '%s'", uri_text);
		backend_close(backend);
		goto out_uri;
	}
	backend->options = o;
	backend->options.descriptor = NULL;
	backend->options.assumed = NULL;
	*ret_backend = backend;

out_uri:
	uri_release(&uri);
	return ret;
}

void backend_close(struct backend *backend)
{
	if (backend)
		backend->ops->close(backend);
}

size_t backend_journal_bytes(const struct backend *backend)
{
	return backend->ops->journal_bytes ? backend->ops->journal_bytes(backend) : 0;
}

void backend_use_journal(struct backend *backend, void *memory, size_t bytes, bool inherited)
{
	if (backend->ops->use_journal)
		backend->ops->use_journal(backend, memory, bytes, inherited);
}

int backend_lend_journal(struct backend *backend, bool lent)
{
	return backend->ops->lend_journal ? backend->ops->lend_journal(backend, lent) : 0;
}

bool backend_owes_flush(struct backend *backend)
{
	return backend->ops->owes_flush ? backend->ops->owes_flush(backend) : true;
}

int backend_queue_create(struct backend *backend, struct loop *loop, unsigned int index,
			 struct backend_queue **ret_queue, struct error *e)
{
	return backend->ops->queue_create(backend, loop, index, ret_queue, e);
}

void backend_queue_destroy(struct backend_queue *queue)
{
	if (queue)
		queue->backend->ops->queue_destroy(queue);
}

void backend_set_tunables(struct backend *backend, const struct backend_tunables *tunables)
{
	backend->options.tunables = *tunables;
	complete_tunables(&backend->options.tunables, backend->options.connect_timeout_ms);
	if (backend->ops->set_tunables)
		backend->ops->set_tunables(backend, &backend->options.tunables);
}

void backend_fail(struct backend *backend)
{
	if (backend->ops->fail)
		backend->ops->fail(backend);
}

void backend_refresh(struct backend *backend)
{
	if (backend->refreshing)
		return;
	backend->refreshing = true;
	if (backend->ops->refresh)
		backend->ops->refresh(backend);
	else
		backend_refreshed(backend, 0); /* what cannot change is known */
}

void backend_refreshed(struct backend *backend, int error)
{
	const struct backend_events *events = &backend->options.events;

	backend->refreshing = false;
	if (events->refreshed)
		events->refreshed(events->opaque, error);
}

void backend_prior_write(struct backend *backend, uint64_t offset, uint64_t length)
{
	if (backend->ops->prior_write)
		backend->ops->prior_write(backend, offset, length);
}

int backend_link_stats(struct backend *backend, unsigned int index,
		       struct backend_link_stats *ret_stats)
{
	return backend->ops->link_stats ? backend->ops->link_stats(backend, index, ret_stats) :
					  -ENOENT;
}
