// SPDX-License-Identifier: MIT
/*
 * One virtqueue of a VDUSE device with its thread.
 *
 * Ownership: everything in struct vduse_queue belongs to the queue's thread
 * while its loop runs. The command fields are handed over with the message: the
 * main thread fills them in and sends @order, from then on they are the queue
 * thread's until @report arrives on the main loop. The message ring of io_uring
 * orders the memory accesses.
 *
 * Order at the end: the loops have to run while backend queues are destroyed
 * (a backend may share queue 0's connection), so each thread destroys its own,
 * one after the other, the main loop waiting in between.
 *
 * Kicks: the eventfd is watched by a multishot poll and never read. Each signal
 * posts a completion of its own, so reading would be a system call for nothing;
 * its counter cannot overflow in this universe's lifetime.
 *
 * Mappings: a region is mapped into each queue's address space when the queue
 * first meets an address in it. Page-table entries are all that is duplicated.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/sigbus.h"
#include "transport/vduse_dev.h"
#include "transport/vduse_queue.h"

/*
 * Between our answer to DRIVER_OK and the kernel taking note of it an interrupt
 * is refused: try again, for as long as a stopped virtual CPU might take.
 */
#define IRQ_RETRY_MS	2
#define IRQ_RETRIES	2500

enum command {
	COMMAND_START,
	COMMAND_STOP,
	COMMAND_QUERY,
	COMMAND_QUIT,
};

struct vduse_queue {
	struct vduse_queue_params params;
	pthread_t thread;
	struct loop *loop;
	struct backend_queue *backend;
	struct vblk_queue *vblk;
	struct iotlb *iotlb;
	int kick_fd;
	struct loop_op kick_op;
	bool quit;

	/* An interrupt that was refused; see IRQ_RETRY_MS. */
	struct loop_timer irq_timer;
	unsigned int irq_retries;

	/* The command at work; see above. */
	struct loop_msg order;
	struct loop_msg report;
	enum command command;
	uint64_t features;
	bool fresh;
	uint64_t first, last;
	struct virtqueue_state state;
	vduse_queue_done *done;
	void *opaque;

	/* Only while vduse_queue_create() waits. */
	sem_t ready;
	int ready_error;
	struct error *ready_text;
};

/* Address space */

static uint32_t iotlb_perm(uint8_t perm)
{
	return (perm & VDUSE_ACCESS_RO ? IOTLB_READ : 0) |
	       (perm & VDUSE_ACCESS_WO ? IOTLB_WRITE : 0);
}

static int map_fault(void *opaque, uint64_t iova, uint32_t perm, struct iotlb_region *ret)
{
	struct vduse_queue *q = opaque;
	struct vduse_iotlb_entry entry;
	auto_close int fd = -1;
	uint32_t allowed;
	uint64_t size;
	void *vaddr;
	int err;

	(void)perm; /* the whole region is mapped, with all that it allows */
	fd = vduse_dev_iotlb_get(q->params.dev_fd, iova, &entry);
	if (fd < 0)
		return fd == -EINVAL ? -EFAULT : fd;

	size = entry.last - entry.start + 1;
	allowed = iotlb_perm(entry.perm);
	if (entry.start > iova || entry.last < iova || !size || size > SIZE_MAX || !allowed)
		return -EFAULT;

	vaddr = mmap(NULL, size,
		     (allowed & IOTLB_READ ? PROT_READ : 0) |
		     (allowed & IOTLB_WRITE ? PROT_WRITE : 0),
		     MAP_SHARED, fd, (off_t)entry.offset);
	if (vaddr == MAP_FAILED)
		return -errno;

	err = sigbus_guard_add(vaddr, size);
	if (err) {
		munmap(vaddr, size);
		return err;
	}
	*ret = (struct iotlb_region) {
		.iova = entry.start,
		.size = size,
		.perm = allowed,
		.vaddr = vaddr,
	};
	log_debug("virtqueue %u: mapped %#llx-%#llx", q->params.index,
		  (unsigned long long)entry.start, (unsigned long long)entry.last);
	return 0;
}

