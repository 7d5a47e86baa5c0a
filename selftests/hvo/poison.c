// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory errors in optimized folios: soft offline and hwpoison, of the head, of
 * struct pages that the folio keeps and of such that it shares; in use,
 * private or as a file, and free.
 *
 * Each case runs with hvo off and with hvo on, and must do the same: to the
 * caller, to the pool, and to the page that is marked as broken in the end,
 * which is the one that was hit, and no other of the folio.
 *
 * MADV_HWPOISON is an "action required" event: it sends SIGBUS to the caller.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "util.h"

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

#define HUGE (KB_2M << 10)
#define PAGE 4096UL
#define SUBPAGES (HUGE / PAGE)
#define KPF_COMPOUND_TAIL (UINT64_C(1) << 16)
#define KPF_HWPOISON (UINT64_C(1) << 19)

/* Pages of the pool; those in use; the one of them that is hit. */
#define POOL 8
#define USED 4
#define VICTIM 1

#define INJECT "/sys/kernel/debug/hwpoison/"
#define SOFT_OFFLINE "/sys/devices/system/memory/soft_offline_page"

enum how { SOFT, HARD };
enum state { PRIVATE, A_FILE, FREE };

/* What a case did. All of it is compared. */
struct outcome {
	long result;		/* of madvise() or the write; SIGBUS if it came */
	long pool;		/* pages, while the users are still there */
	long pool_free;
	long corrupted_kb;
	long readable;		/* one bit for each page in use */
	long poisoned;		/* subpages that kpageflags shows so in the end */
	long poisoned_first;	/* index of the first */
};

FIXTURE(poison)
{
	char *p;
	uint64_t pfn;
};

FIXTURE_VARIANT(poison)
{
	enum how how;
	enum state state;
	unsigned long subpage;
};

/* 3 has the folio's list of errors; 64 and more are described by a shared page. */
FIXTURE_VARIANT_ADD(poison, soft_private_head) { SOFT, PRIVATE, 0 };
FIXTURE_VARIANT_ADD(poison, soft_private_3) { SOFT, PRIVATE, 3 };
FIXTURE_VARIANT_ADD(poison, soft_private_100) { SOFT, PRIVATE, 100 };
FIXTURE_VARIANT_ADD(poison, soft_private_511) { SOFT, PRIVATE, 511 };
FIXTURE_VARIANT_ADD(poison, soft_file_head) { SOFT, A_FILE, 0 };
FIXTURE_VARIANT_ADD(poison, soft_file_3) { SOFT, A_FILE, 3 };
FIXTURE_VARIANT_ADD(poison, soft_file_100) { SOFT, A_FILE, 100 };
FIXTURE_VARIANT_ADD(poison, soft_file_511) { SOFT, A_FILE, 511 };
FIXTURE_VARIANT_ADD(poison, soft_free_head) { SOFT, FREE, 0 };
FIXTURE_VARIANT_ADD(poison, soft_free_3) { SOFT, FREE, 3 };
FIXTURE_VARIANT_ADD(poison, soft_free_100) { SOFT, FREE, 100 };
FIXTURE_VARIANT_ADD(poison, soft_free_511) { SOFT, FREE, 511 };
FIXTURE_VARIANT_ADD(poison, hard_private_head) { HARD, PRIVATE, 0 };
FIXTURE_VARIANT_ADD(poison, hard_private_3) { HARD, PRIVATE, 3 };
FIXTURE_VARIANT_ADD(poison, hard_private_100) { HARD, PRIVATE, 100 };
FIXTURE_VARIANT_ADD(poison, hard_private_511) { HARD, PRIVATE, 511 };
FIXTURE_VARIANT_ADD(poison, hard_file_head) { HARD, A_FILE, 0 };
FIXTURE_VARIANT_ADD(poison, hard_file_3) { HARD, A_FILE, 3 };
FIXTURE_VARIANT_ADD(poison, hard_file_100) { HARD, A_FILE, 100 };
FIXTURE_VARIANT_ADD(poison, hard_file_511) { HARD, A_FILE, 511 };
FIXTURE_VARIANT_ADD(poison, hard_free_head) { HARD, FREE, 0 };
FIXTURE_VARIANT_ADD(poison, hard_free_3) { HARD, FREE, 3 };
FIXTURE_VARIANT_ADD(poison, hard_free_100) { HARD, FREE, 100 };
FIXTURE_VARIANT_ADD(poison, hard_free_511) { HARD, FREE, 511 };

