// SPDX-License-Identifier: MIT
/*
 * Fuzz target: a link to a server over several connections, each of which says
 * what the input says and then hangs up, until the last one is served rightly
 * in its handshake and says nothing more.
 *
 * Input: connections, separated by the byte 0xfe; each begins with a byte whose
 * lowest bit says whether a right handshake precedes the rest. Whatever is said,
 * each request comes back exactly once, if only because io_timeout is over.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "backend/nbd_link.h"
#include "base/log.h"

#define NREQUESTS	4
#define MAX_BYTES	4096
#define MAX_CONNECTIONS 6
#define SEPARATOR	0xfe

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct one {
	struct backend_request req;
	struct iovec iov;
	uint8_t data[4096];
	unsigned int finished;
};

struct run {
	struct loop *loop;
	struct one ones[NREQUESTS];
	unsigned int finished;
	int listener, peer;
	const uint8_t *p;
	size_t n;
	unsigned int connections;
	struct loop_timer pause;
};

static struct stream_addr address;

static void require(int ok)
{
	if (!ok)
		abort();
}

static void finished(void *owner, struct backend_request *req, int error)
{
	struct run *r = owner;
	struct one *one = container_of(req, struct one, req);

	require(error <= 0);
	require(++one->finished == 1);
	r->finished++;
}

static void say(struct run *r, const void *p, size_t n)
{
	if (n && send(r->peer, p, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		r->connections = MAX_CONNECTIONS;
}

/* 1 MiB with everything, structured replies. */
static void say_handshake(struct run *r)
{
	static const uint8_t greeting[] = "NBDMAGICIHAVEOPT\0\003";
	static const uint8_t rest[] =
		"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0"
		"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c"
		"\0\0\0\0\0\0\0\x10\0\0\x01\x6d"
		"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0";

	say(r, greeting, 18);
	say(r, rest, sizeof(rest) - 1);
}

/* The server: takes the next connection, says its piece, hangs up. */
static void serve(struct loop_timer *timer)
{
	struct run *r = container_of(timer, struct run, pause);
	const uint8_t *end;
	size_t n;

	loop_timer_arm(r->loop, timer, 0);
	if (r->peer >= 0) {
		close(r->peer);
		r->peer = -1;
	}
	if (r->finished == NREQUESTS || r->connections == MAX_CONNECTIONS) {
		loop_stop(r->loop);
		return;
	}
	r->peer = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (r->peer < 0)
		return;
	r->connections++;
	if (!r->n) {
		r->connections = MAX_CONNECTIONS;
		return;
	}
	end = memchr(r->p, SEPARATOR, r->n);
	n = end ? (size_t)(end - r->p) : r->n;
	if (n && r->p[0] & 1)
		say_handshake(r);
	if (n)
		say(r, r->p + 1, n - 1);
	r->p += n + (end != NULL);
	r->n -= n + (end != NULL);
}

static void prepare(struct run *r, unsigned int i, enum backend_op op, uint64_t length)
{
	struct one *one = &r->ones[i];

	one->iov = (struct iovec){ one->data, length };
	one->req = (struct backend_request){
		.op = op, .offset = i * 4096, .length = length, .iov = &one->iov, .niov = 1
	};
}

static int listen_somewhere(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct error e = ERROR_INIT;
	char name[32];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(name, sizeof(name), "@fuzz-nbd-link-%d", getpid());
	require(!stream_addr_unix(name, &address, &e));
	un = address.sa.un;
	require(fd >= 0 && !bind(fd, (void *)&un, address.len) && !listen(fd, 64));
	return fd;
}

static void converse(struct run *r)
{
	struct nbd_session s = {
		.naddrs = 1,
		.export_name = (char *)"",
		.nlinks = 1,
		.journaling = true,
		.block_size = 512,
		.promised = { .size = 1 << 20,
			      .flags = 0x16d,
			      .structured = true,
			      .min_block = 1,
			      .preferred_block = 4096,
			      .max_block = 1 << 20 },
		.tunables = { .connect_ms = 1000,
			      .handshake_ms = 1000,
			      .request_ms = 1000,
			      .keepalive_ms = BACKEND_NEVER,
			      .idle_ms = BACKEND_NEVER,
			      .io_timeout_ms = BACKEND_NEVER,
			      .reconnect_min_ms = 0,
			      .reconnect_max_ms = 0,
			      .fence_ms = 0 },
	};
	struct nbd_link_params params = {
		.session = &s, .depth = NREQUESTS, .finished = finished, .owner = r
	};
	struct error e = ERROR_INIT;
	struct nbd_link *link;
	int fds[2];

	s.addrs[0] = address;
	require(!nbd_session_init(&s, 65536));
	require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	require(!nbd_link_open(r->loop, &params, fds[0], &link, &e));
	r->peer = fds[1];
	for (int i = 0; i < NREQUESTS; i++)
		nbd_link_submit(link, &r->ones[i].req);
	r->pause.expired = serve;
	loop_timer_arm(r->loop, &r->pause, 0);
	require(!loop_run(r->loop));
	loop_timer_cancel(r->loop, &r->pause);

	/* What is left is given up, and nothing may be lost or come twice. */
	if (r->finished < NREQUESTS) {
		nbd_session_post(&s, r->loop, 0, NBD_ORDER_FAIL);
		while (r->finished < NREQUESTS) {
			loop_timer_arm(r->loop, &r->pause, 1);
			require(!loop_run(r->loop));
			loop_timer_cancel(r->loop, &r->pause);
		}
	}
	nbd_link_close(link);
	if (r->peer >= 0)
		close(r->peer);
	nbd_session_release(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct loop *loop;
	static int listener;
	struct loop_params lp = { .sq_entries = 32 };
	struct error e = ERROR_INIT;
	struct run r = { .peer = -1 };
	int fd;

	if (size > MAX_BYTES)
		return 0;
	if (!loop) {
		log_set_level(_LOG_LEVEL_INVALID);
		require(!loop_create(&lp, &loop, &e));
		listener = listen_somewhere();
	}
	r.loop = loop;
	r.listener = listener;
	r.p = data;
	r.n = size;
	prepare(&r, 0, BACKEND_READ, 4096);
	prepare(&r, 1, BACKEND_WRITE, 512);
	prepare(&r, 2, BACKEND_WRITE_ZEROES, 4096);
	prepare(&r, 3, BACKEND_FLUSH, 0);
	converse(&r);
	/* Connections that were begun and not taken belong to no next run. */
	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(fd);
	return 0;
}
