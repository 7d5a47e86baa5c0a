// SPDX-License-Identifier: MIT
/*
 * Numbers. Every acknowledged write takes the next of one sequence, before its
 * done(): if the driver sent one write after it had heard of the end of
 * another, it has the larger number, whichever queue it used. Of two that
 * overlapped in time the driver knows no order, so any will do.
 *
 * Trimming. A flush makes stable what was acknowledged on its own connection
 * before it was sent. But an entry may leave the log only when everything older
 * is stable on *all* connections: if A was replaced by B on another connection,
 * B was flushed and forgotten, and then the server lost, replaying A alone would
 * undo B. So a log drops what is older than the oldest unflushed write of all
 * logs (the horizon); what is stable but newer stays and is replayed with the
 * others, in order, which does no harm. A replay begins at the horizon: a stable
 * write with FUA may be newer than what is before it, and in no log.
 *
 * A log without room drops everything at once and remembers up to which number
 * something is missing (the gap). It is complete again when the horizon has
 * passed the gap. New entries are logged meanwhile.
 *
 * Memory. A header, a state for each log, then the entries and the data ring of
 * each. Where it comes from makes no difference. It may be sparse: pages are
 * reserved as they are first used, because a store to shared memory that cannot be
 * had would kill; what cannot be reserved is a log that is too small.
 *
 * Surviving a kill. The process may die between any two stores; its successor
 * (load()) has to find every write whose done() was called, or that something is
 * missing. A write that was logged and whose done() was not called is in the log of
 * requests in flight too: it is sent again after the replay, so it does no harm
 * here. Only a log's own thread stores to it, in this order:
 *
 *	add	1 oldest_unflushed, if it is the first: from here on the log is dirty
 *		2 room: entries below the horizon, seq = 0 each, the oldest first. What
 *		  is below the horizon counts for nobody, there or not
 *		3 the entry but for its seq, its data; nobody looks, the slot is free
 *		4 seq. Now it counts, and may be acknowledged
 *	no room	gap_seq before the entries go: between, there is too much, and
 *		it is said to be incomplete
 *	flushed	oldest_unflushed, one store. Before it, stable writes are repeated,
 *		which is right as long as all that is newer is repeated too, and the
 *		horizon has not moved; after it, entries may go
 *	reset	every log's oldest_unflushed first. The horizon rises with each and
 *		what it leaves behind is stable; when all are clean nothing counts
 *	slots	zeroed before the number that makes them count
 *	lost	set before what was lost leaves the log (reset), and cleared when a
 *		flush that came later has succeeded: at worst it is said twice
 *	layout	only while nothing counts: in_use = 0, geometry, checksum, in_use = 1.
 *		A successor that finds 0 has nothing to repeat; "lost" counts all the
 *		same. What is refused keeps its in_use until the last store and has
 *		"lost" first, so it is refused again, or lost
 *
 * The order of the program is the order that counts (only the process dies), and
 * the barriers keep the compiler to it.
 */
#include "backend/nbd_journal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "base/crc32c.h"
#include "loop/iov.h"

/* Small writes fill the entries before the ring. */
#define BYTES_PER_ENTRY 2048
#define MIN_ENTRIES	64

#define MAGIC	     "vdubljnl"
#define VERSION	     1u
#define MAX_LINKS    64u
#define PAGE	     4096u
#define STATES_AT    PAGE
#define LOGS_AT	     (2 * PAGE)
#define BACKED_STEP  (64u << 10)
#define ENTRY_FLAGS  (BACKEND_REQ_FUA | BACKEND_REQ_MAY_UNMAP)

struct nbd_journal_header {
	char magic[8];
	uint32_t version;
	uint32_t links;
	uint64_t size; /* bytes of data of each log */
	uint32_t max;  /* entries of each log */
	uint32_t crc;  /* of all in front of it */
	uint64_t in_use;
	uint64_t lost;
	uint64_t replaying; /* entries may be on their way to the server */
};

_Static_assert(sizeof(struct nbd_journal_header) == 56, "no padding in shared memory");
_Static_assert(sizeof(struct nbd_journal_entry) == 48, "no padding in shared memory");
_Static_assert(MAX_LINKS * sizeof(struct nbd_journal_state) <= LOGS_AT - STATES_AT,
	       "a state for each log");

