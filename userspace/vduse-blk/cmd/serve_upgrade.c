// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: handing the device to another process, the old one's side.
 *
 *	STARTING	the successor has been started and opens the storage; all goes
 *			on as ever
 *	  READY
 *	FLUSHING	still serving: the flush that follows will have little to do
 *	PAUSING		no request is taken any more, those in flight end (--max-stall)
 *	SETTLING	the flush (--max-stall, the same clock)
 *	  GO		it is the successor's now
 *	GONE		until it serves
 *	  DONE
 *	LEAVING		the answer goes out, this process ends
 *
 * Up to GO whatever goes wrong is undone (UNDOING): the successor is killed and
 * reaped, then the queues go on where they paused, and the answer says why. It has
 * touched neither device nor log by then.
 *
 * After GO the successor may have taken requests. If it does not reach DONE it is
 * killed and reaped, and this process becomes its successor in turn, by the ordinary
 * recovery of a killed daemon's device: it executes itself again, with descriptors
 * that it has not let go of. Not even --user needs more rights for that. Once that is
 * decided, or the successor is dead, a DONE comes too late: nobody would serve.
 *
 * Nothing here waits: the socket, the process (a pidfd) and the timer are events of
 * the main loop.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/handover.h"
#include "cmd/json_text.h"
#include "cmd/privileges.h"
#include "cmd/serve.h"
#include "cmd/version.h"
#include "transport/vduse.h"

#define READY_MS	30000u /* for the successor to open everything */
#define FLUSH_MS	30000u /* for the flush that nobody waits for */
#define DONE_MS		10000u /* for it to serve, after GO */
#define EXIT_MS		1000u /* for it to end, having closed its socket */
#define CHILD_FD	3 /* the socket's number in the successor */

enum upgrade_phase {
	UPGRADE_STARTING,
	UPGRADE_FLUSHING,
	UPGRADE_PAUSING,
	UPGRADE_SETTLING,
	UPGRADE_GONE,
	UPGRADE_LEAVING,
	UPGRADE_UNDOING,
};

struct serve_upgrade {
	struct serve *s;
	enum upgrade_phase phase;
	struct control_request *request;
	unsigned int max_stall_ms;
	char binary[SERVE_PROGRAM_MAX];
	char version[HANDOVER_VERSION_MAX + 1]; /* the successor's */
	uint64_t capacity; /* of the storage as it found it, in sectors */
	pid_t pid;
	int socket_fd, pidfd;
	struct loop_op socket_op, exit_op;
	bool watching_socket, watching_exit;
	bool running; /* not reaped */
	bool dead; /* what it says was said before */
	bool paused; /* the transport, or about to be */
	bool closed; /* its end of the socket */
	struct loop_timer timer;
	struct error why; /* it is undone, or failed after GO */
};

static void undo(struct serve_upgrade *u);
static void recover(struct serve_upgrade *u);

static const char *const phase_names[] = {
	[UPGRADE_STARTING] = "starting",
	[UPGRADE_FLUSHING] = "flushing",
	[UPGRADE_PAUSING] = "pausing",
	[UPGRADE_SETTLING] = "pausing",
	[UPGRADE_GONE] = "handing over",
	[UPGRADE_LEAVING] = "leaving",
	[UPGRADE_UNDOING] = "giving up",
};

const char *serve_upgrade_phase(const struct serve *s)
{
	return s->upgrade ? phase_names[s->upgrade->phase] : "none";
}

bool serve_gone(const struct serve *s)
{
	const bool another_s = s->runtime.borrowed && !s->standby;

	return another_s || (s->upgrade && (s->upgrade->phase == UPGRADE_GONE ||
					    s->upgrade->phase == UPGRADE_LEAVING));
}

/* What went wrong; the first reason counts. */
static void give_up(struct serve_upgrade *u, const struct error *e)
{
	if (!u->why.errnum)
		u->why = *e;
	if (u->phase == UPGRADE_GONE)
		log_error("%s: the upgrade failed after the device was handed over: %s",
			  u->s->options.name, u->why.text);
	if (u->phase != UPGRADE_GONE)
		u->phase = UPGRADE_UNDOING;
	loop_timer_cancel(u->s->loop, &u->timer);
	serve_forget_flush(u->s);
	if (u->running)
		kill(u->pid, SIGKILL);
	undo(u);
}

