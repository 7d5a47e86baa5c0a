/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Numbers that look random and are a function of a seed: what a load writes
 * can be made again by the half that verifies, and a failure can be repeated.
 */
#ifndef FAULTS_PRNG_H
#define FAULTS_PRNG_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* One thread's sequence of numbers. */
struct prng {
	uint64_t state;
};

/* Weyl sequence with a finaliser that lets each bit of the state change each bit of the result. */
static inline uint64_t prng_next(struct prng *r)
{
	uint64_t x = r->state += UINT64_C(0x9e3779b97f4a7c15);

	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return x ^ x >> 32;
}

/* Three numbers that name something; close names give unrelated sequences. */
static inline struct prng prng_named(uint64_t a, uint64_t b, uint64_t c)
{
	struct prng r = { a };

	r.state = prng_next(&r) ^ b;
	r.state = prng_next(&r) ^ c;
	r.state = prng_next(&r);
	return r;
}

/* A number below @n, which is not 0 and small against 2^64. */
static inline uint64_t prng_below(struct prng *r, uint64_t n)
{
	return prng_next(r) % n;
}

static inline void prng_fill(struct prng *r, void *buf, size_t size)
{
	unsigned char *p = buf;
	uint64_t word;

	for (; size >= sizeof(word); p += sizeof(word), size -= sizeof(word)) {
		word = prng_next(r);
		memcpy(p, &word, sizeof(word));
	}
	word = prng_next(r);
	memcpy(p, &word, size);
}

#endif