#ifdef TEST_SHARED_STORES
void (*nbd_journal_test_store)(void);

static void before_store(void)
{
	if (nbd_journal_test_store)
		nbd_journal_test_store();
}
#else
static void before_store(void)
{
}
#endif

/* --- stores --- */

/* Everything in front of it in the program is in memory when this is. */
static void publish(uint64_t *field, uint64_t value)
{
	before_store();
	__atomic_store_n(field, value, __ATOMIC_RELEASE);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static void publish_oldest(struct nbd_journal *j, uint64_t seq)
{
	publish(&j->state->oldest_unflushed, seq);
}

static uint64_t horizon(const struct nbd_journals *all)
{
	uint64_t oldest = NBD_JOURNAL_NONE;

	for (unsigned int i = 0; i < all->n; i++)
		oldest = min(oldest, __atomic_load_n(&all->journals[i].state->oldest_unflushed,
						     __ATOMIC_ACQUIRE));
	return oldest;
}

static uint32_t entry_check(const struct nbd_journal_entry *entry)
{
	const uint64_t fields[] = { entry->seq, entry->offset, entry->length, entry->at,
				    (uint64_t)entry->op << 32 | entry->flags };
	uint64_t mix = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		mix = (mix ^ fields[i]) * 0x9e3779b97f4a7c15u;
		mix ^= mix >> 29;
	}
	return (uint32_t)(mix >> 32);
}

/* --- sizes --- */

static size_t entries_of(size_t bytes)
{
	return bytes ? max(bytes / BYTES_PER_ENTRY, (size_t)MIN_ENTRIES) : 0;
}

static size_t log_bytes(size_t max, size_t size)
{
	return round_up(max * sizeof(struct nbd_journal_entry), PAGE) + round_up(size, PAGE);
}

/* --- what is reserved --- */

static bool back(const struct nbd_journals *all, void *p, size_t bytes)
{
	/* Memory that is the process's own comes as it is used. */
	return all->header == all->own || !madvise(p, bytes, MADV_POPULATE_WRITE);
}

static bool back_data(struct nbd_journal *j, size_t end)
{
	size_t more;

	if (likely(end <= j->backed))
		return true;
	more = min(round_up(end, BACKED_STEP), round_up(j->size, PAGE)) - j->backed;
	if (!back(j->all, j->bytes + j->backed, more))
		return false;
	j->backed += more;
	return true;
}

/* What was there is of another layout, or of nobody. */
static bool back_slot(struct nbd_journal *j, unsigned int slot)
{
	const unsigned int a_step = BACKED_STEP / sizeof(struct nbd_journal_entry);
	const unsigned int from = (unsigned int)j->state->slots, to = min(from + a_step, j->max);
	uint8_t *begin, *end;

	if (likely(slot < from))
		return true;
	begin = (uint8_t *)round_down((uintptr_t)&j->entries[from], PAGE);
	end = (uint8_t *)round_up((uintptr_t)&j->entries[to], PAGE);
	if (!back(j->all, begin, (size_t)(end - begin)))
		return false;
	before_store();
	memset(&j->entries[from], 0, (to - from) * sizeof(j->entries[0]));
	publish(&j->state->slots, to);
	return true;
}

/* --- the log --- */

static struct nbd_journal_entry *entry_at(const struct nbd_journal *j, unsigned int i)
{
	return &j->entries[(j->first + i) % j->max];
}

static size_t data_bytes(const struct nbd_journal_entry *entry)
{
	return entry->op == BACKEND_WRITE ? entry->length : 0;
}

static bool is_stable(const struct nbd_journal *j, const struct nbd_journal_entry *entry)
{
	return entry->flags & BACKEND_REQ_FUA || entry->seq <= j->flushed_seq;
}

static void drop_first(struct nbd_journal *j)
{
	struct nbd_journal_entry *entry = entry_at(j, 0);
	size_t bytes = data_bytes(entry);

	publish(&entry->seq, 0);
	j->begin = j->size ? (j->begin + bytes) % j->size : 0;
	j->used -= bytes;
	j->first = (j->first + 1) % j->max;
	/* What is small stays small: pages that were never used need not be. */
	if (--j->n)
		return;
	j->begin = 0;
	j->first = 0;
}

