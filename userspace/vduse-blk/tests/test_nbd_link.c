// SPDX-License-Identifier: MIT
/*
 * What becomes of requests when connections are lost: scripted servers
 * (nbd_script.h) that lose them in every way, and nbdkit where a real server is
 * the point. One thread and one loop are main thread and queues at once, so the
 * order of events is known; time limits are short, but only counts and results
 * are asserted.
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
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "backend/backend.h"
#include "backend/nbd_journal.h"
#include "backend/nbd_link_internal.h"
#include "base/clock.h"
#include "nbd_script.h"
#include "nbdkit.h"

#define PATIENCE_MS 20000
#define MAX_IO	    8
#define BLOCK	    4096

struct rig;

struct io {
	struct backend_request req;
	struct iovec iov;
	uint8_t data[BLOCK];
	int error;
	unsigned int done;
};

struct rig {
	struct loop *loop;
	struct backend *backend;
	struct backend_queue *q[3];
	struct nbd_script s;
	struct loop_timer timer;
	struct backend_options options;
	struct io io[MAX_IO];
	unsigned int changes[_BACKEND_CHANGE_MAX];
	unsigned int refreshed;
	int refresh_error; /* of the last one */
	bool scripted;
};

static void changed(void *opaque, const struct backend_info *now, enum backend_change what)
{
	struct rig *r = opaque;

	assert_ptr_equal(now, &r->backend->info);
	r->changes[what]++;
}

static void refreshed(void *opaque, int error)
{
	struct rig *r = opaque;

	r->refreshed++;
	r->refresh_error = error;
}

static void tick(struct loop_timer *timer)
{
	loop_stop(container_of(timer, struct rig, timer)->loop);
}

static void turn(struct rig *r, unsigned int ms)
{
	r->timer.expired = tick;
	loop_timer_arm(r->loop, &r->timer, ms);
	assert_int_equal(loop_run(r->loop), 0);
	loop_timer_cancel(r->loop, &r->timer);
}

#define wait_for(r, condition)                                            \
	do {                                                              \
		for (int ms_ = 0; !(condition); ms_ += 5) {               \
			if (ms_ > PATIENCE_MS)                            \
				fail_msg("in vain: %s", #condition);      \
			turn(r, 5);                                       \
		}                                                         \
	} while (0)

static struct rig *open_rig(const char *uri, const struct backend_options *options)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct loop_params lp = { 0 };
	struct error e = ERROR_INIT;

	assert_non_null(r);
	assert_int_equal(loop_create(&lp, &r->loop, &e), 0);
	r->options = *options;
	r->options.events = (struct backend_events){ r->loop, changed, refreshed, r };
	if (!r->options.queues)
		r->options.queues = 1;
	if (uri && backend_open(uri, &r->options, &r->backend, &e))
		fail_msg("%s", e.text);
	return r;
}

static void create_queues(struct rig *r)
{
	struct error e = ERROR_INIT;

	for (unsigned int i = 0; i < r->options.queues; i++)
		if (backend_queue_create(r->backend, r->loop, i, &r->q[i], &e))
			fail_msg("%s", e.text);
}

static struct rig *start(const char *script, const struct backend_options *options)
{
	struct rig *r = open_rig(NULL, options);
	struct error e = ERROR_INIT;

	assert_int_equal(nbd_script_start(&r->s, script), 0);
	r->scripted = true;
	if (backend_open(r->s.uri, &r->options, &r->backend, &e))
		fail_msg("%s", e.text);
	create_queues(r);
	return r;
}

static void end(struct rig *r)
{
	for (unsigned int i = r->options.queues; i-- > 0;)
		backend_queue_destroy(r->q[i]);
	backend_close(r->backend);
	loop_destroy(r->loop);
	if (r->scripted) {
		nbd_script_stop(&r->s);
		if (r->s.problem[0])
			fail_msg("%s", r->s.problem);
		nbd_script_free(&r->s);
	}
	free(r);
}

static void io_done(struct backend_request *req, int error)
{
	struct io *io = container_of(req, struct io, req);

	io->error = error;
	io->done++;
}

static struct io *submit_on(struct rig *r, unsigned int queue, unsigned int slot,
			    enum backend_op op, uint64_t offset, uint8_t byte, uint32_t flags)
{
	struct io *io = &r->io[slot];

	io->done = 0;
	io->error = 1;
	if (op == BACKEND_WRITE)
		memset(io->data, byte, BLOCK);
	io->iov = (struct iovec){ io->data, BLOCK };
	io->req = (struct backend_request){ .op = op,
					    .flags = flags,
					    .offset = offset,
					    .length = op == BACKEND_FLUSH ? 0 : BLOCK,
					    .iov = &io->iov,
					    .niov = 1,
					    .done = io_done };
	backend_submit(r->q[queue], &io->req);
	assert_int_equal(io->done, 0);
	return io;
}

static struct io *submit(struct rig *r, unsigned int slot, enum backend_op op, uint64_t offset,
			 uint8_t byte)
{
	return submit_on(r, 0, slot, op, offset, byte, 0);
}

static int finish(struct rig *r, struct io *io)
{
	wait_for(r, io->done);
	assert_int_equal(io->done, 1);
	return io->error;
}

static int run(struct rig *r, enum backend_op op, uint64_t offset, uint8_t byte)
{
	return finish(r, submit(r, MAX_IO - 1, op, offset, byte));
}

static struct backend_link_stats stats_of_link(struct rig *r, unsigned int index)
{
	struct backend_link_stats stats;

	assert_int_equal(backend_link_stats(r->backend, index, &stats), 0);
	return stats;
}

static struct backend_link_stats stats_of(struct rig *r)
{
	return stats_of_link(r, 0);
}

static unsigned int losses(struct rig *r, enum backend_loss why)
{
	return (unsigned int)stats_of(r).losses[why];
}

static void assert_disk(struct rig *r, uint64_t offset, uint8_t byte)
{
	for (unsigned int i = 0; i < BLOCK; i++)
		if (r->s.disk[offset + i] != byte)
			fail_msg("byte %u is 0x%02x, expected 0x%02x", i, r->s.disk[offset + i],
				 byte);
}

/* --- time limits --- */

static const struct backend_options short_request = { .tunables = { .request_ms = 100,
								    .fence_closed_ms = 1 },
						      .replay_log = 1 << 20 };

static void test_request_timeout(void **state)
{
	struct rig *r = start("hs req wait | hs serve", &short_request);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(losses(r, BACKEND_LOSS_REQUEST), 1);
	assert_int_equal(stats_of(r).resubmitted, 1);
	assert_int_equal(r->changes[BACKEND_LOST], 1);
	wait_for(r, r->changes[BACKEND_RESTORED]);
	assert_int_equal(r->changes[BACKEND_RESTORED], 1);
	end(r);
}

/* The limit is doubled until something is answered, so a slow server is not cut for ever. */
static void test_patience(void **state)
{
	struct rig *r = start("hs req wait | hs req wait | hs req sleep:250 data:2:0:4096:done serve",
			      &short_request);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(losses(r, BACKEND_LOSS_REQUEST), 2);
	assert_int_equal(stats_of(r).connects, 3);
	end(r);
}

static void test_tunables_while_waiting(void **state)
{
	const struct backend_options never = { .tunables = { .request_ms = BACKEND_NEVER } };
	struct rig *r = start("hs req wait | hs serve", &never);
	struct backend_tunables t = r->backend->options.tunables;
	struct io *io = submit(r, 0, BACKEND_READ, 0, 0);

	(void)state;
	turn(r, 100);
	assert_int_equal(io->done, 0);
	t.request_ms = 50;
	backend_set_tunables(r->backend, &t);
	assert_int_equal(finish(r, io), 0);
	assert_int_equal(losses(r, BACKEND_LOSS_REQUEST), 1);
	end(r);
}

/* Doubled from the shortest to the longest one, less at most a quarter, which varies. */
static void test_pauses(void **state)
{
	const struct backend_tunables t = { .reconnect_min_ms = 100, .reconnect_max_ms = 1000 };
	static const struct {
		unsigned int attempts;
		uint16_t random;
		uint32_t ms;
	} cases[] = {
		{ 1, 0, 100 },	    { 2, 0, 200 },	    { 4, 0, 800 },
		{ 5, 0, 1000 },	    { 1000000, 0, 1000 },   { 1, 32768, 88 },
		{ 1, 65535, 76 },   { 4, 65535, 601 },	    { 5, 32768, 875 },
		{ 1000000, 65535, 751 },
	};
	struct backend_tunables longest = { .reconnect_min_ms = UINT32_MAX,
					    .reconnect_max_ms = UINT32_MAX };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(nbd_link_pause_ms(&t, cases[i].attempts, cases[i].random),
				 cases[i].ms);
	assert_int_equal(nbd_link_pause_ms(&longest, 100, 0), UINT32_MAX);
}

