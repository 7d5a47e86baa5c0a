// SPDX-License-Identifier: GPL-2.0-only
/*
 * Control messages.
 *
 * An operation of the driver (set the status, get a virtqueue's state, change
 * the memory map) sends one message and waits for the daemon's answer. A
 * message is always in one of these states:
 *
 *   UNREAD, waited   on q->unread; the operation that sent it owns it
 *   READ, waited     on q->read; owned likewise
 *   UNREAD, late     on q->unread; the operation gave up, the queue owns it
 *   READ, late       on q->read; owned by the queue
 *   DONE             on no list; the operation takes its result and frees it
 *
 * The daemon's read turns UNREAD into READ, oldest first; its write turns
 * READ, waited into DONE, and frees a READ, late one after accounting for it.
 * Giving up (timeout, kill, nobody to wait for) turns waited into late. What
 * happens to the message then depends on whether the daemon has seen it:
 *
 *  READ: it stays for its answer. The oldest are forgotten when a daemon
 *  leaves more than VDUSE_READ_LATE_MAX of them unanswered.
 *
 *  UNREAD:
 *   GET_VQ_STATE is dropped, it changes nothing.
 *   UPDATE_IOTLB stays, so that the daemon drops old mappings before it reads
 *   anything newer; several become one message for the range that spans them.
 *   SET_STATUS stays, so that the daemon sees each status in its order. Status
 *   bits only accumulate between two resets (see "asked" below), so there are
 *   at most eight different ones, and one that repeats is dropped. A reset
 *   makes older ones pointless; they are dropped when it is sent.
 *
 * The device status is what the daemon agreed to last: it is set where the
 * answer is taken, whether somebody still waits or not, and only by a message
 * newer than the one that set it before. So a driver that gave up on DRIVER_OK
 * has a working device once the daemon answers. A reset counts as done when
 * the operation returns, whatever the daemon says, and closes the door to all
 * older messages.
 *
 * q->asked has the bits that were asked for since the reset and not refused. A
 * driver that did not get its FEATURES_OK in time does not know that the
 * daemon may still see it, and sends its next status without; the daemon then
 * gets that status with the bit, as virtio never takes bits back but by reset.
 *
 * When the daemon closes the device, UPDATE_IOTLB messages are done, for a new
 * process has no mappings. The others become UNREAD again, in their old order:
 * the next daemon needs them, until their operation gives up.
 *
 * After a timeout the daemon counts as stalled until it reads, writes or
 * opens. Meanwhile operations wait for no more than VDUSE_STALLED_GRACE, so
 * that a row of them, as in a driver's probe, takes about one timeout.
 *
 * One lock guards it all; user memory is accessed outside of it.
 */
#include <linux/jiffies.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "message.h"
#include "trace.h"

/* READ, late messages that are remembered. */
#define VDUSE_READ_LATE_MAX	64

/* How long an operation waits for a sign of life of a stalled daemon. */
#define VDUSE_STALLED_GRACE	HZ

/**
 * struct vduse_msg - one control message
 * @node: on vduse_msgq.unread or .read, both sorted by @order
 * @order: when it was sent; the low half is the request ID
 * @req: what the daemon reads
 * @state: answer to GET_VQ_STATE
 * @result: 0 or an errno, valid when @done
 * @done: answered; on no list
 * @waited: the operation that sent it waits and will free it
 */
struct vduse_msg {
	struct list_head node;
	u64 order;
	struct vduse_dev_request req;
	struct vduse_vq_state state;
	int result;
	bool done;
	bool waited;
};

static struct vduse_msg *msg_alloc(enum vduse_req_type type)
{
	struct vduse_msg *msg = kzalloc(sizeof(*msg), GFP_KERNEL);

	if (msg) {
		msg->req.type = type;
		msg->waited = true;
	}
	return msg;
}

