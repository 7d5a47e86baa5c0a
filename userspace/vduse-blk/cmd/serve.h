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
 *	serve_quiet.c	nothing in flight, everything flushed
 *	serve_upgrade.c	handing the device to another process
 *	serve_takeover.c being that process
 *	serve_control.c	what the control socket asks for
 *	serve_status.c	the document that "status" shows
 *	serve_stats.c	the one of "stats"
 */
#ifndef VDUSE_BLK_CMD_SERVE_H
#define VDUSE_BLK_CMD_SERVE_H

#include <jansson.h>

#include "backend/backend.h"
#include "cmd/attach.h"
#include "cmd/control_command.h"
#include "cmd/control_socket.h"
#include "cmd/handover.h"
#include "cmd/options.h"
#include "cmd/runtime.h"
#include "transport/transport.h"
#include "transport/vduse_recovery.h"

enum serve_state {
	SERVE_STARTING,
	SERVE_ATTACHING,
	SERVE_SERVING,
	SERVE_DETACHING,
	SERVE_CLOSING,
};

#define SERVE_PROGRAM_MAX 4096

struct serve_upgrade;

struct serve {
	struct serve_options options;
	int argc; /* as it was started; argv[0] is "serve" */
	char **argv;
	char program[SERVE_PROGRAM_MAX]; /* its path, likewise */
	struct runtime runtime;
	int control_fd;
	struct backend *backend;
	struct vblk_device disk;
	struct loop *loop;
	struct vduse_recovery *recovery; /* a killed predecessor's device; NULL: none */
	struct transport *transport;
	struct control_server *control;
	int socket_fd; /* @control's, once that is open */
	int listen_fd; /* the same socket, for a successor */
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
	bool last_flush; /* nothing else is in flight any more */
	bool abandoned;
	struct loop_timer stop_timer;
	uint64_t completed;	/* when @stop_timer was armed */
	bool was_in_flight;	/* likewise */
	unsigned int stuck;	/* looks in a row, since when none was completed */

	/* At rest; see serve_quiet.c. */
	void (*flush_done)(struct serve *s, int error);
	struct loop_timer keep_timer;

	/* The successor; see serve_upgrade.c. */
	struct serve_upgrade *upgrade; /* NULL: none is under way */
	json_t *set_options; /* what "set" has changed, NULL: nothing */
	unsigned int upgrades; /* that the device has survived */
	bool successor_died; /* after it was given the device */
	pid_t successor; /* has the device, and was not told to end; 0: none */

	/* The predecessor; see serve_takeover.c. */
	struct handover_message offer;
	bool offered; /* @offer is there */
	bool standby; /* it still has the device, too */
	bool gone; /* it said GO */
	bool taken_over; /* and the queues are served since */
	bool alone; /* it has gone */
	struct loop_op predecessor_op;
	bool watching_predecessor;
	struct error why; /* it could not be taken over */

	/* What became of the storage; see serve_storage.c. */
	bool shrunk;
	uint32_t lost_flags; /* BACKEND_F_* that the driver was promised */
	struct control_request *resizing; /* wait for the storage to be asked */
	struct loop_timer resize_timer;

