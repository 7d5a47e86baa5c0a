// SPDX-License-Identifier: MIT
/*
 * inflight.c: which requests a killed process had in flight.
 *
 * What is promised: kill the process between any two stores; a successor that
 * begins with the same rings and the same region takes exactly the chains that
 * were made available and are not published as used: first those that the dead
 * process had taken, in the order in which it had, then the rest of the ring.
 * None is skipped, none is published twice. The successor may be killed too,
 * while it recovers as well.
 *
 * Only the death of a process matters, not that of the machine: a kill falls
 * between two instructions, and all stores before it are in shared memory when
 * another process looks. So the order of the program is the order that counts,
 * and the compiler must keep it: every store here and to the rings is a volatile
 * or an atomic access, and full_barrier() stands behind each publication.
 *
 * Each change of state is one store; whatever it takes besides is written before
 * it where nobody looks yet, or tidied up after it from what is still there.
 *
 * Split ring. A chain is taken by desc[head].inflight = 1; its counter is written
 * before, and means nothing until then. A batch is published by the ring's used
 * index U. Before that, last_batch_head leads to a list of the heads pushed since
 * the last batch. After that the heads' inflight flags are cleared, and used_idx
 * = U says that this is done. So at any time:
 *
 *	used_idx == U	flags are right. The list may be of a batch to come.
 *	used_idx != U	the first U - used_idx heads of the list are published,
 *			whatever their flags say. Clear them (again), then set
 *			used_idx.
 *
 * The list is that long and not longer when U moves, because every push since the
 * last commit is in it and U moves by their number; until used_idx follows, nobody
 * pushes. A head that the driver reuses at once is not taken again before either.
 *
 * The available index A is not stored: chains are taken in the order of the
 * available ring, so A is U plus the number of chains in flight, in each of the
 * states above. That is why taking needs one store only, and the position that a
 * transport kept elsewhere, which may be older, is not asked for.
 *
 * Packed ring. Used descriptors overwrite available ones of other chains, so the
 * region keeps a copy of each descriptor. Entries are chained, the free ones as
 * well. A chain is taken by moving free.head, and free.old_head with it, past
 * entries that were filled in while they were free: an inflight flag counts only
 * in entries outside the free list. A batch is published by the first of its used
 * descriptors. Before that, the batch's entries are put in front of the free
 * list, in free.head only, and the position behind the batch is stored, in used's
 * new half only. After that flags are cleared, and then the old halves follow,
 * free.old_head before the position. So:
 *
 *	position == old		the free list begins at free.old_head
 *	position != old		look at the ring at the old position: USED there
 *				equals the old wrap counter if and only if the batch
 *				is published (before that the slot is a driver's
 *				available one; afterwards it is used, or available
 *				again in the next round, where the wrap counter is
 *				inverted). If so, the new halves are right, else the
 *				old ones.
 *
 * Position and wrap counter, old and new, are one 64-bit word that is stored at
 * once: a batch as long as the ring changes the wrap counter alone, and half a
 * change would be taken for another position. Pushed chains are linked outside
 * the region's list heads until the commit, since chains may be taken from the
 * free list in between.
 *
 * Used descriptors of a batch are in the ring before its first one publishes them
 * all. If that did not happen, they must go: see withdraw_unpublished() in
 * virtqueue_packed.c. The available position is the used one plus the descriptors
 * in flight.
 *
 * Recovery writes in the same order as normal work does, so it may be cut short
 * and repeated: flags of a published batch before used_idx (split), free.old_head
 * before the position, the position before the flags (packed; on the free list
 * they count for nothing).
 *
 * Nothing in the region is believed. Indices are compared with the ring's size,
 * lists have to end and may not meet, every entry is accounted for, counters
 * differ. Later, each index is checked when it is read again, since the memory
 * can change.
 */
#include <stdlib.h>
#include <string.h>

#include "virtio/inflight_internal.h"

size_t inflight_region_bytes(unsigned int num)
{
	size_t split = sizeof(struct inflight_split) + num * sizeof(struct inflight_split_desc);
	size_t packed = sizeof(struct inflight_packed) + num * sizeof(struct inflight_packed_desc);

	return round_up(max(split, packed), INFLIGHT_ALIGN);
}

int inflight_create(void *region, size_t bytes, unsigned int max_num, struct inflight **ret_log,
		    struct error *e)
{
	struct inflight *log;

