// SPDX-License-Identifier: MIT
/*
 * test_virtqueue.c: the device side of split and packed rings.
 *
 * Three kinds of test:
 *   - random traffic between a simulated driver that sleeps until interrupted and
 *     a device that sleeps until kicked: data, order, wrap-around and above all
 *     that no notification is lost; in one thread with a printed seed, and with
 *     real threads;
 *   - a table of hostile rings, each with the reason that must be logged, and
 *     rings that change while they are read;
 *   - positions: resume from a state, interrupts for exactly the event asked
 *     for, invalidation under way.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/rng.h"
#include "tests/sim_driver.h"

#define CHAIN_BYTES	8192u
#define MAX_SEGMENTS	12u

/* A packed descriptor that is available in the first round, and in the second. */
#define PACKED_AVAIL_FLAG	(1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_USED_FLAG	(1u << VRING_PACKED_DESC_F_USED)

/* --- the device under test --- */

struct device {
	struct virtqueue vq;
	unsigned int num;
	struct virtqueue_elem *elems; /* one for each ring entry */
	struct iovec *iovs;
	unsigned int *free, num_free; /* indices into elems */
	unsigned int *busy, num_busy;
};

static void device_create(struct device *dev, const struct virtqueue_params *p)
{
	const unsigned int max_iov = p->max_chain + 8;
	struct error e = ERROR_INIT;
	unsigned int i;
	int err;

	memset(dev, 0, sizeof(*dev));
	err = virtqueue_init(&dev->vq, p, &e);
	if (err)
		fail_msg("virtqueue_init: %s", e.text);
	dev->num = p->num;
	dev->elems = calloc(dev->num, sizeof(*dev->elems));
	dev->iovs = calloc((size_t)dev->num * max_iov, sizeof(*dev->iovs));
	dev->free = calloc(dev->num, sizeof(*dev->free));
	dev->busy = calloc(dev->num, sizeof(*dev->busy));
	for (i = 0; i < dev->num; i++) {
		dev->elems[i].iov = dev->iovs + (size_t)i * max_iov;
		dev->elems[i].max_iov = max_iov;
		dev->free[dev->num_free++] = i;
	}
}

static void device_destroy(struct device *dev)
{
	free(dev->elems);
	free(dev->iovs);
	free(dev->free);
	free(dev->busy);
}

/* --- chains: content follows from a seed that travels in the first 4 bytes --- */

struct chain {
	uint32_t seed;
	uint32_t out_bytes, in_bytes;
	uint64_t out_iova, in_iova; /* each part is contiguous, cut at random */
	bool busy;
};

static uint8_t pattern(uint32_t seed, uint32_t at)
{
	return (uint8_t)((seed >> (at & 15)) + at * 7);
}

/* Cut @bytes at @iova into @n pieces of at least one byte. */
static unsigned int cut(struct rng *r, struct sim_segment *seg, unsigned int n, uint64_t iova,
			uint32_t bytes, bool write)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		uint32_t left = n - i - 1;
		uint32_t len = left ? rnd_in(r, 1, min(bytes - left, bytes / (left + 1) * 2 + 1)) :
			       bytes;

		len = min(len, bytes - left);
		seg[i] = (struct sim_segment){ iova, len, write };
		iova += len;
		bytes -= len;
	}
	return n;
}

/* Put a random chain into the ring; false when it has no room. */
static bool add_random_chain(struct sim_driver *d, struct rng *r, struct chain *chains,
			     unsigned int num_chains)
{
	const unsigned int most = d->params.indirect ? MAX_SEGMENTS : min(d->num, MAX_SEGMENTS);
	struct sim_segment seg[MAX_SEGMENTS];
	unsigned int n_out, n_in, n, which, i;
	struct chain *c;
	uint8_t *mem;

	for (which = 0; which < num_chains && chains[which].busy; which++)
		;
	if (which == num_chains)
		return false;
	c = &chains[which];
	n = rnd_in(r, 1, most);
	n_out = rnd_in(r, 1, n);
	n_in = n - n_out;
	c->seed = rnd(r);
	c->out_bytes = rnd_in(r, 4 + n_out, CHAIN_BYTES / 2);
	c->in_bytes = n_in ? rnd_in(r, n_in, CHAIN_BYTES / 2) : 0;
	c->out_iova = d->data + (uint64_t)which * CHAIN_BYTES;
	c->in_iova = c->out_iova + CHAIN_BYTES / 2;
	mem = sim_mem(d, c->out_iova);
	memcpy(mem, &c->seed, 4);
	for (i = 4; i < c->out_bytes; i++)
		mem[i] = pattern(c->seed, i);
	memset(sim_mem(d, c->in_iova), 0xee, CHAIN_BYTES / 2);
	cut(r, seg, n_out, c->out_iova, c->out_bytes, false);
	cut(r, seg + n_out, n_in, c->in_iova, c->in_bytes, true);
	if (!sim_add(d, seg, n, d->params.indirect && (n > d->num || rnd(r) % 2), c))
		return false;
	c->busy = true;
	return true;
}

/* Check what the driver sent; the seed is in the first four bytes. */
static uint32_t check_out(const struct virtqueue_elem *e)
{
	uint8_t first[4];
	uint32_t seed = 0, at = 0;
	unsigned int i;

	for (i = 0; i < e->out_num; i++) {
		const uint8_t *p = e->iov[i].iov_base;
		size_t k;

		for (k = 0; k < e->iov[i].iov_len; k++, at++) {
			if (at < 4)
				first[at] = p[k];
			if (at == 3)
				memcpy(&seed, first, 4);
			if (at >= 4)
				assert_int_equal(p[k], pattern(seed, at));
		}
	}
	assert_int_equal(at, e->out_bytes);
	return seed;
}

static void fill_in(const struct virtqueue_elem *e, uint32_t seed, uint32_t written)
{
	uint32_t at = 0;
	unsigned int i;

	for (i = 0; i < e->in_num; i++) {
		uint8_t *p = e->iov[e->out_num + i].iov_base;
		size_t k;

		for (k = 0; k < e->iov[e->out_num + i].iov_len && at < written; k++, at++)
			p[k] = pattern(~seed, at);
	}
	assert_int_equal(at, written);
}

static void check_used(const struct sim_driver *d, struct chain *c, uint32_t len)
{
	const uint8_t *p = sim_mem(d, c->in_iova);
	uint32_t i;

	assert_true(c->busy);
	assert_true(len <= c->in_bytes);
	for (i = 0; i < len; i++)
		assert_int_equal(p[i], pattern(~c->seed, i));
	for (; i < c->in_bytes; i++)
		assert_int_equal(p[i], 0xee);
	c->busy = false;
}

