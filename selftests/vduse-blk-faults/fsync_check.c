// SPDX-License-Identifier: GPL-2.0-only
/*
 * usage: fsync_check run DIR ACKS [threads=N] [seconds=S] [seed=N] [segments=N]
 *        fsync_check verify DIR ACKS [bytes=N] [shutdown=1]
 *
 * run: each thread appends records (records.h) to files of its own below DIR,
 * makes them durable in one of several ways, and only then adds an entry to the
 * file ACKS, which has to lie on another disk. It ends after so many seconds
 * (0: never), at SIGTERM, or when no thread is left: each ends at its first
 * error, for after a failed fsync nothing is known about what the page cache
 * holds. A thread keeps that many segment files and deletes older ones.
 *
 * verify: every acknowledged record is there, byte for byte. bytes: as if the
 * list had ended there. shutdown: the file system may have shut itself down; see
 * acks_doubt_last().
 *
 * Each prints one line of key=value. Exit status: 0 all is well (run: errors
 * are no failure, they are counted), 1 an acknowledged record is missing or
 * torn, 2 it could not be done.
 *
 * State: one struct writer a thread, owned by it; counters that others read are
 * atomic. ACKS is opened for appending and gets one write() an entry, so
 * entries of threads never mix, and a thread's are in order.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../vduse/util.h"
#include "options.h"
#include "prng.h"
#include "records.h"

#define BATCH_MAX 8

/* How a batch of records is made durable. */
enum way {
	WAY_FSYNC,
	WAY_FDATASYNC,
	WAY_DSYNC, /* each write with RWF_DSYNC, as with O_DSYNC */
	WAY_RANGE, /* sync_file_range() for each, which promises nothing; fdatasync() at the end */
	WAY_MAX,
};

struct load {
	int dir;
	int acks;
	uint64_t seed;
	uint64_t segments;
	atomic_bool stop;
	atomic_uint_fast64_t records, errors, longest_ms;
	atomic_int first_error;
	atomic_uint running; /* threads */
};

struct writer {
	struct load *load;
	pthread_t thread;
	struct record_id id; /* the next one */
	struct prng choice;
	int fd;
	off_t offset;
	uint64_t oldest; /* sequence of the first record that is kept */
};

static struct load load;

static void on_signal(int sig)
{
	(void)sig;
	atomic_store(&load.stop, true);
}

static int add_ack(struct writer *w, enum ack_kind kind, uint64_t value)
{
	struct ack a = { .kind = kind, .thread = w->id.thread, .value = value };
	ssize_t n = write(w->load->acks, &a, sizeof(a));

	return n == sizeof(a) ? 0 : n < 0 ? -errno : -ENOSPC;
}

static int write_fully(struct writer *w, const char *buf, size_t size, int flags)
{
	struct iovec iov;
	ssize_t n;

	while (size) {
		iov.iov_base = (void *)buf;
		iov.iov_len = size;
		n = pwritev2(w->fd, &iov, 1, w->offset, flags);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		buf += n;
		size -= (size_t)n;
		w->offset += n;
	}
	return 0;
}

/* Segments that are complete, durable and not to be kept: first the list says so, then they go. */
static int forget_old(struct writer *w)
{
	char name[64];
	uint64_t gone = w->oldest;
	int err;

	if (w->id.sequence - w->oldest < w->load->segments * RECORDS_PER_SEGMENT)
		return 0;
	w->oldest += RECORDS_PER_SEGMENT;
	err = add_ack(w, ACK_FORGET, w->oldest);
	if (err)
		return err;
	record_segment_name(name, sizeof(name), w->id.thread, gone);
	return unlinkat(w->load->dir, name, 0) ? -errno : 0;
}

