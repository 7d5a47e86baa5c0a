// SPDX-License-Identifier: MIT
/*
 * test_inflight.c: the log of requests in flight, killed at every store.
 *
 * A simulated driver and a device that completes out of order, in batches. Every
 * store of the device to rings and log goes through test_shared_store() below; at
 * one of them the device dies (longjmp: nothing that is not in shared memory
 * survives), the driver may go on alone, and a new device begins with the same
 * memory. That one may die too, in its recovery or later. In the end every
 * request is completed once; each device takes what is outstanding in the order
 * in which it was made available, without a gap.
 *
 * The same with mutants: stores that come too late, too early, in two halves, or
 * not at all. Each must be caught, or this test would prove nothing.
 *
 * And a table of regions that were damaged, with the reason that must be given.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/rng.h"
#include "tests/sim_driver.h"
#include "virtio/inflight_internal.h"

#define NUM_MAX		8u
#define MAX_SEGMENTS	4u
#define MAX_CHAIN	16u
#define CHAIN_BYTES	64u
#define ARENA_BYTES	(16u << 10)
#define NEVER		UINT32_MAX
#define LIVES		5u

/* --- what a device wrote, by its meaning --- */

enum store {
	/* split */
	S_COUNTER, S_TAKEN, S_CLEARED, S_NEXT, S_BATCH_HEAD, S_USED_IDX,
	S_RING_ENTRY, S_RING_PUBLISH,
	/* packed */
	P_COUNTER, P_TAKEN, P_CLEARED, P_NEXT, P_COPY, P_FREE_BOTH, P_FREE_NEW, P_FREE_OLD,
	P_POSITION, P_POSITION_OLD, P_RING_USED, P_RING_WITHDRAWN,
	OTHER, NONE,
};

enum mutation { DELAY, DROP, TEAR };

/* @what comes only right after the next @until; or never; or in halves. */
struct mutant {
	const char *name;
	bool packed;
	enum mutation kind;
	enum store what;
	enum store until;
};

/* --- the world --- */

struct chain {
	unsigned int seq; /* order of being made available, from 1 */
	uint32_t out_bytes, in_bytes;
	bool busy;
};

struct elem {
	struct virtqueue_elem e;
	struct iovec iov[MAX_CHAIN];
	struct chain *chain;
};

struct world {
	struct sim_driver *d;
	struct chain chains[NUM_MAX];
	unsigned int added, finished, total;
	struct rng rng;

	uint8_t *region;
	struct inflight *log;
	struct virtqueue vq;
	struct elem elems[NUM_MAX];
	unsigned int num_busy;
	unsigned int last_seq; /* taken by this device */
	bool exact; /* the driver knows what was published before this device began */
	bool recovering;

	bool concurrent; /* the driver acts between two stores of the device */
	uint32_t stores, kill_at;
	const struct mutant *mutant;
	struct {
		void *p;
		unsigned int bytes;
		uint64_t value;
	} held[64];
	unsigned int num_held;
	jmp_buf death;
};

static struct world *world;
static bool in_child; /* a violation is what the parent waits for */

static void __attribute__((noreturn, format(printf, 1, 2))) violation(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (in_child)
		_exit(1);
	test_shared_store = NULL;
	fail_msg("%s (kill at store %u)", text, world->kill_at);
	abort();
}

/* --- driver --- */

static uint32_t expected_length(const struct chain *c)
{
	return c->in_bytes ? c->seq % (c->in_bytes + 1) : 0;
}

static bool add_chain(struct world *w)
{
	struct sim_segment seg[MAX_SEGMENTS];
	unsigned int n, n_out, which, i;
	struct chain *c;
	uint64_t at;

	for (which = 0; which < w->d->num && w->chains[which].busy; which++)
		;
	if (which == w->d->num)
		return false;
	c = &w->chains[which];
	n = rnd_in(&w->rng, 1, w->d->params.indirect ? MAX_SEGMENTS : min(w->d->num, MAX_SEGMENTS));
	n_out = rnd_in(&w->rng, 1, n);
	at = w->d->data + which * CHAIN_BYTES;
	c->out_bytes = 0;
	c->in_bytes = 0;
	for (i = 0; i < n; i++) {
		uint32_t len = rnd_in(&w->rng, 1, CHAIN_BYTES / MAX_SEGMENTS);

		seg[i] = (struct sim_segment){ at, len, i >= n_out };
		at += len;
		*(i < n_out ? &c->out_bytes : &c->in_bytes) += len;
	}
	if (!sim_add(w->d, seg, n, w->d->params.indirect && (n > w->d->num || rnd(&w->rng) % 2),
		     c))
		return false;
	c->seq = ++w->added;
	c->busy = true;
	return true;
}

