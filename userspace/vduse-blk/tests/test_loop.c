// SPDX-License-Identifier: MIT
/*
 * The event loop, at every rung: order of an iteration, hooks, idle callbacks,
 * timers, messages between threads, and that a loop without work sleeps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "loop/loop.h"

static struct loop *new_loop(enum loop_rung rung, unsigned int sq_entries)
{
	struct loop_params p = { .best_rung = rung, .sq_entries = sq_entries };
	struct error e = ERROR_INIT;
	struct loop *loop;

	if (loop_create(&p, &loop, &e))
		fail_msg("%s", e.text);
	return loop;
}

static int64_t now_ms(void)
{
	return (int64_t)(clock_now_ns() / NS_PER_MS);
}

/* --- completions --- */

struct counter {
	struct loop_op op;
	struct loop *loop;
	unsigned int seen, stop_at;
	int last;
};

static void count(struct loop_op *op, int res, uint32_t flags)
{
	struct counter *c = container_of(op, struct counter, op);

	(void)flags;
	c->last = res;
	if (++c->seen == c->stop_at)
		loop_stop(c->loop);
}

static void test_rungs(void **state)
{
	(void)state;
	for (enum loop_rung rung = 0; rung < _LOOP_RUNG_MAX; rung++) {
		struct loop *loop = new_loop(rung, 0);
		struct counter c = { .op.complete = count, .loop = loop, .stop_at = 3 };

		for (int i = 0; i < 3; i++)
			io_uring_prep_nop(loop_sqe(loop, &c.op));
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(c.seen, 3);
		/* A kernel without a rung falls to the next one, never up. */
		assert_true(loop_stats(loop)->rung >= rung);
		print_message("asked for %s, got %s\n", loop_rung_name(rung),
			      loop_rung_name(loop_stats(loop)->rung));
		loop_destroy(loop);
	}
}

/* A batch costs one call to submit it and to wait for it. */
static void test_one_enter(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct counter c = { .op.complete = count, .loop = loop, .stop_at = 100 };

	(void)state;
	for (int i = 0; i < 100; i++)
		io_uring_prep_nop(loop_sqe(loop, &c.op));
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(loop_stats(loop)->enters, 1);
	assert_int_equal(loop_stats(loop)->sqes, 100);
	assert_int_equal(loop_stats(loop)->cqes, 100);
	loop_destroy(loop);
}

/* More than the submission queue and the completion queue hold. */
static void test_overflow(void **state)
{
	enum {
		N = 5000
	};

	(void)state;
	for (enum loop_rung rung = 0; rung < _LOOP_RUNG_MAX; rung++) {
		struct loop *loop = new_loop(rung, 8);
		struct counter c = { .op.complete = count, .loop = loop, .stop_at = N };

		for (int i = 0; i < N; i++)
			io_uring_prep_nop(loop_sqe(loop, &c.op));
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(c.seen, N);
		loop_destroy(loop);
	}
}

/* A read that blocks is cancelled, and completes once. */
static void test_cancel(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct counter c = { .op.complete = count, .loop = loop, .stop_at = 1 };
	auto_close int fd = eventfd(0, EFD_CLOEXEC);
	uint64_t value;

	(void)state;
	io_uring_prep_read(loop_sqe(loop, &c.op), fd, &value, sizeof(value), 0);
	loop_cancel(loop, &c.op);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(c.seen, 1);
	assert_int_equal(c.last, -ECANCELED);
	loop_destroy(loop);
}

/* --- hooks --- */

static char trace[64];

static void note(char c)
{
	size_t n = strlen(trace);

	assert_true(n < sizeof(trace) - 1);
	trace[n] = c;
	trace[n + 1] = '\0';
}

struct step {
	struct loop_hook hook;
	struct loop_op op;
	struct loop *loop;
	char letter;
	struct step *schedules; /* by the hook */
	bool stops;
};

static void step_hook(struct loop_hook *hook)
{
	struct step *s = container_of(hook, struct step, hook);

	note(s->letter);
	if (s->schedules)
		loop_hook_schedule(s->loop, &s->schedules->hook);
	if (s->stops)
		loop_stop(s->loop);
}

