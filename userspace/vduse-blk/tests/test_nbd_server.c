// SPDX-License-Identifier: MIT
/*
 * The NBD client against servers that misbehave: each row is a script for the
 * server (see nbd_script.h) and what the client must make of it.
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
#include <sys/mman.h>

#include "backend/nbd_probe.h"
#include "base/log.h"
#include "nbd_script.h"

/* --- handshake --- */

struct handshake_row {
	const char *script;
	int ret;
	const char *text;
};

#define GREET  "greet flags opt:8 ack opt:7 "
#define EXPORT "info:1048576:1 "

static const struct handshake_row handshakes[] = {
	{ "x:00000000000000000000000000000000 x:0000 wait", -EPROTO, "this is no NBD server" },
	{ "x:485454502f312e3120343030204261642052 wait", -EPROTO, "wrong magic 0x485454502f312e31" },
	{ "x:4e42444d414749430000420281861253 zero:140 wait", -ENOTSUP, "oldstyle" },
	{ "x:4e42444d41474943ffffffffffffffff0003 wait", -EPROTO, "after the greeting" },
	{ "greet:0 wait", -ENOTSUP, "fixed newstyle" },
	{ "greet:2 wait", -ENOTSUP, "fixed newstyle" },
	/* Silence, and hanging up, in every state. */
	{ "close", -ECONNRESET, "closed the connection while the greeting was awaited" },
	{ "x:4e42444d close", -ECONNRESET, "while the greeting was awaited" },
	{ "x:4e42444d wait", -ETIMEDOUT, "no answer while the greeting was awaited" },
	{ "greet close", -ECONNRESET, "while structured replies were negotiated" },
	{ "greet wait", -ETIMEDOUT, "while structured replies were negotiated" },
	{ "greet flags opt:8 x:0003e889 close", -ECONNRESET, "while structured replies" },
	{ "greet flags opt:8 ack close", -ECONNRESET, "while the export was negotiated" },
	{ GREET "close", -ECONNRESET, "while the export was negotiated" },
	{ GREET "wait", -ETIMEDOUT, "while the export was negotiated" },
	{ GREET EXPORT "close", -ECONNRESET, "while the export was negotiated" },
	{ GREET "x:0003e889045565a900000007000000030000000c0000 close", -ECONNRESET,
	  "while the export was negotiated" },
	{ GREET "err:1 opt:1 close", -ECONNRESET, "while the export was awaited" },
	/* Errors in due form; the client says goodbye. */
	{ GREET "err:6 opt:2 ack close", -ENOENT, "server has no export 'disk'" },
	{ GREET "err:6:gone_fishing opt:2 close", -ENOENT, "no export 'disk': gone_fishing" },
	{ GREET "err:2 opt:2 close", -EACCES, "does not allow export 'disk'" },
	{ GREET "err:3 opt:2 wait", -EINVAL, "refuses export 'disk' (error 0x80000003)" },
	{ GREET "err:4 opt:2 wait", -EINVAL, "error 0x80000004" },
	{ GREET "err:5 opt:2 wait", -ENOTSUP, "insists on TLS" },
	{ GREET "err:7 opt:2 wait", -ESHUTDOWN, "shutting down" },
	{ GREET "err:8 opt:2 wait", -EINVAL, "error 0x80000008" },
	{ GREET "err:4660 opt:2 wait", -EINVAL, "error 0x80001234" },
	{ "greet flags opt:8 err:5 opt:2 wait", -ENOTSUP, "insists on TLS" },
	{ "greet flags opt:8 err:7 opt:2 wait", -ESHUTDOWN, "shutting down" },
	/* Violations. */
	{ "greet flags opt:8 x:ffffffffffffffff000000080000000100000000 wait", -EPROTO,
	  "wrong magic 0xffffffffffffffff in an option reply" },
	{ "greet flags opt:8 x:0003e889045565a9000000070000000100000000 wait", -EPROTO,
	  "answers option 7, asked was option 8" },
	{ "greet flags opt:8 rep:1:4 zero:4 wait", -EPROTO, "acknowledgement with 4 bytes" },
	{ "greet flags opt:8 rep:2:8 zero:8 wait", -EPROTO, "unexpected reply of type 2" },
	{ "greet flags opt:8 rep:3:12 zero:12 wait", -EPROTO, "unexpected reply of type 3" },
	{ "greet flags opt:8 rep:2147483649:4294967295 wait", -EPROTO, "too long (4294967295" },
	{ GREET "rep:1:100000 wait", -EPROTO, "too long (100000" },
	{ GREET "ack wait", -EPROTO, "without telling its size" },
	{ GREET "rep:4:4 zero:4 wait", -EPROTO, "unexpected reply of type 4" },
	{ GREET "rep:3:1 zero:1 wait", -EPROTO, "information reply is too short" },
	{ GREET "rep:3:0 wait", -EPROTO, "information reply is too short" },
	{ GREET "rep:3:8 zero:8 wait", -EPROTO, "has 8 bytes instead of 12" },
	{ GREET "rep:3:6 x:000300000000 wait", -EPROTO, "has 6 bytes instead of 14" },
	{ GREET "block:0:4096:65536 wait", -EPROTO, "minimum block size of 0" },
	{ GREET "block:3:4096:65536 wait", -EPROTO, "minimum block size of 3" },
	{ GREET "block:131072:131072:131072 wait", -EPROTO, "minimum block size of 131072" },
	{ GREET "block:512:1000:65536 wait", -EPROTO, "preferred block size of 1000" },
	{ GREET "block:4096:512:65536 wait", -EPROTO, "preferred block size of 512" },
	{ GREET "block:512:4096:65537 wait", -EPROTO, "maximum block size of 65537" },
	{ GREET "block:512:4096:0 wait", -EPROTO, "maximum block size of 0" },
	{ GREET EXPORT "ack x:00 wait", -EPROTO, "talks without being asked" },
	{ GREET "info:0x8000000000000000:1 ack wait", -EPROTO, "impossible size" },
	{ GREET "info:0xffffffffffffffff:1 ack wait", -EPROTO, "impossible size" },
	/* Valid, but no disk of ours. */
	{ GREET "info:0:1 ack wait", -EINVAL, "the size is zero" },
	{ GREET "info:1000:1 ack wait", -EINVAL, "not a multiple of the block size" },
	{ GREET "info:1048576:3 ack wait", -EROFS, "read-only (use --read-only)" },
	{ GREET "block:65536:65536:65536 info:1048576:1 ack wait", -EINVAL,
	  "needs blocks of 65536" },
};

