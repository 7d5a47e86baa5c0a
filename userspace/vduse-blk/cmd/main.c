// SPDX-License-Identifier: MIT
/*
 * vduse-blk: virtio block devices on remote storage, through VDUSE.
 *
 * Chooses the command; everything else is in cmd_*().
 */
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/version.h"

/*
 * What this build survives: tests and scripts ask for it instead of guessing
 * from options. A word is added, behind a blank, when all of it works:
 *
 *	reconnect  a lost server is found again, nothing is lost meanwhile
 *	timeout    so is one that keeps the connection and does not answer
 *	recovery   a killed daemon's successor goes on with the requests in flight
 *	keep       --on-exit keep
 *	upgrade    the command of that name
 *	resize     the driver learns of another size
 */
#define VDUSE_BLK_FEATURES " keep reconnect recovery resize timeout upgrade"

static const char usage[] =
	"Usage: vduse-blk serve --name NAME --uri URI [OPTION...]\n"
	"       vduse-blk list [--json]\n"
	"       vduse-blk status NAME [--json]\n"
	"       vduse-blk stats NAME [--json]\n"
	"       vduse-blk set NAME OPTION=VALUE...\n"
	"       vduse-blk resize NAME\n"
	"       vduse-blk fail NAME\n"
	"       vduse-blk stop NAME [--keep]\n"
	"       vduse-blk upgrade NAME [--binary PATH] [--max-stall TIME] [--json]\n"
	"       vduse-blk --help | --version\n"
	"\n"
	"  serve    offer the disk at URI as a block device, until SIGTERM or SIGINT\n"
	"  list     list the devices that are being served\n"
	"  status   show what the daemon of one device does\n"
	"  stats    show its counters and latencies\n"
	"  set      change its options\n"
	"  resize   ask the server for the size again\n"
	"  fail     fail requests that wait for the server\n"
	"  stop     end the daemon\n"
	"  upgrade  have another process take the device over\n"
	"\n"
	"\"vduse-blk COMMAND --help\" says more.\n";

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "serve", cmd_serve },
	{ "list", cmd_list },
	{ "status", cmd_status },
	{ "stats", cmd_stats },
	{ "set", cmd_set },
	{ "resize", cmd_resize },
	{ "fail", cmd_fail },
	{ "stop", cmd_stop },
	{ "upgrade", cmd_upgrade },
};

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		if (!strcmp(name, commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		fputs(usage, stdout);
		return 0;
	}
	if (!strcmp(name, "--version")) {
		puts("vduse-blk " VDUSE_BLK_VERSION "\n"
		     "features:" VDUSE_BLK_FEATURES);
		return 0;
	}
	if (name[0])
		fprintf(stderr, "vduse-blk: unknown command \"%s\"\n", name);
	fputs(usage, stderr);
	return EXIT_USAGE;
}