static void step_op(struct loop_op *op, int res, uint32_t flags)
{
	struct step *s = container_of(op, struct step, op);

	(void)res;
	(void)flags;
	note('.');
	/* Twice in a batch, run once. */
	loop_hook_schedule(s->loop, &s->hook);
	loop_hook_schedule(s->loop, &s->hook);
}

static void test_hooks(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct step c = { .hook.run = step_hook, .loop = loop, .letter = 'c', .stops = true };
	struct step b = { .hook.run = step_hook, .loop = loop, .letter = 'b' };
	struct step a = { .hook.run = step_hook,
			  .op.complete = step_op,
			  .loop = loop,
			  .letter = 'a',
			  .schedules = &c };

	(void)state;
	trace[0] = '\0';
	io_uring_prep_nop(loop_sqe(loop, &a.op));
	io_uring_prep_nop(loop_sqe(loop, &a.op));
	loop_hook_schedule(loop, &b.hook);
	assert_int_equal(loop_run(loop), 0);
	/* b alone; then both completions, one run of a, and what a schedules. */
	assert_string_equal(trace, "b..ac");
	assert_int_equal(loop_stats(loop)->enters, 1);
	loop_destroy(loop);
}

static void test_hook_cancel(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct step s[4];

	(void)state;
	for (int victim = 0; victim < 4; victim++) {
		trace[0] = '\0';
		for (int i = 0; i < 4; i++) {
			s[i] = (struct step){ .hook.run = step_hook,
					      .loop = loop,
					      .letter = (char)('a' + i),
					      .stops = true };
			loop_hook_schedule(loop, &s[i].hook);
		}
		loop_hook_cancel(loop, &s[victim].hook);
		loop_hook_cancel(loop, &s[victim].hook);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(strlen(trace), 3);
		assert_null(strchr(trace, 'a' + victim));
		/* The list is intact: a cancelled hook can come again, as the last. */
		trace[0] = '\0';
		loop_hook_schedule(loop, &s[victim].hook);
		loop_hook_schedule(loop, &s[(victim + 1) % 4].hook);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(trace[0], 'a' + victim);
		assert_int_equal(trace[1], 'a' + (victim + 1) % 4);
	}
	loop_destroy(loop);
}

/* Two hooks that schedule each other do not starve completions. */
static void test_hook_ping_pong(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct counter c = { .op.complete = count, .loop = loop, .stop_at = 1 };
	struct step a, b;

	(void)state;
	a = (struct step){ .hook.run = step_hook, .loop = loop };
	b = a;
	a.schedules = &b;
	b.schedules = &a;
	trace[0] = '\0'; /* the letter 0 keeps it empty */
	loop_hook_schedule(loop, &a.hook);
	io_uring_prep_nop(loop_sqe(loop, &c.op));
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(c.seen, 1);
	loop_hook_cancel(loop, &a.hook);
	loop_hook_cancel(loop, &b.hook);
	loop_destroy(loop);
}

/* --- idle callbacks --- */

struct source {
	struct loop_idle idle;
	struct loop *loop;
	unsigned int work, arm_work; /* how often it pretends to find some */
	unsigned int polls, arms;
	bool removes_itself;
};

static bool source_poll(struct loop_idle *idle)
{
	struct source *s = container_of(idle, struct source, idle);

	s->polls++;
	if (s->removes_itself)
		loop_idle_del(s->loop, idle);
	if (!s->work)
		return false;
	s->work--;
	return true;
}

static bool source_arm(struct loop_idle *idle)
{
	struct source *s = container_of(idle, struct source, idle);

	s->arms++;
	if (!s->arm_work)
		return false;
	s->arm_work--;
	return true;
}

struct waker {
	struct loop_timer timer;
	struct loop *loop;
	unsigned int expired;
};

static void stop_later(struct loop_timer *timer)
{
	struct waker *w = container_of(timer, struct waker, timer);

	w->expired++;
	loop_stop(w->loop);
}

