// SPDX-License-Identifier: GPL-2.0-only
/*
 * The parts that decide whether data was lost, tested by themselves: records
 * and their acknowledgements, versions of blocks, logs of dm-log-writes. A
 * checker that never fails is worth nothing, so most rows are violations.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blocks.h"
#include "kselftest_harness.h"
#include "records.h"
#include "write_log.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* What FIXTURE() calls its structures: helpers take them, too. */
struct _test_data_records;
struct _test_data_log;

/* ---- records ---- */

#define RECORDS 300 /* more than two segments */

FIXTURE(records)
{
	char dir[32], acks[64];
	struct ack list[RECORDS + 8];
	size_t acks_len;
	off_t offset[RECORDS]; /* in its segment */
};

static void segment_path(char *path, size_t size, const char *dir, uint64_t sequence)
{
	int n = snprintf(path, size, "%s/", dir);

	record_segment_name(path + n, size - (size_t)n, 0, sequence);
}

static void append(const char *path, const void *buf, size_t size)
{
	FILE *f = fopen(path, "a");

	if (!f || fwrite(buf, size, 1, f) != 1 || fclose(f))
		abort();
}

static void overwrite(const char *path, off_t offset, const void *buf, size_t size)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || pwrite(fd, buf, size, offset) != (ssize_t)size)
		abort();
	close(fd);
}

