// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs bad_input.def. A row passes when the wrong thing got exactly its errno
 * and left nothing behind: the same descriptors are open, the same devices
 * exist, and the right thing still works. Also built for i386, see compat32.sh.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "testdev.h"
#include "util.h"
#include "vdpa_bus.h"
#include "vhost_drv.h"

#define BOUNCE (4u << 20)
#define BAD bad_pointer
#define NET_FEATURES \
	(BIT64(VIRTIO_F_ACCESS_PLATFORM) | BIT64(VIRTIO_F_VERSION_1))
#define IOCTL(fd, cmd, arg) sys(ioctl(fd, cmd, arg))
/* Unmapped; the compiler is not to know. */
static void *volatile bad_pointer = (void *)8;

#define CREATE(b) IOCTL((b)->ctl, VDUSE_CREATE_DEV, (b)->c)

/**
 * struct bad - what a row works with; see bad_input.def
 * @requeued: the pending message is unread again
 * @fds, @devices: counts before the row
 */
struct bad {
	int ctl;
	struct vduse_dev_config *c;
	struct testdev t;
	struct vhost_drv d;
	struct vduse_dev_request req;
	struct async base;
	bool requeued;
	unsigned char *umem;
	int fds, devices;
};

/* ---- what rows are made of ---- */

static int device_count(void)
{
	DIR *dir = opendir("/sys/class/vduse");
	int n = 0;

	if (!dir)
		return -1;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Calls @fn with each byte of @field not zero in turn; all must agree. */
static long each_nonzero(void *field, size_t size, long (*fn)(void *),
			 void *arg)
{
	unsigned char *byte = field;
	long first = 0, ret;
	size_t i;

	for (i = 0; i < size; i++) {
		byte[i] = 1;
		ret = fn(arg);
		byte[i] = 0;
		if (!i)
			first = ret;
		if (ret != first) {
			printf("# byte %zu: %ld, byte 0: %ld\n", i, ret, first);
			return -1000;
		}
	}
	return first;
}

static long create_valid(void *arg)
{
	struct bad *b = arg;

	return CREATE(b);
}

struct vq_setup_arg {
	int fd;
	struct vduse_vq_config vq;
};

static long vq_setup(void *arg)
{
	struct vq_setup_arg *a = arg;

	return IOCTL(a->fd, VDUSE_VQ_SETUP, &a->vq);
}

struct umem_arg {
	int fd;
	unsigned long cmd;
	struct vduse_iova_umem u;
};

static long umem_call(void *arg)
{
	struct umem_arg *a = arg;

	return IOCTL(a->fd, a->cmd, &a->u);
}

struct iova_info_arg {
	int fd;
	struct vduse_iova_info i;
};

static long iova_info(void *arg)
{
	struct iova_info_arg *a = arg;

	return IOCTL(a->fd, VDUSE_IOTLB_GET_INFO, &a->i);
}

struct response_arg {
	int fd;
	struct vduse_dev_response r;
};

static long respond(void *arg)
{
	struct response_arg *a = arg;

	return sys(write(a->fd, &a->r, sizeof(a->r)));
}

/* Copy of @data that ends where unmapped memory begins. */
static void *at_end_of_memory(struct bad *b, const void *data, size_t size)
{
	size_t page = (size_t)getpagesize();
	char *two = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(two + page, page);
	return memcpy(two + page - size, data, size);
}

static long without_net_admin(long (*fn)(void *), void *arg)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct all[2], some[2];
	long ret;

	if (syscall(SYS_capget, &h, all))
		return -1000;
	memcpy(some, all, sizeof(all));
	some[0].effective &= ~(1u << CAP_NET_ADMIN);
	if (syscall(SYS_capset, &h, some))
		return -1000;
	ret = fn(arg);
	syscall(SYS_capset, &h, all);
	return ret;
}

/* Every device ioctl with a size that is not its own; all must agree. */
static long each_wrong_size(int fd)
{
	static const unsigned long cmd[] = {
		VDUSE_IOTLB_GET_FD,    VDUSE_DEV_GET_FEATURES,
		VDUSE_DEV_SET_CONFIG,  VDUSE_DEV_INJECT_CONFIG_IRQ,
		VDUSE_VQ_SETUP,	       VDUSE_VQ_GET_INFO,
		VDUSE_VQ_SETUP_KICKFD, VDUSE_VQ_INJECT_IRQ,
		VDUSE_IOTLB_REG_UMEM,  VDUSE_IOTLB_DEREG_UMEM,
		VDUSE_IOTLB_GET_INFO,
	};
	static const int delta[] = { -8, -1, 1, 8, 4096 };
	char buf[8192] = "";
	unsigned int i, j;
	int size;
	long ret;

	for (i = 0; i < ARRAY_LEN(cmd); i++) {
		for (j = 0; j < ARRAY_LEN(delta); j++) {
			size = (int)_IOC_SIZE(cmd[i]) + delta[j];
			if (size < 0)
				continue;
			ret = IOCTL(fd, _IOC(_IOC_DIR(cmd[i]), VDUSE_BASE,
					     _IOC_NR(cmd[i]), size), buf);
			if (ret == -ENOTTY)
				continue;
			printf("# nr 0x%lx size %d: %ld\n",
			       (unsigned long)_IOC_NR(cmd[i]), size, ret);
			return -1000;
		}
	}
	return -ENOTTY;
}

