// SPDX-License-Identifier: MIT
/*
 * A virtio-blk disk behind a vhost-user socket.
 *
 * Session: a frontend connects -> its messages are handled one by one -> it goes
 * -> rings stop, requests in flight finish, its memory is let go -> the next may
 * connect. A second frontend is turned away while there is a session; one that
 * comes when the first has hung up waits until all is cleared away.
 *
 * A message: the connection has checked its form (vhost_user_proto.h). A handler
 * checks it against the state, notes what it wants in the rings, and ends in
 * settle() when queues have to follow, or in conclude(). A request that cannot
 * be granted is refused in its answer if the frontend wants one; if it does not,
 * the connection is closed, since otherwise the frontend would go on with
 * something else in mind than we.
 *
 * Ring state after SET_FEATURES: without VHOST_USER_F_PROTOCOL_FEATURES every
 * ring is enabled; with it, SET_VRING_ENABLE decides.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/sigbus.h"
#include "transport/vhost_user.h"
#include "transport/vhost_user_conn.h"
#include "transport/vhost_user_listen.h"
#include "transport/vhost_user_rings.h"

#define FEATURE(bit)	(1ULL << (bit))

/* SET_CONFIG is refused, so there is nothing to offer for it. */
#define PROTOCOL_FEATURES                                                                   \
	(FEATURE(VHOST_USER_PROTOCOL_F_MQ) | FEATURE(VHOST_USER_PROTOCOL_F_REPLY_ACK) |     \
	 FEATURE(VHOST_USER_PROTOCOL_F_BACKEND_REQ) | FEATURE(VHOST_USER_PROTOCOL_F_CONFIG) | \
	 FEATURE(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) |                                    \
	 FEATURE(VHOST_USER_PROTOCOL_F_RESET_DEVICE) |                                      \
	 FEATURE(VHOST_USER_PROTOCOL_F_MEM_SLOTS) | FEATURE(VHOST_USER_PROTOCOL_F_STATUS))

enum session_state {
	SESSION_NONE,	  /* a frontend may connect */
	SESSION_LIVE,	  /* @conn is open */
	SESSION_CLEARING, /* it is closed, the rings are being stopped */
};

struct vhost_user {
	struct transport transport;
	struct vhost_user_params params;
	struct vhost_user_rings *rings;
	struct vhost_user_listener listener;
	bool listening;
	bool closing;
	struct loop_timer limit; /* of keeping */
	bool late; /* it has expired */

	enum session_state session;
	int waiting_fd; /* comes next; -1: nobody */
	struct vhost_user_conn conn;
	struct vhost_user_msg *msg; /* being handled; NULL: none */
	struct vhost_user_mem *mem;
	uint64_t features; /* accepted */
	uint8_t status;
	int backend_fd; /* channel for our own requests; -1: none */
	int logs_fd; /* that the last GET_INFLIGHT_FD was answered with; -1: none */
};

static void replace_fd(int *fd, int with)
{
	if (*fd >= 0)
		close(*fd);
	*fd = with;
}

static struct vhost_user *from_transport(const struct transport *t)
{
	return container_of(t, struct vhost_user, transport);
}

static struct vhost_user *from_conn(struct vhost_user_conn *conn)
{
	return container_of(conn, struct vhost_user, conn);
}

/* How a message ends */

/* Nothing works on the message any more. False: the connection is going. */
static bool end_message(struct vhost_user *v)
{
	v->msg = NULL;
	if (v->closing)
		vhost_user_conn_close(&v->conn, "the daemon ends");
	return !v->closing;
}

static void answer(struct vhost_user *v, const void *payload, size_t size)
{
	if (end_message(v))
		vhost_user_conn_answer(&v->conn, payload, size, -1);
}

static void answer_u64(struct vhost_user *v, uint64_t value)
{
	answer(v, &value, sizeof(value));
}

static bool wants_ack(const struct vhost_user *v)
{
	return v->conn.limits.negotiated & FEATURE(VHOST_USER_PROTOCOL_F_REPLY_ACK) &&
	       v->msg->header.flags & VHOST_USER_NEED_REPLY;
}

