// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every call of the VDUSE UAPI doing what <linux/vduse.h> says, seen from the
 * daemon and, where something is to arrive at the driver, from vhost-vdpa.
 * What must be refused is in bad_input.c, lost and late answers in messages.c.
 * Also built for i386, see compat32.sh.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "need.h"
#include "testdev.h"
#include "util.h"
#include "vdpa_bus.h"
#include "vhost_drv.h"

#define NAME "uapi-control"
#define CLASS "/sys/class/vduse/"

/* ---- the control device ---- */

FIXTURE(control)
{
	int fd;
};

FIXTURE_SETUP(control)
{
	ASSERT_EQ(0, require_vduse());
	self->fd = open("/dev/vduse/control", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(control)
{
	close(self->fd);
}

static int create(int fd, const char *name, uint32_t queues)
{
	struct vduse_dev_config *c = calloc(1, sizeof(*c) + 60);
	int ret;

	snprintf(c->name, sizeof(c->name), "%s", name);
	c->device_id = VIRTIO_ID_BLOCK;
	c->vendor_id = 7;
	c->features = TESTDEV_FEATURES;
	c->vq_num = queues;
	c->vq_align = 4096;
	c->config_size = 60;
	ret = (int)sys(ioctl(fd, VDUSE_CREATE_DEV, c));
	free(c);
	return ret;
}

TEST_F(control, api_version_is_per_descriptor)
{
	uint64_t version = 99, newest;
	int other = open("/dev/vduse/control", O_RDWR | O_CLOEXEC);

	NEED_LE(0, other);
	NEED_EQ(0, ioctl(self->fd, VDUSE_GET_API_VERSION, &newest));
	EXPECT_GE(1, newest);
	version = 0;
	NEED_EQ(0, ioctl(self->fd, VDUSE_SET_API_VERSION, &version));
	version = 99;
	NEED_EQ(0, ioctl(self->fd, VDUSE_GET_API_VERSION, &version));
	EXPECT_EQ(0, version);
	NEED_EQ(0, ioctl(other, VDUSE_GET_API_VERSION, &version));
	EXPECT_EQ(newest, version);
	close(other);
}

TEST_F(control, create_makes_node_and_attributes)
{
	char node[] = "/dev/vduse/" NAME;
	struct stat st, ctl;
	char text[64];

	NEED_EQ(0, create(self->fd, NAME, 2));
	NEED_EQ(0, stat(node, &st));
	NEED_EQ(0, stat("/dev/vduse/control", &ctl));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(major(ctl.st_rdev), major(st.st_rdev));
	EXPECT_EQ(0600, st.st_mode & 0777);
	EXPECT_EQ(30, file_read_long(CLASS NAME "/msg_timeout"));
	EXPECT_EQ(64 << 20, file_read_long(CLASS NAME "/bounce_size"));
	EXPECT_EQ(0, file_read(CLASS NAME "/vq0/irq_cb_affinity", text,
			       sizeof(text)));
	EXPECT_EQ(0, file_read(CLASS NAME "/vq1/irq_cb_affinity", text,
			       sizeof(text)));
	EXPECT_NE(0, file_read(CLASS NAME "/vq2/irq_cb_affinity", text,
			       sizeof(text)));
	EXPECT_EQ(0, vduse_destroy(NAME));
	EXPECT_NE(0, stat(node, &st));
	EXPECT_NE(0, access(CLASS NAME, F_OK));
}

TEST_F(control, longest_name)
{
	char name[VDUSE_NAME_MAX], path[VDUSE_NAME_MAX + 16];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	NEED_EQ(0, create(self->fd, name, 1));
	snprintf(path, sizeof(path), "/dev/vduse/%s", name);
	EXPECT_EQ(0, access(path, F_OK));
	EXPECT_EQ(0, vduse_destroy(name));
}

TEST_F(control, name_can_be_used_again)
{
	int i;

	for (i = 0; i < 5; i++) {
		NEED_EQ(0, create(self->fd, NAME, 1));
		NEED_EQ(0, vduse_destroy(NAME));
	}
}

TEST_F(control, many_devices)
{
	char name[32];
	int i, n = 40;

	for (i = 0; i < n; i++) {
		snprintf(name, sizeof(name), NAME "-%d", i);
		EXPECT_EQ(0, create(self->fd, name, 3));
	}
	for (i = 0; i < n; i++) {
		snprintf(name, sizeof(name), NAME "-%d", i);
		EXPECT_EQ(0, vduse_destroy(name));
	}
}

TEST_F(control, net_device)
{
	struct vduse_dev_config *c =
		calloc(1, sizeof(*c) + sizeof(struct virtio_net_config));

	strcpy(c->name, NAME);
	c->device_id = VIRTIO_ID_NET;
	c->features = BIT64(VIRTIO_F_ACCESS_PLATFORM) |
		      BIT64(VIRTIO_F_VERSION_1);
	c->vq_num = 2;
	c->vq_align = 4096;
	c->config_size = sizeof(struct virtio_net_config);
	EXPECT_EQ(0, ioctl(self->fd, VDUSE_CREATE_DEV, c));
	EXPECT_EQ(0, vduse_destroy(NAME));
	free(c);
}

TEST_F(control, device_outlives_the_descriptor_that_made_it)
{
	NEED_EQ(0, create(self->fd, NAME, 1));
	close(self->fd);
	EXPECT_EQ(0, access("/dev/vduse/" NAME, F_OK));
	self->fd = open("/dev/vduse/control", O_RDWR | O_CLOEXEC);
	EXPECT_EQ(0, vduse_destroy(NAME));
}

/* ---- a device without a driver ---- */

FIXTURE(device)
{
	struct testdev t;
};

FIXTURE_SETUP(device)
{
	ASSERT_EQ(0, require_vduse());
	testdev_init(&self->t, "uapi");
	self->t.queues = 2;
	ASSERT_EQ(0, testdev_create(&self->t));
	ASSERT_EQ(0, testdev_open(&self->t));
}

FIXTURE_TEARDOWN(device)
{
	testdev_close(&self->t);
	EXPECT_EQ(0, testdev_destroy(&self->t));
}

TEST_F(device, one_opener_at_a_time)
{
	EXPECT_GT(0, open(testdev_node(&self->t), O_RDWR));
	EXPECT_EQ(EBUSY, errno);
	testdev_close(&self->t);
	EXPECT_EQ(0, testdev_open(&self->t));
}

TEST_F(device, no_driver_features_yet)
{
	uint64_t features = 1;

	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_DEV_GET_FEATURES, &features));
	EXPECT_EQ(0, features);
}

