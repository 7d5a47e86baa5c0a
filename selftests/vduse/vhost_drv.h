/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The driver's side through /dev/vhost-vdpa-N, as a virtual machine monitor
 * would do it, with the ring written by hand: a memfd that is mapped at an
 * IOVA, a split ring and one request at a time in it.
 */
#ifndef VDUSE_TEST_VHOST_DRV_H
#define VDUSE_TEST_VHOST_DRV_H

#include <stddef.h>
#include <stdint.h>

#define VHOST_DRV_MEM (1 << 20)
#define VHOST_DRV_IOVA UINT64_C(0x40000000)
#define VHOST_DRV_NUM 16
/* Where things lie in the memory, offsets. */
#define VHOST_DRV_DESC 0x0000
#define VHOST_DRV_AVAIL 0x1000
#define VHOST_DRV_USED 0x2000
#define VHOST_DRV_HEADER 0x3000
#define VHOST_DRV_STATUS 0x3100
#define VHOST_DRV_DATA 0x10000

/**
 * struct vhost_drv - one opened /dev/vhost-vdpa-N
 * @fd: the descriptor
 * @memfd, @mem: VHOST_DRV_MEM bytes of guest memory
 * @kick, @call: eventfds of virtqueue 0
 * @avail: next avail index
 */
struct vhost_drv {
	int fd;
	int memfd;
	unsigned char *mem;
	int kick, call;
	uint16_t avail;
};

/* Open, own, allow IOTLB messages, make memory. 0 or -errno. */
int vhost_drv_open(struct vhost_drv *d, const char *name);
void vhost_drv_close(struct vhost_drv *d);

int vhost_drv_get_status(struct vhost_drv *d);
int vhost_drv_set_status(struct vhost_drv *d, uint8_t status);
int vhost_drv_set_features(struct vhost_drv *d, uint64_t features);

/* ACKNOWLEDGE, DRIVER, features, FEATURES_OK. 0 or -errno. */
int vhost_drv_negotiate(struct vhost_drv *d, uint64_t features);

/* IOTLB messages; @perm is VHOST_ACCESS_*. 0 or -errno. */
int vhost_drv_map(struct vhost_drv *d, uint64_t iova, void *addr, size_t size,
		  uint8_t perm);
int vhost_drv_unmap(struct vhost_drv *d, uint64_t iova, size_t size);

/* Maps @mem, sets up virtqueue 0 with its eventfds, enables it. */
int vhost_drv_setup_vq(struct vhost_drv *d);

/* All of it: negotiate, map, virtqueue, DRIVER_OK. */
int vhost_drv_start(struct vhost_drv *d, uint64_t features);

/* Index of the ring; GET waits for the daemon. >= 0 or -errno. */
long vhost_drv_get_base(struct vhost_drv *d, unsigned int index);
int vhost_drv_set_base(struct vhost_drv *d, unsigned int index, uint32_t base);

/**
 * vhost_drv_submit() - make the chain at descriptor 0 available and kick
 * @d: started device, with the descriptors in its table
 * @ms: how long to wait for the completion
 *
 * Return: the status byte, which starts as 0xff, or -ETIMEDOUT.
 */
int vhost_drv_submit(struct vhost_drv *d, int ms);

/**
 * vhost_drv_request() - one block request through the ring
 * @d: started device
 * @type: VIRTIO_BLK_T_*
 * @sector: where
 * @len: bytes at VHOST_DRV_DATA to write or to be filled
 * @ms: how long to wait for the completion
 *
 * Return: the status byte, -ETIMEDOUT, or another -errno.
 */
int vhost_drv_request(struct vhost_drv *d, uint32_t type, uint64_t sector,
		      uint32_t len, int ms);

#endif
