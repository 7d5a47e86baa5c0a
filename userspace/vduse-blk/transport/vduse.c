// SPDX-License-Identifier: MIT
/*
 * A virtio-blk disk behind a VDUSE device.
 *
 * The message pump: poll the device, read one request, let the state machine
 * (vduse_messages.h) handle it, write its answer, poll again. The state machine
 * asks for queues to be started, stopped and so on; that is fanned out as one
 * command to each queue thread, and the last report completes it. Only one
 * fan-out is ever under way, since only one request is.
 *
 * The log (vduse_log.h) follows what the kernel is told: the header is written
 * just before an answer that changes the status, so a successor that gets the
 * same message again, unanswered, finds it done and says so again. The logs of
 * the queues are emptied when the driver starts anew.
 *
 * A device that a killed process left is adopted: messages that wait come first,
 * for one may be a reset, then the queues start from their logs.
 *
 * A device whose process hands it over is adopted in two steps. Standing by, all is
 * made that can fail, and neither device nor log is touched. The predecessor has
 * paused when vduse_take_over() is called, and still has the device: should this
 * process die now, it goes on. So no message is read before vduse_listen() says
 * that it has gone, since what was read and not answered would be lost. One that
 * waits does not keep the queues from starting: the kernel waits for its answer, and
 * until then the driver lets rings and memory be what they were.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/queue_pause.h"
#include "transport/sigbus.h"
#include "transport/vduse.h"
#include "transport/vduse_dev.h"
#include "transport/vduse_log.h"
#include "transport/vduse_messages.h"
#include "transport/vduse_queue.h"
#include "transport/vduse_recovery.h"

/*
 * Between our answer to DRIVER_OK and the kernel taking note of it an interrupt
 * is refused: try again, for as long as a stopped virtual CPU might take.
 */
#define CONFIG_IRQ_RETRY_MS	2
#define CONFIG_IRQ_RETRIES	2500

struct vduse {
	struct transport transport;
	struct vduse_params params;
	struct vduse_messages messages;
	int fd;
	struct loop_op poll_op;
	bool polling;
	struct loop_op removal_op; /* watches for POLLPRI, whatever the messages do */
	bool watching_removal;
	bool removing; /* it came, and the driver has not gone yet */
	struct loop_timer keep_timer;
	bool kept_late; /* it has expired */
	bool closing; /* close_vduse() runs the loop until nothing is under way */
	bool abandoned;
	uint64_t features;
	struct vduse_log *log;
	struct vduse_log_facts facts; /* what the log says, or shall with the next answer */
	struct error why; /* an adopted device cannot be gone on with */
	bool created; /* vduse_create() has returned */
	bool deaf; /* vduse_listen() has yet to be called */

	/* transport_pause(): no message is read, then no queue looks at its ring. */
	bool pausing;
	bool paused;
	struct queue_pause queue_pause;
	transport_done *pause_done;
	void *pause_opaque;

	/* A driver has yet to hear that the configuration space changed. */
	bool config_untold;
	unsigned int config_retries;
	struct loop_timer config_timer;

	/* The fan-out under way. */
	unsigned int pending;
	int fan_error;
	void (*fan_done)(struct vduse *v, int error);

	unsigned int nqueues; /* that exist */
	struct vduse_slot {
		struct vduse_queue *queue;
		struct inflight *log;
	} slots[];
};

static struct vduse *from_messages(struct vduse_messages *m)
{
	return container_of(m, struct vduse, messages);
}

static struct vduse *from_transport(const struct transport *t)
{
	return container_of(t, struct vduse, transport);
}

/* Fan-out to the queue threads */

static void fan_report(void *opaque, struct queue_thread *q, int error)
{
	struct vduse *v = opaque;

	(void)q;
	if (error && !v->fan_error)
		v->fan_error = error;
	if (!--v->pending)
		v->fan_done(v, v->fan_error);
}

static void fan_begin(struct vduse *v, void (*done)(struct vduse *v, int error))
{
	v->pending = v->nqueues;
	v->fan_error = 0;
	v->fan_done = done;
}

static void stop_queues(struct vduse *v, uint64_t first, uint64_t last,
			void (*done)(struct vduse *v, int error))
{
	unsigned int i;

	fan_begin(v, done);
	for (i = 0; i < v->nqueues; i++)
		queue_thread_stop(vduse_queue_thread(v->slots[i].queue), first, last, fan_report,
				  v);
}