TEST_F(device, vq_info_before_a_driver)
{
	struct vduse_vq_info info;

	memset(&info, 0xff, sizeof(info));
	info.index = 1;
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_GET_INFO, &info));
	EXPECT_EQ(1, info.index);
	EXPECT_EQ(0, info.num);
	EXPECT_EQ(0, info.desc_addr);
	EXPECT_EQ(0, info.driver_addr);
	EXPECT_EQ(0, info.device_addr);
	EXPECT_EQ(0, info.split.avail_index);
	EXPECT_EQ(0, info.ready);
}

TEST_F(device, kickfd_set_replace_remove)
{
	struct vduse_vq_eventfd k = { .index = 1 };
	int a = eventfd(0, EFD_CLOEXEC), b = eventfd(0, EFD_CLOEXEC);

	k.fd = a;
	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_VQ_SETUP_KICKFD, &k));
	k.fd = b;
	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_VQ_SETUP_KICKFD, &k));
	k.fd = VDUSE_EVENTFD_DEASSIGN;
	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_VQ_SETUP_KICKFD, &k));
	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_VQ_SETUP_KICKFD, &k));
	close(a);
	close(b);
}

TEST_F(device, nothing_to_read)
{
	struct pollfd p = { self->t.fd, POLLIN | POLLOUT, 0 };
	struct vduse_dev_request req;

	EXPECT_EQ(0, poll(&p, 1, 0));
	EXPECT_EQ(-EAGAIN, sys(read(self->t.fd, &req, sizeof(req))));
}

static void on_alarm(int signal)
{
}

TEST_F(device, blocking_read_is_interrupted)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct vduse_dev_request req;

	sigaction(SIGALRM, &sa, NULL);
	fcntl(self->t.fd, F_SETFL, 0);
	ualarm(100000, 100000);
	EXPECT_EQ(-EINTR, sys(read(self->t.fd, &req, sizeof(req))));
	ualarm(0, 0);
}