static struct vduse_msg *msg_first(struct list_head *list)
{
	return list_first_entry_or_null(list, struct vduse_msg, node);
}

static struct vduse_msg *msg_find(struct list_head *list, u32 id)
{
	struct vduse_msg *msg;

	list_for_each_entry(msg, list, node)
		if (msg->req.request_id == id)
			return msg;
	return NULL;
}

static void msg_free(struct vduse_msg *msg)
{
	list_del(&msg->node);
	kfree(msg);
}

/* The operation that waits frees it; nobody does: it goes now. */
static void msg_finish(struct vduse_msgq *q, struct vduse_msg *msg, int result)
{
	if (!msg->waited) {
		msg_free(msg);
		return;
	}
	list_del_init(&msg->node);
	msg->result = result;
	msg->done = true;
	wake_up_all(&q->senders);
}

/* A late UPDATE_IOTLB: let an older one of its kind do its work, if any. */
static void settle_update_iotlb(struct vduse_msgq *q, struct vduse_msg *msg)
{
	struct vduse_msg *older;

	list_for_each_entry(older, &q->unread, node) {
		if (older == msg)
			return;
		if (older->waited || older->req.type != VDUSE_UPDATE_IOTLB)
			continue;
		older->req.iova.start = min(older->req.iova.start,
					    msg->req.iova.start);
		older->req.iova.last = max(older->req.iova.last,
					   msg->req.iova.last);
		msg_free(msg);
		return;
	}
}

/* A late SET_STATUS: drop it if a late one before it says the same. */
static void settle_set_status(struct vduse_msgq *q, struct vduse_msg *msg)
{
	struct vduse_msg *older, *same = NULL;

	list_for_each_entry(older, &q->unread, node) {
		if (older == msg)
			break;
		if (older->req.type != VDUSE_SET_STATUS)
			continue;
		same = !older->waited &&
		       older->req.s.status == msg->req.s.status ? older : NULL;
	}
	if (same)
		msg_free(msg);
}

/* Decide about an unread message that nobody waits for any more. */
static void settle_unread(struct vduse_msgq *q, struct vduse_msg *msg)
{
	switch (msg->req.type) {
	case VDUSE_GET_VQ_STATE:
		msg_free(msg);
		break;
	case VDUSE_SET_STATUS:
		settle_set_status(q, msg);
		break;
	case VDUSE_UPDATE_IOTLB:
		settle_update_iotlb(q, msg);
		break;
	}
}

/* The daemon has @msg and nobody waits: keep the number of those bounded. */
static void settle_read(struct vduse_msgq *q)
{
	struct vduse_msg *oldest;

	if (++q->read_late <= VDUSE_READ_LATE_MAX)
		return;

	list_for_each_entry(oldest, &q->read, node) {
		if (oldest->waited)
			continue;
		msg_free(oldest);
		q->read_late--;
		return;
	}
}

/* Put a message that was read back among the unread ones, in its order. */
static void msg_unread(struct vduse_msgq *q, struct vduse_msg *msg)
{
	struct vduse_msg *newer;
	struct list_head *pos = &q->unread;

	list_for_each_entry(newer, &q->unread, node) {
		if (newer->order > msg->order) {
			pos = &newer->node;
			break;
		}
	}
	list_move_tail(&msg->node, pos);
	if (!msg->waited) {
		q->read_late--;
		settle_unread(q, msg);
	}
	wake_up(&q->readers);
}

/* Whether an operation should not wait at all. */
static bool impatient(const struct vduse_msgq *q)
{
	switch (READ_ONCE(q->patience)) {
	case VDUSE_MSG_WAIT:
		return false;
	case VDUSE_MSG_WAIT_DAEMON:
		return !READ_ONCE(q->attached);
	case VDUSE_MSG_WAIT_NONE:
		break;
	}
	return true;
}