static void check_handshake(const struct handshake_row *row)
{
	/* Long enough for a busy machine, except where it is waited for. */
	struct backend_options options = { .connect_timeout_ms =
						   row->ret == -ETIMEDOUT ? 1500 : 20000 };
	struct error e = ERROR_INIT;
	struct backend *backend;
	struct nbd_script s;
	int ret;

	assert_int_equal(nbd_script_start(&s, row->script), 0);
	ret = backend_open(s.uri, &options, &backend, &e);
	if (!ret)
		backend_close(backend);
	nbd_script_stop(&s);
	nbd_script_free(&s);
	if (ret != row->ret || !strstr(e.text, row->text))
		fail_msg("'%s': %d '%s', expected %d '%s'", row->script, ret, e.text, row->ret,
			 row->text);
	if (e.errnum != -ret || strchr(e.text, '\n'))
		fail_msg("'%s': errnum %d, '%s'", row->script, e.errnum, e.text);
	if (s.problem[0])
		fail_msg("'%s': %s", row->script, s.problem);
}

static void test_handshakes(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(handshakes); i++)
		check_handshake(&handshakes[i]);
}

/* Old, strange, talkative, but right. */
static const struct handshake_row good_handshakes[] = {
	{ GREET EXPORT "ack wait", 0, "structured" },
	{ "greet:1 flags opt:8 ack opt:7 " EXPORT "ack wait", 0, "structured" },
	{ "greet:65535 flags opt:8 ack opt:7 " EXPORT "ack wait", 0, "structured" },
	{ "greet flags opt:8 err:1 opt:7 " EXPORT "ack wait", 0, "simple" },
	{ "greet flags opt:8 err:2:no opt:7 " EXPORT "ack wait", 0, "simple" },
	/* Information that was not asked for, twice, in any order. */
	{ GREET "rep:3:6 x:000161626364 " EXPORT "rep:3:40 x:0002 zero:38 " EXPORT "ack wait", 0,
	  "structured" },
	{ GREET "block:1:512:4294967295 " EXPORT "ack wait", 0, "structured" },
	{ GREET "rep:3:100 x:7777 zero:98 " EXPORT "ack wait", 0, "structured" },
	/* NBD_OPT_GO is unknown: NBD_OPT_EXPORT_NAME, with and without its zeroes. */
	{ GREET "err:1 opt:1 x:00000000001000000001 wait", 0, "structured" },
	{ "greet:1 flags opt:8 err:1 opt:7 err:1 opt:1 x:00000000001000000001 zero:124 wait", 0,
	  "simple" },
};

static void test_good_handshakes(void **state)
{
	struct backend_options options = { .connect_timeout_ms = 20000 };
	struct error e = ERROR_INIT;
	struct backend *backend;
	struct nbd_script s;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good_handshakes); i++) {
		const struct handshake_row *row = &good_handshakes[i];

		assert_int_equal(nbd_script_start(&s, row->script), 0);
		if (backend_open(s.uri, &options, &backend, &e))
			fail_msg("'%s': %s", row->script, e.text);
		if (backend->info.size != 1048576 || !strstr(backend->info.description, row->text))
			fail_msg("'%s': %s", row->script, backend->info.description);
		backend_close(backend);
		nbd_script_stop(&s);
	nbd_script_free(&s);
		if (s.problem[0])
			fail_msg("'%s': %s", row->script, s.problem);
	}
}

