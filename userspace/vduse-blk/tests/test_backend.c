// SPDX-License-Identifier: MIT
/*
 * Backends through backend.h: verified random I/O on null, on a file, and on
 * nbdkit with its filters; what the server's log says about it; and the errors
 * that a user sees when a disk cannot be opened.
 *
 * With arguments it is a tool instead: test_backend URI [QUEUES [DEPTH [OPS
 * [BLOCKS]]]] exercises any server and prints figures.
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
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/parse.h"
#include "exerciser.h"
#include "nbdkit.h"

static void skip_with(const char *why)
{
	print_message("skipped: %s\n", why);
	skip();
}

/* --- verified I/O --- */

struct row {
	const char *name;
	enum nbdkit_address address;
	const char *server; /* nbdkit's arguments; NULL: @uri */
	const char *uri;
	struct exercise x;
	bool may_fail;	 /* some requests are expected to fail, at least one must */
	int first_error; /* of the first, 0: any */
	unsigned int connections;
	uint32_t flags;	   /* must be offered */
	uint32_t no_flags; /* must not */
};

#define ALL_FLAGS (BACKEND_F_FLUSH | BACKEND_F_FUA | BACKEND_F_DISCARD | BACKEND_F_WRITE_ZEROES)

static const struct row rows[] = {
	{
		.name = "unix socket",
		.server = "memory 64M",
		.x = { .blank = true, .idle_check = true },
		.connections = 1,
		.flags = ALL_FLAGS | BACKEND_F_MULTI_CONN,
	},
	{
		.name = "IPv4",
		.address = NBDKIT_IPV4,
		.server = "memory 64M",
		.x = { .blank = true, .idle_check = true },
		.connections = 1,
	},
	{
		.name = "IPv6",
		.address = NBDKIT_IPV6,
		.server = "memory 64M",
		.x = { .blank = true },
		.connections = 1,
	},
	{
		.name = "four queues, four connections",
		.server = "memory 64M",
		.x = { .options.queues = 4, .blank = true, .idle_check = true },
		.connections = 4,
	},
	{
		.name = "four queues, one connection by choice",
		.server = "memory 64M",
		.x = { .options.queues = 4,
		       .options.single_connection = true,
		       .blank = true,
		       .idle_check = true },
		.connections = 1,
	},
	{
		.name = "four queues, server without multi-conn",
		.server = "--filter=multi-conn memory 64M multi-conn-mode=disable",
		.x = { .options.queues = 4, .blank = true },
		.connections = 1,
		.no_flags = BACKEND_F_MULTI_CONN,
	},
	{
		.name = "large requests, received in place",
		.server = "memory 256M",
		.x = { .max_blocks = 3000, .ops = 400, .blank = true },
		.connections = 1,
	},
	{
		.name = "large requests over TCP, two queues",
		.address = NBDKIT_IPV4,
		.server = "memory 256M",
		.x = { .options.queues = 2, .max_blocks = 3000, .ops = 300, .blank = true },
		.connections = 2,
	},
	{
		.name = "simple replies",
		.server = "--no-sr memory 64M",
		.x = { .max_blocks = 200, .blank = true },
		.connections = 1,
	},
	{
		.name = "holes",
		.server = "--filter=nozero sparse-random 1G percent=20 random-content=false "
			  "runlength=20480 seed=5",
		.x = { .reads_only = true, .max_blocks = 256, .options.read_only = true },
		.connections = 1,
		.flags = BACKEND_F_READ_ONLY,
		.no_flags = BACKEND_F_DISCARD | BACKEND_F_WRITE_ZEROES | BACKEND_F_FLUSH,
	},
	{
		.name = "blocksize-policy: 4k minimum, 64k maximum",
		.server = "--filter=blocksize-policy memory 64M blocksize-minimum=4096 "
			  "blocksize-preferred=65536 blocksize-maximum=65536 "
			  "blocksize-error-policy=error",
		.x = { .max_blocks = 100, .ops = 800, .blank = true },
		.connections = 1,
	},
	{
		.name = "blocksize-policy: pieces wait for slots",
		.server = "--filter=blocksize-policy memory 64M blocksize-minimum=512 "
			  "blocksize-preferred=512 blocksize-maximum=4096 "
			  "blocksize-error-policy=error",
		.x = { .max_blocks = 700, .ops = 200, .options.queue_depth = 3, .blank = true },
		.connections = 1,
	},
	{
		.name = "more requests than slots",
		.server = "memory 64M",
		.x = { .depth = 128, .options.queue_depth = 2, .blank = true },
		.connections = 1,
	},
	{
		.name = "shared connection, more requests than slots",
		.server = "memory 64M",
		.x = { .depth = 64,
		       .options.queue_depth = 1,
		       .options.queues = 3,
		       .options.single_connection = true,
		       .blank = true },
		.connections = 1,
	},
	{
		.name = "no FUA: flushes follow writes",
		.server = "--filter=fua memory 64M",
		.x = { .blank = true },
		.connections = 1,
		.flags = BACKEND_F_FLUSH,
		.no_flags = BACKEND_F_FUA,
	},
	{
		.name = "no write-zeroes",
		.server = "--filter=nozero memory 64M",
		.x = { .blank = true },
		.connections = 1,
		.no_flags = BACKEND_F_WRITE_ZEROES,
	},
	{
		.name = "delay: answers out of order",
		.server = "-t 16 --filter=delay --filter=noextents memory 64M rdelay=2ms wdelay=5ms",
		.x = { .depth = 64, .ops = 600, .blank = true },
		.connections = 1,
	},
	{
		.name = "errors now and then",
		.server = "--filter=error memory 64M error=EIO error-rate=10%",
		.x = { .blank = true, .options.queues = 2 },
		.may_fail = true,
		.first_error = -EIO,
		.connections = 2,
	},
	{
		.name = "full server",
		.server = "--filter=error memory 64M error=ENOSPC error-pwrite-rate=100%",
		.x = { .blank = true },
		.may_fail = true,
		.first_error = -ENOSPC,
		.connections = 1,
	},
	{
		.name = "errors of split requests",
		.server = "--filter=blocksize-policy --filter=error memory 64M error=EPERM "
			  "error-pread-rate=20% blocksize-minimum=512 blocksize-preferred=4096 "
			  "blocksize-maximum=4096 blocksize-error-policy=error",
		.x = { .blank = true, .max_blocks = 300, .ops = 400, .options.queue_depth = 4 },
		.may_fail = true,
		.first_error = -EPERM,
		.connections = 1,
	},
	{
		.name = "errors in simple replies",
		.server = "--no-sr --filter=error memory 64M error=EIO error-rate=10%",
		.x = { .blank = true },
		.may_fail = true,
		.first_error = -EIO,
		.connections = 1,
	},
	{
		.name = "ring without deferred task work",
		.server = "memory 64M",
		.x = { .rung = LOOP_RUNG_COOP,
		       .options.queues = 2,
		       .blank = true,
		       .options.single_connection = true,
		       .idle_check = true },
		.connections = 1,
	},
	{
		.name = "ring without flags",
		.server = "memory 64M",
		.x = { .rung = LOOP_RUNG_PLAIN,
		       .options.queues = 2,
		       .blank = true,
		       .options.single_connection = true,
		       .idle_check = true },
		.connections = 1,
	},
	{
		.name = "4k blocks by choice",
		.server = "memory 64M",
		.x = { .options.block_size = 4096, .blank = true },
		.connections = 1,
	},
	{
		.name = "null",
		.uri = "null:1G",
		.x = { .reads_only = true, .blank = true, .options.queues = 2, .idle_check = true },
		.flags = ALL_FLAGS,
	},
};

