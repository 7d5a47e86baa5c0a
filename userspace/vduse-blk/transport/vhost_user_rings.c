// SPDX-License-Identifier: MIT
/*
 * All rings of a vhost-user device.
 *
 * A ring is started by SET_VRING_KICK and stopped by GET_VRING_BASE; it is
 * enabled and disabled by SET_VRING_ENABLE. Its queue runs while it is started,
 * enabled and completely described. (The specification once had rings start
 * with the first kick; frontends and backends never agreed on that, and serving
 * a ring before its first kick does no harm.)
 *
 * Where a queue begins: @fresh says that the frontend's number (@base) counts;
 * otherwise the queue goes on where it stopped when it was disabled or moved.
 *
 * Settling has three rounds, each a command to every queue it concerns, and
 * each waits for all reports of the one before:
 *
 *	stop	rings that shall not run, or whose memory has moved under them
 *	update	settings: memory, eventfds
 *	start	rings that shall run
 *
 * Descriptors: a kick eventfd is watched by the queue while it runs, so one that
 * is replaced is closed when the queue has been stopped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/vhost_user_queue.h"
#include "transport/vhost_user_rings.h"

struct ring {
	struct vhost_user_rings *rings;
	struct vhost_user_queue *queue;

	/* What the frontend said. */
	uint32_t num;
	struct vhost_user_vring_addr addr;
	bool has_addr;
	uint32_t base;
	bool fresh;
	bool started, enabled;
	int kick_fd;

	/* What has to be done about it. */
	bool restart;	/* stop it first, whatever it shall do then */
	bool empty_log;	/* once it has stopped: the device was reset */
	bool update;
	int stale_fd;	/* close it once the queue has stopped */

	/* What the queue does. */
	bool running;
	bool failed;	/* to start; tried again when the frontend changes something */
	struct vhost_user_start start;
};

struct vhost_user_rings {
	struct vhost_user_rings_params params;
	uint64_t features;
	struct vhost_user_mem *mem;
	bool mem_changed;
	struct vhost_user_logs *logs;
	struct vhost_user_logs *stale_logs; /* close them once the queues have stopped */

	/* The settling under way. */
	unsigned int pending;
	int error;
	void (*round)(struct vhost_user_rings *rs); /* comes next */
	vhost_user_rings_done *done;
	void *opaque;

	unsigned int n; /* that exist */
	struct ring rings[];
};

/* Settling */

static void one_done(struct vhost_user_rings *rs)
{
	if (!--rs->pending)
		rs->round(rs);
}

/* The round itself counts as one, so that it cannot end before it has begun. */
static void begin_round(struct vhost_user_rings *rs, void (*next)(struct vhost_user_rings *rs))
{
	rs->pending = 1;
	rs->round = next;
}

static bool is_complete(const struct ring *r)
{
	return r->num && r->has_addr && r->kick_fd >= 0;
}

static bool shall_run(const struct ring *r)
{
	return r->started && r->enabled && is_complete(r) && !r->failed;
}

static struct inflight *log_of(const struct ring *r)
{
	return vhost_user_logs_at(r->rings->logs, (unsigned int)(r - r->rings->rings));
}

/*
 * Nothing is in flight and the frontend knows where the ring is: the next start
 * begins where it says, which need not be here.
 */
static void forget_log(struct ring *r)
{
	struct inflight *log = log_of(r);

	if (log)
		inflight_forget(log);
}

/* Where the ring is for the guest, and so for the queue. */
static int locate(const struct ring *r, struct vhost_user_start *ret_start)
{
	const struct vhost_user_mem *mem = r->rings->mem;
	struct vhost_user_start start = {
		.num = r->num,
		.base = r->base,
		.kick_fd = r->kick_fd,
		.inflight = log_of(r),
	};

	if (vhost_user_mem_guest_addr(mem, r->addr.desc, &start.desc) ||
	    vhost_user_mem_guest_addr(mem, r->addr.avail, &start.avail) ||
	    vhost_user_mem_guest_addr(mem, r->addr.used, &start.used))
		return -EFAULT;
	*ret_start = start;
	return 0;
}

static bool has_moved(const struct ring *r)
{
	struct vhost_user_start now;

	return locate(r, &now) || now.desc != r->start.desc || now.avail != r->start.avail ||
	       now.used != r->start.used;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(take_fd(fd));
}


static void finish(struct vhost_user_rings *rs)
{
	unsigned int i;

	for (i = 0; i < rs->n; i++)
		close_fd(&rs->rings[i].stale_fd);
	vhost_user_logs_close(take_ptr(rs->stale_logs));
	rs->mem_changed = false;
	rs->done(rs->opaque, rs->error);
}

static void start_reported(void *opaque, struct queue_thread *q, int error)
{
	struct ring *r = opaque;

	(void)q;
	r->running = !error;
	r->failed = error;
	if (!error)
		r->fresh = false;
	else if (!r->rings->error)
		r->rings->error = error;
	one_done(r->rings);
}