/* Pausing */

static void pause_reached(void *opaque, int error)
{
	struct vduse *v = opaque;

	(void)error; /* stopping cannot fail */
	v->paused = true;
	if (v->closing)
		loop_stop(v->params.loop);
	else
		v->pause_done(v->pause_opaque, 0);
}

/* Messages first: one may have to stop or start queues itself. */
static void pause_queues(struct vduse *v)
{
	struct queue_thread *queues[QUEUE_PAUSE_MAX];
	unsigned int i;

	if (v->polling || vduse_messages_busy(&v->messages) ||
	    v->queue_pause.state != QUEUE_PAUSE_NONE)
		return;
	if (v->messages.phase != VDUSE_PHASE_RUNNING) {
		pause_reached(v, 0);
		return;
	}
	for (i = 0; i < v->nqueues; i++)
		queues[i] = vduse_queue_thread(v->slots[i].queue);
	queue_pause_begin(&v->queue_pause, queues, v->nqueues, pause_reached, v);
}

static bool being_adopted(const struct vduse *v)
{
	const struct vduse_messages *m = &v->messages;

	return m->phase == VDUSE_PHASE_ADOPTED ||
	       (m->phase == VDUSE_PHASE_STARTING && m->adopting);
}

static void pause_vduse(struct transport *t, transport_done *done, void *opaque)
{
	struct vduse *v = from_transport(t);

	if (being_adopted(v)) {
		done(opaque, -EAGAIN);
		return;
	}
	v->pausing = true;
	v->pause_done = done;
	v->pause_opaque = opaque;
	loop_timer_cancel(v->params.loop, &v->config_timer);
	if (v->polling)
		loop_cancel(v->params.loop, &v->poll_op);
	else
		pause_queues(v);
}

static void listen_or_start(struct vduse *v);
static void not_adopted(struct vduse *v);

static void resumed(void *opaque, int error)
{
	struct vduse *v = opaque;

	if (v->closing) {
		loop_stop(v->params.loop);
		return;
	}
	if (v->config_untold)
		loop_timer_arm(v->params.loop, &v->config_timer, CONFIG_IRQ_RETRY_MS);
	if (error)
		not_adopted(v);
	else if (!v->polling && !vduse_messages_busy(&v->messages))
		listen_or_start(v);
	v->pause_done(v->pause_opaque, error);
}

static void resume_vduse(struct transport *t, transport_done *done, void *opaque)
{
	struct vduse *v = from_transport(t);

	v->pausing = false;
	v->paused = false;
	v->pause_done = done;
	v->pause_opaque = opaque;
	if (v->queue_pause.state != QUEUE_PAUSE_NONE)
		queue_pause_end(&v->queue_pause, v->features, resumed, v);
	else
		resumed(v, 0);
}

/* Configuration space */

/* A driver that is still starting may have read the old one: it hears later. */
static void tell_config(struct vduse *v)
{
	int err = vduse_dev_inject_config_irq(v->fd);

	v->config_untold = err == -EINVAL;
	if (err && err != -EINVAL)
		log_error("%s: tell the driver of the new configuration: %s", v->params.name,
			  strerror(-err));
	if (v->config_untold && v->messages.phase == VDUSE_PHASE_RUNNING &&
	    v->config_retries++ < CONFIG_IRQ_RETRIES)
		loop_timer_arm(v->params.loop, &v->config_timer, CONFIG_IRQ_RETRY_MS);
}

static void config_timer_expired(struct loop_timer *timer)
{
	tell_config(container_of(timer, struct vduse, config_timer));
}

/* The kernel shows its copy to the driver, and keeps it for drivers to come. */
static int config_changed(struct transport *t, struct error *e)
{
	struct vduse *v = from_transport(t);
	const struct virtio_blk_config *config = &v->params.disk->config;
	int err = vduse_dev_set_config(v->fd, config, sizeof(*config));

	if (err)
		return err_set_errno(e, -err, "set the configuration space of \"%s\"",
				     v->params.name);
	v->facts.capacity = v->params.disk->capacity;
	vduse_log_write(v->log, &v->facts);
	v->config_retries = 0;
	tell_config(v);
	return 0;
}