/* One thread's records, all of them acknowledged. */
FIXTURE_SETUP(records)
{
	struct record_id id = { .seed = 7 };
	char path[128], buf[RECORD_MAX];
	struct stat st;
	uint64_t i;

	snprintf(self->dir, sizeof(self->dir), "/tmp/records.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->acks, sizeof(self->acks), "%s/acks", self->dir);
	self->list[self->acks_len++] = (struct ack){ ACK_BEGIN, 1, id.seed };
	for (i = 0; i < RECORDS; i++) {
		id.sequence = i;
		segment_path(path, sizeof(path), self->dir, i);
		self->offset[i] = stat(path, &st) ? 0 : st.st_size;
		record_fill(&id, buf);
		append(path, buf, record_length(&id));
		self->list[self->acks_len++] = (struct ack){ ACK_DURABLE, 0, i };
	}
}

FIXTURE_TEARDOWN(records)
{
	char path[128];
	uint64_t i;

	for (i = 0; i < RECORDS; i += RECORDS_PER_SEGMENT) {
		segment_path(path, sizeof(path), self->dir, i);
		unlink(path);
	}
	unlink(self->acks);
	rmdir(self->dir);
}

static int verify(struct _test_data_records *self, size_t bytes, struct records_report *report)
{
	struct acks acks;
	int err;

	unlink(self->acks);
	append(self->acks, self->list, self->acks_len * sizeof(self->list[0]));
	err = acks_read(self->acks, bytes, &acks);
	return err ?: records_verify(self->dir, &acks, report);
}

TEST_F(records, whole)
{
	struct records_report r;

	ASSERT_EQ(0, verify(self, SIZE_MAX, &r));
	EXPECT_EQ(RECORDS, r.durable);
	EXPECT_EQ(RECORDS, r.whole);
	EXPECT_EQ(0, r.extra);
	EXPECT_STREQ("", r.wrong);
}

TEST_F(records, one_bit_of_one_record)
{
	char path[128], byte;
	struct record_id id = { .seed = 7, .sequence = 200 };
	char buf[RECORD_MAX];
	struct records_report r;

	record_fill(&id, buf);
	byte = buf[record_length(&id) - 1] ^ 1;
	segment_path(path, sizeof(path), self->dir, 200);
	overwrite(path, self->offset[200] + (off_t)record_length(&id) - 1, &byte, 1);
	EXPECT_EQ(-EBADMSG, verify(self, SIZE_MAX, &r));
	EXPECT_EQ(RECORDS - 1, r.whole);
	EXPECT_NE(NULL, strstr(r.wrong, "record 200 of thread 0"));
	EXPECT_NE(NULL, strstr(r.wrong, "torn"));
}

TEST_F(records, zeroes_for_a_record)
{
	struct record_id id = { .seed = 7, .sequence = 10 };
	static const char zero[RECORD_MAX];
	struct records_report r;
	char path[128];

	segment_path(path, sizeof(path), self->dir, 10);
	overwrite(path, self->offset[10], zero, record_length(&id));
	EXPECT_EQ(-EBADMSG, verify(self, SIZE_MAX, &r));
	EXPECT_NE(NULL, strstr(r.wrong, "missing"));
}

TEST_F(records, record_of_another_seed)
{
	struct record_id id = { .seed = 8, .sequence = 10 };
	struct records_report r;
	char buf[RECORD_MAX], path[128];

	record_fill(&id, buf);
	segment_path(path, sizeof(path), self->dir, 10);
	overwrite(path, self->offset[10], buf, RECORD_HEADER);
	EXPECT_EQ(-EBADMSG, verify(self, SIZE_MAX, &r));
}

TEST_F(records, last_one_cut_off)
{
	struct records_report r;
	char path[128];

	segment_path(path, sizeof(path), self->dir, RECORDS - 1);
	ASSERT_EQ(0, truncate(path, self->offset[RECORDS - 1] + 5));
	EXPECT_EQ(-EBADMSG, verify(self, SIZE_MAX, &r));
	EXPECT_EQ(RECORDS - 1, r.whole);
	/* Had it not been acknowledged, anything would do. */
	self->acks_len--;
	EXPECT_EQ(0, verify(self, SIZE_MAX, &r));
	EXPECT_EQ(RECORDS - 1, r.durable);
}

TEST_F(records, segment_gone)
{
	struct records_report r;
	char path[128];

	segment_path(path, sizeof(path), self->dir, 0);
	unlink(path);
	EXPECT_EQ(-EBADMSG, verify(self, SIZE_MAX, &r));
	EXPECT_EQ(RECORDS - RECORDS_PER_SEGMENT, r.whole);
	/* Unless the list said so before. */
	self->list[self->acks_len++] = (struct ack){ ACK_FORGET, 0, RECORDS_PER_SEGMENT };
	EXPECT_EQ(0, verify(self, SIZE_MAX, &r));
	EXPECT_EQ(RECORDS - RECORDS_PER_SEGMENT, r.durable);
	/* Even if one asks what was durable before that. */
	EXPECT_EQ(0, verify(self, 200 * sizeof(struct ack), &r));
	EXPECT_EQ(199 - RECORDS_PER_SEGMENT, r.durable);
	EXPECT_EQ(RECORDS - 199, r.extra);
}

/* The last fsync() of a thread that failed may have been cut short: no other one. */
TEST_F(records, shut_down)
{
	struct records_report r;
	struct acks acks;
	char path[128];

	segment_path(path, sizeof(path), self->dir, RECORDS - 1);
	ASSERT_EQ(0, truncate(path, self->offset[RECORDS - 1]));
	EXPECT_EQ(-EBADMSG, verify(self, SIZE_MAX, &r));
	ASSERT_EQ(0, acks_read(self->acks, SIZE_MAX, &acks));
	acks_doubt_last(&acks);
	EXPECT_EQ(-EBADMSG, records_verify(self->dir, &acks, &r));

	self->list[self->acks_len++] = (struct ack){ ACK_ERROR, 0, EIO };
	EXPECT_EQ(-EBADMSG, verify(self, SIZE_MAX, &r));
	ASSERT_EQ(0, acks_read(self->acks, SIZE_MAX, &acks));
	acks_doubt_last(&acks);
	EXPECT_EQ(0, records_verify(self->dir, &acks, &r));
	EXPECT_EQ(RECORDS - 1, r.durable);

	ASSERT_EQ(0, truncate(path, self->offset[RECORDS - 2]));
	EXPECT_EQ(-EBADMSG, records_verify(self->dir, &acks, &r));
}

TEST_F(records, lists_that_are_none)
{
	static const struct ack bad[][2] = {
		{ { ACK_DURABLE, 0, 1 } },
		{ { ACK_BEGIN, 0, 1 } },
		{ { ACK_BEGIN, RECORDS_MAX_THREADS + 1, 1 } },
		{ { ACK_BEGIN, 1, 1 }, { ACK_BEGIN, 1, 1 } },
		{ { ACK_BEGIN, 1, 1 }, { ACK_DURABLE, 1, 1 } },
		{ { ACK_BEGIN, 1, 1 }, { ACK_FORGET, 0, 1 } },
		{ { ACK_BEGIN, 1, 1 }, { 17, 0, 1 } },
	};
	struct records_report r;
	size_t i;

	self->acks_len = 2;
	for (i = 0; i < COUNT(bad); i++) {
		memcpy(self->list, bad[i], sizeof(bad[i]));
		EXPECT_EQ(-EINVAL, verify(self, SIZE_MAX, &r)) {
			TH_LOG("row %zu", i);
		}
	}
}

/* ---- versions of blocks ---- */

static const struct {
	const char *name;
	struct block_state state;
	enum block_level level;
	int versions[2]; /* of the first and of the last sectors; -1: zeroes, -2: garbage */
	bool allowed;
} block_row[] = {
	{ "never written", { 0, 0, 0, 0 }, BLOCK_ACKED, { -1, -1 }, true },
	{ "never written, garbage", { 0, 0, 0, 0 }, BLOCK_ACKED, { -2, -1 }, false },
	{ "acknowledged", { 0, 3, 3, 0 }, BLOCK_ACKED, { 3, 3 }, true },
	{ "acknowledged and lost", { 0, 3, 3, 0 }, BLOCK_ACKED, { 2, 2 }, false },
	{ "acknowledged and torn", { 0, 3, 3, 0 }, BLOCK_ACKED, { 3, 2 }, false },
	{ "acknowledged and zeroes", { 0, 3, 3, 0 }, BLOCK_ACKED, { -1, -1 }, false },
	{ "from the future", { 0, 3, 3, 0 }, BLOCK_ACKED, { 4, 4 }, false },
	{ "in flight, old", { 0, 3, 4, 0 }, BLOCK_ACKED, { 3, 3 }, true },
	{ "in flight, new", { 0, 3, 4, 0 }, BLOCK_ACKED, { 4, 4 }, true },
	{ "in flight, torn", { 0, 3, 4, 0 }, BLOCK_ACKED, { 4, 3 }, true },
	{ "in flight, older", { 0, 3, 4, 0 }, BLOCK_ACKED, { 2, 4 }, false },
	{ "in flight, garbage", { 0, 3, 4, 0 }, BLOCK_ACKED, { 4, -2 }, false },
	{ "in flight, zeroes", { 0, 3, 4, 0 }, BLOCK_ACKED, { -1, 4 }, false },
	{ "late write over a newer one", { 0, 6, 6, 0 }, BLOCK_ACKED, { 5, 5 }, false },
	{ "zeroed", { 0, 3, 3, 3 }, BLOCK_ACKED, { -1, -1 }, true },
	{ "zeroed and overwritten", { 0, 4, 4, 3 }, BLOCK_ACKED, { -1, 4 }, false },
	{ "zeroing in flight", { 0, 3, 4, 4 }, BLOCK_ACKED, { 3, -1 }, true },
	{ "not flushed and lost", { 2, 5, 5, 0 }, BLOCK_DURABLE, { 2, 2 }, true },
	{ "not flushed and lost, strictly", { 2, 5, 5, 0 }, BLOCK_ACKED, { 2, 2 }, false },
	{ "flushed and lost", { 2, 5, 5, 0 }, BLOCK_DURABLE, { 1, 5 }, false },
	{ "not flushed, zeroes in between", { 2, 5, 5, 3 }, BLOCK_DURABLE, { -1, 4 }, true },
	{ "not flushed, zeroes before", { 2, 5, 5, 1 }, BLOCK_DURABLE, { -1, 4 }, false },
};

/* Sectors 0 to 2, and then 3 to 7, of that version. */
static void make_block(const int versions[2], unsigned char *out)
{
	unsigned char one[BLOCK_BYTES];
	size_t from[3] = { 0, 3 * SECTOR_BYTES, BLOCK_BYTES };
	int i;

	for (i = 0; i < 2; i++) {
		if (versions[i] < 0)
			memset(one, versions[i] == -1 ? 0 : 0x5a, sizeof(one));
		else
			block_fill(1, 9, (uint32_t)versions[i], one);
		memcpy(out + from[i], one + from[i], from[i + 1] - from[i]);
	}
}

TEST(block_versions)
{
	unsigned char buf[BLOCK_BYTES];
	char why[512];
	size_t i;

	for (i = 0; i < COUNT(block_row); i++) {
		make_block(block_row[i].versions, buf);
		why[0] = 0;
		EXPECT_EQ(block_row[i].allowed,
			  block_check(&block_row[i].state, block_row[i].level, 1, 9, buf, why,
				      sizeof(why))) {
			TH_LOG("%s: %s", block_row[i].name, why);
		}
	}
}

TEST(block_of_another_place)
{
	static const struct block_state s = { .acked = 3, .newest = 3 };
	unsigned char buf[BLOCK_BYTES];
	char why[512];

	block_fill(1, 8, 3, buf);
	EXPECT_FALSE(block_check(&s, BLOCK_ACKED, 1, 9, buf, why, sizeof(why)));
	EXPECT_NE(NULL, strstr(why, "of block 8"));
	block_fill(2, 9, 3, buf);
	EXPECT_FALSE(block_check(&s, BLOCK_ACKED, 1, 9, buf, why, sizeof(why)));
	/* One wrong bit behind a right header. */
	block_fill(1, 9, 3, buf);
	EXPECT_TRUE(block_check(&s, BLOCK_ACKED, 1, 9, buf, why, sizeof(why)));
	buf[BLOCK_BYTES - 1] ^= 0x80;
	EXPECT_FALSE(block_check(&s, BLOCK_ACKED, 1, 9, buf, why, sizeof(why)));
}

/* ---- logs ---- */

#define SECTOR 512
#define DISK_SECTORS 16

FIXTURE(log)
{
	char path[64], disk_path[64];
	int fd, disk;
	uint64_t next, entries;
};

FIXTURE_SETUP(log)
{
	snprintf(self->path, sizeof(self->path), "/tmp/log.XXXXXX");
	self->fd = mkstemp(self->path);
	snprintf(self->disk_path, sizeof(self->disk_path), "/tmp/disk.XXXXXX");
	self->disk = mkstemp(self->disk_path);
	ASSERT_GE(self->fd, 0);
	ASSERT_GE(self->disk, 0);
	ASSERT_EQ(0, ftruncate(self->disk, DISK_SECTORS * SECTOR));
	self->next = SECTOR;
}

FIXTURE_TEARDOWN(log)
{
	close(self->fd);
	close(self->disk);
	unlink(self->path);
	unlink(self->disk_path);
}

static void put(int fd, uint64_t offset, const void *buf, size_t size)
{
	if (pwrite(fd, buf, size, (off_t)offset) != (ssize_t)size)
		abort();
}

static void put_super(struct _test_data_log *self, uint64_t magic, uint64_t version, uint64_t entries,
		      uint64_t sector)
{
	uint64_t s[4] = { htole64(magic), htole64(version), htole64(entries), htole64(sector) };

	put(self->fd, 0, s, sizeof(s));
}

/* A description; with @fill >= 0 the data, too, each byte of it @fill. */
static void put_entry(struct _test_data_log *self, uint64_t sector, uint64_t sectors, uint64_t flags,
		      const char *mark, int fill)
{
	uint64_t e[4] = { htole64(sector), htole64(sectors), htole64(flags),
			  htole64(mark ? strlen(mark) : 0) };
	char data[SECTOR * DISK_SECTORS] = "";

	put(self->fd, self->next, data, SECTOR);
	put(self->fd, self->next, e, sizeof(e));
	if (mark)
		put(self->fd, self->next + sizeof(e), mark, strlen(mark));
	self->next += SECTOR;
	if (fill >= 0) {
		memset(data, fill, sizeof(data));
		put(self->fd, self->next, data, sectors * SECTOR);
		self->next += sectors * SECTOR;
	}
	self->entries++;
}

static void end_log(struct _test_data_log *self)
{
	put_entry(self, 0, 0, WRITE_LOG_MARK, WRITE_LOG_END_MARK, -1);
	put_super(self, UINT64_C(0x6a736677736872), 1, self->entries, SECTOR);
}

/* A letter for each sector; '!': it is not whole. */
static const char *disk_text(struct _test_data_log *self)
{
	static char text[DISK_SECTORS + 1];
	char c[SECTOR];
	int i;

	for (i = 0; i < DISK_SECTORS; i++) {
		if (pread(self->disk, c, SECTOR, (off_t)i * SECTOR) != SECTOR)
			abort();
		text[i] = memcmp(c, c + 1, SECTOR - 1) ? '!' : *c ? *c : '.';
	}
	return text;
}

TEST_F(log, writes_discards_marks)
{
	struct write_log log;
	char why[256] = "";
	size_t i;

	put_entry(self, 1, 3, 0, NULL, 'a');
	put_entry(self, 0, 0, WRITE_LOG_FLUSH, NULL, -1);
	put_entry(self, 0, 0, WRITE_LOG_MARK, "acks 48", -1);
	put_entry(self, 2, 1, WRITE_LOG_FUA | WRITE_LOG_METADATA, NULL, 'b');
	put_entry(self, 3, 1, WRITE_LOG_DISCARD, NULL, -1);
	end_log(self);
	ASSERT_EQ(0, write_log_open(self->path, &log, why, sizeof(why))) {
		TH_LOG("%s", why);
	}
	ASSERT_EQ(6, log.count);
	EXPECT_EQ(SECTOR, log.entry[0].offset);
	EXPECT_EQ(3 * SECTOR, log.entry[0].length);
	EXPECT_FALSE(write_entry_is_boundary(&log.entry[0]));
	EXPECT_TRUE(write_entry_is_boundary(&log.entry[1]));
	EXPECT_FALSE(write_entry_has_effect(&log.entry[1]));
	EXPECT_STREQ("acks 48", log.entry[2].mark);
	EXPECT_FALSE(write_entry_has_effect(&log.entry[2]));
	EXPECT_TRUE(write_entry_is_boundary(&log.entry[3]));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, write_log_apply(&log, &log.entry[i], self->disk));
	EXPECT_STREQ(".aaa............", disk_text(self));
	EXPECT_EQ(0, write_log_apply(&log, &log.entry[3], self->disk));
	EXPECT_STREQ(".aba............", disk_text(self));
	EXPECT_EQ(0, write_log_apply(&log, &log.entry[4], self->disk));
	EXPECT_STREQ(".ab.............", disk_text(self));
	write_log_close(&log);
}

