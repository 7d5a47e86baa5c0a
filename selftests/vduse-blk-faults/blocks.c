// SPDX-License-Identifier: GPL-2.0-only
/*
 * Versions of blocks: see blocks.h. No I/O and no state of its own.
 */
#include "blocks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "prng.h"

#define SECTOR_MAGIC UINT64_C(0x726f746365736c66)

/* Each sector says what it is; the rest of it proves that it is whole. */
struct sector_header {
	uint64_t magic;
	uint64_t seed;
	uint64_t block;
	uint32_t version;
	uint32_t sector;
};

static void sector_fill(uint64_t seed, uint64_t block, uint32_t version, uint32_t sector,
			unsigned char *out)
{
	struct sector_header h = { SECTOR_MAGIC, seed, block, version, sector };
	struct prng r = prng_named(seed, block, (uint64_t)version << 32 | sector);

	memcpy(out, &h, sizeof(h));
	prng_fill(&r, out + sizeof(h), SECTOR_BYTES - sizeof(h));
}

void block_fill(uint64_t seed, uint64_t block, uint32_t version, void *buf)
{
	uint32_t i;

	for (i = 0; i < SECTORS_PER_BLOCK; i++)
		sector_fill(seed, block, version, i, (unsigned char *)buf + i * SECTOR_BYTES);
}

static bool is_zero(const unsigned char *p)
{
	return !p[0] && !memcmp(p, p + 1, SECTOR_BYTES - 1);
}

static void describe(const unsigned char *p, char *why, size_t size)
{
	unsigned char whole[SECTOR_BYTES];
	struct sector_header h;

	memcpy(&h, p, sizeof(h));
	sector_fill(h.seed, h.block, h.version, h.sector, whole);
	if (is_zero(p))
		snprintf(why, size, "zeroes");
	else if (h.magic != SECTOR_MAGIC)
		snprintf(why, size, "something that was never written");
	else
		snprintf(why, size,
			 "%sversion %" PRIu32 " of sector %" PRIu32 " of block %" PRIu64
			 " of seed %" PRIu64,
			 memcmp(whole, p, SECTOR_BYTES) ? "a part of " : "", h.version, h.sector,
			 h.block, h.seed);
}

static bool sector_allowed(const struct block_state *s, uint32_t first, uint64_t seed,
			   uint64_t block, uint32_t sector, const unsigned char *p)
{
	unsigned char want[SECTOR_BYTES];
	struct sector_header h;

	if (is_zero(p))
		return s->zeroed >= first;
	memcpy(&h, p, sizeof(h));
	if (h.magic != SECTOR_MAGIC || h.version < first || h.version > s->newest)
		return false;
	sector_fill(seed, block, h.version, sector, want);
	return !memcmp(want, p, SECTOR_BYTES);
}

bool block_check(const struct block_state *state, enum block_level level, uint64_t seed,
		 uint64_t block, const void *buf, char *why, size_t size)
{
	uint32_t first = level == BLOCK_ACKED ? state->acked : state->durable;
	const unsigned char *p = buf;
	char found[128];
	uint32_t i;

	for (i = 0; i < SECTORS_PER_BLOCK; i++, p += SECTOR_BYTES) {
		if (sector_allowed(state, first, seed, block, i, p))
			continue;
		describe(p, found, sizeof(found));
		snprintf(why, size,
			 "block %" PRIu64 ", sector %" PRIu32 ": versions %" PRIu32 " to %" PRIu32
			 " are possible (durable %" PRIu32 ", acknowledged %" PRIu32
			 "), there is %s",
			 block, i, first, state->newest, state->durable, state->acked, found);
		return false;
	}
	return true;
}
