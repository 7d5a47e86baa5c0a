// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control message protocol when answers are late, missing, or come from
 * another daemon. vhost-vdpa is the driver: its ioctls wait for the answer and
 * report what became of it, so a thread runs them and the test is the daemon.
 *
 * The rule under test: a missed timeout fails the one operation that missed
 * it, and the daemon's picture of the device never stays behind.
 */
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "need.h"
#include "testdev.h"
#include "util.h"
#include "vdpa_bus.h"
#include "vhost_drv.h"

#define IOVA UINT64_C(0x100000)
#define SIZE 0x4000

FIXTURE(messages)
{
	struct testdev t;
	struct vhost_drv d;
	struct async op;
};

static int set_timeout(struct testdev *t, const char *seconds)
{
	return file_write(testdev_attr(t, "msg_timeout"), seconds);
}

/* The device serves vhost-vdpa; from here on the test is the daemon. */
FIXTURE_SETUP(messages)
{
	self->d.fd = -1;
	ASSERT_EQ(0, require_vduse());
	testdev_init(&self->t, "messages");
	ASSERT_EQ(0, testdev_up(&self->t));
	ASSERT_EQ(0, vdpa_dev_add(self->t.name, "vhost_vdpa"));
	ASSERT_EQ(0, vhost_drv_open(&self->d, self->t.name));
	ASSERT_EQ(0, set_timeout(&self->t, "1"));
	testdev_stop(&self->t);
}

FIXTURE_TEARDOWN(messages)
{
	if (self->t.fd < 0)
		EXPECT_EQ(0, testdev_open(&self->t));
	if (!self->t.running)
		EXPECT_EQ(0, testdev_start(&self->t));
	async_join(&self->op);
	vhost_drv_close(&self->d);
	EXPECT_EQ(0, testdev_down(&self->t));
}

/* ---- what the driver does, in a thread ---- */

static long op_get_base(void *arg)
{
	return vhost_drv_get_base(arg, 0);
}

static long op_map(void *arg)
{
	struct vhost_drv *d = arg;

	return vhost_drv_map(d, IOVA, d->mem, SIZE, VHOST_ACCESS_RW);
}

static long op_unmap(void *arg)
{
	return vhost_drv_unmap(arg, IOVA, SIZE);
}

static long op_acknowledge(void *arg)
{
	return vhost_drv_set_status(arg, VIRTIO_CONFIG_S_ACKNOWLEDGE);
}

static long op_reset(void *arg)
{
	return vhost_drv_set_status(arg, 0);
}

/* ---- what the daemon does ---- */

static int next_message(struct testdev *t, struct vduse_dev_request *req,
			int ms)
{
	struct pollfd p = { t->fd, POLLIN, 0 };

	if (poll(&p, 1, ms) != 1)
		return -ETIMEDOUT;
	return sys(read(t->fd, req, sizeof(*req))) == sizeof(*req) ? 0 : -errno;
}

/* Answers all that waits now with OK. Return: how many. */
static int answer_all(struct testdev *t)
{
	struct vduse_dev_request req;
	int n = 0;

	while (!next_message(t, &req, 0)) {
		testdev_answer(t, &req, VDUSE_REQ_RESULT_OK);
		n++;
	}
	return n;
}

/* One exchange from end to end shows that the device is all right. */
static long exchange(struct testdev *t, struct vhost_drv *d, uint16_t value)
{
	struct vduse_dev_request req;
	struct async a;

	t->vq[0].avail_idx = value;
	async_start(&a, op_get_base, d);
	while (!next_message(t, &req, 3000)) {
		testdev_answer(t, &req, VDUSE_REQ_RESULT_OK);
		if (req.type == VDUSE_GET_VQ_STATE)
			break;
	}
	return async_join(&a);
}

#define EXPECT_DEVICE_WORKS() \
	EXPECT_EQ(4711, exchange(&self->t, &self->d, 4711))

/* ---- one message ---- */

TEST_F(messages, answer_ok)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_EQ(VDUSE_GET_VQ_STATE, req.type);
	EXPECT_EQ(0, req.vq_state.index);
	self->t.vq[0].avail_idx = 5;
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_EQ(5, async_join(&self->op));
}