/* Returns 0 if time is up, above 0 if it makes no sense to wait on. */
static long msg_wait(struct vduse_msgq *q, const struct vduse_msg *msg)
{
	u32 timeout = READ_ONCE(q->timeout);
	long left = timeout ? (long)timeout * HZ : MAX_SCHEDULE_TIMEOUT;

	if (READ_ONCE(q->stalled)) {
		long grace = min_t(long, left, VDUSE_STALLED_GRACE);
		long ret;

		ret = wait_event_killable_timeout(q->senders,
						  READ_ONCE(msg->done) ||
						  impatient(q) ||
						  !READ_ONCE(q->stalled),
						  grace);
		if (ret <= 0)
			return ret;
	}
	return wait_event_killable_timeout(q->senders,
					   READ_ONCE(msg->done) ||
					   impatient(q), left);
}

/* The operation stops waiting; @waited is what msg_wait() returned. */
static int msg_give_up(struct vduse_msgq *q, struct vduse_msg *msg, long waited)
{
	int ret = waited < 0 ? -EINTR : -ETIMEDOUT;

	trace_vduse_msg_timeout(q->name, msg->req.type, msg->req.request_id,
				ret);
	q->stats.timeouts++;
	if (!waited)
		q->stalled = true;

	msg->waited = false;
	if (impatient(q) && !q->attached)
		msg_free(msg);
	else if (msg_find(&q->unread, msg->req.request_id) == msg)
		settle_unread(q, msg);
	else
		settle_read(q);
	return ret;
}

/* A reset makes the statuses before it pointless to a daemon. */
static void drop_late_statuses(struct vduse_msgq *q)
{
	struct vduse_msg *msg, *next;

	list_for_each_entry_safe(msg, next, &q->unread, node)
		if (!msg->waited && msg->req.type == VDUSE_SET_STATUS)
			msg_free(msg);
}

/*
 * Send @msg and wait. The message is gone afterwards; @ret_state, if not NULL,
 * is written on success.
 */
static int msg_send(struct vduse_msgq *q, struct vduse_msg *msg,
		    struct vduse_vq_state *ret_state)
{
	long waited;
	int ret;

	wake_up(&q->readers);
	waited = impatient(q) ? 1 : msg_wait(q, msg);

	spin_lock(&q->lock);
	if (msg->done) {
		ret = msg->result;
		if (!ret && ret_state)
			*ret_state = msg->state;
		kfree(msg);
	} else {
		ret = msg_give_up(q, msg, waited);
	}
	spin_unlock(&q->lock);
	return ret;
}

static void msg_queue(struct vduse_msgq *q, struct vduse_msg *msg)
{
	msg->order = q->next_order++;
	msg->req.request_id = lower_32_bits(msg->order);
	list_add_tail(&msg->node, &q->unread);
	q->stats.sent++;
	trace_vduse_msg_sent(q->name, msg->req.type, msg->req.request_id, 0);
}

static int send_reset(struct vduse_msgq *q)
{
	struct vduse_msg *msg = msg_alloc(VDUSE_SET_STATUS);
	u64 order;
	int ret = -ENOMEM;

	spin_lock(&q->lock);
	order = q->next_order;
	q->asked = 0;
	drop_late_statuses(q);
	if (msg)
		msg_queue(q, msg);
	spin_unlock(&q->lock);

	if (msg)
		ret = msg_send(q, msg, NULL);

	spin_lock(&q->lock);
	WRITE_ONCE(q->status, 0);
	q->status_order = max(q->status_order, order);
	spin_unlock(&q->lock);
	return ret;
}

int vduse_msg_set_status(struct vduse_msgq *q, u8 status)
{
	struct vduse_msg *msg;

	if (!status)
		return send_reset(q);

	msg = msg_alloc(VDUSE_SET_STATUS);
	if (!msg)
		return -ENOMEM;

	spin_lock(&q->lock);
	q->asked |= status;
	msg->req.s.status = q->asked;
	msg_queue(q, msg);
	spin_unlock(&q->lock);

	return msg_send(q, msg, NULL);
}

