// SPDX-License-Identifier: GPL-2.0-only
/*
 * Logs of dm-log-writes: see write_log.h.
 *
 * The descriptions are read once, at the beginning, and checked there; data is
 * read when it is applied.
 */
#define _GNU_SOURCE
#include "write_log.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "prng.h"

#define LOG_MAGIC   UINT64_C(0x6a736677736872)
#define LOG_VERSION 1
#define KNOWN_FLAGS \
	(WRITE_LOG_FLUSH | WRITE_LOG_FUA | WRITE_LOG_DISCARD | WRITE_LOG_MARK | WRITE_LOG_METADATA)

struct log_super {
	uint64_t magic;
	uint64_t version;
	uint64_t entries;
	uint32_t sector;
};

struct log_entry {
	uint64_t sector;
	uint64_t sectors;
	uint64_t flags;
	uint64_t data_len;
};

/* While reading the descriptions. */
struct parser {
	struct write_log log;
	uint64_t size; /* of the log, bytes */
	uint64_t next; /* offset of the next description */
	char *why;
	size_t why_size;
};

__attribute__((format(printf, 2, 3))) static int bad(struct parser *p, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(p->why, p->why_size, format, ap);
	va_end(ap);
	return -EINVAL;
}

static int read_at(int fd, void *buf, size_t size, uint64_t offset)
{
	size_t have = 0;
	ssize_t n;

	while (have < size) {
		n = pread(fd, (char *)buf + have, size - have, (off_t)(offset + have));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return -ENODATA;
		have += (size_t)n;
	}
	return 0;
}

