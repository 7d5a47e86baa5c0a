// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: attaching the device, and the end.
 *
 * An end is asked for by SIGTERM, SIGINT or "vduse-blk stop". Detaching, the driver
 * writes back what it has and lets go, while requests are served as ever; then the
 * storage flushes what it has acknowledged. Keeping,
 * the queues finish what is in flight and the device is left to a successor.
 *
 * Neither waits for storage that does not answer. When requests are in flight and
 * none was completed for --stop-timeout:
 *
 *	detaching	they fail, and so do all that still come; should even that
 *			be impossible, the process leaves the device to the kernel,
 *			and our module fails what the driver waits for
 *	keeping		they stay in the log for the successor
 *
 * The flush, the last thing of all, is nobody's request: when it takes longer, the end
 * is a good one, with a warning.
 *
 * Somebody else removing the device ("vdpa dev del") is treated like detaching,
 * but that the daemon goes on and serves the next driver.
 *
 * A second signal does not wait for the timeout. A third just ends the process.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/privileges.h"
#include "cmd/serve.h"
#include "transport/vduse_dev.h"

/* So often in the time that requests have: one that has just begun has all of it. */
#define LOOKS		5
/* For requests that were given up to come back. */
#define GIVE_UP_MS	300
/* For the kernel to let go of a device that was abandoned. */
#define ABANDON_MS	20

static void begin_detach(struct serve *s);

/* Attaching */

/* Report why, and let the main loop end with a failure. */
static void fail(struct serve *s, const struct error *e)
{
	log_error("%s", e->text);
	s->exit_status = EXIT_FAILURE;
	loop_stop(s->loop);
}

static void ready(struct serve *s)
{
	if (s->path[0]) {
		printf("%s\n", s->path);
		fflush(stdout);
	}
	serve_announce(s);
}

void serve_announce(struct serve *s)
{
	s->state = SERVE_SERVING;
	log_info("%s: ready%s%s", s->options.name, s->path[0] ? " at " : "", s->path);
	sd_notifyf(0, "READY=1\nSTATUS=Serving %s", s->path[0] ? s->path : s->options.name);
}

static void end_as_asked(struct serve *s)
{
	if (s->end == ON_EXIT_KEEP)
		serve_end_keeping(s);
	else
		begin_detach(s);
}

/* After transport_abandon(): the queue threads cannot be waited for. */
static _Noreturn void leave(struct serve *s)
{
	struct error e = ERROR_INIT;

	/* The ring holds the device until its polls are cancelled. */
	loop_submit(s->loop);
	if (s->options.transport == TRANSPORT_VDUSE &&
	    vduse_dev_destroy(s->control_fd, s->options.name, &e))
		log_warning("%s", e.text);
	runtime_release(&s->runtime);
	_exit(s->exit_status);
}

static void attached(struct attach_job *job)
{
	struct serve *s = container_of(job, struct serve, job);

	/* On the way out; see attach_timer_expired(). */
	if (s->abandoned && s->end == ON_EXIT_KEEP)
		return;
	if (s->abandoned)
		leave(s);
	if (job->error) {
		fail(s, &job->text);
		return;
	}
	if (s->exit_status) {
		loop_stop(s->loop);
		return;
	}
	privileges_settle();
	memcpy(s->path, job->path, sizeof(s->path));
	ready(s);
	if (s->stopping)
		end_as_asked(s);
}

void serve_begin_attach(struct serve *s)
{
	struct error e = ERROR_INIT;

	if (s->options.bind == BIND_NONE) {
		privileges_settle();
		ready(s);
		return;
	}
	s->state = SERVE_ATTACHING;
	s->job.done = attached;
	if (attach_start(&s->job, &e))
		fail(s, &e);
}

/* Detaching */

static void detached(struct attach_job *job)
{
	struct serve *s = container_of(job, struct serve, job);

	if (s->abandoned)
		leave(s);
	if (job->error)
		fail(s, &job->text);
	else
		loop_stop(s->loop);
}

static void begin_detach(struct serve *s)
{
	struct error e = ERROR_INIT;

	s->state = SERVE_DETACHING;
	sd_notify(0, "STOPPING=1\nSTATUS=Detaching");
	log_info("%s: detaching", s->options.name);
	/* Nothing is attached anywhere: closing the transport is all there is to do. */
	if (s->options.transport != TRANSPORT_VDUSE) {
		loop_stop(s->loop);
		return;
	}
	s->job.done = detached;
	if (detach_start(&s->job, &e))
		fail(s, &e);
}

/* What is in flight */