/* --- transmission --- */

#define MAX_REQUESTS 8

struct row {
	const char *script;
	const char *requests;	  /* r, w, f, t or z, with offset and length */
	int errors[MAX_REQUESTS]; /* what each ends with */
	const char *log;	  /* must be logged; NULL: neither a warning nor an error is */
	size_t zeroes;		  /* bytes of the reads that are zero, for holes */
	/*
	 * The connection is lost, once, for this reason; the next one is
	 * served rightly, and no request fails for it.
	 */
	int lost; /* 1 + enum backend_loss, 0: it is not lost */
};

#define R4K		"r:0:4096"
#define LOST(why, text) { 0 }, text, 0, 1 + BACKEND_LOSS_##why

static const struct row rows[] = {
	/* Right answers. */
	{ "hs req data:0:0:4096:done disc", R4K, { 0 }, NULL, 0, 0 },
	{ "hs req data:0:0:4096 none:0:done disc", R4K, { 0 }, NULL, 0, 0 },
	{ "hs req hole:0:0:4096:done disc", R4K, { 0 }, NULL, 4096, 0 },
	{ "hs req data:0:0:512 hole:0:512:3072 data:0:3584:512:done disc", R4K, { 0 }, NULL, 3072, 0 },
	{ "hs req data:0:3584:512 data:0:0:512 hole:0:512:3072:done disc", R4K, { 0 }, NULL, 3072, 0 },
	{ "hs req data:0:1:1 data:0:3:1 data:0:0:1 data:0:2:1 data:0:4:4092:done disc",
	  R4K,
	  { 0 },
	  NULL,
	  0, 0 },
	{ "hs-simple req ok:0 payload:0:4096 disc", R4K, { 0 }, NULL, 0, 0 },
	{ "hs req req req none:2:done ok:1 data:0:0:4096:done disc",
	  R4K " w:8192:4096 f:0:0",
	  { 0 },
	  NULL,
	  0, 0 },
	{ "hs req req ok:0 none:1:done disc", "t:0:4096 z:4096:4096", { 0 }, NULL, 0, 0 },
	/* Chunks of two answers, interleaved. */
	{ "hs req req data:0:0:2048 data:1:0:1024 data:0:2048:2048:done hole:1:1024:3072:done disc",
	  R4K " r:65536:4096",
	  { 0 },
	  NULL,
	  3072, 0 },
	/* In place: large, after a header that came alone, and with neighbours behind it. */
	{ "hs req data:0:0:1048576:done disc", "r:0:1048576", { 0 }, NULL, 0, 0 },
	{ "hs-simple req ok:0 flush sleep:30 payload:0:262144 disc", "r:0:262144", { 0 }, NULL, 0, 0 },
	{ "hs req req data:0:0:262144:done data:1:0:262144:done disc",
	  "r:0:262144 r:262144:262144",
	  { 0 },
	  NULL,
	  0, 0 },
	/* A write is answered before its payload was read. */
	{ "hs head ok:0 flush sleep:50 rest disc", "w:0:1048576", { 0 }, NULL, 0, 0 },
	{ "hs head fail:0:28 flush sleep:50 rest disc", "w:0:1048576", { -ENOSPC }, "No space", 0, 0 },

	/* Errors fail their request, and only that. */
	{ "hs req req error:0:5:done data:1:0:4096:done disc",
	  R4K " r:4096:4096",
	  { -EIO, 0 },
	  "server reports: scripted",
	  0, 0 },
	{ "hs req error:0:28:done disc", "w:0:512", { -ENOSPC }, "No space", 0, 0 },
	{ "hs req error:0:1 none:0:done disc", "w:0:512", { -EPERM }, "not permitted", 0, 0 },
	{ "hs req erroff:0:5:100:done disc", R4K, { -EIO }, "scripted", 0, 0 },
	{ "hs req data:0:0:4096 erroff:0:5:4095 none:0:done disc", R4K, { -EIO }, "scripted", 0, 0 },
	{ "hs req data:0:0:512 error:0:12:done disc", R4K, { -ENOMEM }, "scripted", 0, 0 },
	{ "hs req error:0:22 data:0:0:4096:done disc", R4K, { -EINVAL }, "scripted", 0, 0 },
	{ "hs req error:0:12345:done disc", R4K, { -EIO }, "scripted", 0, 0 },
	{ "hs req echunk:0:65000:5:14 disc", R4K, { -EIO }, "failed", 0, 0 },
	{ "hs req echunk:0:32769:5:4000 disc", R4K, { -EIO }, "failed", 0, 0 },
	{ "hs-simple req fail:0:5 disc", R4K, { -EIO }, "failed", 0, 0 },
	{ "hs-simple req req fail:0:5 ok:1 payload:1:4096 disc",
	  R4K " r:4096:4096",
	  { -EIO, 0 },
	  "failed",
	  0, 0 },
	{ "hs req fail:0:95 disc", "f:0:0", { -ENOTSUP }, "not supported", 0, 0 },
	/* A server that shuts down is left, after the answers that it still gives. */
	{ "hs req req error:0:108:done sleep:20 ok:1 disc wait",
	  "f:0:0 w:0:512",
	  LOST(SHUTDOWN, "shutting down") },

	/* Cookies. */
	{ "hs req cookie:1 data:0:0:4096:done wait", R4K, LOST(BAD_COOKIE, "not in flight") },
	{ "hs req cookie:0x100000000 data:0:0:4096:done wait", R4K, LOST(BAD_COOKIE, "not in flight") },
	{ "hs req cookie:0xffffffffffffffff ok:0 wait", "f:0:0", LOST(BAD_COOKIE, "not in flight") },
	{ "hs req req ok:0 ok:0 wait", "f:0:0 w:0:512", LOST(BAD_COOKIE, "not in flight") },
	/* Magic, types, lengths. */
	{ "hs req x:deadbeef zero:16 wait", R4K, LOST(BAD_MAGIC, "wrong reply magic 0xdeadbeef") },
	{ "hs req zero:64 wait", R4K, LOST(BAD_MAGIC, "wrong reply magic 0x00000000") },
	{ "hs-simple req data:0:0:4096:done wait", R4K, LOST(BAD_HEADER, "that was not negotiated") },
	{ "hs req ok:0 payload:0:4096 wait", R4K, LOST(BAD_CHUNK, "though structured replies") },
	{ "hs req fail:0:5 wait", R4K, LOST(BAD_CHUNK, "though structured replies") },
	{ "hs req error:0:5 ok:0 wait", "w:0:512", LOST(BAD_CHUNK, "after a chunk") },
	{ "hs req chunk:0:3:1:0 wait", R4K, LOST(BAD_HEADER, "unknown chunk type 3") },
	{ "hs req chunk:0:5:1:12 wait", R4K, LOST(BAD_HEADER, "unknown chunk type 5") },
	{ "hs req none:0 wait", "f:0:0", LOST(BAD_HEADER, "not the last") },
	{ "hs req chunk:0:0:1:4 wait", "f:0:0", LOST(BAD_HEADER, "empty chunk with 4 bytes") },
	{ "hs req chunk:0:1:1:8 wait", R4K, LOST(BAD_HEADER, "data chunk is too short") },
	{ "hs req chunk:0:1:1:0 wait", R4K, LOST(BAD_HEADER, "data chunk is too short") },
	{ "hs req chunk:0:1:1:4294967295 wait", R4K, LOST(BAD_CHUNK, "outside its request") },
	{ "hs req chunk:0:2:1:11 wait", R4K, LOST(BAD_HEADER, "hole chunk has a wrong length") },
	{ "hs req chunk:0:2:1:12 wait", R4K, LOST(BAD_HEADER, "hole chunk of zero bytes") },
	{ "hs req chunk:0:32769:1:5 wait", R4K, LOST(BAD_HEADER, "too short (5 bytes)") },
	{ "hs req chunk:0:32769:1:6 wait", R4K, LOST(BAD_HEADER, "without an error") },
	{ "hs req chunk:0:32769:1:100000 wait", R4K, LOST(BAD_HEADER, "too long (100000") },
	{ "hs req chunk:0:32769:1:4294967295 wait", R4K, LOST(BAD_HEADER, "too long") },
	{ "hs req chunk:0:32770:1:13 wait", R4K, LOST(BAD_HEADER, "too short (13 bytes)") },
	/* Ranges. */
	{ "hs req data:0:0:4097:done wait", R4K, LOST(BAD_CHUNK, "outside its request") },
	{ "hs req data:0:4096:1:done wait", R4K, LOST(BAD_CHUNK, "outside its request") },
	{ "hs req data:0:-1:2:done wait", "r:4096:4096", LOST(BAD_CHUNK, "outside its request") },
	{ "hs req hole:0:0:8192:done wait", R4K, LOST(BAD_CHUNK, "outside its request") },
	{ "hs req hole:0:4095:2:done wait", R4K, LOST(BAD_CHUNK, "outside its request") },
	{ "hs req data:0:0:4096:done wait", "w:0:4096", LOST(BAD_CHUNK, "no read") },
	{ "hs req hole:0:0:4096:done wait", "t:0:4096", LOST(BAD_CHUNK, "no read") },
	{ "hs req data:0:0:1024 data:0:1023:1024:done wait", R4K, LOST(BAD_CHUNK, "overlap") },
	{ "hs req data:0:0:4096 hole:0:0:4096:done wait", R4K, LOST(BAD_CHUNK, "overlap") },
	{ "hs req data:0:1024:1024 data:0:0:1025:done wait", R4K, LOST(BAD_CHUNK, "overlap") },
	{ "hs req data:0:0:2048 data:0:0:2048:done wait", R4K, LOST(BAD_CHUNK, "overlap") },
	{ "hs req data:0:0:2048:done wait", R4K, LOST(BAD_LENGTH, "success with 2048 of 4096 bytes") },
	{ "hs req none:0:done wait", R4K, LOST(BAD_LENGTH, "success with 0 of 4096 bytes") },
	{ "hs req erroff:0:5:4096:done wait", R4K, LOST(BAD_CHUNK, "error at offset") },
	/* Hanging up. */
	{ "hs req close", R4K, LOST(CLOSED, "server closed the connection (1 requests") },
	{ "hs req req req close",
	  R4K " w:0:512 f:0:0",
	  LOST(CLOSED, "server closed the connection (3 requests") },
	{ "hs req x:668e close", R4K, LOST(CLOSED, "closed the connection") },
	{ "hs req data:0:0:2048 close", R4K, LOST(CLOSED, "closed the connection") },
	{ "hs-simple req ok:0 payload:0:100 close", R4K, LOST(CLOSED, "closed the connection") },
	{ "hs-simple req ok:0 payload:0:100000 close", "r:0:1048576", LOST(CLOSED, "closed the connection") },
	{ "hs req chunk:0:32769:1:20 close", R4K, LOST(BAD_HEADER, "without an error") },
	{ "hs head close", "w:0:1048576", LOST(CLOSED, "") },
	/* Words after the end. */
	{ "hs req ok:0 zero:16 wait", "w:0:512", LOST(BAD_MAGIC, "wrong reply magic") },
};