TEST_F(device, set_config_is_seen_by_the_driver)
{
	struct {
		struct vduse_config_data h;
		uint64_t capacity;
	} c = { .h = { 0, 8 }, .capacity = 12345 };
	struct {
		struct vhost_vdpa_config h;
		uint64_t capacity;
	} r = { .h = { 0, 8 } };
	int fd;

	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_DEV_SET_CONFIG, &c));
	NEED_EQ(0, testdev_start(&self->t));
	NEED_EQ(0, vdpa_dev_add(self->t.name, "vhost_vdpa"));
	fd = vdpa_vhost_open(self->t.name);
	NEED_LE(0, fd);
	EXPECT_EQ(0, ioctl(fd, VHOST_VDPA_GET_CONFIG, &r));
	EXPECT_EQ(12345, r.capacity);

	/* And while it runs, in the middle of the space. */
	c.h.offset = 4;
	c.h.length = 4;
	c.capacity = 1;
	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_DEV_SET_CONFIG, &c));
	EXPECT_EQ(0, ioctl(fd, VHOST_VDPA_GET_CONFIG, &r));
	EXPECT_EQ(12345 | BIT64(32), r.capacity);
	close(fd);
	EXPECT_EQ(0, vdpa_dev_del(self->t.name));
	testdev_stop(&self->t);
}

TEST_F(device, setup_survives_a_change_of_daemon)
{
	int fd;

	testdev_close(&self->t);
	fd = open(testdev_node(&self->t), O_RDWR | O_NONBLOCK);
	NEED_LE(0, fd);
	/* No VDUSE_VQ_SETUP by this one; dev_new wants all queues set up. */
	EXPECT_EQ(0, vdpa_dev_new(self->t.name));
	EXPECT_EQ(0, vdpa_dev_del(self->t.name));
	close(fd);
}

TEST_F(device, sysfs_msg_timeout)
{
	EXPECT_EQ(0, file_write(testdev_attr(&self->t, "msg_timeout"), "0"));
	EXPECT_EQ(0, file_read_long(testdev_attr(&self->t, "msg_timeout")));
	EXPECT_EQ(0, file_write(testdev_attr(&self->t, "msg_timeout"), "7"));
	EXPECT_EQ(-EINVAL, file_write(testdev_attr(&self->t, "msg_timeout"), "x"));
	EXPECT_EQ(-EINVAL, file_write(testdev_attr(&self->t, "msg_timeout"), "-1"));
	EXPECT_EQ(7, file_read_long(testdev_attr(&self->t, "msg_timeout")));
}

TEST_F(device, sysfs_bounce_size)
{
	const char *path = testdev_attr(&self->t, "bounce_size");

	EXPECT_EQ(0, file_write(path, "1048576"));
	EXPECT_EQ(0, file_write(path, "2097153"));
	EXPECT_EQ(2097152, file_read_long(path));
	EXPECT_EQ(-EINVAL, file_write(path, "1048575"));
	EXPECT_EQ(-EINVAL, file_write(path, "1073741825"));
	EXPECT_EQ(-EINVAL, file_write(path, "many"));
	EXPECT_EQ(2097152, file_read_long(path));
	/* Fixed once there is a vDPA device. */
	NEED_EQ(0, vdpa_dev_new(self->t.name));
	EXPECT_EQ(-EPERM, file_write(path, "4194304"));
	EXPECT_EQ(0, vdpa_dev_del(self->t.name));
}

TEST_F(device, sysfs_irq_cb_affinity)
{
	char path[VDUSE_NAME_MAX + 64], all[256], now[256];

	strcpy(path, testdev_attr(&self->t, "vq1/irq_cb_affinity"));
	NEED_EQ(0, file_read(path, all, sizeof(all)));
	EXPECT_EQ(0, file_write(path, "1"));
	NEED_EQ(0, file_read(path, now, sizeof(now)));
	EXPECT_EQ(1, strtoul(strrchr(now, ',') ? strrchr(now, ',') + 1 : now,
			     NULL, 16));
	EXPECT_EQ(-EINVAL, file_write(path, "0"));
	EXPECT_EQ(-EINVAL, file_write(path, "zz"));
	NEED_EQ(0, file_read(testdev_attr(&self->t, "vq0/irq_cb_affinity"), now,
			       sizeof(now)));
	EXPECT_STREQ(all, now);
}

/* ---- with vhost-vdpa as the driver ---- */