static void trim(struct nbd_journal *j)
{
	const uint64_t limit = horizon(j->all);

	while (j->n && entry_at(j, 0)->seq < limit)
		drop_first(j);
	if (j->state->gap_seq && j->state->gap_seq < limit)
		publish(&j->state->gap_seq, 0);
}

static bool has_room(const struct nbd_journal *j, size_t bytes)
{
	return j->n < j->max && bytes <= j->size - j->used;
}

static void copy_in(struct nbd_journal *j, size_t at, const struct backend_request *req)
{
	size_t head = min(req->length, j->size - at);

	iov_gather(req->iov, req->niov, 0, j->bytes + at, head);
	if (head < req->length)
		iov_gather(req->iov, req->niov, head, j->bytes, req->length - head);
}

/* False if the memory is not to be had. */
static bool append(struct nbd_journal *j, const struct backend_request *req, uint64_t seq)
{
	const bool data = req->op == BACKEND_WRITE;
	struct nbd_journal_entry *entry = entry_at(j, j->n), e;
	const size_t at = data ? (j->begin + j->used) % j->size : 0;

	if (!back_slot(j, (j->first + j->n) % j->max) ||
	    (data && !back_data(j, at + req->length <= j->size ? at + req->length : j->size)))
		return false;
	e = (struct nbd_journal_entry){ .seq = seq,
					.offset = req->offset,
					.length = req->length,
					.at = at,
					.op = (uint32_t)req->op,
					.flags = req->flags & ENTRY_FLAGS };
	e.check = entry_check(&e);
	e.seq = 0;
	before_store();
	*entry = e;
	if (data)
		copy_in(j, at, req);
	publish(&entry->seq, seq);
	j->used += data_bytes(entry);
	j->n++;
	return true;
}

void nbd_journal_add(struct nbd_journal *j, const struct backend_request *req)
{
	const size_t bytes = req->op == BACKEND_WRITE ? req->length : 0;
	const bool stable = req->flags & BACKEND_REQ_FUA;
	uint64_t seq;

	if (stable && horizon(j->all) == NBD_JOURNAL_NONE)
		return;
	seq = __atomic_add_fetch(&j->all->seq, 1, __ATOMIC_RELAXED);
	if (!stable) {
		j->last_seq = seq;
		if (!nbd_journal_dirty(j))
			publish_oldest(j, seq);
	}
	if (unlikely(!has_room(j, bytes)))
		trim(j);
	if (likely(has_room(j, bytes)) && append(j, req, seq))
		return;
	publish(&j->state->gap_seq, seq);
	while (j->n)
		drop_first(j);
}

void nbd_journal_flushed(struct nbd_journal *j, uint64_t mark)
{
	uint64_t oldest = NBD_JOURNAL_NONE;

	j->flushed_seq = max(j->flushed_seq, mark);
	/* What is missing counts as if it were right behind the flush. */
	if (j->last_seq > j->flushed_seq && j->state->gap_seq > j->flushed_seq)
		oldest = j->flushed_seq + 1;
	for (unsigned int i = 0; i < j->n && oldest == NBD_JOURNAL_NONE; i++)
		if (!is_stable(j, entry_at(j, i)))
			oldest = entry_at(j, i)->seq;
	publish_oldest(j, oldest);
	trim(j);
}

static bool half_full(const struct nbd_journal *j)
{
	return j->used > j->size / 2 || j->n > j->max / 2 || j->state->gap_seq;
}

bool nbd_journal_crowded(struct nbd_journal *j)
{
	if (likely(!half_full(j)) || !j->size)
		return false;
	/* Other connections may have been flushed meanwhile. */
	trim(j);
	return half_full(j);
}

bool nbd_journals_dirty(const struct nbd_journals *all)
{
	return horizon(all) != NBD_JOURNAL_NONE;
}

bool nbd_journals_complete(const struct nbd_journals *all)
{
	const uint64_t limit = horizon(all);

	for (unsigned int i = 0; i < all->n; i++) {
		const uint64_t gap = all->journals[i].state->gap_seq;

		if (gap && gap >= limit)
			return false;
	}
	return true;
}

