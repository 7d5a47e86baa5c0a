/* SPDX-License-Identifier: MIT */
/*
 * vduse_log.h: what the successor of a killed daemon has to know of a VDUSE
 * device, in a file of the runtime folder.
 *
 * A header says which device it is, what was offered and agreed, and how far the
 * driver had come; behind it is the log of requests in flight of each virtqueue
 * (virtio/inflight.h). The file is mapped shared: what is stored there survives
 * the process.
 *
 * Everything here belongs to the main thread, except the regions.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDUSE_LOG_H
#define VDUSE_BLK_TRANSPORT_VDUSE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Name of the file in the runtime folder. */
#define VDUSE_LOG_NAME		"inflight"
#define VDUSE_LOG_QUEUES_MAX	64u
#define VDUSE_LOG_DEVICE_MAX	256u

/* What else may be in the file. */
enum vduse_log_section_type {
	VDUSE_LOG_NOTHING,
	VDUSE_LOG_INFLIGHT, /* regions of the virtqueues */
	VDUSE_LOG_JOURNAL, /* whatever the backend keeps there */
};

#define VDUSE_LOG_SECTIONS	4u

/**
 * struct vduse_log_section - a part of the file
 * @type:	enum vduse_log_section_type; each once at most
 * @reserved:	zero
 * @offset:	in the file, a multiple of 4096
 * @bytes:	its size
 */
struct vduse_log_section {
	uint32_t type;
	uint32_t reserved;
	uint64_t offset;
	uint64_t bytes;
};

/**
 * struct vduse_log_queue - a virtqueue as the driver had set it up
 * @desc, @driver, @device: addresses of the three areas
 * @num:	ring size
 * @ready:	1 if the driver wanted it served
 */
struct vduse_log_queue {
	uint64_t desc;
	uint64_t driver;
	uint64_t device;
	uint32_t num;
	uint32_t ready;
};

/**
 * struct vduse_log_facts - what the header says
 * @name:	of the device, padded with NUL
 * @offered:	virtio features that the device was created with
 * @capacity:	in sectors of 512 bytes
 * @block_size:	logical block size
 * @num_queues:	virtqueues
 * @queue_size:	longest ring
 * @status:	the driver's status byte that was answered last
 * @reserved:	zero
 * @features:	that the driver accepted; valid from FEATURES_OK on
 * @sections:	what is behind the header; filled in by vduse_log_create()
 * @queues:	valid with DRIVER_OK
 *
 * This is the format of the file, little-endian.
 */
struct vduse_log_facts {
	char name[VDUSE_LOG_DEVICE_MAX];
	uint64_t offered;
	uint64_t capacity;
	uint32_t block_size;
	uint32_t num_queues;
	uint32_t queue_size;
	uint8_t status;
	uint8_t reserved[3];
	uint64_t features;
	struct vduse_log_section sections[VDUSE_LOG_SECTIONS];
	struct vduse_log_queue queues[VDUSE_LOG_QUEUES_MAX];
};

struct vduse_log;

/**
 * vduse_log_create() - make the log of a new device
 * @dir_fd:	the runtime folder; an old log in it is replaced
 * @facts:	@name to @queue_size filled in, the rest zero
 * @journal_bytes: room for the backend; 0: none
 * @ret_log:	written only on success
 * @e:		error text
 *
 * Reserves all the memory it will need, but not the journal's, which is sparse. Sleeps.
 *
 * Return: 0 or -errno.
 */
int vduse_log_create(int dir_fd, const struct vduse_log_facts *facts, uint64_t journal_bytes,
		     struct vduse_log **ret_log, struct error *e);

/**
 * vduse_log_open() - take over a predecessor's log
 * @dir_fd:	the runtime folder
 * @ret_log:	written only on success
 * @e:		error text
 *
 * Return: 0; -ENOENT when there is none; -EPROTO for a version that is not known;
 * -EBADMSG when it is damaged, or another -errno.
 */
int vduse_log_open(int dir_fd, struct vduse_log **ret_log, struct error *e);

/**
 * vduse_log_reload() - read again what another process may have written since
 * @log:	opened; the other process has stopped writing
 * @e:		error text
 *
 * Return: 0 or -EBADMSG; -EPROTO.
 */
int vduse_log_reload(struct vduse_log *log, struct error *e);

/**
 * vduse_log_close() - unmap; the file stays
 * @log: no virtqueue uses a region any more; may be NULL
 */
void vduse_log_close(struct vduse_log *log);

/**
 * vduse_log_facts() - what the header says
 * @log: the log
 *
 * Return: valid as long as the log; vduse_log_write() changes it.
 */
const struct vduse_log_facts *vduse_log_facts(const struct vduse_log *log);

/**
 * vduse_log_write() - replace what the header says
 * @log:	the log
 * @facts:	as vduse_log_facts() returned them, with other @capacity, @status,
 *		@features, @queues
 *
 * A successor finds either the old or the new, wherever this process is killed.
 */
void vduse_log_write(struct vduse_log *log, const struct vduse_log_facts *facts);

/**
 * vduse_log_region() - where a virtqueue logs what is in flight
 * @log:	the log
 * @index:	smaller than the number of virtqueues
 * @ret_bytes:	size of the region
 *
 * Return: aligned as inflight_create() wants it.
 */
void *vduse_log_region(const struct vduse_log *log, unsigned int index, size_t *ret_bytes);

/**
 * vduse_log_journal() - room for the backend
 * @log:	the log
 * @ret_bytes:	its size
 *
 * Return: page-aligned shared memory, sparse and zero at first, or NULL when there is
 * none.
 */
void *vduse_log_journal(const struct vduse_log *log, size_t *ret_bytes);

/**
 * vduse_log_flush_owed() - whether the driver's next flush has to fail
 * @log:	the log
 *
 * For vblk_device_keep_flush_error(): changed by any thread, with atomic accesses.
 *
 * Return: a byte of the shared memory, 0 in a new log.
 */
uint8_t *vduse_log_flush_owed(const struct vduse_log *log);

/**
 * vduse_log_fits() - may a device with @now go on where @was stopped?
 * @was:	from a predecessor's log
 * @now:	@name to @queue_size as this process would have them
 * @e:		says what does not fit
 *
 * A disk that has grown fits, as do features that nobody had accepted.
 *
 * Return: 0 or -EINVAL.
 */
int vduse_log_fits(const struct vduse_log_facts *was, const struct vduse_log_facts *now,
		   struct error *e);

#endif
