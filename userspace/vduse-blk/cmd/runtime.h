/* SPDX-License-Identifier: MIT */
/*
 * The daemon's folder below /run: /run/vduse-blk/NAME, mode 0700, or 0710 when
 * a group shares the control socket: its members may then reach that by its
 * name, and nothing else, since all other files are their owner's alone.
 *
 *	lock	locked (open file description) as long as the daemon lives;
 *		holds its process ID as text
 *	control	UNIX socket; see control_socket.h
 *
 *	inflight  log of requests in flight; see vduse_log.h
 *
 * The lock is what counts: a folder without a locked file is left over. It stays
 * as long as its VDUSE device does: a successor needs the log.
 */
#ifndef VDUSE_BLK_CMD_RUNTIME_H
#define VDUSE_BLK_CMD_RUNTIME_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/error.h"

#define RUNTIME_ROOT		"/run/vduse-blk"
#define RUNTIME_CONTROL_SOCKET	"control"

/**
 * struct runtime - a folder that this process owns
 * @root:	where the folders of all daemons are
 * @name:	of the device
 * @dir_fd:	the folder
 * @lock_fd:	its lock file
 * @keep:	leave it to a successor, whatever became of the device
 * @borrowed:	another process has it, too, and it is that one's to remove
 */
struct runtime {
	char *root;
	char *name;
	int dir_fd;
	int lock_fd;
	bool keep;
	bool borrowed;
};

/**
 * runtime_acquire() - make the folder and lock it
 * @root:	RUNTIME_ROOT except in tests
 * @name:	device name
 * @uid:	who shall own the folder
 * @gid:	likewise
 * @ret_runtime: written only on success
 * @e:		error text; names the process that holds the lock
 *
 * Return: 0 or -errno; -EBUSY when another daemon serves that name.
 */
int runtime_acquire(const char *root, const char *name, uid_t uid, gid_t gid,
		    struct runtime *ret_runtime, struct error *e);

/**
 * runtime_inherit() - use the folder that a predecessor has locked
 * @root:	RUNTIME_ROOT except in tests
 * @name:	device name
 * @dir_fd:	the folder; taken on success
 * @lock_fd:	the lock file, whose lock belongs to the descriptor; likewise
 * @ret_runtime: written only on success, with @borrowed
 * @e:		error text
 *
 * Return: 0 or -errno; -EBADF when that is not the folder of that name.
 */
int runtime_inherit(const char *root, const char *name, int dir_fd, int lock_fd,
		    struct runtime *ret_runtime, struct error *e);

/**
 * runtime_claim() - the folder is this process's now
 * @r:	inherited
 * @e:	error text
 *
 * Whoever asks who serves the device gets this process's number.
 *
 * Return: 0 or -errno.
 */
int runtime_claim(struct runtime *r, struct error *e);

/**
 * runtime_release() - unlock, and remove the folder unless a successor needs it
 * @r: acquired
 *
 * It does when the device is still there, or when @r->keep is set.
 * What the account may not remove any more is left behind, unlocked.
 */
void runtime_release(struct runtime *r);

/**
 * runtime_share() - let members of a group reach the control socket
 * @r:		acquired
 * @uid:	who owns the folder
 * @group:	the group
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int runtime_share(const struct runtime *r, uid_t uid, gid_t group, struct error *e);

/**
 * runtime_control_address() - where the control socket of a device is
 * @root:	RUNTIME_ROOT except in tests
 * @name:	device name
 * @ret_addr:	written only on success
 * @e:		error text
 *
 * Return: 0 or -ENAMETOOLONG.
 */
int runtime_control_address(const char *root, const char *name, struct sockaddr_un *ret_addr,
			    struct error *e);

/**
 * runtime_owner() - is a daemon of that name running?
 * @root:	RUNTIME_ROOT except in tests
 * @name:	device name
 * @ret_pid:	its process ID, 0 if unknown; written only when the answer is 1
 *
 * Return: 1 if so, 0 if not, or -errno; -EACCES for a member of the group that
 * shares the control socket, who may ask that.
 */
int runtime_owner(const char *root, const char *name, pid_t *ret_pid);

#endif
