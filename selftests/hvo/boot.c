// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the kernel put into the pools at boot, on vmemmap that nobody has split
 * yet: the first program of the suite. The machine is booted with pages of
 * 2 MiB and 1 GiB (vm-args).
 */
#include <sys/mman.h>

#include "kselftest_harness.h"
#include "util.h"

#define TRACING "/sys/kernel/tracing/"

FIXTURE(boot) {};
FIXTURE_SETUP(boot) {}
FIXTURE_TEARDOWN(boot) {}

static bool all_optimized(unsigned long kb)
{
	return hvo_figure(kb, ALL_NODES, "optimized") == pool_get(kb, "nr_hugepages");
}

TEST_F_TIMEOUT(boot, the_parameter_converts_what_is_there, PATIENCE)
{
	if (pool_get(KB_2M, "nr_hugepages") == 0)
		SKIP(return, "the machine was booted without hugepagesz=2M hugepages=N");
	EXPECT_EQ(1, hvo_get("enabled"));
	EXPECT_TRUE(all_optimized(KB_2M));
	EXPECT_EQ(hvo_saving(KB_2M) * pool_get(KB_2M, "nr_hugepages"),
		  hvo_figure(KB_2M, ALL_NODES, "saved_kB"));
}

TEST_F_TIMEOUT(boot, gigantic_pages_of_boot_memory, PATIENCE)
{
	uint64_t *p;

	if (pool_get(KB_1G, "nr_hugepages") <= 0)
		SKIP(return, "the machine was booted without hugepagesz=1G hugepages=N");
	EXPECT_TRUE(all_optimized(KB_1G));
	p = huge_map(KB_1G, 1, MAP_PRIVATE | MAP_NORESERVE);
	ASSERT_NE(NULL, p);
	p[0] = 1;
	p[(KB_1G << 10) / sizeof(*p) - 1] = 2;
	EXPECT_EQ(0, hvo_set("enabled", 0));
	EXPECT_EQ(0, hvo_figure(KB_1G, ALL_NODES, "saved_kB"));
	EXPECT_EQ(0, hvo_set("enabled", 1));
	EXPECT_TRUE(all_optimized(KB_1G));
	EXPECT_EQ(1, p[0]);
	EXPECT_EQ(2, p[(KB_1G << 10) / sizeof(*p) - 1]);
	munmap(p, KB_1G << 10);
}

/* The memory comes back, whoever allocated the vmemmap first. */
TEST_F_TIMEOUT(boot, the_pages_can_be_freed, PATIENCE)
{
	if (pool_get(KB_1G, "nr_hugepages") > 0)
		EXPECT_EQ(0, pool_set(KB_1G, ALL_NODES, 0));
	EXPECT_EQ(0, pool_set(KB_2M, ALL_NODES, 0));
	EXPECT_EQ(0, hvo_figure(ALL_SIZES, ALL_NODES, "saved_kB"));
}

/*
 * A kernel maps the vmemmap of boot memory by blocks where it can; nothing of
 * these pages' was converted before. One event a stop.
 */
TEST_F_TIMEOUT(boot, block_mappings_are_split, PATIENCE)
{
	const long pages = 256;
	char trace[4096];
	long before = hvo_figure(KB_2M, ALL_NODES, "pmd_splits");

	ASSERT_EQ(0, file_write(TRACING "events/hvo/hvo_split/enable", "1"));
	EXPECT_EQ(0, pool_set(KB_2M, ALL_NODES, pages));
	EXPECT_EQ(0, file_write(TRACING "events/hvo/hvo_split/enable", "0"));
	EXPECT_EQ(pages, hvo_figure(KB_2M, ALL_NODES, "optimized"));
	EXPECT_GT(hvo_figure(KB_2M, ALL_NODES, "pmd_splits"), before);
#if defined(__aarch64__)
	/* The only architecture that has to stop for that. */
	EXPECT_GT(hvo_figure(ALL_SIZES, ALL_NODES, "stop_machine_max_us"), 0);
#endif
	ASSERT_EQ(0, file_read(TRACING "trace", trace, sizeof(trace)));
	EXPECT_NE(NULL, strstr(trace, "hvo_split: address="));
}

TEST_F_TIMEOUT(boot, nothing_is_left, PATIENCE)
{
	EXPECT_EQ(0, hvo_end());
}

int main(int argc, char **argv)
{
	if (hvo_begin_with_pools(argv[0], "enabled=1"))
		return KSFT_FAIL;
	return test_harness_run(argc, argv);
}