static int device_pop(struct device *dev)
{
	unsigned int which;
	int got;

	if (!dev->num_free)
		return 0;
	which = dev->free[dev->num_free - 1];
	got = virtqueue_pop(&dev->vq, &dev->elems[which]);
	if (got < 0)
		fail_msg("queue broken: %s", virtqueue_error(&dev->vq));
	if (got) {
		dev->num_free--;
		dev->busy[dev->num_busy++] = which;
	}
	return got;
}

/* Complete one of those in flight, whichever. */
static void device_push_random(struct device *dev, struct rng *r)
{
	unsigned int at = rnd(r) % dev->num_busy;
	unsigned int which = dev->busy[at];
	struct virtqueue_elem *e = &dev->elems[which];
	uint32_t seed = check_out(e);
	uint32_t written = e->in_bytes ? rnd(r) % (e->in_bytes + 1) : 0;

	fill_in(e, seed, written);
	virtqueue_push(&dev->vq, e, written);
	dev->busy[at] = dev->busy[--dev->num_busy];
	dev->free[dev->num_free++] = which;
}

/* --- random traffic in one thread --- */

struct world {
	struct sim_driver *d;
	struct device dev;
	struct rng rng;
	struct chain *chains;
	bool kicked, interrupted;
	bool device_awake, driver_awake;
	unsigned int added, finished;
};

static void driver_step(struct world *w, unsigned int total)
{
	unsigned int k = rnd_in(&w->rng, 1, w->d->num);
	unsigned int ring_after;
	void *cookie;
	uint32_t len;

	if (rnd(&w->rng) % 2) {
		while (k-- && w->added < total &&
		       add_random_chain(w->d, &w->rng, w->chains, w->d->num))
			w->added++;
		if (sim_needs_kick(w->d))
			w->kicked = true;
		return;
	}
	if (!w->driver_awake)
		return;
	while (k-- && sim_get_used(w->d, &cookie, &len)) {
		check_used(w->d, cookie, len);
		w->finished++;
	}
	/* Sleep: for the next used chain, or some later one that will come. */
	ring_after = w->d->params.packed ? w->d->num - w->d->num_free : sim_outstanding(w->d);
	if (!sim_enable_callbacks(w->d, ring_after > 2 && rnd(&w->rng) % 2 ? ring_after / 2 : 1))
		w->driver_awake = false;
	else
		sim_disable_callbacks(w->d);
}

static void device_step(struct world *w)
{
	unsigned int k = rnd_in(&w->rng, 1, w->d->num);

	if (w->device_awake && rnd(&w->rng) % 2) {
		virtqueue_disable_notify(&w->dev.vq);
		while (k-- && device_pop(&w->dev))
			;
		if (!virtqueue_enable_notify(&w->dev.vq))
			w->device_awake = false;
	}
	k = rnd_in(&w->rng, 0, w->dev.num_busy);
	while (k-- && w->dev.num_busy)
		device_push_random(&w->dev, &w->rng);
	if (rnd(&w->rng) % 4 && virtqueue_commit(&w->dev.vq))
		w->interrupted = true;
}

static void deliver(struct world *w)
{
	if (w->kicked && rnd(&w->rng) % 2) {
		w->kicked = false;
		w->device_awake = true;
	}
	if (w->interrupted && rnd(&w->rng) % 2) {
		w->interrupted = false;
		w->driver_awake = true;
		sim_disable_callbacks(w->d);
	}
}

static void run_random(const struct sim_params *params, uint64_t seed, unsigned int total)
{
	struct world w = { .rng = { seed } };
	struct virtqueue_params p;
	unsigned int idle = 0;

	w.d = sim_create(params);
	p = sim_virtqueue_params(w.d);
	device_create(&w.dev, &p);
	w.chains = calloc(w.d->num, sizeof(*w.chains));
	w.driver_awake = true;
	if (virtqueue_enable_notify(&w.dev.vq))
		w.device_awake = true;

	while (w.finished < total) {
		unsigned int before = w.finished + w.added;

		driver_step(&w, total);
		device_step(&w);
		deliver(&w);
		idle = w.finished + w.added == before ? idle + 1 : 0;
		if (idle > 20000)
			fail_msg("stuck with %u of %u done: a notification was lost"
				 " (device %s, driver %s, %u in flight)",
				 w.finished, total, w.device_awake ? "awake" : "asleep",
				 w.driver_awake ? "awake" : "asleep", w.dev.num_busy);
	}
	assert_int_equal(sim_outstanding(w.d), 0);
	assert_int_equal(w.d->num_free, w.d->num);
	free(w.chains);
	device_destroy(&w.dev);
	sim_destroy(w.d);
}

static void test_random_traffic(void **state)
{
	static const unsigned int split_nums[] = { 1, 2, 8, 64, 256 };
	static const unsigned int packed_nums[] = { 1, 2, 3, 7, 64, 256 };
	uint64_t seed = rng_seed();
	unsigned int i, flags;

	(void)state;
	for (flags = 0; flags < 8; flags++) {
		bool packed = flags & 1;
		unsigned int n = packed ? ARRAY_SIZE(packed_nums) : ARRAY_SIZE(split_nums);

		for (i = 0; i < n; i++) {
			struct sim_params p = {
				.num = packed ? packed_nums[i] : split_nums[i],
				.packed = packed,
				.event_idx = flags & 2,
				.indirect = flags & 4,
				.start = 65500, /* the index wraps early */
				/* Sometimes buffers cross from one mapping to the next. */
				.region_bytes = i % 2 ? 10007 : 0,
			};

			run_random(&p, seed + i * 8 + flags, 1500);
		}
	}
}

/* --- the same with threads: real memory order --- */

struct shared {
	struct sim_driver *d;
	struct device dev;
	int kick, irq;
	unsigned int total;
	bool failed;
};

static bool wait_for(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	eventfd_t v;

	return poll(&p, 1, 5000) == 1 && !eventfd_read(fd, &v);
}

static void *device_thread(void *opaque)
{
	struct shared *s = opaque;
	struct rng r = { 99 };
	unsigned int done = 0;

	while (done < s->total) {
		unsigned int n;

		virtqueue_disable_notify(&s->dev.vq);
		while (device_pop(&s->dev))
			;
		for (n = s->dev.num_busy; n; n--, done++)
			device_push_random(&s->dev, &r);
		if (virtqueue_commit(&s->dev.vq))
			eventfd_write(s->irq, 1);
		if (virtqueue_enable_notify(&s->dev.vq) || done == s->total)
			continue;
		if (!wait_for(s->kick)) {
			s->failed = true;
			break;
		}
	}
	return NULL;
}

