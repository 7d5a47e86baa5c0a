// SPDX-License-Identifier: MIT
/*
 * NBD backend: URIs, and which queue uses which link to the server.
 *
 * open() connects once to learn what the export is. That connection is not
 * wasted: queue 0 takes it over.
 *
 * If the server offers multi-conn, each queue has a link of its own on its own
 * loop. The server then promises that a flush on one connection covers writes
 * completed on all of them; nbd_flush.c does not rely on it.
 *
 * Otherwise there is one link, owned by queue 0's thread, and no other
 * thread ever touches it. The other queues collect the requests of a batch in
 * a list and pass it with one ring message, carried by the list's first
 * request; on the owner's side the completions of a batch are collected for
 * each queue and go back in the same way. A list always belongs to exactly
 * one thread, the message is the hand-over, so there is no lock.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backend/nbd_link.h"
#include "backend/nbd_probe.h"
#include "backend/nbd_recovery.h"
#include "base/clock.h"
#include "base/log.h"

struct request_list {
	struct backend_request *first;
	struct backend_request **last;
};

struct nbd_queue {
	struct backend_queue common;
	struct nbd_link *link; /* NULL: queue 0's is used */

	/* Without a link: requests of this batch. */
	struct request_list outgoing;
	struct loop_hook outgoing_hook;

	/* Owner of the shared link: completions of this batch, by queue. */
	struct request_list *returning;
	struct loop_hook returning_hook;
};

struct nbd_backend {
	struct backend common;
	struct backend_options options;
	struct nbd_session session;
	bool session_ready;
	uint32_t flags_mask;	   /* what of the server's flags the device is told */
	int spare_fd;		   /* negotiated connection that waits for queue 0 */
	struct nbd_queue **queues; /* options.queues; set by each queue's own thread */
};

static struct nbd_backend *to_nbd(struct backend *backend)
{
	return container_of(backend, struct nbd_backend, common);
}

static struct nbd_queue *to_queue(struct backend_queue *queue)
{
	return container_of(queue, struct nbd_queue, common);
}

static bool shares_link(const struct nbd_backend *b)
{
	return b->common.info.connections == 1;
}

/* --- lists --- */

static void list_init(struct request_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

static void list_push(struct request_list *list, struct backend_request *req)
{
	req->next = NULL;
	*list->last = req;
	list->last = &req->next;
}

static struct backend_request *list_take(struct request_list *list)
{
	struct backend_request *first = list->first;

	list_init(list);
	return first;
}

/* --- requests --- */

/* On the submitting queue's thread: its requests have come back. */
static void returned(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct backend_request *req = container_of(op, struct backend_request, msg.op);

	(void)res;
	(void)cqe_flags;
	while (req) {
		struct backend_request *next = req->next;

		req->done(req, req->error);
		req = next;
	}
}

/* On the owner's thread, at the end of a batch. */
static void send_back(struct loop_hook *hook)
{
	struct nbd_queue *owner = container_of(hook, struct nbd_queue, returning_hook);
	struct nbd_backend *b = to_nbd(owner->common.backend);

	for (unsigned int i = 1; i < b->options.queues; i++) {
		struct backend_request *first = list_take(&owner->returning[i]);

		if (!first)
			continue;
		first->msg.op.complete = returned;
		loop_send(owner->common.loop, first->queue->loop, &first->msg, 0);
	}
}

/* On the thread that has the link. */
static void finished(void *opaque, struct backend_request *req, int error)
{
	struct nbd_queue *q = opaque;

	if (req->queue == &q->common) {
		req->done(req, error);
		return;
	}
	req->error = error;
	list_push(&q->returning[req->queue->index], req);
	loop_hook_schedule(q->common.loop, &q->returning_hook);
}

/* On the owner's thread: another queue's batch has arrived. */
static void handed_over(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct backend_request *req = container_of(op, struct backend_request, msg.op);
	struct nbd_queue *owner = to_nbd(req->queue->backend)->queues[0];

	(void)res;
	(void)cqe_flags;
	while (req) {
		struct backend_request *next = req->next;

		nbd_link_submit(owner->link, req);
		req = next;
	}
}

/* On the submitting queue's thread, at the end of a batch. */
static void hand_over(struct loop_hook *hook)
{
	struct nbd_queue *q = container_of(hook, struct nbd_queue, outgoing_hook);
	struct nbd_queue *owner = to_nbd(q->common.backend)->queues[0];
	struct backend_request *first = list_take(&q->outgoing);

	first->msg.op.complete = handed_over;
	loop_send(q->common.loop, owner->common.loop, &first->msg, 0);
}

static void nbd_submit(struct backend_queue *queue, struct backend_request *req)
{
	struct nbd_queue *q = to_queue(queue);

	req->queue = queue;
	if (q->link) {
		nbd_link_submit(q->link, req);
		return;
	}
	list_push(&q->outgoing, req);
	loop_hook_schedule(queue->loop, &q->outgoing_hook);
}

/* --- queues --- */

/*
 * The connection that open() made may have waited for a while. A server that
 * has hung up meanwhile, or says something unasked, gets a fresh connection.
 */
static int take_spare(struct nbd_backend *b)
{
	int fd = take_fd(&b->spare_fd);
	char byte;

	if (fd < 0)
		return -1;
	if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN)
		return fd;
	close(fd);
	return -1;
}

