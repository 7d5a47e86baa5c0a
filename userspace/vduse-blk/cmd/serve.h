/* SPDX-License-Identifier: MIT */
/*
 * What the files of "vduse-blk serve" share. All of it belongs to the main
 * thread.
 *
 *	serve.c		from the command line to the main loop and back
 *	serve_storage.c	opening the storage, the disk that is made of it, and what
 *			becomes of both later
 *	serve_recover.c	going on with the device of a killed daemon
 *	serve_end.c	attaching, detaching, signals
 *	serve_control.c	what the control socket asks for
 *	serve_status.c	the document that "status" shows
 *	serve_stats.c	the one of "stats"
 */
#ifndef VDUSE_BLK_CMD_SERVE_H
#define VDUSE_BLK_CMD_SERVE_H

#include <jansson.h>

#include "backend/backend.h"
#include "cmd/attach.h"
#include "cmd/options.h"
#include "cmd/runtime.h"
#include "cmd/control_socket.h"
#include "transport/transport.h"
#include "transport/vduse_recovery.h"

enum serve_state {
	SERVE_STARTING,
	SERVE_ATTACHING,
	SERVE_SERVING,
	SERVE_DETACHING,
	SERVE_CLOSING,
};

struct serve {
	struct serve_options options;
	struct runtime runtime;
	int control_fd;
	struct backend *backend;
	struct vblk_device disk;
	struct loop *loop;
	struct vduse_recovery *recovery; /* a killed predecessor's device; NULL: none */
	struct transport *transport;
	struct control_server *control;
	int socket_fd; /* @control's, once that is open */
	gid_t control_gid;

	enum serve_state state;
	struct attach_job job;
	char path[256];
	unsigned int signals; /* that came; see serve_end.c */
	int exit_status;

	/* The end; see serve_end.c. */
	bool stopping;
	unsigned int end; /* enum on_exit, with @stopping */
	bool given_up; /* requests fail */
	bool abandoned;
	uint64_t completed; /* when @stop_timer was armed */
	struct loop_timer stop_timer;

	/* What became of the storage; see serve_storage.c. */
	bool shrunk;
	uint32_t lost_flags; /* BACKEND_F_* that the driver was promised */
	struct control_request *resizing; /* wait for the storage to be asked */
	struct loop_timer resize_timer;

	int signal_fd;
	struct loop_op signal_op;
	bool watching_signals;
	bool ending; /* nobody cares for signals any more */
};

/**
 * struct serve_bounce - memory between driver and daemon
 * @size:		bytes; 0: the module's default
 * @max_request:	bytes of one request at most; 0: no limit
 */
struct serve_bounce {
	uint32_t size;
	uint32_t max_request;
};

/**
 * serve_plan_bounce() - how much bounce memory the disk needs
 * @o:	options
 *
 * Return: by value.
 */
struct serve_bounce serve_plan_bounce(const struct serve_options *o);

/**
 * serve_open_storage() - open @s->backend and work out @s->disk
 * @s:	with its options
 * @e:	error text
 *
 * Return: 0 or -errno.
 */
int serve_open_storage(struct serve *s, struct error *e);

/**
 * serve_apply_policy() - writes are allowed or not, as --on-shrink says
 * @s:	with a disk
 */
void serve_apply_policy(struct serve *s);

/**
 * serve_resize() - ask the storage for its size again
 * @s:	with a device
 * @r:	answered when that is known
 */
void serve_resize(struct serve *s, struct control_request *r);

/**
 * serve_state_name() - for status
 * @state: of the daemon
 *
 * Return: static text.
 */
const char *serve_state_name(enum serve_state state);

/**
 * serve_find_predecessor() - look for a device whose daemon was killed
 * @s:	with its options and its runtime folder
 * @e:	error text
 *
 * Comes before the storage is opened: that is told what may still be written.
 *
 * Return: 0 or -errno.
 */
int serve_find_predecessor(struct serve *s, struct error *e);

/**
 * serve_not_recovered() - the device turned out not to be one to go on with
 * @opaque:	struct serve
 * @e:		why
 *
 * Ends the main loop.
 */
void serve_not_recovered(void *opaque, const struct error *e);

/**
 * serve_describe() - the status document
 * @s:	with a device
 *
 * Return: a JSON object that the caller owns; NULL when out of memory.
 */
json_t *serve_describe(const struct serve *s);

/**
 * serve_describe_stats() - the statistics document
 * @s:	with a device
 *
 * Return: a JSON object that the caller owns; NULL when out of memory.
 */
json_t *serve_describe_stats(const struct serve *s);

/**
 * serve_describe_connections() - the connections' part of it
 * @s:	with a device
 *
 * Return: a JSON array that the caller owns, empty without connections; NULL
 * when out of memory.
 */
json_t *serve_describe_connections(const struct serve *s);

/**
 * serve_control() - carry out a request of the control socket
 * @opaque:	struct serve with a device
 * @r:		the request
 */
void serve_control(void *opaque, struct control_request *r);

/**
 * serve_begin_attach() - attach the device; announce it when that is done
 * @s:	with a device
 *
 * A failure ends the main loop.
 */
void serve_begin_attach(struct serve *s);

/**
 * serve_stop() - end, unless that is under way
 * @s:		with a device
 * @how:	enum on_exit
 */
void serve_stop(struct serve *s, unsigned int how);

/**
 * serve_removing() - somebody removes the device, or has done so
 * @opaque:	struct serve
 * @removing:	which
 */
void serve_removing(void *opaque, bool removing);

/**
 * serve_close_transport() - the device's end
 * @s:	with a device, outside of its loop, which this runs
 * @e:	error text
 *
 * May end the process, when requests in flight are left to a successor.
 *
 * Return: 0, or -errno when something was left behind.
 */
int serve_close_transport(struct serve *s, struct error *e);

/**
 * serve_open_signals() - block SIGTERM and SIGINT and have them in a descriptor
 * @s:	no threads have been started
 * @e:	error text
 *
 * Return: 0 or -errno.
 */
int serve_open_signals(struct serve *s, struct error *e);

/**
 * serve_watch_signals() - from here on they end the main loop
 * @s:	with a loop
 */
void serve_watch_signals(struct serve *s);

/**
 * serve_close_signals() - nobody cares any more
 * @s:	outside of its loop, which this runs
 */
void serve_close_signals(struct serve *s);

#endif
