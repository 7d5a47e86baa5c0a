// SPDX-License-Identifier: MIT
/*
 * sim_driver.c: see sim_driver.h. Written from the driver's rules in virtio 1.2,
 * 2.7 and 2.8, and independently of the device side: it shares no helper with
 * it, so that a misunderstanding there does not cancel out here.
 */
#include "tests/sim_driver.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PACKED_AVAIL	(1u << 7)
#define PACKED_USED	(1u << 15)

static void full_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static uint64_t take(uint64_t *next, uint64_t bytes, uint64_t align)
{
	uint64_t at = (*next + align - 1) / align * align;

	*next = at + bytes;
	return at;
}

static const struct iotlb_ops no_ops;

static void lay_out(struct sim_driver *d)
{
	const unsigned int max = d->params.max_chain;
	uint64_t next = d->iova;

	d->desc = take(&next, 16ull * d->num, 16);
	d->driver = take(&next, 6 + 2ull * d->num, 4);
	d->device = take(&next, 6 + 8ull * d->num, 4);
	d->tables = take(&next, 16ull * max * d->num, 16);
	d->data = take(&next, 0, 4096);
	d->data_end = d->iova + d->params.arena_bytes;
	assert(d->data < d->data_end);

	d->split_desc = sim_mem(d, d->desc);
	d->avail = sim_mem(d, d->driver);
	d->used = sim_mem(d, d->device);
	d->ring = sim_mem(d, d->desc);
	d->driver_event = sim_mem(d, d->driver);
	d->device_event = sim_mem(d, d->device);
}

/* Rings and tables are in one mapping, buffers in one too or in small ones. */
static void map_arena(struct sim_driver *d)
{
	struct iotlb_region r = { .iova = d->iova, .size = d->params.arena_bytes,
				  .perm = IOTLB_RW, .vaddr = d->arena };
	const uint64_t end = d->iova + d->params.arena_bytes;
	int err;

	if (d->params.region_bytes)
		r.size = d->data - d->iova;
	for (;;) {
		err = iotlb_add(d->iotlb, &r);
		assert(!err);
		r.iova += r.size;
		r.vaddr += r.size;
		if (r.iova == end)
			return;
		r.size = d->params.region_bytes;
		if (r.size > end - r.iova)
			r.size = end - r.iova;
	}
}

static void create_iotlb(struct sim_driver *d)
{
	int err = iotlb_create(&no_ops, NULL, &d->iotlb);

	assert(!err);
	map_arena(d);
}

struct sim_driver *sim_create(const struct sim_params *params)
{
	struct sim_driver *d = calloc(1, sizeof(*d));
	unsigned int i;

	assert(d);
	d->params = *params;
	if (!d->params.max_chain)
		d->params.max_chain = 64;
	if (!d->params.arena_bytes)
		d->params.arena_bytes = SIM_ARENA_BYTES;
	d->num = params->num;
	d->iova = params->iova ? params->iova : SIM_IOVA;
	d->arena = params->arena ? params->arena : aligned_alloc(4096, d->params.arena_bytes);
	d->slots = calloc(d->num, sizeof(*d->slots));
	d->free_desc = calloc(d->num, sizeof(*d->free_desc));
	assert(d->arena && d->slots && d->free_desc);
	if (!params->arena)
		memset(d->arena, 0, d->params.arena_bytes);
	lay_out(d);
	for (i = 0; i < d->num; i++)
		d->free_desc[i] = (uint16_t)(d->num - 1 - i);
	d->num_free = d->num;
	d->avail_wrap = true;
	d->used_wrap = true;
	d->callbacks = true;
	if (!params->packed) {
		d->avail_idx = params->start;
		d->used_idx = params->start;
		d->avail_kicked = params->start;
		d->avail->idx = params->start;
		d->used->idx = params->start;
	}
	create_iotlb(d);
	return d;
}

void sim_destroy(struct sim_driver *d)
{
	iotlb_destroy(d->iotlb);
	free(d->free_desc);
	free(d->slots);
	if (!d->params.arena)
		free(d->arena);
	free(d);
}

void sim_replace_device(struct sim_driver *d)
{
	memset(d->iotlb->holds, 0, sizeof(d->iotlb->holds));
	iotlb_destroy(d->iotlb);
	create_iotlb(d);
}

void *sim_mem(const struct sim_driver *d, uint64_t iova)
{
	assert(iova >= d->iova && iova - d->iova < d->params.arena_bytes);
	return d->arena + (iova - d->iova);
}

struct virtqueue_params sim_virtqueue_params(const struct sim_driver *d)
{
	struct virtqueue_params p = {
		.num = d->num,
		.packed = d->params.packed,
		.event_idx = d->params.event_idx,
		.indirect = d->params.indirect,
		.max_chain = d->params.max_chain,
		.desc = d->desc,
		.driver = d->driver,
		.device = d->device,
		.state = VIRTQUEUE_STATE_INIT,
		.iotlb = d->iotlb,
	};

