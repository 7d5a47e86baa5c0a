// SPDX-License-Identifier: MIT
/*
 * One NBD connection.
 *
 *	NONE -> CONNECTING -> HANDSHAKE -> TRANSMISSION -> ENDING -> NONE ...
 *		   \______________\______________________/
 *
 * The line. Every request that was submitted and not answered is in one list,
 * in the order of submission: its head is the oldest, and at the end the list
 * goes back to the owner as it is. conn->unissued points at the first that is
 * not wholly on the wire; only that one can have some of its pieces there.
 *
 * Slots. A backend request becomes one piece, or several when it exceeds what
 * the server takes at once. Each piece on the wire occupies a slot from a
 * fixed table. A slot is given back when both has happened: the answer is
 * complete, and the kernel has taken the last byte of the request. A server
 * may well answer a write before it has read all of it, and the two completions
 * may be seen in either order.
 *
 * Cookies are the slot's index and its generation, which changes with every
 * use, over all connections. An answer to something that is not on the wire, or
 * that was answered before, is thus never mistaken for the answer to a later
 * request; it ends the connection, since the stream behind it cannot be trusted.
 *
 * The end. What was sent can still happen. When it was us who cut the connection,
 * the socket is passed on instead of closed, and the owner sees to it, for the
 * peer's close says something of that (nbd_link_io.c). From the moment of
 * the cut the stream sends nothing more: of a request that was sent in part the
 * server never gets the rest, and it cannot carry out what it has not got. A stream
 * that has ended by itself says whether the peer has closed or the network failed; a
 * cut that comes while it is ending changes nothing of that.
 *
 * A request that is refused because the server shuts down stays in the line;
 * once the others are answered, the connection is closed in due form.
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
	CONN_NONE,
	CONN_CONNECTING,
	CONN_HANDSHAKE,
	CONN_TRANSMISSION,
	CONN_ENDING,
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
	enum conn_phase before; /* ENDING: what it was */
	bool shutting_down; /* the server has said so */

	/* Why it ends, as far as that is known before it has ended. */
	bool wanted;
	bool opened;
	bool loss_known;
	enum backend_loss loss;
	struct error error;
	int fd; /* taken out of the stream; -1: it closes its own */

	struct pool slots;
	struct slot **by_index;
	unsigned int in_flight;
	struct backend_request *first, *last; /* the line */
	struct backend_request *unissued;
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

uint32_t nbd_conn_max_payload(const struct nbd_export *export)
{
	uint32_t limit = min(export->max_block, MAX_PAYLOAD);
	uint32_t align = max(export->min_block, (uint32_t)BLOCK);

	return limit >= align ? (uint32_t)round_down(limit, align) : limit;
}

const struct backend_request *nbd_conn_oldest(const struct nbd_conn *conn)
{
	return conn->first;
}

void nbd_conn_set_keepalive(struct nbd_conn *conn, unsigned int ms)
{
	stream_set_keepalive(conn->stream, ms);
}

size_t nbd_conn_memory(const struct nbd_conn *conn)
{
	return sizeof(*conn) + conn->slots.total * (conn->slots.stride + sizeof(struct slot *)) +
	       stream_memory(conn->stream);
}

/* --- ending it --- */

static void end_phase(struct nbd_conn *conn)
{
	conn->before = conn->phase;
	conn->phase = CONN_ENDING;
}

/* Returns false if it is ending already: why, that is known or will be. */
static bool cut(struct nbd_conn *conn, enum backend_loss loss)
{
	int fd = -1;

	if (conn->phase == CONN_NONE || conn->phase == CONN_ENDING)
		return false;
	/* Before the first request nothing was asked that could happen late. */
	if (conn->phase == CONN_TRANSMISSION) {
		fd = stream_release_fd(conn->stream, -ECANCELED);
		if (fd < 0)
			return false;
	} else {
		stream_close(conn->stream, -ECANCELED);
	}
	conn->fd = fd;
	conn->loss = loss;
	conn->loss_known = true;
	end_phase(conn);
	return true;
}

void nbd_conn_cut(struct nbd_conn *conn, enum backend_loss loss, int error)
{
	if (cut(conn, loss) && !conn->error.errnum)
		conn->error.errnum = error;
}

/* --- completing requests --- */

static void line_append(struct nbd_conn *conn, struct backend_request *req)
{
	req->next = NULL;
	req->prev = conn->last;
	if (conn->last)
		conn->last->next = req;
	else
		conn->first = req;
	conn->last = req;
}

