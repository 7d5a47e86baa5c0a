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
#include "base/log.h"

#define OPTION_NAME_MAX		64
#define OPTION_SERIAL_MAX	20 /* VIRTIO_BLK_ID_BYTES */
#define OPTION_QUEUES_MAX	64
#define OPTION_QUEUE_SIZE_MIN	4 /* header, one segment and status must fit */
#define OPTION_QUEUE_SIZE_MAX	1024

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
 * struct serve_options - validated options of "serve"
 * @name:	device name
 * @uri:	storage; its syntax is checked when it is opened
 * @queues:	number of virtqueues
 * @queue_size:	longest ring, a power of two
 * @packed:	offer the packed ring
 * @bind:	who gets the device
 * @read_only:	never write
 * @serial:	what GET_ID answers; "" if none
 * @user:	account to run as; NULL: the caller's
 * @log_level:	least important level that is logged
 * @block_size:	logical block size in bytes; 0: the storage's own
 */
struct serve_options {
	char name[OPTION_NAME_MAX + 1];
	char *uri;
	unsigned int queues;
	unsigned int queue_size;
	bool packed;
	enum bind_target bind;
	bool read_only;
	char serial[OPTION_SERIAL_MAX + 1];
	char *user;
	enum log_level log_level;
	uint32_t block_size;
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

/**
 * struct query_options - validated options of "list" and "status"
 * @name:	device name, "" for "list"
 * @json:	machine-readable output
 */
struct query_options {
	char name[OPTION_NAME_MAX + 1];
	bool json;
};

/**
 * query_options_parse() - command line of "list" or "status"
 * @argc:	number of arguments
 * @argv:	arguments; argv[0] is the command's name
 * @with_name:	a device name is expected
 * @ret_options: written only on success
 * @ret_help:	true if --help was given
 * @e:		error text
 *
 * Return: 0 or -errno.
 */
int query_options_parse(int argc, char **argv, bool with_name,
			struct query_options *ret_options, bool *ret_help, struct error *e);

/**
 * bind_target_name() - for logs and status
 * @bind: which
 *
 * Return: static text.
 */
const char *bind_target_name(enum bind_target bind);

#endif