static void take_used(struct world *w)
{
	struct chain *c;
	uint32_t len;
	void *cookie;

	if (!sim_get_used(w->d, &cookie, &len))
		return;
	c = cookie;
	if (!c->busy)
		violation("a request was completed twice");
	if (len != expected_length(c))
		violation("request %u has %u bytes, not %u", c->seq, len, expected_length(c));
	c->busy = false;
	w->finished++;
}

static void driver_step(struct world *w)
{
	unsigned int n = rnd_in(&w->rng, 1, w->d->num);
	bool add = rnd(&w->rng) % 2;

	while (n--) {
		if (!add)
			take_used(w);
		else if (w->added == w->total || !add_chain(w))
			break;
	}
}

/* --- stores --- */

static enum store classify_split(const struct world *w, const uint8_t *p, uint64_t value)
{
	const struct inflight_split *r = (void *)w->region;
	const size_t at = (size_t)(p - w->region);

	if (p == (uint8_t *)&w->d->used->idx)
		return S_RING_PUBLISH;
	if (p >= (uint8_t *)w->d->used->ring && p < (uint8_t *)&w->d->used->ring[w->d->num])
		return S_RING_ENTRY;
	if (p == (uint8_t *)&r->last_batch_head)
		return S_BATCH_HEAD;
	if (p == (uint8_t *)&r->used_idx)
		return S_USED_IDX;
	if (p < w->region || at < sizeof(*r) || at >= inflight_region_bytes(w->d->num))
		return OTHER;
	switch ((at - sizeof(*r)) % sizeof(r->desc[0])) {
	case offsetof(struct inflight_split_desc, inflight):
		return value ? S_TAKEN : S_CLEARED;
	case offsetof(struct inflight_split_desc, next):
		return S_NEXT;
	default:
		return S_COUNTER;
	}
}

static enum store classify_position(uint64_t value)
{
	const union inflight_packed_used u = { .word = value };

	return u.idx == u.old_idx && u.wrap == u.old_wrap ? P_POSITION_OLD : P_POSITION;
}

static enum store classify_packed(const struct world *w, const uint8_t *p, unsigned int bytes,
				  uint64_t value)
{
	const struct inflight_packed *r = (void *)w->region;
	const size_t at = (size_t)(p - w->region);

	if (p >= (uint8_t *)w->d->ring && p < (uint8_t *)&w->d->ring[w->d->num]) {
		uint16_t flags = packed_flags(le64toh(value)) >> VRING_PACKED_DESC_F_AVAIL;

		return (flags & 1) == (flags >> 8 & 1) ? P_RING_USED : P_RING_WITHDRAWN;
	}
	if (p == (uint8_t *)&r->free.head)
		return bytes == 4 ? P_FREE_BOTH : P_FREE_NEW;
	if (p == (uint8_t *)&r->free.old_head)
		return P_FREE_OLD;
	if (p == (uint8_t *)&r->used)
		return classify_position(value);
	if (p < w->region || at < sizeof(*r) || at >= inflight_region_bytes(w->d->num))
		return OTHER;
	switch ((at - sizeof(*r)) % sizeof(r->desc[0])) {
	case offsetof(struct inflight_packed_desc, entry):
		if (bytes == 1)
			return P_CLEARED;
		return value & 0xff ? P_TAKEN : OTHER;
	case offsetof(struct inflight_packed_desc, entry.next):
		return P_NEXT;
	case offsetof(struct inflight_packed_desc, counter):
		return P_COUNTER;
	default:
		return P_COPY;
	}
}