static void check_row(const struct row *row, const char *uri)
{
	struct exercise_result r;
	struct error e = ERROR_INIT;
	struct exercise x = row->x;
	uint32_t flags;
	int ret;

	x.uri = uri;
	ret = exercise_run(&x, &r, &e);
	if (ret)
		fail_msg("%s: %s", row->name, e.text);
	flags = r.info.flags;
	if (r.requests != r.wanted || r.mismatches || r.wakeups || (r.errors != 0) != row->may_fail)
		fail_msg("%s: %u requests, %u errors, %u mismatches, %u wake-ups", row->name,
			 r.requests, r.errors, r.mismatches, r.wakeups);
	if (row->first_error && r.first_error != row->first_error)
		fail_msg("%s: error %d, expected %d", row->name, r.first_error, row->first_error);
	if (r.info.connections != row->connections)
		fail_msg("%s: %u connections", row->name, r.info.connections);
	if ((flags & row->flags) != row->flags || (flags & row->no_flags))
		fail_msg("%s: flags 0x%x", row->name, flags);
	print_message("%s: %u requests, %.2f system calls each\n", row->name, r.requests,
		      (double)r.enters / r.requests);
}

static void test_rows(void **state)
{
	struct nbdkit kit;
	char uri[512];
	int ret;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *row = &rows[i];

		if (!row->server) {
			check_row(row, row->uri);
			continue;
		}
		if (!nbdkit_installed())
			continue;
		ret = nbdkit_start(&kit, row->address, row->server);
		if (ret == -EADDRNOTAVAIL) {
			print_message("%s: left out, no such loopback address\n", row->name);
			continue;
		}
		if (ret)
			fail_msg("%s: nbdkit does not start: %s", row->name, strerror(-ret));
		snprintf(uri, sizeof(uri), kit.uri, "");
		check_row(row, uri);
		nbdkit_stop(&kit);
	}
	if (!nbdkit_installed())
		skip_with("nbdkit is not installed");
}

