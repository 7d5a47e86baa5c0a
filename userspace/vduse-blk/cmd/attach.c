// SPDX-License-Identifier: MIT
/*
 * Attaching and detaching, on a thread of its own.
 *
 * The thread may hang in the kernel when the process is killed, with the files of
 * the process open: then the device would stay busy and the runtime folder locked
 * for whoever comes next. So it has a table of its own with nothing in it.
 *
 * The thread owns the job from start to the write to the eventfd; the main
 * loop, which polls it, then joins the thread and owns the job again.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/attach.h"
#include "cmd/privileges.h"
#include "transport/vdpa_netlink.h"
#include "transport/vdpa_sysfs.h"

/* For devtmpfs or udev, and for a probe that reads partition tables remotely. */
#define PATH_WAIT_MS	30000

static const char *driver_of(enum bind_target bind)
{
	return bind == BIND_VHOST ? VDPA_DRIVER_VHOST : VDPA_DRIVER_VIRTIO;
}

static void attach(struct attach_job *job)
{
	const char *driver = driver_of(job->bind);

	if (!job->attached) {
		job->error = vdpa_dev_add(job->name, &job->text);
		if (job->error)
			return;
	}

	job->error = vdpa_bind(job->name, driver, &job->text);
	if (!job->error)
		job->error = vdpa_wait_path(job->name, driver, PATH_WAIT_MS, job->path,
					    sizeof(job->path), &job->text);
	/* With a driver's requests in its log, it is not ours to throw away. */
	if (job->error && !job->attached)
		vdpa_dev_del(job->name, NULL);
}

static void detach(struct attach_job *job)
{
	struct vdpa_dev_info info;

	if (!vdpa_attached(job->name))
		return;
	job->error = vdpa_dev_get(job->name, &info, &job->text);
	/* Somebody else's device may have the same name. */
	if (!job->error && !strcmp(info.mgmtdev, "vduse"))
		job->error = vdpa_dev_del(job->name, &job->text);
	if (job->error == -ENODEV)
		job->error = 0;
}

/* Standard input, output and error stay, the latter for the log. */
static void close_files(int but)
{
	if (unshare(CLONE_FILES))
		return;
	if (but > 3)
		close_range(3, (unsigned int)but - 1, 0);
	close_range((unsigned int)but + 1, ~0u, 0);
}

static void *thread_main(void *opaque)
{
	struct attach_job *job = opaque;
	const uint64_t one = 1;
	ssize_t ignored;

	pthread_setname_np(pthread_self(), "attach");
	close_files(job->event_fd);
	privileges_raise();
	job->work(job);
	ignored = write(job->event_fd, &one, sizeof(one));
	(void)ignored;
	return NULL;
}

static void thread_ended(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct attach_job *job = container_of(op, struct attach_job, op);

	(void)res;
	(void)cqe_flags;
	pthread_join(job->thread, NULL);
	close(job->event_fd);
	job->done(job);
}

static int start(struct attach_job *job, void (*work)(struct attach_job *job), struct error *e)
{
	sigset_t all, old;
	int err;

	job->work = work;
	job->error = 0;
	job->text = ERROR_INIT;
	job->path[0] = '\0';
	job->op.complete = thread_ended;
	job->event_fd = eventfd(0, EFD_CLOEXEC);
	if (job->event_fd < 0)
		return err_set_errno(e, errno, "create an eventfd");

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&job->thread, NULL, thread_main, job);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		close(job->event_fd);
		return err_set_errno(e, err, "start a thread");
	}
	io_uring_prep_poll_add(loop_sqe(job->loop, &job->op), job->event_fd, POLLIN);
	return 0;
}

int attach_start(struct attach_job *job, struct error *e)
{
	return start(job, attach, e);
}

int detach_start(struct attach_job *job, struct error *e)
{
	return start(job, detach, e);
}
