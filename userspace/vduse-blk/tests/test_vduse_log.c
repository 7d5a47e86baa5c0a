// SPDX-License-Identifier: MIT
/*
 * test_vduse_log.c: the file that a successor begins with. It is found as it was
 * left, wherever its writer was killed; anything else is refused with a reason.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/util.h"
#include "transport/vduse_log.h"
#include "virtio/inflight.h"

static char folder[64];
static int dir_fd;

static int setup(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/test-vduse-log-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	dir_fd = open(folder, O_RDONLY | O_DIRECTORY);
	return dir_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	unlinkat(dir_fd, VDUSE_LOG_NAME, 0);
	close(dir_fd);
	return rmdir(folder);
}

static struct vduse_log_facts facts(void)
{
	return (struct vduse_log_facts){
		.name = "disk0", .offered = 0x130000644, .capacity = 2048, .block_size = 512,
		.num_queues = 4, .queue_size = 64,
	};
}

static struct vduse_log *create(const struct vduse_log_facts *f)
{
	struct error e = ERROR_INIT;
	struct vduse_log *log;

	if (vduse_log_create(dir_fd, f, 10000, &log, &e))
		fail_msg("%s", e.text);
	return log;
}

static struct vduse_log *reopen(void)
{
	struct error e = ERROR_INIT;
	struct vduse_log *log;

	if (vduse_log_open(dir_fd, &log, &e))
		fail_msg("%s", e.text);
	return log;
}

static void test_crc(void **state)
{
	(void)state;
	assert_int_equal(crc32c("123456789", 9), 0xe3069283);
	assert_int_equal(crc32c("", 0), 0);
}

static void test_survives(void **state)
{
	struct vduse_log_facts f = facts();
	struct vduse_log *log = create(&f);
	struct stat st;
	size_t bytes;
	uint8_t *r, *journal;
	unsigned int i;

	(void)state;
	assert_int_equal(fstatat(dir_fd, VDUSE_LOG_NAME, &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	for (i = 0; i < 4; i++) {
		r = vduse_log_region(log, i, &bytes);
		assert_true(bytes >= inflight_region_bytes(64));
		assert_int_equal((uintptr_t)r % INFLIGHT_ALIGN, 0);
		assert_int_equal(r[0], 0);
		assert_int_equal(r[bytes - 1], 0);
		memset(r, (int)i + 1, bytes);
	}
	assert_int_equal(*vduse_log_flush_owed(log), 0);
	*vduse_log_flush_owed(log) = 1;
	journal = vduse_log_journal(log, &bytes);
	assert_int_equal(bytes, 10000);
	assert_int_equal((uintptr_t)journal % 4096, 0);
	memset(journal, 99, bytes);
	f = *vduse_log_facts(log);
	for (i = 1; i <= 5; i++) {
		f.status = (uint8_t)i;
		f.features = 0x100 + i;
		f.queues[3].desc = 0x1000 * i;
		vduse_log_write(log, &f);
		vduse_log_close(log);
		log = reopen();
		assert_memory_equal(vduse_log_facts(log), &f, sizeof(f));
		assert_int_equal(*vduse_log_flush_owed(log), 1);
	}
	for (i = 0; i < 4; i++) {
		r = vduse_log_region(log, i, &bytes);
		assert_int_equal(r[0], i + 1);
		assert_int_equal(r[bytes - 1], i + 1);
	}
	journal = vduse_log_journal(log, &bytes);
	assert_int_equal(journal[0] + journal[9999], 2 * 99);
	vduse_log_close(log);

	/* A new device's is empty. */
	log = create(&f);
	r = vduse_log_region(log, 2, &bytes);
	assert_int_equal(r[0], 0);
	assert_int_equal(*vduse_log_flush_owed(log), 0);
	vduse_log_close(log);
	vduse_log_close(NULL);
}

/* Bytes of the file at @at. */
static void poke(off_t at, const void *data, size_t len)
{
	int fd = openat(dir_fd, VDUSE_LOG_NAME, O_RDWR);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, at), len);
	close(fd);
}

static void peek(off_t at, void *data, size_t len)
{
	int fd = openat(dir_fd, VDUSE_LOG_NAME, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, data, len, at), len);
	close(fd);
}

/*
 * Killed while the header is written: any mixture of the old and the new copy is
 * on the place of the older of the two, and the other one is found.
 */
