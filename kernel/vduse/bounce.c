// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bounce memory.
 *
 * The region [0, size) of the IOVA space is divided into slots of 4 KiB. A
 * mapping takes consecutive slots; each slot records which bytes of the
 * driver's memory it stands for. The contents live in pages, one pointer per
 * PAGE_SIZE, that are allocated when first needed and then kept: either pages
 * of the kernel, which the daemon maps from the domain's file, or pages that
 * the daemon registered.
 *
 * Ownership. A slot belongs to the mapping it is part of, from the allocation
 * of its IOVA until the IOVA is freed, so mapping and unmapping need no lock
 * but the allocator's own, which is per CPU. vduse_bounce_read() and
 * vduse_bounce_write() look at slots that somebody else owns: addresses there
 * come from rings, so anything may be found, and every field is read once and
 * checked. They are called for mappings whose request is in flight; if a ring
 * was scribbled on they may meet a slot that is just changing, in which case
 * the bytes read are worthless but still come from memory with a struct page,
 * and a write lands in bounce memory.
 *
 * Moving between kernel and registered pages. Users of @active are inside an
 * RCU read-side section. The mover sets @moving and waits for a grace period;
 * from then on every user holds @move_lock, under which pages are moved one
 * at a time. Clearing @moving (release) after the last page pairs with the
 * acquire in bounce_enter(), so that who does not take the lock sees the new
 * pages. Nobody pays for a lock while nothing moves.
 *
 * What the daemon can see. Pages are zeroed when allocated and only bytes of
 * buffers mapped towards the device are copied in, so nothing of the kernel's
 * memory beside these buffers gets there: no neighbours in the same page and
 * none in the same slot. What remains in a slot from earlier requests of the
 * same device stays visible to the same daemon; and a new daemon of the same
 * device may read what its predecessor read. In the other direction no more
 * is copied back than was mapped, whatever size the caller passes.
 */
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>

#include "bounce.h"

struct bounce_section {
	unsigned long irqflags;
	bool locked;
};

static void bounce_enter(struct vduse_bounce *b, struct bounce_section *s)
	__acquires(RCU)
{
	rcu_read_lock();
	/* Pairs with the release at the end of a move. */
	s->locked = unlikely(smp_load_acquire(&b->moving));
	if (s->locked) {
		spin_lock_irqsave(&b->move_lock, s->irqflags);
		__release(&b->move_lock); /* sparse cannot follow conditions */
	}
}

static void bounce_leave(struct vduse_bounce *b, struct bounce_section *s)
	__releases(RCU)
{
	if (s->locked) {
		__acquire(&b->move_lock);
		spin_unlock_irqrestore(&b->move_lock, s->irqflags);
	}
	rcu_read_unlock();
}

static unsigned long slot_page(unsigned long slot)
{
	return slot >> (PAGE_SHIFT - VDUSE_SLOT_SHIFT);
}

static bool dir_to_device(u8 dir)
{
	return dir == DMA_TO_DEVICE || dir == DMA_BIDIRECTIONAL;
}

static bool dir_from_device(u8 dir)
{
	return dir == DMA_FROM_DEVICE || dir == DMA_BIDIRECTIONAL;
}

/* Put @page (or the page somebody else put first) where mappings find it. */
static void bounce_install(struct vduse_bounce *b, unsigned long index,
			   struct page *page)
{
	struct page *old = cmpxchg(&b->kernel[index], NULL, page);

	if (old) {
		__free_page(page);
		page = old;
	}
	cmpxchg(&b->active[index], NULL, page);
}

/* Inside a section: make sure that the pages under some slots exist. */
static int bounce_populate(struct vduse_bounce *b, unsigned long slot,
			   unsigned long nr)
{
	unsigned long index, last = slot_page(slot + nr - 1);
	struct page *page;

	for (index = slot_page(slot); index <= last; index++) {
		if (likely(READ_ONCE(b->active[index])))
			continue;
		page = alloc_page(GFP_ATOMIC | __GFP_ZERO | __GFP_NOWARN);
		if (!page)
			return -ENOMEM;
		bounce_install(b, index, page);
	}

	return 0;
}