static void do_store(struct world *w, void *p, unsigned int bytes, uint64_t value)
{
	memcpy(p, &value, bytes); /* little-endian, like both platforms */
	w->stores++;
	if (w->stores == w->kill_at)
		longjmp(w->death, 1);
	if (w->concurrent && rnd(&w->rng) % 4 == 0) {
		test_shared_store = NULL;
		driver_step(w);
		test_shared_store = NULL;
	}
}

static bool mutate(struct world *w, enum store what, void *p, unsigned int bytes, uint64_t value)
{
	const struct mutant *m = w->mutant;
	unsigned int i, n;

	if (m->what == what && m->kind == DROP)
		return true;
	if (m->what == what && m->kind == TEAR) {
		uint8_t *half = (uint8_t *)p + bytes / 2;

		do_store(w, p, bytes / 2, value);
		do_store(w, half, bytes / 2, value >> (bytes * 4));
		return true;
	}
	if (m->what == what && m->kind == DELAY) {
		if (w->num_held == ARRAY_SIZE(w->held))
			violation("too many delayed stores");
		w->held[w->num_held].p = p;
		w->held[w->num_held].bytes = bytes;
		w->held[w->num_held++].value = value;
		return true;
	}
	if (m->until != what || !w->num_held)
		return false;
	do_store(w, p, bytes, value);
	n = w->num_held;
	w->num_held = 0;
	for (i = 0; i < n; i++)
		do_store(w, w->held[i].p, w->held[i].bytes, w->held[i].value);
	return true;
}

static bool on_store(void *p, unsigned int bytes, uint64_t value)
{
	struct world *w = world;
	enum store what;

	if (w->mutant) {
		what = w->d->params.packed ? classify_packed(w, p, bytes, value) :
		       classify_split(w, p, value);
		if (mutate(w, what, p, bytes, value))
			goto done;
	}
	do_store(w, p, bytes, value);
done:
	test_shared_store = on_store; /* the driver had switched it off */
	return true;
}

/* --- device --- */

static struct chain *chain_of(struct world *w, const struct virtqueue_elem *e)
{
	const uint8_t *data = sim_mem(w->d, w->d->data);
	const uint8_t *at = e->iov[0].iov_base;

	return &w->chains[(size_t)(at - data) / CHAIN_BYTES];
}

/* The one that has to come next: the oldest outstanding that was not taken. */
static unsigned int oldest_after(const struct world *w, unsigned int seq)
{
	unsigned int i, oldest = 0;

	for (i = 0; i < w->d->num; i++) {
		const struct chain *c = &w->chains[i];

		if (c->busy && c->seq > seq && (!oldest || c->seq < oldest))
			oldest = c->seq;
	}
	return oldest;
}

static void check_taken(struct world *w, struct elem *el)
{
	struct chain *c = chain_of(w, &el->e);

	if (!c->busy)
		violation("took a request that was completed");
	if (c->seq <= w->last_seq)
		violation("took request %u after %u", c->seq, w->last_seq);
	if (w->exact && c->seq != oldest_after(w, w->last_seq))
		violation("took request %u, skipping %u", c->seq, oldest_after(w, w->last_seq));
	if (el->e.out_bytes != c->out_bytes || el->e.in_bytes != c->in_bytes)
		violation("request %u has other buffers", c->seq);
	w->last_seq = c->seq;
	el->chain = c;
}

static void take(struct world *w)
{
	unsigned int n = rnd_in(&w->rng, 1, w->d->num);

	while (n-- && w->num_busy < w->d->num) {
		struct elem *el = &w->elems[w->num_busy];
		int got;

		el->e.iov = el->iov;
		el->e.max_iov = MAX_CHAIN;
		got = virtqueue_pop(&w->vq, &el->e);
		if (got < 0)
			violation("broken: %s", virtqueue_error(&w->vq));
		if (!got)
			return;
		check_taken(w, el);
		w->num_busy++;
	}
}

