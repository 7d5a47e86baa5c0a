/* SPDX-License-Identifier: MIT */
/*
 * A device whose process was killed, found before anything else is begun: its
 * log and its descriptor.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDUSE_RECOVERY_H
#define VDUSE_BLK_TRANSPORT_VDUSE_RECOVERY_H

#include "backend/backend.h"
#include "base/error.h"
#include "transport/vduse_log.h"

/**
 * struct vduse_recovery - a device to go on with
 * @fd:		/dev/vduse/NAME
 * @log:	the predecessor's
 *
 * vduse_create() takes @fd and @log when it succeeds.
 */
struct vduse_recovery {
	int fd;
	struct vduse_log *log;
};

/**
 * vduse_recovery_find() - did a predecessor leave its device attached?
 * @name:	of the device; the caller holds the lock of its runtime folder
 * @dir_fd:	the runtime folder
 * @ret_recovery: written only on success; NULL when there is nothing to recover: no
 *		such device, or one that is not attached to the vDPA bus, which
 *		vduse_create() replaces
 * @e:		error text, with what to do about it
 *
 * Sleeps. Needs the rights that creating a device needs.
 *
 * Return: 0 or -errno.
 */
int vduse_recovery_find(const char *name, int dir_fd, struct vduse_recovery **ret_recovery,
			struct error *e);

/**
 * vduse_recovery_inherit() - the same, with a device that is open already
 * @name:	of the device
 * @dir_fd:	the runtime folder
 * @fd:		the device; taken on success
 * @ret_recovery: written only on success
 * @e:		error text
 *
 * For a successor to which a living daemon will hand it over, and for a daemon
 * whose successor died while it took over.
 *
 * Return: 0 or -errno.
 */
int vduse_recovery_inherit(const char *name, int dir_fd, int fd,
			   struct vduse_recovery **ret_recovery, struct error *e);

/**
 * vduse_recovery_prior_writes() - tell the storage what the dead process may still be writing
 * @r:		not given to vduse_create() yet; of a dead process, for a living one
 *		has nothing in flight when it hands over
 * @backend:	just opened; backend_prior_write() is called for each range
 */
void vduse_recovery_prior_writes(const struct vduse_recovery *r, struct backend *backend);

/**
 * vduse_recovery_free() - give up what vduse_create() did not take
 * @r: may be NULL
 */
void vduse_recovery_free(struct vduse_recovery *r);

/**
 * vduse_recovery_matches() - are these the rings that the log is about?
 * @was:	as in the log
 * @fd:		the device
 * @index:	of the virtqueue
 *
 * Return: 1 or 0, or -errno when the kernel could not be asked.
 */
int vduse_recovery_matches(const struct vduse_log_queue *was, int fd, unsigned int index);

/**
 * vduse_recovery_advice() - append what an operator can do
 * @e:		why a device cannot be gone on with
 * @name:	of the device
 *
 * Return: -errno of @e.
 */
int vduse_recovery_advice(struct error *e, const char *name);

#endif
