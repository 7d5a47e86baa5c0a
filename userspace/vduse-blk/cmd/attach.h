/* SPDX-License-Identifier: MIT */
/*
 * Attaching the device to the vDPA bus and detaching it, on a thread of its
 * own: both wait inside the kernel for answers of the very device that the main
 * thread and the queue threads serve.
 */
#ifndef VDUSE_BLK_CMD_ATTACH_H
#define VDUSE_BLK_CMD_ATTACH_H

#include <pthread.h>

#include "base/error.h"
#include "cmd/options.h"
#include "loop/loop.h"

/**
 * struct attach_job - one attachment or detachment under way
 * @loop:	loop of the thread that wants to know
 * @name:	device name
 * @bind:	bus driver wanted
 * @attached:	a predecessor has attached it: bind it if it did not come that far
 * @done:	called on @loop when it is over
 * @error:	outcome, 0 or -errno
 * @text:	why it failed
 * @path:	after attaching: the device it made
 *
 * The first five are set by the caller, who leaves the struct alone until
 * @done. The rest is private.
 */
struct attach_job {
	struct loop *loop;
	const char *name;
	enum bind_target bind;
	bool attached;
	void (*done)(struct attach_job *job);
	int error;
	struct error text;
	char path[256];

	void (*work)(struct attach_job *job);
	pthread_t thread;
	int event_fd;
	struct loop_op op;
};

/**
 * attach_start() - attach the device, bind it, wait for what appears
 * @job:	filled in by the caller; @bind is not BIND_NONE
 * @e:		error text
 *
 * What was attached is detached again if a later step fails.
 *
 * Return: 0 or -errno when it could not even begin (no @done then).
 */
int attach_start(struct attach_job *job, struct error *e);

/**
 * detach_start() - detach the device if it is attached
 * @job:	filled in by the caller
 * @e:		error text
 *
 * Only a device of the management device "vduse" is touched; one that is not
 * attached is no error.
 *
 * Return: 0 or -errno when it could not even begin (no @done then).
 */
int detach_start(struct attach_job *job, struct error *e);

#endif