/* The subsets are reproducible, differ, keep the order, and tear only if the seed is odd. */
TEST_F(log, subsets)
{
	bool seen_none = false, seen_all = false, seen_torn = false;
	char before[DISK_SECTORS + 1], why[256];
	struct write_log log;
	uint64_t seed;

	put_entry(self, 0, 15, 0, NULL, 'a');
	put_entry(self, 8, 4, 0, NULL, 'b');
	put_entry(self, 0, 0, WRITE_LOG_FLUSH, NULL, -1);
	put_entry(self, 15, 1, WRITE_LOG_FUA, NULL, 'x');
	end_log(self);
	ASSERT_EQ(0, write_log_open(self->path, &log, why, sizeof(why)));
	for (seed = 0; seed < 200; seed++) {
		static const char *const whole[] = { "................", "aaaaaaaaaaaaaaa.",
						     "........bbbb....", "aaaaaaaabbbbaaa." };
		const char *text;
		int i, again;

		for (again = 0; again < 2; again++) {
			ASSERT_EQ(0, ftruncate(self->disk, 0));
			ASSERT_EQ(0, ftruncate(self->disk, DISK_SECTORS * SECTOR));
			ASSERT_LE(0, write_log_apply_subset(&log, 0, 2, seed, self->disk));
			text = disk_text(self);
			if (again)
				EXPECT_STREQ(before, text);
			memcpy(before, text, sizeof(before));
		}
		EXPECT_EQ('.', text[15]);
		for (i = 0; i < 4 && strcmp(whole[i], text); i++)
			;
		if (seed % 2 == 0)
			EXPECT_NE(4, i) TH_LOG("seed %d: %s", (int)seed, text);
		seen_none |= i == 0;
		seen_all |= i == 3;
		/* A logical block is whole, and each of them may be there or not. */
		EXPECT_LE(8, strspn(text, ".a")) TH_LOG("seed %d: %s", (int)seed, text);
		EXPECT_LE(4, strspn(text + 8, ".ab")) TH_LOG("seed %d: %s", (int)seed, text);
		EXPECT_EQ(4, strspn(text + 12, ".a")) TH_LOG("seed %d: %s", (int)seed, text);
		seen_torn |= memchr(text, '.', 8) && memchr(text, 'a', 8);
	}
	EXPECT_TRUE(seen_none && seen_all && seen_torn);
	write_log_close(&log);
}