/* What the state machine asks for */

static bool features_ok(struct vduse_messages *m)
{
	struct vduse *v = from_messages(m);
	const uint64_t needed = (1ULL << VIRTIO_F_VERSION_1) | (1ULL << VIRTIO_F_ACCESS_PLATFORM);
	uint64_t features;
	int err = vduse_dev_features(v->fd, &features);

	if (err) {
		log_error("%s: read the negotiated features: %s", v->params.name, strerror(-err));
		return false;
	}
	if (features & ~v->params.disk->features) {
		log_error("%s: the driver accepted features that were not offered: %#" PRIx64,
			  v->params.name, features & ~v->params.disk->features);
		return false;
	}
	if (needed & ~features) {
		log_error("%s: the driver did not accept features that are needed: %#" PRIx64,
			  v->params.name, needed & ~features);
		return false;
	}
	v->features = features;
	return true;
}

static void queues_stopped(struct vduse *v, int error)
{
	(void)error; /* stopping cannot fail */
	vduse_messages_stop_done(&v->messages);
}

static void not_adopted(struct vduse *v)
{
	if (!v->why.errnum)
		err_set(&v->why, EIO, "its virtqueues cannot be served, see above");
	if (being_adopted(v) && !v->deaf)
		vduse_recovery_advice(&v->why, v->params.name);
	if (v->closing)
		loop_stop(v->params.loop);
	else if (v->created)
		v->params.failed(v->params.opaque, &v->why);
}

/* Some queues run, some could not: none shall. */
static void stopped_after_failure(struct vduse *v, int error)
{
	const bool adopting = v->messages.adopting;

	(void)error;
	vduse_messages_start_done(&v->messages, -EIO);
	if (adopting)
		not_adopted(v);
}

/* No answer to a message follows the start of an adopted device. */
static void adopted(struct vduse *v)
{
	struct error e = ERROR_INIT;

	if (config_changed(&v->transport, &e))
		log_error("%s", e.text);
	if (v->closing)
		loop_stop(v->params.loop);
	else if (v->deaf)
		v->params.taken_over(v->params.opaque);
	else if (!vduse_messages_busy(&v->messages) && !v->polling)
		listen_or_start(v);
}

static void queues_started(struct vduse *v, int error)
{
	const bool adopting = v->messages.adopting;

	if (error) {
		stop_queues(v, 1, 0, stopped_after_failure);
		return;
	}
	log_info("%s: driver is ready, features %#" PRIx64 "%s", v->params.name, v->features,
		 v->features & (1ULL << VIRTIO_F_RING_PACKED) ? ", packed rings" : "");
	vduse_messages_start_done(&v->messages, 0);
	if (adopting) {
		adopted(v);
	} else if (v->config_untold) {
		v->config_retries = 0;
		loop_timer_arm(v->params.loop, &v->config_timer, CONFIG_IRQ_RETRY_MS);
	}
}

/* The driver begins: nothing is in flight, and a successor shall know its rings. */
static int begin_log(struct vduse *v)
{
	unsigned int i;

	for (i = 0; i < v->nqueues; i++) {
		struct vduse_vq_info info;
		int err = vduse_dev_vq_info(v->fd, i, &info);

		if (err)
			return err;
		v->facts.queues[i] = (struct vduse_log_queue) {
			.desc = info.desc_addr,
			.driver = info.driver_addr,
			.device = info.device_addr,
			.num = info.num,
			.ready = info.ready,
		};
		inflight_forget(v->slots[i].log);
	}
	return 0;
}

/* No reset is waiting to be read, so the rings have to be those of the log. */
static int check_adopted(struct vduse *v)
{
	uint64_t features;
	unsigned int i;
	int err;

	err = vduse_dev_features(v->fd, &features);
	if (err)
		return err_set_errno(&v->why, -err, "read the negotiated features");
	if (features != v->facts.features)
		return err_set(&v->why, ESTALE, "the driver uses features %#" PRIx64
			       ", the log of requests in flight is about %#" PRIx64, features,
			       v->facts.features);
	for (i = 0; i < v->nqueues; i++) {
		err = vduse_recovery_matches(&v->facts.queues[i], v->fd, i);
		if (err < 0)
			return err_set_errno(&v->why, -err, "read the set-up of virtqueue %u", i);
		if (!err)
			return err_set(&v->why, ESTALE, "virtqueue %u is not the one that the log"
				       " of requests in flight is about", i);
		vduse_queue_announce(v->slots[i].queue);
	}
	return 0;
}

