// SPDX-License-Identifier: MIT
/*
 * test_iotlb.c: translation, faults and the release of invalidated regions.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "virtio/iotlb.h"

#define PAGE	4096ull

/* The owner: serves faults from a table and counts. */
struct owner {
	const struct iotlb_region *regions;
	unsigned int num;
	unsigned int faults;
	unsigned int released[64]; /* by cookie */
	int error;
	bool wrong;
};

static int fault(void *opaque, uint64_t iova, uint32_t perm, struct iotlb_region *ret)
{
	struct owner *o = opaque;
	unsigned int i;

	(void)perm;
	o->faults++;
	if (o->error)
		return o->error;
	for (i = 0; i < o->num; i++) {
		if (o->wrong || iova - o->regions[i].iova < o->regions[i].size) {
			*ret = o->regions[i];
			return 0;
		}
	}
	return -EFAULT;
}

static void release(void *opaque, const struct iotlb_region *region)
{
	struct owner *o = opaque;

	o->released[(uintptr_t)region->cookie]++;
}

static const struct iotlb_ops ops = { fault, release };
static const struct iotlb_ops no_fault_ops = { NULL, release };

static uint8_t memory[16 * 4096];

#define REGION(at, pages, p, n) \
	{ (at) * PAGE, (pages) * PAGE, (p), memory + ((at) % 16) * PAGE, (void *)(uintptr_t)(n) }

/* A gap at page 3, a read-only region, two that touch, one at the very end. */
static const struct iotlb_region regions[] = {
	REGION(1, 2, IOTLB_RW, 1),
	REGION(4, 1, IOTLB_READ, 2),
	REGION(5, 2, IOTLB_RW, 3),
	REGION(7, 1, IOTLB_RW, 4),
	REGION(0xfffffffffffffull, 1, IOTLB_RW, 5),
};

static struct iotlb *create(struct owner *o, const struct iotlb_ops *with)
{
	struct iotlb *tlb;

	*o = (struct owner){ .regions = regions, .num = ARRAY_SIZE(regions) };
	assert_int_equal(iotlb_create(with, o, &tlb), 0);
	return tlb;
}

static const struct translate_row {
	const char *name;
	uint64_t iova, len;
	uint32_t perm;
	unsigned int max;
	int err;
	unsigned int pieces;
	uint64_t first; /* bytes in the first piece */
} translate_rows[] = {
	{ "inside", PAGE + 10, 100, IOTLB_READ, 1, 0, 1, 100 },
	{ "all of a region", PAGE, 2 * PAGE, IOTLB_WRITE, 1, 0, 1, 2 * PAGE },
	{ "last byte", 3 * PAGE - 1, 1, IOTLB_READ, 1, 0, 1, 1 },
	{ "empty", PAGE, 0, IOTLB_READ, 1, -EINVAL, 0, 0 },
	{ "before the first", PAGE - 1, 1, IOTLB_READ, 1, -EFAULT, 0, 0 },
	{ "into a gap", 3 * PAGE - 1, 2, IOTLB_READ, 4, -EFAULT, 0, 0 },
	{ "in a gap", 3 * PAGE, 1, IOTLB_READ, 4, -EFAULT, 0, 0 },
	{ "two pieces", 5 * PAGE - 8, 16, IOTLB_READ, 4, 0, 2, 8 },
	{ "three pieces", 5 * PAGE - 8, 2 * PAGE + 16, IOTLB_READ, 4, 0, 3, 8 },
	{ "too few entries", 5 * PAGE - 8, 16, IOTLB_READ, 1, -E2BIG, 0, 0 },
	{ "no entries", PAGE, 1, IOTLB_READ, 0, -E2BIG, 0, 0 },
	{ "write to read-only", 4 * PAGE, 1, IOTLB_WRITE, 1, -EACCES, 0, 0 },
	{ "write into read-only", 5 * PAGE - 1, 2, IOTLB_WRITE, 2, -EACCES, 0, 0 },
	{ "last byte of all", UINT64_MAX, 1, IOTLB_READ, 1, 0, 1, 1 },
	{ "wraps around", UINT64_MAX, 2, IOTLB_READ, 4, -EFAULT, 0, 0 },
	{ "wraps to the start", UINT64_MAX - 5, UINT64_MAX, IOTLB_READ, 4, -EFAULT, 0, 0 },
	{ "endless", PAGE, UINT64_MAX, IOTLB_READ, 4, -EFAULT, 0, 0 },
};

