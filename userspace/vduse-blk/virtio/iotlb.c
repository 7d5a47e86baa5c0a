// SPDX-License-Identifier: MIT
/*
 * iotlb.c: translation of I/O virtual addresses.
 *
 * Regions are kept in a table sorted by address, without overlaps, so a look-up
 * is a binary search; the one that was used last is tried first, and with a
 * bounce buffer or a small guest it is nearly always the right one.
 *
 * Release of invalidated memory
 *
 * Requests in flight keep pointers into regions. Counting users for each region
 * would cost work for every segment; instead every request takes one hold, and
 * holds are counted by epoch, of which two exist. An invalidated region may be
 * in use by any hold taken so far, and by none taken later. So:
 *
 *	@ending is not empty: new holds go to the current epoch; when the count
 *		of the other one drops to zero, nobody uses @ending any more.
 *	@retired: invalidated while @ending still waited. It becomes @ending, and
 *		the epochs swap, once the previous @ending was released.
 */
#include "virtio/iotlb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct iotlb_entry {
	struct iotlb_region region;
	struct iotlb_entry *next;
};

#define IOTLB_FIRST_CAPACITY	16u

static uint64_t region_last(const struct iotlb_region *r)
{
	return r->iova + (r->size - 1);
}

int iotlb_create(const struct iotlb_ops *ops, void *opaque, struct iotlb **ret_tlb)
{
	struct iotlb *tlb = calloc(1, sizeof(*tlb));

	if (!tlb)
		return -ENOMEM;
	tlb->ops = ops;
	tlb->opaque = opaque;
	*ret_tlb = tlb;
	return 0;
}

static void release_region(struct iotlb *tlb, const struct iotlb_region *region)
{
	if (tlb->ops->release)
		tlb->ops->release(tlb->opaque, region);
}

static void release_list(struct iotlb *tlb, struct iotlb_entry **list)
{
	struct iotlb_entry *entry, *next;

	for (entry = *list, *list = NULL; entry; entry = next) {
		next = entry->next;
		release_region(tlb, &entry->region);
		free(entry);
	}
}

static void retire(struct iotlb *tlb, struct iotlb_entry *entry)
{
	entry->next = tlb->retired;
	tlb->retired = entry;
}

/* Start waiting for the holds that may use what was retired; there may be none. */
static void begin_ending(struct iotlb *tlb)
{
	while (tlb->retired && !tlb->ending) {
		tlb->ending = tlb->retired;
		tlb->retired = NULL;
		tlb->epoch = !tlb->epoch;
		if (!tlb->holds[!tlb->epoch])
			release_list(tlb, &tlb->ending);
	}
}

void iotlb_epoch_ended(struct iotlb *tlb)
{
	release_list(tlb, &tlb->ending);
	begin_ending(tlb);
}

void iotlb_destroy(struct iotlb *tlb)
{
	unsigned int i;

	if (!tlb)
		return;
	for (i = 0; i < tlb->count; i++)
		retire(tlb, tlb->table[i]);
	release_list(tlb, &tlb->ending);
	release_list(tlb, &tlb->retired);
	free(tlb->table);
	free(tlb);
}

