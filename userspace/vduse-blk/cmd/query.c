// SPDX-License-Identifier: MIT
/*
 * What the commands that talk to a daemon have in common.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/query.h"
#include "cmd/runtime.h"

bool query_begin(int argc, char **argv, unsigned int takes, const char *usage,
		 struct query_options *ret_options, int *ret_status)
{
	struct query_options options;
	struct error e = ERROR_INIT;
	bool help;

	signal(SIGPIPE, SIG_IGN);
	if (query_options_parse(argc, argv, takes, &options, &help, &e)) {
		log_error("%s", e.text);
		*ret_status = EXIT_USAGE;
		return false;
	}
	if (help) {
		fputs(usage, stdout);
		*ret_status = query_end(EXIT_SUCCESS);
		return false;
	}
	*ret_options = options;
	return true;
}

json_t *query_daemon(const char *name, json_t *request, unsigned int limit_ms)
{
	struct error e = ERROR_INIT;
	json_t *answer = NULL;

	if (control_call(RUNTIME_ROOT, name, request, limit_ms, &answer, &e))
		log_error("%s", e.text);
	return answer;
}

void query_print_json(const json_t *document)
{
	json_dumpf(document, stdout, JSON_INDENT(2));
	putchar('\n');
}

int query_end(int status)
{
	errno = 0;
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	if (errno != EPIPE)
		log_error("write to standard output: %s", strerror(errno ? errno : EIO));
	return EXIT_FAILURE;
}