static void driver_loop(struct shared *s, struct chain *chains)
{
	struct rng r = { 7 };
	unsigned int added = 0, finished = 0;
	void *cookie;
	uint32_t len;

	while (finished < s->total) {
		while (added < s->total && add_random_chain(s->d, &r, chains, s->d->num))
			added++;
		if (sim_needs_kick(s->d))
			eventfd_write(s->kick, 1);
		sim_disable_callbacks(s->d);
		do {
			while (sim_get_used(s->d, &cookie, &len)) {
				check_used(s->d, cookie, len);
				finished++;
			}
		} while (finished < s->total && sim_enable_callbacks(s->d, 1));
		if (finished < s->total && added > finished && !wait_for(s->irq))
			fail_msg("no interrupt for 5 s with %u of %u done", finished, s->total);
	}
}

static void run_threads(bool packed, bool event_idx)
{
	struct sim_params params = {
		.num = 16, .packed = packed, .event_idx = event_idx, .indirect = true,
	};
	struct shared s = { .total = 4000 };
	struct virtqueue_params p;
	struct chain *chains;
	pthread_t thread;

	s.d = sim_create(&params);
	p = sim_virtqueue_params(s.d);
	device_create(&s.dev, &p);
	chains = calloc(s.d->num, sizeof(*chains));
	s.kick = eventfd(0, EFD_CLOEXEC);
	s.irq = eventfd(0, EFD_CLOEXEC);
	assert_true(s.kick >= 0 && s.irq >= 0);
	assert_int_equal(pthread_create(&thread, NULL, device_thread, &s), 0);
	driver_loop(&s, chains);
	pthread_join(thread, NULL);
	assert_false(s.failed);
	close(s.kick);
	close(s.irq);
	free(chains);
	device_destroy(&s.dev);
	sim_destroy(s.d);
}

static void test_threads(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < 4; i++)
		run_threads(i & 1, i & 2);
}

/* --- hostile rings --- */

static struct vring_desc split_desc(uint64_t addr, uint32_t len, unsigned int flags,
				    unsigned int next)
{
	return (struct vring_desc){ addr, len, (uint16_t)flags, (uint16_t)next };
}

/* Make @n heads available, beginning with @head. */
static void expose(struct sim_driver *d, unsigned int head, unsigned int n)
{
	d->avail->ring[d->avail_idx % d->num] = (uint16_t)head;
	d->avail_idx = (uint16_t)(d->avail_idx + n);
	d->avail->idx = d->avail_idx;
}

static void split_one(struct sim_driver *d, uint64_t addr, uint32_t len, unsigned int flags,
		      unsigned int next)
{
	d->split_desc[0] = split_desc(addr, len, flags, next);
	expose(d, 0, 1);
}

static void put_packed(struct sim_driver *d, unsigned int at, uint64_t addr, uint32_t len,
		       unsigned int id, unsigned int flags)
{
	d->ring[at] = (struct vring_packed_desc){ addr, len, (uint16_t)id,
						  (uint16_t)(flags | PACKED_AVAIL_FLAG) };
}

static void s_head_outside(struct sim_driver *d)
{
	expose(d, d->num, 1);
}

static void s_avail_jump(struct sim_driver *d)
{
	split_one(d, d->data, 16, 0, 0);
	d->avail->idx = (uint16_t)(d->num + 1);
}

static void s_avail_backwards(struct sim_driver *d)
{
	d->avail->idx = (uint16_t)-1;
}

static void s_next_outside(struct sim_driver *d)
{
	split_one(d, d->data, 16, VRING_DESC_F_NEXT, d->num);
}

static void s_self_loop(struct sim_driver *d)
{
	split_one(d, d->data, 16, VRING_DESC_F_NEXT, 0);
}

static void s_two_loop(struct sim_driver *d)
{
	d->split_desc[1] = split_desc(d->data, 8, VRING_DESC_F_NEXT, 0);
	split_one(d, d->data, 16, VRING_DESC_F_NEXT, 1);
}

static void s_zero_length(struct sim_driver *d)
{
	split_one(d, d->data, 0, 0, 0);
}

static void s_outside_iotlb(struct sim_driver *d)
{
	split_one(d, 0x1000, 16, 0, 0);
}

static void s_end_outside_iotlb(struct sim_driver *d)
{
	split_one(d, SIM_IOVA + SIM_ARENA_BYTES - 8, 16, 0, 0);
}

static void s_address_wraps(struct sim_driver *d)
{
	split_one(d, UINT64_MAX - 7, 16, 0, 0);
}

static void s_length_wraps(struct sim_driver *d)
{
	split_one(d, d->data, UINT32_MAX, 0, 0);
}

