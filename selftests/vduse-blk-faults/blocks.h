/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model of a disk that is written at random: which version of each block may
 * be read.
 *
 * Each write of a block has a version, one more than the last; version 0 is the
 * zeroes before any write. Contents are a function of (seed, block, version),
 * sector by sector, or zeroes. A block has one writer at a time, so what it may
 * hold is a range of versions:
 *
 *	durable <= acked <= newest
 *
 * newest was submitted last; acked was completed without an error; durable was
 * completed and then covered by a flush, or written with FUA. A write that
 * failed, or never came back, leaves its version possible until a later one is
 * acknowledged: then the older one must not come back, however late it arrives.
 */
#ifndef FAULTS_BLOCKS_H
#define FAULTS_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCK_BYTES	  4096
#define SECTOR_BYTES	  512
#define SECTORS_PER_BLOCK (BLOCK_BYTES / SECTOR_BYTES)

struct block_state {
	uint32_t durable, acked, newest;
	uint32_t zeroed; /* the newest version that is zeroes */
};

/* What a disk that lost its cache may have forgotten. */
enum block_level {
	BLOCK_ACKED,   /* nothing: each acknowledged write is there */
	BLOCK_DURABLE, /* what was not flushed */
};

/* What that version holds, if it is not zeroes: BLOCK_BYTES bytes. */
void block_fill(uint64_t seed, uint64_t block, uint32_t version, void *buf);

/**
 * block_check() - may the block hold that?
 * @state: of the block, while nothing is in flight for it
 * @level: what may be forgotten
 * @seed: of the load
 * @block: number
 * @buf: BLOCK_BYTES bytes that were read
 * @why: receives a sentence if not
 * @size: of @why
 *
 * While a version above the acknowledged one is possible, each sector may be of
 * any possible version (the write may have arrived in part).
 *
 * Return: true if it may.
 */
bool block_check(const struct block_state *state, enum block_level level, uint64_t seed,
		 uint64_t block, const void *buf, char *why, size_t size);

#endif