static void give_back(struct world *w)
{
	unsigned int n = rnd_in(&w->rng, 0, w->num_busy);

	while (n--) {
		struct elem *el = &w->elems[rnd(&w->rng) % w->num_busy];
		struct elem *last = &w->elems[w->num_busy - 1];

		virtqueue_push(&w->vq, &el->e, expected_length(el->chain));
		*el = *last;
		w->num_busy--;
	}
}

static void begin_device(struct world *w)
{
	struct virtqueue_params p = sim_virtqueue_params(w->d);
	struct error e = ERROR_INIT;

	w->num_busy = 0;
	w->last_seq = 0;
	p.max_chain = MAX_CHAIN;
	inflight_destroy(w->log);
	w->log = NULL;
	if (inflight_create(w->region, inflight_region_bytes(w->d->num), w->d->num, &w->log, &e))
		violation("inflight_create: %s", e.text);
	p.inflight = w->log;
	test_shared_store = on_store;
	if (virtqueue_init(&w->vq, &p, &e))
		violation("virtqueue_init: %s", e.text);
}

/* Until the device dies or everything is done. */
static void live(struct world *w)
{
	unsigned int steps = 0;

	begin_device(w);
	while (w->finished < w->total) {
		test_shared_store = NULL;
		driver_step(w);
		test_shared_store = on_store;
		if (rnd(&w->rng) % 2)
			take(w);
		give_back(w);
		if (rnd(&w->rng) % 3)
			virtqueue_commit(&w->vq);
		if (++steps > 5000)
			violation("stuck with %u of %u done: a request was skipped", w->finished,
				  w->total);
	}
	test_shared_store = NULL;
}

/* Between two devices: sometimes the driver takes all there is, so that we know. */
static void after_death(struct world *w)
{
	unsigned int i;

	test_shared_store = NULL;
	w->num_held = 0;
	sim_replace_device(w->d);
	w->exact = rnd(&w->rng) % 2;
	for (i = 0; w->exact && i < w->d->num; i++)
		take_used(w);
	if (w->exact && rnd(&w->rng) % 2)
		driver_step(w);
	if (w->exact)
		for (i = 0; i < w->d->num; i++)
			take_used(w);
}

static void world_create(struct world *w, const struct sim_params *params, uint64_t seed)
{
	*w = (struct world){ .rng = { seed }, .kill_at = NEVER };
	w->d = sim_create(params);
	w->region = aligned_alloc(INFLIGHT_ALIGN, inflight_region_bytes(w->d->num));
	assert_non_null(w->region);
	memset(w->region, 0, inflight_region_bytes(w->d->num));
	world = w;
}

static void world_destroy(struct world *w)
{
	inflight_destroy(w->log);
	free(w->region);
	sim_destroy(w->d);
}

/* Returns false when the first device finished before its store number @kill_at. */
static bool run(const struct sim_params *params, uint64_t seed, uint32_t kill_at,
		unsigned int total, const struct mutant *mutant)
{
	static struct world w;
	static volatile unsigned int lives;

	world_create(&w, params, seed);
	w.total = total;
	w.mutant = mutant;
	w.concurrent = seed % 2;
	w.exact = true;
	w.kill_at = kill_at;
	lives = 0;
	if (setjmp(w.death)) {
		after_death(&w);
		w.stores = 0;
		w.kill_at = ++lives < LIVES ? rnd_in(&w.rng, 1, lives % 2 ? 12 : 60) : NEVER;
	}
	live(&w);
	if (sim_outstanding(w.d))
		violation("%u requests are outstanding", sim_outstanding(w.d));
	world_destroy(&w);
	return lives > 0;
}

/* --- tests --- */

static struct sim_params pick_params(bool packed, uint64_t seed)
{
	static const unsigned int split_nums[] = { 1, 2, 4, 8 };
	static const unsigned int packed_nums[] = { 1, 2, 3, 5, 8 };

	return (struct sim_params){
		.num = packed ? packed_nums[seed / 8 % 5] : split_nums[seed / 8 % 4],
		.packed = packed,
		.event_idx = seed & 2,
		.indirect = seed & 4,
		.max_chain = MAX_SEGMENTS,
		.start = 65530, /* the index wraps early */
		.arena_bytes = ARENA_BYTES,
	};
}