int vduse_msg_get_vq_state(struct vduse_msgq *q, u32 index,
			   struct vduse_vq_state *ret_state)
{
	struct vduse_msg *msg = msg_alloc(VDUSE_GET_VQ_STATE);

	if (!msg)
		return -ENOMEM;

	spin_lock(&q->lock);
	msg->req.vq_state.index = index;
	msg_queue(q, msg);
	spin_unlock(&q->lock);

	return msg_send(q, msg, ret_state);
}

int vduse_msg_update_iotlb(struct vduse_msgq *q, u64 start, u64 last)
{
	struct vduse_msg *msg;
	bool attached;

	if (last < start)
		return -EINVAL;

	msg = msg_alloc(VDUSE_UPDATE_IOTLB);
	if (!msg)
		return -ENOMEM;

	msg->req.iova.start = start;
	msg->req.iova.last = last;

	spin_lock(&q->lock);
	attached = q->attached;
	if (attached)
		msg_queue(q, msg);
	spin_unlock(&q->lock);

	if (!attached) {
		kfree(msg);
		return 0;
	}
	return msg_send(q, msg, NULL);
}

void vduse_msgq_init(struct vduse_msgq *q, const char *name)
{
	spin_lock_init(&q->lock);
	init_waitqueue_head(&q->readers);
	init_waitqueue_head(&q->senders);
	INIT_LIST_HEAD(&q->unread);
	INIT_LIST_HEAD(&q->read);
	q->next_order = 1;
	q->patience = VDUSE_MSG_WAIT;
	q->name = name;
}

/* Drop what nobody waits for, when no daemon will come that needs it. */
static void drop_late(struct vduse_msgq *q)
{
	struct vduse_msg *msg, *next;

	list_splice_tail_init(&q->read, &q->unread);
	list_for_each_entry_safe(msg, next, &q->unread, node)
		if (!msg->waited)
			msg_free(msg);
	q->read_late = 0;
}

void vduse_msgq_destroy(struct vduse_msgq *q)
{
	drop_late(q);
	WARN_ON(!list_empty(&q->unread));
}

void vduse_msgq_attach(struct vduse_msgq *q)
{
	spin_lock(&q->lock);
	WRITE_ONCE(q->attached, true);
	WRITE_ONCE(q->stalled, false);
	spin_unlock(&q->lock);
	wake_up_all(&q->senders);
}

void vduse_msgq_detach(struct vduse_msgq *q)
{
	struct vduse_msg *msg, *next;

	spin_lock(&q->lock);
	WRITE_ONCE(q->attached, false);

	list_for_each_entry_safe(msg, next, &q->read, node)
		msg_unread(q, msg);
	list_for_each_entry_safe(msg, next, &q->unread, node)
		if (msg->req.type == VDUSE_UPDATE_IOTLB)
			msg_finish(q, msg, 0);
	if (impatient(q))
		drop_late(q);
	spin_unlock(&q->lock);

	wake_up_all(&q->senders);
}

void vduse_msgq_set_patience(struct vduse_msgq *q,
			     enum vduse_msg_patience patience)
{
	spin_lock(&q->lock);
	WRITE_ONCE(q->patience, patience);
	if (impatient(q) && !q->attached)
		drop_late(q);
	spin_unlock(&q->lock);

	wake_up_all(&q->senders);
}

/* Anything the daemon does with messages shows that it is alive. */
static void daemon_alive(struct vduse_msgq *q)
{
	if (!q->stalled)
		return;
	WRITE_ONCE(q->stalled, false);
	wake_up_all(&q->senders);
}