TEST_F(messages, answer_failed_fails_that_operation_only)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_FAILED));
	EXPECT_EQ(-EIO, async_join(&self->op));
	EXPECT_DEVICE_WORKS();
}

TEST_F(messages, answered_twice)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_EQ(-ENOENT, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	async_join(&self->op);
}

TEST_F(messages, answer_before_reading_is_refused)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK);
	async_join(&self->op);
	/* The next ID can be guessed; the message must be read all the same. */
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	sleep_ms(100);
	req.request_id++;
	EXPECT_EQ(-ENOENT, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_EQ(1, answer_all(&self->t));
	EXPECT_LE(0, async_join(&self->op));
}

TEST_F(messages, poll_says_what_waits)
{
	struct pollfd p = { self->t.fd, POLLIN | POLLOUT, 0 };
	struct vduse_dev_request req;

	EXPECT_EQ(0, poll(&p, 1, 0));
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(1, poll(&p, 1, 3000));
	EXPECT_EQ(POLLIN, p.revents);
	NEED_EQ(0, next_message(&self->t, &req, 0));
	NEED_EQ(1, poll(&p, 1, 0));
	EXPECT_EQ(POLLOUT, p.revents);
	NEED_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_EQ(0, poll(&p, 1, 0));
}

/* ---- missed timeouts ---- */

TEST_F(messages, timeout_fails_the_operation_in_time)
{
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	EXPECT_GT(0, async_join(&self->op));
	EXPECT_LE(500, self->op.ms);
	EXPECT_GE(4000, self->op.ms);
}

TEST_F(messages, timeout_unread_then_same_daemon)
{
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	EXPECT_GT(0, async_join(&self->op));
	EXPECT_DEVICE_WORKS();
}

TEST_F(messages, timeout_read_then_same_daemon)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_GT(0, async_join(&self->op));
	EXPECT_DEVICE_WORKS();
}

TEST_F(messages, timeout_then_new_daemon)
{
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	EXPECT_GT(0, async_join(&self->op));
	testdev_close(&self->t);
	NEED_EQ(0, testdev_open(&self->t));
	EXPECT_DEVICE_WORKS();
}

TEST_F(messages, timeout_leaves_the_ioctls_working)
{
	struct vduse_vq_info info = { .index = 0 };
	struct pollfd p = { self->t.fd, POLLIN | POLLOUT, 0 };

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	EXPECT_GT(0, async_join(&self->op));
	EXPECT_EQ(0, ioctl(self->t.fd, VDUSE_VQ_GET_INFO, &info));
	poll(&p, 1, 0);
	EXPECT_EQ(0, p.revents & POLLERR);
}

TEST_F(messages, many_timeouts_then_everything_works)
{
	int i;

	for (i = 0; i < 3; i++) {
		EXPECT_GT(0, vhost_drv_get_base(&self->d, 0));
		vhost_drv_map(&self->d, IOVA + (uint64_t)i * SIZE,
			      self->d.mem, SIZE, VHOST_ACCESS_RW);
		vhost_drv_set_status(&self->d, 1);
	}
	answer_all(&self->t);
	EXPECT_DEVICE_WORKS();
	NEED_EQ(0, testdev_start(&self->t));
	EXPECT_EQ(0, vhost_drv_set_status(&self->d, 0));
	EXPECT_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	EXPECT_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 4096,
				       3000));
}

TEST_F(messages, late_answer_is_accepted_once)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_GT(0, async_join(&self->op));
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_EQ(-ENOENT, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_DEVICE_WORKS();
}

TEST_F(messages, late_answer_does_not_answer_a_newer_message)
{
	struct vduse_dev_request late, req;

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(0, next_message(&self->t, &late, 3000));
	EXPECT_GT(0, async_join(&self->op));
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_NE(late.request_id, req.request_id);
	self->t.vq[0].avail_idx = 1;
	EXPECT_EQ(0, testdev_answer(&self->t, &late, VDUSE_REQ_RESULT_OK));
	self->t.vq[0].avail_idx = 2;
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_EQ(2, async_join(&self->op));
}

