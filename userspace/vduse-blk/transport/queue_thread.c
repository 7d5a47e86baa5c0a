// SPDX-License-Identifier: MIT
/*
 * One virtqueue with its thread, for any transport.
 *
 * Ownership: everything in struct queue_thread belongs to the queue's thread
 * while its loop runs. The command fields are handed over with the message: the
 * main thread fills them in and sends @order, from then on they are the queue
 * thread's until @report arrives on the main loop. The message ring of io_uring
 * orders the memory accesses.
 *
 * Taking a stop back and flushing have messages of their own, since the command may
 * take as long as the storage does.
 *
 * Order of a stop: the core drains (vblk_queue_stop()), the transport ends what
 * it has under way on the loop, the watch for kicks is taken back, mappings are
 * forgotten; then the report goes out.
 *
 * Order at the end: a backend queue's loop has to run while it is destroyed, and so
 * have those of others (a backend may share queue 0's connection). So each thread
 * destroys its own, one after the other, and the main thread waits for each.
 *
 * Kicks: the eventfd is watched by a multishot poll and never read. Each signal
 * posts a completion of its own, so reading would be a system call for nothing;
 * its counter cannot overflow in this universe's lifetime. A counter that is
 * not zero when the watch begins makes one completion at once, so a kick that
 * came while nobody watched is not lost.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "transport/queue_thread.h"

enum command {
	COMMAND_START,
	COMMAND_STOP,
	COMMAND_UPDATE,
	COMMAND_QUERY,
	COMMAND_QUIT,
};

/* A question to the queue's thread and the answer, besides the commands. */
struct errand {
	struct loop_msg order;
	struct loop_msg report;
	queue_thread_done *done;
	void *opaque;
	bool under_way; /* the main thread's */
};

struct queue_thread {
	struct queue_thread_params params;
	pthread_t thread;
	struct loop *loop;
	struct backend_queue *backend;
	struct vblk_queue *vblk;
	struct iotlb *iotlb;

	int kick_fd;
	struct loop_op kick_op;
	bool watching; /* @kick_op is in flight */
	bool running;  /* between a start and its stop */

	/* The command at work; see above. */
	struct loop_msg order;
	struct loop_msg report;
	enum command command;
	uint64_t features;
	bool fresh;
	bool forget;
	uint64_t first, last;
	struct virtqueue_state state;
	queue_thread_done *done;
	void *opaque;
	struct queue_thread_times times;

	struct errand unstop;
	struct errand flush;
	struct backend_request flush_request;

	/* Only while queue_thread_create() waits. */
	sem_t ready;
	int ready_error;
	struct error *ready_text;
};

static void report(struct queue_thread *q, int error)
{
	/* The value of a message cannot be negative. */
	loop_send(q->loop, q->params.main, &q->report, -error);
}

/* Kicks */

static void finish_stop(struct queue_thread *q)
{
	if (q->first <= q->last)
		iotlb_invalidate(q->iotlb, q->first, q->last);
	report(q, 0);
}

/* Whoever gave us the descriptor must not be able to make us spin. */
static bool can_watch(struct queue_thread *q, int res)
{
	if (res >= 0 && !(res & (POLLERR | POLLHUP | POLLNVAL)))
		return true;
	log_error("virtqueue %u: its kicks cannot be watched any more: %s", q->params.index,
		  res < 0 ? strerror(-res) : "the descriptor is broken");
	return false;
}

static void watch_kicks(struct queue_thread *q)
{
	q->watching = true;
	io_uring_prep_poll_multishot(loop_sqe(q->loop, &q->kick_op), q->kick_fd, POLLIN);
}

static void kicked(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct queue_thread *q = container_of(op, struct queue_thread, kick_op);

	if (!(cqe_flags & IORING_CQE_F_MORE)) {
		q->watching = false;
		if (!q->running) {
			finish_stop(q);
			return;
		}
		if (can_watch(q, res))
			watch_kicks(q);
	}
	if (res > 0)
		vblk_queue_kick(q->vblk);
}

/* Commands, on the queue's thread */

static int start(struct queue_thread *q)
{
	const struct queue_thread_ops *ops = q->params.ops;
	struct queue_thread_setup setup = { .vblk.features = q->features };
	struct error e = ERROR_INIT;
	int err;

	err = ops->prepare(q->params.opaque, q->fresh, &setup);
	if (err)
		return err;
	if (!setup.ready)
		return 0;
	setup.vblk.iotlb = q->iotlb;
	if (!q->fresh)
		vblk_queue_state(q->vblk, &setup.vblk.state);

	err = vblk_queue_start(q->vblk, &setup.vblk, &e);
	if (err) {
		log_error("cannot serve the ring: %s", e.text);
		return err;
	}
	q->times.started_ns = clock_now_ns();
	q->running = true;
	q->kick_fd = setup.kick_fd;
	watch_kicks(q);
	if (ops->started)
		ops->started(q->params.opaque, q->fresh);
	return 0;
}

