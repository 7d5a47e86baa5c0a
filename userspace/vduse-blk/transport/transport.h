/* SPDX-License-Identifier: MIT */
/*
 * What the rest of the daemon may ask of a transport, whichever it is.
 *
 * A transport brings requests of a driver to the virtio-blk core: it owns the
 * queue threads and follows the driver's set-up. Each has a function of its own
 * that creates it (vduse.h); from then on these calls are all there is. They
 * belong to the thread that runs the main loop.
 */
#ifndef VDUSE_BLK_TRANSPORT_TRANSPORT_H
#define VDUSE_BLK_TRANSPORT_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "transport/queue_thread.h"

struct transport;

/**
 * struct transport_status - what a device is doing
 * @driver_status:	virtio status byte
 * @features:		what the driver accepted; valid with DRIVER_OK
 * @running:		queues serve their rings
 */
struct transport_status {
	uint8_t driver_status;
	uint64_t features;
	bool running;
};

/**
 * typedef transport_done - what was asked for is done
 * @opaque:	as given
 * @error:	0 or -errno
 *
 * On the main loop, or from inside the call.
 */
typedef void transport_done(void *opaque, int error);

/**
 * struct transport_ops - a transport's side of the calls below
 * @name:		for logs and status
 * @close:		see transport_close()
 * @quiesce:		see transport_quiesce(); NULL: a driver that has let go is all it takes
 * @keep:		see transport_keep(); NULL: close is all there is to do
 * @abandon:		see transport_abandon()
 * @status:		see transport_status()
 * @queue:		see transport_queue()
 * @config_changed:	see transport_config_changed()
 * @pause:		see transport_pause(); NULL: cannot pause, nor have a successor
 * @resume:		see transport_resume(); NULL with @pause
 */
struct transport_ops {
	const char *name;
	int (*close)(struct transport *t, struct error *e);
	void (*quiesce)(struct transport *t);
	int (*keep)(struct transport *t, unsigned int limit_ms, struct error *e);
	void (*abandon)(struct transport *t);
	void (*status)(const struct transport *t, struct transport_status *ret_status);
	struct queue_thread *(*queue)(const struct transport *t, unsigned int index);
	int (*config_changed)(struct transport *t, struct error *e);
	void (*pause)(struct transport *t, transport_done *done, void *opaque);
	void (*resume)(struct transport *t, transport_done *done, void *opaque);
};

/* First member of every transport's own structure. */
struct transport {
	const struct transport_ops *ops;
};

/**
 * transport_close() - finish what is in flight, stop the threads, free all
 * @t:	may be NULL; the main loop is not running (this runs it)
 * @e:	error text
 *
 * Return: 0, or -errno when something was left behind.
 */
static inline int transport_close(struct transport *t, struct error *e)
{
	return t ? t->ops->close(t, e) : 0;
}

/**
 * transport_quiesce() - take nothing new and finish what is in flight
 * @t: with a driver or without; the main loop is not running (this runs it)
 *
 * Only transport_close() may follow. Queue threads still run: what the storage is asked for
 * in between comes after all that was acknowledged.
 */
static inline void transport_quiesce(struct transport *t)
{
	if (t->ops->quiesce)
		t->ops->quiesce(t);
}

/**
 * transport_keep() - leave device and driver to a successor
 * @t:		as for transport_close()
 * @limit_ms:	for what is in flight; BACKEND_NEVER: no limit
 * @e:		error text
 *
 * Finishes what is in flight, takes nothing new, and frees all but the device.
 *
 * Return: 0; -ETIMEDOUT when requests are still in flight: only the end of the
 * process may follow, the successor finds them in the log.
 */
static inline int transport_keep(struct transport *t, unsigned int limit_ms, struct error *e)
{
	return t->ops->keep ? t->ops->keep(t, limit_ms, e) : t->ops->close(t, e);
}

/**
 * transport_abandon() - leave the driver alone with its requests in flight
 * @t: the transport
 *
 * For storage that does not answer. The queue threads notice nothing; only the
 * end of the process may follow.
 */
static inline void transport_abandon(struct transport *t)
{
	t->ops->abandon(t);
}

/**
 * transport_status() - what the device is doing
 * @t:		the transport
 * @ret_status:	filled
 */
static inline void transport_status(const struct transport *t,
				    struct transport_status *ret_status)
{
	t->ops->status(t, ret_status);
}

/**
 * transport_queue() - a queue, for its counters
 * @t:		the transport
 * @index:	smaller than the number of queues
 *
 * Return: the queue.
 */
static inline struct queue_thread *transport_queue(const struct transport *t, unsigned int index)
{
	return t->ops->queue(t, index);
}

/**
 * transport_config_changed() - the configuration space is not what it was
 * @t:	the transport
 * @e:	error text
 *
 * Tells the driver of the new contents of the disk's configuration space, now
 * or, when there is no driver, once there is one.
 *
 * Return: 0 or -errno.
 */
static inline int transport_config_changed(struct transport *t, struct error *e)
{
	return t->ops->config_changed(t, e);
}

/**
 * transport_can_pause() - does this transport know the calls below?
 * @t: the transport
 *
 * Return: true if so.
 */
static inline bool transport_can_pause(const struct transport *t)
{
	return t->ops->pause;
}

/**
 * transport_pause() - finish what is in flight, take nothing new
 * @t:		not paused
 * @done:	called once, with 0: no request is in flight, no message of the driver's
 *		side is half answered, and none is read any more. Or -EAGAIN at once:
 *		the device is just being recovered. Not called after transport_resume()
 * @opaque:	its argument
 *
 * Takes as long as the storage does. The driver waits meanwhile.
 */
static inline void transport_pause(struct transport *t, transport_done *done, void *opaque)
{
	t->ops->pause(t, done, opaque);
}

/**
 * transport_resume() - go on, whether the pause was reached or not
 * @t:		paused, or about to be
 * @done:	called once; -errno when a queue could not be started again, which the
 *		transport treats as it treats any start that failed
 * @opaque:	its argument
 */
static inline void transport_resume(struct transport *t, transport_done *done, void *opaque)
{
	t->ops->resume(t, done, opaque);
}

#endif
