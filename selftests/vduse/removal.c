// SPDX-License-Identifier: GPL-2.0-only
/*
 * VDPA_CMD_DEV_DEL when the daemon is dead or silent: with a dead daemon it
 * ends in under a second, idle or with requests outstanding, and each of those
 * requests fails towards its user instead of hanging.
 *
 * The bound is the one that users are promised. A busy machine may miss it
 * once, so what counts is the best of up to three rounds; every round has to
 * end within LIMIT_HARD. The in-tree module takes msg_timeout (30 s) when idle
 * and never ends with requests outstanding.
 *
 * The daemon is a forked process that shares struct testdev with the test: it
 * can be killed, and the test still sets its switches.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "need.h"
#include "testdev.h"
#include "util.h"
#include "vdpa_bus.h"
#include "vhost_drv.h"

#define LIMIT 1000
#define LIMIT_HARD 6000
#define ROUNDS 3
#define USERS 48

/* A thread that reads or writes the disk once. */
struct user {
	char disk[64];
	unsigned int i, size;
	struct async a;
};

/* What the users' requests came to. */
struct outcome {
	unsigned int ok, failed, hung;
};

struct rig {
	struct testdev *t;
	pid_t daemon;
	char disk[64];
	struct user user[USERS];
};

/* ---- the daemon ---- */

static bool is_up(void *arg)
{
	return ((struct testdev *)arg)->up;
}

static int daemon_start(struct rig *r)
{
	r->t->up = false;
	r->daemon = fork();
	if (!r->daemon) {
		if (!testdev_open(r->t))
			testdev_run(r->t);
		_exit(1);
	}
	return wait_until(is_up, r->t, 5000) ? 0 : -ETIMEDOUT;
}

static void daemon_kill(struct rig *r)
{
	if (r->daemon <= 0)
		return;
	kill(r->daemon, SIGKILL);
	waitpid(r->daemon, NULL, 0);
	r->daemon = 0;
}