	int signal_fd;
	struct loop_op signal_op;
	bool watching_signals;
	bool ending; /* nobody cares for signals, or a predecessor, any more */
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
 * serve_refuse_resizes() - those that were not answered yet will not be
 * @s:	with a control socket that is to be closed
 */
void serve_refuse_resizes(struct serve *s);

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
 * serve_announce() - the device can be used: say so
 * @s:	with a device
 */
void serve_announce(struct serve *s);

/**
 * serve_end_if_asked() - no other process has the device any more: what waited for that
 * @s:	with a device
 */
void serve_end_if_asked(struct serve *s);

/**
 * serve_abandon() - leave the device to the kernel; the process ends as soon as it can
 * @s:	with a device
 */
void serve_abandon(struct serve *s);

/**
 * serve_flush() - have the storage flush all that was acknowledged
 * @s:		with a device
 * @done:	called once, perhaps from inside; -EBUSY while a flush is at work
 */
void serve_flush(struct serve *s, void (*done)(struct serve *s, int error));

/**
 * serve_forget_flush() - do not call its done() any more
 * @s:	with or without a flush at work
 */
void serve_forget_flush(struct serve *s);

/**
 * serve_flush_last() - have the storage flush, if it owes that, and wait for it
 * @s:	with a device at rest, outside of its loop, which this runs
 *
 * An error of the storage is a failure of the process. That it takes longer than
 * --stop-timeout is not.
 */
void serve_flush_last(struct serve *s);

/**
 * serve_flushing() - is a flush at work?
 * @s:	with a device
 *
 * Return: true if so.
 */
bool serve_flushing(const struct serve *s);

/**
 * serve_end_keeping() - come to rest, then end the main loop
 * @s:	with a device
 *
 * --stop-timeout is the limit.
 */
void serve_end_keeping(struct serve *s);

/**
 * serve_remember_program() - find out by which path this program was started
 * @s:	to be filled in
 * @e:	error text
 *
 * Return: 0 or -errno.
 */
int serve_remember_program(struct serve *s, struct error *e);

/**
 * serve_begin_upgrade() - start a successor and hand it the device
 * @s:		with a device
 * @command:	CONTROL_UPGRADE
 * @r:		answered in the end
 */
void serve_begin_upgrade(struct serve *s, const struct control_command *command,
			 struct control_request *r);

/**
 * serve_cancel_upgrade() - something else comes first
 * @s:		with a device
 * @why:	for whoever asked for the upgrade
 *
 * Return: true when an upgrade is (still) under way: serve_end_if_asked() is
 * called later, or the device is the successor's already.
 */
bool serve_cancel_upgrade(struct serve *s, const char *why);

/**
 * serve_end_successor() - pass the wish to end on to it, once
 * @s:	with or without a successor
 */
void serve_end_successor(struct serve *s);

/**
 * serve_gone() - is the device the successor's?
 * @s:	with a device
 *
 * Return: true if neither it nor its log may be touched any more.
 */
bool serve_gone(const struct serve *s);

/**
 * serve_upgrade_phase() - for status
 * @s:	with a device
 *
 * Return: static text; "none" when no upgrade is under way.
 */
const char *serve_upgrade_phase(const struct serve *s);

/**
 * serve_forget_successor() - it is left alone from now on
 * @s:	after the main loop, which this runs
 */
void serve_forget_successor(struct serve *s);

/**
 * serve_recover_from_successor() - execute this program again, to recover the device
 * @s:	after the main loop, with everything still open
 */
_Noreturn void serve_recover_from_successor(struct serve *s);

/**
 * serve_inherit() - hear what a predecessor offers
 * @s:	with its options
 * @e:	error text
 *
 * In place of locking the folder, opening the control device and becoming --user.
 *
 * Return: 0 or -errno.
 */
int serve_inherit(struct serve *s, struct error *e);

/**
 * serve_release_offer() - close what was not needed of it
 * @s:	any
 */
void serve_release_offer(struct serve *s);

/**
 * serve_inherit_device() - like serve_find_predecessor(), after serve_inherit()
 * @s:	with an offer
 * @e:	error text
 *
 * Return: 0 or -errno.
 */
int serve_inherit_device(struct serve *s, struct error *e);

/**
 * serve_stand_by() - all is ready: wait for GO
 * @s:	with a device that was made to stand by
 * @e:	error text
 *
 * Return: 0 or -errno.
 */
int serve_stand_by(struct serve *s, struct error *e);

/**
 * serve_taken_over() - the queues are served
 * @opaque:	struct serve
 */
void serve_taken_over(void *opaque);

/**
 * serve_stop_taking_over() - an end was asked for while a predecessor has the device, too
 * @s:	standing by
 *
 * Before GO this process ends, and the predecessor goes on. After it, the end comes when
 * the device is this process's alone: serve_end_if_asked().
 */
void serve_stop_taking_over(struct serve *s);

/**
 * serve_forget_predecessor() - listen to it no more
 * @s:	outside of its loop, which this runs
 */
void serve_forget_predecessor(struct serve *s);

/**
 * serve_refuse_offer() - tell the predecessor why it has to go on
 * @s:		started with a take-over
 * @why:	error text
 */
void serve_refuse_offer(const struct serve *s, const struct error *why);

/**
 * serve_open_control() - listen on the control socket
 * @s:	with a device
 * @e:	error text
 *
 * Return: 0 or -errno.
 */
int serve_open_control(struct serve *s, struct error *e);

/**
 * serve_close_control() - answer nobody any more
 * @s:	with or without a control socket, outside of its loop, which this runs
 *
 * Requests that wait are refused: whatever they wait for may still come.
 */
void serve_close_control(struct serve *s);

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
