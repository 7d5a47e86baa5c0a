/* SPDX-License-Identifier: MIT */
/*
 * Giving up root, in steps (--user).
 *
 *	root			open /dev/vduse/control, make the runtime folder
 *	privileges_drop()	the account's identity. CAP_NET_ADMIN and
 *				CAP_DAC_OVERRIDE stay in reserve, nothing is in
 *				effect: storage is opened with the account's rights
 *	privileges_raise()	for the calls that need the reserve: opening
 *				/dev/vduse/NAME, netlink, binding in sysfs
 *	privileges_settle()	attached: only CAP_NET_ADMIN stays in reserve,
 *				to detach
 *	privileges_forget()	a thread that needs nothing gives everything up
 *	privileges_lend()	the next program that is executed gets what is in
 *				reserve, until privileges_take_back()
 *	privileges_inherit()	that program puts it in its own reserve
 *
 * Capabilities are a thread's; a new thread starts with its creator's. Without
 * privileges_drop() every function here does nothing.
 */
#ifndef VDUSE_BLK_CMD_PRIVILEGES_H
#define VDUSE_BLK_CMD_PRIVILEGES_H

#include <sys/types.h>

#include "base/error.h"

/**
 * struct account - who to become
 * @name:	of the account; must stay valid
 * @uid:	user ID
 * @gid:	primary group
 */
struct account {
	const char *name;
	uid_t uid;
	gid_t gid;
};

/**
 * privileges_find() - look an account up
 * @user:	name
 * @ret_account: written only on success
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int privileges_find(const char *user, struct account *ret_account, struct error *e);

/**
 * privileges_find_group() - look a group up
 * @group:	name
 * @ret_gid:	written only on success
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int privileges_find_group(const char *group, gid_t *ret_gid, struct error *e);

/**
 * privileges_drop() - become that account, for good
 * @account:	who
 * @e:		error text
 *
 * Before any other thread exists.
 *
 * Return: 0 or -errno.
 */
int privileges_drop(const struct account *account, struct error *e);

/**
 * privileges_raise() - put the calling thread's reserve into effect
 */
void privileges_raise(void);

/**
 * privileges_lower() - back to nothing in effect
 */
void privileges_lower(void);

/**
 * privileges_settle() - give up what only attaching needed
 */
void privileges_settle(void);

/**
 * privileges_lend() - let a program that this thread executes have CAP_NET_ADMIN
 * @e: error text
 *
 * Return: 0 or -errno.
 */
int privileges_lend(struct error *e);

/**
 * privileges_take_back() - no longer
 */
void privileges_take_back(void);

/**
 * privileges_inherit() - go on as the account that a predecessor dropped to
 * @account:	who that should be
 * @e:		error text
 *
 * Instead of privileges_drop().
 *
 * Return: 0; -EPERM when this process is somebody else, or has no CAP_NET_ADMIN.
 */
int privileges_inherit(const struct account *account, struct error *e);

/**
 * privileges_forget() - the calling thread gives everything up
 */
void privileges_forget(void);

#endif
