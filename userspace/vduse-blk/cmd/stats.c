// SPDX-License-Identifier: MIT
/*
 * vduse-blk stats: counters and latencies of one daemon.
 */
#include <stdio.h>

#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/query.h"
#include "cmd/stats_text.h"

static const char usage[] =
	"Usage: vduse-blk stats NAME [--json]\n"
	"\n"
	"Shows requests, bytes, errors and latencies of each virtqueue, and what each\n"
	"connection to the server does, since the daemon began. Latencies are from taking\n"
	"a request out of the ring to its completion.\n";

int cmd_stats(int argc, char **argv)
{
	struct query_options options;
	json_t *answer, *stats;
	int exit_status;

	if (!query_begin(argc, argv, QUERY_NAME | QUERY_JSON, usage, &options, &exit_status))
		return exit_status;
	answer = query_daemon(options.name, json_pack("{s:s}", "command", "stats"),
			      CONTROL_QUERY_MS);
	if (!answer)
		return EXIT_FAILURE;
	stats = json_object_get(answer, "stats");
	if (options.json)
		query_print_json(stats);
	else
		stats_print(stdout, stats);
	json_decref(answer);
	return query_end(EXIT_SUCCESS);
}
