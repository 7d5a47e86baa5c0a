// SPDX-License-Identifier: GPL-2.0-only
/*
 * vduse-blk below vhost-vdpa: good requests, changes of the address space while
 * it runs, and rings that no sane driver would write. The driver is this
 * program, which writes the ring by hand, so it can be as hostile as it likes.
 *
 * After every hostile ring the daemon has to be alive and, once it was reset,
 * to serve again: that is what recovers() checks.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "need.h"
#include "util.h"
#include "vdpa_bus.h"
#include "vhost_drv.h"

#define NAME "vhost-blk"
#define DISK_BYTES (8 << 20)
#define ANSWER_MS 20000
/* Long enough for an answer that must not come. */
#define SILENCE_MS 300
#define OTHER_IOVA (VHOST_DRV_IOVA + 0x10000000)
#define STATUS_OK (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | \
		   VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)

FIXTURE(vhost)
{
	struct vhost_drv d;
	uint64_t features;
	pid_t daemon;
	char image[64];
};

#ifdef __x86_64__
#define ARCH "amd64"
#else
#define ARCH "arm64"
#endif

static const char *daemon_path(void)
{
	const char *path = getenv("VDUSE_BLK");

	return path ? path : "/src/build/userspace/" ARCH "/vduse-blk";
}

/* Start the daemon and wait for the path that it prints. */
static pid_t start_daemon(const char *image)
{
	char uri[128], line[128] = "";
	int out[2];
	pid_t pid;
	FILE *file;

	snprintf(uri, sizeof(uri), "file://%s", image);
	if (pipe2(out, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid) {
		dup2(out[1], STDOUT_FILENO);
		execl(daemon_path(), "vduse-blk", "serve", "--name", NAME, "--uri", uri,
		      "--bind", "vhost", "--log-level", "error", NULL);
		_exit(127);
	}
	close(out[1]);
	file = fdopen(out[0], "r");
	if (!file || !fgets(line, sizeof(line), file))
		line[0] = '\0';
	if (file)
		fclose(file);
	return strncmp(line, "/dev/vhost-vdpa-", 16) ? -1 : pid;
}

static int make_image(char path[64])
{
	int fd, ret;

	strcpy(path, "/tmp/vhost-blk-XXXXXX");
	fd = mkstemp(path);
	if (fd < 0)
		return -errno;
	ret = ftruncate(fd, DISK_BYTES) ? -errno : 0;
	close(fd);
	return ret;
}

FIXTURE_SETUP(vhost)
{
	self->d.fd = -1;
	self->daemon = -1;
	ASSERT_EQ(0, require_vduse());
	ASSERT_EQ(0, make_image(self->image));
	self->daemon = start_daemon(self->image);
	ASSERT_LT(0, self->daemon);
	ASSERT_EQ(0, vhost_drv_open(&self->d, NAME));
	ASSERT_EQ(0, ioctl(self->d.fd, VHOST_GET_FEATURES, &self->features));
	/* The ring below is the plain split one. */
	self->features &= ~(BIT64(VIRTIO_RING_F_EVENT_IDX) | BIT64(VIRTIO_RING_F_INDIRECT_DESC) |
			    BIT64(VIRTIO_F_RING_PACKED));
}

FIXTURE_TEARDOWN(vhost)
{
	int status = -1;

	vhost_drv_close(&self->d);
	if (self->daemon > 0) {
		EXPECT_EQ(0, kill(self->daemon, SIGTERM));
		EXPECT_EQ(self->daemon, waitpid(self->daemon, &status, 0));
		EXPECT_EQ(0, status);
	}
	unlink(self->image);
	EXPECT_EQ(0, vdpa_exists(NAME));
}

/* One descriptor of a request that is written by hand. */
struct part {
	uint64_t iova;
	uint32_t len;
	uint16_t flags; /* VRING_DESC_F_* */
	uint16_t next; /* index of the descriptor that follows */
};

/*
 * Put @n descriptors at the start of the table, make head 0 available, kick.
 * Return: the status byte, which starts as 0xff, or -ETIMEDOUT.
 */
static int request_of(struct vhost_drv *d, const struct part *parts, unsigned int n, int ms)
{
	struct vring_desc *desc = (void *)(d->mem + VHOST_DRV_DESC);
	unsigned int i;

	for (i = 0; i < n; i++)
		desc[i] = (struct vring_desc){ parts[i].iova, parts[i].len, parts[i].flags,
					       parts[i].next };
	return vhost_drv_submit(d, ms);
}

static void put_header(struct vhost_drv *d, uint32_t type, uint64_t sector)
{
	*(struct virtio_blk_outhdr *)(d->mem + VHOST_DRV_HEADER) =
		(struct virtio_blk_outhdr){ .type = type, .sector = sector };
}

/* Reset and set up again as a new driver would; the memory stays. */
static int restart(struct vhost_drv *d, uint64_t features)
{
	eventfd_t count;
	int ret;

	ret = vhost_drv_set_status(d, 0);
	if (ret)
		return ret;
	vhost_drv_unmap(d, VHOST_DRV_IOVA, VHOST_DRV_MEM);
	if (ftruncate(d->memfd, VHOST_DRV_MEM))
		return -errno;
	memset(d->mem, 0, VHOST_DRV_HEADER);
	d->avail = 0;
	eventfd_read(d->call, &count);
	ret = vhost_drv_set_base(d, 0, 0);
	return ret ? ret : vhost_drv_start(d, features);
}

static void fill(unsigned char *p, size_t n, unsigned int seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned char)(seed + i * 7 + i / 512);
}

