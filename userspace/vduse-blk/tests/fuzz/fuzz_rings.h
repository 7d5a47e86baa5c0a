/* SPDX-License-Identifier: MIT */
/*
 * fuzz_rings.h: how an input becomes a ring, for fuzz_virtqueue and
 * fuzz_virtio_blk.
 *
 *	byte 0		bit 0 packed, 1 event index, 2 indirect, others free
 *	byte 1		ring size: 2^(0..4) for split, 1..16 for packed
 *	byte 2		seed for the order of completions
 *	byte 3		number of pokes, 0..15
 *	pokes		4 bytes each: offset and value of a 16-bit word that the
 *			"driver" writes between two steps
 *	the rest	content of the arena, which starts at address 0:
 *			0x000 descriptors, 0x100 driver area, 0x180 device area,
 *			then whatever the descriptors point to
 *
 * The second half of the address space's first FUZZ_ARENA bytes is read-only for
 * the device; nothing else is mapped. The arena is allocated to the byte, so that
 * AddressSanitizer sees one byte too many.
 */
#ifndef TESTS_FUZZ_RINGS_H
#define TESTS_FUZZ_RINGS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/iotlb.h"
#include "virtio/virtqueue.h"

#define FUZZ_ARENA	16384u
#define FUZZ_WRITABLE	(FUZZ_ARENA / 2)
#define FUZZ_DRIVER	0x100u
#define FUZZ_DEVICE	0x180u
#define FUZZ_NUM	16u
#define FUZZ_POKES	16u

struct fuzz_rings {
	uint8_t *arena;
	struct iotlb *tlb;
	struct virtqueue_params params;
	uint8_t flags;
	uint32_t seed;
	uint16_t pokes[FUZZ_POKES][2];
	unsigned int num_pokes, next_poke;
};

static const struct iotlb_ops fuzz_iotlb_ops;

static inline void fuzz_require(int ok)
{
	if (!ok)
		abort();
}

static inline uint32_t fuzz_random(struct fuzz_rings *f)
{
	f->seed = f->seed * 1664525u + 1013904223u;
	return f->seed >> 16;
}

static inline int fuzz_rings_begin(struct fuzz_rings *f, const uint8_t *data, size_t size)
{
	struct iotlb_region region;
	unsigned int num;

	memset(f, 0, sizeof(*f));
	if (size < 4)
		return 0;
	f->flags = data[0];
	num = data[0] & 1 ? data[1] % FUZZ_NUM + 1 : 1u << data[1] % 5;
	f->seed = data[2];
	f->num_pokes = data[3] % FUZZ_POKES;
	data += 4;
	size -= 4;
	if (size < f->num_pokes * 4)
		return 0;
	memcpy(f->pokes, data, f->num_pokes * 4);
	data += f->num_pokes * 4;
	size -= f->num_pokes * 4;

	f->arena = aligned_alloc(16, FUZZ_ARENA);
	fuzz_require(f->arena && !iotlb_create(&fuzz_iotlb_ops, NULL, &f->tlb));
	memset(f->arena, 0, FUZZ_ARENA);
	memcpy(f->arena, data, size < FUZZ_ARENA ? size : FUZZ_ARENA);
	region = (struct iotlb_region){ 0, FUZZ_WRITABLE, IOTLB_RW, f->arena, NULL };
	fuzz_require(!iotlb_add(f->tlb, &region));
	region = (struct iotlb_region){ FUZZ_WRITABLE, FUZZ_ARENA - FUZZ_WRITABLE, IOTLB_READ,
					f->arena + FUZZ_WRITABLE, NULL };
	fuzz_require(!iotlb_add(f->tlb, &region));
	f->params = (struct virtqueue_params){
		.num = num, .packed = f->flags & 1, .event_idx = f->flags & 2,
		.indirect = f->flags & 4, .max_chain = 32, .desc = 0, .driver = FUZZ_DRIVER,
		.device = FUZZ_DEVICE, .state = VIRTQUEUE_STATE_INIT, .iotlb = f->tlb,
	};
	/* The used index is in the arena: begin where it is. */
	if (!f->params.packed)
		memcpy(&f->params.state.avail_idx, f->arena + FUZZ_DEVICE + 2, 2);
	return 1;
}

static inline void fuzz_rings_poke(struct fuzz_rings *f)
{
	if (f->next_poke == f->num_pokes)
		return;
	memcpy(f->arena + f->pokes[f->next_poke][0] % (FUZZ_ARENA / 2) * 2,
	       &f->pokes[f->next_poke][1], 2);
	f->next_poke++;
}

/* Is the memory inside the part of the arena that may be used that way? */
static inline void fuzz_rings_check(const struct fuzz_rings *f, const struct iovec *iov, int write)
{
	const size_t at = (size_t)((uint8_t *)iov->iov_base - f->arena);
	const size_t end = write ? FUZZ_WRITABLE : FUZZ_ARENA;

	fuzz_require(iov->iov_len && at < end && iov->iov_len <= end - at);
}

static inline void fuzz_rings_end(struct fuzz_rings *f)
{
	fuzz_require(!f->tlb->holds[0] && !f->tlb->holds[1]);
	iotlb_destroy(f->tlb);
	free(f->arena);
}

#endif /* TESTS_FUZZ_RINGS_H */
