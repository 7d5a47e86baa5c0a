/* SPDX-License-Identifier: MIT */
/*
 * What a server with a volatile cache has acknowledged and may lose.
 *
 * Each connection keeps a bounded log of the writes that were acknowledged on
 * it and not flushed since. When the server is lost, all logs together, in the
 * order of acknowledgement, are what has to be written again. In memory that
 * outlives the process they are that for its successor, too. No I/O here.
 *
 * A log is written by its connection's thread. Others read only what is marked
 * so below, or everything while that thread is known to keep still.
 */
#ifndef BACKEND_NBD_JOURNAL_H
#define BACKEND_NBD_JOURNAL_H

#include "backend/backend.h"

#define NBD_JOURNAL_NONE UINT64_MAX

/*
 * What is in the memory, which may outlive the process. The loading side trusts
 * none of it.
 */
struct nbd_journal_entry {
	uint64_t seq; /* 0: free. Stored last: it makes the rest count */
	uint64_t offset;
	uint64_t length;
	uint64_t at; /* WRITE: where its data begins in the ring */
	uint32_t op; /* enum backend_op */
	uint32_t flags;
	uint32_t check; /* of all the others */
	uint32_t reserved;
};

/* Of one log, a cache line each. */
struct nbd_journal_state {
	/* Atomic: the oldest write that is not known to be stable; NBD_JOURNAL_NONE. */
	uint64_t oldest_unflushed;
	/* Up to here something is missing: the log was too small. 0: nothing. */
	uint64_t gap_seq;
	uint64_t slots; /* entries behind these were never used */
	uint64_t reserved[5];
};

struct nbd_journal_header;
struct nbd_journals;

struct nbd_journal {
	struct nbd_journals *all;
	/* Atomic: moves with the layout, while other threads ask nbd_journal_dirty(). */
	struct nbd_journal_state *state;
	/* Data, as a ring. */
	uint8_t *bytes;
	size_t size, begin, used;
	size_t backed; /* of @bytes, from the front: a store cannot fail */
	/* Entries, as a ring, by seq. */
	struct nbd_journal_entry *entries;
	unsigned int max, first, n;
	uint64_t last_seq;    /* of the last write that was acknowledged */
	uint64_t flushed_seq; /* what was acknowledged up to here is stable */
};

/* All logs of a device. */
struct nbd_journals {
	uint64_t seq; /* atomic: the last one that was taken */
	unsigned int n;
	struct nbd_journal *journals; /* one for each connection there can be */
	/* Private. */
	unsigned int links;	/* connections; @n differs until a predecessor's are reset */
	size_t wanted;		/* bytes of data, of all logs together */
	struct nbd_journal_header *header;
	size_t memory_bytes;
	void *own;		/* memory that ends with the process, even if it is not used any more */
	size_t own_bytes;
	struct nbd_journal_state idle; /* of those that do not count yet */
};

/* What nbd_journals_place() has found. */
enum nbd_journal_found {
	NBD_JOURNAL_CLEAN,   /* nothing to repeat */
	NBD_JOURNAL_WRITES,  /* something is not flushed: a replay, or a failing flush */
	NBD_JOURNAL_REFUSED, /* it makes no sense: nobody knows what is missing */
};

/**
 * nbd_journal_bytes() - memory for nbd_journals_place()
 * @n: connections
 * @bytes: for the data of all logs together
 *
 * Return: bytes.
 */
size_t nbd_journal_bytes(unsigned int n, size_t bytes);

/**
 * nbd_journals_create() - in memory that ends with the process
 * @all: to initialise
 * @n: connections
 * @bytes: for the data of all logs together; 0: nothing is kept, only that something is missing
 *
 * Return: 0 or -ENOMEM.
 */
int nbd_journals_create(struct nbd_journals *all, unsigned int n, size_t bytes);

/**
 * nbd_journals_place() - move to memory that outlives the process
 * @all: created, nothing logged yet; its threads, if any, keep still
 * @memory: page-aligned; stays the caller's, and mapped while anything is logged
 * @bytes: its size, at least nbd_journal_bytes() for no data
 * @inherited: it may have the logs of a predecessor, which may have had more
 *	       connections or fewer; they are in @all then, until nbd_journals_reset()
 * @ret_found: what was there; CLEAN if not @inherited
 * @ret_lost: a predecessor has lost writes, and no flush has said so yet
 * @e: why it is refused
 *
 * Return: 0, or -ENOMEM or -EINVAL, and nothing has changed.
 */
int nbd_journals_place(struct nbd_journals *all, void *memory, size_t bytes, bool inherited,
		       enum nbd_journal_found *ret_found, bool *ret_lost, struct error *e);

