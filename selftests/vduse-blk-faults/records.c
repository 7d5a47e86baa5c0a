// SPDX-License-Identifier: GPL-2.0-only
/*
 * Records and acknowledgements: see records.h. No threads here, and no I/O
 * other than reading what a load has left.
 */
#include "records.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prng.h"

#define RECORD_MAGIC 0x64726f6365726c66u

struct record_header {
	uint64_t magic;
	uint64_t seed;
	uint64_t sequence;
	uint32_t thread;
	uint32_t length;
};

_Static_assert(sizeof(struct record_header) == RECORD_HEADER, "RECORD_HEADER");

static struct prng record_prng(const struct record_id *id)
{
	return prng_named(id->seed, id->thread, id->sequence);
}

/* Most are small, as log entries are; some cross several pages. */
static size_t take_length(struct prng *r)
{
	uint64_t kind = prng_below(r, 100);

	if (kind < 50)
		return RECORD_HEADER + prng_below(r, 256 - RECORD_HEADER);
	if (kind < 85)
		return 256 + prng_below(r, 4096 - 256);
	return 4096 + prng_below(r, RECORD_MAX - 4096 + 1);
}

size_t record_length(const struct record_id *id)
{
	struct prng r = record_prng(id);

	return take_length(&r);
}

void record_fill(const struct record_id *id, void *buf)
{
	struct prng r = record_prng(id);
	struct record_header h = {
		.magic = RECORD_MAGIC,
		.seed = id->seed,
		.sequence = id->sequence,
		.thread = id->thread,
		.length = (uint32_t)take_length(&r),
	};

	memcpy(buf, &h, sizeof(h));
	prng_fill(&r, (char *)buf + sizeof(h), h.length - sizeof(h));
}

