// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: serve one disk until SIGTERM or SIGINT.
 *
 *	runtime folder and lock, control device	as root
 *	identity of --user
 *	device of a killed predecessor		serve_find_predecessor()
 *	storage					backend_open(): sizes, features
 *	VDUSE device or vhost-user socket, queue threads	vduse_create() ...
 *	main loop: control messages, control socket, signals
 *		attach thread: vDPA bus, bus driver -> path on stdout, READY=1
 *		SIGTERM, SIGINT
 *		detach thread: the driver flushes and lets go, served until then
 *	the same backwards
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/cmd.h"
#include "cmd/privileges.h"
#include "cmd/serve.h"
#include "transport/vdpa_sysfs.h"
#include "transport/vduse.h"
#include "transport/vduse_dev.h"
#include "transport/vhost_user.h"

static const char usage[] =
	"Usage: vduse-blk serve --name NAME --uri URI [OPTION...]\n"
	"\n"
	"Serves the disk at URI as the vDPA block device NAME, in the foreground. Prints\n"
	"the path of the block device (or of the vhost device) once it can be used.\n"
	"\n"
	"  --name NAME          name of the device: letters, digits, \"._-\"\n"
	"  --uri URI            nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH,\n"
	"                       file:///PATH or null:SIZE\n"
	"  --queues N           virtqueues, each with a thread of its own (default 1)\n"
	"  --queue-size N       entries of each ring, a power of two (default 256)\n"
	"  --packed on|off      offer the packed ring format (default off)\n"
	"  --transport NAME     vduse: a device of this host's kernel (default);\n"
	"                       vhost-user: a socket for a virtual machine, without VDUSE\n"
	"  --socket PATH        the socket that vhost-user listens on, mode 0600\n"
	"  --bind TARGET        virtio: a block device of this host (default);\n"
	"                       vhost: a device for a virtual machine;\n"
	"                       none: leave \"vdpa dev add\" to somebody else\n"
	"  --read-only          never write; required if the storage is read-only\n"
	"  --serial TEXT        serial number, up to 20 characters\n"
	"  --block-size BYTES   logical block size, 512 to 4096 (default: the storage's)\n"
	"  --user USER          run as that account, keeping CAP_NET_ADMIN only\n"
	"  --control-group GROUP  who else may use the control socket (default: nobody)\n"
	"  --replay-log SIZE|off  acknowledged, unflushed writes kept for a server that\n"
	"                       loses them (default 32M)\n"
	"  --log-level LEVEL    error, warning, info (default) or debug\n"
	"  --config FILE        read options from lines \"name = value\"; those on the\n"
	"                       command line win\n"
	"\n"
	"What \"vduse-blk set\" can change later; TIME is in seconds, or has a unit (250ms,\n"
	"1.5s, 2min, 1h):\n"
	"  --connect-timeout TIME    to connect to the server (default 10)\n"
	"  --handshake-timeout TIME  then, to negotiate (default 10)\n"
	"  --request-timeout TIME|off  without an answer, the server is lost (default 30)\n"
	"  --keep-alive TIME|off     silence of the server's kernel likewise (default 15)\n"
	"  --idle-timeout TIME|off   then an idle connection is closed (default off)\n"
	"  --io-timeout TIME|off     then a request that waits fails (default off)\n"
	"  --reconnect-min TIME      first pause between attempts (default 100ms)\n"
	"  --reconnect-max TIME      longest pause (default 5)\n"
	"  --fence-timeout TIME      how late a write of a lost connection may arrive\n"
	"                            (default 30)\n"
	"  --fence-after-close TIME|off  likewise, once the server has closed it (default 2)\n"
	"  --stop-timeout TIME|off   then the end fails requests in flight (default 500ms)\n"
	"  --on-exit detach|keep     keep: leave the device for a successor (default detach)\n"
	"  --on-shrink error|read-only  when the storage has become smaller (default error)\n"
	"\n"
	"  --help\n";