TEST_F(messages, late_status_answer_counts)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_acknowledge, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_EQ(VDUSE_SET_STATUS, req.type);
	async_join(&self->op);
	EXPECT_EQ(0, vhost_drv_get_status(&self->d));
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_EQ(VIRTIO_CONFIG_S_ACKNOWLEDGE, vhost_drv_get_status(&self->d));
}

TEST_F(messages, late_status_refusal_changes_nothing)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_acknowledge, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	async_join(&self->op);
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_FAILED));
	EXPECT_EQ(0, vhost_drv_get_status(&self->d));
}

TEST_F(messages, unread_question_is_dropped)
{
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	EXPECT_GT(0, async_join(&self->op));
	EXPECT_EQ(-ETIMEDOUT, next_message(&self->t, &req, 0));
}

/* ---- no stale IOTLB ---- */

TEST_F(messages, missed_iotlb_update_is_delivered_before_newer_messages)
{
	struct vduse_dev_request req;

	/* The daemon knows the mapping ... */
	NEED_EQ(0, async_start(&self->op, op_map, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	NEED_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	NEED_EQ(0, async_join(&self->op));
	/* ... and sleeps while the driver takes it away. */
	NEED_EQ(0, async_start(&self->op, op_unmap, &self->d));
	async_join(&self->op);
	EXPECT_LE(500, self->op.ms);

	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	sleep_ms(100);
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	NEED_EQ(VDUSE_UPDATE_IOTLB, req.type);
	EXPECT_GE(IOVA, req.iova.start);
	EXPECT_LE(IOVA + SIZE - 1, req.iova.last);
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_EQ(VDUSE_GET_VQ_STATE, req.type);
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_LE(0, async_join(&self->op));
}

TEST_F(messages, missed_iotlb_updates_are_one)
{
	struct vduse_dev_request req;
	struct vduse_iotlb_entry e = { .start = IOVA, .last = IOVA };
	int i, updates = 0;

	for (i = 0; i < 2; i++) {
		op_map(&self->d);
		op_unmap(&self->d);
	}
	while (!next_message(&self->t, &req, 0)) {
		if (req.type == VDUSE_UPDATE_IOTLB) {
			EXPECT_GE(IOVA, req.iova.start);
			EXPECT_LE(IOVA + SIZE - 1, req.iova.last);
			updates++;
		}
		testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK);
	}
	EXPECT_EQ(1, updates);
	EXPECT_EQ(-EINVAL, sys(ioctl(self->t.fd, VDUSE_IOTLB_GET_FD, &e)));
	EXPECT_DEVICE_WORKS();
}

TEST_F(messages, failed_map_leaves_no_mapping)
{
	struct vduse_iotlb_entry e = { .start = IOVA, .last = IOVA };
	struct vduse_dev_request req;

	NEED_EQ(0, async_start(&self->op, op_map, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_FAILED));
	/* vhost undoes the mapping, which is told, too. */
	while (!async_is_done(&self->op))
		answer_all(&self->t);
	EXPECT_GT(0, async_join(&self->op));
	EXPECT_EQ(-EINVAL, sys(ioctl(self->t.fd, VDUSE_IOTLB_GET_FD, &e)));
	EXPECT_DEVICE_WORKS();
}

TEST_F(messages, data_follows_a_mapping_that_moved_during_a_stall)
{
	unsigned char *other;
	int memfd = memfd_create("other", MFD_CLOEXEC);

	NEED_EQ(0, ftruncate(memfd, VHOST_DRV_MEM));
	other = mmap(NULL, VHOST_DRV_MEM, PROT_READ | PROT_WRITE, MAP_SHARED,
		     memfd, 0);
	NEED_TRUE(other != MAP_FAILED);

	/* Serve one request, so that the daemon has the memory mapped. */
	NEED_EQ(0, testdev_start(&self->t));
	NEED_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	memset(self->t.disk, 'A', 512);
	NEED_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 512, 3000));
	NEED_EQ('A', self->d.mem[VHOST_DRV_DATA]);

	/* It stops reading messages; the guest's memory moves meanwhile. */
	self->t.hold_messages = true;
	testdev_poke(&self->t);
	sleep_ms(50);
	memcpy(other, self->d.mem, VHOST_DRV_MEM);
	vhost_drv_unmap(&self->d, VHOST_DRV_IOVA, VHOST_DRV_MEM);
	vhost_drv_map(&self->d, VHOST_DRV_IOVA, other, VHOST_DRV_MEM,
		      VHOST_ACCESS_RW);
	self->t.hold_messages = false;
	testdev_poke(&self->t);

	/* vhost gave up the mapping when it failed; map again, now answered. */
	vhost_drv_unmap(&self->d, VHOST_DRV_IOVA, VHOST_DRV_MEM);
	NEED_EQ(0, vhost_drv_map(&self->d, VHOST_DRV_IOVA, other,
				   VHOST_DRV_MEM, VHOST_ACCESS_RW));
	munmap(self->d.mem, VHOST_DRV_MEM);
	self->d.mem = other;
	memset(self->t.disk, 'B', 512);
	EXPECT_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 512, 3000));
	EXPECT_EQ('B', self->d.mem[VHOST_DRV_DATA]);
	close(memfd);
}