static void map_release(void *opaque, const struct iotlb_region *region)
{
	(void)opaque;
	sigbus_guard_del(region->vaddr, region->size);
	munmap(region->vaddr, region->size);
}

static const struct iotlb_ops map_ops = {
	.fault = map_fault,
	.release = map_release,
};

/* Notifications */

static void inject_irq(struct vduse_queue *q)
{
	int err = vduse_dev_inject_irq(q->params.dev_fd, q->params.index);

	if (likely(!err)) {
		q->irq_retries = 0;
		return;
	}
	if (err == -EINVAL && q->irq_retries < IRQ_RETRIES) {
		q->irq_retries++;
		loop_timer_arm(q->loop, &q->irq_timer, IRQ_RETRY_MS);
		return;
	}
	log_warning_ratelimited("virtqueue %u: interrupt was refused: %s", q->params.index,
				strerror(-err));
}

static void irq_timer_expired(struct loop_timer *timer)
{
	inject_irq(container_of(timer, struct vduse_queue, irq_timer));
}

static void notify_driver(void *opaque, unsigned int index)
{
	(void)index;
	inject_irq(opaque);
}

/*
 * VDUSE keeps the status byte in the kernel and has no call that sets
 * DEVICE_NEEDS_RESET, so the queue stays silent until the driver resets.
 */
static void needs_reset(void *opaque, unsigned int index, const char *reason)
{
	(void)opaque;
	(void)reason;
	log_warning_ratelimited("virtqueue %u stays stopped until the driver resets the device",
				index);
}

static const struct vblk_transport_ops transport_ops = {
	.notify = notify_driver,
	.needs_reset = needs_reset,
};

static void watch_kicks(struct vduse_queue *q)
{
	io_uring_prep_poll_multishot(loop_sqe(q->loop, &q->kick_op), q->kick_fd, POLLIN);
}

static void kicked(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct vduse_queue *q = container_of(op, struct vduse_queue, kick_op);

	if (!(cqe_flags & IORING_CQE_F_MORE)) {
		if (q->quit) {
			loop_stop(q->loop);
			return;
		}
		if (res < 0)
			log_error_ratelimited("virtqueue %u: watch for kicks: %s",
					      q->params.index, strerror(-res));
		watch_kicks(q);
	}
	if (res > 0)
		vblk_queue_kick(q->vblk);
}

/* Commands, on the queue's thread */

static void report(struct vduse_queue *q, int error)
{
	/* The value of a message cannot be negative. */
	loop_send(q->loop, q->params.main, &q->report, -error);
}

static struct virtqueue_state state_from_info(const struct vduse_vq_info *info, bool packed)
{
	struct virtqueue_state state = VIRTQUEUE_STATE_INIT;

	if (!packed) {
		state.avail_idx = info->split.avail_index;
		return state;
	}
	state.avail_idx = info->packed.last_avail_idx;
	state.avail_wrap = info->packed.last_avail_counter & 1;
	state.used_idx = info->packed.last_used_idx;
	state.used_wrap = info->packed.last_used_counter & 1;
	return state;
}