static void line_remove(struct nbd_conn *conn, struct backend_request *req)
{
	if (req->next)
		req->next->prev = req->prev;
	else
		conn->last = req->prev;
	if (req->prev)
		req->prev->next = req->next;
	else
		conn->first = req->next;
}

static void finish(struct nbd_conn *conn, struct backend_request *req)
{
	int error = req->error;

	/* It was refused, and will be welcome on the next connection. */
	if (unlikely(error == -ESHUTDOWN)) {
		req->progress = 0;
		return;
	}
	if (unlikely(error))
		log_warning_ratelimited("nbd: %s of %" PRIu64 " bytes at %" PRIu64 " failed: %s",
					backend_op_name(req->op), req->length, req->offset,
					strerror(-error));
	line_remove(conn, req);
	conn->params.ops->finished(conn->params.owner, req, error);
}

static bool needs_flush(const struct nbd_conn *conn, const struct backend_request *req)
{
	return req->flags & BACKEND_REQ_FUA && req->stage == STAGE_DATA &&
	       req->op != BACKEND_FLUSH && !(conn->export.flags & NBD_FLAG_SEND_FUA) &&
	       conn->export.flags & NBD_FLAG_SEND_FLUSH;
}

/* All pieces are answered. */
static void pieces_done(struct nbd_conn *conn, struct backend_request *req)
{
	if (!req->error && unlikely(needs_flush(conn, req))) {
		req->stage = STAGE_FLUSH;
		/* The slot that was just given back is there, so this cannot fail. */
		issue(conn, req);
		return;
	}
	finish(conn, req);
}

/* Slots are free: the line moves on. */
static void issue_waiting(struct nbd_conn *conn)
{
	while (conn->unissued && conn->phase == CONN_TRANSMISSION && !conn->shutting_down) {
		struct backend_request *req = conn->unissued;

		/* One of its pieces failed: no use in sending the others. */
		if (req->error) {
			conn->unissued = req->next;
			if (!req->pending)
				finish(conn, req);
			continue;
		}
		if (!issue(conn, req))
			return;
		conn->unissued = req->next;
	}
}

static void take_leave(struct nbd_conn *conn)
{
	conn->disc_seg.head_len = NBD_REQUEST_SIZE;
	nbd_request_encode(conn->disc_seg.head, 0, NBD_CMD_DISC, 0, 0, 0);
	stream_send(conn->stream, &conn->disc_seg);
	stream_close(conn->stream, 0);
	end_phase(conn);
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

	if (!--req->pending && req != conn->unissued)
		pieces_done(conn, req);
	if (conn->unissued)
		issue_waiting(conn);
	if (unlikely(conn->shutting_down) && !conn->in_flight &&
	    conn->phase == CONN_TRANSMISSION) {
		conn->loss = BACKEND_LOSS_SHUTDOWN;
		conn->loss_known = true;
		take_leave(conn);
	}
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

	if (!req->progress)
		req->sent_ns = loop_now_ns(conn->loop);
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

void nbd_conn_submit(struct nbd_conn *conn, struct backend_request *req)
{
	req->progress = 0;
	req->sent_ns = 0;
	req->pending = 0;
	req->stage = STAGE_DATA;
	req->error = 0;
	line_append(conn, req);
	if (conn->unissued)
		return;
	if (unlikely(conn->shutting_down || conn->phase != CONN_TRANSMISSION) || !issue(conn, req))
		conn->unissued = req;
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
		cut(conn, BACKEND_LOSS_BAD_LENGTH);
		return;
	}
	if (slot->error == -ESHUTDOWN)
		conn->shutting_down = true;
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
		cut(conn, BACKEND_LOSS_BAD_CHUNK);
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
		cut(conn, BACKEND_LOSS_BAD_COOKIE);
		return;
	}
	if (nbd_flight_chunk(&slot->flight, &rx->reply, conn->export.structured, &conn->error) < 0) {
		cut(conn, BACKEND_LOSS_BAD_CHUNK);
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

	while (used < n && conn->phase == CONN_TRANSMISSION) {
		switch (rx->state) {
		case RX_HEADER:
			header = nbd_reply_decode(p + used, n - used, conn->export.structured,
						  &rx->reply, &conn->error);
			if (header < 0)
				cut(conn, header == -EBADMSG ? BACKEND_LOSS_BAD_MAGIC :
							       BACKEND_LOSS_BAD_HEADER);
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
	if (rx->state == RX_PAYLOAD && conn->phase == CONN_TRANSMISSION && wants_direct(rx, 0))
		receive_direct(conn);
	return used;
}

static void direct_done(struct stream *stream)
{
	reply_done(stream_owner(stream));
}

/* --- handshake --- */

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
	conn->opened = true;
	conn->rx.state = RX_HEADER;
}

/* An error in due form is answered in due form, what makes no sense is not. */
static void handshake_failed(struct nbd_conn *conn)
{
	if (!conn->handshake.out_len) {
		cut(conn, BACKEND_LOSS_BAD_HANDSHAKE);
		return;
	}
	conn->loss = BACKEND_LOSS_HANDSHAKE;
	conn->loss_known = true;
	send_handshake(conn);
	stream_close(conn->stream, 0);
	end_phase(conn);
}

/*
 * Without that flag the server promises nothing of what one connection sees of another's
 * writes. It may do so after a restart.
 */
static bool may_be_opened(struct nbd_conn *conn)
{
	if (!conn->params.one_of_several ||
	    conn->handshake.export.flags & NBD_FLAG_CAN_MULTI_CONN)
		return true;
	err_set(&conn->error, ENOTSUP,
		"export '%s' does not allow several connections any more (NBD_FLAG_CAN_MULTI_CONN)",
		conn->params.export_name);
	return false;
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
		handshake_failed(conn);
	} else if (result == NBD_HANDSHAKE_DONE) {
		if (used < n) {
			err_set(&conn->error, EPROTO, "server talks without being asked");
			cut(conn, BACKEND_LOSS_BAD_HANDSHAKE);
			return used;
		}
		if (!may_be_opened(conn)) {
			conn->loss = BACKEND_LOSS_HANDSHAKE;
			conn->loss_known = true;
			take_leave(conn);
			return used;
		}
		start_transmission(conn, &conn->handshake.export);
		conn->params.ops->opened(conn->params.owner);
	}
	return used;
}