/* The end of every message without an answer of its own. */
static void conclude(struct vhost_user *v)
{
	if (wants_ack(v)) {
		answer_u64(v, 0);
		return;
	}
	if (end_message(v))
		vhost_user_conn_next(&v->conn);
}

static void refuse(struct vhost_user *v, const struct error *e)
{
	if (wants_ack(v) && !vhost_user_has_answer(v->msg->header.request)) {
		log_warning_ratelimited("%s: refused: %s", v->params.name, e->text);
		answer_u64(v, 1);
		return;
	}
	v->msg = NULL;
	vhost_user_conn_close(&v->conn, e->text);
}

/*
 * A ring that cannot start is the driver's doing as often as the frontend's, and
 * GET_STATUS shows it: no reason to close the connection.
 */
static void settled(void *opaque, int error)
{
	struct vhost_user *v = opaque;

	if (error && wants_ack(v))
		answer_u64(v, 1);
	else
		conclude(v);
}

static void settle(struct vhost_user *v)
{
	vhost_user_rings_settle(v->rings, settled, v);
}

/* The device as a whole */

static void set_features(struct vhost_user *v, uint64_t features)
{
	unsigned int i;

	v->features = features & ~FEATURE(VHOST_USER_F_PROTOCOL_FEATURES);
	vhost_user_rings_set_features(v->rings, v->features);
	if (!(features & FEATURE(VHOST_USER_F_PROTOCOL_FEATURES))) {
		for (i = 0; i < v->params.nqueues; i++)
			vhost_user_rings_enable(v->rings, i, true);
	}
	settle(v);
}

static void reset(struct vhost_user *v)
{
	v->features = 0;
	v->status = 0;
	vhost_user_rings_reset(v->rings);
	settle(v);
}

static void set_status(struct vhost_user *v, uint8_t status)
{
	if (!status) {
		reset(v);
		return;
	}
	v->status = status;
	conclude(v);
}

static uint8_t driver_status(const struct vhost_user *v)
{
	uint8_t status = v->status;

	if (vhost_user_rings_broken(v->rings))
		status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	return status;
}

/* What lies behind the end of ours reads as zeroes: a frontend may know more fields. */
static void get_config(struct vhost_user *v, const struct vhost_user_config *asked)
{
	const uint8_t *ours = (const uint8_t *)&v->params.disk->config;
	const uint32_t end = sizeof(v->params.disk->config);
	struct vhost_user_config config = {
		.offset = asked->offset,
		.size = asked->size,
		.flags = asked->flags,
	};

	if (asked->offset < end)
		memcpy(config.data, ours + asked->offset, min(asked->size, end - asked->offset));
	answer(v, &config, VHOST_USER_CONFIG_HEADER + config.size);
}

/* Memory */

static void use_mem(struct vhost_user *v, struct vhost_user_mem *mem)
{
	vhost_user_mem_put(v->mem);
	v->mem = mem;
	vhost_user_rings_set_mem(v->rings, mem);
	settle(v);
}

static void set_mem_table(struct vhost_user *v, const struct vhost_user_msg *msg)
{
	const struct vhost_user_memory *memory = &msg->payload.memory;
	struct error e = ERROR_INIT;
	struct vhost_user_mem *mem;

	if (vhost_user_mem_create(memory->regions, msg->fds, memory->nregions, &mem, &e))
		refuse(v, &e);
	else
		use_mem(v, mem);
}

static void add_mem_reg(struct vhost_user *v, const struct vhost_user_msg *msg)
{
	struct error e = ERROR_INIT;
	struct vhost_user_mem *mem;

	if (vhost_user_mem_add(v->mem, &msg->payload.mem_reg.region, msg->fds[0], &mem, &e))
		refuse(v, &e);
	else
		use_mem(v, mem);
}

static void remove_mem_reg(struct vhost_user *v, const struct vhost_user_msg *msg)
{
	struct error e = ERROR_INIT;
	struct vhost_user_mem *mem;

	if (vhost_user_mem_remove(v->mem, &msg->payload.mem_reg.region, &mem, &e))
		refuse(v, &e);
	else
		use_mem(v, mem);
}

