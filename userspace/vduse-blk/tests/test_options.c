// SPDX-License-Identifier: MIT
/*
 * Options: tables of what is accepted and what is refused, on the command line
 * and in a configuration file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "cmd/options.h"

#define MAX_ARGS 16
#define N65 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

/* Cut @line at single spaces into @argv, which points into @copy. */
static int split(const char *line, char *copy, size_t size, char **argv)
{
	int argc = 0;
	char *save;

	snprintf(copy, size, "%s", line);
	for (char *word = strtok_r(copy, " ", &save); word && argc < MAX_ARGS;
	     word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	argv[argc] = NULL;
	return argc;
}

static int parse(const char *line, struct serve_options *o, struct error *e)
{
	char copy[512], *argv[MAX_ARGS + 1];
	int argc = split(line, copy, sizeof(copy), argv);
	bool help;
	int err;

	serve_options_init(o);
	*e = ERROR_INIT;
	err = serve_options_parse(argc, argv, o, &help, e);
	assert_false(!err && help);
	return err;
}

/* The words stay valid until the next call. */
static int query_for(const char *line, unsigned int takes, struct query_options *o, bool *ret_help)
{
	static char copy[512], *argv[MAX_ARGS + 1];
	int argc = split(line, copy, sizeof(copy), argv);
	struct error e = ERROR_INIT;

	return query_options_parse(argc, argv, takes, o, ret_help, &e);
}

static int query(const char *line, bool with_name, struct query_options *o, bool *ret_help)
{
	return query_for(line, QUERY_JSON | (with_name ? QUERY_NAME : 0), o, ret_help);
}

static void test_defaults(void **state)
{
	struct serve_options o;
	struct error e;

	(void)state;
	assert_int_equal(parse("serve --name d0 --uri null:1M", &o, &e), 0);
	assert_string_equal(o.name, "d0");
	assert_string_equal(o.uri, "null:1M");
	assert_int_equal(o.queues, 1);
	assert_int_equal(o.queue_size, 256);
	assert_false(o.packed);
	assert_int_equal(o.transport, TRANSPORT_VDUSE);
	assert_null(o.socket);
	assert_int_equal(o.bind, BIND_VIRTIO);
	assert_false(o.read_only);
	assert_string_equal(o.serial, "");
	assert_null(o.user);
	assert_int_equal(o.tunables.log_level, LOG_LEVEL_INFO);
	assert_int_equal(o.block_size, 0);
	assert_null(o.control_group);
	assert_int_equal(o.replay_log, BACKEND_REPLAY_LOG_DEFAULT);
	assert_int_equal(o.tunables.backend.io_timeout_ms, 0);
	assert_int_equal(o.tunables.stop_ms, 500);
	assert_int_equal(o.tunables.on_exit, ON_EXIT_DETACH);
	assert_int_equal(o.tunables.on_shrink, ON_SHRINK_ERROR);
	serve_options_release(&o);
}

static void test_everything(void **state)
{
	struct serve_options o;
	struct error e;

	(void)state;
	assert_int_equal(parse("serve --uri=nbd://h/x --name a.b_c-1 --queues 64 --queue-size 1024 --packed on --bind vhost --read-only --serial 12345678901234567890 --log-level=debug",
			       &o, &e), 0);
	assert_string_equal(o.name, "a.b_c-1");
	assert_string_equal(o.uri, "nbd://h/x");
	assert_int_equal(o.queues, 64);
	assert_int_equal(o.queue_size, 1024);
	assert_true(o.packed);
	assert_int_equal(o.bind, BIND_VHOST);
	assert_true(o.read_only);
	assert_string_equal(o.serial, "12345678901234567890");
	assert_int_equal(o.tunables.log_level, LOG_LEVEL_DEBUG);
	serve_options_release(&o);

	assert_int_equal(parse("serve --name d0 --uri null:1M --transport vhost-user --socket /run/s", &o,
			       &e), 0);
	assert_int_equal(o.transport, TRANSPORT_VHOST_USER);
	assert_string_equal(o.socket, "/run/s");
	assert_int_equal(o.bind, BIND_NONE);
	serve_options_release(&o);

	assert_int_equal(parse("serve --name d0 --uri null:1M --read-only=off --user nobody --block-size 4096 --bind none",
			       &o, &e), 0);
	assert_false(o.read_only);
	assert_string_equal(o.user, "nobody");
	assert_int_equal(o.block_size, 4096);
	assert_int_equal(o.bind, BIND_NONE);
	serve_options_release(&o);

	assert_int_equal(parse("serve --name d0 --uri null:1M --io-timeout 30 --on-exit keep --control-group disk --replay-log 64M",
			       &o, &e), 0);
	assert_int_equal(o.tunables.backend.io_timeout_ms, 30000);
	assert_int_equal(o.tunables.on_exit, ON_EXIT_KEEP);
	assert_string_equal(o.control_group, "disk");
	assert_int_equal(o.replay_log, 64 << 20);
	serve_options_release(&o);
	assert_int_equal(parse("serve --name d0 --uri null:1M --replay-log off", &o, &e), 0);
	assert_int_equal(o.replay_log, 0);
	serve_options_release(&o);
}

static void test_refused(void **state)
{
	/* What follows "serve", and a word that the message must have. */
	static const struct {
		const char *line;
		const char *says;
	} table[] = {
		{ "", "--name" },
		{ "--name d0", "--uri" },
		{ "--uri null:1M", "--name" },
		{ "--name", "needs a value" },
		{ "--name d0 --uri null:1M extra", "extra" },
		{ "--name d0 --uri null:1M --nonsense", "nonsense" },
		{ "--name d0 --uri null:1M -x", "-x" },
		{ "--name a/b --uri null:1M", "name" },
		{ "--name . --uri null:1M", "name" },
		{ "--name .. --uri null:1M", "name" },
		{ "--name -a --uri null:1M", "name" },
		{ "--name control --uri null:1M", "control" },
		{ "--name d%0 --uri null:1M", "name" },
		{ "--name d\n0 --uri null:1M", "name" },
		{ "--name " N65 " --uri null:1M", "name" },
		{ "--name d0 --uri=", "uri" },
		{ "--name d0 --uri null:1M --queues 0", "queues" },
		{ "--name d0 --uri null:1M --queues 65", "queues" },
		{ "--name d0 --uri null:1M --queues -1", "queues" },
		{ "--name d0 --uri null:1M --queues 1x", "queues" },
		{ "--name d0 --uri null:1M --queues 99999999999999999999", "queues" },
		{ "--name d0 --uri null:1M --queues=", "queues" },
		{ "--name d0 --uri null:1M --queue-size 2", "queue-size" },
		{ "--name d0 --uri null:1M --queue-size 100", "power of two" },
		{ "--name d0 --uri null:1M --queue-size 2048", "queue-size" },
		{ "--name d0 --uri null:1M --packed maybe", "packed" },
		{ "--name d0 --uri null:1M --bind qemu", "bind" },
		{ "--name d0 --uri null:1M --transport pigeon", "transport" },
		{ "--name d0 --uri null:1M --transport vhost-user", "--socket" },
		{ "--name d0 --uri null:1M --socket /run/s", "--transport vhost-user" },
		{ "--name d0 --uri null:1M --transport vhost-user --socket=", "socket" },
		{ "--name d0 --uri null:1M --transport vhost-user --socket /" N65 N65, "socket" },
		{ "--name d0 --uri null:1M --transport vhost-user --socket /run/s --bind vhost",
		  "--bind" },
		{ "--name d0 --uri null:1M --read-only=perhaps", "read-only" },
		{ "--name d0 --uri null:1M --serial 123456789012345678901", "serial" },
		{ "--name d0 --uri null:1M --serial a\tb", "serial" },
		{ "--name d0 --uri null:1M --user=", "user" },
		{ "--name d0 --uri null:1M --log-level loud", "log-level" },
		{ "--name d0 --uri null:1M --block-size 511", "block-size" },
		{ "--name d0 --uri null:1M --block-size 768", "block-size" },
		{ "--name d0 --uri null:1M --block-size 8192", "block-size" },
		{ "--name d0 --uri null:1M --config /nonexistent/file", "/nonexistent/file" },
		{ "--name d0 --uri null:1M --control-group=", "control-group" },
		{ "--name d0 --uri null:1M --replay-log 1", "replay-log" },
		{ "--name d0 --uri null:1M --replay-log 1023k", "1M" },
		{ "--name d0 --uri null:1M --replay-log 2G", "1G" },
		{ "--name d0 --uri null:1M --replay-log on", "replay-log" },
		{ "--name d0 --uri null:1M --io-timeout", "needs a value" },
		{ "--name d0 --uri null:1M --io-timeout 1y", "io-timeout" },
		{ "--name d0 --uri null:1M --reconnect-min 10 --reconnect-max 1", "reconnect-max" },
		{ "--name d0 --uri null:1M --reconnect-min 1min", "reconnect-max" },
		{ "--name d0 --uri null:1M --on-exit stay", "detach and keep" },
		{ "--name d0 --uri null:1M --on-shrink grow", "error and read-only" },
	};
	struct serve_options o;
	struct error e;
	char line[512];

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
		snprintf(line, sizeof(line), "serve %s", table[i].line);
		if (!parse(line, &o, &e))
			fail_msg("accepted: %s", table[i].line);
		if (!strstr(e.text, table[i].says))
			fail_msg("%s: the message does not say \"%s\": %s", table[i].line,
				 table[i].says, e.text);
		serve_options_release(&o);
	}
}

