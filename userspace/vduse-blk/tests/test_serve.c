// SPDX-License-Identifier: MIT
/*
 * A whole daemon in this process, behind a vhost-user socket: the commands of the
 * control socket, growing and shrinking storage, and that an end comes soon
 * whatever the storage does.
 *
 * The storage is null:, with its submit and fail replaced, so that a test says
 * when it answers; what becomes of it is told through the backend's events. The
 * last tests have nbdkit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/control_client.h"
#include "cmd/serve.h"
#include "nbdkit.h"
#include "transport/vhost_user.h"
#include "vhost_user_rig.h"

#define BIT(n)	(1ull << (n))
#define MIB	(1ull << 20)
#define SIZE	(16 * MIB)
#define NAME	"test-serve"
#define HELD	64u

struct daemon {
	char root[64];
	char socket[96];
	struct serve s;
	struct backend_ops ops;
	const struct backend_ops *null_ops;
	pthread_t thread;
	sem_t ready;
	int close_error;

	/* A call on the main loop's thread. */
	int call_fd;
	struct loop_op call_op;
	void (*call)(struct daemon *d);
	bool calling;
	sem_t called;

	/* The storage. */
	atomic_bool hangs, deaf; /* does not answer; not even to fail() */
	atomic_bool refuses; /* answers with an error */
	atomic_bool dirty; /* a flush is owed */
	atomic_uint nheld, fails, refreshes, flushes;
	struct backend_request *held[HELD]; /* the queue's thread */
	struct loop *queue_loop;
	struct loop_msg answer_msg;
	int answer;
	struct loop_timer answer_timer;
	unsigned int early_flushes; /* before that expired */
	bool grow_on_refresh, hold_refresh; /* until the control socket is closed */
	bool grow_last; /* when the transport is closed */
	bool late_stop; /* when the main loop has ended */
	int refresh_error;
	struct backend_info now;
};

/* There is one at a time, and backends have no room for a pointer. */
static struct daemon d;

/* --- storage --- */

static void answer_held(struct loop_op *op, int res, uint32_t flags)
{
	(void)op;
	(void)res;
	(void)flags;
	while (d.nheld)
		d.held[--d.nheld]->done(d.held[d.nheld], d.answer);
}

/* On the main loop's thread. */
static void send_answer(int error)
{
	d.answer = error;
	d.answer_msg.op.complete = answer_held;
	loop_send(d.s.loop, d.queue_loop, &d.answer_msg, 0);
}

/* On the queue's: never from inside submit(). */
static void refuse_held(struct loop_timer *timer)
{
	(void)timer;
	d.answer = -EIO;
	answer_held(NULL, 0, 0);
}

static void submit(struct backend_queue *queue, struct backend_request *req)
{
	d.flushes += req->op == BACKEND_FLUSH;
	if (!d.hangs && !d.refuses) {
		d.null_ops->submit(queue, req);
		return;
	}
	d.queue_loop = queue->loop;
	assert_true(d.nheld < HELD);
	d.held[d.nheld++] = req;
	if (d.refuses) {
		d.answer_timer.expired = refuse_held;
		loop_timer_arm(queue->loop, &d.answer_timer, 0);
	}
}

static void fail_backend(struct backend *backend)
{
	(void)backend;
	d.fails++;
	if (!d.deaf && d.nheld)
		send_answer(-EIO);
}

static void tell(enum backend_change what)
{
	d.s.backend->info = d.now;
	d.s.backend->options.events.changed(&d.s, &d.s.backend->info, what);
}

static void refresh(struct backend *backend)
{
	d.refreshes++;
	if (d.hold_refresh)
		return;
	if (d.grow_on_refresh) {
		d.now.size *= 2;
		tell(BACKEND_GROWN);
	}
	backend_refreshed(backend, d.refresh_error);
}

static bool owes_flush(struct backend *backend)
{
	(void)backend;
	return d.dirty;
}

/* --- the daemon --- */

static void watch_calls(void)
{
	d.calling = true;
	io_uring_prep_poll_add(loop_sqe(d.s.loop, &d.call_op), d.call_fd, POLLIN);
}

