// SPDX-License-Identifier: MIT
/*
 * The control socket: what is answered to which line, who may ask, and that no
 * client can keep the daemon or another client waiting.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/control_client.h"
#include "cmd/control_command.h"
#include "cmd/control_socket.h"
#include "cmd/runtime.h"

#define TURN_MS		300u
#define BIG		(400u * 1024)
#define SOMEBODY	12345u /* a user and a group that nobody is in */

/* --- a daemon on a thread of its own --- */

struct daemon {
	char root[64];
	struct runtime runtime;
	gid_t group;
	int fd;
	pthread_t thread;
	sem_t ready;

	/* The thread's. */
	struct loop *loop;
	struct control_server *server;
	struct tunables tunables;
	struct control_request *waiting;
	unsigned int requests;
};

/* "resize" is answered by the next "fail", "stats" with much text, "stop" ends the loop. */
static void handle(void *opaque, struct control_request *r)
{
	struct daemon *d = opaque;
	struct control_command command;
	struct error e = ERROR_INIT;

	d->requests++;
	if (control_command_parse(r->document, &d->tunables, &command, &e)) {
		control_refuse(r, &e);
		return;
	}
	switch (command.kind) {
	case CONTROL_SET:
		d->tunables = command.tunables;
		control_answer(r, json_pack("{s:o}", "options",
					    tunables_describe(&d->tunables, &d->tunables.backend)));
		break;
	case CONTROL_STATS: {
		char *text = malloc(BIG);

		memset(text, 'x', BIG);
		control_answer(r, json_pack("{s:s%}", "text", text, (size_t)BIG));
		free(text);
		break;
	}
	case CONTROL_RESIZE:
		r->next = d->waiting;
		d->waiting = r;
		break;
	case CONTROL_FAIL:
		while (d->waiting) {
			struct control_request *first = d->waiting;

			d->waiting = first->next;
			control_answer(first, json_pack("{s:i}", "size", 4096));
		}
		control_answer(r, NULL);
		break;
	case CONTROL_STOP:
		control_answer(r, json_pack("{s:i}", "on_exit", (int)command.on_exit));
		loop_stop(d->loop);
		break;
	default:
		control_answer(r, json_pack("{s:i, s:i}", "uid", (int)r->peer.uid, "requests",
					    (int)d->requests));
	}
}

static void *daemon_main(void *opaque)
{
	struct daemon *d = opaque;
	struct control_params params = {
		.fd = d->fd, .group = d->group, .turn_ms = TURN_MS, .handle = handle, .opaque = d,
	};
	const struct loop_params loop_params = { .name = "main" };
	struct error e = ERROR_INIT;

	assert_int_equal(loop_create(&loop_params, &d->loop, &e), 0);
	params.loop = d->loop;
	tunables_init(&d->tunables);
	assert_int_equal(control_server_open(&params, &d->server, &e), 0);
	sem_post(&d->ready);
	assert_int_equal(loop_run(d->loop), 0);
	control_server_close(d->server);
	loop_destroy(d->loop);
	return NULL;
}

static void start_daemon(struct daemon *d, gid_t group)
{
	struct error e = ERROR_INIT;

	memset(d, 0, sizeof(*d));
	strcpy(d->root, "/tmp/test-control-XXXXXX");
	assert_non_null(mkdtemp(d->root));
	d->group = group;
	assert_int_equal(runtime_acquire(d->root, "d0", geteuid(), getegid(), &d->runtime, &e), 0);
	if (group != CONTROL_NO_GROUP)
		assert_int_equal(runtime_share(&d->runtime, geteuid(), group, &e), 0);
	if (control_socket_bind(d->root, "d0", geteuid(), group, &d->fd, &e))
		fail_msg("%s", e.text);
	sem_init(&d->ready, 0, 0);
	assert_int_equal(pthread_create(&d->thread, NULL, daemon_main, d), 0);
	while (sem_wait(&d->ready))
		;
}

static int call(const struct daemon *d, json_t *request, json_t **ret_answer, struct error *e)
{
	*e = ERROR_INIT;
	return control_call(d->root, "d0", request, 5000, ret_answer, e);
}