static void check_row(struct iotlb *tlb, const struct translate_row *row)
{
	struct iovec iov[5];
	unsigned int n = 77, i;
	uint64_t total = 0;
	int err;

	err = iotlb_translate(tlb, row->iova, row->len, row->perm, iov, row->max, &n);
	if (err != row->err)
		fail_msg("%s: %d instead of %d", row->name, err, row->err);
	if (err) {
		assert_int_equal(n, 77);
		return;
	}
	assert_int_equal(n, row->pieces);
	assert_int_equal(iov[0].iov_len, row->first);
	for (i = 0; i < n; i++) {
		assert_ptr_equal(iov[i].iov_base, memory + (row->iova + total) % sizeof(memory));
		total += iov[i].iov_len;
	}
	assert_int_equal(total, row->len);
}

/* Each row on a cold table, then all again on the warm one, in both directions. */
static void test_translate(void **state)
{
	const unsigned int num = ARRAY_SIZE(translate_rows);
	struct owner o;
	struct iotlb *tlb;
	unsigned int i, faults;

	(void)state;
	for (i = 0; i < num; i++) {
		tlb = create(&o, &ops);
		check_row(tlb, &translate_rows[i]);
		iotlb_destroy(tlb);
	}
	tlb = create(&o, &ops);
	for (i = 0; i < num; i++)
		check_row(tlb, &translate_rows[i]);
	faults = o.faults;
	for (i = num; i-- > 0;) {
		if (translate_rows[i].err != -EFAULT)
			check_row(tlb, &translate_rows[i]);
	}
	assert_int_equal(o.faults, faults);
	iotlb_destroy(tlb);
	for (i = 1; i <= ARRAY_SIZE(regions); i++)
		assert_int_equal(o.released[i], 1);
}

static void test_add(void **state)
{
	static const struct add_row {
		const char *name;
		struct iotlb_region region;
		int err;
	} rows[] = {
		{ "good", REGION(4, 2, IOTLB_RW, 1), 0 },
		{ "same again", REGION(4, 2, IOTLB_RW, 2), -EEXIST },
		{ "overlaps its end", REGION(5, 2, IOTLB_RW, 2), -EEXIST },
		{ "overlaps its start", REGION(3, 2, IOTLB_RW, 2), -EEXIST },
		{ "around it", REGION(2, 8, IOTLB_RW, 2), -EEXIST },
		{ "before it", REGION(3, 1, IOTLB_RW, 3), 0 },
		{ "behind it", REGION(6, 1, IOTLB_RW, 4), 0 },
		{ "empty", { PAGE, 0, IOTLB_RW, memory, NULL }, -EINVAL },
		{ "no permission", { PAGE, PAGE, 0, memory, NULL }, -EINVAL },
		{ "no memory", { PAGE, PAGE, IOTLB_RW, NULL, NULL }, -EINVAL },
		{ "wraps around", { UINT64_MAX - 5, PAGE, IOTLB_RW, memory, NULL }, -EINVAL },
		{ "up to the end", { UINT64_MAX - 7, 8, IOTLB_RW, memory, (void *)5 }, 0 },
	};
	struct owner o;
	struct iotlb *tlb = create(&o, &no_fault_ops);
	struct iovec iov;
	unsigned int i, n;

	(void)state;
	assert_int_equal(iotlb_translate(tlb, PAGE, 1, IOTLB_READ, &iov, 1, &n), -EFAULT);
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		int err = iotlb_add(tlb, &rows[i].region);

		if (err != rows[i].err)
			fail_msg("%s: %d instead of %d", rows[i].name, err, rows[i].err);
	}
	assert_int_equal(o.released[2], 0);
	iotlb_destroy(tlb);
	assert_int_equal(o.released[2], 0);
	assert_int_equal(o.released[1] + o.released[3] + o.released[4] + o.released[5], 4);
}