/* Until the backlog is full: who comes next is neither accepted nor refused. */
static unsigned int fill_backlog(int listener, int *fds, unsigned int max)
{
	struct sockaddr_un un;
	socklen_t len = sizeof(un);

	assert_int_equal(getsockname(listener, (void *)&un, &len), 0);
	for (unsigned int n = 0; n < max; n++) {
		fds[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		assert_true(fds[n] >= 0);
		if (connect(fds[n], (void *)&un, len)) {
			assert_int_equal(errno, EAGAIN);
			close(fds[n]);
			return n;
		}
	}
	fail_msg("%u connections, and there is room yet", max);
	return 0;
}

static void test_connect_timeout(void **state)
{
	const struct backend_options options = { .tunables = { .request_ms = 200,
							       .connect_ms = 50,
							       .reconnect_min_ms = 1,
							       .reconnect_max_ms = 10 } };
	struct rig *r = start("hs req sleep:700 | refuse:5 hs serve", &options);
	struct io *io = submit(r, 0, BACKEND_READ, 0, 0);
	int fillers[8];
	unsigned int n = fill_backlog(r->s.listener, fillers, ARRAY_SIZE(fillers));

	(void)state;
	assert_int_equal(n, 5);
	assert_int_equal(finish(r, io), 0);
	assert_true(losses(r, BACKEND_LOSS_TIMEOUT) > 0);
	assert_int_equal(losses(r, BACKEND_LOSS_REQUEST), 1);
	assert_int_equal(stats_of(r).connects, 2);
	while (n > 0)
		close(fillers[--n]);
	end(r);
}

/* A pause, and a handshake, that would take an hour end when they are made shorter. */
static void test_tunables_in_other_states(void **state)
{
	const struct backend_options slow = { .tunables = { .reconnect_min_ms = 3600000,
							    .reconnect_max_ms = 3600000,
							    .handshake_ms = 3600000 } };
	struct rig *r = start("hs req close | greet close | greet wait | hs serve", &slow);
	struct backend_tunables t = r->backend->options.tunables;
	struct io *io = submit(r, 0, BACKEND_READ, 0, 0);

	(void)state;
	wait_for(r, !strcmp(stats_of(r).state, "backoff"));
	t.reconnect_min_ms = 10;
	t.reconnect_max_ms = 20;
	backend_set_tunables(r->backend, &t);
	wait_for(r, !strcmp(stats_of(r).state, "handshake"));
	turn(r, 50);
	assert_string_equal(stats_of(r).state, "handshake");
	t.handshake_ms = 20;
	backend_set_tunables(r->backend, &t);
	assert_int_equal(finish(r, io), 0);
	assert_int_equal(losses(r, BACKEND_LOSS_TIMEOUT), 1);
	assert_int_equal(losses(r, BACKEND_LOSS_CLOSED), 2);
	end(r);
}

static void test_io_timeout(void **state)
{
	const struct backend_options limited = { .tunables = { .io_timeout_ms = 150,
							       .reconnect_min_ms = 2000 } };
	struct rig *r = start("hs req close | close | hs serve", &limited);
	struct io *io = submit(r, 0, BACKEND_READ, 0, 0);
	struct backend_tunables t = r->backend->options.tunables;

	(void)state;
	assert_int_equal(finish(r, io), -EIO);
	/* When the outage has lasted longer than anything may wait, this does not wait at all. */
	turn(r, 150);
	io = submit(r, 0, BACKEND_READ, 0, 0);
	turn(r, 1);
	assert_int_equal(io->done, 1);
	assert_int_equal(io->error, -EIO);
	t.reconnect_min_ms = 1;
	backend_set_tunables(r->backend, &t);
	wait_for(r, !strcmp(stats_of(r).state, "ready"));
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(stats_of(r).errors, 2);
	end(r);
}

/* What is on the wire of a silent server has its limit too. */
static void test_io_timeout_on_the_wire(void **state)
{
	const struct backend_options limited = { .tunables = { .io_timeout_ms = 150 } };
	struct rig *r = start("hs req wait | hs serve", &limited);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), -EIO);
	wait_for(r, !strcmp(stats_of(r).state, "ready"));
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	end(r);
}

/* A write that was held has waited for longer than a read that was sent before it. */
static void test_io_timeout_behind_another(void **state)
{
	const struct backend_options options = { .tunables = { .request_ms = 100,
							       .io_timeout_ms = 2000,
							       .fence_ms = 1000 } };
	struct rig *r = start("hs req leave | hs serve:1 req req wait | hs serve", &options);
	struct backend_tunables t = r->backend->options.tunables;
	struct io *newer, *read;

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	t.request_ms = BACKEND_NEVER;
	backend_set_tunables(r->backend, &t);
	newer = submit(r, 0, BACKEND_WRITE, 0, 0xbb);
	turn(r, 300);
	read = submit(r, 1, BACKEND_READ, BLOCK, 0);
	assert_int_equal(stats_of(r).held, 1);
	assert_int_equal(finish(r, newer), -EIO);
	t.io_timeout_ms = BACKEND_NEVER;
	backend_set_tunables(r->backend, &t);
	assert_int_equal(finish(r, read), 0);
	end(r);
}

static void test_idle(void **state)
{
	const struct backend_options options = { .tunables.idle_ms = 50 };
	struct rig *r = start("hs req data:0:0:4096:done disc | hs serve", &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	wait_for(r, !strcmp(stats_of(r).state, "idle"));
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(stats_of(r).connects, 2);
	assert_int_equal(r->changes[BACKEND_LOST], 0);
	for (int i = 0; i < _BACKEND_LOSS_MAX; i++)
		assert_int_equal(losses(r, i), 0);
	end(r);
}

/* --- giving up --- */

static void test_fail(void **state)
{
	const struct backend_options never = { .tunables = { .request_ms = BACKEND_NEVER,
							     .handshake_ms = BACKEND_NEVER } };
	struct rig *r = start("hs req req req leave | sleep:300 hs serve", &never);
	struct io *io[3];

	(void)state;
	for (unsigned int i = 0; i < 3; i++)
		io[i] = submit(r, i, i ? BACKEND_WRITE : BACKEND_READ, i * BLOCK, 1);
	turn(r, 50);
	backend_fail(r->backend);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(finish(r, io[i]), -EIO);
	/* The server has accepted and says nothing: still no connection. */
	assert_int_equal(run(r, BACKEND_READ, 0, 0), -EIO);
	assert_string_equal(stats_of(r).state, "failed");
	wait_for(r, !strcmp(stats_of(r).state, "ready"));
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(losses(r, BACKEND_LOSS_FAILED), 1);
	assert_int_equal(stats_of(r).errors, 4);
	end(r);
}

/* Nothing waits: nothing to give up. */
static void test_fail_when_all_is_well(void **state)
{
	const struct backend_options none = { 0 };
	struct rig *r = start("hs serve", &none);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	backend_fail(r->backend);
	turn(r, 20);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(stats_of(r).connects, 1);
	end(r);
}

/* Nothing waits on a connection that is not there because nothing needs it. */
static void test_fail_when_idle(void **state)
{
	const struct backend_options options = { .tunables.idle_ms = 50 };
	struct rig *r = start("hs req data:0:0:4096:done disc | hs serve", &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	wait_for(r, !strcmp(stats_of(r).state, "idle"));
	backend_fail(r->backend);
	turn(r, 20);
	assert_string_equal(stats_of(r).state, "idle");
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(stats_of(r).errors, 0);
	end(r);
}

/* While it is being closed something may wait, which fails; what comes later is served. */
static void test_fail_when_going_idle(void **state)
{
	const struct backend_options options = { .tunables.idle_ms = 50 };
	struct rig *r = start("hs req data:0:0:4096:done disc | hs serve", &options);
	struct io *io;

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	/* That takes a few iterations, and this is one. */
	while (!strcmp(stats_of(r).state, "ready"))
		turn(r, 0);
	assert_string_equal(stats_of(r).state, "idling");
	io = submit(r, 0, BACKEND_READ, 0, 0);
	backend_fail(r->backend);
	assert_int_equal(finish(r, io), -EIO);
	wait_for(r, !strcmp(stats_of(r).state, "idle"));
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(stats_of(r).errors, 1);
	end(r);
}

/* The order to flush comes to the other queue with the order to give up, and after it. */
static void test_fail_a_flush_that_is_asked_for(void **state)
{
	const struct backend_options options = { .queues = 2, .replay_log = 1 << 20 };
	struct rig *r = start("hs leave | hs req ok:0 leave | wait", &options);
	struct io *flush;

	(void)state;
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_WRITE, 0, 0x11, 0)), 0);
	flush = submit(r, 0, BACKEND_FLUSH, 0, 0);
	backend_fail(r->backend);
	assert_int_equal(finish(r, flush), -EIO);
	/* What is under way for it is not waited for, either. */
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(stats_of(r).errors, 2);
	end(r);
}

/*
 * The third queue hangs in the first flush. The second one does not, but has carried a
 * write since, and would in the next flush, which is waiting.
 */
static void test_fail_a_flush_that_waits(void **state)
{
	const struct backend_options options = { .queues = 3, .replay_log = 1 << 20 };
	struct rig *r = start("hs leave | hs leave | hs back:1 req ok:0 back:1 req ok:1 req "
			      "back:1 req ok:3 back:0 req ok:4 back:0 req ok:5 leave | wait",
			      &options);
	struct io *flush[2];

	(void)state;
	for (unsigned int i = 1; i < 3; i++)
		assert_int_equal(finish(r, submit_on(r, i, 0, BACKEND_WRITE, 0, 0x11, 0)), 0);
	for (unsigned int i = 0; i < 2; i++)
		flush[i] = submit(r, i, BACKEND_FLUSH, 0, 0);
	wait_for(r, stats_of_link(r, 1).flushes && stats_of_link(r, 2).flushes);
	assert_int_equal(finish(r, submit_on(r, 1, 2, BACKEND_WRITE, 0, 0x22, 0)), 0);
	backend_fail(r->backend);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(finish(r, flush[i]), -EIO);
	end(r);
}

/* Each has to end; that it does so in time is seen by the test ending at all. */
static void test_close_in_any_state(void **state)
{
	static const struct {
		const char *script, *state;
	} rows[] = {
		{ "hs serve:1 close | greet wait", "handshake" },
		{ "hs serve:1 close | close", "backoff" },
		{ "hs serve:1 serve", "ready" },
		{ "hs serve:1 leave | leave", "ready" },
	};
	const struct backend_options options = { .tunables = { .reconnect_min_ms = 3600000 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct rig *r = start(rows[i].script, &options);

		assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
		wait_for(r, !strcmp(stats_of(r).state, rows[i].state));
		turn(r, 20);
		end(r);
	}
}

/* --- attempts --- */

static void test_attempts(void **state)
{
	const struct backend_options options = { .tunables = { .reconnect_min_ms = 1,
							       .reconnect_max_ms = 4 } };
	struct rig *r = start("hs req close | refuse:5 greet flags opt:8 ack opt:7 err:6 opt:2 close |"
			      " greet flags opt:8 err:5 opt:2 close | zero:18 wait | hs serve",
			      &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x55), 0);
	assert_int_equal(losses(r, BACKEND_LOSS_CLOSED), 6);
	assert_int_equal(losses(r, BACKEND_LOSS_HANDSHAKE), 2);
	assert_int_equal(losses(r, BACKEND_LOSS_BAD_HANDSHAKE), 1);
	assert_int_equal(stats_of(r).attempts, 9);
	assert_int_equal(stats_of(r).connects, 2);
	assert_int_equal(r->changes[BACKEND_LOST], 1);
	wait_for(r, r->changes[BACKEND_RESTORED] == 1);
	assert_int_equal(stats_of(r).errors, 0);
	assert_disk(r, 0, 0x55);
	end(r);
}