/* Requests in flight */

/* The answer is as long as the question: some frontends count the padding. */
static void get_inflight_fd(struct vhost_user *v, const struct vhost_user_msg *msg)
{
	struct vhost_user_inflight desc;
	struct error e = ERROR_INIT;
	int fd;

	if (vhost_user_logs_make_file(&msg->payload.inflight, &desc, &fd, &e)) {
		refuse(v, &e);
		return;
	}
	replace_fd(&v->logs_fd, fd);
	if (end_message(v))
		vhost_user_conn_answer(&v->conn, &desc, msg->header.size, fd);
}

static void set_inflight_fd(struct vhost_user *v, const struct vhost_user_msg *msg)
{
	struct vhost_user_logs *logs;
	struct error e = ERROR_INIT;

	if (vhost_user_logs_open(&msg->payload.inflight, msg->fds[0], &logs, &e)) {
		refuse(v, &e);
		return;
	}
	if (vhost_user_rings_set_logs(v->rings, logs)) {
		vhost_user_logs_close(logs);
		err_set(&e, EBUSY, "SET_INFLIGHT_FD while a virtqueue is running");
		refuse(v, &e);
		return;
	}
	replace_fd(&v->logs_fd, -1);
	settle(v);
}

/* Rings */

static void concluded_or(struct vhost_user *v, int err, uint32_t index)
{
	struct error e = ERROR_INIT;

	if (!err) {
		settle(v);
		return;
	}
	err_set(&e, -err, "%s: virtqueue %u %s",
		vhost_user_request_name(v->msg->header.request), index,
		err == -EBUSY ? "is running" : "is not in the memory that is shared");
	refuse(v, &e);
}

/*
 * Rings are notified through eventfds; polling in their stead would keep a CPU
 * busy. Other files could block a thread or wake it for ever.
 */
static int take_eventfd(struct vhost_user_msg *msg, int *ret_fd, struct error *e)
{
	struct stat st;

	*ret_fd = -1;
	if (!msg->nfds) {
		if (msg->header.request == VHOST_USER_SET_VRING_KICK)
			return err_set(e, EOPNOTSUPP, "SET_VRING_KICK without an eventfd: rings are not polled");
		return 0;
	}
	if (fstat(msg->fds[0], &st) || st.st_mode & S_IFMT)
		return err_set(e, EINVAL, "%s with something that is no eventfd",
			       vhost_user_request_name(msg->header.request));
	*ret_fd = take_fd(&msg->fds[0]);
	return 0;
}

static void set_eventfd(struct vhost_user *v, struct vhost_user_msg *msg)
{
	const unsigned int index = msg->payload.u64 & VHOST_USER_VRING_INDEX;
	struct error e = ERROR_INIT;
	int fd;

	if (take_eventfd(msg, &fd, &e)) {
		refuse(v, &e);
		return;
	}
	if (msg->header.request == VHOST_USER_SET_VRING_KICK)
		vhost_user_rings_set_kick(v->rings, index, fd);
	else if (msg->header.request == VHOST_USER_SET_VRING_CALL)
		vhost_user_rings_set_call(v->rings, index, fd);
	else
		vhost_user_rings_set_err(v->rings, index, fd);
	settle(v);
}

static void base_known(void *opaque, int error)
{
	struct vhost_user *v = opaque;
	struct vhost_user_vring_state state = { .index = v->msg->payload.state.index };

	(void)error;
	state.num = vhost_user_rings_base_result(v->rings, state.index);
	answer(v, &state, sizeof(state));
}

static void stopped_for_base(void *opaque, int error)
{
	struct vhost_user *v = opaque;

	(void)error; /* of other rings */
	vhost_user_rings_base(v->rings, v->msg->payload.state.index, base_known, v);
}

/* Messages */

