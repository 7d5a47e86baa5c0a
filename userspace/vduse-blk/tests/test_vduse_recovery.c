// SPDX-License-Identifier: MIT
/*
 * test_vduse_recovery.c: a daemon that is killed with SIGKILL, again and again.
 *
 * The test is the kernel and the driver. The daemon is a child process that runs
 * the real thing, from the log in the runtime folder to a disk in a file; only the
 * ioctls of vduse_dev.c are replaced, by the functions below. Rings and buffers
 * are in shared memory, control messages go over a socket, kicks and interrupts
 * through eventfds. The child is killed at random moments, in its recovery too,
 * and another one begins.
 *
 * The driver sleeps until it is interrupted, so an interrupt that is lost is
 * found, and checks that every request is completed once, without an error, and
 * that reads return what was written last.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "tests/rng.h"
#include "tests/sim_driver.h"
#include "transport/vduse.h"
#include "transport/vduse_dev.h"
#include "transport/vduse_recovery.h"

#define NAME		"disk0"
#define QUEUES_MAX	4u
#define NUM		16u
#define BLOCK		4096u
#define BLOCKS		64u
#define DEPTH		8u
#define ARENA		(1u << 20)
#define BASE		0x10000000ull
#define PATIENCE_MS	60000
#define LOST		3 /* exit status of a child that could not go on */
#define FEATURE(bit)	(1ull << (bit))

/* What the kernel knows; shared with the child. */
static struct kernel {
	bool exists, attached;
	uint64_t features;
	struct vduse_vq_info vqs[QUEUES_MAX];
	struct virtio_blk_config config;
	unsigned int configs, config_irqs;
	/* What the child does with its device; see pause_watched(). */
	volatile bool hold; /* storage does not answer */
	volatile unsigned int pauses, resumes, flushes, held;
	volatile bool reached;
	char why[ERROR_TEXT_SIZE];
} *kernel;

static int arena_fd, kick_fds[QUEUES_MAX], irq_fds[QUEUES_MAX], pause_fd;
static int device_fd; /* the child's end of the control messages */

/* --- the kernel, as the child sees it --- */

int vduse_control_open(struct error *e)
{
	return err_set(e, ENOENT, "not here");
}

bool vduse_dev_exists(const char *name)
{
	(void)name;
	return kernel->exists;
}

bool vduse_dev_attached(const char *name)
{
	(void)name;
	return kernel->attached;
}

int vduse_dev_open(const char *name, int *ret_fd, struct error *e)
{
	int fd = fcntl(device_fd, F_DUPFD_CLOEXEC, 0);

	(void)name;
	if (fd < 0)
		return err_set_errno(e, errno, "dup");
	*ret_fd = fd;
	return 0;
}

int vduse_dev_create(int control_fd, const struct vduse_dev_params *params, int *ret_fd,
		     struct error *e)
{
	(void)control_fd;
	kernel->exists = true;
	memcpy(&kernel->config, params->config, sizeof(kernel->config));
	return vduse_dev_open(params->name, ret_fd, e);
}

int vduse_dev_destroy(int control_fd, const char *name, struct error *e)
{
	(void)control_fd;
	if (kernel->attached)
		return err_set(e, EBUSY, "%s is attached", name);
	kernel->exists = false;
	return 0;
}

int vduse_dev_features(int fd, uint64_t *ret_features)
{
	(void)fd;
	*ret_features = kernel->features;
	return 0;
}

int vduse_dev_set_config(int fd, const void *config, uint32_t size)
{
	(void)fd;
	memcpy(&kernel->config, config, size);
	kernel->configs++;
	return 0;
}

int vduse_dev_inject_config_irq(int fd)
{
	(void)fd;
	kernel->config_irqs++;
	return 0;
}

int vduse_dev_vq_info(int fd, uint32_t index, struct vduse_vq_info *ret_info)
{
	(void)fd;
	*ret_info = kernel->vqs[index];
	return 0;
}

/* The driver's eventfd takes the place of the daemon's: its counter survives. */
int vduse_dev_vq_kickfd(int fd, uint32_t index, int eventfd)
{
	(void)fd;
	return dup3(kick_fds[index], eventfd, O_CLOEXEC) < 0 ? -errno : 0;
}