static void s_write_first(struct sim_driver *d)
{
	d->split_desc[1] = split_desc(d->data, 8, 0, 0);
	split_one(d, d->data, 16, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
}

static void s_indirect_and_next(struct sim_driver *d)
{
	split_one(d, d->tables, 16, VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT, 1);
}

static void s_indirect_nested(struct sim_driver *d)
{
	struct vring_desc *t = sim_mem(d, d->tables);

	t[0] = split_desc(d->tables, 16, VRING_DESC_F_INDIRECT, 0);
	split_one(d, d->tables, 16, VRING_DESC_F_INDIRECT, 0);
}

static void s_indirect_odd(struct sim_driver *d)
{
	split_one(d, d->tables, 17, VRING_DESC_F_INDIRECT, 0);
}

static void s_indirect_empty(struct sim_driver *d)
{
	split_one(d, d->tables, 0, VRING_DESC_F_INDIRECT, 0);
}

static void s_indirect_huge(struct sim_driver *d)
{
	split_one(d, d->tables, 16 * 65, VRING_DESC_F_INDIRECT, 0);
}

static void s_indirect_outside(struct sim_driver *d)
{
	split_one(d, 0xffff0000, 32, VRING_DESC_F_INDIRECT, 0);
}

static void s_indirect_next_outside(struct sim_driver *d)
{
	struct vring_desc *t = sim_mem(d, d->tables);

	t[0] = split_desc(d->data, 16, VRING_DESC_F_NEXT, 2);
	split_one(d, d->tables, 32, VRING_DESC_F_INDIRECT, 0);
}

static void s_indirect_loop(struct sim_driver *d)
{
	struct vring_desc *t = sim_mem(d, d->tables);

	t[0] = split_desc(d->data, 16, VRING_DESC_F_NEXT, 1);
	t[1] = split_desc(d->data, 16, VRING_DESC_F_NEXT, 0);
	split_one(d, d->tables, 32, VRING_DESC_F_INDIRECT, 0);
}

static void s_too_many_bytes(struct sim_driver *d)
{
	/* Three times 2 GiB, mapped for real: the sum is over 32 bits. */
	d->split_desc[1] = split_desc(1ull << 40, 1u << 31, VRING_DESC_F_NEXT, 2);
	d->split_desc[2] = split_desc(1ull << 40, 1u << 31, 0, 0);
	split_one(d, 1ull << 40, 1u << 31, VRING_DESC_F_NEXT, 1);
}

static void s_write_to_read_only(struct sim_driver *d)
{
	split_one(d, 2ull << 40, 16, VRING_DESC_F_WRITE, 0);
}

static void s_many_pieces(struct sim_driver *d)
{
	split_one(d, 3ull << 40, 4096 * 128, 0, 0);
}

static void p_zero_length(struct sim_driver *d)
{
	put_packed(d, 0, d->data, 0, 0, 0);
}

static void p_outside_iotlb(struct sim_driver *d)
{
	put_packed(d, 0, 64, 16, 0, 0);
}

static void p_bad_id(struct sim_driver *d)
{
	put_packed(d, 0, d->data, 16, d->num, 0);
}

static void p_endless_chain(struct sim_driver *d)
{
	unsigned int i;

	for (i = 0; i < d->num; i++)
		put_packed(d, i, d->data, 16, 0, VRING_DESC_F_NEXT);
}

static void p_partial_chain(struct sim_driver *d)
{
	put_packed(d, 0, d->data, 16, 0, VRING_DESC_F_NEXT);
}

static void p_chain_into_indirect(struct sim_driver *d)
{
	put_packed(d, 1, d->tables, 16, 0, VRING_DESC_F_INDIRECT);
	put_packed(d, 0, d->data, 16, 0, VRING_DESC_F_NEXT);
}

static void p_indirect_and_next(struct sim_driver *d)
{
	put_packed(d, 0, d->tables, 16, 0, VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT);
}

static void p_indirect_nested(struct sim_driver *d)
{
	struct vring_packed_desc *t = sim_mem(d, d->tables);

	t[0] = (struct vring_packed_desc){ d->tables, 16, 0, VRING_DESC_F_INDIRECT };
	put_packed(d, 0, d->tables, 16, 0, VRING_DESC_F_INDIRECT);
}

static void p_indirect_odd(struct sim_driver *d)
{
	put_packed(d, 0, d->tables, 40, 0, VRING_DESC_F_INDIRECT);
}

static void p_indirect_empty(struct sim_driver *d)
{
	put_packed(d, 0, d->tables, 0, 0, VRING_DESC_F_INDIRECT);
}

static void p_indirect_huge(struct sim_driver *d)
{
	put_packed(d, 0, d->tables, 0xfffffff0, 0, VRING_DESC_F_INDIRECT);
}

static void p_indirect_outside(struct sim_driver *d)
{
	put_packed(d, 0, SIM_IOVA + SIM_ARENA_BYTES, 16, 0, VRING_DESC_F_INDIRECT);
}

static void p_write_first(struct sim_driver *d)
{
	put_packed(d, 1, d->data, 16, 0, 0);
	put_packed(d, 0, d->data, 16, 0, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE);
}

static const struct hostile_row {
	const char *name;
	bool packed, no_indirect;
	void (*set_up)(struct sim_driver *d);
	const char *reason; /* part of the text that is logged */
} hostile_rows[] = {
	{ "head index outside the table", .set_up = s_head_outside,
	  .reason = "head index 8 outside a table of 8" },
	{ "available index jumps over the ring", .set_up = s_avail_jump,
	  .reason = "available index jumped by 9" },
	{ "available index goes back", .set_up = s_avail_backwards,
	  .reason = "available index jumped by 65535" },
	{ "next index outside the table", .set_up = s_next_outside,
	  .reason = "descriptor index 8 outside a table of 8" },
	{ "descriptor is its own next", .set_up = s_self_loop, .reason = "too long or a loop" },
	{ "two descriptors in a loop", .set_up = s_two_loop, .reason = "too long or a loop" },
	{ "length zero", .set_up = s_zero_length, .reason = "length zero" },
	{ "address not mapped", .set_up = s_outside_iotlb,
	  .reason = "device-readable buffer at 0x1000, 16 bytes, is not mapped" },
	{ "end of the buffer not mapped", .set_up = s_end_outside_iotlb,
	  .reason = "is not mapped" },
	{ "address wraps around", .set_up = s_address_wraps, .reason = "is not mapped" },
	{ "length reaches beyond the mapping", .set_up = s_length_wraps,
	  .reason = "4294967295 bytes, is not mapped" },
	{ "readable after writable", .set_up = s_write_first,
	  .reason = "device-readable descriptor after a device-writable one" },
	{ "indirect and next", .set_up = s_indirect_and_next,
	  .reason = "indirect descriptor with a next one" },
	{ "nested indirect", .set_up = s_indirect_nested, .reason = "inside an indirect table" },
	{ "indirect length 17", .set_up = s_indirect_odd,
	  .reason = "17 bytes is not a multiple of 16" },
	{ "indirect length 0", .set_up = s_indirect_empty,
	  .reason = "0 bytes is not a multiple of 16" },
	{ "indirect table too long", .set_up = s_indirect_huge,
	  .reason = "65 descriptors, at most 64" },
	{ "indirect table not mapped", .set_up = s_indirect_outside,
	  .reason = "indirect table at 0xffff0000, 32 bytes, is not mapped" },
	{ "indirect not negotiated", .no_indirect = true, .set_up = s_indirect_nested,
	  .reason = "not negotiated" },
	{ "next outside the indirect table", .set_up = s_indirect_next_outside,
	  .reason = "descriptor index 2 outside a table of 2" },
	{ "loop in the indirect table", .set_up = s_indirect_loop, .reason = "too long or a loop" },
	{ "more than 4 GiB", .set_up = s_too_many_bytes, .reason = "more than 4 GiB" },
	{ "writable buffer in read-only memory", .set_up = s_write_to_read_only,
	  .reason = "without that permission" },
	{ "buffer in too many mappings", .set_up = s_many_pieces, .reason = "too many pieces" },
	{ "packed: length zero", true, .set_up = p_zero_length, .reason = "length zero" },
	{ "packed: address not mapped", true, .set_up = p_outside_iotlb,
	  .reason = "is not mapped" },
	{ "packed: buffer ID outside the ring", true, .set_up = p_bad_id,
	  .reason = "buffer ID 8 outside a ring of 8" },
	{ "packed: chain without an end", true, .set_up = p_endless_chain,
	  .reason = "more than 8 entries" },
	{ "packed: chain not all available", true, .set_up = p_partial_chain,
	  .reason = "goes on in descriptor 1, which is not available" },
	{ "packed: chain into an indirect descriptor", true, .set_up = p_chain_into_indirect,
	  .reason = "indirect descriptor in a chain" },
	{ "packed: indirect and next", true, .set_up = p_indirect_and_next,
	  .reason = "indirect descriptor in a chain" },
	{ "packed: nested indirect", true, .set_up = p_indirect_nested,
	  .reason = "inside an indirect table" },
	{ "packed: indirect length 40", true, .set_up = p_indirect_odd,
	  .reason = "40 bytes is not a multiple of 16" },
	{ "packed: indirect length 0", true, .set_up = p_indirect_empty,
	  .reason = "0 bytes is not a multiple of 16" },
	{ "packed: indirect table too long", true, .set_up = p_indirect_huge,
	  .reason = "at most 64" },
	{ "packed: indirect table not mapped", true, .set_up = p_indirect_outside,
	  .reason = "is not mapped" },
	{ "packed: indirect not negotiated", true, true, .set_up = p_indirect_nested,
	  .reason = "not negotiated" },
	{ "packed: readable after writable", true, .set_up = p_write_first,
	  .reason = "device-readable descriptor after a device-writable one" },
};

/* Regions for rows that need special memory; nothing of it is ever touched. */
static void add_special_regions(struct sim_driver *d)
{
	struct iotlb_region r = { 1ull << 40, 1ull << 31, IOTLB_RW, d->arena, NULL };
	unsigned int i;

	assert_int_equal(iotlb_add(d->iotlb, &r), 0);
	r = (struct iotlb_region){ 2ull << 40, 4096, IOTLB_READ, d->arena, NULL };
	assert_int_equal(iotlb_add(d->iotlb, &r), 0);
	r = (struct iotlb_region){ 4ull << 40, 4096, IOTLB_RW, d->arena + 1, NULL };
	assert_int_equal(iotlb_add(d->iotlb, &r), 0);
	r.vaddr = d->arena;
	for (i = 0; i < 128; i++) {
		r.iova = (3ull << 40) + i * 4096;
		r.perm = IOTLB_RW;
		assert_int_equal(iotlb_add(d->iotlb, &r), 0);
	}
}

static void run_hostile(const struct hostile_row *row)
{
	struct sim_params params = {
		.num = 8, .packed = row->packed, .event_idx = true, .indirect = !row->no_indirect,
	};
	struct sim_driver *d = sim_create(&params);
	struct virtqueue_params p = sim_virtqueue_params(d);
	uint8_t before[8 * 16 + 64];
	struct device dev;

	add_special_regions(d);
	device_create(&dev, &p);
	row->set_up(d);
	memcpy(before, d->arena, sizeof(before));

	assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[0]), -EIO);
	assert_non_null(virtqueue_error(&dev.vq));
	if (!strstr(virtqueue_error(&dev.vq), row->reason))
		fail_msg("%s: got \"%s\", expected \"%s\"", row->name, virtqueue_error(&dev.vq),
			 row->reason);

	/* Broken for good, whatever the driver does now: no work, no access. */
	assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[0]), -EIO);
	assert_false(virtqueue_commit(&dev.vq));
	assert_false(virtqueue_enable_notify(&dev.vq));
	virtqueue_disable_notify(&dev.vq);
	assert_memory_equal(before, d->arena, sizeof(before));
	assert_int_equal(d->iotlb->holds[0] + d->iotlb->holds[1], 0);
	device_destroy(&dev);
	sim_destroy(d);
}

