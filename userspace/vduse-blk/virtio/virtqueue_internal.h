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

/*
 * Stores to memory that outlives this process, all of them. Unit tests kill the
 * process at each: the function, if there is one, gets every store instead of the
 * memory and says whether it has dealt with it.
 */
#ifdef TEST_SHARED_STORES
extern bool (*test_shared_store)(void *p, unsigned int bytes, uint64_t value);

static inline bool store_taken(void *p, unsigned int bytes, uint64_t value)
{
	return test_shared_store && test_shared_store(p, bytes, value);
}
#else
static inline bool store_taken(void *p, unsigned int bytes, uint64_t value)
{
	(void)p;
	(void)bytes;
	(void)value;
	return false;
}
#endif

static inline void store16(void *p, uint16_t v)
{
	if (!store_taken(p, sizeof(v), htole16(v)))
		WRITE_ONCE(*(uint16_t *)p, htole16(v));
}

static inline void store16_release(void *p, uint16_t v)
{
	if (!store_taken(p, sizeof(v), htole16(v)))
		__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELEASE);
}

static inline void store64(void *p, uint64_t v)
{
	if (!store_taken(p, sizeof(v), htole64(v)))
		WRITE_ONCE(*(any_u64 *)p, htole64(v));
}

static inline void store64_release(void *p, uint64_t v)
{
	if (!store_taken(p, sizeof(v), htole64(v)))
		__atomic_store_n((uint64_t *)p, htole64(v), __ATOMIC_RELEASE);
}

/* In the machine's byte order, to memory that only this machine reads (inflight.h). */
static inline void host_store8(void *p, uint8_t v)
{
	if (!store_taken(p, sizeof(v), v))
		WRITE_ONCE(*(uint8_t *)p, v);
}

static inline void host_store16(void *p, uint16_t v)
{
	if (!store_taken(p, sizeof(v), v))
		WRITE_ONCE(*(uint16_t *)p, v);
}

static inline void host_store32(void *p, uint32_t v)
{
	if (!store_taken(p, sizeof(v), v))
		WRITE_ONCE(*(uint32_t *)p, v);
}

static inline void host_store64(void *p, uint64_t v)
{
	if (!store_taken(p, sizeof(v), v))
		WRITE_ONCE(*(uint64_t *)p, v);
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

/*
 * The memory of a chain while it is collected. It lives in registers for the
 * usual case, which is a segment inside the region that was used last.
 */
struct vq_chain {
	struct iovec *iov; /* next free entry */
	struct iovec *end;
	unsigned int out_num, in_num;
	uint64_t out_bytes, in_bytes;
};

static inline struct vq_chain vq_chain_begin(const struct virtqueue_elem *elem)
{
	return (struct vq_chain){ .iov = elem->iov, .end = elem->iov + elem->max_iov };
}

/* Slow half of vq_chain_add(). Returns the number of entries, or -EIO. */
int vq_translate_slow(struct virtqueue *vq, struct iovec *iov, struct iovec *end,
		      uint64_t addr, uint32_t len, bool write);

/* Append the memory of one descriptor. */
static inline __attribute__((always_inline)) int
vq_chain_add(struct virtqueue *vq, struct vq_chain *c, uint64_t addr, uint32_t len, bool write)
{
	const struct iotlb_region *r = &vq->iotlb->recent;
	const uint64_t offset = addr - r->iova;
	int n = 1;

	if (unlikely(!write && c->in_num))
		return virtqueue_break(vq, "device-readable descriptor after a"
				       " device-writable one");

	/* A length of zero makes the second comparison fail too. */
	if (likely(offset < r->size && (uint64_t)len - 1 < r->size - offset &&
		   r->perm & (write ? IOTLB_WRITE : IOTLB_READ) && c->iov != c->end)) {
		c->iov->iov_base = r->vaddr + offset;
		c->iov->iov_len = len;
	} else {
		n = vq_translate_slow(vq, c->iov, c->end, addr, len, write);
		if (n < 0)
			return n;
	}
	c->iov += n;
	if (write) {
		c->in_num += (unsigned int)n;
		c->in_bytes += len;
	} else {
		c->out_num += (unsigned int)n;
		c->out_bytes += len;
	}
	return 0;
}

/* 2.7.5.2: no chain is longer than 2^32 bytes. */
static inline int vq_chain_end(struct virtqueue *vq, const struct vq_chain *c,
			       struct virtqueue_elem *elem)
{
	if (unlikely(c->out_bytes + c->in_bytes > UINT32_MAX))
		return virtqueue_break(vq, "descriptor chain of more than 4 GiB");
	elem->out_num = c->out_num;
	elem->in_num = c->in_num;
	elem->out_bytes = (uint32_t)c->out_bytes;
	elem->in_bytes = (uint32_t)c->in_bytes;
	return 0;
}

/* Slow half of vq_map_indirect(). */
int vq_map_indirect_slow(struct virtqueue *vq, uint64_t addr, uint32_t len,
			 const uint8_t **ret_table);

/* Translate an indirect table; it has to be contiguous and of a sane length. */
static inline int vq_map_indirect(struct virtqueue *vq, uint64_t addr, uint32_t len,
				  const uint8_t **ret_table, unsigned int *ret_count)
{
	const struct iotlb_region *r = &vq->iotlb->recent;
	const uint64_t offset = addr - r->iova;
	const unsigned int count = len / sizeof(struct vring_desc);
	int err;

	if (likely(vq->indirect && len % sizeof(struct vring_desc) == 0 &&
		   count <= vq->max_chain && offset < r->size &&
		   (uint64_t)len - 1 < r->size - offset && r->perm & IOTLB_READ)) {
		*ret_table = r->vaddr + offset;
	} else {
		err = vq_map_indirect_slow(vq, addr, len, ret_table);
		if (err)
			return err;
	}
	*ret_count = count;
	return 0;
}

int split_init(struct virtqueue *vq, struct error *e);
int split_map(struct virtqueue *vq, struct error *e);
int split_pop(struct virtqueue *vq, struct virtqueue_elem *elem);
int split_resubmit(struct virtqueue *vq, struct virtqueue_elem *elem);
void split_push(struct virtqueue *vq, const struct virtqueue_elem *elem, uint32_t written);
bool split_commit(struct virtqueue *vq);
void split_disable_notify(struct virtqueue *vq);
bool split_enable_notify(struct virtqueue *vq);

int packed_init(struct virtqueue *vq, struct error *e);
int packed_map(struct virtqueue *vq, struct error *e);
int packed_pop(struct virtqueue *vq, struct virtqueue_elem *elem);
int packed_resubmit(struct virtqueue *vq, struct virtqueue_elem *elem);
void packed_push(struct virtqueue *vq, const struct virtqueue_elem *elem, uint32_t written);
bool packed_commit(struct virtqueue *vq);
void packed_disable_notify(struct virtqueue *vq);
bool packed_enable_notify(struct virtqueue *vq);

/* Map one area of the ring; @what names it in the message. */
int vq_map_area(struct virtqueue *vq, const char *what, uint64_t addr, uint64_t len,
		uint64_t align, uint32_t perm, void **ret_vaddr, struct error *e);

#endif /* VIRTIO_VIRTQUEUE_INTERNAL_H */
