// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: going on with the device of a killed daemon.
 *
 *	lock of the runtime folder		nobody else serves the name
 *	log, /dev/vduse/NAME			vduse_recovery_find()
 *	storage, told what may still be written	serve_open_storage()
 *	does the log fit?			vduse_create()
 *	messages that wait, then the queues	main loop
 *
 * Where a predecessor was killed:
 *	before the device was attached		it is made anew
 *	while it was being attached		bound to its driver now
 *	while it was being detached		served until the kernel has let go of it;
 *						whoever wanted that asks again
 *
 * A failure leaves device and log as they are, for another try with other options.
 */
#include "base/log.h"
#include "cmd/privileges.h"
#include "cmd/serve.h"

int serve_find_predecessor(struct serve *s, struct error *e)
{
	int err;

	privileges_raise();
	err = vduse_recovery_find(s->options.name, s->runtime.dir_fd, &s->recovery, e);
	privileges_lower();
	return err;
}

void serve_not_recovered(void *opaque, const struct error *e)
{
	struct serve *s = opaque;

	log_error("%s", e->text);
	s->why = *e;
	s->exit_status = EXIT_FAILURE;
	/* A thread that attaches or detaches uses @s, and its end is waited for. */
	if (s->state == SERVE_DETACHING)
		serve_abandon(s);
	else if (s->state != SERVE_ATTACHING)
		loop_stop(s->loop);
}