/* --- files --- */

static void test_file(void **state)
{
	char path[] = "/tmp/test-backend-XXXXXX", uri[64];
	struct exercise x = { .blank = true, .options.queues = 2, .idle_check = true };
	struct exercise_result r;
	struct error e = ERROR_INIT;
	auto_close int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 32 << 20), 0);
	snprintf(uri, sizeof(uri), "file://%s", path);
	x.uri = uri;
	if (exercise_run(&x, &r, &e))
		fail_msg("%s", e.text);
	assert_int_equal(r.errors, 0);
	assert_int_equal(r.mismatches, 0);
	assert_int_equal(r.wakeups, 0);
	assert_int_equal(r.info.size, 32 << 20);
	assert_int_equal(r.info.connections, 0);
	unlink(path);
}

struct single {
	struct backend_request req;
	struct loop *loop;
	int error;
};

static void single_done(struct backend_request *req, int error)
{
	struct single *single = container_of(req, struct single, req);

	single->error = error;
	loop_stop(single->loop);
}

static int run_single(struct loop *loop, struct backend_queue *q, enum backend_op op,
		      uint64_t offset, void *buf, size_t length)
{
	struct iovec iov = { buf, length };
	struct single single = {
		.req = { .op = op,
			 .offset = offset,
			 .length = length,
			 .iov = &iov,
			 .niov = 1,
			 .done = single_done },
		.loop = loop,
	};

	backend_submit(q, &single.req);
	assert_int_equal(loop_run(loop), 0);
	return single.error;
}

/* Somebody cuts the file while it is in use: what is behind its new end fails. */
static void test_file_shrinks(void **state)
{
	char path[] = "/tmp/test-backend-XXXXXX", uri[64];
	struct backend_options options = { 0 };
	struct loop_params lp = { 0 };
	static uint8_t buf[8192];
	struct backend_queue *q;
	struct backend *backend;
	struct loop *loop;
	struct error e = ERROR_INIT;
	auto_close int fd = mkstemp(path);

	(void)state;
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	snprintf(uri, sizeof(uri), "file://%s", path);
	assert_int_equal(backend_open(uri, &options, &backend, &e), 0);
	assert_int_equal(loop_create(&lp, &loop, &e), 0);
	assert_int_equal(backend_queue_create(backend, loop, 0, &q, &e), 0);

	assert_int_equal(ftruncate(fd, 512 << 10), 0);
	assert_int_equal(run_single(loop, q, BACKEND_READ, 0, buf, 8192), 0);
	assert_int_equal(run_single(loop, q, BACKEND_READ, 768 << 10, buf, 8192), -EIO);
	/* Half of it is there: the first answer is short, the second empty. */
	assert_int_equal(run_single(loop, q, BACKEND_READ, (512 << 10) - 4096, buf, 8192), -EIO);

	backend_queue_destroy(q);
	loop_destroy(loop);
	backend_close(backend);
	unlink(path);
}