/* The daemon is there, has its wits about it, and lets us in. */
static void assert_serves(const struct daemon *d)
{
	json_t *answer;
	struct error e;

	if (call(d, json_pack("{s:s}", "command", "status"), &answer, &e))
		fail_msg("%s", e.text);
	assert_int_equal(json_integer_value(json_object_get(answer, "uid")), geteuid());
	json_decref(answer);
}

static void end_daemon(struct daemon *d)
{
	pthread_join(d->thread, NULL);
	sem_destroy(&d->ready);
	runtime_release(&d->runtime);
	/* Fails if something was left in it. */
	assert_int_equal(rmdir(d->root), 0);
}

static void stop_daemon(struct daemon *d)
{
	json_t *answer = NULL;
	struct error e;

	/* The answer may be lost: the server closes behind it. */
	call(d, json_pack("{s:s}", "command", "stop"), &answer, &e);
	json_decref(answer);
	end_daemon(d);
}

/* --- raw connections --- */

static int raw_connect(const struct daemon *d)
{
	struct timeval limit = { .tv_sec = 10 };
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(runtime_control_address(d->root, "d0", &addr, NULL), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

static void raw_send(int fd, const void *text, size_t length)
{
	assert_int_equal(send(fd, text, length, MSG_NOSIGNAL), length);
}

/* The next line, which the caller owns; NULL at the end of the connection. */
static json_t *raw_answer(int fd)
{
	size_t used = 0, size = BIG + 1024;
	char *text = malloc(size);
	json_t *answer;
	ssize_t n;

	while ((n = recv(fd, text + used, 1, 0)) == 1 && text[used] != '\n' && used + 1 < size)
		used++;
	if (n < 0 && errno != ECONNRESET)
		fail_msg("no answer: %s", strerror(errno));
	if (n <= 0) {
		assert_int_equal(used, 0); /* no half of an answer */
		free(text);
		return NULL;
	}
	answer = json_loadb(text, used, 0, NULL);
	free(text);
	assert_true(json_is_object(answer));
	return answer;
}

static void assert_refused(json_t *answer, const char *errno_name)
{
	assert_non_null(answer);
	assert_true(json_is_false(json_object_get(answer, "ok")));
	assert_true(json_string_length(json_object_get(answer, "error")) > 0);
	assert_string_equal(json_string_value(json_object_get(answer, "errno")), errno_name);
	json_decref(answer);
}

static void assert_ok(json_t *answer)
{
	assert_non_null(answer);
	assert_true(json_is_true(json_object_get(answer, "ok")));
	json_decref(answer);
}

/* --- what is answered --- */

static void test_lines(void **state)
{
#define CMD(rest) "{\"command\": \"" rest "}"
	static const struct {
		const char *line;
		const char *refusal; /* errno; NULL: it works */
	} table[] = {
		{ CMD("status\""), NULL },
		{ " \t" CMD("status\"") "\r", NULL },
		{ "{\"command\": \"st\\u0061tus\"}", NULL },
		{ "", "EINVAL" },
		{ " ", "EINVAL" },
		{ "status", "EINVAL" },
		{ "[]", "EINVAL" },
		{ "null", "EINVAL" },
		{ "\"status\"", "EINVAL" },
		{ "{}", "EINVAL" },
		{ "{\"command\"}", "EINVAL" },
		{ "{\"command\": \"status\"", "EINVAL" },
		{ CMD("status\"") CMD("status\""), "EINVAL" },
		{ "{\"command\": 1}", "EINVAL" },
		{ "{\"command\": null}", "EINVAL" },
		{ "{\"command\": [\"status\"]}", "EINVAL" },
		{ CMD("nonsense\""), "EOPNOTSUPP" },
		{ CMD("upgrade\""), NULL },
		{ CMD("upgrade\", \"binary\": \"/a\", \"max_stall\": \"1.5\""), NULL },
		{ CMD("upgrade\", \"binary\": \"a\""), "EINVAL" },
		{ CMD("upgrade\", \"binary\": \"\""), "EINVAL" },
		{ CMD("upgrade\", \"binary\": 1"), "EINVAL" },
		{ CMD("upgrade\", \"max_stall\": 1"), "EINVAL" },
		{ CMD("upgrade\", \"max_stall\": \"0\""), "EINVAL" },
		{ CMD("upgrade\", \"max_stall\": \"11min\""), "EINVAL" },
		{ CMD("upgrade\", \"max_stall\": \"soon\""), "EINVAL" },
		{ CMD("upgrade\", \"keep\": true"), "EINVAL" },
		{ CMD("Status\""), "EOPNOTSUPP" },
		{ CMD("status\", \"command\": \"fail\""), "EINVAL" },
		{ CMD("status\", \"json\": true"), "EINVAL" },
		{ CMD("status\", \"\": 1"), "EINVAL" },
		{ CMD("nonsense \xc3\xa4\""), "EOPNOTSUPP" },
		{ CMD("\xff\""), "EINVAL" },
		{ CMD("\xc3\""), "EINVAL" },
		{ CMD("\xed\xa0\x80\""), "EINVAL" }, /* half of a surrogate pair */
		{ CMD("\\ud800\""), "EINVAL" },
		{ CMD("\\u0000\""), "EINVAL" },
		{ CMD("a\tb\""), "EINVAL" },
		{ CMD("status\", \"x\": 99999999999999999999"), "EINVAL" },
		{ CMD("status\", \"x\": -99999999999999999999"), "EINVAL" },
		{ CMD("status\", \"x\": 1e999"), "EINVAL" },
		{ CMD("status\", \"x\": 01"), "EINVAL" },
		{ CMD("status\", \"x\": NaN"), "EINVAL" },
		{ CMD("set\""), "EINVAL" },
		{ CMD("set\", \"options\": {}"), "EINVAL" },
		{ CMD("set\", \"options\": []"), "EINVAL" },
		{ CMD("set\", \"options\": \"io-timeout=5\""), "EINVAL" },
		{ CMD("set\", \"options\": {\"io-timeout\": 5}"), "EINVAL" },
		{ CMD("set\", \"options\": {\"io-timeout\": \"5\"}"), NULL },
		{ CMD("set\", \"options\": {\"io-timeout\": \"\"}"), "EINVAL" },
		{ CMD("set\", \"options\": {\"io-timeout\": \"5\", \"io-timeout\": \"6\"}"), "EINVAL" },
		{ CMD("set\", \"options\": {\"uri\": \"null:1M\"}"), "ENOENT" },
		{ CMD("set\", \"options\": {\"reconnect-min\": \"1h\"}"), "EINVAL" },
		{ CMD("set\", \"options\": {\"reconnect-min\": \"1h\", \"reconnect-max\": \"1h\"}"),
		  NULL },
		{ CMD("fail\", \"keep\": true"), "EINVAL" },
		{ CMD("stop\", \"keep\": 1"), "EINVAL" },
		{ CMD("stop\", \"keep\": \"true\""), "EINVAL" },
	};
	struct daemon d;
	int fd;

	(void)state;
	start_daemon(&d, CONTROL_NO_GROUP);
	fd = raw_connect(&d);
	for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
		print_message("  line %u\n", i);
		raw_send(fd, table[i].line, strlen(table[i].line));
		raw_send(fd, "\n", 1);
		if (table[i].refusal)
			assert_refused(raw_answer(fd), table[i].refusal);
		else
			assert_ok(raw_answer(fd));
	}
	close(fd);
	stop_daemon(&d);
#undef CMD
}

static void test_odd_bytes(void **state)
{
	static char deep[2 * 5000 + 64];
	static const char nul[] = "{\"command\": \"sta\0tus\"}\n";
	struct daemon d;
	int fd, n;

	(void)state;
	start_daemon(&d, CONTROL_NO_GROUP);
	fd = raw_connect(&d);
	raw_send(fd, nul, sizeof(nul) - 1);
	assert_refused(raw_answer(fd), "EINVAL");

	n = sprintf(deep, "{\"command\": ");
	memset(deep + n, '[', 5000);
	memset(deep + n + 5000, ']', 5000);
	strcpy(deep + n + 10000, "}\n");
	raw_send(fd, deep, strlen(deep));
	assert_refused(raw_answer(fd), "EINVAL");
	close(fd);
	stop_daemon(&d);
}

static void test_set(void **state)
{
	struct daemon d;
	json_t *answer, *options;
	struct error e;

	(void)state;
	start_daemon(&d, CONTROL_NO_GROUP);
	assert_int_equal(call(&d, json_pack("{s:s, s:{s:s, s:s}}", "command", "set", "options",
					    "io-timeout", "1.5", "on-exit", "keep"), &answer, &e), 0);
	options = json_object_get(answer, "options");
	assert_string_equal(json_string_value(json_object_get(options, "io-timeout")), "1500ms");
	assert_string_equal(json_string_value(json_object_get(options, "on-exit")), "keep");
	json_decref(answer);

	/* One bad value: nothing changes, and the text is the daemon's. */
	assert_int_equal(call(&d, json_pack("{s:s, s:{s:s, s:s}}", "command", "set", "options",
					    "io-timeout", "9", "on-exit", "maybe"), &answer, &e),
			 -EINVAL);
	assert_non_null(strstr(e.text, "maybe"));
	assert_int_equal(call(&d, json_pack("{s:s, s:{s:s}}", "command", "set", "options",
					    "idle-timeout", "1min"), &answer, &e), 0);
	options = json_object_get(answer, "options");
	assert_string_equal(json_string_value(json_object_get(options, "io-timeout")), "1500ms");
	json_decref(answer);

	assert_int_equal(call(&d, json_pack("{s:s}", "command", "upgrade-the-world"), &answer, &e),
			 -EOPNOTSUPP);
	/* What "set" has changed is what "stop" does. */
	assert_int_equal(call(&d, json_pack("{s:s}", "command", "stop"), &answer, &e), 0);
	assert_int_equal(json_integer_value(json_object_get(answer, "on_exit")), ON_EXIT_KEEP);
	json_decref(answer);
	end_daemon(&d);
}

static void test_nobody(void **state)
{
	char root[] = "/tmp/test-control-XXXXXX";
	json_t *answer = NULL;
	struct error e = ERROR_INIT;

	(void)state;
	assert_non_null(mkdtemp(root));
	assert_int_equal(control_call(root, "d0", json_pack("{s:s}", "command", "status"), 1000,
				      &answer, &e), -ENOENT);
	assert_non_null(strstr(e.text, "d0"));
	assert_int_equal(control_call(root, "d0", NULL, 1000, &answer, &e), -ENOMEM);
	assert_null(answer);
	assert_int_equal(rmdir(root), 0);
}

/* --- lines and packets --- */

static void test_framing(void **state)
{
	static const char line[] = "{\"command\": \"status\"}\n";
	static char longest[CONTROL_LINE_MAX + 1];
	char many[8 * sizeof(line)] = "";
	struct daemon d;
	int fd;

	(void)state;
	start_daemon(&d, CONTROL_NO_GROUP);
	fd = raw_connect(&d);
	for (size_t i = 0; i < sizeof(line) - 1; i++)
		raw_send(fd, line + i, 1);
	assert_ok(raw_answer(fd));

	/* Several lines at once, the last in two packets. */
	for (unsigned int i = 0; i < 8; i++)
		strcat(many, line);
	raw_send(fd, many, strlen(many) - 5);
	for (unsigned int i = 0; i < 7; i++)
		assert_ok(raw_answer(fd));
	raw_send(fd, line + sizeof(line) - 1 - 5, 5);
	assert_ok(raw_answer(fd));

	/* As long as it may be, twice in a row; then a byte more. */
	memset(longest, ' ', sizeof(longest));
	memcpy(longest, line, sizeof(line) - 2);
	longest[CONTROL_LINE_MAX - 1] = '\n';
	for (unsigned int i = 0; i < 2; i++) {
		raw_send(fd, longest, CONTROL_LINE_MAX);
		assert_ok(raw_answer(fd));
	}
	longest[CONTROL_LINE_MAX - 1] = ' ';
	longest[CONTROL_LINE_MAX] = '\n';
	raw_send(fd, longest, CONTROL_LINE_MAX + 1);
	assert_refused(raw_answer(fd), "EMSGSIZE");
	assert_null(raw_answer(fd));
	close(fd);

	/* Half closed: the answer still comes. */
	fd = raw_connect(&d);
	raw_send(fd, line, sizeof(line) - 1);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_ok(raw_answer(fd));
	assert_null(raw_answer(fd));
	close(fd);
	stop_daemon(&d);
}

/* --- clients that do not behave --- */

static void test_too_many(void **state)
{
	int fds[CONTROL_CLIENTS_MAX], fd;
	struct daemon d;

	(void)state;
	start_daemon(&d, CONTROL_NO_GROUP);
	for (unsigned int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		fds[i] = raw_connect(&d);
		raw_send(fds[i], "{\"command\": \"status\"}\n", 22);
		assert_ok(raw_answer(fds[i]));
	}
	fd = raw_connect(&d);
	assert_refused(raw_answer(fd), "EBUSY");
	assert_null(raw_answer(fd));
	close(fd);

	/* They are all dropped for their silence. */
	for (unsigned int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		assert_null(raw_answer(fds[i]));
		close(fds[i]);
	}
	assert_serves(&d);
	stop_daemon(&d);
}

static void test_slow(void **state)
{
	static const char ask[] = "{\"command\": \"stats\"}\n";
	struct pollfd hangup;
	int half, deaf, gone;
	struct daemon d;

	(void)state;
	start_daemon(&d, CONTROL_NO_GROUP);
	half = raw_connect(&d);
	raw_send(half, ask, 5);
	deaf = raw_connect(&d);
	for (unsigned int i = 0; i < 4; i++)
		raw_send(deaf, ask, sizeof(ask) - 1);
	gone = raw_connect(&d);
	raw_send(gone, ask, sizeof(ask) - 1);
	close(gone);
	/* None of them keeps another waiting. */
	assert_serves(&d);

	/* Both are dropped. */
	assert_null(raw_answer(half));
	hangup = (struct pollfd){ .fd = deaf, .events = POLLRDHUP };
	assert_int_equal(poll(&hangup, 1, 10000), 1);
	close(half);
	close(deaf);
	assert_serves(&d);
	stop_daemon(&d);
}

/* Answers that come later, to a client that is there and to one that has gone. */
static void test_later(void **state)
{
	static const char resize[] = "{\"command\": \"resize\"}\n";
	static const char fail[] = "{\"command\": \"fail\"}\n";
	int waits, gone, other;
	struct daemon d;
	json_t *answer;

	(void)state;
	start_daemon(&d, CONTROL_NO_GROUP);
	waits = raw_connect(&d);
	raw_send(waits, resize, sizeof(resize) - 1);
	gone = raw_connect(&d);
	raw_send(gone, resize, sizeof(resize) - 1);
	close(gone);
	usleep(2 * TURN_MS * 1000); /* the owner may take its time */
	other = raw_connect(&d);
	raw_send(other, fail, sizeof(fail) - 1);
	assert_ok(raw_answer(other));
	answer = raw_answer(waits);
	assert_int_equal(json_integer_value(json_object_get(answer, "size")), 4096);
	assert_ok(answer);
	close(waits);
	close(other);
	assert_serves(&d);

	/* The server ends with a request unanswered, one half received, one answer half sent. */
	waits = raw_connect(&d);
	raw_send(waits, resize, sizeof(resize) - 1);
	gone = raw_connect(&d);
	raw_send(gone, resize, 3);
	other = raw_connect(&d);
	raw_send(other, "{\"command\": \"stats\"}\n", 21);
	stop_daemon(&d);
	assert_null(raw_answer(waits));
	assert_null(raw_answer(gone));
	close(waits);
	close(gone);
	close(other);
}

/* --- who may ask --- */

static mode_t mode_of(const char *root, const char *path)
{
	struct stat st;
	char whole[128];

	snprintf(whole, sizeof(whole), "%s/%s", root, path);
	assert_int_equal(stat(whole, &st), 0);
	return st.st_mode & 07777;
}

/* Just after the socket got its name, its folder's owner puts a link in its place. */
static const char *trap_target;

int bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)addr;
	int ret = (int)syscall(SYS_bind, fd, addr, len);

	if (!ret && trap_target) {
		assert_int_equal(unlink(un->sun_path), 0);
		assert_int_equal(symlink(trap_target, un->sun_path), 0);
	}
	return ret;
}