/* The answer has to go out first; then serve_recover_from_successor(). */
static void recover(struct serve_upgrade *u)
{
	struct serve *s = u->s;

	err_set(&u->why, u->why.errnum, "%.300s; process %d recovers the device", u->why.text,
		(int)getpid());
	log_warning("%s: recovering the device from the successor that died", s->options.name);
	control_refuse(u->request, &u->why);
	s->successor_died = true;
	loop_stop(s->loop);
}

/* Undoing */

static void finish_undoing(struct serve_upgrade *u)
{
	struct serve *s = u->s;

	err_set(&u->why, u->why.errnum, "%.400s; process %d %s", u->why.text, (int)getpid(),
		s->stopping ? "ends" : "goes on");
	log_warning("%s: not upgraded: %s", s->options.name, u->why.text);
	control_refuse(u->request, &u->why);
	s->upgrade = NULL;
	close(u->socket_fd);
	close(u->pidfd);
	free(u);
	serve_end_if_asked(s);
}

/* The transport's answers may come when the upgrade is forgotten, at the end. */
static void undo_resumed(void *opaque, int error)
{
	struct serve_upgrade *u = ((struct serve *)opaque)->upgrade;

	(void)error; /* the transport has said so */
	if (!u)
		return;
	u->paused = false;
	undo(u);
}

/*
 * Step by step, called again at the end of each: the successor is gone before the
 * queues go on.
 */
static void undo(struct serve_upgrade *u)
{
	if (u->running)
		return;
	/* After GO there is nothing to be undone. */
	if (u->phase == UPGRADE_GONE) {
		recover(u);
		return;
	}
	if (u->watching_socket) {
		loop_cancel(u->s->loop, &u->socket_op);
		return;
	}
	if (u->paused) {
		transport_resume(u->s->transport, undo_resumed, u->s);
		return;
	}
	finish_undoing(u);
}

/* From READY to GO */

static void timer_expired(struct loop_timer *timer)
{
	struct serve_upgrade *u = container_of(timer, struct serve_upgrade, timer);
	struct error e = ERROR_INIT;

	if (u->closed)
		err_set(&e, EPROTO, "the new process closed its connection and did not end");
	else if (u->phase == UPGRADE_STARTING)
		err_set(&e, ETIMEDOUT, "the new process was not ready within %u s",
			READY_MS / 1000);
	else if (u->phase == UPGRADE_FLUSHING)
		err_set(&e, ETIMEDOUT, "the storage did not flush within %u s", FLUSH_MS / 1000);
	else if (u->phase == UPGRADE_GONE)
		err_set(&e, ETIMEDOUT, "the new process did not serve within %u s",
			DONE_MS / 1000);
	else
		err_set(&e, ETIMEDOUT, "requests in flight did not end within %u ms",
			u->max_stall_ms);
	give_up(u, &e);
}

/* The successor may not find the disk smaller than the driver knows it. */
static int check_capacity(const struct serve_upgrade *u, struct error *e)
{
	if (u->capacity >= u->s->disk.capacity)
		return 0;
	return err_set(e, EINVAL, "the new process finds storage of %llu sectors, the disk has %llu",
		       (unsigned long long)u->capacity,
		       (unsigned long long)u->s->disk.capacity);
}

static int lend_journal(const struct serve *s, struct error *e)
{
	if (!backend_lend_journal(s->backend, true))
		return 0;
	return err_set(e, EAGAIN, "what the server may have lost is being written again");
}

static void go(struct serve_upgrade *u)
{
	const struct handover_message message = { .type = HANDOVER_GO };
	struct error e = ERROR_INIT;

	/* It may have grown since READY, and a connection may just have been lost. */
	if (check_capacity(u, &e) || lend_journal(u->s, &e)) {
		give_up(u, &e);
		return;
	}
	if (handover_send(u->socket_fd, &message, &e)) {
		backend_lend_journal(u->s->backend, false);
		give_up(u, &e);
		return;
	}
	u->phase = UPGRADE_GONE;
	control_server_pause(u->s->control);
	loop_timer_arm(u->s->loop, &u->timer, DONE_MS);
}

/*
 * Newer writes to these bytes have to wait here. A successor does not know of them: what
 * was sent on connections that were lost is in no log once it has been repeated.
 */
static int check_fence(const struct serve *s, struct error *e)
{
	struct backend_link_stats stats;

	if (backend_link_stats(s->backend, 0, &stats) || !stats.fenced)
		return 0;
	return err_set(e, EAGAIN, "the server may still carry out writes of a connection that was lost; try again when --fence-timeout is over");
}