static void call_came(struct loop_op *op, int res, uint32_t flags)
{
	uint64_t value;

	(void)op;
	(void)flags;
	d.calling = false;
	if (res < 0) {
		loop_stop(d.s.loop);
		return;
	}
	assert_int_equal(read(d.call_fd, &value, sizeof(value)), sizeof(value));
	d.call(&d);
	sem_post(&d.called);
	watch_calls();
}

static void on_loop(void (*call)(struct daemon *d))
{
	const uint64_t one = 1;

	d.call = call;
	assert_int_equal(write(d.call_fd, &one, sizeof(one)), sizeof(one));
	while (sem_wait(&d.called))
		;
}

static void set_up(struct error *e)
{
	struct serve *s = &d.s;
	struct vhost_user_params params = {
		.name = NAME,
		.socket_path = d.socket,
		.nqueues = s->options.queues,
		.queue_size = RIG_QUEUE_SIZE,
	};
	struct control_params control = { .handle = serve_control, .group = CONTROL_NO_GROUP };
	const struct loop_params loop = { .name = "main" };

	assert_int_equal(runtime_acquire(d.root, NAME, geteuid(), getegid(), &s->runtime, e), 0);
	assert_int_equal(control_socket_bind(d.root, NAME, geteuid(), CONTROL_NO_GROUP,
					     &control.fd, e), 0);
	assert_int_equal(loop_create(&loop, &s->loop, e), 0);
	assert_int_equal(serve_open_storage(s, e), 0);
	d.null_ops = s->backend->ops;
	d.ops = *s->backend->ops;
	d.ops.submit = submit;
	d.ops.fail = fail_backend;
	d.ops.refresh = refresh;
	d.ops.owes_flush = owes_flush;
	if (!strcmp(d.ops.scheme, "null"))
		s->backend->ops = &d.ops;
	d.now = s->backend->info;
	assert_int_equal(serve_open_signals(s, e), 0);
	params.disk = &s->disk;
	params.backend = s->backend;
	params.loop = s->loop;
	assert_int_equal(vhost_user_create(&params, &s->transport, e), 0);
	control.loop = s->loop;
	control.opaque = s;
	assert_int_equal(control_server_open(&control, &s->control, e), 0);
	s->job = (struct attach_job) { .loop = s->loop, .name = NAME, .bind = BIND_NONE };
	serve_begin_attach(s);
	assert_int_equal(s->state, SERVE_SERVING);
}

static void *daemon_main(void *opaque)
{
	struct serve *s = &d.s;
	struct error e = ERROR_INIT;

	(void)opaque;
	set_up(&e);
	d.call_op.complete = call_came;
	watch_calls();
	sem_post(&d.ready);
	assert_int_equal(loop_run(s->loop), 0);
	s->state = SERVE_CLOSING;
	serve_close_control(s);
	if (d.late_stop)
		serve_stop(s, ON_EXIT_DETACH);
	if (d.hold_refresh)
		backend_refreshed(s->backend, d.refresh_error);
	loop_cancel(s->loop, &d.call_op);
	while (d.calling)
		loop_run(s->loop);
	d.close_error = serve_close_transport(s, &e);
	if (d.grow_last) {
		d.now.size *= 2;
		tell(BACKEND_GROWN);
	}
	close(s->signal_fd);
	backend_close(s->backend);
	loop_destroy(s->loop);
	json_decref(s->set_options);
	s->runtime.keep = false;
	s->runtime.borrowed = false;
	runtime_release(&s->runtime);
	return NULL;
}