/* Each sequence of events is run again and again, killed one store later each time. */
static void kill_at_every_store(bool packed)
{
	uint64_t seed = rng_seed();
	unsigned int i, runs = 0;

	for (i = 0; i < 80; i++) {
		struct sim_params p = pick_params(packed, seed + i);
		uint32_t at = 1;

		while (run(&p, seed + i, at++, 25, NULL))
			runs++;
	}
	print_message("%u kills, each followed by up to %u more\n", runs, LIVES - 1);
	assert_true(runs > 5000);
}

static void test_kill_split(void **state)
{
	(void)state;
	kill_at_every_store(false);
}

static void test_kill_packed(void **state)
{
	(void)state;
	kill_at_every_store(true);
}

/* Many different sequences, each killed at one random store. */
static void test_kill_random(void **state)
{
	uint64_t seed = rng_seed();
	unsigned int i, killed = 0;

	(void)state;
	for (i = 0; i < 8000; i++) {
		struct sim_params p = pick_params(i & 1, seed + i);
		struct rng r = { seed + i };

		killed += run(&p, seed + i, rnd_in(&r, 1, 150), 60, NULL);
	}
	print_message("%u of %u sequences were cut short\n", killed, i);
	assert_true(killed > 4000);
}

static const struct mutant mutants[] = {
	{ "marked after a batch", false, DELAY, S_TAKEN, S_RING_PUBLISH },
	{ "counter after the mark", false, DELAY, S_COUNTER, S_TAKEN },
	{ "list head after publication", false, DELAY, S_BATCH_HEAD, S_RING_PUBLISH },
	{ "list after publication", false, DELAY, S_NEXT, S_RING_PUBLISH },
	{ "publication after the flags", false, DELAY, S_RING_PUBLISH, S_CLEARED },
	{ "flags after used_idx", false, DELAY, S_CLEARED, S_USED_IDX },
	{ "flags never cleared", false, DROP, S_CLEARED, NONE },
	{ "used_idx never written", false, DROP, S_USED_IDX, NONE },
	{ "used entry after publication", false, DELAY, S_RING_ENTRY, S_RING_PUBLISH },
	{ "counter after the mark", true, DELAY, P_COUNTER, P_FREE_BOTH },
	{ "mark after the list", true, DELAY, P_TAKEN, P_FREE_BOTH },
	{ "copy after the list", true, DELAY, P_COPY, P_FREE_BOTH },
	{ "copy without an address or its rest", true, DROP, P_COPY, NONE },
	{ "list after publication", true, DELAY, P_FREE_BOTH, P_RING_USED },
	{ "position after publication", true, DELAY, P_POSITION, P_RING_USED },
	{ "free list after publication", true, DELAY, P_FREE_NEW, P_RING_USED },
	{ "batch list after publication", true, DELAY, P_NEXT, P_RING_USED },
	{ "old free list after the position", true, DELAY, P_FREE_OLD, P_POSITION_OLD },
	{ "flags never cleared", true, DROP, P_CLEARED, NONE },
	{ "unpublished entries stay", true, DROP, P_RING_WITHDRAWN, NONE },
	{ "old position in two halves", true, TEAR, P_POSITION_OLD, NONE },
};

/* Changes that do no harm, by the argument in inflight.c: these must not be caught. */
static const struct mutant harmless[] = {
	{ "nothing", false, DROP, NONE, NONE },
	{ "nothing", true, DROP, NONE, NONE },
	{ "unpublished position in two halves", true, TEAR, P_POSITION, NONE },
	{ "list head before its old value", true, TEAR, P_FREE_BOTH, NONE },
};

/* Runs until a violation ends the process. */
static void hunt(const struct mutant *m, uint64_t seed)
{
	unsigned int i;

	for (i = 0; i < 400; i++) {
		struct sim_params p = pick_params(m->packed, seed + i);
		uint32_t at;

		for (at = 1; at < 60; at++)
			if (!run(&p, seed + i, at, 25, m))
				break;
	}
}