static void drained(struct vblk_queue *vblk, void *opaque)
{
	struct queue_thread *q = opaque;

	(void)vblk;
	q->params.ops->stopped(q->params.opaque);
}

void queue_thread_stopped(struct queue_thread *q)
{
	q->running = false;
	if (q->watching)
		loop_cancel(q->loop, &q->kick_op);
	else
		finish_stop(q);
}

static void ordered(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct queue_thread *q = container_of(op, struct queue_thread, order.op);

	(void)res;
	(void)cqe_flags;
	switch (q->command) {
	case COMMAND_START:
		report(q, start(q));
		break;
	case COMMAND_STOP:
		if (q->running)
			q->times.stopped_ns = clock_now_ns();
		vblk_queue_stop(q->vblk, drained, q);
		break;
	case COMMAND_UPDATE:
		q->params.ops->update(q->params.opaque);
		if (q->forget)
			iotlb_invalidate(q->iotlb, 0, UINT64_MAX);
		report(q, 0);
		break;
	case COMMAND_QUERY:
		vblk_queue_state(q->vblk, &q->state);
		report(q, 0);
		break;
	case COMMAND_QUIT:
		loop_stop(q->loop);
		break;
	}
}

/* Errands, on the queue's thread */

static void unstop_ordered(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct queue_thread *q = container_of(op, struct queue_thread, unstop.order.op);

	(void)res;
	(void)cqe_flags;
	if (vblk_queue_resume(q->vblk)) {
		q->times.started_ns = clock_now_ns();
		report(q, -ECANCELED);
	}
	loop_send(q->loop, q->params.main, &q->unstop.report, 0);
}

static void flushed(struct backend_request *req, int error)
{
	struct queue_thread *q = container_of(req, struct queue_thread, flush_request);

	loop_send(q->loop, q->params.main, &q->flush.report, -error);
}

static void flush_ordered(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct queue_thread *q = container_of(op, struct queue_thread, flush.order.op);

	(void)res;
	(void)cqe_flags;
	q->flush_request = (struct backend_request) { .op = BACKEND_FLUSH, .done = flushed };
	backend_submit(q->backend, &q->flush_request);
}

/* The thread */

static int thread_setup(struct queue_thread *q, struct error *e)
{
	const unsigned int index = q->params.index;
	char name[16];
	int err;

	snprintf(name, sizeof(name), "vq%u", index);
	pthread_setname_np(pthread_self(), name);

	err = loop_create(&(struct loop_params) { .name = name }, &q->loop, e);
	if (err)
		return err;
	err = iotlb_create(&q->params.ops->iotlb, q->params.opaque, &q->iotlb);
	if (err) {
		err_set_errno(e, -err, "address space");
		goto destroy_loop;
	}
	err = backend_queue_create(q->params.backend, q->loop, index, &q->backend, e);
	if (err)
		goto destroy_iotlb;
	err = vblk_queue_create(&(struct vblk_queue_params) {
			.dev = q->params.disk,
			.index = index,
			.max_num = q->params.size,
			.loop = q->loop,
			.backend = q->backend,
			.transport = &q->params.ops->vblk,
			.opaque = q->params.opaque,
		}, &q->vblk, e);
	if (err)
		goto destroy_backend;
	return 0;

destroy_backend:
	backend_queue_destroy(q->backend);
destroy_iotlb:
	iotlb_destroy(q->iotlb);
destroy_loop:
	loop_destroy(q->loop);
	return err_prefix(e, "virtqueue %u", index);
}

static void *thread_main(void *opaque)
{
	struct queue_thread *q = opaque;
	int err;

	if (q->params.thread_init)
		q->params.thread_init();
	err = thread_setup(q, q->ready_text);
	q->ready_error = err;
	sem_post(&q->ready);
	if (err)
		return NULL;

	err = loop_run(q->loop);
	if (err)
		log_error("virtqueue %u: event loop ended: %s", q->params.index, strerror(-err));

	vblk_queue_destroy(q->vblk);
	backend_queue_destroy(q->backend);
	iotlb_destroy(q->iotlb);
	loop_destroy(q->loop);
	return NULL;
}

/* On the main thread */

static void reported(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct queue_thread *q = container_of(op, struct queue_thread, report.op);

	(void)cqe_flags;
	q->done(q->opaque, q, -res);
}

static void command(struct queue_thread *q, enum command cmd, queue_thread_done *done,
		    void *opaque)
{
	q->command = cmd;
	q->done = done;
	q->opaque = opaque;
	loop_send(q->params.main, q->loop, &q->order, 0);
}