static void handle_ring(struct vhost_user *v, struct vhost_user_msg *msg)
{
	const struct vhost_user_vring_state *state = &msg->payload.state;
	const struct vhost_user_vring_addr *addr = &msg->payload.addr;
	struct vhost_user_rings *rs = v->rings;

	switch (msg->header.request) {
	case VHOST_USER_SET_VRING_NUM:
		concluded_or(v, vhost_user_rings_set_num(rs, state->index, state->num),
			     state->index);
		break;
	case VHOST_USER_SET_VRING_ADDR:
		concluded_or(v, vhost_user_rings_set_addr(rs, addr), addr->index);
		break;
	case VHOST_USER_SET_VRING_BASE:
		concluded_or(v, vhost_user_rings_set_base(rs, state->index, state->num),
			     state->index);
		break;
	case VHOST_USER_GET_VRING_BASE:
		vhost_user_rings_stop(rs, state->index);
		vhost_user_rings_settle(rs, stopped_for_base, v);
		break;
	case VHOST_USER_SET_VRING_ENABLE:
		vhost_user_rings_enable(rs, state->index, state->num);
		settle(v);
		break;
	default:
		set_eventfd(v, msg);
		break;
	}
}

static void refuse_config(struct vhost_user *v)
{
	struct error e = ERROR_INIT;

	err_set(&e, EPERM, "SET_CONFIG: the configuration is read-only");
	refuse(v, &e);
}

static void handle_device(struct vhost_user *v, struct vhost_user_msg *msg)
{
	const union vhost_user_payload *p = &msg->payload;

	switch (msg->header.request) {
	case VHOST_USER_GET_FEATURES:
		answer_u64(v, v->conn.limits.features);
		break;
	case VHOST_USER_SET_FEATURES:
		set_features(v, p->u64);
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		answer_u64(v, v->conn.limits.protocol_features);
		break;
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		v->conn.limits.negotiated = p->u64;
		conclude(v);
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		answer_u64(v, v->params.nqueues);
		break;
	case VHOST_USER_GET_CONFIG:
		get_config(v, &p->config);
		break;
	case VHOST_USER_SET_CONFIG:
		refuse_config(v);
		break;
	case VHOST_USER_SET_BACKEND_REQ_FD:
		replace_fd(&v->backend_fd, take_fd(&msg->fds[0]));
		conclude(v);
		break;
	case VHOST_USER_RESET_DEVICE:
		reset(v);
		break;
	case VHOST_USER_SET_STATUS:
		set_status(v, (uint8_t)p->u64);
		break;
	case VHOST_USER_GET_STATUS:
		answer_u64(v, driver_status(v));
		break;
	default: /* SET_OWNER has no meaning here, RESET_OWNER has lost its own */
		conclude(v);
		break;
	}
}

static void message(struct vhost_user_conn *conn, struct vhost_user_msg *msg)
{
	struct vhost_user *v = from_conn(conn);
	struct error e = ERROR_INIT;

	v->msg = msg;
	log_debug("%s: %s", v->params.name, vhost_user_request_name(msg->header.request));
	if (vhost_user_check_msg(msg, &conn->limits, &e)) {
		refuse(v, &e);
		return;
	}
	switch (msg->header.request) {
	case VHOST_USER_SET_MEM_TABLE:
		set_mem_table(v, msg);
		break;
	case VHOST_USER_ADD_MEM_REG:
		add_mem_reg(v, msg);
		break;
	case VHOST_USER_REM_MEM_REG:
		remove_mem_reg(v, msg);
		break;
	case VHOST_USER_GET_INFLIGHT_FD:
		get_inflight_fd(v, msg);
		break;
	case VHOST_USER_SET_INFLIGHT_FD:
		set_inflight_fd(v, msg);
		break;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		answer_u64(v, VHOST_USER_MEM_SLOTS);
		break;
	case VHOST_USER_SET_VRING_NUM:
	case VHOST_USER_SET_VRING_ADDR:
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_SET_VRING_KICK:
	case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
	case VHOST_USER_SET_VRING_ENABLE:
		handle_ring(v, msg);
		break;
	default:
		handle_device(v, msg);
		break;
	}
}

/* Sessions */

static void begin_session(struct vhost_user *v, int fd);

