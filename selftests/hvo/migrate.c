// SPDX-License-Identifier: GPL-2.0-only
/*
 * Optimized folios move: between nodes, by compaction, out of the way of a
 * gigantic page, and out of a memory block that goes offline.
 */
#define _GNU_SOURCE
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "util.h"

#define HUGE (KB_2M << 10)
#define USED 6
#define PER_NODE 8
#define ROUNDS 10

FIXTURE(migrate)
{
	char *p;
};

FIXTURE_SETUP(migrate) {}
FIXTURE_TEARDOWN(migrate)
{
	hvo_set("enabled", 0);
	if (self->p)
		munmap(self->p, USED * HUGE);
	pool_set(KB_2M, ALL_NODES, 0);
}

static long optimized(int node)
{
	return hvo_figure(KB_2M, node, "optimized");
}

/* Pages in use, all from one node. */
static char *take_from(int node)
{
	unsigned long mask = 1UL << node;
	char *p = huge_map(KB_2M, USED, MAP_PRIVATE | MAP_NORESERVE);

	if (!p)
		return NULL;
	if (syscall(SYS_mbind, p, USED * HUGE, MPOL_BIND, &mask, 8 * sizeof(mask), 0))
		return NULL;
	pattern_fill(p, USED * HUGE, 1);
	/* The policy must not forbid what follows. */
	syscall(SYS_mbind, p, USED * HUGE, MPOL_DEFAULT, NULL, 0, 0);
	return p;
}

/* Return: how many of the pages are on @node now, or -errno. */
static long move_to(char *p, int node)
{
	int status[USED], nodes[USED];
	void *pages[USED];
	long err, there = 0;
	int i;

	for (i = 0; i < USED; i++) {
		pages[i] = p + (size_t)i * HUGE;
		nodes[i] = node;
	}
	err = sys(syscall(SYS_move_pages, 0, USED, pages, nodes, status, MPOL_MF_MOVE));
	if (err)
		return err;
	for (i = 0; i < USED; i++)
		there += status[i] == node;
	return there;
}

TEST_F_TIMEOUT(migrate, between_nodes, PATIENCE)
{
	int round, node;

	if (last_node() < 1)
		SKIP(return, "one NUMA node only");
	ASSERT_EQ(0, pool_set(KB_2M, 0, PER_NODE));
	ASSERT_EQ(0, pool_set(KB_2M, 1, PER_NODE));
	self->p = take_from(0);
	ASSERT_NE(NULL, self->p);
	for (round = 0; round < ROUNDS; round++) {
		node = !(round % 2);
		ASSERT_EQ(0, hvo_set("enabled", !!(round % 3)));
		EXPECT_EQ(USED, move_to(self->p, node));
		EXPECT_EQ(-1, pattern_check(self->p, USED * HUGE, 1));
		EXPECT_EQ(round % 3 ? PER_NODE : 0, optimized(0));
		EXPECT_EQ(round % 3 ? PER_NODE : 0, optimized(1));
		EXPECT_EQ(round % 3 ? USED : 0, hvo_figure(KB_2M, node, "optimized_in_use"));
	}
}

static bool none_on_node_0(void *arg)
{
	return !optimized(0);
}

/* The other node has no page in its pool: new ones are allocated, the old freed. */
TEST_F_TIMEOUT(migrate, targets_are_optimized, PATIENCE)
{
	if (last_node() < 1)
		SKIP(return, "one NUMA node only");
	ASSERT_EQ(0, pool_set(KB_2M, 0, USED));
	self->p = take_from(0);
	ASSERT_NE(NULL, self->p);
	ASSERT_EQ(0, hvo_set("enabled", 1));
	ASSERT_EQ(USED, move_to(self->p, 1));
	EXPECT_EQ(-1, pattern_check(self->p, USED * HUGE, 1));
	EXPECT_EQ(USED, optimized(1));
	/* The kernel frees optimized folios in the background. */
	EXPECT_TRUE(wait_until(none_on_node_0, NULL));
	EXPECT_EQ(USED, pool_get(KB_2M, "nr_hugepages"));
}

TEST_F_TIMEOUT(migrate, migrate_pages, PATIENCE)
{
	unsigned long from = 1, to = 2;

	if (last_node() < 1)
		SKIP(return, "one NUMA node only");
	ASSERT_EQ(0, pool_set(KB_2M, 0, PER_NODE));
	ASSERT_EQ(0, pool_set(KB_2M, 1, PER_NODE));
	ASSERT_EQ(0, hvo_set("enabled", 1));
	self->p = take_from(0);
	ASSERT_NE(NULL, self->p);
	EXPECT_LE(0, syscall(SYS_migrate_pages, 0, 8 * sizeof(from), &from, &to));
	EXPECT_EQ(-1, pattern_check(self->p, USED * HUGE, 1));
	EXPECT_EQ(USED, hvo_figure(KB_2M, 1, "optimized_in_use"));
	EXPECT_EQ(2 * PER_NODE, optimized(ALL_NODES));
}