static bool is_caught(const struct mutant *m, uint64_t seed)
{
	int status = 0;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		int fd = open("/dev/null", O_WRONLY);

		dup2(fd, STDERR_FILENO); /* assertions of the simulated driver */
		dup2(fd, STDOUT_FILENO);
		in_child = true;
		hunt(m, seed);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return !WIFEXITED(status) || WEXITSTATUS(status);
}

static void test_mutants(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(mutants); i++)
		if (!is_caught(&mutants[i], 12345))
			fail_msg("%s: mutant \"%s\" was not caught",
				 mutants[i].packed ? "packed" : "split", mutants[i].name);
	for (i = 0; i < ARRAY_SIZE(harmless); i++)
		if (is_caught(&harmless[i], 12345))
			fail_msg("%s: harmless change \"%s\" was caught",
				 harmless[i].packed ? "packed" : "split", harmless[i].name);
}

/* --- damaged regions --- */

static void add_pair(struct world *w, unsigned int which)
{
	const uint64_t at = w->d->data + which * CHAIN_BYTES;
	const struct sim_segment seg[2] = { { at, 8, false }, { at + 8, 8, true } };

	w->chains[which] = (struct chain){ ++w->added, 8, 8, true };
	assert_true(sim_add(w->d, seg, 2, false, &w->chains[which]));
}

static void take_one(struct world *w)
{
	struct elem *el = &w->elems[w->num_busy++];

	el->e.iov = el->iov;
	el->e.max_iov = MAX_CHAIN;
	assert_int_equal(virtqueue_pop(&w->vq, &el->e), 1);
	el->chain = chain_of(w, &el->e);
}

/*
 * Four requests of two descriptors in a ring of 8; the second is done, the fourth
 * took its place. Split: heads 0, 4, 2 or 3 in flight. Packed: entries 0-1, 4-5, 2-3.
 */
static void leave_requests(struct world *w, bool packed)
{
	const struct sim_params params = {
		.num = 8, .packed = packed, .max_chain = MAX_SEGMENTS, .arena_bytes = ARENA_BYTES,
	};
	unsigned int i;

	world_create(w, &params, 1);
	begin_device(w);
	test_shared_store = NULL;
	for (i = 0; i < 3; i++) {
		add_pair(w, i);
		take_one(w);
	}
	virtqueue_push(&w->vq, &w->elems[1].e, expected_length(w->elems[1].chain));
	virtqueue_commit(&w->vq);
	take_used(w);
	add_pair(w, 1);
	take_one(w);
	sim_replace_device(w->d);
}

struct damage {
	const char *what;
	bool packed;
	size_t at;
	unsigned int bytes;
	uint64_t value;
	const char *message; /* NULL: no damage at all */
};

#define SPLIT_DESC(i, field) \
	(sizeof(struct inflight_split) + (i) * sizeof(struct inflight_split_desc) + \
	 offsetof(struct inflight_split_desc, field))
#define PACKED_DESC(i, field) \
	(sizeof(struct inflight_packed) + (i) * sizeof(struct inflight_packed_desc) + \
	 offsetof(struct inflight_packed_desc, field))
#define COMMON(field)	offsetof(struct inflight_split, field)
#define PACKED(field)	offsetof(struct inflight_packed, field)

