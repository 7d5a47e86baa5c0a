// SPDX-License-Identifier: MIT
/*
 * Byte-stream connection on a loop.
 *
 * State machine
 *
 *	NEW --connect--> CONNECTING --done--> OPEN --close, end, error--> CLOSING
 *	    --adopt------------------------->      --all operations gone--> CLOSED
 *
 * A CLOSED stream may begin anew, by connect or adopt, from inside closed() too.
 *
 * At most three operations are in flight: connect, or one send and one
 * receive. Whoever wants the end (the owner, a peer that closed, an error, a
 * timer) goes through stream_close(), which records the reason once and gets
 * the operations out of the kernel; closed() is called from a hook when the
 * last one has completed, so nothing refers to anybody's memory any more.
 *
 * Ownership of memory: a segment belongs to the stream from stream_send() to
 * sent() or closed(). Heads are copied into the staging area, so that heads of
 * segments without payload form one piece: a batch of small requests is one
 * plain send of one buffer. The memory of stream_receive_direct() belongs to
 * the stream until direct_done() or closed().
 *
 * Memory of an owner may be shared with others, who can take pages away. A kernel call
 * fails then; this thread touches the pages, which its signal handler may mend, and
 * tries once more. Nothing was moved of what failed.
 *
 * Order: segments leave in the order of stream_send(); bytes reach data() in
 * the order in which they arrived, whether or not a part was received directly.
 */
#include "loop/stream.h"

#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <string.h>

#include "loop/iov.h"

#define DEFAULT_RECV_SIZE (256 * 1024)
#define DEFAULT_MAX_IOV	  256
#define STAGING_SIZE	  (16 * 1024)
#define LINGER_MS	  1000

enum stream_state {
	STREAM_NEW,
	STREAM_CONNECTING,
	STREAM_OPEN,
	STREAM_CLOSING,
	STREAM_CLOSED,
};

/* Where the next bytes go when they do not go to the buffer. */
struct direct {
	const struct iovec *iov;
	unsigned int niov;
	size_t skip;
	size_t len; /* bytes that are still missing; 0: not in use */
};

struct stream {
	struct loop *loop;
	struct stream_params params;
	enum stream_state state;
	int fd;
	struct stream_addr addr;
	int error;	/* why it ends */
	bool lingering; /* CLOSING, but what is queued still goes out */
	bool keep_fd;	/* the socket was taken by stream_release_fd() */
	unsigned int keepalive_ms; /* 0: not wanted */

	struct loop_op connect_op;
	struct loop_op send_op;
	struct loop_op recv_op;
	bool connect_busy;
	bool send_busy;
	bool recv_busy;
	struct loop_timer timer; /* connecting, lingering */
	struct loop_hook flush_hook;
	struct loop_hook closed_hook;

	struct stream_seg *segs;
	struct stream_seg **segs_tail;
	uint8_t *staging;
	struct iovec *send_iov;
	struct msghdr send_msg;
	bool send_touched; /* the last send failed because of its memory */

	uint8_t *buf;
	size_t have;	 /* bytes at the start of buf that were not consumed yet */
	size_t asked;	 /* room of the receive operation in flight */
	bool more_waits; /* there was more in the socket than the last one took */
	struct direct direct;
	struct iovec *recv_iov;
	struct msghdr recv_msg;
	bool recv_touched;

	struct stream_stats own_stats;
	struct stream_stats *stats;
};

static void receive(struct stream *s);

void *stream_owner(const struct stream *stream)
{
	return stream->params.owner;
}

const struct stream_stats *stream_stats(const struct stream *stream)
{
	return stream->stats;
}

size_t stream_memory(const struct stream *stream)
{
	return sizeof(*stream) + stream->params.recv_size + STAGING_SIZE +
	       2 * stream->params.max_iov * sizeof(struct iovec);
}

/* --- the end --- */

static void run_closed(struct loop_hook *hook)
{
	struct stream *s = container_of(hook, struct stream, closed_hook);

	loop_timer_cancel(s->loop, &s->timer);
	loop_hook_cancel(s->loop, &s->flush_hook);
	if (!s->keep_fd)
		close(s->fd);
	s->fd = -1;
	s->state = STREAM_CLOSED;
	s->params.ops->closed(s, s->error);
}

static void closed_if_quiet(struct stream *s)
{
	if (s->state == STREAM_CLOSING && !s->lingering && !s->connect_busy && !s->send_busy &&
	    !s->recv_busy)
		loop_hook_schedule(s->loop, &s->closed_hook);
}

/* Whatever waits in the kernel for the peer stops waiting. */
static void stop_operations(struct stream *s)
{
	s->lingering = false;
	if (s->connect_busy)
		loop_cancel(s->loop, &s->connect_op);
	if (s->send_busy)
		loop_cancel(s->loop, &s->send_op);
	if (s->recv_busy)
		loop_cancel(s->loop, &s->recv_op);
	closed_if_quiet(s);
}