static int start(struct vduse_queue *q)
{
	const bool packed = q->features & (1ULL << VIRTIO_F_RING_PACKED);
	struct vblk_queue_start_params params;
	struct error e = ERROR_INIT;
	struct vduse_vq_info info;
	int err;

	err = vduse_dev_vq_info(q->params.dev_fd, q->params.index, &info);
	if (err) {
		log_error("virtqueue %u: read its set-up: %s", q->params.index, strerror(-err));
		return err;
	}
	if (!info.ready)
		return 0;

	params = (struct vblk_queue_start_params) {
		.features = q->features,
		.num = info.num,
		.desc = info.desc_addr,
		.driver = info.driver_addr,
		.device = info.device_addr,
		.iotlb = q->iotlb,
	};
	if (q->fresh)
		params.state = state_from_info(&info, packed);
	else
		vblk_queue_state(q->vblk, &params.state);

	/* Before the first look at the ring, so that no kick is lost in between. */
	err = vduse_dev_vq_kickfd(q->params.dev_fd, q->params.index, q->kick_fd);
	if (err) {
		log_error("virtqueue %u: set its kick eventfd: %s", q->params.index,
			  strerror(-err));
		return err;
	}
	err = vblk_queue_start(q->vblk, &params, &e);
	if (err) {
		log_error("cannot serve the ring: %s", e.text);
		return err;
	}
	/* A pause for a new address space must not swallow an interrupt. */
	if (!q->fresh && q->irq_retries)
		inject_irq(q);
	else
		q->irq_retries = 0;
	return 0;
}

static void stopped(struct vblk_queue *vblk, void *opaque)
{
	struct vduse_queue *q = opaque;

	(void)vblk;
	loop_timer_cancel(q->loop, &q->irq_timer);
	if (q->first <= q->last)
		iotlb_invalidate(q->iotlb, q->first, q->last);
	report(q, 0);
}

static void ordered(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct vduse_queue *q = container_of(op, struct vduse_queue, order.op);

	(void)res;
	(void)cqe_flags;
	switch (q->command) {
	case COMMAND_START:
		report(q, start(q));
		break;
	case COMMAND_STOP:
		vblk_queue_stop(q->vblk, stopped, q);
		break;
	case COMMAND_QUERY:
		vblk_queue_state(q->vblk, &q->state);
		report(q, 0);
		break;
	case COMMAND_QUIT:
		q->quit = true;
		loop_cancel(q->loop, &q->kick_op);
		break;
	}
}

/* The thread */

static int thread_setup(struct vduse_queue *q, struct error *e)
{
	const unsigned int index = q->params.index;
	char name[16];
	int err;

	snprintf(name, sizeof(name), "vq%u", index);
	pthread_setname_np(pthread_self(), name);

	err = loop_create(&(struct loop_params) { .name = name }, &q->loop, e);
	if (err)
		return err;
	err = iotlb_create(&map_ops, q, &q->iotlb);
	if (err) {
		err_set_errno(e, -err, "address space");
		goto destroy_loop;
	}
	err = backend_queue_create(q->params.backend, q->loop, index, &q->backend, e);
	if (err)
		goto destroy_iotlb;
	err = vblk_queue_create(&(struct vblk_queue_params) {
			.dev = q->params.disk,
			.index = index,
			.max_num = q->params.size,
			.loop = q->loop,
			.backend = q->backend,
			.transport = &transport_ops,
			.opaque = q,
		}, &q->vblk, e);
	if (err)
		goto destroy_backend;
	return 0;

destroy_backend:
	backend_queue_destroy(q->backend);
destroy_iotlb:
	iotlb_destroy(q->iotlb);
destroy_loop:
	loop_destroy(q->loop);
	return err_prefix(e, "virtqueue %u", index);
}

static void *thread_main(void *opaque)
{
	struct vduse_queue *q = opaque;
	int err;

	if (q->params.thread_init)
		q->params.thread_init();
	err = thread_setup(q, q->ready_text);
	q->ready_error = err;
	sem_post(&q->ready);
	if (err)
		return NULL;

	watch_kicks(q);
	err = loop_run(q->loop);
	if (err)
		log_error("virtqueue %u: event loop ended: %s", q->params.index, strerror(-err));

	vblk_queue_destroy(q->vblk);
	backend_queue_destroy(q->backend);
	iotlb_destroy(q->iotlb);
	loop_destroy(q->loop);
	return NULL;
}

/* On the main thread */

