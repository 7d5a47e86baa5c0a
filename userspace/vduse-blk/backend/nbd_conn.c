// SPDX-License-Identifier: MIT
/*
 * One NBD connection.
 *
 *	HANDSHAKE -> TRANSMISSION -> CLOSING -> (freed)
 *	     \______________\-----> DEAD
 *
 * Slots. A backend request becomes one piece, or several when it exceeds what
 * the server takes at once. Each piece on the wire occupies a slot from a
 * fixed table. A slot is given back when both has happened: the answer is
 * complete, and the kernel has taken the last byte of the request. A server
 * may well answer a write before it has read all of it, and the two completions
 * may be seen in either order.
 *
 * Cookies are the slot's index and its generation, which changes with every
 * use. An answer to something that is not on the wire, or that was answered
 * before, is thus never mistaken for the answer to a later request; it kills
 * the connection, since the stream behind it cannot be trusted.
 *
 * Requests that find no slot wait in line, first come, first served; only the
 * head of the line can have some of its pieces on the wire.
 *
 * When the connection ends, whatever was in flight or in line fails with -EIO,
 * and so does everything that is submitted later. A reconnect has its place
 * between DEAD and HANDSHAKE; slots keep all that is needed for sending again.
 */
#include "backend/nbd_conn.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "loop/iov.h"
#include "loop/pool.h"

/* A payload whose missing part is at least this large is received in place. */
#define DIRECT_THRESHOLD (16 * 1024)
#define MAX_PAYLOAD	 (32u << 20)
#define BLOCK		 512

enum conn_phase {
	CONN_HANDSHAKE,
	CONN_TRANSMISSION,
	CONN_CLOSING,
	CONN_DEAD,
};

/* req->stage */
enum {
	STAGE_DATA,
	STAGE_FLUSH, /* the server has no FUA: a flush follows the write */
};

struct slot {
	struct slot *next_free; /* the pool's link: the first member */
	struct stream_seg seg;
	struct nbd_conn *conn;
	struct backend_request *req; /* NULL: free */
	uint64_t skip;		     /* of the piece's first byte within the request */
	uint32_t index;
	uint32_t generation;
	bool sent;
	bool answered;
	int error;
	struct nbd_flight flight;
};

/* What the receiving side is in the middle of. */
enum rx_state {
	RX_HEADER,
	RX_PAYLOAD,
	RX_TAIL,
};

struct rx {
	enum rx_state state;
	struct slot *slot;
	struct nbd_reply reply;
	size_t skip;   /* where in the request's memory the next byte goes */
	uint32_t left; /* bytes of payload or tail that are missing */
	uint8_t tail[NBD_ERROR_TAIL_MAX];
};

/* The handshake says at most: flags and structured replies, GO, EXPORT_NAME or ABORT. */
#define HANDSHAKE_MESSAGES 3

struct handshake_message {
	struct stream_seg seg;
	struct iovec iov;
	uint8_t bytes[sizeof(((struct nbd_handshake *)NULL)->out)];
};

struct nbd_conn {
	struct loop *loop;
	struct stream *stream;
	struct nbd_conn_params params;
	struct stream_addr addr;
	enum conn_phase phase;
	bool connected;
	bool closed;	    /* nothing of the stream is left */
	bool shutting_down; /* the server has said so */
	int end;	    /* what the stream ended with */
	struct error error; /* why, if that is known better */
	struct loop_timer timer;

	struct pool slots;
	struct slot **by_index;
	unsigned int in_flight;
	struct backend_request *waiting;
	struct backend_request **waiting_tail;
	struct backend_request *refused; /* submitted to a dead connection */
	struct backend_request **refused_tail;
	struct loop_hook refuse_hook;
	struct stream_seg disc_seg;
	struct nbd_export export;
	uint32_t max_payload;
	struct rx rx;

	struct nbd_handshake handshake;
	unsigned int nmessages;
	struct handshake_message messages[HANDSHAKE_MESSAGES];
};

