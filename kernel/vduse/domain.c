// SPDX-License-Identifier: GPL-2.0-only
/*
 * The IOVA domain: regions, and the file through which daemons map them.
 *
 * Three kinds of region exist. The bounce region covers [0, bounce size) and
 * is listed from the first mapping until a reset. Coherent regions hold the
 * rings of virtio_vdpa, are made of whole zeroed pages, and lie above. Regions
 * of vhost_vdpa are parts of files of a virtual machine's memory; such a
 * driver and virtio_vdpa never use a domain at the same time.
 *
 * Lifetime. The domain lives as long as its file: the owner holds one
 * reference, every file descriptor and mapping of a daemon another. The
 * regions of the domain itself hold none, so there is no cycle; regions of
 * vhost_vdpa hold the file they belong to.
 *
 * Locks. iotlb_lock guards the regions. It is taken with interrupts off,
 * because a driver may map with its queue's lock held and interrupts off, and
 * it is held for a look-up or one change only; nothing is called from under
 * it but the interval tree. umem_lock (umem.c) is outermost. fault_sem comes
 * below a process's mmap_lock.
 *
 * Faults. A page is put into the page tables under fault_sem, so that once
 * vduse_domain_revoke() has set revoked under it, no fault that began before
 * can complete after the mappings were removed. The inode is the domain's
 * own, hence no other anonymous file is touched by that.
 */
#include <linux/anon_inodes.h>
#include <linux/dma-mapping.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/vdpa.h>
#include <uapi/linux/vduse.h>

#include "domain_internal.h"

/**
 * struct vduse_region - one region of the IOVA space
 * @file: file of a vhost driver, with a reference; NULL for our own memory
 * @offset: where in the file the region begins
 * @vaddr: coherent memory, else NULL
 * @size: its bytes
 * @rcu: defers the free of coherent memory
 */
struct vduse_region {
	struct file *file;
	u64 offset;
	void *vaddr;
	size_t size;
	struct rcu_head rcu;
};

static void region_free(struct vduse_region *region)
{
	if (region->file)
		fput(region->file);
	kfree(region);
}

static void iotlb_destroy(struct vhost_iotlb *iotlb)
{
	struct vhost_iotlb_map *map;

	while ((map = vhost_iotlb_itree_first(iotlb, 0, U64_MAX))) {
		region_free(map->opaque);
		vhost_iotlb_map_free(iotlb, map);
	}
	vhost_iotlb_free(iotlb);
}

static int iotlb_add_file(struct vhost_iotlb *iotlb,
			  const struct vhost_iotlb_map *map)
{
	const struct vdpa_map_file *map_file = map->opaque;
	struct vduse_region *region;
	int ret;

	region = kzalloc(sizeof(*region), GFP_KERNEL_ACCOUNT);
	if (!region)
		return -ENOMEM;

	region->file = get_file(map_file->file);
	region->offset = map_file->offset;
	ret = vhost_iotlb_add_range_ctx(iotlb, map->start, map->last,
					map->addr, map->perm, region);
	if (ret)
		region_free(region);

	return ret;
}

int vduse_domain_set_map(struct vduse_domain *d, struct vhost_iotlb *iotlb)
{
	struct vhost_iotlb *fresh, *old;
	struct vhost_iotlb_map *map;
	unsigned long flags;
	int ret = 0;

	/* The vhost side bounds the number of entries. */
	fresh = vhost_iotlb_alloc(UINT_MAX, 0);
	if (!fresh)
		return -ENOMEM;

	for (map = vhost_iotlb_itree_first(iotlb, 0, U64_MAX); map && !ret;
	     map = vhost_iotlb_itree_next(map, 0, U64_MAX))
		ret = iotlb_add_file(fresh, map);
	if (ret) {
		iotlb_destroy(fresh);
		return ret;
	}

	spin_lock_irqsave(&d->iotlb_lock, flags);
	old = d->iotlb;
	d->iotlb = fresh;
	d->bounce_listed = false;
	spin_unlock_irqrestore(&d->iotlb_lock, flags);

	iotlb_destroy(old);

	return 0;
}

