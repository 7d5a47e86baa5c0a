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

#include "virtio/inflight_internal.h"

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

static void advance(const struct virtqueue *vq, uint16_t *index, bool *wrap, uint16_t by)
{
	unsigned int next = *index + (unsigned int)by;

	if (next >= vq->num) {
		next -= vq->num;
		*wrap = !*wrap;
	}
	*index = (uint16_t)next;
}

/*
 * A predecessor may have died with used descriptors in the ring that it had not
 * published, since the first of them was missing. The driver must not find them
 * behind the first that we publish.
 */
static void withdraw_unpublished(struct virtqueue *vq)
{
	const uint64_t both = (uint64_t)(F_AVAIL | F_USED) << 48;
	uint16_t index = vq->used_idx;
	bool wrap = vq->used_wrap;
	unsigned int i;

	for (i = 0; i < vq->in_flight; i++) {
		const uint64_t word = load64(slot_word(vq, index));
		const uint64_t available = (uint64_t)(wrap ? F_AVAIL : F_USED) << 48;

		if (!is_available(packed_flags(word), wrap))
			store64(slot_word(vq, index), (word & ~both) | available);
		advance(vq, &index, &wrap, 1);
	}
}

int packed_init(struct virtqueue *vq, struct error *e)
{
	struct virtqueue_state s = vq->params.state;
	int taken, err;

	if (vq->inflight) {
		err = inflight_packed_begin(vq->inflight, vq->num, vq->ring, &s, e);
		if (err)
			return err;
	}
	/* Slots between the two positions: taken by somebody before us. */
	taken = s.avail_idx - s.used_idx + (s.avail_wrap == s.used_wrap ? 0 : vq->num);
	if (s.avail_idx >= vq->num || s.used_idx >= vq->num || taken < 0 || taken > vq->num)
		return err_set(e, EINVAL, "state %u/%u, %u/%u is not possible in a ring of %u",
			       s.avail_idx, s.avail_wrap, s.used_idx, s.used_wrap, vq->num);
	vq->in_flight = (unsigned int)taken;
	vq->avail_idx = s.avail_idx;
	vq->avail_wrap = s.avail_wrap;
	vq->used_idx = s.used_idx;
	vq->used_wrap = s.used_wrap;
	vq->used_committed = s.used_idx;
	vq->committed_wrap = s.used_wrap;
	if (vq->inflight)
		withdraw_unpublished(vq);
	return 0;
}

/* 2.8.7: every entry counts, only WRITE means something, buffer IDs are ignored. */
static inline __attribute__((always_inline)) int
walk_indirect(struct virtqueue *vq, struct virtqueue_elem *elem, uint64_t addr, uint32_t len)
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

/*
 * Copy a descriptor into the log, at @elem->last. The entries behind it are free;
 * they are the chain's from log_chain() on.
 */
static inline int log_descriptor(struct virtqueue *vq, struct virtqueue_elem *elem, uint64_t addr,
				 uint64_t word, bool first)
{
	struct inflight *log = vq->inflight;

	elem->last = first ? log->free_head : inflight_packed_next(log, elem->last);
	if (unlikely(elem->last >= vq->num))
		return virtqueue_break(vq, "log of requests in flight: no free entry");
	if (first)
		elem->first = elem->last;
	inflight_packed_fill(log, elem->last, addr, word);
	return 0;
}

static inline int log_chain(struct virtqueue *vq, const struct virtqueue_elem *elem)
{
	struct inflight *log = vq->inflight;
	const uint16_t next = inflight_packed_next(log, elem->last);

	if (unlikely(next > vq->num))
		return virtqueue_break(vq, "log of requests in flight: free entry %u in a ring of"
				       " %u", next, vq->num);
	inflight_packed_pop(log, elem->first, elem->last, elem->ndesc, next);
	return 0;
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
		const uint64_t addr = load64(slot(vq, index));
		const uint16_t flags = packed_flags(word);
		int err;

		if (unlikely(flags & VRING_DESC_F_INDIRECT))
			return virtqueue_break(vq, "indirect descriptor in a chain");
		err = vq_chain_add(vq, &chain, addr, word_len(word), flags & VRING_DESC_F_WRITE);
		if (unlikely(err))
			return err;
		if (vq->inflight) {
			err = log_descriptor(vq, elem, addr, word, length == 1);
			if (unlikely(err))
				return err;
		}
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
		const uint64_t table = load64(slot(vq, vq->avail_idx));

		err = walk_indirect(vq, elem, table, word_len(word));
		elem->id = packed_id(word);
		elem->ndesc = 1;
		if (!err && vq->inflight)
			err = log_descriptor(vq, elem, table, word, true);
	} else {
		err = walk_ring(vq, elem, word);
	}
	if (unlikely(err))
		return err;
	/* Linux indexes its tables with what comes back: never return a wild ID. */
	if (unlikely(elem->id >= vq->num))
		return virtqueue_break(vq, "buffer ID %u outside a ring of %u", elem->id, vq->num);
	if (vq->inflight) {
		err = log_chain(vq, elem);
		if (unlikely(err))
			return err;
	}
	advance(vq, &vq->avail_idx, &vq->avail_wrap, elem->ndesc);
	vq->in_flight += elem->ndesc;
	return 1;
}