static bool issue(struct nbd_conn *conn, struct backend_request *req);

const struct nbd_export *nbd_conn_export(const struct nbd_conn *conn)
{
	return &conn->export;
}

const struct stream_stats *nbd_conn_stream_stats(const struct nbd_conn *conn)
{
	return stream_stats(conn->stream);
}

uint32_t nbd_conn_max_payload(const struct nbd_export *export)
{
	uint32_t limit = min(export->max_block, MAX_PAYLOAD);
	uint32_t align = max(export->min_block, (uint32_t)BLOCK);

	return limit >= align ? (uint32_t)round_down(limit, align) : limit;
}

static void violation(struct nbd_conn *conn)
{
	stream_close(conn->stream, -EPROTO);
}

/* --- completing requests --- */

static void finish(struct nbd_conn *conn, struct backend_request *req, int error)
{
	if (error)
		log_warning_ratelimited("nbd: %s of %" PRIu64 " bytes at %" PRIu64 " failed: %s",
					backend_op_name(req->op), req->length, req->offset,
					strerror(-error));
	conn->params.finished(conn->params.owner, req, error);
}

/* All pieces are answered. */
static void pieces_done(struct nbd_conn *conn, struct backend_request *req)
{
	bool emulate_fua = (req->flags & BACKEND_REQ_FUA) && req->stage == STAGE_DATA &&
			   (req->op != BACKEND_FLUSH) &&
			   !(conn->export.flags & NBD_FLAG_SEND_FUA) &&
			   (conn->export.flags & NBD_FLAG_SEND_FLUSH);

	if (!req->error && emulate_fua && conn->phase == CONN_TRANSMISSION) {
		req->stage = STAGE_FLUSH;
		/* The slot that was just given back is there, so this cannot fail. */
		issue(conn, req);
		return;
	}
	finish(conn, req, req->error);
}

static void push(struct backend_request ***tail, struct backend_request *req)
{
	req->next = NULL;
	**tail = req;
	*tail = &req->next;
}

static void pop_waiting(struct nbd_conn *conn)
{
	conn->waiting = conn->waiting->next;
	if (!conn->waiting)
		conn->waiting_tail = &conn->waiting;
}

/* Slots are free: the line moves on. */
static void issue_waiting(struct nbd_conn *conn)
{
	while (conn->waiting && conn->phase == CONN_TRANSMISSION) {
		struct backend_request *req = conn->waiting;

		if (conn->shutting_down && !req->error)
			req->error = -ESHUTDOWN;
		/* One of its pieces failed: no use in sending the others. */
		if (req->error) {
			pop_waiting(conn);
			if (!req->pending)
				finish(conn, req, req->error);
			continue;
		}
		if (!issue(conn, req))
			return;
		pop_waiting(conn);
	}
}

static void take_leave(struct nbd_conn *conn)
{
	conn->disc_seg.head_len = NBD_REQUEST_SIZE;
	nbd_request_encode(conn->disc_seg.head, 0, NBD_CMD_DISC, 0, 0, 0);
	stream_send(conn->stream, &conn->disc_seg);
	stream_close(conn->stream, 0);
}

static void release_slot(struct slot *slot)
{
	struct nbd_conn *conn = slot->conn;
	struct backend_request *req = slot->req;

	if (slot->error && !req->error)
		req->error = slot->error;
	slot->req = NULL;
	pool_put(&conn->slots, slot);
	conn->in_flight--;

	if (!--req->pending && req != conn->waiting)
		pieces_done(conn, req);
	issue_waiting(conn);
	if (conn->shutting_down && !conn->in_flight && conn->phase == CONN_TRANSMISSION)
		take_leave(conn);
}

static void slot_sent(struct stream_seg *seg)
{
	struct slot *slot = container_of(seg, struct slot, seg);

	slot->sent = true;
	if (slot->answered)
		release_slot(slot);
}

/* --- sending --- */