static struct vduse_region *domain_add_own(struct vduse_domain *d, u64 start,
					   u64 last)
	__must_hold(&d->iotlb_lock)
{
	struct vduse_region *region;

	region = kzalloc(sizeof(*region), GFP_ATOMIC);
	if (!region)
		return NULL;

	region->offset = start;
	if (vhost_iotlb_add_range_ctx(d->iotlb, start, last, 0, VHOST_MAP_RW,
				      region)) {
		kfree(region);
		return NULL;
	}

	return region;
}

int vduse_domain_list_bounce(struct vduse_domain *d)
{
	unsigned long flags;
	int ret = 0;

	if (likely(READ_ONCE(d->bounce_listed)))
		return 0;

	spin_lock_irqsave(&d->iotlb_lock, flags);
	if (!d->bounce_listed) {
		if (domain_add_own(d, 0, d->bounce.size - 1))
			WRITE_ONCE(d->bounce_listed, true);
		else
			ret = -ENOMEM;
	}
	spin_unlock_irqrestore(&d->iotlb_lock, flags);

	return ret;
}

void vduse_domain_reset_bounce_map(struct vduse_domain *d)
{
	struct vduse_region *region = NULL;
	struct vhost_iotlb_map *map;
	unsigned long flags;

	spin_lock_irqsave(&d->iotlb_lock, flags);
	if (d->bounce_listed) {
		map = vhost_iotlb_itree_first(d->iotlb, 0, d->bounce.size - 1);
		region = map->opaque;
		vhost_iotlb_map_free(d->iotlb, map);
		WRITE_ONCE(d->bounce_listed, false);
	}
	spin_unlock_irqrestore(&d->iotlb_lock, flags);

	kfree(region);
}

int vduse_domain_get_fd(struct vduse_domain *d, u64 start, u64 last,
			struct vduse_iotlb_entry *entry,
			struct file **ret_file)
{
	const struct vduse_region *region;
	struct vhost_iotlb_map *map;
	struct file *file = NULL;
	unsigned long flags;

	if (READ_ONCE(d->revoked))
		return -ENODEV;

	spin_lock_irqsave(&d->iotlb_lock, flags);
	map = vhost_iotlb_itree_first(d->iotlb, start, last);
	if (map) {
		region = map->opaque;
		file = get_file(region->file ?: d->file);
		entry->offset = region->offset;
		entry->start = map->start;
		entry->last = map->last;
		entry->perm = map->perm;
	}
	spin_unlock_irqrestore(&d->iotlb_lock, flags);

	if (!file)
		return -EINVAL;

	*ret_file = file;
	return 0;
}

int vduse_domain_get_info(struct vduse_domain *d, struct vduse_iova_info *info)
{
	struct vhost_iotlb_map *map;
	unsigned long flags;

	if (info->start > info->last)
		return -EINVAL;

	spin_lock_irqsave(&d->iotlb_lock, flags);
	map = vhost_iotlb_itree_first(d->iotlb, info->start, info->last);
	if (map) {
		info->start = map->start;
		info->last = map->last;
		info->capability = 0;
		if (d->bounce_listed && map->start == 0)
			info->capability |= VDUSE_IOVA_CAP_UMEM;
	}
	spin_unlock_irqrestore(&d->iotlb_lock, flags);

	return map ? 0 : -EINVAL;
}

/*
 * The coherent region with [iova, iova + len) in it. The memory stays valid
 * after the lock is dropped until the driver frees it, plus a grace period.
 */
static void *coherent_vaddr(struct vduse_domain *d, u64 iova, u64 len)
{
	struct vduse_region *region;
	struct vhost_iotlb_map *map;
	void *vaddr = NULL;
	unsigned long flags;

	if (!len || iova + len - 1 < iova)
		return NULL;

	spin_lock_irqsave(&d->iotlb_lock, flags);
	map = vhost_iotlb_itree_first(d->iotlb, iova, iova);
	if (map) {
		region = map->opaque;
		if (region->vaddr && iova - map->start < region->size &&
		    len <= region->size - (iova - map->start))
			vaddr = region->vaddr + (iova - map->start);
	}
	spin_unlock_irqrestore(&d->iotlb_lock, flags);

	return vaddr;
}