struct io {
	struct backend_request req;
	struct iovec iov;
	struct client *client;
	int error;
	unsigned int done;
};

struct client {
	struct loop *loop;
	struct backend *backend;
	struct backend_queue *q;
	struct loop_timer timer;
	struct io io[MAX_REQUESTS];
	unsigned int n, finished;
	bool timed_out;
};

static void io_done(struct backend_request *req, int error)
{
	struct io *io = container_of(req, struct io, req);

	io->error = error;
	io->done++;
	if (++io->client->finished == io->client->n)
		loop_stop(io->client->loop);
}

static void out_of_patience(struct loop_timer *timer)
{
	struct client *c = container_of(timer, struct client, timer);

	c->timed_out = true;
	loop_stop(c->loop);
}

/* The stream may live a little longer than the last request: let it say its last words. */
static void linger(struct client *c, unsigned int ms)
{
	c->timer.expired = out_of_patience;
	loop_timer_arm(c->loop, &c->timer, ms);
	assert_int_equal(loop_run(c->loop), 0);
	loop_timer_cancel(c->loop, &c->timer);
}

static void parse_requests(struct client *c, const char *text)
{
	static const struct {
		char letter;
		enum backend_op op;
	} ops[] = { { 'r', BACKEND_READ },
		    { 'w', BACKEND_WRITE },
		    { 'f', BACKEND_FLUSH },
		    { 't', BACKEND_DISCARD },
		    { 'z', BACKEND_WRITE_ZEROES } };
	unsigned long offset, length;
	char letter;
	int used;

	while (sscanf(text, " %c:%lu:%lu%n", &letter, &offset, &length, &used) == 3) {
		struct io *io = &c->io[c->n++];

		for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
			if (ops[i].letter == letter)
				io->req.op = ops[i].op;
		io->client = c;
		io->iov.iov_len = length;
		io->iov.iov_base = malloc(length + 1);
		memset(io->iov.iov_base, 0xee, length + 1);
		io->req.offset = offset;
		io->req.length = length;
		io->req.iov = &io->iov;
		io->req.niov = 1;
		io->req.done = io_done;
		text += used;
	}
}