static uint16_t wire_type(const struct backend_request *req)
{
	static const uint16_t types[_BACKEND_OP_MAX] = {
		[BACKEND_READ] = NBD_CMD_READ,
		[BACKEND_WRITE] = NBD_CMD_WRITE,
		[BACKEND_FLUSH] = NBD_CMD_FLUSH,
		[BACKEND_DISCARD] = NBD_CMD_TRIM,
		[BACKEND_WRITE_ZEROES] = NBD_CMD_WRITE_ZEROES,
	};

	return req->stage == STAGE_FLUSH ? NBD_CMD_FLUSH : types[req->op];
}

static uint16_t wire_flags(const struct nbd_conn *conn, const struct backend_request *req,
			   uint16_t type)
{
	bool writes = type != NBD_CMD_READ && type != NBD_CMD_FLUSH;
	uint16_t flags = 0;

	if (writes && (req->flags & BACKEND_REQ_FUA) && (conn->export.flags & NBD_FLAG_SEND_FUA))
		flags |= NBD_CMD_FLAG_FUA;
	if (type == NBD_CMD_WRITE_ZEROES && !(req->flags & BACKEND_REQ_MAY_UNMAP))
		flags |= NBD_CMD_FLAG_NO_HOLE;
	return flags;
}

static void send_piece(struct nbd_conn *conn, struct slot *slot, struct backend_request *req,
		       uint32_t length)
{
	uint16_t type = wire_type(req);
	uint64_t offset = type == NBD_CMD_FLUSH ? 0 : req->offset + req->progress;
	struct stream_seg *seg = &slot->seg;

	slot->req = req;
	slot->skip = req->progress;
	slot->sent = false;
	slot->answered = false;
	slot->error = 0;
	slot->generation++;
	nbd_flight_init(&slot->flight, type, offset, length);
	nbd_request_encode(seg->head, wire_flags(conn, req, type), type,
			   (uint64_t)slot->generation << 32 | slot->index, offset, length);
	seg->len = 0;
	if (type == NBD_CMD_WRITE) {
		seg->iov = req->iov;
		seg->niov = req->niov;
		seg->skip = req->progress;
		seg->len = length;
	}
	conn->in_flight++;
	req->pending++;
	stream_send(conn->stream, seg);
}

/* Returns false if pieces are left because there are no slots. */
static bool issue(struct nbd_conn *conn, struct backend_request *req)
{
	bool payload = req->op == BACKEND_READ || req->op == BACKEND_WRITE;
	uint64_t limit = payload ? conn->max_payload : NBD_MAX_RANGE_BYTES;
	struct slot *slot;
	uint32_t n;

	do {
		slot = pool_get(&conn->slots);
		if (!slot)
			return false;
		n = (uint32_t)min(limit, req->length - req->progress);
		send_piece(conn, slot, req, n);
		req->progress += n;
	} while (req->progress < req->length);
	return true;
}

static void refuse_all(struct loop_hook *hook)
{
	struct nbd_conn *conn = container_of(hook, struct nbd_conn, refuse_hook);
	struct backend_request *req = conn->refused;

	conn->refused = NULL;
	conn->refused_tail = &conn->refused;
	while (req) {
		struct backend_request *next = req->next;

		finish(conn, req, -EIO);
		req = next;
	}
}

void nbd_conn_submit(struct nbd_conn *conn, struct backend_request *req)
{
	req->progress = 0;
	req->pending = 0;
	req->stage = STAGE_DATA;
	req->error = 0;
	if (unlikely(conn->phase != CONN_TRANSMISSION || conn->shutting_down)) {
		push(&conn->refused_tail, req);
		loop_hook_schedule(conn->loop, &conn->refuse_hook);
		return;
	}
	if (conn->waiting || !issue(conn, req))
		push(&conn->waiting_tail, req);
}

/* --- receiving --- */

