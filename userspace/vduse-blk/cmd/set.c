// SPDX-License-Identifier: MIT
/*
 * vduse-blk set: change options of a daemon while it serves.
 */
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/query.h"

static const char usage[] =
	"Usage: vduse-blk set NAME OPTION=VALUE...\n"
	"\n"
	"Changes options of the daemon that serves the device NAME. They are in force at\n"
	"once, for requests that wait already, too; all of them or, if one is wrong, none.\n"
	"\n";

static void print_names(void)
{
	unsigned int i;

	printf("Options:");
	for (i = 0; tunables_name(i); i++)
		printf("%s%s", i % 4 ? ", " : i ? ",\n         " : " ", tunables_name(i));
	putchar('\n');
}

static json_t *make_request(const struct query_options *o)
{
	json_t *values = json_object();
	unsigned int i;

	for (i = 0; i < o->nsettings; i++) {
		char *equals = strchr(o->settings[i], '=');

		*equals = '\0';
		if (json_object_set_new(values, o->settings[i], json_string(equals + 1))) {
			json_decref(values);
			return NULL;
		}
	}
	return json_pack("{s:s, s:o}", "command", "set", "options", values);
}

int cmd_set(int argc, char **argv)
{
	struct query_options options;
	json_t *answer;
	int status;

	if (!query_begin(argc, argv, QUERY_NAME | QUERY_SETTINGS, usage, &options, &status)) {
		if (status == EXIT_SUCCESS)
			print_names();
		return query_end(status);
	}
	answer = query_daemon(options.name, make_request(&options), CONTROL_QUERY_MS);
	status = answer ? EXIT_SUCCESS : EXIT_FAILURE;
	json_decref(answer);
	return status;
}
