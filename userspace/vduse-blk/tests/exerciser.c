// SPDX-License-Identifier: MIT
/*
 * Backend exerciser.
 *
 * Each queue runs on its own thread and loop and owns a stripe of the device,
 * so a queue knows what its blocks must contain: every block carries the seed
 * of its last write, 0 after write-zeroes, "anything" after a discard or a
 * failed write. Two requests in flight never touch the same block.
 *
 * Queue 0 is created first and destroyed last, as backend.h asks, and its loop
 * serves the others until all have finished.
 */
#include "exerciser.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tests/rng.h"

#define MAX_IOV 8
#define IDLE_MS 300

enum content {
	CONTENT_UNKNOWN = -2, /* discarded, or a write failed */
	CONTENT_FOREIGN = -1, /* not touched yet */
	CONTENT_ZERO = 0,
};

struct queue;

/* What the threads have in common. */
struct control {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct queue *owner;	 /* queue 0, once it can take requests */
	unsigned int unfinished; /* queues; counted on queue 0's thread */
	unsigned int busy;	 /* queues that still have requests; atomic */
	bool owner_failed;
};

struct slot {
	struct backend_request req;
	struct iovec iov[MAX_IOV];
	struct queue *q;
	uint8_t *buf;
	uint64_t block;
	unsigned int nblocks;
	int32_t seed;
	bool busy;
};

struct queue {
	const struct exercise *s;
	struct backend *backend;
	struct backend_queue *bq;
	struct loop *loop;
	pthread_t thread;
	unsigned int index;
	struct rng rng;
	uint64_t first_block;
	uint64_t nblocks;
	uint32_t block_size;
	int32_t *content; /* of each block */
	uint8_t *busy;	  /* a request in flight touches it */
	struct slot slots[EXERCISE_MAX_DEPTH];
	unsigned int issued, finished, errors, mismatches;
	unsigned int by_op[_BACKEND_OP_MAX];
	int32_t next_seed;
	struct loop_timer idle_timer;
	uint64_t idle_iterations;
	bool alone;
	unsigned int wakeups;
	int first_error;
	struct control *control;
	struct error error;
	struct loop_msg finished_msg;
	struct loop_hook stop_hook;
	uint64_t enters;
	int failed;
};

/* A block's content: its number and seed in every 16 bytes. */
static void fill(uint8_t *p, uint32_t block_size, uint64_t block, int32_t seed)
{
	for (uint32_t i = 0; i < block_size; i += 16) {
		uint64_t v[2] = { block ^ i, (uint64_t)seed * 0x9e3779b97f4a7c15ull };

		if (!seed)
			v[0] = 0;
		memcpy(p + i, v, sizeof(v));
	}
}

static bool matches(const uint8_t *p, uint32_t block_size, uint64_t block, int32_t seed)
{
	uint8_t want[BACKEND_MAX_BLOCK_SIZE];

	fill(want, block_size, block, seed);
	return !memcmp(p, want, block_size);
}

static void verify(struct slot *slot)
{
	struct queue *q = slot->q;

	for (unsigned int i = 0; i < slot->nblocks; i++) {
		uint64_t block = slot->block + i;
		int32_t want = q->content[block];

		if (want < 0)
			continue;
		if (!matches(slot->buf + (size_t)i * q->block_size, q->block_size,
			     q->first_block + block, want)) {
			if (!q->mismatches++)
				fprintf(stderr, "queue %u: block %" PRIu64 " is wrong (seed %d)\n",
					q->index, q->first_block + block, want);
		}
	}
}

static void account(struct slot *slot, int error)
{
	struct queue *q = slot->q;
	int32_t now;

	switch (slot->req.op) {
	case BACKEND_READ:
		if (!error)
			verify(slot);
		return;
	case BACKEND_WRITE:
		now = slot->seed;
		break;
	case BACKEND_WRITE_ZEROES:
		now = CONTENT_ZERO;
		break;
	case BACKEND_DISCARD:
		now = CONTENT_UNKNOWN;
		break;
	default:
		return;
	}
	for (unsigned int i = 0; i < slot->nblocks; i++)
		q->content[slot->block + i] = error ? CONTENT_UNKNOWN : now;
}