static struct slot *find_slot(struct nbd_conn *conn, uint64_t cookie)
{
	uint32_t index = (uint32_t)cookie;
	struct slot *slot;

	if (index >= conn->slots.total)
		return NULL;
	slot = conn->by_index[index];
	if (!slot->req || slot->answered || slot->generation != cookie >> 32)
		return NULL;
	return slot;
}

static void answer_complete(struct nbd_conn *conn, struct slot *slot)
{
	if (nbd_flight_finish(&slot->flight, &slot->error, &conn->error) < 0) {
		violation(conn);
		return;
	}
	if (slot->error == -ESHUTDOWN && !conn->shutting_down) {
		log_error("nbd: the server is shutting down");
		conn->shutting_down = true;
	}
	slot->answered = true;
	if (slot->sent)
		release_slot(slot);
}

/* The header, and whatever followed it, has been dealt with. */
static void reply_done(struct nbd_conn *conn)
{
	conn->rx.state = RX_HEADER;
	if (conn->rx.reply.done)
		answer_complete(conn, conn->rx.slot);
}

static void tail_done(struct nbd_conn *conn)
{
	struct rx *rx = &conn->rx;

	if (nbd_flight_error_tail(&rx->slot->flight, &rx->reply, rx->tail, &conn->error) < 0) {
		violation(conn);
		return;
	}
	if (rx->reply.message)
		log_warning_ratelimited("nbd: server reports: %.*s",
					(int)min(rx->reply.message, 200u), (const char *)rx->tail);
	reply_done(conn);
}

static void begin_payload(struct nbd_conn *conn)
{
	struct rx *rx = &conn->rx;
	const struct slot *slot = rx->slot;

	rx->skip = slot->skip + (rx->reply.offset - slot->flight.offset);
	rx->left = rx->reply.length;
	rx->state = RX_PAYLOAD;
}

static void begin_reply(struct nbd_conn *conn)
{
	struct rx *rx = &conn->rx;
	struct slot *slot = find_slot(conn, rx->reply.cookie);

	if (!slot) {
		err_set(&conn->error, EPROTO,
			"answer to a request that is not in flight (cookie 0x%016" PRIx64 ")",
			rx->reply.cookie);
		violation(conn);
		return;
	}
	if (nbd_flight_chunk(&slot->flight, &rx->reply, conn->export.structured, &conn->error) < 0) {
		violation(conn);
		return;
	}
	rx->slot = slot;

	switch (rx->reply.kind) {
	case NBD_REPLY_SIMPLE:
	case NBD_REPLY_DATA:
		if (rx->reply.length)
			begin_payload(conn);
		else
			reply_done(conn);
		break;
	case NBD_REPLY_HOLE:
		iov_zero(slot->req->iov, slot->req->niov,
			 slot->skip + (rx->reply.offset - slot->flight.offset), rx->reply.length);
		reply_done(conn);
		break;
	case NBD_REPLY_ERROR:
	case NBD_REPLY_ERROR_OFFSET:
		rx->left = rx->reply.tail;
		rx->state = RX_TAIL;
		if (!rx->left)
			tail_done(conn);
		break;
	default:
		reply_done(conn);
		break;
	}
}

/* @n bytes of it are in the receive buffer already. */
static bool wants_direct(const struct rx *rx, size_t n)
{
	return rx->left >= n && rx->left - n >= DIRECT_THRESHOLD;
}

static void receive_direct(struct nbd_conn *conn)
{
	const struct rx *rx = &conn->rx;
	const struct backend_request *req = rx->slot->req;

	stream_receive_direct(conn->stream, req->iov, req->niov, rx->skip, rx->left);
}

static size_t take_payload(struct nbd_conn *conn, const uint8_t *p, size_t n)
{
	struct rx *rx = &conn->rx;
	const struct backend_request *req = rx->slot->req;

	n = min(n, (size_t)rx->left);
	iov_scatter(req->iov, req->niov, rx->skip, p, n);
	rx->skip += n;
	rx->left -= (uint32_t)n;
	if (!rx->left)
		reply_done(conn);
	return n;
}

