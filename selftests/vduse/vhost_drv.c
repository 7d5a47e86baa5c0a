// SPDX-License-Identifier: GPL-2.0-only
/*
 * vhost-vdpa by ioctl; vhost_drv.h describes it. Guest addresses that vhost
 * calls "user" addresses are IOVAs here, because the device does not go through
 * the kernel's vhost rings.
 */
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util.h"
#include "vdpa_bus.h"
#include "vhost_drv.h"

int vhost_drv_open(struct vhost_drv *d, const char *name)
{
	uint64_t backend = BIT64(VHOST_BACKEND_F_IOTLB_MSG_V2);

	*d = (struct vhost_drv){ .memfd = -1, .kick = -1, .call = -1 };
	d->fd = vdpa_vhost_open(name);
	if (d->fd < 0)
		return d->fd;
	d->memfd = memfd_create("guest", MFD_CLOEXEC);
	d->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->memfd < 0 || d->kick < 0 || d->call < 0)
		return -errno;
	if (ftruncate(d->memfd, VHOST_DRV_MEM))
		return -errno;
	d->mem = mmap(NULL, VHOST_DRV_MEM, PROT_READ | PROT_WRITE, MAP_SHARED,
		      d->memfd, 0);
	if (d->mem == MAP_FAILED)
		return -errno;
	if (ioctl(d->fd, VHOST_SET_OWNER))
		return -errno;
	return (int)sys(ioctl(d->fd, VHOST_SET_BACKEND_FEATURES, &backend));
}

void vhost_drv_close(struct vhost_drv *d)
{
	if (d->fd < 0)
		return;
	close(d->fd);
	close(d->kick);
	close(d->call);
	close(d->memfd);
	if (d->mem && d->mem != MAP_FAILED)
		munmap(d->mem, VHOST_DRV_MEM);
	d->fd = -1;
}

int vhost_drv_get_status(struct vhost_drv *d)
{
	uint8_t status = 0;
	int ret = (int)sys(ioctl(d->fd, VHOST_VDPA_GET_STATUS, &status));

	return ret ? ret : status;
}

int vhost_drv_set_status(struct vhost_drv *d, uint8_t status)
{
	return (int)sys(ioctl(d->fd, VHOST_VDPA_SET_STATUS, &status));
}

int vhost_drv_set_features(struct vhost_drv *d, uint64_t features)
{
	return (int)sys(ioctl(d->fd, VHOST_SET_FEATURES, &features));
}

int vhost_drv_negotiate(struct vhost_drv *d, uint64_t features)
{
	uint8_t s = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int ret = vhost_drv_set_status(d, s);

	if (!ret)
		ret = vhost_drv_set_features(d, features);
	if (!ret)
		ret = vhost_drv_set_status(d, s | VIRTIO_CONFIG_S_FEATURES_OK);
	return ret;
}

static int iotlb_message(struct vhost_drv *d, struct vhost_iotlb_msg iotlb)
{
	struct vhost_msg_v2 m;

	memset(&m, 0, sizeof(m));
	m.type = VHOST_IOTLB_MSG_V2;
	m.iotlb = iotlb;
	return sys(write(d->fd, &m, sizeof(m))) == sizeof(m) ? 0 : -errno;
}

int vhost_drv_map(struct vhost_drv *d, uint64_t iova, void *addr, size_t size,
		  uint8_t perm)
{
	return iotlb_message(d, (struct vhost_iotlb_msg){
		.iova = iova,
		.size = size,
		.uaddr = (uintptr_t)addr,
		.perm = perm,
		.type = VHOST_IOTLB_UPDATE,
	});
}

int vhost_drv_unmap(struct vhost_drv *d, uint64_t iova, size_t size)
{
	return iotlb_message(d, (struct vhost_iotlb_msg){
		.iova = iova,
		.size = size,
		.type = VHOST_IOTLB_INVALIDATE,
	});
}

int vhost_drv_set_base(struct vhost_drv *d, unsigned int index, uint32_t base)
{
	struct vhost_vring_state s = { index, base };

	return (int)sys(ioctl(d->fd, VHOST_SET_VRING_BASE, &s));
}