/* What a fault brings is checked like everything else, and not leaked when bad. */
static void test_bad_faults(void **state)
{
	static const struct iotlb_region elsewhere[] = { REGION(9, 1, IOTLB_RW, 1) };
	static const struct iotlb_region elsewhere_again[] = { REGION(14, 1, IOTLB_RW, 4) };
	struct iotlb_region overlap = REGION(1, 8, IOTLB_RW, 2);
	struct iotlb_region empty = { PAGE, PAGE, 0, memory, (void *)3 };
	struct owner o;
	struct iotlb *tlb = create(&o, &ops);
	struct iovec iov;
	unsigned int n;

	(void)state;
	o.error = -ENOMEM;
	assert_int_equal(iotlb_translate(tlb, PAGE, 1, IOTLB_READ, &iov, 1, &n), -ENOMEM);
	o.error = 0;
	o.regions = elsewhere;
	o.num = 1;
	assert_int_equal(iotlb_translate(tlb, 9 * PAGE, 1, IOTLB_READ, &iov, 1, &n), 0);
	o.regions = &overlap;
	overlap.iova = 2 * PAGE; /* reaches over page 9 */
	assert_int_equal(iotlb_translate(tlb, 2 * PAGE, 1, IOTLB_READ, &iov, 1, &n), -EEXIST);
	assert_int_equal(o.released[2], 1);
	o.regions = elsewhere_again;
	o.wrong = true; /* answers with a region that does not have the address */
	assert_int_equal(iotlb_translate(tlb, 12 * PAGE, 1, IOTLB_READ, &iov, 1, &n), -EFAULT);
	assert_int_equal(o.released[4], 1);
	o.wrong = false;
	o.regions = &empty;
	assert_int_equal(iotlb_translate(tlb, PAGE, 1, IOTLB_READ, &iov, 1, &n), -EINVAL);
	assert_int_equal(o.released[3], 1);
	iotlb_destroy(tlb);
	assert_int_equal(o.released[1], 1);
}

static void test_map(void **state)
{
	struct owner o;
	struct iotlb *tlb = create(&o, &ops);
	void *p = NULL;

	(void)state;
	assert_int_equal(iotlb_map(tlb, PAGE + 5, 2 * PAGE - 5, IOTLB_RW, &p), 0);
	assert_ptr_equal(p, memory + PAGE + 5);
	assert_int_equal(iotlb_map(tlb, 4 * PAGE, 2 * PAGE, IOTLB_READ, &p), -E2BIG);
	assert_int_equal(iotlb_map(tlb, 4 * PAGE, 1, IOTLB_RW, &p), -EACCES);
	assert_ptr_equal(p, memory + PAGE + 5);
	iotlb_destroy(tlb);
}

static void touch(struct iotlb *tlb, uint64_t page)
{
	struct iovec iov;
	unsigned int n;

	assert_int_equal(iotlb_translate(tlb, page * PAGE, 1, IOTLB_READ, &iov, 1, &n), 0);
}

/* Ranges hit whole regions; the rest stays; what is hit faults in again. */
static void test_invalidate(void **state)
{
	struct owner o;
	struct iotlb *tlb = create(&o, &ops);
	uint32_t generation;

	(void)state;
	iotlb_invalidate(tlb, 0, UINT64_MAX); /* nothing there yet */
	touch(tlb, 1);
	touch(tlb, 4);
	touch(tlb, 5);
	touch(tlb, 7);
	assert_int_equal(o.faults, 4);
	generation = iotlb_generation(tlb);
	iotlb_invalidate(tlb, 3 * PAGE, 4 * PAGE - 1); /* the gap */
	assert_int_not_equal(iotlb_generation(tlb), generation);
	assert_int_equal(o.released[1] + o.released[2] + o.released[3] + o.released[4], 0);
	iotlb_invalidate(tlb, 5 * PAGE - 1, 5 * PAGE); /* an edge: both neighbours */
	assert_int_equal(o.released[2], 1);
	assert_int_equal(o.released[3], 1);
	assert_int_equal(o.released[1] + o.released[4], 0);
	touch(tlb, 1);
	touch(tlb, 7);
	assert_int_equal(o.faults, 4);
	touch(tlb, 6);
	assert_int_equal(o.faults, 5);
	iotlb_invalidate(tlb, 0, UINT64_MAX);
	assert_int_equal(o.released[1], 1);
	assert_int_equal(o.released[3], 2);
	assert_int_equal(o.released[4], 1);
	iotlb_destroy(tlb);
}

