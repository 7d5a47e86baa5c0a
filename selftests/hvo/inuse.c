// SPDX-License-Identifier: GPL-2.0-only
/*
 * Folios are optimized and restored while they are in use.
 *
 * HVO_TOGGLES in the environment says how often, if not 100 times.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "kselftest_harness.h"
#include "util.h"
#include "workers.h"

#define FREE_PAGES 16
#define POOL (WORKERS_PAGES + FREE_PAGES)

FIXTURE(inuse) {};
FIXTURE_SETUP(inuse) {}
FIXTURE_TEARDOWN(inuse)
{
	hvo_set("enabled", 0);
	pool_set(KB_2M, ALL_NODES, 0);
}

static int toggles(void)
{
	const char *wanted = getenv("HVO_TOGGLES");

	return wanted ? atoi(wanted) : 100;
}

static void cannot_run(const char *name, const char *reason)
{
	printf("# the worker \"%s\" does not run: %s\n", name, reason);
}

static bool all_at_work(void *rounds)
{
	return workers_rounds() >= *(unsigned long *)rounds || workers_failed();
}

/* Nobody else changes anything: the figures are exact. */
TEST_F_TIMEOUT(inuse, held_pages_are_converted, PATIENCE)
{
	const size_t held = 12, size = held * KB_2M << 10;
	void *p;

	ASSERT_EQ(0, pool_set(KB_2M, ALL_NODES, POOL));
	p = huge_map(KB_2M, held, MAP_PRIVATE);
	ASSERT_NE(NULL, p);
	pattern_fill(p, size, 1);

	EXPECT_EQ(0, hvo_set("enabled", 1));
	EXPECT_EQ(POOL, hvo_figure(KB_2M, ALL_NODES, "optimized"));
	EXPECT_EQ((long)held, hvo_figure(KB_2M, ALL_NODES, "optimized_in_use"));
	EXPECT_EQ(-1, pattern_check(p, size, 1));

	pattern_fill(p, size, 2);
	EXPECT_EQ(0, hvo_set("enabled", 0));
	EXPECT_EQ(0, hvo_figure(KB_2M, ALL_NODES, "optimized"));
	EXPECT_EQ(0, hvo_figure(KB_2M, ALL_NODES, "optimized_in_use"));
	EXPECT_EQ(-1, pattern_check(p, size, 2));
	munmap(p, size);
}

static bool all_free(void *arg)
{
	return pool_get(KB_2M, "free_hugepages") == POOL;
}

/*
 * What is being freed or faulted in just then may be left, and is taken later:
 * under load "optimized" has a lower bound only. 0 restores everything.
 */
TEST_F_TIMEOUT(inuse, toggling_under_load, PATIENCE)
{
	unsigned long rounds = 1;
	int i, n = toggles();
	long optimized;

	ASSERT_EQ(0, pool_set(KB_2M, ALL_NODES, POOL));
	ASSERT_LT(0, workers_start(cannot_run));
	EXPECT_TRUE(wait_until(all_at_work, &rounds));
	for (i = 0; i < n && !workers_failed(); i++) {
		ASSERT_EQ(0, hvo_set("enabled", 1));
		optimized = hvo_figure(KB_2M, ALL_NODES, "optimized");
		EXPECT_LE(POOL - WORKERS_PAGES, optimized);
		EXPECT_GE(POOL, optimized);
		ASSERT_EQ(0, hvo_set("enabled", 0));
		EXPECT_EQ(0, hvo_figure(KB_2M, ALL_NODES, "optimized"));
		EXPECT_EQ(0, hvo_figure(ALL_SIZES, ALL_NODES, "saved_kB"));
	}
	EXPECT_EQ(n, i);
	rounds = workers_rounds() + 1;
	EXPECT_TRUE(wait_until(all_at_work, &rounds));

	/* Now with hvo on all the time. */
	EXPECT_EQ(0, hvo_set("enabled", 1));
	rounds = workers_rounds() + 2;
	EXPECT_TRUE(wait_until(all_at_work, &rounds));
	EXPECT_EQ(0, workers_stop());
	EXPECT_EQ(0, hvo_set("enabled", 1));
	EXPECT_EQ(POOL, hvo_figure(KB_2M, ALL_NODES, "optimized"));
	/* An io_uring lets go of its buffers after its process has ended. */
	EXPECT_TRUE(wait_until(all_free, NULL));
}

TEST_F_TIMEOUT(inuse, nothing_is_left, PATIENCE)
{
	EXPECT_EQ(0, hvo_end());
}

HVO_MAIN