struct seen_change {
	unsigned int n, refreshed;
	enum backend_change what;
	uint64_t size;
};

static void see_change(void *opaque, const struct backend_info *now, enum backend_change what)
{
	struct seen_change *seen = opaque;

	seen->n++;
	seen->what = what;
	seen->size = now->size;
}

static void see_refreshed(void *opaque, int error)
{
	struct seen_change *seen = opaque;

	assert_int_equal(error, 0);
	seen->refreshed++;
}

/* A file does not say when its size changes, so it is asked. */
static void test_file_refresh(void **state)
{
	char path[] = "/tmp/test-backend-XXXXXX", uri[64];
	struct seen_change seen = { 0 };
	struct backend_options options = { .events = { .changed = see_change,
						       .refreshed = see_refreshed,
						       .opaque = &seen },
					   .tunables = { .request_ms = 1234,
							 .reconnect_min_ms = 20000 } };
	struct backend_link_stats stats;
	struct backend *backend;
	struct error e = ERROR_INIT;
	auto_close int fd = mkstemp(path);

	(void)state;
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	snprintf(uri, sizeof(uri), "file://%s", path);
	assert_int_equal(backend_open(uri, &options, &backend, &e), 0);
	backend_refresh(backend);
	assert_int_equal(seen.n, 0);
	assert_int_equal(seen.refreshed, 1);

	assert_int_equal(ftruncate(fd, (2 << 20) + 100), 0);
	backend_refresh(backend);
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.what, BACKEND_GROWN);
	assert_int_equal(seen.size, 2 << 20);
	assert_int_equal(backend->info.size, 2 << 20);

	assert_int_equal(ftruncate(fd, 4096), 0);
	backend_refresh(backend);
	assert_int_equal(seen.n, 2);
	assert_int_equal(seen.what, BACKEND_SHRUNK);
	assert_int_equal(seen.size, 4096);
	assert_int_equal(seen.refreshed, 3);

	/* No connection, so nothing to fail and nothing to count. */
	backend_fail(backend);
	assert_int_equal(backend_link_stats(backend, 0, &stats), -ENOENT);
	assert_int_equal(backend->options.tunables.request_ms, 1234);
	assert_int_equal(backend->options.tunables.handshake_ms, 10000);
	assert_int_equal(backend->options.tunables.idle_ms, BACKEND_NEVER);
	assert_int_equal(backend->options.tunables.reconnect_max_ms, 20000);
	backend_set_tunables(backend, &(struct backend_tunables){ .request_ms = 77 });
	assert_int_equal(backend->options.tunables.request_ms, 77);
	assert_int_equal(backend->options.tunables.fence_ms, 30000);
	assert_int_equal(backend->options.tunables.fence_closed_ms, 2000);
	backend_close(backend);
	unlink(path);
}

static void test_file_lock(void **state)
{
	char path[] = "/tmp/test-backend-XXXXXX", uri[64];
	struct backend_options writer = { 0 }, reader = { .read_only = true };
	struct backend *first, *second;
	struct error e = ERROR_INIT;
	auto_close int fd = mkstemp(path);

	(void)state;
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	snprintf(uri, sizeof(uri), "file://%s", path);
	assert_int_equal(backend_open(uri, &writer, &first, &e), 0);
	assert_int_equal(backend_open(uri, &writer, &second, &e), -EBUSY);
	assert_non_null(strstr(e.text, "another process uses it"));
	assert_int_equal(backend_open(uri, &reader, &second, &e), -EBUSY);
	backend_close(first);

	assert_int_equal(backend_open(uri, &reader, &first, &e), 0);
	assert_int_equal(backend_open(uri, &reader, &second, &e), 0);
	backend_close(second);
	backend_close(first);
	unlink(path);
}

/* --- a server that dies --- */

struct killer {
	pthread_t thread;
	struct nbdkit *kit;
	unsigned int rounds;
	bool restart;
	int error;
	unsigned int queues;
	sem_t started, over;
};

