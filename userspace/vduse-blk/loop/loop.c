// SPDX-License-Identifier: MIT
/*
 * Event loop.
 *
 * Ownership: a loop and everything registered with it belong to one thread.
 * The only state that another thread touches is the ring's file descriptor,
 * which is constant: loop_send() posts a completion into it through
 * IORING_OP_MSG_RING, so messages need neither lock nor eventfd.
 *
 * user_data is the address of a struct loop_op. The address is at least
 * 8-byte aligned, bit 0 marks the sender's side of a message. Zero means that
 * nobody wants the result.
 *
 * Sleeping: the decision is made in one place, run_once(). A completion that
 * is in the queue, task work that the kernel has flagged, a message of the loop
 * to itself, a scheduled hook, or work found by an idle callback keep the loop
 * awake. These checks are reads of memory. idle->arm runs last, so what it
 * enables can only fire into a loop that is about to look again.
 *
 * Timers are a sorted list; the nearest deadline bounds the sleep. They cost
 * no submission, and cancelling is immediate.
 */
#include "loop/loop.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

/*
 * The kernel orders what a sender wrote before what the receiver of its message
 * reads; ThreadSanitizer has to be told.
 */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define message_leaves(op)  __tsan_release(op)
#define message_arrives(op) __tsan_acquire(op)
#else
#define message_leaves(op)  ((void)(op))
#define message_arrives(op) ((void)(op))
#endif

#define DEFAULT_SQ_ENTRIES 256
#define MSG_TAG		   1ULL
#define HOOK_BUDGET	   256

struct loop {
	struct io_uring ring;
	struct loop_hook *hooks;
	struct loop_hook **hooks_tail;
	struct loop_idle *idles;
	struct loop_idle *idle_next; /* where walk_idles() goes on */
	struct loop_timer *timers;   /* by deadline */
	struct loop_msg *to_self;
	struct loop_msg **to_self_tail;
	uint64_t now_ns; /* of this iteration; 0: nobody has asked yet */
	struct loop_stats stats;
	bool stop;
};

static const struct {
	const char *name;
	unsigned int setup_flags;
} rungs[_LOOP_RUNG_MAX] = {
	[LOOP_RUNG_DEFER] = { "defer-taskrun", IORING_SETUP_SINGLE_ISSUER |
						       IORING_SETUP_DEFER_TASKRUN |
						       IORING_SETUP_TASKRUN_FLAG },
	[LOOP_RUNG_COOP] = { "coop-taskrun", IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG },
	[LOOP_RUNG_PLAIN] = { "plain", 0 },
};

const char *loop_rung_name(enum loop_rung rung)
{
	return rungs[rung].name;
}

const struct loop_stats *loop_stats(const struct loop *loop)
{
	return &loop->stats;
}

/* Messages need Linux 5.18; everything else that is used is older. */
static int check_kernel(struct io_uring *ring, struct error *e)
{
	const unsigned int features =
		IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_CQE_SKIP;
	struct io_uring_probe *probe;
	bool msg_ring;

	probe = io_uring_get_probe_ring(ring);
	if (!probe)
		return err_set(e, ENOMEM, "io_uring: cannot probe the kernel's operations");
	msg_ring = io_uring_opcode_supported(probe, IORING_OP_MSG_RING);
	io_uring_free_probe(probe);
	if (!msg_ring || (ring->features & features) != features)
		return err_set(e, ENOSYS, "io_uring of this kernel is too old (5.18 is needed)");
	return 0;
}