static void issue_more(struct queue *q);

static void done(struct backend_request *req, int error)
{
	struct slot *slot = container_of(req, struct slot, req);
	struct queue *q = slot->q;

	account(slot, error);
	if (error && !q->errors++)
		q->first_error = error;
	for (unsigned int i = 0; i < slot->nblocks; i++)
		q->busy[slot->block + i] = 0;
	slot->busy = false;
	q->finished++;
	issue_more(q);
}

/* Cuts the buffer into up to MAX_IOV uneven pieces; sometimes describes more than is used. */
static void cut(struct slot *slot, uint64_t length)
{
	struct queue *q = slot->q;
	unsigned int n = 1 + rnd(&q->rng) % MAX_IOV;
	uint64_t left = length, at = 0;

	for (unsigned int i = 0; i < n; i++) {
		uint64_t piece = i == n - 1 ? left : rnd(&q->rng) % (left / 2 + 1);

		slot->iov[i] = (struct iovec){ slot->buf + at, piece };
		at += piece;
		left -= piece;
	}
	if (rnd(&q->rng) % 8 == 0)
		slot->iov[n - 1].iov_len += 64;
	slot->req.iov = slot->iov;
	slot->req.niov = n;
}

static enum backend_op choose_op(struct queue *q)
{
	uint32_t flags = q->backend->info.flags;
	uint32_t r = rnd(&q->rng) % 100;

	if (q->s->reads_only || r < 45 || (flags & BACKEND_F_READ_ONLY))
		return BACKEND_READ;
	if (r < 85)
		return BACKEND_WRITE;
	if (r < 90 && (flags & BACKEND_F_FLUSH))
		return BACKEND_FLUSH;
	if (r < 95 && (flags & BACKEND_F_DISCARD))
		return BACKEND_DISCARD;
	if (flags & BACKEND_F_WRITE_ZEROES)
		return BACKEND_WRITE_ZEROES;
	return BACKEND_WRITE;
}

static bool reserve(struct slot *slot)
{
	struct queue *q = slot->q;
	unsigned int most = q->s->max_blocks;

	if (!q->s->single_size)
		most = 1 + rnd(&q->rng) % most;
	slot->nblocks = (unsigned int)min((uint64_t)most, q->nblocks);
	slot->block = rnd(&q->rng) % (q->nblocks - slot->nblocks + 1);
	for (unsigned int i = 0; i < slot->nblocks; i++)
		if (q->busy[slot->block + i])
			return false;
	memset(q->busy + slot->block, 1, slot->nblocks);
	return true;
}

static bool start(struct slot *slot)
{
	struct queue *q = slot->q;
	struct backend_request *req = &slot->req;

	*req = (struct backend_request){ .op = choose_op(q), .done = done };
	slot->nblocks = 0;
	if (req->op != BACKEND_FLUSH) {
		if (!reserve(slot))
			return false;
		req->offset = (q->first_block + slot->block) * q->block_size;
		req->length = (uint64_t)slot->nblocks * q->block_size;
		cut(slot, req->length);
	}
	if (req->op != BACKEND_READ && rnd(&q->rng) % 4 == 0)
		req->flags |= BACKEND_REQ_FUA;
	if (req->op == BACKEND_WRITE_ZEROES && rnd(&q->rng) % 2)
		req->flags |= BACKEND_REQ_MAY_UNMAP;
	if (req->op == BACKEND_WRITE) {
		slot->seed = ++q->next_seed;
		for (unsigned int i = 0; i < slot->nblocks; i++)
			fill(slot->buf + (size_t)i * q->block_size, q->block_size,
			     q->first_block + slot->block + i, slot->seed);
	} else if (req->op == BACKEND_READ) {
		memset(slot->buf, 0xa5, req->length);
	}
	slot->busy = true;
	q->issued++;
	q->by_op[req->op]++;
	backend_submit(q->bq, req);
	return true;
}

/*
 * The others tell queue 0's loop, which then has nothing left to serve.
 */
static void one_less(struct control *c)
{
	if (!--c->unfinished)
		loop_stop(c->owner->loop);
}