int vduse_dev_inject_irq(int fd, uint32_t index)
{
	const uint64_t one = 1;

	(void)fd;
	return write(irq_fds[index], &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

int vduse_dev_iotlb_get(int fd, uint64_t iova, struct vduse_iotlb_entry *ret_entry)
{
	const uint64_t queue = (iova - BASE) / ARENA;

	(void)fd;
	if (iova < BASE || queue >= QUEUES_MAX)
		return -EINVAL;
	*ret_entry = (struct vduse_iotlb_entry){
		.offset = queue * ARENA, .start = BASE + queue * ARENA,
		.last = BASE + (queue + 1) * ARENA - 1, .perm = VDUSE_ACCESS_RW,
	};
	return fcntl(arena_fd, F_DUPFD_CLOEXEC, 0);
}

/* --- the child --- */

struct setup {
	unsigned int queues;
	unsigned int daemon_queues; /* 0: the same */
	bool packed;
};

static char folder[64], image[96];
static int dir_fd;

static void __attribute__((noreturn)) end_child(const struct error *e)
{
	memcpy(kernel->why, e->text, sizeof(kernel->why));
	_exit(LOST);
}

static void not_recovered(void *opaque, const struct error *e)
{
	(void)opaque;
	end_child(e);
}

/*
 * Each signal of pause_fd begins a pause or ends it, in turn. While kernel->hold is set,
 * the storage keeps what it is asked for; the end of a pause has it answer.
 */

static struct child {
	struct loop *loop;
	struct transport *transport;
	struct loop_op op;
	bool pausing;
	struct backend_ops ops;
	const struct backend_ops *real;
} child;

/* Fewer than the driver has at a time: what is held ends with the queue's next request. */
#define HELD_MAX	(DEPTH / 2)

static __thread struct backend_request *held[HELD_MAX];
static __thread unsigned int nheld;

static void submit_or_hold(struct backend_queue *queue, struct backend_request *req)
{
	if (!kernel->hold || req->op == BACKEND_FLUSH || nheld == HELD_MAX) {
		while (nheld && !kernel->hold)
			child.real->submit(queue, held[--nheld]);
		child.real->submit(queue, req);
		return;
	}
	held[nheld++] = req;
	__atomic_add_fetch(&kernel->held, 1, __ATOMIC_RELAXED);
}

static void resumed(void *opaque, int error)
{
	(void)opaque;
	if (error)
		_exit(5);
	kernel->resumes++;
}

static void pause_flushed(void *opaque, struct queue_thread *q, int error)
{
	(void)opaque;
	(void)q;
	if (error)
		_exit(6);
	kernel->flushes++;
	kernel->reached = true;
}

static void paused(void *opaque, int error)
{
	(void)opaque;
	if (error)
		_exit(7);
	queue_thread_flush(transport_queue(child.transport, 0), pause_flushed, NULL);
}

static void watch_pauses(void)
{
	io_uring_prep_poll_add(loop_sqe(child.loop, &child.op), pause_fd, POLLIN);
}

static void pause_watched(struct loop_op *op, int res, uint32_t flags)
{
	uint64_t n;

	(void)op;
	(void)flags;
	if (res > 0 && read(pause_fd, &n, sizeof(n)) == sizeof(n)) {
		child.pausing = !child.pausing;
		if (child.pausing) {
			kernel->pauses++;
			transport_pause(child.transport, paused, NULL);
		} else {
			transport_resume(child.transport, resumed, NULL);
		}
	}
	watch_pauses();
}

static void __attribute__((noreturn)) serve(const struct setup *s)
{
	const unsigned int queues = s->daemon_queues ? s->daemon_queues : s->queues;
	struct backend_options options = { .queues = queues, .queue_depth = NUM };
	struct vblk_device_params disk_params = {
		.num_queues = queues, .queue_size = NUM, .packed = s->packed,
	};
	struct vduse_params params = {
		.name = NAME, .control_fd = -1, .nqueues = queues, .queue_size = NUM,
		.dir_fd = dir_fd, .failed = not_recovered,
	};
	const struct loop_params loop_params = { .name = "main" };
	struct vduse_recovery *recovery;
	struct transport *transport;
	struct error e = ERROR_INIT;
	struct backend *backend;
	struct vblk_device disk;
	struct loop *loop;
	char uri[128];
	int err;

	log_set_level(LOG_LEVEL_ERROR);
	snprintf(uri, sizeof(uri), "file://%s", image);
	err = loop_create(&loop_params, &loop, &e);
	if (!err)
		err = vduse_recovery_find(NAME, dir_fd, &recovery, &e);
	if (err)
		end_child(&e);
	if (backend_open(uri, &options, &backend, &e))
		end_child(&e);
	if (recovery)
		vduse_recovery_prior_writes(recovery, backend);
	disk_params.info = &backend->info;
	if (vblk_device_init(&disk, &disk_params, &e))
		end_child(&e);
	params.disk = &disk;
	params.backend = backend;
	params.loop = loop;
	params.recovery = recovery;
	if (vduse_create(&params, &transport, &e))
		end_child(&e);
	vduse_recovery_free(recovery);
	child.loop = loop;
	child.transport = transport;
	child.op.complete = pause_watched;
	child.real = backend->ops;
	child.ops = *backend->ops;
	child.ops.submit = submit_or_hold;
	backend->ops = &child.ops;
	watch_pauses();
	loop_run(loop);
	_exit(4);
}

/* --- the kernel's and the driver's side --- */

struct request {
	uint32_t type;
	unsigned int block;
	uint64_t header_iova, status_iova, data_iova;
	bool busy;
};

struct queue {
	struct sim_driver *d;
	struct request requests[DEPTH];
};

struct world {
	struct setup setup;
	struct rng rng;
	uint8_t *arena;
	struct queue queues[QUEUES_MAX];
	pid_t daemon;
	int messages; /* our end */
	struct vduse_dev_request asked; /* not answered; request_id 0: none */
	uint32_t next_id;
	bool refused;
	uint32_t written[BLOCKS]; /* what each block holds: a number that fills it */
	bool busy[BLOCKS];
	uint32_t next_number;
	unsigned int finished, in_flight, kills, orphans; /* in flight at a kill */
};

static void ask(struct world *w)
{
	if (w->asked.request_id)
		assert_int_equal(send(w->messages, &w->asked, sizeof(w->asked), MSG_NOSIGNAL),
				 sizeof(w->asked));
}

/* What the last one left unanswered is asked again, as the kernel does. */
static void start_daemon(struct world *w)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
				    pair), 0);
	w->messages = pair[0];
	device_fd = pair[1];
	ask(w);
	fflush(NULL);
	w->daemon = fork();
	assert_true(w->daemon >= 0);
	if (!w->daemon) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pair[0]);
		serve(&w->setup);
	}
	close(pair[1]);
}