static int write_at(int fd, const void *buf, size_t size, uint64_t offset)
{
	size_t done = 0;
	ssize_t n;

	while (done < size) {
		n = pwrite(fd, (const char *)buf + done, size - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

static int parse_super(struct parser *p)
{
	struct log_super s;

	if (read_at(p->log.fd, &s, sizeof(s), 0))
		return bad(p, "the log is too short for a super block");
	if (le64toh(s.magic) != LOG_MAGIC || le64toh(s.version) != LOG_VERSION)
		return bad(p, "this is no log of dm-log-writes, version 1");
	p->log.sector = le32toh(s.sector);
	if (p->log.sector < 512 || p->log.sector > 65536 || p->log.sector & (p->log.sector - 1))
		return bad(p, "sectors of %" PRIu32 " bytes", p->log.sector);
	p->next = p->log.sector;
	/* Each has a sector at least. */
	if (le64toh(s.entries) > p->size / p->log.sector)
		return bad(p, "%" PRIu64 " entries do not fit in the log", le64toh(s.entries));
	p->log.count = le64toh(s.entries);
	return 0;
}

static int parse_mark(struct parser *p, struct write_entry *e, uint64_t length, uint64_t at)
{
	if (length > WRITE_LOG_MARK_MAX || length > p->log.sector - sizeof(struct log_entry))
		return bad(p, "a mark of %" PRIu64 " bytes", length);
	e->mark[length] = 0;
	return read_at(p->log.fd, e->mark, length, at + sizeof(struct log_entry));
}

static int parse_entry(struct parser *p, struct write_entry *e)
{
	uint64_t limit = UINT64_MAX / 2 / p->log.sector;
	uint64_t at = p->next;
	struct log_entry raw;

	if (read_at(p->log.fd, &raw, sizeof(raw), at))
		return bad(p, "the log ends at byte %" PRIu64, at);
	if (le64toh(raw.flags) & ~(uint64_t)KNOWN_FLAGS)
		return bad(p, "unknown flags 0x%" PRIx64, le64toh(raw.flags));
	if (le64toh(raw.sector) > limit || le64toh(raw.sectors) > limit)
		return bad(p, "sector %" PRIu64 ", %" PRIu64 " sectors", le64toh(raw.sector),
			   le64toh(raw.sectors));
	*e = (struct write_entry){
		.offset = le64toh(raw.sector) * p->log.sector,
		.length = le64toh(raw.sectors) * p->log.sector,
		.data = at + p->log.sector,
		.flags = le64toh(raw.flags),
	};
	p->next = e->data;
	if (e->flags & WRITE_LOG_MARK)
		return e->length ? bad(p, "a mark with sectors") :
				   parse_mark(p, e, le64toh(raw.data_len), at);
	if (raw.data_len)
		return bad(p, "a write with its data inside the description");
	if (e->flags & WRITE_LOG_DISCARD)
		return 0;
	p->next += e->length;
	if (p->next > p->size || p->next < e->data)
		return bad(p, "the data of a write of %" PRIu64 " bytes is not in the log",
			   e->length);
	return 0;
}

static int parse(struct parser *p)
{
	size_t i;
	int err;

	err = parse_super(p);
	if (err)
		return err;
	p->log.entry = calloc(p->log.count + 1, sizeof(*p->log.entry));
	if (!p->log.entry)
		return -ENOMEM;
	for (i = 0; i < p->log.count; i++) {
		err = parse_entry(p, &p->log.entry[i]);
		if (err)
			return err;
	}
	if (!i || strcmp(p->log.entry[i - 1].mark, WRITE_LOG_END_MARK))
		return bad(p,
			   "the log has no end: the target was not removed, or its disk was full");
	return 0;
}

int write_log_open(const char *path, struct write_log *ret, char *why, size_t size)
{
	struct parser p = { .why = why, .why_size = size };
	off_t end;
	int err;

	p.log.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (p.log.fd < 0) {
		err = -errno;
		snprintf(why, size, "%s", strerror(-err));
		return err;
	}
	end = lseek(p.log.fd, 0, SEEK_END);
	p.size = end < 0 ? 0 : (uint64_t)end;
	err = parse(&p);
	if (err)
		write_log_close(&p.log);
	else
		*ret = p.log;
	return err;
}

void write_log_close(struct write_log *log)
{
	free(log->entry);
	close(log->fd);
	log->entry = NULL;
	log->fd = -1;
}

static int copy_data(const struct write_log *log, uint64_t from, uint64_t length, int disk,
		     uint64_t to)
{
	char buf[65536];
	size_t n;
	int err;

	for (; length; length -= n, from += n, to += n) {
		n = length < sizeof(buf) ? length : sizeof(buf);
		err = read_at(log->fd, buf, n, from);
		if (!err)
			err = write_at(disk, buf, n, to);
		if (err)
			return err;
	}
	return 0;
}

static int discard(int disk, uint64_t offset, uint64_t length)
{
	return fallocate(disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			 (off_t)length) ?
		       -errno :
		       0;
}

int write_log_apply(const struct write_log *log, const struct write_entry *e, int disk)
{
	if (!write_entry_has_effect(e))
		return 0;
	if (e->flags & WRITE_LOG_DISCARD)
		return discard(disk, e->offset, e->length);
	return copy_data(log, e->data, e->length, disk, e->offset);
}

/* The part of an entry that begins @skip bytes in it. */
static int apply_part(const struct write_log *log, const struct write_entry *e, uint64_t skip,
		      uint64_t length, int disk)
{
	if (e->flags & WRITE_LOG_DISCARD)
		return discard(disk, e->offset + skip, length);
	return copy_data(log, e->data + skip, length, disk, e->offset + skip);
}

/* Each logical block, with even odds. Return: whether any, or -errno. */
static int apply_torn(const struct write_log *log, const struct write_entry *e, struct prng *r,
		      int disk)
{
	uint64_t skip;
	int any = 0, err;

	for (skip = 0; skip < e->length; skip += log->sector) {
		if (prng_below(r, 2))
			continue;
		err = apply_part(log, e, skip, log->sector, disk);
		if (err)
			return err;
		any = 1;
	}
	return any;
}

int write_log_apply_subset(const struct write_log *log, size_t first, size_t end, uint64_t seed,
			   int disk)
{
	struct prng r = prng_named(seed, first, end);
	const struct write_entry *e;
	uint64_t fate;
	int done = 0, ret;

	for (e = log->entry + first; e < log->entry + end; e++) {
		if (!write_entry_has_effect(e))
			continue;
		fate = prng_below(&r, 4);
		/* Half of them are lost; of the others, half are torn if that was asked for. */
		if (fate < 2)
			continue;
		if (fate == 2 && seed % 2)
			ret = apply_torn(log, e, &r, disk);
		else
			ret = write_log_apply(log, e, disk) ?: 1;
		if (ret < 0)
			return ret;
		done += ret;
	}
	return done;
}