/* Inside a section: copy @n bytes at @off of a slot from or to @orig. */
static void bounce_copy(struct vduse_bounce *b, unsigned long slot,
			unsigned int off, phys_addr_t orig, size_t n,
			bool to_device)
{
	size_t pos = offset_in_page((slot << VDUSE_SLOT_SHIFT) + off);
	struct page *page = READ_ONCE(b->active[slot_page(slot)]);
	char *mapped, *bounce;
	size_t part;

	mapped = kmap_local_page(page);
	bounce = mapped + pos;
	while (n) {
		part = min_t(size_t, n, PAGE_SIZE - offset_in_page(orig));
		if (to_device)
			memcpy_from_page(bounce, pfn_to_page(PHYS_PFN(orig)),
					 offset_in_page(orig), part);
		else
			memcpy_to_page(pfn_to_page(PHYS_PFN(orig)),
				       offset_in_page(orig), bounce, part);
		bounce += part;
		orig += part;
		n -= part;
	}
	kunmap_local(mapped);
}

/* Inside a section: copy @nr slots of one mapping as far as they are used. */
static void bounce_copy_slots(struct vduse_bounce *b, unsigned long slot,
			      unsigned long nr, bool to_device)
{
	struct vduse_bounce_slot *s = &b->slots[slot];

	for (; nr; nr--, slot++, s++)
		bounce_copy(b, slot, 0, s->orig, s->len, to_device);
}

static void bounce_claim(struct vduse_bounce *b, unsigned long slot,
			 phys_addr_t orig, size_t size,
			 enum dma_data_direction dir)
{
	struct vduse_bounce_slot *s = &b->slots[slot];
	bool first = true;

	while (size) {
		s->len = min_t(size_t, size, VDUSE_SLOT_SIZE);
		s->dir = dir;
		s->first = first;
		WRITE_ONCE(s->orig, orig);

		first = false;
		orig += s->len;
		size -= s->len;
		s++;
	}
}

int vduse_bounce_map(struct vduse_bounce *b, phys_addr_t orig, size_t size,
		     enum dma_data_direction dir, bool copy,
		     dma_addr_t *ret_iova)
{
	unsigned long nr = DIV_ROUND_UP(size, VDUSE_SLOT_SIZE);
	unsigned long last = (b->size >> VDUSE_SLOT_SHIFT) - 1;
	struct bounce_section section;
	unsigned long slot;
	int ret;

	if (unlikely(!nr || nr > last))
		return -ENOMEM;

	slot = alloc_iova_fast(&b->iovad, nr, last, true);
	if (unlikely(!slot))
		return -ENOMEM;

	bounce_enter(b, &section);
	ret = bounce_populate(b, slot, nr);
	if (likely(!ret)) {
		bounce_claim(b, slot, orig, size, dir);
		if (copy && dir_to_device(dir))
			bounce_copy_slots(b, slot, nr, true);
	}
	bounce_leave(b, &section);

	if (unlikely(ret)) {
		free_iova_fast(&b->iovad, slot, nr);
		return ret;
	}

	*ret_iova = (dma_addr_t)slot << VDUSE_SLOT_SHIFT;
	return 0;
}

/* Is this exactly what vduse_bounce_map() returned, and still mapped? */
static bool bounce_is_mapping(struct vduse_bounce *b, dma_addr_t iova,
			      size_t size)
{
	unsigned long slot = iova >> VDUSE_SLOT_SHIFT;
	unsigned long nr = DIV_ROUND_UP(size, VDUSE_SLOT_SIZE);
	struct vduse_bounce_slot *first, *last;

	if (iova & (VDUSE_SLOT_SIZE - 1) || !nr || iova >= b->size ||
	    size > b->size - iova)
		return false;

	first = &b->slots[slot];
	last = first + nr - 1;

	return first->orig != VDUSE_SLOT_FREE && first->first &&
	       last->orig != VDUSE_SLOT_FREE && (nr == 1 || !last->first) &&
	       last->len == size - ((nr - 1) << VDUSE_SLOT_SHIFT);
}

void vduse_bounce_unmap(struct vduse_bounce *b, dma_addr_t iova, size_t size,
			bool copy)
{
	unsigned long slot = iova >> VDUSE_SLOT_SHIFT;
	unsigned long nr = DIV_ROUND_UP(size, VDUSE_SLOT_SIZE);
	struct bounce_section section;
	unsigned long i;

	if (WARN_ON_ONCE(!bounce_is_mapping(b, iova, size)))
		return;

	if (copy && dir_from_device(b->slots[slot].dir)) {
		bounce_enter(b, &section);
		bounce_copy_slots(b, slot, nr, false);
		bounce_leave(b, &section);
	}

	for (i = 0; i < nr; i++)
		WRITE_ONCE(b->slots[slot + i].orig, VDUSE_SLOT_FREE);

	free_iova_fast(&b->iovad, slot, nr);
}