FIXTURE_SETUP(poison) {}
FIXTURE_TEARDOWN(poison)
{
	hvo_set("enabled", 0);
	pool_set(KB_2M, ALL_NODES, 0);
}

static sigjmp_buf on_sigbus;

static void sigbus(int sig)
{
	siglongjmp(on_sigbus, sig);
}

static long inject_madvise(char *p, enum how how)
{
	if (sigsetjmp(on_sigbus, 1))
		return SIGBUS;
	return sys(madvise(p, PAGE, how == SOFT ? MADV_SOFT_OFFLINE : MADV_HWPOISON));
}

/* By page frame number: nobody has the page mapped. */
static long inject_free(uint64_t pfn, enum how how)
{
	char text[32];

	snprintf(text, sizeof(text), "%#llx", (unsigned long long)(how == SOFT ? pfn * PAGE : pfn));
	return file_write(how == SOFT ? SOFT_OFFLINE : INJECT "corrupt-pfn", text);
}

static bool readable(const char *p, uint64_t seed)
{
	if (sigsetjmp(on_sigbus, 1))
		return false;
	return pattern_check(p, HUGE, seed) < 0;
}

static void unpoison(uint64_t pfn)
{
	char text[32];

	snprintf(text, sizeof(text), "%#llx", (unsigned long long)pfn);
	file_write(INJECT "unpoison-pfn", text);
}

/*
 * Looks at what is or was the folio, and makes its pages good again. A HugeTLB
 * folio is healed through its head, which shows the flag for all of them.
 */
static void heal(uint64_t pfn, struct outcome *o)
{
	uint64_t flags[SUBPAGES];
	long i;

	o->poisoned = 0;
	o->poisoned_first = -1;
	if (kpage_read("/proc/kpageflags", pfn, SUBPAGES, flags))
		return;
	for (i = (long)SUBPAGES - 1; i >= 0; i--) {
		if (!(flags[i] & KPF_HWPOISON))
			continue;
		o->poisoned++;
		o->poisoned_first = i;
		if (!(flags[i] & KPF_COMPOUND_TAIL))
			unpoison(pfn + (uint64_t)i);
	}
}

static char *take_pages(enum state state)
{
	char *p = huge_map(KB_2M, USED, state == A_FILE ? MAP_SHARED : MAP_PRIVATE);
	unsigned long i;

	for (i = 0; p && i < USED; i++)
		pattern_fill(p + i * HUGE, HUGE, i + 1);
	return p;
}

/*
 * The page cache keeps a folio that broke, and so does memory_failure() with a
 * reference, until it is healed: it never leaves the pool.
 */
static bool folio_stays(enum how how, enum state state)
{
	return how == HARD && state == A_FILE;
}