/* --- the export is another one --- */

#define EXPORT(size, flags) \
	"greet flags opt:8 ack opt:7 info:" #size ":" #flags " block:1:4096:33554432 ack "

static void test_grown(void **state)
{
	const struct backend_options options = { 0 };
	struct rig *r = start("hs req close | " EXPORT(2097152, 0x16d) "serve", &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	wait_for(r, r->changes[BACKEND_GROWN]);
	assert_int_equal(r->backend->info.size, 2097152);
	assert_int_equal(r->changes[BACKEND_SHRUNK] + r->changes[BACKEND_FLAGS_CHANGED], 0);
	end(r);
}

static void test_shrunk(void **state)
{
	const struct backend_options options = { 0 };
	struct rig *r = start("hs req close | " EXPORT(524288, 0x16d) "serve", &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	wait_for(r, r->changes[BACKEND_SHRUNK]);
	assert_int_equal(r->backend->info.size, 524288);
	assert_int_equal(run(r, BACKEND_READ, 524288 - BLOCK, 0), 0);
	assert_int_equal(run(r, BACKEND_READ, 524288, 0), -EIO);
	assert_int_equal(run(r, BACKEND_WRITE, 1048576 - BLOCK, 7), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

/* Read-only now, without flush, trim and write-zeroes. */
static void test_flags_lost(void **state)
{
	const struct backend_options options = { 0 };
	struct rig *r = start("hs req close | " EXPORT(1048576, 0x3) "serve", &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	wait_for(r, r->changes[BACKEND_FLAGS_CHANGED]);
	assert_true(r->backend->info.flags & BACKEND_F_READ_ONLY);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 7), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_DISCARD, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_WRITE_ZEROES, 0, 0), -EIO);
	end(r);
}

/* Neither FUA nor flush any more: a write that has to be stable cannot be. */
static void test_fua_lost(void **state)
{
	const struct backend_options options = { 0 };
	struct rig *r = start("hs req close | " EXPORT(1048576, 0x161) "serve", &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	wait_for(r, r->changes[BACKEND_FLAGS_CHANGED]);
	assert_int_equal(finish(r, submit_on(r, 0, 0, BACKEND_WRITE, 0, 1, BACKEND_REQ_FUA)), -EIO);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 7), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	end(r);
}

/*
 * The server promises no more that several connections see the same: nothing is sent on
 * the second one until it does. With one connection that makes no difference.
 */
static void test_multi_conn_lost(void **state)
{
	static const struct backend_options several = { .queues = 2,
							.tunables.reconnect_min_ms = 1 };
	static const struct backend_options one = { .queues = 2, .single_connection = true };
	struct rig *r = start("hs leave | hs serve:1 close | " EXPORT(1048576, 0x6d) "disc | "
			      EXPORT(1048576, 0x6d) "disc | hs serve", &several);

	(void)state;
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_READ, 0, 0, 0)), 0);
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_READ, 0, 0, 0)), 0);
	assert_int_equal(stats_of_link(r, 1).losses[BACKEND_LOSS_HANDSHAKE], 2);
	assert_int_equal(stats_of_link(r, 1).connects, 2);
	assert_int_equal(stats_of_link(r, 1).errors, 0);
	end(r);

	r = start("hs serve:1 close | " EXPORT(1048576, 0x6d) "serve", &one);
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_READ, 0, 0, 0)), 0);
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_READ, 0, 0, 0)), 0);
	assert_int_equal(stats_of(r).losses[BACKEND_LOSS_HANDSHAKE], 0);
	end(r);
}

/* Asked for: a connection of its own hears of the growth, and the old one is replaced. */
static void test_refresh(void **state)
{
	const struct backend_options options = { 0 };
	struct rig *r = start("hs req data:0:0:4096:done leave | " EXPORT(2097152, 0x16d)
			      "disc | " EXPORT(2097152, 0x16d) "serve",
			      &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	backend_refresh(r->backend);
	wait_for(r, r->changes[BACKEND_GROWN]);
	assert_int_equal(r->backend->info.size, 2097152);
	wait_for(r, stats_of(r).connects == 2);
	assert_int_equal(r->refreshed, 1);
	assert_int_equal(r->refresh_error, 0);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(r->changes[BACKEND_LOST], 0);
	end(r);
}

/* Each time it is asked there is one answer: nothing new, something new, nobody there. */
static void test_refreshed(void **state)
{
	const struct backend_options options = { 0 };
	struct rig *r = start("hs leave | hs disc | hs sleep:50 disc | " EXPORT(524288, 0x16d)
			      "disc | greet close | greet flags opt:8 ack opt:7 err:6 opt:2 close",
			      &options);

	(void)state;
	backend_refresh(r->backend);
	assert_int_equal(r->refreshed, 0);
	wait_for(r, r->refreshed == 1);
	assert_int_equal(r->refresh_error, 0);
	/* The second and third call while the first is under way are the same question. */
	for (int i = 0; i < 3; i++) {
		backend_refresh(r->backend);
		turn(r, 5);
	}
	wait_for(r, r->refreshed == 2);
	assert_int_equal(r->changes[BACKEND_SHRUNK], 0);
	backend_refresh(r->backend);
	wait_for(r, r->refreshed == 3);
	assert_int_equal(r->refresh_error, 0);
	assert_int_equal(r->changes[BACKEND_SHRUNK], 1);
	backend_refresh(r->backend);
	wait_for(r, r->refreshed == 4);
	assert_int_equal(r->refresh_error, -ECONNRESET);
	backend_refresh(r->backend);
	wait_for(r, r->refreshed == 5);
	assert_true(r->refresh_error < 0);
	turn(r, 20);
	assert_int_equal(r->refreshed, 5);
	end(r);
}

/* Nobody is there to ask, or goes while he does. */
static void test_refresh_without_queues(void **state)
{
	const struct backend_options options = { 0 };
	struct rig *r = start("hs serve | greet wait", &options);

	(void)state;
	backend_refresh(r->backend);
	turn(r, 20);
	assert_int_equal(r->refreshed, 0);
	backend_queue_destroy(r->q[0]);
	r->q[0] = NULL;
	wait_for(r, r->refreshed == 1);
	assert_true(r->refresh_error < 0);
	backend_refresh(r->backend);
	wait_for(r, r->refreshed == 2);
	assert_int_equal(r->refresh_error, -ENOTCONN);
	end(r);
}

/*
 * Two connections are to be renewed, because the export has grown. The first one
 * goes while the second is still busy; since the server may lose its cache with
 * it, that begins a replay, which pauses the second. That one is renewed too when
 * the replay is over.
 */
static void test_renew_when_a_replay_ends(void **state)
{
	const struct backend_options options = { .queues = 2, .replay_log = 1 << 20 };
	struct rig *r = start("hs leave | hs back:0 req ok:0 back:0 req leave | "
			      EXPORT(2097152, 0x16d) "disc back:0 disc | "
			      EXPORT(2097152, 0x16d) "back:1 data:1:0:4096:done back:1 "
			      "serve:2 back:1 disc | " EXPORT(2097152, 0x16d) "serve",
			      &options);
	struct io *busy, *later;

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	busy = submit_on(r, 1, 0, BACKEND_READ, BLOCK, 0, 0);
	turn(r, 20);
	backend_refresh(r->backend);
	assert_int_equal(finish(r, busy), 0);
	later = submit_on(r, 1, 0, BACKEND_READ, BLOCK, 0, 0);
	assert_int_equal(finish(r, later), 0);
	assert_int_equal(stats_of_link(r, 0).connects, 2);
	assert_int_equal(stats_of_link(r, 1).connects, 2);
	assert_int_equal(stats_of_link(r, 0).replayed, 1);
	assert_int_equal(r->changes[BACKEND_LOST], 0);
	assert_disk(r, 0, 0x11);
	end(r);
}

/* The first connection comes back at once, the second, on which nothing was answered, later. */
static const struct backend_options first_first = { .queues = 2, .replay_log = 1 << 20,
						    .tunables.reconnect_min_ms = 500 };

/*
 * Both are lost. The first one replays on a connection of the old size, and the
 * second one comes back meanwhile, to a larger export.
 */
static void test_grown_during_a_replay(void **state)
{
	struct rig *r = start("hs leave | hs back:0 req ok:0 hangup | hs req leave | "
			      EXPORT(2097152, 0x16d) "sleep:50 back:0 ok:1 serve:1 disc | "
			      EXPORT(2097152, 0x16d) "req data:3:0:4096:done serve",
			      &first_first);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_READ, NBD_SCRIPT_SIZE, 0), 0);
	assert_int_equal(stats_of(r).connects, 3);
	assert_int_equal(r->changes[BACKEND_GROWN], 1);
	assert_int_equal(r->changes[BACKEND_SHRUNK], 0);
	end(r);
}

/* The first one has been told the old size, and its handshake ends after the growth was seen. */
static void test_grown_during_a_handshake(void **state)
{
	struct rig *r = start("hs leave | hs back:0 req data:0:0:4096:done hangup | "
			      "greet flags opt:8 ack opt:7 info:1048576:0x16d "
			      "block:1:4096:33554432 leave | "
			      EXPORT(2097152, 0x16d) "req data:1:0:4096:done back:0 ack disc | "
			      EXPORT(2097152, 0x16d) "req data:2:0:4096:done serve",
			      &first_first);
	struct io *second = submit_on(r, 1, 0, BACKEND_READ, 0, 0, 0);

	(void)state;
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(finish(r, second), 0);
	assert_int_equal(run(r, BACKEND_READ, NBD_SCRIPT_SIZE, 0), 0);
	assert_int_equal(r->backend->info.size, 2 * NBD_SCRIPT_SIZE);
	assert_int_equal(stats_of(r).connects, 3);
	assert_int_equal(r->changes[BACKEND_GROWN], 1);
	assert_int_equal(r->changes[BACKEND_SHRUNK], 0);
	end(r);
}