static int new_segment(struct writer *w)
{
	char name[64];
	int err;

	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	err = forget_old(w);
	if (err)
		return err;
	record_segment_name(name, sizeof(name), w->id.thread, w->id.sequence);
	w->fd = openat(w->load->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	w->offset = 0;
	return w->fd < 0 ? -errno : 0;
}

static int write_record(struct writer *w, enum way way)
{
	char buf[RECORD_MAX];
	size_t length = record_length(&w->id);
	off_t begin = w->offset;
	int err;

	record_fill(&w->id, buf);
	err = write_fully(w, buf, length, way == WAY_DSYNC ? RWF_DSYNC : 0);
	if (err)
		return err;
	w->id.sequence++;
	if (way == WAY_RANGE && sync_file_range(w->fd, begin, (off_t)length, SYNC_FILE_RANGE_WRITE))
		return -errno;
	return 0;
}

static int make_durable(struct writer *w, enum way way, bool new)
{
	/* The name of a new file is durable when its folder is. */
	if (new)
		return fsync(w->fd) || fsync(w->load->dir) ? -errno : 0;
	switch (way) {
	case WAY_FSYNC:
		return fsync(w->fd) ? -errno : 0;
	case WAY_FDATASYNC:
	case WAY_RANGE:
		return fdatasync(w->fd) ? -errno : 0;
	case WAY_DSYNC:
	case WAY_MAX:
		break;
	}
	return 0;
}

/* Some records of one segment, and the proof that they are durable. */
static int write_batch(struct writer *w)
{
	enum way way = (enum way)prng_below(&w->choice, WAY_MAX);
	uint64_t count = way == WAY_RANGE ? 2 + prng_below(&w->choice, BATCH_MAX - 1) : 1;
	uint64_t left = RECORDS_PER_SEGMENT - w->id.sequence % RECORDS_PER_SEGMENT;
	bool new = left == RECORDS_PER_SEGMENT;
	uint64_t i;
	int err = 0;

	if (new)
		err = new_segment(w);
	for (i = 0; !err && i < count && i < left; i++)
		err = write_record(w, way);
	if (!err)
		err = make_durable(w, way, new);
	if (!err)
		err = add_ack(w, ACK_DURABLE, w->id.sequence - 1);
	if (!err)
		atomic_fetch_add(&w->load->records, i);
	return err;
}

static void note_longest(struct load *l, uint64_t ms)
{
	uint64_t longest = atomic_load(&l->longest_ms);

	while (ms > longest && !atomic_compare_exchange_weak(&l->longest_ms, &longest, ms))
		;
}

static void note_error(struct writer *w, int err)
{
	int none = 0;

	atomic_fetch_add(&w->load->errors, 1);
	atomic_compare_exchange_strong(&w->load->first_error, &none, -err);
	add_ack(w, ACK_ERROR, (uint64_t)-err);
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	uint64_t begin;
	int err = 0;

	while (!err && !atomic_load(&w->load->stop)) {
		begin = now_ms();
		err = write_batch(w);
		note_longest(w->load, now_ms() - begin);
	}
	if (err)
		note_error(w, err);
	if (w->fd >= 0)
		close(w->fd);
	atomic_fetch_sub(&w->load->running, 1);
	return NULL;
}

static int start_writers(struct writer *writers, uint64_t threads)
{
	struct ack begin = {
		.kind = ACK_BEGIN,
		.thread = (uint32_t)threads,
		.value = load.seed,
	};
	uint32_t i;

	if (write(load.acks, &begin, sizeof(begin)) != sizeof(begin))
		return -EIO;
	for (i = 0; i < threads; i++) {
		writers[i] = (struct writer){
			.load = &load,
			.id = { .seed = load.seed, .thread = i },
			.choice = prng_named(load.seed, i, UINT64_MAX),
			.fd = -1,
		};
		atomic_fetch_add(&load.running, 1);
		if (pthread_create(&writers[i].thread, NULL, writer_main, &writers[i])) {
			atomic_store(&load.stop, true);
			break;
		}
	}
	return (int)i;
}

static void wait_for_the_end(uint64_t seconds)
{
	uint64_t begin = now_ms();

	while (!atomic_load(&load.stop) && atomic_load(&load.running) &&
	       (!seconds || now_ms() - begin < seconds * 1000))
		sleep_ms(50);
	atomic_store(&load.stop, true);
}

static int run(const char *dir, const char *acks, char **argv)
{
	uint64_t threads = 4, seconds = 0, seed = 1, segments = 8;
	const struct option_number options[] = {
		{ "threads", &threads, 1, RECORDS_MAX_THREADS },
		{ "seconds", &seconds, 0, 1000000 },
		{ "seed", &seed, 0, UINT64_MAX },
		{ "segments", &segments, 2, 1000000 },
		{ NULL, NULL, 0, 0 },
	};
	struct writer writers[RECORDS_MAX_THREADS];
	struct sigaction action = { .sa_handler = on_signal };
	int started, i;

	if (options_parse(argv, options))
		return 2;
	load.seed = seed;
	load.segments = segments;
	load.dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	load.acks = open(acks, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	if (load.dir < 0 || load.acks < 0) {
		perror(load.dir < 0 ? dir : acks);
		return 2;
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	started = start_writers(writers, threads);
	if (started > 0)
		wait_for_the_end(seconds);
	for (i = 0; i < started; i++)
		pthread_join(writers[i].thread, NULL);
	printf("records=%" PRIuFAST64 " errors=%" PRIuFAST64
	       " first_error=%s longest_ms=%" PRIuFAST64 "\n",
	       load.records, load.errors,
	       load.first_error ? strerrorname_np(load.first_error) : "none", load.longest_ms);
	return (uint64_t)started == threads ? 0 : 2;
}

static int verify(const char *dir, const char *list, char **argv)
{
	uint64_t bytes = SIZE_MAX, shutdown = 0;
	const struct option_number options[] = {
		{ "bytes", &bytes, 0, SIZE_MAX },
		{ "shutdown", &shutdown, 0, 1 },
		{ NULL, NULL, 0, 0 },
	};
	struct records_report report;
	struct acks acks;
	int err;

	if (options_parse(argv, options))
		return 2;
	err = acks_read(list, bytes, &acks);
	if (err) {
		fprintf(stderr, "%s: %s\n", list, strerror(-err));
		return 2;
	}
	if (shutdown)
		acks_doubt_last(&acks);
	err = records_verify(dir, &acks, &report);
	printf("durable=%" PRIu64 " whole=%" PRIu64 " extra=%" PRIu64 " errors=%" PRIu64 "\n",
	       report.durable, report.whole, report.extra, acks.errors);
	if (report.wrong[0])
		printf("%s\n", report.wrong);
	if (err == -EBADMSG)
		return 1;
	if (err)
		fprintf(stderr, "%s: %s\n", dir, strerror(-err));
	return err ? 2 : 0;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[1], "run"))
		return run(argv[2], argv[3], argv + 4);
	if (argc >= 4 && !strcmp(argv[1], "verify"))
		return verify(argv[2], argv[3], argv + 4);
	fprintf(stderr,
		"usage: fsync_check run DIR ACKS [threads=N] [seconds=S] [seed=N] [segments=N]\n"
		"       fsync_check verify DIR ACKS [bytes=N] [shutdown=1]\n");
	return 2;
}