static void start_daemon_on(const char *uri, const char *more)
{
	char line[512], *argv[24], *save;
	struct error e = ERROR_INIT;
	int argc = 0;
	bool help;

	memset(&d, 0, sizeof(d));
	strcpy(d.root, "/tmp/test-serve-XXXXXX");
	assert_non_null(mkdtemp(d.root));
	snprintf(d.socket, sizeof(d.socket), "%s/vhost-user", d.root);
	snprintf(line, sizeof(line), "serve --name " NAME " --uri %s --bind none "
		 "--queue-size 64 --log-level error %s", uri, more);
	for (char *word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	argv[argc] = NULL;
	serve_options_init(&d.s.options);
	if (serve_options_parse(argc, argv, &d.s.options, &help, &e))
		fail_msg("%s", e.text);
	d.call_fd = eventfd(0, EFD_CLOEXEC);
	sem_init(&d.ready, 0, 0);
	sem_init(&d.called, 0, 0);
	assert_int_equal(pthread_create(&d.thread, NULL, daemon_main, NULL), 0);
	while (sem_wait(&d.ready))
		;
}

static void start_daemon(const char *more)
{
	start_daemon_on("null:16M", more);
}

static json_t *ask(json_t *request)
{
	struct error e = ERROR_INIT;
	json_t *answer;

	if (control_call(d.root, NAME, request, 10000, &answer, &e))
		fail_msg("%s", e.text);
	return answer;
}

static void assert_refused(json_t *request, const char *why)
{
	struct error e = ERROR_INIT;
	json_t *answer;

	assert_true(control_call(d.root, NAME, request, 10000, &answer, &e) < 0);
	assert_non_null(strstr(e.text, why));
}

static void command(const char *name)
{
	json_decref(ask(json_pack("{s:s}", "command", name)));
}

static void set(const char *option, const char *value)
{
	json_decref(ask(json_pack("{s:s, s:{s:s}}", "command", "set", "options", option, value)));
}

/* The daemon ends by itself: what is left is to wait for it. */
static void join_daemon(int exit_status)
{
	pthread_join(d.thread, NULL);
	assert_int_equal(d.s.exit_status, exit_status);
	assert_int_equal(d.close_error, 0);
	serve_options_release(&d.s.options);
	close(d.call_fd);
	sem_destroy(&d.ready);
	sem_destroy(&d.called);
	assert_int_equal(rmdir(d.root), 0);
}

static json_int_t status_number(const char *key)
{
	json_t *answer = ask(json_pack("{s:s}", "command", "status"));
	json_int_t n = json_integer_value(json_object_get(json_object_get(answer, "status"), key));

	json_decref(answer);
	return n;
}

static void assert_status(const char *key, const char *want)
{
	json_t *answer = ask(json_pack("{s:s}", "command", "status"));
	json_t *value = json_object_get(json_object_get(answer, "status"), key);

	if (json_is_boolean(value))
		assert_string_equal(json_is_true(value) ? "yes" : "no", want);
	else
		assert_string_equal(json_string_value(value), want);
	json_decref(answer);
}

/* --- the driver --- */

static uint8_t io(struct frontend *f, uint32_t type, uint64_t offset, uint32_t bytes)
{
	struct frontend_request *r = frontend_request_new(f, 0, bytes);

	r->type = type;
	r->sector = offset / 512;
	return frontend_do(f, 0, r);
}

static struct frontend_request *begin_io(struct frontend *f, uint32_t type)
{
	struct frontend_request *r = frontend_request_new(f, 0, 4096);
	unsigned int before = d.nheld;

	r->type = type;
	r->sector = 0;
	frontend_submit(f, 0, r);
	while (d.nheld == before)
		usleep(1000);
	return r;
}

/* --- tests --- */

static void test_commands(void **state)
{
	json_t *answer, *stats, *kinds, *value;
	struct frontend f;

	(void)state;
	start_daemon("");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	for (unsigned int i = 0; i < 10; i++)
		assert_int_equal(io(&f, VIRTIO_BLK_T_IN, i * 4096, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 0, 8192), VIRTIO_BLK_S_OK);
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, SIZE, 4096), VIRTIO_BLK_S_IOERR);

	answer = ask(json_pack("{s:s}", "command", "stats"));
	stats = json_object_get(answer, "stats");
	assert_string_equal(json_string_value(json_object_get(stats, "state")), "serving");
	assert_true(json_integer_value(json_object_get(stats, "memory")) > 0);
	kinds = json_object_get(stats, "requests");
	value = json_object_get(kinds, "read");
	assert_int_equal(json_integer_value(json_object_get(value, "requests")), 11);
	assert_int_equal(json_integer_value(json_object_get(value, "bytes")), 40960);
	assert_int_equal(json_integer_value(json_object_get(value, "errors")), 1);
	assert_true(json_is_integer(json_object_get(json_object_get(value, "latency_ns"),
						    "p99.9")));
	value = json_object_get(kinds, "write");
	assert_int_equal(json_integer_value(json_object_get(value, "requests")), 1);
	assert_int_equal(json_integer_value(json_object_get(value, "bytes")), 8192);
	assert_int_equal(json_array_size(json_object_get(stats, "queues")), 1);
	assert_int_equal(json_array_size(json_object_get(stats, "connections")), 0);
	json_decref(answer);

	assert_int_equal(status_number("size"), SIZE);
	assert_status("state", "serving");
	assert_status("storage", "ok");
	assert_status("server", "local");
	set("io-timeout", "1.5");
	assert_int_equal(d.s.backend->options.tunables.io_timeout_ms, 1500);
	set("io-timeout", "off");
	assert_int_equal(d.s.backend->options.tunables.io_timeout_ms, BACKEND_NEVER);
	answer = ask(json_pack("{s:s}", "command", "status"));
	value = json_object_get(json_object_get(json_object_get(answer, "status"), "options"),
				"io-timeout");
	assert_string_equal(json_string_value(value), "off");
	json_decref(answer);
	frontend_close(&f);
	command("stop");
	join_daemon(0);
}