/* --- late writes --- */

/*
 * The server sits on a write until the connection is cut, answers the same
 * write on a new one, and carries the first out later still. A newer write to
 * the same block has to come after that, others and reads need not wait.
 */
static void test_late_write(void **state)
{
	struct rig *r = start("hs req leave | hs serve:3 quiet:200 apply:0 hangup serve",
			      &short_request);
	struct io *newer;

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	assert_int_equal(losses(r, BACKEND_LOSS_REQUEST), 1);
	newer = submit(r, 0, BACKEND_WRITE, 0, 0xbb);
	assert_int_equal(run(r, BACKEND_WRITE, BLOCK, 0xcc), 0);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(r->io[MAX_IO - 1].data[0], 0xaa);
	assert_int_equal(newer->done, 0);
	assert_int_equal(stats_of(r).held, 1);
	assert_int_equal(stats_of(r).waiting, 1);
	assert_int_equal(finish(r, newer), 0);
	assert_disk(r, 0, 0xbb);
	assert_disk(r, BLOCK, 0xcc);
	end(r);
}

/* A server that never closes the old connection is taken to have forgotten it, in the end. */
static void test_fence_deadline(void **state)
{
	const struct backend_options options = { .tunables = { .request_ms = 100,
							       .fence_ms = 400 } };
	struct rig *r = start("hs req leave | hs serve", &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xbb), 0);
	assert_int_equal(stats_of(r).held, 1);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xcc), 0);
	assert_int_equal(stats_of(r).held, 1);
	assert_disk(r, 0, 0xcc);
	end(r);
}

/*
 * The peer of an old connection neither reads nor closes. Before a newer write leaves, that
 * socket is closed, so that what is in its send buffer stays there; another fence that is
 * younger makes no difference.
 */
static void test_old_socket_goes_first(void **state)
{
	const struct backend_options options = { .tunables = { .request_ms = 100,
							       .fence_ms = 3600000 } };
	struct rig *r = start("hs req leave | hs serve:1 req back:0 dead back:0 ok:2 serve", &options);
	struct backend_tunables t = r->backend->options.tunables;
	struct io *newer;

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	newer = submit(r, 0, BACKEND_WRITE, 0, 0xbb);
	turn(r, 500);
	assert_int_equal(newer->done, 0);
	backend_prior_write(r->backend, 8 * BLOCK, BLOCK);
	t.fence_ms = 450;
	backend_set_tunables(r->backend, &t);
	assert_int_equal(finish(r, newer), 0);
	assert_int_equal(stats_of(r).held, 1);
	end(r);
}

/* The limit can be shortened while a write is held. */
static void test_fence_tunable(void **state)
{
	const struct backend_options options = { .tunables = { .request_ms = 100,
							       .fence_ms = 3600000 } };
	struct rig *r = start("hs req leave | hs serve", &options);
	struct backend_tunables t = r->backend->options.tunables;
	struct io *newer;

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	newer = submit(r, 0, BACKEND_WRITE, 0, 0xbb);
	turn(r, 50);
	assert_int_equal(newer->done, 0);
	t.fence_ms = 1;
	backend_set_tunables(r->backend, &t);
	assert_int_equal(finish(r, newer), 0);
	end(r);
}

/*
 * What closed the connection was something between, and the write comes all the
 * same, after the one that was sent again.
 */
static void test_late_write_after_close(void **state)
{
	const struct backend_options options = { .tunables.fence_closed_ms = 3600000 };
	struct rig *r = start("hs req close | hs serve:2 apply:0 serve", &options);
	struct backend_tunables t = r->backend->options.tunables;
	struct io *newer;

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	newer = submit(r, 0, BACKEND_WRITE, 0, 0xbb);
	assert_int_equal(run(r, BACKEND_WRITE, BLOCK, 0xcc), 0);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(r->io[MAX_IO - 1].data[0], 0xaa);
	assert_int_equal(newer->done, 0);
	assert_int_equal(stats_of(r).held, 1);
	t.fence_closed_ms = 1;
	backend_set_tunables(r->backend, &t);
	assert_int_equal(finish(r, newer), 0);
	assert_disk(r, 0, 0xbb);
	assert_disk(r, BLOCK, 0xcc);
	end(r);
}

/* The peer's close ends the waiting earlier, whether it comes first or later. */
static void test_close_shortens_fence(void **state)
{
	static const char *const scripts[] = { "hs req close | hs serve",
					       "hs req leave | hs serve:1 hangup serve" };
	const struct backend_options options = { .tunables = { .request_ms = 100,
							       .fence_ms = 3600000,
							       .fence_closed_ms = 300 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
		struct rig *r = start(scripts[i], &options);

		assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
		assert_int_equal(run(r, BACKEND_WRITE, 0, 0xbb), 0);
		assert_int_equal(stats_of(r).held, 1);
		assert_int_equal(run(r, BACKEND_WRITE, 0, 0xcc), 0);
		assert_int_equal(stats_of(r).held, 1);
		assert_disk(r, 0, 0xcc);
		end(r);
	}
}

/* When a close is believed, nothing of that connection can come any more. */
static void test_no_fence(void **state)
{
	const struct backend_options believing = { .tunables.fence_closed_ms = BACKEND_NEVER };
	struct rig *r = start("hs req close | hs serve", &believing);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xbb), 0);
	assert_int_equal(stats_of(r).held, 0);
	end(r);
}

static void test_prior_writes(void **state)
{
	const struct backend_options options = { .tunables.fence_ms = 400 };
	struct rig *r = start("hs serve", &options);
	struct io *newer, *again;

	(void)state;
	backend_prior_write(r->backend, 0, BLOCK);
	backend_prior_write(r->backend, 8 * BLOCK, BLOCK);
	newer = submit(r, 0, BACKEND_WRITE, 0, 0xbb);
	again = submit_on(r, 0, 1, BACKEND_WRITE, 0, 0xaa, BACKEND_REQ_RESUBMIT);
	assert_int_equal(finish(r, again), 0);
	assert_int_equal(run(r, BACKEND_WRITE, BLOCK, 0xcc), 0);
	assert_int_equal(newer->done, 0);
	assert_int_equal(finish(r, newer), 0);
	assert_int_equal(stats_of(r).held, 1);
	assert_disk(r, 0, 0xbb);
	end(r);
}

/* Nobody writes there: they are forgotten in time all the same. */
static void test_prior_writes_elsewhere(void **state)
{
	const struct backend_options options = { .tunables.fence_ms = 100 };
	struct rig *r = start("hs serve", &options);

	(void)state;
	backend_prior_write(r->backend, 8 * BLOCK, BLOCK);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	assert_int_equal(stats_of(r).fenced, 1);
	wait_for(r, !stats_of(r).fenced);
	assert_int_equal(stats_of(r).held, 0);
	end(r);
}

/* --- a cache that is lost --- */

static const struct backend_options with_log = { .replay_log = 1 << 20 };
static const struct backend_options without_log = { .replay_log = 0 };

/* Acknowledged, not on the disk, and then the connection is closed. */
#define LOST_WRITES "hs req ok:0 req ok:1 req ok:2 close | hs serve"

static void three_writes(struct rig *r)
{
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x22), 0);
	assert_int_equal(run(r, BACKEND_WRITE_ZEROES, BLOCK, 0), 0);
}

static void lose_writes(struct rig *r)
{
	three_writes(r);
	wait_for(r, stats_of(r).connects == 2);
}