static const struct damage damages[] = {
	{ "nothing", false, 0, 0, 0, NULL },
	{ "features", false, COMMON(features), 8, 1, "unknown features 0x1" },
	{ "version", false, COMMON(version), 2, 2, "version 2, only 1 is known" },
	{ "ring size", false, COMMON(desc_num), 2, 16, "made for a ring of 16, not of 8" },
	{ "used index far behind", false, COMMON(used_idx), 2, 0xff00,
	  "used index is 257 ahead in a ring of 8" },
	{ "used index and a list in a circle", false, COMMON(used_idx), 2, 0xfffe,
	  "list of the last batch is damaged" },
	{ "list head", false, COMMON(last_batch_head), 2, 0xffff, NULL },
	{ "flag", false, SPLIT_DESC(3, inflight), 1, 2, "entry 3 is neither in flight nor not" },
	{ "counter twice", false, SPLIT_DESC(0, counter), 8, 2, "have the same counter" },
	{ "last counter", false, SPLIT_DESC(0, counter), 8, UINT64_MAX, "out of range" },
	{ "nothing", true, 0, 0, 0, NULL },
	{ "features", true, COMMON(features), 8, 1ull << 40, "unknown features 0x10000000000" },
	{ "version", true, COMMON(version), 2, 0x100, "version 256, only 1 is known" },
	{ "ring size", true, COMMON(desc_num), 2, 7, "made for a ring of 7, not of 8" },
	{ "free head", true, PACKED(free), 4, 0x00090009, "list of free entries is damaged" },
	{ "free list in a circle", true, PACKED_DESC(6, entry.next), 2, 6,
	  "list of free entries is damaged" },
	{ "free list into a chain", true, PACKED_DESC(7, entry.next), 2, 0,
	  "is damaged" },
	{ "free list cut short", true, PACKED_DESC(6, entry.next), 2, 8,
	  "1 entries are neither free nor in flight" },
	{ "position", true, PACKED(used.idx), 2, 8, "is not possible in a ring of 8" },
	{ "old position", true, PACKED(used.old_idx), 2, 99, "is not possible in a ring of 8" },
	{ "wrap counter", true, PACKED(used.wrap), 1, 2, "is not possible in a ring of 8" },
	{ "old wrap counter", true, PACKED(used.old_wrap), 1, 255,
	  "is not possible in a ring of 8" },
	{ "flag", true, PACKED_DESC(0, entry.inflight), 1, 7,
	  "entry 0 is neither in flight nor not" },
	{ "lost request", true, PACKED_DESC(0, entry.inflight), 1, 0,
	  "2 entries are neither free nor in flight" },
	{ "chain of none", true, PACKED_DESC(0, entry.num), 2, 0, "chain of 0 descriptors" },
	{ "long chain", true, PACKED_DESC(0, entry.num), 2, 9, "chain of 9 descriptors" },
	{ "chain leaves the region", true, PACKED_DESC(0, entry.next), 2, 8,
	  "chain at entry 0 is damaged" },
	{ "chain into itself", true, PACKED_DESC(0, entry.next), 2, 0,
	  "chain at entry 0 is damaged" },
	{ "chain into a free entry", true, PACKED_DESC(0, entry.next), 2, 7,
	  "chain at entry 0 is damaged" },
	{ "end of a chain", true, PACKED_DESC(0, entry.last), 2, 5,
	  "chain at entry 0 ends in entry 1, not in 5" },
	{ "counter twice", true, PACKED_DESC(0, counter), 8, 2, "have the same counter" },
	{ "last counter", true, PACKED_DESC(0, counter), 8, UINT64_MAX, "out of range" },
};

static void check_damage(const struct damage *d)
{
	struct virtqueue_params p;
	struct error e = ERROR_INIT;
	static struct world w;
	int err;

	leave_requests(&w, d->packed);
	memcpy(w.region + d->at, &d->value, d->bytes);
	p = sim_virtqueue_params(w.d);
	p.inflight = w.log;
	err = virtqueue_init(&w.vq, &p, &e);
	if (d->message && (err != -EINVAL || !strstr(e.text, d->message)))
		fail_msg("%s, %s: %d, \"%s\"", d->packed ? "packed" : "split", d->what, err, e.text);
	if (!d->message) {
		assert_int_equal(err, 0);
		assert_int_equal(inflight_pending(w.log), 3);
	}
	world_destroy(&w);
}

static void test_damaged_regions(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(damages); i++)
		check_damage(&damages[i]);
}