/**
 * nbd_journal_connections() - how many a predecessor had
 * @memory: see nbd_journals_place(); may be NULL
 * @bytes: its size
 *
 * Return: 0 if that is not known.
 */
unsigned int nbd_journal_connections(const void *memory, size_t bytes);

/**
 * nbd_journals_set_lost() - what a successor has to tell its next flush
 * @all: the logs
 * @lost: writes are lost and no flush has said so; to be set before they leave the log
 */
void nbd_journals_set_lost(struct nbd_journals *all, bool lost);

/**
 * nbd_journals_set_replaying() - what a successor has to fence
 * @all: the logs
 * @replaying: entries are being sent again: set before, cleared when all are answered
 */
void nbd_journals_set_replaying(struct nbd_journals *all, bool replaying);

/**
 * nbd_journals_was_replaying() - after nbd_journals_place()
 * @all: the logs
 *
 * Return: true if a predecessor may have had entries on the wire.
 */
bool nbd_journals_was_replaying(const struct nbd_journals *all);

/**
 * nbd_journals_destroy() - free
 * @all: created, or zeroed memory
 */
void nbd_journals_destroy(struct nbd_journals *all);

/**
 * nbd_journal_add() - a write has been acknowledged; before its done()
 * @j: log of the connection
 * @req: write, write-zeroes or discard. With BACKEND_REQ_FUA it is stable, and
 *	 kept only while older ones are not: a replay must not end with those.
 */
void nbd_journal_add(struct nbd_journal *j, const struct backend_request *req);

/**
 * nbd_journal_mark() - what a flush that is sent now will cover
 * @j: log of the connection
 *
 * Return: for nbd_journal_flushed().
 */
static inline uint64_t nbd_journal_mark(const struct nbd_journal *j)
{
	return j->last_seq;
}

/**
 * nbd_journal_flushed() - a flush has been acknowledged
 * @j: log of the connection that it was sent on
 * @mark: taken when it was sent
 */
void nbd_journal_flushed(struct nbd_journal *j, uint64_t mark);

/**
 * nbd_journal_dirty() - has the connection carried a write that is not flushed?
 * @j: any log
 *
 * Any thread. A write whose done() the caller can have heard of is seen.
 *
 * Return: true if it has.
 */
static inline bool nbd_journal_dirty(const struct nbd_journal *j)
{
	const struct nbd_journal_state *state = __atomic_load_n(&j->state, __ATOMIC_ACQUIRE);

	return __atomic_load_n(&state->oldest_unflushed, __ATOMIC_ACQUIRE) != NBD_JOURNAL_NONE;
}

/**
 * nbd_journal_crowded() - is a flush due, so that there will be room?
 * @j: log of the connection
 *
 * Return: true if it is more than half full, or something is missing already.
 */
bool nbd_journal_crowded(struct nbd_journal *j);

/**
 * nbd_journals_dirty() - is anything not flushed?
 * @all: the logs
 *
 * Any thread.
 *
 * Return: true if so.
 */
bool nbd_journals_dirty(const struct nbd_journals *all);

/**
 * nbd_journals_complete() - could everything be written again?
 * @all: the logs, whose threads keep still
 *
 * Return: false if a replay would leave something out, so must not be tried.
 */
bool nbd_journals_complete(const struct nbd_journals *all);

/**
 * nbd_journals_next() - entries in the order of acknowledgement
 * @all: the logs, whose threads keep still
 * @after: seq of the last one; 0 at the beginning
 * @ret_journal: whose it is
 *
 * Return: the entry, NULL at the end.
 */
const struct nbd_journal_entry *nbd_journals_next(const struct nbd_journals *all, uint64_t after,
						  const struct nbd_journal **ret_journal);

/**
 * nbd_journal_data() - an entry's data
 * @j: its log
 * @entry: a write
 * @iov: receives one or two pieces
 *
 * Return: how many.
 */
unsigned int nbd_journal_data(const struct nbd_journal *j, const struct nbd_journal_entry *entry,
			      struct iovec iov[2]);

/**
 * nbd_journal_memory() - bytes that it has allocated
 * @j: a log
 *
 * Return: bytes, constant.
 */
size_t nbd_journal_memory(const struct nbd_journal *j);

/**
 * nbd_journals_reset() - everything is stable, or given up
 * @all: the logs, whose threads keep still
 */
void nbd_journals_reset(struct nbd_journals *all);

#ifdef TEST_SHARED_STORES
/* Called before each store to the memory: where a kill might fall. */
extern void (*nbd_journal_test_store)(void);
/* Make the checksums of what a fuzzer has changed right. */
void nbd_journal_test_seal(void *memory, size_t bytes);
#endif

#endif
