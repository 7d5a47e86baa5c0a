// SPDX-License-Identifier: MIT
/*
 * One receive operation is in flight from drain_start() to done(), so the
 * kernel refers to scrap[] and the socket until then; both ends, the peer's and
 * drain_reset(), go through its completion.
 */
#include "loop/drain.h"

#include <errno.h>
#include <sys/socket.h>

static void receive(struct drain *d)
{
	io_uring_prep_recv(loop_sqe(d->loop, &d->op), d->fd, d->scrap, sizeof(d->scrap), 0);
}

void drain_reset_fd(int fd)
{
	const struct linger now = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

static void received(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct drain *d = container_of(op, struct drain, op);
	/* A peer that resets is gone too; a network that fails says nothing of it. */
	bool peer_closed = !res || res == -ECONNRESET || res == -EPIPE;

	(void)cqe_flags;
	if (!d->reset && (res > 0 || res == -EINTR || res == -EAGAIN)) {
		receive(d);
		return;
	}
	if (peer_closed)
		close(d->fd);
	else
		drain_reset_fd(d->fd);
	d->fd = -1;
	d->busy = false;
	d->done(d, peer_closed);
}

void drain_start(struct drain *drain, struct loop *loop, int fd)
{
	drain->loop = loop;
	drain->op.complete = received;
	drain->fd = fd;
	drain->busy = true;
	drain->reset = false;
	shutdown(fd, SHUT_WR);
	receive(drain);
}

void drain_reset(struct drain *drain)
{
	if (!drain->busy || drain->reset)
		return;
	drain->reset = true;
	loop_cancel(drain->loop, &drain->op);
}
