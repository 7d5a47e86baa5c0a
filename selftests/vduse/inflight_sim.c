// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tracker of requests in flight (kernel/vduse/inflight.c and watch.c, the
 * same source files) against simulated drivers and devices.
 *
 * A round has some virtqueues of one layout, some processors on which the
 * driver adds buffers and takes used ones, and a device for each virtqueue
 * that completes them in any order, one by one or in batches. Everything is
 * done in steps as small as one store, and chance decides who takes the next
 * one; also in the middle of a look at a ring (sim_barrier()). The driver
 * checks used entries as virtio_ring does: one that names a buffer that is
 * not in flight fails the test.
 *
 * At some step the device dies. Then the tracker's count has to be right, and
 * vduse_inflight_fail(), called once and then only when the driver would have
 * kicked, has to complete everything, with an error in the status byte.
 *
 * In hostile rounds the device writes nonsense into the ring before it dies.
 * Then nothing is expected but that we survive (under ASan and UBSan in the
 * native build) and terminate, and that only status bytes of mapped buffers
 * are written.
 *
 * The seed is printed; `inflight_sim ROUNDS SEED` repeats a run.
 */
#include <stdarg.h>
#include <time.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>

#include "domain.h"
#include "inflight.h"
#include "watch.h"

#define NR_VQS		3
#define NUM_MAX		64
#define NR_SLOTS	1024
#define SLOT_BYTES	256
#define SLOT_SHIFT	12
#define RING_IOVA(vq)	((1ULL << 30) + ((u64)(vq) << 20))
#define DRIVER_OFFSET	0x4000
#define DEVICE_OFFSET	0x8000
#define RING_BYTES	0xc000
#define SEGS_MAX	5
#define STORES_MAX	64
#define STATUS_UNSET	0xee
#define POS_WRAP	0x8000
#define DESC_AVAIL	BIT(VRING_PACKED_DESC_F_AVAIL)
#define DESC_USED	BIT(VRING_PACKED_DESC_F_USED)

/* A mapped buffer: the driver's bytes, and the device's copy. */
struct slot {
	bool mapped;
	bool writable;
	u32 len;
	u8 *orig;
	u8 bounce[SLOT_BYTES];
};

struct vduse_domain {
	struct vduse_watch watch;
};

/* A request of the driver. */
struct req {
	bool live;
	bool completed;		/* by the device, whether visible or not */
	unsigned int segs;
	bool indirect;
	u64 iova[SEGS_MAX + 1];	/* segments, then the indirect table */
	u8 mem[SEGS_MAX + 1][SLOT_BYTES];
	unsigned int descs;	/* ring descriptors it takes */
};

/* A store that the device is going to make. */
struct store {
	void *where;
	unsigned int size;
	u64 value;
	unsigned int visible;	/* completions that become visible with it */
};

struct held {
	u16 id;
	unsigned int descs;
};

struct vq {
	unsigned int index;
	bool locked;
	bool broken;
	bool kicked;
	struct vduse_inflight tracker;

	/* driver */
	struct req req[NUM_MAX];
	u16 next[NUM_MAX + 1];	/* free list */
	u16 free_head;
	unsigned int num_free;
	u16 avail;		/* index, or position */
	u16 used;
	unsigned int added;
	unsigned int live;

	/* device */
	u16 dev_avail;
	u16 dev_used;
	struct held held[NUM_MAX];
	unsigned int nr_held;
	struct store store[STORES_MAX];
	unsigned int nr_stores;
	unsigned int next_store;
	unsigned int visible;
	unsigned int written_unseen;	/* elements written but not visible */
};

enum cpu_op { CPU_IDLE, CPU_TAKE, CPU_MAP, CPU_FILL, CPU_ENTRY, CPU_PUBLISH };

struct cpu {
	enum cpu_op op;
	bool busy;		/* in the middle of a step */
	struct vq *vq;
	unsigned int seg;
	unsigned int more;	/* buffers to add with the lock held */
	u16 id;
	u16 desc;		/* split: next free; packed: next position */
	u16 head_flags;
};

