// SPDX-License-Identifier: MIT
/*
 * Fuzz target: a whole NBD connection, with its stream and event loop, that
 * has four requests in flight and hears what the input says.
 *
 * The first byte chooses structured or simple replies, and in how many pieces
 * the rest is sent. Then the server hangs up. Each request has to come back
 * exactly once, and the memory of reads is of exactly their size, so that ASan
 * sees every byte too many. Cookies are predictable: generation 1, index 0...3.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/nbd_conn.h"
#include "base/log.h"

#define NREQUESTS 4
#define MAX_BYTES 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct one {
	struct backend_request req;
	struct iovec iov[2];
	unsigned int finished;
};

struct run {
	struct loop *loop;
	struct one ones[NREQUESTS];
	unsigned int ended;
	int peer;
	const uint8_t *p;
	size_t n, piece;
	struct loop_timer pause;
};

static void require(int ok)
{
	if (!ok)
		abort();
}

static void finished(void *owner, struct backend_request *req, int error)
{
	struct run *r = owner;
	struct one *one = container_of(req, struct one, req);

	(void)r;
	require(error <= 0);
	require(++one->finished == 1);
}

/* What was not answered comes back here, in the order of submission. */
static void ended(void *owner, const struct nbd_conn_end *end)
{
	struct run *r = owner;
	const struct backend_request *last = NULL;

	for (struct backend_request *req = end->unanswered; req; req = req->next) {
		require(!last || req > last);
		last = req;
		require(++container_of(req, struct one, req)->finished == 1);
	}
	if (end->fd >= 0)
		close(end->fd);
	r->ended = 1;
	loop_stop(r->loop);
}

static void opened(void *owner)
{
	(void)owner;
	abort();
}

static const struct nbd_conn_ops ops = {
	.opened = opened,
	.finished = finished,
	.ended = ended,
};

/* One piece an iteration, then the end. */
static void feed(struct loop_timer *timer)
{
	struct run *r = container_of(timer, struct run, pause);
	size_t n = r->n < r->piece ? r->n : r->piece;
	ssize_t sent = n ? send(r->peer, r->p, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (sent <= 0) {
		shutdown(r->peer, SHUT_WR);
		return;
	}
	r->p += sent;
	r->n -= (size_t)sent;
	loop_timer_arm(r->loop, timer, 0);
}

static void prepare(struct run *r, unsigned int i, enum backend_op op, uint64_t offset,
		    size_t length)
{
	struct one *one = &r->ones[i];

	one->req.op = op;
	one->req.offset = offset;
	one->req.length = length;
	one->req.iov = one->iov;
	one->req.niov = length ? 2 : 0;
	if (!length)
		return;
	for (int k = 0; k < 2; k++) {
		one->iov[k].iov_len = k ? length - length / 3 : length / 3;
		one->iov[k].iov_base = calloc(1, one->iov[k].iov_len);
	}
}

static void converse(struct run *r, bool structured)
{
	struct nbd_conn_params params = {
		.export_name = "", .depth = NREQUESTS, .ops = &ops, .owner = r
	};
	struct stream_addr addr = { .sa.any.sa_family = AF_UNIX };
	struct nbd_export export = { .size = 1 << 20,
				     .flags = 0x6d,
				     .structured = structured,
				     .min_block = 1,
				     .preferred_block = 4096,
				     .max_block = 1 << 20 };
	struct error e = ERROR_INIT;
	struct nbd_conn *conn;
	int fds[2];

	require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	r->peer = fds[1];
	require(!nbd_conn_create(r->loop, &params, &conn, &e));
	nbd_conn_adopt(conn, fds[0], &addr, &export);
	for (int i = 0; i < NREQUESTS; i++)
		nbd_conn_submit(conn, &r->ones[i].req);
	r->pause.expired = feed;
	loop_timer_arm(r->loop, &r->pause, 0);
	while (!r->ended)
		require(!loop_run(r->loop));
	for (int i = 0; i < NREQUESTS; i++)
		require(r->ones[i].finished == 1);
	loop_timer_cancel(r->loop, &r->pause);
	close(r->peer);
	nbd_conn_destroy(conn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct loop *loop;
	struct loop_params lp = { .sq_entries = 32 };
	struct error e = ERROR_INIT;
	struct run r = { 0 };

	if (!size || size > MAX_BYTES)
		return 0;
	if (!loop) {
		log_set_level(_LOG_LEVEL_INVALID);
		require(!loop_create(&lp, &loop, &e));
	}
	r.loop = loop;
	r.p = data + 1;
	r.n = size - 1;
	r.piece = size / (1 + (data[0] >> 1) % 8) + 1;
	prepare(&r, 0, BACKEND_READ, 0, 4096);
	prepare(&r, 1, BACKEND_READ, 8192, 40000);
	prepare(&r, 2, BACKEND_WRITE, 4096, 512);
	prepare(&r, 3, BACKEND_FLUSH, 0, 0);
	converse(&r, data[0] & 1);
	for (int i = 0; i < NREQUESTS; i++)
		for (int k = 0; k < 2; k++)
			free(r.ones[i].iov[k].iov_base);
	return 0;
}