static void test_replay(void **state)
{
	struct rig *r = start(LOST_WRITES, &with_log);

	(void)state;
	lose_writes(r);
	assert_int_equal(stats_of(r).replayed, 3);
	assert_disk(r, 0, 0x22);
	assert_disk(r, BLOCK, 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

static void test_no_replay(void **state)
{
	struct rig *r = start(LOST_WRITES, &without_log);

	(void)state;
	lose_writes(r);
	assert_int_equal(stats_of(r).replayed, 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

/* Requests that wait for it may have to end, but the replay itself has its time. */
static void test_replay_and_io_timeout(void **state)
{
	const struct backend_options options = { .replay_log = 1 << 20,
						 .tunables = { .io_timeout_ms = 150 } };
	struct rig *r = start("hs req ok:0 req ok:1 req ok:2 close | hs serve:3 req sleep:600 ok:6 serve",
			      &options);

	(void)state;
	three_writes(r);
	wait_for(r, stats_of(r).losses[BACKEND_LOSS_CLOSED]);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), -EIO);
	wait_for(r, !strcmp(stats_of(r).state, "ready"));
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(stats_of(r).connects, 2);
	end(r);
}

/* The server is quick with writes and slow with its flush: the limit is doubled. */
static void test_replay_patience(void **state)
{
	const struct backend_options options = { .replay_log = 1 << 20,
						 .tunables = { .request_ms = 300 } };
	struct rig *r = start("hs req ok:0 req ok:1 req ok:2 close | hs serve:3 req wait |"
			      " hs serve:3 req wait | hs serve:3 req sleep:750 ok:14 serve",
			      &options);

	(void)state;
	three_writes(r);
	wait_for(r, stats_of(r).losses[BACKEND_LOSS_CLOSED]);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(losses(r, BACKEND_LOSS_REQUEST), 2);
	assert_int_equal(stats_of(r).connects, 2);
	end(r);
}

/* What is flushed is not replayed, what follows is. */
static void test_replay_after_flush(void **state)
{
	struct rig *r = start("hs req ok:0 req ok:1 req ok:2 close | hs serve", &with_log);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	assert_int_equal(run(r, BACKEND_WRITE, BLOCK, 0x22), 0);
	wait_for(r, stats_of(r).connects == 2);
	assert_int_equal(stats_of(r).replayed, 1);
	assert_int_equal(r->s.disk[0], nbd_script_byte(0));
	assert_disk(r, BLOCK, 0x22);
	end(r);
}

/* A write with FUA is stable, but a replay of what is older must not undo it. */
static void test_replay_with_fua(void **state)
{
	struct rig *r = start("hs req ok:0 req apply:1 ok:1 close | hs serve", &with_log);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(finish(r, submit_on(r, 0, 0, BACKEND_WRITE, 0, 0x22, BACKEND_REQ_FUA)), 0);
	wait_for(r, stats_of(r).connects == 2);
	assert_int_equal(stats_of(r).replayed, 2);
	assert_disk(r, 0, 0x22);
	end(r);
}

/* The flush is on the wire when the server is lost: it is answered after the replay. */
static void test_flush_in_flight(void **state)
{
	struct rig *r = start("hs req ok:0 req close | hs serve", &with_log);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	assert_int_equal(stats_of(r).replayed, 1);
	assert_disk(r, 0, 0x11);
	end(r);

	r = start("hs req ok:0 req close | hs serve", &without_log);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

/* The server is lost again in the middle of the replay. */
static void test_replay_interrupted(void **state)
{
	struct rig *r = start("hs req ok:0 req ok:1 close | hs serve:1 close | hs req close | hs serve",
			      &with_log);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_WRITE, 4 * BLOCK, 0x22), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	assert_disk(r, 0, 0x11);
	assert_disk(r, 4 * BLOCK, 0x22);
	end(r);
}

/*
 * Two writes to one block are to be replayed. The server sits on the first one until
 * the connection is cut, takes it on a new one, and carries it out later still. The
 * second may come only after that.
 */
static void test_replay_waits_for_its_past(void **state)
{
	struct rig *r = start("hs req ok:0 req ok:1 close | hs req leave |"
			      " hs serve:1 quiet:200 apply:2 hangup serve", &short_request);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x22), 0);
	wait_for(r, !strcmp(stats_of(r).state, "fenced"));
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	assert_string_equal(stats_of(r).state, "ready");
	assert_int_equal(stats_of(r).replayed, 3);
	assert_disk(r, 0, 0x22);
	end(r);
}

/* Likewise, where the next attempt is another link's, which hears of the fence's end. */
static void test_replay_waits_for_another_link(void **state)
{
	static const struct backend_options options = {
		.queues = 2,
		.tunables = { .request_ms = 100, .fence_closed_ms = 1 },
		.replay_log = 1 << 20,
	};
	struct rig *r = start("hs leave | hs back:0 req ok:0 req ok:1 close | hs back:0 req back:0 "
			      "serve:1 quiet:200 apply:2 hangup serve:2 leave | hs wait",
			      &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x22), 0);
	wait_for(r, !strcmp(stats_of_link(r, 0).state, "fenced"));
	wait_for(r, stats_of_link(r, 0).connects == 2 && stats_of_link(r, 1).connects == 2);
	assert_int_equal(stats_of_link(r, 1).losses[BACKEND_LOSS_REQUEST], 1);
	assert_int_equal(stats_of_link(r, 0).replayed, 2);
	assert_disk(r, 0, 0x22);
	end(r);
}

/* What was not acknowledged is newer than all that is in the log, sent before or not. */
static void test_sent_again_after_a_replay(void **state)
{
	struct rig *r = start("hs req ok:0 req close | hs req leave |"
			      " hs serve:2 quiet:200 apply:2 hangup serve", &short_request);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x22), 0);
	assert_int_equal(stats_of(r).held, 1);
	assert_int_equal(stats_of(r).replayed, 2);
	assert_disk(r, 0, 0x22);
	end(r);
}

/* A replay that waits can be given up like any other waiting, and ended. */
static void test_fail_while_a_replay_waits(void **state)
{
	static const struct backend_options options = { .tunables = { .request_ms = 100,
								      .fence_ms = 3600000 },
							.replay_log = 1 << 20 };
	struct backend_tunables t;
	struct io *io;

	(void)state;
	for (int ended = 0; ended < 2; ended++) {
		struct rig *r = start("hs req ok:0 req ok:1 close | hs req leave | hs serve",
				      &options);

		assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
		assert_int_equal(run(r, BACKEND_WRITE, 0, 0x22), 0);
		wait_for(r, !strcmp(stats_of(r).state, "fenced"));
		if (ended) {
			end(r);
			continue;
		}
		io = submit(r, 0, BACKEND_READ, 0, 0);
		turn(r, 20);
		assert_int_equal(io->done, 0);
		backend_fail(r->backend);
		assert_int_equal(finish(r, io), -EIO);
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
		assert_string_equal(stats_of(r).state, "failed");
		/* Nothing is lost with that. */
		t = r->backend->options.tunables;
		t.fence_ms = 1;
		backend_set_tunables(r->backend, &t);
		wait_for(r, !strcmp(stats_of(r).state, "ready"));
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
		assert_disk(r, 0, 0x22);
		end(r);
	}
}