static void start(struct vduse_messages *m, enum vduse_start how)
{
	struct vduse *v = from_messages(m);
	unsigned int i;
	int err = 0;

	if (how == VDUSE_START_FRESH)
		err = begin_log(v);
	else if (how == VDUSE_START_ADOPT)
		err = check_adopted(v);
	if (err) {
		stopped_after_failure(v, err);
		return;
	}
	fan_begin(v, queues_started);
	for (i = 0; i < v->nqueues; i++)
		queue_thread_start(vduse_queue_thread(v->slots[i].queue), v->features,
				   how != VDUSE_START_RESUME, fan_report, v);
}

static void stop(struct vduse_messages *m, uint64_t first, uint64_t last)
{
	stop_queues(from_messages(m), first, last, queues_stopped);
}

static void queue_answered(void *opaque, struct queue_thread *q, int error)
{
	struct vduse *v = opaque;
	const struct virtqueue_state *at = queue_thread_result(q);
	struct vduse_vq_state state = { .index = queue_thread_index(q) };

	if (v->features & (1ULL << VIRTIO_F_RING_PACKED)) {
		state.packed.last_avail_counter = at->avail_wrap;
		state.packed.last_avail_idx = at->avail_idx;
		state.packed.last_used_counter = at->used_wrap;
		state.packed.last_used_idx = at->used_idx;
	} else {
		state.split.avail_index = at->avail_idx;
	}
	vduse_messages_vq_state_done(&v->messages, error, &state);
}

static void vq_state(struct vduse_messages *m, uint32_t index)
{
	struct vduse *v = from_messages(m);

	queue_thread_query(vduse_queue_thread(v->slots[index].queue), queue_answered, v);
}

static void set_removing(struct vduse *v, bool removing)
{
	if (v->removing == removing)
		return;
	v->removing = removing;
	if (v->params.removing)
		v->params.removing(v->params.opaque, removing);
}

/*
 * POLLPRI stays for as long as the removal takes, which is longer than its driver
 * does. So it is watched for again only when the next driver says something.
 */
static void watch_removal(struct vduse *v)
{
	v->watching_removal = true;
	io_uring_prep_poll_add(loop_sqe(v->params.loop, &v->removal_op), v->fd, POLLPRI);
}

static void removal_begins(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct vduse *v = container_of(op, struct vduse, removal_op);

	(void)cqe_flags;
	v->watching_removal = false;
	if (v->closing)
		loop_stop(v->params.loop);
	else if (!v->abandoned && res > 0 && res & POLLPRI)
		set_removing(v, true);
}

static void listen_for_messages(struct vduse *v)
{
	v->polling = true;
	io_uring_prep_poll_add(loop_sqe(v->params.loop, &v->poll_op), v->fd, POLLIN);
}

/* The next message; or, when none waits, the queues of an adopted device. */
static void listen_or_start(struct vduse *v)
{
	struct pollfd p = { .fd = v->fd, .events = POLLIN };

	if (v->messages.phase == VDUSE_PHASE_ADOPTED && !poll(&p, 1, 0))
		vduse_messages_start_adopted(&v->messages);
	else
		listen_for_messages(v);
}

static void write_log(struct vduse *v)
{
	if (v->facts.status == v->messages.status)
		return;
	v->facts.status = v->messages.status;
	v->facts.features = v->features;
	vduse_log_write(v->log, &v->facts);
}

static void respond(struct vduse_messages *m, const struct vduse_dev_response *response)
{
	struct vduse *v = from_messages(m);
	ssize_t n;

	if (v->abandoned)
		return;
	write_log(v);
	if (!v->messages.status)
		set_removing(v, false);
	else if (!v->watching_removal && !v->closing)
		watch_removal(v);
	n = write(v->fd, response, sizeof(*response));
	/* The kernel gave up waiting: it has drawn its conclusions already. */
	if (n < 0 && errno == ENOENT)
		log_warning("%s: an answer came too late for the kernel (msg_timeout)",
			    v->params.name);
	else if (n < 0)
		log_error("%s: answer a control message: %s", v->params.name, strerror(errno));

	if (v->closing)
		loop_stop(v->params.loop);
	else if (v->pausing)
		pause_queues(v);
	else if (!v->polling)
		listen_or_start(v);
}