static unsigned char ring_mem[NR_VQS][RING_BYTES] __attribute__((aligned(64)));
static struct slot slots[NR_SLOTS];
static u16 free_slots[NR_SLOTS];
static unsigned int nr_free_slots;
static struct vduse_domain domain;
static struct vq vqs[NR_VQS];
static unsigned int nr_vqs, num, nr_cpus;
static struct cpu cpus[SIM_CPUS];
static bool packed, event_idx, hostile, alive, failing, adding;
static unsigned int indirect_percent, batch_percent, interrupt_percent;
static unsigned int single_percent;
static unsigned int rcu_depth, barrier_depth;
static unsigned int nonsense, writes_refused;
static void *later[4096];
static unsigned int nr_later;
static u64 seed_round, rng;
unsigned int sim_cpu;

/* Statistics over all rounds. */
static u64 total_adds, total_failed, total_unresolved, total_looks;
static u64 total_barriers;

static u32 rnd(void)
{
	/* xorshift64* */
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return (rng * 0x2545f4914f6cdd1dULL) >> 32;
}

static unsigned int below(unsigned int n)
{
	return rnd() % n;
}

static bool chance(unsigned int percent)
{
	return below(100) < percent;
}

static void die(const char *what, struct vq *vq)
{
	printf("not ok 1 tracker\n# %s: vq %u of %u, round seed %llu\n", what,
	       vq ? vq->index : 0, nr_vqs, (unsigned long long)seed_round);
	printf("# packed %d num %u live %u added %u visible %u\n", packed, num,
	       vq ? vq->live : 0, vq ? vq->added : 0, vq ? vq->visible : 0);
	exit(1);
}

/* What the shim and the module call */

void sim_log(const char *format, ...)
{
	nonsense++;
}

void sim_rcu_read_lock(void)
{
	rcu_depth++;
}

void sim_rcu_read_unlock(void)
{
	assert(rcu_depth);
	if (--rcu_depth)
		return;
	while (nr_later)
		free(later[--nr_later]);
}

void sim_free_later(void *p)
{
	if (!rcu_depth) {
		free(p);
		return;
	}
	assert(nr_later < 4096);
	later[nr_later++] = p;
}

struct vduse_watch *vduse_domain_watch(struct vduse_domain *d)
{
	return &d->watch;
}

void *vduse_domain_vaddr(struct vduse_domain *d, u64 iova, u64 len)
{
	unsigned int i;

	for (i = 0; i < NR_VQS; i++)
		if (iova >= RING_IOVA(i) && len <= RING_BYTES &&
		    iova - RING_IOVA(i) <= RING_BYTES - len)
			return ring_mem[i] + (iova - RING_IOVA(i));
	return NULL;
}

static struct slot *find_slot(u64 iova, size_t len)
{
	u64 off = iova & ((1 << SLOT_SHIFT) - 1);
	struct slot *s;

	if (iova >> SLOT_SHIFT >= NR_SLOTS)
		return NULL;
	s = &slots[iova >> SLOT_SHIFT];
	return s->mapped && off < s->len && len <= s->len - off ? s : NULL;
}

int vduse_domain_read(struct vduse_domain *d, u64 iova, void *buf, size_t len)
{
	struct slot *s = find_slot(iova, len);

	if (!s)
		return -EFAULT;
	memcpy(buf, s->orig + (iova & ((1 << SLOT_SHIFT) - 1)), len);
	return 0;
}

int vduse_domain_write(struct vduse_domain *d, u64 iova, const void *buf,
		       size_t len)
{
	struct slot *s = find_slot(iova, len);

	if (!s || !s->writable) {
		writes_refused++;
		return -EFAULT;
	}
	if (len != 1 || *(const u8 *)buf != VIRTIO_BLK_S_IOERR)
		die("wrote something that is not a status", NULL);
	memcpy(s->bounce + (iova & ((1 << SLOT_SHIFT) - 1)), buf, len);
	return 0;
}

/* The rings */

static struct vring_desc *split_desc(struct vq *vq)
{
	return (void *)ring_mem[vq->index];
}

static struct vring_avail *split_avail(struct vq *vq)
{
	return (void *)(ring_mem[vq->index] + DRIVER_OFFSET);
}

static struct vring_used *split_used(struct vq *vq)
{
	return (void *)(ring_mem[vq->index] + DEVICE_OFFSET);
}