/* A hold keeps what was there when it was taken, and nothing longer than needed. */
static void test_holds(void **state)
{
	struct owner o;
	struct iotlb *tlb = create(&o, &ops);
	unsigned int a, b, c, d;

	(void)state;
	touch(tlb, 1);
	a = iotlb_hold(tlb);
	b = iotlb_hold(tlb);
	iotlb_invalidate(tlb, PAGE, PAGE);
	touch(tlb, 4);
	c = iotlb_hold(tlb); /* taken later: does not keep region 1 */
	iotlb_drop(tlb, a);
	assert_int_equal(o.released[1], 0);

	/* A second invalidation while the first waits. */
	iotlb_invalidate(tlb, 4 * PAGE, 4 * PAGE);
	touch(tlb, 5);
	d = iotlb_hold(tlb);
	iotlb_drop(tlb, b);
	assert_int_equal(o.released[1], 1);
	assert_int_equal(o.released[2], 0);

	/* c was there before the second, d came after it: only c matters in the end. */
	iotlb_drop(tlb, c);
	iotlb_drop(tlb, d);
	assert_int_equal(o.released[2], 1);
	assert_int_equal(o.released[3], 0);
	iotlb_destroy(tlb);
	assert_int_equal(o.released[3], 1);
}

/* Random holds and invalidations against a model: never early, never lost. */
static void test_holds_random(void **state)
{
	struct owner o;
	struct iotlb *tlb = create(&o, &ops);
	struct {
		unsigned int token;
		unsigned int releases; /* of region 1, when the hold was taken */
		bool mapped; /* region 1 was known then */
		bool used;
	} holds[32] = { 0 };
	unsigned int round, i, faults = 0;
	bool mapped = false;
	uint32_t r = 12345;

	(void)state;
	for (round = 0; round < 200000; round++) {
		r = r * 1664525u + 1013904223u;
		i = r >> 27;
		if ((r >> 8) % 13 == 0) {
			iotlb_invalidate(tlb, 0, UINT64_MAX);
			mapped = false;
		} else if ((r >> 8) % 5 == 0) {
			touch(tlb, 1);
			faults += !mapped;
			mapped = true;
			assert_int_equal(o.faults, faults);
		} else if (!holds[i].used) {
			holds[i].token = iotlb_hold(tlb);
			holds[i].mapped = mapped;
			holds[i].releases = faults;
			holds[i].used = true;
		} else {
			/* The mapping number "releases" must live until here. */
			if (holds[i].mapped)
				assert_true(o.released[1] < holds[i].releases);
			iotlb_drop(tlb, holds[i].token);
			holds[i].used = false;
		}
	}
	for (i = 0; i < ARRAY_SIZE(holds); i++) {
		if (holds[i].used)
			iotlb_drop(tlb, holds[i].token);
	}
	assert_int_equal(o.released[1], faults - mapped);
	iotlb_destroy(tlb);
	assert_int_equal(o.released[1], faults);
	assert_true(faults > 1000);
}

static void test_many_regions(void **state)
{
	struct owner o;
	struct iotlb *tlb = create(&o, &no_fault_ops);
	struct iovec iov;
	unsigned int i, n;

	(void)state;
	/* Every other page, added in an order that is not sorted. */
	for (i = 0; i < IOTLB_MAX_REGIONS; i++) {
		uint64_t at = (uint64_t)(i * 619u % IOTLB_MAX_REGIONS) * 2;
		struct iotlb_region r = { at * PAGE, PAGE, IOTLB_RW, memory, NULL };

		assert_int_equal(iotlb_add(tlb, &r), 0);
	}
	for (i = 0; i < 2 * IOTLB_MAX_REGIONS; i++)
		assert_int_equal(iotlb_translate(tlb, i * PAGE, PAGE, IOTLB_READ, &iov, 1, &n),
				 i % 2 ? -EFAULT : 0);
	assert_int_equal(iotlb_add(tlb, &(struct iotlb_region){ PAGE, PAGE, IOTLB_RW, memory,
								NULL }), -ENOSPC);
	iotlb_destroy(tlb);
	assert_int_equal(o.released[0], IOTLB_MAX_REGIONS);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_translate),
		cmocka_unit_test(test_add),
		cmocka_unit_test(test_bad_faults),
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_invalidate),
		cmocka_unit_test(test_holds),
		cmocka_unit_test(test_holds_random),
		cmocka_unit_test(test_many_regions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