/* --- the stream's view --- */

static void stream_opened(struct stream *stream)
{
	struct nbd_conn *conn = stream_owner(stream);

	conn->phase = CONN_HANDSHAKE;
	if (conn->params.ops->connected)
		conn->params.ops->connected(conn->params.owner);
}

static size_t stream_data(struct stream *stream, const uint8_t *p, size_t n)
{
	struct nbd_conn *conn = stream_owner(stream);

	return conn->phase == CONN_HANDSHAKE ? take_handshake(conn, p, n) :
					       take_replies(conn, p, n);
}

/* The stream has ended by itself. */
static enum backend_loss classify(enum conn_phase was, int error)
{
	if (was == CONN_CONNECTING)
		return BACKEND_LOSS_REFUSED;
	return error == -EPIPE || error == -ECONNRESET ? BACKEND_LOSS_CLOSED :
							 BACKEND_LOSS_NETWORK;
}

/* What a user reads: at the beginning, or when the connection is lost later. */
static void describe_handshake_end(struct nbd_conn *conn, enum conn_phase was, int error,
				   struct error *e)
{
	char peer[STREAM_ADDR_TEXT];

	stream_addr_text(&conn->addr, peer);
	if (conn->error.text[0])
		err_set(e, conn->error.errnum, "nbd server %s: %s", peer, conn->error.text);
	else if (was == CONN_CONNECTING)
		err_set_errno(e, error, "cannot connect to nbd server %s", peer);
	else if (error == ETIMEDOUT)
		err_set(e, ETIMEDOUT, "nbd server %s: no answer while %s", peer,
			nbd_handshake_where(&conn->handshake));
	else if (error == EPIPE || error == ECONNRESET)
		err_set(e, ECONNRESET, "nbd server %s closed the connection while %s", peer,
			nbd_handshake_where(&conn->handshake));
	else
		err_set_errno(e, error ? error : EIO, "nbd server %s", peer);
}