static void test_torn_header(void **state)
{
	enum { HEADER = 24 + sizeof(struct vduse_log_facts), COPY = 8192 };
	static uint8_t before[COPY], after[COPY];
	struct vduse_log_facts first = facts(), second;
	struct vduse_log *log = create(&first);
	size_t cut;
	off_t at;

	(void)state;
	first = *vduse_log_facts(log);
	second = first;
	first.status = 1;
	vduse_log_write(log, &first);
	peek(0, before, COPY);
	second.status = 3;
	second.queues[63].device = UINT64_MAX;
	vduse_log_write(log, &second);
	peek(0, after, COPY);
	at = memcmp(before, after, COPY) ? 0 : COPY;
	if (at) { /* the other copy was written */
		peek(at, after, COPY);
		memset(before, 0, COPY);
	}
	vduse_log_close(log);
	for (cut = 0; cut < HEADER; cut++) {
		static uint8_t torn[COPY];
		const uint32_t no_crc = 0x12345678;

		memcpy(torn, before, COPY);
		memcpy(torn, after, cut);
		memcpy(torn + 12, &no_crc, 4);
		poke(at, torn, HEADER);
		log = reopen();
		assert_memory_equal(vduse_log_facts(log), &first, sizeof(first));
		vduse_log_close(log);
	}
	poke(at, after, HEADER);
	log = reopen();
	assert_memory_equal(vduse_log_facts(log), &second, sizeof(second));
	vduse_log_close(log);
}

static void expect_refusal(int err, const char *text)
{
	struct error e = ERROR_INIT;
	struct vduse_log *log;

	assert_int_equal(vduse_log_open(dir_fd, &log, &e), err);
	if (!strstr(e.text, text))
		fail_msg("\"%s\", not \"%s\"", e.text, text);
}

static void test_refused(void **state)
{
	const uint32_t version = 2;
	struct vduse_log_facts f = facts();
	char path[128];

	(void)state;
	expect_refusal(-ENOENT, "there is no log");

	vduse_log_close(create(&f));
	poke(8, &version, 4);
	poke(8192 + 8, &version, 4);
	poke(8192, "vdublklg", 8);
	expect_refusal(-EPROTO, "has format 2, this vduse-blk knows 1");

	vduse_log_close(create(&f));
	poke(40, "x", 1);
	poke(8192 + 40, "x", 1);
	expect_refusal(-EBADMSG, "is damaged");

	vduse_log_close(create(&f));
	snprintf(path, sizeof(path), "%s/%s", folder, VDUSE_LOG_NAME);
	assert_int_equal(truncate(path, 24000), 0);
	expect_refusal(-EBADMSG, "is damaged: section 1 at 16384, ");
	assert_int_equal(truncate(path, 100), 0);
	expect_refusal(-EBADMSG, "is damaged: 100 bytes");

	assert_int_equal(unlinkat(dir_fd, VDUSE_LOG_NAME, 0), 0);
	assert_int_equal(symlinkat("/etc/passwd", dir_fd, VDUSE_LOG_NAME), 0);
	expect_refusal(-ELOOP, "open the log");
}

struct fit {
	const char *what;
	void (*change)(struct vduse_log_facts *was, struct vduse_log_facts *now);
	const char *message; /* NULL: fits */
};

static void nothing(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	(void)was;
	(void)now;
}

static void name(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	(void)now;
	strcpy(was->name, "disk1");
}

static void queues(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	(void)was;
	now->num_queues = 1;
}

static void size(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	(void)was;
	now->queue_size = 128;
}

static void block(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	(void)was;
	now->block_size = 4096;
}

static void shrunk(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	(void)was;
	now->capacity--;
}

static void grown(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	(void)was;
	now->capacity += 8;
}

static void agreed(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	was->status = VIRTIO_CONFIG_S_FEATURES_OK;
	was->features = 0x204;
	now->offered &= ~0x200ull;
}

static void not_agreed(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	was->status = VIRTIO_CONFIG_S_DRIVER;
	was->features = 0x204;
	now->offered &= ~0x200ull;
}

static void not_used(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	was->status = VIRTIO_CONFIG_S_FEATURES_OK;
	was->features = 0x4;
	now->offered &= ~0x200ull;
}

static void read_only(struct vduse_log_facts *was, struct vduse_log_facts *now)
{
	(void)was;
	now->offered |= 1ull << VIRTIO_BLK_F_RO;
}

static const struct fit fits[] = {
	{ "nothing", nothing, NULL },
	{ "name", name, "is of a device \"disk1\"" },
	{ "queues", queues, "has 4 queues, --queues says 1" },
	{ "queue size", size, "up to 64 entries, --queue-size says 128" },
	{ "block size", block, "blocks of 512 bytes, the storage now 4096" },
	{ "shrunk", shrunk, "has 2048 sectors, the storage only 2047 now" },
	{ "grown", grown, NULL },
	{ "feature in use", agreed, "the driver uses features 0x200" },
	{ "feature before it was agreed", not_agreed, NULL },
	{ "feature not in use", not_used, NULL },
	{ "read-only", read_only, "was writable and is read-only now" },
};

static void test_fits(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(fits); i++) {
		struct vduse_log_facts was = facts(), now = facts();
		struct error e = ERROR_INIT;
		int err;

		fits[i].change(&was, &now);
		err = vduse_log_fits(&was, &now, &e);
		if (err != (fits[i].message ? -EINVAL : 0) ||
		    (fits[i].message && !strstr(e.text, fits[i].message)))
			fail_msg("%s: %d, \"%s\"", fits[i].what, err, e.text);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc),
		cmocka_unit_test_setup_teardown(test_survives, setup, teardown),
		cmocka_unit_test_setup_teardown(test_torn_header, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test(test_fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