static void finished_arrived(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct queue *q = container_of(op, struct queue, finished_msg.op);

	(void)res;
	(void)cqe_flags;
	one_less(q->control);
}

static void queue_finished(struct queue *q)
{
	if (!q->index) {
		one_less(q->control);
		return;
	}
	q->finished_msg.op.complete = finished_arrived;
	loop_send(q->loop, q->control->owner->loop, &q->finished_msg, 0);
	loop_stop(q->loop);
}

/* Other queues' flushes are work for this one's connection, so it begins when all are through. */
static void begin_idle(struct queue *q)
{
	q->alone = !__atomic_load_n(&q->control->busy, __ATOMIC_ACQUIRE);
	q->idle_iterations = loop_stats(q->loop)->iterations;
	loop_timer_arm(q->loop, &q->idle_timer, IDLE_MS);
}

static void idle_over(struct loop_timer *timer)
{
	struct queue *q = container_of(timer, struct queue, idle_timer);
	uint64_t woken = loop_stats(q->loop)->iterations - q->idle_iterations;

	if (!q->alone) {
		begin_idle(q);
		return;
	}

	/* This timer's own wake-up, and the iteration that armed it. */
	if (woken > 2)
		q->wakeups = (unsigned int)woken - 2;
	queue_finished(q);
}

static void issue_more(struct queue *q)
{
	for (unsigned int i = 0; i < q->s->depth && q->issued < q->s->ops; i++)
		if (!q->slots[i].busy)
			start(&q->slots[i]);
	if (q->finished < q->s->ops || q->finished != q->issued)
		return;
	__atomic_sub_fetch(&q->control->busy, 1, __ATOMIC_ACQ_REL);
	/* Queue 0 may be woken by the others' requests. */
	if (!q->s->idle_check || (!q->index && q->s->options.queues > 1)) {
		queue_finished(q);
		return;
	}
	begin_idle(q);
}

static int prepare(struct queue *q)
{
	struct loop_params lp = { .name = "exerciser", .best_rung = q->s->rung };
	size_t bytes = (size_t)q->s->max_blocks * q->block_size + 64;
	int ret;

	q->content = calloc(q->nblocks, sizeof(*q->content));
	q->busy = calloc(q->nblocks, 1);
	if (!q->content || !q->busy)
		return err_set(&q->error, ENOMEM, "out of memory");
	for (uint64_t i = 0; i < q->nblocks; i++)
		q->content[i] = q->s->blank ? CONTENT_ZERO : CONTENT_FOREIGN;
	for (unsigned int i = 0; i < q->s->depth; i++) {
		q->slots[i].q = q;
		q->slots[i].buf = malloc(bytes);
		if (!q->slots[i].buf)
			return err_set(&q->error, ENOMEM, "out of memory");
	}
	ret = loop_create(&lp, &q->loop, &q->error);
	if (ret < 0)
		return ret;
	return backend_queue_create(q->backend, q->loop, q->index, &q->bq, &q->error);
}

static void release(struct queue *q)
{
	backend_queue_destroy(q->bq);
	loop_destroy(q->loop);
	for (unsigned int i = 0; i < q->s->depth; i++)
		free(q->slots[i].buf);
	free(q->content);
	free(q->busy);
}

/* Returns false if there will be no queue 0. */
static bool wait_for_owner(struct queue *q)
{
	struct control *c = q->control;
	bool ok;

	pthread_mutex_lock(&c->lock);
	while (!c->owner && !c->owner_failed)
		pthread_cond_wait(&c->changed, &c->lock);
	ok = !c->owner_failed;
	pthread_mutex_unlock(&c->lock);
	return ok;
}

