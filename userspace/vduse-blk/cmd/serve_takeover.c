// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: taking the device over from another process, the new one's side.
 *
 *	OFFER		descriptors and what was changed at run time
 *	storage, device, queue threads, on connections of this process's own; the
 *			predecessor serves meanwhile, and neither device nor log are
 *			touched
 *	READY		from the main loop on
 *	GO		serve the queues, then the control socket
 *	DONE
 *	the predecessor closes the socket: control messages, too, are ours
 *
 * Before GO every failure, the predecessor's end included, ends this process and
 * nothing else. Until the predecessor has gone, nothing is this process's to remove:
 * after a failure it goes on, before GO as if nothing had been, after GO by recovery.
 * If it is killed after GO, it says nothing more, and the device is taken over all the
 * same. Whoever tells this process to end waits until the device is its own.
 *
 * An offer to recover is of a daemon whose successor died after GO: this is the same
 * process, having executed itself again. Nobody says GO then, and what the dead one had
 * in flight is in the log, as after any kill.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/privileges.h"
#include "cmd/serve.h"
#include "cmd/version.h"
#include "transport/vduse.h"

#define OFFER_S	10 /* it is in the socket when this process is started */

static int receive_offer(struct serve *s, struct error *e)
{
	const struct timeval limit = { .tv_sec = OFFER_S };
	const int fd = s->options.take_over;
	struct handover_message m;
	int err;

	if (fcntl(fd, F_SETFD, FD_CLOEXEC) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		return err_set_errno(e, errno, "take-over: descriptor %d", fd);
	err = handover_receive(fd, &m, e);
	if (err)
		return err;
	if (m.type != HANDOVER_OFFER) {
		handover_release(&m);
		return err_set(e, EPROTO, "it said %s, not OFFER", handover_name(m.type));
	}
	s->offer = m;
	s->offered = true;
	return 0;
}

/* What was changed with "set" stays changed, whatever the configuration file says. */
static int apply_set_options(struct serve *s, struct error *e)
{
	json_t *options = s->offer.offer.options, *value;
	struct tunables tunables = s->options.tunables;
	const char *name;
	int err;

	json_object_foreach(options, name, value) {
		err = tunables_set(&tunables, name, json_string_value(value), e);
		if (err == -ENOENT)
			log_warning("%s: this version has no option \"%s\", which was set to %s",
				    s->options.name, name, json_string_value(value));
		else if (err)
			return err;
	}
	err = tunables_check(&tunables, e);
	if (err)
		return err;
	s->options.tunables = tunables;
	s->set_options = json_incref(options);
	log_set_level((enum log_level)tunables.log_level);
	return 0;
}

/* Folder and socket have their owner and mode; they are not changed under clients. */
static int compare_access(struct serve *s, struct error *e)
{
	struct account account = { .name = "root", .uid = geteuid() };
	struct stat st;
	int err = 0;

	if (s->options.user)
		err = privileges_find(s->options.user, &account, e);
	if (!err && (s->options.user || geteuid()))
		err = privileges_inherit(&account, e);
	if (err)
		return err;
	s->control_gid = CONTROL_NO_GROUP;
	if (s->options.control_group)
		err = privileges_find_group(s->options.control_group, &s->control_gid, e);
	if (err)
		return err;
	if (fstat(s->offer.offer.fds[HANDOVER_FD_FOLDER], &st))
		return err_set_errno(e, errno, "look at the runtime folder");
	if ((st.st_mode & 0777) != (s->options.control_group ? 0710 : 0700) ||
	    (s->options.control_group && st.st_gid != s->control_gid))
		return err_set(e, EINVAL, "control-group: cannot be changed in an upgrade");
	return 0;
}

static int take_descriptors(struct serve *s, struct error *e)
{
	int *fds = s->offer.offer.fds;
	int err = runtime_inherit(RUNTIME_ROOT, s->options.name, fds[HANDOVER_FD_FOLDER],
				  fds[HANDOVER_FD_LOCK], &s->runtime, e);

	if (err)
		return err;
	take_fd(&fds[HANDOVER_FD_FOLDER]);
	take_fd(&fds[HANDOVER_FD_LOCK]);
	s->control_fd = take_fd(&fds[HANDOVER_FD_CONTROL]);
	s->socket_fd = take_fd(&fds[HANDOVER_FD_SOCKET]);
	return 0;
}

int serve_inherit(struct serve *s, struct error *e)
{
	int err = receive_offer(s, e);

	if (err)
		return err_prefix(e, "take-over");
	if (s->options.transport != TRANSPORT_VDUSE ||
	    strcmp(s->options.name, s->offer.offer.name))
		err = err_set(e, EINVAL, "the device is \"%s\", transport vduse, and cannot become another",
			      s->offer.offer.name);
	if (!err)
		err = apply_set_options(s, e);
	if (!err)
		err = compare_access(s, e);
	if (!err)
		err = take_descriptors(s, e);
	if (err)
		goto release_offer;
	snprintf(s->path, sizeof(s->path), "%s", s->offer.offer.path);
	s->upgrades = s->offer.offer.upgrades + !s->offer.offer.recover;
	s->standby = !s->offer.offer.recover;
	s->runtime.borrowed = s->standby;
	log_info("%s: %s process %d, version %s", s->options.name,
		 s->standby ? "taking over from" : "going on as", (int)s->offer.offer.pid,
		 s->offer.offer.version);
	return 0;

release_offer:
	serve_release_offer(s);
	return err;
}

void serve_release_offer(struct serve *s)
{
	if (s->offered)
		handover_release(&s->offer);
	s->offered = false;
}

int serve_inherit_device(struct serve *s, struct error *e)
{
	int *fd = &s->offer.offer.fds[HANDOVER_FD_DEVICE];
	int err;

	err = vduse_recovery_inherit(s->options.name, s->runtime.dir_fd, *fd, &s->recovery, e);
	if (err && !s->standby)
		err = vduse_recovery_advice(e, s->options.name);
	if (err)
		return err;
	take_fd(fd);
	if (!s->standby)
		log_info("%s: going on where a killed process left off", s->options.name);
	return 0;
}

/* What the predecessor says */

static void lost(struct serve *s, const struct error *e)
{
	serve_not_recovered(s, e);
}

static void watch_predecessor(struct serve *s);

/* The queues are served here, and the predecessor has gone: now all of it is ours. */
static void own_device(struct serve *s)
{
	s->standby = false;
	s->runtime.borrowed = false;
	vduse_listen(s->transport);
	serve_end_if_asked(s);
}

/*
 * It has ended, or closes the socket because it is about to. After GO it does so only
 * when DONE has been said, or when it was killed: giving up, it kills this process first.
 */
static void predecessor_gone(struct serve *s)
{
	struct error e = ERROR_INIT;

	if (!s->gone) {
		err_set(&e, ECONNRESET, "the predecessor has ended, or given the upgrade up");
		lost(s, &e);
		return;
	}
	s->alone = true;
	if (s->taken_over)
		own_device(s);
}

void serve_stop_taking_over(struct serve *s)
{
	struct error e = ERROR_INIT;

	if (s->gone)
		return;
	err_set(&e, ECANCELED, "it was told to end");
	lost(s, &e);
}

static void take_over(struct serve *s)
{
	struct error e = ERROR_INIT;

	if (runtime_claim(&s->runtime, &e) || vduse_take_over(s->transport, &e))
		lost(s, &e);
}

static void predecessor_speaks(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct serve *s = container_of(op, struct serve, predecessor_op);
	struct handover_message m;
	struct error e = ERROR_INIT;
	int err;

	(void)res;
	(void)cqe_flags;
	s->watching_predecessor = false;
	if (s->ending) {
		loop_stop(s->loop);
		return;
	}
	/* Lost: whatever is said, this process is on its way out. */
	if (s->exit_status)
		return;
	err = handover_receive(s->options.take_over, &m, &e);
	if (err == -ECONNRESET) {
		predecessor_gone(s);
		return;
	}
	watch_predecessor(s);
	if (err) {
		lost(s, &e);
		return;
	}
	if (m.type == HANDOVER_GO && !s->gone) {
		s->gone = true;
		take_over(s);
	} else {
		err_set(&e, EPROTO, "the predecessor said %s out of turn",
			handover_name(m.type));
		lost(s, &e);
	}
	handover_release(&m);
}

static void watch_predecessor(struct serve *s)
{
	s->watching_predecessor = true;
	s->predecessor_op.complete = predecessor_speaks;
	io_uring_prep_poll_add(loop_sqe(s->loop, &s->predecessor_op), s->options.take_over,
			       POLLIN);
}

void serve_taken_over(void *opaque)
{
	struct serve *s = opaque;
	struct handover_message m = {
		.type = HANDOVER_DONE,
		.done.queues = s->options.queues,
	};
	struct error e = ERROR_INIT;
	unsigned int i;
	int err;

	for (i = 0; i < s->options.queues; i++)
		m.done.served_ns[i] =
			queue_thread_times(transport_queue(s->transport, i)).started_ns;
	err = serve_open_control(s, &e);
	if (!err)
		err = handover_send(s->options.take_over, &m, &e);
	/* With nobody there to hear it, the device is ours all the same. */
	if (err && err != -EPIPE && err != -ECONNRESET) {
		lost(s, &e);
		return;
	}
	s->taken_over = true;
	serve_announce(s);
	if (s->alone)
		own_device(s);
}

int serve_stand_by(struct serve *s, struct error *e)
{
	struct handover_message m = {
		.type = HANDOVER_READY,
		.ready = { .capacity = s->disk.capacity, .version = VDUSE_BLK_VERSION },
	};
	int err = handover_send(s->options.take_over, &m, e);

	if (!err)
		watch_predecessor(s);
	return err;
}

void serve_forget_predecessor(struct serve *s)
{
	s->ending = true;
	if (s->watching_predecessor)
		loop_cancel(s->loop, &s->predecessor_op);
	while (s->watching_predecessor)
		loop_run(s->loop);
}

void serve_refuse_offer(const struct serve *s, const struct error *why)
{
	struct handover_message m = { .type = HANDOVER_REFUSED };

	m.refused.errnum = (uint32_t)(why->errnum > 0 ? why->errnum : EIO);
	memcpy(m.refused.text, why->text, sizeof(m.refused.text));
	handover_send(s->options.take_over, &m, NULL);
}