/* Each duration: what is taken, and as what. */
static void test_tunables(void **state)
{
	static const struct {
		const char *name, *value;
		size_t offset;
		uint32_t want; /* REFUSED */
	} table[] = {
#define B(member) offsetof(struct tunables, backend.member)
#define REFUSED 12345678u
		{ "connect-timeout", "5", B(connect_ms), 5000 },
		{ "connect-timeout", "0.25", B(connect_ms), 250 },
		{ "connect-timeout", "10ms", B(connect_ms), 10 },
		{ "connect-timeout", "9ms", B(connect_ms), REFUSED },
		{ "connect-timeout", "1h", B(connect_ms), 3600000 },
		{ "connect-timeout", "61min", B(connect_ms), REFUSED },
		{ "connect-timeout", "0", B(connect_ms), REFUSED },
		{ "connect-timeout", "off", B(connect_ms), REFUSED },
		{ "handshake-timeout", "1.5s", B(handshake_ms), 1500 },
		{ "handshake-timeout", "off", B(handshake_ms), REFUSED },
		{ "request-timeout", "2min", B(request_ms), 120000 },
		{ "request-timeout", "off", B(request_ms), BACKEND_NEVER },
		{ "request-timeout", "99ms", B(request_ms), REFUSED },
		{ "keep-alive", "30", B(keepalive_ms), 30000 },
		{ "keep-alive", "off", B(keepalive_ms), BACKEND_NEVER },
		{ "keep-alive", "0.5", B(keepalive_ms), REFUSED },
		{ "idle-timeout", "1min", B(idle_ms), 60000 },
		{ "idle-timeout", "off", B(idle_ms), 0 },
		{ "io-timeout", "30s", B(io_timeout_ms), 30000 },
		{ "io-timeout", "0", B(io_timeout_ms), 0 },
		{ "io-timeout", "off", B(io_timeout_ms), 0 },
		{ "io-timeout", "168h", B(io_timeout_ms), 604800000 },
		{ "io-timeout", "169h", B(io_timeout_ms), REFUSED },
		{ "reconnect-min", "1ms", B(reconnect_min_ms), 1 },
		{ "reconnect-min", "0", B(reconnect_min_ms), REFUSED },
		{ "reconnect-max", "1h", B(reconnect_max_ms), 3600000 },
		{ "fence-timeout", "30", B(fence_ms), 30000 },
		{ "fence-timeout", "off", B(fence_ms), REFUSED },
		{ "fence-after-close", "500ms", B(fence_closed_ms), 500 },
		{ "fence-after-close", "off", B(fence_closed_ms), BACKEND_NEVER },
		{ "fence-after-close", "25h", B(fence_closed_ms), REFUSED },
		{ "stop-timeout", "0.5", offsetof(struct tunables, stop_ms), 500 },
		{ "stop-timeout", "off", offsetof(struct tunables, stop_ms), BACKEND_NEVER },
		/* Not durations at all, or too fine or too long ones. */
		{ "io-timeout", "", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "-1", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "+1", B(io_timeout_ms), REFUSED },
		{ "io-timeout", " 1", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "1 s", B(io_timeout_ms), REFUSED },
		{ "io-timeout", ".5", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "1.", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "1.5.5", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "1e3", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "0x10", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "1S", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "1.0005", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "1.000", B(io_timeout_ms), 1000 },
		{ "io-timeout", "0.000000001", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "0.0000000000001", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "99999999999999999999", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "18446744073709551616ms", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "4294967296ms", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "ms", B(io_timeout_ms), REFUSED },
		{ "io-timeout", "never", B(io_timeout_ms), REFUSED },
		{ "on-exit", "keep", offsetof(struct tunables, on_exit), ON_EXIT_KEEP },
		{ "on-shrink", "read-only", offsetof(struct tunables, on_shrink),
		  ON_SHRINK_READ_ONLY },
		{ "log-level", "error", offsetof(struct tunables, log_level), LOG_LEVEL_ERROR },
		{ "queues", "2", 0, REFUSED },
		{ "name", "x", 0, REFUSED },
		{ "", "x", 0, REFUSED },
#undef B
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
		struct error e = ERROR_INIT;
		struct tunables t, before;
		int err;

		tunables_init(&t);
		before = t;
		err = tunables_set(&t, table[i].name, table[i].value, &e);
		if (table[i].want == REFUSED) {
			if (!err)
				fail_msg("accepted: %s=%s", table[i].name, table[i].value);
			assert_memory_equal(&t, &before, sizeof(t));
			assert_non_null(strstr(e.text, table[i].name));
			continue;
		}
		if (err)
			fail_msg("refused: %s=%s: %s", table[i].name, table[i].value, e.text);
		assert_int_equal(*(uint32_t *)(void *)((char *)&t + table[i].offset),
				 table[i].want);
	}
}