/* ---- order of statuses ---- */

TEST_F(messages, missed_reset_supersedes_older_statuses)
{
	struct vduse_dev_request req;
	int resets = 0, n = 0;

	op_acknowledge(&self->d);
	op_reset(&self->d);
	EXPECT_EQ(0, vhost_drv_get_status(&self->d));
	while (!next_message(&self->t, &req, 0)) {
		n++;
		EXPECT_EQ(VDUSE_SET_STATUS, req.type);
		EXPECT_EQ(0, req.s.status);
		resets += req.type == VDUSE_SET_STATUS && !req.s.status;
		testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK);
	}
	EXPECT_EQ(1, n);
	EXPECT_EQ(1, resets);
	EXPECT_EQ(0, vhost_drv_get_status(&self->d));
}

TEST_F(messages, driver_can_start_after_missed_statuses)
{
	op_acknowledge(&self->d);
	op_reset(&self->d);
	NEED_EQ(0, testdev_start(&self->t));
	/* vhost takes no virtqueues until a reset has succeeded. */
	NEED_EQ(0, vhost_drv_set_status(&self->d, 0));
	EXPECT_EQ(0, vhost_drv_start(&self->d, TESTDEV_FEATURES));
	EXPECT_EQ(15, vhost_drv_get_status(&self->d));
	EXPECT_EQ(15, self->t.status);
	EXPECT_EQ(0, vhost_drv_request(&self->d, VIRTIO_BLK_T_IN, 0, 4096,
				       3000));
}

/* ---- daemons that go and come ---- */

TEST_F(messages, question_waits_for_a_daemon_to_come)
{
	NEED_EQ(0, set_timeout(&self->t, "10"));
	testdev_close(&self->t);
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	sleep_ms(200);
	EXPECT_FALSE(async_is_done(&self->op));
	NEED_EQ(0, testdev_open(&self->t));
	self->t.vq[0].avail_idx = 9;
	EXPECT_EQ(1, answer_all(&self->t));
	EXPECT_EQ(9, async_join(&self->op));
}

