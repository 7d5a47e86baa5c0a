// SPDX-License-Identifier: MIT
/*
 * Stream connections against a plain socket on the other side: what is sent,
 * how it is cut, what arrives, and how a connection ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>

#include "loop/stream.h"
#include "transport/sigbus.h"

#define NEVER 12345

struct fixture {
	struct loop *loop;
	struct stream *stream;
	int peer; /* the other end */
	int listener;
	struct stream_addr addr;
	unsigned int opened, closed;
	int error;
	/* Consumes this many bytes at a time; 0: everything. */
	size_t grain;
	uint8_t *got;
	size_t ngot, calls;
	size_t stop_at; /* bytes */
	/* Asks for bytes to be received directly, once @direct_at were seen. */
	size_t direct_at;
	struct iovec direct_iov[3];
	unsigned int direct_niov;
	size_t direct_len;
	unsigned int direct_calls;
	bool close_in_data;
	unsigned int sent;
	struct loop_timer guard;
	bool timed_out;
};

#define GOT_MAX (4u << 20)

static void guard_expired(struct loop_timer *timer)
{
	struct fixture *f = container_of(timer, struct fixture, guard);

	f->timed_out = true;
	loop_stop(f->loop);
}

/* Runs until a callback stops the loop. */
static void run(struct fixture *f)
{
	f->guard.expired = guard_expired;
	loop_timer_arm(f->loop, &f->guard, 20000);
	assert_int_equal(loop_run(f->loop), 0);
	loop_timer_cancel(f->loop, &f->guard);
	if (f->timed_out)
		fail_msg("nothing happened: %zu bytes, closed %u", f->ngot, f->closed);
}

static void run_briefly(struct fixture *f, unsigned int ms)
{
	f->guard.expired = guard_expired;
	loop_timer_arm(f->loop, &f->guard, ms);
	assert_int_equal(loop_run(f->loop), 0);
	f->timed_out = false;
}

static void on_open(struct stream *stream)
{
	struct fixture *f = stream_owner(stream);

	f->opened++;
	loop_stop(f->loop);
}

static void keep(struct fixture *f, const uint8_t *p, size_t n)
{
	assert_true(f->ngot + n <= GOT_MAX);
	memcpy(f->got + f->ngot, p, n);
	f->ngot += n;
	if (f->stop_at && f->ngot >= f->stop_at)
		loop_stop(f->loop);
}

static size_t on_data(struct stream *stream, const uint8_t *p, size_t n)
{
	struct fixture *f = stream_owner(stream);

	f->calls++;
	assert_int_equal(f->closed, 0);
	if (f->close_in_data) {
		stream_close(stream, -ECANCELED);
		return n;
	}
	if (f->direct_len && f->ngot < f->direct_at)
		n = min(n, f->direct_at - f->ngot);
	else if (f->grain)
		n -= n % f->grain;
	keep(f, p, n);
	if (f->direct_len && f->ngot == f->direct_at && !f->direct_calls)
		stream_receive_direct(stream, f->direct_iov, f->direct_niov, 0, f->direct_len);
	return n;
}

static void on_direct_done(struct stream *stream)
{
	struct fixture *f = stream_owner(stream);

	f->direct_calls++;
	for (unsigned int i = 0; i < f->direct_niov; i++)
		keep(f, f->direct_iov[i].iov_base, f->direct_iov[i].iov_len);
}

static void on_closed(struct stream *stream, int error)
{
	struct fixture *f = stream_owner(stream);

	f->closed++;
	f->error = error;
	loop_stop(f->loop);
}

static const struct stream_ops ops = {
	.open = on_open,
	.data = on_data,
	.direct_done = on_direct_done,
	.closed = on_closed,
};

static void setup_stream(struct fixture *f, size_t recv_size, unsigned int max_iov)
{
	struct stream_params p = { .ops = &ops,
				   .owner = f,
				   .recv_size = recv_size,
				   .max_iov = max_iov,
				   .connect_timeout_ms = 300 };
	struct loop_params lp = { 0 };
	struct error e = ERROR_INIT;

	*f = (struct fixture){ .peer = -1, .listener = -1, .error = NEVER };
	f->got = malloc(GOT_MAX);
	assert_non_null(f->got);
	assert_int_equal(loop_create(&lp, &f->loop, &e), 0);
	assert_int_equal(stream_create(f->loop, &p, &f->stream, &e), 0);
}

