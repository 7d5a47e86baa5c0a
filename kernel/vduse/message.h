/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Control messages: requests of the kernel that the daemon reads from
 * /dev/vduse/NAME, and answers with a write. message.c has the protocol.
 */
#ifndef _VDUSE_MESSAGE_H
#define _VDUSE_MESSAGE_H

#include <linux/list.h>
#include <linux/poll.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/uio.h>
#include <linux/wait.h>
#include <uapi/linux/vduse.h>

/**
 * enum vduse_msg_patience - for whom a message waits
 * @VDUSE_MSG_WAIT: for the daemon; when there is none, for one to come
 * @VDUSE_MSG_WAIT_DAEMON: for the daemon, if one is attached
 * @VDUSE_MSG_WAIT_NONE: for nobody: it is queued and fails at once
 */
enum vduse_msg_patience {
	VDUSE_MSG_WAIT,
	VDUSE_MSG_WAIT_DAEMON,
	VDUSE_MSG_WAIT_NONE,
};

/**
 * struct vduse_msg_stats - counts since the device was created
 * @sent: messages queued
 * @answered: answered in time
 * @timeouts: given up by the operation that sent them
 * @late: answered after that
 */
struct vduse_msg_stats {
	u64 sent;
	u64 answered;
	u64 timeouts;
	u64 late;
};

/**
 * struct vduse_msgq - the control messages of one device
 * @lock: guards everything here; a leaf
 * @readers: woken when @unread gets a message
 * @senders: operations that wait for an answer
 * @unread: not read by the daemon yet, oldest first
 * @read: read and not answered yet, oldest first
 * @read_late: how many in @read have nobody waiting for them
 * @next_order: order number, and in its low 32 bits ID, of the next message
 * @timeout: seconds an operation waits; 0: for ever
 * @patience: see enum vduse_msg_patience
 * @attached: a daemon has the device open
 * @stalled: a message timed out and the daemon has not been heard of since
 * @status: the device status the daemon agreed to
 * @asked: status bits asked for since the last reset and not refused
 * @status_order: order number of the message that set @status
 * @stats: see struct vduse_msg_stats
 * @name: the device's name, for tracing
 */
struct vduse_msgq {
	spinlock_t lock; /* all of this structure */
	wait_queue_head_t readers;
	wait_queue_head_t senders;
	struct list_head unread;
	struct list_head read;
	unsigned int read_late;
	u64 next_order;
	u32 timeout;
	enum vduse_msg_patience patience;
	bool attached;
	bool stalled;
	u8 status;
	u8 asked;
	u64 status_order;
	struct vduse_msg_stats stats;
	const char *name;
};

/**
 * vduse_msgq_init() - prepare the queue of a new device
 * @q: the queue, zeroed
 * @name: the device's name; must live as long as the queue
 */
void vduse_msgq_init(struct vduse_msgq *q, const char *name);

/**
 * vduse_msgq_destroy() - drop what nobody answered
 * @q: the queue; no operation is waiting and no daemon is attached
 */
void vduse_msgq_destroy(struct vduse_msgq *q);

/**
 * vduse_msg_set_status() - tell the daemon a device status and wait
 * @q: the queue
 * @status: virtio device status; 0 resets the device
 *
 * Once the daemon has agreed, vduse_msgq_status() returns @status. After a
 * reset it returns 0 whatever the daemon said.
 *
 * Context: process; sleeps, killable.
 * Return: 0; -EIO: the daemon refused; -ETIMEDOUT: no answer within the
 * timeout, or nobody to wait for; -EINTR: killed; -ENOMEM.
 */
int vduse_msg_set_status(struct vduse_msgq *q, u8 status);

/**
 * vduse_msg_get_vq_state() - ask the daemon where it is in a virtqueue
 * @q: the queue
 * @index: the virtqueue
 * @ret_state: the answer, written on success
 *
 * Context: process; sleeps, killable.
 * Return: 0 or an error as vduse_msg_set_status().
 */
int vduse_msg_get_vq_state(struct vduse_msgq *q, u32 index,
			   struct vduse_vq_state *ret_state);

/**
 * vduse_msg_update_iotlb() - have the daemon forget its mappings of a range
 * @q: the queue
 * @start: first IOVA
 * @last: last IOVA, not below @start
 *
 * Succeeds at once when no daemon is attached: nobody has mappings.
 * A message that the daemon has not read in time is read later, before
 * anything newer, so that the daemon never works with old mappings.
 *
 * Context: process; sleeps, killable.
 * Return: 0 or an error as vduse_msg_set_status().
 */
int vduse_msg_update_iotlb(struct vduse_msgq *q, u64 start, u64 last);

/**
 * vduse_msgq_status() - the device status in force
 * @q: the queue
 *
 * Context: any.
 * Return: virtio device status.
 */
static inline u8 vduse_msgq_status(const struct vduse_msgq *q)
{
	return READ_ONCE(q->status);
}

/**
 * vduse_msgq_attach() - a daemon has opened the device
 * @q: the queue
 */
void vduse_msgq_attach(struct vduse_msgq *q);

/**
 * vduse_msgq_detach() - the daemon has closed the device
 * @q: the queue
 *
 * What the next daemon needs becomes unread again, the rest completes.
 */
void vduse_msgq_detach(struct vduse_msgq *q);

/**
 * vduse_msgq_set_patience() - say for whom messages wait from now on
 * @q: the queue
 * @patience: applies to the operations that wait already, too
 */
void vduse_msgq_set_patience(struct vduse_msgq *q,
			     enum vduse_msg_patience patience);

/**
 * vduse_msgq_read() - hand the oldest unread message to the daemon
 * @q: the queue
 * @to: where to
 * @nonblock: return -EAGAIN instead of waiting for a message
 *
 * Context: process; sleeps unless @nonblock.
 * Return: size of struct vduse_dev_request; -EINVAL: @to is shorter;
 * -EAGAIN; -ERESTARTSYS; -EFAULT: the message stays unread.
 */
ssize_t vduse_msgq_read(struct vduse_msgq *q, struct iov_iter *to,
			bool nonblock);

/**
 * vduse_msgq_write() - take an answer from the daemon
 * @q: the queue
 * @from: exactly one struct vduse_dev_response
 *
 * Context: process.
 * Return: bytes taken; -EINVAL: size, reserved field or result out of range;
 * -EFAULT; -ENOENT: no message with this ID waits for an answer.
 */
ssize_t vduse_msgq_write(struct vduse_msgq *q, struct iov_iter *from);

/**
 * vduse_msgq_wake_poll() - something else that poll(2) reports has changed
 * @q: the queue
 *
 * Context: any.
 */
void vduse_msgq_wake_poll(struct vduse_msgq *q);

/**
 * vduse_msgq_poll() - poll(2) for the daemon
 * @q: the queue
 * @file: the open device
 * @wait: poll table
 *
 * Return: EPOLLIN: a message can be read; EPOLLOUT: one waits for its answer.
 */
__poll_t vduse_msgq_poll(struct vduse_msgq *q, struct file *file,
			 poll_table *wait);
#endif
