// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: serve one disk until SIGTERM or SIGINT.
 *
 *	runtime folder and lock, control device	as root
 *	identity of --user
 *	storage					backend_open(): sizes, features
 *	VDUSE device, queue threads		vduse_create()
 *	main loop: control messages, status socket, signals
 *		attach thread: vDPA bus, bus driver -> path on stdout, READY=1
 *		SIGTERM, SIGINT
 *		detach thread: the driver flushes and lets go, served until then
 *	the same backwards
 *
 * The first signal detaches, however long requests in flight take. The second
 * gives those up: the kernel sees the device without a process, and our module
 * then fails what the driver waits for. The third just ends the process.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/log.h"
#include "base/util.h"
#include "cmd/attach.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/privileges.h"
#include "cmd/runtime.h"
#include "cmd/status_socket.h"
#include "transport/transport.h"
#include "transport/vdpa_sysfs.h"
#include "transport/vduse.h"
#include "transport/vduse_dev.h"

#define DETACH_REMINDER_MS 10000

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
	"  --bind TARGET        virtio: a block device of this host (default);\n"
	"                       vhost: a device for a virtual machine;\n"
	"                       none: leave \"vdpa dev add\" to somebody else\n"
	"  --read-only          never write; required if the storage is read-only\n"
	"  --serial TEXT        serial number, up to 20 characters\n"
	"  --block-size BYTES   logical block size, 512 to 4096 (default: the storage's)\n"
	"  --user USER          run as that account, keeping CAP_NET_ADMIN only\n"
	"  --log-level LEVEL    error, warning, info (default) or debug\n"
	"  --config FILE        read options from lines \"name = value\"; those on the\n"
	"                       command line win\n"
	"  --help\n";

enum serve_state {
	SERVE_STARTING,
	SERVE_ATTACHING,
	SERVE_SERVING,
	SERVE_DETACHING,
};

static const char *const state_names[] = {
	[SERVE_STARTING] = "starting",
	[SERVE_ATTACHING] = "attaching",
	[SERVE_SERVING] = "serving",
	[SERVE_DETACHING] = "detaching",
};

struct serve {
	struct serve_options options;
	struct runtime runtime;
	int control_fd;
	struct backend *backend;
	struct vblk_device disk;
	struct loop *loop;
	struct transport *transport;
	struct status_server status;

	enum serve_state state;
	struct attach_job job;
	char path[256];
	unsigned int signals; /* that came; see above */
	int exit_status;

	int signal_fd;
	struct loop_op signal_op;
	bool watching_signals;
	bool ending; /* nobody cares for signals any more */
	struct loop_timer reminder;
};

/* Status document */

static json_t *describe_queue(const struct serve *s, unsigned int index)
{
	struct vblk_queue_stats stats;

	queue_thread_stats(transport_queue(s->transport, index), &stats);
	return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:b}",
			 "index", (int)index,
			 "reads", (json_int_t)stats.read_ops,
			 "writes", (json_int_t)stats.write_ops,
			 "flushes", (json_int_t)stats.flush_ops,
			 "discards", (json_int_t)stats.discard_ops,
			 "write_zeroes", (json_int_t)stats.write_zeroes_ops,
			 "others", (json_int_t)stats.other_ops,
			 "read_bytes", (json_int_t)stats.read_bytes,
			 "write_bytes", (json_int_t)stats.write_bytes,
			 "errors", (json_int_t)stats.errors,
			 "kicks", (json_int_t)stats.kicks,
			 "interrupts", (json_int_t)stats.notifies,
			 "in_flight", (int)stats.in_flight,
			 "broken", (int)stats.broken);
}

static json_t *describe(void *opaque)
{
	const struct serve *s = opaque;
	const struct backend_info *info = &s->backend->info;
	struct transport_status status;
	char features[32];
	json_t *queues, *document;
	unsigned int i;

	transport_status(s->transport, &status);
	snprintf(features, sizeof(features), "%#" PRIx64, status.features);
	queues = json_array();
	for (i = 0; i < s->options.queues; i++)
		json_array_append_new(queues, describe_queue(s, i));

	document = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:I, s:i, s:b, s:i, s:i, s:s, s:s, s:b, s:b, s:i, s:s, s:s, s:o}",
			     "name", s->options.name,
			     "pid", (int)getpid(),
			     "state", state_names[s->state],
			     "path", s->path,
			     "bind", bind_target_name(s->options.bind),
			     "uri", s->options.uri,
			     "size", (json_int_t)info->size,
			     "block_size", (int)s->disk.block_size,
			     "read_only", (int)s->disk.read_only,
			     "queues", (int)s->options.queues,
			     "queue_size", (int)s->options.queue_size,
			     "serial", s->options.serial,
			     "backend", info->description,
			     "driver_ready", (int)status.running,
			     "packed", (int)!!(status.running &&
					       status.features & (1ULL << VIRTIO_F_RING_PACKED)),
			     "driver_status", (int)status.driver_status,
			     "features", features,
			     "io_uring", queue_thread_loop_rung(transport_queue(s->transport, 0)),
			     "virtqueues", queues);
	return document;
}

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
	privileges_settle();
	memcpy(s->path, job->path, sizeof(s->path));
	ready(s);
	if (s->signals)
		begin_detach(s);
}

static void begin_attach(struct serve *s)
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

	if (vduse_dev_destroy(s->control_fd, s->options.name, &e))
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

static void watch_signals(struct serve *s)
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
		watch_signals(s);
		return;
	}
	watch_signals(s);
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

static void close_signals(struct serve *s)
{
	s->ending = true;
	if (s->watching_signals)
		loop_cancel(s->loop, &s->signal_op);
	while (s->watching_signals)
		loop_run(s->loop);
}

static int open_signals(struct serve *s, struct error *e)
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

