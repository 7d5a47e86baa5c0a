/* SPDX-License-Identifier: MIT */
/*
 * iotlb.h: the address space of a virtqueue, as its own thread sees it.
 *
 * A virtqueue names memory by I/O virtual address (IOVA). An iotlb knows which
 * ranges of those addresses are mapped into this process, and where. Each queue
 * thread has one of its own and nobody else touches it, so there are no locks;
 * a transport that learns of an unmapping on another thread hands the
 * invalidation over to the queue's thread.
 *
 * An address that is not known yet is asked of the owner through
 * &iotlb_ops.fault, which maps the whole region around it. Nothing here knows
 * how that is done.
 */
#ifndef VIRTIO_IOTLB_H
#define VIRTIO_IOTLB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/util.h"

/* What the device may do with a region. */
#define IOTLB_READ	(1u << 0)
#define IOTLB_WRITE	(1u << 1)
#define IOTLB_RW	(IOTLB_READ | IOTLB_WRITE)

/**
 * struct iotlb_region - one contiguous mapping
 * @iova: first I/O virtual address
 * @size: length in bytes, not zero; @iova + @size - 1 does not wrap
 * @perm: IOTLB_READ, IOTLB_WRITE or both
 * @vaddr: where @iova is mapped in this process
 * @cookie: the owner's, for its release callback; not looked at
 */
struct iotlb_region {
	uint64_t iova;
	uint64_t size;
	uint32_t perm;
	uint8_t *vaddr;
	void *cookie;
};

/**
 * struct iotlb_ops - what the owner of the mappings provides
 * @fault: map the region that contains @iova and describe it in @ret; it must
 *	contain @iova, overlap no region known already, and should allow @perm.
 *	Called on the queue's thread, may do system calls. Returns 0 or -errno
 *	(-EFAULT: there is nothing at that address). May be NULL: then only
 *	iotlb_add() fills the table.
 * @release: the region is no longer used: unmap it. Called on the queue's
 *	thread, once for every region added. May be NULL.
 */
struct iotlb_ops {
	int (*fault)(void *opaque, uint64_t iova, uint32_t perm,
		     struct iotlb_region *ret);
	void (*release)(void *opaque, const struct iotlb_region *region);
};

/* Regions known at one time, at most: more is a broken or hostile driver. */
#define IOTLB_MAX_REGIONS	1024u

struct iotlb_entry;

/**
 * struct iotlb - private, visible for the inline functions below
 * @recent: copy of the region that was used last; size 0: none
 * @generation: see iotlb_generation()
 * @epoch: epoch of new holds, 0 or 1
 * @holds: holds by the epoch they were taken in
 * @table: regions sorted by address, @count of them, room for @capacity
 * @ending: regions whose release waits for the holds of the other epoch
 * @retired: regions whose release waits for @ending to be done first
 * @ops, @opaque: the owner's callbacks
 */
struct iotlb {
	struct iotlb_region recent;
	uint32_t generation;
	unsigned int epoch;
	uint64_t holds[2];
	struct iotlb_entry **table;
	unsigned int count;
	unsigned int capacity;
	struct iotlb_entry *ending;
	struct iotlb_entry *retired;
	const struct iotlb_ops *ops;
	void *opaque;
};

/**
 * iotlb_create() - make an empty address space
 * @ops: callbacks; must stay valid
 * @opaque: first argument of the callbacks
 * @ret_tlb: the new address space
 *
 * Return: 0 or -ENOMEM.
 */
int iotlb_create(const struct iotlb_ops *ops, void *opaque, struct iotlb **ret_tlb);

/**
 * iotlb_destroy() - release every region and free the address space
 * @tlb: may be NULL; must not be held (see iotlb_hold())
 */
void iotlb_destroy(struct iotlb *tlb);

/**
 * iotlb_add() - add a region that the owner mapped of its own accord
 * @tlb: the address space
 * @region: copied
 *
 * Context: the queue's thread.
 * Return: 0; -EINVAL when @region is empty, wraps around or allows nothing;
 * -EEXIST when it overlaps a known one; -ENOSPC or -ENOMEM. On an error the
 * caller still owns the mapping.
 */