/* Requests completed so far; how many are in flight in @ret_in_flight. */
static uint64_t count_requests(const struct serve *s, unsigned int *ret_in_flight)
{
	struct vblk_queue_stats stats;
	uint64_t completed = 0;
	unsigned int i;

	*ret_in_flight = 0;
	for (i = 0; i < s->options.queues; i++) {
		queue_thread_stats(transport_queue(s->transport, i), &stats);
		*ret_in_flight += stats.in_flight;
		completed += stats.read_ops + stats.write_ops + stats.flush_ops +
			     stats.discard_ops + stats.write_zeroes_ops + stats.other_ops;
	}
	return completed;
}

static void look_later(struct serve *s)
{
	const unsigned int ms = s->given_up ? GIVE_UP_MS : s->options.tunables.stop_ms;

	if (ms != BACKEND_NEVER)
		loop_timer_arm(s->loop, &s->stop_timer, max(ms / LOOKS, 1u));
}

static void watch_progress(struct serve *s)
{
	unsigned int in_flight;

	s->completed = count_requests(s, &in_flight);
	s->was_in_flight = in_flight > 0;
	s->stuck = 0;
	look_later(s);
}

static void give_up(struct serve *s)
{
	unsigned int in_flight;

	count_requests(s, &in_flight);
	if (s->last_flush)
		log_warning("%s: the storage takes long to flush, and is left to itself",
			    s->options.name);
	else
		log_warning("%s: giving up %u requests in flight", s->options.name, in_flight);
	s->given_up = true;
	if (s->stopping && !s->last_flush)
		s->exit_status = EXIT_FAILURE;
	vblk_device_set_failing(&s->disk, true);
	backend_fail(s->backend);
	watch_progress(s);
}

/* Requests that even the backend cannot give up, in a system call for instance. */
void serve_abandon(struct serve *s)
{
	log_warning("%s: leaving the device to the kernel", s->options.name);
	s->abandoned = true;
	if (!s->last_flush)
		s->exit_status = EXIT_FAILURE;
	transport_abandon(s->transport);
	if (s->state == SERVE_CLOSING)
		leave(s);
}

static void stop_timer_expired(struct loop_timer *timer)
{
	struct serve *s = container_of(timer, struct serve, stop_timer);
	struct transport_status status;
	unsigned int in_flight;
	uint64_t completed;

	completed = count_requests(s, &in_flight);
	transport_status(s->transport, &status);
	if (s->state == SERVE_SERVING && !in_flight && !status.driver_status)
		return; /* removed, and there is no driver to wait for */
	if (completed != s->completed || !in_flight || !s->was_in_flight)
		watch_progress(s);
	else if (++s->stuck < LOOKS)
		look_later(s);
	else if (!s->given_up)
		give_up(s);
	else if ((s->stopping || s->state == SERVE_CLOSING) && !s->abandoned)
		serve_abandon(s);
}

/* As if killed: the log has what is in flight. */
static _Noreturn void leave_to_successor(struct serve *s)
{
	log_info("%s: requests in flight are left to a successor", s->options.name);
	s->runtime.keep = s->options.transport == TRANSPORT_VDUSE;
	runtime_release(&s->runtime);
	_exit(EXIT_SUCCESS);
}

/*
 * The thread that attaches hangs in the kernel, and with it the memory of this process
 * stays, the ring in it, and what that polls: the device has to be let go of first.
 */
static void attach_timer_expired(struct loop_timer *timer)
{
	struct serve *s = container_of(timer, struct serve, keep_timer);

	if (s->abandoned)
		leave_to_successor(s);
	s->abandoned = true;
	transport_abandon(s->transport);
	loop_timer_arm(s->loop, &s->keep_timer, ABANDON_MS);
}

/*
 * An attachment under way is finished first; see attached(). It may wait for storage:
 * detaching gives its requests up, keeping leaves all of it to a successor.
 */
static void begin_end(struct serve *s)
{
	/* The main loop ends already, with a failure. */
	if (s->why.errnum && s->state == SERVE_SERVING)
		return;
	loop_timer_cancel(s->loop, &s->stop_timer);
	if (s->end == ON_EXIT_DETACH) {
		watch_progress(s);
	} else if (s->state == SERVE_ATTACHING &&
		   s->options.tunables.stop_ms != BACKEND_NEVER) {
		s->keep_timer.expired = attach_timer_expired;
		loop_timer_arm(s->loop, &s->keep_timer, s->options.tunables.stop_ms);
	}
	if (s->state == SERVE_SERVING)
		end_as_asked(s);
}

void serve_stop(struct serve *s, unsigned int how)
{
	if (s->stopping)
		return;
	s->stopping = true;
	serve_end_successor(s);
	/* It is ending already. */
	if (s->state == SERVE_CLOSING)
		return;
	s->end = how;
	if (s->standby)
		serve_stop_taking_over(s);
	else if (!serve_cancel_upgrade(s, "the daemon is to end"))
		begin_end(s);
}