/* Start and end */

/*
 * With packed rings, running out of bounce memory must be impossible. A driver
 * that cannot map a request waits and tries again with split rings, but Linux
 * (virtqueue_add_packed(), -EIO) fails it with packed ones, and an I/O error is
 * what the user sees. So every ring entry gets its share of the memory, which
 * grows up to what the module allows, and no request takes more than half of
 * it; the other half is for headers, status bytes, indirect tables and
 * rounding. Below vhost_vdpa there is no bounce memory.
 */
#define BOUNCE_SHARE	(256u << 10)

struct bounce {
	uint32_t size; /* 0: the module's default */
	uint32_t max_request; /* 0: no limit */
};

static struct bounce plan_bounce(const struct serve_options *o)
{
	const uint64_t entries = (uint64_t)o->queues * o->queue_size;
	uint64_t size = min(entries * BOUNCE_SHARE, (uint64_t)VDUSE_BOUNCE_MAX);
	struct bounce bounce = { 0 };

	if (!o->packed || o->bind == BIND_VHOST)
		return bounce;
	size = max(size, (uint64_t)VDUSE_BOUNCE_DEFAULT);
	bounce.max_request = (uint32_t)min(size / entries, (uint64_t)BOUNCE_SHARE) / 2;
	if (size > VDUSE_BOUNCE_DEFAULT)
		bounce.size = (uint32_t)size;
	return bounce;
}

static int open_storage(struct serve *s, struct error *e)
{
	const struct backend_options options = {
		.read_only = s->options.read_only,
		.block_size = s->options.block_size,
		.queues = s->options.queues,
		.queue_depth = s->options.queue_size,
	};
	struct vblk_device_params params = {
		.num_queues = s->options.queues,
		.queue_size = s->options.queue_size,
		.packed = s->options.packed,
		.read_only = s->options.read_only,
		.serial = s->options.serial,
		.max_request = plan_bounce(&s->options).max_request,
	};
	int err;

	err = backend_open(s->options.uri, &options, &s->backend, e);
	if (err)
		return err;
	params.info = &s->backend->info;
	params.block_size = s->backend->info.block_size;
	err = vblk_device_init(&s->disk, &params, e);
	if (err) {
		backend_close(s->backend);
		return err;
	}
	log_info("%s: %s, %" PRIu64 " bytes in blocks of %u", s->options.name,
		 s->backend->info.description, s->backend->info.size, s->disk.block_size);
	return 0;
}

static int create_device(struct serve *s, struct error *e)
{
	const struct vduse_params params = {
		.name = s->options.name,
		.control_fd = s->control_fd,
		.disk = &s->disk,
		.backend = s->backend,
		.nqueues = s->options.queues,
		.queue_size = s->options.queue_size,
		.bounce_size = plan_bounce(&s->options).size,
		.loop = s->loop,
		.thread_init = privileges_forget,
	};
	int err;

	privileges_raise();
	err = vduse_create(&params, &s->transport, e);
	privileges_lower();
	return err;
}

/* From the VDUSE device to the end of the main loop, and back. */
static int run_device(struct serve *s, struct error *e)
{
	struct error close_error = ERROR_INIT;
	int err, close_err;

	err = create_device(s, e);
	if (err)
		return err;
	s->status = (struct status_server) { .loop = s->loop, .describe = describe, .opaque = s };
	err = status_server_open(&s->status, RUNTIME_ROOT, s->options.name, e);
	if (err)
		goto close_device;

	watch_signals(s);
	s->job = (struct attach_job) {
		.loop = s->loop,
		.name = s->options.name,
		.bind = s->options.bind,
	};
	begin_attach(s);
	if (!s->exit_status)
		err = loop_run(s->loop);
	if (err)
		err_set_errno(e, -err, "main loop");

	status_server_close(&s->status);
close_device:
	close_err = transport_close(s->transport, &close_error);
	if (close_err && !err && !s->exit_status)
		err = err_set(e, -close_err, "%s", close_error.text);
	return err;
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
	if (s->options.bind != BIND_NONE)
		vdpa_load_driver(s->options.bind == BIND_VHOST ? VDPA_DRIVER_VHOST :
				 VDPA_DRIVER_VIRTIO);

	s->control_fd = vduse_control_open(e);
	if (s->control_fd < 0)
		return s->control_fd;
	err = runtime_acquire(RUNTIME_ROOT, s->options.name, account.uid, account.gid,
			      &s->runtime, e);
	if (err)
		goto close_control;
	if (s->options.user) {
		err = privileges_drop(&account, e);
		if (err)
			goto release_runtime;
	}
	return 0;

release_runtime:
	runtime_release(&s->runtime);
close_control:
	close(s->control_fd);
	return err;
}

static int serve(struct serve *s, struct error *e)
{
	int err;

	err = prepare(s, e);
	if (err)
		return err;
	err = open_storage(s, e);
	if (err)
		goto unprepare;
	err = open_signals(s, e);
	if (err)
		goto close_storage;
	err = loop_create(&(struct loop_params) { .name = "main" }, &s->loop, e);
	if (err)
		goto close_signal_fd;

	err = run_device(s, e);

	close_signals(s);
	loop_destroy(s->loop);
close_signal_fd:
	close(s->signal_fd);
close_storage:
	backend_close(s->backend);
unprepare:
	runtime_release(&s->runtime);
	close(s->control_fd);
	return err;
}

int cmd_serve(int argc, char **argv)
{
	struct serve s = { .exit_status = EXIT_SUCCESS };
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

	log_set_level(s.options.log_level);
	if (serve(&s, &e)) {
		log_error("%s", e.text);
		s.exit_status = EXIT_FAILURE;
	}
	serve_options_release(&s.options);
	return s.exit_status;
}