static void test_socket_is_replaced(void **state)
{
	char root[] = "/tmp/test-control-XXXXXX", path[128];
	auto_close int fd = -1, victim = -1;
	struct runtime r;
	struct error e;
	struct stat st;

	(void)state;
	if (geteuid()) {
		print_message("skipped: needs root\n");
		skip();
	}
	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof(path), "%s/victim", root);
	victim = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	assert_true(victim >= 0);
	assert_int_equal(runtime_acquire(root, "d0", 65534, 65534, &r, &e), 0);
	trap_target = path;
	control_socket_bind(root, "d0", 65534, CONTROL_NO_GROUP, &fd, &e);
	trap_target = NULL;
	assert_int_equal(fstat(victim, &st), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	runtime_release(&r);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(root), 0);
}

static void test_modes(void **state)
{
	struct daemon d;

	(void)state;
	start_daemon(&d, CONTROL_NO_GROUP);
	assert_int_equal(mode_of(d.root, "d0"), 0700);
	assert_int_equal(mode_of(d.root, "d0/control"), 0600);
	stop_daemon(&d);

	start_daemon(&d, getegid());
	assert_int_equal(mode_of(d.root, "d0"), 0710);
	assert_int_equal(mode_of(d.root, "d0/control"), 0660);
	assert_int_equal(mode_of(d.root, "d0/lock"), 0600);
	assert_serves(&d);
	stop_daemon(&d);
}

