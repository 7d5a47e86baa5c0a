// SPDX-License-Identifier: GPL-2.0-only
/*
 * VDUSE_IOTLB_REG_UMEM: the daemon's own memory takes the place of the bounce
 * buffer, with normal and with huge pages, before, during and after I/O. What
 * must be refused is in bad_input.def.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "need.h"
#include "testdev.h"
#include "util.h"
#include "vdpa_bus.h"

#define BOUNCE (8u << 20)
#define HUGE_POOL "/proc/sys/vm/nr_hugepages"

FIXTURE(umem)
{
	struct testdev t;
	char disk[64];
	unsigned char *mem;
	struct vduse_iova_umem arg;
	long huge_before;
};

FIXTURE_VARIANT(umem)
{
	int flags;
};

FIXTURE_VARIANT_ADD(umem, anonymous) { MAP_PRIVATE | MAP_ANONYMOUS };
FIXTURE_VARIANT_ADD(umem, shared) { MAP_SHARED | MAP_ANONYMOUS };
FIXTURE_VARIANT_ADD(umem, huge) { MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB };

/*
 * pinned_vm counts against RLIMIT_MEMLOCK; root's default is too small for
 * the bounce size.
 */
FIXTURE_SETUP(umem)
{
	struct rlimit lim = { RLIM_INFINITY, RLIM_INFINITY };
	char text[32];

	ASSERT_EQ(0, require_vduse());
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &lim));
	if (variant->flags & MAP_HUGETLB) {
		self->huge_before = file_read_long(HUGE_POOL);
		ASSERT_LE(0, self->huge_before);
		snprintf(text, sizeof(text), "%ld",
			 self->huge_before + BOUNCE / (2 << 20));
		ASSERT_EQ(0, file_write(HUGE_POOL, text));
	}
	self->mem = mmap(NULL, BOUNCE, PROT_READ | PROT_WRITE, variant->flags,
			 -1, 0);
	ASSERT_TRUE(self->mem != MAP_FAILED);
	self->arg.uaddr = (uintptr_t)self->mem;
	self->arg.size = BOUNCE;

	testdev_init(&self->t, "umem");
	self->t.queues = 2;
	ASSERT_EQ(0, testdev_create(&self->t));
	snprintf(text, sizeof(text), "%u", BOUNCE);
	ASSERT_EQ(0, file_write(testdev_attr(&self->t, "bounce_size"), text));
	ASSERT_EQ(0, testdev_open(&self->t));
	ASSERT_EQ(0, testdev_start(&self->t));
	ASSERT_EQ(0, vdpa_dev_add(self->t.name, "virtio_vdpa"));
	ASSERT_EQ(0, vdpa_blk_path(self->t.name, self->disk,
				   sizeof(self->disk), 5000));
}

FIXTURE_TEARDOWN(umem)
{
	char text[32];

	EXPECT_EQ(0, testdev_down(&self->t));
	EXPECT_EQ(0, munmap(self->mem, BOUNCE));
	if (variant->flags & MAP_HUGETLB) {
		snprintf(text, sizeof(text), "%ld", self->huge_before);
		EXPECT_EQ(0, file_write(HUGE_POOL, text));
		/* A page that stayed pinned could not be given back. */
		EXPECT_EQ(self->huge_before, file_read_long(HUGE_POOL));
	}
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

static void fill(unsigned char *p, size_t n, unsigned int seed)
{
	size_t i;

	for (i = 0; i < n; i++)
		p[i] = (unsigned char)(seed + i * 11 + i / 512);
}

/* Does @pattern lie in @mem, at any page? */
static bool contains(const unsigned char *mem, const unsigned char *pattern)
{
	size_t i;

	for (i = 0; i < BOUNCE; i += 4096)
		if (!memcmp(mem + i, pattern, 4096))
			return true;
	return false;
}

static long pinned_kib(void)
{
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");
	long kib = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmPin: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

TEST_F(umem, data_goes_through_it)
{
	unsigned char *buf = aligned_alloc(4096, 65536);
	long before = pinned_kib();

	memset(self->mem, 0, BOUNCE);
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_REG_UMEM, &self->arg));
	EXPECT_EQ(before + BOUNCE / 1024, pinned_kib());

	/* The daemon's mapping of the bounce buffer is of no use any more. */
	testdev_stop(&self->t);
	testdev_close(&self->t);
	/* Closing the device deregisters. */
	EXPECT_EQ(before, pinned_kib());
	NEED_EQ(0, testdev_open(&self->t));
	self->t.umem = self->mem;
	self->t.umem_size = BOUNCE;
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_REG_UMEM, &self->arg));
	NEED_EQ(0, testdev_start(&self->t));

	fill(buf, 65536, 3);
	NEED_EQ(0, disk_io(self->disk, true, buf, 65536, 4096));
	EXPECT_EQ(0, memcmp(self->t.disk + 4096, buf, 65536));
	EXPECT_TRUE(contains(self->mem, buf));
	fill(self->t.disk, 65536, 99);
	NEED_EQ(0, disk_io(self->disk, false, buf, 65536, 0));
	EXPECT_EQ(0, memcmp(self->t.disk, buf, 65536));
	EXPECT_TRUE(contains(self->mem, buf));

	testdev_stop(&self->t);
	NEED_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_DEREG_UMEM, &self->arg));
	EXPECT_EQ(before, pinned_kib());
	testdev_close(&self->t);
	self->t.umem = NULL;
	NEED_EQ(0, testdev_open(&self->t));
	NEED_EQ(0, testdev_start(&self->t));
	NEED_EQ(0, disk_io(self->disk, false, buf, 65536, 0));
	EXPECT_EQ(0, memcmp(self->t.disk, buf, 65536));
	free(buf);
}