/* Index of the first region that ends at or after @iova; count when there is none. */
static unsigned int lower_bound(const struct iotlb *tlb, uint64_t iova)
{
	unsigned int low = 0, high = tlb->count;

	while (low < high) {
		unsigned int middle = low + (high - low) / 2;

		if (region_last(&tlb->table[middle]->region) < iova)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int make_room(struct iotlb *tlb)
{
	struct iotlb_entry **table;
	unsigned int capacity;

	if (tlb->count < tlb->capacity)
		return 0;
	if (tlb->capacity >= IOTLB_MAX_REGIONS)
		return -ENOSPC;
	capacity = tlb->capacity ? tlb->capacity * 2 : IOTLB_FIRST_CAPACITY;
	table = realloc(tlb->table, capacity * sizeof(struct iotlb_entry *));
	if (!table)
		return -ENOMEM;
	tlb->table = table;
	tlb->capacity = capacity;
	return 0;
}

int iotlb_add(struct iotlb *tlb, const struct iotlb_region *region)
{
	struct iotlb_entry *entry;
	unsigned int at;
	int err;

	if (!region->size || !region->vaddr || !(region->perm & IOTLB_RW) ||
	    region_last(region) < region->iova)
		return -EINVAL;
	at = lower_bound(tlb, region->iova);
	if (at < tlb->count && tlb->table[at]->region.iova <= region_last(region))
		return -EEXIST;
	err = make_room(tlb);
	if (err)
		return err;
	entry = malloc(sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	entry->region = *region;
	entry->next = NULL;
	memmove(&tlb->table[at + 1], &tlb->table[at],
		(tlb->count - at) * sizeof(struct iotlb_entry *));
	tlb->table[at] = entry;
	tlb->count++;
	return 0;
}

void iotlb_invalidate(struct iotlb *tlb, uint64_t first, uint64_t last)
{
	unsigned int from, to;

	from = lower_bound(tlb, first);
	for (to = from; to < tlb->count && tlb->table[to]->region.iova <= last; to++)
		retire(tlb, tlb->table[to]);
	/* An empty table may have no memory yet, and memmove() takes no NULL. */
	if (to > from)
		memmove(&tlb->table[from], &tlb->table[to],
			(tlb->count - to) * sizeof(struct iotlb_entry *));
	tlb->count -= to - from;
	tlb->recent = (struct iotlb_region){ 0 };
	tlb->generation++;
	begin_ending(tlb);
}

static int fault_in(struct iotlb *tlb, uint64_t iova, uint32_t perm)
{
	struct iotlb_region region = { 0 };
	int err;

	if (!tlb->ops->fault)
		return -EFAULT;
	err = tlb->ops->fault(tlb->opaque, iova, perm, &region);
	if (err)
		return err;
	if (iova - region.iova >= region.size)
		err = -EFAULT;
	else
		err = iotlb_add(tlb, &region);
	if (err)
		release_region(tlb, &region);
	return err;
}

/* The region around @iova, mapped now if need be; it becomes the recent one. */
static int find_region(struct iotlb *tlb, uint64_t iova, uint32_t perm)
{
	unsigned int at = lower_bound(tlb, iova);
	int err;

	if (at == tlb->count || tlb->table[at]->region.iova > iova) {
		err = fault_in(tlb, iova, perm);
		if (err)
			return err;
		at = lower_bound(tlb, iova);
	}
	if ((tlb->table[at]->region.perm & perm) != perm)
		return -EACCES;
	tlb->recent = tlb->table[at]->region;
	return 0;
}

int iotlb_translate_slow(struct iotlb *tlb, uint64_t iova, uint64_t len, uint32_t perm,
			 struct iovec *iov, unsigned int max, unsigned int *ret_niov)
{
	unsigned int n = 0;

	if (!len)
		return -EINVAL;
	if (iova + (len - 1) < iova)
		return -EFAULT;

	while (len) {
		const struct iotlb_region *r = &tlb->recent;
		uint64_t offset, part;
		int err;

		if (n == max)
			return -E2BIG;
		err = find_region(tlb, iova, perm);
		if (err)
			return err;
		offset = iova - r->iova;
		part = min(len, r->size - offset);
		iov[n].iov_base = r->vaddr + offset;
		iov[n].iov_len = part;
		n++;
		iova += part;
		len -= part;
	}
	*ret_niov = n;
	return 0;
}

int iotlb_map(struct iotlb *tlb, uint64_t iova, uint64_t len, uint32_t perm,
	      void **ret_vaddr)
{
	struct iovec iov;
	unsigned int n;
	int err;

	err = iotlb_translate(tlb, iova, len, perm, &iov, 1, &n);
	if (err)
		return err;
	*ret_vaddr = iov.iov_base;
	return 0;
}
