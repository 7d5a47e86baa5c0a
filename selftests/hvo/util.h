/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every C program of the suite needs: hvo.ko and its switches and figures,
 * the pools, memory of huge pages with a known pattern, and the kernel's view
 * of a page. lib.sh is the same for the shell programs.
 *
 * A program's main() is HVO_MAIN; its last test calls hvo_end(), which turns
 * hvo off, unloads it, empties the pools and looks for what is missing.
 */
#ifndef HVO_TEST_UTIL_H
#define HVO_TEST_UTIL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Sizes of huge pages, in kB, as sysfs names them. */
#define KB_2M 2048UL
#define KB_32M 32768UL
#define KB_1G 1048576UL

/* Seconds for a test that converts, on a busy machine that emulates another. */
#define PATIENCE 600

/* All sizes, or all nodes. */
#define ALL_SIZES 0UL
#define ALL_NODES (-1)

/**
 * sys() - fold a system call's result and errno into one number
 * @ret: what the system call returned
 *
 * Return: @ret, or -errno when @ret is negative.
 */
static inline long sys(long ret)
{
	return ret < 0 ? -errno : ret;
}

/* Whole-file access for sysfs and procfs; 0 or -errno. */
int file_write(const char *path, const char *text);
int file_read(const char *path, char *buf, size_t size);
/* The number in a file, or -errno. */
long file_read_long(const char *path);

void sleep_ms(unsigned int ms);

/**
 * wait_until() - poll a condition
 * @cond: returns true when it holds
 * @arg: for @cond
 *
 * Return: true as soon as @cond was seen to hold, false after a minute.
 */
bool wait_until(bool (*cond)(void *arg), void *arg);

/**
 * hvo_begin() - remember what memory there is, empty the pools, load the module
 * @argv0: the program's, to find the module
 * @parameters: for the module
 *
 * Return: 0, or -errno after saying why.
 */
int hvo_begin(const char *argv0, const char *parameters);

/* As hvo_begin(), and the pools stay as they are. */
int hvo_begin_with_pools(const char *argv0, const char *parameters);

/**
 * hvo_end() - undo all of it
 *
 * Return: how many things are wrong; each is printed.
 */
int hvo_end(void);

/* insmod and rmmod; 0 or -errno. */
int hvo_load(const char *parameters);
int hvo_unload(void);

/* vm.hvo.NAME; 0 or -errno, the value or -errno. */
int hvo_set(const char *name, long value);
long hvo_get(const char *name);

/**
 * hvo_figure() - a number in /sys/kernel/mm/hvo
 * @kb: the size, or ALL_SIZES for a file at the top
 * @node: the node, or ALL_NODES
 * @name: the file
 *
 * Return: the number, or -errno.
 */
long hvo_figure(unsigned long kb, int node, const char *name);

/* A folio of that size gives back so many kB. */
long hvo_saving(unsigned long kb);

/* A number in /sys/kernel/mm/hugepages, or -errno. */
long pool_get(unsigned long kb, const char *name);

/**
 * pool_set() - make the pool of persistent pages exactly that large
 * @kb: the size
 * @node: the node, or ALL_NODES
 * @count: how many
 *
 * Memory may be fragmented: it is asked for several times.
 *
 * Return: 0, -ENOMEM if the pool has another size, or another -errno.
 */
int pool_set(unsigned long kb, int node, long count);

/**
 * huge_map() - huge pages of our own
 * @kb: their size
 * @count: how many
 * @flags: of mmap(), with MAP_PRIVATE or MAP_SHARED
 *
 * Return: their address, or NULL with errno set.
 */
void *huge_map(unsigned long kb, unsigned long count, int flags);

/**
 * pattern_fill() - write a pattern that tells each word's place
 * @p: where
 * @size: bytes, a multiple of PATTERN_STEP
 * @seed: makes one pattern differ from another
 */
void pattern_fill(void *p, size_t size, uint64_t seed);

/**
 * pattern_check() - is the pattern still there?
 *
 * Return: the offset of the first word that differs, or -1.
 */
long pattern_check(const void *p, size_t size, uint64_t seed);

/* The pattern has one word in so many bytes: an emulated machine is slow. */
#define PATTERN_STEP 512

/* The page frame number behind an address, or 0. */
uint64_t pfn_of(const void *p);

/**
 * kpage_read() - read /proc/kpageflags or /proc/kpagecount
 * @file: which
 * @pfn: the first page
 * @count: how many pages
 * @ret_words: one word for each
 *
 * Return: 0 or -errno.
 */
int kpage_read(const char *file, uint64_t pfn, size_t count, uint64_t *ret_words);

/* A field of /proc/meminfo in kB, a line of /proc/vmstat, or -1. */
long meminfo(const char *field);
long vmstat(const char *field);

/* The highest node that has memory. */
int last_node(void);

/* Runs the tests; the file has included kselftest_harness.h. */
#define HVO_MAIN						\
	int main(int argc, char **argv)				\
	{							\
		if (hvo_begin(argv[0], ""))			\
			return KSFT_FAIL;			\
		return test_harness_run(argc, argv);		\
	}

#endif