/* What is shown can be set again, and is the same then. */
static void test_tunables_described(void **state)
{
	static const char *const lines[] = {
		"io-timeout", "1.25", "request-timeout", "off", "idle-timeout", "90",
		"on-exit", "keep", "log-level", "debug", "stop-timeout", "off",
		"connect-timeout", "3", "handshake-timeout", "4", "keep-alive", "5",
		"reconnect-min", "6", "reconnect-max", "7", "fence-timeout", "8",
		"fence-after-close", "9",
	};
	struct tunables t, again;
	struct error e = ERROR_INIT;
	const char *name;
	json_t *shown, *value;
	unsigned int i;

	(void)state;
	tunables_init(&t);
	tunables_init(&again);
	for (i = 0; i < ARRAY_SIZE(lines); i += 2)
		assert_int_equal(tunables_set(&t, lines[i], lines[i + 1], &e), 0);
	shown = tunables_describe(&t, &t.backend);
	for (i = 0; tunables_name(i); i++)
		assert_true(json_is_string(json_object_get(shown, tunables_name(i))));
	assert_int_equal(json_object_size(shown), i);
	json_object_foreach(shown, name, value) {
		if (tunables_set(&again, name, json_string_value(value), &e))
			fail_msg("%s", e.text);
	}
	assert_memory_equal(&t, &again, sizeof(t));
	json_decref(shown);
}