static void start_round(struct vhost_user_rings *rs)
{
	unsigned int i;

	begin_round(rs, finish);
	for (i = 0; i < rs->n; i++) {
		struct ring *r = &rs->rings[i];

		if (r->running || !shall_run(r))
			continue;
		if (locate(r, &r->start)) {
			log_error_ratelimited("%s: virtqueue %u is not in the frontend's memory",
					      rs->params.name, i);
			r->failed = true;
			rs->error = -EFAULT;
			continue;
		}
		vhost_user_queue_set_start(r->queue, &r->start);
		rs->pending++;
		queue_thread_start(vhost_user_queue_thread(r->queue), rs->features, r->fresh,
				   start_reported, r);
	}
	one_done(rs);
}

static void update_reported(void *opaque, struct queue_thread *q, int error)
{
	struct ring *r = opaque;

	(void)q;
	(void)error;
	one_done(r->rings);
}

static void update_round(struct vhost_user_rings *rs)
{
	unsigned int i;

	begin_round(rs, start_round);
	for (i = 0; i < rs->n; i++) {
		struct ring *r = &rs->rings[i];

		if (rs->mem_changed)
			vhost_user_queue_set_mem(r->queue, rs->mem);
		if (!rs->mem_changed && !r->update)
			continue;
		r->update = false;
		rs->pending++;
		queue_thread_update(vhost_user_queue_thread(r->queue), rs->mem_changed,
				    update_reported, r);
	}
	one_done(rs);
}

static void stop_reported(void *opaque, struct queue_thread *q, int error)
{
	struct ring *r = opaque;

	(void)q;
	(void)error;
	r->running = false;
	if (r->empty_log)
		forget_log(r);
	r->empty_log = false;
	one_done(r->rings);
}

void vhost_user_rings_settle(struct vhost_user_rings *rs, vhost_user_rings_done *done,
			     void *opaque)
{
	unsigned int i;

	rs->error = 0;
	rs->done = done;
	rs->opaque = opaque;
	begin_round(rs, update_round);
	for (i = 0; i < rs->n; i++) {
		struct ring *r = &rs->rings[i];

		if (r->running && (!shall_run(r) || (rs->mem_changed && has_moved(r))))
			r->restart = true;
		if (!r->restart)
			continue;
		r->restart = false;
		rs->pending++;
		queue_thread_stop(vhost_user_queue_thread(r->queue), 1, 0, stop_reported, r);
	}
	one_done(rs);
}

/* Positions */

static void base_reported(void *opaque, struct queue_thread *q, int error)
{
	struct ring *r = opaque;
	struct vhost_user_rings *rs = r->rings;
	const bool packed = rs->features & (1ULL << VIRTIO_F_RING_PACKED);

	(void)error;
	r->base = vhost_user_base_encode(queue_thread_result(q), packed);
	r->fresh = true;
	forget_log(r);
	rs->done(rs->opaque, 0);
}

void vhost_user_rings_base(struct vhost_user_rings *rs, unsigned int index,
			   vhost_user_rings_done *done, void *opaque)
{
	struct ring *r = &rs->rings[index];

	rs->done = done;
	rs->opaque = opaque;
	/* It has not run since the frontend said where it is. */
	if (r->fresh)
		done(opaque, 0);
	else
		queue_thread_query(vhost_user_queue_thread(r->queue), base_reported, r);
}

uint32_t vhost_user_rings_base_result(const struct vhost_user_rings *rs, unsigned int index)
{
	return rs->rings[index].base;
}

/* Setters */

static void retry_all(struct vhost_user_rings *rs)
{
	unsigned int i;

	for (i = 0; i < rs->n; i++)
		rs->rings[i].failed = false;
}

void vhost_user_rings_set_features(struct vhost_user_rings *rs, uint64_t features)
{
	rs->features = features;
	retry_all(rs);
}

void vhost_user_rings_set_mem(struct vhost_user_rings *rs, struct vhost_user_mem *mem)
{
	vhost_user_mem_put(rs->mem);
	rs->mem = vhost_user_mem_get(mem);
	rs->mem_changed = true;
	retry_all(rs);
}

int vhost_user_rings_set_logs(struct vhost_user_rings *rs, struct vhost_user_logs *logs)
{
	if (vhost_user_rings_running(rs))
		return -EBUSY;
	vhost_user_logs_close(rs->logs);
	rs->logs = logs;
	retry_all(rs);
	return 0;
}

int vhost_user_rings_set_num(struct vhost_user_rings *rs, unsigned int index, uint32_t num)
{
	struct ring *r = &rs->rings[index];

	if (r->running && num != r->num)
		return -EBUSY;
	r->num = num;
	r->failed = false;
	return 0;
}

int vhost_user_rings_set_addr(struct vhost_user_rings *rs,
			      const struct vhost_user_vring_addr *addr)
{
	struct ring *r = &rs->rings[addr->index];
	const struct vhost_user_vring_addr old = r->addr;
	struct vhost_user_start start;

	if (r->running && (addr->desc != r->addr.desc || addr->avail != r->addr.avail ||
			   addr->used != r->addr.used))
		return -EBUSY;
	r->addr = *addr;
	if (locate(r, &start)) {
		r->addr = old;
		return -EFAULT;
	}
	r->has_addr = true;
	r->failed = false;
	return 0;
}

