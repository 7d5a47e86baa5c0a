// SPDX-License-Identifier: MIT
/*
 * vduse-blk list: the daemons that run, from their runtime folders.
 *
 * A daemon that holds its lock but does not answer is listed all the same.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/query.h"
#include "cmd/runtime.h"

/* A daemon that has so much to do that it does not answer is not waited for. */
#define SILENT_MS 2000

static const char usage[] =
	"Usage: vduse-blk list [--json]\n"
	"\n"
	"Lists the devices that are being served on this host.\n";

static int is_candidate(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static const char *text_of(json_t *status, const char *key)
{
	const char *text = json_string_value(json_object_get(status, key));

	return text && text[0] ? text : "-";
}

static void print_line(json_t *status)
{
	printf("%-16s %-8lld %-10s %-18s %-14lld %s\n", text_of(status, "name"),
	       (long long)json_integer_value(json_object_get(status, "pid")),
	       text_of(status, "state"), text_of(status, "path"),
	       (long long)json_integer_value(json_object_get(status, "size")),
	       text_of(status, "uri"));
}

/* NULL when nobody serves @name. */
static json_t *query(const char *name)
{
	json_t *answer, *status;
	pid_t pid = 0;
	int running = runtime_owner(RUNTIME_ROOT, name, &pid);

	/* A member of the control group may ask the daemon, and nothing else. */
	if (running < 0 && running != -EACCES)
		log_warning("%s: %s", name, strerror(-running));
	if (running <= 0 && running != -EACCES)
		return NULL;
	if (control_call(RUNTIME_ROOT, name, json_pack("{s:s}", "command", "status"), SILENT_MS,
			 &answer, NULL))
		return running < 0 ? NULL :
		       json_pack("{s:s, s:i, s:s}", "name", name, "pid", (int)pid, "state", "silent");
	status = json_incref(json_object_get(answer, "status"));
	json_decref(answer);
	return status;
}

int cmd_list(int argc, char **argv)
{
	struct query_options options;
	struct dirent **entries;
	json_t *all;
	size_t i;
	int n, exit_status;

	if (!query_begin(argc, argv, QUERY_JSON, usage, &options, &exit_status))
		return exit_status;

	n = scandir(RUNTIME_ROOT, &entries, is_candidate, alphasort);
	if (n < 0 && errno != ENOENT) {
		log_error("read " RUNTIME_ROOT ": %s", strerror(errno));
		return EXIT_FAILURE;
	}
	all = json_array();
	for (i = 0; n > 0 && i < (size_t)n; i++) {
		json_t *status = query(entries[i]->d_name);

		if (status)
			json_array_append_new(all, status);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);

	if (options.json) {
		query_print_json(all);
	} else {
		printf("%-16s %-8s %-10s %-18s %-14s %s\n", "NAME", "PID", "STATE", "PATH", "SIZE",
		       "URI");
		for (i = 0; i < json_array_size(all); i++)
			print_line(json_array_get(all, i));
	}
	json_decref(all);
	return query_end(EXIT_SUCCESS);
}
