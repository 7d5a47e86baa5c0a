/* SPDX-License-Identifier: MIT */
/*
 * The status socket in the runtime folder: whoever connects gets one JSON
 * document and the end of the connection.
 */
#ifndef VDUSE_BLK_CMD_STATUS_SOCKET_H
#define VDUSE_BLK_CMD_STATUS_SOCKET_H

#include <jansson.h>

#include "base/error.h"
#include "loop/loop.h"

/**
 * struct status_server - the daemon's end
 * @loop:	its loop
 * @describe:	make the document; NULL when out of memory. Runs on @loop
 * @opaque:	argument of @describe
 *
 * Set by the caller; the rest is private.
 */
struct status_server {
	struct loop *loop;
	json_t *(*describe)(void *opaque);
	void *opaque;

	int fd;
	bool accepting;
	bool closing;
	struct loop_op op;
};

/**
 * status_server_open() - listen
 * @s:		filled in by the caller
 * @root:	runtime root
 * @name:	device name, whose runtime folder exists
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int status_server_open(struct status_server *s, const char *root, const char *name,
		       struct error *e);

/**
 * status_server_close() - stop listening
 * @s:	open; not from inside its loop, which this runs
 */
void status_server_close(struct status_server *s);

/**
 * status_query() - ask a daemon
 * @root:	runtime root
 * @name:	device name
 * @ret_status:	a JSON object that the caller owns; written only on success
 * @e:		error text
 *
 * Waits for two seconds at most.
 *
 * Return: 0 or -errno.
 */
int status_query(const char *root, const char *name, json_t **ret_status, struct error *e);

#endif
