// SPDX-License-Identifier: MIT
/*
 * virtqueue_split.c: the split ring (virtio 1.2, 2.7).
 *
 * The driver writes heads of chains into the available ring and moves its
 * index; the device writes them into the used ring and moves that index. Both
 * indices run freely over 16 bits and are taken modulo the ring size, a power
 * of two.
 *
 * Order: the available index is read with acquire before the entries it covers
 * and their descriptors; the used index is written with release after the
 * entries it covers. Where we first store and then look at what the other side
 * stored (used index then used_event; avail_event then available index) a full
 * barrier stands between the two, the driver having its own, so at least one
 * side sees the other's store and no notification is lost.
 */
#include <string.h>

#include "virtio/inflight_internal.h"

/* avail: flags, idx, ring[num], used_event.  used: flags, idx, ring[num], avail_event. */
#define AVAIL_BYTES(num)	(6 + 2 * (uint64_t)(num))
#define USED_BYTES(num)		(6 + 8 * (uint64_t)(num))

static uint16_t *used_event(struct virtqueue *vq)
{
	return &vq->avail->ring[vq->num];
}

static uint16_t *avail_event(struct virtqueue *vq)
{
	return (uint16_t *)(void *)&vq->used->ring[vq->num];
}

int split_map(struct virtqueue *vq, struct error *e)
{
	const struct virtqueue_params *p = &vq->params;
	void *desc, *avail, *used;
	int err;

	err = vq_map_area(vq, "descriptor table", p->desc,
			  sizeof(struct vring_desc) * (uint64_t)p->num, VRING_DESC_ALIGN_SIZE,
			  IOTLB_READ, &desc, e);
	if (err)
		return err;
	err = vq_map_area(vq, "available ring", p->driver, AVAIL_BYTES(p->num),
			  VRING_AVAIL_ALIGN_SIZE, IOTLB_READ, &avail, e);
	if (err)
		return err;
	err = vq_map_area(vq, "used ring", p->device, USED_BYTES(p->num), VRING_USED_ALIGN_SIZE,
			  IOTLB_RW, &used, e);
	if (err)
		return err;
	vq->desc = desc;
	vq->avail = avail;
	vq->used = used;
	return 0;
}

/*
 * Only the available index travels in the device's state; the used index is
 * where the ring itself says. Whoever stopped the queue drained it, so the two
 * are no further apart than the ring is long unless somebody wrote nonsense. A
 * log knows what was in flight, and with that where the available index stood.
 */
int split_init(struct virtqueue *vq, struct error *e)
{
	uint16_t used = load16(&vq->used->idx);
	struct virtqueue_state state = vq->params.state;
	int err;

	if (vq->inflight) {
		err = inflight_split_begin(vq->inflight, vq->num, used, &state, e);
		if (err)
			return err;
	}
	if ((uint16_t)(state.avail_idx - used) > vq->num)
		return err_set(e, EINVAL,
			       "used index %u does not fit available index %u in a ring of %u",
			       used, state.avail_idx, vq->num);
	vq->avail_idx = state.avail_idx;
	vq->avail_seen = vq->avail_idx;
	vq->used_idx = used;
	vq->used_committed = used;
	return 0;
}

/*
 * Is there an entry that was not taken? The driver may own no entry twice, so its
 * index is never further ahead of the published used index than the ring is long.
 */
static inline int available(struct virtqueue *vq)
{
	uint16_t fresh, room;

	if (vq->avail_seen != vq->avail_idx)
		return 1;
	vq->avail_seen = load16_acquire(&vq->avail->idx);
	fresh = (uint16_t)(vq->avail_seen - vq->avail_idx);
	room = (uint16_t)(vq->num - (uint16_t)(vq->avail_idx - vq->used_committed));
	if (unlikely(fresh > room))
		return virtqueue_break(vq, "available index jumped by %u with room for %u in a"
				       " ring of %u", fresh, room, vq->num);
	return fresh != 0;
}

/*
 * Follow a chain that starts at @index of the ring's own table. @left counts the
 * descriptors it may still have, so a loop ends too. An indirect descriptor ends
 * the chain in the ring and goes on in a table of its own (2.7.5.3).
 */