static void grow(struct daemon *unused)
{
	(void)unused;
	d.now.size = 2 * SIZE;
	tell(BACKEND_GROWN);
}

static void shrink(struct daemon *unused)
{
	(void)unused;
	d.now.size = MIB;
	tell(BACKEND_SHRUNK);
}

static void lose_writing(struct daemon *unused)
{
	(void)unused;
	d.now.flags |= BACKEND_F_READ_ONLY;
	tell(BACKEND_FLAGS_CHANGED);
}

static void recover(struct daemon *unused)
{
	(void)unused;
	d.now.flags &= ~BACKEND_F_READ_ONLY;
	tell(BACKEND_FLAGS_CHANGED);
}

static void test_resize(void **state)
{
	struct frontend f;
	json_t *answer;

	(void)state;
	start_daemon("");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, SIZE, 4096), VIRTIO_BLK_S_IOERR);
	on_loop(grow);
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, SIZE, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(status_number("size"), 2 * SIZE);

	/* On request. */
	d.grow_on_refresh = true;
	answer = ask(json_pack("{s:s}", "command", "resize"));
	assert_int_equal(json_integer_value(json_object_get(answer, "size")), 4 * SIZE);
	json_decref(answer);
	assert_int_equal(d.refreshes, 1);
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, 4 * SIZE - 4096, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, 4 * SIZE, 4096), VIRTIO_BLK_S_IOERR);

	/* Nothing new: there is an answer all the same. */
	d.grow_on_refresh = false;
	answer = ask(json_pack("{s:s}", "command", "resize"));
	assert_int_equal(json_integer_value(json_object_get(answer, "size")), 4 * SIZE);
	json_decref(answer);
	assert_int_equal(d.refreshes, 2);

	/* What is not known is not said. */
	d.refresh_error = -ECONNREFUSED;
	assert_refused(json_pack("{s:s}", "command", "resize"), "Connection refused");
	assert_int_equal(status_number("size"), 4 * SIZE);
	frontend_close(&f);
	command("stop");
	join_daemon(0);
}

static void *ask_for_resize(void *unused)
{
	(void)unused;
	assert_refused(json_pack("{s:s}", "command", "resize"), "Operation canceled");
	return NULL;
}

/* The storage answers when there is nobody left to be told. */
static void test_resize_at_the_end(void **state)
{
	pthread_t thread;

	(void)state;
	start_daemon("");
	d.hold_refresh = true;
	assert_int_equal(pthread_create(&thread, NULL, ask_for_resize, NULL), 0);
	while (!d.refreshes)
		usleep(1000);
	command("stop");
	assert_int_equal(pthread_join(thread, NULL), 0);
	join_daemon(0);
}

