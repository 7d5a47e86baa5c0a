// SPDX-License-Identifier: MIT
/*
 * virtqueue_packed.c: the packed ring (virtio 1.2, 2.8).
 *
 * One ring of descriptors that both sides write. The driver makes a descriptor
 * available by setting its AVAIL flag to the driver's wrap counter and USED to
 * the opposite; the device gives it back with both flags equal to the device's
 * wrap counter. A counter flips whenever its side passes the end of the ring.
 *
 * Order: a descriptor's length, id and flags are one aligned 64-bit word. It is
 * read with acquire before the address and before the rest of the chain. Used
 * descriptors of a batch are written at once except for the first, whose word
 * is written last, with release: the driver looks at that one first, so it sees
 * all of the batch or nothing.
 */
#include <string.h>

#include "virtio/virtqueue_internal.h"

#define F_AVAIL		(1u << VRING_PACKED_DESC_F_AVAIL)
#define F_USED		(1u << VRING_PACKED_DESC_F_USED)
#define EVENT_WRAP	(1u << VRING_PACKED_EVENT_F_WRAP_CTR)

int packed_map(struct virtqueue *vq, struct error *e)
{
	const struct virtqueue_params *p = &vq->params;
	void *ring, *driver_event, *device_event;
	int err;

	err = vq_map_area(vq, "descriptor ring", p->desc,
			  sizeof(struct vring_packed_desc) * (uint64_t)p->num,
			  VRING_DESC_ALIGN_SIZE, IOTLB_RW, &ring, e);
	if (err)
		return err;
	err = vq_map_area(vq, "driver event structure", p->driver,
			  sizeof(struct vring_packed_desc_event), 4, IOTLB_READ, &driver_event, e);
	if (err)
		return err;
	err = vq_map_area(vq, "device event structure", p->device,
			  sizeof(struct vring_packed_desc_event), 4, IOTLB_RW, &device_event, e);
	if (err)
		return err;
	vq->ring = ring;
	vq->driver_event = driver_event;
	vq->device_event = device_event;
	return 0;
}

int packed_init(struct virtqueue *vq, struct error *e)
{
	const struct virtqueue_state *s = &vq->params.state;
	/* Slots between the two positions: taken by somebody before us. */
	const int taken = s->avail_idx - s->used_idx +
			  (s->avail_wrap == s->used_wrap ? 0 : vq->num);

	if (s->avail_idx >= vq->num || s->used_idx >= vq->num || taken < 0 || taken > vq->num)
		return err_set(e, EINVAL, "state %u/%u, %u/%u is not possible in a ring of %u",
			       s->avail_idx, s->avail_wrap, s->used_idx, s->used_wrap, vq->num);
	vq->in_flight = (unsigned int)taken;
	vq->avail_idx = s->avail_idx;
	vq->avail_wrap = s->avail_wrap;
	vq->used_idx = s->used_idx;
	vq->used_wrap = s->used_wrap;
	vq->used_committed = s->used_idx;
	vq->committed_wrap = s->used_wrap;
	return 0;
}

static uint8_t *slot(struct virtqueue *vq, unsigned int index)
{
	return (uint8_t *)&vq->ring[index];
}

static uint8_t *slot_word(struct virtqueue *vq, unsigned int index)
{
	return slot(vq, index) + sizeof(uint64_t);
}

static inline bool is_available(uint16_t flags, bool wrap)
{
	return (flags & (F_AVAIL | F_USED)) == (wrap ? F_AVAIL : F_USED);
}

/* 2.8.7: every entry counts, only WRITE means something, buffer IDs are ignored. */
static int walk_indirect(struct virtqueue *vq, struct virtqueue_elem *elem, uint64_t addr,
			 uint32_t len)
{
	struct vq_chain chain = vq_chain_begin(elem);
	const uint8_t *table;
	unsigned int count, i;
	int err;

	err = vq_map_indirect(vq, addr, len, &table, &count);
	if (unlikely(err))
		return err;
	for (i = 0; i < count; i++) {
		const uint8_t *desc = table + i * sizeof(struct vring_packed_desc);
		const uint64_t start = load64(desc);
		const uint64_t word = load64(desc + sizeof(uint64_t));

		if (unlikely(packed_flags(word) & VRING_DESC_F_INDIRECT))
			return virtqueue_break(vq, "indirect descriptor inside an indirect table");
		err = vq_chain_add(vq, &chain, start, word_len(word),
				   packed_flags(word) & VRING_DESC_F_WRITE);
		if (unlikely(err))
			return err;
	}
	return vq_chain_end(vq, &chain, elem);
}

/* Follow a chain that lies in the ring itself, beginning with @word at the next slot. */
static int walk_ring(struct virtqueue *vq, struct virtqueue_elem *elem, uint64_t word)
{
	const unsigned int limit = min(vq->max_chain, vq->num - vq->in_flight);
	struct vq_chain chain = vq_chain_begin(elem);
	unsigned int index = vq->avail_idx;
	bool wrap = vq->avail_wrap;
	unsigned int length;

	for (length = 1;; length++) {
		const uint16_t flags = packed_flags(word);
		int err;

		if (unlikely(flags & VRING_DESC_F_INDIRECT))
			return virtqueue_break(vq, "indirect descriptor in a chain");
		err = vq_chain_add(vq, &chain, load64(slot(vq, index)), word_len(word),
				   flags & VRING_DESC_F_WRITE);
		if (unlikely(err))
			return err;
		if (!(flags & VRING_DESC_F_NEXT))
			break;
		if (unlikely(length == limit))
			return virtqueue_break(vq, "descriptor chain of more than %u entries",
					       limit);
		if (++index == vq->num) {
			index = 0;
			wrap = !wrap;
		}
		word = load64(slot_word(vq, index));
		if (unlikely(!is_available(packed_flags(word), wrap)))
			return virtqueue_break(vq, "chain goes on in descriptor %u, which is not"
					       " available", index);
	}
	elem->id = packed_id(word);
	elem->ndesc = (uint16_t)length;
	return vq_chain_end(vq, &chain, elem);
}