static int rig_up(struct rig *r)
{
	int ret = require_vduse();

	if (ret)
		return ret;
	memset(r, 0, sizeof(*r));
	r->t = mmap(NULL, sizeof(*r->t), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	testdev_init(r->t, "removal");
	r->t->queue_size = 32;
	return 0;
}

static int rig_start(struct rig *r)
{
	int ret = testdev_create(r->t);

	return ret ? ret : daemon_start(r);
}

static int disk_up(struct rig *r)
{
	int ret = vdpa_dev_add(r->t->name, "virtio_vdpa");

	return ret ? ret : vdpa_blk_path(r->t->name, r->disk, sizeof(r->disk),
					 5000);
}

static int rig_down(struct rig *r)
{
	int ret = 0;

	daemon_kill(r);
	if (vdpa_exists(r->t->name))
		ret = vdpa_dev_del(r->t->name);
	return testdev_destroy(r->t) ?: ret;
}

/* Return: milliseconds, or -errno. */
static long timed_del(struct rig *r)
{
	uint64_t start = now_ms();
	int ret = vdpa_dev_del(r->t->name);

	return ret ? ret : (long)(now_ms() - start);
}

/* ---- its users ---- */

static long user_io(void *arg)
{
	struct user *u = arg;
	int fd = open(u->disk, O_RDWR | O_DIRECT | O_CLOEXEC);
	void *buf;
	long ret;

	if (fd < 0)
		return -errno;
	buf = aligned_alloc(4096, u->size);
	memset(buf, (int)u->i, u->size);
	if (u->i % 2)
		ret = sys(pwrite(fd, buf, u->size, u->i * 65536));
	else
		ret = sys(pread(fd, buf, u->size, u->i * 65536));
	close(fd);
	free(buf);
	return ret == (long)u->size ? 0 : ret < 0 ? ret : -EIO;
}

static int users_start(struct rig *r)
{
	unsigned int i;

	for (i = 0; i < USERS; i++) {
		struct user *u = &r->user[i];

		snprintf(u->disk, sizeof(u->disk), "%s", r->disk);
		u->i = i;
		u->size = 4096u << (i % 5);
		if (async_start(&u->a, user_io, u))
			return -1;
	}
	return 0;
}

/* Users that hang in the kernel cannot be joined; they are left behind. */
static struct outcome users_join(struct rig *r)
{
	struct outcome o = { 0 };
	uint64_t end = now_ms() + LIMIT_HARD;
	unsigned int i;

	for (i = 0; i < USERS; i++) {
		struct async *a = &r->user[i].a;

		while (!async_is_done(a) && now_ms() < end)
			sleep_ms(5);
		if (!async_is_done(a))
			o.hung++;
		else if (async_join(a))
			o.failed++;
		else
			o.ok++;
	}
	return o;
}

struct held {
	struct testdev *t;
	unsigned long want;
};

static bool held_enough(void *arg)
{
	struct held *h = arg;

	return h->t->held >= h->want;
}

/* ---- idle ---- */

FIXTURE(idle)
{
	struct rig r;
};

FIXTURE_SETUP(idle)
{
	ASSERT_EQ(0, rig_up(&self->r));
	ASSERT_EQ(0, rig_start(&self->r));
}

FIXTURE_TEARDOWN(idle)
{
	EXPECT_EQ(0, rig_down(&self->r));
}

TEST_F(idle, virtio)
{
	long ms = LIMIT;
	int i;

	for (i = 0; i < ROUNDS && ms >= LIMIT; i++) {
		NEED_EQ(0, disk_up(&self->r));
		daemon_kill(&self->r);
		ms = timed_del(&self->r);
		TH_LOG("removed in %ld ms", ms);
		NEED_LE(0, ms);
		NEED_GT(LIMIT_HARD, ms);
		NEED_EQ(0, daemon_start(&self->r));
	}
	EXPECT_GT(LIMIT, ms);
}

TEST_F(idle, vhost)
{
	struct vhost_drv d;
	long ms = LIMIT;
	int i;

	for (i = 0; i < ROUNDS && ms >= LIMIT; i++) {
		NEED_EQ(0, vdpa_dev_add(self->r.t->name, "vhost_vdpa"));
		NEED_EQ(0, vhost_drv_open(&d, self->r.t->name));
		NEED_EQ(0, vhost_drv_start(&d, TESTDEV_FEATURES));
		daemon_kill(&self->r);
		/* vhost's removal waits for its user, so that goes first. */
		NEED_EQ(0, file_write(testdev_attr(self->r.t, "msg_timeout"),
					"1"));
		vhost_drv_close(&d);
		ms = timed_del(&self->r);
		TH_LOG("removed in %ld ms", ms);
		NEED_LE(0, ms);
		NEED_GT(LIMIT_HARD, ms);
		NEED_EQ(0, daemon_start(&self->r));
	}
	EXPECT_GT(LIMIT, ms);
}

TEST_F(idle, no_driver)
{
	long ms;

	NEED_EQ(0, vdpa_dev_new(self->r.t->name));
	daemon_kill(&self->r);
	ms = timed_del(&self->r);
	EXPECT_LE(0, ms);
	EXPECT_GT(LIMIT, ms);
}

static short polled(struct testdev *t)
{
	struct pollfd p = { .fd = t->fd, .events = POLLIN | POLLPRI };

	return poll(&p, 1, 0) < 0 ? -1 : p.revents;
}

/* POLLPRI is said during a removal, and neither before nor after one. */
TEST_F(idle, told_only_while_removed)
{
	struct testdev *t = self->r.t;
	int i;

	daemon_kill(&self->r);
	NEED_EQ(0, testdev_open(t));
	NEED_EQ(0, testdev_start(t));
	for (i = 0; i < 2; i++) {
		t->told = 0;
		NEED_EQ(0, disk_up(&self->r));
		EXPECT_EQ(0, polled(t) & POLLPRI);
		t->heed_removal = true;
		testdev_poke(t);
		EXPECT_LE(0, timed_del(&self->r));
		EXPECT_EQ(1, t->told);
		EXPECT_EQ(0, polled(t) & POLLPRI);
	}
	testdev_stop(t);
	testdev_close(t);
}

TEST_F(idle, device_can_be_added_again)
{
	NEED_EQ(0, disk_up(&self->r));
	daemon_kill(&self->r);
	NEED_EQ(0, vdpa_dev_del(self->r.t->name));
	NEED_EQ(0, daemon_start(&self->r));
	NEED_EQ(0, disk_up(&self->r));
	snprintf(self->r.user[0].disk, 64, "%s", self->r.disk);
	self->r.user[0].size = 4096;
	EXPECT_EQ(0, user_io(&self->r.user[0]));
}

TEST_F(idle, dead_daemon_may_come_back)
{
	struct held h = { self->r.t, 4 };
	struct outcome o;

	NEED_EQ(0, disk_up(&self->r));
	self->r.t->hold_every = 1;
	NEED_EQ(0, users_start(&self->r));
	NEED_TRUE(wait_until(held_enough, &h, 5000));
	daemon_kill(&self->r);
	sleep_ms(300);
	EXPECT_FALSE(async_is_done(&self->r.user[0].a) &&
		     async_is_done(&self->r.user[1].a) &&
		     async_is_done(&self->r.user[2].a));
	self->r.t->hold_every = 0;
	NEED_EQ(0, daemon_start(&self->r));
	o = users_join(&self->r);
	EXPECT_EQ(USERS, o.ok);
	EXPECT_EQ(0, o.failed);
	EXPECT_EQ(0, o.hung);
}

/* ---- with requests outstanding ---- */

FIXTURE(outstanding)
{
	struct rig r;
};

/*
 * hold_every 1 keeps all requests; 3 completes two of three, so that the rings
 * have gaps and used elements out of order. Without indirect descriptors each
 * request takes at least three slots of the ring.
 */
FIXTURE_VARIANT(outstanding)
{
	bool packed;
	bool direct;
	unsigned int queues;
	unsigned int hold_every;
};

FIXTURE_VARIANT_ADD(outstanding, split) { false, false, 1, 1 };
FIXTURE_VARIANT_ADD(outstanding, split_gaps) { false, false, 4, 3 };
FIXTURE_VARIANT_ADD(outstanding, split_direct) { false, true, 1, 1 };
FIXTURE_VARIANT_ADD(outstanding, split_direct_gaps) { false, true, 2, 3 };
FIXTURE_VARIANT_ADD(outstanding, packed) { true, false, 1, 1 };
FIXTURE_VARIANT_ADD(outstanding, packed_gaps) { true, false, 4, 3 };
FIXTURE_VARIANT_ADD(outstanding, packed_direct) { true, true, 1, 1 };
FIXTURE_VARIANT_ADD(outstanding, packed_direct_gaps) { true, true, 2, 3 };

FIXTURE_SETUP(outstanding)
{
	ASSERT_EQ(0, rig_up(&self->r));
	self->r.t->queues = variant->queues;
	if (variant->packed)
		self->r.t->features |= BIT64(VIRTIO_F_RING_PACKED);
	if (variant->direct)
		self->r.t->features &= ~BIT64(VIRTIO_RING_F_INDIRECT_DESC);
	ASSERT_EQ(0, rig_start(&self->r));
}

FIXTURE_TEARDOWN(outstanding)
{
	EXPECT_EQ(0, rig_down(&self->r));
}

/*
 * Users start, some of their requests are kept by the daemon. A ring of 32 may
 * be full with one large request when each of its segments takes a slot.
 */
static int get_busy(struct rig *r, unsigned int hold_every)
{
	bool direct = !(r->t->features & BIT64(VIRTIO_RING_F_INDIRECT_DESC));
	struct held h = { r->t, r->t->held + (direct ? 1 : 4) };
	int ret = disk_up(r);

	if (ret)
		return ret;
	r->t->hold_every = hold_every;
	if (users_start(r))
		return -1;
	return wait_until(held_enough, &h, 5000) ? 0 : -ETIMEDOUT;
}

TEST_F(outstanding, dead_daemon)
{
	long ms = LIMIT;
	int i;

	for (i = 0; i < ROUNDS && ms >= LIMIT; i++) {
		unsigned long held = self->r.t->held;
		struct outcome o;

		NEED_EQ(0, get_busy(&self->r, variant->hold_every));
		daemon_kill(&self->r);
		ms = timed_del(&self->r);
		o = users_join(&self->r);
		held = self->r.t->held - held;
		TH_LOG("removed in %ld ms; %lu kept; users: %u ok, %u failed, %u hang",
		       ms, held, o.ok, o.failed, o.hung);
		NEED_EQ(0, o.hung);
		EXPECT_LE(1, o.failed);
		NEED_LE(0, ms);
		NEED_GT(LIMIT_HARD, ms);
		self->r.t->hold_every = 0;
		NEED_EQ(0, daemon_start(&self->r));
	}
	EXPECT_GT(LIMIT, ms);

	/* The device is as good as new. */
	NEED_EQ(0, disk_up(&self->r));
	snprintf(self->r.user[0].disk, 64, "%s", self->r.disk);
	EXPECT_EQ(0, user_io(&self->r.user[0]));
}

/*
 * Attached, and silent: it gets msg_timeout to make progress, then it is
 * treated like a dead one.
 */
TEST_F(outstanding, silent_daemon)
{
	struct outcome o;
	long ms;

	NEED_EQ(0, get_busy(&self->r, variant->hold_every));
	NEED_EQ(0, file_write(testdev_attr(self->r.t, "msg_timeout"), "1"));
	self->r.t->hold_messages = true;
	self->r.t->hold_io = true;
	ms = timed_del(&self->r);
	o = users_join(&self->r);
	TH_LOG("removed in %ld ms; users: %u ok, %u failed, %u hang", ms, o.ok,
	       o.failed, o.hung);
	EXPECT_EQ(0, o.hung);
	EXPECT_LE(1, o.failed);
	EXPECT_LE(0, ms);
	EXPECT_GT(LIMIT_HARD, ms);
}

/*
 * A daemon that keeps requests, for its storage is away, hears of the removal and
 * completes them itself: nobody waits for msg_timeout, nothing is cut off.
 */
TEST_F(outstanding, daemon_is_told)
{
	struct outcome o;
	long ms;

	self->r.t->heed_removal = true;
	NEED_EQ(0, get_busy(&self->r, variant->hold_every));
	NEED_EQ(0, file_write(testdev_attr(self->r.t, "msg_timeout"), "30"));
	EXPECT_EQ(0, self->r.t->told);
	ms = timed_del(&self->r);
	o = users_join(&self->r);
	TH_LOG("removed in %ld ms; users: %u ok, %u failed, %u hang", ms, o.ok,
	       o.failed, o.hung);
	EXPECT_EQ(1, self->r.t->told);
	EXPECT_EQ(0, o.hung);
	EXPECT_LE(1, o.ok);
	EXPECT_LE(0, ms);
	EXPECT_GT(LIMIT_HARD, ms);
}

/* Dies in the middle of the removal. */
static long op_del(void *arg)
{
	return timed_del(arg);
}

TEST_F(outstanding, daemon_dies_during_removal)
{
	struct outcome o;
	struct async del;
	uint64_t start;

	NEED_EQ(0, get_busy(&self->r, variant->hold_every));
	NEED_EQ(0, async_start(&del, op_del, &self->r));
	sleep_ms(200);
	EXPECT_FALSE(async_is_done(&del));
	daemon_kill(&self->r);
	start = now_ms();
	o = users_join(&self->r);
	EXPECT_EQ(0, o.hung);
	EXPECT_LE(0, async_join(&del));
	TH_LOG("removed %llu ms after the kill",
	       (unsigned long long)(now_ms() - start));
	EXPECT_GT(LIMIT_HARD, now_ms() - start);
}

TEST_HARNESS_MAIN