static void test_hostile(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(hostile_rows); i++) {
		print_message("  %s\n", hostile_rows[i].name);
		run_hostile(&hostile_rows[i]);
	}
}

/* A driver that makes entries available again while the device still has them. */
static void test_overcommit(void **state)
{
	struct sim_params params = { .num = 4 };
	struct sim_driver *d = sim_create(&params);
	struct virtqueue_params p = sim_virtqueue_params(d);
	struct device dev;
	unsigned int i;

	(void)state;
	device_create(&dev, &p);
	for (i = 0; i < 4; i++) {
		d->split_desc[i] = split_desc(d->data, 16, 0, 0);
		expose(d, i, 1);
		assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[i]), 1);
	}
	virtqueue_push(&dev.vq, &dev.elems[0], 0);
	/* Pushed but not committed: the driver cannot know that it is free. */
	expose(d, 0, 1);
	assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[0]), -EIO);
	assert_non_null(strstr(virtqueue_error(&dev.vq), "room for 0"));
	for (i = 1; i < 4; i++)
		virtqueue_push(&dev.vq, &dev.elems[i], 0);
	assert_int_equal(d->iotlb->holds[0] + d->iotlb->holds[1], 0);
	device_destroy(&dev);
	sim_destroy(d);

	params.packed = true;
	d = sim_create(&params);
	p = sim_virtqueue_params(d);
	device_create(&dev, &p);
	for (i = 0; i < 4; i++) {
		put_packed(d, i, d->data, 16, i, 0);
		assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[i]), 1);
	}
	d->ring[0].flags = PACKED_USED_FLAG; /* available in the next round */
	assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[0]), -EIO);
	assert_non_null(strstr(virtqueue_error(&dev.vq), "more than 4"));
	for (i = 0; i < 4; i++)
		virtqueue_push(&dev.vq, &dev.elems[i], 0);
	device_destroy(&dev);
	sim_destroy(d);
}

/* --- memory that changes between two reads --- */

/*
 * A fault is a point in the middle of virtqueue_pop(), so the fault callback can
 * play the driver that changes what was just read. The device must go on with
 * what it read, and that must be what it checked.
 */
struct changing {
	struct sim_driver *d;
	bool packed;
	uint8_t page[4096];
	unsigned int faults;
};

static int changing_fault(void *opaque, uint64_t iova, uint32_t perm, struct iotlb_region *ret)
{
	struct changing *c = opaque;
	unsigned int i;

	(void)perm;
	if (iova < SIM_IOVA + SIM_ARENA_BYTES) {
		*ret = (struct iotlb_region){ SIM_IOVA, SIM_ARENA_BYTES, IOTLB_RW, c->d->arena,
					      NULL };
		return 0;
	}
	if (iova >> 40 != 1)
		return -EFAULT;
	c->faults++;
	for (i = 0; i < c->d->num; i++) {
		if (c->packed)
			c->d->ring[i] = (struct vring_packed_desc){
				3, 0xffffffff, 0xffff, 0xffff };
		else
			c->d->split_desc[i] = split_desc(3, 0xffffffff, 7, 0xffff);
	}
	*ret = (struct iotlb_region){ 1ull << 40, sizeof(c->page), IOTLB_RW, c->page, NULL };
	return 0;
}

