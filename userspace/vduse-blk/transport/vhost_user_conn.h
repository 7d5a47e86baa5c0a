/* SPDX-License-Identifier: MIT */
/*
 * One connection of a vhost-user frontend: whole messages in, answers out.
 *
 *	receive -> message() ... vhost_user_conn_answer() or _next() -> receive
 *
 * One message at a time: while the owner works on it nothing is read, so a
 * frontend that sends faster fills its own socket. Everything here belongs to
 * the thread that runs the loop.
 */
#ifndef VDUSE_BLK_TRANSPORT_VHOST_USER_CONN_H
#define VDUSE_BLK_TRANSPORT_VHOST_USER_CONN_H

#include <sys/socket.h>
#include <sys/uio.h>

#include "base/error.h"
#include "loop/loop.h"
#include "transport/vhost_user_proto.h"

struct vhost_user_conn;

/**
 * struct vhost_user_conn_ops - the owner's side
 * @message:	a message that passed vhost_user_check_header() and has come in
 *		whole; @msg is the connection's, descriptors not taken are closed
 *		when the owner is done with it
 * @closed:	the connection has ended and nothing is under way; @reason is
 *		NULL when the frontend closed it in good order
 */
struct vhost_user_conn_ops {
	void (*message)(struct vhost_user_conn *conn, struct vhost_user_msg *msg);
	void (*closed)(struct vhost_user_conn *conn, const char *reason);
};

/**
 * struct vhost_user_conn - private but for @limits
 * @limits:	what messages are measured against; the owner updates it
 */
struct vhost_user_conn {
	const struct vhost_user_conn_ops *ops;
	struct loop *loop;
	struct vhost_user_limits limits;
	int fd;
	struct loop_op op;
	bool receiving, sending;
	bool closing;
	struct error reason;

	struct vhost_user_msg msg;
	size_t got; /* bytes of header and payload */
	struct msghdr hdr;
	struct iovec iov;

	/* Header and payload, without the padding that a struct would have. */
	uint8_t answer[sizeof(struct vhost_user_header) + sizeof(union vhost_user_payload)];
	size_t answer_size;
	size_t sent;
	int answer_fd; /* goes with the first byte; stays the owner's */

	_Alignas(struct cmsghdr) char control[CMSG_SPACE(VHOST_USER_MAX_FDS * sizeof(int))];
};

/**
 * vhost_user_conn_open() - begin to receive
 * @conn:	to be filled; @conn->limits is the owner's to set before
 * @ops:	the owner's side
 * @loop:	the calling thread's loop
 * @fd:		a connected socket, from now on the connection's
 */
void vhost_user_conn_open(struct vhost_user_conn *conn, const struct vhost_user_conn_ops *ops,
			  struct loop *loop, int fd);

/**
 * vhost_user_conn_next() - the message needs no answer: receive the next
 * @conn: the connection
 */
void vhost_user_conn_next(struct vhost_user_conn *conn);

/**
 * vhost_user_conn_answer() - answer the message, then receive the next
 * @conn:	the connection
 * @payload:	copied; may be the message's own
 * @size:	bytes of it
 * @fd:		a descriptor that goes along; -1: none. Kept open by the owner
 *		until the next message or the end of the connection
 */
void vhost_user_conn_answer(struct vhost_user_conn *conn, const void *payload, size_t size,
			    int fd);

/**
 * vhost_user_conn_close() - end the connection
 * @conn:	the connection
 * @reason:	why, for closed(); the first reason counts
 *
 * closed() is called once, perhaps from inside.
 */
void vhost_user_conn_close(struct vhost_user_conn *conn, const char *reason);

#endif
