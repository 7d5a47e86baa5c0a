// SPDX-License-Identifier: MIT
/*
 * vduse_log.c: the log of a VDUSE device.
 *
 *	0	header
 *	8192	header, the other copy
 *	16383	one byte: the driver's next flush has to fail (not 0)
 *	16384	sections, as the header says: regions of virtqueue 0, 1, ...; journal
 *
 * Of the two copies the valid one with the higher sequence number counts. A
 * change is written to the other copy, whose checksum is wrong until it is whole:
 * first the checksum is destroyed, then the rest is written, then the checksum.
 * So a kill anywhere leaves the old copy or both valid. The byte behind them belongs
 * to neither, for queue threads clear it.
 *
 * The version changes when an older daemon would misunderstand the file. A newer
 * daemon has to read all versions of a release before it: a device lives longer
 * than the daemon, that is what an upgrade is.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/util.h"
#include "transport/vduse_log.h"
#include "virtio/inflight.h"
#include "virtio/virtqueue.h"

#define MAGIC		"vdublklg"
#define VERSION		1u
#define COPY_BYTES	8192u
#define SECTIONS_AT	(2 * COPY_BYTES)
#define FLUSH_OWED_AT	(SECTIONS_AT - 1)
#define SECTION_ALIGN	4096u
/* No file is larger: sums of sizes cannot overflow. */
#define FILE_MAX	(1ull << 40)

struct header {
	char magic[8];
	uint32_t version;
	uint32_t crc; /* of the whole header, with this field zero */
	uint64_t sequence;
	struct vduse_log_facts facts;
};

_Static_assert(sizeof(struct header) < COPY_BYTES, "a header fits its copy, and a byte");
_Static_assert(sizeof(struct vduse_log_facts) == 256 + 40 + 4 * 24 + 64 * 32, "no padding in the file");
_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "the file is little-endian");

struct vduse_log {
	uint8_t *map;
	size_t size;
	size_t region_bytes;
	uint8_t *regions;
	uint8_t *journal; /* may be NULL */
	size_t journal_bytes;
	unsigned int current; /* the copy that counts */
	struct header header; /* what it says */
};

static uint32_t checksum(const struct header *h)
{
	struct header copy = *h;

	copy.crc = 0;
	return crc32c(&copy, sizeof(copy));
}

static uint64_t regions_bytes(const struct vduse_log_facts *facts)
{
	return (uint64_t)facts->num_queues * inflight_region_bytes(facts->queue_size);
}

/* Returns the size of the file. */
static uint64_t lay_out(struct vduse_log_facts *facts, uint64_t journal_bytes)
{
	const uint64_t regions = regions_bytes(facts);
	uint64_t at = SECTIONS_AT;

	facts->sections[0] = (struct vduse_log_section){
		.type = VDUSE_LOG_INFLIGHT, .offset = at, .bytes = regions,
	};
	at += round_up(regions, SECTION_ALIGN);
	if (!journal_bytes)
		return at;
	facts->sections[1] = (struct vduse_log_section){
		.type = VDUSE_LOG_JOURNAL, .offset = at, .bytes = journal_bytes,
	};
	return at + round_up(journal_bytes, SECTION_ALIGN);
}

/* The checksum says that we wrote it; a mistake then must not become a wild pointer. */
static int find_sections(struct vduse_log *log, struct error *e)
{
	const struct vduse_log_facts *f = &log->header.facts;
	unsigned int i;

	log->region_bytes = inflight_region_bytes(f->queue_size);
	for (i = 0; i < VDUSE_LOG_SECTIONS; i++) {
		const struct vduse_log_section *s = &f->sections[i];

		if (s->type == VDUSE_LOG_NOTHING)
			continue;
		if (s->offset % SECTION_ALIGN || s->offset < SECTIONS_AT ||
		    s->offset > log->size || s->bytes > log->size - s->offset)
			return err_set(e, EBADMSG, "the log of requests in flight is damaged:"
				       " section %u at %" PRIu64 ", %" PRIu64 " bytes of %zu",
				       s->type, s->offset, s->bytes, log->size);
		if (s->type == VDUSE_LOG_INFLIGHT && s->bytes >= regions_bytes(f)) {
			log->regions = log->map + s->offset;
		} else if (s->type == VDUSE_LOG_JOURNAL) {
			log->journal = log->map + s->offset;
			log->journal_bytes = s->bytes;
		}
	}
	if (!log->regions)
		return err_set(e, EBADMSG, "the log of requests in flight is damaged: no section"
			       " for %u virtqueues", f->num_queues);
	return 0;
}

