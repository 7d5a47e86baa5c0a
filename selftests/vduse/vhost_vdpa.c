// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device below vhost-vdpa, driven as a virtual machine monitor drives it:
 * owner, features, IOTLB, virtqueue, then block requests through a ring that is
 * written by hand, and the ways to stop and to start again.
 */
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "need.h"
#include "testdev.h"
#include "util.h"
#include "vdpa_bus.h"
#include "vhost_drv.h"

FIXTURE(vhost_vdpa)
{
	struct testdev t;
	struct vhost_drv d;
};

FIXTURE_SETUP(vhost_vdpa)
{
	self->d.fd = -1;
	ASSERT_EQ(0, require_vduse());
	testdev_init(&self->t, "vhost-vdpa");
	ASSERT_EQ(0, testdev_up(&self->t));
	ASSERT_EQ(0, vdpa_dev_add(self->t.name, "vhost_vdpa"));
	ASSERT_EQ(0, vhost_drv_open(&self->d, self->t.name));
}

FIXTURE_TEARDOWN(vhost_vdpa)
{
	vhost_drv_close(&self->d);
	EXPECT_EQ(0, testdev_down(&self->t));
}

static void fill(unsigned char *p, size_t n, unsigned int seed)
{
	size_t i;

	for (i = 0; i < n; i++)
		p[i] = (unsigned char)(seed + i * 13 + i / 512);
}

TEST_F(vhost_vdpa, request_of_each_type)
{
	unsigned char *data, want[8192];

	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	data = self->d.mem + VHOST_DRV_DATA;

	fill(want, sizeof(want), 1);
	memcpy(data, want, sizeof(want));
	EXPECT_EQ(VIRTIO_BLK_S_OK, vhost_drv_request(&self->d, VIRTIO_BLK_T_OUT,
						     8, sizeof(want), 3000));
	EXPECT_EQ(0, memcmp(self->t.disk + 4096, want, sizeof(want)));

	memset(data, 0, sizeof(want));
	EXPECT_EQ(VIRTIO_BLK_S_OK, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN,
						     8, sizeof(want), 3000));
	EXPECT_EQ(0, memcmp(data, want, sizeof(want)));

	EXPECT_EQ(VIRTIO_BLK_S_OK, vhost_drv_request(&self->d,
						     VIRTIO_BLK_T_FLUSH, 0, 0,
						     3000));
	EXPECT_EQ(VIRTIO_BLK_S_OK, vhost_drv_request(&self->d,
						     VIRTIO_BLK_T_GET_ID, 0, 20,
						     3000));
	EXPECT_STREQ("selftest-ramdisk", (char *)data);
}

TEST_F(vhost_vdpa, many_requests_wrap_the_ring)
{
	unsigned int i, n = VHOST_DRV_NUM * 20;

	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	for (i = 0; i < n; i++) {
		self->d.mem[VHOST_DRV_DATA] = (unsigned char)i;
		NEED_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_OUT,
					       i % 64, 512, 3000));
		NEED_EQ((unsigned char)i, self->t.disk[i % 64 * 512]);
	}
	EXPECT_EQ(n, self->t.served);
}

TEST_F(vhost_vdpa, stop_asks_for_the_index_and_starts_from_it)
{
	unsigned int i;
	long base;

	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	for (i = 0; i < 5; i++)
		NEED_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0,
					       512, 3000));
	base = vhost_drv_get_base(&self->d, 0);
	EXPECT_EQ(5, base);
	NEED_EQ(0, vhost_drv_set_status(&self->d, 0));
	EXPECT_EQ(0, vhost_drv_get_status(&self->d));
	vhost_drv_unmap(&self->d, VHOST_DRV_IOVA, VHOST_DRV_MEM);

	/* The ring's memory still counts from there. */
	NEED_EQ(0, vhost_drv_negotiate(&self->d, TESTDEV_FEATURES));
	NEED_EQ(0, vhost_drv_setup_vq(&self->d));
	NEED_EQ(0, vhost_drv_set_base(&self->d, 0, (uint32_t)base));
	NEED_EQ(0, vhost_drv_set_status(&self->d, 15));
	EXPECT_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 512,
				       3000));
	EXPECT_EQ(6, vhost_drv_get_base(&self->d, 0));
}