static void describe_end(struct nbd_conn *conn, enum backend_loss loss, int error, struct error *e)
{
	const unsigned int n = conn->in_flight;
	char peer[STREAM_ADDR_TEXT];

	stream_addr_text(&conn->addr, peer);
	if (conn->error.text[0])
		err_set(e, EPROTO, "%s: connection dropped, the server broke the protocol: %s",
			peer, conn->error.text);
	else if (loss == BACKEND_LOSS_SHUTDOWN)
		err_set(e, ESHUTDOWN, "%s: the server is shutting down", peer);
	else if (loss == BACKEND_LOSS_CLOSED)
		err_set(e, ECONNRESET, "%s: the server closed the connection (%u requests in flight)",
			peer, n);
	else if (loss == BACKEND_LOSS_REQUEST)
		err_set(e, ETIMEDOUT, "%s: no answer in time (%u requests in flight)", peer, n);
	else
		err_set(e, error ? error : EIO, "%s: connection lost: %s (%u requests in flight)",
			peer, strerror(error ? error : EIO), n);
}

/* The slots come back, the line goes to the owner. */
static struct backend_request *take_line(struct nbd_conn *conn)
{
	struct backend_request *first = conn->first;

	for (unsigned int i = 0; i < conn->slots.total; i++) {
		struct slot *slot = conn->by_index[i];

		if (!slot->req)
			continue;
		slot->req = NULL;
		pool_put(&conn->slots, slot);
	}
	conn->in_flight = 0;
	conn->first = NULL;
	conn->last = NULL;
	conn->unissued = NULL;
	return first;
}

static void stream_ended(struct stream *stream, int error)
{
	struct nbd_conn *conn = stream_owner(stream);
	struct nbd_conn_end end = {
		.wanted = conn->wanted,
		.opened = conn->opened,
		.error = ERROR_INIT,
		.fd = conn->fd,
	};
	/* The phase before the end, if it was not us who ended it. */
	enum conn_phase was = conn->phase == CONN_ENDING ? conn->before : conn->phase;
	int errnum = conn->error.errnum ? conn->error.errnum : -error;

	end.loss = conn->loss_known ? conn->loss : classify(was, error);
	if (conn->opened)
		describe_end(conn, end.loss, errnum, &end.error);
	else
		describe_handshake_end(conn, was, errnum, &end.error);
	end.unanswered = take_line(conn);
	conn->phase = CONN_NONE;
	conn->params.ops->ended(conn->params.owner, &end);
}

static const struct stream_ops stream_callbacks = {
	.open = stream_opened,
	.data = stream_data,
	.direct_done = direct_done,
	.closed = stream_ended,
};

/* --- beginning and ending --- */

static void begin(struct nbd_conn *conn, const struct stream_addr *addr)
{
	conn->addr = *addr;
	conn->shutting_down = false;
	conn->wanted = false;
	conn->opened = false;
	conn->loss_known = false;
	conn->error = ERROR_INIT;
	conn->fd = -1;
	conn->nmessages = 0;
}

int nbd_conn_connect(struct nbd_conn *conn, const struct stream_addr *addr, struct error *e)
{
	int ret;

	begin(conn, addr);
	ret = nbd_handshake_init(&conn->handshake, conn->params.export_name, e);
	if (ret < 0)
		return ret;
	ret = stream_connect(conn->stream, addr, e);
	if (!ret)
		conn->phase = CONN_CONNECTING;
	return ret;
}

void nbd_conn_adopt(struct nbd_conn *conn, int fd, const struct stream_addr *addr,
		    const struct nbd_export *export)
{
	begin(conn, addr);
	start_transmission(conn, export);
	stream_adopt(conn->stream, fd);
}

void nbd_conn_close(struct nbd_conn *conn)
{
	conn->wanted = true;
	if (conn->phase == CONN_TRANSMISSION)
		take_leave(conn);
	else
		cut(conn, BACKEND_LOSS_CLOSED);
}

void nbd_conn_release(struct nbd_conn *conn)
{
	conn->wanted = true;
	conn->fd = stream_release_fd(conn->stream, 0);
	end_phase(conn);
}

/* --- creation and destruction --- */

void nbd_conn_destroy(struct nbd_conn *conn)
{
	if (!conn)
		return;
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

int nbd_conn_create(struct loop *loop, const struct nbd_conn_params *params,
		    struct nbd_conn **ret_conn, struct error *e)
{
	struct nbd_conn *conn = calloc(1, sizeof(*conn));
	struct stream_params sp = { .ops = &stream_callbacks,
				    .owner = conn,
				    .stats = params->stats };
	int ret;

	if (!conn)
		return err_set(e, ENOMEM, "nbd: out of memory");
	conn->loop = loop;
	conn->params = *params;
	conn->fd = -1;
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
	nbd_conn_destroy(conn);
	return ret;
}