static struct vring_packed_desc *packed_desc(struct vq *vq, u16 pos)
{
	struct vring_packed_desc *desc = (void *)ring_mem[vq->index];

	return &desc[pos & ~POS_WRAP];
}

static struct vring_packed_desc_event *packed_event(struct vq *vq)
{
	return (void *)(ring_mem[vq->index] + DEVICE_OFFSET);
}

static u16 advance(u16 pos, unsigned int n)
{
	unsigned int index = (pos & ~POS_WRAP) + n;

	if (!packed)
		return pos + n;
	if (index < num)
		return index | (pos & POS_WRAP);
	return (index - num) | (~pos & POS_WRAP);
}

static u16 avail_flags(u16 pos)
{
	return pos & POS_WRAP ? DESC_AVAIL : DESC_USED;
}

static u16 used_flags(u16 pos)
{
	return pos & POS_WRAP ? DESC_AVAIL | DESC_USED : 0;
}

/* The driver */

static u64 map(struct vq *vq, u8 *orig, u32 len, bool writable)
{
	struct slot *s;
	u16 n;

	vduse_watch_map(&domain.watch);
	total_looks++;

	/* The one that was freed last, so that stale addresses come to life. */
	assert(nr_free_slots);
	n = free_slots[--nr_free_slots];
	s = &slots[n];
	s->mapped = true;
	s->writable = writable;
	s->len = len;
	s->orig = orig;
	if (writable)
		memset(s->bounce, STATUS_UNSET, len);
	else
		memcpy(s->bounce, orig, len);
	return (u64)n << SLOT_SHIFT;
}

static void unmap(u64 iova)
{
	struct slot *s = &slots[iova >> SLOT_SHIFT];

	assert(s->mapped);
	if (s->writable)
		memcpy(s->orig, s->bounce, s->len);
	s->mapped = false;
	free_slots[nr_free_slots++] = iova >> SLOT_SHIFT;
}

/* Does the driver have to kick, as virtqueue_kick_prepare() sees it? */
static bool needs_kick(struct vq *vq, u16 old, u16 new)
{
	__virtio16 event;

	if (packed)
		return le16toh(packed_event(vq)->flags) !=
		       VRING_PACKED_EVENT_FLAG_DISABLE;
	if (!event_idx)
		return !(le16toh(split_used(vq)->flags) &
			 VRING_USED_F_NO_NOTIFY);
	memcpy(&event, &split_used(vq)->ring[num], sizeof(event));
	return vring_need_event(le16toh(event), new, old);
}

static void end_add(struct cpu *cpu, u16 old)
{
	struct vq *vq = cpu->vq;
	struct req *req = &vq->req[cpu->id];

	req->live = true;
	req->completed = false;
	vq->live++;
	vq->added++;
	total_adds++;
	vq->num_free -= req->descs;
	if (needs_kick(vq, old, vq->avail))
		vq->kicked = true;

	cpu->op = CPU_IDLE;
	if (cpu->more) {
		cpu->more--;
		cpu->op = CPU_MAP;
		cpu->seg = 0;
	} else {
		vq->locked = false;
	}
}

/* Choose what to add; false when there is no room. */
static bool begin_add(struct cpu *cpu)
{
	struct vq *vq = cpu->vq;
	struct req *req;
	unsigned int segs = single_percent && chance(single_percent) ? 1 :
			    2 + below(SEGS_MAX - 1);
	bool indirect = segs > 1 && chance(indirect_percent);
	unsigned int descs;

	if (!indirect && segs > num)
		segs = num;
	descs = indirect ? 1 : segs;
	if (vq->num_free < descs || nr_free_slots < segs + 1)
		return false;

	cpu->id = vq->free_head;
	cpu->desc = packed ? vq->avail : vq->free_head;
	req = &vq->req[cpu->id];
	assert(!req->live);
	req->segs = segs;
	req->indirect = indirect;
	req->descs = descs;
	return true;
}

