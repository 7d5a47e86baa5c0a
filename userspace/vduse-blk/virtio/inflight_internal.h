/* SPDX-License-Identifier: MIT */
/*
 * inflight_internal.h: layout of the regions, and what a virtqueue writes there
 * for each request. See inflight.c for the order of these stores.
 *
 * Numbers are in the machine's byte order: both sides run on this machine.
 */
#ifndef VIRTIO_INFLIGHT_INTERNAL_H
#define VIRTIO_INFLIGHT_INTERNAL_H

#include "virtio/inflight.h"
#include "virtio/virtqueue_internal.h"

#define INFLIGHT_VERSION	1u

/**
 * struct inflight_split_desc - state of one descriptor of a split ring
 * @inflight: 1: head of a chain that is in flight
 * @next: head that was used before this one, in the last batch
 * @counter: order in which chains were taken
 */
struct inflight_split_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

/**
 * struct inflight_split - region of a split virtqueue
 * @version: 0: not in use
 * @desc_num: ring size
 * @last_batch_head: the head used last in the last batch
 * @used_idx: the ring's used index, once @desc says the same as it
 */
struct inflight_split {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct inflight_split_desc desc[];
};

/*
 * The fields of these two words change together: one store, so that nobody ever
 * finds half of the change.
 */
union inflight_packed_entry {
	struct {
		uint8_t inflight;
		uint8_t padding;
		uint16_t next;
		uint16_t last;
		uint16_t num;
	};
	uint64_t word;
};

union inflight_packed_used {
	struct {
		uint16_t idx;
		uint16_t old_idx;
		uint8_t wrap;
		uint8_t old_wrap;
		uint8_t padding[2];
	};
	uint64_t word;
};

union inflight_packed_free {
	struct {
		uint16_t head;
		uint16_t old_head;
	};
	uint32_t word;
};

union inflight_packed_half {
	struct {
		uint16_t id;
		uint16_t flags;
		uint32_t len;
	};
	uint64_t word;
};

/**
 * struct inflight_packed_desc - copy of a descriptor of a packed ring
 * @entry: inflight: 1: first of a chain that is in flight; next: the next of the
 *	chain or of the free list, the ring size at the end of that; last, num: of
 *	the chain, in its first entry
 * @counter: order in which chains were taken
 * @half: the descriptor's buffer ID, flags and length
 * @addr: its address
 */
struct inflight_packed_desc {
	union inflight_packed_entry entry;
	uint64_t counter;
	union inflight_packed_half half;
	uint64_t addr;
};

/**
 * struct inflight_packed - region of a packed virtqueue
 * @version: 0: not in use
 * @desc_num: ring size
 * @free: first entry that is free, and its value before the batch at work
 * @used: the device's position, and its value before the batch at work
 */
struct inflight_packed {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	union inflight_packed_free free;
	union inflight_packed_used used;
	uint8_t padding[8];
	struct inflight_packed_desc desc[];
};

_Static_assert(sizeof(struct inflight_split_desc) == 16 &&
	       offsetof(struct inflight_split_desc, next) == 6 &&
	       offsetof(struct inflight_split, last_batch_head) == 12 &&
	       offsetof(struct inflight_split, desc) == 16, "as the specification has it");
_Static_assert(sizeof(struct inflight_packed_desc) == 32 &&
	       offsetof(struct inflight_packed_desc, half) == 16 &&
	       offsetof(struct inflight_packed_desc, addr) == 24 &&
	       offsetof(struct inflight_packed, free) == 12 &&
	       offsetof(struct inflight_packed, used) == 16 &&
	       offsetof(struct inflight_packed, desc) == 32, "as the specification has it");

/* A request to be handed out again; @num: packed: entries of its chain. */
struct inflight_order {
	uint64_t counter;
	uint16_t head;
	uint16_t num;
};

/**
 * struct inflight - the log of one virtqueue
 * @region, @split, @packed: the shared memory
 * @bytes: its size
 * @max_num: entries of @order and @seen
 * @counter: for the next chain that is taken
 * @batch_head, @batch_tail: list of the chains pushed since the last commit; for
 *	a packed ring @batch_tail is the last entry of the first of them
 * @free_head: packed: of the region's list
 * @order: what the predecessor left, by counter
 * @pending, @resubmitted: how many of those wait, and how many were handed out
 * @seen: which entries were met, while a region is checked
 */
struct inflight {
	union {
		void *region;
		struct inflight_split *split;
		struct inflight_packed *packed;
	};
	size_t bytes;
	unsigned int max_num;
	uint64_t counter;
	uint16_t batch_head;
	uint16_t batch_tail;
	uint16_t free_head;
	unsigned int pending;
	unsigned int resubmitted;
	struct inflight_order *order;
	uint8_t *seen;
};

/*
 * Take over what a predecessor left, or prepare an empty log. @state is where
 * to begin without a log, and then where to begin. @used_idx: split: the ring's.
 * @ring: packed: descriptors, to see what was published.
 */
int inflight_split_begin(struct inflight *log, unsigned int num, uint16_t used_idx,
			 struct virtqueue_state *state, struct error *e);