void queue_thread_start(struct queue_thread *q, uint64_t features, bool fresh,
			queue_thread_done *done, void *opaque)
{
	q->features = features;
	q->fresh = fresh;
	command(q, COMMAND_START, done, opaque);
}

void queue_thread_stop(struct queue_thread *q, uint64_t first, uint64_t last,
		       queue_thread_done *done, void *opaque)
{
	q->first = first;
	q->last = last;
	command(q, COMMAND_STOP, done, opaque);
}

static void errand_done(struct queue_thread *q, struct errand *errand, int error)
{
	errand->under_way = false;
	errand->done(errand->opaque, q, error);
}

static void unstop_reported(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct queue_thread *q = container_of(op, struct queue_thread, unstop.report.op);

	(void)cqe_flags;
	errand_done(q, &q->unstop, -res);
}

static void flush_reported(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct queue_thread *q = container_of(op, struct queue_thread, flush.report.op);

	(void)cqe_flags;
	errand_done(q, &q->flush, -res);
}

static void send_errand(struct queue_thread *q, struct errand *errand, queue_thread_done *done,
			void *opaque)
{
	errand->done = done;
	errand->opaque = opaque;
	errand->under_way = true;
	loop_send(q->params.main, q->loop, &errand->order, 0);
}

void queue_thread_unstop(struct queue_thread *q, queue_thread_done *done, void *opaque)
{
	send_errand(q, &q->unstop, done, opaque);
}

void queue_thread_flush(struct queue_thread *q, queue_thread_done *done, void *opaque)
{
	send_errand(q, &q->flush, done, opaque);
}

bool queue_thread_flushing(const struct queue_thread *q)
{
	return q->flush.under_way;
}

struct queue_thread_times queue_thread_times(const struct queue_thread *q)
{
	return q->times;
}

void queue_thread_update(struct queue_thread *q, bool forget, queue_thread_done *done,
			 void *opaque)
{
	q->forget = forget;
	command(q, COMMAND_UPDATE, done, opaque);
}

void queue_thread_query(struct queue_thread *q, queue_thread_done *done, void *opaque)
{
	command(q, COMMAND_QUERY, done, opaque);
}

const struct virtqueue_state *queue_thread_result(const struct queue_thread *q)
{
	return &q->state;
}

unsigned int queue_thread_index(const struct queue_thread *q)
{
	return q->params.index;
}

void queue_thread_stats(const struct queue_thread *q, struct vblk_queue_stats *ret_stats)
{
	vblk_queue_stats(q->vblk, ret_stats);
	ret_stats->in_flight += q->flush.under_way;
}

void queue_thread_latency(const struct queue_thread *q, enum vblk_latency kind,
			  struct histogram *sum)
{
	vblk_queue_latency(q->vblk, kind, sum);
}

const char *queue_thread_loop_rung(const struct queue_thread *q)
{
	return loop_rung_name(loop_stats(q->loop)->rung);
}

struct loop *queue_thread_loop(const struct queue_thread *q)
{
	return q->loop;
}

static int thread_start(struct queue_thread *q, struct error *e)
{
	sigset_t all, old;
	int err;

	/*
	 * Signals are the main thread's: its signalfd has to see them. A fault
	 * that is blocked would kill, whatever its handler does (sigbus.h).
	 */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&q->thread, NULL, thread_main, q);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		return err_set_errno(e, err, "start the thread of virtqueue %u", q->params.index);

	while (sem_wait(&q->ready))
		;
	if (q->ready_error)
		pthread_join(q->thread, NULL);
	return q->ready_error;
}

int queue_thread_create(const struct queue_thread_params *params,
			struct queue_thread **ret_queue, struct error *e)
{
	struct queue_thread *q = calloc(1, sizeof(*q));
	struct error local = ERROR_INIT;
	int err;

	if (!q)
		return err_set(e, ENOMEM, "out of memory");
	q->params = *params;
	q->kick_op.complete = kicked;
	q->order.op.complete = ordered;
	q->report.op.complete = reported;
	q->unstop.order.op.complete = unstop_ordered;
	q->unstop.report.op.complete = unstop_reported;
	q->flush.order.op.complete = flush_ordered;
	q->flush.report.op.complete = flush_reported;
	q->ready_text = e ? e : &local;

	sem_init(&q->ready, 0, 0);
	err = thread_start(q, e);
	sem_destroy(&q->ready);
	if (err)
		goto free_queue;

	*ret_queue = q;
	return 0;

free_queue:
	free(q);
	return err;
}

/*
 * The main loop does not run meanwhile: what it would call back might look at queues
 * that are gone already.
 */
void queue_thread_destroy(struct queue_thread *q)
{
	if (!q)
		return;
	command(q, COMMAND_QUIT, NULL, NULL);
	loop_submit(q->params.main);
	pthread_join(q->thread, NULL);
	free(q);
}