/* The server refuses what is replayed: that is a loss, and is reported. */
static void test_replay_refused(void **state)
{
	struct rig *r = start("hs req ok:0 close | hs req fail:1:28 serve", &with_log);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

/* Two connections are idle; then one carries a write, and the other a read. */
static struct io *wake_both(struct rig *r)
{
	struct backend_tunables t = r->backend->options.tunables;

	wait_for(r, !strcmp(stats_of_link(r, 0).state, "idle"));
	wait_for(r, !strcmp(stats_of_link(r, 1).state, "idle"));
	t.idle_ms = BACKEND_NEVER;
	backend_set_tunables(r->backend, &t);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	return submit_on(r, 1, 0, BACKEND_READ, 0, 0, 0);
}

/*
 * An idle connection is made again, to a server that has lost its cache since; the
 * other connection has not noticed yet. What it reads has to be what was acknowledged.
 */
static void test_idle_meets_another_server(void **state)
{
	const struct backend_options options = { .queues = 2, .replay_log = 1 << 20,
						 .tunables.idle_ms = 50 };
	struct rig *r = start("hs leave | hs leave | hs req ok:0 leave | "
			      "hs back:2 serve:2 back:2 serve", &options);
	struct io *io = wake_both(r);

	(void)state;
	assert_int_equal(finish(r, io), 0);
	assert_int_equal(io->data[0], 0x11);
	assert_int_equal(stats_of_link(r, 0).replayed + stats_of_link(r, 1).replayed, 1);
	assert_disk(r, 0, 0x11);
	assert_int_equal(r->changes[BACKEND_LOST], 0);
	end(r);
}

/* What cannot be written again is not taken for lost because of that. */
static void test_idle_returns_without_a_log(void **state)
{
	const struct backend_options options = { .queues = 2, .tunables.idle_ms = 50 };
	struct rig *r = start("hs leave | hs leave | hs serve:1 leave | hs serve:1 back:2 serve",
			      &options);
	struct io *io = wake_both(r);

	(void)state;
	assert_int_equal(finish(r, io), 0);
	assert_int_equal(io->data[0], 0x11);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	assert_int_equal(stats_of_link(r, 0).replayed + stats_of_link(r, 1).replayed, 0);
	end(r);
}

/* Unless the other one notices that there is nobody, while the first one waits for it. */
static void test_idle_meets_a_loss_without_a_log(void **state)
{
	const struct backend_options options = { .queues = 2, .tunables.idle_ms = 50 };
	struct rig *r = start("hs leave | hs leave | hs req ok:0 req leave | "
			      "hs hangup serve:1 leave | hs serve", &options);
	struct io *busy, *io;

	(void)state;
	io = wake_both(r);
	busy = submit(r, 1, BACKEND_READ, BLOCK, 0);
	assert_int_equal(finish(r, io), 0);
	assert_int_equal(finish(r, busy), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

/* --- a process that is killed --- */

#define JOURNAL_BYTES (2u << 20)

static uint8_t *map_journal(void)
{
	uint8_t *p = mmap(NULL, JOURNAL_BYTES, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

static struct rig *start_with_journal(const char *script, const struct backend_options *options,
				      void *memory, size_t bytes, bool inherited)
{
	struct rig *r = open_rig(NULL, options);
	struct error e = ERROR_INIT;

	assert_int_equal(nbd_script_start(&r->s, script), 0);
	r->scripted = true;
	if (backend_open(r->s.uri, &r->options, &r->backend, &e))
		fail_msg("%s", e.text);
	assert_in_range(backend_journal_bytes(r->backend), 1, JOURNAL_BYTES);
	backend_use_journal(r->backend, memory, bytes, inherited);
	create_queues(r);
	return r;
}

/*
 * Writes are acknowledged by a server that loses them, the third one at @third, and the
 * process is killed there.
 */
static uint8_t *killed_after(const struct backend_options *options, bool flushed, uint64_t third)
{
	uint8_t *memory = map_journal(), *left = map_journal();
	struct rig *r = start_with_journal("hs req ok:0 req ok:1 req ok:2 serve", options, memory,
					   JOURNAL_BYTES, false);

	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(r, BACKEND_WRITE, BLOCK, 0x22), 0);
	assert_int_equal(run(r, BACKEND_WRITE, third, 0x33), 0);
	if (flushed)
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	memcpy(left, memory, JOURNAL_BYTES);
	end(r);
	munmap(memory, JOURNAL_BYTES);
	return left;
}

static uint8_t *killed(const struct backend_options *options, bool flushed)
{
	return killed_after(options, flushed, 0);
}

/* Its successor writes them again, in order, before anything else. */
static void test_successor_replays(void **state)
{
	uint8_t *left = killed(&with_log, false);
	struct rig *r = start_with_journal("hs serve", &with_log, left, JOURNAL_BYTES, true);

	(void)state;
	assert_int_equal(stats_of(r).replayed, 3);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	assert_disk(r, 0, 0x33);
	assert_disk(r, BLOCK, 0x22);
	end(r);
	/* That is done once. */
	r = start_with_journal("hs serve", &with_log, left, JOURNAL_BYTES, true);
	assert_int_equal(stats_of(r).replayed, 0);
	end(r);
	munmap(left, JOURNAL_BYTES);
}

/*
 * The old process of an upgrade, at rest, loses its connection while the new one serves:
 * what the log says is not flushed is not its own to write again, nor to forget.
 */
static void test_lent_log_is_left_alone(void **state)
{
	uint8_t *memory = map_journal(), *left = map_journal();
	struct rig *old = start_with_journal("hs req ok:0 req ok:1 quiet:300 close | hs serve",
					     &with_log, memory, JOURNAL_BYTES, false);
	struct rig *r;

	(void)state;
	assert_int_equal(run(old, BACKEND_WRITE, 0, 0x11), 0);
	assert_int_equal(run(old, BACKEND_FLUSH, 0, 0), 0);
	assert_int_equal(backend_lend_journal(old->backend, true), 0);
	r = start_with_journal("hs req ok:0 serve", &with_log, memory, JOURNAL_BYTES, true);
	assert_int_equal(run(r, BACKEND_WRITE, BLOCK, 0x22), 0);
	wait_for(old, stats_of(old).connects == 2 && !strcmp(stats_of(old).state, "ready"));
	assert_int_equal(stats_of(old).replayed, 0);
	memcpy(left, memory, JOURNAL_BYTES);
	end(r);
	end(old);
	r = start_with_journal("hs serve", &with_log, left, JOURNAL_BYTES, true);
	assert_int_equal(stats_of(r).replayed, 1);
	assert_disk(r, BLOCK, 0x22);
	end(r);
	munmap(left, JOURNAL_BYTES);
	munmap(memory, JOURNAL_BYTES);
}

/* Two servers are lost in the middle of it. A newer write comes after it. */
static void test_successor_replays_again(void **state)
{
	static const struct backend_options options = { .replay_log = 1 << 20,
							.tunables.fence_closed_ms = 1 };
	uint8_t *left = killed(&with_log, false);
	struct rig *r = open_rig(NULL, &options);
	struct error e = ERROR_INIT;
	struct io *newer;

	(void)state;
	assert_int_equal(nbd_script_start(&r->s, "hs req close | hs serve:1 close | hs serve"), 0);
	r->scripted = true;
	assert_int_equal(backend_open(r->s.uri, &r->options, &r->backend, &e), 0);
	backend_use_journal(r->backend, left, JOURNAL_BYTES, true);
	create_queues(r);
	newer = submit(r, 0, BACKEND_WRITE, 0, 0x44);
	assert_int_equal(finish(r, newer), 0);
	assert_disk(r, 0, 0x44);
	assert_disk(r, BLOCK, 0x22);
	end(r);
	munmap(left, JOURNAL_BYTES);
}

/* Nothing was lost, or everything may be; and what it has no log of, a flush tells, once. */
static void test_successor_flushes(void **state)
{
	const struct {
		const struct backend_options *options; /* of the killed process */
		bool flushed, none;
		unsigned int damage;
		int flush;
	} rows[] = {
		{ &with_log, true, false, 0, 0 },
		{ &without_log, true, false, 0, 0 },
		{ &without_log, false, false, 0, -EIO },
		{ &with_log, false, false, 8192 + 16, -EIO },
		{ &with_log, true, true, 0, -EIO },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t *left = killed(rows[i].options, rows[i].flushed);
		struct rig *r;

		if (rows[i].damage)
			left[rows[i].damage] ^= 1;
		r = start_with_journal("hs serve", &with_log, rows[i].none ? NULL : left,
				       rows[i].none ? 0 : JOURNAL_BYTES, true);
		assert_int_equal(stats_of(r).replayed, 0);
		assert_int_equal(run(r, BACKEND_WRITE, 0, 0x55), 0);
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), rows[i].flush);
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
		end(r);
		/* A successor's successor does not tell it again. */
		r = start_with_journal("hs serve", &with_log, left, JOURNAL_BYTES, true);
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
		end(r);
		munmap(left, JOURNAL_BYTES);
	}
}

/* A loss that no flush has told yet, when the process is killed. */
static void test_successor_tells_of_a_loss(void **state)
{
	uint8_t *memory = map_journal();
	struct rig *r = start_with_journal(LOST_WRITES, &without_log, memory, JOURNAL_BYTES, false);

	(void)state;
	lose_writes(r);
	end(r);
	r = start_with_journal("hs serve", &without_log, memory, JOURNAL_BYTES, true);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
	munmap(memory, JOURNAL_BYTES);
}

/* Three writes make it more than half full. */
static const struct backend_options small_log = { .replay_log = 4 * BLOCK };

static void fill_log(struct rig *r)
{
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(run(r, BACKEND_WRITE, i * BLOCK, 0x11), 0);
	assert_int_equal(stats_of(r).flushes, 1);
}

/*
 * Room is made in the log, and that flush fails, which a server may say only once. No
 * flush of the driver has heard it, so the next one fails; a successor's, too.
 */
static void test_own_flush_fails(void **state)
{
	uint8_t *memory = map_journal(), *left = map_journal();
	struct rig *r = start_with_journal("hs req ok:0 req ok:1 req ok:2 req fail:3:5 serve",
					   &small_log, memory, JOURNAL_BYTES, false);

	(void)state;
	fill_log(r);
	/* Answered after it. */
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	memcpy(left, memory, JOURNAL_BYTES);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
	r = start_with_journal("hs serve", &small_log, left, JOURNAL_BYTES, true);
	assert_int_equal(stats_of(r).replayed, 3);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
	munmap(left, JOURNAL_BYTES);
	munmap(memory, JOURNAL_BYTES);
}

/* Likewise before an idle connection is closed; the second flush there goes well. */
static void test_idle_flush_fails(void **state)
{
	const struct backend_options options = { .replay_log = 1 << 20, .tunables.idle_ms = 50 };
	struct rig *r = start("hs req ok:0 req fail:1:5 req ok:2 disc | hs serve", &options);

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	wait_for(r, !strcmp(stats_of(r).state, "idle"));
	assert_int_equal(stats_of(r).flushes, 2);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

/* Nobody but this side has ended it: nothing is known to be lost. */
static void test_own_flush_given_up(void **state)
{
	struct rig *r = start("hs req ok:0 req ok:1 req ok:2 req leave | hs serve", &small_log);

	(void)state;
	fill_log(r);
	turn(r, 20);
	backend_fail(r->backend);
	wait_for(r, stats_of(r).connects == 2);
	assert_int_equal(stats_of(r).replayed, 3);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

/* A flush of the driver has heard it: one of its flushes fails, not two. */
static void test_asked_flush_fails(void **state)
{
	const struct backend_options options = { .queues = 2, .replay_log = 1 << 20 };
	struct rig *r = start("hs leave | hs req ok:0 req fail:1:5 back:0 req ok:2 "
			      "back:0 req ok:3 back:0 req ok:4 serve", &options);

	(void)state;
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_WRITE, 0, 0x11, 0)), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

static bool successor_tells(void *memory)
{
	struct nbd_journals journals;
	enum nbd_journal_found found;
	struct error e = ERROR_INIT;
	uint8_t *left = map_journal();
	bool lost;

	memcpy(left, memory, JOURNAL_BYTES);
	assert_int_equal(nbd_journals_create(&journals, 1, 0), 0);
	assert_int_equal(nbd_journals_place(&journals, left, JOURNAL_BYTES, true, &found, &lost, &e),
			 0);
	nbd_journals_destroy(&journals);
	munmap(left, JOURNAL_BYTES);
	return lost;
}

/*
 * A loop that has been busy for a while has a flush fail because of a loss. Another
 * flush, submitted elsewhere in that while, does not know whether the driver has heard
 * of the first; one that is submitted afterwards can.
 */
static void test_when_a_loss_is_told(void **state)
{
	struct nbd_session s = { .nlinks = 1, .journaling = true };
	struct nbd_link link = { .session = &s };
	struct loop_params lp = { 0 };
	struct backend_request first = { 0 }, meanwhile = { 0 }, after = { 0 };
	uint8_t *memory = map_journal();
	struct error e = ERROR_INIT;
	uint64_t began;

	(void)state;
	assert_int_equal(loop_create(&lp, &link.loop, &e), 0);
	assert_int_equal(nbd_session_init(&s, 0), 0);
	nbd_session_use_journal(&s, memory, JOURNAL_BYTES, false, 0);
	pthread_mutex_lock(&s.lock);
	nbd_session_owe_flush_error(&s);
	pthread_mutex_unlock(&s.lock);
	first.losses = meanwhile.losses = after.losses = s.losses;
	began = loop_now_ns(link.loop);
	while ((meanwhile.since_ns = clock_now_ns()) == began)
		;
	assert_int_equal(nbd_flush_verdict(&link, &first), -EIO);
	assert_int_equal(nbd_flush_verdict(&link, &meanwhile), 0);
	assert_true(successor_tells(memory));
	while ((after.since_ns = clock_now_ns()) == s.told_ns)
		;
	assert_int_equal(nbd_flush_verdict(&link, &after), 0);
	assert_false(successor_tells(memory));
	nbd_session_release(&s);
	loop_destroy(link.loop);
	munmap(memory, JOURNAL_BYTES);
}

/* The server says it once, to one of two flushes that both have to make the same stable. */
static void test_flushes_side_by_side(void **state)
{
	struct rig *r = start("hs req ok:0 req req fail:1:5 ok:2 req ok:3 serve", &with_log);
	struct io *flush[2];

	(void)state;
	assert_int_equal(run(r, BACKEND_WRITE, 0, 1), 0);
	for (unsigned int i = 0; i < 2; i++)
		flush[i] = submit(r, i, BACKEND_FLUSH, 0, 0);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(finish(r, flush[i]), -EIO);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	end(r);
}

/* The driver flushes again as soon as it hears of the first end. */
static void flush_again(struct backend_request *req, int error)
{
	struct rig *r = container_of(req, struct rig, io[1].req);

	io_done(req, error);
	submit(r, 3, BACKEND_FLUSH, 0, 0);
}

/* A round that has failed has done so for all its flushes, also if it is followed at once. */
static void test_round_fails(void **state)
{
	const struct backend_options options = { .queues = 2, .replay_log = 1 << 20 };
	struct rig *r = start("hs leave | hs req ok:0 req fail:1:5 back:0 req ok:2 "
			      "back:0 req fail:3:5 back:0 req ok:4 "
			      "back:0 req ok:5 back:0 req ok:6 serve", &options);
	struct io *flush[3];

	(void)state;
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_WRITE, 0, 0x11, 0)), 0);
	for (unsigned int i = 0; i < 3; i++)
		flush[i] = submit(r, i, BACKEND_FLUSH, 0, 0);
	flush[1]->req.done = flush_again;
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(finish(r, flush[i]), -EIO);
	assert_int_equal(finish(r, &r->io[3]), 0);
	end(r);
}