	if (!max_num || max_num > VIRTQUEUE_MAX_NUM || bytes < inflight_region_bytes(max_num))
		return err_set(e, EINVAL, "log of requests in flight: %zu bytes for a ring of %u",
			       bytes, max_num);
	if (!is_aligned((uintptr_t)region, INFLIGHT_ALIGN))
		return err_set(e, EINVAL, "log of requests in flight is not aligned to %u bytes",
			       INFLIGHT_ALIGN);
	log = calloc(1, sizeof(*log));
	if (!log)
		goto no_memory;
	log->region = region;
	log->bytes = bytes;
	log->max_num = max_num;
	log->order = calloc(max_num, sizeof(*log->order));
	log->seen = calloc(max_num, 1);
	if (!log->order || !log->seen)
		goto free_log;
	*ret_log = log;
	return 0;

free_log:
	inflight_destroy(log);
no_memory:
	return err_set(e, ENOMEM, "no memory for a log of %u requests", max_num);
}

void inflight_destroy(struct inflight *log)
{
	if (!log)
		return;
	free(log->seen);
	free(log->order);
	free(log);
}

/* Both formats have the version at the same place. */
void inflight_forget(struct inflight *log)
{
	host_store16(&log->split->version, 0);
	log->pending = 0;
}

unsigned int inflight_pending(const struct inflight *log)
{
	return log->pending;
}