/* Each byte is the pattern's or, in a hole, zero. Returns how many are zero but should not. */
static size_t check_content(const struct row *row, const struct io *io)
{
	const uint8_t *p = io->iov.iov_base;
	size_t zeroes = 0;

	for (size_t i = 0; i < io->iov.iov_len; i++) {
		uint8_t want = nbd_script_byte(io->req.offset + i);

		if (p[i] == want)
			zeroes += !want; /* cannot be told apart; see check_row() */
		else if (p[i])
			fail_msg("'%s': byte %zu is 0x%02x", row->script, i, p[i]);
		else
			zeroes++;
	}
	if (p[io->iov.iov_len] != 0xee)
		fail_msg("'%s': byte behind the buffer was written", row->script);
	return zeroes;
}

/* Zero bytes of the pattern outside holes are known; holes may cover some of them. */
static size_t pattern_zeroes(const struct io *io)
{
	size_t n = 0;

	for (size_t i = 0; i < io->iov.iov_len; i++)
		n += !nbd_script_byte(io->req.offset + i);
	return n;
}

static void check_results(const struct row *row, struct client *c)
{
	size_t zeroes = 0, natural = 0;

	for (unsigned int i = 0; i < c->n; i++) {
		struct io *io = &c->io[i];

		if (io->done != 1 || io->error != row->errors[i])
			fail_msg("'%s': request %u ended %u times, with %d, expected %d",
				 row->script, i, io->done, io->error, row->errors[i]);
		if (io->req.op == BACKEND_READ && !io->error) {
			zeroes += check_content(row, io);
			natural += pattern_zeroes(io);
		}
	}
	if (zeroes < row->zeroes || zeroes > row->zeroes + natural)
		fail_msg("'%s': %zu zero bytes, expected %zu", row->script, zeroes, row->zeroes);
}