/* The first entry of @j behind @after: they are sorted. */
static const struct nbd_journal_entry *first_after(const struct nbd_journal *j, uint64_t after)
{
	unsigned int low = 0, high = j->n;

	while (low < high) {
		unsigned int middle = low + (high - low) / 2;

		if (entry_at(j, middle)->seq <= after)
			low = middle + 1;
		else
			high = middle;
	}
	return low < j->n ? entry_at(j, low) : NULL;
}

const struct nbd_journal_entry *nbd_journals_next(const struct nbd_journals *all, uint64_t after,
						  const struct nbd_journal **ret_journal)
{
	const uint64_t limit = horizon(all);
	const struct nbd_journal_entry *best = NULL;

	/* A log that had nothing to do may still hold what could have been trimmed. */
	if (limit != NBD_JOURNAL_NONE)
		after = max(after, limit - 1);
	for (unsigned int i = 0; i < all->n; i++) {
		const struct nbd_journal_entry *entry = first_after(&all->journals[i], after);

		if (entry && (!best || entry->seq < best->seq)) {
			best = entry;
			*ret_journal = &all->journals[i];
		}
	}
	return best;
}

unsigned int nbd_journal_data(const struct nbd_journal *j, const struct nbd_journal_entry *entry,
			      struct iovec iov[2])
{
	size_t head = min(entry->length, j->size - entry->at);

	iov[0] = (struct iovec){ j->bytes + entry->at, head };
	iov[1] = (struct iovec){ j->bytes, entry->length - head };
	return iov[1].iov_len ? 2 : 1;
}

size_t nbd_journal_memory(const struct nbd_journal *j)
{
	return log_bytes(j->max, j->size);
}

/* --- memory --- */

size_t nbd_journal_bytes(unsigned int n, size_t bytes)
{
	return LOGS_AT + n * log_bytes(entries_of(bytes / n), bytes / n);
}

static struct nbd_journal_state *state_of(const struct nbd_journals *all, unsigned int i)
{
	return (struct nbd_journal_state *)((uint8_t *)all->header + STATES_AT) + i;
}

/* Where the header says that everything is. */
static void use_layout(struct nbd_journals *all)
{
	const struct nbd_journal_header *h = all->header;
	uint8_t *at = (uint8_t *)all->header + LOGS_AT;

	all->n = h->links;
	for (unsigned int i = 0; i < max(all->n, all->links); i++) {
		struct nbd_journal *j = &all->journals[i];
		const uint64_t last_seq = j->last_seq;

		*j = (struct nbd_journal){ .all = all, .state = &all->idle };
		/* A number that was taken counts as such whatever the layout. */
		j->last_seq = last_seq;
		j->flushed_seq = last_seq;
		if (i >= all->n)
			continue;
		j->state = state_of(all, i);
		j->entries = (struct nbd_journal_entry *)(void *)at;
		j->max = h->max;
		j->bytes = at + round_up(h->max * sizeof(struct nbd_journal_entry), PAGE);
		j->size = h->size;
		at += log_bytes(h->max, h->size);
	}
}

/* As much as is wanted and fits. */
static void lay_out(struct nbd_journals *all)
{
	struct nbd_journal_header *h = all->header;
	const size_t room = (all->memory_bytes - LOGS_AT) / all->links;
	size_t size = all->wanted / all->links;

	if (log_bytes(entries_of(size), size) > room)
		size = room > 4 * PAGE ? round_down((room - 2 * PAGE) / 64 * 62, PAGE) : 0;
	publish(&h->in_use, h->in_use == 1 ? 0 : h->in_use);
	before_store();
	for (unsigned int i = 0; i < MAX_LINKS; i++)
		*state_of(all, i) =
			(struct nbd_journal_state){ .oldest_unflushed = NBD_JOURNAL_NONE };
	before_store();
	memcpy(h->magic, MAGIC, sizeof(h->magic));
	h->version = VERSION;
	h->links = all->links;
	h->size = size;
	h->max = (uint32_t)entries_of(size);
	before_store();
	h->crc = crc32c(h, offsetof(struct nbd_journal_header, crc));
	publish(&h->in_use, 1);
	use_layout(all);
}

