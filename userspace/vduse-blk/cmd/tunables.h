/* SPDX-License-Identifier: MIT */
/*
 * Options that may be changed while the disk is in use: on the command line and
 * in the configuration file like all others, and later with "vduse-blk set".
 *
 * Durations are seconds with decimals, or have a unit: ms, s, min, h.
 */
#ifndef VDUSE_BLK_CMD_TUNABLES_H
#define VDUSE_BLK_CMD_TUNABLES_H

#include <jansson.h>

#include "backend/backend.h"
#include "base/error.h"
#include "base/log.h"

/**
 * enum on_exit - what the end of the daemon means for its device
 * @ON_EXIT_DETACH:	the driver lets go, the device is destroyed
 * @ON_EXIT_KEEP:	the device stays, its driver waits for a successor
 */
enum on_exit {
	ON_EXIT_DETACH,
	ON_EXIT_KEEP,
	_ON_EXIT_MAX,
};

/**
 * enum on_shrink - what to do when the storage has become less than it was
 * @ON_SHRINK_ERROR:	requests that it cannot serve any more fail
 * @ON_SHRINK_READ_ONLY: besides, nothing is written any more
 */
enum on_shrink {
	ON_SHRINK_ERROR,
	ON_SHRINK_READ_ONLY,
	_ON_SHRINK_MAX,
};

/**
 * struct tunables - validated values
 * @backend:	timeouts; 0: the backend's default
 * @stop_ms:	how long an end waits for requests in flight before it fails them
 * @on_exit:	see there
 * @on_shrink:	see there
 * @log_level:	least important level that is logged
 */
struct tunables {
	struct backend_tunables backend;
	uint32_t stop_ms;
	unsigned int on_exit; /* enum on_exit */
	unsigned int on_shrink; /* enum on_shrink */
	unsigned int log_level; /* enum log_level */
};

/**
 * tunables_init() - default values
 * @t: to be filled
 */
void tunables_init(struct tunables *t);

/**
 * tunables_name() - names of the options
 * @index: from 0
 *
 * Return: static text, or NULL after the last.
 */
const char *tunables_name(unsigned int index);

/**
 * tunables_set() - set one option from text
 * @t:		the values
 * @name:	of the option
 * @value:	its value
 * @e:		error text
 *
 * Return: 0, -ENOENT for a name that is not among them, or -EINVAL.
 */
int tunables_set(struct tunables *t, const char *name, const char *value, struct error *e);

/**
 * tunables_check() - do the values go together?
 * @t:	all of them
 * @e:	error text
 *
 * Return: 0 or -EINVAL.
 */
int tunables_check(const struct tunables *t, struct error *e);

/**
 * tunables_describe() - the values, as tunables_set() takes them
 * @t:		the values
 * @in_force:	what the backend makes of them, its defaults filled in
 *
 * Return: a JSON object that the caller owns; NULL when out of memory.
 */
json_t *tunables_describe(const struct tunables *t, const struct backend_tunables *in_force);

#endif