/* What a process leaves that is killed in the middle of a replay. */
static uint8_t *killed_while_replaying(uint64_t third)
{
	uint8_t *left = killed_after(&with_log, false, third);
	struct nbd_journals journals;
	enum nbd_journal_found found;
	struct error e = ERROR_INIT;
	bool lost;

	assert_int_equal(nbd_journals_create(&journals, 1, 1 << 20), 0);
	assert_int_equal(nbd_journals_place(&journals, left, JOURNAL_BYTES, true, &found, &lost, &e),
			 0);
	nbd_journals_set_replaying(&journals, true);
	nbd_journals_destroy(&journals);
	return left;
}

/* A predecessor that was replaying may have those writes under way: newer ones wait. */
static void test_successor_fences_a_replay(void **state)
{
	const struct backend_options options = { .replay_log = 1 << 20, .tunables.fence_ms = 300 };
	uint8_t *left = killed_while_replaying(2 * BLOCK);
	struct rig *r = start_with_journal("hs serve", &options, left, JOURNAL_BYTES, true);

	(void)state;
	assert_int_equal(stats_of(r).replayed, 3);
	assert_int_equal(run(r, BACKEND_WRITE, 4 * BLOCK, 0x44), 0);
	assert_int_equal(stats_of(r).held, 0);
	assert_int_equal(run(r, BACKEND_WRITE, BLOCK, 0x44), 0);
	assert_int_equal(stats_of(r).held, 1);
	assert_disk(r, BLOCK, 0x44);
	end(r);
	munmap(left, JOURNAL_BYTES);
}

/* One that the predecessor had sent too, but after what it was replaying, waits as well. */
static void test_successor_fences_what_is_sent_again(void **state)
{
	const struct backend_options options = { .replay_log = 1 << 20,
						 .tunables.fence_ms = 3600000 };
	uint8_t *left = killed_while_replaying(2 * BLOCK);
	struct rig *r = start_with_journal("hs serve", &options, left, JOURNAL_BYTES, true);
	struct backend_tunables t = r->backend->options.tunables;
	struct io *again;

	(void)state;
	assert_int_equal(stats_of(r).replayed, 3);
	backend_prior_write(r->backend, BLOCK, BLOCK);
	again = submit_on(r, 0, 0, BACKEND_WRITE, BLOCK, 0x44, BACKEND_REQ_RESUBMIT);
	turn(r, 50);
	assert_int_equal(again->done, 0);
	assert_int_equal(stats_of(r).held, 1);
	t.fence_ms = 1;
	backend_set_tunables(r->backend, &t);
	assert_int_equal(finish(r, again), 0);
	assert_disk(r, BLOCK, 0x44);
	end(r);
	munmap(left, JOURNAL_BYTES);
}

/* --- a successor whose server is away --- */

static const struct backend_assumed promised = {
	.size = NBD_SCRIPT_SIZE,
	.block_size = 512,
	.flags = BACKEND_F_FLUSH | BACKEND_F_DISCARD | BACKEND_F_WRITE_ZEROES,
};

/* It opens, its requests wait, and when the server is there all is as it should be. */
static void test_server_away(void **state)
{
	const struct backend_options options = { .replay_log = 1 << 20, .assumed = &promised };
	struct rig *r = start("close | refuse:3 sleep:50 hs serve", &options);
	struct io *io;

	(void)state;
	assert_true(r->backend->info.assumed);
	assert_int_equal(r->backend->info.size, NBD_SCRIPT_SIZE);
	assert_int_equal(r->backend->info.block_size, 512);
	assert_non_null(strstr(r->backend->info.description, "not reached yet"));
	io = submit(r, 0, BACKEND_WRITE, 0, 0x11);
	turn(r, 20);
	assert_int_equal(io->done, 0);
	assert_int_equal(finish(r, io), 0);
	assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
	wait_for(r, r->changes[BACKEND_RESTORED]);
	assert_false(r->backend->info.assumed);
	assert_non_null(strstr(r->backend->info.description, "structured"));
	assert_int_equal(r->changes[BACKEND_LOST], 1);
	assert_int_equal(r->changes[BACKEND_GROWN] + r->changes[BACKEND_SHRUNK] +
				 r->changes[BACKEND_FLAGS_CHANGED], 0);
	assert_int_equal(stats_of(r).connects, 1);
	assert_disk(r, 0, 0x11);
	end(r);
}

/* What it offers then is compared with what the driver was promised. */
static void test_server_away_and_another(void **state)
{
	static const struct {
		const char *script;
		enum backend_change what;
		uint64_t size;
		int write, flush;
	} rows[] = {
		{ "close | " EXPORT(524288, 0x16d) "serve", BACKEND_SHRUNK, 524288, 0, 0 },
		{ "close | " EXPORT(2097152, 0x16d) "serve", BACKEND_GROWN, 2097152, 0, 0 },
		{ "close | " EXPORT(1048576, 0x16f) "serve", BACKEND_FLAGS_CHANGED, 1048576, -EIO, 0 },
		{ "close | " EXPORT(1048576, 0x161) "serve", BACKEND_FLAGS_CHANGED, 1048576, 0, -EIO },
	};
	const struct backend_options options = { .replay_log = 1 << 20, .assumed = &promised };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct rig *r = start(rows[i].script, &options);

		assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), rows[i].write);
		wait_for(r, r->changes[rows[i].what]);
		assert_int_equal(r->backend->info.size, rows[i].size);
		assert_int_equal(r->changes[BACKEND_GROWN] + r->changes[BACKEND_SHRUNK] +
					 r->changes[BACKEND_FLAGS_CHANGED], 1);
		assert_int_equal(run(r, BACKEND_READ, NBD_SCRIPT_SIZE - BLOCK, 0),
				 rows[i].size < NBD_SCRIPT_SIZE ? -EIO : 0);
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), rows[i].flush);
		end(r);
	}
}

/* Nobody comes: the waiting can be ended, and so can the process. */
static void test_server_away_for_good(void **state)
{
	const struct backend_options options = { .queues = 2, .assumed = &promised };
	struct rig *r = start("close | refuse:2 greet wait", &options);
	struct io *io;

	(void)state;
	assert_int_equal(r->backend->info.connections, 1);
	io = submit_on(r, 1, 0, BACKEND_READ, 0, 0, 0);
	turn(r, 30);
	assert_int_equal(io->done, 0);
	backend_fail(r->backend);
	assert_int_equal(finish(r, io), -EIO);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), -EIO);
	end(r);
}

/* As many connections as the killed process had, and its writes are written again. */
static void test_server_away_with_a_log(void **state)
{
	struct backend_assumed assumed = promised;
	struct backend_options options = { .queues = 2, .replay_log = 1 << 20,
					   .assumed = &assumed };
	uint8_t *left = map_journal();
	struct rig *r;
	struct error e = ERROR_INIT;

	(void)state;
	r = start_with_journal("hs leave | hs back:0 req ok:0 leave", &options, left, JOURNAL_BYTES,
			       false);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0x11), 0);
	end(r);

	assumed.journal = left;
	assumed.journal_bytes = JOURNAL_BYTES;
	r = open_rig(NULL, &options);
	assert_int_equal(nbd_script_start(&r->s, "close | close | close | hs serve:2 leave | hs leave"), 0);
	r->scripted = true;
	assert_int_equal(backend_open(r->s.uri, &r->options, &r->backend, &e), 0);
	assert_int_equal(r->backend->info.connections, 2);
	backend_use_journal(r->backend, left, JOURNAL_BYTES, true);
	create_queues(r);
	wait_for(r, stats_of_link(r, 0).replayed + stats_of_link(r, 1).replayed == 1);
	wait_for(r, stats_of_link(r, 0).connects + stats_of_link(r, 1).connects == 2);
	assert_disk(r, 0, 0x11);
	end(r);
	munmap(left, JOURNAL_BYTES);
}

/*
 * The killed process was replaying two writes to one block. Its successor sends the first
 * again, and the second when the predecessor's first can no longer follow it.
 */
static void successor_waits_for_a_replay(const char *script, const struct backend_options *options)
{
	uint8_t *left = killed_while_replaying(0);
	struct backend_tunables t;
	struct rig *r;

	r = start_with_journal(script, options, left, JOURNAL_BYTES, true);
	wait_for(r, !strcmp(stats_of(r).state, "fenced"));
	turn(r, 50);
	assert_string_equal(stats_of(r).state, "fenced");
	assert_int_equal(stats_of(r).connects, 0);
	assert_disk(r, 0, 0x11);
	assert_disk(r, BLOCK, 0x22);
	t = r->backend->options.tunables;
	t.fence_ms = 1;
	backend_set_tunables(r->backend, &t);
	wait_for(r, stats_of(r).connects);
	assert_int_equal(stats_of(r).replayed, 3);
	assert_disk(r, 0, 0x33);
	end(r);
	munmap(left, JOURNAL_BYTES);
}