static int end_daemon(struct world *w, int signal_number)
{
	int status;

	if (signal_number)
		kill(w->daemon, signal_number);
	assert_int_equal(waitpid(w->daemon, &status, 0), w->daemon);
	close(w->messages);
	w->daemon = 0;
	return status;
}

static void take_answer(struct world *w)
{
	struct vduse_dev_response r;
	ssize_t n = recv(w->messages, &r, sizeof(r), 0);

	if (!n)
		fail_msg("the daemon ended by itself: %s", kernel->why);
	if (n != sizeof(r))
		return;
	assert_int_equal(r.request_id, w->asked.request_id);
	w->refused = r.result != VDUSE_REQ_RESULT_OK;
	w->asked.request_id = 0;
}

/* Wait for an answer, or an interrupt of one of the queues. */
static void wait_for_daemon(struct world *w, int ms)
{
	struct pollfd p[1 + QUEUES_MAX] = { { .fd = w->messages, .events = POLLIN } };
	unsigned int i;
	uint64_t n;

	for (i = 0; i < w->setup.queues; i++)
		p[1 + i] = (struct pollfd){ .fd = irq_fds[i], .events = POLLIN };
	if (poll(p, 1 + w->setup.queues, ms) <= 0)
		return;
	if (p[0].revents & POLLHUP && !(p[0].revents & POLLIN))
		fail_msg("the daemon ended by itself: %s", kernel->why);
	if (p[0].revents & POLLIN)
		take_answer(w);
	for (i = 0; i < w->setup.queues; i++)
		if (p[1 + i].revents)
			assert_int_equal(read(irq_fds[i], &n, sizeof(n)), sizeof(n));
}

static void send_status(struct world *w, uint8_t status)
{
	w->asked = (struct vduse_dev_request){
		.type = VDUSE_SET_STATUS, .request_id = ++w->next_id, .s.status = status,
	};
	if (w->daemon)
		ask(w);
}

static void await_answer(struct world *w)
{
	int left = PATIENCE_MS / 10;

	while (w->asked.request_id && left--)
		wait_for_daemon(w, 10);
	if (w->asked.request_id)
		fail_msg("no answer to a control message");
	assert_false(w->refused);
}