/* What control_call() says to somebody else: 0 or a positive errno. */
static int call_as(const struct daemon *d, uid_t uid, gid_t gid, gid_t more)
{
	json_t *answer = NULL;
	struct error e;
	int status, err;
	pid_t pid = fork();

	if (!pid) {
		if (setgroups(more != CONTROL_NO_GROUP, &more) || setresgid(gid, gid, gid) ||
		    setresuid(uid, uid, uid))
			_exit(255);
		err = call(d, json_pack("{s:s}", "command", "status"), &answer, &e);
		json_decref(answer);
		_exit(-err);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_peers(void **state)
{
	char path[128];
	struct daemon d;

	(void)state;
	if (geteuid()) {
		print_message("skipped: becoming somebody else needs root\n");
		skip();
	}
	start_daemon(&d, SOMEBODY);
	chmod(d.root, 0755);
	assert_int_equal(call_as(&d, 0, 0, CONTROL_NO_GROUP), 0);
	assert_int_equal(call_as(&d, SOMEBODY, SOMEBODY, CONTROL_NO_GROUP), 0);
	assert_int_equal(call_as(&d, SOMEBODY, 1, SOMEBODY), 0);
	assert_int_equal(call_as(&d, SOMEBODY, 1, CONTROL_NO_GROUP), EACCES);
	/* Even if the modes were wrong. */
	snprintf(path, sizeof(path), "%s/d0", d.root);
	assert_int_equal(chmod(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/d0/control", d.root);
	assert_int_equal(chmod(path, 0666), 0);
	assert_int_equal(call_as(&d, SOMEBODY, 1, CONTROL_NO_GROUP), EPERM);
	assert_int_equal(call_as(&d, SOMEBODY, 1, SOMEBODY), 0);
	stop_daemon(&d);

	start_daemon(&d, CONTROL_NO_GROUP);
	chmod(d.root, 0755);
	assert_int_equal(call_as(&d, SOMEBODY, SOMEBODY, CONTROL_NO_GROUP), EACCES);
	stop_daemon(&d);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_odd_bytes),
		cmocka_unit_test(test_set),
		cmocka_unit_test(test_nobody),
		cmocka_unit_test(test_framing),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_slow),
		cmocka_unit_test(test_later),
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_socket_is_replaced),
		cmocka_unit_test(test_peers),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