static void setup_pair(struct fixture *f, size_t recv_size, unsigned int max_iov)
{
	int fds[2];

	setup_stream(f, recv_size, max_iov);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	f->peer = fds[1];
	stream_adopt(f->stream, fds[0]);
}

/* Ends the connection if that has not been done, and checks that it ended once. */
static void teardown(struct fixture *f)
{
	if (!f->closed) {
		stream_close(f->stream, -ECANCELED);
		assert_int_equal(f->closed, 0);
		run(f);
	}
	run_briefly(f, 5);
	assert_int_equal(f->closed, 1);
	stream_destroy(f->stream);
	loop_destroy(f->loop);
	if (f->peer >= 0)
		close(f->peer);
	if (f->listener >= 0)
		close(f->listener);
	free(f->got);
}

/* --- sending --- */

static void seg_sent(struct stream_seg *seg);

struct seg {
	struct stream_seg seg;
	struct fixture *f;
	unsigned int number;
	unsigned int sent;
};

static void seg_sent(struct stream_seg *seg)
{
	struct seg *s = container_of(seg, struct seg, seg);

	/* In order, each once. */
	assert_int_equal(s->number, s->f->sent);
	s->sent++;
	s->f->sent++;
}

/* Reads from a blocking socket on a thread, so that large sends find a reader. */
struct reader {
	pthread_t thread;
	int fd;
	uint8_t *buf;
	size_t n, wanted;
};

static void *read_all(void *arg)
{
	struct reader *r = arg;
	ssize_t got;

	while (r->n < r->wanted && (got = read(r->fd, r->buf + r->n, r->wanted - r->n)) > 0)
		r->n += (size_t)got;
	return NULL;
}

struct shape {
	unsigned int head;
	unsigned int npieces;
	size_t piece;
	size_t skip;
};

static const struct shape shapes[][4] = {
	{ { 28, 0, 0, 0 }, { 28, 0, 0, 0 }, { 28, 0, 0, 0 }, { 28, 0, 0, 0 } },
	{ { 28, 1, 4096, 0 }, { 28, 1, 4096, 0 }, { 28, 0, 0, 0 }, { 28, 1, 1, 0 } },
	{ { 0, 1, 10, 0 }, { 0, 3, 7, 5 }, { 1, 2, 3, 6 }, { 32, 1, 1, 1 } },
	{ { 28, 20, 1000, 1500 }, { 28, 20, 100, 0 }, { 28, 0, 0, 0 }, { 28, 3, 50000, 1 } },
	{ { 28, 8, 131072, 77 }, { 28, 8, 131072, 0 }, { 28, 1, 1, 0 }, { 28, 8, 131072, 8 } },
};

static void send_shapes(const struct shape *shape, unsigned int repeat, unsigned int max_iov,
			uint64_t *ret_sends)
{
	enum {
		MAX_SEGS = 400
	};
	static struct seg segs[MAX_SEGS];
	static struct iovec iovs[MAX_SEGS][20];
	struct fixture f;
	struct reader r = { 0 };
	uint8_t *want, *memory, *p;
	size_t total = 0;
	unsigned int n = 0;

	setup_pair(&f, 0, max_iov);
	memory = malloc(1 << 20);
	want = p = malloc(GOT_MAX * 2);
	for (size_t i = 0; i < 1 << 20; i++)
		memory[i] = (uint8_t)(i * 13 + i / 251);

	for (unsigned int round = 0; round < repeat; round++) {
		for (int k = 0; k < 4; k++, n++) {
			struct seg *s = &segs[n];

			*s = (struct seg){ .f = &f, .number = n };
			s->seg.sent = seg_sent;
			s->seg.head_len = shape[k].head;
			memset(s->seg.head, (int)n, shape[k].head);
			memset(p, (int)n, shape[k].head);
			p += shape[k].head;
			for (unsigned int i = 0; i < shape[k].npieces; i++)
				iovs[n][i] = (struct iovec){ memory + i * shape[k].piece,
							     shape[k].piece };
			s->seg.iov = iovs[n];
			s->seg.niov = shape[k].npieces;
			s->seg.skip = shape[k].skip;
			s->seg.len = shape[k].npieces * shape[k].piece - shape[k].skip;
			memcpy(p, memory + shape[k].skip, s->seg.len);
			p += s->seg.len;
			stream_send(f.stream, &s->seg);
			assert_int_equal(f.sent, 0);
		}
	}
	total = (size_t)(p - want);
	assert_true(total <= GOT_MAX * 2);

	r = (struct reader){ .fd = f.peer, .buf = malloc(total), .wanted = total };
	pthread_create(&r.thread, NULL, read_all, &r);
	/* With 0, what is queued goes out first. */
	stream_close(f.stream, 0);
	run(&f);
	pthread_join(r.thread, NULL);
	assert_int_equal(f.error, 0);
	assert_int_equal(f.sent, n);
	assert_int_equal(r.n, total);
	assert_memory_equal(r.buf, want, total);
	*ret_sends = stream_stats(f.stream)->sends;
	teardown(&f);
	free(r.buf);
	free(want);
	free(memory);
}