void nbd_journals_set_lost(struct nbd_journals *all, bool lost)
{
	publish(&all->header->lost, lost);
}

void nbd_journals_set_replaying(struct nbd_journals *all, bool replaying)
{
	publish(&all->header->replaying, replaying);
}

bool nbd_journals_was_replaying(const struct nbd_journals *all)
{
	return all->header->replaying != 0;
}

void nbd_journals_reset(struct nbd_journals *all)
{
	for (unsigned int i = 0; i < all->n; i++)
		publish_oldest(&all->journals[i], NBD_JOURNAL_NONE);
	if (all->header->links != all->links) {
		lay_out(all);
		return;
	}
	for (unsigned int i = 0; i < all->n; i++) {
		struct nbd_journal *j = &all->journals[i];

		publish(&j->state->gap_seq, 0);
		while (j->n)
			drop_first(j);
		j->flushed_seq = j->last_seq;
	}
}

/* --- a predecessor's --- */

static int check_header(const struct nbd_journals *all, struct error *e)
{
	const struct nbd_journal_header *h = all->header;

	if (memcmp(h->magic, MAGIC, sizeof(h->magic)) ||
	    h->crc != crc32c(h, offsetof(struct nbd_journal_header, crc)))
		return err_set(e, EBADMSG, "it is damaged, or none");
	if (h->version != VERSION)
		return err_set(e, EBADMSG, "it has format %u, this vduse-blk knows %u", h->version,
			       VERSION);
	if (!h->links || h->links > MAX_LINKS || h->max > UINT32_MAX / 2 || !h->max != !h->size ||
	    h->size > all->memory_bytes ||
	    (all->memory_bytes - LOGS_AT) / h->links < log_bytes(h->max, h->size))
		return err_set(e, EBADMSG, "it is damaged: %u logs of %" PRIu64 " bytes in %zu",
			       h->links, h->size, all->memory_bytes);
	return 0;
}

unsigned int nbd_journal_connections(const void *memory, size_t bytes)
{
	const struct nbd_journals all = { .header = (struct nbd_journal_header *)memory,
					  .memory_bytes = bytes };

	if (!memory || bytes < LOGS_AT || !all.header->in_use || check_header(&all, NULL) < 0)
		return 0;
	return all.header->links;
}

static bool entry_makes_sense(const struct nbd_journal *j, const struct nbd_journal_entry *entry)
{
	return entry->check == entry_check(entry) && entry->op < _BACKEND_OP_MAX &&
	       (entry->op == BACKEND_WRITE || entry->op == BACKEND_WRITE_ZEROES ||
		entry->op == BACKEND_DISCARD) &&
	       !(entry->flags & ~ENTRY_FLAGS) && entry->length && entry->seq != NBD_JOURNAL_NONE &&
	       entry->offset <= UINT64_MAX - entry->length &&
	       (entry->op != BACKEND_WRITE ||
		(entry->length <= j->size - j->used && entry->at < j->size));
}

/* The slot of the first entry: those that count are one run, perhaps around the end. */
static unsigned int find_first(const struct nbd_journal *j, unsigned int slots)
{
	unsigned int first = 0;

	for (unsigned int i = 0; i < slots; i++) {
		const struct nbd_journal_entry *entry = &j->entries[i];

		if (entry->seq &&
		    (!j->entries[first].seq || entry->seq < j->entries[first].seq))
			first = i;
	}
	return first;
}