void stream_close(struct stream *stream, int error)
{
	bool unsent = stream->segs != NULL;

	if (stream->state != STREAM_CONNECTING && stream->state != STREAM_OPEN)
		return;
	stream->error = error;
	stream->lingering = !error && stream->state == STREAM_OPEN && unsent;
	stream->state = STREAM_CLOSING;
	loop_timer_cancel(stream->loop, &stream->timer);
	if (stream->lingering)
		loop_timer_arm(stream->loop, &stream->timer, LINGER_MS);
	else
		stop_operations(stream);
}

int stream_release_fd(struct stream *stream, int error)
{
	int fd = stream->fd;

	if (stream->state != STREAM_OPEN)
		return -EBADF;
	stream->keep_fd = true;
	stream_close(stream, error);
	return fd;
}

static void timer_expired(struct loop_timer *timer)
{
	struct stream *s = container_of(timer, struct stream, timer);

	if (s->state == STREAM_CONNECTING)
		stream_close(s, -ETIMEDOUT);
	else if (s->lingering)
		stop_operations(s);
}

/* --- sending --- */

void stream_send(struct stream *stream, struct stream_seg *seg)
{
	if (stream->state != STREAM_OPEN)
		return;
	seg->next = NULL;
	seg->done = 0;
	*stream->segs_tail = seg;
	stream->segs_tail = &seg->next;
	loop_hook_schedule(stream->loop, &stream->flush_hook);
}

/* What goes into the next send operation. */
struct gather {
	unsigned int niov;
	size_t staged;
	size_t total;
};

/* Returns false when there was no room for all of it. */
static bool gather_head(struct stream *s, struct gather *g, const struct stream_seg *seg)
{
	size_t n = seg->head_len - min(seg->done, (size_t)seg->head_len);
	uint8_t *to = s->staging + g->staged;
	struct iovec *last = g->niov ? &s->send_iov[g->niov - 1] : NULL;

	if (!n)
		return true;
	if (g->staged + n > STAGING_SIZE)
		return false;
	if (last && (uint8_t *)last->iov_base + last->iov_len == to) {
		last->iov_len += n;
	} else {
		if (g->niov == s->params.max_iov)
			return false;
		s->send_iov[g->niov++] = (struct iovec){ to, n };
	}
	memcpy(to, seg->head + seg->head_len - n, n);
	g->staged += n;
	g->total += n;
	return true;
}

static bool gather_payload(struct stream *s, struct gather *g, const struct stream_seg *seg)
{
	size_t sent = seg->done > seg->head_len ? seg->done - seg->head_len : 0;
	size_t left = seg->len - sent;
	size_t n;

	if (!left)
		return true;
	g->niov += iov_slice(seg->iov, seg->niov, seg->skip + sent, left, s->send_iov + g->niov,
			     s->params.max_iov - g->niov, &n);
	g->total += n;
	return n == left;
}

static void flush(struct loop_hook *hook)
{
	struct stream *s = container_of(hook, struct stream, flush_hook);
	const int flags = MSG_NOSIGNAL | MSG_WAITALL;
	struct gather g = { 0 };
	struct io_uring_sqe *sqe;

	if (s->send_busy || !s->segs || (s->state != STREAM_OPEN && !s->lingering))
		return;
	for (struct stream_seg *seg = s->segs; seg; seg = seg->next)
		if (!gather_head(s, &g, seg) || !gather_payload(s, &g, seg))
			break;

	sqe = loop_sqe(s->loop, &s->send_op);
	s->send_msg.msg_iovlen = g.niov;
	if (g.niov == 1) {
		io_uring_prep_send(sqe, s->fd, s->send_iov[0].iov_base, s->send_iov[0].iov_len,
				   flags);
	} else {
		s->send_msg.msg_iov = s->send_iov;
		io_uring_prep_sendmsg(sqe, s->fd, &s->send_msg, (unsigned int)flags);
	}
	s->send_busy = true;
	counter_add(&s->stats->sends, 1);
}

static void release_sent(struct stream *s, size_t n)
{
	while (n) {
		struct stream_seg *seg = s->segs;
		size_t left = seg->head_len + seg->len - seg->done;

		if (n < left) {
			seg->done += n;
			return;
		}
		n -= left;
		s->segs = seg->next;
		if (!s->segs)
			s->segs_tail = &s->segs;
		if (seg->sent && (s->state == STREAM_OPEN || s->lingering))
			seg->sent(seg);
	}
}

