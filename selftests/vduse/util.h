/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Small things that every program of the suite needs: results of system calls
 * as one number, monotonic time, files, waiting for a condition, and a system
 * call that runs in a thread of its own so that the test can be its peer.
 */
#ifndef VDUSE_TEST_UTIL_H
#define VDUSE_TEST_UTIL_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define BIT64(n) (UINT64_C(1) << (n))

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

/* Milliseconds of CLOCK_MONOTONIC. */
uint64_t now_ms(void);
void sleep_ms(unsigned int ms);

/**
 * wait_until() - poll a condition
 * @cond: returns true when it holds
 * @arg: for @cond
 * @ms: how long to try, milliseconds
 *
 * Return: true as soon as @cond was seen to hold, false after @ms.
 */
bool wait_until(bool (*cond)(void *arg), void *arg, unsigned int ms);

/* Whole-file access for sysfs and procfs; 0 or -errno. */
int file_write(const char *path, const char *text);
int file_read(const char *path, char *buf, size_t size);
long file_read_long(const char *path);

/* Number of descriptors this process has open. */
int fd_count(void);

/**
 * struct async - a call that blocks, run by a thread
 * @fn: the call; returns 0 or more, or -errno
 * @arg: its argument
 * @ret: what it returned; valid after async_join()
 * @ms: how long it took, milliseconds; valid after async_join()
 *
 * Owned by the test from async_start() until async_join().
 */
struct async {
	long (*fn)(void *arg);
	void *arg;
	long ret;
	uint64_t ms;
	pthread_t thread;
	bool started;
	bool done;
};

int async_start(struct async *a, long (*fn)(void *arg), void *arg);
bool async_is_done(struct async *a);
long async_join(struct async *a);

/* Loads what the suite tests; see load.sh. Return: 0, or -1 after saying why. */
int require_vduse(void);

#endif
