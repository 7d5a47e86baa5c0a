// SPDX-License-Identifier: MIT
/*
 * fuzz_vduse_log.c: a file of any content and size as a predecessor's log.
 *
 * The first byte says what is done to it: bit 0 and 1 make the checksum of the
 * first and the second header right, so that what is behind that check is reached;
 * the others choose the size of the file. Whatever is accepted has sections inside
 * of the file: every byte of them is read.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "transport/vduse_log.h"

#define COPY_BYTES	8192u
#define HEADER_BYTES	(24 + sizeof(struct vduse_log_facts))
#define CRC_AT		12
#define FILE_BYTES	(64u << 10)

static void require(int ok)
{
	if (!ok)
		abort();
}

static void fix_checksum(uint8_t *header)
{
	uint32_t crc;

	memset(header + CRC_AT, 0, sizeof(crc));
	crc = crc32c(header, HEADER_BYTES);
	memcpy(header + CRC_AT, &crc, sizeof(crc));
}

static unsigned int sum(const uint8_t *data, size_t len)
{
	unsigned int total = 0;

	while (len--)
		total += *data++;
	return total;
}

static void use(struct vduse_log *log)
{
	const struct vduse_log_facts *facts = vduse_log_facts(log);
	static volatile unsigned int sink;
	unsigned int total = 0;
	struct vduse_log_facts now = *facts;
	struct error e = ERROR_INIT;
	const uint8_t *journal;
	unsigned int i;
	size_t bytes;

	for (i = 0; i < facts->num_queues; i++) {
		const uint8_t *region = vduse_log_region(log, i, &bytes);

		total += sum(region, bytes);
	}
	journal = vduse_log_journal(log, &bytes);
	require(!journal == !bytes || !bytes);
	if (journal)
		total += sum(journal, bytes);
	sink = total;
	(void)sink;
	require(memchr(facts->name, 0, sizeof(facts->name)) != NULL);
	/* A disk that becomes read-only does not fit, whatever was accepted. */
	now.offered |= facts->features & ~(1ull << VIRTIO_BLK_F_RO);
	require(!vduse_log_fits(facts, &now, &e) ||
		facts->features & ~facts->offered & 1ull << VIRTIO_BLK_F_RO);
	now.status ^= 15;
	vduse_log_write(log, &now);
	require(vduse_log_facts(log)->status == now.status);
}

static int folder(void)
{
	char path[] = "/tmp/fuzz-vduse-log-XXXXXX";
	static int fd = -1;

	if (fd < 0) {
		require(mkdtemp(path) != NULL);
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		require(fd >= 0);
	}
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t file[FILE_BYTES];
	struct error e = ERROR_INIT;
	struct vduse_log *log;
	size_t bytes;
	int fd;

	if (!size)
		return 0;
	memset(file, 0, sizeof(file));
	memcpy(file, data + 1, size - 1 < sizeof(file) ? size - 1 : sizeof(file));
	if (data[0] & 1)
		fix_checksum(file);
	if (data[0] & 2)
		fix_checksum(file + COPY_BYTES);
	bytes = sizeof(file) - (size_t)(data[0] >> 2) * 1000;
	fd = openat(folder(), VDUSE_LOG_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	require(fd >= 0 && write(fd, file, bytes) == (ssize_t)bytes);
	close(fd);
	if (vduse_log_open(folder(), &log, &e)) {
		require(e.text[0]);
	} else {
		use(log);
		vduse_log_close(log);
	}
	unlinkat(folder(), VDUSE_LOG_NAME, 0);
	return 0;
}