static void make_rings(struct world *w)
{
	unsigned int i;

	for (i = 0; i < w->setup.queues; i++) {
		struct sim_params params = {
			.num = NUM, .packed = w->setup.packed, .event_idx = true,
			.indirect = true, .max_chain = 8, .arena_bytes = ARENA,
			.arena = w->arena + (size_t)i * ARENA, .iova = BASE + (uint64_t)i * ARENA,
		};
		struct sim_driver *d;

		memset(params.arena, 0, ARENA);
		d = sim_create(&params);
		w->queues[i].d = d;
		kernel->vqs[i] = (struct vduse_vq_info){
			.index = i, .num = NUM, .desc_addr = d->desc, .driver_addr = d->driver,
			.device_addr = d->device, .ready = 1,
		};
		if (w->setup.packed) {
			kernel->vqs[i].packed.last_avail_counter = 1;
			kernel->vqs[i].packed.last_used_counter = 1;
		}
	}
}

static void free_rings(struct world *w)
{
	unsigned int i;

	for (i = 0; i < w->setup.queues; i++) {
		sim_destroy(w->queues[i].d);
		memset(w->queues[i].requests, 0, sizeof(w->queues[i].requests));
	}
}

static uint64_t wanted_features(const struct setup *s)
{
	return FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_F_ACCESS_PLATFORM) |
	       FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_RING_F_EVENT_IDX) |
	       FEATURE(VIRTIO_BLK_F_FLUSH) | (s->packed ? FEATURE(VIRTIO_F_RING_PACKED) : 0) |
	       (s->queues > 1 ? FEATURE(VIRTIO_BLK_F_MQ) : 0);
}

/* A driver begins; @in_between: called before each answer is awaited, or NULL. */
static void bring_up(struct world *w, void (*in_between)(struct world *w))
{
	static const uint8_t steps[] = { 1, 3, 11, 15 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		if (steps[i] == 11)
			kernel->features = wanted_features(&w->setup);
		if (steps[i] == 15)
			make_rings(w);
		send_status(w, steps[i]);
		if (in_between)
			in_between(w);
		await_answer(w);
	}
}

/* --- requests --- */

static void fill(uint8_t *data, uint32_t number)
{
	unsigned int i;

	for (i = 0; i < BLOCK; i += 4)
		memcpy(data + i, &number, 4);
}

static unsigned int pick_block(struct world *w)
{
	unsigned int i, block = rnd(&w->rng) % BLOCKS;

	for (i = 0; i < BLOCKS && w->busy[block]; i++)
		block = (block + 1) % BLOCKS;
	return block;
}

static bool add(struct world *w, struct queue *q, unsigned int slot)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT,
					  VIRTIO_BLK_T_IN, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_FLUSH };
	struct request *r = &q->requests[slot];
	struct sim_segment seg[3];
	struct virtio_blk_outhdr header;
	unsigned int n = 0;

	*r = (struct request){ .type = types[rnd(&w->rng) % ARRAY_SIZE(types)], .block = pick_block(w) };
	r->data_iova = q->d->data + slot * 2 * BLOCK;
	r->header_iova = r->data_iova + BLOCK;
	r->status_iova = r->header_iova + 16;
	header = (struct virtio_blk_outhdr){ .type = r->type };
	if (r->type != VIRTIO_BLK_T_FLUSH)
		header.sector = r->block * (BLOCK / 512);
	memcpy(sim_mem(q->d, r->header_iova), &header, sizeof(header));
	*(uint8_t *)sim_mem(q->d, r->status_iova) = 0xff;
	fill(sim_mem(q->d, r->data_iova), r->type == VIRTIO_BLK_T_OUT ? w->next_number + 1 : 0);
	seg[n++] = (struct sim_segment){ r->header_iova, 16, false };
	if (r->type != VIRTIO_BLK_T_FLUSH)
		seg[n++] = (struct sim_segment){ r->data_iova, BLOCK, r->type == VIRTIO_BLK_T_IN };
	seg[n++] = (struct sim_segment){ r->status_iova, 1, true };
	if (!sim_add(q->d, seg, n, rnd(&w->rng) % 2, r))
		return false;
	r->busy = true;
	if (r->type == VIRTIO_BLK_T_OUT)
		w->written[r->block] = ++w->next_number;
	if (r->type != VIRTIO_BLK_T_FLUSH)
		w->busy[r->block] = true;
	w->in_flight++;
	return true;
}