static const struct vduse_messages_ops message_ops = {
	.features_ok = features_ok,
	.start = start,
	.stop = stop,
	.vq_state = vq_state,
	.respond = respond,
};

/* Message pump */

static void log_request(const struct vduse *v, const struct vduse_dev_request *request)
{
	switch (request->type) {
	case VDUSE_GET_VQ_STATE:
		log_debug("%s: message %u: state of virtqueue %u", v->params.name,
			  request->request_id, request->vq_state.index);
		break;
	case VDUSE_SET_STATUS:
		log_debug("%s: message %u: status %#x", v->params.name, request->request_id,
			  request->s.status);
		break;
	case VDUSE_UPDATE_IOTLB:
		log_debug("%s: message %u: forget mappings of %#llx-%#llx", v->params.name,
			  request->request_id, (unsigned long long)request->iova.start,
			  (unsigned long long)request->iova.last);
		break;
	default:
		log_warning("%s: message %u of unknown type %u", v->params.name,
			    request->request_id, request->type);
	}
}

/*
 * Polling resumes in respond(), which an easy request reaches before
 * vduse_messages_request() returns.
 */
static void message_ready(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct vduse *v = container_of(op, struct vduse, poll_op);
	struct vduse_dev_request request;
	ssize_t n;

	(void)cqe_flags;
	v->polling = false;
	if (v->abandoned)
		return;
	if (v->closing) {
		loop_stop(v->params.loop);
		return;
	}
	if (v->pausing) {
		pause_queues(v);
		return;
	}
	/* A pause was ended before the poll was. */
	if (res == -ECANCELED) {
		listen_or_start(v);
		return;
	}
	if (res < 0 || (res & POLLERR)) {
		log_error("%s: the kernel has given the device up", v->params.name);
		return;
	}
	n = read(v->fd, &request, sizeof(request));
	if (n == sizeof(request)) {
		log_request(v, &request);
		vduse_messages_request(&v->messages, &request);
		return;
	}
	if (n >= 0 || (errno != EAGAIN && errno != EINTR))
		log_error("%s: read a control message: %s", v->params.name,
			  n < 0 ? strerror(errno) : "short");
	listen_for_messages(v);
}

/* Life */

static int create_queues(struct vduse *v, struct error *e)
{
	unsigned int i;
	int err;

	for (i = 0; i < v->params.nqueues; i++) {
		struct queue_thread_params params = {
			.index = i,
			.size = v->params.queue_size,
			.disk = v->params.disk,
			.backend = v->params.backend,
			.main = v->params.loop,
			.thread_init = v->params.thread_init,
		};
		struct vduse_slot *slot = &v->slots[i];
		size_t bytes;
		void *region = vduse_log_region(v->log, i, &bytes);

		err = inflight_create(region, bytes, v->params.queue_size, &slot->log, e);
		if (err)
			return err;
		err = vduse_queue_create(&params, v->fd, slot->log, &slot->queue, e);
		if (err) {
			inflight_destroy(slot->log);
			return err;
		}
		v->nqueues++;
	}
	return 0;
}

static void destroy_queues(struct vduse *v)
{
	while (v->nqueues) {
		struct vduse_slot *slot = &v->slots[--v->nqueues];

		vduse_queue_destroy(slot->queue);
		inflight_destroy(slot->log);
	}
}

static void stopped_for_good(struct vduse *v, int error)
{
	(void)error;
	loop_stop(v->params.loop);
}

/* Others may stop the loop, too: no queue may be destroyed that has not reported. */
static void stop_for_good(struct vduse *v)
{
	stop_queues(v, 0, UINT64_MAX, stopped_for_good);
	while (v->pending && !v->kept_late)
		loop_run(v->params.loop);
}

/* What must end before the queues are stopped for good; a pause may take for ever. */
static bool at_work(const struct vduse *v)
{
	return vduse_messages_busy(&v->messages) || queue_pause_busy(&v->queue_pause);
}