/* What is logged between the two calls, as text. */
static int log_begin(int *ret_memfd)
{
	int saved = dup(STDERR_FILENO);

	*ret_memfd = memfd_create("log", MFD_CLOEXEC);
	assert_true(saved >= 0 && *ret_memfd >= 0);
	fflush(stderr);
	dup2(*ret_memfd, STDERR_FILENO);
	return saved;
}

static void log_end(int saved, int memfd, char *text, size_t size)
{
	ssize_t n;

	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
	n = pread(memfd, text, size - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	close(memfd);
}

static void run_client(struct client *c, const struct row *row, const char *uri)
{
	struct backend_options options = { .connect_timeout_ms = 20000, .replay_log = 8 << 20 };
	struct loop_params lp = { 0 };
	struct error e = ERROR_INIT;

	if (backend_open(uri, &options, &c->backend, &e) < 0 ||
	    loop_create(&lp, &c->loop, &e) < 0 ||
	    backend_queue_create(c->backend, c->loop, 0, &c->q, &e) < 0)
		fail_msg("'%s': %s", row->script, e.text);
	parse_requests(c, row->requests);
	for (unsigned int i = 0; i < c->n; i++) {
		backend_submit(c->q, &c->io[i].req);
		assert_int_equal(c->finished, 0);
	}
	linger(c, 20000);
	if (c->timed_out)
		fail_msg("'%s': %u of %u requests came back", row->script, c->finished, c->n);
	/* A connection that was given up has to be gone; others stay. */
	if (row->log)
		linger(c, 60);
}

static void end_client(struct client *c)
{
	backend_queue_destroy(c->q);
	loop_destroy(c->loop);
	backend_close(c->backend);
	for (unsigned int i = 0; i < c->n; i++)
		free(c->io[i].iov.iov_base);
}

/* It was lost once, for the reason that was given, and is there again. */
static void check_loss(const struct row *row, struct client *c)
{
	struct backend_link_stats stats;

	assert_int_equal(backend_link_stats(c->backend, 0, &stats), 0);
	for (int i = 0; i < _BACKEND_LOSS_MAX; i++) {
		unsigned int want = i + 1 == row->lost;

		if (stats.losses[i] != want)
			fail_msg("'%s': %u losses of kind '%s', expected %u", row->script,
				 (unsigned int)stats.losses[i], backend_loss_name(i), want);
	}
	assert_string_equal(stats.state, "ready");
	assert_int_equal(stats.connects, 1 + (row->lost != 0));
	assert_int_equal(stats.requests, c->n);
	assert_int_equal(stats.in_flight, 0);
	assert_int_equal(stats.waiting, 0);
}

static void check_row(const struct row *row)
{
	struct client c = { 0 };
	struct nbd_script s;
	char log[8192], script[1024];
	int saved, memfd;

	snprintf(script, sizeof(script), "%s%s", row->script, row->lost ? " | hs serve" : "");
	assert_int_equal(nbd_script_start(&s, script), 0);
	saved = log_begin(&memfd);
	run_client(&c, row, s.uri);
	log_end(saved, memfd, log, sizeof(log));
	check_results(row, &c);
	check_loss(row, &c);
	end_client(&c);
	nbd_script_stop(&s);
	nbd_script_free(&s);
	/* One that is asked to wait for the end of a connection that is cut has seen it. */
	if (s.problem[0])
		fail_msg("'%s': %s", row->script, s.problem);
	if (!row->log && (strstr(log, "error: ") || strstr(log, "warning: ")))
		fail_msg("'%s': logged '%s'", row->script, log);
	if (row->log && !strstr(log, row->log))
		fail_msg("'%s': logged '%s', expected '%s'", row->script, log, row->log);
}

static void test_transmission(void **state)
{
	(void)state;
	/* At this level nothing is dropped because the table says it too often. */
	log_set_level(LOG_LEVEL_DEBUG);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		check_row(&rows[i]);
	log_set_level(LOG_LEVEL_INFO);
}

/* Every connection dies before it answers: it is tried again, and in the end all is well. */
static void test_after_death(void **state)
{
	struct row row = { .script = "hs req close | hs req close | greet close | close |"
				     " hs req data:2:0:2048 close | hs serve",
			   .requests = R4K };
	struct backend_link_stats stats;
	struct client c = { 0 };
	struct nbd_script s;

	(void)state;
	assert_int_equal(nbd_script_start(&s, row.script), 0);
	run_client(&c, &row, s.uri);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(c.io[0].done, 1);
		assert_int_equal(c.io[0].error, 0);
		c.io[0].done = 0;
		c.finished = 0;
		backend_submit(c.q, &c.io[0].req);
		assert_int_equal(c.io[0].done, 0);
		assert_int_equal(loop_run(c.loop), 0);
	}
	check_content(&row, &c.io[0]);
	assert_int_equal(backend_link_stats(c.backend, 0, &stats), 0);
	assert_int_equal(stats.losses[BACKEND_LOSS_CLOSED], 5);
	assert_int_equal(stats.attempts, 5);
	assert_int_equal(stats.connects, 4);
	assert_int_equal(stats.resubmitted, 3);
	assert_int_equal(stats.requests, 4);
	assert_int_equal(stats.errors, 0);
	end_client(&c);
	nbd_script_stop(&s);
	nbd_script_free(&s);
	assert_string_equal(s.problem, "");
	assert_int_equal(s.connections, 6);
}

