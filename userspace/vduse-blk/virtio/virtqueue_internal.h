/* SPDX-License-Identifier: MIT */
/*
 * virtqueue_internal.h: what virtqueue.c shares with the two ring formats.
 */
#ifndef VIRTIO_VIRTQUEUE_INTERNAL_H
#define VIRTIO_VIRTQUEUE_INTERNAL_H

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_ring.h>

#include "base/util.h"
#include "virtio/virtqueue.h"

/*
 * Rings are little-endian memory shared with the driver: each of these is
 * exactly one access, so that what was checked is what is used. Indirect
 * tables may lie at any address.
 */
typedef uint64_t __attribute__((aligned(1), may_alias)) any_u64;

static inline uint16_t load16(const void *p)
{
	return le16toh(READ_ONCE(*(const uint16_t *)p));
}

static inline uint16_t load16_acquire(const void *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE));
}

static inline uint64_t load64(const void *p)
{
	return le64toh(READ_ONCE(*(const any_u64 *)p));
}

static inline uint64_t load64_acquire(const void *p)
{
	return le64toh(__atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE));
}

static inline void store16(void *p, uint16_t v)
{
	WRITE_ONCE(*(uint16_t *)p, htole16(v));
}

static inline void store16_release(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELEASE);
}

static inline void store64(void *p, uint64_t v)
{
	WRITE_ONCE(*(any_u64 *)p, htole64(v));
}

static inline void store64_release(void *p, uint64_t v)
{
	__atomic_store_n((uint64_t *)p, htole64(v), __ATOMIC_RELEASE);
}

/* Orders our stores before our later loads: what the driver sees, what we see. */
static inline void full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/*
 * A descriptor's second half as one word. Split: len, flags, next. Packed:
 * len, id, flags.
 */
static inline uint32_t word_len(uint64_t word)
{
	return (uint32_t)word;
}

static inline uint16_t split_flags(uint64_t word)
{
	return (uint16_t)(word >> 32);
}

static inline uint16_t split_next(uint64_t word)
{
	return (uint16_t)(word >> 48);
}

static inline uint16_t packed_id(uint64_t word)
{
	return (uint16_t)(word >> 32);
}

static inline uint16_t packed_flags(uint64_t word)
{
	return (uint16_t)(word >> 48);
}

/* Describes a range of addresses that could not be translated. */
int vq_break_address(struct virtqueue *vq, int err, const char *what, uint64_t addr,
		     uint64_t len);

/* Slow half of vq_usable(). */
bool vq_remap(struct virtqueue *vq);

/* May the rings be touched? Finds them again after an invalidation. */
static inline bool vq_usable(struct virtqueue *vq)
{
	if (unlikely(vq->broken))
		return false;
	if (unlikely(vq->generation != iotlb_generation(vq->iotlb)))
		return vq_remap(vq);
	return true;
}

int vq_bad_segment(struct virtqueue *vq, const struct virtqueue_elem *elem, uint64_t addr,
		   uint32_t len, bool write);

/* Append the memory of one descriptor to the element. */
static inline int vq_add_segment(struct virtqueue *vq, struct virtqueue_elem *elem,
				 uint64_t addr, uint32_t len, bool write)
{
	const unsigned int used = elem->out_num + elem->in_num;
	unsigned int n;
	int err;

	if (unlikely(!len || (!write && elem->in_num) ||
		     len > UINT32_MAX - elem->out_bytes - elem->in_bytes))
		return vq_bad_segment(vq, elem, addr, len, write);

	err = iotlb_translate(vq->iotlb, addr, len, write ? IOTLB_WRITE : IOTLB_READ,
			      elem->iov + used, elem->max_iov - used, &n);
	if (unlikely(err))
		return vq_break_address(vq, err, write ? "device-writable buffer" :
					"device-readable buffer", addr, len);
	if (write) {
		elem->in_num += n;
		elem->in_bytes += len;
	} else {
		elem->out_num += n;
		elem->out_bytes += len;
	}
	return 0;
}

/* Translate an indirect table; it has to be contiguous and of a sane length. */
int vq_map_indirect(struct virtqueue *vq, uint64_t addr, uint32_t len,
		    const uint8_t **ret_table, unsigned int *ret_count);

int split_init(struct virtqueue *vq, struct error *e);
int split_map(struct virtqueue *vq, struct error *e);
int split_pop(struct virtqueue *vq, struct virtqueue_elem *elem);
void split_push(struct virtqueue *vq, const struct virtqueue_elem *elem, uint32_t written);
bool split_commit(struct virtqueue *vq);
void split_disable_notify(struct virtqueue *vq);
bool split_enable_notify(struct virtqueue *vq);

int packed_init(struct virtqueue *vq, struct error *e);
int packed_map(struct virtqueue *vq, struct error *e);
int packed_pop(struct virtqueue *vq, struct virtqueue_elem *elem);
void packed_push(struct virtqueue *vq, const struct virtqueue_elem *elem, uint32_t written);
bool packed_commit(struct virtqueue *vq);
void packed_disable_notify(struct virtqueue *vq);
bool packed_enable_notify(struct virtqueue *vq);

/* Map one area of the ring; @what names it in the message. */
int vq_map_area(struct virtqueue *vq, const char *what, uint64_t addr, uint64_t len,
		uint64_t align, uint32_t perm, void **ret_vaddr, struct error *e);

#endif /* VIRTIO_VIRTQUEUE_INTERNAL_H */