static void set_desc(struct vq *vq, struct cpu *cpu, u64 iova, u32 len,
		     u16 flags)
{
	struct vring_packed_desc *pd;
	struct vring_desc *sd;

	if (!packed) {
		sd = &split_desc(vq)[cpu->desc];
		sd->flags = htole16(flags);
		sd->addr = htole64(iova);
		sd->len = htole32(len);
		sd->next = htole16(vq->next[cpu->desc]);
		cpu->desc = vq->next[cpu->desc];
		return;
	}

	pd = packed_desc(vq, cpu->desc);
	flags |= avail_flags(cpu->desc);
	if (cpu->desc == vq->avail)
		cpu->head_flags = flags;
	else
		pd->flags = htole16(flags);
	pd->addr = htole64(iova);
	pd->len = htole32(len);
	pd->id = htole16(cpu->id);
	cpu->desc = advance(cpu->desc, 1);
}

/* Put what was mapped last where the device will find it. */
static void fill(struct cpu *cpu)
{
	struct req *req = &cpu->vq->req[cpu->id];
	unsigned int seg = cpu->seg;
	u16 flags = seg + 1 < req->segs ? VRING_DESC_F_NEXT : 0;
	struct vring_packed_desc pd = {};
	struct vring_desc sd = {};
	u32 len = slots[req->iova[seg] >> SLOT_SHIFT].len;

	if (seg)
		flags |= VRING_DESC_F_WRITE;
	if (seg == req->segs) {
		set_desc(cpu->vq, cpu, req->iova[seg], len,
			 VRING_DESC_F_INDIRECT);
	} else if (!req->indirect) {
		set_desc(cpu->vq, cpu, req->iova[seg], len, flags);
	} else if (packed) {
		pd.addr = htole64(req->iova[seg]);
		pd.len = htole32(len);
		pd.flags = htole16(flags & VRING_DESC_F_WRITE);
		memcpy(req->mem[req->segs] + seg * sizeof(pd), &pd, sizeof(pd));
	} else {
		sd.addr = htole64(req->iova[seg]);
		sd.len = htole32(len);
		sd.flags = htole16(flags);
		sd.next = htole16(seg + 1);
		memcpy(req->mem[req->segs] + seg * sizeof(sd), &sd, sizeof(sd));
	}

	cpu->seg++;
	if (cpu->seg < req->segs + req->indirect)
		cpu->op = CPU_MAP;
	else
		cpu->op = packed ? CPU_PUBLISH : CPU_ENTRY;
}

static void map_step(struct cpu *cpu)
{
	struct vq *vq = cpu->vq;
	struct req *req;
	u32 len = 16;

	if (!cpu->seg && (vq->broken || !adding || !begin_add(cpu))) {
		cpu->op = CPU_IDLE;
		cpu->more = 0;
		vq->locked = false;
		return;
	}

	req = &vq->req[cpu->id];
	if (cpu->seg == req->segs)
		len = req->segs * 16;
	else if (cpu->seg && cpu->seg + 1 == req->segs)
		len = chance(80) ? 1 : 9; /* a zone append has 9 */
	req->iova[cpu->seg] = map(vq, req->mem[cpu->seg], len,
				  cpu->seg && cpu->seg < req->segs);
	cpu->op = CPU_FILL;
}

static void publish(struct cpu *cpu)
{
	struct vq *vq = cpu->vq;
	struct req *req = &vq->req[cpu->id];
	unsigned int i;
	u16 old = vq->avail;

	for (i = 0; i < req->descs; i++)
		vq->free_head = vq->next[vq->free_head];

	if (packed) {
		packed_desc(vq, vq->avail)->flags = htole16(cpu->head_flags);
		vq->avail = advance(vq->avail, req->descs);
	} else {
		vq->avail++;
		split_avail(vq)->idx = htole16(vq->avail);
	}
	end_add(cpu, old);
}

static bool used_element(struct vq *vq, u16 *ret_id)
{
	struct vring_packed_desc *desc;
	u16 flags;
	u32 id;

	if (!packed) {
		if (vq->used == le16toh(split_used(vq)->idx))
			return false;
		id = le32toh(split_used(vq)->ring[vq->used & (num - 1)].id);
		*ret_id = id < num ? id : 0xffff;
		return true;
	}

	desc = packed_desc(vq, vq->used);
	flags = le16toh(desc->flags) & (DESC_AVAIL | DESC_USED);
	if (flags != used_flags(vq->used))
		return false;
	*ret_id = le16toh(desc->id);
	return true;
}