static void test_send(void **state)
{
	uint64_t sends;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
		send_shapes(shapes[i], 1, 0, &sends);
		/* One operation for the whole batch. */
		if (i < 3)
			assert_int_equal(sends, 1);
		send_shapes(shapes[i], 1, 4, &sends);
		send_shapes(shapes[i], 1, 1, &sends);
	}
	/* More heads than the staging area holds, and many segments. */
	send_shapes(shapes[0], 100, 0, &sends);
	assert_int_equal(sends, 1);
	send_shapes(shapes[2], 100, 0, &sends);
	send_shapes(shapes[1], 100, 3, &sends);
}

/* --- receiving --- */

static void fill(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(i * 7 + i / 255);
}

struct writer {
	pthread_t thread;
	int fd;
	const uint8_t *p;
	size_t n, chunk;
	bool pause;
};

static void *write_all(void *arg)
{
	struct writer *w = arg;

	for (size_t at = 0; at < w->n;) {
		ssize_t put = send(w->fd, w->p + at, min(w->chunk, w->n - at), MSG_NOSIGNAL);

		if (put <= 0)
			break;
		at += (size_t)put;
		if (w->pause)
			usleep(500);
	}
	return NULL;
}

static void receive(size_t total, size_t chunk, size_t grain, size_t direct_at, size_t direct_len,
		    bool pause)
{
	uint8_t *src = malloc(total), *into = malloc(direct_len + 1);
	struct fixture f;
	struct writer w;

	fill(src, total);
	setup_pair(&f, 16384, 0);
	f.grain = grain;
	f.direct_at = direct_at;
	f.direct_len = direct_len;
	f.direct_niov = direct_len ? 3 : 0;
	f.direct_iov[0] = (struct iovec){ into, direct_len / 3 };
	f.direct_iov[1] = (struct iovec){ into + direct_len / 3, direct_len / 3 };
	f.direct_iov[2] =
		(struct iovec){ into + 2 * (direct_len / 3), direct_len - 2 * (direct_len / 3) };
	into[direct_len] = 0x99;
	f.stop_at = total - (grain && !direct_len ? total % grain : 0);

	w = (struct writer){ .fd = f.peer, .p = src, .n = total, .chunk = chunk, .pause = pause };
	pthread_create(&w.thread, NULL, write_all, &w);
	run(&f);
	pthread_join(w.thread, NULL);
	assert_int_equal(f.ngot, f.stop_at);
	assert_memory_equal(f.got, src, f.ngot);
	assert_int_equal(f.direct_calls, direct_len ? 1 : 0);
	assert_int_equal(into[direct_len], 0x99);
	assert_in_range(stream_stats(f.stream)->bytes_received, f.stop_at, total);
	teardown(&f);
	free(src);
	free(into);
}

static void test_receive(void **state)
{
	(void)state;
	receive(1, 1, 0, 0, 0, false);
	receive(100000, 100000, 0, 0, 0, false);
	receive(3000000, 65536, 0, 0, 0, false);
	/* An owner that takes only whole units of 28 bytes, while they come in odd pieces. */
	receive(100 * 28 + 13, 9, 28, 0, 0, true);
	receive(1000000, 4099, 28, 0, 0, false);
}

static void test_receive_direct(void **state)
{
	(void)state;
	/* Of what is in the buffer already; larger than the buffer; slowly; at the very start. */
	receive(10000, 10000, 0, 100, 300, false);
	receive(1000000, 65536, 0, 100, 900000, false);
	receive(300000, 1001, 0, 28, 200000, true);
	receive(300000, 300000, 0, 28, 299972, false);
	receive(50000, 50000, 0, 49999, 1, false);
}