static void settled(struct serve *s, int error)
{
	struct error e = ERROR_INIT;

	if (error)
		error = err_set_errno(&e, -error, "the storage did not flush");
	else
		error = check_fence(s, &e);
	if (error)
		give_up(s->upgrade, &e);
	else
		go(s->upgrade);
}

static void paused(void *opaque, int error)
{
	struct serve_upgrade *u = ((struct serve *)opaque)->upgrade;
	struct error e = ERROR_INIT;

	if (!u || u->phase != UPGRADE_PAUSING)
		return;
	if (error) {
		u->paused = false;
		err_set_errno(&e, -error, "requests of a killed process are being recovered");
		give_up(u, &e);
		return;
	}
	u->phase = UPGRADE_SETTLING;
	serve_flush(u->s, settled);
}

static void flushed(struct serve *s, int error)
{
	struct serve_upgrade *u = s->upgrade;
	struct error e = ERROR_INIT;

	if (error) {
		err_set_errno(&e, -error, "the storage did not flush");
		give_up(u, &e);
		return;
	}
	u->phase = UPGRADE_PAUSING;
	u->paused = true;
	loop_timer_arm(s->loop, &u->timer, u->max_stall_ms);
	transport_pause(s->transport, paused, s);
}

static void ready(struct serve_upgrade *u, const struct handover_ready *r)
{
	struct error e = ERROR_INIT;

	u->capacity = r->capacity;
	if (check_capacity(u, &e)) {
		give_up(u, &e);
		return;
	}
	memcpy(u->version, r->version, sizeof(u->version));
	log_info("%s: process %d, version %s, is ready to take over", u->s->options.name,
		 (int)u->pid, u->version);
	u->phase = UPGRADE_FLUSHING;
	loop_timer_arm(u->s->loop, &u->timer, FLUSH_MS);
	serve_flush(u->s, flushed);
}

/* DONE */

static json_t *describe_stalls(const struct serve_upgrade *u, const struct handover_done *done)
{
	json_t *stalls = json_array();
	json_int_t longest = 0;
	unsigned int i;

	for (i = 0; i < u->s->options.queues; i++) {
		struct queue_thread_times t =
			queue_thread_times(transport_queue(u->s->transport, i));
		const uint64_t from = t.stopped_ns, to = done->served_ns[i];
		const json_int_t us = from && to > from ? (json_int_t)((to - from) / 1000) : 0;

		json_array_append_new(stalls, json_integer(us));
		longest = max(longest, us);
	}
	log_info("%s: process %d serves now, the longest stall was %lld us", u->s->options.name,
		 (int)u->pid, (long long)longest);
	return json_pack("{s:i, s:i, s:s, s:s, s:o, s:o, s:I}",
			 "old_pid", (int)getpid(), "new_pid", (int)u->pid,
			 "old_version", VDUSE_BLK_VERSION, "new_version", u->version,
			 "binary", json_text(u->binary),
			 "stall_us", stalls, "longest_stall_us", longest);
}

static void done(struct serve_upgrade *u, const struct handover_done *d)
{
	struct serve *s = u->s;
	struct error e = ERROR_INIT;

	if (d->queues != s->options.queues) {
		err_set(&e, EPROTO, "the new process serves %u queues", d->queues);
		give_up(u, &e);
		return;
	}
	u->phase = UPGRADE_LEAVING;
	loop_timer_cancel(s->loop, &u->timer);
	s->runtime.borrowed = true;
	control_answer(u->request, describe_stalls(u, d));
	sd_notifyf(0, "MAINPID=%d", (int)u->pid);
	s->successor = u->pid;
	if (s->stopping)
		serve_end_successor(s);
	loop_stop(s->loop);
}

/* It is not reaped, so the number is not somebody else's by now. */
void serve_end_successor(struct serve *s)
{
	if (s->successor)
		kill(s->successor, SIGTERM);
	s->successor = 0;
}

/* The successor's words */

static void refused(struct serve_upgrade *u, const struct handover_refused *r)
{
	struct error e = ERROR_INIT;

	err_set(&e, (int)r->errnum, "the new process: %.400s", r->text);
	give_up(u, &e);
}

