/* SPDX-License-Identifier: MIT */
/*
 * What a daemon and the process that takes its device over say to each other, on a
 * socketpair (SOCK_SEQPACKET) that the successor was started with.
 *
 *	old -> new	OFFER	what there is, with its descriptors
 *	new -> old	READY	all that can fail has been done
 *			REFUSED	or this, and why
 *	old -> new	GO	nothing is in flight, everything is flushed: it is yours
 *	new -> old	DONE	the queues are served; or REFUSED
 *
 * Messages have a header that other versions understand as well: a successor may be
 * older or newer than its predecessor. Each is checked here, and nowhere else.
 */
#ifndef VDUSE_BLK_CMD_HANDOVER_H
#define VDUSE_BLK_CMD_HANDOVER_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "cmd/options.h"

#define HANDOVER_MAGIC		0x756b6276u
#define HANDOVER_VERSION	1u
#define HANDOVER_BYTES_MAX	(64u << 10) /* of a message, its header included */
#define HANDOVER_VERSION_MAX	31u /* characters of a vduse-blk's version */
#define HANDOVER_PATH_MAX	255u

enum handover_type {
	HANDOVER_OFFER = 1,
	HANDOVER_READY,
	HANDOVER_REFUSED,
	HANDOVER_GO,
	HANDOVER_DONE,
	_HANDOVER_TYPE_MAX,
};

/**
 * enum handover_fd - descriptors of an offer
 * @HANDOVER_FD_DEVICE:	/dev/vduse/NAME
 * @HANDOVER_FD_CONTROL: /dev/vduse/control
 * @HANDOVER_FD_FOLDER:	the runtime folder
 * @HANDOVER_FD_LOCK:	its lock file, locked
 * @HANDOVER_FD_SOCKET:	the control socket, listening
 * @HANDOVER_FD_STORAGE: the storage, where it is a file; the only one that may be
 *			left out
 */
enum handover_fd {
	HANDOVER_FD_DEVICE,
	HANDOVER_FD_CONTROL,
	HANDOVER_FD_FOLDER,
	HANDOVER_FD_LOCK,
	HANDOVER_FD_SOCKET,
	HANDOVER_FD_STORAGE,
	_HANDOVER_FD_MAX,
};

/**
 * struct handover_header - in front of every message, little-endian
 * @magic:	HANDOVER_MAGIC
 * @version:	HANDOVER_VERSION
 * @type:	enum handover_type
 * @length:	of what follows
 */
struct handover_header {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t length;
};

/**
 * struct handover_offer - HANDOVER_OFFER
 * @name:	of the device
 * @path:	that the device has, as printed on standard output; may be empty
 * @version:	of the old vduse-blk
 * @pid:	of its process
 * @upgrades:	how many times the device was handed over before
 * @recover:	nobody will say GO: a successor died while it took over, what is in
 *		flight is to be recovered
 * @options:	what was changed with "vduse-blk set": an object of strings
 * @fds:	descriptors, -1 for none
 *
 * It travels as a JSON document; members that are not known are left alone.
 */
struct handover_offer {
	char name[OPTION_NAME_MAX + 1];
	char path[HANDOVER_PATH_MAX + 1];
	char version[HANDOVER_VERSION_MAX + 1];
	pid_t pid;
	unsigned int upgrades;
	bool recover;
	json_t *options;
	int fds[_HANDOVER_FD_MAX];
};

/**
 * struct handover_ready - HANDOVER_READY
 * @capacity:	of the storage as it was found, in sectors of 512 bytes
 * @version:	of the new vduse-blk, padded with NUL
 */
struct handover_ready {
	uint64_t capacity;
	char version[HANDOVER_VERSION_MAX + 1];
};

/**
 * struct handover_refused - HANDOVER_REFUSED
 * @errnum:	positive errno
 * @text:	why, one line, padded with NUL
 */
struct handover_refused {
	uint32_t errnum;
	char text[ERROR_TEXT_SIZE];
};

/**
 * struct handover_done - HANDOVER_DONE
 * @queues:	how many
 * @reserved:	zero
 * @served_ns:	since when each is served, by CLOCK_MONOTONIC; 0: not served
 */
struct handover_done {
	uint32_t queues;
	uint32_t reserved;
	uint64_t served_ns[OPTION_QUEUES_MAX];
};

/**
 * struct handover_message - a checked message
 * @type:	which
 * @offer:	see there; released with handover_release()
 * @ready, @refused, @done: likewise; texts end with NUL
 */
struct handover_message {
	enum handover_type type;
	union {
		struct handover_offer offer;
		struct handover_ready ready;
		struct handover_refused refused;
		struct handover_done done;
	};
};

/**
 * handover_parse() - check a message
 * @bytes:	as received
 * @size:	how many
 * @fds:	descriptors that came along
 * @nfds:	how many
 * @ret_message: written only on success; an offer then owns @fds
 * @e:		error text
 *
 * Return: 0; -EPROTO for another version; -EBADMSG.
 */
int handover_parse(const void *bytes, size_t size, const int *fds, unsigned int nfds,
		   struct handover_message *ret_message, struct error *e);

/**
 * handover_receive() - read a message
 * @fd:		the socket
 * @ret_message: written only on success; release it
 * @e:		error text
 *
 * Waits only if the socket does.
 *
 * Return: 0; -EAGAIN; -ECONNRESET when the other end is closed; or as for
 * handover_parse().
 */
int handover_receive(int fd, struct handover_message *ret_message, struct error *e);

/**
 * handover_send() - send a message
 * @fd:	the socket
 * @m:	stays the caller's, its descriptors too
 * @e:	error text
 *
 * Return: 0 or -errno.
 */
int handover_send(int fd, const struct handover_message *m, struct error *e);

/**
 * handover_release() - close and free what came with a message
 * @m:	from handover_receive() or handover_parse()
 *
 * What the caller has taken is -1, or NULL.
 */
void handover_release(struct handover_message *m);

/**
 * handover_name() - for errors
 * @type: of a message
 *
 * Return: static text.
 */
const char *handover_name(enum handover_type type);

#endif