/* Memory that is shared with somebody who takes it away: zeroes go, what comes is lost. */
#define SHARED (16 * 4096)

static uint8_t *map_shared(int fd)
{
	uint8_t *memory;

	assert_int_equal(sigbus_guard_install(NULL), 0);
	assert_int_equal(ftruncate(fd, SHARED), 0);
	memory = mmap(NULL, SHARED, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_int_equal(sigbus_guard_add(memory, SHARED), 0);
	memset(memory, 0xee, SHARED);
	assert_int_equal(ftruncate(fd, SHARED / 2), 0);
	return memory;
}

static void unmap_shared(uint8_t *memory)
{
	sigbus_guard_del(memory, SHARED);
	munmap(memory, SHARED);
}

static void test_send_memory_that_is_gone(void **state)
{
	auto_close int fd = memfd_create("test", MFD_CLOEXEC);
	uint8_t *memory = map_shared(fd), *got = calloc(1, SHARED);
	struct iovec iov = { memory, SHARED };
	struct reader r = { .buf = got, .wanted = SHARED };
	struct seg seg = { .seg = { .iov = &iov, .niov = 1, .len = SHARED, .sent = seg_sent } };
	struct fixture f;

	(void)state;
	setup_pair(&f, 0, 0);
	seg.f = &f;
	r.fd = f.peer;
	pthread_create(&r.thread, NULL, read_all, &r);
	stream_send(f.stream, &seg.seg);
	for (int i = 0; i < 400 && !seg.sent; i++)
		run_briefly(&f, 5);
	assert_int_equal(seg.sent, 1);
	pthread_join(r.thread, NULL);
	assert_int_equal(r.n, SHARED);
	assert_int_equal(got[SHARED / 2 - 1], 0xee);
	assert_int_equal(got[SHARED / 2], 0);
	teardown(&f);
	unmap_shared(memory);
	free(got);
}

static void test_receive_into_memory_that_is_gone(void **state)
{
	auto_close int fd = memfd_create("test", MFD_CLOEXEC);
	uint8_t *memory = map_shared(fd), *src = malloc(SHARED + 28);
	struct fixture f;
	struct writer w;

	(void)state;
	fill(src, SHARED + 28);
	setup_pair(&f, 16384, 0);
	f.direct_at = 28;
	f.direct_len = SHARED;
	f.direct_niov = 1;
	f.direct_iov[0] = (struct iovec){ memory, SHARED };
	f.stop_at = SHARED + 28;
	w = (struct writer){ .fd = f.peer, .p = src, .n = SHARED + 28, .chunk = 10000, .pause = true };
	pthread_create(&w.thread, NULL, write_all, &w);
	run(&f);
	pthread_join(w.thread, NULL);
	assert_int_equal(f.direct_calls, 1);
	assert_int_equal(f.closed, 0);
	/* The pages that took their place are as good. */
	assert_memory_equal(memory, src + 28, SHARED);
	teardown(&f);
	unmap_shared(memory);
	free(src);
}

/* An owner that never makes progress is not fed for ever. */
static void test_carry_limit(void **state)
{
	static uint8_t src[3 * STREAM_CARRY_MAX];
	struct fixture f;

	(void)state;
	setup_pair(&f, 0, 0);
	f.grain = 1 << 20;
	assert_int_equal(write(f.peer, src, sizeof(src)), sizeof(src));
	run(&f);
	assert_int_equal(f.error, -EPROTO);
	teardown(&f);
}

/* --- the end --- */

static void test_peer_closes(void **state)
{
	struct fixture f;

	(void)state;
	setup_pair(&f, 0, 0);
	assert_int_equal(write(f.peer, "bye", 3), 3);
	close(f.peer);
	f.peer = -1;
	run(&f);
	assert_int_equal(f.error, -EPIPE);
	assert_int_equal(f.ngot, 3);
	/* Nothing more to be had from it. */
	stream_close(f.stream, -EIO);
	stream_send(f.stream, &(struct stream_seg){ .head_len = 1 });
	teardown(&f);
	assert_int_equal(f.error, -EPIPE);
}

static void test_close_in_data(void **state)
{
	struct fixture f;

	(void)state;
	setup_pair(&f, 0, 0);
	f.close_in_data = true;
	assert_int_equal(write(f.peer, "abc", 3), 3);
	run(&f);
	assert_int_equal(f.calls, 1);
	assert_int_equal(f.error, -ECANCELED);
	teardown(&f);
}

/* A peer that does not read: closing with an error drops what is queued, at once. */
static void test_close_while_sending(void **state)
{
	enum {
		SIZE = 8 << 20
	};
	uint8_t *memory = calloc(1, SIZE);
	struct iovec iov = { memory, SIZE };
	struct fixture f;
	struct seg s = { .seg = { .iov = &iov, .niov = 1, .len = SIZE, .sent = seg_sent }, .f = &f };

	(void)state;
	setup_pair(&f, 0, 0);
	stream_send(f.stream, &s.seg);
	run_briefly(&f, 20);
	assert_int_equal(f.closed, 0);
	stream_close(f.stream, -ECONNABORTED);
	run(&f);
	assert_int_equal(f.error, -ECONNABORTED);
	assert_int_equal(s.sent, 0);
	teardown(&f);

	/* Closing with 0 waits for it, but not for ever. */
	setup_pair(&f, 0, 0);
	stream_send(f.stream, &s.seg);
	stream_close(f.stream, 0);
	run_briefly(&f, 100);
	assert_int_equal(f.closed, 0);
	run(&f);
	assert_int_equal(f.error, 0);
	assert_int_equal(s.sent, 0);
	teardown(&f);

	/* Nor when the peer goes. */
	setup_pair(&f, 0, 0);
	stream_send(f.stream, &s.seg);
	stream_close(f.stream, 0);
	run_briefly(&f, 20);
	close(f.peer);
	f.peer = -1;
	run(&f);
	teardown(&f);
	free(memory);
}

static void test_release_fd(void **state)
{
	struct fixture f;
	char byte;
	int fd;

	(void)state;
	setup_pair(&f, 0, 0);
	fd = stream_release_fd(f.stream, 0);
	run(&f);
	assert_int_equal(f.error, 0);
	teardown(&f);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);

	/* Still a connection. */
	setup_pair(&f, 0, 0);
	fd = stream_release_fd(f.stream, 0);
	run(&f);
	assert_int_equal(write(f.peer, "x", 1), 1);
	assert_int_equal(read(fd, &byte, 1), 1);
	teardown(&f);
	close(fd);
}