/* Nothing watches the device any more, and no message is at work. */
static void quiesce(struct vduse *v)
{
	v->closing = true;
	loop_timer_cancel(v->params.loop, &v->config_timer);
	if (v->polling)
		loop_cancel(v->params.loop, &v->poll_op);
	if (v->watching_removal)
		loop_cancel(v->params.loop, &v->removal_op);
	while (v->polling || v->watching_removal || (at_work(v) && !v->kept_late))
		loop_run(v->params.loop);
}

/* The storage may have changed, and a timer been armed, since quiesce(). */
static void let_go(struct vduse *v)
{
	destroy_queues(v);
	loop_timer_cancel(v->params.loop, &v->config_timer);
	loop_timer_cancel(v->params.loop, &v->keep_timer);
	vduse_log_close(v->log);
	close(v->fd);
}

static int close_vduse(struct transport *t, struct error *e)
{
	struct vduse *v = from_transport(t);
	int err;

	quiesce(v);
	stop_for_good(v);
	let_go(v);
	err = vduse_dev_destroy(v->params.control_fd, v->params.name, e);
	free(v);
	return err;
}

static void keep_timer_expired(struct loop_timer *timer)
{
	struct vduse *v = container_of(timer, struct vduse, keep_timer);

	v->kept_late = true;
	loop_stop(v->params.loop);
}

/* The log is right at every moment, so there is nothing to be written at the end. */
static int keep_vduse(struct transport *t, unsigned int limit_ms, struct error *e)
{
	struct vduse *v = from_transport(t);

	v->keep_timer.expired = keep_timer_expired;
	if (limit_ms != BACKEND_NEVER)
		loop_timer_arm(v->params.loop, &v->keep_timer, limit_ms);
	quiesce(v);
	if (!v->kept_late)
		stop_for_good(v);
	if (v->kept_late)
		return err_set(e, ETIMEDOUT, "requests of \"%s\" are still in flight",
			       v->params.name);
	let_go(v);
	free(v);
	return 0;
}

static void abandon_vduse(struct transport *t)
{
	struct vduse *v = from_transport(t);
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	v->abandoned = true;
	loop_timer_cancel(v->params.loop, &v->config_timer);
	if (v->polling)
		loop_cancel(v->params.loop, &v->poll_op);
	if (v->watching_removal)
		loop_cancel(v->params.loop, &v->removal_op);
	/* Other threads use the number: it must not become another file's. */
	if (fd < 0 || dup3(fd, v->fd, O_CLOEXEC) < 0)
		close(v->fd);
	if (fd >= 0)
		close(fd);
}

static void status(const struct transport *t, struct transport_status *ret_status)
{
	const struct vduse *v = from_transport(t);

	*ret_status = (struct transport_status) {
		.driver_status = v->messages.status,
		.features = v->features,
		.running = v->messages.phase == VDUSE_PHASE_RUNNING,
	};
}

static struct queue_thread *queue(const struct transport *t, unsigned int index)
{
	return vduse_queue_thread(from_transport(t)->slots[index].queue);
}

static const struct transport_ops vduse_transport_ops = {
	.name = "vduse",
	.close = close_vduse,
	.keep = keep_vduse,
	.abandon = abandon_vduse,
	.status = status,
	.queue = queue,
	.config_changed = config_changed,
	.pause = pause_vduse,
	.resume = resume_vduse,
};

static struct vduse_log_facts facts_of(const struct vduse_params *params)
{
	struct vduse_log_facts facts = {
		.offered = params->disk->features,
		.capacity = params->disk->capacity,
		.block_size = params->disk->block_size,
		.num_queues = params->nqueues,
		.queue_size = params->queue_size,
	};

	memcpy(facts.name, params->name, strnlen(params->name, sizeof(facts.name) - 1));
	return facts;
}

static int create_device(struct vduse *v, struct error *e)
{
	const struct vduse_params *params = &v->params;
	const struct vduse_dev_params dev = {
		.name = params->name,
		.device_id = VIRTIO_ID_BLOCK,
		.features = params->disk->features,
		.nqueues = params->nqueues,
		.queue_size = (uint16_t)params->queue_size,
		.bounce_size = params->bounce_size,
		.config = &params->disk->config,
		.config_size = sizeof(params->disk->config),
	};
	void *journal;
	size_t bytes;
	int err;

	v->facts = facts_of(params);
	err = vduse_log_create(params->dir_fd, &v->facts, backend_journal_bytes(params->backend),
			       &v->log, e);
	if (err)
		return err;
	journal = vduse_log_journal(v->log, &bytes);
	backend_use_journal(params->backend, journal, bytes, false);
	vblk_device_keep_flush_error(params->disk, vduse_log_flush_owed(v->log));
	v->facts = *vduse_log_facts(v->log);
	err = vduse_dev_create(params->control_fd, &dev, &v->fd, e);
	if (err)
		vduse_log_close(v->log);
	return err;
}