static void send_complete(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct stream *s = container_of(op, struct stream, send_op);

	(void)cqe_flags;
	s->send_busy = false;
	if (res > 0) {
		s->send_touched = false;
		counter_add(&s->stats->bytes_sent, (uint64_t)res);
		release_sent(s, (size_t)res);
	} else if (res == -EFAULT && !s->send_touched) {
		s->send_touched = true;
		iov_touch(s->send_iov, (unsigned int)s->send_msg.msg_iovlen, false);
	} else if (res != -EAGAIN && res != -EINTR) {
		stream_close(s, res ? res : -EPIPE);
		if (s->lingering)
			stop_operations(s);
	}
	if (s->segs && (s->state == STREAM_OPEN || s->lingering))
		loop_hook_schedule(s->loop, &s->flush_hook);
	else if (s->lingering)
		stop_operations(s);
	closed_if_quiet(s);
}

/* --- receiving --- */

void stream_receive_direct(struct stream *stream, const struct iovec *iov, unsigned int niov,
			   size_t skip, size_t len)
{
	stream->direct = (struct direct){ iov, niov, skip, len };
}

static void direct_advance(struct stream *s, size_t n)
{
	s->direct.skip += n;
	s->direct.len -= n;
	if (!s->direct.len)
		s->params.ops->direct_done(s);
}

/*
 * Shows the buffer's content to the owner until it is used up, or the owner
 * wants more bytes than there are. Moves the rest to the buffer's start.
 */
static void consume(struct stream *s)
{
	const uint8_t *p = s->buf;
	size_t n = s->have;

	while (n && s->state == STREAM_OPEN) {
		size_t used = s->params.ops->data(s, p, n);

		p += used;
		n -= used;
		if (s->state != STREAM_OPEN || !s->direct.len)
			break;

		used = min(n, s->direct.len);
		iov_scatter(s->direct.iov, s->direct.niov, s->direct.skip, p, used);
		p += used;
		n -= used;
		if (used)
			direct_advance(s, used);
		if (s->direct.len)
			break;
	}
	if (s->state != STREAM_OPEN)
		return;
	if (n > STREAM_CARRY_MAX) {
		/* An owner that does not make progress would stall for ever. */
		stream_close(s, -EPROTO);
		return;
	}
	memmove(s->buf, p, n);
	s->have = n;
}

static void receive_complete(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct stream *s = container_of(op, struct stream, recv_op);

	s->recv_busy = false;
	s->more_waits = cqe_flags & IORING_CQE_F_SOCK_NONEMPTY;
	if (s->state != STREAM_OPEN) {
		/* While the rest is sent the peer's words are not heard, but its going is. */
		if (s->lingering && res > 0)
			receive(s);
		else if (s->lingering)
			stop_operations(s);
		closed_if_quiet(s);
		return;
	}
	if (res == -EAGAIN || res == -EINTR) {
		receive(s);
		return;
	}
	if (res == -EFAULT && s->direct.len && !s->recv_touched) {
		s->recv_touched = true;
		iov_touch(s->recv_iov, (unsigned int)s->recv_msg.msg_iovlen, true);
		receive(s);
		return;
	}
	if (res <= 0) {
		stream_close(s, res ? res : -EPIPE);
		return;
	}

	s->recv_touched = false;
	counter_add(&s->stats->recvs, 1);
	counter_add(&s->stats->bytes_received, (uint64_t)res);
	if ((size_t)res == s->asked)
		s->more_waits = true;
	if (s->direct.len) {
		counter_add(&s->stats->bytes_direct, (uint64_t)res);
		direct_advance(s, (size_t)res);
	} else {
		s->have += (size_t)res;
	}
	if (s->have)
		consume(s);
	if (s->state == STREAM_OPEN)
		receive(s);
}

/*
 * Without a hint that more is there, trying at once would fail: let the kernel
 * wait for data first.
 *
 * Memory of the owner is filled as a whole by one operation: the kernel puts
 * together what arrives in small pieces, and this thread sleeps meanwhile.
 */
static void receive(struct stream *s)
{
	struct io_uring_sqe *sqe = loop_sqe(s->loop, &s->recv_op);

	if (!s->direct.len || s->state != STREAM_OPEN) {
		s->asked = s->params.recv_size - s->have;
		io_uring_prep_recv(sqe, s->fd, s->buf + s->have, s->asked, 0);
	} else {
		s->recv_msg.msg_iov = s->recv_iov;
		s->recv_msg.msg_iovlen = iov_slice(s->direct.iov, s->direct.niov, s->direct.skip,
						   s->direct.len, s->recv_iov, s->params.max_iov,
						   &s->asked);
		io_uring_prep_recvmsg(sqe, s->fd, &s->recv_msg, MSG_WAITALL);
	}
	if (!s->more_waits)
		sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	s->recv_busy = true;
}