static int setup_ring(struct loop *loop, const struct loop_params *p, struct error *e)
{
	unsigned int sq = p->sq_entries ? p->sq_entries : DEFAULT_SQ_ENTRIES;
	unsigned int cq = p->cq_entries ? p->cq_entries : 4 * sq;
	int ret = -EINVAL;

	for (enum loop_rung rung = p->best_rung; rung < _LOOP_RUNG_MAX; rung++) {
		struct io_uring_params params = {
			.flags = rungs[rung].setup_flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
			.cq_entries = cq,
		};

		ret = io_uring_queue_init_params(sq, &loop->ring, &params);
		if (!ret) {
			loop->stats.rung = rung;
			break;
		}
		if (ret != -EINVAL)
			break;
	}
	if (ret == -EPERM)
		return err_set(e, EPERM,
			       "io_uring is forbidden here (seccomp or kernel.io_uring_disabled)");
	if (ret == -ENOSYS)
		return err_set(e, ENOSYS, "this kernel has no io_uring");
	if (ret)
		return err_set_errno(e, -ret, "cannot create an io_uring of %u entries", sq);

	ret = check_kernel(&loop->ring, e);
	if (ret < 0) {
		io_uring_queue_exit(&loop->ring);
		return ret;
	}
	/* Spares the kernel a look-up per call; not having it is no loss. */
	io_uring_register_ring_fd(&loop->ring);
	return 0;
}

int loop_create(const struct loop_params *params, struct loop **ret_loop, struct error *e)
{
	struct loop *loop;
	int ret;

	loop = calloc(1, sizeof(*loop));
	if (!loop)
		return err_set(e, ENOMEM, "event loop: out of memory");
	loop->hooks_tail = &loop->hooks;
	loop->to_self_tail = &loop->to_self;

	ret = setup_ring(loop, params, e);
	if (ret < 0) {
		free(loop);
		return ret;
	}
	log_debug("event loop %s: io_uring %s", params->name ? params->name : "",
		  loop_rung_name(loop->stats.rung));
	*ret_loop = loop;
	return 0;
}

/*
 * Submit what is prepared, collect what is ready, do not wait. The kernel asks
 * for patience (-EAGAIN: out of memory, -EBUSY: completions have to be taken
 * first, -EINTR) by leaving entries in the queue; the next iteration retries.
 */
static int submit_now(struct loop *loop)
{
	int ret;

	loop->stats.enters++;
	loop->now_ns = 0;
	ret = io_uring_submit_and_get_events(&loop->ring);
	if (ret == -EAGAIN || ret == -EBUSY || ret == -EINTR)
		return 0;
	return ret < 0 ? ret : 0;
}

int loop_submit(struct loop *loop)
{
	int ret = 0;

	while (!ret && io_uring_sq_ready(&loop->ring))
		ret = submit_now(loop);
	return ret;
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	loop_submit(loop);
	io_uring_queue_exit(&loop->ring);
	free(loop);
}

static uint64_t read_clock(struct loop *loop)
{
	loop->now_ns = clock_now_ns();
	return loop->now_ns;
}

uint64_t loop_now_ns(struct loop *loop)
{
	return likely(loop->now_ns) ? loop->now_ns : read_clock(loop);
}

/* Good enough for waiting: too old a time makes a timer late, never early. */
static int64_t batch_ms(struct loop *loop)
{
	return (int64_t)(loop_now_ns(loop) / NS_PER_MS);
}

static int64_t now_ms(void)
{
	return (int64_t)(clock_now_ns() / NS_PER_MS);
}

/* Submit and sleep until a completion or the next deadline. */
static int submit_and_sleep(struct loop *loop)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int ret;

	loop->stats.enters++;
	loop->stats.sleeps++;
	if (loop->timers) {
		int64_t left = max(loop->timers->deadline_ms - batch_ms(loop), (int64_t)0);

		ts.tv_sec = left / 1000;
		ts.tv_nsec = left % 1000 * 1000000;
		ret = io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL);
	} else {
		ret = io_uring_submit_and_wait(&loop->ring, 1);
	}
	if (ret == -ETIME || ret == -EAGAIN || ret == -EBUSY || ret == -EINTR)
		return 0;
	return ret < 0 ? ret : 0;
}

struct io_uring_sqe *loop_sqe(struct loop *loop, struct loop_op *op)
{
	struct io_uring_sqe *sqe;

