// SPDX-License-Identifier: MIT
/*
 * One connection of a vhost-user frontend.
 *
 * At most one operation is in flight, a receive or a send. Header and payload
 * are received one after the other and never more than that, so descriptors,
 * which the kernel delivers with the bytes they were sent with, belong to the
 * message being received. They are the connection's from the moment they arrive
 * until the owner takes them; what is left is closed before the next message.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "transport/vhost_user_conn.h"

static void drop_fds(struct vhost_user_conn *c)
{
	unsigned int i;

	for (i = 0; i < c->msg.nfds; i++) {
		if (c->msg.fds[i] >= 0)
			close(c->msg.fds[i]);
	}
	c->msg.nfds = 0;
}

static void finish_close(struct vhost_user_conn *c)
{
	drop_fds(c);
	close(c->fd);
	c->fd = -1;
	c->ops->closed(c, c->reason.errnum ? c->reason.text : NULL);
}

static void close_with(struct vhost_user_conn *c, const struct error *e)
{
	if (c->closing)
		return;
	c->closing = true;
	c->reason = *e;
	if (c->receiving || c->sending)
		loop_cancel(c->loop, &c->op);
	else
		finish_close(c);
}

void vhost_user_conn_close(struct vhost_user_conn *c, const char *reason)
{
	struct error e = ERROR_INIT;

	err_set(&e, ECONNABORTED, "%s", reason);
	close_with(c, &e);
}

/* Receiving */

static void receive(struct vhost_user_conn *c)
{
	const size_t header = sizeof(c->msg.header);

	if (c->got < header) {
		c->iov.iov_base = (uint8_t *)&c->msg.header + c->got;
		c->iov.iov_len = header - c->got;
	} else {
		c->iov.iov_base = (uint8_t *)&c->msg.payload + (c->got - header);
		c->iov.iov_len = c->msg.header.size - (c->got - header);
	}
	c->hdr = (struct msghdr) {
		.msg_iov = &c->iov,
		.msg_iovlen = 1,
		.msg_control = c->control,
		.msg_controllen = sizeof(c->control),
	};
	c->receiving = true;
	io_uring_prep_recvmsg(loop_sqe(c->loop, &c->op), c->fd, &c->hdr, MSG_CMSG_CLOEXEC);
}

void vhost_user_conn_next(struct vhost_user_conn *c)
{
	drop_fds(c);
	memset(&c->msg.payload, 0, sizeof(c->msg.payload));
	c->got = 0;
	receive(c);
}

/* Whatever came is taken, also what is too much, so that it gets closed. */
static int take_fds(struct vhost_user_conn *c)
{
	struct cmsghdr *cmsg;
	bool too_many = c->hdr.msg_flags & MSG_CTRUNC;

	for (cmsg = CMSG_FIRSTHDR(&c->hdr); cmsg; cmsg = CMSG_NXTHDR(&c->hdr, cmsg)) {
		const size_t n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		size_t i;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		for (i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
			if (c->msg.nfds < VHOST_USER_MAX_FDS) {
				c->msg.fds[c->msg.nfds++] = fd;
			} else {
				too_many = true;
				close(fd);
			}
		}
	}
	return too_many ? -EMFILE : 0;
}

static int received_bytes(struct vhost_user_conn *c, int res, struct error *e)
{
	const size_t header = sizeof(c->msg.header);
	const bool in_header = c->got < header;

	if (res < 0)
		return err_set_errno(e, -res, "receive");
	if (take_fds(c))
		return err_set(e, EPROTO, "more than %u descriptors", VHOST_USER_MAX_FDS);
	if (!res && c->got)
		return err_set(e, EPROTO, "the frontend closed in the middle of a message");
	c->got += (size_t)res;
	if (res && in_header && c->got == header)
		return vhost_user_check_header(&c->msg.header, &c->limits, e);
	return 0;
}

static void received(struct vhost_user_conn *c, int res)
{
	struct error e = ERROR_INIT;

	c->receiving = false;
	if (received_bytes(c, res, &e)) {
		if (c->closing)
			finish_close(c);
		else
			close_with(c, &e);
		return;
	}
	if (c->closing) {
		finish_close(c);
		return;
	}
	if (!res) {
		close_with(c, &e); /* without a reason */
		return;
	}
	if (c->got < sizeof(c->msg.header) ||
	    c->got < sizeof(c->msg.header) + c->msg.header.size)
		receive(c);
	else
		c->ops->message(c, &c->msg);
}

/* Sending */

static void send_rest(struct vhost_user_conn *c)
{
	c->iov.iov_base = c->answer + c->sent;
	c->iov.iov_len = c->answer_size - c->sent;
	c->hdr = (struct msghdr) { .msg_iov = &c->iov, .msg_iovlen = 1 };
	if (c->answer_fd >= 0 && !c->sent) {
		struct cmsghdr *cmsg;

		c->hdr.msg_control = c->control;
		c->hdr.msg_controllen = CMSG_SPACE(sizeof(int));
		cmsg = CMSG_FIRSTHDR(&c->hdr);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &c->answer_fd, sizeof(int));
	}
	c->sending = true;
	io_uring_prep_sendmsg(loop_sqe(c->loop, &c->op), c->fd, &c->hdr, MSG_NOSIGNAL);
}

void vhost_user_conn_answer(struct vhost_user_conn *c, const void *payload, size_t size, int fd)
{
	const struct vhost_user_header header = {
		.request = c->msg.header.request,
		.flags = VHOST_USER_VERSION | VHOST_USER_REPLY,
		.size = (uint32_t)size,
	};

	memcpy(c->answer, &header, sizeof(header));
	memcpy(c->answer + sizeof(header), payload, size);
	c->answer_size = sizeof(header) + size;
	c->answer_fd = fd;
	c->sent = 0;
	send_rest(c);
}

static void sent(struct vhost_user_conn *c, int res)
{
	struct error e = ERROR_INIT;

	c->sending = false;
	if (c->closing) {
		finish_close(c);
		return;
	}
	if (res <= 0) {
		err_set_errno(&e, res ? -res : EPIPE, "send an answer");
		close_with(c, &e);
		return;
	}
	c->sent += (size_t)res;
	if (c->sent < c->answer_size)
		send_rest(c);
	else
		vhost_user_conn_next(c);
}

static void completed(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct vhost_user_conn *c = container_of(op, struct vhost_user_conn, op);

	(void)cqe_flags;
	if (c->receiving)
		received(c, res);
	else
		sent(c, res);
}

void vhost_user_conn_open(struct vhost_user_conn *c, const struct vhost_user_conn_ops *ops,
			  struct loop *loop, int fd)
{
	const struct vhost_user_limits limits = c->limits;

	*c = (struct vhost_user_conn) {
		.ops = ops,
		.loop = loop,
		.limits = limits,
		.fd = fd,
		.op.complete = completed,
	};
	vhost_user_conn_next(c);
}
