// SPDX-License-Identifier: MIT
/*
 * The status socket. A document fits into a socket's buffer, so the daemon
 * writes it at once and never waits for a client; a client that does not read
 * fast enough loses the rest.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/runtime.h"
#include "cmd/status_socket.h"

#define DOCUMENT_MAX	(256 * 1024)
#define QUERY_SECONDS	2
#define BACKLOG		16

static int socket_address(const char *root, const char *name, struct sockaddr_un *ret_addr,
			  struct error *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s/" RUNTIME_STATUS_SOCKET,
			 root, name);

	if (n < 0 || (size_t)n >= sizeof(addr.sun_path))
		return err_set(e, ENAMETOOLONG, "path of the status socket of \"%s\" is too long",
			       name);
	*ret_addr = addr;
	return 0;
}

static void accept_next(struct status_server *s)
{
	s->accepting = true;
	io_uring_prep_accept(loop_sqe(s->loop, &s->op), s->fd, NULL, NULL,
			     SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void answer(struct status_server *s, int fd)
{
	json_t *document = s->describe(s->opaque);
	auto_free char *text = document ? json_dumps(document, JSON_COMPACT) : NULL;
	ssize_t n = text ? send(fd, text, strlen(text), MSG_NOSIGNAL) : -1;

	if (n < 0)
		log_debug("a status request was not answered");
	json_decref(document);
}

static void accepted(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct status_server *s = container_of(op, struct status_server, op);

	(void)cqe_flags;
	s->accepting = false;
	if (res >= 0) {
		answer(s, res);
		close(res);
	}
	if (s->closing) {
		loop_stop(s->loop);
		return;
	}
	if (res == -EINVAL || res == -EBADF) {
		log_error("status socket: %s", strerror(-res));
		return;
	}
	accept_next(s);
}

int status_server_open(struct status_server *s, const char *root, const char *name,
		       struct error *e)
{
	struct sockaddr_un addr;
	auto_close int fd = -1;
	int err;

	err = socket_address(root, name, &addr, e);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* The folder's mode 0700 is what keeps others out. */
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, BACKLOG))
		return err_set_errno(e, errno, "listen on %s", addr.sun_path);

	s->fd = take_fd(&fd);
	s->closing = false;
	s->op.complete = accepted;
	accept_next(s);
	return 0;
}

void status_server_close(struct status_server *s)
{
	s->closing = true;
	if (s->accepting)
		loop_cancel(s->loop, &s->op);
	while (s->accepting)
		loop_run(s->loop);
	close(s->fd);
}

static ssize_t read_all(int fd, char *buf, size_t size)
{
	size_t used = 0;

	while (used < size) {
		ssize_t n = recv(fd, buf + used, size - used, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		used += (size_t)n;
	}
	return (ssize_t)used;
}

int status_query(const char *root, const char *name, json_t **ret_status, struct error *e)
{
	const struct timeval limit = { .tv_sec = QUERY_SECONDS };
	auto_free char *text = malloc(DOCUMENT_MAX);
	struct sockaddr_un addr;
	auto_close int fd = -1;
	json_t *status;
	ssize_t n;
	int err;

	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	err = socket_address(root, name, &addr, e);
	if (err)
		return err;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(e, errno, "open a socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return err_set_errno(e, errno, "connect to %s", addr.sun_path);

	n = read_all(fd, text, DOCUMENT_MAX);
	if (n == -EAGAIN)
		return err_set(e, ETIMEDOUT, "the daemon of \"%s\" does not answer", name);
	if (n < 0)
		return err_set_errno(e, (int)-n, "read from %s", addr.sun_path);
	status = json_loadb(text, (size_t)n, 0, NULL);
	if (!json_is_object(status)) {
		json_decref(status);
		return err_set(e, EBADMSG, "the answer of \"%s\" makes no sense", name);
	}
	*ret_status = status;
	return 0;
}