static void run_for(struct loop *loop, unsigned int ms)
{
	struct waker w = { .timer.expired = stop_later, .loop = loop };

	loop_timer_arm(loop, &w.timer, ms);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(w.expired, 1);
}

static void test_idle_callbacks(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct source s = { .idle = { .poll = source_poll, .arm = source_arm },
			    .loop = loop,
			    .work = 5,
			    .arm_work = 2 };

	(void)state;
	loop_idle_add(loop, &s.idle);
	run_for(loop, 500);
	/*
	 * Five polls with work, not armed meanwhile; then two arms that find
	 * work keep it awake, the third lets it sleep; after the timer's
	 * iteration, which stops the loop, there is no arming.
	 */
	assert_int_equal(s.work, 0);
	assert_int_equal(s.arm_work, 0);
	assert_int_equal(s.arms, 3);
	assert_int_equal(s.polls, 5 + 3 + 1);
	assert_int_equal(loop_stats(loop)->sleeps, 1);
	loop_idle_del(loop, &s.idle);
	loop_idle_del(loop, &s.idle);
	run_for(loop, 1);
	assert_int_equal(s.polls, 9);
	loop_destroy(loop);
}

static void test_idle_removal(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct source s[3];

	(void)state;
	for (int i = 0; i < 3; i++) {
		s[i] = (struct source){ .idle.poll = source_poll,
					.loop = loop,
					.removes_itself = true };
		loop_idle_add(loop, &s[i].idle);
	}
	run_for(loop, 5);
	for (int i = 0; i < 3; i++)
		assert_int_equal(s[i].polls, 1);
	loop_destroy(loop);
}

/* Without work there is one sleep, however long it takes, and no processor time. */
static void test_asleep(void **state)
{
	(void)state;
	for (enum loop_rung rung = 0; rung < _LOOP_RUNG_MAX; rung++) {
		struct loop *loop = new_loop(rung, 0);
		struct counter c = { .op.complete = count, .loop = loop };
		struct source s = { .idle = { .poll = source_poll, .arm = source_arm },
				    .loop = loop };
		auto_close int fd = eventfd(0, EFD_CLOEXEC);
		uint64_t value;

		loop_idle_add(loop, &s.idle);
		/* Something is in flight that never comes. */
		io_uring_prep_read(loop_sqe(loop, &c.op), fd, &value, sizeof(value), 0);
		run_for(loop, 300);
		assert_int_equal(loop_stats(loop)->iterations, 2);
		assert_int_equal(loop_stats(loop)->enters, 1);
		assert_int_equal(s.arms, 1);
		assert_int_equal(c.seen, 0);
		loop_idle_del(loop, &s.idle);
		loop_destroy(loop);
	}
}

/* --- timers --- */

struct alarm {
	struct loop_timer timer;
	struct loop *loop;
	char letter;
	unsigned int again; /* re-arms itself so many times */
	struct alarm *cancels;
};

static void alarm_expired(struct loop_timer *timer)
{
	struct alarm *a = container_of(timer, struct alarm, timer);

	if (a->letter)
		note(a->letter);
	if (a->cancels)
		loop_timer_cancel(a->loop, &a->cancels->timer);
	if (a->again) {
		a->again--;
		loop_timer_arm(a->loop, timer, 0);
	}
}

/* In the order of their deadlines, however late the loop is. */
static void test_timers(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct alarm a[4];
	int64_t start;

	(void)state;
	trace[0] = '\0';
	for (int i = 0; i < 4; i++)
		a[i] = (struct alarm){ .timer.expired = alarm_expired,
				       .loop = loop,
				       .letter = (char)('a' + i) };
	a[0].cancels = &a[3];
	start = now_ms();
	loop_timer_arm(loop, &a[1].timer, 60);
	loop_timer_arm(loop, &a[0].timer, 30);
	loop_timer_arm(loop, &a[2].timer, 10);
	loop_timer_arm(loop, &a[3].timer, 40);
	/* Moved back. */
	loop_timer_arm(loop, &a[2].timer, 80);
	run_for(loop, 120);
	assert_true(now_ms() - start >= 120);
	assert_string_equal(trace, "abc");
	/* No spinning: each expiry wakes once or twice. */
	assert_in_range(loop_stats(loop)->enters, 1, 12);
	loop_timer_cancel(loop, &a[0].timer);
	loop_destroy(loop);
}