void *vduse_domain_vaddr(struct vduse_domain *d, u64 iova, u64 len)
{
	return coherent_vaddr(d, iova, len);
}

int vduse_domain_read(struct vduse_domain *d, u64 iova, void *buf, size_t len)
{
	int ret = 0;
	void *vaddr;

	if (iova < d->bounce.size)
		return vduse_bounce_read(&d->bounce, iova, buf, len);

	rcu_read_lock();
	vaddr = coherent_vaddr(d, iova, len);
	if (vaddr)
		memcpy(buf, vaddr, len);
	else
		ret = -EFAULT;
	rcu_read_unlock();

	return ret;
}

int vduse_domain_write(struct vduse_domain *d, u64 iova, const void *buf,
		       size_t len)
{
	int ret = 0;
	void *vaddr;

	if (iova < d->bounce.size)
		return vduse_bounce_write(&d->bounce, iova, buf, len);

	rcu_read_lock();
	vaddr = coherent_vaddr(d, iova, len);
	if (vaddr)
		memcpy(vaddr, buf, len);
	else
		ret = -EFAULT;
	rcu_read_unlock();

	return ret;
}

void *vduse_domain_alloc_coherent(struct vduse_domain *d, size_t size,
				  gfp_t gfp, dma_addr_t *ret_iova)
{
	unsigned long nr = PAGE_ALIGN(size) >> PAGE_SHIFT;
	struct vduse_region *region;
	unsigned long flags;
	struct iova *iova;
	void *vaddr;
	u64 start;

	vaddr = alloc_pages_exact(PAGE_ALIGN(size), gfp | __GFP_ZERO);
	if (!vaddr)
		return NULL;

	iova = alloc_iova(&d->iovad, nr, d->iova_limit >> PAGE_SHIFT, true);
	if (!iova)
		goto err_iova;

	start = (u64)iova->pfn_lo << PAGE_SHIFT;
	spin_lock_irqsave(&d->iotlb_lock, flags);
	region = domain_add_own(d, start, start + PAGE_ALIGN(size) - 1);
	if (region) {
		region->vaddr = vaddr;
		region->size = PAGE_ALIGN(size);
	}
	spin_unlock_irqrestore(&d->iotlb_lock, flags);
	if (!region)
		goto err_region;

	*ret_iova = start;
	return vaddr;

err_region:
	__free_iova(&d->iovad, iova);
err_iova:
	free_pages_exact(vaddr, PAGE_ALIGN(size));
	return NULL;
}

static void region_free_coherent_rcu(struct rcu_head *rcu)
{
	struct vduse_region *region = container_of(rcu, struct vduse_region,
						   rcu);

	free_pages_exact(region->vaddr, region->size);
	kfree(region);
}

void vduse_domain_free_coherent(struct vduse_domain *d, void *vaddr,
				size_t size, dma_addr_t iova)
{
	struct vduse_region *region = NULL;
	struct vhost_iotlb_map *map;
	unsigned long flags;

	spin_lock_irqsave(&d->iotlb_lock, flags);
	map = vhost_iotlb_itree_first(d->iotlb, iova, iova);
	if (map) {
		region = map->opaque;
		if (region->vaddr == vaddr && region->size == PAGE_ALIGN(size))
			vhost_iotlb_map_free(d->iotlb, map);
		else
			region = NULL;
	}
	spin_unlock_irqrestore(&d->iotlb_lock, flags);

	if (WARN_ON_ONCE(!region))
		return;

	free_iova(&d->iovad, iova >> PAGE_SHIFT);
	call_rcu(&region->rcu, region_free_coherent_rcu);
}

/* A reference to the page at @pgoff of the file, NULL when there is none. */
static struct page *domain_get_page(struct vduse_domain *d, pgoff_t pgoff)
{
	struct page *page = NULL;
	void *vaddr;

	if (pgoff < d->bounce.nr_pages)
		return vduse_bounce_get_page(&d->bounce, pgoff);

	if (pgoff > d->iova_limit >> PAGE_SHIFT)
		return NULL;