static void write_copy(struct vduse_log *log, unsigned int which)
{
	struct header *to = (struct header *)(void *)(log->map + which * COPY_BYTES);

	WRITE_ONCE(to->crc, ~log->header.crc);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	memcpy(to, &log->header, offsetof(struct header, crc));
	memcpy(&to->sequence, &log->header.sequence,
	       sizeof(*to) - offsetof(struct header, sequence));
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	WRITE_ONCE(to->crc, log->header.crc);
	log->current = which;
}

void vduse_log_write(struct vduse_log *log, const struct vduse_log_facts *facts)
{
	log->header.facts = *facts;
	log->header.sequence++;
	log->header.crc = checksum(&log->header);
	write_copy(log, !log->current);
}

const struct vduse_log_facts *vduse_log_facts(const struct vduse_log *log)
{
	return &log->header.facts;
}

void *vduse_log_region(const struct vduse_log *log, unsigned int index, size_t *ret_bytes)
{
	*ret_bytes = log->region_bytes;
	return log->regions + index * log->region_bytes;
}

void *vduse_log_journal(const struct vduse_log *log, size_t *ret_bytes)
{
	*ret_bytes = log->journal_bytes;
	return log->journal;
}

uint8_t *vduse_log_flush_owed(const struct vduse_log *log)
{
	return log->map + FLUSH_OWED_AT;
}

static int map_file(int fd, size_t size, struct vduse_log **ret_log, struct error *e)
{
	struct vduse_log *log = calloc(1, sizeof(*log));

	if (!log)
		return err_set(e, ENOMEM, "out of memory");
	log->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (log->map == MAP_FAILED) {
		free(log);
		return err_set_errno(e, errno, "map the log of requests in flight");
	}
	log->size = size;
	*ret_log = log;
	return 0;
}

int vduse_log_create(int dir_fd, const struct vduse_log_facts *facts, uint64_t journal_bytes,
		     struct vduse_log **ret_log, struct error *e)
{
	struct vduse_log_facts all = *facts;
	const uint64_t size = lay_out(&all, journal_bytes);
	uint64_t reserved;
	auto_close int fd = -1;
	struct vduse_log *log;
	int err;

