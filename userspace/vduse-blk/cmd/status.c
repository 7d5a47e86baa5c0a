// SPDX-License-Identifier: MIT
/*
 * vduse-blk status: what one daemon does.
 *
 * The text is made from the same document that --json prints.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/runtime.h"
#include "cmd/status_socket.h"

static const char usage[] =
	"Usage: vduse-blk status NAME [--json]\n"
	"\n"
	"Shows what the daemon that serves the device NAME does.\n";

static void print_value(const char *key, json_t *value)
{
	if (json_is_string(value))
		printf("%-14s %s\n", key, json_string_value(value));
	else if (json_is_integer(value))
		printf("%-14s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
	else if (json_is_boolean(value))
		printf("%-14s %s\n", key, json_is_true(value) ? "yes" : "no");
}

static void print_queue(json_t *queue)
{
	const char *key;
	json_t *value;

	printf("virtqueue %-4" JSON_INTEGER_FORMAT,
	       json_integer_value(json_object_get(queue, "index")));
	json_object_foreach(queue, key, value) {
		if (json_is_integer(value) && strcmp(key, "index"))
			printf(" %s=%" JSON_INTEGER_FORMAT, key, json_integer_value(value));
		else if (json_is_true(value))
			printf(" %s", key);
	}
	putchar('\n');
}

static void print_text(json_t *status)
{
	const char *key;
	json_t *value;
	size_t i;

	json_object_foreach(status, key, value)
		print_value(key, value);
	json_array_foreach(json_object_get(status, "virtqueues"), i, value)
		print_queue(value);
}

int cmd_status(int argc, char **argv)
{
	struct query_options options;
	struct error e = ERROR_INIT;
	json_t *status;
	pid_t pid;
	bool help;
	int running;

	if (query_options_parse(argc, argv, QUERY_NAME | QUERY_JSON, &options, &help, &e)) {
		log_error("%s", e.text);
		return EXIT_USAGE;
	}
	if (help) {
		fputs(usage, stdout);
		return EXIT_SUCCESS;
	}

	running = runtime_owner(RUNTIME_ROOT, options.name, &pid);
	if (running < 0) {
		log_error("look for the daemon of \"%s\": %s", options.name, strerror(-running));
		return EXIT_FAILURE;
	}
	if (!running) {
		log_error("nobody serves a device \"%s\"", options.name);
		return EXIT_FAILURE;
	}
	if (status_query(RUNTIME_ROOT, options.name, &status, &e)) {
		log_error("process %d: %s", (int)pid, e.text);
		return EXIT_FAILURE;
	}

	if (options.json) {
		json_dumpf(status, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_text(status);
	}
	json_decref(status);
	return EXIT_SUCCESS;
}
