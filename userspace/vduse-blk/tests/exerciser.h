/* SPDX-License-Identifier: MIT */
/*
 * Drives a backend through backend.h alone and verifies what it reads.
 */
#ifndef TESTS_EXERCISER_H
#define TESTS_EXERCISER_H

#include <semaphore.h>

#include "backend/backend.h"

/* 0 stands for: one queue, 16 in flight, 1500 requests, of at most 16 blocks. */
struct exercise {
	const char *uri;
	struct backend_options options;
	unsigned int depth;	 /* requests in flight, a queue; at most EXERCISE_MAX_DEPTH */
	unsigned int ops;	 /* requests, a queue */
	unsigned int max_blocks; /* largest request, in logical blocks */
	unsigned int seed;	 /* of the random numbers */
	enum loop_rung rung;
	bool reads_only;
	bool blank;	  /* the device is known to be all zeroes at the start */
	bool idle_check;  /* afterwards each loop must sleep without waking up */
	bool single_size; /* every request has max_blocks */
	sem_t *started;	  /* posted by each queue when it begins; NULL: nobody waits */
};

#define EXERCISE_MAX_DEPTH 256

/* Sums over all queues. */
struct exercise_result {
	struct backend_info info;
	unsigned int wanted; /* requests that should have been made */
	unsigned int requests;
	unsigned int errors;	 /* requests that failed */
	unsigned int mismatches; /* blocks that read wrong */
	unsigned int wakeups;	 /* more than there may be while idle */
	unsigned int by_op[_BACKEND_OP_MAX];
	int first_error;
	uint64_t enters; /* io_uring_enter system calls */
	/* Over all connections: times that they were lost, what followed from it, flushes sent */
	unsigned int lost, resubmitted, replayed, held, flushes;
};

/**
 * exercise_run() - open, run, verify, close
 * @x: what to do
 * @ret_result: written on success
 * @e: why opening failed
 *
 * Return: 0 or -errno.
 */
int exercise_run(const struct exercise *x, struct exercise_result *ret_result, struct error *e);

#endif