/*
 * Look one slot up for a range that starts at @iova; @begin tells that no slot
 * of the range was looked up before. Returns how many bytes of the slot belong
 * to the mapping from @iova on, 0 when nothing (more) of it is there.
 */
static size_t bounce_lookup(struct vduse_bounce *b, u64 iova, bool begin,
			    struct vduse_bounce_slot *ret_slot)
{
	unsigned int off = iova & (VDUSE_SLOT_SIZE - 1);
	struct vduse_bounce_slot *s;

	if (iova >= b->size)
		return 0;

	s = &b->slots[iova >> VDUSE_SLOT_SHIFT];
	ret_slot->orig = READ_ONCE(s->orig);
	ret_slot->len = READ_ONCE(s->len);
	ret_slot->dir = READ_ONCE(s->dir);
	ret_slot->first = READ_ONCE(s->first);

	if (ret_slot->orig == VDUSE_SLOT_FREE || off >= ret_slot->len ||
	    (!begin && ret_slot->first))
		return 0;

	return ret_slot->len - off;
}

/* Does the mapping at @iova go on for @len bytes? For @write: may it be? */
static bool bounce_covers(struct vduse_bounce *b, u64 iova, size_t len,
			  bool write)
{
	struct vduse_bounce_slot s;
	bool begin = true;
	size_t n;

	while (len) {
		n = bounce_lookup(b, iova, begin, &s);
		if (!n || (write && !dir_from_device(s.dir)))
			return false;
		n = min(n, len);
		iova += n;
		len -= n;
		begin = false;
	}

	return true;
}

void vduse_bounce_sync(struct vduse_bounce *b, dma_addr_t iova, size_t size,
		       bool to_device)
{
	struct bounce_section section;
	struct vduse_bounce_slot s;
	unsigned int off;
	bool begin = true;
	size_t n;

	bounce_enter(b, &section);
	while (size) {
		n = bounce_lookup(b, iova, begin, &s);
		if (!n || !(to_device ? dir_to_device(s.dir) :
					dir_from_device(s.dir)))
			break;

		n = min(n, size);
		off = iova & (VDUSE_SLOT_SIZE - 1);
		bounce_copy(b, iova >> VDUSE_SLOT_SHIFT, off, s.orig + off, n,
			    to_device);
		iova += n;
		size -= n;
		begin = false;
	}
	bounce_leave(b, &section);
}

int vduse_bounce_read(struct vduse_bounce *b, u64 iova, void *buf, size_t len)
{
	struct vduse_bounce_slot s;
	phys_addr_t orig;
	bool begin = true;
	size_t n;

	if (!bounce_covers(b, iova, len, false))
		return -EFAULT;

	while (len) {
		n = bounce_lookup(b, iova, begin, &s);
		if (!n)
			return -EFAULT;

		orig = s.orig + (iova & (VDUSE_SLOT_SIZE - 1));
		n = min3(n, len, PAGE_SIZE - offset_in_page(orig));
		memcpy_from_page(buf, pfn_to_page(PHYS_PFN(orig)),
				 offset_in_page(orig), n);
		buf += n;
		iova += n;
		len -= n;
		/* A part of a slot may be left, and that may be the first. */
		begin = iova & (VDUSE_SLOT_SIZE - 1);
	}

	return 0;
}

int vduse_bounce_write(struct vduse_bounce *b, u64 iova, const void *buf,
		       size_t len)
{
	struct bounce_section section;
	struct page *page;
	int ret = 0;
	size_t n;

	if (!bounce_covers(b, iova, len, true))
		return -EFAULT;

	bounce_enter(b, &section);
	while (len) {
		n = min_t(size_t, len, PAGE_SIZE - offset_in_page(iova));
		page = READ_ONCE(b->active[iova >> PAGE_SHIFT]);
		if (!page) {
			ret = -EFAULT;
			break;
		}
		memcpy_to_page(page, offset_in_page(iova), buf, n);
		buf += n;
		iova += n;
		len -= n;
	}
	bounce_leave(b, &section);

	return ret;
}

struct page *vduse_bounce_get_page(struct vduse_bounce *b, unsigned long index)
{
	struct bounce_section section;
	struct page *page, *fresh = NULL;

	/*
	 * The daemon faults here while it serves the disk that the kernel may
	 * want to write dirty pages to: do not wait for I/O.
	 */
	if (!READ_ONCE(b->kernel[index])) {
		fresh = alloc_page(GFP_NOIO | __GFP_ZERO);
		if (!fresh)
			return NULL;
	}