static void take_message(struct serve_upgrade *u, const struct handover_message *m)
{
	struct error e = ERROR_INIT;

	if (u->why.errnum)
		return;
	if (m->type == HANDOVER_READY && u->phase == UPGRADE_STARTING) {
		ready(u, &m->ready);
	} else if (m->type == HANDOVER_DONE && u->phase == UPGRADE_GONE) {
		if (!u->dead)
			done(u, &m->done);
	} else if (m->type == HANDOVER_REFUSED) {
		refused(u, &m->refused);
	} else {
		err_set(&e, EPROTO, "the new process said %s out of turn",
			handover_name(m->type));
		give_up(u, &e);
	}
}

/* True while there may be more. */
static bool read_message(struct serve_upgrade *u)
{
	struct handover_message m;
	struct error e = ERROR_INIT;
	int err = handover_receive(u->socket_fd, &m, &e);

	if (!err) {
		take_message(u, &m);
		handover_release(&m);
		return u->phase != UPGRADE_UNDOING && u->phase != UPGRADE_LEAVING;
	}
	if (err == -ECONNRESET) {
		/* Its exit status says more. */
		u->closed = true;
		loop_timer_arm(u->s->loop, &u->timer, EXIT_MS);
	} else if (err != -EAGAIN) {
		err_prefix(&e, "the new process");
		give_up(u, &e);
	}
	return false;
}

static void watch_socket(struct serve_upgrade *u)
{
	u->watching_socket = true;
	io_uring_prep_poll_add(loop_sqe(u->s->loop, &u->socket_op), u->socket_fd, POLLIN);
}

static void socket_ready(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct serve_upgrade *u = container_of(op, struct serve_upgrade, socket_op);

	(void)res;
	(void)cqe_flags;
	u->watching_socket = false;
	if (u->phase == UPGRADE_UNDOING) {
		undo(u);
		return;
	}
	/* serve_forget_successor() waits for this. */
	if (u->phase == UPGRADE_LEAVING || !u->running) {
		loop_stop(u->s->loop);
		return;
	}
	/* Giving up may free @u; it does not while a process is running. */
	while (u->running && read_message(u))
		;
	if (u->running && !u->closed && u->phase < UPGRADE_LEAVING)
		watch_socket(u);
}

static void describe_exit(const siginfo_t *info, struct error *e)
{
	if (info->si_code == CLD_EXITED && info->si_status == 2)
		err_set(e, EPROTO, "the new process did not understand its command line, the configuration file included (exit status 2)");
	else if (info->si_code == CLD_EXITED)
		err_set(e, ECHILD, "the new process ended with exit status %d", info->si_status);
	else
		err_set(e, ECHILD, "the new process was killed by signal %d (%s)", info->si_status,
			strsignal(info->si_status));
}

static void ended(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct serve_upgrade *u = container_of(op, struct serve_upgrade, exit_op);
	struct error e = ERROR_INIT;
	siginfo_t info = { 0 };

	(void)res;
	(void)cqe_flags;
	u->watching_exit = false;
	if (u->phase == UPGRADE_LEAVING) {
		loop_stop(u->s->loop);
		return;
	}
	u->dead = true;
	/* It may have said why, just before. */
	while (u->phase < UPGRADE_LEAVING && !u->closed && read_message(u))
		;
	waitid(P_PIDFD, (id_t)u->pidfd, &info, WEXITED);
	u->running = false;
	describe_exit(&info, &e);
	give_up(u, &e);
}

/* Starting */

static json_t *own_options(const struct serve *s)
{
	return s->set_options ? json_incref(s->set_options) : json_object();
}

static int send_offer(const struct serve *s, int fd, bool recover_it, struct error *e)
{
	struct handover_message m = {
		.type = HANDOVER_OFFER,
		.offer = {
			.version = VDUSE_BLK_VERSION,
			.pid = getpid(),
			.upgrades = s->upgrades,
			.recover = recover_it,
			.options = own_options(s),
			.fds = {
				[HANDOVER_FD_DEVICE] = vduse_descriptor(s->transport),
				[HANDOVER_FD_CONTROL] = s->control_fd,
				[HANDOVER_FD_FOLDER] = s->runtime.dir_fd,
				[HANDOVER_FD_LOCK] = s->runtime.lock_fd,
				[HANDOVER_FD_SOCKET] = s->listen_fd,
				[HANDOVER_FD_STORAGE] = backend_descriptor(s->backend),
			},
		},
	};
	int err;

	memcpy(m.offer.name, s->options.name, sizeof(m.offer.name));
	snprintf(m.offer.path, sizeof(m.offer.path), "%s", s->path);
	err = handover_send(fd, &m, e);
	json_decref(m.offer.options);
	return err;
}