static void check_status(struct vq *vq, struct req *req)
{
	unsigned int last = req->segs - 1;
	u32 len = slots[req->iova[last] >> SLOT_SHIFT].len;
	u8 status;

	if (!slots[req->iova[last] >> SLOT_SHIFT].writable || hostile)
		return;

	status = slots[req->iova[last] >> SLOT_SHIFT].bounce[len - 1];
	if (status == VIRTIO_BLK_S_OK && req->completed)
		return;
	if (status == VIRTIO_BLK_S_IOERR)
		return;
	/* Hidden when the device died: what mapping it wrote stays. */
	if (status == STATUS_UNSET && packed && vq->written_unseen)
		return;
	die("status was not written", vq);
}

static void take_step(struct cpu *cpu)
{
	struct vq *vq = cpu->vq;
	struct req *req;
	unsigned int i;
	u16 id, last;

	if (vq->broken || !used_element(vq, &id) || chance(10)) {
		cpu->op = CPU_IDLE;
		vq->locked = false;
		return;
	}

	if (id >= num || !vq->req[id].live) {
		if (!hostile)
			die("a used entry for a buffer that is not in flight",
			    vq);
		vq->broken = true;
		return;
	}

	req = &vq->req[id];
	check_status(vq, req);
	for (i = 0; i < req->segs + req->indirect; i++)
		unmap(req->iova[i]);
	for (last = id, i = 1; i < req->descs; i++)
		last = vq->next[last];
	vq->next[last] = vq->free_head;
	vq->free_head = id;
	vq->num_free += req->descs;
	vq->used = advance(vq->used, packed ? req->descs : 1);
	req->live = false;
	vq->live--;
}

/* Whether the next step could need a lock that an interrupted look holds. */
static bool may_lock(const struct cpu *cpu)
{
	const struct vduse_watch_budget *b;

	if (cpu->op != CPU_MAP)
		return false;
	b = &domain.watch.budget[cpu - cpus];
	return packed || b->left.counter <= 0;
}

static void cpu_step(struct cpu *cpu)
{
	unsigned int previous = sim_cpu;
	struct vq *vq;

	sim_cpu = cpu - cpus;
	cpu->busy = true;
	switch (cpu->op) {
	case CPU_IDLE:
		vq = &vqs[below(nr_vqs)];
		if (vq->locked)
			break;
		vq->locked = true;
		cpu->vq = vq;
		cpu->seg = 0;
		cpu->more = below(8);
		cpu->op = adding && chance(60) ? CPU_MAP : CPU_TAKE;
		break;
	case CPU_TAKE:
		take_step(cpu);
		break;
	case CPU_MAP:
		map_step(cpu);
		break;
	case CPU_FILL:
		fill(cpu);
		break;
	case CPU_ENTRY:
		split_avail(cpu->vq)->ring[cpu->vq->avail & (num - 1)] =
			htole16(cpu->id);
		cpu->op = CPU_PUBLISH;
		break;
	case CPU_PUBLISH:
		publish(cpu);
		break;
	}
	cpu->busy = false;
	sim_cpu = previous;
}

/* The device */

static void push(struct vq *vq, void *where, unsigned int size, u64 value,
		 unsigned int visible)
{
	struct store *s = &vq->store[vq->nr_stores++];

	assert(vq->nr_stores <= STORES_MAX);
	s->where = where;
	s->size = size;
	s->value = value;
	s->visible = visible;
}

static void run_store(struct vq *vq)
{
	struct store *s = &vq->store[vq->next_store++];
	u16 v16 = htole16(s->value);
	u32 v32 = htole32(s->value);

	if (s->size == 2)
		memcpy(s->where, &v16, 2);
	else
		memcpy(s->where, &v32, 4);

	vq->visible += s->visible;
	if (s->visible)
		vq->written_unseen = 0;
	else if (packed)
		vq->written_unseen++;
	if (vq->next_store == vq->nr_stores) {
		vq->next_store = 0;
		vq->nr_stores = 0;
	}
}