static void test_timer_again(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct alarm a = { .timer.expired = alarm_expired, .loop = loop, .letter = 'a', .again = 3 };

	(void)state;
	trace[0] = '\0';
	loop_timer_arm(loop, &a.timer, 0);
	run_for(loop, 50);
	assert_string_equal(trace, "aaaa");
	loop_destroy(loop);
}

/* One that is due in every iteration does not keep others from their turn. */
static void test_timer_not_starved(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct alarm busy = { .timer.expired = alarm_expired,
			      .loop = loop,
			      .again = 1000000000 };
	struct alarm other = { .timer.expired = alarm_expired, .loop = loop, .letter = 'a' };

	(void)state;
	trace[0] = '\0';
	other.cancels = &busy;
	loop_timer_arm(loop, &busy.timer, 0);
	loop_timer_arm(loop, &other.timer, 1);
	run_for(loop, 50);
	assert_int_equal(other.timer.armed, false);
	assert_int_equal(busy.timer.armed, false);
	loop_destroy(loop);
}

/* --- messages --- */

struct peer {
	pthread_t thread;
	pthread_barrier_t *barrier;
	struct loop *loop;
	struct peer *other;
	struct loop_msg msgs[64];
	struct loop_msg last;
	unsigned int received;
	uint64_t sum;
	unsigned int rounds;
	struct loop_hook stop;
	enum loop_rung rung;
};

/* Every message goes to and fro; the value counts down. */
static void ping(struct loop_op *op, int res, uint32_t flags);

static void pong_to(struct peer *from, struct loop_msg *msg, int value)
{
	msg->op.complete = ping;
	loop_send(from->loop, from->other->loop, msg, value);
}

static __thread struct peer *self;

static void ping(struct loop_op *op, int res, uint32_t flags)
{
	struct loop_msg *msg = container_of(op, struct loop_msg, op);

	(void)flags;
	self->received++;
	if (res > 0)
		pong_to(self, msg, res - 1);
	if (self->received == self->rounds)
		loop_stop(self->loop);
}

static void *peer_thread(void *arg)
{
	struct peer *p = arg;

	self = p;
	p->loop = new_loop(p->rung, 8);
	pthread_barrier_wait(p->barrier);
	for (size_t i = 0; i < ARRAY_SIZE(p->msgs); i++)
		pong_to(p, &p->msgs[i], 99);
	assert_int_equal(loop_run(p->loop), 0);
	pthread_barrier_wait(p->barrier);
	loop_destroy(p->loop);
	return NULL;
}

static void test_messages(void **state)
{
	(void)state;
	for (enum loop_rung rung = 0; rung < _LOOP_RUNG_MAX; rung++) {
		pthread_barrier_t barrier;
		struct peer peers[2] = { 0 };

		pthread_barrier_init(&barrier, NULL, 2);
		for (int i = 0; i < 2; i++) {
			peers[i].barrier = &barrier;
			peers[i].rung = rung;
			peers[i].other = &peers[!i];
			/* 64 messages of each side, each seen 50 times here. */
			peers[i].rounds = 2 * 64 * 50;
			pthread_create(&peers[i].thread, NULL, peer_thread, &peers[i]);
		}
		for (int i = 0; i < 2; i++)
			pthread_join(peers[i].thread, NULL);
		assert_int_equal(peers[0].received, 2 * 64 * 50);
		assert_int_equal(peers[1].received, 2 * 64 * 50);
		pthread_barrier_destroy(&barrier);
	}
}

/* Sent by a loop that never runs again. */
struct last_word {
	struct loop_msg msg;
	struct loop *to;
	struct counter counter;
	enum loop_rung rung;
};

static void last_word_arrived(struct loop_op *op, int res, uint32_t flags)
{
	struct last_word *w = container_of(op, struct last_word, msg.op);

	count(&w->counter.op, res, flags);
}