static size_t take_tail(struct nbd_conn *conn, const uint8_t *p, size_t n)
{
	struct rx *rx = &conn->rx;

	n = min(n, (size_t)rx->left);
	memcpy(rx->tail + rx->reply.tail - rx->left, p, n);
	rx->left -= (uint32_t)n;
	if (!rx->left)
		tail_done(conn);
	return n;
}

static size_t take_replies(struct nbd_conn *conn, const uint8_t *p, size_t n)
{
	struct rx *rx = &conn->rx;
	size_t used = 0;
	int header;

	while (used < n && conn->phase == CONN_TRANSMISSION && !conn->error.errnum) {
		switch (rx->state) {
		case RX_HEADER:
			header = nbd_reply_decode(p + used, n - used, conn->export.structured,
						  &rx->reply, &conn->error);
			if (header < 0)
				violation(conn);
			if (header <= 0)
				return used;
			used += (size_t)header;
			begin_reply(conn);
			break;
		case RX_PAYLOAD:
			if (wants_direct(rx, n - used)) {
				receive_direct(conn);
				return used;
			}
			used += take_payload(conn, p + used, n - used);
			break;
		case RX_TAIL:
			used += take_tail(conn, p + used, n - used);
			break;
		}
	}
	if (rx->state == RX_PAYLOAD && !conn->error.errnum && wants_direct(rx, 0))
		receive_direct(conn);
	return used;
}

static void direct_done(struct stream *stream)
{
	reply_done(stream_owner(stream));
}

/* --- handshake --- */

static void settle(struct nbd_conn *conn)
{
	loop_timer_cancel(conn->loop, &conn->timer);
	loop_stop(conn->loop);
}

static void send_handshake(struct nbd_conn *conn)
{
	struct handshake_message *m = &conn->messages[conn->nmessages++];

	memcpy(m->bytes, conn->handshake.out, conn->handshake.out_len);
	m->iov = (struct iovec){ m->bytes, conn->handshake.out_len };
	m->seg.iov = &m->iov;
	m->seg.niov = 1;
	m->seg.len = conn->handshake.out_len;
	stream_send(conn->stream, &m->seg);
}

static void start_transmission(struct nbd_conn *conn, const struct nbd_export *export)
{
	conn->export = *export;
	conn->max_payload = nbd_conn_max_payload(export);
	conn->phase = CONN_TRANSMISSION;
}

static size_t take_handshake(struct nbd_conn *conn, const uint8_t *p, size_t n)
{
	enum nbd_handshake_result result;
	size_t used = 0, step;

	do {
		result = nbd_handshake_feed(&conn->handshake, p + used, n - used, &step,
					    &conn->error);
		used += step;
		if (result == NBD_HANDSHAKE_SEND)
			send_handshake(conn);
	} while (result == NBD_HANDSHAKE_SEND && used < n);

	if (result == NBD_HANDSHAKE_FAILED) {
		if (conn->handshake.out_len)
			send_handshake(conn);
		stream_close(conn->stream, conn->handshake.out_len ? 0 : -EPROTO);
	} else if (result == NBD_HANDSHAKE_DONE) {
		if (used < n) {
			err_set(&conn->error, EPROTO, "server talks without being asked");
			violation(conn);
			return used;
		}
		start_transmission(conn, &conn->handshake.export);
		settle(conn);
	}
	return used;
}

static void handshake_timeout(struct loop_timer *timer)
{
	struct nbd_conn *conn = container_of(timer, struct nbd_conn, timer);

	stream_close(conn->stream, -ETIMEDOUT);
}

/* --- the stream's view --- */

static void stream_opened(struct stream *stream)
{
	struct nbd_conn *conn = stream_owner(stream);

	conn->connected = true;
}