/* The region changes after it was checked: the queue breaks, nothing else. */
static void test_damaged_later(void **state)
{
	static const struct damage later[] = {
		{ "chain", true, PACKED_DESC(0, entry.next), 2, 0xffff, "goes on in entry 65535" },
		{ "buffer ID", true, PACKED_DESC(1, half.id), 2, 8, "buffer ID 8 outside" },
		{ "address", true, PACKED_DESC(0, addr), 8, 0, "is not mapped" },
		{ "length", true, PACKED_DESC(1, half.len), 4, 0, "length zero" },
		{ "indirect", true, PACKED_DESC(1, half.flags), 2, VRING_DESC_F_INDIRECT,
		  "indirect descriptor in a chain" },
	};
	struct virtqueue_params p;
	struct error e = ERROR_INIT;
	struct elem el = { 0 };
	static struct world w;
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(later); i++) {
		leave_requests(&w, later[i].packed);
		p = sim_virtqueue_params(w.d);
		p.inflight = w.log;
		assert_int_equal(virtqueue_init(&w.vq, &p, &e), 0);
		memcpy(w.region + later[i].at, &later[i].value, later[i].bytes);
		el.e.iov = el.iov;
		el.e.max_iov = MAX_CHAIN;
		assert_int_equal(virtqueue_pop(&w.vq, &el.e), -EIO);
		if (!strstr(virtqueue_error(&w.vq), later[i].message))
			fail_msg("%s: %s", later[i].what, virtqueue_error(&w.vq));
		world_destroy(&w);
	}
}

/* A log cannot know what was taken before it existed; a reset empties it. */
static void test_begin(void **state)
{
	struct virtqueue_params p;
	struct error e = ERROR_INIT;
	static struct world w;
	unsigned int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		leave_requests(&w, packed);
		inflight_forget(w.log);
		assert_int_equal(inflight_pending(w.log), 0);
		p = sim_virtqueue_params(w.d);
		p.inflight = w.log;
		p.state.avail_idx = packed ? 6 : 4;
		assert_int_equal(virtqueue_init(&w.vq, &p, &e), -EINVAL);
		assert_non_null(strstr(e.text, "empty, although requests are in flight"));
		p.state = VIRTQUEUE_STATE_INIT;
		p.state.avail_idx = p.state.used_idx = packed ? 2 : 1;
		assert_int_equal(virtqueue_init(&w.vq, &p, &e), 0);
		assert_int_equal(inflight_pending(w.log), 0);
		p.num = 16;
		assert_int_equal(virtqueue_init(&w.vq, &p, &e), -EINVAL);
		assert_non_null(strstr(e.text, "too short for a ring of 16"));
		world_destroy(&w);
	}
}

/* A driver that gives the same head twice is found out. */
static void test_head_twice(void **state)
{
	struct elem el = { 0 };
	static struct world w;
	unsigned int i;

	(void)state;
	leave_requests(&w, false);
	begin_device(&w);
	test_shared_store = NULL;
	for (i = 0; i < 3; i++)
		take_one(&w);
	w.d->avail->ring[w.d->avail_idx++ % w.d->num] = w.elems[0].e.id;
	w.d->avail->idx = w.d->avail_idx;
	el.e.iov = el.iov;
	el.e.max_iov = MAX_CHAIN;
	assert_int_equal(virtqueue_pop(&w.vq, &el.e), -EIO);
	assert_non_null(strstr(virtqueue_error(&w.vq), "made available while it is in flight"));
	world_destroy(&w);
}

static void test_create(void **state)
{
	static uint8_t region[4096] __attribute__((aligned(INFLIGHT_ALIGN)));
	struct inflight *log;
	struct error e = ERROR_INIT;

	(void)state;
	assert_int_equal(inflight_region_bytes(8) % INFLIGHT_ALIGN, 0);
	assert_int_equal(inflight_create(region, inflight_region_bytes(8) - 1, 8, &log, &e), -EINVAL);
	assert_int_equal(inflight_create(region + 8, 1024, 8, &log, &e), -EINVAL);
	assert_int_equal(inflight_create(region, sizeof(region), 0, &log, &e), -EINVAL);
	assert_int_equal(inflight_create(region, sizeof(region), 65536, &log, &e), -EINVAL);
	inflight_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kill_split),
		cmocka_unit_test(test_kill_packed),
		cmocka_unit_test(test_kill_random),
		cmocka_unit_test(test_mutants),
		cmocka_unit_test(test_damaged_regions),
		cmocka_unit_test(test_damaged_later),
		cmocka_unit_test(test_begin),
		cmocka_unit_test(test_head_twice),
		cmocka_unit_test(test_create),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