void serve_end_if_asked(struct serve *s)
{
	if (s->stopping)
		begin_end(s);
}

void serve_removing(void *opaque, bool removing)
{
	struct serve *s = opaque;

	if (s->stopping)
		return;
	if (removing) {
		log_info("%s: somebody removes the device", s->options.name);
		serve_cancel_upgrade(s, "somebody removes the device");
		watch_progress(s);
		return;
	}
	loop_timer_cancel(s->loop, &s->stop_timer);
	s->given_up = false;
	vblk_device_set_failing(&s->disk, false);
}

/* The device is another process's: whatever this one still has just ends. */
static int leave_to_other(struct serve *s, struct error *e)
{
	int err = serve_flushing(s) ? -ETIMEDOUT :
		  transport_keep(s->transport, s->options.tunables.stop_ms, e);

	if (err == -ETIMEDOUT) {
		if (s->why.errnum)
			serve_refuse_offer(s, &s->why);
		_exit(s->exit_status);
	}
	return err;
}

/* A flush has to end first, with the storage's answer or by giving up. */
static void await_flush(struct serve *s)
{
	serve_forget_flush(s);
	while (serve_flushing(s))
		loop_run(s->loop);
}

static int keep_for_successor(struct serve *s, struct error *e)
{
	int err;

	s->runtime.keep = s->options.transport == TRANSPORT_VDUSE;
	err = serve_flushing(s) ? -ETIMEDOUT :
	      transport_keep(s->transport, s->options.tunables.stop_ms, e);
	if (err == -ETIMEDOUT)
		leave_to_successor(s);
	return err;
}

static int finish_detaching(struct serve *s, struct error *e)
{
	bool failed;

	if (s->abandoned)
		leave(s);
	if (!s->stop_timer.armed)
		watch_progress(s);
	transport_quiesce(s->transport);
	await_flush(s);
	/* Requests have failed, or a flush has, of which no driver has heard. */
	failed = s->given_up || vblk_device_owes_flush_error(&s->disk);
	if (!s->exit_status && !s->given_up) {
		watch_progress(s);
		serve_flush_last(s);
	}
	if (failed)
		s->exit_status = EXIT_FAILURE;
	return transport_close(s->transport, e);
}

int serve_close_transport(struct serve *s, struct error *e)
{
	const bool keep = s->end == ON_EXIT_KEEP && !s->exit_status;
	int err;

	/* Somebody may have begun to remove the device: nothing is given up now. */
	if (s->runtime.borrowed || keep)
		loop_timer_cancel(s->loop, &s->stop_timer);
	if (s->runtime.borrowed)
		err = leave_to_other(s, e);
	else if (keep)
		err = keep_for_successor(s, e);
	else
		err = finish_detaching(s, e);
	/* The main loop still runs, and the storage may have news. */
	s->transport = NULL;
	loop_timer_cancel(s->loop, &s->stop_timer);
	return err;
}

/* Signals */

void serve_watch_signals(struct serve *s)
{
	s->watching_signals = true;
	io_uring_prep_poll_add(loop_sqe(s->loop, &s->signal_op), s->signal_fd, POLLIN);
}

static void signalled(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct serve *s = container_of(op, struct serve, signal_op);
	struct signalfd_siginfo info;

	(void)res;
	(void)cqe_flags;
	s->watching_signals = false;
	if (s->ending) {
		loop_stop(s->loop);
		return;
	}
	if (read(s->signal_fd, &info, sizeof(info)) != sizeof(info)) {
		serve_watch_signals(s);
		return;
	}
	serve_watch_signals(s);
	/* Both were told (a process group), and the predecessor passes it on. */
	if (s->stopping && s->offered && (pid_t)info.ssi_pid == s->offer.offer.pid)
		return;
	switch (s->signals++) {
	case 0:
		serve_stop(s, s->options.tunables.on_exit);
		break;
	case 1:
		if (s->end == ON_EXIT_DETACH && !s->given_up && !s->runtime.borrowed)
			give_up(s);
		break;
	default:
		log_error("%s: leaving without having detached the device", s->options.name);
		_exit(EXIT_FAILURE);
	}
}

void serve_close_signals(struct serve *s)
{
	struct signalfd_siginfo info;

	s->ending = true;
	if (s->watching_signals)
		loop_cancel(s->loop, &s->signal_op);
	while (s->watching_signals)
		loop_run(s->loop);
	/* The service manager may not know yet that another process serves. */
	if (read(s->signal_fd, &info, sizeof(info)) == sizeof(info))
		serve_end_successor(s);
}

int serve_open_signals(struct serve *s, struct error *e)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signal_fd < 0)
		return err_set_errno(e, errno, "create a signalfd");
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	s->signal_op.complete = signalled;
	s->stop_timer.expired = stop_timer_expired;
	return 0;
}