static void reported(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct vduse_queue *q = container_of(op, struct vduse_queue, report.op);

	(void)cqe_flags;
	q->done(q->opaque, q, -res);
}

static void command(struct vduse_queue *q, enum command cmd, vduse_queue_done *done, void *opaque)
{
	q->command = cmd;
	q->done = done;
	q->opaque = opaque;
	loop_send(q->params.main, q->loop, &q->order, 0);
}

void vduse_queue_start(struct vduse_queue *q, uint64_t features, bool fresh,
		       vduse_queue_done *done, void *opaque)
{
	q->features = features;
	q->fresh = fresh;
	command(q, COMMAND_START, done, opaque);
}

void vduse_queue_stop(struct vduse_queue *q, uint64_t first, uint64_t last,
		      vduse_queue_done *done, void *opaque)
{
	q->first = first;
	q->last = last;
	command(q, COMMAND_STOP, done, opaque);
}

void vduse_queue_query(struct vduse_queue *q, vduse_queue_done *done, void *opaque)
{
	command(q, COMMAND_QUERY, done, opaque);
}

const struct virtqueue_state *vduse_queue_result(const struct vduse_queue *q)
{
	return &q->state;
}

unsigned int vduse_queue_index(const struct vduse_queue *q)
{
	return q->params.index;
}

void vduse_queue_stats(const struct vduse_queue *q, struct vblk_queue_stats *ret_stats)
{
	vblk_queue_stats(q->vblk, ret_stats);
}

const char *vduse_queue_loop_rung(const struct vduse_queue *q)
{
	return loop_rung_name(loop_stats(q->loop)->rung);
}

static int thread_start(struct vduse_queue *q, struct error *e)
{
	sigset_t all, old;
	int err;

	/*
	 * Signals are the main thread's: its signalfd has to see them. A fault
	 * that is blocked would kill, whatever its handler does (sigbus.h).
	 */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&q->thread, NULL, thread_main, q);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		return err_set_errno(e, err, "start the thread of virtqueue %u", q->params.index);

	while (sem_wait(&q->ready))
		;
	if (q->ready_error)
		pthread_join(q->thread, NULL);
	return q->ready_error;
}

int vduse_queue_create(const struct vduse_queue_params *params, struct vduse_queue **ret_queue,
		       struct error *e)
{
	struct vduse_queue *q = calloc(1, sizeof(*q));
	struct error local = ERROR_INIT;
	int err;

	if (!q)
		return err_set(e, ENOMEM, "out of memory");
	q->params = *params;
	q->kick_op.complete = kicked;
	q->irq_timer.expired = irq_timer_expired;
	q->order.op.complete = ordered;
	q->report.op.complete = reported;
	q->ready_text = e ? e : &local;

	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->kick_fd < 0) {
		err = err_set_errno(e, errno, "create an eventfd");
		goto free_queue;
	}
	sem_init(&q->ready, 0, 0);
	err = thread_start(q, e);
	sem_destroy(&q->ready);
	if (err)
		goto close_kick_fd;

	*ret_queue = q;
	return 0;

close_kick_fd:
	close(q->kick_fd);
free_queue:
	free(q);
	return err;
}

/* The main loop has to run once so that the message goes out. */
static void quit_sent(struct loop_hook *hook);

struct quit {
	struct loop_hook hook;
	struct loop *loop;
};

static void quit_sent(struct loop_hook *hook)
{
	loop_stop(container_of(hook, struct quit, hook)->loop);
}

void vduse_queue_destroy(struct vduse_queue *q)
{
	struct quit quit;

	if (!q)
		return;
	quit = (struct quit) { .hook.run = quit_sent, .loop = q->params.main };
	command(q, COMMAND_QUIT, NULL, NULL);
	loop_hook_schedule(quit.loop, &quit.hook);
	loop_run(quit.loop);
	pthread_join(q->thread, NULL);
	close(q->kick_fd);
	free(q);
}