static void session_cleared(void *opaque, int error)
{
	struct vhost_user *v = opaque;

	(void)error; /* stopping cannot fail */
	v->session = SESSION_NONE;
	if (v->closing) {
		loop_stop(v->params.loop);
		return;
	}
	vhost_user_listener_resume(&v->listener);
	if (v->waiting_fd >= 0)
		begin_session(v, take_fd(&v->waiting_fd));
}

static void conn_closed(struct vhost_user_conn *conn, const char *reason)
{
	struct vhost_user *v = from_conn(conn);

	if (reason)
		log_warning_ratelimited("%s: connection closed: %s", v->params.name, reason);
	else
		log_info_ratelimited("%s: the frontend has disconnected", v->params.name);
	v->session = SESSION_CLEARING;
	vhost_user_listener_pause(&v->listener);
	v->msg = NULL;
	v->features = 0;
	v->status = 0;
	replace_fd(&v->backend_fd, -1);
	replace_fd(&v->logs_fd, -1);
	vhost_user_mem_put(take_ptr(v->mem));
	vhost_user_rings_forget(v->rings);
	vhost_user_rings_settle(v->rings, session_cleared, v);
}

static const struct vhost_user_conn_ops conn_ops = {
	.message = message,
	.closed = conn_closed,
};

static void begin_session(struct vhost_user *v, int fd)
{
	const uint64_t not_here = FEATURE(VIRTIO_F_ACCESS_PLATFORM);

	log_info_ratelimited("%s: a frontend has connected", v->params.name);
	v->session = SESSION_LIVE;
	v->conn.limits = (struct vhost_user_limits) {
		.features = (v->params.disk->features & ~not_here) |
			    FEATURE(VHOST_USER_F_PROTOCOL_FEATURES),
		.protocol_features = PROTOCOL_FEATURES,
		.nqueues = v->params.nqueues,
		.queue_size = v->params.queue_size,
	};
	vhost_user_conn_open(&v->conn, &conn_ops, v->params.loop, fd);
}

static bool has_hung_up(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLRDHUP };

	return poll(&pfd, 1, 0) > 0;
}

/* The news that a frontend has gone may come after the one that succeeds it. */
static void connected(struct vhost_user_listener *listener, int fd)
{
	struct vhost_user *v = container_of(listener, struct vhost_user, listener);

	if (v->session == SESSION_NONE) {
		begin_session(v, fd);
		return;
	}
	if (v->waiting_fd >= 0 && has_hung_up(v->waiting_fd))
		close(take_fd(&v->waiting_fd));
	if (v->waiting_fd < 0 &&
	    (v->session == SESSION_CLEARING || has_hung_up(v->conn.fd))) {
		v->waiting_fd = fd;
		return;
	}
	log_warning_ratelimited("%s: a second frontend was turned away", v->params.name);
	close(fd);
}

/* Calls from the rest of the daemon */

static void listener_closed(struct vhost_user_listener *listener)
{
	struct vhost_user *v = container_of(listener, struct vhost_user, listener);

	v->listening = false;
	loop_stop(v->params.loop);
}

/* Until nothing is in flight, or @limit has expired. */
static void finish(struct vhost_user *v)
{
	if (!v->closing) {
		v->closing = true;
		vhost_user_listener_close(&v->listener);
		if (v->session == SESSION_LIVE && !v->msg)
			vhost_user_conn_close(&v->conn, "the daemon ends");
	}
	while ((v->listening || v->session != SESSION_NONE) && !v->late)
		loop_run(v->params.loop);
}

static void limit_expired(struct loop_timer *timer)
{
	struct vhost_user *v = container_of(timer, struct vhost_user, limit);

	v->late = true;
	loop_stop(v->params.loop);
}

static void destroy(struct vhost_user *v)
{
	loop_timer_cancel(v->params.loop, &v->limit);
	if (v->waiting_fd >= 0)
		close(v->waiting_fd);
	vhost_user_rings_destroy(v->rings);
	free(v);
}

static void quiesce(struct transport *t)
{
	finish(from_transport(t));
}