	while (unlikely(!(sqe = io_uring_get_sqe(&loop->ring)))) {
		int ret = submit_now(loop);

		/* The ring is unusable, and whoever asks has no way to go on. */
		if (ret < 0) {
			log_error("io_uring: %s", strerror(-ret));
			abort();
		}
	}
	loop->stats.sqes++;
	io_uring_sqe_set_data(sqe, op);
	return sqe;
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
	io_uring_prep_cancel(loop_sqe(loop, NULL), op, 0);
}

void loop_stop(struct loop *loop)
{
	loop->stop = true;
}

/* --- messages --- */

static void post_msg(struct loop *from, struct loop_msg *msg)
{
	struct io_uring_sqe *sqe = loop_sqe(from, NULL);

	io_uring_prep_msg_ring(sqe, msg->to->ring.ring_fd, (unsigned int)msg->value,
			       (uintptr_t)&msg->op, 0);
	/* Only a failure comes back to the sender. */
	sqe->user_data = (uintptr_t)msg | MSG_TAG;
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	message_leaves(&msg->op);
}

void loop_send(struct loop *from, struct loop *to, struct loop_msg *msg, int value)
{
	msg->to = to;
	msg->value = value;
	msg->next = NULL;
	if (to == from) {
		*from->to_self_tail = msg;
		from->to_self_tail = &msg->next;
		return;
	}
	post_msg(from, msg);
}

static void msg_failed(struct loop *loop, struct loop_msg *msg, int res)
{
	if (res == -EOVERFLOW || res == -EAGAIN || res == -ENOMEM) {
		post_msg(loop, msg);
		return;
	}
	/* The receiver does not exist: the caller broke the contract of loop_send(). */
	log_error("message to another loop was lost: %s", strerror(-res));
}

static unsigned int deliver_to_self(struct loop *loop)
{
	struct loop_msg *msg = loop->to_self;
	unsigned int n = 0;

	loop->to_self = NULL;
	loop->to_self_tail = &loop->to_self;
	while (msg) {
		struct loop_msg *next = msg->next;

		msg->op.complete(&msg->op, msg->value, 0);
		msg = next;
		n++;
	}
	return n;
}

/* --- completions --- */

static void dispatch(struct loop *loop, uint64_t user_data, int res, uint32_t flags)
{
	struct loop_op *op;

	if (!user_data)
		return;
	if (unlikely(user_data & MSG_TAG)) {
		msg_failed(loop, (void *)(uintptr_t)(user_data & ~MSG_TAG), res);
		return;
	}
	op = (void *)(uintptr_t)user_data;
	message_arrives(op);
	op->complete(op, res, flags);
}

/* Handles what is ready now, not what becomes ready meanwhile: hooks get their turn. */
static void reap(struct loop *loop)
{
	unsigned int ready = io_uring_cq_ready(&loop->ring);
	struct io_uring_cqe *cqe;
	unsigned int head, n = 0;

	if (ready) {
		io_uring_for_each_cqe(&loop->ring, head, cqe) {
			dispatch(loop, cqe->user_data, cqe->res, cqe->flags);
			if (++n == ready)
				break;
		}
		io_uring_cq_advance(&loop->ring, n);
		loop->stats.cqes += n;
	}
	if (loop->to_self)
		deliver_to_self(loop);
}

/* --- hooks --- */

void loop_hook_schedule(struct loop *loop, struct loop_hook *hook)
{
	if (hook->scheduled)
		return;
	hook->scheduled = true;
	hook->next = NULL;
	*loop->hooks_tail = hook;
	loop->hooks_tail = &hook->next;
}

void loop_hook_cancel(struct loop *loop, struct loop_hook *hook)
{
	struct loop_hook **p = &loop->hooks;

	if (!hook->scheduled)
		return;
	while (*p != hook)
		p = &(*p)->next;
	*p = hook->next;
	if (!*p)
		loop->hooks_tail = p;
	hook->scheduled = false;
}

/* Hooks that schedule each other for ever must not keep completions waiting. */
static void run_hooks(struct loop *loop)
{
	struct loop_hook *hook;

	for (int budget = HOOK_BUDGET; budget && (hook = loop->hooks); budget--) {
		loop->hooks = hook->next;
		if (!loop->hooks)
			loop->hooks_tail = &loop->hooks;
		hook->scheduled = false;
		hook->run(hook);
	}
}