FIXTURE(vhost)
{
	struct testdev t;
	struct vhost_drv d;
};

FIXTURE_SETUP(vhost)
{
	self->d.fd = -1;
	ASSERT_EQ(0, require_vduse());
	testdev_init(&self->t, "uapi");
	self->t.queues = 2;
	self->t.features |= BIT64(VIRTIO_F_RING_PACKED);
	ASSERT_EQ(0, testdev_up(&self->t));
	ASSERT_EQ(0, vdpa_dev_add(self->t.name, "vhost_vdpa"));
	ASSERT_EQ(0, vhost_drv_open(&self->d, self->t.name));
}

FIXTURE_TEARDOWN(vhost)
{
	vhost_drv_close(&self->d);
	EXPECT_EQ(0, testdev_down(&self->t));
}

TEST_F(vhost, features_go_both_ways)
{
	uint64_t want = BIT64(VIRTIO_F_ACCESS_PLATFORM) |
			BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_BLK_F_FLUSH);
	uint64_t got = 0;

	NEED_EQ(0, ioctl(self->d.fd, VHOST_GET_FEATURES, &got));
	EXPECT_EQ(self->t.features, got);
	NEED_EQ(0, vhost_drv_negotiate(&self->d, want));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_DEV_GET_FEATURES, &got));
	EXPECT_EQ(want, got);
	NEED_EQ(0, vhost_drv_set_status(&self->d, 0));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_DEV_GET_FEATURES, &got));
	EXPECT_EQ(0, got);
}

TEST_F(vhost, identity)
{
	uint32_t id = 0, count = 0, size = 0;
	uint16_t num = 0;

	EXPECT_EQ(0, ioctl(self->d.fd, VHOST_VDPA_GET_DEVICE_ID, &id));
	EXPECT_EQ(VIRTIO_ID_BLOCK, id);
	EXPECT_EQ(0, ioctl(self->d.fd, VHOST_VDPA_GET_VRING_NUM, &num));
	EXPECT_EQ(64, num);
	EXPECT_EQ(0, ioctl(self->d.fd, VHOST_VDPA_GET_VQS_COUNT, &count));
	EXPECT_EQ(2, count);
	EXPECT_EQ(0, ioctl(self->d.fd, VHOST_VDPA_GET_CONFIG_SIZE, &size));
	EXPECT_EQ(sizeof(struct virtio_blk_config), size);
}

TEST_F(vhost, status_reaches_the_daemon_in_order)
{
	unsigned int n = self->t.nlog, i, found = 0;
	const uint8_t want[] = { 1, 3, 11, 0 };

	for (i = 0; i < ARRAY_LEN(want); i++) {
		NEED_EQ(0, vhost_drv_set_status(&self->d, want[i]));
		EXPECT_EQ(want[i], vhost_drv_get_status(&self->d));
	}
	for (i = n; i < self->t.nlog; i++) {
		struct vduse_dev_request *r = &self->t.log[i % TESTDEV_LOG];

		if (r->type != VDUSE_SET_STATUS)
			continue;
		NEED_GT(ARRAY_LEN(want), found);
		EXPECT_EQ(want[found++], r->s.status);
	}
	EXPECT_EQ(ARRAY_LEN(want), found);
}

TEST_F(vhost, vq_info_shows_the_ring)
{
	struct vduse_vq_info info = { .index = 0 };

	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_GET_INFO, &info));
	EXPECT_EQ(VHOST_DRV_NUM, info.num);
	EXPECT_EQ(VHOST_DRV_IOVA + VHOST_DRV_DESC, info.desc_addr);
	EXPECT_EQ(VHOST_DRV_IOVA + VHOST_DRV_AVAIL, info.driver_addr);
	EXPECT_EQ(VHOST_DRV_IOVA + VHOST_DRV_USED, info.device_addr);
	EXPECT_EQ(1, info.ready);
	info.index = 1;
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_GET_INFO, &info));
	EXPECT_EQ(0, info.ready);
}

TEST_F(vhost, split_state_both_ways)
{
	struct vduse_vq_info info = { .index = 1 };

	NEED_EQ(0, vhost_drv_negotiate(&self->d, TESTDEV_FEATURES));
	NEED_EQ(0, vhost_drv_set_base(&self->d, 1, 0xabcd));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_GET_INFO, &info));
	EXPECT_EQ(0xabcd, info.split.avail_index);
	/* The daemon answers with its own position. */
	self->t.vq[1].avail_idx = 0x1234;
	EXPECT_EQ(0x1234, vhost_drv_get_base(&self->d, 1));
	EXPECT_EQ(1, testdev_logged(&self->t, VDUSE_GET_VQ_STATE, 0));
}