static void *kill_soon(void *arg)
{
	struct killer *k = arg;

	for (unsigned int i = 0; i < k->queues; i++)
		while (sem_wait(&k->started))
			;
	for (unsigned int i = 0; i < k->rounds && !k->error; i++) {
		usleep(150000);
		nbdkit_kill(k->kit);
		if (k->restart)
			k->error = nbdkit_restart(k->kit, NULL);
	}
	/* A server ends with the thread that has started it. */
	while (sem_wait(&k->over))
		;
	return NULL;
}

/* The rounds begin when all queues of @x have. */
static void killer_start(struct killer *k, struct exercise *x)
{
	k->queues = x->options.queues;
	x->started = &k->started;
	sem_init(&k->started, 0, 0);
	sem_init(&k->over, 0, 0);
	pthread_create(&k->thread, NULL, kill_soon, k);
}

static void killer_join(struct killer *k)
{
	sem_post(&k->over);
	pthread_join(k->thread, NULL);
	sem_destroy(&k->over);
	sem_destroy(&k->started);
}

static const struct backend_options dying_options[] = {
	{ .queues = 1 },
	{ .queues = 4 },
	{ .queues = 3, .single_connection = true },
	{ .queues = 3, .single_connection = true, .queue_depth = 1 },
};

/* It does not come back: whatever is in flight or comes later fails in time; nothing hangs. */
static void test_server_dies(void **state)
{
	struct exercise_result r;
	struct error e = ERROR_INIT;
	struct nbdkit kit;
	char uri[512];

	(void)state;
	if (!nbdkit_installed())
		skip_with("nbdkit is not installed");
	for (size_t i = 0; i < ARRAY_SIZE(dying_options); i++) {
		struct exercise x = { .options = dying_options[i], .blank = true, .uri = uri };
		struct killer k = { .kit = &kit, .rounds = 1 };

		x.options.tunables.io_timeout_ms = 300;
		/* Slow enough to be in the middle of it. */
		assert_int_equal(nbdkit_start(&kit, NBDKIT_UNIX,
					      "--filter=delay memory 64M rdelay=10ms wdelay=10ms"),
				 0);
		snprintf(uri, sizeof(uri), kit.uri, "");
		killer_start(&k, &x);
		if (exercise_run(&x, &r, &e))
			fail_msg("row %zu: %s", i, e.text);
		killer_join(&k);
		nbdkit_stop(&kit);
		assert_int_equal(r.requests, r.wanted);
		assert_int_equal(r.mismatches, 0);
		assert_int_equal(r.first_error, -EIO);
		print_message("row %zu: %u of %u requests failed\n", i, r.errors, r.requests);
	}
}

/* It comes back, several times: no request fails, and everything reads as it was written. */
static void test_server_restarts(void **state)
{
	struct exercise_result r;
	struct error e = ERROR_INIT;
	struct nbdkit kit;
	char uri[512];

	(void)state;
	if (!nbdkit_installed())
		skip_with("nbdkit is not installed");
	for (size_t i = 0; i < ARRAY_SIZE(dying_options); i++) {
		struct exercise x = { .options = dying_options[i], .blank = true, .uri = uri };
		struct killer k = { .kit = &kit, .rounds = 3, .restart = true };
		char path[] = "/tmp/test-backend-XXXXXX", args[128];
		auto_close int fd = mkstemp(path);

		x.options.replay_log = BACKEND_REPLAY_LOG_DEFAULT;
		x.ops = 3000;
		assert_true(fd >= 0 && !ftruncate(fd, 64 << 20));
		snprintf(args, sizeof(args), "--filter=delay file %s rdelay=2ms wdelay=5ms", path);
		assert_int_equal(nbdkit_start(&kit, NBDKIT_UNIX, args), 0);
		snprintf(uri, sizeof(uri), kit.uri, "");
		killer_start(&k, &x);
		if (exercise_run(&x, &r, &e))
			fail_msg("row %zu: %s", i, e.text);
		killer_join(&k);
		nbdkit_stop(&kit);
		unlink(path);
		assert_int_equal(k.error, 0);
		assert_int_equal(r.requests, r.wanted);
		assert_int_equal(r.mismatches, 0);
		assert_int_equal(r.errors, 0);
		assert_true(r.lost > 0);
		print_message("row %zu: %u requests, %u losses, %u sent again, %u replayed\n", i,
			      r.requests, r.lost, r.resubmitted, r.replayed);
	}
}