static void fetch(struct vq *vq)
{
	struct vring_packed_desc *desc;
	struct held held = { .descs = 1 };
	u16 pos = vq->dev_avail;

	if (vq->nr_held == num)
		return;

	if (!packed) {
		if (vq->dev_avail == le16toh(split_avail(vq)->idx))
			return;
		held.id = le16toh(split_avail(vq)->ring[pos & (num - 1)]);
		vq->dev_avail++;
		vq->held[vq->nr_held++] = held;
		return;
	}

	desc = packed_desc(vq, pos);
	if ((le16toh(desc->flags) & (DESC_AVAIL | DESC_USED)) !=
	    avail_flags(pos))
		return;
	held.id = le16toh(desc->id);
	while (le16toh(desc->flags) & VRING_DESC_F_NEXT && held.descs < num) {
		pos = advance(pos, 1);
		desc = packed_desc(vq, pos);
		held.descs++;
	}
	vq->dev_avail = advance(vq->dev_avail, held.descs);
	vq->held[vq->nr_held++] = held;
}

/* Write the status of one held request, and take it out. */
static struct held complete_one(struct vq *vq)
{
	unsigned int i = below(vq->nr_held);
	struct held held = vq->held[i];
	struct req *req;
	struct slot *s;

	vq->held[i] = vq->held[--vq->nr_held];
	if (held.id >= num)
		return held;
	req = &vq->req[held.id];
	if (!req->live) {
		assert(hostile);
		return held;
	}
	req->completed = true;
	s = &slots[req->iova[req->segs - 1] >> SLOT_SHIFT];
	if (s->writable)
		s->bounce[s->len - 1] = VIRTIO_BLK_S_OK;
	return held;
}

static void complete_packed(struct vq *vq, unsigned int n)
{
	struct vring_packed_desc *desc, *first = NULL;
	u16 first_id = 0, first_flags = 0;
	struct held held;
	unsigned int i;

	for (i = 0; i < n; i++) {
		held = complete_one(vq);
		desc = packed_desc(vq, vq->dev_used);
		if (!i && n > 1) {
			/* The others first, this one's flags at the very end. */
			first = desc;
			first_id = held.id;
			first_flags = used_flags(vq->dev_used);
			if (chance(50)) {
				push(vq, &desc->id, 2, held.id, 0);
				push(vq, &desc->len, 4, 1, 0);
			}
		} else {
			push(vq, &desc->id, 2, held.id, 0);
			push(vq, &desc->len, 4, 1, 0);
			push(vq, &desc->flags, 2, used_flags(vq->dev_used),
			     n == 1);
		}
		vq->dev_used = advance(vq->dev_used, held.descs);
	}
	if (first) {
		push(vq, &first->id, 2, first_id, 0);
		push(vq, &first->flags, 2, first_flags, n);
	}
}

static void complete(struct vq *vq)
{
	unsigned int n = chance(batch_percent) ? 1 + below(6) : 1;
	struct vring_used_elem *elem;
	struct held held;
	unsigned int i;

	if (n > vq->nr_held)
		n = vq->nr_held;
	if (packed) {
		complete_packed(vq, n);
		return;
	}

	for (i = 0; i < n; i++) {
		held = complete_one(vq);
		elem = &split_used(vq)->ring[vq->dev_used & (num - 1)];
		push(vq, &elem->id, 4, held.id, 0);
		push(vq, &elem->len, 4, 1, 0);
		vq->dev_used++;
	}
	push(vq, &split_used(vq)->idx, 2, vq->dev_used, n);
}

static void scribble(struct vq *vq)
{
	unsigned int area = below(3), off;
	static const unsigned int start[] = { 0, DRIVER_OFFSET, DEVICE_OFFSET };
	unsigned int bytes = packed ? area ? 4 : num * 16 :
				      area == 0 ? num * 16 :
				      area == 1 ? 6 + 2 * num : 6 + 8 * num;

	off = start[area] + below(bytes);
	if (chance(50))
		off = start[area] + (off - start[area]) % 4;
	ring_mem[vq->index][off] = chance(30) ? below(8) : rnd();
}

