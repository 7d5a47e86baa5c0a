// SPDX-License-Identifier: MIT
/*
 * virtqueue.c: what both ring formats have in common.
 *
 * Ownership: the driver owns a descriptor until it is made available, the
 * device from virtqueue_pop() to virtqueue_commit(). A driver that makes more
 * available than its ring holds, counting what the device still owns, breaks the
 * queue: whoever keeps an element for each ring entry never runs out, and a loop
 * that pops until the ring is empty ends.
 *
 * Mappings: pointers to the rings are made anew when the iotlb was invalidated
 * (its generation changed). That happens between two calls, never in the middle
 * of one. Data buffers are protected by one iotlb hold for each element.
 *
 * Errors: the first violation of the rules is kept as text in the virtqueue and
 * stops all access to the rings. Elements that are still with the device can be
 * pushed; that only gives up their hold.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "virtio/inflight_internal.h"

#ifdef TEST_SHARED_STORES
bool (*test_shared_store)(void *p, unsigned int bytes, uint64_t value);
#endif

int virtqueue_break(struct virtqueue *vq, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (vq->broken)
		return -EIO;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	WRITE_ONCE(vq->broken, true);
	return err_set(&vq->error, EIO, "%s", text);
}

int vq_break_address(struct virtqueue *vq, int err, const char *what, uint64_t addr,
		     uint64_t len)
{
	const char *why;

	switch (err) {
	case -EFAULT:
		why = "not mapped";
		break;
	case -EACCES:
		why = "mapped without that permission";
		break;
	case -E2BIG:
		why = "in too many pieces";
		break;
	default:
		why = strerror(-err);
		break;
	}
	return virtqueue_break(vq, "%s at 0x%" PRIx64 ", %" PRIu64 " bytes, is %s", what, addr,
			       len, why);
}

int vq_translate_slow(struct virtqueue *vq, struct iovec *iov, struct iovec *end,
		      uint64_t addr, uint32_t len, bool write)
{
	unsigned int n;
	int err;

	if (!len)
		return virtqueue_break(vq, "descriptor of length zero at 0x%" PRIx64, addr);
	err = iotlb_translate(vq->iotlb, addr, len, write ? IOTLB_WRITE : IOTLB_READ, iov,
			      (unsigned int)(end - iov), &n);
	if (err)
		return vq_break_address(vq, err, write ? "device-writable buffer" :
					"device-readable buffer", addr, len);
	return (int)n;
}

int vq_map_indirect_slow(struct virtqueue *vq, uint64_t addr, uint32_t len,
			 const uint8_t **ret_table)
{
	const unsigned int count = len / sizeof(struct vring_desc);
	void *table;
	int err;

	if (!vq->indirect)
		return virtqueue_break(vq, "indirect descriptor although the feature was not"
				       " negotiated");
	if (!len || len % sizeof(struct vring_desc))
		return virtqueue_break(vq, "indirect table of %u bytes is not a multiple of %zu",
				       len, sizeof(struct vring_desc));
	if (count > vq->max_chain)
		return virtqueue_break(vq, "indirect table of %u descriptors, at most %u allowed",
				       count, vq->max_chain);
	err = iotlb_map(vq->iotlb, addr, len, IOTLB_READ, &table);
	if (err)
		return vq_break_address(vq, err, "indirect table", addr, len);
	*ret_table = table;
	return 0;
}

int vq_map_area(struct virtqueue *vq, const char *what, uint64_t addr, uint64_t len,
		uint64_t align, uint32_t perm, void **ret_vaddr, struct error *e)
{
	void *vaddr;
	int err;

	if (!is_aligned(addr, align))
		return err_set(e, EINVAL, "%s at 0x%" PRIx64 " is not aligned to %" PRIu64
			       " bytes", what, addr, align);
	err = iotlb_map(vq->iotlb, addr, len, perm, &vaddr);
	if (err)
		return err_set(e, -err, "%s at 0x%" PRIx64 ", %" PRIu64 " bytes, %s", what, addr,
			       len, err == -E2BIG ? "crosses two mappings" :
			       err == -EFAULT ? "is not mapped" :
			       err == -EACCES ? "is mapped without the permission needed" :
			       "cannot be mapped");
	if (!is_aligned((uintptr_t)vaddr, align))
		return err_set(e, EINVAL, "%s at 0x%" PRIx64 " is mapped at an unaligned address",
			       what, addr);
	*ret_vaddr = vaddr;
	return 0;
}

static int map_rings(struct virtqueue *vq, struct error *e)
{
	/* Faults do not change the generation, invalidations by others may not interfere. */
	vq->generation = iotlb_generation(vq->iotlb);
	return vq->packed ? packed_map(vq, e) : split_map(vq, e);
}

