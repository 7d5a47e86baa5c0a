// SPDX-License-Identifier: MIT
/*
 * Commands of the control socket.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/parse.h"
#include "base/util.h"
#include "cmd/control_command.h"

static int parse_set(const json_t *request, struct control_command *command, struct error *e);
static int parse_stop(const json_t *request, struct control_command *command, struct error *e);
static int parse_upgrade(const json_t *request, struct control_command *command,
			 struct error *e);

#define MEMBERS_MAX	2u

static const struct {
	const char *name;
	bool changes;
	const char *members[MEMBERS_MAX]; /* that it may have besides "command" */
	int (*parse)(const json_t *request, struct control_command *command, struct error *e);
} commands[_CONTROL_KIND_MAX] = {
	[CONTROL_STATUS] = { .name = "status" },
	[CONTROL_STATS] = { .name = "stats" },
	[CONTROL_SET] = { "set", true, { "options" }, parse_set },
	[CONTROL_RESIZE] = { .name = "resize", .changes = true },
	[CONTROL_FAIL] = { .name = "fail", .changes = true },
	[CONTROL_STOP] = { "stop", true, { "keep" }, parse_stop },
	[CONTROL_UPGRADE] = { "upgrade", true, { "binary", "max_stall" }, parse_upgrade },
};

const char *control_command_name(enum control_kind kind)
{
	return commands[kind].name;
}

bool control_command_changes(enum control_kind kind)
{
	return commands[kind].changes;
}

/* All or nothing: the caller gets the command only if every value is good. */
static int parse_set(const json_t *request, struct control_command *command, struct error *e)
{
	json_t *options = json_object_get(request, "options"), *value;
	const char *name;
	size_t used = 0;
	int err;

	if (!json_object_size(options))
		return err_set(e, EINVAL, "set: \"options\" has to be an object with options");
	json_object_foreach(options, name, value) {
		if (!json_is_string(value))
			return err_set(e, EINVAL, "set: the value of \"%s\" has to be a string",
				       name);
		err = tunables_set(&command->tunables, name, json_string_value(value), e);
		if (err)
			return err;
		if (used < sizeof(command->changed))
			used += (size_t)snprintf(command->changed + used,
						 sizeof(command->changed) - used, " %s=%s", name,
						 json_string_value(value));
	}
	return tunables_check(&command->tunables, e);
}

static int parse_stop(const json_t *request, struct control_command *command, struct error *e)
{
	const json_t *keep = json_object_get(request, "keep");

	command->on_exit = command->tunables.on_exit;
	if (!keep)
		return 0;
	if (!json_is_boolean(keep))
		return err_set(e, EINVAL, "stop: \"keep\" has to be true or false");
	command->on_exit = json_is_true(keep) ? ON_EXIT_KEEP : ON_EXIT_DETACH;
	return 0;
}

#define STALL_MIN_MS	1u
#define STALL_MAX_MS	600000u

static int parse_upgrade(const json_t *request, struct control_command *command,
			 struct error *e)
{
	const json_t *binary = json_object_get(request, "binary");
	const json_t *stall = json_object_get(request, "max_stall");
	uint64_t ms = CONTROL_MAX_STALL_MS;

	if (binary && (!json_is_string(binary) || json_string_value(binary)[0] != '/'))
		return err_set(e, EINVAL, "upgrade: \"binary\" has to be an absolute path");
	if (stall && (!json_is_string(stall) ||
		      parse_duration_ms(json_string_value(stall), &ms, NULL) ||
		      ms < STALL_MIN_MS || ms > STALL_MAX_MS))
		return err_set(e, EINVAL, "upgrade: \"max_stall\" has to be a time within 1ms and 10min");
	command->binary = json_string_value(binary);
	command->max_stall_ms = (uint32_t)ms;
	return 0;
}

static bool knows_member(enum control_kind kind, const char *name)
{
	unsigned int i;

	for (i = 0; i < MEMBERS_MAX && commands[kind].members[i]; i++) {
		if (!strcmp(name, commands[kind].members[i]))
			return true;
	}
	return !strcmp(name, "command");
}

static int find_command(const json_t *request, enum control_kind *ret_kind, struct error *e)
{
	const char *name = json_string_value(json_object_get(request, "command"));
	unsigned int i;

	if (!name)
		return err_set(e, EINVAL, "\"command\" has to be a string");
	for (i = 0; i < _CONTROL_KIND_MAX; i++) {
		if (!strcmp(name, commands[i].name)) {
			*ret_kind = (enum control_kind)i;
			return 0;
		}
	}
	return err_set(e, EOPNOTSUPP, "unknown command \"%s\"", name);
}

int control_command_parse(const json_t *request, const struct tunables *now,
			  struct control_command *ret_command, struct error *e)
{
	struct control_command command = { .tunables = *now };
	const char *name;
	json_t *value;
	int err;

	err = find_command(request, &command.kind, e);
	if (err)
		return err;
	json_object_foreach((json_t *)request, name, value) {
		if (!knows_member(command.kind, name))
			return err_set(e, EINVAL, "%s: unknown member \"%s\"",
				       commands[command.kind].name, name);
	}
	if (commands[command.kind].parse)
		err = commands[command.kind].parse(request, &command, e);
	if (!err)
		*ret_command = command;
	return err;
}