	bounce_enter(b, &section);
	page = NULL;
	if (!READ_ONCE(b->registered)) {
		if (fresh)
			bounce_install(b, index, fresh);
		fresh = NULL;
		page = b->kernel[index];
		get_page(page);
	}
	bounce_leave(b, &section);

	if (fresh)
		__free_page(fresh);

	return page;
}

static bool bounce_page_in_use(struct vduse_bounce *b, unsigned long index)
{
	unsigned long per_page = PAGE_SIZE >> VDUSE_SLOT_SHIFT;
	struct vduse_bounce_slot *s = &b->slots[index * per_page];
	unsigned long i;

	for (i = 0; i < per_page; i++)
		if (READ_ONCE(s[i].orig) != VDUSE_SLOT_FREE)
			return true;

	return false;
}

static void bounce_begin_move(struct vduse_bounce *b)
{
	WRITE_ONCE(b->moving, true);
	/* Those who saw it clear have left when this returns. */
	synchronize_rcu();
}

static void bounce_end_move(struct vduse_bounce *b)
{
	/* Pairs with the acquire in bounce_enter(). */
	smp_store_release(&b->moving, false);
}

void vduse_bounce_register(struct vduse_bounce *b, struct page **pages)
{
	unsigned long flags, i;
	struct page *old;

	bounce_begin_move(b);
	for (i = 0; i < b->nr_pages; i++) {
		spin_lock_irqsave(&b->move_lock, flags);
		WRITE_ONCE(b->registered, true);
		old = b->active[i];
		if (old && bounce_page_in_use(b, i))
			copy_highpage(pages[i], old);
		WRITE_ONCE(b->active[i], pages[i]);
		spin_unlock_irqrestore(&b->move_lock, flags);
		cond_resched();
	}
	bounce_end_move(b);
}

void vduse_bounce_unregister(struct vduse_bounce *b)
{
	unsigned long flags, i;
	struct page *fresh = NULL;

	bounce_begin_move(b);
	for (i = 0; i < b->nr_pages; i++) {
		/*
		 * Contents in use must go somewhere: a request may be in
		 * flight in them, and nobody could be told that they are lost.
		 */
		if (!b->kernel[i] && !fresh)
			fresh = alloc_page(GFP_NOIO | __GFP_ZERO |
					   __GFP_NOFAIL);

		spin_lock_irqsave(&b->move_lock, flags);
		if (bounce_page_in_use(b, i)) {
			if (!b->kernel[i]) {
				b->kernel[i] = fresh;
				fresh = NULL;
			}
			copy_highpage(b->kernel[i], b->active[i]);
		}
		WRITE_ONCE(b->active[i], b->kernel[i]);
		if (i == b->nr_pages - 1)
			WRITE_ONCE(b->registered, false);
		spin_unlock_irqrestore(&b->move_lock, flags);
		cond_resched();
	}
	bounce_end_move(b);

	if (fresh)
		__free_page(fresh);
}

int vduse_bounce_init(struct vduse_bounce *b, size_t size)
{
	unsigned long i, nr_slots = size >> VDUSE_SLOT_SHIFT;
	int ret = -ENOMEM;

	b->size = size;
	b->nr_pages = size >> PAGE_SHIFT;
	spin_lock_init(&b->move_lock);

	b->slots = vcalloc(nr_slots, sizeof(*b->slots));
	if (!b->slots)
		return ret;
	for (i = 0; i < nr_slots; i++)
		b->slots[i].orig = VDUSE_SLOT_FREE;

	b->kernel = vcalloc(b->nr_pages, sizeof(*b->kernel));
	if (!b->kernel)
		goto err_slots;

	b->active = vcalloc(b->nr_pages, sizeof(*b->active));
	if (!b->active)
		goto err_kernel;

	/* Slot 0 stays unused: address 0 is how drivers say "none". */
	init_iova_domain(&b->iovad, VDUSE_SLOT_SIZE, 1);
	ret = iova_domain_init_rcaches(&b->iovad);
	if (ret)
		goto err_iovad;

	return 0;

err_iovad:
	put_iova_domain(&b->iovad);
	vfree(b->active);
err_kernel:
	vfree(b->kernel);
err_slots:
	vfree(b->slots);
	return ret;
}

void vduse_bounce_destroy(struct vduse_bounce *b)
{
	unsigned long i;

	for (i = 0; i < b->nr_pages; i++)
		if (b->kernel[i])
			put_page(b->kernel[i]);

	put_iova_domain(&b->iovad);
	vfree(b->active);
	vfree(b->kernel);
	vfree(b->slots);
}