/* Write @text to a file; the caller frees the path. */
static char *write_file(const char *text)
{
	char *path = strdup("/tmp/test-options-XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	return path;
}

static int parse_with_file(const char *text, const char *more, struct serve_options *o,
			   struct error *e)
{
	char *path = write_file(text), line[512];
	int err;

	snprintf(line, sizeof(line), "serve %s --config %s", more, path);
	err = parse(line, o, e);
	unlink(path);
	free(path);
	return err;
}

static void test_file(void **state)
{
	struct serve_options o;
	struct error e;

	(void)state;
	assert_int_equal(parse_with_file("; a disk\n[serve]\nname = d9\nuri = nbd://h/x\n"
					 "queues = 4\nread-only = yes\npacked=true ; fast\n",
					 "", &o, &e), 0);
	assert_string_equal(o.name, "d9");
	assert_int_equal(o.queues, 4);
	assert_true(o.read_only && o.packed);
	serve_options_release(&o);

	assert_int_equal(parse_with_file("name = d9\nuri = nbd://h/x\nio-timeout = 1.5 ; s\n",
					 "--request-timeout 2min", &o, &e), 0);
	assert_int_equal(o.tunables.backend.io_timeout_ms, 1500);
	assert_int_equal(o.tunables.backend.request_ms, 120000);
	serve_options_release(&o);

	/* The command line wins, wherever --config stands. */
	assert_int_equal(parse_with_file("name = d9\nuri = nbd://h/x\nqueues = 4\nread-only = on\n",
					 "--queues 2 --read-only=off --name d1", &o, &e), 0);
	assert_string_equal(o.name, "d1");
	assert_int_equal(o.queues, 2);
	assert_false(o.read_only);
	assert_string_equal(o.uri, "nbd://h/x");
	serve_options_release(&o);
}

static void test_file_refused(void **state)
{
	static const struct {
		const char *text;
		const char *says;
	} table[] = {
		{ "name = d0\nqueues = many\n", "line 2" },
		{ "name = d0\ncolour = red\n", "colour" },
		{ "[other]\nname = d0\n", "other" },
		{ "name d0\n", "line 1" },
		{ "config = /etc/passwd\n", "config" },
	};
	struct serve_options o;
	struct error e;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
		if (!parse_with_file(table[i].text, "--uri null:1M", &o, &e))
			fail_msg("accepted: %s", table[i].text);
		if (!strstr(e.text, table[i].says))
			fail_msg("%s: the message does not say \"%s\": %s", table[i].text,
				 table[i].says, e.text);
		serve_options_release(&o);
	}
}