static void finish(struct world *w, struct queue *q, struct request *r)
{
	const uint8_t status = *(uint8_t *)sim_mem(q->d, r->status_iova);
	uint32_t got[BLOCK / 4];
	unsigned int i;

	assert_true(r->busy);
	if (status != VIRTIO_BLK_S_OK)
		fail_msg("request of type %u has status %u", r->type, status);
	if (r->type == VIRTIO_BLK_T_IN) {
		memcpy(got, sim_mem(q->d, r->data_iova), BLOCK);
		for (i = 0; i < BLOCK / 4; i++)
			if (got[i] != w->written[r->block])
				fail_msg("block %u holds %u, not %u", r->block, got[i],
					 w->written[r->block]);
	}
	r->busy = false;
	if (r->type != VIRTIO_BLK_T_FLUSH)
		w->busy[r->block] = false;
	w->finished++;
	w->in_flight--;
}

static void submit(struct world *w)
{
	const uint64_t one = 1;
	unsigned int i, slot;

	for (i = 0; i < w->setup.queues; i++) {
		struct queue *q = &w->queues[i];
		bool added = false;

		for (slot = 0; slot < DEPTH; slot++)
			if (!q->requests[slot].busy && rnd(&w->rng) % 2)
				added |= add(w, q, slot);
		if (added && sim_needs_kick(q->d))
			assert_int_equal(write(kick_fds[i], &one, sizeof(one)), sizeof(one));
	}
}

/* Take what is done, and ask for an interrupt for the next; true if there was any. */
static bool reap(struct world *w)
{
	bool any = false;
	unsigned int i;
	uint32_t len;
	void *r;

	for (i = 0; i < w->setup.queues; i++) {
		struct queue *q = &w->queues[i];

		do {
			sim_disable_callbacks(q->d);
			while (sim_get_used(q->d, &r, &len)) {
				finish(w, q, r);
				any = true;
			}
		} while (sim_enable_callbacks(q->d, 1));
	}
	return any;
}

static uint64_t now_ms(void)
{
	return clock_now_ns() / NS_PER_MS;
}

/* Until @more requests are done, or @ms have passed. */
static void traffic(struct world *w, unsigned int more, int ms)
{
	const unsigned int until = w->finished + more;
	const uint64_t deadline = now_ms() + (uint64_t)ms;

	while (w->finished < until && now_ms() < deadline) {
		submit(w);
		if (w->in_flight)
			wait_for_daemon(w, (int)(deadline - now_ms()) + 1);
		reap(w);
	}
	if (ms == PATIENCE_MS && w->finished < until)
		fail_msg("%u requests wait, and no interrupt comes", w->in_flight);
}

/* Everything that is in flight ends. It was not kicked for: no interrupt may be lost. */
static void drain(struct world *w)
{
	const uint64_t deadline = now_ms() + PATIENCE_MS;

	reap(w);
	while (w->in_flight) {
		if (now_ms() > deadline)
			fail_msg("%u requests are never completed", w->in_flight);
		wait_for_daemon(w, 1000);
		reap(w);
	}
}

static void kill_and_restart(struct world *w)
{
	end_daemon(w, SIGKILL);
	w->kills++;
	w->orphans += w->in_flight;
	start_daemon(w);
}

static void check_image(const struct world *w)
{
	int fd = open(image, O_RDONLY);
	uint32_t got[BLOCK / 4];
	unsigned int i, k;

	assert_true(fd >= 0);
	for (i = 0; i < BLOCKS; i++) {
		assert_int_equal(pread(fd, got, BLOCK, (off_t)i * BLOCK), BLOCK);
		for (k = 0; k < BLOCK / 4; k++)
			assert_int_equal(got[k], w->written[i]);
	}
	close(fd);
}

/* --- life of a world --- */