static void test_shrink(void **state)
{
	struct frontend f;

	(void)state;
	start_daemon("--on-shrink read-only");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	on_loop(shrink);
	/* The driver's disk is as large as ever; what is there can be read. */
	assert_int_equal(status_number("size"), SIZE);
	assert_status("storage", "shrunk");
	assert_status("read_only", "yes");
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	set("on-shrink", "error");
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	set("on-shrink", "read-only");
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_IOERR);

	/* Back to what it was, and more. */
	on_loop(grow);
	assert_status("storage", "ok");
	assert_int_equal(status_number("size"), 2 * SIZE);
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);

	on_loop(lose_writing);
	assert_status("storage", "changed");
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_IOERR);
	on_loop(recover);
	assert_status("storage", "ok");
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	frontend_close(&f);
	command("stop");
	join_daemon(0);
}

/* Requests hang: the end gives them up, and says so with its exit status. */
static void test_stop_hung(void **state)
{
	struct frontend_request *r;
	struct frontend f;

	(void)state;
	start_daemon("--stop-timeout 100ms");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	d.hangs = true;
	r = begin_io(&f, VIRTIO_BLK_T_OUT);
	command("stop");
	assert_true(frontend_wait(&f, 0, 1));
	assert_int_equal(*r->status, VIRTIO_BLK_S_IOERR);
	join_daemon(EXIT_FAILURE);
	assert_int_equal(d.fails, 1);
	frontend_close(&f);
}

/* They are answered in time: nothing is given up. */
static void release(struct daemon *unused)
{
	(void)unused;
	d.hangs = false;
	send_answer(0);
}

static void stop_now(struct daemon *unused)
{
	(void)unused;
	serve_stop(&d.s, ON_EXIT_DETACH);
	release(unused);
}

static void test_stop_drains(void **state)
{
	struct frontend f;

	(void)state;
	start_daemon("--stop-timeout 10");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	d.hangs = true;
	begin_io(&f, VIRTIO_BLK_T_IN);
	on_loop(stop_now);
	assert_true(frontend_wait(&f, 0, 1));
	join_daemon(0);
	assert_int_equal(d.fails, 0);
	frontend_close(&f);
}

/* What is not flushed is, if the storage can; but nothing is asked of it in vain. */
static void test_stop_flushes(void **state)
{
	(void)state;
	start_daemon("");
	command("stop");
	join_daemon(0);
	assert_int_equal(d.flushes, 0);

	start_daemon("");
	d.dirty = true;
	command("stop");
	join_daemon(0);
	assert_int_equal(d.flushes, 1);

	/* Nobody has asked for it: that it takes too long is no failure, an error is. */
	start_daemon("--stop-timeout 100ms");
	d.dirty = true;
	d.hangs = true;
	command("stop");
	join_daemon(0);
	assert_int_equal(d.fails, 1);

	start_daemon("--stop-timeout 10");
	d.dirty = true;
	d.refuses = true;
	command("stop");
	join_daemon(EXIT_FAILURE);
	assert_int_equal(d.flushes, 1);
	assert_int_equal(d.fails, 0);
}

/* An error of which no driver has heard is one of the end, whatever the storage says then. */
static void owe_error(struct daemon *unused)
{
	(void)unused;
	vblk_device_owe_flush_error(&d.s.disk);
}

static void test_stop_owing(void **state)
{
	(void)state;
	start_daemon("");
	d.dirty = true;
	on_loop(owe_error);
	command("stop");
	join_daemon(EXIT_FAILURE);
	assert_int_equal(d.flushes, 1);
}

/* The main loop's thread answers, whatever it is busy with. */
static void answer_expired(struct loop_timer *timer)
{
	(void)timer;
	d.early_flushes = d.flushes;
	release(&d);
}

static void answer_after(unsigned int ms)
{
	d.answer_timer.expired = answer_expired;
	loop_timer_arm(d.s.loop, &d.answer_timer, ms);
}

static void stop_and_answer(struct daemon *unused)
{
	(void)unused;
	serve_stop(&d.s, ON_EXIT_DETACH);
	answer_after(100);
}