static bool is_filled(const unsigned char *p, size_t n, unsigned int seed)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] != (unsigned char)(seed + i * 7 + i / 512))
			return false;
	}
	return true;
}

/* Write, clear, read back. Return: 0 or what went wrong. */
static int round_trip(struct vhost_drv *d, uint64_t sector, uint32_t len, unsigned int seed)
{
	unsigned char *data = d->mem + VHOST_DRV_DATA;
	int ret;

	fill(data, len, seed);
	ret = vhost_drv_request(d, VIRTIO_BLK_T_OUT, sector, len, ANSWER_MS);
	if (ret)
		return ret;
	memset(data, 0, len);
	ret = vhost_drv_request(d, VIRTIO_BLK_T_IN, sector, len, ANSWER_MS);
	if (ret)
		return ret;
	return is_filled(data, len, seed) ? 0 : -EILSEQ;
}

TEST_F(vhost, reads_and_writes)
{
	NEED_EQ(0, vhost_drv_start(&self->d, self->features));
	for (unsigned int i = 0; i < 100; i++)
		NEED_EQ(0, round_trip(&self->d, i * 16, 512u << i % 8, i));
	EXPECT_EQ(VIRTIO_BLK_S_OK, vhost_drv_request(&self->d, VIRTIO_BLK_T_FLUSH, 0, 0,
						     ANSWER_MS));
	EXPECT_EQ(VIRTIO_BLK_S_IOERR, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN,
							DISK_BYTES / 512, 512, ANSWER_MS));
	EXPECT_EQ(VIRTIO_BLK_S_UNSUPP, vhost_drv_request(&self->d, 77, 0, 512, ANSWER_MS));
}

TEST_F(vhost, continues_from_the_ring_index)
{
	long base;

	NEED_EQ(0, vhost_drv_start(&self->d, self->features));
	for (unsigned int i = 0; i < 21; i++)
		NEED_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 512, ANSWER_MS));
	base = vhost_drv_get_base(&self->d, 0);
	EXPECT_EQ(21, base);

	/* As after a migration: the ring lives on, the device is another one. */
	NEED_EQ(0, vhost_drv_set_status(&self->d, 0));
	vhost_drv_unmap(&self->d, VHOST_DRV_IOVA, VHOST_DRV_MEM);
	NEED_EQ(0, vhost_drv_negotiate(&self->d, self->features));
	NEED_EQ(0, vhost_drv_setup_vq(&self->d));
	NEED_EQ(0, vhost_drv_set_base(&self->d, 0, (uint32_t)base));
	NEED_EQ(0, vhost_drv_set_status(&self->d, STATUS_OK));
	EXPECT_EQ(0, round_trip(&self->d, 8, 4096, 9));
	EXPECT_EQ(23, vhost_drv_get_base(&self->d, 0));
}