/* --- what goes over the wire --- */

static unsigned int count_lines(const char *text, const char *a, const char *b)
{
	unsigned int n = 0;

	while (*text) {
		size_t len = strcspn(text, "\n");
		const char *pa = memmem(text, len, a, strlen(a));

		if (pa && (!b || memmem(text, len, b, strlen(b))))
			n++;
		text += len + (text[len] == '\n');
	}
	return n;
}

static char *read_file(const char *name)
{
	auto_close int fd = open(name, O_RDONLY);
	struct stat st;
	char *text;

	assert_true(fd >= 0 && !fstat(fd, &st));
	text = calloc(1, (size_t)st.st_size + 1);
	assert_non_null(text);
	assert_int_equal(read(fd, text, (size_t)st.st_size), st.st_size);
	return text;
}

static char *run_logged(const char *filters, const struct exercise *x, struct exercise_result *r)
{
	char args[256], uri[512], name[128];
	struct error e = ERROR_INIT;
	struct exercise copy = *x;
	struct nbdkit kit;
	char *text;

	snprintf(args, sizeof(args), "--filter=log %s logfile=%%D/log", filters);
	assert_int_equal(nbdkit_start(&kit, NBDKIT_UNIX, args), 0);
	snprintf(uri, sizeof(uri), kit.uri, "");
	copy.uri = uri;
	if (exercise_run(&copy, r, &e))
		fail_msg("%s", e.text);
	/* The server writes the last lines when it has seen the disconnect. */
	usleep(200000);
	snprintf(name, sizeof(name), "%s/log", kit.folder);
	text = read_file(name);
	nbdkit_stop(&kit);
	return text;
}

static void test_log_fua(void **state)
{
	struct exercise x = { .blank = true };
	struct exercise_result r;
	char *log;

	(void)state;
	if (!nbdkit_installed())
		skip_with("nbdkit is not installed");
	log = run_logged("memory 64M", &x, &r);
	assert_int_equal(count_lines(log, " Read id=", NULL), r.by_op[BACKEND_READ]);
	assert_int_equal(count_lines(log, " Write id=", NULL), r.by_op[BACKEND_WRITE]);
	assert_int_equal(count_lines(log, " Flush id=", NULL), r.by_op[BACKEND_FLUSH]);
	assert_int_equal(count_lines(log, " Trim id=", NULL), r.by_op[BACKEND_DISCARD]);
	assert_int_equal(count_lines(log, " Zero id=", NULL), r.by_op[BACKEND_WRITE_ZEROES]);
	assert_true(count_lines(log, " Write id=", "fua=1") > 0);
	assert_true(count_lines(log, " Zero id=", "fua=1") > 0);
	/* Half of the write-zeroes may unmap, the others must not. */
	assert_true(count_lines(log, " Zero id=", "trim=1") > 0);
	assert_true(count_lines(log, " Zero id=", "trim=0") > 0);
	/* One connection only: open()'s was taken over; and it ended in due form. */
	assert_int_equal(count_lines(log, " Connect ", NULL), 1);
	assert_int_equal(count_lines(log, " Disconnect ", NULL), 1);
	free(log);
}

static void test_log_no_fua(void **state)
{
	struct exercise x = { .blank = true };
	struct exercise_result r, with_fua;
	unsigned int fua;
	char *log;

	(void)state;
	if (!nbdkit_installed())
		skip_with("nbdkit is not installed");
	/* The same seed makes the same requests, apart from their order. */
	log = run_logged("memory 64M", &x, &with_fua);
	fua = count_lines(log, "fua=1", NULL);
	free(log);
	assert_true(fua > 0);
	log = run_logged("--filter=fua memory 64M", &x, &r);
	assert_int_equal(count_lines(log, "fua=1", NULL), 0);
	assert_true(count_lines(log, " Flush id=", NULL) > r.by_op[BACKEND_FLUSH]);
	free(log);
}

