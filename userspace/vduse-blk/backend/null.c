// SPDX-License-Identifier: MIT
/*
 * null:SIZE - a device without storage: writes vanish, reads are zeroes.
 *
 * It shows what the rest of the data path costs. Requests are completed from a
 * hook, at the end of the batch that brought them, because done() must not be
 * called from inside submit().
 */
#include "backend/backend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/parse.h"
#include "loop/iov.h"

struct null_queue {
	struct backend_queue common;
	struct loop_hook hook;
	struct backend_request *first;
	struct backend_request **last;
};

static int null_open(const struct uri *uri, const struct backend_options *options,
		     struct backend **ret_backend, struct error *e)
{
	static const char *const no_params[] = { NULL };
	struct backend *backend;
	uint64_t size;
	int ret;

	(void)options;
	if (uri->has_authority)
		return err_set(e, EINVAL, "URI: null has no host; write null:SIZE");
	ret = uri_only_params(uri, no_params, e);
	if (ret < 0)
		return ret;
	ret = parse_size(uri->path, &size, e);
	if (ret < 0)
		return err_prefix(e, "URI: null:SIZE");

	backend = calloc(1, sizeof(*backend));
	if (!backend)
		return err_set(e, ENOMEM, "null: out of memory");
	backend->ops = &null_backend_ops;
	backend->info = (struct backend_info){
		.size = size,
		.min_block = 1,
		.max_block = UINT32_MAX,
		.max_discard = UINT32_MAX,
		.max_write_zeroes = UINT32_MAX,
		.flags = BACKEND_F_FLUSH | BACKEND_F_FUA | BACKEND_F_DISCARD |
			 BACKEND_F_WRITE_ZEROES,
	};
	snprintf(backend->info.description, sizeof(backend->info.description), "null");
	*ret_backend = backend;
	return 0;
}

static void null_close(struct backend *backend)
{
	free(backend);
}

static void complete_all(struct loop_hook *hook)
{
	struct null_queue *q = container_of(hook, struct null_queue, hook);
	struct backend_request *req = q->first;

	q->first = NULL;
	q->last = &q->first;
	while (req) {
		struct backend_request *next = req->next;

		if (req->op == BACKEND_READ)
			iov_zero(req->iov, req->niov, 0, req->length);
		req->done(req, 0);
		req = next;
	}
}

static int null_queue_create(struct backend *backend, struct loop *loop, unsigned int index,
			     struct backend_queue **ret_queue, struct error *e)
{
	struct null_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return err_set(e, ENOMEM, "null: out of memory");
	q->common = (struct backend_queue){ backend, loop, index };
	q->hook.run = complete_all;
	q->last = &q->first;
	*ret_queue = &q->common;
	return 0;
}

static void null_queue_destroy(struct backend_queue *queue)
{
	struct null_queue *q = container_of(queue, struct null_queue, common);

	loop_hook_cancel(queue->loop, &q->hook);
	free(q);
}

static void null_submit(struct backend_queue *queue, struct backend_request *req)
{
	struct null_queue *q = container_of(queue, struct null_queue, common);

	req->next = NULL;
	*q->last = req;
	q->last = &req->next;
	loop_hook_schedule(queue->loop, &q->hook);
}

const struct backend_ops null_backend_ops = {
	.scheme = "null",
	.open = null_open,
	.close = null_close,
	.queue_create = null_queue_create,
	.queue_destroy = null_queue_destroy,
	.submit = null_submit,
};