static int load_log(struct nbd_journal *j, unsigned int index, struct error *e)
{
	const unsigned int slots = (unsigned int)min(j->state->slots, (uint64_t)j->max);
	unsigned int live = 0;
	uint64_t last = 0;

	for (unsigned int i = 0; i < slots; i++)
		live += j->entries[i].seq != 0;
	j->first = find_first(j, slots);
	for (; j->n < live; j->n++) {
		const struct nbd_journal_entry *entry = entry_at(j, j->n);

		if (entry->seq <= last || !entry_makes_sense(j, entry) ||
		    (data_bytes(entry) && j->used && entry->at != (j->begin + j->used) % j->size))
			return err_set(e, EBADMSG, "log %u is damaged at write %u of %u", index,
				       j->n, live);
		if (data_bytes(entry) && !j->used)
			j->begin = entry->at;
		j->used += data_bytes(entry);
		last = entry->seq;
	}
	j->last_seq = max(last, j->state->gap_seq);
	if (j->state->oldest_unflushed != NBD_JOURNAL_NONE)
		j->last_seq = max(j->last_seq, j->state->oldest_unflushed);
	if (j->last_seq > NBD_JOURNAL_NONE / 2)
		return err_set(e, EBADMSG, "log %u is damaged: write number %" PRIu64, index,
			       j->last_seq);
	return 0;
}

static int load(struct nbd_journals *all, struct error *e)
{
	int err = check_header(all, e);

	if (err)
		return err;
	use_layout(all);
	for (unsigned int i = 0; i < all->n; i++) {
		err = load_log(&all->journals[i], i, e);
		if (err)
			return err;
		all->seq = max(all->seq, all->journals[i].last_seq);
	}
	return 0;
}

int nbd_journals_place(struct nbd_journals *all, void *memory, size_t bytes, bool inherited,
		       enum nbd_journal_found *ret_found, bool *ret_lost, struct error *e)
{
	if (bytes < LOGS_AT || !is_aligned((uintptr_t)memory, PAGE))
		return err_set(e, EINVAL, "%zu bytes are no place for a log", bytes);
	if (madvise(memory, LOGS_AT, MADV_POPULATE_WRITE))
		return err_set_errno(e, errno, "reserve memory for a log");
	all->header = memory;
	all->memory_bytes = bytes;
	if (!inherited) {
		publish(&all->header->in_use, 0);
		publish(&all->header->lost, 0);
		publish(&all->header->replaying, 0);
	}
	*ret_found = NBD_JOURNAL_CLEAN;
	if (all->header->in_use && load(all, e) < 0) {
		*ret_found = NBD_JOURNAL_REFUSED;
		nbd_journals_set_lost(all, true);
		memset(all->journals, 0, MAX_LINKS * sizeof(all->journals[0]));
		all->seq = 0;
	} else if (all->header->in_use && nbd_journals_dirty(all)) {
		*ret_found = NBD_JOURNAL_WRITES;
	}
	*ret_lost = all->header->lost != 0;
	if (*ret_found != NBD_JOURNAL_WRITES)
		lay_out(all);
	return 0;
}

int nbd_journals_create(struct nbd_journals *all, unsigned int n, size_t bytes)
{
	void *memory;

	*all = (struct nbd_journals){ .links = n,
				      .wanted = bytes,
				      .idle.oldest_unflushed = NBD_JOURNAL_NONE };
	all->journals = calloc(MAX_LINKS, sizeof(struct nbd_journal));
	all->memory_bytes = nbd_journal_bytes(n, bytes);
	all->own_bytes = all->memory_bytes;
	memory = mmap(NULL, all->own_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory != MAP_FAILED)
		all->own = memory;
	if (!all->journals || !all->own || n > MAX_LINKS) {
		nbd_journals_destroy(all);
		return -ENOMEM;
	}
	all->header = memory;
	lay_out(all);
	return 0;
}

void nbd_journals_destroy(struct nbd_journals *all)
{
	if (all->own)
		munmap(all->own, all->own_bytes);
	free(all->journals);
	*all = (struct nbd_journals){ 0 };
}

#ifdef TEST_SHARED_STORES
void nbd_journal_test_seal(void *memory, size_t bytes)
{
	struct nbd_journals all = { .header = memory, .memory_bytes = bytes };
	struct nbd_journal journals[MAX_LINKS] = { 0 };
	struct nbd_journal_header *h = memory;

	h->crc = crc32c(h, offsetof(struct nbd_journal_header, crc));
	if (check_header(&all, NULL) < 0)
		return;
	all.journals = journals;
	use_layout(&all);
	for (unsigned int i = 0; i < all.n; i++)
		for (unsigned int k = 0; k < journals[i].max && k < journals[i].state->slots; k++)
			journals[i].entries[k].check = entry_check(&journals[i].entries[k]);
}
#endif
