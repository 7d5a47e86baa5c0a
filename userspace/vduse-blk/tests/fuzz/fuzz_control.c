// SPDX-License-Identifier: MIT
/*
 * Fuzz target: the control socket, from the bytes of a client to the answers. It
 * gets one answer for every line, each a JSON object that says whether it worked,
 * and whatever is set can be shown and set again.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/control_command.h"
#include "cmd/control_socket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS_MAX	100000u
#define ANSWERS_MAX	(4u << 20)

static struct loop *loop;
static struct loop_idle idle;
static struct sockaddr_un address;
static struct tunables tunables;
static char answers[ANSWERS_MAX];

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void check_set(const struct control_command *command)
{
	struct tunables again;
	const char *name;
	json_t *shown, *value;

	tunables_init(&again);
	shown = tunables_describe(&command->tunables, &command->tunables.backend);
	json_object_foreach(shown, name, value) {
		/* Zero is the backend's default, and is never shown by a daemon. */
		if (strcmp(json_string_value(value), "0s"))
			require(!tunables_set(&again, name, json_string_value(value), NULL));
	}
	json_decref(shown);
}

static void handle(void *opaque, struct control_request *r)
{
	struct control_command command;
	struct error e = ERROR_INIT;

	(void)opaque;
	if (control_command_parse(r->document, &tunables, &command, &e)) {
		require(e.errnum && e.text[0]);
		control_refuse(r, &e);
		return;
	}
	require(command.kind < _CONTROL_KIND_MAX);
	if (command.kind == CONTROL_SET)
		check_set(&command);
	control_answer(r, json_pack("{s:s}", "command", control_command_name(command.kind)));
}

/* It would sleep now: our turn. */
static bool stop_loop(struct loop_idle *unused)
{
	(void)unused;
	loop_stop(loop);
	return false;
}

/* An address of the abstract namespace: the kernel chooses it, nothing is left behind. */
static void begin(void)
{
	struct control_params params = { .group = CONTROL_NO_GROUP, .handle = handle };
	static struct control_server *server;
	socklen_t size = sizeof(address);
	struct error e = ERROR_INIT;

	log_set_level(LOG_LEVEL_ERROR);
	tunables_init(&tunables);
	idle.arm = stop_loop;
	require(!loop_create(&(struct loop_params){ .name = "fuzz" }, &loop, &e));
	loop_idle_add(loop, &idle);
	params.loop = loop;
	params.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	address.sun_family = AF_UNIX;
	require(!bind(params.fd, (struct sockaddr *)&address, sizeof(sa_family_t)));
	require(!getsockname(params.fd, (struct sockaddr *)&address, &size));
	require(!control_server_open(&params, &server, &e));
}

static socklen_t address_length(void)
{
	/* A NUL and five digits. */
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 6);
}

/* Send everything, take everything, until the server has closed. */
static size_t converse(int fd, const uint8_t *data, size_t size)
{
	size_t sent = 0, got = 0;
	unsigned int step;
	ssize_t n = -1;

	for (step = 0; n; step++) {
		require(step < STEPS_MAX && got < ANSWERS_MAX);
		if (sent < size) {
			n = send(fd, data + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (n > 0)
				sent += (size_t)n;
			else if (errno != EAGAIN)
				sent = size; /* too long a line: it does not listen any more */
			if (sent == size)
				shutdown(fd, SHUT_WR);
		}
		require(!loop_run(loop));
		n = recv(fd, answers + got, ANSWERS_MAX - got, MSG_DONTWAIT);
		if (n > 0)
			got += (size_t)n;
		else if (n < 0 && errno == ECONNRESET)
			n = 0;
	}
	return got;
}

static void check_answers(const uint8_t *data, size_t size, size_t got)
{
	size_t lines = 0, at, seen = 0;

	for (at = 0; at < size; at++)
		lines += data[at] == '\n';
	for (at = 0; at < got; seen++) {
		char *end = memchr(answers + at, '\n', got - at);
		json_t *answer;

		require(end);
		answer = json_loadb(answers + at, (size_t)(end - answers) - at, 0, NULL);
		require(json_is_boolean(json_object_get(answer, "ok")));
		require(json_is_true(json_object_get(answer, "ok")) ||
			json_string_length(json_object_get(answer, "error")));
		json_decref(answer);
		at = (size_t)(end + 1 - answers);
	}
	if (size < CONTROL_LINE_MAX)
		require(seen == lines);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd;

	if (!loop)
		begin();
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	require(fd >= 0 && !connect(fd, (struct sockaddr *)&address, address_length()));
	if (!size)
		shutdown(fd, SHUT_WR);
	check_answers(data, size, converse(fd, data, size));
	close(fd);
	return 0;
}