/* As long as it is not moved: afterwards nobody could say what it was started from. */
int serve_remember_program(struct serve *s, struct error *e)
{
	static const char deleted[] = " (deleted)";
	char path[SERVE_PROGRAM_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	size_t length;

	if (n < 0)
		return err_set_errno(e, errno, "find out which program this is");
	length = (size_t)n;
	path[length] = '\0';
	if (length > strlen(deleted) && !strcmp(path + length - strlen(deleted), deleted))
		path[length - strlen(deleted)] = '\0';
	memcpy(s->program, path, sizeof(s->program));
	return 0;
}

/* The arguments of this process, with the socket in front; owned by the caller. */
static char **make_argv(const struct serve *s, char *program, char *take_over)
{
	char **argv = calloc((size_t)s->argc + 3, sizeof(*argv));
	int i, n = 0;

	if (!argv)
		return NULL;
	argv[n++] = program;
	argv[n++] = (char *)(uintptr_t)"serve";
	argv[n++] = take_over;
	/* That of its own start, if it has one, is the first. */
	for (i = s->options.take_over >= 0 ? 2 : 1; i < s->argc; i++)
		argv[n++] = s->argv[i];
	return argv;
}

/* Nothing is open in the new process but the standard streams and the socket. */
static int spawn_with(const char *binary, char *const argv[], int child_fd, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, pipe_only;
	int err;

	sigemptyset(&none);
	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	err = posix_spawn_file_actions_init(&actions);
	if (err)
		return err;
	err = posix_spawnattr_init(&attr);
	if (err)
		goto destroy_actions;
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &pipe_only);
	err = posix_spawn_file_actions_adddup2(&actions, child_fd, CHILD_FD);
	if (!err)
		err = posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
	if (!err)
		err = posix_spawn(ret_pid, binary, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
destroy_actions:
	posix_spawn_file_actions_destroy(&actions);
	return err;
}

static int spawn(struct serve_upgrade *u, int child_fd, struct error *e)
{
	char take_over[] = OPTION_TAKE_OVER "3";
	auto_free char **argv = make_argv(u->s, u->binary, take_over);
	int err;

	if (!argv)
		return err_set(e, ENOMEM, "out of memory");
	err = privileges_lend(e);
	if (!err) {
		err = spawn_with(u->binary, argv, child_fd, &u->pid);
		if (err)
			err = err_set_errno(e, err, "start %s", u->binary);
	}
	privileges_take_back();
	return err;
}

static int start(struct serve_upgrade *u, struct error *e)
{
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_set_errno(e, errno, "create a socket");
	if (fcntl(pair[0], F_SETFL, O_NONBLOCK))
		err = err_set_errno(e, errno, "set a socket up");
	else
		err = send_offer(u->s, pair[0], false, e);
	if (!err)
		err = spawn(u, pair[1], e);
	close(pair[1]);
	if (err)
		goto close_socket;
	/* A child that was not reaped cannot be somebody else by now. */
	u->pidfd = pidfd_open(u->pid, 0);
	if (u->pidfd < 0) {
		err = err_set_errno(e, errno, "watch the new process");
		kill(u->pid, SIGKILL);
		waitpid(u->pid, NULL, 0);
		goto close_socket;
	}
	u->socket_fd = pair[0];
	return 0;

close_socket:
	close(pair[0]);
	return err;
}

static int check(const struct serve *s, const struct control_request *r, struct error *e)
{
	/* It makes this process execute a program, with all its rights. */
	if (r->peer.uid && (s->options.user || r->peer.uid != geteuid()))
		return err_set(e, EPERM, "only root may upgrade this daemon");
	if (!transport_can_pause(s->transport))
		return err_set(e, EOPNOTSUPP, "a vhost-user device cannot be handed over; its monitor reconnects, so stop the daemon and start the new one");
	if (s->upgrade || s->standby)
		return err_set(e, EBUSY, "an upgrade is under way");
	if (s->stopping || s->state != SERVE_SERVING)
		return err_set(e, EBUSY, "the daemon is %s",
			       s->stopping ? "ending" : serve_state_name(s->state));
	if (check_fence(s, e))
		return -EAGAIN;
	if (getpid() == 1)
		return err_set(e, EOPNOTSUPP, "process 1 of a container cannot end before it: stop --keep, and start the new one");
	return 0;
}

static int begin(struct serve *s, const struct control_command *command,
		 struct control_request *r, struct error *e)
{
	const char *binary = command->binary ? command->binary : s->program;
	struct serve_upgrade *u = calloc(1, sizeof(*u));
	int err = 0;

	if (!u)
		return err_set(e, ENOMEM, "out of memory");
	u->s = s;
	u->request = r;
	u->max_stall_ms = command->max_stall_ms;
	u->socket_op.complete = socket_ready;
	u->exit_op.complete = ended;
	u->timer.expired = timer_expired;
	if (strlen(binary) >= sizeof(u->binary))
		err = err_set(e, ENAMETOOLONG, "the path of the program is too long");
	else
		strcpy(u->binary, binary);
	if (!err)
		err = start(u, e);
	if (err) {
		free(u);
		return err;
	}
	log_info("%s: upgrade: process %d, %s, is to take over", s->options.name, (int)u->pid,
		 u->binary);
	s->upgrade = u;
	u->running = true;
	u->watching_exit = true;
	io_uring_prep_poll_add(loop_sqe(s->loop, &u->exit_op), u->pidfd, POLLIN);
	watch_socket(u);
	loop_timer_arm(s->loop, &u->timer, READY_MS);
	return 0;
}

void serve_begin_upgrade(struct serve *s, const struct control_command *command,
			 struct control_request *r)
{
	struct error e = ERROR_INIT;
	int err = check(s, r, &e);

	if (!err)
		err = begin(s, command, r, &e);
	if (!err)
		return;
	err_set(&e, e.errnum, "%.400s; process %d goes on", e.text, (int)getpid());
	control_refuse(r, &e);
}

bool serve_cancel_upgrade(struct serve *s, const char *why)
{
	struct error e = ERROR_INIT;

	if (!s->upgrade)
		return false;
	if (s->upgrade->phase < UPGRADE_GONE) {
		err_set(&e, ECANCELED, "%s", why);
		give_up(s->upgrade, &e);
	}
	return s->upgrade;
}

/* The main loop has ended for another reason. */
static void break_off(struct serve_upgrade *u)
{
	struct error e = ERROR_INIT;

	if (u->running)
		kill(u->pid, SIGKILL);
	loop_timer_cancel(u->s->loop, &u->timer);
	serve_forget_flush(u->s);
	u->phase = UPGRADE_LEAVING;
	err_set(&e, ECANCELED, "the daemon ends");
	control_refuse(u->request, u->why.errnum ? &u->why : &e);
}

void serve_forget_successor(struct serve *s)
{
	struct serve_upgrade *u = s->upgrade;

	if (!u)
		return;
	if (u->phase != UPGRADE_LEAVING && !s->successor_died)
		break_off(u);
	if (u->watching_socket)
		loop_cancel(s->loop, &u->socket_op);
	if (u->watching_exit)
		loop_cancel(s->loop, &u->exit_op);
	while (u->watching_socket || u->watching_exit)
		loop_run(s->loop);
	/* Now it answers the kernel. */
	close(u->socket_fd);
	close(u->pidfd);
	s->upgrade = NULL;
	free(u);
}

/* After GO */

static int execute_again(struct serve *s, struct error *e)
{
	auto_close int ours = -1, theirs = -1;
	char take_over[sizeof(OPTION_TAKE_OVER) + 16];
	auto_free char **argv = NULL;
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_set_errno(e, errno, "create a socket");
	ours = pair[0];
	theirs = pair[1];
	err = send_offer(s, ours, true, e);
	if (err)
		return err;
	snprintf(take_over, sizeof(take_over), OPTION_TAKE_OVER "%d", theirs);
	argv = make_argv(s, s->program, take_over);
	if (!argv || fcntl(theirs, F_SETFD, 0))
		return err_set_errno(e, errno, "prepare");
	err = privileges_lend(e);
	if (err)
		return err;
	/* A signal to end stays pending: it is blocked, and the new image asks for it. */
	if (s->stopping)
		kill(getpid(), SIGTERM);
	execv("/proc/self/exe", argv);
	return err_set_errno(e, errno, "execute /proc/self/exe");
}

void serve_recover_from_successor(struct serve *s)
{
	struct error e = ERROR_INIT;

	execute_again(s, &e);
	log_error("%s: %s", s->options.name, e.text);
	/* As if killed: log and device are left to whoever is started next. */
	_exit(EXIT_FAILURE);
}