static int queue_connect(struct nbd_backend *b, struct nbd_queue *q, struct error *e)
{
	const struct nbd_link_params params = {
		.session = &b->session,
		.index = q->common.index,
		.depth = b->options.queue_depth * (shares_link(b) ? b->options.queues : 1),
		.finished = finished,
		.owner = q,
	};

	return nbd_link_open(q->common.loop, &params, q->common.index == 0 ? take_spare(b) : -1,
			     &q->link, e);
}

static int nbd_queue_create(struct backend *backend, struct loop *loop, unsigned int index,
			    struct backend_queue **ret_queue, struct error *e)
{
	struct nbd_backend *b = to_nbd(backend);
	struct nbd_queue *q;
	int ret;

	if (index >= b->options.queues)
		return err_set(e, EINVAL, "nbd: queue %u does not exist", index);
	q = calloc(1, sizeof(*q));
	if (!q)
		return err_set(e, ENOMEM, "nbd: out of memory");
	q->common = (struct backend_queue){ backend, loop, index };
	if (index == 0) {
		/* backend.c has had its say by now. */
		b->session.block_size = backend->info.block_size;
		b->flags_mask = ~0u;
		if (b->options.read_only)
			b->flags_mask = BACKEND_F_MULTI_CONN | BACKEND_F_ROTATIONAL;
	}
	list_init(&q->outgoing);
	q->outgoing_hook.run = hand_over;
	q->returning_hook.run = send_back;

	if (index == 0) {
		q->returning = calloc(b->options.queues, sizeof(*q->returning));
		if (!q->returning) {
			ret = err_set(e, ENOMEM, "nbd: out of memory");
			goto fail;
		}
		for (unsigned int i = 0; i < b->options.queues; i++)
			list_init(&q->returning[i]);
	}
	if (index == 0 || !shares_link(b)) {
		ret = queue_connect(b, q, e);
		if (ret < 0)
			goto fail;
	}
	b->queues[index] = q;
	*ret_queue = &q->common;
	return 0;

fail:
	free(q->returning);
	free(q);
	return ret;
}

static void nbd_queue_destroy(struct backend_queue *queue)
{
	struct nbd_queue *q = to_queue(queue);

	nbd_link_close(q->link);
	loop_hook_cancel(queue->loop, &q->outgoing_hook);
	loop_hook_cancel(queue->loop, &q->returning_hook);
	to_nbd(queue->backend)->queues[queue->index] = NULL;
	free(q->returning);
	free(q);
}

/* --- opening --- */

static int resolve_tcp(const struct uri *uri, struct nbd_backend *b, struct error *e)
{
	static const char *const no_params[] = { NULL };
	int n;

	if (!*uri->host)
		return err_set(e, EINVAL, "URI: host is missing; write nbd://host[:port]/export");
	n = uri_only_params(uri, no_params, e);
	if (n < 0)
		return n;
	n = stream_addr_resolve(uri->host, uri->port ? uri->port : NBD_DEFAULT_PORT, b->session.addrs,
				NBD_MAX_ADDRS, e);
	if (n < 0)
		return n;
	b->session.naddrs = (unsigned int)n;
	return 0;
}