static int open_and_close(struct _test_data_log *self)
{
	struct write_log log;
	char why[256];
	int err = write_log_open(self->path, &log, why, sizeof(why));

	if (!err)
		write_log_close(&log);
	return err;
}

TEST_F(log, super_blocks_that_are_wrong)
{
	static const uint64_t magic = UINT64_C(0x6a736677736872);

	EXPECT_EQ(-EINVAL, open_and_close(self));
	end_log(self);
	EXPECT_EQ(0, open_and_close(self));
	put_super(self, magic + 1, 1, 1, SECTOR);
	EXPECT_EQ(-EINVAL, open_and_close(self));
	put_super(self, magic, 2, 1, SECTOR);
	EXPECT_EQ(-EINVAL, open_and_close(self));
	put_super(self, magic, 1, 1, 0);
	EXPECT_EQ(-EINVAL, open_and_close(self));
	put_super(self, magic, 1, 1, 1000);
	EXPECT_EQ(-EINVAL, open_and_close(self));
	put_super(self, magic, 1, UINT64_MAX, SECTOR);
	EXPECT_EQ(-EINVAL, open_and_close(self));
	put_super(self, magic, 1, 2, SECTOR);
	EXPECT_EQ(-EINVAL, open_and_close(self));
	put_super(self, magic, 1, 0, SECTOR);
	EXPECT_EQ(-EINVAL, open_and_close(self));
}

