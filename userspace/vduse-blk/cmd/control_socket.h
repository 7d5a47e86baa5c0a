/* SPDX-License-Identifier: MIT */
/*
 * The control socket in the runtime folder: one JSON object a line in, one JSON
 * object a line out.
 *
 *	{"command": "status"}
 *	{"ok": true, ...}
 *	{"ok": false, "error": "what is wrong", "errno": "EINVAL"}
 *
 * A client sends as many lines as it likes and gets the answers in that order.
 * Everything runs on the server's loop, and nothing a client does or leaves
 * undone keeps that loop waiting.
 */
#ifndef VDUSE_BLK_CMD_CONTROL_SOCKET_H
#define VDUSE_BLK_CMD_CONTROL_SOCKET_H

#include <jansson.h>
#include <sys/types.h>

#include "base/error.h"
#include "loop/loop.h"

#define CONTROL_LINE_MAX	(64u * 1024) /* of a request, with its newline */
#define CONTROL_CLIENTS_MAX	8u
#define CONTROL_TURN_MS		10000u /* to send a whole line, or to take an answer */
#define CONTROL_NO_GROUP	((gid_t)-1)

/**
 * struct control_peer - who asks, as the kernel says
 * @pid:	process that connected
 * @uid:	its effective user
 * @gid:	its effective group
 */
struct control_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

/**
 * struct control_request - a request that waits for its answer
 * @peer:	who asks
 * @document:	a JSON object; the server's, until the answer
 * @next:	the owner's, for a list of those that wait
 */
struct control_request {
	struct control_peer peer;
	json_t *document;
	struct control_request *next;
};

struct control_server;

/**
 * struct control_params - what a server is made of
 * @loop:	its loop
 * @fd:		from control_socket_bind(); the server's from now on
 * @group:	whose members may ask, besides root and this process's user; or
 *		CONTROL_NO_GROUP
 * @turn_ms:	0: CONTROL_TURN_MS
 * @handle:	a request came, on @loop; the owner answers it exactly once, from
 *		here or later, with control_answer() or control_refuse()
 * @opaque:	first argument of @handle
 */
struct control_params {
	struct loop *loop;
	int fd;
	gid_t group;
	unsigned int turn_ms;
	void (*handle)(void *opaque, struct control_request *r);
	void *opaque;
};

/**
 * control_socket_bind() - make the socket, not yet listening
 * @root:	runtime root
 * @name:	device name, whose runtime folder exists
 * @uid:	its owner
 * @group:	group that may use it, or CONTROL_NO_GROUP
 * @ret_fd:	written only on success
 * @e:		error text
 *
 * As long as nobody listens whoever connects is refused. For the caller's
 * rights' sake: done as root, since the account that serves need not be in
 * @group.
 *
 * Return: 0 or -errno.
 */
int control_socket_bind(const char *root, const char *name, uid_t uid, gid_t group, int *ret_fd,
			struct error *e);

/**
 * control_server_open() - listen
 * @params:	copied
 * @ret_server:	written only on success; on failure the caller keeps @params->fd
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int control_server_open(const struct control_params *params, struct control_server **ret_server,
			struct error *e);

/**
 * control_server_pause() - accept nobody any more
 * @server: the server
 *
 * Those that are connected are served on; others wait for whoever listens on the
 * socket next.
 */
void control_server_pause(struct control_server *server);

/**
 * control_server_close() - stop listening, drop every client
 * @server:	may be NULL; not from inside its loop, which this runs
 *
 * Answers that are on their way get a moment to arrive.
 *
 * Requests that have not been answered are forgotten: the owner does not touch
 * them any more.
 */
void control_server_close(struct control_server *server);

/**
 * control_answer() - it worked
 * @r:		the request; not to be touched any more
 * @answer:	a JSON object to which "ok" is added, or NULL if there is nothing
 *		else to say; the server's from now on
 */
void control_answer(struct control_request *r, json_t *answer);

/**
 * control_refuse() - it did not
 * @r:		the request; not to be touched any more
 * @e:		why
 */
void control_refuse(struct control_request *r, const struct error *e);

#endif