/* Memory comes and goes while the device runs, as with memory hotplug. */
TEST_F(vhost, address_space_changes_while_running)
{
	const struct part in_other[] = {
		{ VHOST_DRV_IOVA + VHOST_DRV_HEADER, 16, VRING_DESC_F_NEXT, 1 },
		{ OTHER_IOVA, 4096, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2 },
		{ VHOST_DRV_IOVA + VHOST_DRV_STATUS, 1, VRING_DESC_F_WRITE, 0 },
	};
	struct vhost_drv *d = &self->d;
	unsigned char *other[2];

	for (unsigned int i = 0; i < 2; i++) {
		int fd = memfd_create("other", MFD_CLOEXEC);

		NEED_EQ(0, ftruncate(fd, 1 << 20));
		other[i] = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		NEED_NE(MAP_FAILED, (void *)other[i]);
		close(fd);
	}
	NEED_EQ(0, vhost_drv_start(d, self->features));
	NEED_EQ(0, round_trip(d, 0, 4096, 5));

	put_header(d, VIRTIO_BLK_T_IN, 0);
	NEED_EQ(0, vhost_drv_map(d, OTHER_IOVA, other[0], 1 << 20, VHOST_ACCESS_RW));
	EXPECT_EQ(VIRTIO_BLK_S_OK, request_of(d, in_other, 3, ANSWER_MS));
	EXPECT_TRUE(is_filled(other[0], 4096, 5));

	/* Other memory at the same address: a stale mapping would be seen. */
	memset(other[0], 0, 4096);
	NEED_EQ(0, vhost_drv_unmap(d, OTHER_IOVA, 1 << 20));
	NEED_EQ(0, vhost_drv_map(d, OTHER_IOVA, other[1], 1 << 20, VHOST_ACCESS_RW));
	EXPECT_EQ(VIRTIO_BLK_S_OK, request_of(d, in_other, 3, ANSWER_MS));
	EXPECT_TRUE(is_filled(other[1], 4096, 5));
	EXPECT_EQ(0, other[0][0]);

	/* Memory that may only be read is not written to. */
	memset(other[1], 0, 4096);
	NEED_EQ(0, vhost_drv_unmap(d, OTHER_IOVA, 1 << 20));
	NEED_EQ(0, vhost_drv_map(d, OTHER_IOVA, other[1], 1 << 20, VHOST_ACCESS_RO));
	EXPECT_NE(VIRTIO_BLK_S_OK, request_of(d, in_other, 3, SILENCE_MS));
	EXPECT_EQ(0, other[1][0]);
	NEED_EQ(0, restart(d, self->features));
	EXPECT_EQ(0, round_trip(d, 0, 4096, 6));
}

static int recovers(struct vhost_drv *d, uint64_t features, pid_t daemon)
{
	int ret;

	if (waitpid(daemon, NULL, WNOHANG))
		return -ESRCH;
	ret = restart(d, features);
	return ret ? ret : round_trip(d, 64, 4096, 3);
}

#define HEADER { VHOST_DRV_IOVA + VHOST_DRV_HEADER, 16, VRING_DESC_F_NEXT, 1 }
#define DATA_IN VHOST_DRV_IOVA + VHOST_DRV_DATA
#define STATUS VHOST_DRV_IOVA + VHOST_DRV_STATUS
#define N VRING_DESC_F_NEXT
#define W VRING_DESC_F_WRITE

static const struct hostile {
	const char *what;
	unsigned int n;
	struct part parts[4];
} hostile[] = {
	{ "a chain that loops", 2, { HEADER, { DATA_IN, 512, N | W, 1 } } },
	{ "a chain that leaves the table", 2, { HEADER, { DATA_IN, 512, N | W, 999 } } },
	{ "a header outside the memory", 2, { { 0x1000, 16, N, 1 }, { STATUS, 1, W, 0 } } },
	{ "data outside the memory", 3,
	  { HEADER, { OTHER_IOVA, 512, N | W, 2 }, { STATUS, 1, W, 0 } } },
	{ "data that wraps around", 3,
	  { HEADER, { UINT64_MAX - 511, 4096, N | W, 2 }, { STATUS, 1, W, 0 } } },
	{ "data across the end of the memory", 3,
	  { HEADER, { VHOST_DRV_IOVA + VHOST_DRV_MEM - 512, 1024, N | W, 2 },
	    { STATUS, 1, W, 0 } } },
	{ "a length of 4 GiB - 1", 3,
	  { HEADER, { DATA_IN, UINT32_MAX, N | W, 2 }, { STATUS, 1, W, 0 } } },
	{ "a length of zero", 3, { HEADER, { DATA_IN, 0, N | W, 2 }, { STATUS, 1, W, 0 } } },
	{ "an odd length", 3, { HEADER, { DATA_IN, 511, N | W, 2 }, { STATUS, 1, W, 0 } } },
	{ "a short header", 2,
	  { { VHOST_DRV_IOVA + VHOST_DRV_HEADER, 15, N, 1 }, { STATUS, 1, W, 0 } } },
	{ "nothing to write to", 2, { HEADER, { DATA_IN, 512, 0, 0 } } },
	{ "only a status", 1, { { STATUS, 1, W, 0 } } },
	{ "readable after writable", 3, { HEADER, { DATA_IN, 512, N | W, 2 }, { STATUS, 1, 0, 0 } } },
	{ "an indirect table that was not negotiated", 1,
	  { { DATA_IN, 48, VRING_DESC_F_INDIRECT, 0 } } },
};