/* What is wrong with a region; the prefix is the same everywhere. */
#define refuse(e, fmt, ...) \
	err_set(e, EINVAL, "log of requests in flight: " fmt, ##__VA_ARGS__)

/* Taken before there was a log: nobody could say which. */
static int check_nothing_taken(bool nothing, struct error *e)
{
	return nothing ? 0 : refuse(e, "empty, although requests are in flight");
}

/* Version and ring size are at the same place in both formats. */
static int check_header(const struct inflight *log, unsigned int num, struct error *e)
{
	const struct inflight_split *r = log->split;
	const uint64_t features = READ_ONCE(r->features);
	const uint16_t version = READ_ONCE(r->version), desc_num = READ_ONCE(r->desc_num);

	if (version != INFLIGHT_VERSION)
		return refuse(e, "version %u, only %u is known", version, INFLIGHT_VERSION);
	if (features)
		return refuse(e, "unknown features 0x%" PRIx64, features);
	if (desc_num != num)
		return refuse(e, "made for a ring of %u, not of %u", desc_num, num);
	return 0;
}

static void begin(struct inflight *log, unsigned int num)
{
	memset(log->seen, 0, num);
	log->counter = 0;
	log->batch_head = 0;
	log->batch_tail = 0;
	log->pending = 0;
	log->resubmitted = 0;
}

static int by_counter(const void *a, const void *b)
{
	const struct inflight_order *x = a, *y = b;

	return (x->counter > y->counter) - (x->counter < y->counter);
}

/* @log->order has @count entries: sort them and go on counting behind the last. */
static int set_order(struct inflight *log, unsigned int count, struct error *e)
{
	unsigned int i;

	if (!count)
		return 0;
	qsort(log->order, count, sizeof(log->order[0]), by_counter);
	for (i = 1; i < count; i++)
		if (log->order[i].counter == log->order[i - 1].counter)
			return refuse(e, "entries %u and %u have the same counter",
				      log->order[i - 1].head, log->order[i].head);
	if (log->order[count - 1].counter == UINT64_MAX)
		return refuse(e, "counter of entry %u is out of range",
			      log->order[count - 1].head);
	log->counter = log->order[count - 1].counter + 1;
	return 0;
}

/* Is the entry in flight? Returns 1 or 0, or refuses. */
static int flag_of(uint8_t flag, unsigned int entry, struct error *e)
{
	return flag > 1 ? refuse(e, "entry %u is neither in flight nor not", entry) : flag;
}

/* Split ring */

static void split_format(struct inflight *log, unsigned int num, uint16_t used_idx)
{
	struct inflight_split *r = log->split;
	unsigned int i;

	host_store64(&r->features, 0);
	host_store16(&r->desc_num, (uint16_t)num);
	host_store16(&r->last_batch_head, 0);
	host_store16(&r->used_idx, used_idx);
	for (i = 0; i < num; i++)
		host_store8(&r->desc[i].inflight, 0);
	host_store16(&r->version, INFLIGHT_VERSION);
}

/* Note the heads of a batch that is published, but perhaps not in the flags. */
static int split_find_batch(struct inflight *log, unsigned int num, uint16_t batch,
			    struct error *e)
{
	uint16_t at = READ_ONCE(log->split->last_batch_head);
	unsigned int i;

	if (batch > num)
		return refuse(e, "the ring's used index is %u ahead in a ring of %u", batch, num);
	for (i = 0; i < batch; i++) {
		if (at >= num || log->seen[at])
			return refuse(e, "the list of the last batch is damaged");
		log->seen[at] = 1;
		at = READ_ONCE(log->split->desc[at].next);
	}
	return 0;
}

static int split_collect(struct inflight *log, unsigned int num, unsigned int *ret_count,
			 struct error *e)
{
	unsigned int i, count = 0;
	int flag;

	for (i = 0; i < num; i++) {
		const struct inflight_split_desc *d = &log->split->desc[i];

		flag = flag_of(READ_ONCE(d->inflight), i, e);
		if (flag < 0)
			return flag;
		if (flag && !log->seen[i])
			log->order[count++] = (struct inflight_order){
				.counter = READ_ONCE(d->counter), .head = (uint16_t)i,
			};
	}
	*ret_count = count;
	return 0;
}

int inflight_split_begin(struct inflight *log, unsigned int num, uint16_t used_idx,
			 struct virtqueue_state *state, struct error *e)
{
	struct inflight_split *r = log->split;
	unsigned int i, count = 0;
	int err;

	if (num > log->max_num)
		return refuse(e, "too short for a ring of %u", num);
	begin(log, num);
	if (!READ_ONCE(r->version)) {
		err = check_nothing_taken(state->avail_idx == used_idx, e);
		if (!err)
			split_format(log, num, used_idx);
		return err;
	}
	err = check_header(log, num, e);
	if (!err)
		err = split_find_batch(log, num, (uint16_t)(used_idx - READ_ONCE(r->used_idx)), e);
	if (!err)
		err = split_collect(log, num, &count, e);
	if (!err)
		err = set_order(log, count, e);
	if (err)
		return err;

	for (i = 0; i < num; i++)
		if (log->seen[i])
			host_store8(&r->desc[i].inflight, 0);
	host_store16(&r->used_idx, used_idx);
	log->pending = count;
	state->avail_idx = (uint16_t)(used_idx + count);
	return 0;
}

/* Packed ring */

static void packed_format(struct inflight *log, unsigned int num,
			  const struct virtqueue_state *s)
{
	struct inflight_packed *r = log->packed;
	const union inflight_packed_free free = { .word = 0 };
	unsigned int i;

	host_store64(&r->features, 0);
	host_store16(&r->desc_num, (uint16_t)num);
	for (i = 0; i < num; i++) {
		const union inflight_packed_entry entry = { .next = (uint16_t)(i + 1) };

		host_store64(&r->desc[i].entry.word, entry.word);
	}
	host_store32(&r->free.word, free.word);
	host_store64(&r->used.word, inflight_packed_position(s->used_idx, s->used_wrap,
							     s->used_idx, s->used_wrap));
	host_store16(&r->version, INFLIGHT_VERSION);
	log->free_head = 0;
}

static int packed_mark_free(struct inflight *log, unsigned int num, uint16_t at,
			    unsigned int *ret_count, struct error *e)
{
	unsigned int count = 0;

	for (; at != num; at = inflight_packed_next(log, at)) {
		if (at > num || log->seen[at])
			return refuse(e, "the list of free entries is damaged");
		log->seen[at] = 1;
		count++;
	}
	*ret_count = count;
	return 0;
}

/* Note the entries of a chain that begins at @head. */
static int packed_mark_chain(struct inflight *log, unsigned int num, uint16_t head,
			     struct inflight_order *ret_order, struct error *e)
{
	const struct inflight_packed_desc *d = &log->packed->desc[head];
	const union inflight_packed_entry entry = { .word = READ_ONCE(d->entry.word) };
	uint16_t at = head;
	unsigned int i;

	if (!entry.num || entry.num > num)
		return refuse(e, "chain of %u descriptors in a ring of %u", entry.num, num);
	for (i = 1;; i++) {
		if (at >= num || log->seen[at])
			return refuse(e, "the chain at entry %u is damaged", head);
		log->seen[at] = 2;
		if (i == entry.num)
			break;
		at = inflight_packed_next(log, at);
	}
	if (at != entry.last)
		return refuse(e, "the chain at entry %u ends in entry %u, not in %u", head, at,
			      entry.last);
	*ret_order = (struct inflight_order){
		.counter = READ_ONCE(d->counter), .head = head, .num = entry.num,
	};
	return 0;
}

static int packed_collect(struct inflight *log, unsigned int num, uint16_t free_head,
			  unsigned int *ret_count, unsigned int *ret_taken, struct error *e)
{
	unsigned int i, free = 0, count = 0, taken = 0;
	int flag, err;

	err = packed_mark_free(log, num, free_head, &free, e);
	for (i = 0; i < num && !err; i++) {
		if (log->seen[i] == 1)
			continue;
		flag = flag_of(READ_ONCE(log->packed->desc[i].entry.inflight), i, e);
		if (flag < 0)
			return flag;
		if (!flag)
			continue;
		err = packed_mark_chain(log, num, (uint16_t)i, &log->order[count], e);
		if (!err)
			taken += log->order[count++].num;
	}
	if (err)
		return err;
	if (free + taken != num)
		return refuse(e, "%u entries are neither free nor in flight", num - free - taken);
	*ret_count = count;
	*ret_taken = taken;
	return 0;
}

static int packed_check_position(const union inflight_packed_used *used, unsigned int num,
				 struct error *e)
{
	if (used->idx >= num || used->old_idx >= num || used->wrap > 1 || used->old_wrap > 1)
		return refuse(e, "position %u/%u, before %u/%u, is not possible in a ring of %u",
			      used->idx, used->wrap, used->old_idx, used->old_wrap, num);
	return 0;
}

/* Is the batch between the two positions published? */
static bool packed_published(const union inflight_packed_used *used,
			     const struct vring_packed_desc *ring)
{
	const uint64_t word = load64(&ring[used->old_idx].len);

	return !!(packed_flags(word) & 1u << VRING_PACKED_DESC_F_USED) == used->old_wrap;
}

static void packed_settle(struct inflight *log, unsigned int num, bool published,
			  uint16_t free_head, uint64_t position)
{
	struct inflight_packed *r = log->packed;
	unsigned int i;

	if (published)
		host_store16(&r->free.old_head, free_head);
	else
		host_store16(&r->free.head, free_head);
	host_store64(&r->used.word, position);
	for (i = 0; i < num; i++)
		if (log->seen[i] == 1)
			host_store8(&r->desc[i].entry.inflight, 0);
	log->free_head = free_head;
}

static void packed_state(unsigned int num, uint16_t idx, bool wrap, unsigned int taken,
			 struct virtqueue_state *ret_state)
{
	const unsigned int avail = idx + taken;

	*ret_state = (struct virtqueue_state){
		.avail_idx = (uint16_t)(avail >= num ? avail - num : avail),
		.avail_wrap = avail >= num ? !wrap : wrap,
		.used_idx = idx,
		.used_wrap = wrap,
	};
}

int inflight_packed_begin(struct inflight *log, unsigned int num,
			  const struct vring_packed_desc *ring, struct virtqueue_state *state,
			  struct error *e)
{
	struct inflight_packed *r = log->packed;
	union inflight_packed_used used;
	union inflight_packed_free free;
	unsigned int count = 0, taken = 0;
	bool published, wrap;
	uint16_t idx, head;
	int err;

	if (num > log->max_num)
		return refuse(e, "too short for a ring of %u", num);
	begin(log, num);
	if (!READ_ONCE(r->version)) {
		err = check_nothing_taken(state->avail_idx == state->used_idx &&
					  state->avail_wrap == state->used_wrap, e);
		if (!err && state->used_idx < num)
			packed_format(log, num, state);
		return err;
	}
	err = check_header(log, num, e);
	if (err)
		return err;
	used.word = READ_ONCE(r->used.word);
	free.word = READ_ONCE(r->free.word);
	err = packed_check_position(&used, num, e);
	if (err)
		return err;
	published = (used.idx != used.old_idx || used.wrap != used.old_wrap) &&
		    packed_published(&used, ring);
	idx = published ? used.idx : used.old_idx;
	wrap = published ? used.wrap : used.old_wrap;
	head = published ? free.head : free.old_head;

	err = packed_collect(log, num, head, &count, &taken, e);
	if (!err)
		err = set_order(log, count, e);
	if (err)
		return err;
	packed_settle(log, num, published, head, inflight_packed_position(idx, wrap, idx, wrap));
	log->pending = count;
	packed_state(num, idx, wrap, taken, state);
	return 0;
}