static void test_log_connections(void **state)
{
	struct exercise x = { .blank = true, .options.queues = 3 };
	struct exercise_result r;
	char *log;

	(void)state;
	if (!nbdkit_installed())
		skip_with("nbdkit is not installed");
	log = run_logged("memory 64M", &x, &r);
	assert_int_equal(count_lines(log, " Connect ", NULL), 3);
	free(log);
	x.options.single_connection = true;
	log = run_logged("memory 64M", &x, &r);
	assert_int_equal(count_lines(log, " Connect ", NULL), 1);
	free(log);
}

/* --- errors at opening --- */

struct refusal {
	const char *server; /* NULL: @uri stands for itself */
	const char *uri;    /* or the export name, if there is a server */
	struct backend_options options;
	int ret;
	const char *text;
};

static const struct refusal refusals[] = {
	{ NULL, "", { 0 }, -EINVAL, "URI: empty" },
	{ NULL, "disk", { 0 }, -EINVAL, "does not begin with a scheme" },
	{ NULL, "ftp://host/x", { 0 }, -EINVAL, "unknown scheme 'ftp'" },
	{ NULL, "nbd:host", { 0 }, -EINVAL, "'//' is missing" },
	{ NULL, "nbd:///export", { 0 }, -EINVAL, "host is missing" },
	{ NULL, "nbd://h:0/", { 0 }, -EINVAL, "not in 1...65535" },
	{ NULL, "nbd://h/e?x=1", { 0 }, -EINVAL, "unknown parameter 'x'" },
	{ NULL, "nbd+unix:///e", { 0 }, -EINVAL, "socket is missing" },
	{ NULL, "nbd+unix://h/e?socket=/x", { 0 }, -EINVAL, "nbd+unix has no host" },
	{ NULL, "nbd+unix:///e?socket=", { 0 }, -EINVAL, "empty socket path" },
	{ NULL,
	  "nbd+unix:///e?socket=/nonexistent/s",
	  { 0 },
	  -ENOENT,
	  "cannot connect to nbd server /nonexistent/s: No such file" },
	{ NULL,
	  "nbd://127.0.0.1:1/",
	  { 0 },
	  -ECONNREFUSED,
	  "cannot connect to nbd server 127.0.0.1:1: Connection refused" },
	{ NULL, "nbd://no-such-host.invalid/", { 0 }, -EHOSTUNREACH, "cannot resolve host" },
	{ NULL, "null:0", { 0 }, -EINVAL, "the size is zero" },
	{ NULL, "null:1000", { 0 }, -EINVAL, "1000 bytes, is not a multiple of the block size, 512" },
	{ NULL, "null:5k", { .block_size = 4096 }, -EINVAL, "not a multiple of the block size, 4096" },
	{ NULL, "null:1M", { .block_size = 1000 }, -EINVAL, "not a power of two" },
	{ NULL, "null:1M", { .block_size = 8192 }, -EINVAL, "not a power of two in 512...4096" },
	{ NULL, "null:12x", { 0 }, -EINVAL, "is not a size" },
	{ NULL, "null:", { 0 }, -EINVAL, "is not a size" },
	{ NULL, "null:99999999T", { 0 }, -ERANGE, "too large" },
	{ NULL, "null://1M", { 0 }, -EINVAL, "null has no host" },
	{ NULL, "file:///nonexistent", { 0 }, -ENOENT, "cannot open it: No such file" },
	{ NULL, "file:///tmp", { 0 }, -EISDIR, "Is a directory" },
	{ NULL, "file:///tmp", { .read_only = true }, -EINVAL, "neither a regular file" },
	{ NULL, "file://host/x", { 0 }, -EINVAL, "file has no host" },
	{ NULL, "file:x", { 0 }, -EINVAL, "absolute path" },
	{ "memory 0", "", { 0 }, -EINVAL, "the size is zero" },
	{ "memory 1000", "", { 0 }, -EINVAL, "1000 bytes, is not a multiple of the block size" },
	{ "-r memory 1M", "", { 0 }, -EROFS, "read-only (use --read-only)" },
	{ "--filter=exportname memory 1M exportname=disk exportname-strict=true",
	  "wrong",
	  { 0 },
	  -ENOENT,
	  "server has no export 'wrong'" },
	{ "--filter=blocksize-policy memory 1M blocksize-minimum=8192 "
	  "blocksize-preferred=8192 blocksize-maximum=65536",
	  "",
	  { 0 },
	  -EINVAL,
	  "needs blocks of 8192 bytes" },
	{ "--filter=blocksize-policy memory 1M blocksize-minimum=4096 "
	  "blocksize-preferred=8192 blocksize-maximum=65536",
	  "",
	  { .block_size = 512 },
	  -EINVAL,
	  "block size 512 is smaller than the storage's, 4096" },
	{ "-o memory 1M", "", { 0 }, -ENOTSUP, "oldstyle" },
	{ "--mask-handshake=0 memory 1M", "", { 0 }, -ENOTSUP, "fixed newstyle" },
};