/* --- connecting --- */

/* Returns false if the address family does not exist here. */
static bool listen_on(struct fixture *f, int family)
{
	struct stream_addr *a = &f->addr;

	*a = (struct stream_addr){ .sa.any.sa_family = (sa_family_t)family };
	if (family == AF_INET) {
		a->sa.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		a->len = sizeof(a->sa.in);
	} else if (family == AF_INET6) {
		a->sa.in6.sin6_addr = in6addr_loopback;
		a->len = sizeof(a->sa.in6);
	} else {
		/* Only the family: the kernel picks an abstract name. */
		a->len = sizeof(sa_family_t);
	}
	f->listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (f->listener < 0 || bind(f->listener, &a->sa.any, a->len))
		return false;
	assert_int_equal(listen(f->listener, 1), 0);
	a->len = sizeof(a->sa);
	assert_int_equal(getsockname(f->listener, &a->sa.any, &a->len), 0);
	return true;
}

static void test_connect(void **state)
{
	static const int families[] = { AF_UNIX, AF_INET, AF_INET6 };
	char text[STREAM_ADDR_TEXT];
	struct error e = ERROR_INIT;
	struct fixture f;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		setup_stream(&f, 0, 0);
		if (!listen_on(&f, families[i])) {
			print_message("family %d does not exist here\n", families[i]);
			f.closed = 1;
			teardown(&f);
			continue;
		}
		assert_int_equal(stream_connect(f.stream, &f.addr, &e), 0);
		assert_int_equal(f.opened, 0);
		run(&f);
		assert_int_equal(f.opened, 1);
		f.peer = accept(f.listener, NULL, NULL);
		assert_true(f.peer >= 0);
		f.stop_at = 5;
		assert_int_equal(write(f.peer, "hello", 5), 5);
		run(&f);
		assert_memory_equal(f.got, "hello", 5);
		print_message("connected to %s\n", stream_addr_text(&f.addr, text));
		teardown(&f);

		/* Nobody there. */
		setup_stream(&f, 0, 0);
		assert_true(listen_on(&f, families[i]));
		close(f.listener);
		f.listener = -1;
		assert_int_equal(stream_connect(f.stream, &f.addr, &e), 0);
		run(&f);
		assert_int_equal(f.opened, 0);
		assert_int_equal(f.error, -ECONNREFUSED);
		teardown(&f);
	}
}