int inflight_packed_begin(struct inflight *log, unsigned int num,
			  const struct vring_packed_desc *ring, struct virtqueue_state *state,
			  struct error *e);

/* The next to be handed out again; there is one. */
static inline const struct inflight_order *inflight_next(const struct inflight *log)
{
	return &log->order[log->resubmitted];
}

static inline void inflight_took_next(struct inflight *log)
{
	log->resubmitted++;
	log->pending--;
}

/* Split ring */

static inline bool inflight_split_busy(const struct inflight *log, uint16_t head)
{
	return READ_ONCE(log->split->desc[head].inflight);
}

static inline void inflight_split_pop(struct inflight *log, uint16_t head)
{
	struct inflight_split_desc *d = &log->split->desc[head];

	host_store64(&d->counter, log->counter++);
	host_store8(&d->inflight, 1);
}

static inline void inflight_split_push(struct inflight *log, uint16_t head)
{
	host_store16(&log->split->desc[head].next, log->batch_head);
	log->batch_head = head;
}

/* Before the used index is published. */
static inline void inflight_split_prepare(struct inflight *log)
{
	host_store16(&log->split->last_batch_head, log->batch_head);
}

/* After @count chains were published; @mask: ring size - 1. The region may lie. */
static inline void inflight_split_commit(struct inflight *log, uint16_t used_idx, uint16_t count,
					 uint16_t mask)
{
	uint16_t head = log->batch_head;

	while (count--) {
		struct inflight_split_desc *d = &log->split->desc[head];

		host_store8(&d->inflight, 0);
		head = READ_ONCE(d->next) & mask;
	}
	host_store16(&log->split->used_idx, used_idx);
}

/* Packed ring */

/* Copy a descriptor into a free entry. */
static inline void inflight_packed_fill(struct inflight *log, uint16_t entry, uint64_t addr,
					uint64_t word)
{
	struct inflight_packed_desc *d = &log->packed->desc[entry];
	const union inflight_packed_half half = {
		.id = packed_id(word), .flags = packed_flags(word), .len = word_len(word),
	};

	host_store64(&d->addr, addr);
	host_store64(&d->half.word, half.word);
}

static inline uint16_t inflight_packed_next(const struct inflight *log, uint16_t entry)
{
	return READ_ONCE(log->packed->desc[entry].entry.next);
}

/* A chain of @num entries was filled in, from @first to @last. @next: what is free then. */
static inline void inflight_packed_pop(struct inflight *log, uint16_t first, uint16_t last,
				       uint16_t num, uint16_t next)
{
	struct inflight_packed_desc *d = &log->packed->desc[first];
	const union inflight_packed_entry entry = {
		.inflight = 1, .next = READ_ONCE(d->entry.next), .last = last, .num = num,
	};
	const union inflight_packed_free free = { .head = next, .old_head = next };

	host_store64(&d->counter, log->counter++);
	host_store64(&d->entry.word, entry.word);
	host_store32(&log->packed->free.word, free.word);
	log->free_head = next;
}

static inline void inflight_packed_push(struct inflight *log, uint16_t first, uint16_t last,
					bool begins_batch)
{
	if (begins_batch)
		log->batch_tail = last;
	else
		host_store16(&log->packed->desc[last].entry.next, log->batch_head);
	log->batch_head = first;
}

static inline uint64_t inflight_packed_position(uint16_t idx, bool wrap, uint16_t old_idx,
						bool old_wrap)
{
	const union inflight_packed_used used = {
		.idx = idx, .wrap = wrap, .old_idx = old_idx, .old_wrap = old_wrap,
	};

	return used.word;
}

/* Before the batch from @old_idx up to @idx is published. */
static inline void inflight_packed_prepare(struct inflight *log, uint16_t idx, bool wrap,
					   uint16_t old_idx, bool old_wrap)
{
	struct inflight_packed *p = log->packed;

	host_store16(&p->desc[log->batch_tail].entry.next, log->free_head);
	host_store16(&p->free.head, log->batch_head);
	host_store64(&p->used.word, inflight_packed_position(idx, wrap, old_idx, old_wrap));
}

/* After @idx was published; @num: ring size. False: the region makes no sense. */
static inline bool inflight_packed_commit(struct inflight *log, uint16_t idx, bool wrap,
					  uint16_t num)
{
	struct inflight_packed *p = log->packed;
	uint16_t at = log->batch_head, last;
	unsigned int left = num;

	for (;;) {
		last = READ_ONCE(p->desc[at].entry.last);
		host_store8(&p->desc[at].entry.inflight, 0);
		if (last == log->batch_tail)
			break;
		if (unlikely(last >= num || !--left))
			return false;
		at = inflight_packed_next(log, last);
		if (unlikely(at >= num))
			return false;
	}
	host_store16(&p->free.old_head, log->batch_head);
	host_store64(&p->used.word, inflight_packed_position(idx, wrap, idx, wrap));
	log->free_head = log->batch_head;
	return true;
}

#endif /* VIRTIO_INFLIGHT_INTERNAL_H */