TEST_F(vhost_vdpa, reset_stops_the_device)
{
	struct vduse_vq_info info = { .index = 0 };
	uint32_t index = 0;

	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	NEED_EQ(0, vhost_drv_set_status(&self->d, 0));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_GET_INFO, &info));
	EXPECT_EQ(0, info.ready);
	EXPECT_EQ(0, info.num);
	EXPECT_EQ(0, info.desc_addr);
	EXPECT_EQ(-EINVAL, sys(ioctl(self->t.fd, VDUSE_VQ_INJECT_IRQ, &index)));
	EXPECT_EQ(-ETIMEDOUT, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0,
						512, 200));
}

TEST_F(vhost_vdpa, close_resets_and_reopen_works)
{
	int i;

	for (i = 0; i < 3; i++) {
		NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
		NEED_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0,
					       512, 3000));
		vhost_drv_close(&self->d);
		EXPECT_EQ(0, self->t.status);
		NEED_EQ(0, vhost_drv_open(&self->d, self->t.name));
	}
}

TEST_F(vhost_vdpa, memory_of_the_driver_is_gone_after_unmap)
{
	unsigned char byte;

	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	NEED_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 512, 3000));
	NEED_EQ(0, vhost_drv_set_status(&self->d, 0));
	NEED_EQ(0, vhost_drv_unmap(&self->d, VHOST_DRV_IOVA, VHOST_DRV_MEM));
	testdev_stop(&self->t);
	EXPECT_EQ(-EFAULT, testdev_copy(&self->t, VHOST_DRV_IOVA, &byte, 1,
					false));
	NEED_EQ(0, testdev_start(&self->t));
}

TEST_F(vhost_vdpa, driver_memory_in_several_pieces)
{
	unsigned char *p = self->d.mem;
	unsigned int i, n = 16;

	/* Every other page, in reverse order of memory. */
	for (i = 0; i < n; i++)
		NEED_EQ(0, vhost_drv_map(&self->d, 0x10000 + 0x2000 * i,
					   p + 0x1000 * (n - 1 - i), 0x1000,
					   VHOST_ACCESS_RW));
	for (i = 0; i < n; i++)
		memset(p + 0x1000 * i, (int)(100 + i), 0x1000);
	testdev_stop(&self->t);
	for (i = 0; i < n; i++) {
		unsigned char byte = 0;

		EXPECT_EQ(0, testdev_copy(&self->t, 0x10000 + 0x2000 * i + 77,
					  &byte, 1, false));
		EXPECT_EQ(100 + n - 1 - i, byte);
		EXPECT_EQ(-EFAULT, testdev_copy(&self->t,
						0x11000 + 0x2000 * i, &byte, 1,
						false));
	}
	NEED_EQ(0, testdev_start(&self->t));
}

TEST_F(vhost_vdpa, overlapping_map_is_refused)
{
	NEED_EQ(0, vhost_drv_map(&self->d, 0x10000, self->d.mem, 0x2000,
				   VHOST_ACCESS_RW));
	EXPECT_EQ(-EFAULT, vhost_drv_map(&self->d, 0x11000, self->d.mem, 0x2000,
					 VHOST_ACCESS_RW) ? -EFAULT : 0);
}

TEST_F(vhost_vdpa, unbind_and_other_driver)
{
	char disk[64];

	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	NEED_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 512, 3000));
	vhost_drv_close(&self->d);
	NEED_EQ(0, vdpa_unbind(self->t.name, "vhost_vdpa"));
	NEED_EQ(0, vdpa_bind(self->t.name, "virtio_vdpa"));
	NEED_EQ(0, vdpa_blk_path(self->t.name, disk, sizeof(disk), 5000));
	NEED_EQ(0, vdpa_unbind(self->t.name, "virtio_vdpa"));
	EXPECT_NE(0, access(disk, F_OK));
	NEED_EQ(0, vdpa_bind(self->t.name, "vhost_vdpa"));
	NEED_EQ(0, vhost_drv_open(&self->d, self->t.name));
	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	EXPECT_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 512, 3000));
}

TEST_F(vhost_vdpa, one_user_at_a_time)
{
	EXPECT_EQ(-EBUSY, vdpa_vhost_open(self->t.name));
}

TEST_HARNESS_MAIN