static size_t stream_data(struct stream *stream, const uint8_t *p, size_t n)
{
	struct nbd_conn *conn = stream_owner(stream);

	return conn->phase == CONN_HANDSHAKE ? take_handshake(conn, p, n) :
					       take_replies(conn, p, n);
}

static void log_death(struct nbd_conn *conn)
{
	if (conn->error.errnum)
		log_error("nbd: connection dropped, the server broke the protocol: %s",
			  conn->error.text);
	else if (conn->end == -EPIPE)
		log_error("nbd: the server closed the connection (%u requests in flight)",
			  conn->in_flight);
	else if (!conn->shutting_down)
		log_error("nbd: connection lost: %s (%u requests in flight)", strerror(-conn->end),
			  conn->in_flight);
}

/* Nothing refers to any request's memory any more. */
static void fail_everything(struct nbd_conn *conn)
{
	struct backend_request *req = conn->waiting;

	conn->waiting = NULL;
	conn->waiting_tail = &conn->waiting;
	while (req) {
		struct backend_request *next = req->next;

		/* One with pieces in flight is finished with the last of them, below. */
		if (!req->pending)
			finish(conn, req, -EIO);
		req = next;
	}
	for (unsigned int i = 0; i < conn->slots.total; i++) {
		struct slot *slot = conn->by_index[i];

		if (!slot->req)
			continue;
		slot->error = -EIO;
		release_slot(slot);
	}
}

static void stream_ended(struct stream *stream, int error)
{
	struct nbd_conn *conn = stream_owner(stream);
	enum conn_phase was = conn->phase;

	conn->closed = true;
	conn->end = error;
	conn->phase = CONN_DEAD;
	if (was == CONN_TRANSMISSION) {
		log_death(conn);
		fail_everything(conn);
	} else {
		settle(conn);
	}
}

static const struct stream_ops stream_callbacks = {
	.open = stream_opened,
	.data = stream_data,
	.direct_done = direct_done,
	.closed = stream_ended,
};

/* --- creation and destruction --- */

static void conn_free(struct nbd_conn *conn)
{
	if (!conn)
		return;
	loop_hook_cancel(conn->loop, &conn->refuse_hook);
	stream_destroy(conn->stream);
	pool_destroy(&conn->slots);
	free(conn->by_index);
	free(conn);
}

static int create_slots(struct nbd_conn *conn)
{
	unsigned int n = conn->params.depth;

	if (pool_create(&conn->slots, sizeof(struct slot), n) < 0)
		return -ENOMEM;
	conn->by_index = calloc(n, sizeof(struct slot *));
	if (!conn->by_index)
		return -ENOMEM;
	for (unsigned int i = 0; i < n; i++) {
		struct slot *slot = pool_get(&conn->slots);

		slot->conn = conn;
		slot->index = i;
		slot->seg.head_len = NBD_REQUEST_SIZE;
		slot->seg.sent = slot_sent;
		conn->by_index[i] = slot;
	}
	for (unsigned int i = n; i-- > 0;)
		pool_put(&conn->slots, conn->by_index[i]);
	return 0;
}

static int conn_new(struct loop *loop, const struct nbd_conn_params *params,
		    struct nbd_conn **ret_conn, struct error *e)
{
	struct nbd_conn *conn = calloc(1, sizeof(*conn));
	struct stream_params sp = { .ops = &stream_callbacks, .owner = conn };
	int ret;

	if (!conn)
		return err_set(e, ENOMEM, "nbd: out of memory");
	conn->loop = loop;
	conn->params = *params;
	conn->waiting_tail = &conn->waiting;
	conn->refused_tail = &conn->refused;
	conn->refuse_hook.run = refuse_all;
	conn->timer.expired = handshake_timeout;

	if (create_slots(conn) < 0) {
		ret = err_set(e, ENOMEM, "nbd: out of memory");
		goto fail;
	}
	ret = nbd_handshake_init(&conn->handshake, params->export_name, e);
	if (ret < 0)
		goto fail;
	ret = stream_create(loop, &sp, &conn->stream, e);
	if (ret < 0)
		goto fail;
	*ret_conn = conn;
	return 0;

fail:
	conn_free(conn);
	return ret;
}

