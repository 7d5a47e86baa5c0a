// SPDX-License-Identifier: GPL-2.0-only
/*
 * Several processes that create, open, use, add, delete and destroy the same
 * few devices at the same time, and whether memory comes back after many
 * life cycles. Nothing is expected of the single calls, only that each returns
 * and that all is in order afterwards.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "need.h"
#include "testdev.h"
#include "util.h"
#include "vdpa_bus.h"

#define PROCESSES 4
#define NAMES 2
#define SECONDS 4
#define DISK_CYCLE (4 << 20)

static void race_name(char *name, unsigned int i)
{
	snprintf(name, VDUSE_NAME_MAX, "race-%u", i);
}

static long refcount(void)
{
	return file_read_long("/sys/module/vduse/refcnt");
}

static int create(const char *name)
{
	struct vduse_dev_config *c = calloc(1, sizeof(*c) + 60);
	int ret;

	snprintf(c->name, sizeof(c->name), "%s", name);
	c->device_id = VIRTIO_ID_BLOCK;
	c->features = TESTDEV_FEATURES;
	c->vq_num = 2;
	c->vq_align = 4096;
	c->config_size = 60;
	ret = vduse_control(VDUSE_CREATE_DEV, c);
	free(c);
	return ret;
}

/* Opens, uses and closes; answers a few messages if there are any. */
static void use(const char *name, unsigned int *seed)
{
	struct vduse_vq_config setup = { .index = 0, .max_size = 16 };
	struct vduse_vq_eventfd kick = { .index = 1 };
	struct vduse_iotlb_entry e = { .start = 0, .last = ~UINT64_C(0) };
	struct vduse_dev_response resp = { 0 };
	struct vduse_dev_request req;
	char path[VDUSE_NAME_MAX + 16];
	uint32_t index = 0;
	int fd, map, i;

	snprintf(path, sizeof(path), "/dev/vduse/%s", name);
	fd = open(path, O_RDWR | O_NONBLOCK);
	if (fd < 0)
		return;
	ioctl(fd, VDUSE_VQ_SETUP, &setup);
	setup.index = 1;
	ioctl(fd, VDUSE_VQ_SETUP, &setup);
	kick.fd = eventfd(0, 0);
	ioctl(fd, VDUSE_VQ_SETUP_KICKFD, &kick);
	for (i = 0; i < rand_r(seed) % 8; i++) {
		if (read(fd, &req, sizeof(req)) == sizeof(req)) {
			resp.request_id = req.request_id;
			if (write(fd, &resp, sizeof(resp)) < 0)
				break;
		}
		ioctl(fd, VDUSE_VQ_INJECT_IRQ, &index);
		map = ioctl(fd, VDUSE_IOTLB_GET_FD, &e);
		if (map >= 0)
			close(map);
	}
	close(kick.fd);
	close(fd);
}

static void racer(unsigned int seed, unsigned int choices)
{
	uint64_t end = now_ms() + SECONDS * 1000;
	char name[VDUSE_NAME_MAX], attr[VDUSE_NAME_MAX + 64];

	while (now_ms() < end) {
		race_name(name, (unsigned int)rand_r(&seed) % NAMES);
		switch ((unsigned int)rand_r(&seed) % choices) {
		case 0:
			create(name);
			snprintf(attr, sizeof(attr),
				 "/sys/class/vduse/%s/msg_timeout", name);
			file_write(attr, "1");
			break;
		case 1:
			vduse_destroy(name);
			break;
		case 2:
		case 3:
			use(name, &seed);
			break;
		case 4:
			vdpa_dev_new(name);
			break;
		case 5:
			vdpa_dev_del(name);
			break;
		}
	}
	_exit(0);
}

/* Return: how many racers ended well. */
static int run_racers(unsigned int choices)
{
	pid_t pid[PROCESSES];
	int i, status, good = 0;

	for (i = 0; i < PROCESSES; i++) {
		pid[i] = fork();
		if (!pid[i])
			racer((unsigned int)(now_ms() + i * 77), choices);
	}
	for (i = 0; i < PROCESSES; i++)
		if (waitpid(pid[i], &status, 0) == pid[i] && !status)
			good++;
	return good;
}

static void clean_up(void)
{
	char name[VDUSE_NAME_MAX];
	unsigned int i;

	for (i = 0; i < NAMES; i++) {
		race_name(name, i);
		vdpa_dev_del(name);
		vduse_destroy(name);
	}
}

TEST(create_open_destroy)
{
	long before;

	NEED_EQ(0, require_vduse());
	before = refcount();
	EXPECT_EQ(PROCESSES, run_racers(4));
	clean_up();
	EXPECT_EQ(before, refcount());
	/* The names are free. */
	EXPECT_EQ(0, create("race-0"));
	EXPECT_EQ(0, vduse_destroy("race-0"));
}

TEST(with_vdpa_devices)
{
	long before;

	NEED_EQ(0, require_vduse());
	before = refcount();
	EXPECT_EQ(PROCESSES, run_racers(6));
	clean_up();
	EXPECT_EQ(before, refcount());
}

