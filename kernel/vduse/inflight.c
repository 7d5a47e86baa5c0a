// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which requests of a virtqueue are in flight, and how to fail them.
 *
 * virtio_blk's removal waits for its requests and has no timeout. When the
 * daemon is dead, the module has to answer them itself, and it has to be
 * exact: a used entry for a buffer that is not in flight makes virtio_ring
 * declare the virtqueue broken, and every other request then waits for ever.
 * Neither ring tells the whole story at a later time (entries are overwritten
 * as indices go round), so a tracker follows along. It needs nothing of the
 * daemon, which may be any program and may die anywhere.
 *
 * What is relied upon, and why it holds for virtio_blk:
 *  - a buffer is added, and used buffers are taken, with the lock of its
 *    virtqueue held;
 *  - each buffer is mapped through the DMA API, at least once, after this
 *    lock was taken and before the buffer becomes available. The mapping asks
 *    the trackers to look (watch.c): the map event;
 *  - a descriptor is not used again before the driver has taken the used
 *    entry that freed it.
 * Other drivers (virtio_net with premapped buffers) need not be like this, and
 * their removal does not wait; they are not tracked.
 *
 * Split ring. The device reads entries, the driver never takes one back; the
 * unseen entries of both rings are intact because watch.c lets few enough
 * events pass. A look reads the used index first, then the avail index, so
 * that every used entry it sees belongs to an avail entry it sees. Heads are
 * counted, avail up and used down, because the same head may come twice
 * between two looks; what is left is in flight, exactly.
 *
 * Packed ring. One ring; a used element overwrites the first descriptor of
 * some earlier buffer, not necessarily its own. Here all trackers look at
 * every map event. Call A the buffers that became available since the last
 * look; there is at most one, since the next would need a map event of its
 * own, and the driver's lock is held from that event until the buffer is
 * available. Let K be the buffers known to be in flight, occupying the slots
 * [used, avail), and let A have the slots [avail, avail + L).
 *
 *  1. Slots of this lap. In lap w (the wrap counter) a descriptor of the
 *     driver has AVAIL = w and USED = !w, an element of the device has both
 *     = w, and a slot that was not touched in this lap has AVAIL = !w. Every
 *     slot of A was written by the driver in this lap before its head was,
 *     none behind A was. So the slots from avail on that are of this lap are A,
 *     and give L, whether or not the device has written over some of them.
 *     (The next buffer cannot interfere: writing its second descriptor comes
 *     after its first map event, and that waits for the tracker's lock.)
 *  2. An element is written over a slot of A only after elements whose
 *     buffers fill [used, avail). If A is not among them, they are all of K,
 *     and the element over A's slot must be A's own. Hence: A in flight means
 *     that its slots are intact, so its id and its descriptors can be read. If
 *     A's head is not intact, A has been used, and an element that names a
 *     buffer not in K is A's.
 *  3. Elements are read in the order in which the driver will read them, each
 *     stepping over as many slots as its buffer has. None that is unseen has
 *     been overwritten: for that the driver must have taken it first, and then
 *     added; and that add's map event came after.
 *  4. A device may write several elements and make the first of them visible
 *     last. Between, A's head may be overwritten by an element that is not
 *     visible yet: its flags are those of the device, or its id is one of K.
 *     A is then called hidden: its length is known, its id will be in one of
 *     these elements when they become visible. They were chosen before anything
 *     newer than A was available, so there is one hidden buffer at a time, and
 *     the first element that names a buffer not known is its. If the daemon
 *     dies exactly there, the id is looked for in the elements that it has
 *     written, but for the first; if none of them names A, this one request
 *     cannot be failed. This window, a few instructions wide, is the only one.
 *     Writing elements one by one does not have it.
 *
 * VIRTIO_F_IN_ORDER would let a device skip used entries; no driver of the
 * kernels in question negotiates it.
 *
 * Rings are in memory that the daemon can write. Whatever is read is checked.
 * A contradiction (an id in flight twice, a used entry for nothing, an index
 * that jumps) is reported once and stops the look there: what was known before
 * stays. Status bytes are found through the driver's own copy of an indirect
 * table, and only mapped memory is written. A driver that has already read
 * such nonsense has declared its virtqueue broken, and no used entry helps.
 *
 * Rings are little endian: either VIRTIO_F_VERSION_1 is negotiated, or the
 * machine is.
 *
 * Locking: the tracker's lock, interrupts off, below the lock of the driver's
 * virtqueue and below watch.lock. vduse_inflight_peek() takes none while there
 * is nothing new; it finds the ring under RCU, and ring memory is freed after
 * a grace period (domain.c).
 */
#define pr_fmt(fmt) "vduse: " fmt

#include <linux/align.h>
#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/printk.h>
#include <linux/slab.h>
#include <uapi/linux/virtio_blk.h>
#include <uapi/linux/virtio_ring.h>

#include "domain.h"
#include "inflight.h"
#include "watch.h"

/* Both layouts bound the ring size by this, and so does the wrap bit. */
#define RING_NUM_MAX	32768

/* Position in a packed ring: a slot, and the wrap counter in the top bit. */
#define POS_WRAP	BIT(15)

/**
 * struct inflight_buf - a buffer, by head (split) or id (packed)
 * @addr: packed: IOVA of the indirect table or of the last descriptor that
 *	the device may write; 0 if there is none
 * @len: its bytes
 * @held: split: how often it is in flight; packed: its slots, 0 when it is not
 * @indirect: @addr is an indirect table
 */
struct inflight_buf {
	u64 addr;
	u32 len;
	u16 held;
	bool indirect;
};

/**
 * struct vduse_inflight_ring - what a started tracker knows
 * @rcu: defers the free
 * @t: the tracker
 * @d: the domain
 * @packed: packed layout
 * @failing: requests are being failed, no daemon has a say any more
 * @contradicted: the ring made no sense; it was said in the log
 * @num: descriptors in the ring
 * @desc: descriptor area
 * @driver: driver area
 * @device: device area
 * @avail: split: avail index seen; packed: position of the next new buffer
 * @used: split: used index seen; packed: position of the next used element
 * @count: buffers in flight
 * @slots: packed: slots they occupy
 * @hidden: packed: slots of the hidden buffer, 0 when there is none
 * @done: buffers used since the start
 * @buf: by head or id
 */
struct vduse_inflight_ring {
	struct rcu_head rcu;
	const struct vduse_inflight *t;
	struct vduse_domain *d;
	bool packed;
	bool failing;
	bool contradicted;
	u32 num;
	void *desc;
	void *driver;
	void *device;
	u16 avail;
	u16 used;
	u32 count;
	u32 slots;
	u32 hidden;
	u32 done;
	struct inflight_buf buf[] __counted_by(num);
};

static const char *tracker_name(const struct vduse_inflight *t)
{
	return t->name ?: "?";
}

static void contradict(struct vduse_inflight_ring *r, const char *what)
{
	if (r->contradicted)
		return;

	r->contradicted = true;
	pr_warn("%s: vq%u: the ring makes no sense (%s), requests in flight may be unknown\n",
		tracker_name(r->t), r->t->index, what);
}

static u16 ring16(const __virtio16 *p)
{
	return le16_to_cpu((__force __le16)READ_ONCE(*p));
}

static u32 ring32(const __virtio32 *p)
{
	return le32_to_cpu((__force __le32)READ_ONCE(*p));
}

/* Split ring */

static void split_take_avail(struct vduse_inflight_ring *r, u16 now)
{
	const struct vring_avail *avail = r->driver;
	u16 head;

	if ((u16)(now - r->avail) > r->num) {
		contradict(r, "avail index");
		return;
	}

	for (; r->avail != now; r->avail++) {
		head = ring16(&avail->ring[r->avail & (r->num - 1)]);
		if (head >= r->num) {
			contradict(r, "avail entry");
			return;
		}
		r->buf[head].held++;
		r->count++;
	}
}

static void split_take_used(struct vduse_inflight_ring *r, u16 now)
{
	const struct vring_used *used = r->device;
	u32 head;

	if ((u16)(now - r->used) > r->num) {
		contradict(r, "used index");
		return;
	}

	for (; r->used != now; r->used++) {
		head = ring32(&used->ring[r->used & (r->num - 1)].id);
		if (head >= r->num || !r->buf[head].held) {
			contradict(r, "used entry");
			return;
		}
		r->buf[head].held--;
		r->count--;
		r->done++;
	}
}

static void split_observe(struct vduse_inflight_ring *r)
{
	const struct vring_avail *avail = r->driver;
	const struct vring_used *used = r->device;
	u16 used_now, avail_now;

	used_now = ring16(&used->idx);
	/* Whatever the device used was available before. */
	smp_rmb();
	avail_now = ring16(&avail->idx);
	/* Entries are valid up to the indices. */
	smp_rmb();

	split_take_avail(r, avail_now);
	split_take_used(r, used_now);
}

static bool split_has_news(const struct vduse_inflight_ring *r)
{
	const struct vring_avail *avail = r->driver;
	const struct vring_used *used = r->device;

	return ring16(&avail->idx) != READ_ONCE(r->avail) ||
	       ring16(&used->idx) != READ_ONCE(r->used);
}

/* Packed ring */

enum slot_state {
	SLOT_OLD,	/* not touched in this lap */
	SLOT_AVAIL,	/* written by the driver in this lap */
	SLOT_USED,	/* written over by the device in this lap */
};

static const struct vring_packed_desc *
packed_desc(const struct vduse_inflight_ring *r, u16 pos)
{
	const struct vring_packed_desc *desc = r->desc;

	return &desc[pos & ~POS_WRAP];
}

static u16 packed_advance(const struct vduse_inflight_ring *r, u16 pos, u32 n)
{
	u32 index = (pos & ~POS_WRAP) + n;

	if (index < r->num)
		return index | (pos & POS_WRAP);

	return (index - r->num) | (~pos & POS_WRAP);
}

static enum slot_state packed_state(const struct vduse_inflight_ring *r,
				    u16 pos)
{
	u16 flags = le16_to_cpu(READ_ONCE(packed_desc(r, pos)->flags));
	bool avail = flags & BIT(VRING_PACKED_DESC_F_AVAIL);
	bool used = flags & BIT(VRING_PACKED_DESC_F_USED);
	bool lap = pos & POS_WRAP;

	if (avail != lap)
		return SLOT_OLD;

	return used == lap ? SLOT_USED : SLOT_AVAIL;
}

/* Copy a slot of this lap; says whether the copy is the driver's descriptor. */
static enum slot_state packed_copy(const struct vduse_inflight_ring *r,
				   u16 pos, struct vring_packed_desc *ret_desc)
{
	const struct vring_packed_desc *desc = packed_desc(r, pos);
	enum slot_state state = packed_state(r, pos);

	/* The flags vouch for what was written before them... */
	smp_rmb();
	ret_desc->addr = READ_ONCE(desc->addr);
	ret_desc->len = READ_ONCE(desc->len);
	ret_desc->id = READ_ONCE(desc->id);
	ret_desc->flags = READ_ONCE(desc->flags);
	smp_rmb(); /* ...unless the device was writing over it meanwhile. */

	return state == SLOT_AVAIL ? packed_state(r, pos) : state;
}

/* How many slots from @pos on are of this lap? */
static u32 packed_run(const struct vduse_inflight_ring *r, u16 pos)
{
	u32 n = 0, limit = r->num - r->slots;

	while (n < limit && packed_state(r, pos) != SLOT_OLD) {
		pos = packed_advance(r, pos, 1);
		n++;
	}

	return n;
}

/*
 * Read the descriptors of the buffer at r->avail, the head of which is @head.
 * Returns its length, 0 if it makes no sense.
 */
static u32 packed_read_list(struct vduse_inflight_ring *r,
			    const struct vring_packed_desc *head,
			    struct inflight_buf *buf)
{
	struct vring_packed_desc desc = *head;
	u32 n, limit = r->num - r->slots;
	u16 pos = r->avail, flags;
	enum slot_state state;

	for (n = 1; n <= limit; n++) {
		flags = le16_to_cpu(desc.flags);
		buf->indirect = flags & VRING_DESC_F_INDIRECT;
		if (flags & (VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT)) {
			buf->addr = le64_to_cpu(desc.addr);
			buf->len = le32_to_cpu(desc.len);
		}
		if (!(flags & VRING_DESC_F_NEXT))
			return n;

		pos = packed_advance(r, pos, 1);
		state = packed_copy(r, pos, &desc);
		if (state == SLOT_OLD)
			break;
		/* Written over, so it is not in flight any more. */
		if (state == SLOT_USED || desc.id != head->id)
			return packed_run(r, r->avail);
	}

	return 0;
}

/*
 * Take note of one new buffer. Returns 1, 0 when there is none, -EINVAL when
 * there is one that makes no sense before more elements are read, or ever.
 */
static int packed_take_avail(struct vduse_inflight_ring *r)
{
	struct inflight_buf buf = {};
	struct vring_packed_desc head;
	enum slot_state state;
	u32 n;
	u16 id;

	if (r->slots == r->num)
		return 0;

	state = packed_copy(r, r->avail, &head);
	if (state == SLOT_OLD)
		return 0;

	id = le16_to_cpu(head.id);
	if (state == SLOT_USED || (id < r->num && r->buf[id].held)) {
		if (r->hidden)
			return -EINVAL;
		n = packed_run(r, r->avail);
		r->hidden = n;
	} else {
		n = packed_read_list(r, &head, &buf);
		if (!n || id >= r->num)
			return -EINVAL;
		buf.held = n;
		r->buf[id] = buf;
	}

	r->slots += n;
	r->count++;
	/* Pairs with packed_has_news(): the slots were read. */
	smp_store_release(&r->avail, packed_advance(r, r->avail, n));

	return 1;
}

/*
 * Take note of one used element. Returns 1, 0 when there is none, -EINVAL when
 * it names a buffer that is not known yet, or should not be there.
 */
static int packed_take_used(struct vduse_inflight_ring *r)
{
	u16 id;
	u32 n;

	if (!r->count || packed_state(r, r->used) != SLOT_USED)
		return 0;

	/* The flags vouch for the id. */
	smp_rmb();
	id = le16_to_cpu(READ_ONCE(packed_desc(r, r->used)->id));
	if (id < r->num && r->buf[id].held) {
		n = r->buf[id].held;
		r->buf[id].held = 0;
	} else if (id < r->num && r->hidden) {
		n = r->hidden;
		r->hidden = 0;
	} else {
		return -EINVAL;
	}

	r->slots -= n;
	r->count--;
	r->done++;
	/* Pairs with packed_has_news(): the slot was read. */
	smp_store_release(&r->used, packed_advance(r, r->used, n));

	return 1;
}

static void packed_observe(struct vduse_inflight_ring *r)
{
	int avail, used;
	bool news;

	/*
	 * Either side may wait for the other: a buffer that became available
	 * and was used just now, an element that names a hidden one.
	 */
	do {
		news = false;
		while ((avail = packed_take_avail(r)) > 0)
			news = true;
		while ((used = packed_take_used(r)) > 0)
			news = true;
	} while (news && (avail || used));

	if (avail || used)
		contradict(r, avail ? "available buffer" : "used element");
}

static bool packed_has_news(const struct vduse_inflight_ring *r)
{
	u16 avail, used;

	/* Who sees a position also knows that the slots before it were read. */
	avail = smp_load_acquire(&r->avail);
	/* Pairs with the releases of r->used likewise. */
	used = smp_load_acquire(&r->used);

	return packed_state(r, avail) != SLOT_OLD ||
	       packed_state(r, used) == SLOT_USED;
}

/* Both */

static void ring_observe(struct vduse_inflight_ring *r)
{
	if (r->packed)
		packed_observe(r);
	else
		split_observe(r);
}

static struct vduse_inflight_ring *tracker_ring(struct vduse_inflight *t)
	__must_hold(&t->lock)
{
	return rcu_dereference_protected(t->ring, lockdep_is_held(&t->lock));
}

void vduse_inflight_observe(struct vduse_inflight *t)
{
	vduse_inflight_count(t);
}

unsigned int vduse_inflight_count(struct vduse_inflight *t)
{
	struct vduse_inflight_ring *r;
	unsigned int count = 0;
	unsigned long flags;

	spin_lock_irqsave(&t->lock, flags);
	r = tracker_ring(t);
	if (r) {
		ring_observe(r);
		count = r->count;
	}
	spin_unlock_irqrestore(&t->lock, flags);

	return count;
}

u32 vduse_inflight_used(struct vduse_inflight *t)
{
	struct vduse_inflight_ring *r;
	unsigned long flags;
	u32 done = 0;

	spin_lock_irqsave(&t->lock, flags);
	r = tracker_ring(t);
	if (r) {
		ring_observe(r);
		done = r->done;
	}
	spin_unlock_irqrestore(&t->lock, flags);

	return done;
}

unsigned int vduse_inflight_look(struct vduse_inflight *t)
{
	struct vduse_inflight_ring *r;
	unsigned int room = RING_NUM_MAX;
	unsigned long flags;

	spin_lock_irqsave(&t->lock, flags);
	r = tracker_ring(t);
	if (r) {
		ring_observe(r);
		room = r->num - min(r->count, r->num);
	}
	spin_unlock_irqrestore(&t->lock, flags);

	return room;
}

void vduse_inflight_peek(struct vduse_inflight *t)
{
	const struct vduse_inflight_ring *r = rcu_dereference(t->ring);

	if (r && (r->packed ? packed_has_news(r) : split_has_news(r)))
		vduse_inflight_observe(t);
}

/* Failing */

static void fail_status(struct vduse_inflight_ring *r, u64 addr, u32 len)
{
	const u8 status = VIRTIO_BLK_S_IOERR;

	/*
	 * If the address is nonsense the write is refused, and the driver
	 * reads what the status was set to when it was mapped (dma_ops.c).
	 */
	if (len)
		vduse_domain_write(r->d, addr + len - 1, &status, 1);
}

/* The last descriptor of a split list that the device may write. */
static bool split_last_writable(struct vduse_inflight_ring *r,
				u16 head, struct vring_desc *ret_desc)
{
	const struct vring_desc *table = r->desc;
	struct vring_desc desc;
	bool found = false;
	u16 flags;
	u32 n;

	for (n = 0; n < r->num && head < r->num; n++) {
		memcpy(&desc, &table[head], sizeof(desc));
		flags = ring16(&desc.flags);
		if (flags & (VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT)) {
			*ret_desc = desc;
			found = true;
		}
		if (flags & VRING_DESC_F_INDIRECT || !(flags & VRING_DESC_F_NEXT))
			break;
		head = ring16(&desc.next);
	}

	return found;
}

/*
 * Both layouts have entries of 16 bytes in a table, and virtio_ring lists them
 * in order; so the last that the device may write is the last with the flag.
 */
static void fail_indirect(struct vduse_inflight_ring *r, u64 addr, u32 len)
{
	union {
		struct vring_desc split;
		struct vring_packed_desc packed;
	} entry;
	u16 flags;

	BUILD_BUG_ON(sizeof(entry.split) != sizeof(entry.packed));

	if (!len || len % sizeof(entry))
		return;

	do {
		len -= sizeof(entry);
		if (vduse_domain_read(r->d, addr + len, &entry, sizeof(entry)))
			return;

		flags = r->packed ? le16_to_cpu(entry.packed.flags) :
				    ring16(&entry.split.flags);
		if (flags & VRING_DESC_F_WRITE) {
			fail_status(r, le64_to_cpu(entry.packed.addr),
				    le32_to_cpu(entry.packed.len));
			return;
		}
	} while (len);
}

static void split_fail_one(struct vduse_inflight_ring *r, u32 head)
{
	struct vring_used *used = r->device;
	struct vring_used_elem *elem = &used->ring[r->used & (r->num - 1)];
	struct vring_desc desc;

	if (split_last_writable(r, head, &desc)) {
		if (ring16(&desc.flags) & VRING_DESC_F_INDIRECT)
			fail_indirect(r, le64_to_cpu((__force __le64)desc.addr),
				      ring32(&desc.len));
		else
			fail_status(r, le64_to_cpu((__force __le64)desc.addr),
				    ring32(&desc.len));
	}

	elem->id = (__force __virtio32)cpu_to_le32(head);
	elem->len = (__force __virtio32)cpu_to_le32(1);
	/* The entry and the status come before the index. */
	smp_wmb();
	r->used++;
	WRITE_ONCE(used->idx, (__force __virtio16)cpu_to_le16(r->used));

	/* More than once is nonsense, and once is all that the driver takes. */
	r->buf[head].held = 0;
}

static void packed_write_used(struct vduse_inflight_ring *r, u32 id)
{
	struct vring_packed_desc *ring = r->desc;
	struct vring_packed_desc *desc = &ring[r->used & ~POS_WRAP];
	u16 flags = 0;

	if (r->used & POS_WRAP)
		flags = BIT(VRING_PACKED_DESC_F_AVAIL) |
			BIT(VRING_PACKED_DESC_F_USED);

	desc->id = cpu_to_le16(id);
	desc->len = cpu_to_le32(1);
	/* The element and the status come before the flags. */
	smp_wmb();
	WRITE_ONCE(desc->flags, cpu_to_le16(flags));
}

static void packed_fail_one(struct vduse_inflight_ring *r, u32 id)
{
	struct inflight_buf *buf = &r->buf[id];

	if (buf->indirect)
		fail_indirect(r, buf->addr, buf->len);
	else
		fail_status(r, buf->addr, buf->len);

	packed_write_used(r, id);
	r->slots -= buf->held;
	/* Pairs with packed_has_news(). */
	smp_store_release(&r->used, packed_advance(r, r->used, buf->held));
	buf->held = 0;
}

/*
 * Elements that the daemon has written and not made visible must not become
 * visible behind ours. Their slots look available again.
 */
static void packed_withdraw(struct vduse_inflight_ring *r)
{
	struct vring_packed_desc *ring = r->desc;
	u16 flags, pos = r->used;
	u32 n;

	for (n = 0; n < r->slots; n++) {
		flags = pos & POS_WRAP ? BIT(VRING_PACKED_DESC_F_AVAIL) :
					 BIT(VRING_PACKED_DESC_F_USED);
		if (packed_state(r, pos) == SLOT_USED)
			WRITE_ONCE(ring[pos & ~POS_WRAP].flags,
				   cpu_to_le16(flags));
		pos = packed_advance(r, pos, 1);
	}
}

/*
 * The daemon died after writing elements and before making them visible. Look
 * for the hidden buffer in them: an id that is not known to be in flight. The
 * slot of the first is no help: as long as its flags are the driver's, its id
 * may still be that of a buffer that was used long ago. Nor can this be done
 * later, when elements of our own are in the ring.
 */
static void packed_find_hidden(struct vduse_inflight_ring *r)
{
	u16 id, pos = r->used;
	u32 n;

	for (n = 1; r->hidden && n < r->slots; n++) {
		pos = packed_advance(r, pos, 1);
		id = le16_to_cpu(READ_ONCE(packed_desc(r, pos)->id));
		if (packed_state(r, pos) != SLOT_USED || id >= r->num ||
		    r->buf[id].held)
			continue;

		r->buf[id] = (struct inflight_buf) { .held = r->hidden };
		r->hidden = 0;
	}

	if (r->hidden)
		pr_warn("%s: vq%u: one request in flight cannot be known, it will not be failed\n",
			tracker_name(r->t), r->t->index);
}

/*
 * A ring that makes no sense may have led to a buffer that is not in flight.
 * One that is has its memory mapped.
 */
static bool ring_doubts(struct vduse_inflight_ring *r, u32 i)
{
	const struct vring_desc *table = r->desc;
	u64 addr;
	u8 byte;

	if (!r->contradicted)
		return false;

	addr = r->packed ? r->buf[i].addr :
			   le64_to_cpu((__force __le64)READ_ONCE(table[i].addr));

	return vduse_domain_read(r->d, addr, &byte, 1);
}

static unsigned int ring_fail_known(struct vduse_inflight_ring *r)
{
	unsigned int n = 0;
	u32 i;

	for (i = 0; i < r->num && r->count; i++) {
		if (!r->buf[i].held || ring_doubts(r, i))
			continue;

		if (r->packed) {
			packed_fail_one(r, i);
			r->count--;
		} else {
			r->count -= r->buf[i].held;
			split_fail_one(r, i);
		}
		r->done++;
		n++;
	}

	return n;
}

/* From now on the driver shall kick for every buffer. */
static void ring_ask_for_kicks(struct vduse_inflight_ring *r)
{
	struct vring_packed_desc_event *event = r->device;
	struct vring_used *used = r->device;
	__virtio16 *avail_event;

	if (r->packed) {
		WRITE_ONCE(event->flags,
			   cpu_to_le16(VRING_PACKED_EVENT_FLAG_ENABLE));
		return;
	}

	/* Which of the two the driver goes by was negotiated. */
	WRITE_ONCE(used->flags, 0);
	avail_event = (__virtio16 *)&used->ring[r->num];
	WRITE_ONCE(*avail_event, (__force __virtio16)cpu_to_le16(r->avail));
}

static void ring_begin_failing(struct vduse_inflight_ring *r)
{
	if (r->failing)
		return;

	r->failing = true;
	ring_observe(r);
	if (r->packed) {
		packed_find_hidden(r);
		packed_withdraw(r);
	}
	if (r->count)
		pr_info("%s: vq%u: failing %u requests in flight\n",
			tracker_name(r->t), r->t->index, r->count);
}

int vduse_inflight_fail(struct vduse_inflight *t)
{
	struct vduse_inflight_ring *r;
	unsigned long flags;
	u16 seen;
	int n = 0;

	spin_lock_irqsave(&t->lock, flags);
	r = tracker_ring(t);
	if (!r)
		goto out;

	ring_begin_failing(r);
	do {
		seen = r->avail;
		ring_ask_for_kicks(r);
		smp_mb(); /* either the driver sees that, or we its buffer */
		ring_observe(r);
		n += ring_fail_known(r);
	} while (r->avail != seen);
out:
	spin_unlock_irqrestore(&t->lock, flags);
	return n;
}

/* Starting and stopping */

static bool state_is_idle(const struct vduse_ring *ring, u16 used_index)
{
	const struct vdpa_vq_state_packed *packed = &ring->state.packed;

	if (!ring->packed)
		return used_index == ring->state.split.avail_index;

	return packed->last_avail_idx == packed->last_used_idx &&
	       packed->last_avail_counter == packed->last_used_counter &&
	       packed->last_avail_idx < ring->num;
}

static int ring_find_memory(struct vduse_inflight_ring *r,
			    const struct vduse_ring *ring)
{
	size_t desc_len, driver_len, device_len;

	desc_len = r->num * sizeof(struct vring_desc);
	if (r->packed) {
		driver_len = sizeof(struct vring_packed_desc_event);
		device_len = driver_len;
	} else {
		driver_len = sizeof(struct vring_avail) + 2 * (r->num + 1);
		device_len = sizeof(struct vring_used) + 2 +
			     r->num * sizeof(struct vring_used_elem);
	}

	if (!IS_ALIGNED(ring->desc, 16) || !IS_ALIGNED(ring->driver, 2) ||
	    !IS_ALIGNED(ring->device, 4))
		return -EINVAL;

	r->desc = vduse_domain_vaddr(r->d, ring->desc, desc_len);
	r->driver = vduse_domain_vaddr(r->d, ring->driver, driver_len);
	r->device = vduse_domain_vaddr(r->d, ring->device, device_len);
	if (!r->desc || !r->driver || !r->device)
		return -EOPNOTSUPP;

	return 0;
}

static int ring_create(struct vduse_domain *d, const struct vduse_ring *ring,
		       struct vduse_inflight_ring **ret_ring)
{
	const struct vdpa_vq_state_packed *packed = &ring->state.packed;
	struct vduse_inflight_ring *r;
	u16 used_index = 0;
	int ret;

	if (!ring->num || ring->num > RING_NUM_MAX ||
	    (!ring->packed && !is_power_of_2(ring->num)))
		return -EINVAL;

	r = kvzalloc(struct_size(r, buf, ring->num), GFP_KERNEL);
	if (!r)
		return -ENOMEM;

	r->d = d;
	r->packed = ring->packed;
	r->num = ring->num;
	ret = ring_find_memory(r, ring);
	if (ret)
		goto err;

	if (!r->packed)
		used_index = ring16(&((struct vring_used *)r->device)->idx);
	ret = -EINVAL;
	if (!state_is_idle(ring, used_index))
		goto err;

	if (r->packed)
		r->avail = packed->last_avail_idx |
			   (packed->last_avail_counter ? POS_WRAP : 0);
	else
		r->avail = used_index;
	r->used = r->avail;

	*ret_ring = r;
	return 0;

err:
	kvfree(r);
	return ret;
}

void vduse_inflight_init(struct vduse_inflight *t)
{
	spin_lock_init(&t->lock);
}

int vduse_inflight_start(struct vduse_inflight *t, struct vduse_domain *d,
			 const struct vduse_ring *ring)
{
	struct vduse_inflight_ring *r;
	unsigned long flags;
	int ret;

	ret = ring_create(d, ring, &r);
	if (ret)
		return ret;

	r->t = t;
	spin_lock_irqsave(&t->lock, flags);
	if (tracker_ring(t))
		ret = -EBUSY;
	else
		rcu_assign_pointer(t->ring, r);
	spin_unlock_irqrestore(&t->lock, flags);
	if (ret) {
		kvfree(r);
		return ret;
	}

	ret = vduse_watch_add(vduse_domain_watch(d), t, ring->packed);
	if (ret)
		vduse_inflight_stop(t);

	return ret;
}

void vduse_inflight_stop(struct vduse_inflight *t)
{
	struct vduse_inflight_ring *r;
	unsigned long flags;

	spin_lock_irqsave(&t->lock, flags);
	r = tracker_ring(t);
	rcu_assign_pointer(t->ring, NULL);
	spin_unlock_irqrestore(&t->lock, flags);
	if (!r)
		return;

	vduse_watch_del(vduse_domain_watch(r->d), t);
	kvfree_rcu(r, rcu);
}