static void advance(const struct virtqueue *vq, uint16_t *index, bool *wrap, uint16_t by)
{
	unsigned int next = *index + (unsigned int)by;

	if (next >= vq->num) {
		next -= vq->num;
		*wrap = !*wrap;
	}
	*index = (uint16_t)next;
}

int packed_pop(struct virtqueue *vq, struct virtqueue_elem *elem)
{
	uint64_t word = load64_acquire(slot_word(vq, vq->avail_idx));
	const uint16_t flags = packed_flags(word);
	int err;

	if (!is_available(flags, vq->avail_wrap))
		return 0;
	if (unlikely(vq->in_flight >= vq->num))
		return virtqueue_break(vq, "more than %u descriptors made available in a ring of"
				       " %u", vq->in_flight, vq->num);

	if ((flags & (VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT)) == VRING_DESC_F_INDIRECT) {
		err = walk_indirect(vq, elem, load64(slot(vq, vq->avail_idx)), word_len(word));
		elem->id = packed_id(word);
		elem->ndesc = 1;
	} else {
		err = walk_ring(vq, elem, word);
	}
	if (unlikely(err))
		return err;
	/* Linux indexes its tables with what comes back: never return a wild ID. */
	if (unlikely(elem->id >= vq->num))
		return virtqueue_break(vq, "buffer ID %u outside a ring of %u", elem->id, vq->num);
	advance(vq, &vq->avail_idx, &vq->avail_wrap, elem->ndesc);
	vq->in_flight += elem->ndesc;
	return 1;
}

void packed_push(struct virtqueue *vq, const struct virtqueue_elem *elem, uint32_t written)
{
	const uint16_t flags = (uint16_t)((vq->used_wrap ? F_AVAIL | F_USED : 0) |
					  (written ? VRING_DESC_F_WRITE : 0));
	const uint64_t word = written | (uint64_t)elem->id << 32 | (uint64_t)flags << 48;

	if (vq->used_idx == vq->used_committed && vq->used_wrap == vq->committed_wrap)
		vq->first_word = word;
	else
		store64(slot_word(vq, vq->used_idx), word);
	advance(vq, &vq->used_idx, &vq->used_wrap, elem->ndesc);
}

/*
 * 2.8.10: an interrupt for one descriptor is due when the batch covers it. Count
 * slots from the start of the batch; positions repeat after two rounds.
 */
static bool batch_covers(const struct virtqueue *vq, uint16_t off_wrap, unsigned int old_idx,
			 bool old_wrap, unsigned int length)
{
	const unsigned int round = vq->num, two_rounds = 2 * round;
	const unsigned int event = off_wrap & ~EVENT_WRAP;
	const bool event_wrap = off_wrap & EVENT_WRAP;
	unsigned int distance;

	if (event >= round)
		return true;
	distance = event + (event_wrap == old_wrap ? 0 : round) + two_rounds - old_idx;
	return distance % two_rounds < length;
}

bool packed_commit(struct virtqueue *vq)
{
	const uint16_t old_idx = vq->used_committed;
	const bool old_wrap = vq->committed_wrap;
	uint16_t off_wrap, flags;
	unsigned int length;

	length = vq->used_idx + (vq->used_wrap == old_wrap ? 0u : vq->num) - old_idx;
	if (!length)
		return false;
	store64_release(slot_word(vq, old_idx), vq->first_word);
	vq->used_committed = vq->used_idx;
	vq->committed_wrap = vq->used_wrap;
	vq->in_flight -= length;
	full_barrier();

	/* The driver writes off_wrap first, then flags. */
	flags = load16_acquire(&vq->driver_event->flags) & 3;
	if (flags == VRING_PACKED_EVENT_FLAG_DISABLE)
		return false;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !vq->event_idx)
		return true;
	off_wrap = load16(&vq->driver_event->off_wrap);
	return batch_covers(vq, off_wrap, old_idx, old_wrap, length);
}

void packed_disable_notify(struct virtqueue *vq)
{
	if (vq->notify_on)
		store16(&vq->device_event->flags, VRING_PACKED_EVENT_FLAG_DISABLE);
	vq->notify_on = false;
}

/* Asked already, and nothing was taken since: the stores and the barrier are not repeated. */
bool packed_enable_notify(struct virtqueue *vq)
{
	const uint16_t off_wrap = (uint16_t)(vq->avail_idx | (vq->avail_wrap ? EVENT_WRAP : 0));

	if (!vq->notify_on || vq->notify_at != off_wrap) {
		if (vq->event_idx) {
			store16(&vq->device_event->off_wrap, off_wrap);
			store16_release(&vq->device_event->flags, VRING_PACKED_EVENT_FLAG_DESC);
		} else {
			store16(&vq->device_event->flags, VRING_PACKED_EVENT_FLAG_ENABLE);
		}
		vq->notify_on = true;
		vq->notify_at = off_wrap;
		full_barrier();
	}
	return is_available(packed_flags(load64(slot_word(vq, vq->avail_idx))), vq->avail_wrap);
}
