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

static int query(const char *line, bool with_name, struct query_options *o, bool *ret_help)
{
	char copy[512], *argv[MAX_ARGS + 1];
	int argc = split(line, copy, sizeof(copy), argv);
	struct error e = ERROR_INIT;

	return query_options_parse(argc, argv, with_name, o, ret_help, &e);
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
	assert_int_equal(o.bind, BIND_VIRTIO);
	assert_false(o.read_only);
	assert_string_equal(o.serial, "");
	assert_null(o.user);
	assert_int_equal(o.log_level, LOG_LEVEL_INFO);
	assert_int_equal(o.block_size, 0);
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
	assert_int_equal(o.log_level, LOG_LEVEL_DEBUG);
	serve_options_release(&o);

	assert_int_equal(parse("serve --name d0 --uri null:1M --read-only=off --user nobody --block-size 4096 --bind none",
			       &o, &e), 0);
	assert_false(o.read_only);
	assert_string_equal(o.user, "nobody");
	assert_int_equal(o.block_size, 4096);
	assert_int_equal(o.bind, BIND_NONE);
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
		{ "--name d0 --uri null:1M --read-only=perhaps", "read-only" },
		{ "--name d0 --uri null:1M --serial 123456789012345678901", "serial" },
		{ "--name d0 --uri null:1M --serial a\tb", "serial" },
		{ "--name d0 --uri null:1M --user=", "user" },
		{ "--name d0 --uri null:1M --log-level loud", "log-level" },
		{ "--name d0 --uri null:1M --block-size 511", "block-size" },
		{ "--name d0 --uri null:1M --block-size 768", "block-size" },
		{ "--name d0 --uri null:1M --block-size 8192", "block-size" },
		{ "--name d0 --uri null:1M --config /nonexistent/file", "/nonexistent/file" },
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
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_file_refused),
		cmocka_unit_test(test_query),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