static int create_vhost_user(struct serve *s, struct error *e)
{
	const struct vhost_user_params params = {
		.name = s->options.name,
		.socket_path = s->options.socket,
		.disk = &s->disk,
		.backend = s->backend,
		.nqueues = s->options.queues,
		.queue_size = s->options.queue_size,
		.loop = s->loop,
		.thread_init = privileges_forget,
	};

	snprintf(s->path, sizeof(s->path), "%s", s->options.socket);
	return vhost_user_create(&params, &s->transport, e);
}

static int create_vduse(struct serve *s, struct error *e)
{
	const struct vduse_params params = {
		.name = s->options.name,
		.control_fd = s->control_fd,
		.disk = &s->disk,
		.backend = s->backend,
		.nqueues = s->options.queues,
		.queue_size = s->options.queue_size,
		.bounce_size = serve_plan_bounce(&s->options).size,
		.dir_fd = s->runtime.dir_fd,
		.recovery = s->recovery,
		.standby = s->standby,
		.taken_over = serve_taken_over,
		.failed = serve_not_recovered,
		.removing = serve_removing,
		.opaque = s,
		.loop = s->loop,
		.thread_init = privileges_forget,
	};
	int err;

	privileges_raise();
	err = vduse_create(&params, &s->transport, e);
	privileges_lower();
	return err;
}

int serve_open_control(struct serve *s, struct error *e)
{
	const struct control_params params = {
		.loop = s->loop,
		.fd = s->socket_fd,
		.group = s->control_gid,
		.handle = serve_control,
		.opaque = s,
	};
	int err;

	s->listen_fd = fcntl(s->socket_fd, F_DUPFD_CLOEXEC, 0);
	if (s->listen_fd < 0)
		return err_set_errno(e, errno, "control socket");
	err = control_server_open(&params, &s->control, e);
	if (!err)
		s->socket_fd = -1;
	return err;
}

void serve_close_control(struct serve *s)
{
	serve_refuse_resizes(s);
	control_server_close(s->control);
}

/* What there is to do until a driver can use the device. */
static int begin_service(struct serve *s, struct error *e)
{
	int err;

	s->job = (struct attach_job) {
		.loop = s->loop,
		.name = s->options.name,
		.bind = s->options.bind,
		.attached = s->recovery != NULL,
	};
	if (s->standby)
		return serve_stand_by(s, e);
	err = serve_open_control(s, e);
	if (err)
		return err;
	/* Recovered from a successor: it has been attached for long. */
	if (s->offered)
		serve_announce(s);
	else
		serve_begin_attach(s);
	return 0;
}

/* From the device to the end of the main loop, and back. */
static int run_device(struct serve *s, struct error *e)
{
	struct error close_error = ERROR_INIT;
	int err, close_err;

	if (s->options.transport == TRANSPORT_VHOST_USER)
		err = create_vhost_user(s, e);
	else
		err = create_vduse(s, e);
	if (err)
		return err;
	serve_watch_signals(s);
	err = begin_service(s, e);
	if (!err && !s->exit_status) {
		err = loop_run(s->loop);
		if (err)
			err_set_errno(e, -err, "main loop");
	}

	/* Nothing begins any more, least of all another end. */
	s->state = SERVE_CLOSING;
	loop_timer_cancel(s->loop, &s->keep_timer);
	serve_forget_successor(s);
	serve_close_control(s);
	if (s->successor_died)
		serve_recover_from_successor(s);
	close_err = serve_close_transport(s, &close_error);
	if (close_err && !err && !s->exit_status)
		err = err_set(e, -close_err, "%s", close_error.text);
	return err;
}

/* The folder with the control socket in it, for the account that will serve. */
static int prepare_runtime(struct serve *s, const struct account *account, struct error *e)
{
	int err;

	s->control_gid = CONTROL_NO_GROUP;
	if (s->options.control_group) {
		err = privileges_find_group(s->options.control_group, &s->control_gid, e);
		if (err)
			return err;
	}
	err = runtime_acquire(RUNTIME_ROOT, s->options.name, account->uid, account->gid,
			      &s->runtime, e);
	if (err)
		return err;
	if (s->options.control_group)
		err = runtime_share(&s->runtime, account->uid, s->control_gid, e);
	if (!err)
		err = control_socket_bind(RUNTIME_ROOT, s->options.name, account->uid,
					  s->control_gid, &s->socket_fd, e);
	if (err)
		runtime_release(&s->runtime);
	return err;
}

