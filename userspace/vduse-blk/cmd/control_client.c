// SPDX-License-Identifier: MIT
/*
 * Client of the control socket.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/util.h"
#include "cmd/control_client.h"
#include "cmd/runtime.h"

#define ANSWER_MAX	(1u << 20)
#define ERRNO_MAX	4095

static int connect_to(const char *root, const char *name, unsigned int limit_ms, int *ret_fd,
		      struct error *e)
{
	const struct timeval limit = { limit_ms / 1000, limit_ms % 1000 * 1000 };
	struct sockaddr_un addr;
	auto_close int fd = -1;
	int err;

	err = runtime_control_address(root, name, &addr, e);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(e, errno, "create a socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return err_set(e, ENOENT, "nobody serves a device \"%s\"", name);
		if (errno == EAGAIN)
			return err_set(e, ETIMEDOUT, "the daemon of \"%s\" does not answer", name);
		return err_set_errno(e, errno, "connect to %s", addr.sun_path);
	}
	*ret_fd = take_fd(&fd);
	return 0;
}

static int failed(int errnum, const char *name, struct error *e)
{
	if (errnum == EAGAIN)
		return err_set(e, ETIMEDOUT, "the daemon of \"%s\" does not answer", name);
	return err_set_errno(e, errnum, "talk to the daemon of \"%s\"", name);
}

static int send_line(int fd, const char *name, json_t *request, struct error *e)
{
	auto_free char *text = json_dumps(request, JSON_COMPACT);
	size_t sent = 0, length;

	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	length = strlen(text);
	text[length++] = '\n';
	while (sent < length) {
		ssize_t n = send(fd, text + sent, length - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		/* It may have said why before it closed. */
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			break;
		if (n < 0)
			return failed(errno, name, e);
		sent += (size_t)n;
	}
	return 0;
}

static int receive_line(int fd, const char *name, char *text, size_t size, size_t *ret_length,
			struct error *e)
{
	size_t used = 0;
	char *end = NULL;

	while (!end) {
		ssize_t n = recv(fd, text + used, size - used, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return failed(errno, name, e);
		if (!n)
			return err_set(e, ECONNRESET, used < size ?
				       "the daemon of \"%s\" ended before it answered" :
				       "the answer of \"%s\" is too long", name);
		end = memchr(text + used, '\n', (size_t)n);
		used += (size_t)n;
	}
	*ret_length = (size_t)(end - text);
	return 0;
}

static int errno_by_name(const char *name)
{
	int i;

	for (i = 1; name && i < ERRNO_MAX; i++) {
		const char *known = strerrorname_np(i);

		if (known && !strcmp(known, name))
			return i;
	}
	return EIO;
}

static int check_answer(json_t *answer, const char *name, struct error *e)
{
	const char *why = json_string_value(json_object_get(answer, "error"));

	if (json_is_true(json_object_get(answer, "ok")))
		return 0;
	if (!json_is_false(json_object_get(answer, "ok")) || !why)
		return err_set(e, EBADMSG, "the answer of \"%s\" makes no sense", name);
	return err_set(e, errno_by_name(json_string_value(json_object_get(answer, "errno"))), "%s",
		       why);
}

int control_call(const char *root, const char *name, json_t *request, unsigned int limit_ms,
		 json_t **ret_answer, struct error *e)
{
	auto_free char *text = malloc(ANSWER_MAX);
	auto_close int fd = -1;
	json_t *answer = NULL;
	size_t length = 0;
	int err;

	if (!text || !request)
		err = err_set(e, ENOMEM, "out of memory");
	else
		err = connect_to(root, name, limit_ms, &fd, e);
	if (!err)
		err = send_line(fd, name, request, e);
	json_decref(request);
	if (!err)
		err = receive_line(fd, name, text, ANSWER_MAX, &length, e);
	if (err)
		return err;
	answer = json_loadb(text, length, 0, NULL);
	err = check_answer(answer, name, e);
	if (err)
		json_decref(answer);
	else
		*ret_answer = answer;
	return err;
}