	if (unlinkat(dir_fd, VDUSE_LOG_NAME, 0) && errno != ENOENT)
		return err_set_errno(e, errno, "remove an old log of requests in flight");
	fd = openat(dir_fd, VDUSE_LOG_NAME, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return err_set_errno(e, errno, "create the log of requests in flight");
	/*
	 * A store to memory that cannot be had later would be a SIGBUS. The journal is
	 * large and mostly empty: the backend reserves what it uses.
	 */
	reserved = journal_bytes ? all.sections[1].offset : size;
	err = posix_fallocate(fd, 0, (off_t)reserved);
	if (err)
		return err_set_errno(e, err, "reserve %" PRIu64 " bytes for the log of requests in flight",
				     reserved);
	if (ftruncate(fd, (off_t)size))
		return err_set_errno(e, errno, "make room for unflushed writes");
	err = map_file(fd, size, &log, e);
	if (err)
		return err;
	memcpy(log->header.magic, MAGIC, sizeof(log->header.magic));
	log->header.version = VERSION;
	vduse_log_write(log, &all);
	err = find_sections(log, e);
	if (err) {
		vduse_log_close(log);
		return err;
	}
	*ret_log = log;
	return 0;
}

static bool read_copy(const struct vduse_log *log, unsigned int which, struct header *ret_header)
{
	memcpy(ret_header, log->map + which * COPY_BYTES, sizeof(*ret_header));
	return !memcmp(ret_header->magic, MAGIC, sizeof(ret_header->magic)) &&
	       ret_header->version == VERSION && ret_header->crc == checksum(ret_header);
}

static int choose_copy(struct vduse_log *log, struct error *e)
{
	struct header copies[2];
	const bool first = read_copy(log, 0, &copies[0]), second = read_copy(log, 1, &copies[1]);

	if (!first && !second) {
		unsigned int i;

		/* A daemon of another age writes its version in both copies. */
		for (i = 0; i < 2; i++)
			if (!memcmp(copies[i].magic, MAGIC, sizeof(copies[i].magic)) &&
			    copies[i].version != VERSION)
				return err_set(e, EPROTO, "the log of requests in flight has format"
					       " %u, this vduse-blk knows %u", copies[i].version,
					       VERSION);
		return err_set(e, EBADMSG, "the log of requests in flight is damaged");
	}
	log->current = second && (!first || copies[1].sequence > copies[0].sequence);
	log->header = copies[log->current];
	return 0;
}

static int check_facts(const struct vduse_log *log, struct error *e)
{
	const struct vduse_log_facts *f = &log->header.facts;

	if (!f->num_queues || f->num_queues > VDUSE_LOG_QUEUES_MAX || !f->queue_size ||
	    f->queue_size > VIRTQUEUE_MAX_NUM ||
	    !memchr(f->name, '\0', sizeof(f->name)))
		return err_set(e, EBADMSG, "the log of requests in flight is damaged: %u queues of"
			       " %u in %zu bytes", f->num_queues, f->queue_size, log->size);
	return 0;
}

int vduse_log_open(int dir_fd, struct vduse_log **ret_log, struct error *e)
{
	auto_close int fd = openat(dir_fd, VDUSE_LOG_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	struct vduse_log *log;
	struct stat st;
	int err;

	if (fd < 0 && errno == ENOENT)
		return err_set(e, ENOENT, "there is no log of requests in flight");
	if (fd < 0 || fstat(fd, &st))
		return err_set_errno(e, errno, "open the log of requests in flight");
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)SECTIONS_AT ||
	    st.st_size > (off_t)FILE_MAX)
		return err_set(e, EBADMSG, "the log of requests in flight is damaged: %lld bytes",
			       (long long)st.st_size);
	err = map_file(fd, (size_t)st.st_size, &log, e);
	if (err)
		return err;
	err = choose_copy(log, e);
	if (!err)
		err = check_facts(log, e);
	if (!err)
		err = find_sections(log, e);
	if (err) {
		vduse_log_close(log);
		return err;
	}
	*ret_log = log;
	return 0;
}

/* The file has the size and the sections that it had: those are never changed. */
int vduse_log_reload(struct vduse_log *log, struct error *e)
{
	int err = choose_copy(log, e);

	if (!err)
		err = check_facts(log, e);
	if (!err)
		err = find_sections(log, e);
	return err;
}

void vduse_log_close(struct vduse_log *log)
{
	if (!log)
		return;
	munmap(log->map, log->size);
	free(log);
}

/* Does the driver rely on what is not offered any more? */
static int features_fit(const struct vduse_log_facts *was, const struct vduse_log_facts *now,
			struct error *e)
{
	const uint64_t read_only = 1ull << VIRTIO_BLK_F_RO;
	const uint64_t agreed = was->status & VIRTIO_CONFIG_S_FEATURES_OK ? was->features : 0;

	/* First, for it takes other features with it. */
	if (now->offered & ~was->offered & read_only)
		return err_set(e, EINVAL, "the disk was writable and is read-only now");
	if (agreed & ~now->offered)
		return err_set(e, EINVAL, "the driver uses features 0x%" PRIx64
			       " that the storage and the options do not offer now",
			       agreed & ~now->offered);
	return 0;
}

int vduse_log_fits(const struct vduse_log_facts *was, const struct vduse_log_facts *now,
		   struct error *e)
{
	if (strncmp(was->name, now->name, sizeof(was->name)))
		return err_set(e, EINVAL, "the log of requests in flight is of a device \"%s\"",
			       was->name);
	if (was->num_queues != now->num_queues)
		return err_set(e, EINVAL, "the device has %u queues, --queues says %u",
			       was->num_queues, now->num_queues);
	if (was->queue_size != now->queue_size)
		return err_set(e, EINVAL, "the device's rings have up to %u entries, --queue-size"
			       " says %u", was->queue_size, now->queue_size);
	if (was->block_size != now->block_size)
		return err_set(e, EINVAL, "the disk has blocks of %u bytes, the storage now %u",
			       was->block_size, now->block_size);
	if (now->capacity < was->capacity)
		return err_set(e, EINVAL, "the disk has %" PRIu64 " sectors, the storage only %"
			       PRIu64 " now", was->capacity, now->capacity);
	return features_fit(was, now, e);
}
