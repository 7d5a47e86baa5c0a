// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: attaching the device, and the end.
 *
 * The first signal detaches, however long requests in flight take. The second
 * gives those up: the kernel sees the device without a process, and our module
 * then fails what the driver waits for. The third just ends the process.
 */
#include <errno.h>
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

#define DETACH_REMINDER_MS 10000

/* Attaching and detaching */

static void begin_detach(struct serve *s);

/* Report why, and let the main loop end with a failure. */
static void fail(struct serve *s, const struct error *e)
{
	log_error("%s", e->text);
	s->exit_status = EXIT_FAILURE;
	loop_stop(s->loop);
}

static void ready(struct serve *s)
{
	s->state = SERVE_SERVING;
	if (s->path[0]) {
		printf("%s\n", s->path);
		fflush(stdout);
	}
	log_info("%s: ready%s%s", s->options.name, s->path[0] ? " at " : "", s->path);
	sd_notifyf(0, "READY=1\nSTATUS=Serving %s", s->path[0] ? s->path : s->options.name);
}

static void attached(struct attach_job *job)
{
	struct serve *s = container_of(job, struct serve, job);

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
	if (s->signals)
		begin_detach(s);
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

/* After transport_abandon(): the queue threads cannot be waited for. */
static _Noreturn void leave(struct serve *s)
{
	struct error e = ERROR_INIT;

	if (s->options.transport == TRANSPORT_VDUSE &&
	    vduse_dev_destroy(s->control_fd, s->options.name, &e))
		log_warning("%s", e.text);
	runtime_release(&s->runtime);
	_exit(EXIT_FAILURE);
}

static void detached(struct attach_job *job)
{
	struct serve *s = container_of(job, struct serve, job);

	loop_timer_cancel(s->loop, &s->reminder);
	if (s->signals > 1)
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
	if (detach_start(&s->job, &e)) {
		fail(s, &e);
		return;
	}
	loop_timer_arm(s->loop, &s->reminder, DETACH_REMINDER_MS);
}

static void remind(struct loop_timer *timer)
{
	struct serve *s = container_of(timer, struct serve, reminder);
	struct vblk_queue_stats stats;
	unsigned int i, in_flight = 0;

	for (i = 0; i < s->options.queues; i++) {
		queue_thread_stats(transport_queue(s->transport, i), &stats);
		in_flight += stats.in_flight;
	}
	log_warning("%s: still detaching, %u requests wait for the storage; another signal gives them up",
		    s->options.name, in_flight);
	loop_timer_arm(s->loop, timer, DETACH_REMINDER_MS);
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
	switch (s->signals++) {
	case 0:
		/* An attachment under way is finished first; see attached(). */
		if (s->state == SERVE_SERVING)
			begin_detach(s);
		break;
	case 1:
		log_warning("%s: giving up the requests in flight", s->options.name);
		transport_abandon(s->transport);
		break;
	default:
		log_error("%s: leaving without having detached the device", s->options.name);
		_exit(EXIT_FAILURE);
	}
}

void serve_close_signals(struct serve *s)
{
	s->ending = true;
	if (s->watching_signals)
		loop_cancel(s->loop, &s->signal_op);
	while (s->watching_signals)
		loop_run(s->loop);
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
	s->reminder.expired = remind;
	return 0;
}