/* One process serves, others open the disk while it comes and goes. */
static void disk_user(const char *name)
{
	uint64_t end = now_ms() + SECONDS * 1000;
	char path[64], *buf = aligned_alloc(4096, 4096);
	int fd;

	while (now_ms() < end) {
		if (vdpa_blk_path(name, path, sizeof(path), 0))
			continue;
		fd = open(path, O_RDWR | O_DIRECT);
		if (fd < 0)
			continue;
		while (pread(fd, buf, 4096, 0) == 4096)
			;
		close(fd);
	}
	_exit(0);
}

TEST(disk_comes_and_goes_under_its_users)
{
	uint64_t end;
	struct testdev t;
	unsigned int rounds = 0;
	pid_t pid[2];
	int i, status;

	NEED_EQ(0, require_vduse());
	testdev_init(&t, "race-disk");
	t.queues = 2;
	NEED_EQ(0, testdev_up(&t));
	for (i = 0; i < 2; i++) {
		pid[i] = fork();
		if (!pid[i])
			disk_user(t.name);
	}
	end = now_ms() + SECONDS * 1000;
	while (now_ms() < end) {
		NEED_EQ(0, vdpa_dev_add(t.name, "virtio_vdpa"));
		sleep_ms(30);
		NEED_EQ(0, vdpa_dev_del(t.name));
		rounds++;
	}
	for (i = 0; i < 2; i++) {
		NEED_EQ(pid[i], waitpid(pid[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	TH_LOG("%u rounds", rounds);
	EXPECT_LT(3, rounds);
	EXPECT_EQ(0, testdev_down(&t));
}

/* ---- memory ---- */

static long meminfo(const char *field)
{
	char line[256];
	size_t len = strlen(field);
	FILE *f;
	long kib = -1;

	/* What can be freed is freed first, so that the rest can be compared. */
	file_write("/proc/sys/vm/drop_caches", "3");
	sleep_ms(200);
	f = fopen("/proc/meminfo", "r");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, len) && line[len] == ':')
			kib = strtol(line + len + 1, NULL, 10);
	if (f)
		fclose(f);
	return kib;
}

static void device_cycles(unsigned int n)
{
	struct vduse_dev_config *c = calloc(1, sizeof(*c) + 4096);
	char path[VDUSE_NAME_MAX + 16];
	unsigned int i;

	strcpy(c->name, "race-memory");
	c->device_id = VIRTIO_ID_BLOCK;
	c->features = TESTDEV_FEATURES;
	c->vq_num = 16;
	c->vq_align = 4096;
	c->config_size = 4096;
	snprintf(path, sizeof(path), "/dev/vduse/%s", c->name);
	for (i = 0; i < n; i++) {
		vduse_control(VDUSE_CREATE_DEV, c);
		close(open(path, O_RDWR));
		vduse_destroy(c->name);
	}
	free(c);
}

/* A device with 16 virtqueues and a page of config takes more than 8 KiB. */
TEST(memory_of_devices_comes_back)
{
	const unsigned int n = 400;
	long before, after;

	NEED_EQ(0, require_vduse());
	device_cycles(50);
	before = meminfo("SUnreclaim");
	device_cycles(n);
	after = meminfo("SUnreclaim");
	TH_LOG("unreclaimable slab grew by %ld KiB in %u cycles",
	       after - before, n);
	EXPECT_GT((long)n * 8 / 2, after - before);
}

static int disk_cycle(void)
{
	struct testdev t;
	char path[64], *buf = aligned_alloc(4096, DISK_CYCLE);
	int ret, fd;

	testdev_init(&t, "race-cycle");
	ret = testdev_create(&t);
	if (!ret)
		ret = file_write(testdev_attr(&t, "bounce_size"), "16777216");
	if (!ret)
		ret = testdev_open(&t);
	if (!ret)
		ret = testdev_start(&t);
	if (!ret)
		ret = vdpa_dev_add(t.name, "virtio_vdpa");
	if (!ret)
		ret = vdpa_blk_path(t.name, path, sizeof(path), 5000);
	if (!ret) {
		/* Bounce pages come into being with the requests. */
		fd = open(path, O_RDWR | O_DIRECT);
		memset(buf, 1, DISK_CYCLE);
		if (pwrite(fd, buf, DISK_CYCLE, 0) != DISK_CYCLE)
			ret = -EIO;
		close(fd);
	}
	free(buf);
	return testdev_down(&t) ?: ret;
}

/*
 * Each cycle allocates DISK_CYCLE of bounce pages, and rings. Free memory goes
 * up and down by several MiB by itself.
 */
TEST(memory_of_disks_comes_back)
{
	const unsigned int n = 16;
	long before, after;
	unsigned int i;

	NEED_EQ(0, require_vduse());
	for (i = 0; i < 3; i++)
		NEED_EQ(0, disk_cycle());
	before = meminfo("MemFree");
	for (i = 0; i < n; i++)
		NEED_EQ(0, disk_cycle());
	after = meminfo("MemFree");
	TH_LOG("free memory shrank by %ld KiB in %u cycles", before - after, n);
	EXPECT_GT((long)n * (DISK_CYCLE >> 10) / 2, before - after);
}

TEST_HARNESS_MAIN