static void device_step(struct vq *vq)
{
	if (hostile && chance(3))
		scribble(vq);

	if (vq->next_store < vq->nr_stores)
		run_store(vq);
	else if (vq->nr_held && chance(50))
		complete(vq);
	else
		fetch(vq);
}

/* The rounds */

static void any_step(void)
{
	struct cpu *cpu;

	if (alive && chance(50)) {
		device_step(&vqs[below(nr_vqs)]);
		return;
	}
	cpu = &cpus[below(nr_cpus)];
	if (!cpu->busy && !(barrier_depth && may_lock(cpu)))
		cpu_step(cpu);
}

void sim_barrier(void)
{
	total_barriers++;
	if (barrier_depth >= 3)
		return;

	barrier_depth++;
	while (chance(interrupt_percent))
		any_step();
	barrier_depth--;
}

static void check_count(void)
{
	unsigned int i;

	if (hostile)
		return;
	for (i = 0; i < nr_vqs; i++) {
		interrupt_percent = 0;
		if (vduse_inflight_count(&vqs[i].tracker) !=
		    vqs[i].added - vqs[i].visible)
			die("the count is wrong", &vqs[i]);
	}
}

/* Let every processor finish what it does, so that no lock is held. */
static void settle(void)
{
	unsigned int i;

	bool again = true;

	adding = false;
	while (again) {
		again = false;
		for (i = 0; i < nr_cpus; i++) {
			if (cpus[i].op == CPU_IDLE)
				continue;
			cpu_step(&cpus[i]);
			again = true;
		}
	}
}

static void take_all(struct vq *vq)
{
	struct cpu *cpu = &cpus[0];
	u16 id;

	assert(cpu->op == CPU_IDLE && !vq->locked);
	while (!vq->broken && used_element(vq, &id)) {
		cpu->op = CPU_TAKE;
		cpu->vq = vq;
		vq->locked = true;
		while (cpu->op != CPU_IDLE)
			cpu_step(cpu);
	}
}

/* Buffers whose ids nobody could know: the window in inflight.c's comment. */
static bool excused(struct vq *vq)
{
	return packed && vq->written_unseen && vq->live == 1 &&
	       vduse_inflight_count(&vq->tracker) == 1;
}

static void fail_all(void)
{
	unsigned int i, calls = 0;
	int n;

	failing = true;
	for (i = 0; i < nr_vqs; i++)
		vqs[i].kicked = true;

	/* The driver goes on for a while: removal writes back. */
	for (i = 0; i < 200; i++) {
		struct vq *vq = &vqs[below(nr_vqs)];

		any_step();
		if (vq->kicked && chance(20)) {
			vq->kicked = false;
			n = vduse_inflight_fail(&vq->tracker);
			total_failed += n;
		}
	}
	settle();

	for (i = 0; i < nr_vqs; i++) {
		while (vqs[i].kicked) {
			vqs[i].kicked = false;
			total_failed += vduse_inflight_fail(&vqs[i].tracker);
			if (++calls > 10000)
				die("kicked for ever", &vqs[i]);
		}
		settle();
		take_all(&vqs[i]);
		if (hostile || !vqs[i].live)
			continue;
		if (!excused(&vqs[i]))
			die("requests are left", &vqs[i]);
		total_unresolved += vqs[i].live;
	}
}

static void setup_ring(struct vq *vq, struct vduse_ring *ring)
{
	unsigned int i;
	u16 start, pos;

	memset(ring, 0, sizeof(*ring));
	ring->num = num;
	ring->packed = packed;
	ring->desc = RING_IOVA(vq->index);
	ring->driver = ring->desc + DRIVER_OFFSET;
	ring->device = ring->desc + DEVICE_OFFSET;

	memset(ring_mem[vq->index], 0, RING_BYTES);
	if (packed) {
		start = below(num);
		if (chance(50))
			start |= POS_WRAP;
		ring->state.packed.last_avail_idx = start & ~POS_WRAP;
		ring->state.packed.last_avail_counter = !!(start & POS_WRAP);
		ring->state.packed.last_used_idx = start & ~POS_WRAP;
		ring->state.packed.last_used_counter = !!(start & POS_WRAP);
		for (i = 0, pos = start; i < num; i++) {
			packed_desc(vq, pos)->flags =
				htole16(used_flags(pos ^ POS_WRAP));
			pos = advance(pos, 1);
		}
	} else {
		start = chance(50) ? 65536 - below(2 * num) : below(65536);
		ring->state.split.avail_index = start;
		split_avail(vq)->idx = htole16(start);
		split_used(vq)->idx = htole16(start);
	}
	vq->avail = start;
	vq->used = start;
	vq->dev_avail = start;
	vq->dev_used = start;
}

