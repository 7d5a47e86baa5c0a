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

static void add(uint32_t epoch, uint64_t age, uint64_t offset, uint64_t length, uint64_t now)
{
	nbd_fence_add(&fence, &(struct nbd_fence_range){ .start = offset,
							 .end = offset + length,
							 .since_ns = now,
							 .age = age,
							 .epoch = epoch });
}

/* Does a write wait that was never sent? */
static bool blocks(uint64_t offset, uint64_t length)
{
	return nbd_fence_blocks(&fence, offset, length, NBD_FENCE_UNSENT);
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
	add(nbd_fence_epoch(&fence, false), NBD_FENCE_UNLOGGED, 4096, 4096, 0);
	assert_true(nbd_fence_active(&fence));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(blocks(rows[i].offset, rows[i].length), rows[i].blocks);
}

static uint64_t expire(uint64_t now, uint64_t age, uint64_t after_close, bool *ret_lifted)
{
	const struct nbd_fence_limits limits = { age, after_close };

	return nbd_fence_expire(&fence, now, &limits, ret_lifted);
}

/* Each connection's close counts for its own ranges, and one range may be fenced twice. */
static void test_closed(void **state)
{
	uint32_t a = nbd_fence_epoch(&fence, false), b = nbd_fence_epoch(&fence, false);
	bool lifted;

	(void)state;
	assert_int_not_equal(a, b);
	add(a, NBD_FENCE_UNLOGGED, 0, 512, 0);
	add(b, NBD_FENCE_UNLOGGED, 0, 512, 0);
	add(a, NBD_FENCE_UNLOGGED, 4096, 512, 0);
	nbd_fence_closed(&fence, a, 100);
	/* A close alone lifts nothing. */
	assert_true(blocks(4096, 512));
	assert_int_equal(expire(119, NBD_FENCE_NEVER, 20, &lifted), 120);
	assert_false(lifted);
	/* The second word of it does not prolong anything. */
	nbd_fence_closed(&fence, a, 110);
	assert_true(expire(120, NBD_FENCE_NEVER, 20, &lifted) == NBD_FENCE_NEVER);
	assert_true(lifted);
	assert_true(blocks(0, 512));
	assert_false(blocks(4096, 512));
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
	add(0, NBD_FENCE_UNLOGGED, 0, 512, 100);
	add(0, NBD_FENCE_UNLOGGED, 512, 512, 200);
	assert_int_equal(expire(149, 50, 0, &lifted), 150);
	assert_false(lifted);
	assert_int_equal(expire(150, 50, 0, &lifted), 250);
	assert_true(lifted);
	assert_false(blocks(0, 512));
	assert_true(blocks(512, 512));
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
	uint32_t a = nbd_fence_epoch(&fence, false), b = nbd_fence_epoch(&fence, false);
	bool lifted;

	(void)state;
	for (uint64_t i = 0; i < NBD_FENCE_RANGES; i++)
		add(a, NBD_FENCE_UNLOGGED, i * 8192, 4096, 10);
	add(a, NBD_FENCE_UNLOGGED, 1ull << 40, 4096, 20);
	add(b, NBD_FENCE_UNLOGGED, 1ull << 41, 4096, 30);
	assert_int_equal(fence.count, NBD_FENCE_RANGES);
	assert_true(blocks(0, 1));
	assert_true(blocks(1ull << 40, 1));
	assert_true(blocks((1ull << 41) + 4095, 1));
	/* Neither connection's close is enough for what was merged of both. */
	nbd_fence_closed(&fence, a, 35);
	nbd_fence_closed(&fence, b, 35);
	assert_int_equal(expire(35, 10, 0, &lifted), 40);
	assert_true(lifted);
	assert_true(blocks(1ull << 40, 1));
	assert_true(blocks(1ull << 41, 1));
	assert_false(blocks(0, 1));
	expire(40, 10, 0, &lifted);
	assert_false(nbd_fence_active(&fence));
}

/* A write waits for those that are older than it is, and so not for itself. */
static void test_ages(void **state)
{
	static const struct {
		uint64_t age;
		bool first, second, unlogged;
	} rows[] = {
		{ 6, false, false, false },
		{ 7, false, false, false },
		{ 8, true, false, false },
		{ 9, true, false, false },
		{ 10, true, true, false },
		{ NBD_FENCE_UNLOGGED, true, true, false },
		{ NBD_FENCE_UNSENT, true, true, true },
	};

	(void)state;
	add(1, 7, 0, 4096, 0);
	add(1, 9, 4096, 4096, 0);
	add(1, NBD_FENCE_UNLOGGED, 8192, 4096, 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(nbd_fence_blocks(&fence, 0, 512, rows[i].age), rows[i].first);
		assert_int_equal(nbd_fence_blocks(&fence, 4096, 512, rows[i].age), rows[i].second);
		assert_int_equal(nbd_fence_blocks(&fence, 8192, 512, rows[i].age),
				 rows[i].unlogged);
		assert_int_equal(nbd_fence_blocks(&fence, 0, 12288, rows[i].age),
				 rows[i].first || rows[i].second || rows[i].unlogged);
	}
}