	if (!p.packed)
		p.state.avail_idx = d->params.start;
	return p;
}

static bool add_split(struct sim_driver *d, const struct sim_segment *seg, unsigned int n,
		      bool indirect, void *cookie)
{
	const unsigned int need = indirect ? 1 : n;
	struct vring_desc *table;
	uint16_t index[64], head;
	unsigned int i;

	if (d->num_free < need)
		return false;
	assert(need <= 64);
	for (i = 0; i < need; i++)
		index[i] = d->free_desc[--d->num_free];
	head = index[0];
	table = indirect ? sim_mem(d, d->tables + 16ull * d->params.max_chain * head) :
		d->split_desc;
	for (i = 0; i < n; i++) {
		unsigned int at = indirect ? i : index[i];
		unsigned int next = i + 1 == n ? 0 : indirect ? i + 1 : index[i + 1];

		table[at].addr = seg[i].iova;
		table[at].len = seg[i].len;
		table[at].flags = (uint16_t)((seg[i].write ? VRING_DESC_F_WRITE : 0) |
					     (i + 1 < n ? VRING_DESC_F_NEXT : 0));
		table[at].next = (uint16_t)next;
	}
	if (indirect)
		d->split_desc[head] = (struct vring_desc){
			.addr = d->tables + 16ull * d->params.max_chain * head,
			.len = 16 * n,
			.flags = VRING_DESC_F_INDIRECT,
		};
	d->slots[head] = (struct sim_slot){ cookie, (uint16_t)need, head, true };
	d->avail->ring[d->avail_idx % d->num] = head;
	d->avail_idx++;
	__atomic_store_n(&d->avail->idx, d->avail_idx, __ATOMIC_RELEASE);
	return true;
}

/* Buffer IDs are any free number, not the ring position: take the highest. */
static uint16_t free_id(const struct sim_driver *d)
{
	unsigned int id = d->num;

	while (id-- && d->slots[id].busy)
		;
	assert(id < d->num);
	return (uint16_t)id;
}

static bool add_packed(struct sim_driver *d, const struct sim_segment *seg, unsigned int n,
		       bool indirect, void *cookie)
{
	const unsigned int need = indirect ? 1 : n;
	const uint16_t first = d->avail_idx;
	uint16_t id, first_flags = 0;
	unsigned int i;

	if (d->num_free < need)
		return false;
	id = free_id(d);
	if (indirect) {
		struct vring_packed_desc *table =
			sim_mem(d, d->tables + 16ull * d->params.max_chain * id);

		for (i = 0; i < n; i++)
			table[i] = (struct vring_packed_desc){
				.addr = seg[i].iova, .len = seg[i].len,
				.id = 0xdead, /* reserved, to be ignored */
				.flags = seg[i].write ? VRING_DESC_F_WRITE : 0,
			};
	}
	for (i = 0; i < need; i++) {
		struct vring_packed_desc *desc = &d->ring[d->avail_idx];
		uint16_t flags = d->avail_wrap ? PACKED_AVAIL : PACKED_USED;

		if (indirect) {
			desc->addr = d->tables + 16ull * d->params.max_chain * id;
			desc->len = 16 * n;
			flags |= VRING_DESC_F_INDIRECT;
		} else {
			desc->addr = seg[i].iova;
			desc->len = seg[i].len;
			flags |= (uint16_t)((seg[i].write ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < n ? VRING_DESC_F_NEXT : 0));
		}
		/* The ID counts in the last one only. */
		desc->id = i + 1 == need ? id : 0xbeef;
		if (i == 0)
			first_flags = flags;
		else
			desc->flags = flags;
		if (++d->avail_idx == d->num) {
			d->avail_idx = 0;
			d->avail_wrap = !d->avail_wrap;
		}
	}
	d->slots[id] = (struct sim_slot){ cookie, (uint16_t)need, id, true };
	d->num_free -= need;
	d->added = (uint16_t)(d->added + need);
	__atomic_store_n(&d->ring[first].flags, first_flags, __ATOMIC_RELEASE);
	return true;
}

bool sim_add(struct sim_driver *d, const struct sim_segment *segments, unsigned int n,
	     bool indirect, void *cookie)
{
	assert(n && n <= d->params.max_chain);
	assert(!indirect || d->params.indirect);
	return d->params.packed ? add_packed(d, segments, n, indirect, cookie) :
				  add_split(d, segments, n, indirect, cookie);
}