/* With its server there it is started all the same: only requests wait for that. */
static void test_successor_waits_for_a_replay(void **state)
{
	struct backend_assumed assumed = promised;
	struct backend_options options = { .queues = 2,
					   .replay_log = 1 << 20,
					   .tunables.fence_ms = 3600000 };

	(void)state;
	successor_waits_for_a_replay("hs serve", &options);
	options.queues = 1;
	options.assumed = &assumed;
	successor_waits_for_a_replay("close | hs serve", &options);
}

/* --- nbdkit --- */

static void skip_without_nbdkit(void)
{
	if (nbdkit_installed())
		return;
	print_message("skipped: nbdkit is not installed\n");
	skip();
}

static struct rig *start_nbdkit(struct nbdkit *kit, const char *args,
				const struct backend_options *options)
{
	struct rig *r;
	char uri[512];

	assert_int_equal(nbdkit_start(kit, NBDKIT_UNIX, args), 0);
	snprintf(uri, sizeof(uri), kit->uri, "");
	r = open_rig(uri, options);
	create_queues(r);
	return r;
}

/* nbdkit's cache in write-back mode is lost with the process, as a disk's is with its power. */
static void test_write_back_cache(void **state)
{
	const struct backend_options *options[] = { &with_log, &without_log };

	(void)state;
	skip_without_nbdkit();
	for (int i = 0; i < 2; i++) {
		char path[] = "/tmp/test-nbd-link-XXXXXX", args[128];
		auto_close int fd = mkstemp(path);
		uint8_t back[BLOCK];
		struct nbdkit kit;
		struct rig *r;

		assert_true(fd >= 0 && !ftruncate(fd, 1 << 20));
		snprintf(args, sizeof(args), "--filter=cache file %s cache=writeback", path);
		r = start_nbdkit(&kit, args, options[i]);
		assert_int_equal(run(r, BACKEND_WRITE, BLOCK, 0x77), 0);
		assert_int_equal(pread(fd, back, BLOCK, BLOCK), BLOCK);
		assert_int_equal(back[0], 0);
		nbdkit_kill(&kit);
		/* Nobody listens, and it is tried again. */
		wait_for(r, losses(r, BACKEND_LOSS_REFUSED) >= 3);
		assert_int_equal(nbdkit_restart(&kit, NULL), 0);
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), i ? -EIO : 0);
		assert_int_equal(run(r, BACKEND_FLUSH, 0, 0), 0);
		assert_int_equal(pread(fd, back, BLOCK, BLOCK), BLOCK);
		assert_int_equal(back[0], i ? 0 : 0x77);
		end(r);
		nbdkit_stop(&kit);
		unlink(path);
	}
}

/* A write that takes longer than its limit, and a newer one to the same block. */
static void test_slow_nbdkit(void **state)
{
	const struct backend_options options = { .tunables.request_ms = 300 };
	struct nbdkit kit;
	struct rig *r;

	(void)state;
	skip_without_nbdkit();
	r = start_nbdkit(&kit, "--filter=delay memory 1M wdelay=500ms", &options);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xaa), 0);
	assert_true(losses(r, BACKEND_LOSS_REQUEST) >= 1);
	assert_int_equal(run(r, BACKEND_WRITE, 0, 0xbb), 0);
	turn(r, 1000);
	assert_int_equal(run(r, BACKEND_READ, 0, 0), 0);
	assert_int_equal(r->io[MAX_IO - 1].data[0], 0xbb);
	end(r);
	nbdkit_stop(&kit);
}

static unsigned int count_flushes(const struct nbdkit *kit)
{
	char name[128], line[512];
	unsigned int n = 0;
	FILE *f;

	snprintf(name, sizeof(name), "%s/log", kit->folder);
	f = fopen(name, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, " Flush id=") != NULL;
	fclose(f);
	return n;
}

/* A flush goes to each connection that has carried a write since its last one. */
static void test_flush_everywhere(void **state)
{
	const struct backend_options options = { .queues = 2, .replay_log = 1 << 20 };
	struct nbdkit kit;
	struct rig *r;

	(void)state;
	skip_without_nbdkit();
	r = start_nbdkit(&kit, "--filter=log memory 1M logfile=%D/log", &options);
	assert_int_equal(finish(r, submit_on(r, 0, 0, BACKEND_WRITE, 0, 1, 0)), 0);
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_WRITE, BLOCK, 1, 0)), 0);
	assert_int_equal(count_flushes(&kit), 0);
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_FLUSH, 0, 0, 0)), 0);
	assert_int_equal(count_flushes(&kit), 2);
	/* Nothing is dirty: only the own connection is asked. */
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_FLUSH, 0, 0, 0)), 0);
	assert_int_equal(count_flushes(&kit), 3);
	/* Only the other one is. */
	assert_int_equal(finish(r, submit_on(r, 0, 0, BACKEND_WRITE, 0, 2, 0)), 0);
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_FLUSH, 0, 0, 0)), 0);
	assert_int_equal(count_flushes(&kit), 5);
	assert_int_equal(stats_of(r).flushes, 2);
	end(r);
	nbdkit_stop(&kit);
}

/* A queue that goes while another one's flush has just asked it: that flush is answered. */
static void test_leave_with_flush_asked(void **state)
{
	const struct backend_options options = { .queues = 2, .replay_log = 1 << 20 };
	struct nbdkit kit;
	struct rig *r;
	struct io *io;

	(void)state;
	skip_without_nbdkit();
	r = start_nbdkit(&kit, "memory 1M", &options);
	assert_int_equal(finish(r, submit_on(r, 1, 0, BACKEND_WRITE, BLOCK, 1, 0)), 0);
	/* The order is on its way, and nothing has run since. */
	io = submit_on(r, 0, 0, BACKEND_FLUSH, 0, 0, 0);
	backend_queue_destroy(r->q[1]);
	r->q[1] = NULL;
	assert_int_equal(finish(r, io), 0);
	end(r);
	nbdkit_stop(&kit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request_timeout),
		cmocka_unit_test(test_patience),
		cmocka_unit_test(test_tunables_while_waiting),
		cmocka_unit_test(test_pauses),
		cmocka_unit_test(test_connect_timeout),
		cmocka_unit_test(test_tunables_in_other_states),
		cmocka_unit_test(test_io_timeout),
		cmocka_unit_test(test_io_timeout_on_the_wire),
		cmocka_unit_test(test_io_timeout_behind_another),
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_fail),
		cmocka_unit_test(test_fail_when_all_is_well),
		cmocka_unit_test(test_fail_when_idle),
		cmocka_unit_test(test_fail_when_going_idle),
		cmocka_unit_test(test_fail_a_flush_that_is_asked_for),
		cmocka_unit_test(test_fail_a_flush_that_waits),
		cmocka_unit_test(test_close_in_any_state),
		cmocka_unit_test(test_attempts),
		cmocka_unit_test(test_grown),
		cmocka_unit_test(test_shrunk),
		cmocka_unit_test(test_flags_lost),
		cmocka_unit_test(test_fua_lost),
		cmocka_unit_test(test_multi_conn_lost),
		cmocka_unit_test(test_refresh),
		cmocka_unit_test(test_refreshed),
		cmocka_unit_test(test_refresh_without_queues),
		cmocka_unit_test(test_renew_when_a_replay_ends),
		cmocka_unit_test(test_grown_during_a_replay),
		cmocka_unit_test(test_grown_during_a_handshake),
		cmocka_unit_test(test_late_write),
		cmocka_unit_test(test_fence_deadline),
		cmocka_unit_test(test_old_socket_goes_first),
		cmocka_unit_test(test_fence_tunable),
		cmocka_unit_test(test_late_write_after_close),
		cmocka_unit_test(test_close_shortens_fence),
		cmocka_unit_test(test_no_fence),
		cmocka_unit_test(test_prior_writes),
		cmocka_unit_test(test_prior_writes_elsewhere),
		cmocka_unit_test(test_replay),
		cmocka_unit_test(test_no_replay),
		cmocka_unit_test(test_replay_and_io_timeout),
		cmocka_unit_test(test_replay_patience),
		cmocka_unit_test(test_replay_after_flush),
		cmocka_unit_test(test_replay_with_fua),
		cmocka_unit_test(test_flush_in_flight),
		cmocka_unit_test(test_replay_interrupted),
		cmocka_unit_test(test_replay_waits_for_its_past),
		cmocka_unit_test(test_replay_waits_for_another_link),
		cmocka_unit_test(test_sent_again_after_a_replay),
		cmocka_unit_test(test_fail_while_a_replay_waits),
		cmocka_unit_test(test_replay_refused),
		cmocka_unit_test(test_idle_meets_another_server),
		cmocka_unit_test(test_idle_returns_without_a_log),
		cmocka_unit_test(test_idle_meets_a_loss_without_a_log),
		cmocka_unit_test(test_successor_replays),
		cmocka_unit_test(test_lent_log_is_left_alone),
		cmocka_unit_test(test_successor_replays_again),
		cmocka_unit_test(test_successor_flushes),
		cmocka_unit_test(test_successor_tells_of_a_loss),
		cmocka_unit_test(test_own_flush_fails),
		cmocka_unit_test(test_idle_flush_fails),
		cmocka_unit_test(test_own_flush_given_up),
		cmocka_unit_test(test_asked_flush_fails),
		cmocka_unit_test(test_when_a_loss_is_told),
		cmocka_unit_test(test_round_fails),
		cmocka_unit_test(test_flushes_side_by_side),
		cmocka_unit_test(test_successor_fences_a_replay),
		cmocka_unit_test(test_successor_fences_what_is_sent_again),
		cmocka_unit_test(test_successor_waits_for_a_replay),
		cmocka_unit_test(test_server_away),
		cmocka_unit_test(test_server_away_and_another),
		cmocka_unit_test(test_server_away_for_good),
		cmocka_unit_test(test_server_away_with_a_log),
		cmocka_unit_test(test_write_back_cache),
		cmocka_unit_test(test_slow_nbdkit),
		cmocka_unit_test(test_flush_everywhere),
		cmocka_unit_test(test_leave_with_flush_asked),
	};

	return cmocka_run_group_tests_name("nbd_link", tests, NULL, NULL);
}
