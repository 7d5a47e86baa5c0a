// SPDX-License-Identifier: MIT
/*
 * The latency histogram: where samples go, what percentiles say, and that
 * another thread may read while samples come.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>

#include "base/histogram.h"

#define US 1000ull
#define MS (1000 * US)
#define S  (1000 * MS)

static void test_buckets(void **state)
{
	uint64_t ns;

	(void)state;
	/* Contiguous and in order, and none is wider than 1/16 of what it holds. */
	for (ns = 1; ns < 4096; ns++) {
		unsigned int here = histogram_bucket(ns), before = histogram_bucket(ns - 1);

		assert_true(here == before || here == before + 1);
	}
	for (unsigned int bits = 5; bits <= HISTOGRAM_MAX_BITS; bits++) {
		const uint64_t top = 1ull << bits;

		assert_int_equal(histogram_bucket(top), histogram_bucket(top - 1) + 1);
		assert_int_equal(histogram_bucket(top), histogram_bucket(top + top / 16 - 1));
		assert_int_equal(histogram_bucket(top) + 1, histogram_bucket(top + top / 16));
	}
	assert_int_equal(histogram_bucket(0), 0);
	assert_int_equal(histogram_bucket(HISTOGRAM_MAX_NS), HISTOGRAM_BUCKETS - 1);
}

struct run {
	uint64_t ns;
	unsigned int times;
};

static void test_percentiles(void **state)
{
	/* What is exact is so because a bucket's end is cut at the maximum. */
	static const struct {
		struct run runs[4];
		struct histogram_summary want; /* percentiles: the true values */
	} table[] = {
		{ { { 0, 0 } }, { 0 } },
		{ { { 0, 1 } }, { .count = 1 } },
		{ { { 31, 7 } }, { 7, 31, 31, 31, 31, 31, 31 } },
		{ { { 80 * US, 1 } }, { 1, 80 * US, 80 * US, 80 * US, 80 * US, 80 * US, 80 * US } },
		{ { { 100, 500 }, { 1 * MS, 500 } },
		  { 1000, 500050, 100, 1 * MS, 1 * MS, 1 * MS, 1 * MS } },
		{ { { 10 * US, 900 }, { 1 * MS, 90 }, { 1 * S, 9 }, { 60 * S, 1 } },
		  { 1000, 69099000, 10 * US, 10 * US, 1 * MS, 1 * S, 60 * S } },
		/* One of a thousand more: the 999th is the slow one now. */
		{ { { 10 * US, 998 }, { 2 * S, 2 } },
		  { 1000, 4009980, 10 * US, 10 * US, 10 * US, 2 * S, 2 * S } },
		{ { { UINT64_MAX, 3 } },
		  { 3, HISTOGRAM_MAX_NS, HISTOGRAM_MAX_NS, HISTOGRAM_MAX_NS, HISTOGRAM_MAX_NS,
		    HISTOGRAM_MAX_NS, HISTOGRAM_MAX_NS } },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
		const struct histogram_summary *want = &table[i].want;
		struct histogram h = { 0 };
		struct histogram_summary got;

		for (unsigned int r = 0; r < ARRAY_SIZE(table[i].runs); r++)
			for (unsigned int n = 0; n < table[i].runs[r].times; n++)
				histogram_record(&h, table[i].runs[r].ns);
		histogram_summarize(&h, &got);
		assert_int_equal(got.count, want->count);
		assert_int_equal(got.mean_ns, want->mean_ns);
		assert_int_equal(got.max_ns, want->max_ns);
		assert_in_range(got.p50_ns, want->p50_ns, want->p50_ns + want->p50_ns / 16);
		assert_in_range(got.p90_ns, want->p90_ns, want->p90_ns + want->p90_ns / 16);
		assert_in_range(got.p99_ns, want->p99_ns, want->p99_ns + want->p99_ns / 16);
		assert_in_range(got.p999_ns, want->p999_ns, want->p999_ns + want->p999_ns / 16);
	}
}

static void test_add(void **state)
{
	static struct histogram a, b, sum;
	struct histogram_summary got;

	(void)state;
	for (unsigned int i = 0; i < 100; i++) {
		histogram_record(&a, 1 * US);
		histogram_record(&b, 1 * MS);
	}
	histogram_add(&sum, &a);
	histogram_add(&sum, &b);
	histogram_summarize(&sum, &got);
	assert_int_equal(got.count, 200);
	assert_int_equal(got.mean_ns, (1 * US + 1 * MS) / 2);
	assert_in_range(got.p50_ns, 1 * US, 1 * US + 1 * US / 16);
	assert_int_equal(got.p90_ns, 1 * MS);
	assert_int_equal(got.max_ns, 1 * MS);
}

#define SAMPLES 200000u

static void *record(void *opaque)
{
	for (unsigned int i = 0; i < SAMPLES; i++)
		histogram_record(opaque, i % 1000 * US);
	return NULL;
}

static void test_two_threads(void **state)
{
	static struct histogram h;
	struct histogram_summary got = { 0 };
	uint64_t before = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, record, &h), 0);
	while (before < SAMPLES / 2) {
		struct histogram copy = { 0 };

		histogram_add(&copy, &h);
		histogram_summarize(&copy, &got);
		assert_in_range(got.count, before, SAMPLES);
		assert_true(got.p50_ns <= got.p90_ns && got.p90_ns <= got.p99_ns &&
			    got.p99_ns <= got.p999_ns && got.p999_ns <= got.max_ns);
		before = got.count;
	}
	pthread_join(thread, NULL);
	histogram_summarize(&h, &got);
	assert_int_equal(got.count, SAMPLES);
	assert_int_equal(got.max_ns, 999 * US);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buckets),
		cmocka_unit_test(test_percentiles),
		cmocka_unit_test(test_add),
		cmocka_unit_test(test_two_threads),
	};

	return cmocka_run_group_tests_name("histogram", tests, NULL, NULL);
}
