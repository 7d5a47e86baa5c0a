// SPDX-License-Identifier: MIT
/*
 * vduse-blk stop: end a daemon, and wait until it has ended.
 */
#include <errno.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/query.h"
#include "cmd/runtime.h"

/* A driver may have much to write back, which goes on as long as that gets on. */
#define WAIT_MS		600000u
#define LOOK_MS		20u

static const char usage[] =
	"Usage: vduse-blk stop NAME [--keep]\n"
	"\n"
	"Ends the daemon that serves the device NAME, and waits until it has ended. The\n"
	"driver writes back what it has and lets go of the device, which disappears;\n"
	"requests of which none was completed for --stop-timeout fail. With --keep the\n"
	"device stays, and its driver waits for a successor with the same name.\n";

static bool has_ended(const char *name)
{
	json_t *answer = NULL;
	pid_t pid;
	int running = runtime_owner(RUNTIME_ROOT, name, &pid);

	if (running >= 0)
		return !running;
	/* A member of the control group cannot look at the lock. */
	running = control_call(RUNTIME_ROOT, name, json_pack("{s:s}", "command", "status"),
			       CONTROL_QUERY_MS, &answer, NULL);
	json_decref(answer);
	return running == -ENOENT;
}

int cmd_stop(int argc, char **argv)
{
	struct query_options options;
	json_t *request, *answer;
	unsigned int waited;
	int status;

	if (!query_begin(argc, argv, QUERY_NAME | QUERY_KEEP, usage, &options, &status))
		return status;
	/* Without --keep the daemon's own --on-exit counts. */
	request = options.keep ? json_pack("{s:s, s:b}", "command", "stop", "keep", 1) :
		  json_pack("{s:s}", "command", "stop");
	answer = query_daemon(options.name, request, CONTROL_QUERY_MS);
	if (!answer)
		return EXIT_FAILURE;
	json_decref(answer);
	for (waited = 0; waited < WAIT_MS; waited += LOOK_MS) {
		if (has_ended(options.name))
			return EXIT_SUCCESS;
		usleep(LOOK_MS * 1000);
	}
	log_error("the daemon of \"%s\" is still busy; \"vduse-blk fail %s\" gives its requests up",
		  options.name, options.name);
	return EXIT_FAILURE;
}