static bool all_zero(const unsigned char *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

enum record_state record_check(const struct record_id *id, const void *buf, size_t have,
			       size_t *ret_wrong)
{
	unsigned char want[RECORD_MAX];
	const unsigned char *got = buf;
	size_t length, i;

	record_fill(id, want);
	length = record_length(id);
	if (have >= length && !memcmp(want, got, length))
		return RECORD_WHOLE;
	if (have > length)
		have = length;
	for (i = 0; i < have && want[i] == got[i]; i++)
		;
	*ret_wrong = i;
	return all_zero(got, have) ? RECORD_ABSENT : RECORD_TORN;
}

void record_segment_name(char *buf, size_t size, uint32_t thread, uint64_t sequence)
{
	snprintf(buf, size, "t%" PRIu32 ".%06" PRIu64, thread, sequence / RECORDS_PER_SEGMENT);
}

static int acks_add(struct acks *a, const struct ack *one)
{
	struct acks_thread *t;

	if (one->kind == ACK_BEGIN) {
		if (a->threads || !one->thread || one->thread > RECORDS_MAX_THREADS)
			return -EINVAL;
		a->threads = one->thread;
		a->seed = one->value;
		return 0;
	}
	if (one->thread >= a->threads)
		return -EINVAL;
	t = &a->thread[one->thread];
	switch (one->kind) {
	case ACK_DURABLE:
		t->before = t->durable;
		t->durable = one->value + 1;
		return 0;
	case ACK_FORGET:
		if (one->value % RECORDS_PER_SEGMENT)
			return -EINVAL;
		t->kept = one->value;
		return 0;
	case ACK_ERROR:
		a->errors++;
		t->failed = true;
		return 0;
	}
	return -EINVAL;
}

int acks_read(const char *path, size_t bytes, struct acks *ret)
{
	struct acks a = { 0 };
	struct ack one;
	int err = 0;
	FILE *f;

	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (!err && fread(&one, sizeof(one), 1, f) == 1) {
		/* Behind that moment only what may have been deleted since is of interest. */
		if (bytes >= sizeof(one) || one.kind == ACK_FORGET)
			err = acks_add(&a, &one);
		bytes -= bytes < sizeof(one) ? bytes : sizeof(one);
	}
	if (!err && ferror(f))
		err = -EIO;
	if (!err && !a.threads)
		err = -EINVAL;
	fclose(f);
	if (!err)
		*ret = a;
	return err;
}

void acks_doubt_last(struct acks *acks)
{
	struct acks_thread *t;

	for (t = acks->thread; t < acks->thread + acks->threads; t++)
		if (t->failed)
			t->durable = t->before;
}

/* A thread's files, read one after the other. */
struct reader {
	const char *dir;
	const struct acks *acks;
	struct records_report *report;
	struct record_id id;
	int fd; /* of the segment that holds the record, or -1: there is none */
	off_t offset;
};

static int open_segment(struct reader *r)
{
	char path[PATH_MAX];
	int n;

	if (r->fd >= 0)
		close(r->fd);
	n = snprintf(path, sizeof(path), "%s/", r->dir);
	if (n < 0 || (size_t)n >= sizeof(path))
		return -ENAMETOOLONG;
	record_segment_name(path + n, sizeof(path) - (size_t)n, r->id.thread, r->id.sequence);
	r->offset = 0;
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	return r->fd < 0 && errno != ENOENT ? -errno : 0;
}

/* Bytes that were read, fewer at the end of the file, or -errno. */
static ssize_t read_fully(int fd, void *buf, size_t size, off_t offset)
{
	size_t have = 0;
	ssize_t n;

	while (have < size) {
		n = pread(fd, (char *)buf + have, size - have, offset + (off_t)have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

static void say_wrong(struct reader *r, enum record_state state, size_t have, size_t wrong)
{
	char name[64];

	record_segment_name(name, sizeof(name), r->id.thread, r->id.sequence);
	snprintf(r->report->wrong, sizeof(r->report->wrong),
		 "record %" PRIu64 " of thread %" PRIu32
		 " was acknowledged and is %s: %s%s, offset %lld, %zu of %zu bytes in the file, "
		 "wrong from byte %zu on",
		 r->id.sequence, r->id.thread, state == RECORD_ABSENT ? "missing" : "torn", name,
		 r->fd < 0 ? " (no such file)" : "", (long long)r->offset, have,
		 record_length(&r->id), wrong);
}

/* Looks at the next record. Return: 1 it is whole, 0 it is not, or -errno. */
static int read_record(struct reader *r, bool durable)
{
	unsigned char buf[RECORD_MAX];
	enum record_state state;
	ssize_t have = 0;
	size_t wrong = 0;
	int err;

	if (r->id.sequence % RECORDS_PER_SEGMENT == 0) {
		err = open_segment(r);
		if (err)
			return err;
	}
	if (r->fd >= 0)
		have = read_fully(r->fd, buf, record_length(&r->id), r->offset);
	if (have < 0)
		return (int)have;
	state = record_check(&r->id, buf, (size_t)have, &wrong);
	if (state != RECORD_WHOLE && durable && !r->report->wrong[0])
		say_wrong(r, state, (size_t)have, wrong);
	r->offset += (off_t)record_length(&r->id);
	r->id.sequence++;
	return state == RECORD_WHOLE;
}

static int verify_thread(struct reader *r)
{
	const struct acks_thread *t = &r->acks->thread[r->id.thread];
	int ret;

	r->id.sequence = t->kept;
	while (r->id.sequence < t->durable) {
		r->report->durable++;
		ret = read_record(r, true);
		if (ret < 0)
			return ret;
		r->report->whole += (unsigned int)ret;
	}
	/* The segment of the first one behind may not have been made any more. */
	while ((ret = read_record(r, false)) == 1)
		r->report->extra++;
	return ret;
}

int records_verify(const char *dir, const struct acks *acks, struct records_report *ret)
{
	struct records_report report = { 0 };
	struct reader r = {
		.dir = dir,
		.acks = acks,
		.report = &report,
		.id.seed = acks->seed,
		.fd = -1,
	};
	int err = 0;

	for (; !err && r.id.thread < acks->threads; r.id.thread++)
		err = verify_thread(&r);
	if (r.fd >= 0)
		close(r.fd);
	*ret = report;
	if (err)
		return err;
	return report.whole == report.durable ? 0 : -EBADMSG;
}