bool vq_remap(struct virtqueue *vq)
{
	struct error e = ERROR_INIT;

	if (map_rings(vq, &e)) {
		virtqueue_break(vq, "%s", e.text);
		return false;
	}
	return true;
}

static int check_params(const struct virtqueue_params *p, struct error *e)
{
	if (!p->num || p->num > VIRTQUEUE_MAX_NUM)
		return err_set(e, EINVAL, "queue size %u is not within 1 to %u", p->num,
			       VIRTQUEUE_MAX_NUM);
	if (!p->packed && !is_power_of_2(p->num))
		return err_set(e, EINVAL, "queue size %u of a split ring is not a power of two",
			       p->num);
	if (!p->max_chain)
		return err_set(e, EINVAL, "descriptor chains of length zero");
	return 0;
}

int virtqueue_init(struct virtqueue *vq, const struct virtqueue_params *params,
		   struct error *e)
{
	int err;

	err = check_params(params, e);
	if (err)
		return err;
	memset(vq, 0, sizeof(*vq));
	vq->params = *params;
	vq->num = (uint16_t)params->num;
	vq->packed = params->packed;
	vq->event_idx = params->event_idx;
	vq->indirect = params->indirect;
	vq->max_chain = params->max_chain;
	vq->iotlb = params->iotlb;
	vq->inflight = params->inflight;
	err = map_rings(vq, e);
	if (err)
		return err;
	return vq->packed ? packed_init(vq, e) : split_init(vq, e);
}

int virtqueue_pop(struct virtqueue *vq, struct virtqueue_elem *elem)
{
	int got;

	if (unlikely(!vq_usable(vq)))
		return -EIO;
	elem->resubmitted = vq->inflight && vq->inflight->pending;
	if (unlikely(elem->resubmitted))
		got = vq->packed ? packed_resubmit(vq, elem) : split_resubmit(vq, elem);
	else
		got = vq->packed ? packed_pop(vq, elem) : split_pop(vq, elem);
	if (got > 0)
		elem->hold = iotlb_hold(vq->iotlb);
	return got;
}

void virtqueue_push(struct virtqueue *vq, const struct virtqueue_elem *elem,
		    uint32_t written)
{
	if (likely(vq_usable(vq))) {
		if (vq->packed)
			packed_push(vq, elem, written);
		else
			split_push(vq, elem, written);
	}
	iotlb_drop(vq->iotlb, elem->hold);
}

bool virtqueue_commit(struct virtqueue *vq)
{
	if (unlikely(!vq_usable(vq)))
		return false;
	return vq->packed ? packed_commit(vq) : split_commit(vq);
}

void virtqueue_disable_notify(struct virtqueue *vq)
{
	if (unlikely(!vq_usable(vq)))
		return;
	if (vq->packed)
		packed_disable_notify(vq);
	else
		split_disable_notify(vq);
}

bool virtqueue_enable_notify(struct virtqueue *vq)
{
	bool more;

	if (unlikely(!vq_usable(vq)))
		return false;
	more = vq->packed ? packed_enable_notify(vq) : split_enable_notify(vq);
	return more || unlikely(vq->inflight && vq->inflight->pending);
}

void virtqueue_state(const struct virtqueue *vq, struct virtqueue_state *ret_state)
{
	*ret_state = (struct virtqueue_state){
		.avail_idx = vq->avail_idx,
		.used_idx = vq->used_idx,
		.avail_wrap = vq->avail_wrap,
		.used_wrap = vq->used_wrap,
	};
}

const char *virtqueue_error(const struct virtqueue *vq)
{
	return vq->broken ? vq->error.text : NULL;
}