	rcu_read_lock();
	vaddr = coherent_vaddr(d, (u64)pgoff << PAGE_SHIFT, PAGE_SIZE);
	if (vaddr) {
		page = virt_to_page(vaddr);
		get_page(page);
	}
	rcu_read_unlock();

	return page;
}

static vm_fault_t domain_fault(struct vm_fault *vmf)
{
	struct vduse_domain *d = vmf->vma->vm_private_data;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	struct page *page;
	int err;

	down_read(&d->fault_sem);
	if (d->revoked)
		goto out;

	page = domain_get_page(d, vmf->pgoff);
	if (!page)
		goto out;

	err = vm_insert_page(vmf->vma, vmf->address & PAGE_MASK, page);
	put_page(page);
	if (!err || err == -EBUSY) /* another thread was faster */
		ret = VM_FAULT_NOPAGE;
	else if (err == -ENOMEM)
		ret = VM_FAULT_OOM;
out:
	up_read(&d->fault_sem);
	return ret;
}

static const struct vm_operations_struct domain_vm_ops = {
	.fault = domain_fault,
};

static int domain_mmap(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_DONTDUMP | VM_DONTEXPAND | VM_MIXEDMAP);
	vma->vm_private_data = file->private_data;
	vma->vm_ops = &domain_vm_ops;

	return 0;
}

void vduse_domain_revoke(struct vduse_domain *d)
{
	down_write(&d->fault_sem);
	WRITE_ONCE(d->revoked, true);
	up_write(&d->fault_sem);

	unmap_mapping_range(d->file->f_mapping, 0, 0, 1);
}

static int domain_release(struct inode *inode, struct file *file)
{
	struct vduse_domain *d = file->private_data;

	vduse_domain_release_umem(d);
	vduse_watch_destroy(&d->watch);
	iotlb_destroy(d->iotlb);
	put_iova_domain(&d->iovad);
	vduse_bounce_destroy(&d->bounce);
	kfree(d);

	return 0;
}

static const struct file_operations domain_fops = {
	.owner = THIS_MODULE,
	.mmap = domain_mmap,
	.release = domain_release,
};

int vduse_domain_create(u64 iova_limit, size_t bounce_size,
			struct vduse_domain **ret_domain)
{
	struct vduse_domain *d;
	struct file *file;
	int ret;

	bounce_size = PAGE_ALIGN(bounce_size);
	if (!bounce_size || iova_limit <= bounce_size)
		return -EINVAL;

	d = kzalloc(sizeof(*d), GFP_KERNEL);
	if (!d)
		return -ENOMEM;

	d->iova_limit = iova_limit;
	spin_lock_init(&d->iotlb_lock);
	init_rwsem(&d->fault_sem);
	mutex_init(&d->umem_lock);

	ret = vduse_watch_init(&d->watch);
	if (ret)
		goto err_watch;

	ret = vduse_bounce_init(&d->bounce, bounce_size);
	if (ret)
		goto err_bounce;

	ret = -ENOMEM;
	d->iotlb = vhost_iotlb_alloc(UINT_MAX, 0);
	if (!d->iotlb)
		goto err_iotlb;

	init_iova_domain(&d->iovad, PAGE_SIZE, d->bounce.nr_pages);

	file = anon_inode_create_getfile("[vduse-domain]", &domain_fops, d,
					 O_RDWR, NULL);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
		goto err_file;
	}
	d->file = file;

	*ret_domain = d;
	return 0;

err_file:
	put_iova_domain(&d->iovad);
	vhost_iotlb_free(d->iotlb);
err_iotlb:
	vduse_bounce_destroy(&d->bounce);
err_bounce:
	vduse_watch_destroy(&d->watch);
err_watch:
	kfree(d);
	return ret;
}

void vduse_domain_put(struct vduse_domain *d)
{
	if (d)
		fput(d->file);
}

size_t vduse_domain_bounce_size(const struct vduse_domain *d)
{
	return d->bounce.size;
}

struct vduse_watch *vduse_domain_watch(struct vduse_domain *d)
{
	return &d->watch;
}

int vduse_domain_init(void)
{
	return iova_cache_get();
}

void vduse_domain_exit(void)
{
	/* Coherent memory may still wait for its grace period. */
	rcu_barrier();
	iova_cache_put();
}