TEST_F(umem, register_and_deregister_repeatedly)
{
	long before = pinned_kib();
	int i;

	for (i = 0; i < 10; i++) {
		NEED_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_REG_UMEM,
				   &self->arg));
		NEED_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_DEREG_UMEM,
				   &self->arg));
	}
	EXPECT_EQ(before, pinned_kib());
}

/* ---- changing it while requests are on their way ---- */

struct worker {
	const char *disk;
	off_t base;
	volatile bool stop;
	unsigned int rounds;
};

/* Writes and reads back, until told to stop. */
static long work(void *arg)
{
	struct worker *w = arg;
	unsigned char *out = aligned_alloc(4096, 16384);
	unsigned char *in = aligned_alloc(4096, 16384);
	long ret = 0;

	while (!w->stop && !ret) {
		fill(out, 16384, w->rounds++);
		ret = disk_io(w->disk, true, out, 16384, w->base);
		if (!ret)
			ret = disk_io(w->disk, false, in, 16384, w->base);
		if (!ret && memcmp(in, out, 16384))
			ret = -EBADMSG;
	}
	free(out);
	free(in);
	return ret;
}

/*
 * A daemon may change its memory only while it touches none of it, so it is
 * stopped, with requests queued, for each change.
 */
TEST_F(umem, change_with_requests_queued)
{
	struct worker w[3];
	struct async a[3];
	unsigned int i, n;

	for (i = 0; i < 3; i++) {
		w[i] = (struct worker){ self->disk, (off_t)i << 20 };
		NEED_EQ(0, async_start(&a[i], work, &w[i]));
	}
	for (n = 0; n < 20; n++) {
		bool reg = n % 2 == 0;

		sleep_ms(20);
		testdev_stop(&self->t);
		sleep_ms(5);
		NEED_EQ(0, ioctl(self->t.fd, reg ? VDUSE_IOTLB_REG_UMEM :
						     VDUSE_IOTLB_DEREG_UMEM,
				   &self->arg));
		/* Regions are mapped anew from the right memory. */
		testdev_remap(&self->t, reg ? self->mem : NULL, BOUNCE);
		NEED_EQ(0, testdev_start(&self->t));
		testdev_kick_all(&self->t);
	}
	for (i = 0; i < 3; i++)
		w[i].stop = true;
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(0, async_join(&a[i]));
		EXPECT_LT(2, w[i].rounds);
	}
}

/* A daemon that changes its memory under its own feet. */
static void careless_daemon(struct testdev *t, struct vduse_iova_umem *arg)
{
	unsigned int n;

	if (testdev_open(t) || testdev_start(t))
		_exit(1);
	for (n = 0; n < 100; n++) {
		ioctl(t->fd, n % 2 ? VDUSE_IOTLB_DEREG_UMEM :
				     VDUSE_IOTLB_REG_UMEM, arg);
		sleep_ms(3);
	}
	raise(SIGKILL);
}

/* It spoils its data, and neither hangs its users nor harms the kernel. */
TEST_F(umem, careless_daemon_harms_only_itself)
{
	struct worker w = { self->disk, 0 };
	unsigned char *buf = aligned_alloc(4096, 4096);
	struct async a;
	pid_t pid;

	testdev_stop(&self->t);
	testdev_close(&self->t);
	pid = fork();
	if (!pid)
		careless_daemon(&self->t, &self->arg);
	NEED_EQ(0, async_start(&a, work, &w));
	NEED_EQ(pid, waitpid(pid, NULL, 0));
	w.stop = true;
	EXPECT_EQ(0, vdpa_dev_del(self->t.name));
	TH_LOG("the worker ended with %ld", async_join(&a));

	NEED_EQ(0, testdev_open(&self->t));
	NEED_EQ(0, testdev_start(&self->t));
	NEED_EQ(0, vdpa_dev_add(self->t.name, "virtio_vdpa"));
	NEED_EQ(0, vdpa_blk_path(self->t.name, self->disk,
				   sizeof(self->disk), 5000));
	memset(buf, 'c', 4096);
	EXPECT_EQ(0, disk_io(self->disk, true, buf, 4096, 0));
	EXPECT_EQ('c', self->t.disk[0]);
	free(buf);
}

TEST_F(umem, killed_daemon_leaves_nothing_pinned)
{
	char *buf = aligned_alloc(4096, 4096);
	int status = 0;
	pid_t pid;

	testdev_stop(&self->t);
	testdev_close(&self->t);
	pid = fork();
	if (!pid) {
		if (!testdev_open(&self->t) &&
		    !ioctl(self->t.fd, VDUSE_IOTLB_REG_UMEM, &self->arg))
			raise(SIGKILL);
		_exit(1);
	}
	NEED_EQ(pid, waitpid(pid, &status, 0));
	NEED_TRUE(WIFSIGNALED(status));
	NEED_EQ(0, testdev_open(&self->t));
	NEED_EQ(0, testdev_start(&self->t));
	memset(buf, 'k', 4096);
	EXPECT_EQ(0, disk_io(self->disk, true, buf, 4096, 0));
	EXPECT_EQ('k', self->t.disk[0]);
	/* A child's registration is gone with it: this is not -EEXIST. */
	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_REG_UMEM, &self->arg));
	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_IOTLB_DEREG_UMEM, &self->arg));
	free(buf);
}

TEST_HARNESS_MAIN