static void check_refusal(const struct refusal *r, const char *uri)
{
	struct backend *backend;
	struct error e = ERROR_INIT;
	int ret = backend_open(uri, &r->options, &backend, &e);

	if (!ret) {
		backend_close(backend);
		fail_msg("'%s' (%s) opened", uri, r->server ? r->server : "");
	}
	if (ret != r->ret || e.errnum != -ret || !strstr(e.text, r->text))
		fail_msg("'%s' (%s): %d '%s', expected %d '%s'", uri, r->server ? r->server : "",
			 ret, e.text, r->ret, r->text);
}

static void test_refusals(void **state)
{
	struct nbdkit kit;
	char uri[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		const struct refusal *r = &refusals[i];

		if (!r->server) {
			check_refusal(r, r->uri);
			continue;
		}
		if (!nbdkit_installed())
			continue;
		if (nbdkit_start(&kit, NBDKIT_UNIX, r->server))
			fail_msg("nbdkit %s does not start", r->server);
		snprintf(uri, sizeof(uri), kit.uri, r->uri);
		check_refusal(r, uri);
		nbdkit_stop(&kit);
	}
	if (!nbdkit_installed())
		skip_with("nbdkit is not installed");
}

static int run_as_tool(int argc, char **argv)
{
	struct exercise x = {
		.uri = argv[1], .depth = 32, .ops = 100000, .max_blocks = 8, .seed = 1
	};
	unsigned int *numbers[] = { &x.options.queues, &x.depth, &x.ops, &x.max_blocks };
	struct exercise_result r;
	struct error e = ERROR_INIT;

	x.single_size = true;
	for (int i = 2; i < argc && i - 2 < (int)ARRAY_SIZE(numbers); i++)
		if (parse_uint(argv[i], 1, 100000000, numbers[i - 2], &e) < 0)
			goto fail;
	x.depth = min(x.depth, (unsigned int)EXERCISE_MAX_DEPTH);
	if (exercise_run(&x, &r, &e) < 0)
		goto fail;
	printf("%s\n%u requests, %u errors, %u mismatches, %.3f system calls a request\n",
	       r.info.description, r.requests, r.errors, r.mismatches,
	       (double)r.enters / r.requests);
	return r.errors || r.mismatches;

fail:
	fprintf(stderr, "error %d: %s\n", e.errnum, e.text);
	return 1;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),	    cmocka_unit_test(test_file),
		cmocka_unit_test(test_file_lock),   cmocka_unit_test(test_file_shrinks),
		cmocka_unit_test(test_file_refresh),
		cmocka_unit_test(test_server_dies), cmocka_unit_test(test_server_restarts),
		cmocka_unit_test(test_log_fua),
		cmocka_unit_test(test_log_no_fua),  cmocka_unit_test(test_log_connections),
		cmocka_unit_test(test_refusals),
	};

	if (argc == 3 && !strcmp(argv[1], "--only")) {
		cmocka_set_test_filter(argv[2]);
		return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
	}
	if (argc > 1)
		return run_as_tool(argc, argv);
	return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