int iotlb_add(struct iotlb *tlb, const struct iotlb_region *region);

/**
 * iotlb_invalidate() - forget every region that touches a range
 * @tlb: the address space
 * @first: first address of the range
 * @last: last address, inclusive: 0 to UINT64_MAX is everything
 *
 * No later translation sees those regions; a whole region goes even when the
 * range covers only a part of it (the rest faults in again). Their release
 * callback runs at once when nothing is held, else as soon as the last hold
 * taken before this call is dropped: memory that a request in flight points to
 * stays mapped.
 *
 * Context: the queue's thread, not from a callback of this iotlb.
 */
void iotlb_invalidate(struct iotlb *tlb, uint64_t first, uint64_t last);

/**
 * iotlb_generation() - a number that changes with every invalidation
 * @tlb: the address space
 *
 * Whoever keeps a translated pointer for longer than a hold (the rings)
 * translates again when this differs from what it was.
 */
static inline uint32_t iotlb_generation(const struct iotlb *tlb)
{
	return tlb->generation;
}

/**
 * iotlb_hold() - keep all present mappings alive
 * @tlb: the address space
 *
 * Constant time, two instructions: one hold is taken for each request.
 *
 * Return: a token for iotlb_drop().
 */
static inline unsigned int iotlb_hold(struct iotlb *tlb)
{
	tlb->holds[tlb->epoch]++;
	return tlb->epoch;
}

/* Slow half of iotlb_drop(). */
void iotlb_epoch_ended(struct iotlb *tlb);

/**
 * iotlb_drop() - end one hold; may release invalidated regions
 * @tlb: the address space
 * @token: what iotlb_hold() returned
 */
static inline void iotlb_drop(struct iotlb *tlb, unsigned int token)
{
	if (unlikely(--tlb->holds[token] == 0 && token != tlb->epoch))
		iotlb_epoch_ended(tlb);
}

/* Slow half of iotlb_translate(). */
int iotlb_translate_slow(struct iotlb *tlb, uint64_t iova, uint64_t len, uint32_t perm,
			 struct iovec *iov, unsigned int max, unsigned int *ret_niov);

/**
 * iotlb_translate() - find the memory behind a range of addresses
 * @tlb: the address space
 * @iova: first address
 * @len: bytes, not zero
 * @perm: what the device is going to do: IOTLB_READ or IOTLB_WRITE
 * @iov: filled with one entry for each region that the range crosses
 * @max: entries available in @iov
 * @ret_niov: entries used; written only on success
 *
 * Context: the queue's thread. Calls &iotlb_ops.fault for what is not known.
 * Return: 0; -EFAULT when part of the range is not mapped or wraps around;
 * -EACCES when the mapping does not allow @perm; -E2BIG when @max entries are
 * too few; -EINVAL for an empty range; else what the fault callback returned.
 */
static inline int iotlb_translate(struct iotlb *tlb, uint64_t iova, uint64_t len,
				  uint32_t perm, struct iovec *iov, unsigned int max,
				  unsigned int *ret_niov)
{
	const struct iotlb_region *r = &tlb->recent;
	const uint64_t offset = iova - r->iova;

	/* A length of zero makes the second comparison fail too. */
	if (likely(offset < r->size && len - 1 < r->size - offset && (r->perm & perm) == perm &&
		   max)) {
		iov->iov_base = r->vaddr + offset;
		iov->iov_len = len;
		*ret_niov = 1;
		return 0;
	}
	return iotlb_translate_slow(tlb, iova, len, perm, iov, max, ret_niov);
}

/**
 * iotlb_map() - the same for a range that has to be contiguous in memory
 * @tlb: the address space
 * @iova: first address
 * @len: bytes, not zero
 * @perm: IOTLB_READ, IOTLB_WRITE or both
 * @ret_vaddr: where it is; written only on success
 *
 * Return: as iotlb_translate(), with -E2BIG when it crosses two regions.
 */
int iotlb_map(struct iotlb *tlb, uint64_t iova, uint64_t len, uint32_t perm,
	      void **ret_vaddr);

#endif /* VIRTIO_IOTLB_H */
