// SPDX-License-Identifier: MIT
/*
 * Fuzz target: the configuration file of "serve". What it accepts must be within
 * the limits that the rest of the daemon takes for granted; what it refuses comes
 * with an errno and one line that names the file.
 */
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "cmd/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
	if (!ok)
		abort();
}

static void check_accepted(const struct serve_options *o)
{
	const char *c;

	for (c = o->name; *c; c++)
		require(isalnum(*c) || strchr("._-", *c));
	require(o->name[0]);
	require(strcmp(o->name, ".") && strcmp(o->name, ".."));
	require(o->uri && o->uri[0]);
	require(o->queues >= 1 && o->queues <= OPTION_QUEUES_MAX);
	require(is_power_of_2(o->queue_size) && o->queue_size >= OPTION_QUEUE_SIZE_MIN &&
		o->queue_size <= OPTION_QUEUE_SIZE_MAX);
	require(o->transport >= 0 && o->transport < _TRANSPORT_KIND_MAX);
	require((o->transport == TRANSPORT_VHOST_USER) == !!o->socket);
	require(o->bind >= 0 && o->bind < _BIND_TARGET_MAX);
	require(!o->block_size || (is_power_of_2(o->block_size) && o->block_size >= 512 &&
				   o->block_size <= 4096));
	require(!o->replay_log || (o->replay_log >= OPTION_REPLAY_LOG_MIN &&
				   o->replay_log <= OPTION_REPLAY_LOG_MAX));
	/* Only the daemon itself says that. */
	require(o->take_over == -1);
	require(o->tunables.backend.reconnect_min_ms <= o->tunables.backend.reconnect_max_ms ||
		!o->tunables.backend.reconnect_max_ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	struct error e = ERROR_INIT;
	struct serve_options o;
	char path[32], command[] = "serve", config[] = "--config";
	char *argv[4] = { command, config, path };
	bool help;
	int err;

	if (fd < 0)
		fd = memfd_create("options", MFD_CLOEXEC);
	require(!ftruncate(fd, 0) && pwrite(fd, data, size, 0) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);

	serve_options_init(&o);
	err = serve_options_parse(3, argv, &o, &help, &e);
	require(err <= 0 && err == -e.errnum);
	require(!help);
	if (err)
		require(e.text[0] && !strchr(e.text, '\n'));
	else
		check_accepted(&o);
	serve_options_release(&o);
	return 0;
}