long vhost_drv_get_base(struct vhost_drv *d, unsigned int index)
{
	struct vhost_vring_state s = { index, 0 };
	long ret = sys(ioctl(d->fd, VHOST_GET_VRING_BASE, &s));

	return ret ? ret : (long)s.num;
}

int vhost_drv_setup_vq(struct vhost_drv *d)
{
	struct vhost_vring_state num = { 0, VHOST_DRV_NUM };
	struct vhost_vring_state on = { 0, 1 };
	struct vhost_vring_addr addr = {
		.desc_user_addr = VHOST_DRV_IOVA + VHOST_DRV_DESC,
		.avail_user_addr = VHOST_DRV_IOVA + VHOST_DRV_AVAIL,
		.used_user_addr = VHOST_DRV_IOVA + VHOST_DRV_USED,
	};
	struct vhost_vring_file kick = { 0, d->kick }, call = { 0, d->call };
	int ret = vhost_drv_map(d, VHOST_DRV_IOVA, d->mem, VHOST_DRV_MEM,
				VHOST_ACCESS_RW);

	if (ret)
		return ret;
	if (ioctl(d->fd, VHOST_SET_VRING_NUM, &num) ||
	    ioctl(d->fd, VHOST_SET_VRING_ADDR, &addr) ||
	    ioctl(d->fd, VHOST_SET_VRING_KICK, &kick) ||
	    ioctl(d->fd, VHOST_SET_VRING_CALL, &call) ||
	    ioctl(d->fd, VHOST_VDPA_SET_VRING_ENABLE, &on))
		return -errno;
	return 0;
}

int vhost_drv_start(struct vhost_drv *d, uint64_t features)
{
	int ret = vhost_drv_negotiate(d, features);

	if (!ret)
		ret = vhost_drv_setup_vq(d);
	if (!ret)
		ret = vhost_drv_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE |
						  VIRTIO_CONFIG_S_DRIVER |
						  VIRTIO_CONFIG_S_FEATURES_OK |
						  VIRTIO_CONFIG_S_DRIVER_OK);
	return ret;
}

static void put_desc(struct vhost_drv *d, unsigned int i, uint32_t offset,
		     uint32_t len, uint16_t flags)
{
	struct vring_desc *desc = (void *)(d->mem + VHOST_DRV_DESC);

	desc[i] = (struct vring_desc){ VHOST_DRV_IOVA + offset, len, flags,
				       (uint16_t)(i + 1) };
}

int vhost_drv_submit(struct vhost_drv *d, int ms)
{
	uint16_t *avail = (void *)(d->mem + VHOST_DRV_AVAIL);
	uint16_t *used = (void *)(d->mem + VHOST_DRV_USED);
	struct pollfd p = { .fd = d->call, .events = POLLIN };
	uint64_t end = now_ms() + (uint64_t)ms;
	eventfd_t count;

	d->mem[VHOST_DRV_STATUS] = 0xff;
	avail[2 + d->avail % VHOST_DRV_NUM] = 0;
	__atomic_store_n(&avail[1], ++d->avail, __ATOMIC_RELEASE);
	eventfd_write(d->kick, 1);

	while (__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) != d->avail) {
		int64_t left = (int64_t)(end - now_ms());

		if (left <= 0 || poll(&p, 1, (int)left) < 0)
			return -ETIMEDOUT;
		eventfd_read(d->call, &count);
	}
	return d->mem[VHOST_DRV_STATUS];
}

int vhost_drv_request(struct vhost_drv *d, uint32_t type, uint64_t sector,
		      uint32_t len, int ms)
{
	struct virtio_blk_outhdr *h = (void *)(d->mem + VHOST_DRV_HEADER);
	unsigned int n = 0;

	*h = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	put_desc(d, n++, VHOST_DRV_HEADER, sizeof(*h), VRING_DESC_F_NEXT);
	if (len)
		put_desc(d, n++, VHOST_DRV_DATA, len,
			 VRING_DESC_F_NEXT | (type == VIRTIO_BLK_T_OUT ?
						      0 : VRING_DESC_F_WRITE));
	put_desc(d, n, VHOST_DRV_STATUS, 1, VRING_DESC_F_WRITE);
	return vhost_drv_submit(d, ms);
}