/* The connection of open() has died before queue 0 takes it over: a new one is made. */
static void test_spare_died(void **state)
{
	struct backend_options options = { .connect_timeout_ms = 20000 };
	struct loop_params lp = { 0 };
	struct error e = ERROR_INIT;
	struct backend *backend;
	struct backend_queue *q;
	struct loop *loop;
	struct nbd_script s;

	(void)state;
	assert_int_equal(nbd_script_start(&s, "hs close"), 0);
	assert_int_equal(backend_open(s.uri, &options, &backend, &e), 0);
	assert_int_equal(loop_create(&lp, &loop, &e), 0);
	usleep(50000);
	/* Nobody accepts a second connection, so taking the first over would be seen as success. */
	assert_int_equal(shutdown(s.listener, SHUT_RDWR), 0);
	assert_int_equal(backend_queue_create(backend, loop, 0, &q, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.text, "cannot connect to nbd server"));
	loop_destroy(loop);
	backend_close(backend);
	nbd_script_stop(&s);
	nbd_script_free(&s);
}

/* --- system calls --- */

#define BATCH 32

struct counting {
	struct backend_request req[BATCH];
	struct iovec iov[BATCH];
	struct loop *loop;
	unsigned int finished;
	unsigned int ended;
};

static void counted(void *owner, struct backend_request *req, int error)
{
	struct counting *c = owner;

	(void)req;
	assert_int_equal(error, 0);
	if (++c->finished == BATCH)
		loop_stop(c->loop);
}

static void counting_ended(void *owner, const struct nbd_conn_end *end)
{
	struct counting *c = owner;

	assert_true(end->wanted);
	assert_null(end->unanswered);
	c->ended++;
	loop_stop(c->loop);
}

static void never(void *owner)
{
	(void)owner;
	fail();
}

static const struct nbd_conn_ops counting_ops = {
	.opened = never,
	.finished = counted,
	.ended = counting_ended,
};

/* A batch of requests is one send operation; many answers are one receive operation. */
static void test_batch(void **state)
{
	static uint8_t memory[BATCH][4096];
	char script[BATCH * 32] = "hs";
	struct counting c = { 0 };
	struct stream_stats stats = { 0 }, sent;
	struct nbd_conn_params params = { .export_name = "disk",
					  .depth = BATCH,
					  .ops = &counting_ops,
					  .owner = &c,
					  .stats = &stats };
	struct loop_params lp = { 0 };
	struct loop_stats before, after;
	struct error e = ERROR_INIT;
	struct nbd_export export;
	struct nbd_conn *conn;
	struct stream_addr addr;
	struct nbd_script s;
	int fd;

	(void)state;
	for (int i = 0; i < BATCH; i++)
		strcat(script, " req");
	/* So that the answers are there, all of them, before the client looks. */
	for (int i = 0; i < BATCH; i++)
		sprintf(script + strlen(script), " data:%d:0:4096:done", i);
	strcat(script, " disc");
	assert_int_equal(nbd_script_start(&s, script), 0);
	assert_int_equal(stream_addr_unix(strchr(s.uri, '=') + 1, &addr, &e), 0);
	fd = nbd_probe(&addr, 1, "disk", 20000, &export, &e);
	assert_true(fd >= 0);
	assert_int_equal(loop_create(&lp, &c.loop, &e), 0);
	assert_int_equal(nbd_conn_create(c.loop, &params, &conn, &e), 0);
	nbd_conn_adopt(conn, fd, &addr, &export);

	before = *loop_stats(c.loop);
	sent = stats;
	for (unsigned int i = 0; i < BATCH; i++) {
		c.iov[i] = (struct iovec){ memory[i], 4096 };
		c.req[i] = (struct backend_request){ .op = BACKEND_READ,
						     .offset = i * 4096,
						     .length = 4096,
						     .iov = &c.iov[i],
						     .niov = 1 };
		nbd_conn_submit(conn, &c.req[i]);
	}
	assert_int_equal(loop_run(c.loop), 0);
	after = *loop_stats(c.loop);
	assert_int_equal(stats.sends - sent.sends, 1);
	assert_int_equal(stats.bytes_sent - sent.bytes_sent, BATCH * 28);
	/* The kernel passes on 32 KiB pieces of a UNIX socket's data as they come. */
	assert_in_range(stats.recvs - sent.recvs, 1, 6);
	assert_in_range(after.enters - before.enters, 1, 8);
	print_message("%u reads: 1 send, %u receives, %u system calls\n", BATCH,
		      (unsigned int)(stats.recvs - sent.recvs),
		      (unsigned int)(after.enters - before.enters));
	nbd_conn_close(conn);
	assert_int_equal(loop_run(c.loop), 0);
	assert_int_equal(c.ended, 1);
	nbd_conn_destroy(conn);
	loop_destroy(c.loop);
	nbd_script_stop(&s);
	nbd_script_free(&s);
	assert_string_equal(s.problem, "");
}