/* Follow the @num descriptors of a chain in the log, from @elem->first. */
static int walk_log(struct virtqueue *vq, struct virtqueue_elem *elem, unsigned int num)
{
	struct vq_chain chain = vq_chain_begin(elem);
	struct inflight *log = vq->inflight;
	union inflight_packed_half half = { .word = 0 };
	unsigned int i;
	int err;

	if (num > vq->max_chain)
		return virtqueue_break(vq, "log of requests in flight: chain of %u descriptors",
				       num);
	for (i = 0; i < num; i++) {
		const uint16_t at = i ? inflight_packed_next(log, elem->last) : elem->first;
		uint64_t addr;

		if (at >= vq->num)
			return virtqueue_break(vq, "log of requests in flight: chain goes on in"
					       " entry %u of %u", at, vq->num);
		elem->last = at;
		addr = READ_ONCE(log->packed->desc[at].addr);
		half.word = READ_ONCE(log->packed->desc[at].half.word);
		if (half.flags & VRING_DESC_F_INDIRECT) {
			if (num > 1)
				return virtqueue_break(vq, "indirect descriptor in a chain");
			elem->id = half.id;
			return walk_indirect(vq, elem, addr, half.len);
		}
		err = vq_chain_add(vq, &chain, addr, half.len, half.flags & VRING_DESC_F_WRITE);
		if (err)
			return err;
	}
	elem->id = half.id;
	return vq_chain_end(vq, &chain, elem);
}

/* In the ring its descriptors may have been overwritten by used ones. */
int packed_resubmit(struct virtqueue *vq, struct virtqueue_elem *elem)
{
	const struct inflight_order *next = inflight_next(vq->inflight);
	int err;

	elem->first = next->head;
	elem->ndesc = next->num;
	err = walk_log(vq, elem, next->num);
	if (err)
		return err;
	if (elem->id >= vq->num)
		return virtqueue_break(vq, "buffer ID %u outside a ring of %u", elem->id, vq->num);
	inflight_took_next(vq->inflight);
	return 1;
}

void packed_push(struct virtqueue *vq, const struct virtqueue_elem *elem, uint32_t written)
{
	const uint16_t flags = (uint16_t)((vq->used_wrap ? F_AVAIL | F_USED : 0) |
					  (written ? VRING_DESC_F_WRITE : 0));
	const uint64_t word = written | (uint64_t)elem->id << 32 | (uint64_t)flags << 48;

	const bool first = vq->used_idx == vq->used_committed &&
			   vq->used_wrap == vq->committed_wrap;

	if (first)
		vq->first_word = word;
	else
		store64(slot_word(vq, vq->used_idx), word);
	if (vq->inflight)
		inflight_packed_push(vq->inflight, elem->first, elem->last, first);
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
	if (vq->inflight)
		inflight_packed_prepare(vq->inflight, vq->used_idx, vq->used_wrap, old_idx,
					old_wrap);
	store64_release(slot_word(vq, old_idx), vq->first_word);
	vq->used_committed = vq->used_idx;
	vq->committed_wrap = vq->used_wrap;
	vq->in_flight -= length;
	full_barrier();
	if (vq->inflight && unlikely(!inflight_packed_commit(vq->inflight, vq->used_idx,
							     vq->used_wrap, vq->num)))
		virtqueue_break(vq, "log of requests in flight: the list of the last batch is"
				" damaged");

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