TEST_F(vhost, hostile_chains)
{
	NEED_EQ(0, vhost_drv_start(&self->d, self->features));
	for (unsigned int i = 0; i < ARRAY_LEN(hostile); i++) {
		int ret;

		put_header(&self->d, VIRTIO_BLK_T_IN, 0);
		ret = request_of(&self->d, hostile[i].parts, hostile[i].n, SILENCE_MS);
		if (ret == VIRTIO_BLK_S_OK)
			TH_LOG("%s was served", hostile[i].what);
		EXPECT_NE(VIRTIO_BLK_S_OK, ret);
		ret = recovers(&self->d, self->features, self->daemon);
		if (ret)
			TH_LOG("after %s: %d", hostile[i].what, ret);
		NEED_EQ(0, ret);
	}
}

TEST_F(vhost, hostile_indices)
{
	uint16_t *avail = (void *)(self->d.mem + VHOST_DRV_AVAIL);

	NEED_EQ(0, vhost_drv_start(&self->d, self->features));

	/* More available than the ring has entries. */
	__atomic_store_n(&avail[1], VHOST_DRV_NUM + 1, __ATOMIC_RELEASE);
	eventfd_write(self->d.kick, 1);
	sleep_ms(SILENCE_MS);
	NEED_EQ(0, recovers(&self->d, self->features, self->daemon));

	/* A head beyond the table. */
	avail[2 + self->d.avail % VHOST_DRV_NUM] = VHOST_DRV_NUM;
	__atomic_store_n(&avail[1], ++self->d.avail, __ATOMIC_RELEASE);
	eventfd_write(self->d.kick, 1);
	sleep_ms(SILENCE_MS);
	NEED_EQ(0, recovers(&self->d, self->features, self->daemon));
}

/* The ring itself is not in the memory: the driver is told at DRIVER_OK. */
TEST_F(vhost, ring_outside_the_memory)
{
	struct vhost_vring_addr addr = {
		.desc_user_addr = 0x1000, .avail_user_addr = 0x2000, .used_user_addr = 0x3000,
	};

	NEED_EQ(0, vhost_drv_negotiate(&self->d, self->features));
	NEED_EQ(0, vhost_drv_setup_vq(&self->d));
	NEED_EQ(0, ioctl(self->d.fd, VHOST_SET_VRING_ADDR, &addr));
	vhost_drv_set_status(&self->d, STATUS_OK);
	EXPECT_EQ(0, vhost_drv_get_status(&self->d) & VIRTIO_CONFIG_S_DRIVER_OK);
	NEED_EQ(0, recovers(&self->d, self->features, self->daemon));
}

/* The memory is there, but the file behind it was cut: SIGBUS in the daemon. */
TEST_F(vhost, memory_that_vanishes)
{
	NEED_EQ(0, vhost_drv_start(&self->d, self->features));
	NEED_EQ(0, round_trip(&self->d, 0, 4096, 1));

	NEED_EQ(0, ftruncate(self->d.memfd, VHOST_DRV_DATA));
	put_header(&self->d, VIRTIO_BLK_T_IN, 0);
	vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 4096, SILENCE_MS);
	NEED_EQ(0, recovers(&self->d, self->features, self->daemon));

	/* The rings, too. */
	NEED_EQ(0, ftruncate(self->d.memfd, 0));
	eventfd_write(self->d.kick, 1);
	sleep_ms(SILENCE_MS);
	NEED_EQ(0, recovers(&self->d, self->features, self->daemon));
}

TEST_HARNESS_MAIN
