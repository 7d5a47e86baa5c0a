/* SPDX-License-Identifier: MIT */
/*
 * After the loss of a server with a volatile cache: who may send what, when.
 *
 * Called by the links, each on its own thread. A call that changes the state
 * posts NBD_ORDER_RECOVERY to every link; on that order a link looks at
 * nbd_recovery_paused() and nbd_recovery_is_mine().
 */
#ifndef BACKEND_NBD_RECOVERY_H
#define BACKEND_NBD_RECOVERY_H

#include "backend/nbd_session.h"

/**
 * nbd_recovery_join() - a link begins, without a connection
 * @s: the session
 * @index: of the link
 */
void nbd_recovery_join(struct nbd_session *s, unsigned int index);

/**
 * nbd_recovery_leave() - a link ends
 * @s: the session
 * @from: its loop
 * @index: of the link
 */
void nbd_recovery_leave(struct nbd_session *s, struct loop *from, unsigned int index);

/**
 * nbd_recovery_lend() - see backend_lend_journal()
 * @s: the session
 * @lent: to another process
 *
 * Return: 0, or -EAGAIN while a recovery is under way.
 */
int nbd_recovery_lend(struct nbd_session *s, bool lent);

/**
 * nbd_recovery_lent() - does another process use the logs?
 * @s: the session
 *
 * Return: true if so: what they say is not for this process to act on.
 */
bool nbd_recovery_lent(struct nbd_session *s);

/**
 * nbd_recovery_up() - a link has a connection on which nothing was sent yet
 * @s: the session
 * @from: its loop
 * @index: of the link
 *
 * The link then looks whether it is paused: others may have something unflushed.
 */
void nbd_recovery_up(struct nbd_session *s, struct loop *from, unsigned int index);

/**
 * nbd_recovery_down() - a link has no connection any more
 * @s: the session
 * @from: its loop
 * @index: of the link
 * @lost: the server may have lost its cache with it; false: the link ended it in due form
 */
void nbd_recovery_down(struct nbd_session *s, struct loop *from, unsigned int index, bool lost);

/**
 * nbd_recovery_quiet() - a link that is paused has nothing on the wire
 * @s: the session
 * @from: its loop
 * @index: of the link
 */
void nbd_recovery_quiet(struct nbd_session *s, struct loop *from, unsigned int index);

/**
 * nbd_recovery_paused() - must a link send nothing new?
 * @s: the session
 *
 * Return: true while a recovery is under way.
 */
bool nbd_recovery_paused(struct nbd_session *s);

/**
 * nbd_recovery_is_mine() - does a link have to do the replay?
 * @s: the session
 * @index: of the link
 *
 * Return: true if it does; all logs are its own until nbd_recovery_done().
 */
bool nbd_recovery_is_mine(struct nbd_session *s, unsigned int index);

/**
 * nbd_recovery_done() - the replay has come to an end
 * @s: the session
 * @from: the loop of the link that did it
 * @error: 0, or -errno that the server has answered
 */
void nbd_recovery_done(struct nbd_session *s, struct loop *from, int error);

#endif