static inline __attribute__((always_inline)) int
walk(struct virtqueue *vq, struct virtqueue_elem *elem, unsigned int index)
{
	const uint8_t *table = (const uint8_t *)vq->desc;
	unsigned int left = vq->max_chain, count = vq->num;
	struct vq_chain chain = vq_chain_begin(elem);
	bool indirect = false;

	left = min(left, count);
	for (;;) {
		const uint8_t *desc = table + index * sizeof(struct vring_desc);
		const uint64_t addr = load64(desc);
		const uint64_t word = load64(desc + sizeof(uint64_t));
		const uint16_t flags = split_flags(word);
		int err;

		if (unlikely(!left))
			return virtqueue_break(vq, "descriptor chain is too long or a loop (table"
					       " of %u)", count);
		left--;

		if (flags & VRING_DESC_F_INDIRECT) {
			if (unlikely(indirect))
				return virtqueue_break(vq, "indirect descriptor inside an"
						       " indirect table");
			if (unlikely(flags & VRING_DESC_F_NEXT))
				return virtqueue_break(vq, "indirect descriptor with a next one");
			err = vq_map_indirect(vq, addr, word_len(word), &table, &count);
			if (unlikely(err))
				return err;
			indirect = true;
			left = count;
			index = 0;
			continue;
		}

		err = vq_chain_add(vq, &chain, addr, word_len(word), flags & VRING_DESC_F_WRITE);
		if (unlikely(err))
			return err;
		if (!(flags & VRING_DESC_F_NEXT))
			return vq_chain_end(vq, &chain, elem);
		index = split_next(word);
		if (unlikely(index >= count))
			return virtqueue_break(vq, "descriptor index %u outside a table of %u",
					       index, count);
	}
}

int split_pop(struct virtqueue *vq, struct virtqueue_elem *elem)
{
	uint16_t head;
	int err;

	err = available(vq);
	if (err <= 0)
		return err;

	head = load16(&vq->avail->ring[vq->avail_idx & (vq->num - 1)]);
	if (unlikely(head >= vq->num))
		return virtqueue_break(vq, "head index %u outside a table of %u", head, vq->num);
	err = walk(vq, elem, head);
	if (unlikely(err))
		return err;
	if (vq->inflight) {
		if (unlikely(inflight_split_busy(vq->inflight, head)))
			return virtqueue_break(vq, "head %u made available while it is in flight",
					       head);
		inflight_split_pop(vq->inflight, head);
	}
	elem->id = head;
	elem->ndesc = 1;
	vq->avail_idx++;
	return 1;
}

/* The descriptors are still the device's: the driver has not seen them used. */
int split_resubmit(struct virtqueue *vq, struct virtqueue_elem *elem)
{
	const uint16_t head = inflight_next(vq->inflight)->head;
	int err = walk(vq, elem, head);

	if (err)
		return err;
	inflight_took_next(vq->inflight);
	elem->id = head;
	elem->ndesc = 1;
	return 1;
}

void split_push(struct virtqueue *vq, const struct virtqueue_elem *elem, uint32_t written)
{
	struct vring_used_elem *entry = &vq->used->ring[vq->used_idx & (vq->num - 1)];

	store64(entry, elem->id | (uint64_t)written << 32);
	vq->used_idx++;
	if (vq->inflight)
		inflight_split_push(vq->inflight, elem->id);
}

/* 2.7.7.2: with event indices an interrupt is due when idx passes used_event + 1. */
bool split_commit(struct virtqueue *vq)
{
	const uint16_t old = vq->used_committed;
	const uint16_t new = vq->used_idx;

	if (old == new)
		return false;
	if (vq->inflight)
		inflight_split_prepare(vq->inflight);
	store16_release(&vq->used->idx, new);
	vq->used_committed = new;
	full_barrier();
	if (vq->inflight)
		inflight_split_commit(vq->inflight, new, (uint16_t)(new - old),
				      (uint16_t)(vq->num - 1));
	if (vq->event_idx)
		return (uint16_t)(new - load16(used_event(vq)) - 1) < (uint16_t)(new - old);
	return !(load16(&vq->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

/*
 * 2.7.10: with event indices there is nothing to write: the driver kicks when it
 * passes avail_event, which stays behind until it is set again.
 */
void split_disable_notify(struct virtqueue *vq)
{
	if (!vq->event_idx && vq->notify_on)
		store16(&vq->used->flags, VRING_USED_F_NO_NOTIFY);
	vq->notify_on = false;
}

/* Asked already, and nothing was taken since: the store and the barrier are not repeated. */
bool split_enable_notify(struct virtqueue *vq)
{
	if (!vq->notify_on || vq->notify_at != vq->avail_idx) {
		if (vq->event_idx)
			store16(avail_event(vq), vq->avail_idx);
		else
			store16(&vq->used->flags, 0);
		vq->notify_on = true;
		vq->notify_at = vq->avail_idx;
		full_barrier();
	}
	return vq->avail_seen != vq->avail_idx ||
	       load16(&vq->avail->idx) != vq->avail_idx;
}
