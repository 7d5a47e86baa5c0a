// SPDX-License-Identifier: MIT
/*
 * The table of bytes that a late write may still change.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/nbd_fence.h"

static struct nbd_fence fence;

static int begin(void **state)
{
	(void)state;
	nbd_fence_init(&fence);
	return 0;
}

static int end(void **state)
{
	(void)state;
	nbd_fence_release(&fence);
	return 0;
}

static void test_overlap(void **state)
{
	static const struct {
		uint64_t offset, length;
		bool blocks;
	} rows[] = {
		{ 0, 4096, false },    { 0, 4097, true },     { 4096, 1, true },
		{ 8191, 1, true },     { 8192, 1, false },    { 0, 1 << 20, true },
		{ 5000, 100, true },   { 8192, 4096, false }, { UINT64_MAX - 4096, 4096, false },
		{ 4096, 4096, true },
	};

	(void)state;
	assert_false(nbd_fence_active(&fence));
	nbd_fence_add(&fence, nbd_fence_epoch(&fence), 4096, 4096, 0);
	assert_true(nbd_fence_active(&fence));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(nbd_fence_blocks(&fence, rows[i].offset, rows[i].length),
				 rows[i].blocks);
}

static uint64_t expire(uint64_t now, uint64_t age, uint64_t after_close, bool *ret_lifted)
{
	const struct nbd_fence_limits limits = { age, after_close };

	return nbd_fence_expire(&fence, now, &limits, ret_lifted);
}

/* Each connection's close counts for its own ranges, and one range may be fenced twice. */
static void test_closed(void **state)
{
	uint32_t a = nbd_fence_epoch(&fence), b = nbd_fence_epoch(&fence);
	bool lifted;

	(void)state;
	assert_int_not_equal(a, b);
	nbd_fence_add(&fence, a, 0, 512, 0);
	nbd_fence_add(&fence, b, 0, 512, 0);
	nbd_fence_add(&fence, a, 4096, 512, 0);
	nbd_fence_closed(&fence, a, 100);
	/* A close alone lifts nothing. */
	assert_true(nbd_fence_blocks(&fence, 4096, 512));
	assert_int_equal(expire(119, NBD_FENCE_NEVER, 20, &lifted), 120);
	assert_false(lifted);
	/* The second word of it does not prolong anything. */
	nbd_fence_closed(&fence, a, 110);
	assert_true(expire(120, NBD_FENCE_NEVER, 20, &lifted) == NBD_FENCE_NEVER);
	assert_true(lifted);
	assert_true(nbd_fence_blocks(&fence, 0, 512));
	assert_false(nbd_fence_blocks(&fence, 4096, 512));
	/* Nor does a close: the age counts as well. */
	nbd_fence_closed(&fence, b, 200);
	assert_int_equal(expire(201, 210, 20, &lifted), 210);
	assert_int_equal(expire(201, 1000, 20, &lifted), 220);
	assert_false(lifted);
	/* A close is believed. */
	assert_true(expire(201, 1000, 0, &lifted) == NBD_FENCE_NEVER);
	assert_true(lifted);
	assert_false(nbd_fence_active(&fence));
}

static void test_expiry(void **state)
{
	bool lifted;

	(void)state;
	nbd_fence_add(&fence, 0, 0, 512, 100);
	nbd_fence_add(&fence, 0, 512, 512, 200);
	assert_int_equal(expire(149, 50, 0, &lifted), 150);
	assert_false(lifted);
	assert_int_equal(expire(150, 50, 0, &lifted), 250);
	assert_true(lifted);
	assert_false(nbd_fence_blocks(&fence, 0, 512));
	assert_true(nbd_fence_blocks(&fence, 512, 512));
	assert_true(expire(1 << 30, NBD_FENCE_NEVER, 0, &lifted) == NBD_FENCE_NEVER);
	assert_false(lifted);
	/* The limit was made shorter. */
	assert_true(expire(250, 1, 0, &lifted) == NBD_FENCE_NEVER);
	assert_true(lifted);
	assert_false(nbd_fence_active(&fence));
}

/* A full table merges: more may wait than has to, never less. */
static void test_full(void **state)
{
	uint32_t a = nbd_fence_epoch(&fence), b = nbd_fence_epoch(&fence);
	bool lifted;

	(void)state;
	for (uint64_t i = 0; i < NBD_FENCE_RANGES; i++)
		nbd_fence_add(&fence, a, i * 8192, 4096, 10);
	nbd_fence_add(&fence, a, 1ull << 40, 4096, 20);
	nbd_fence_add(&fence, b, 1ull << 41, 4096, 30);
	assert_int_equal(fence.count, NBD_FENCE_RANGES);
	assert_true(nbd_fence_blocks(&fence, 0, 1));
	assert_true(nbd_fence_blocks(&fence, 1ull << 40, 1));
	assert_true(nbd_fence_blocks(&fence, (1ull << 41) + 4095, 1));
	/* Neither connection's close is enough for what was merged of both. */
	nbd_fence_closed(&fence, a, 35);
	nbd_fence_closed(&fence, b, 35);
	assert_int_equal(expire(35, 10, 0, &lifted), 40);
	assert_true(lifted);
	assert_true(nbd_fence_blocks(&fence, 1ull << 40, 1));
	assert_true(nbd_fence_blocks(&fence, 1ull << 41, 1));
	assert_false(nbd_fence_blocks(&fence, 0, 1));
	expire(40, 10, 0, &lifted);
	assert_false(nbd_fence_active(&fence));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_overlap, begin, end),
		cmocka_unit_test_setup_teardown(test_closed, begin, end),
		cmocka_unit_test_setup_teardown(test_expiry, begin, end),
		cmocka_unit_test_setup_teardown(test_full, begin, end),
	};

	return cmocka_run_group_tests_name("nbd_fence", tests, NULL, NULL);
}