/* The frontend goes on until it is cut off: the flush comes after all that. */
static void test_stop_flushes_all(void **state)
{
	struct frontend f;

	(void)state;
	start_daemon("--stop-timeout 10");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	d.dirty = true;
	d.hangs = true;
	begin_io(&f, VIRTIO_BLK_T_OUT);
	on_loop(stop_and_answer);
	assert_true(frontend_wait(&f, 0, 1));
	join_daemon(0);
	assert_int_equal(d.early_flushes, 0);
	assert_int_equal(d.flushes, 1);
	assert_int_equal(d.fails, 0);
	frontend_close(&f);
}

/* What begins when nothing has been in flight for a while has the whole time, too. */
static void stop_slowly(struct daemon *unused)
{
	(void)unused;
	serve_stop(&d.s, ON_EXIT_DETACH);
	usleep(600000);
	answer_after(700);
}

static void test_stop_flushes_late(void **state)
{
	(void)state;
	start_daemon("--stop-timeout 1");
	d.dirty = true;
	d.hangs = true;
	on_loop(stop_slowly);
	join_daemon(0);
	assert_int_equal(d.flushes, 1);
	assert_int_equal(d.fails, 0);
}

/* The watch for progress expires while one queue is gone and the next is going. */
static void destroy_slowly(struct backend_queue *queue)
{
	d.null_ops->queue_destroy(queue);
	usleep(3000);
}

static void test_stop_many_queues(void **state)
{
	(void)state;
	start_daemon("--stop-timeout 1ms --queues 4");
	d.ops.queue_destroy = destroy_slowly;
	command("stop");
	join_daemon(0);
}

/* Told to end when it has failed, or ends already: no second end begins. */
static void fail_now(struct daemon *unused)
{
	const struct error e = { .errnum = EIO, .text = "test" };

	(void)unused;
	serve_not_recovered(&d.s, &e);
}

static void fail_and_stop(struct daemon *unused)
{
	fail_now(unused);
	serve_stop(&d.s, ON_EXIT_DETACH);
}

static void test_stop_too_late(void **state)
{
	(void)state;
	start_daemon("");
	on_loop(fail_and_stop);
	join_daemon(EXIT_FAILURE);
	assert_null(d.s.job.work);

	start_daemon("");
	d.late_stop = true;
	on_loop(fail_now);
	join_daemon(EXIT_FAILURE);
	assert_null(d.s.job.work);
}

/* After an upgrade, whoever tells this process to end means the successor. */
static void hand_over(struct daemon *unused)
{
	(void)unused;
	d.s.runtime.borrowed = true;
	loop_stop(d.s.loop);
}

static void test_stop_after_upgrade(void **state)
{
	siginfo_t info;
	pid_t child;

	(void)state;
	start_daemon("");
	child = fork();
	if (!child) {
		pause();
		_exit(0);
	}
	d.s.successor = child;
	d.late_stop = true;
	d.grow_last = true;
	on_loop(hand_over);
	assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED), 0);
	assert_int_equal(info.si_status, SIGTERM);
	join_daemon(0);
	assert_null(d.s.job.work);
	/* News of the storage are the successor's, too. */
	assert_int_equal(d.s.disk.capacity, SIZE / 512);
}

/* News of the storage on the way out. */
static void test_stop_growing(void **state)
{
	(void)state;
	start_daemon("");
	d.grow_last = true;
	command("stop");
	join_daemon(0);
	assert_int_equal(d.s.disk.capacity, 2 * SIZE / 512);
}

/* "fail" ends what waits, and nothing else. */
static void test_fail(void **state)
{
	struct frontend_request *r;
	struct frontend f;

	(void)state;
	start_daemon("");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	d.hangs = true;
	r = begin_io(&f, VIRTIO_BLK_T_IN);
	command("fail");
	assert_true(frontend_wait(&f, 0, 1));
	assert_int_equal(*r->status, VIRTIO_BLK_S_IOERR);
	d.hangs = false;
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	frontend_close(&f);
	command("stop");
	join_daemon(0);
}