static void test_query(void **state)
{
	struct query_options o;
	bool help;

	(void)state;
	assert_int_equal(query("status d0 --json", true, &o, &help), 0);
	assert_string_equal(o.name, "d0");
	assert_true(o.json && !help);
	assert_int_equal(query("status --json d0", true, &o, &help), 0);
	assert_string_equal(o.name, "d0");
	assert_int_not_equal(query("status", true, &o, &help), 0);
	assert_int_not_equal(query("status ../d0", true, &o, &help), 0);
	assert_int_not_equal(query("status d0 d1", true, &o, &help), 0);
	assert_int_not_equal(query("list d0", false, &o, &help), 0);
	assert_int_not_equal(query("list --xml", false, &o, &help), 0);
	assert_int_equal(query("list --help", false, &o, &help), 0);
	assert_true(help);

	assert_int_equal(query_for("stop --keep d0", QUERY_NAME | QUERY_KEEP, &o, &help), 0);
	assert_true(o.keep && !o.json);
	assert_int_not_equal(query_for("stop d0 --json", QUERY_NAME | QUERY_KEEP, &o, &help), 0);
	assert_int_not_equal(query("status d0 --keep", true, &o, &help), 0);
	assert_int_equal(query_for("set d0 io-timeout=5 on-exit=keep", QUERY_NAME | QUERY_SETTINGS,
				   &o, &help), 0);
	assert_int_equal(o.nsettings, 2);
	assert_string_equal(o.settings[0], "io-timeout=5");
	assert_string_equal(o.settings[1], "on-exit=keep");
	assert_int_not_equal(query_for("set d0", QUERY_NAME | QUERY_SETTINGS, &o, &help), 0);
	assert_int_not_equal(query_for("set d0 5", QUERY_NAME | QUERY_SETTINGS, &o, &help), 0);
	assert_int_not_equal(query_for("set d0 =5", QUERY_NAME | QUERY_SETTINGS, &o, &help), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_tunables),
		cmocka_unit_test(test_tunables_described),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_file_refused),
		cmocka_unit_test(test_query),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