/* --- two ends --- */

struct refused {
	struct loop *loop;
	struct loop_timer trouble, deadline;
	struct nbd_conn *conn;
	int fd;
	unsigned int ended;
};

static void refused_ended(void *owner, const struct nbd_conn_end *end)
{
	struct refused *r = owner;

	r->ended++;
	assert_false(end->wanted);
	assert_int_equal(end->loss, BACKEND_LOSS_NETWORK);
	assert_int_equal(end->fd, -1);
	assert_non_null(strstr(end->error.text, strerror(ECONNREFUSED)));
	loop_stop(r->loop);
}

static const struct nbd_conn_ops refused_ops = { .opened = never, .ended = refused_ended };

/* When this returns, the socket has failed and the deadline has passed; the loop sees both. */
static void cause_trouble(struct loop_timer *timer)
{
	struct refused *r = container_of(timer, struct refused, trouble);
	struct pollfd p = { .fd = r->fd };

	loop_timer_arm(r->loop, &r->deadline, 1);
	assert_int_equal(send(r->fd, "", 1, 0), 1);
	assert_int_equal(poll(&p, 1, 20000), 1);
	usleep(10000);
}

static void deadline_expired(struct loop_timer *timer)
{
	struct refused *r = container_of(timer, struct refused, deadline);

	assert_int_equal(r->ended, 0);
	nbd_conn_cut(r->conn, BACKEND_LOSS_REQUEST, ETIMEDOUT);
}

/* A datagram socket whose peer has gone: the only one that fails at once like a network. */
static int socket_that_fails(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int peer = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(in);

	assert_true(peer >= 0 && fd >= 0);
	assert_int_equal(bind(peer, (void *)&in, len), 0);
	assert_int_equal(getsockname(peer, (void *)&in, &len), 0);
	assert_int_equal(connect(fd, (void *)&in, len), 0);
	close(peer);
	return fd;
}

/*
 * The network fails, and before that is through a request's time is over: it is the
 * network that has ended the connection. Who cuts it would say that the peer has closed.
 */
static void test_cut_after_the_end(void **state)
{
	const struct nbd_export export = { .size = 4096, .min_block = 1, .max_block = 4096 };
	const struct stream_addr addr = { .len = sizeof(sa_family_t),
					  .sa.any.sa_family = AF_UNIX };
	struct refused r = { .trouble.expired = cause_trouble,
			     .deadline.expired = deadline_expired,
			     .fd = socket_that_fails() };
	struct nbd_conn_params params = { .export_name = "disk",
					  .depth = 1,
					  .ops = &refused_ops,
					  .owner = &r };
	struct loop_params lp = { 0 };
	struct error e = ERROR_INIT;

	(void)state;
	assert_int_equal(loop_create(&lp, &r.loop, &e), 0);
	assert_int_equal(nbd_conn_create(r.loop, &params, &r.conn, &e), 0);
	nbd_conn_adopt(r.conn, r.fd, &addr, &export);
	loop_timer_arm(r.loop, &r.trouble, 10);
	assert_int_equal(loop_run(r.loop), 0);
	assert_int_equal(r.ended, 1);
	nbd_conn_destroy(r.conn);
	loop_destroy(r.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_handshakes),   cmocka_unit_test(test_good_handshakes),
		cmocka_unit_test(test_transmission), cmocka_unit_test(test_after_death),
		cmocka_unit_test(test_spare_died),   cmocka_unit_test(test_batch),
		cmocka_unit_test(test_cut_after_the_end),
	};

	return cmocka_run_group_tests_name("nbd_server", tests, NULL, NULL);
}