static const struct iotlb_ops changing_ops = { .fault = changing_fault };

static void run_changing(bool packed)
{
	struct sim_params params = { .num = 8, .packed = packed };
	struct sim_driver *d = sim_create(&params);
	struct changing c = { .d = d, .packed = packed };
	struct virtqueue_params p = sim_virtqueue_params(d);
	struct device dev;

	assert_int_equal(iotlb_create(&changing_ops, &c, &p.iotlb), 0);
	device_create(&dev, &p);
	if (packed)
		put_packed(d, 0, 1ull << 40, 16, 5, VRING_DESC_F_WRITE);
	else
		split_one(d, 1ull << 40, 16, VRING_DESC_F_WRITE, 0);
	assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[0]), 1);
	assert_int_equal(c.faults, 1);
	assert_int_equal(dev.elems[0].id, packed ? 5 : 0);
	assert_int_equal(dev.elems[0].out_num, 0);
	assert_int_equal(dev.elems[0].in_num, 1);
	assert_int_equal(dev.elems[0].in_bytes, 16);
	assert_ptr_equal(dev.elems[0].iov[0].iov_base, c.page);
	assert_int_equal(dev.elems[0].iov[0].iov_len, 16);
	virtqueue_push(&dev.vq, &dev.elems[0], 0);
	device_destroy(&dev);
	iotlb_destroy(p.iotlb);
	sim_destroy(d);
}

static void test_changing_memory(void **state)
{
	(void)state;
	run_changing(false);
	run_changing(true);
}

/*
 * A thread changes the rings while the device works: mostly to values that could
 * be right, now and then to garbage. Nothing may crash or lead outside.
 */
static void noise_split(struct sim_driver *d, struct rng *r)
{
	volatile struct vring_desc *desc = &d->split_desc[rnd(r) % 8];
	const bool garbage = rnd(r) % 64 == 0;
	const uint32_t v = rnd(r);

	switch (rnd(r) % 6) {
	case 0:
		desc->addr = garbage ? v * 0x100000001ull : d->data + v % 65536;
		break;
	case 1:
		desc->len = garbage ? v : v % 8 ? v % 4096 + 1 : 16 * (v % 5);
		break;
	case 2:
		desc->flags = (uint16_t)(garbage ? v : v % 4 ? v & 2 : v & 7);
		break;
	case 3:
		desc->next = (uint16_t)(garbage ? v : v % 8);
		break;
	case 4:
		d->avail->ring[v % 8] = (uint16_t)(garbage ? v : v / 8 % 8);
		break;
	default:
		*(volatile uint16_t *)&d->avail->idx = (uint16_t)(garbage ? v : v % 9);
		break;
	}
}

static void noise_packed(struct sim_driver *d, struct rng *r)
{
	volatile struct vring_packed_desc *desc = &d->ring[rnd(r) % 8];
	const bool garbage = rnd(r) % 64 == 0;
	const uint32_t v = rnd(r);

	switch (rnd(r) % 4) {
	case 0:
		desc->addr = garbage ? v * 0x100000001ull : d->data + v % 65536;
		break;
	case 1:
		desc->len = garbage ? v : v % 8 ? v % 4096 + 1 : 16 * (v % 5);
		break;
	case 2:
		desc->id = (uint16_t)(garbage ? v : v % 8);
		break;
	default:
		desc->flags = (uint16_t)(garbage ? v : PACKED_AVAIL_FLAG | (v % 4 ? v & 2 : v & 7));
		break;
	}
}

static void *noise_thread(void *opaque)
{
	struct shared *s = opaque;
	struct rng r = { 5 };

	while (!__atomic_load_n(&s->failed, __ATOMIC_RELAXED)) {
		if (s->d->params.packed)
			noise_packed(s->d, &r);
		else
			noise_split(s->d, &r);
	}
	return NULL;
}

static void run_noise(bool packed)
{
	struct sim_params params = { .num = 8, .packed = packed, .event_idx = true,
				     .indirect = true };
	struct shared s = { .d = sim_create(&params) };
	struct virtqueue_params p = sim_virtqueue_params(s.d);
	unsigned int round, taken = 0, broken = 0;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, noise_thread, &s), 0);
	for (round = 0; round < 2000000 && (taken < 500 || broken < 500); round++) {
		unsigned int i, k;

		device_create(&s.dev, &(struct virtqueue_params){
			.num = p.num, .packed = packed, .event_idx = true, .indirect = true,
			.max_chain = p.max_chain, .desc = p.desc, .driver = p.driver,
			.device = packed ? p.device : s.d->data, /* used ring out of reach */
			.state = VIRTQUEUE_STATE_INIT, .iotlb = p.iotlb });
		for (i = 0; i < 8; i++) {
			struct virtqueue_elem *el = &s.dev.elems[i];

			if (virtqueue_pop(&s.dev.vq, el) <= 0)
				break;
			taken++;
			for (k = 0; k < el->out_num + el->in_num; k++) {
				uint8_t *base = el->iov[k].iov_base;

				assert_true(base >= s.d->arena && el->iov[k].iov_len &&
					    el->iov[k].iov_len <= (size_t)(s.d->arena +
					    SIM_ARENA_BYTES - base));
			}
			virtqueue_push(&s.dev.vq, el, 0);
		}
		virtqueue_commit(&s.dev.vq);
		virtqueue_enable_notify(&s.dev.vq);
		broken += !!virtqueue_error(&s.dev.vq);
		memset(sim_mem(s.d, s.d->data), 0, 256);
		device_destroy(&s.dev);
	}
	__atomic_store_n(&s.failed, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_int_equal(s.d->iotlb->holds[0] + s.d->iotlb->holds[1], 0);
	print_message("  %s: %u chains taken, %u rings broken\n", packed ? "packed" : "split",
		      taken, broken);
	assert_true(taken >= 500 && broken >= 500);
	sim_destroy(s.d);
}

static void test_noise(void **state)
{
	(void)state;
	run_noise(false);
	run_noise(true);
}

/* --- set-up --- */

