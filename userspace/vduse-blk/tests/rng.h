/* SPDX-License-Identifier: MIT */
/*
 * Random numbers for tests: small, fast, and the same again from the same seed.
 */
#ifndef TESTS_RNG_H
#define TESTS_RNG_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct rng {
	uint64_t state; /* the seed, at first */
};

static inline uint32_t rnd(struct rng *r)
{
	r->state = r->state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(r->state >> 33);
}

/* @low to @high, both included. */
static inline unsigned int rnd_in(struct rng *r, unsigned int low, unsigned int high)
{
	return low + rnd(r) % (high - low + 1);
}

/* Another one each time unless TEST_SEED repeats a run; printed for that. */
static inline uint64_t rng_seed(void)
{
	const char *s = getenv("TEST_SEED");
	uint64_t seed = s ? strtoull(s, NULL, 0) :
			(uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();

	printf("seed: TEST_SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

#endif