static void setup_vq(unsigned int index)
{
	struct vq *vq = &vqs[index];
	struct vduse_ring ring;
	unsigned int i;

	memset(vq, 0, sizeof(*vq));
	vq->index = index;
	vq->num_free = num;
	for (i = 0; i < num; i++)
		vq->next[i] = i + 1;
	setup_ring(vq, &ring);
	vduse_inflight_init(&vq->tracker);
	if (vduse_inflight_start(&vq->tracker, &domain, &ring))
		die("start", vq);
	if (vduse_inflight_start(&vq->tracker, &domain, &ring) != -EBUSY)
		die("second start", vq);
}

static void setup_round(void)
{
	unsigned int i;

	packed = chance(50);
	hostile = chance(20);
	event_idx = chance(50);
	num = packed ? 1 + below(NUM_MAX - 1) : 1U << below(7);
	if (chance(50))
		num = packed ? 1 + below(6) : 1U << below(4);
	/* One map event for one buffer is the least that is relied upon. */
	single_percent = below(2) * 95;
	nr_vqs = 1 + below(NR_VQS);
	nr_cpus = 1 + below(SIM_CPUS);
	indirect_percent = below(3) * 50;
	batch_percent = below(3) * 40;
	interrupt_percent = below(5) * 15;
	alive = true;
	adding = true;
	failing = false;
	nonsense = 0;
	sim_cpu = 0;

	memset(cpus, 0, sizeof(cpus));
	memset(slots, 0, sizeof(slots));
	nr_free_slots = 0;
	for (i = 0; i < NR_SLOTS; i++)
		free_slots[nr_free_slots++] = i;
	memset(&domain, 0, sizeof(domain));
	if (vduse_watch_init(&domain.watch))
		die("watch", NULL);
	for (i = 0; i < nr_vqs; i++)
		setup_vq(i);
}

static void run_round(void)
{
	u64 unresolved = total_unresolved;
	unsigned int i, steps, saved;

	rng = seed_round;
	for (i = 0; i < 8; i++)
		rnd();
	setup_round();
	steps = below(6000);
	saved = interrupt_percent;

	for (i = 0; i < steps; i++) {
		any_step();
		if (!below(50)) {
			check_count();
			interrupt_percent = saved;
		}
	}
	alive = false;
	check_count();
	interrupt_percent = saved;
	if (!hostile && nonsense)
		die("the ring was thought to make no sense", NULL);

	fail_all();
	/* One line is for a buffer that could not be known. */
	if (!hostile && nonsense > total_unresolved - unresolved)
		die("the ring was thought to make no sense when failing", NULL);

	for (i = 0; i < nr_vqs; i++)
		vduse_inflight_stop(&vqs[i].tracker);
	vduse_watch_destroy(&domain.watch);
}

int main(int argc, char **argv)
{
	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 4000;
	u64 seed = argc > 2 ? strtoull(argv[2], NULL, 0) :
			      (u64)time(NULL) * 1000003;
	unsigned long i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("TAP version 13\n1..1\n# %lu rounds, seed %llu\n", rounds,
	       (unsigned long long)seed);
	for (i = 0; i < rounds; i++) {
		seed_round = seed + i ? seed + i : 1;
		run_round();
	}
	printf("# %llu adds, %llu map events, %llu barriers, %llu failed, %llu not to be known\n",
	       (unsigned long long)total_adds, (unsigned long long)total_looks,
	       (unsigned long long)total_barriers,
	       (unsigned long long)total_failed,
	       (unsigned long long)total_unresolved);
	if (!total_failed || !total_adds) {
		printf("not ok 1 tracker\n");
		return 1;
	}
	printf("ok 1 tracker\n");
	return 0;
}