static const struct init_row {
	const char *name;
	bool packed;
	unsigned int num; /* 0: 8 */
	uint64_t desc_off, driver_off, device_off; /* added to the good addresses */
	uint64_t device_at; /* instead of the good address */
	struct virtqueue_state state;
	uint16_t used_idx;
	int err;
	const char *reason;
} init_rows[] = {
	{ "size too large", .num = 65536, .err = -EINVAL, .reason = "queue size 65536" },
	{ "split size not a power of two", .num = 6, .err = -EINVAL, .reason = "power of two" },
	{ "descriptor table unaligned", .desc_off = 8, .err = -EINVAL,
	  .reason = "descriptor table" },
	{ "available ring unaligned", .driver_off = 1, .err = -EINVAL, .reason = "available ring" },
	{ "used ring unaligned", .device_off = 2, .err = -EINVAL, .reason = "used ring" },
	{ "descriptor table not mapped", .desc_off = 1ull << 50, .err = -EFAULT,
	  .reason = "descriptor table" },
	{ "available ring not mapped", .driver_off = 1ull << 50, .err = -EFAULT,
	  .reason = "available ring" },
	{ "used ring read-only", .device_at = 2ull << 40, .err = -EACCES,
	  .reason = "permission" },
	{ "used ring mapped at an odd address", .device_at = 4ull << 40, .err = -EINVAL,
	  .reason = "is mapped at an unaligned address" },
	{ "used ring crosses mappings", .device_at = (3ull << 40) + 4096 - 8,
	  .err = -E2BIG,
	  .reason = "crosses two mappings" },
	{ "used index out of line", .state = { .avail_idx = 9 }, .err = -EINVAL,
	  .reason = "used index 0 does not fit available index 9" },
	{ "used index ahead", .state = { .avail_idx = 3 }, .used_idx = 4, .err = -EINVAL,
	  .reason = "used index 4 does not fit" },
	{ "packed ring unaligned", true, .desc_off = 4, .err = -EINVAL,
	  .reason = "descriptor ring" },
	{ "packed driver event unaligned", true, .driver_off = 2, .err = -EINVAL,
	  .reason = "driver event structure" },
	{ "packed device event not mapped", true, .device_off = 1ull << 50, .err = -EFAULT,
	  .reason = "device event structure" },
	{ "packed state outside", true, .state = { 8, 0, true, true }, .err = -EINVAL,
	  .reason = "state 8/1" },
	{ "packed state backwards", true, .state = { 1, 2, true, true }, .err = -EINVAL,
	  .reason = "not possible" },
	{ "packed state over a round", true, .state = { 3, 2, false, true }, .err = -EINVAL,
	  .reason = "not possible" },
};

static void test_init(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(init_rows); i++) {
		const struct init_row *row = &init_rows[i];
		struct sim_params params = { .num = 8, .packed = row->packed };
		struct sim_driver *d = sim_create(&params);
		struct virtqueue_params p = sim_virtqueue_params(d);
		struct error e = ERROR_INIT;
		struct virtqueue vq;
		int err;

		print_message("  %s\n", row->name);
		add_special_regions(d);
		if (row->num)
			p.num = row->num;
		p.desc += row->desc_off;
		p.driver += row->driver_off;
		if (row->device_at)
			p.device = row->device_at;
		p.device += row->device_off;
		d->used->idx = row->used_idx;
		if (row->state.avail_idx || row->packed)
			p.state = row->state;
		if (row->packed && !row->state.avail_idx)
			p.state = VIRTQUEUE_STATE_INIT;
		err = virtqueue_init(&vq, &p, &e);
		assert_int_equal(err, row->err);
		if (!strstr(e.text, row->reason))
			fail_msg("%s: got \"%s\"", row->name, e.text);
		sim_destroy(d);
	}
}

/* --- exactness of interrupts --- */

static struct virtqueue_elem fabricated(struct iotlb *tlb, unsigned int ndesc)
{
	return (struct virtqueue_elem){ .ndesc = (uint16_t)ndesc, .hold = iotlb_hold(tlb) };
}

/* Every position, batch length and event of a small packed ring, against a simple model. */
static void test_packed_event(void **state)
{
	struct sim_params params = { .num = 5, .packed = true, .event_idx = true };
	struct sim_driver *d = sim_create(&params);
	struct virtqueue_params p = sim_virtqueue_params(d);
	unsigned int start, length, event;
	struct error e = ERROR_INIT;
	struct virtqueue vq;

	(void)state;
	for (start = 0; start < 10; start++) {
		for (length = 1; length <= 5; length++) {
			for (event = 0; event < 10; event++) {
				bool expect = (event + 10 - start) % 10 < length;
				struct virtqueue_elem elem;

				/* All positions of two rounds: 0-4 with wrap 1, 5-9 with wrap 0. */
				p.state.used_idx = (uint16_t)(start % 5);
				p.state.used_wrap = start < 5;
				p.state.avail_idx = (uint16_t)((start + length) % 5);
				p.state.avail_wrap = (start + length) % 10 < 5;
				assert_int_equal(virtqueue_init(&vq, &p, &e), 0);
				d->driver_event->off_wrap =
					(uint16_t)(event % 5 | (event < 5 ? 1u << 15 : 0));
				d->driver_event->flags = VRING_PACKED_EVENT_FLAG_DESC;
				elem = fabricated(d->iotlb, length > 1 ? length - 1 : 1);
				virtqueue_push(&vq, &elem, 0);
				if (length > 1) {
					elem = fabricated(d->iotlb, 1);
					virtqueue_push(&vq, &elem, 0);
				}
				if (virtqueue_commit(&vq) != expect)
					fail_msg("start %u length %u event %u: %d expected", start,
						 length, event, expect);
				assert_false(virtqueue_commit(&vq));
			}
		}
	}
	sim_destroy(d);
}

static void test_split_event(void **state)
{
	struct sim_params params = { .num = 8, .event_idx = true };
	struct sim_driver *d = sim_create(&params);
	unsigned int length, event;

	(void)state;
	for (length = 1; length <= 8; length++) {
		for (event = 0; event < 24; event++) {
			uint16_t start = 65530;
			uint16_t used_event = (uint16_t)(start - 8 + event);
			struct virtqueue_params p = sim_virtqueue_params(d);
			bool expect = event >= 8 && event < 8 + length;
			struct error e = ERROR_INIT;
			struct virtqueue vq;
			unsigned int i;

			d->used->idx = start;
			p.state.avail_idx = (uint16_t)(start + length);
			assert_int_equal(virtqueue_init(&vq, &p, &e), 0);
			d->avail->ring[8] = used_event;
			for (i = 0; i < length; i++) {
				struct virtqueue_elem elem = fabricated(d->iotlb, 1);

				virtqueue_push(&vq, &elem, 0);
			}
			assert_int_equal(d->used->idx, start);
			if (virtqueue_commit(&vq) != expect)
				fail_msg("length %u event %u: %d expected", length, event, expect);
			assert_int_equal(d->used->idx, (uint16_t)(start + length));
		}
	}
	sim_destroy(d);
}