static int close_vhost_user(struct transport *t, struct error *e)
{
	struct vhost_user *v = from_transport(t);

	(void)e;
	finish(v);
	destroy(v);
	return 0;
}

/* What is not done in time stays in the log that the frontend keeps. */
static int keep_vhost_user(struct transport *t, unsigned int limit_ms, struct error *e)
{
	struct vhost_user *v = from_transport(t);

	v->limit.expired = limit_expired;
	if (limit_ms != BACKEND_NEVER)
		loop_timer_arm(v->params.loop, &v->limit, limit_ms);
	finish(v);
	if (v->late)
		return err_set(e, ETIMEDOUT, "requests of \"%s\" are still in flight",
			       v->params.name);
	destroy(v);
	return 0;
}

/* The frontend sees the end of the connection when the process is gone. */
static void abandon_vhost_user(struct transport *t)
{
	struct vhost_user *v = from_transport(t);

	/* Closed, it is gone, and the path may be somebody else's. */
	if (v->listening)
		vhost_user_listener_unlink(&v->listener);
}

static void status(const struct transport *t, struct transport_status *ret_status)
{
	const struct vhost_user *v = from_transport(t);

	*ret_status = (struct transport_status) {
		.driver_status = driver_status(v),
		.features = v->features,
		.running = vhost_user_rings_running(v->rings),
	};
}

static struct queue_thread *queue(const struct transport *t, unsigned int index)
{
	return vhost_user_rings_at(from_transport(t)->rings, index);
}

/*
 * The frontend asks for the new contents then, and who connects later gets them
 * anyway. Its channel is not waited for: a frontend that does not read has
 * earlier news unread.
 */
static int config_changed(struct transport *t, struct error *e)
{
	const struct vhost_user *v = from_transport(t);
	const struct vhost_user_header news = {
		.request = VHOST_USER_BACKEND_CONFIG_CHANGE,
		.flags = VHOST_USER_VERSION,
	};

	if (v->backend_fd < 0)
		return 0;
	if (send(v->backend_fd, &news, sizeof(news), MSG_DONTWAIT | MSG_NOSIGNAL) !=
	    (ssize_t)sizeof(news))
		return err_set_errno(e, errno, "tell the frontend of the new configuration");
	return 0;
}

static const struct transport_ops vhost_user_transport_ops = {
	.name = "vhost-user",
	.close = close_vhost_user,
	.quiesce = quiesce,
	.keep = keep_vhost_user,
	.abandon = abandon_vhost_user,
	.status = status,
	.queue = queue,
	.config_changed = config_changed,
};

int vhost_user_create(const struct vhost_user_params *params, struct transport **ret_transport,
		      struct error *e)
{
	const struct vhost_user_rings_params rings = {
		.name = params->name,
		.n = params->nqueues,
		.size = params->queue_size,
		.disk = params->disk,
		.backend = params->backend,
		.main = params->loop,
		.thread_init = params->thread_init,
	};
	struct vhost_user *v;
	int err;

	if (!params->nqueues || params->nqueues > VHOST_USER_MAX_QUEUES)
		return err_set(e, EINVAL, "%u virtqueues: not within 1 to %u", params->nqueues,
			       VHOST_USER_MAX_QUEUES);
	v = calloc(1, sizeof(*v));
	if (!v)
		return err_set(e, ENOMEM, "out of memory");
	v->transport.ops = &vhost_user_transport_ops;
	v->params = *params;
	v->backend_fd = -1;
	v->logs_fd = -1;
	v->waiting_fd = -1;
	v->listener.connected = connected;
	v->listener.closed = listener_closed;

	err = sigbus_guard_install(e);
	if (err)
		goto free_vhost_user;
	err = vhost_user_rings_create(&rings, &v->rings, e);
	if (err)
		goto free_vhost_user;
	err = vhost_user_listener_open(&v->listener, params->loop, params->socket_path, e);
	if (err)
		goto destroy_rings;
	v->listening = true;
	*ret_transport = &v->transport;
	return 0;

destroy_rings:
	vhost_user_rings_destroy(v->rings);
free_vhost_user:
	free(v);
	return err;
}