static void world_begin(struct world *w, const struct setup *s, uint64_t seed)
{
	unsigned int i;
	int fd;

	memset(w, 0, sizeof(*w));
	w->setup = *s;
	w->rng.state = seed;
	strcpy(folder, "/tmp/test-vduse-recovery-XXXXXX");
	assert_non_null(mkdtemp(folder));
	dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(image, sizeof(image), "%s/image", folder);
	fd = open(image, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0 && !ftruncate(fd, BLOCKS * BLOCK));
	close(fd);
	kernel = mmap(NULL, sizeof(*kernel), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	arena_fd = memfd_create("arena", MFD_CLOEXEC);
	assert_int_equal(ftruncate(arena_fd, (off_t)QUEUES_MAX * ARENA), 0);
	w->arena = mmap(NULL, (size_t)QUEUES_MAX * ARENA, PROT_READ | PROT_WRITE, MAP_SHARED,
			arena_fd, 0);
	assert_true(kernel != MAP_FAILED && w->arena != MAP_FAILED);
	pause_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (i = 0; i < QUEUES_MAX; i++) {
		kick_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		irq_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	start_daemon(w);
	while (!*(volatile bool *)&kernel->exists)
		wait_for_daemon(w, 1);
	kernel->attached = true;
}

static void world_end(struct world *w)
{
	unsigned int i;

	if (w->daemon)
		end_daemon(w, SIGKILL);
	free_rings(w);
	for (i = 0; i < QUEUES_MAX; i++) {
		close(kick_fds[i]);
		close(irq_fds[i]);
	}
	close(pause_fd);
	munmap(w->arena, (size_t)QUEUES_MAX * ARENA);
	munmap(kernel, sizeof(*kernel));
	close(arena_fd);
	unlink(image);
	unlinkat(dir_fd, VDUSE_LOG_NAME, 0);
	close(dir_fd);
	assert_int_equal(rmdir(folder), 0);
}

/* --- tests --- */

/* Some daemons die in the middle of traffic, some before they get that far. */
static void test_kills(void **state)
{
	const uint64_t seed = rng_seed();
	static struct world w;
	unsigned int config, i;

	(void)state;
	for (config = 0; config < 4; config++) {
		const struct setup s = { .queues = config & 2 ? 4 : 1, .packed = config & 1 };

		world_begin(&w, &s, seed + config);
		bring_up(&w, NULL);
		for (i = 0; i < 25; i++) {
			if (rnd(&w.rng) % 3)
				traffic(&w, rnd(&w.rng) % 200, PATIENCE_MS);
			else
				traffic(&w, UINT16_MAX, (int)(rnd(&w.rng) % 60));
			kill_and_restart(&w);
		}
		traffic(&w, 200, PATIENCE_MS);
		drain(&w);
		check_image(&w);
		print_message("%u queues, %s: %u kills, %u requests, %u of them in flight at one\n",
			      s.queues, s.packed ? "packed" : "split", w.kills, w.finished,
			      w.orphans);
		assert_true(w.orphans > 20);
		assert_true(w.finished > 1000);
		assert_int_equal(w.kills, 25);
		world_end(&w);
	}
}

/* Killed with requests in flight and everything stopped: they end without a kick. */
static void test_last_kill(void **state)
{
	static struct world w;
	unsigned int i;

	(void)state;
	for (i = 0; i < 8; i++) {
		const struct setup s = { .queues = 1, .packed = i & 1 };

		world_begin(&w, &s, 77 + i);
		bring_up(&w, NULL);
		traffic(&w, 20 + i, PATIENCE_MS);
		submit(&w);
		kill_and_restart(&w);
		drain(&w);
		check_image(&w);
		world_end(&w);
	}
}

static void sometimes_kill(struct world *w)
{
	wait_for_daemon(w, (int)(rnd(&w->rng) % 20));
	if (w->daemon && rnd(&w->rng) % 2)
		kill_and_restart(w);
}

/* Killed while a driver starts: what was not answered is asked again. */
static void test_kill_in_bring_up(void **state)
{
	static struct world w;
	unsigned int i;

	(void)state;
	for (i = 0; i < 6; i++) {
		const struct setup s = { .queues = 1 + i % 2, .packed = i & 1 };

		world_begin(&w, &s, 1000 + i);
		bring_up(&w, sometimes_kill);
		traffic(&w, 50, PATIENCE_MS);
		drain(&w);
		world_end(&w);
	}
}

/* The driver is reset while nobody serves it, and another one begins. */
static void test_reset_while_dead(void **state)
{
	static struct world w;
	unsigned int i;

	(void)state;
	for (i = 0; i < 4; i++) {
		const struct setup s = { .queues = 1, .packed = i & 1 };

		world_begin(&w, &s, 2000 + i);
		bring_up(&w, NULL);
		traffic(&w, 30, PATIENCE_MS);
		drain(&w);
		submit(&w);
		end_daemon(&w, SIGKILL);
		send_status(&w, 0);
		kernel->features = 0;
		kernel->vqs[0].ready = 0;
		free_rings(&w);
		memset(w.arena, 0xff, ARENA); /* whatever it is now, it is no ring */
		memset(w.busy, 0, sizeof(w.busy));
		w.in_flight = 0;
		start_daemon(&w);
		await_answer(&w);
		bring_up(&w, NULL);
		/* What the dead one had in flight may have been written, or not. */
		memset(w.written, 0, sizeof(w.written));
		assert_int_equal(truncate(image, 0), 0);
		assert_int_equal(truncate(image, BLOCKS * BLOCK), 0);
		traffic(&w, 100, PATIENCE_MS);
		drain(&w);
		check_image(&w);
		world_end(&w);
	}
}

/* A driver that is not the one of the log, without a word of its reset. */
static void other_ring(struct world *w)
{
	(void)w;
	kernel->vqs[0].desc_addr += 16;
}

static void other_features(struct world *w)
{
	(void)w;
	kernel->features &= ~FEATURE(VIRTIO_BLK_F_FLUSH);
}

static void fewer_queues(struct world *w)
{
	w->setup.daemon_queues = 1;
}

static void shrunk(struct world *w)
{
	(void)w;
	assert_int_equal(truncate(image, BLOCKS / 2 * BLOCK), 0);
}

static void no_log(struct world *w)
{
	(void)w;
	assert_int_equal(unlinkat(dir_fd, VDUSE_LOG_NAME, 0), 0);
}

static void damage(off_t at)
{
	int fd = openat(dir_fd, VDUSE_LOG_NAME, O_RDWR);

	assert_int_equal(pwrite(fd, "\xff\xff\xff\xff", 4, at), 4);
	close(fd);
}

static void damaged_header(struct world *w)
{
	(void)w;
	damage(100);
	damage(8192 + 100);
}

static void damaged_region(struct world *w)
{
	(void)w;
	damage(16384 + 8);
}

static const struct refusal {
	void (*change)(struct world *w);
	const char *message;
} refusals[] = {
	{ other_ring, "virtqueue 0 is not the one that the log of requests in flight is about" },
	{ other_features, "the driver uses features 0x" },
	{ fewer_queues, "the device has 2 queues, --queues says 1" },
	{ shrunk, "the disk has 512 sectors, the storage only 256 now" },
	{ no_log, "there is no log of requests in flight" },
	{ damaged_header, "the log of requests in flight is damaged" },
	{ damaged_region, "its virtqueues cannot be served, see above" },
};

/* Refused with a reason and a way out; and device and log stay for another try. */
static void test_refusals(void **state)
{
	static struct world w;
	unsigned int i;
	int status;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(refusals); i++) {
		const struct setup s = { .queues = 2 };

		world_begin(&w, &s, 3000 + i);
		bring_up(&w, NULL);
		traffic(&w, 30, PATIENCE_MS);
		submit(&w);
		end_daemon(&w, SIGKILL);
		refusals[i].change(&w);
		start_daemon(&w);
		status = end_daemon(&w, 0);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), LOST);
		if (!strstr(kernel->why, refusals[i].message) ||
		    !strstr(kernel->why, "cannot go on with \"" NAME "\"") ||
		    !strstr(kernel->why, "vdpa dev del " NAME))
			fail_msg("\"%s\", not \"%s\"", kernel->why, refusals[i].message);
		assert_true(kernel->exists);
		world_end(&w);
	}
}