static bool needs_kick_packed(struct sim_driver *d)
{
	const uint16_t flags = __atomic_load_n(&d->device_event->flags, __ATOMIC_ACQUIRE);
	const uint16_t off_wrap = *(volatile uint16_t *)&d->device_event->off_wrap;
	int event = off_wrap & 0x7fff;
	uint16_t new = d->avail_idx, old;

	old = (uint16_t)(new - d->added);
	d->added = 0;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if ((off_wrap >> 15) != d->avail_wrap)
		event -= (int)d->num;
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

bool sim_needs_kick(struct sim_driver *d)
{
	const uint16_t new = d->avail_idx, old = d->avail_kicked;

	full_fence();
	if (d->params.packed)
		return needs_kick_packed(d);
	d->avail_kicked = new;
	if (d->params.event_idx) {
		uint16_t event = *(volatile uint16_t *)(void *)&d->used->ring[d->num];

		return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
	}
	return !(*(volatile uint16_t *)&d->used->flags & VRING_USED_F_NO_NOTIFY);
}

static bool more_used(const struct sim_driver *d)
{
	uint16_t flags;

	if (!d->params.packed)
		return __atomic_load_n(&d->used->idx, __ATOMIC_ACQUIRE) != d->used_idx;
	flags = __atomic_load_n(&d->ring[d->used_idx].flags, __ATOMIC_ACQUIRE);
	return !!(flags & PACKED_AVAIL) == d->used_wrap && !!(flags & PACKED_USED) == d->used_wrap;
}

static struct sim_slot *used_split(struct sim_driver *d, uint32_t *ret_len)
{
	const struct vring_used_elem *e = &d->used->ring[d->used_idx % d->num];
	struct sim_slot *slot;
	unsigned int i, at;

	assert(e->id < d->num);
	slot = &d->slots[e->id];
	*ret_len = e->len;
	for (i = 0, at = e->id; i < slot->ndesc; i++) {
		unsigned int next = d->split_desc[at].next;

		d->free_desc[d->num_free++] = (uint16_t)at;
		at = next;
	}
	d->used_idx++;
	return slot;
}

static struct sim_slot *used_packed(struct sim_driver *d, uint32_t *ret_len)
{
	const struct vring_packed_desc *desc = &d->ring[d->used_idx];
	struct sim_slot *slot;

	assert(desc->id < d->num);
	slot = &d->slots[desc->id];
	*ret_len = desc->flags & VRING_DESC_F_WRITE ? desc->len : 0;
	d->num_free += slot->ndesc;
	d->used_idx = (uint16_t)(d->used_idx + slot->ndesc);
	if (d->used_idx >= d->num) {
		d->used_idx = (uint16_t)(d->used_idx - d->num);
		d->used_wrap = !d->used_wrap;
	}
	return slot;
}

bool sim_get_used(struct sim_driver *d, void **ret_cookie, uint32_t *ret_len)
{
	struct sim_slot *slot;

	if (!more_used(d))
		return false;
	slot = d->params.packed ? used_packed(d, ret_len) : used_split(d, ret_len);
	assert(slot->busy);
	slot->busy = false;
	*ret_cookie = slot->cookie;
	/* As Linux does it: while callbacks are on, the event follows. */
	if (d->callbacks && d->params.event_idx && !d->params.packed) {
		d->avail->ring[d->num] = d->used_idx;
		full_fence();
	}
	return true;
}

void sim_disable_callbacks(struct sim_driver *d)
{
	d->callbacks = false;
	if (d->params.packed)
		d->driver_event->flags = VRING_PACKED_EVENT_FLAG_DISABLE;
	else if (!d->params.event_idx)
		d->avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
}

bool sim_enable_callbacks(struct sim_driver *d, unsigned int after)
{
	unsigned int at;

	d->callbacks = true;
	if (!d->params.packed && d->params.event_idx) {
		d->avail->ring[d->num] = (uint16_t)(d->used_idx + after - 1);
	} else if (!d->params.packed) {
		d->avail->flags = 0;
	} else if (d->params.event_idx) {
		bool wrap = d->used_wrap;

		at = d->used_idx + after - 1;
		if (at >= d->num) {
			at -= d->num;
			wrap = !wrap;
		}
		d->driver_event->off_wrap = (uint16_t)(at | (wrap ? 1u << 15 : 0));
		__atomic_store_n(&d->driver_event->flags, VRING_PACKED_EVENT_FLAG_DESC,
				 __ATOMIC_RELEASE);
	} else {
		d->driver_event->flags = VRING_PACKED_EVENT_FLAG_ENABLE;
	}
	full_fence();
	return more_used(d);
}

unsigned int sim_outstanding(const struct sim_driver *d)
{
	unsigned int i, n = 0;

	for (i = 0; i < d->num; i++)
		n += d->slots[i].busy;
	return n;
}
