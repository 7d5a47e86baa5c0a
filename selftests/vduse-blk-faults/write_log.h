/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The log of the kernel's dm-log-writes target: every write of a disk, in the
 * order in which it became durable.
 *
 * Layout (drivers/md/dm-log-writes.c, Documentation/admin-guide/device-mapper/
 * log-writes.rst): a super block in the first sector, then for each entry one
 * sector of description and, for a write, its data. Sectors are those of the
 * logged disk. A write that is not FUA stands before the flush that made it
 * durable, and a write with FUA where it was completed. So after a power loss
 * the disk holds
 *
 *	everything up to a boundary (an entry with FLUSH or FUA), and
 *	any of the writes from there to the next boundary.
 *
 * A log is what a test has recorded, and yet each field is checked: a log disk
 * that was too small, or was never finished, must not pass for one without
 * writes.
 */
#ifndef FAULTS_WRITE_LOG_H
#define FAULTS_WRITE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WRITE_LOG_FLUSH	   (1u << 0)
#define WRITE_LOG_FUA	   (1u << 1)
#define WRITE_LOG_DISCARD  (1u << 2)
#define WRITE_LOG_MARK	   (1u << 3)
#define WRITE_LOG_METADATA (1u << 4)

#define WRITE_LOG_MARK_MAX 255

/* What the target itself writes as the last entry. */
#define WRITE_LOG_END_MARK "dm-log-writes-end"

struct write_entry {
	uint64_t offset; /* on the disk, bytes */
	uint64_t length; /* bytes */
	uint64_t data;	 /* where in the log; valid for a write */
	uint64_t flags;	 /* WRITE_LOG_* */
	char mark[WRITE_LOG_MARK_MAX + 1];
};

struct write_log {
	int fd;
	uint32_t sector; /* bytes; the logical block of the logged disk */
	size_t count;
	struct write_entry *entry;
};

/* Whether everything before it, and it itself, is durable. */
static inline bool write_entry_is_boundary(const struct write_entry *e)
{
	return e->flags & (WRITE_LOG_FLUSH | WRITE_LOG_FUA);
}

/* Whether it changes the disk. */
static inline bool write_entry_has_effect(const struct write_entry *e)
{
	return e->length && !(e->flags & WRITE_LOG_MARK);
}

/**
 * write_log_open() - read a log's descriptions
 * @path: file or disk
 * @ret: receives it; write_log_close() frees it
 * @why: receives a sentence on an error
 * @size: of @why
 *
 * Return: 0 or -errno; -EINVAL if that is no complete log.
 */
int write_log_open(const char *path, struct write_log *ret, char *why, size_t size);
void write_log_close(struct write_log *log);

/**
 * write_log_apply() - do to a disk what an entry did
 * @log: the log
 * @e: one of its entries
 * @disk: descriptor of the image
 *
 * Return: 0 or -errno.
 */
int write_log_apply(const struct write_log *log, const struct write_entry *e, int disk);

/**
 * write_log_apply_subset() - a power loss
 * @log: the log
 * @first: the first entry behind a boundary
 * @end: the next boundary, or the number of entries
 * @seed: which subset; an odd one also tears writes, between any two logical blocks
 * @disk: descriptor of the image, in the state of that boundary
 *
 * Each of the writes from @first to before @end happens or not, in their order. A
 * disk writes a logical block whole or not at all, and promises nothing beyond it.
 *
 * Return: how many happened at least in part, or -errno.
 */
int write_log_apply_subset(const struct write_log *log, size_t first, size_t end, uint64_t seed,
			   int disk);

#endif