/* After a refusal the right options still work: nothing was lost by trying. */
static void test_second_try(void **state)
{
	const struct setup s = { .queues = 2 };
	static struct world w;

	(void)state;
	world_begin(&w, &s, 4000);
	bring_up(&w, NULL);
	traffic(&w, 30, PATIENCE_MS);
	submit(&w);
	end_daemon(&w, SIGKILL);
	w.setup.daemon_queues = 1;
	start_daemon(&w);
	end_daemon(&w, 0);
	w.setup.daemon_queues = 0;
	start_daemon(&w);
	drain(&w);
	check_image(&w);
	world_end(&w);
}

/* The driver hears of storage that has grown. */
static void test_grown(void **state)
{
	const struct setup s = { .queues = 1 };
	static struct world w;

	(void)state;
	world_begin(&w, &s, 5000);
	bring_up(&w, NULL);
	traffic(&w, 30, PATIENCE_MS);
	end_daemon(&w, SIGKILL);
	assert_int_equal(truncate(image, 2 * BLOCKS * BLOCK), 0);
	kernel->config_irqs = 0;
	start_daemon(&w);
	drain(&w);
	traffic(&w, 30, PATIENCE_MS);
	drain(&w);
	assert_int_equal(le64toh(kernel->config.capacity), 2 * BLOCKS * BLOCK / 512);
	assert_true(kernel->config_irqs >= 1);
	world_end(&w);
}

