// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: what the control socket asks for is done here.
 */
#include <errno.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/control_command.h"
#include "cmd/json_text.h"
#include "cmd/serve.h"

static void answer_with(struct control_request *r, const char *name, json_t *value)
{
	struct error e = ERROR_INIT;
	json_t *answer = value ? json_pack("{s:o}", name, value) : NULL;

	if (answer) {
		control_answer(r, answer);
		return;
	}
	err_set(&e, ENOMEM, "out of memory");
	control_refuse(r, &e);
}

/* A successor gets them besides its command line. */
static int remember_options(struct serve *s, json_t *options)
{
	if (!s->set_options)
		s->set_options = json_object();
	return json_object_update(s->set_options, options);
}

static void set(struct serve *s, const struct control_command *command, struct control_request *r)
{
	struct error e = ERROR_INIT;

	if (s->upgrade) {
		err_set(&e, EBUSY, "an upgrade is under way");
		control_refuse(r, &e);
		return;
	}
	if (remember_options(s, json_object_get(r->document, "options"))) {
		err_set(&e, ENOMEM, "out of memory");
		control_refuse(r, &e);
		return;
	}
	s->options.tunables = command->tunables;
	log_set_level((enum log_level)command->tunables.log_level);
	backend_set_tunables(s->backend, &command->tunables.backend);
	serve_apply_policy(s);
	answer_with(r, "options", tunables_describe(&s->options.tunables,
						    &s->backend->options.tunables));
}

static void carry_out(struct serve *s, const struct control_command *command,
		      struct control_request *r)
{
	switch (command->kind) {
	case CONTROL_STATUS:
		answer_with(r, "status", serve_describe(s));
		break;
	case CONTROL_STATS:
		answer_with(r, "stats", serve_describe_stats(s));
		break;
	case CONTROL_SET:
		set(s, command, r);
		break;
	case CONTROL_FAIL:
		backend_fail(s->backend);
		control_answer(r, NULL);
		break;
	case CONTROL_RESIZE:
		serve_resize(s, r);
		break;
	case CONTROL_STOP:
		control_answer(r, NULL);
		serve_stop(s, command->on_exit);
		break;
	case CONTROL_UPGRADE:
		serve_begin_upgrade(s, command, r);
		break;
	case _CONTROL_KIND_MAX:
		break;
	}
}

void serve_control(void *opaque, struct control_request *r)
{
	struct control_command command;
	struct error e = ERROR_INIT;
	struct serve *s = opaque;

	if (serve_gone(s)) {
		err_set(&e, EAGAIN, "the device is being handed over to another process");
		control_refuse(r, &e);
		return;
	}
	if (control_command_parse(r->document, &s->options.tunables, &command, &e)) {
		control_refuse(r, &e);
		return;
	}
	if (control_command_changes(command.kind))
		log_info("%s: %s%s, asked by user %u, process %d", s->options.name,
			 control_command_name(command.kind), command.changed,
			 (unsigned int)r->peer.uid, (int)r->peer.pid);
	carry_out(s, &command, r);
}
