// SPDX-License-Identifier: MIT
/*
 * vduse-blk resize: ask the server for the size again.
 */
#include <stdio.h>

#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/query.h"

/* The daemon waits for the server, which is not at hand like its own memory. */
#define RESIZE_LIMIT_MS	30000u

static const char usage[] =
	"Usage: vduse-blk resize NAME\n"
	"\n"
	"Asks the server of the device NAME for its size again, has the driver take over a\n"
	"larger one, and prints the size of the device in bytes. A device does not shrink.\n";

int cmd_resize(int argc, char **argv)
{
	struct query_options options;
	json_int_t size, storage_size;
	json_t *answer;
	int status;

	if (!query_begin(argc, argv, QUERY_NAME, usage, &options, &status))
		return status;
	answer = query_daemon(options.name, json_pack("{s:s}", "command", "resize"),
			      RESIZE_LIMIT_MS);
	if (!answer)
		return EXIT_FAILURE;
	size = json_integer_value(json_object_get(answer, "size"));
	storage_size = json_integer_value(json_object_get(answer, "storage_size"));
	json_decref(answer);
	printf("%" JSON_INTEGER_FORMAT "\n", size);
	if (storage_size < size)
		log_warning("the storage has shrunk to %" JSON_INTEGER_FORMAT " bytes",
			    storage_size);
	return query_end(EXIT_SUCCESS);
}