static void toggle_pause(void)
{
	const uint64_t one = 1;

	assert_int_equal(write(pause_fd, &one, sizeof(one)), sizeof(one));
}

static void await(struct world *w, const volatile unsigned int *count, unsigned int until)
{
	const uint64_t deadline = now_ms() + PATIENCE_MS;

	while (*count < until) {
		if (now_ms() > deadline)
			fail_msg("the daemon does not get there");
		wait_for_daemon(w, 1);
		reap(w); /* for there is no second interrupt */
	}
}

/*
 * Paused, nothing is taken from the rings and no message is answered; then all goes on,
 * and a driver that is not interrupted for what it has asked meanwhile would wait for
 * ever.
 */
static void test_pauses(void **state)
{
	static struct world w;
	unsigned int config, i;

	(void)state;
	for (config = 0; config < 4; config++) {
		const struct setup s = { .queues = config & 2 ? 4 : 1, .packed = config & 1 };

		world_begin(&w, &s, 6000 + config);
		bring_up(&w, NULL);
		for (i = 0; i < 20; i++) {
			unsigned int finished;

			traffic(&w, rnd(&w.rng) % 50, PATIENCE_MS);
			submit(&w);
			toggle_pause();
			await(&w, &kernel->flushes, i + 1);
			reap(&w);
			submit(&w);
			finished = w.finished;
			/* The state of a ring: only the answer shows that it was read. */
			w.asked = (struct vduse_dev_request){
				.type = VDUSE_UPDATE_IOTLB, .request_id = ++w.next_id,
				.iova = { .start = 0, .last = UINT64_MAX },
			};
			if (i % 2)
				ask(&w);
			wait_for_daemon(&w, 5);
			reap(&w);
			assert_int_equal(w.finished, finished);
			assert_int_not_equal(w.asked.request_id, 0);
			toggle_pause();
			if (i % 2)
				await_answer(&w);
			w.asked.request_id = 0;
			drain(&w);
			await(&w, &kernel->resumes, i + 1);
		}
		check_image(&w);
		assert_int_equal(kernel->pauses, 20);
		world_end(&w);
	}
}

/* Time enough, unless something is still held in a queue that nobody used since. */
static bool all_requests_end(struct world *w)
{
	unsigned int tries;

	for (tries = 0; tries < 50 && w->in_flight; tries++) {
		wait_for_daemon(w, 10);
		reap(w);
	}
	return !w->in_flight;
}

/* Storage that does not answer: the pause is given up, with requests still in flight. */
static void test_pause_given_up(void **state)
{
	static struct world w;
	unsigned int config, i;

	(void)state;
	for (config = 0; config < 4; config++) {
		const struct setup s = { .queues = config & 2 ? 4 : 1, .packed = config & 1 };

		world_begin(&w, &s, 7000 + config);
		bring_up(&w, NULL);
		for (i = 0; i < 20; i++) {
			unsigned int finished;

			traffic(&w, 20, PATIENCE_MS);
			drain(&w);
			kernel->hold = true;
			kernel->held = 0;
			/* Flushes are not held. */
			while (!kernel->held) {
				submit(&w);
				wait_for_daemon(&w, 1);
				reap(&w);
			}
			toggle_pause();
			await(&w, &kernel->pauses, i + 1);
			finished = w.finished;
			kernel->hold = false;
			toggle_pause();
			await(&w, &kernel->resumes, i + 1);
			assert_false(kernel->reached);
			/* What is held ends with the next request of its queue. */
			while (!all_requests_end(&w))
				submit(&w);
			assert_true(w.finished > finished);
		}
		check_image(&w);
		world_end(&w);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pauses),
		cmocka_unit_test(test_pause_given_up),
		cmocka_unit_test(test_kills),
		cmocka_unit_test(test_last_kill),
		cmocka_unit_test(test_kill_in_bring_up),
		cmocka_unit_test(test_reset_while_dead),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_second_try),
		cmocka_unit_test(test_grown),
	};

	return cmocka_run_group_tests_name("vduse_recovery", tests, NULL, NULL);
}