/* The kernel's side: modules and /dev/vduse/control. */
static int prepare_vduse(struct serve *s, struct error *e)
{
	s->control_fd = -1;
	if (s->options.transport != TRANSPORT_VDUSE)
		return 0;
	if (s->options.bind != BIND_NONE)
		vdpa_load_driver(s->options.bind == BIND_VHOST ? VDPA_DRIVER_VHOST :
				 VDPA_DRIVER_VIRTIO);
	s->control_fd = vduse_control_open(e);
	return min(s->control_fd, 0);
}

static void close_vduse(const struct serve *s)
{
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->control_fd >= 0)
		close(s->control_fd);
}

/* What needs root comes first; storage is opened with the account's rights. */
static int prepare(struct serve *s, struct error *e)
{
	struct account account = { .uid = geteuid(), .gid = getegid() };
	int err;

	if (s->options.user) {
		err = privileges_find(s->options.user, &account, e);
		if (err)
			return err;
	}
	err = prepare_vduse(s, e);
	if (err)
		return err;
	err = prepare_runtime(s, &account, e);
	if (err)
		goto close_control;
	if (s->options.user) {
		err = privileges_drop(&account, e);
		if (err)
			goto release_runtime;
	}
	return 0;

release_runtime:
	close(s->socket_fd);
	runtime_release(&s->runtime);
close_control:
	close_vduse(s);
	return err;
}

static int serve(struct serve *s, struct error *e)
{
	int err;

	err = serve_remember_program(s, e);
	if (!err)
		err = s->options.take_over >= 0 ? serve_inherit(s, e) : prepare(s, e);
	if (err)
		return err;
	err = loop_create(&(struct loop_params) { .name = "main" }, &s->loop, e);
	if (err)
		goto unprepare;
	if (s->offered)
		err = serve_inherit_device(s, e);
	else if (s->options.transport == TRANSPORT_VDUSE)
		err = serve_find_predecessor(s, e);
	if (err)
		goto destroy_loop;
	err = serve_open_storage(s, e);
	if (err)
		goto free_recovery;
	err = serve_open_signals(s, e);
	if (err)
		goto close_storage;

	err = run_device(s, e);

	serve_forget_predecessor(s);
	serve_close_signals(s);
	close(s->signal_fd);
close_storage:
	backend_close(s->backend);
free_recovery:
	vduse_recovery_free(s->recovery);
destroy_loop:
	loop_destroy(s->loop);
unprepare:
	if (s->socket_fd >= 0)
		close(s->socket_fd);
	runtime_release(&s->runtime);
	close_vduse(s);
	serve_release_offer(s);
	json_decref(s->set_options);
	return err;
}

int cmd_serve(int argc, char **argv)
{
	struct serve s = {
		.argc = argc,
		.argv = argv,
		.listen_fd = -1,
		.exit_status = EXIT_SUCCESS,
	};
	struct error e = ERROR_INIT;
	bool help;

	signal(SIGPIPE, SIG_IGN);
	serve_options_init(&s.options);
	if (serve_options_parse(argc, argv, &s.options, &help, &e)) {
		log_error("%s", e.text);
		serve_options_release(&s.options);
		return EXIT_USAGE;
	}
	if (help) {
		fputs(usage, stdout);
		serve_options_release(&s.options);
		return EXIT_SUCCESS;
	}

	log_set_level((enum log_level)s.options.tunables.log_level);
	if (serve(&s, &e)) {
		log_error("%s", e.text);
		s.why = e;
		s.exit_status = EXIT_FAILURE;
	}
	if (s.options.take_over >= 0 && s.why.errnum)
		serve_refuse_offer(&s, &s.why);
	serve_options_release(&s.options);
	return s.exit_status;
}