/* A listener whose backlog is full neither accepts nor refuses. */
static void test_connect_timeout(void **state)
{
	struct error e = ERROR_INIT;
	int fillers[64], n = 0;
	struct fixture f;

	(void)state;
	setup_stream(&f, 0, 0);
	assert_true(listen_on(&f, AF_UNIX));
	for (; n < (int)ARRAY_SIZE(fillers); n++) {
		fillers[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (connect(fillers[n], &f.addr.sa.any, f.addr.len))
			break;
	}
	assert_true(n < (int)ARRAY_SIZE(fillers));
	assert_int_equal(stream_connect(f.stream, &f.addr, &e), 0);
	run(&f);
	assert_int_equal(f.opened, 0);
	assert_int_equal(f.error, -ETIMEDOUT);
	teardown(&f);
	while (n >= 0)
		close(fillers[n--]);
}

static void test_close_while_connecting(void **state)
{
	struct error e = ERROR_INIT;
	struct fixture f;

	(void)state;
	setup_stream(&f, 0, 0);
	assert_true(listen_on(&f, AF_UNIX));
	assert_int_equal(stream_connect(f.stream, &f.addr, &e), 0);
	stream_close(f.stream, -ECANCELED);
	run(&f);
	assert_int_equal(f.error, -ECANCELED);
	teardown(&f);
}

static void test_addresses(void **state)
{
	struct stream_addr addr, addrs[4];
	char text[STREAM_ADDR_TEXT], longest[200];
	struct error e = ERROR_INIT;

	(void)state;
	assert_int_equal(stream_addr_unix("/run/x", &addr, &e), 0);
	assert_string_equal(stream_addr_text(&addr, text), "/run/x");
	assert_int_equal(stream_addr_unix("@x", &addr, &e), 0);
	assert_int_equal(addr.sa.un.sun_path[0], 0);
	assert_int_equal(addr.len, offsetof(struct sockaddr_un, sun_path) + 2);
	assert_string_equal(stream_addr_text(&addr, text), "@x");
	assert_int_equal(stream_addr_unix("", &addr, &e), -EINVAL);
	memset(longest, 'a', sizeof(longest));
	longest[107] = '\0';
	assert_int_equal(stream_addr_unix(longest, &addr, &e), 0);
	assert_string_equal(stream_addr_text(&addr, text), longest);
	longest[107] = 'a';
	longest[108] = '\0';
	assert_int_equal(stream_addr_unix(longest, &addr, &e), -EINVAL);

	assert_int_equal(stream_addr_resolve("127.0.0.1", "10809", addrs, 4, &e), 1);
	assert_string_equal(stream_addr_text(&addrs[0], text), "127.0.0.1:10809");
	assert_int_equal(stream_addr_resolve("::1", "1", addrs, 4, &e), 1);
	assert_string_equal(stream_addr_text(&addrs[0], text), "[::1]:1");
	assert_int_equal(stream_addr_resolve("no-such-host.invalid", "1", addrs, 4, &e),
			 -EHOSTUNREACH);
	assert_non_null(strstr(e.text, "cannot resolve host 'no-such-host.invalid'"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_send),
		cmocka_unit_test(test_receive),
		cmocka_unit_test(test_receive_direct),
		cmocka_unit_test(test_send_memory_that_is_gone),
		cmocka_unit_test(test_receive_into_memory_that_is_gone),
		cmocka_unit_test(test_carry_limit),
		cmocka_unit_test(test_peer_closes),
		cmocka_unit_test(test_close_in_data),
		cmocka_unit_test(test_close_while_sending),
		cmocka_unit_test(test_release_fd),
		cmocka_unit_test(test_connect),
		cmocka_unit_test(test_connect_timeout),
		cmocka_unit_test(test_close_while_connecting),
		cmocka_unit_test(test_addresses),
	};

	return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