/* Without event indices the flags decide, and the device's own flags are set. */
static void test_flags(void **state)
{
	unsigned int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct sim_params params = { .num = 8, .packed = packed };
		struct sim_driver *d = sim_create(&params);
		struct virtqueue_params p = sim_virtqueue_params(d);
		struct sim_segment seg = { d->data, 16, true };
		struct device dev;
		unsigned int i;

		device_create(&dev, &p);
		for (i = 0; i < 4; i++) {
			if (i & 1)
				sim_disable_callbacks(d);
			else
				sim_enable_callbacks(d, 1);
			assert_true(sim_add(d, &seg, 1, false, &seg));
			assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[0]), 1);
			virtqueue_push(&dev.vq, &dev.elems[0], 3);
			assert_int_equal(virtqueue_commit(&dev.vq), !(i & 1));
		}
		assert_false(virtqueue_enable_notify(&dev.vq));
		assert_true(sim_needs_kick(d));
		virtqueue_disable_notify(&dev.vq);
		assert_false(sim_needs_kick(d));
		assert_false(virtqueue_enable_notify(&dev.vq));
		assert_true(sim_needs_kick(d));
		assert_true(sim_add(d, &seg, 1, false, &seg));
		assert_true(virtqueue_enable_notify(&dev.vq));
		device_destroy(&dev);
		sim_destroy(d);
	}
}

/* A batch becomes visible as a whole, at the commit. */
static void test_batch_visibility(void **state)
{
	unsigned int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct sim_params params = { .num = 8, .packed = packed };
		struct sim_driver *d = sim_create(&params);
		struct virtqueue_params p = sim_virtqueue_params(d);
		struct sim_segment seg = { d->data, 16, true };
		struct device dev;
		uint32_t len;
		void *cookie;
		int tags[6];
		unsigned int i;

		device_create(&dev, &p);
		for (i = 0; i < 6; i++) {
			assert_true(sim_add(d, &seg, 1, false, &tags[i]));
			assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[i]), 1);
		}
		assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[6]), 0);
		for (i = 6; i-- > 0;) {
			virtqueue_push(&dev.vq, &dev.elems[i], i);
			assert_false(sim_get_used(d, &cookie, &len));
		}
		assert_true(virtqueue_commit(&dev.vq));
		for (i = 6; i-- > 0;) {
			assert_true(sim_get_used(d, &cookie, &len));
			assert_ptr_equal(cookie, &tags[i]);
			assert_int_equal(len, i);
		}
		assert_false(sim_get_used(d, &cookie, &len));
		assert_false(virtqueue_commit(&dev.vq));
		device_destroy(&dev);
		sim_destroy(d);
	}
}

/* Stop in the middle of traffic and go on with a new virtqueue from its state. */
static void test_state(void **state)
{
	unsigned int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct sim_params params = {
			.num = packed ? 7 : 8, .packed = packed, .event_idx = true,
			.indirect = true, .start = 65530,
		};
		struct sim_driver *d = sim_create(&params);
		struct virtqueue_params p = sim_virtqueue_params(d);
		struct chain *chains = calloc(d->num, sizeof(*chains));
		struct rng r = { 11 };
		unsigned int round;

		for (round = 0; round < 200; round++) {
			struct device dev;
			unsigned int k;
			void *cookie;
			uint32_t len;

			device_create(&dev, &p);
			while (add_random_chain(d, &r, chains, d->num))
				;
			k = rnd_in(&r, 1, sim_outstanding(d));
			while (k--)
				assert_int_equal(device_pop(&dev), 1);
			while (dev.num_busy)
				device_push_random(&dev, &r);
			virtqueue_commit(&dev.vq);
			while (sim_get_used(d, &cookie, &len))
				check_used(d, cookie, len);
			virtqueue_state(&dev.vq, &p.state);
			device_destroy(&dev);
		}
		free(chains);
		sim_destroy(d);
	}
}

/* --- invalidation --- */

struct moving {
	struct sim_driver *d;
	unsigned int faults, releases;
	bool gone;
};

static int moving_fault(void *opaque, uint64_t iova, uint32_t perm, struct iotlb_region *ret)
{
	struct moving *m = opaque;

	(void)iova;
	(void)perm;
	if (m->gone)
		return -EFAULT;
	m->faults++;
	*ret = (struct iotlb_region){ SIM_IOVA, SIM_ARENA_BYTES, IOTLB_RW, m->d->arena, NULL };
	return 0;
}

static void moving_release(void *opaque, const struct iotlb_region *region)
{
	struct moving *m = opaque;

	(void)region;
	m->releases++;
}

static const struct iotlb_ops moving_ops = { moving_fault, moving_release };

/* The rings are mapped again; what is in flight keeps its memory; gone rings break it. */
static void test_invalidate(void **state)
{
	unsigned int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct sim_params params = { .num = 8, .packed = packed };
		struct sim_driver *d = sim_create(&params);
		struct virtqueue_params p = sim_virtqueue_params(d);
		struct moving m = { .d = d };
		struct sim_segment seg = { d->data, 16, true };
		struct device dev;
		uint32_t len;
		void *cookie;

		assert_int_equal(iotlb_create(&moving_ops, &m, &p.iotlb), 0);
		device_create(&dev, &p);
		assert_int_equal(m.faults, 1);
		assert_true(sim_add(d, &seg, 1, false, d));
		assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[0]), 1);
		iotlb_invalidate(p.iotlb, 0, UINT64_MAX);
		assert_int_equal(m.releases, 0);
		virtqueue_push(&dev.vq, &dev.elems[0], 16);
		assert_int_equal(m.releases, 1);
		assert_int_equal(m.faults, 2);
		virtqueue_commit(&dev.vq);
		assert_true(sim_get_used(d, &cookie, &len));

		m.gone = true;
		iotlb_invalidate(p.iotlb, 0, UINT64_MAX);
		assert_int_equal(virtqueue_pop(&dev.vq, &dev.elems[0]), -EIO);
		assert_non_null(strstr(virtqueue_error(&dev.vq), "is not mapped"));
		device_destroy(&dev);
		iotlb_destroy(p.iotlb);
		sim_destroy(d);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_init),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_batch_visibility),
		cmocka_unit_test(test_split_event),
		cmocka_unit_test(test_packed_event),
		cmocka_unit_test(test_state),
		cmocka_unit_test(test_invalidate),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_overcommit),
		cmocka_unit_test(test_changing_memory),
		cmocka_unit_test(test_noise),
		cmocka_unit_test(test_random_traffic),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