TEST_F(vhost, packed_state_both_ways)
{
	struct vduse_vq_info info = { .index = 0 };
	struct testdev_queue *vq = &self->t.vq[0];

	NEED_EQ(0, vhost_drv_negotiate(&self->d, TESTDEV_FEATURES |
					 BIT64(VIRTIO_F_RING_PACKED)));
	/* avail 0x0123 with wrap counter 1, used 0x4567 with 0. */
	NEED_EQ(0, vhost_drv_set_base(&self->d, 0, 0x45678123));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_GET_INFO, &info));
	EXPECT_EQ(0x0123, info.packed.last_avail_idx);
	EXPECT_EQ(1, info.packed.last_avail_counter);
	EXPECT_EQ(0x4567, info.packed.last_used_idx);
	EXPECT_EQ(0, info.packed.last_used_counter);

	self->t.driver_features = BIT64(VIRTIO_F_RING_PACKED);
	vq->avail_idx = 0x11;
	vq->avail_wrap = false;
	vq->used_idx = 0x10;
	vq->used_wrap = true;
	EXPECT_EQ(0x80100011, (uint32_t)vhost_drv_get_base(&self->d, 0));
}

TEST_F(vhost, kick_reaches_the_kickfd)
{
	struct vduse_vq_eventfd k = { .index = 0 };
	struct pollfd p = { .events = POLLIN };

	self->t.hold_io = true;
	testdev_poke(&self->t);
	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	k.fd = p.fd = eventfd(0, EFD_CLOEXEC);
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_SETUP_KICKFD, &k));
	NEED_EQ(0, poll(&p, 1, 0));
	eventfd_write(self->d.kick, 1);
	EXPECT_EQ(1, poll(&p, 1, 5000));
	close(p.fd);
}

TEST_F(vhost, kick_before_the_kickfd_is_not_lost)
{
	struct vduse_vq_eventfd k = { .index = 0, .fd = -1 };
	struct pollfd p = { .events = POLLIN };

	self->t.hold_io = true;
	testdev_poke(&self->t);
	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_SETUP_KICKFD, &k));
	eventfd_write(self->d.kick, 1);
	sleep_ms(100);
	k.fd = p.fd = eventfd(0, EFD_CLOEXEC);
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_SETUP_KICKFD, &k));
	EXPECT_EQ(1, poll(&p, 1, 5000));
	close(p.fd);
}

TEST_F(vhost, inject_irq_reaches_the_call_eventfd)
{
	struct pollfd p = { .events = POLLIN };
	uint32_t index = 0;

	self->t.hold_io = true;
	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	p.fd = self->d.call;
	NEED_EQ(0, poll(&p, 1, 0));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_INJECT_IRQ, &index));
	EXPECT_EQ(1, poll(&p, 1, 5000));
}

TEST_F(vhost, config_irq_reaches_the_config_eventfd)
{
	struct pollfd p = { .events = POLLIN };
	int config = eventfd(0, EFD_CLOEXEC);

	NEED_EQ(0, ioctl(self->d.fd, VHOST_VDPA_SET_CONFIG_CALL, &config));
	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	p.fd = config;
	NEED_EQ(0, poll(&p, 1, 0));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_DEV_INJECT_CONFIG_IRQ));
	EXPECT_EQ(1, poll(&p, 1, 5000));
	close(config);
}

