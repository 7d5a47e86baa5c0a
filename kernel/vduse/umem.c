// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registered memory: the daemon offers its own pages as bounce memory.
 *
 * The pages are pinned for long, counted in pinned_vm of the registering
 * process against its RLIMIT_MEMLOCK, and must cover the whole bounce region.
 * umem_lock serialises registration and removal; moving the contents over is
 * bounce.c's. The process may exit before the registration goes away, so its
 * mm is kept, for the accounting only.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "domain_internal.h"

/**
 * struct vduse_umem - one registration
 * @pages: pinned pages, as many as the bounce region has
 * @nr_pages: their number
 * @mm: where they are accounted
 */
struct vduse_umem {
	struct page **pages;
	unsigned long nr_pages;
	struct mm_struct *mm;
};

static void umem_free(struct vduse_umem *umem)
{
	vfree(umem->pages);
	kfree(umem);
}

static struct vduse_umem *umem_alloc(unsigned long nr_pages)
{
	struct vduse_umem *umem;

	umem = kzalloc(sizeof(*umem), GFP_KERNEL);
	if (!umem)
		return NULL;

	umem->nr_pages = nr_pages;
	umem->pages = __vmalloc(array_size(nr_pages, sizeof(*umem->pages)),
				GFP_KERNEL_ACCOUNT);
	if (!umem->pages) {
		kfree(umem);
		return NULL;
	}

	return umem;
}

/* Pin and account memory of the current process; all of it or nothing. */
static int umem_pin(struct vduse_umem *umem, unsigned long uaddr)
{
	unsigned long limit = PFN_DOWN(rlimit(RLIMIT_MEMLOCK));
	struct mm_struct *mm = current->mm;
	long pinned;
	int ret = 0;

	mmap_read_lock(mm);
	if (atomic64_add_return(umem->nr_pages, &mm->pinned_vm) > limit) {
		ret = -ENOMEM;
		goto out;
	}

	pinned = pin_user_pages(uaddr, umem->nr_pages,
				FOLL_LONGTERM | FOLL_WRITE, umem->pages);
	if (pinned == umem->nr_pages) {
		mmgrab(mm);
		umem->mm = mm;
		goto out;
	}

	ret = pinned < 0 ? pinned : -ENOMEM;
	if (pinned > 0)
		unpin_user_pages(umem->pages, pinned);
out:
	if (ret)
		atomic64_sub(umem->nr_pages, &mm->pinned_vm);
	mmap_read_unlock(mm);
	return ret;
}

static void umem_unpin(struct vduse_umem *umem)
{
	unpin_user_pages_dirty_lock(umem->pages, umem->nr_pages, true);
	atomic64_sub(umem->nr_pages, &umem->mm->pinned_vm);
	mmdrop(umem->mm);
}

int vduse_domain_reg_umem(struct vduse_domain *d, u64 iova, u64 uaddr,
			  u64 size)
{
	struct vduse_umem *umem;
	int ret;

	if (iova || size != d->bounce.size || !PAGE_ALIGNED(uaddr) ||
	    uaddr > ULONG_MAX - size || !READ_ONCE(d->bounce_listed))
		return -EINVAL;

	mutex_lock(&d->umem_lock);
	ret = -EEXIST;
	if (d->umem)
		goto out;

	ret = -ENOMEM;
	umem = umem_alloc(d->bounce.nr_pages);
	if (!umem)
		goto out;

	ret = umem_pin(umem, uaddr);
	if (ret) {
		umem_free(umem);
		goto out;
	}

	vduse_bounce_register(&d->bounce, umem->pages);
	d->umem = umem;
out:
	mutex_unlock(&d->umem_lock);
	return ret;
}

static void umem_remove(struct vduse_domain *d)
	__must_hold(&d->umem_lock)
{
	vduse_bounce_unregister(&d->bounce);
	umem_unpin(d->umem);
	umem_free(d->umem);
	d->umem = NULL;
}

int vduse_domain_dereg_umem(struct vduse_domain *d, u64 iova, u64 size)
{
	int ret = 0;

	mutex_lock(&d->umem_lock);
	if (!d->umem)
		ret = -ENOENT;
	else if (iova || size != d->bounce.size)
		ret = -EINVAL;
	else
		umem_remove(d);
	mutex_unlock(&d->umem_lock);

	return ret;
}

void vduse_domain_release_umem(struct vduse_domain *d)
{
	mutex_lock(&d->umem_lock);
	if (d->umem)
		umem_remove(d);
	mutex_unlock(&d->umem_lock);
}