static int resolve_unix(const struct uri *uri, struct nbd_backend *b, struct error *e)
{
	static const char *const params[] = { "socket", NULL };
	const char *path;
	int ret;

	ret = uri_only_params(uri, params, e);
	if (ret < 0)
		return ret;
	if (*uri->host || uri->port)
		return err_set(e, EINVAL,
			       "URI: nbd+unix has no host; write nbd+unix:///export?socket=PATH");
	path = uri_param(uri, "socket");
	if (!path)
		return err_set(e, EINVAL,
			       "URI: socket is missing; write nbd+unix:///export?socket=PATH");
	ret = stream_addr_unix(path, &b->session.addrs[0], e);
	if (ret < 0)
		return err_prefix(e, "URI");
	b->session.naddrs = 1;
	return 0;
}

static const struct {
	uint16_t wire;
	uint32_t flag;
} flags_map[] = {
	{ NBD_FLAG_READ_ONLY, BACKEND_F_READ_ONLY },
	{ NBD_FLAG_SEND_FLUSH, BACKEND_F_FLUSH },
	{ NBD_FLAG_SEND_FUA, BACKEND_F_FUA },
	{ NBD_FLAG_SEND_TRIM, BACKEND_F_DISCARD },
	{ NBD_FLAG_SEND_WRITE_ZEROES, BACKEND_F_WRITE_ZEROES },
	{ NBD_FLAG_CAN_MULTI_CONN, BACKEND_F_MULTI_CONN },
	{ NBD_FLAG_ROTATIONAL, BACKEND_F_ROTATIONAL },
};

static uint32_t flags_from_wire(const struct nbd_export *x)
{
	uint32_t flags = 0;

	for (size_t i = 0; i < ARRAY_SIZE(flags_map); i++)
		if (x->flags & flags_map[i].wire)
			flags |= flags_map[i].flag;
	return flags;
}

static uint16_t flags_to_wire(uint32_t flags)
{
	uint16_t wire = NBD_FLAG_HAS_FLAGS;

	for (size_t i = 0; i < ARRAY_SIZE(flags_map); i++)
		if (flags & flags_map[i].flag)
			wire |= flags_map[i].wire;
	return wire;
}

static void describe(struct nbd_backend *b, const struct nbd_export *x)
{
	struct backend_info *info = &b->common.info;
	char peer[STREAM_ADDR_TEXT];

	snprintf(info->description, sizeof(info->description),
		 "nbd %s export '%.40s', %s, %u connection%s",
		 stream_addr_text(&b->session.addrs[0], peer), b->session.export_name,
		 info->assumed ? "not reached yet" :
		 x->structured ? "structured replies" :
				 "simple replies",
		 info->connections, info->connections == 1 ? "" : "s");
}

static void fill_info(struct nbd_backend *b)
{
	const struct nbd_export *x = &b->session.promised;
	struct backend_info *info = &b->common.info;

	*info = (struct backend_info){
		.size = x->size,
		.min_block = x->min_block,
		.preferred_block = x->preferred_block,
		.max_block = nbd_conn_max_payload(x),
		.max_discard = NBD_MAX_RANGE_BYTES,
		.max_write_zeroes = NBD_MAX_RANGE_BYTES,
		.flags = flags_from_wire(x),
		.connections = 1,
		.assumed = b->session.patient,
	};
	if ((info->flags & BACKEND_F_MULTI_CONN) && !b->options.single_connection)
		info->connections = b->options.queues;
	describe(b, x);
}

/* --- what the main thread hears and says --- */

/*
 * In the order that makes sense of it: a connection is lost, comes back, and
 * then the export is another one. Of lost and back, what is true now comes last.
 */
static void changed(struct nbd_session *s, unsigned int changes)
{
	static const enum backend_change order[] = { BACKEND_RESTORED, BACKEND_LOST,
						     BACKEND_RESTORED, BACKEND_GROWN,
						     BACKEND_SHRUNK, BACKEND_FLAGS_CHANGED };
	struct nbd_backend *b = container_of(s, struct nbd_backend, session);
	struct backend_info *info = &b->common.info;
	bool lost = nbd_session_lost(s);
	struct nbd_export known = nbd_session_known(s);

	if (info->assumed && !nbd_session_assumed(s)) {
		info->assumed = false;
		describe(b, &known);
	}
	info->size = known.size - known.size % info->block_size;
	info->flags = b->flags_mask & flags_from_wire(&known);
	if (s->read_only)
		info->flags |= BACKEND_F_READ_ONLY;
	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		if (!(changes & 1u << order[i]) || (i == 0 && !lost) || (i == 2 && lost))
			continue;
		s->events.changed(s->events.opaque, info, order[i]);
	}
	if (changes & NBD_SESSION_REFRESHED)
		backend_refreshed(&b->common, s->refresh_error);
}