/* Somebody else removes the device while requests hang; the next driver is served. */
static void removal_begins(struct daemon *unused)
{
	(void)unused;
	serve_removing(&d.s, true);
}

static void removal_ends(struct daemon *unused)
{
	(void)unused;
	serve_removing(&d.s, false);
}

static void test_removal(void **state)
{
	struct frontend_request *r;
	struct frontend f;

	(void)state;
	start_daemon("--stop-timeout 100ms");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	d.hangs = true;
	r = begin_io(&f, VIRTIO_BLK_T_IN);
	on_loop(removal_begins);
	assert_true(frontend_wait(&f, 0, 1));
	assert_int_equal(*r->status, VIRTIO_BLK_S_IOERR);
	assert_int_equal(d.fails, 1);
	/* What comes while the driver lets go does not reach the storage. */
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(d.nheld, 0);

	on_loop(removal_ends);
	d.hangs = false;
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	frontend_close(&f);
	command("stop");
	join_daemon(0);
}

/* Meanwhile the daemon is told to keep it: nothing is given up. */
static void keep(struct daemon *unused)
{
	(void)unused;
	serve_stop(&d.s, ON_EXIT_KEEP);
}

static void test_keep_while_removed(void **state)
{
	struct frontend f;

	(void)state;
	start_daemon("--stop-timeout 400ms");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	d.hangs = true;
	begin_io(&f, VIRTIO_BLK_T_IN);
	on_loop(removal_begins);
	usleep(300000);
	on_loop(keep);
	usleep(200000);
	assert_int_equal(d.fails, 0);
	on_loop(release);
	assert_true(frontend_wait(&f, 0, 1));
	join_daemon(0);
	frontend_close(&f);
}

/* --- with a server --- */

static struct nbdkit kit;

/* A disk of 16 MiB in a file, behind nbdkit with these filters. */
static void start_with_server(const char *arguments, const char *more)
{
	char uri[256];

	if (!nbdkit_installed()) {
		print_message("skipped: nbdkit is not installed\n");
		skip();
	}
	assert_int_equal(nbdkit_start(&kit, NBDKIT_UNIX, arguments), 0);
	snprintf(uri, sizeof(uri), kit.uri, "");
	start_daemon_on(uri, more);
}

static struct frontend_request *submit_read(struct frontend *f)
{
	struct frontend_request *r = frontend_request_new(f, 0, 4096);

	r->type = VIRTIO_BLK_T_IN;
	r->sector = 0;
	frontend_submit(f, 0, r);
	return r;
}

static json_int_t connection_number(const char *key)
{
	json_t *answer = ask(json_pack("{s:s}", "command", "stats"));
	json_t *all = json_object_get(json_object_get(answer, "stats"), "connections");
	json_int_t n = json_integer_value(json_object_get(json_array_get(all, 0), key));

	json_decref(answer);
	return n;
}

static void wait_for_connection(const char *key, json_int_t at_least)
{
	unsigned int i;

	for (i = 0; i < 1000 && connection_number(key) < at_least; i++)
		usleep(10000);
	assert_true(connection_number(key) >= at_least);
}

/* It takes requests and never answers: each way out. */
static void test_hung_server(void **state)
{
	static const char hangs[] = "--filter=delay memory 16M delay-read=600";
	struct frontend_request *r;
	struct frontend f;

	(void)state;
	start_with_server(hangs, "--stop-timeout 100ms");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);

	/* A limit that is set while the request waits. */
	r = submit_read(&f);
	wait_for_connection("in_flight", 1);
	set("io-timeout", "200ms");
	assert_true(frontend_wait(&f, 0, 1));
	assert_int_equal(*r->status, VIRTIO_BLK_S_IOERR);
	set("io-timeout", "off");

	/* Until there is a connection again, requests fail at once. */
	wait_for_connection("reconnects", 1);
	r = submit_read(&f);
	wait_for_connection("in_flight", 1);
	command("fail");
	assert_true(frontend_wait(&f, 0, 1));
	assert_int_equal(*r->status, VIRTIO_BLK_S_IOERR);

	wait_for_connection("reconnects", 2);
	r = submit_read(&f);
	wait_for_connection("in_flight", 1);
	command("stop");
	assert_true(frontend_wait(&f, 0, 1));
	assert_int_equal(*r->status, VIRTIO_BLK_S_IOERR);
	join_daemon(EXIT_FAILURE);
	frontend_close(&f);
	nbdkit_stop(&kit);
}