TEST_F(log, entries_that_are_wrong)
{
	static const struct {
		uint64_t sector, sectors, flags;
		const char *mark;
		int fill;
	} row[] = {
		{ 0, 1, 1 << 5, NULL, 0 },			     /* unknown flag */
		{ UINT64_MAX, 1, 0, NULL, 0 },			     /* overflow */
		{ 0, UINT64_MAX / SECTOR, 0, NULL, -1 },	     /* overflow */
		{ 0, 1 << 20, 0, NULL, -1 },			     /* data not in the log */
		{ 0, 1, WRITE_LOG_MARK, "mark with sectors", -1 },
		{ 0, 0, 0, "inline data", -1 },
	};
	uint64_t begin = self->next;
	size_t i;

	for (i = 0; i < COUNT(row); i++) {
		self->next = begin;
		self->entries = 0;
		put_entry(self, row[i].sector, row[i].sectors, row[i].flags, row[i].mark,
			  row[i].fill);
		end_log(self);
		EXPECT_EQ(-EINVAL, open_and_close(self)) {
			TH_LOG("row %zu", i);
		}
	}
}

/* The log disk was full, or the machine stopped: what is missing might be the proof. */
TEST_F(log, without_an_end)
{
	put_entry(self, 0, 1, 0, NULL, 'a');
	put_super(self, UINT64_C(0x6a736677736872), 1, self->entries, SECTOR);
	EXPECT_EQ(-EINVAL, open_and_close(self));
}

TEST_HARNESS_MAIN