static void announce_owner(struct queue *q)
{
	struct control *c = q->control;

	pthread_mutex_lock(&c->lock);
	if (q->failed)
		c->owner_failed = true;
	else
		c->owner = q;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

static void *run_queue(void *arg)
{
	struct queue *q = arg;

	if (q->index && !wait_for_owner(q))
		return NULL;
	q->failed = prepare(q);
	if (!q->index)
		announce_owner(q);
	if (q->s->started)
		sem_post(q->s->started);
	if (q->failed && q->index && q->loop) {
		/* Queue 0 waits for everybody. */
		__atomic_sub_fetch(&q->control->busy, 1, __ATOMIC_ACQ_REL);
		queue_finished(q);
		loop_hook_schedule(q->loop, &q->stop_hook);
		loop_run(q->loop);
	} else if (!q->failed) {
		issue_more(q);
		q->failed = loop_run(q->loop);
	}
	if (q->loop)
		q->enters = loop_stats(q->loop)->enters;
	/* Queue 0's loop has stopped, but only after the last of the others. */
	release(q);
	return NULL;
}

static void stop_loop(struct loop_hook *hook)
{
	loop_stop(container_of(hook, struct queue, stop_hook)->loop);
}

static void add_result(struct exercise_result *r, const struct queue *q)
{
	r->requests += q->finished;
	r->errors += q->errors;
	r->mismatches += q->mismatches;
	r->wakeups += q->wakeups;
	r->enters += q->enters;
	if (!r->first_error)
		r->first_error = q->first_error;
	for (int i = 0; i < _BACKEND_OP_MAX; i++)
		r->by_op[i] += q->by_op[i];
}

static int run_queues(const struct exercise *x, struct backend *backend, struct exercise_result *r,
		      struct error *e)
{
	unsigned int n = x->options.queues;
	uint64_t blocks = backend->info.size / backend->info.block_size;
	struct control control = { .unfinished = n, .busy = n };
	struct queue *queues = calloc(n, sizeof(*queues));
	int ret = 0;

	if (!queues)
		return err_set(e, ENOMEM, "out of memory");
	pthread_mutex_init(&control.lock, NULL);
	pthread_cond_init(&control.changed, NULL);
	for (unsigned int i = 0; i < n; i++) {
		struct queue *q = &queues[i];

		q->s = x;
		q->backend = backend;
		q->control = &control;
		q->index = i;
		q->rng.state = x->seed * 1000003ull + i;
		q->block_size = backend->info.block_size;
		q->nblocks = blocks / n;
		q->first_block = q->nblocks * i;
		q->idle_timer.expired = idle_over;
		q->stop_hook.run = stop_loop;
		pthread_create(&q->thread, NULL, run_queue, q);
	}
	for (unsigned int i = n; i-- > 0;) {
		pthread_join(queues[i].thread, NULL);
		add_result(r, &queues[i]);
		if (queues[i].failed) {
			ret = queues[i].failed;
			*e = queues[i].error;
		}
	}
	pthread_cond_destroy(&control.changed);
	pthread_mutex_destroy(&control.lock);
	free(queues);
	return ret;
}

static void add_link_stats(struct exercise_result *r, struct backend *backend)
{
	struct backend_link_stats stats;

	for (unsigned int i = 0; !backend_link_stats(backend, i, &stats); i++) {
		for (int k = 0; k < _BACKEND_LOSS_MAX; k++)
			r->lost += (unsigned int)stats.losses[k];
		r->resubmitted += (unsigned int)stats.resubmitted;
		r->replayed += (unsigned int)stats.replayed;
		r->held += (unsigned int)stats.held;
		r->flushes += (unsigned int)stats.flushes;
	}
}

int exercise_run(const struct exercise *x, struct exercise_result *ret_result, struct error *e)
{
	struct exercise copy = *x;
	struct exercise_result r = { 0 };
	struct backend *backend;
	int ret;

	copy.options.queues = copy.options.queues ? copy.options.queues : 1;
	copy.depth = copy.depth ? copy.depth : 16;
	copy.ops = copy.ops ? copy.ops : 1500;
	copy.max_blocks = copy.max_blocks ? copy.max_blocks : 16;
	ret = backend_open(copy.uri, &copy.options, &backend, e);
	if (ret < 0)
		return ret;
	r.info = backend->info;
	r.wanted = copy.ops * copy.options.queues;
	ret = run_queues(&copy, backend, &r, e);
	add_link_stats(&r, backend);
	backend_close(backend);
	if (!ret)
		*ret_result = r;
	return ret;
}