static void nbd_set_tunables(struct backend *backend, const struct backend_tunables *t)
{
	struct nbd_session *s = &to_nbd(backend)->session;

	pthread_mutex_lock(&s->lock);
	s->tunables = *t;
	pthread_mutex_unlock(&s->lock);
	if (s->events.main)
		nbd_session_post_all(s, s->events.main, NBD_ORDER_TUNABLES);
}

static void nbd_fail(struct backend *backend)
{
	struct nbd_session *s = &to_nbd(backend)->session;

	if (s->events.main)
		nbd_session_post_all(s, s->events.main, NBD_ORDER_FAIL);
}

static void nbd_refresh(struct backend *backend)
{
	struct nbd_session *s = &to_nbd(backend)->session;

	if (s->events.main)
		nbd_session_refresh(s);
	else
		backend_refreshed(backend, -EINVAL);
}

static int nbd_link_stats(struct backend *backend, unsigned int index,
			  struct backend_link_stats *ret_stats)
{
	struct nbd_session *s = &to_nbd(backend)->session;

	if (index >= s->nlinks)
		return -ENOENT;
	nbd_session_stats(s, index, ret_stats);
	return 0;
}

/* --- opening --- */

/*
 * Nobody is there to say what the export is: what a predecessor's driver was promised
 * has to do. As many connections as that process had are right for the server, as far
 * as one can know; one always is.
 */
static void assume_export(struct nbd_backend *b, const struct backend_assumed *assumed)
{
	unsigned int links = nbd_journal_connections(assumed->journal, assumed->journal_bytes);
	uint32_t flags = assumed->flags & ~BACKEND_F_MULTI_CONN;

	if (links > 1 && links == b->options.queues)
		flags |= BACKEND_F_MULTI_CONN;
	b->session.patient = true;
	b->session.promised = (struct nbd_export){
		.size = assumed->size,
		.flags = flags_to_wire(flags),
		.min_block = assumed->block_size,
		.preferred_block = BACKEND_MAX_BLOCK_SIZE,
		.max_block = UINT32_MAX,
	};
}

static int learn_export(struct nbd_backend *b, struct error *e)
{
	struct nbd_session *s = &b->session;
	struct error why = ERROR_INIT;
	int fd = nbd_probe(s->addrs, s->naddrs, s->export_name, b->options.connect_timeout_ms,
			   &s->promised, &why);

	if (fd >= 0) {
		b->spare_fd = fd;
	} else if (b->options.assumed) {
		log_warning("%s (it is waited for)", why.text);
		assume_export(b, b->options.assumed);
	} else {
		*e = why;
		return fd;
	}
	b->options.assumed = NULL;
	return 0;
}

/*
 * What a killed predecessor had on its connections, which are nobody's now. Their
 * close by the peer nobody has seen or will see: these ranges have to age.
 */
static void nbd_prior_write(struct backend *backend, uint64_t offset, uint64_t length)
{
	const struct nbd_fence_range range = { .start = offset,
					       .end = offset + length,
					       .since_ns = clock_now_ns(),
					       .age = NBD_FENCE_UNLOGGED };

	nbd_fence_add(&to_nbd(backend)->session.fence, &range);
}

static int start_session(struct nbd_backend *b, struct error *e)
{
	struct nbd_session *s = &b->session;

	s->nlinks = b->common.info.connections;
	s->read_only = b->options.read_only || b->common.info.flags & BACKEND_F_READ_ONLY;
	s->journaling = !s->read_only && b->common.info.flags & BACKEND_F_FLUSH;
	s->tunables = b->options.tunables;
	s->events = b->options.events;
	s->changed = changed;
	b->session_ready = true;
	if (nbd_session_init(s, b->options.replay_log) < 0)
		return err_set(e, ENOMEM, "nbd: out of memory");
	return 0;
}

/* A successor may find a server with more connections, or with one. */
static size_t nbd_journal_memory_bytes(const struct backend *backend)
{
	const struct nbd_backend *b = container_of(backend, const struct nbd_backend, common);
	const uint32_t bytes = b->options.replay_log;

	if (!b->session.journaling)
		return 0;
	return max(nbd_journal_bytes(1, bytes), nbd_journal_bytes(b->options.queues, bytes));
}