/* Killed: requests wait, status says so, and the end does not wait with them. */
static void test_lost_server(void **state)
{
	struct frontend_request *r;
	struct frontend f;

	(void)state;
	start_with_server("memory 16M", "--stop-timeout 100ms --reconnect-max 200ms");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	nbdkit_kill(&kit);
	r = submit_read(&f);
	wait_for_connection("waiting", 1);
	assert_int_equal(connection_number("errors"), 0);
	assert_int_equal(nbdkit_restart(&kit, NULL), 0);
	assert_true(frontend_wait(&f, 0, 1));
	assert_int_equal(*r->status, VIRTIO_BLK_S_OK);
	assert_true(connection_number("reconnects") >= 1);

	nbdkit_kill(&kit);
	r = submit_read(&f);
	wait_for_connection("waiting", 1);
	command("stop");
	assert_true(frontend_wait(&f, 0, 1));
	assert_int_equal(*r->status, VIRTIO_BLK_S_IOERR);
	join_daemon(EXIT_FAILURE);
	frontend_close(&f);
	nbdkit_stop(&kit);
}

/* The export grows: on request, and found out after a loss. */
static void test_growing_server(void **state)
{
	char image[] = "/tmp/test-serve-XXXXXX", arguments[64];
	struct frontend f;
	json_t *answer;
	int fd;

	(void)state;
	fd = mkstemp(image);
	assert_true(fd >= 0 && !ftruncate(fd, SIZE));
	close(fd);
	snprintf(arguments, sizeof(arguments), "file %s", image);
	start_with_server(arguments, "--reconnect-max 200ms");
	frontend_up(&f, d.socket, BIT(VIRTIO_RING_F_EVENT_IDX), 1);
	assert_int_equal(status_number("size"), SIZE);
	assert_int_equal(truncate(image, 2 * SIZE), 0);
	answer = ask(json_pack("{s:s}", "command", "resize"));
	assert_int_equal(json_integer_value(json_object_get(answer, "size")), 2 * SIZE);
	json_decref(answer);
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 2 * SIZE - 4096, 4096), VIRTIO_BLK_S_OK);

	nbdkit_kill(&kit);
	assert_int_equal(truncate(image, 3 * SIZE), 0);
	assert_int_equal(nbdkit_restart(&kit, NULL), 0);
	assert_int_equal(io(&f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	for (unsigned int i = 0; i < 1000 && status_number("size") != 3 * SIZE; i++)
		usleep(10000);
	assert_int_equal(io(&f, VIRTIO_BLK_T_OUT, 3 * SIZE - 4096, 4096), VIRTIO_BLK_S_OK);
	frontend_close(&f);
	command("stop");
	join_daemon(0);
	nbdkit_stop(&kit);
	unlink(image);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_commands),
		cmocka_unit_test(test_resize),
		cmocka_unit_test(test_resize_at_the_end),
		cmocka_unit_test(test_shrink),
		cmocka_unit_test(test_stop_hung),
		cmocka_unit_test(test_stop_drains),
		cmocka_unit_test(test_stop_flushes),
		cmocka_unit_test(test_stop_flushes_late),
		cmocka_unit_test(test_stop_flushes_all),
		cmocka_unit_test(test_stop_owing),
		cmocka_unit_test(test_stop_many_queues),
		cmocka_unit_test(test_stop_growing),
		cmocka_unit_test(test_stop_too_late),
		cmocka_unit_test(test_stop_after_upgrade),
		cmocka_unit_test(test_fail),
		cmocka_unit_test(test_removal),
		cmocka_unit_test(test_keep_while_removed),
		cmocka_unit_test(test_hung_server),
		cmocka_unit_test(test_lost_server),
		cmocka_unit_test(test_growing_server),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests_name("serve", tests, NULL, NULL);
}