/* --- idle callbacks --- */

void loop_idle_add(struct loop *loop, struct loop_idle *idle)
{
	idle->next = loop->idles;
	loop->idles = idle;
}

void loop_idle_del(struct loop *loop, struct loop_idle *idle)
{
	struct loop_idle **p = &loop->idles;

	while (*p && *p != idle)
		p = &(*p)->next;
	if (!*p)
		return;
	*p = idle->next;
	if (loop->idle_next == idle)
		loop->idle_next = idle->next;
}

static bool poll_idles(struct loop *loop)
{
	bool found = false;

	for (struct loop_idle *idle = loop->idles; idle; idle = loop->idle_next) {
		loop->idle_next = idle->next;
		if (idle->poll && idle->poll(idle))
			found = true;
	}
	return found;
}

static bool arm_idles(struct loop *loop)
{
	bool found = false;

	for (struct loop_idle *idle = loop->idles; idle; idle = loop->idle_next) {
		loop->idle_next = idle->next;
		if (idle->arm && idle->arm(idle))
			found = true;
	}
	return found;
}

/* --- timers --- */

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	struct loop_timer **p = &loop->timers;

	if (!timer->armed)
		return;
	while (*p != timer)
		p = &(*p)->next;
	*p = timer->next;
	timer->armed = false;
}

void loop_timer_arm(struct loop *loop, struct loop_timer *timer, unsigned int ms)
{
	struct loop_timer **p = &loop->timers;

	loop_timer_cancel(loop, timer);
	timer->deadline_ms = now_ms() + ms;
	while (*p && (*p)->deadline_ms <= timer->deadline_ms)
		p = &(*p)->next;
	timer->next = *p;
	*p = timer;
	timer->armed = true;
}

static void run_timers(struct loop *loop)
{
	int64_t now = batch_ms(loop);
	struct loop_timer *timer;

	while ((timer = loop->timers) && timer->deadline_ms <= now) {
		loop->timers = timer->next;
		timer->armed = false;
		timer->expired(timer);
	}
}

/* --- the iteration --- */

/* Reads of memory only; the kernel flags task work that has to be run. */
static bool something_ready(struct loop *loop)
{
	unsigned int sq_flags = IO_URING_READ_ONCE(*loop->ring.sq.kflags);

	return io_uring_cq_ready(&loop->ring) || loop->to_self || loop->hooks ||
	       (sq_flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

/* Nothing to submit, and what is ready can be seen without the kernel's help? */
static bool needs_enter(struct loop *loop)
{
	unsigned int sq_flags = IO_URING_READ_ONCE(*loop->ring.sq.kflags);

	return io_uring_sq_ready(&loop->ring) ||
	       (!io_uring_cq_ready(&loop->ring) &&
		(sq_flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)));
}

static int run_once(struct loop *loop)
{
	bool awake, found;

	loop->stats.iterations++;
	loop->now_ns = 0;
	reap(loop);
	if (loop->timers)
		run_timers(loop);
	found = poll_idles(loop);
	run_hooks(loop);
	if (loop->stop)
		return 0;

	/* Where work was found without an event there may be more: look again first. */
	awake = found || something_ready(loop);
	if (!awake) {
		awake = arm_idles(loop);
		/* Even an idle callback that found nothing may have scheduled a hook. */
		run_hooks(loop);
		if (loop->to_self || loop->hooks || loop->stop)
			awake = true;
	}
	if (!awake)
		return submit_and_sleep(loop);
	return needs_enter(loop) ? submit_now(loop) : 0;
}

int loop_run(struct loop *loop)
{
	int ret = 0;

	loop->stop = false;
	while (!loop->stop && !ret)
		ret = run_once(loop);

	/* What was prepared last must not wait for a next loop_run() that may never be. */
	if (!ret)
		ret = loop_submit(loop);
	loop->now_ns = 0;
	return ret;
}