static void nbd_use_journal(struct backend *backend, void *memory, size_t bytes, bool inherited)
{
	nbd_session_use_journal(&to_nbd(backend)->session, memory, bytes, inherited, clock_now_ns());
}

static int nbd_lend_journal(struct backend *backend, bool lent)
{
	return nbd_recovery_lend(&to_nbd(backend)->session, lent);
}

static bool nbd_owes_flush(struct backend *backend)
{
	return nbd_session_owes_flush(&to_nbd(backend)->session);
}

static void nbd_close(struct backend *backend)
{
	struct nbd_backend *b = to_nbd(backend);
	uint8_t disc[NBD_REQUEST_SIZE];

	if (b->spare_fd >= 0) {
		nbd_request_encode(disc, 0, NBD_CMD_DISC, 0, 0, 0);
		send(b->spare_fd, disc, sizeof(disc), MSG_NOSIGNAL | MSG_DONTWAIT);
		close(b->spare_fd);
	}
	if (b->session_ready)
		nbd_session_release(&b->session);
	free(b->queues);
	free(b->session.export_name);
	free(b);
}

static int nbd_open_with(const struct backend_ops *ops,
			 int (*resolve)(const struct uri *, struct nbd_backend *, struct error *),
			 const struct uri *uri, const struct backend_options *options,
			 struct backend **ret_backend, struct error *e)
{
	const char *name = uri->path[0] == '/' ? uri->path + 1 : uri->path;
	struct nbd_backend *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return err_set(e, ENOMEM, "nbd: out of memory");
	b->common.ops = ops;
	b->options = *options;
	b->spare_fd = -1;
	b->queues = calloc(options->queues, sizeof(struct nbd_queue *));
	b->session.export_name = strdup(name);
	if (!b->queues || !b->session.export_name) {
		ret = err_set(e, ENOMEM, "nbd: out of memory");
		goto fail;
	}
	if (!uri->has_authority) {
		ret = err_set(e, EINVAL, "URI: '//' is missing after '%s:'", uri->scheme);
		goto fail;
	}
	ret = resolve(uri, b, e);
	if (ret < 0)
		goto fail;
	ret = learn_export(b, e);
	if (ret < 0)
		goto fail;
	fill_info(b);
	ret = start_session(b, e);
	if (ret < 0)
		goto fail;
	*ret_backend = &b->common;
	return 0;

fail:
	nbd_close(&b->common);
	return ret;
}

static int nbd_open(const struct uri *uri, const struct backend_options *options,
		    struct backend **ret_backend, struct error *e)
{
	return nbd_open_with(&nbd_backend_ops, resolve_tcp, uri, options, ret_backend, e);
}

static int nbd_unix_open(const struct uri *uri, const struct backend_options *options,
			 struct backend **ret_backend, struct error *e)
{
	return nbd_open_with(&nbd_unix_backend_ops, resolve_unix, uri, options, ret_backend, e);
}

const struct backend_ops nbd_backend_ops = {
	.scheme = "nbd",
	.open = nbd_open,
	.close = nbd_close,
	.queue_create = nbd_queue_create,
	.queue_destroy = nbd_queue_destroy,
	.submit = nbd_submit,
	.set_tunables = nbd_set_tunables,
	.fail = nbd_fail,
	.refresh = nbd_refresh,
	.prior_write = nbd_prior_write,
	.journal_bytes = nbd_journal_memory_bytes,
	.use_journal = nbd_use_journal,
	.lend_journal = nbd_lend_journal,
	.owes_flush = nbd_owes_flush,
	.link_stats = nbd_link_stats,
};

const struct backend_ops nbd_unix_backend_ops = {
	.scheme = "nbd+unix",
	.open = nbd_unix_open,
	.close = nbd_close,
	.queue_create = nbd_queue_create,
	.queue_destroy = nbd_queue_destroy,
	.submit = nbd_submit,
	.set_tunables = nbd_set_tunables,
	.fail = nbd_fail,
	.refresh = nbd_refresh,
	.prior_write = nbd_prior_write,
	.journal_bytes = nbd_journal_memory_bytes,
	.use_journal = nbd_use_journal,
	.lend_journal = nbd_lend_journal,
	.owes_flush = nbd_owes_flush,
	.link_stats = nbd_link_stats,
};
