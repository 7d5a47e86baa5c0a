// SPDX-License-Identifier: MIT
/*
 * vduse-blk fail: no longer wait for the server.
 */
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/query.h"

static const char usage[] =
	"Usage: vduse-blk fail NAME\n"
	"\n"
	"Requests of the device NAME that wait for the server fail with an I/O error, now,\n"
	"and so do new ones until it can be reached again.\n";

int cmd_fail(int argc, char **argv)
{
	struct query_options options;
	json_t *answer;
	int status;

	if (!query_begin(argc, argv, QUERY_NAME, usage, &options, &status))
		return status;
	answer = query_daemon(options.name, json_pack("{s:s}", "command", "fail"),
			      CONTROL_QUERY_MS);
	status = answer ? EXIT_SUCCESS : EXIT_FAILURE;
	json_decref(answer);
	return status;
}