static int handshake_error(struct nbd_conn *conn, struct error *e)
{
	char peer[STREAM_ADDR_TEXT];

	stream_addr_text(&conn->addr, peer);
	if (conn->error.errnum)
		return err_set(e, conn->error.errnum, "nbd server %s: %s", peer, conn->error.text);
	if (!conn->connected)
		return err_set_errno(e, -conn->end, "cannot connect to nbd server %s", peer);
	if (conn->end == -ETIMEDOUT)
		return err_set(e, ETIMEDOUT, "nbd server %s: no answer while %s", peer,
			       nbd_handshake_where(&conn->handshake));
	if (conn->end == -EPIPE || conn->end == -ECONNRESET)
		return err_set(e, ECONNRESET, "nbd server %s closed the connection while %s", peer,
			       nbd_handshake_where(&conn->handshake));
	return err_set_errno(e, conn->end ? -conn->end : EIO, "nbd server %s", peer);
}

static int open_one(struct loop *loop, const struct stream_addr *addr,
		    const struct nbd_conn_params *params, struct nbd_conn **ret_conn,
		    bool *ret_connected, struct error *e)
{
	struct nbd_conn *conn;
	int ret;

	ret = conn_new(loop, params, &conn, e);
	if (ret < 0)
		return ret;
	conn->addr = *addr;
	ret = stream_connect(conn->stream, addr, e);
	if (ret < 0)
		goto fail;

	loop_timer_arm(loop, &conn->timer, params->timeout_ms);
	while (conn->phase == CONN_HANDSHAKE) {
		ret = loop_run(loop);
		if (ret < 0) {
			err_set_errno(e, -ret, "nbd: io_uring");
			goto fail;
		}
	}
	if (conn->phase != CONN_TRANSMISSION) {
		*ret_connected = conn->connected;
		ret = handshake_error(conn, e);
		goto fail;
	}
	*ret_conn = conn;
	return 0;

fail:
	conn_free(conn);
	return ret;
}

int nbd_conn_open(struct loop *loop, const struct stream_addr *addrs, unsigned int naddrs,
		  const struct nbd_conn_params *params, struct nbd_conn **ret_conn, struct error *e)
{
	bool connected = false;
	int ret = -EINVAL;

	/* One that answers, however badly, is the server that was meant. */
	for (unsigned int i = 0; i < naddrs && !connected; i++) {
		ret = open_one(loop, &addrs[i], params, ret_conn, &connected, e);
		if (!ret)
			return 0;
	}
	return ret;
}

int nbd_conn_adopt(struct loop *loop, int fd, const struct nbd_export *export,
		   const struct nbd_conn_params *params, struct nbd_conn **ret_conn,
		   struct error *e)
{
	struct nbd_conn *conn;
	int ret;

	ret = conn_new(loop, params, &conn, e);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	conn->connected = true;
	start_transmission(conn, export);
	stream_adopt(conn->stream, fd);
	*ret_conn = conn;
	return 0;
}

static void run_until_closed(struct nbd_conn *conn)
{
	while (!conn->closed)
		if (loop_run(conn->loop) < 0)
			return;
}

int nbd_conn_detach(struct nbd_conn *conn)
{
	int fd = -ECONNRESET;

	if (conn->phase == CONN_TRANSMISSION) {
		conn->phase = CONN_CLOSING;
		fd = stream_release_fd(conn->stream);
		run_until_closed(conn);
	}
	conn_free(conn);
	return fd;
}

void nbd_conn_close(struct nbd_conn *conn)
{
	if (!conn)
		return;
	if (conn->phase == CONN_TRANSMISSION) {
		conn->phase = CONN_CLOSING;
		take_leave(conn);
		run_until_closed(conn);
	}
	conn_free(conn);
}