/* Move the oldest unread message to the read ones, and copy its request. */
static bool msg_take(struct vduse_msgq *q, struct vduse_dev_request *ret_req)
{
	struct vduse_msg *msg;

	spin_lock(&q->lock);
	msg = msg_first(&q->unread);
	if (msg) {
		daemon_alive(q);
		list_move_tail(&msg->node, &q->read);
		if (!msg->waited)
			settle_read(q);
		*ret_req = msg->req;
	}
	spin_unlock(&q->lock);
	return msg;
}

ssize_t vduse_msgq_read(struct vduse_msgq *q, struct iov_iter *to,
			bool nonblock)
{
	struct vduse_dev_request req;
	struct vduse_msg *msg;
	int ret;

	if (iov_iter_count(to) < sizeof(req))
		return -EINVAL;

	while (!msg_take(q, &req)) {
		if (nonblock)
			return -EAGAIN;
		ret = wait_event_interruptible_exclusive(q->readers,
							 !list_empty_careful(&q->unread));
		if (ret)
			return ret;
	}

	if (copy_to_iter(&req, sizeof(req), to) == sizeof(req))
		return sizeof(req);

	/* Another thread may have answered it by now: look by ID. */
	spin_lock(&q->lock);
	msg = msg_find(&q->read, req.request_id);
	if (msg)
		msg_unread(q, msg);
	spin_unlock(&q->lock);
	return -EFAULT;
}

/* The daemon agreed to, or refused, a status. */
static void take_status(struct vduse_msgq *q, const struct vduse_msg *msg,
			bool ok)
{
	if (msg->order <= q->status_order)
		return;

	if (ok) {
		q->status_order = msg->order;
		WRITE_ONCE(q->status, msg->req.s.status);
	} else {
		q->asked = q->status;
	}
}

static int msg_answer(struct vduse_msgq *q,
		      const struct vduse_dev_response *resp)
{
	bool ok = resp->result == VDUSE_REQ_RESULT_OK;
	int result = ok ? 0 : -EIO;
	struct vduse_msg *msg;

	daemon_alive(q);
	msg = msg_find(&q->read, resp->request_id);
	if (!msg)
		return -ENOENT;

	switch (msg->req.type) {
	case VDUSE_SET_STATUS:
		take_status(q, msg, ok);
		break;
	case VDUSE_GET_VQ_STATE:
		msg->state = resp->vq_state;
		break;
	}

	if (msg->waited) {
		q->stats.answered++;
		trace_vduse_msg_answered(q->name, msg->req.type,
					 msg->req.request_id, result);
	} else {
		q->stats.late++;
		q->read_late--;
		trace_vduse_msg_late(q->name, msg->req.type,
				     msg->req.request_id, result);
	}
	msg_finish(q, msg, result);
	return 0;
}

ssize_t vduse_msgq_write(struct vduse_msgq *q, struct iov_iter *from)
{
	struct vduse_dev_response resp;
	int ret;

	if (iov_iter_count(from) != sizeof(resp))
		return -EINVAL;
	if (!copy_from_iter_full(&resp, sizeof(resp), from))
		return -EFAULT;
	if (memchr_inv(resp.reserved, 0, sizeof(resp.reserved)) ||
	    resp.result > VDUSE_REQ_RESULT_FAILED)
		return -EINVAL;

	spin_lock(&q->lock);
	ret = msg_answer(q, &resp);
	spin_unlock(&q->lock);
	return ret ?: (ssize_t)sizeof(resp);
}

/* Without a key: io_uring's poll ignores wake-ups for EPOLLPRI alone. */
void vduse_msgq_wake_poll(struct vduse_msgq *q)
{
	wake_up_all(&q->readers);
}

__poll_t vduse_msgq_poll(struct vduse_msgq *q, struct file *file,
			 poll_table *wait)
{
	__poll_t mask = 0;

	poll_wait(file, &q->readers, wait);

	spin_lock(&q->lock);
	if (!list_empty(&q->unread))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (!list_empty(&q->read))
		mask |= EPOLLOUT | EPOLLWRNORM;
	spin_unlock(&q->lock);
	return mask;
}
