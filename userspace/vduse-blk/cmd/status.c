// SPDX-License-Identifier: MIT
/*
 * vduse-blk status: what one daemon does.
 *
 * The text is made from the same document that --json prints.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/query.h"

static const char usage[] =
	"Usage: vduse-blk status NAME [--json]\n"
	"\n"
	"Shows what the daemon that serves the device NAME does.\n";

static void print_value(const char *key, json_t *value)
{
	if (json_is_string(value))
		printf("%-17s %s\n", key, json_string_value(value));
	else if (json_is_integer(value))
		printf("%-17s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
	else if (json_is_boolean(value))
		printf("%-17s %s\n", key, json_is_true(value) ? "yes" : "no");
}

static void print_queue(json_t *queue)
{
	const char *key;
	json_t *value;

	printf("virtqueue %-7" JSON_INTEGER_FORMAT,
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
	json_object_foreach(json_object_get(status, "options"), key, value)
		print_value(key, value);
	json_array_foreach(json_object_get(status, "virtqueues"), i, value)
		print_queue(value);
}

int cmd_status(int argc, char **argv)
{
	struct query_options options;
	json_t *answer, *status;
	int exit_status;

	if (!query_begin(argc, argv, QUERY_NAME | QUERY_JSON, usage, &options, &exit_status))
		return exit_status;
	answer = query_daemon(options.name, json_pack("{s:s}", "command", "status"),
			      CONTROL_QUERY_MS);
	if (!answer)
		return EXIT_FAILURE;
	status = json_object_get(answer, "status");
	if (options.json)
		query_print_json(status);
	else
		print_text(status);
	json_decref(answer);
	return query_end(EXIT_SUCCESS);
}
