/* SPDX-License-Identifier: MIT */
/*
 * Commands of the control socket: from a JSON object to a checked command.
 */
#ifndef VDUSE_BLK_CMD_CONTROL_COMMAND_H
#define VDUSE_BLK_CMD_CONTROL_COMMAND_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"
#include "cmd/tunables.h"

#define CONTROL_MAX_STALL_MS	5000u /* unless the request says otherwise */

/**
 * enum control_kind - what is asked for
 * @CONTROL_STATUS:	{"command": "status"}
 * @CONTROL_STATS:	{"command": "stats"}
 * @CONTROL_SET:	{"command": "set", "options": {"NAME": "VALUE", ...}}
 * @CONTROL_RESIZE:	{"command": "resize"}
 * @CONTROL_FAIL:	{"command": "fail"}
 * @CONTROL_STOP:	{"command": "stop", "keep": true or false}; without "keep"
 *			as --on-exit says
 * @CONTROL_UPGRADE:	{"command": "upgrade", "binary": "/PATH", "max_stall": "TIME"};
 *			either may be left out
 */
enum control_kind {
	CONTROL_STATUS,
	CONTROL_STATS,
	CONTROL_SET,
	CONTROL_RESIZE,
	CONTROL_FAIL,
	CONTROL_STOP,
	CONTROL_UPGRADE,
	_CONTROL_KIND_MAX,
};

/**
 * struct control_command - a checked command
 * @kind:	which
 * @tunables:	CONTROL_SET: all of them as they shall be
 * @changed:	CONTROL_SET: for the log, "NAME=VALUE NAME=VALUE"
 * @on_exit:	CONTROL_STOP: enum on_exit
 * @binary:	CONTROL_UPGRADE: absolute path, the document's; NULL: the daemon's own
 * @max_stall_ms: CONTROL_UPGRADE: how long the driver may wait
 */
struct control_command {
	enum control_kind kind;
	struct tunables tunables;
	char changed[256];
	unsigned int on_exit;
	const char *binary;
	uint32_t max_stall_ms;
};

/**
 * control_command_parse() - check a request
 * @request:	a JSON object
 * @now:	tunables as they are
 * @ret_command: written only on success
 * @e:		error text
 *
 * Members that the command does not have are refused: what is misspelt must not
 * be taken for left out.
 *
 * Return: 0, -ENOENT for an unknown option, -EINVAL or -EOPNOTSUPP for a command
 * that this version does not know.
 */
int control_command_parse(const json_t *request, const struct tunables *now,
			  struct control_command *ret_command, struct error *e);

/**
 * control_command_name() - for the log
 * @kind: which
 *
 * Return: static text.
 */
const char *control_command_name(enum control_kind kind);

/**
 * control_command_changes() - does it change anything?
 * @kind: which
 *
 * Return: true if it is to be logged.
 */
bool control_command_changes(enum control_kind kind);

#endif