TEST_F(vhost, iotlb_entry_is_the_driver_s_memory)
{
	struct vduse_iotlb_entry e = { 0 };
	struct vduse_iova_info info = { 0 };
	unsigned char *map;
	int fd;

	memcpy(self->d.mem + 0x3000, "from the driver", 16);
	NEED_EQ(0, vhost_drv_map(&self->d, 0x100000, self->d.mem + 0x2000,
				   0x8000, VHOST_ACCESS_RW));
	e.start = 0x101000;
	e.last = 0x101fff;
	fd = ioctl(self->t.fd, VDUSE_IOTLB_GET_FD, &e);
	NEED_LE(0, fd);
	EXPECT_EQ(0x100000, e.start);
	EXPECT_EQ(0x107fff, e.last);
	EXPECT_EQ(0x2000, e.offset);
	EXPECT_EQ(VDUSE_ACCESS_RW, e.perm);
	map = mmap(NULL, 0x8000, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		   (off_t)e.offset);
	NEED_TRUE(map != MAP_FAILED);
	EXPECT_STREQ("from the driver", (char *)map + 0x1000);
	memcpy(map + 0x1000, "from the daemon", 16);
	EXPECT_STREQ("from the daemon", (char *)self->d.mem + 0x3000);
	munmap(map, 0x8000);
	close(fd);

	info.start = 0x100000;
	info.last = 0x100000;
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_GET_INFO, &info));
	EXPECT_EQ(0x100000, info.start);
	EXPECT_EQ(0x107fff, info.last);
	EXPECT_EQ(0, info.capability);
}

TEST_F(vhost, iotlb_get_fd_takes_a_range_that_spans_a_hole)
{
	struct vduse_iotlb_entry e = { .start = 0, .last = ~UINT64_C(0) };
	int fd;

	NEED_EQ(0, vhost_drv_map(&self->d, 0x500000, self->d.mem, 0x1000,
				   VHOST_ACCESS_RW));
	fd = ioctl(self->t.fd, VDUSE_IOTLB_GET_FD, &e);
	NEED_LE(0, fd);
	EXPECT_EQ(0x500000, e.start);
	EXPECT_EQ(0x500fff, e.last);
	close(fd);
}

TEST_F(vhost, iotlb_permissions)
{
	static const struct {
		uint8_t perm;
		int mode;
	} row[] = {
		{ VHOST_ACCESS_RO, O_RDONLY },
		{ VHOST_ACCESS_WO, O_WRONLY },
		{ VHOST_ACCESS_RW, O_RDWR },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_LEN(row); i++) {
		uint64_t iova = 0x100000 * (i + 1);
		struct vduse_iotlb_entry e = { .start = iova, .last = iova };
		int fd;

		NEED_EQ(0, vhost_drv_map(&self->d, iova, self->d.mem, 0x1000,
					   row[i].perm));
		fd = ioctl(self->t.fd, VDUSE_IOTLB_GET_FD, &e);
		NEED_LE(0, fd);
		EXPECT_EQ(row[i].perm, e.perm);
		close(fd);
	}
}

TEST_F(vhost, unmap_tells_the_daemon_and_removes_the_entry)
{
	struct vduse_iotlb_entry e = { .start = 0x100000, .last = 0x100000 };
	unsigned int n;

	NEED_EQ(0, vhost_drv_map(&self->d, 0x100000, self->d.mem, 0x1000,
				   VHOST_ACCESS_RW));
	n = self->t.nlog;
	NEED_EQ(0, vhost_drv_unmap(&self->d, 0x100000, 0x1000));
	NEED_EQ(1, testdev_logged(&self->t, VDUSE_UPDATE_IOTLB, n));
	EXPECT_GE(0x100000, self->t.log[n % TESTDEV_LOG].iova.start);
	EXPECT_LE(0x100fff, self->t.log[n % TESTDEV_LOG].iova.last);
	EXPECT_EQ(-EINVAL, sys(ioctl(self->t.fd, VDUSE_IOTLB_GET_FD, &e)));
}

TEST_F(vhost, request_and_reserved_fields_are_zero)
{
	unsigned int i, j;

	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	for (i = 0; i < self->t.nlog; i++)
		for (j = 0; j < 4; j++)
			EXPECT_EQ(0, self->t.log[i].reserved[j]);
	/* IDs tell messages apart. */
	for (i = 1; i < self->t.nlog; i++)
		EXPECT_NE(self->t.log[i - 1].request_id,
			  self->t.log[i].request_id);
}

/* ---- with virtio_vdpa, where the module owns the memory ---- */

FIXTURE(virtio)
{
	struct testdev t;
	char disk[64];
};

FIXTURE_SETUP(virtio)
{
	ASSERT_EQ(0, require_vduse());
	testdev_init(&self->t, "uapi");
	self->t.queues = 2;
	ASSERT_EQ(0, testdev_up(&self->t));
	ASSERT_EQ(0, vdpa_dev_add(self->t.name, "virtio_vdpa"));
	ASSERT_EQ(0, vdpa_blk_path(self->t.name, self->disk, sizeof(self->disk), 5000));
}

