// SPDX-License-Identifier: MIT
/*
 * The UNIX socket that vhost-user frontends connect to.
 *
 * A daemon that was killed leaves its socket's file behind; whether somebody
 * still listens there is found out by connecting. Even that may succeed for a
 * while: the kernel takes an io_uring down, and the socket with it, after the
 * process has ended. So the process behind the socket is looked at, too. The mode is given to the
 * socket before it gets its name, so there is no moment when others could
 * connect. One accept is in flight unless the listener is paused.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/vhost_user_listen.h"

#define BACKLOG		4
#define ACCEPT_AGAIN_MS	1000 /* after running out of descriptors or memory */

/* Has the process that listens at the other end of a connection ended? */
static bool is_orphaned(int fd)
{
	auto_close int pid_fd = -1;
	struct ucred cred;
	socklen_t len = sizeof(cred);
	struct pollfd pfd = { .events = POLLIN };

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) || cred.pid <= 0)
		return false;
	pid_fd = pidfd_open(cred.pid, 0);
	if (pid_fd < 0)
		return errno == ESRCH;
	pfd.fd = pid_fd;
	return poll(&pfd, 1, 0) > 0;
}

/* Is the address free now? */
static int make_way(const struct sockaddr_un *addr, struct error *e)
{
	auto_close int fd = -1;
	struct stat st;

	if (lstat(addr->sun_path, &st)) {
		if (errno == ENOENT)
			return 0;
		return err_set_errno(e, errno, "look at %s", addr->sun_path);
	}
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, EEXIST, "%s exists and is no socket", addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set_errno(e, errno, "open a socket");
	if (!connect(fd, (const struct sockaddr *)addr, sizeof(*addr))) {
		if (!is_orphaned(fd))
			return err_set(e, EADDRINUSE, "somebody listens on %s already",
				       addr->sun_path);
	} else if (errno != ECONNREFUSED) {
		/* EAGAIN: the listener's backlog is full, so there is one. */
		return err_set_errno(e, errno == EAGAIN ? EADDRINUSE : errno,
				     "connect to %s, which exists", addr->sun_path);
	}
	if (unlink(addr->sun_path))
		return err_set_errno(e, errno, "remove the stale socket %s", addr->sun_path);
	return 0;
}

static int open_socket(const char *path, int *ret_fd, struct error *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	auto_close int fd = -1;
	int err;

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(e, ENAMETOOLONG, "path of the socket is longer than %zu bytes",
			       sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	err = make_way(&addr, e);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(e, errno, "open a socket");
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(fd, BACKLOG))
		return err_set_errno(e, errno, "listen on %s", path);
	*ret_fd = take_fd(&fd);
	return 0;
}

static void accept_next(struct vhost_user_listener *l)
{
	l->accepting = true;
	io_uring_prep_accept(loop_sqe(l->loop, &l->op), l->fd, NULL, NULL, SOCK_CLOEXEC);
}

static void accept_again(struct loop_timer *timer)
{
	accept_next(container_of(timer, struct vhost_user_listener, again));
}

static void finish_close(struct vhost_user_listener *l)
{
	vhost_user_listener_unlink(l);
	close(l->fd);
	l->closed(l);
}

static void accepted(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct vhost_user_listener *l = container_of(op, struct vhost_user_listener, op);

	(void)cqe_flags;
	l->accepting = false;
	if (l->closing) {
		if (res >= 0)
			close(res);
		finish_close(l);
		return;
	}
	if (res >= 0) {
		l->connected(l, res);
	} else if (res != -ECANCELED) {
		log_error_ratelimited("accept a connection on %s: %s", l->path, strerror(-res));
		if (!l->paused)
			loop_timer_arm(l->loop, &l->again, ACCEPT_AGAIN_MS);
		return;
	}
	/* The callback may have resumed or paused it. */
	if (!l->paused && !l->accepting)
		accept_next(l);
}

int vhost_user_listener_open(struct vhost_user_listener *l, struct loop *loop, const char *path,
			     struct error *e)
{
	struct stat st;
	int err;

	err = open_socket(path, &l->fd, e);
	if (err)
		return err;
	if (stat(path, &st)) {
		err = err_set_errno(e, errno, "look at %s", path);
		close(l->fd);
		return err;
	}
	l->loop = loop;
	l->path = path;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	l->op.complete = accepted;
	l->again = (struct loop_timer) { .expired = accept_again };
	l->paused = false;
	l->closing = false;
	accept_next(l);
	return 0;
}

void vhost_user_listener_pause(struct vhost_user_listener *l)
{
	l->paused = true;
	loop_timer_cancel(l->loop, &l->again);
	if (l->accepting)
		loop_cancel(l->loop, &l->op);
}

void vhost_user_listener_resume(struct vhost_user_listener *l)
{
	l->paused = false;
	loop_timer_cancel(l->loop, &l->again);
	if (!l->accepting)
		accept_next(l);
}

void vhost_user_listener_close(struct vhost_user_listener *l)
{
	l->closing = true;
	loop_timer_cancel(l->loop, &l->again);
	if (l->accepting)
		loop_cancel(l->loop, &l->op);
	else
		finish_close(l);
}

void vhost_user_listener_unlink(const struct vhost_user_listener *l)
{
	struct stat st;

	if (!stat(l->path, &st) && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
}