/* What was offered to the driver, the device still offers; the disk may have grown. */
static int compare_device(struct vduse *v, struct error *e)
{
	const struct vduse_log_facts now = facts_of(&v->params);

	v->facts = *vduse_log_facts(v->log);
	return vduse_log_fits(&v->facts, &now, e);
}

static void adopt_log(struct vduse *v)
{
	struct error e = ERROR_INIT;
	void *journal;
	size_t bytes;

	v->features = v->facts.features;
	journal = vduse_log_journal(v->log, &bytes);
	backend_use_journal(v->params.backend, journal, bytes, true);
	vblk_device_keep_flush_error(v->params.disk, vduse_log_flush_owed(v->log));
	/* It grew while nobody told the kernel; a driver that is there is told by adopted(). */
	if (v->params.disk->capacity > v->facts.capacity && config_changed(&v->transport, &e))
		log_error("%s", e.text);
}

static int adopt_device(struct vduse *v, struct error *e)
{
	const struct vduse_recovery *r = v->params.recovery;
	int err;

	v->fd = r->fd;
	v->log = r->log;
	err = compare_device(v, e);
	if (v->params.standby)
		return err;
	if (err)
		return vduse_recovery_advice(e, v->params.name);
	adopt_log(v);
	return 0;
}

int vduse_take_over(struct transport *t, struct error *e)
{
	struct vduse *v = from_transport(t);
	int err;

	err = vduse_log_reload(v->log, e);
	if (!err)
		err = compare_device(v, e);
	if (err)
		return err;
	adopt_log(v);
	vduse_messages_adopt(&v->messages, v->facts.status);
	if (v->messages.phase == VDUSE_PHASE_ADOPTED)
		vduse_messages_start_adopted(&v->messages);
	else
		v->params.taken_over(v->params.opaque);
	return 0;
}

int vduse_descriptor(const struct transport *t)
{
	return from_transport(t)->fd;
}

void vduse_listen(struct transport *t)
{
	struct vduse *v = from_transport(t);

	v->deaf = false;
	watch_removal(v);
	listen_or_start(v);
}

int vduse_create(const struct vduse_params *params, struct transport **ret_transport,
		 struct error *e)
{
	struct vduse_recovery *recovery = params->recovery;
	struct vduse *v;
	int err;

	v = calloc(1, sizeof(*v) + params->nqueues * sizeof(v->slots[0]));
	if (!v)
		return err_set(e, ENOMEM, "out of memory");
	v->transport.ops = &vduse_transport_ops;
	v->params = *params;
	v->poll_op.complete = message_ready;
	v->removal_op.complete = removal_begins;
	v->config_timer.expired = config_timer_expired;
	v->deaf = params->standby;
	vduse_messages_init(&v->messages, &message_ops, params->nqueues);

	err = sigbus_guard_install(e);
	if (err)
		goto free_vduse;
	err = recovery ? adopt_device(v, e) : create_device(v, e);
	if (err)
		goto free_vduse;
	err = create_queues(v, e);
	if (err)
		goto destroy_device;

	if (recovery && !v->deaf)
		vduse_messages_adopt(&v->messages, v->facts.status);
	if (!v->deaf)
		listen_or_start(v);
	if (v->why.errnum) {
		err = err_set(e, v->why.errnum, "%s", v->why.text);
		goto destroy_device;
	}
	if (recovery) {
		recovery->fd = -1;
		recovery->log = NULL;
	}
	v->created = true;
	if (!v->deaf)
		watch_removal(v);
	*ret_transport = &v->transport;
	return 0;

destroy_device:
	destroy_queues(v);
	if (!recovery) {
		vduse_log_close(v->log);
		close(v->fd);
		vduse_dev_destroy(params->control_fd, params->name, NULL);
	}
free_vduse:
	free(v);
	return err;
}
