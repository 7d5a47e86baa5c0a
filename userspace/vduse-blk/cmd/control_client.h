/* SPDX-License-Identifier: MIT */
/*
 * The other end of the control socket, for the commands of vduse-blk.
 */
#ifndef VDUSE_BLK_CMD_CONTROL_CLIENT_H
#define VDUSE_BLK_CMD_CONTROL_CLIENT_H

#include <jansson.h>

#include "base/error.h"

#define CONTROL_QUERY_MS 5000u /* for a daemon that answers from memory */

/**
 * control_call() - one request, one answer
 * @root:	runtime root
 * @name:	device name
 * @request:	a JSON object; freed here, whatever happens; NULL: out of memory
 * @limit_ms:	for every step
 * @ret_answer:	a JSON object with "ok": true that the caller owns; written only
 *		on success
 * @e:		error text; the daemon's own when it refuses
 *
 * Return: 0 or -errno: -ENOENT when nobody serves that name, -EACCES without
 * permission, -ETIMEDOUT for a daemon that is silent, or what it refuses with.
 */
int control_call(const char *root, const char *name, json_t *request, unsigned int limit_ms,
		 json_t **ret_answer, struct error *e);

#endif