/* --- the beginning --- */

static void connect_complete(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct stream *s = container_of(op, struct stream, connect_op);

	(void)cqe_flags;
	s->connect_busy = false;
	if (s->state != STREAM_CONNECTING) {
		closed_if_quiet(s);
		return;
	}
	if (res < 0) {
		stream_close(s, res);
		return;
	}
	loop_timer_cancel(s->loop, &s->timer);
	s->state = STREAM_OPEN;
	receive(s);
	s->params.ops->open(s);
}

/* Nothing of an earlier connection may show in the next. */
static void begin(struct stream *s)
{
	s->error = 0;
	s->lingering = false;
	s->keep_fd = false;
	s->segs = NULL;
	s->segs_tail = &s->segs;
	s->have = 0;
	s->more_waits = false;
	s->send_touched = false;
	s->recv_touched = false;
	s->direct = (struct direct){ 0 };
}

/*
 * Idle connections are probed after a third of the time, so two answers may get
 * lost. Options that a kernel or another kind of socket does not have are left.
 */
static void apply_keepalive(const struct stream *s)
{
	const int on = s->keepalive_ms > 0;
	const int interval = (int)max(s->keepalive_ms / 3000, 1u);
	const int count = 2;
	const unsigned int user_timeout = s->keepalive_ms;

	if (s->fd < 0)
		return;
	setsockopt(s->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(s->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof(user_timeout));
	if (!on)
		return;
	setsockopt(s->fd, IPPROTO_TCP, TCP_KEEPIDLE, &interval, sizeof(interval));
	setsockopt(s->fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(s->fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

void stream_set_keepalive(struct stream *stream, unsigned int ms)
{
	stream->keepalive_ms = min(ms, (unsigned int)INT_MAX);
	if (stream->keepalive_ms || stream->state == STREAM_OPEN)
		apply_keepalive(stream);
}

int stream_connect(struct stream *stream, const struct stream_addr *addr, struct error *e)
{
	int family = addr->sa.any.sa_family;
	const int one = 1;

	stream->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (stream->fd < 0)
		return err_set_errno(e, errno, "cannot create a socket");
	/* Batches are formed here; the network stack must not wait for more. */
	if (family != AF_UNIX)
		setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

	begin(stream);
	if (stream->keepalive_ms && family != AF_UNIX)
		apply_keepalive(stream);
	stream->state = STREAM_CONNECTING;
	stream->addr = *addr;
	io_uring_prep_connect(loop_sqe(stream->loop, &stream->connect_op), stream->fd,
			      &stream->addr.sa.any, stream->addr.len);
	stream->connect_busy = true;
	if (stream->params.connect_timeout_ms)
		loop_timer_arm(stream->loop, &stream->timer, stream->params.connect_timeout_ms);
	return 0;
}

void stream_adopt(struct stream *stream, int fd)
{
	begin(stream);
	stream->fd = fd;
	if (stream->keepalive_ms)
		apply_keepalive(stream);
	stream->state = STREAM_OPEN;
	receive(stream);
}

int stream_create(struct loop *loop, const struct stream_params *params, struct stream **ret_stream,
		  struct error *e)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, ENOMEM, "connection: out of memory");
	s->loop = loop;
	s->params = *params;
	if (!s->params.recv_size)
		s->params.recv_size = DEFAULT_RECV_SIZE;
	s->params.recv_size = max(s->params.recv_size, (size_t)(2 * STREAM_CARRY_MAX));
	if (!s->params.max_iov)
		s->params.max_iov = DEFAULT_MAX_IOV;
	s->params.max_iov = min(s->params.max_iov, (unsigned int)IOV_MAX);
	s->stats = params->stats ? params->stats : &s->own_stats;
	s->fd = -1;
	s->segs_tail = &s->segs;
	s->connect_op.complete = connect_complete;
	s->send_op.complete = send_complete;
	s->recv_op.complete = receive_complete;
	s->timer.expired = timer_expired;
	s->flush_hook.run = flush;
	s->closed_hook.run = run_closed;

	s->buf = malloc(s->params.recv_size);
	s->staging = malloc(STAGING_SIZE);
	s->send_iov = calloc(s->params.max_iov, sizeof(*s->send_iov));
	s->recv_iov = calloc(s->params.max_iov, sizeof(*s->recv_iov));
	if (!s->buf || !s->staging || !s->send_iov || !s->recv_iov) {
		stream_destroy(s);
		return err_set(e, ENOMEM, "connection: out of memory");
	}
	*ret_stream = s;
	return 0;
}

void stream_destroy(struct stream *stream)
{
	if (!stream)
		return;
	free(stream->buf);
	free(stream->staging);
	free(stream->send_iov);
	free(stream->recv_iov);
	free(stream);
}