/* One case, from a full pool to an empty one. Return: 0 or -errno. */
static int run(enum how how, enum state state, unsigned long subpage, bool hvo, struct outcome *o)
{
	unsigned long i;
	uint64_t pfn;
	char *p;
	int err;

	*o = (struct outcome){ 0 };
	err = pool_set(KB_2M, ALL_NODES, POOL);
	if (!err)
		err = hvo_set("enabled", hvo);
	if (err)
		return err;
	p = take_pages(state);
	if (!p)
		return -errno;
	pfn = pfn_of(p + VICTIM * HUGE);
	if (!pfn)
		return -ENOENT;
	if (hvo && hvo_figure(KB_2M, ALL_NODES, "optimized") != POOL)
		return -EAGAIN;

	if (state == FREE) {
		munmap(p, USED * HUGE);
		o->result = inject_free(pfn + subpage, how);
	} else {
		o->result = inject_madvise(p + VICTIM * HUGE + subpage * PAGE, how);
		for (i = 0; i < USED; i++)
			o->readable |= (long)readable(p + i * HUGE, i + 1) << i;
	}
	o->pool = pool_get(KB_2M, "nr_hugepages");
	o->pool_free = pool_get(KB_2M, "free_hugepages");
	o->corrupted_kb = meminfo("HardwareCorrupted");

	/* Whatever is broken, hvo can be turned off, and on for the rest. */
	if (hvo)
		err = hvo_set("enabled", 0);
	if (!err && hvo_figure(ALL_SIZES, ALL_NODES, "saved_kB"))
		err = -EBUSY;
	if (!err && hvo)
		err = hvo_set("enabled", 1);
	if (state != FREE)
		munmap(p, USED * HUGE);
	if (folio_stays(how, state))
		heal(pfn, o);
	if (!err)
		err = pool_set(KB_2M, ALL_NODES, 0);
	if (!folio_stays(how, state))
		heal(pfn, o);
	return err;
}

static size_t differences(const struct outcome *off, const struct outcome *on)
{
	const struct {
		const char *name;
		long off, on;
	} fields[] = {
		{ "result", off->result, on->result },
		{ "pages in the pool", off->pool, on->pool },
		{ "free pages", off->pool_free, on->pool_free },
		{ "HardwareCorrupted", off->corrupted_kb, on->corrupted_kb },
		{ "readable pages", off->readable, on->readable },
		{ "poisoned subpages", off->poisoned, on->poisoned },
		{ "first of them", off->poisoned_first, on->poisoned_first },
	};
	size_t i, differ = 0;

	for (i = 0; i < ARRAY_LEN(fields); i++) {
		if (fields[i].off == fields[i].on)
			continue;
		printf("# %s: off %ld, on %ld\n", fields[i].name, fields[i].off, fields[i].on);
		differ++;
	}
	return differ;
}

TEST_F_TIMEOUT(poison, as_without_hvo, PATIENCE)
{
	struct sigaction action = { .sa_handler = sigbus };
	const long all = (1L << USED) - 1;
	struct outcome off, on;

	if (access(INJECT "unpoison-pfn", F_OK) && system("modprobe -q hwpoison-inject"))
		SKIP(return, "no hwpoison-inject: what is poisoned could not be healed");
	sigaction(SIGBUS, &action, NULL);

	EXPECT_EQ(0, run(variant->how, variant->state, variant->subpage, false, &off));
	EXPECT_EQ(0, meminfo("HardwareCorrupted"));
	EXPECT_EQ(0, run(variant->how, variant->state, variant->subpage, true, &on));
	EXPECT_EQ(0, meminfo("HardwareCorrupted"));

	/* The case is one: something was hit, and only that. */
	EXPECT_EQ(PAGE >> 10, off.corrupted_kb);
	if (folio_stays(variant->how, variant->state)) {
		EXPECT_EQ((long)SUBPAGES, off.poisoned);
	} else {
		EXPECT_EQ(1, off.poisoned);
		EXPECT_EQ((long)variant->subpage, off.poisoned_first);
	}
	if (variant->state != FREE)
		EXPECT_EQ(variant->how == SOFT ? all : all & ~(1L << VICTIM), off.readable);
	EXPECT_EQ(0, differences(&off, &on));
}

FIXTURE(the_end) {};
FIXTURE_SETUP(the_end) {}
FIXTURE_TEARDOWN(the_end) {}

TEST_F_TIMEOUT(the_end, nothing_is_left, PATIENCE)
{
	EXPECT_EQ(0, hvo_end());
}

HVO_MAIN