TEST_F_TIMEOUT(migrate, compaction, PATIENCE)
{
	int i;

	ASSERT_EQ(0, pool_set(KB_2M, ALL_NODES, PER_NODE));
	self->p = huge_map(KB_2M, USED, MAP_PRIVATE);
	ASSERT_NE(NULL, self->p);
	pattern_fill(self->p, USED * HUGE, 1);
	for (i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(0, hvo_set("enabled", !(i % 2)));
		EXPECT_EQ(0, file_write("/proc/sys/vm/compact_memory", "1"));
		EXPECT_EQ(-1, pattern_check(self->p, USED * HUGE, 1));
	}
}

/*
 * Both pools from the same memory: the kernel looks for a free gigabyte, and
 * whether it finds one or not, nobody else's page suffers.
 */
TEST_F_TIMEOUT(migrate, a_gigantic_page_is_allocated, PATIENCE)
{
	long half = meminfo("MemFree") / (long)KB_2M / 2, before;

	ASSERT_EQ(0, pool_set(KB_2M, ALL_NODES, half));
	self->p = huge_map(KB_2M, USED, MAP_PRIVATE);
	ASSERT_NE(NULL, self->p);
	pattern_fill(self->p, USED * HUGE, 1);
	ASSERT_EQ(0, hvo_set("enabled", 1));
	before = optimized(ALL_NODES);
	EXPECT_EQ(half, before);
	if (pool_set(KB_1G, ALL_NODES, 1))
		TH_LOG("no gigabyte was free");
	EXPECT_EQ(pool_get(KB_1G, "nr_hugepages"), hvo_figure(KB_1G, ALL_NODES, "optimized"));
	EXPECT_EQ(before, optimized(ALL_NODES));
	EXPECT_EQ(-1, pattern_check(self->p, USED * HUGE, 1));
	EXPECT_EQ(0, pool_set(KB_1G, ALL_NODES, 0));
}

static int block_file_write(long block, const char *file, const char *text)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%ld/%s", block, file);
	return file_write(path, text);
}

static bool block_is_movable(long block)
{
	char path[64], zones[64];

	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%ld/valid_zones", block);
	return !file_read(path, zones, sizeof(zones)) && !strncmp(zones, "Movable", 7);
}

/*
 * Takes a block offline that has pages of ours. Return: its number, -ENOENT if
 * none is in ZONE_MOVABLE (others can hardly ever be emptied, with hvo or
 * without), -EBUSY if all of those have something else that cannot move.
 */
static long empty_a_block(const char *p, size_t pages, long block_pages)
{
	long block, last = -1, err = -ENOENT;
	size_t i;

	for (i = 0; i < pages; i++) {
		block = (long)pfn_of(p + i * HUGE) / block_pages;
		if (block == last || !block_is_movable(block))
			continue;
		err = block_file_write(block, "state", "offline");
		if (!err)
			return block;
		last = block;
	}
	return err;
}

/* Pages in use move elsewhere, free ones are dissolved. */
TEST_F_TIMEOUT(migrate, a_memory_block_goes_offline, PATIENCE)
{
	const long pool = 256, used = 200;
	long block_pages, block;
	char text[32], *p;

	if (file_read("/sys/devices/system/memory/block_size_bytes", text, sizeof(text)))
		SKIP(return, "the kernel has no memory hotplug");
	block_pages = (long)(strtoul(text, NULL, 16) / 4096);
	ASSERT_EQ(0, pool_set(KB_2M, ALL_NODES, pool));
	p = huge_map(KB_2M, used, MAP_PRIVATE);
	ASSERT_NE(NULL, p);
	pattern_fill(p, used * HUGE, 1);
	ASSERT_EQ(0, hvo_set("enabled", 1));
	block = empty_a_block(p, used, block_pages);
	if (block == -ENOENT)
		SKIP(return, "no page is in ZONE_MOVABLE (see vm-args; arm64: see hvo-hotplug)");
	EXPECT_LE(0, block);
	EXPECT_EQ(-1, pattern_check(p, used * HUGE, 1));
	EXPECT_EQ(pool_get(KB_2M, "nr_hugepages"), optimized(ALL_NODES));
	if (block >= 0)
		EXPECT_EQ(0, block_file_write(block, "state", "online_movable"));
	EXPECT_EQ(0, hvo_set("enabled", 0));
	EXPECT_EQ(0, optimized(ALL_NODES));
	EXPECT_EQ(-1, pattern_check(p, used * HUGE, 1));
	munmap(p, used * HUGE);
}

FIXTURE(the_end) {};
FIXTURE_SETUP(the_end) {}
FIXTURE_TEARDOWN(the_end) {}

TEST_F_TIMEOUT(the_end, nothing_is_left, PATIENCE)
{
	EXPECT_EQ(0, hvo_end());
}

HVO_MAIN