FIXTURE_TEARDOWN(virtio)
{
	EXPECT_EQ(0, testdev_down(&self->t));
}

static int disk_io(const char *path, bool write, void *buf, size_t len,
		   off_t pos)
{
	int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	long ret;

	if (fd < 0)
		return -errno;
	ret = sys(write ? pwrite(fd, buf, len, pos) : pread(fd, buf, len, pos));
	close(fd);
	return ret == (long)len ? 0 : ret < 0 ? (int)ret : -EIO;
}

TEST_F(virtio, data_both_ways)
{
	unsigned char *buf = aligned_alloc(4096, 65536);
	size_t i;

	for (i = 0; i < 65536; i++)
		buf[i] = (unsigned char)(i * 7 + i / 256);
	NEED_EQ(0, disk_io(self->disk, true, buf, 65536, 8192));
	EXPECT_EQ(0, memcmp(self->t.disk + 8192, buf, 65536));
	memset(self->t.disk + 8192, 0x5a, 512);
	NEED_EQ(0, disk_io(self->disk, false, buf, 65536, 8192));
	EXPECT_EQ(0, memcmp(self->t.disk + 8192, buf, 65536));
	free(buf);
}

TEST_F(virtio, bounce_memory_is_one_entry_that_umem_may_replace)
{
	struct vduse_iova_info info = { 0 };
	struct vduse_iotlb_entry e = { 0 };
	int fd;

	NEED_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_GET_INFO, &info));
	EXPECT_EQ(0, info.start);
	EXPECT_EQ((64 << 20) - 1, info.last);
	EXPECT_EQ(VDUSE_IOVA_CAP_UMEM, info.capability);
	fd = ioctl(self->t.fd, VDUSE_IOTLB_GET_FD, &e);
	NEED_LE(0, fd);
	EXPECT_EQ(0, e.start);
	EXPECT_EQ((64 << 20) - 1, e.last);
	EXPECT_EQ(VDUSE_ACCESS_RW, e.perm);
	close(fd);
}

TEST_F(virtio, rings_are_entries_of_their_own)
{
	struct vduse_vq_info vq = { .index = 1 };
	struct vduse_iova_info info = { 0 };

	NEED_EQ(0, ioctl(self->t.fd, VDUSE_VQ_GET_INFO, &vq));
	EXPECT_EQ(1, vq.ready);
	EXPECT_EQ(64, vq.num);
	EXPECT_LE(64 << 20, vq.desc_addr);
	info.start = info.last = vq.desc_addr;
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_GET_INFO, &info));
	EXPECT_EQ(0, info.capability);
	EXPECT_GE(vq.desc_addr, info.start);
	EXPECT_LE(vq.desc_addr + 16 * 64 - 1, info.last);
}

TEST_F(virtio, config_change_resizes_the_disk)
{
	struct {
		struct vduse_config_data h;
		uint64_t capacity;
	} c = { .h = { 0, 8 }, .capacity = 1024 };
	char path[128];
	uint64_t end = now_ms() + 5000;

	snprintf(path, sizeof(path), "/sys/block/%s/size", self->disk + 5);
	EXPECT_EQ(8192, file_read_long(path));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_DEV_SET_CONFIG, &c));
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_DEV_INJECT_CONFIG_IRQ));
	while (file_read_long(path) != 1024 && now_ms() < end)
		sleep_ms(10);
	EXPECT_EQ(1024, file_read_long(path));
}

TEST_F(virtio, irq_affinity_to_each_cpu_still_completes)
{
	void *buf = aligned_alloc(4096, 4096);
	char attr[32], mask[32];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int cpu, q, i;

	for (cpu = 0; cpu < cpus && cpu < 16; cpu++) {
		for (q = 0; q < 2; q++) {
			snprintf(attr, sizeof(attr), "vq%d/irq_cb_affinity", q);
			snprintf(mask, sizeof(mask), "%x", 1u << cpu);
			NEED_EQ(0, file_write(testdev_attr(&self->t, attr),
						mask));
		}
		for (i = 0; i < 20; i++)
			NEED_EQ(0, disk_io(self->disk, i & 1, buf, 4096, 0));
	}
	free(buf);
}

TEST_HARNESS_MAIN
