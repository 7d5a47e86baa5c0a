/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records that a load appends to files, and the list of those that it was told
 * are durable.
 *
 * Length and contents of a record are a function of its name (seed, thread,
 * sequence). So the half that verifies compares every byte, which is more than
 * a checksum can, and a record of another run is never taken for one of this.
 *
 * A thread's records stand one behind the other in its segment files,
 * RECORDS_PER_SEGMENT in each. The list of acknowledgements lies on another
 * file system, whose writes no fault touches.
 */
#ifndef FAULTS_RECORDS_H
#define FAULTS_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_MAX	    16384
#define RECORD_HEADER	    32
#define RECORDS_PER_SEGMENT 128
#define RECORDS_MAX_THREADS 64

struct record_id {
	uint64_t seed;
	uint64_t sequence;
	uint32_t thread;
};

enum record_state {
	RECORD_WHOLE,
	RECORD_ABSENT, /* nothing there, or only zeroes */
	RECORD_TORN,   /* something else is there, or only a part */
};

/* Bytes of this record, RECORD_HEADER to RECORD_MAX. */
size_t record_length(const struct record_id *id);

/* Writes record_length() bytes to @buf. */
void record_fill(const struct record_id *id, void *buf);

/**
 * record_check() - is that the record?
 * @id: the one that has to be there
 * @buf: what is there
 * @have: bytes of @buf; more than the record's length are ignored
 * @ret_wrong: offset of the first wrong or missing byte; set unless WHOLE
 *
 * Return: what was found.
 */
enum record_state record_check(const struct record_id *id, const void *buf, size_t have,
			       size_t *ret_wrong);

/* Name of a segment file, relative to the load's folder. */
void record_segment_name(char *buf, size_t size, uint32_t thread, uint64_t sequence);

/* One entry of the list of acknowledgements: written by one write(). */
enum ack_kind {
	ACK_BEGIN,   /* the first one; thread: how many threads; value: the seed */
	ACK_DURABLE, /* this thread's records up to and including value are durable */
	ACK_FORGET,  /* records before value are about to be deleted */
	ACK_ERROR,   /* the thread ends; value: errno */
};

struct ack {
	uint32_t kind; /* enum ack_kind */
	uint32_t thread;
	uint64_t value;
};

/* What the list says. */
struct acks {
	uint64_t seed;
	uint32_t threads;
	uint64_t errors;
	struct acks_thread {
		uint64_t durable; /* so many records from 0 on */
		uint64_t before;  /* likewise, without the last acknowledgement */
		uint64_t kept;	  /* those before it may be gone */
		bool failed;	  /* it ended with an error */
	} thread[RECORDS_MAX_THREADS];
};

/**
 * acks_read() - read a list of acknowledgements
 * @path: of the file
 * @bytes: as if the list had so many then (SIZE_MAX: all); an entry that is cut
 *         off was not there yet. ACK_FORGET counts even behind that, for the
 *         records may be gone by the time that one looks
 * @ret: receives it
 *
 * Return: 0, or -errno; -EINVAL if that is no such list.
 */
int acks_read(const char *path, size_t bytes, struct acks *ret);

/**
 * acks_doubt_last() - an fsync() during which the file system was shut down proves nothing
 * @acks: as read; the last acknowledgement of each thread that failed is taken back
 *
 * When a disk is removed, or its journal fails, ext4 shuts itself down. An fsync()
 * that is writing its data just then may find the extents not converted or the new
 * size not logged (ext4_end_io_end() is silent about that) and nothing to commit,
 * and return 0; so on every disk, and for that one fsync(): the thread's next write
 * fails with EIO.
 */
void acks_doubt_last(struct acks *acks);

/* What records_verify() found. */
struct records_report {
	uint64_t durable; /* acknowledged and kept: all of them have to be whole */
	uint64_t whole;	  /* of those */
	uint64_t extra;	  /* whole and never acknowledged */
	char wrong[256];  /* the first that is wrong, or "" */
};

/**
 * records_verify() - every acknowledged record is there
 * @dir: the load's folder
 * @acks: what was acknowledged
 * @ret: receives the counts and the first violation
 *
 * What stands behind a thread's last acknowledged record may be anything: a
 * crash may leave it out, in part or whole.
 *
 * Return: 0 if all is well, -EBADMSG if a record is missing or wrong, or
 * another -errno if the files cannot be read.
 */
int records_verify(const char *dir, const struct acks *acks, struct records_report *ret);

#endif