/* What was merged is as old as the oldest of it. */
static void test_ages_merged(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < NBD_FENCE_RANGES; i++)
		add(1, NBD_FENCE_UNLOGGED, i * 8192, 4096, 0);
	add(1, 7, 1ull << 40, 4096, 0);
	assert_false(nbd_fence_blocks(&fence, 1ull << 40, 512, 7));
	assert_true(nbd_fence_blocks(&fence, 1ull << 40, 512, 8));
	assert_false(nbd_fence_blocks(&fence, 0, 512, NBD_FENCE_UNLOGGED));
}

static void add_kept(uint32_t epoch, uint64_t offset, uint64_t now)
{
	nbd_fence_add(&fence, &(struct nbd_fence_range){ .start = offset,
							 .end = offset + 4096,
							 .since_ns = now,
							 .age = NBD_FENCE_UNLOGGED,
							 .epoch = epoch,
							 .kept = true });
}

static bool outlived(uint32_t epoch, uint64_t now, uint64_t age)
{
	const struct nbd_fence_limits limits = { age, 0 };

	return nbd_fence_outlived(&fence, epoch, now, &limits);
}

/* What a socket may still send is not lifted before that is gone, however old. */
static void test_kept(void **state)
{
	uint32_t a = nbd_fence_epoch(&fence, true), b = nbd_fence_epoch(&fence, true);
	bool lifted;

	(void)state;
	add_kept(a, 0, 10);
	add_kept(a, 8192, 10);
	add_kept(b, 16384, 20);
	assert_false(outlived(a, 29, 20));
	assert_true(outlived(a, 30, 20));
	assert_false(outlived(b, 30, 20));
	/* Nobody need look again for what is due: its socket's end is next. */
	assert_int_equal(expire(30, 20, 0, &lifted), 40);
	assert_false(lifted);
	assert_true(expire(100, 20, 0, &lifted) == NBD_FENCE_NEVER);
	assert_false(lifted);
	nbd_fence_gone(&fence, a);
	assert_true(blocks(0, 512));
	assert_int_equal(expire(35, 20, 0, &lifted), 40);
	assert_true(lifted);
	assert_false(blocks(0, 512) || blocks(8192, 512));
	assert_true(blocks(16384, 512));
	/* A socket that goes early lifts nothing. */
	nbd_fence_gone(&fence, b);
	assert_int_equal(expire(35, 20, 0, &lifted), 40);
	assert_false(lifted);
	expire(40, 20, 0, &lifted);
	assert_false(nbd_fence_active(&fence));
}

/* Merged of two connections: both sockets have to be gone. */
static void test_kept_merged(void **state)
{
	uint32_t a = nbd_fence_epoch(&fence, true), b = nbd_fence_epoch(&fence, true);
	bool lifted;

	(void)state;
	for (uint64_t i = 0; i < NBD_FENCE_RANGES; i++)
		add_kept(a, i * 8192, 0);
	add_kept(b, 1ull << 40, 0);
	/* Nothing of its own is left, so its socket need not stay. */
	assert_true(outlived(b, 0, 10));
	nbd_fence_gone(&fence, a);
	assert_true(expire(10, 10, 0, &lifted) == NBD_FENCE_NEVER);
	assert_true(lifted);
	assert_false(blocks(0, 512));
	assert_true(blocks(1ull << 40, 512));
	nbd_fence_gone(&fence, b);
	expire(10, 10, 0, &lifted);
	assert_true(lifted);
	assert_false(nbd_fence_active(&fence));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_overlap, begin, end),
		cmocka_unit_test_setup_teardown(test_closed, begin, end),
		cmocka_unit_test_setup_teardown(test_expiry, begin, end),
		cmocka_unit_test_setup_teardown(test_full, begin, end),
		cmocka_unit_test_setup_teardown(test_ages, begin, end),
		cmocka_unit_test_setup_teardown(test_ages_merged, begin, end),
		cmocka_unit_test_setup_teardown(test_kept, begin, end),
		cmocka_unit_test_setup_teardown(test_kept_merged, begin, end),
	};

	return cmocka_run_group_tests_name("nbd_fence", tests, NULL, NULL);
}