int vhost_user_rings_set_base(struct vhost_user_rings *rs, unsigned int index, uint32_t base)
{
	struct ring *r = &rs->rings[index];

	if (r->running)
		return -EBUSY;
	r->base = base;
	r->fresh = true;
	r->failed = false;
	return 0;
}

void vhost_user_rings_set_kick(struct vhost_user_rings *rs, unsigned int index, int fd)
{
	struct ring *r = &rs->rings[index];

	close_fd(&r->stale_fd);
	r->stale_fd = r->kick_fd;
	r->kick_fd = fd;
	r->restart = r->running;
	r->started = true;
	r->failed = false;
}

void vhost_user_rings_set_call(struct vhost_user_rings *rs, unsigned int index, int fd)
{
	vhost_user_queue_set_call(rs->rings[index].queue, fd);
	rs->rings[index].update = true;
}

void vhost_user_rings_set_err(struct vhost_user_rings *rs, unsigned int index, int fd)
{
	vhost_user_queue_set_err(rs->rings[index].queue, fd);
	rs->rings[index].update = true;
}

void vhost_user_rings_enable(struct vhost_user_rings *rs, unsigned int index, bool on)
{
	rs->rings[index].enabled = on;
	rs->rings[index].failed = false;
}

void vhost_user_rings_stop(struct vhost_user_rings *rs, unsigned int index)
{
	struct ring *r = &rs->rings[index];

	r->started = false;
	r->failed = false;
	close_fd(&r->stale_fd);
	r->stale_fd = take_fd(&r->kick_fd);
}

void vhost_user_rings_reset(struct vhost_user_rings *rs)
{
	unsigned int i;

	for (i = 0; i < rs->n; i++) {
		struct ring *r = &rs->rings[i];

		vhost_user_rings_stop(rs, i);
		r->enabled = false;
		r->num = 0;
		r->has_addr = false;
		r->base = 0;
		r->fresh = true;
		/* Running or not: whatever its loop has under way ends. */
		r->restart = true;
		r->empty_log = true;
	}
	rs->features = 0;
}

void vhost_user_rings_forget(struct vhost_user_rings *rs)
{
	unsigned int i;

	vhost_user_rings_reset(rs);
	vhost_user_rings_set_mem(rs, NULL);
	rs->stale_logs = take_ptr(rs->logs);
	for (i = 0; i < rs->n; i++) {
		vhost_user_rings_set_call(rs, i, -1);
		vhost_user_rings_set_err(rs, i, -1);
	}
}

/* Questions */

bool vhost_user_rings_running(const struct vhost_user_rings *rs)
{
	unsigned int i;

	for (i = 0; i < rs->n; i++) {
		if (rs->rings[i].running)
			return true;
	}
	return false;
}

bool vhost_user_rings_broken(const struct vhost_user_rings *rs)
{
	struct vblk_queue_stats stats;
	unsigned int i;

	for (i = 0; i < rs->n; i++) {
		const struct ring *r = &rs->rings[i];

		queue_thread_stats(vhost_user_queue_thread(r->queue), &stats);
		if (r->failed || (r->running && stats.broken))
			return true;
	}
	return false;
}

struct queue_thread *vhost_user_rings_at(const struct vhost_user_rings *rs, unsigned int index)
{
	return vhost_user_queue_thread(rs->rings[index].queue);
}

/* Life */

int vhost_user_rings_create(const struct vhost_user_rings_params *params,
			    struct vhost_user_rings **ret_rings, struct error *e)
{
	struct vhost_user_rings *rs;
	int err;

	rs = calloc(1, sizeof(*rs) + params->n * sizeof(rs->rings[0]));
	if (!rs)
		return err_set(e, ENOMEM, "out of memory");
	rs->params = *params;
	for (; rs->n < params->n; rs->n++) {
		struct ring *r = &rs->rings[rs->n];
		const struct queue_thread_params thread = {
			.index = rs->n,
			.size = params->size,
			.disk = params->disk,
			.backend = params->backend,
			.main = params->main,
			.thread_init = params->thread_init,
		};

		*r = (struct ring) { .rings = rs, .fresh = true, .kick_fd = -1, .stale_fd = -1 };
		err = vhost_user_queue_create(&thread, &r->queue, e);
		if (err) {
			vhost_user_rings_destroy(rs);
			return err;
		}
	}
	*ret_rings = rs;
	return 0;
}

void vhost_user_rings_destroy(struct vhost_user_rings *rs)
{
	if (!rs)
		return;
	while (rs->n) {
		struct ring *r = &rs->rings[--rs->n];

		vhost_user_queue_destroy(r->queue);
		close_fd(&r->kick_fd);
		close_fd(&r->stale_fd);
	}
	vhost_user_mem_put(rs->mem);
	vhost_user_logs_close(rs->logs);
	free(rs);
}