static void *say_last_word(void *arg)
{
	struct last_word *w = arg;
	struct loop *loop = new_loop(w->rung, 8);

	loop_send(loop, w->to, &w->msg, 7);
	loop_destroy(loop);
	return NULL;
}

static void test_last_message(void **state)
{
	(void)state;
	for (enum loop_rung rung = 0; rung < _LOOP_RUNG_MAX; rung++) {
		struct loop *loop = new_loop(rung, 0);
		struct last_word w = {
			.msg.op.complete = last_word_arrived,
			.to = loop,
			.counter = { .loop = loop, .stop_at = 1 },
			.rung = rung,
		};
		struct waker limit = { .timer.expired = stop_later, .loop = loop };
		pthread_t thread;

		loop_timer_arm(loop, &limit.timer, 10000);
		assert_int_equal(pthread_create(&thread, NULL, say_last_word, &w), 0);
		assert_int_equal(loop_run(loop), 0);
		pthread_join(thread, NULL);
		assert_int_equal(limit.expired, 0);
		assert_int_equal(w.counter.seen, 1);
		assert_int_equal(w.counter.last, 7);
		loop_timer_cancel(loop, &limit.timer);
		loop_destroy(loop);
	}
}

struct self_message {
	struct loop_msg msg;
	struct loop *loop;
	unsigned int seen;
	int value;
};

static void self_arrived(struct loop_op *op, int res, uint32_t flags)
{
	struct self_message *m = container_of(op, struct self_message, msg.op);

	(void)flags;
	m->value = res;
	if (++m->seen < 3)
		loop_send(m->loop, m->loop, &m->msg, res + 1);
	else
		loop_stop(m->loop);
}

static void test_message_to_self(void **state)
{
	struct loop *loop = new_loop(0, 0);
	struct self_message m = { .msg.op.complete = self_arrived, .loop = loop };

	(void)state;
	loop_send(loop, loop, &m.msg, 7);
	assert_int_equal(m.seen, 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(m.seen, 3);
	assert_int_equal(m.value, 9);
	assert_int_equal(loop_stats(loop)->enters, 0);
	loop_destroy(loop);
}

/* --- the clock --- */

struct clock_reader {
	struct loop_msg msg;
	struct loop *loop;
	uint64_t seen[3];
	unsigned int n;
};

static void read_loop_clock(struct loop_op *op, int res, uint32_t flags)
{
	struct clock_reader *r = container_of(op, struct clock_reader, msg.op);
	uint64_t before = clock_now_ns();

	(void)res;
	(void)flags;
	r->seen[r->n] = loop_now_ns(r->loop);
	assert_in_range(r->seen[r->n], before, clock_now_ns());
	while (clock_now_ns() == r->seen[r->n])
		;
	assert_int_equal(loop_now_ns(r->loop), r->seen[r->n]);
	if (++r->n == 3)
		loop_stop(r->loop);
	else
		loop_send(r->loop, r->loop, &r->msg, 0);
}

/* One reading an iteration, a new one in the next. */
static void test_clock(void **state)
{
	struct clock_reader r = { .msg.op.complete = read_loop_clock };

	(void)state;
	r.loop = new_loop(0, 0);
	loop_send(r.loop, r.loop, &r.msg, 0);
	assert_int_equal(loop_run(r.loop), 0);
	assert_true(r.seen[0] < r.seen[1] && r.seen[1] < r.seen[2]);
	loop_destroy(r.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rungs),	       cmocka_unit_test(test_one_enter),
		cmocka_unit_test(test_overflow),       cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_hooks),	       cmocka_unit_test(test_hook_cancel),
		cmocka_unit_test(test_hook_ping_pong), cmocka_unit_test(test_idle_callbacks),
		cmocka_unit_test(test_idle_removal),   cmocka_unit_test(test_asleep),
		cmocka_unit_test(test_timers),	       cmocka_unit_test(test_timer_again),
		cmocka_unit_test(test_timer_not_starved),
		cmocka_unit_test(test_messages),       cmocka_unit_test(test_message_to_self),
		cmocka_unit_test(test_last_message),
		cmocka_unit_test(test_clock),
	};

	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
