/* SPDX-License-Identifier: MIT */
/*
 * fake_backend.h: storage in memory whose requests wait until a test completes
 * them, in any order and with any result. It checks what backends trust their
 * caller for (backend.h).
 */
#ifndef TESTS_FAKE_BACKEND_H
#define TESTS_FAKE_BACKEND_H

#include "backend/backend.h"

#define FAKE_PENDING_MAX	1024u
#define FAKE_PRIOR_MAX		8u

struct fake_backend {
	struct backend common;
	struct backend_queue queue;
	uint8_t *disk;
	struct backend_request *pending[FAKE_PENDING_MAX];
	unsigned int num_pending;
	unsigned int submitted; /* since creation */
	uint64_t prior[FAKE_PRIOR_MAX][2]; /* offset and length of each prior write */
	unsigned int num_prior;
	bool automatic; /* complete everything at the end of the batch */
	struct loop_hook hook;
};

/* A disk of @size bytes, filled with fake_pattern(); aborts the test when it cannot. */
void fake_backend_init(struct fake_backend *f, struct loop *loop, uint64_t size,
		       uint32_t block_size, uint32_t flags);
void fake_backend_exit(struct fake_backend *f);

/* Initial content of the byte at an offset. */
uint8_t fake_pattern(uint64_t offset);

/* Carry out (unless @error is set) and complete the request at a place in pending. */
void fake_backend_complete(struct fake_backend *f, unsigned int at, int error);

#endif /* TESTS_FAKE_BACKEND_H */
