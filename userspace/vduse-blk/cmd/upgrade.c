// SPDX-License-Identifier: MIT
/*
 * vduse-blk upgrade: have another process take a device over.
 */
#include <stdio.h>

#include "base/log.h"
#include "base/parse.h"
#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/control_command.h"
#include "cmd/query.h"

/* The daemon has limits of its own for every step; this is more than their sum. */
#define UPGRADE_LIMIT_MS	90000u

static const char usage[] =
	"Usage: vduse-blk upgrade NAME [--binary PATH] [--max-stall TIME] [--json]\n"
	"\n"
	"Has another process take the device NAME over, while it is used: its driver sees a\n"
	"delay and no error. Prints which process serves it now, and the longest delay. If\n"
	"that fails, the old process goes on.\n"
	"\n"
	"  --binary PATH     what to execute, an absolute path (default: the path that the\n"
	"                    daemon was started from, as it is on disk now)\n"
	"  --max-stall TIME  requests in flight have to end within that, or the old process\n"
	"                    goes on (default 5)\n"
	"  --json            print the answer of the daemon\n";

static json_t *make_request(const struct query_options *o)
{
	json_t *request = json_pack("{s:s}", "command", "upgrade");

	if (request && o->binary)
		json_object_set_new(request, "binary", json_string(o->binary));
	if (request && o->max_stall)
		json_object_set_new(request, "max_stall", json_string(o->max_stall));
	return request;
}

static json_int_t number(const json_t *answer, const char *key)
{
	return json_integer_value(json_object_get(answer, key));
}

static const char *text(const json_t *answer, const char *key)
{
	const char *value = json_string_value(json_object_get(answer, key));

	return value ? value : "";
}

static void print_text(const char *name, const json_t *answer)
{
	const json_int_t us = number(answer, "longest_stall_us");
	json_t *stall;
	size_t i;

	printf("%s: process %d (version %s) handed over to process %d (version %s), %s\n", name,
	       (int)number(answer, "old_pid"), text(answer, "old_version"),
	       (int)number(answer, "new_pid"), text(answer, "new_version"),
	       text(answer, "binary"));
	json_array_foreach(json_object_get(answer, "stall_us"), i, stall)
		printf("%s: virtqueue %zu stood still for %" JSON_INTEGER_FORMAT " us\n", name, i,
		       json_integer_value(stall));
	printf("%s: longest stall: %" JSON_INTEGER_FORMAT ".%03d ms\n", name, us / 1000,
	       (int)(us % 1000));
}

int cmd_upgrade(int argc, char **argv)
{
	unsigned int limit_ms = UPGRADE_LIMIT_MS;
	struct query_options options;
	json_t *answer;
	uint64_t ms;
	int status;

	if (!query_begin(argc, argv, QUERY_NAME | QUERY_JSON | QUERY_UPGRADE, usage, &options,
			 &status))
		return status;
	if (options.max_stall && !parse_duration_ms(options.max_stall, &ms, NULL))
		limit_ms += (unsigned int)min(ms, (uint64_t)UPGRADE_LIMIT_MS * 10);
	answer = query_daemon(options.name, make_request(&options), limit_ms);
	if (!answer)
		return EXIT_FAILURE;
	if (options.json)
		query_print_json(answer);
	else
		print_text(options.name, answer);
	json_decref(answer);
	return query_end(EXIT_SUCCESS);
}
