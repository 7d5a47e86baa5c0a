/* SPDX-License-Identifier: MIT */
/*
 * Options of the commands: their values, where they come from, what is allowed.
 *
 * The command line and the configuration file share one setter, so both accept
 * the same names and values with the same errors. The command line wins.
 */
#ifndef VDUSE_BLK_CMD_OPTIONS_H
#define VDUSE_BLK_CMD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cmd/tunables.h"

/* What the daemon puts in front of its successor's arguments. */
#define OPTION_TAKE_OVER	"--take-over="

#define OPTION_NAME_MAX		64
#define OPTION_SERIAL_MAX	20 /* VIRTIO_BLK_ID_BYTES */
#define OPTION_QUEUES_MAX	64
#define OPTION_QUEUE_SIZE_MIN	4 /* header, one segment and status must fit */
#define OPTION_QUEUE_SIZE_MAX	1024
#define OPTION_REPLAY_LOG_MIN	(1u << 20)
#define OPTION_REPLAY_LOG_MAX	(1u << 30)

/**
 * enum bind_target - which vDPA bus driver gets the device
 * @BIND_VIRTIO:	virtio_vdpa: a block device of this host
 * @BIND_VHOST:		vhost_vdpa: a character device for a virtual machine
 * @BIND_NONE:		the device is created but somebody else attaches it
 */
enum bind_target {
	BIND_VIRTIO,
	BIND_VHOST,
	BIND_NONE,
	_BIND_TARGET_MAX,
	_BIND_TARGET_INVALID = -1,
};

/**
 * enum transport_kind - how drivers reach the disk
 * @TRANSPORT_VDUSE:		as a device of this host's kernel
 * @TRANSPORT_VHOST_USER:	through a UNIX socket, from a virtual machine
 */
enum transport_kind {
	TRANSPORT_VDUSE,
	TRANSPORT_VHOST_USER,
	_TRANSPORT_KIND_MAX,
};

/**
 * struct serve_options - validated options of "serve"
 * @name:	device name
 * @uri:	storage; its syntax is checked when it is opened
 * @queues:	number of virtqueues
 * @queue_size:	longest ring, a power of two
 * @packed:	offer the packed ring
 * @transport:	how drivers reach the disk
 * @socket:	path of the vhost-user socket; NULL with another transport
 * @bind:	who gets the device; nobody (BIND_NONE) unless it is VDUSE's
 * @read_only:	never write
 * @serial:	what GET_ID answers; "" if none
 * @user:	account to run as; NULL: the caller's
 * @control_group: group that may use the control socket; NULL: none
 * @block_size:	logical block size in bytes; 0: the storage's own
 * @replay_log:	bytes of acknowledged, unflushed writes to be kept; 0: none
 * @take_over:	descriptor of the socket to a predecessor (handover.h), which only the
 *		daemon itself gives, first of all; -1: none
 * @tunables:	what "vduse-blk set" can change later
 */
struct serve_options {
	char name[OPTION_NAME_MAX + 1];
	char *uri;
	unsigned int queues;
	unsigned int queue_size;
	bool packed;
	enum transport_kind transport;
	char *socket;
	enum bind_target bind;
	bool read_only;
	char serial[OPTION_SERIAL_MAX + 1];
	char *user;
	char *control_group;
	uint32_t block_size;
	uint32_t replay_log;
	int take_over;
	struct tunables tunables;
};

/**
 * serve_options_init() - default values
 * @o: to be filled; release it with serve_options_release()
 */
void serve_options_init(struct serve_options *o);

/**
 * serve_options_release() - free what the options own
 * @o: initialised options
 */
void serve_options_release(struct serve_options *o);

/**
 * serve_options_set() - set one option from text
 * @o:		the options
 * @name:	long name of the option, without dashes
 * @value:	its value; NULL for a switch given without one
 * @e:		error text
 *
 * Return: 0; -ENOENT for an unknown name; -EINVAL or -ENOMEM.
 */
int serve_options_set(struct serve_options *o, const char *name, const char *value,
		      struct error *e);

/**
 * serve_options_read_file() - set options from an INI file
 * @o:		the options
 * @path:	the file: lines "name = value", comments with ";" or "#", perhaps
 *		below a heading [serve]
 * @e:		error text, with file and line
 *
 * Return: 0 or -errno.
 */
int serve_options_read_file(struct serve_options *o, const char *path, struct error *e);

/**
 * serve_options_parse() - command line of "serve", its --config file included
 * @argc:	number of arguments
 * @argv:	arguments; argv[0] is the command's name
 * @o:		initialised options
 * @ret_help:	true if --help was given: nothing else is checked then
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int serve_options_parse(int argc, char **argv, struct serve_options *o, bool *ret_help,
			struct error *e);

/* What a command that talks to a daemon takes. */
#define QUERY_NAME	(1u << 0) /* the name of a device */
#define QUERY_JSON	(1u << 1) /* --json */
#define QUERY_KEEP	(1u << 2) /* --keep */
#define QUERY_SETTINGS	(1u << 3) /* behind the name, OPTION=VALUE, once at least */
#define QUERY_UPGRADE	(1u << 4) /* --binary PATH, --max-stall TIME */

/**
 * struct query_options - validated options of such a command
 * @name:	device name; "" without QUERY_NAME
 * @json:	machine-readable output
 * @keep:	leave the device for a successor
 * @binary:	program to be executed; NULL: the daemon's own
 * @max_stall:	how long the driver may wait; NULL: the daemon's default
 * @settings:	the arguments OPTION=VALUE, as they are
 * @nsettings:	how many
 */
struct query_options {
	char name[OPTION_NAME_MAX + 1];
	bool json;
	bool keep;
	const char *binary;
	const char *max_stall;
	char **settings;
	unsigned int nsettings;
};

/**
 * query_options_parse() - command line of a command that talks to a daemon
 * @argc:	number of arguments
 * @argv:	arguments; argv[0] is the command's name; may be reordered
 * @takes:	QUERY_*
 * @ret_options: written only on success; points into @argv
 * @ret_help:	true if --help was given
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int query_options_parse(int argc, char **argv, unsigned int takes,
			struct query_options *ret_options, bool *ret_help, struct error *e);

/**
 * bind_target_name() - for logs and status
 * @bind: which
 *
 * Return: static text.
 */
const char *bind_target_name(enum bind_target bind);

/**
 * transport_kind_name() - for logs and status
 * @transport: which
 *
 * Return: static text.
 */
const char *transport_kind_name(enum transport_kind transport);

#endif