/* Memory that could be registered. */
static uint64_t umem_good(struct bad *b)
{
	b->umem = mmap(NULL, BOUNCE, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return (uintptr_t)b->umem;
}

/*
 * Root may pin more than the limit where the kernel asks for CAP_IPC_LOCK;
 * VDUSE does not, so the limit alone is what counts.
 */
static long with_memlock_limit(int fd, struct vduse_iova_umem *u, rlim_t limit)
{
	struct rlimit old, low;
	long ret;

	getrlimit(RLIMIT_MEMLOCK, &old);
	low = old;
	low.rlim_cur = limit;
	if (setrlimit(RLIMIT_MEMLOCK, &low))
		return -1000;
	ret = IOCTL(fd, VDUSE_IOTLB_REG_UMEM, u);
	setrlimit(RLIMIT_MEMLOCK, &old);
	return ret;
}

/* Registers, deregisters with @iova and @size, then properly. */
static long dereg_other(struct bad *b, uint64_t iova, uint64_t size)
{
	struct vduse_iova_umem u = { .uaddr = umem_good(b), .size = BOUNCE };
	struct vduse_iova_umem other = { .iova = iova, .size = size };
	long ret;

	if (IOCTL(b->t.fd, VDUSE_IOTLB_REG_UMEM, &u))
		return -1000;
	ret = IOCTL(b->t.fd, VDUSE_IOTLB_DEREG_UMEM, &other);
	if (IOCTL(b->t.fd, VDUSE_IOTLB_DEREG_UMEM, &u))
		return -1000;
	return ret;
}

static void close_daemon(struct bad *b)
{
	testdev_stop(&b->t);
	testdev_close(&b->t);
}

static void open_daemon(struct bad *b)
{
	if (testdev_open(&b->t) || testdev_start(&b->t))
		printf("# the daemon could not open the device again\n");
}

/* Make the pending message unread again: its daemon goes, another comes. */
static long requeue(struct bad *b)
{
	testdev_close(&b->t);
	b->requeued = true;
	return testdev_open(&b->t);
}

/* ---- fixtures ---- */

static int common_up(struct bad *b)
{
	int ret = require_vduse();

	if (ret)
		return ret;
	memset(b, 0, sizeof(*b));
	b->d.fd = -1;
	b->t.fd = -1;
	b->ctl = open("/dev/vduse/control", O_RDWR | O_CLOEXEC);
	b->c = calloc(1, sizeof(*b->c) + 8192);
	sprintf(b->c->name, "bad-new-%d", getpid());
	b->c->device_id = VIRTIO_ID_BLOCK;
	b->c->vendor_id = 1;
	b->c->features = TESTDEV_FEATURES;
	b->c->vq_num = 1;
	b->c->vq_align = 4096;
	b->c->config_size = sizeof(struct virtio_blk_config);
	return b->ctl < 0 ? -errno : 0;
}

static void common_down(struct bad *b)
{
	close(b->ctl);
	free(b->c);
	if (b->umem)
		munmap(b->umem, BOUNCE);
}

static void count_things(struct bad *b)
{
	b->fds = fd_count();
	b->devices = device_count();
}

static int device_up(struct bad *b)
{
	char size[32];
	int ret = common_up(b);

	if (ret)
		return ret;
	testdev_init(&b->t, "bad");
	b->t.queues = 2;
	ret = testdev_create(&b->t);
	if (ret)
		return ret;
	snprintf(size, sizeof(size), "%u", BOUNCE);
	ret = file_write(testdev_attr(&b->t, "bounce_size"), size);
	return ret ? ret : testdev_open(&b->t);
}

static int driver_up(struct bad *b, const char *driver)
{
	int ret = device_up(b);

	if (!ret)
		ret = testdev_start(&b->t);
	return ret ? ret : vdpa_dev_add(b->t.name, driver);
}

/* Nothing left behind, and a device can still be made. */
static int control_works(struct bad *b)
{
	uint64_t version;

	sprintf(b->c->name, "bad-new-%d", getpid());
	b->c->device_id = VIRTIO_ID_BLOCK;
	b->c->features = TESTDEV_FEATURES;
	b->c->vq_num = 1;
	b->c->vq_align = 4096;
	b->c->config_size = sizeof(struct virtio_blk_config);
	if (IOCTL(b->ctl, VDUSE_GET_API_VERSION, &version) || CREATE(b))
		return 0;
	return !vduse_destroy(b->c->name);
}

static int device_works(struct bad *b)
{
	struct vduse_vq_info info = { .index = 1 };

	return !ioctl(b->t.fd, VDUSE_VQ_GET_INFO, &info);
}

static int driver_works(struct bad *b)
{
	return device_works(b) && vhost_drv_get_base(&b->d, 1) >= 0;
}

static int disk_works(struct bad *b)
{
	char path[64], *buf;
	int fd, ok;

	if (vdpa_blk_path(b->t.name, path, sizeof(path), 5000))
		return 0;
	buf = aligned_alloc(4096, 4096);
	fd = open(path, O_RDWR | O_DIRECT);
	memset(buf, 'w', 4096);
	memset(b->t.disk, 0, 4096);
	ok = pwrite(fd, buf, 4096, 0) == 4096 &&
	     !memcmp(b->t.disk, buf, 4096);
	close(fd);
	free(buf);
	return ok;
}

static long get_base(void *arg)
{
	struct bad *b = arg;

	return vhost_drv_get_base(&b->d, 0);
}

static int read_message(struct bad *b)
{
	struct pollfd p = { b->t.fd, POLLIN, 0 };

	if (poll(&p, 1, 5000) != 1)
		return -ETIMEDOUT;
	return sys(read(b->t.fd, &b->req, sizeof(b->req))) ==
	       sizeof(b->req) ? 0 : -errno;
}

/* The message that waits can still be answered, and that is what arrives. */
static int pending_works(struct bad *b)
{
	if (b->requeued && read_message(b))
		return 0;
	if (b->req.type != VDUSE_GET_VQ_STATE)
		return 0;
	b->t.vq[0].avail_idx = 77;
	if (testdev_answer(&b->t, &b->req, VDUSE_REQ_RESULT_OK))
		return 0;
	return async_join(&b->base) == 77;
}

FIXTURE(control) { struct bad b; };
FIXTURE_SETUP(control)
{
	ASSERT_EQ(0, common_up(&self->b));
	count_things(&self->b);
}
FIXTURE_TEARDOWN(control)
{
	EXPECT_EQ(self->b.fds, fd_count());
	EXPECT_EQ(self->b.devices, device_count());
	EXPECT_TRUE(control_works(&self->b));
	common_down(&self->b);
}

FIXTURE(device) { struct bad b; };
FIXTURE_SETUP(device)
{
	ASSERT_EQ(0, device_up(&self->b));
	count_things(&self->b);
}
FIXTURE_TEARDOWN(device)
{
	EXPECT_EQ(self->b.fds, fd_count());
	EXPECT_EQ(self->b.devices, device_count());
	EXPECT_TRUE(device_works(&self->b));
	EXPECT_EQ(0, testdev_down(&self->b.t));
	common_down(&self->b);
}

FIXTURE(vhost) { struct bad b; };
FIXTURE_SETUP(vhost)
{
	ASSERT_EQ(0, driver_up(&self->b, "vhost_vdpa"));
	ASSERT_EQ(0, vhost_drv_open(&self->b.d, self->b.t.name));
	count_things(&self->b);
}
FIXTURE_TEARDOWN(vhost)
{
	EXPECT_EQ(self->b.fds, fd_count());
	EXPECT_TRUE(driver_works(&self->b));
	vhost_drv_close(&self->b.d);
	EXPECT_EQ(0, testdev_down(&self->b.t));
	common_down(&self->b);
}

FIXTURE(virtio) { struct bad b; };
FIXTURE_SETUP(virtio)
{
	ASSERT_EQ(0, driver_up(&self->b, "virtio_vdpa"));
	ASSERT_TRUE(disk_works(&self->b));
	count_things(&self->b);
}
FIXTURE_TEARDOWN(virtio)
{
	EXPECT_EQ(self->b.fds, fd_count());
	EXPECT_TRUE(disk_works(&self->b));
	EXPECT_EQ(0, testdev_down(&self->b.t));
	common_down(&self->b);
}

FIXTURE(pending) { struct bad b; };
FIXTURE_SETUP(pending)
{
	ASSERT_EQ(0, driver_up(&self->b, "vhost_vdpa"));
	ASSERT_EQ(0, vhost_drv_open(&self->b.d, self->b.t.name));
	testdev_stop(&self->b.t);
	ASSERT_EQ(0, async_start(&self->b.base, get_base, &self->b));
	ASSERT_EQ(0, read_message(&self->b));
	count_things(&self->b);
}
FIXTURE_TEARDOWN(pending)
{
	EXPECT_EQ(self->b.fds, fd_count());
	EXPECT_TRUE(pending_works(&self->b));
	EXPECT_EQ(0, testdev_start(&self->b.t));
	async_join(&self->b.base);
	vhost_drv_close(&self->b.d);
	EXPECT_EQ(0, testdev_down(&self->b.t));
	common_down(&self->b);
}

/* ---- the rows: first their functions, then their tests ---- */

#define ROW(fixture, test, call, what, err, ...)	\
	static long fixture##_row_##test(struct bad *b)	\
	{						\
		__VA_ARGS__				\
	}
#include "bad_input.def"
#undef ROW

#define ROW(fixture, test, call, what, err, ...)			\
	TEST_F(fixture, test)						\
	{								\
		TH_LOG("%s: %s: expect " #err, call, what);		\
		EXPECT_EQ(-err, fixture##_row_##test(&self->b));	\
	}
#include "bad_input.def"
#undef ROW

TEST_HARNESS_MAIN