TEST_F(messages, read_status_goes_to_the_next_daemon)
{
	struct vduse_dev_request req;

	NEED_EQ(0, set_timeout(&self->t, "10"));
	NEED_EQ(0, async_start(&self->op, op_acknowledge, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	testdev_close(&self->t);
	NEED_EQ(0, testdev_open(&self->t));
	memset(&req, 0xff, sizeof(req));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_EQ(VDUSE_SET_STATUS, req.type);
	EXPECT_EQ(VIRTIO_CONFIG_S_ACKNOWLEDGE, req.s.status);
	EXPECT_EQ(0, testdev_answer(&self->t, &req, VDUSE_REQ_RESULT_OK));
	EXPECT_EQ(0, async_join(&self->op));
	EXPECT_EQ(VIRTIO_CONFIG_S_ACKNOWLEDGE, vhost_drv_get_status(&self->d));
}

TEST_F(messages, iotlb_update_ends_with_its_daemon)
{
	struct vduse_dev_request req;

	NEED_EQ(0, set_timeout(&self->t, "10"));
	NEED_EQ(0, async_start(&self->op, op_map, &self->d));
	NEED_EQ(0, next_message(&self->t, &req, 3000));
	EXPECT_EQ(VDUSE_UPDATE_IOTLB, req.type);
	/* A process that is gone has no mappings. */
	testdev_close(&self->t);
	EXPECT_EQ(0, async_join(&self->op));
	EXPECT_GT(5000, self->op.ms);
	/* And one that comes has none yet. */
	NEED_EQ(0, testdev_open(&self->t));
	EXPECT_EQ(-ETIMEDOUT, next_message(&self->t, &req, 0));
}

TEST_F(messages, killed_daemon_with_messages_queued)
{
	struct vduse_dev_request req;
	pid_t pid;

	NEED_EQ(0, set_timeout(&self->t, "10"));
	testdev_close(&self->t);
	pid = fork();
	if (!pid) {
		/* Reads one message, so one is read and one unread. */
		testdev_open(&self->t);
		next_message(&self->t, &req, 5000);
		for (;;)
			pause();
	}
	NEED_LT(0, pid);
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	sleep_ms(500);
	kill(pid, SIGKILL);
	NEED_EQ(pid, waitpid(pid, NULL, 0));
	NEED_EQ(0, testdev_open(&self->t));
	self->t.vq[0].avail_idx = 3;
	EXPECT_EQ(1, answer_all(&self->t));
	EXPECT_EQ(3, async_join(&self->op));
}

/* ---- waiting ---- */

TEST_F(messages, timeout_zero_waits)
{
	NEED_EQ(0, set_timeout(&self->t, "0"));
	NEED_EQ(0, async_start(&self->op, op_get_base, &self->d));
	sleep_ms(2500);
	EXPECT_FALSE(async_is_done(&self->op));
	self->t.vq[0].avail_idx = 8;
	EXPECT_EQ(1, answer_all(&self->t));
	EXPECT_EQ(8, async_join(&self->op));
}

TEST_F(messages, waiting_process_can_be_killed)
{
	uint64_t start;
	pid_t pid;

	NEED_EQ(0, set_timeout(&self->t, "0"));
	pid = fork();
	if (!pid) {
		vhost_drv_get_base(&self->d, 0);
		_exit(0);
	}
	NEED_LT(0, pid);
	sleep_ms(300);
	start = now_ms();
	kill(pid, SIGKILL);
	NEED_EQ(pid, waitpid(pid, NULL, 0));
	EXPECT_GT(2000, now_ms() - start);
	NEED_EQ(0, set_timeout(&self->t, "5"));
	EXPECT_DEVICE_WORKS();
}

struct race {
	struct testdev *t;
	unsigned int read, answered;
};

static long op_answer_some(void *arg)
{
	struct race *r = arg;
	struct vduse_dev_request req;
	uint64_t end = now_ms() + 1500;

	while (now_ms() < end) {
		if (read(r->t->fd, &req, sizeof(req)) != sizeof(req))
			continue;
		r->read++;
		if (!testdev_answer(r->t, &req, VDUSE_REQ_RESULT_OK))
			r->answered++;
	}
	return 0;
}

TEST_F(messages, two_readers_share_the_messages)
{
	struct race r[2] = { { &self->t }, { &self->t } };
	struct async a[2];
	unsigned int done = 0;
	uint64_t end = now_ms() + 1000;

	NEED_EQ(0, async_start(&a[0], op_answer_some, &r[0]));
	NEED_EQ(0, async_start(&a[1], op_answer_some, &r[1]));
	while (now_ms() < end) {
		NEED_LE(0, vhost_drv_get_base(&self->d, 0));
		done++;
	}
	async_join(&a[0]);
	async_join(&a[1]);
	EXPECT_EQ(done, r[0].read + r[1].read);
	EXPECT_EQ(done, r[0].answered + r[1].answered);
}

TEST_HARNESS_MAIN
