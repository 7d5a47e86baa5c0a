// SPDX-License-Identifier: MIT
/*
 * Memory. A header, a state for each log, then the entries and the data ring of
 * each. Where it comes from makes no difference. It may be sparse: pages are
 * reserved as they are first used, because a store to shared memory that cannot be
 * had would kill; what cannot be reserved is a log that is too small.
 *
 * A predecessor's is looked at once, when it is placed, and nothing in it is trusted: what
 * makes no sense is refused, and counts as lost. In which order all this is stored:
 * nbd_journal.c.
 */
#include "backend/nbd_journal_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32c.h"

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
#endif

uint32_t nbd_journal_entry_check(const struct nbd_journal_entry *entry)
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

size_t nbd_journal_bytes(unsigned int n, size_t bytes)
{
	return LOGS_AT + n * log_bytes(entries_of(bytes / n), bytes / n);
}

size_t nbd_journal_memory(const struct nbd_journal *j)
{
	return log_bytes(j->max, j->size);
}

/* --- what is reserved --- */

/* The kernel's pages may be larger than PAGE; what else is in them is in the same file. */
static int populate(void *p, size_t bytes)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	const uintptr_t begin = round_down((uintptr_t)p, page);

	return madvise((void *)begin, round_up((uintptr_t)p + bytes, page) - begin,
		       MADV_POPULATE_WRITE);
}

static bool back(const struct nbd_journals *all, void *p, size_t bytes)
{
	/* Memory that is the process's own comes as it is used. */
	return all->header == all->own || !populate(p, bytes);
}

bool nbd_journal_back_data(struct nbd_journal *j, size_t end)
{
	size_t more = min(round_up(end, BACKED_STEP), round_up(j->size, PAGE)) - j->backed;

	if (!back(j->all, j->bytes + j->backed, more))
		return false;
	j->backed += more;
	return true;
}

/* What was there is of another layout, or of nobody. */
bool nbd_journal_back_slots(struct nbd_journal *j)
{
	const unsigned int a_step = BACKED_STEP / sizeof(struct nbd_journal_entry);
	const unsigned int from = (unsigned int)j->state->slots, to = min(from + a_step, j->max);
	uint8_t *begin, *end;

	begin = (uint8_t *)round_down((uintptr_t)&j->entries[from], PAGE);
	end = (uint8_t *)round_up((uintptr_t)&j->entries[to], PAGE);
	if (!back(j->all, begin, (size_t)(end - begin)))
		return false;
	nbd_journal_before_store();
	memset(&j->entries[from], 0, (to - from) * sizeof(j->entries[0]));
	nbd_journal_publish(&j->state->slots, to);
	return true;
}

/* --- layout --- */

static struct nbd_journal_state *state_of(const struct nbd_journals *all, unsigned int i)
{
	return (struct nbd_journal_state *)((uint8_t *)all->header + STATES_AT) + i;
}

/* An empty log in the memory at @at, or without any; at no time without a state. */
static void use_memory(struct nbd_journal *j, struct nbd_journal_state *state,
		       const struct nbd_journal_header *h, uint8_t *at)
{
	const size_t entries_bytes = round_up(h->max * sizeof(struct nbd_journal_entry), PAGE);

	j->entries = at ? (struct nbd_journal_entry *)(void *)at : NULL;
	j->max = at ? h->max : 0;
	j->bytes = at ? at + entries_bytes : NULL;
	j->size = at ? h->size : 0;
	j->first = 0;
	j->n = 0;
	j->begin = 0;
	j->used = 0;
	j->backed = 0;
	__atomic_store_n(&j->state, state, __ATOMIC_RELEASE);
}

/* Where the header says that everything is. */
static void use_layout(struct nbd_journals *all)
{
	const struct nbd_journal_header *h = all->header;
	uint8_t *at = (uint8_t *)all->header + LOGS_AT;

	all->n = h->links;
	for (unsigned int i = 0; i < max(all->n, all->links); i++) {
		struct nbd_journal *j = &all->journals[i];

		/* A number that was taken counts as such whatever the layout. */
		j->flushed_seq = j->last_seq;
		if (i >= all->n) {
			use_memory(j, &all->idle, h, NULL);
			continue;
		}
		use_memory(j, state_of(all, i), h, at);
		at += log_bytes(h->max, h->size);
	}
}

/* As much as is wanted and fits. */
void nbd_journals_lay_out(struct nbd_journals *all)
{
	struct nbd_journal_header *h = all->header;
	const size_t room = (all->memory_bytes - LOGS_AT) / all->links;
	size_t size = all->wanted / all->links;

	if (log_bytes(entries_of(size), size) > room)
		size = room > 4 * PAGE ? round_down((room - 2 * PAGE) / 64 * 62, PAGE) : 0;
	nbd_journal_publish(&h->in_use, h->in_use == 1 ? 0 : h->in_use);
	nbd_journal_before_store();
	for (unsigned int i = 0; i < MAX_LINKS; i++)
		*state_of(all, i) =
			(struct nbd_journal_state){ .oldest_unflushed = NBD_JOURNAL_NONE };
	nbd_journal_before_store();
	memcpy(h->magic, MAGIC, sizeof(h->magic));
	h->version = VERSION;
	h->links = all->links;
	h->size = size;
	h->max = (uint32_t)entries_of(size);
	nbd_journal_before_store();
	h->crc = crc32c(h, offsetof(struct nbd_journal_header, crc));
	nbd_journal_publish(&h->in_use, 1);
	use_layout(all);
}

/* --- what a successor has to know --- */

void nbd_journals_set_lost(struct nbd_journals *all, bool lost)
{
	nbd_journal_publish(&all->header->lost, lost);
}

void nbd_journals_set_replaying(struct nbd_journals *all, bool replaying)
{
	nbd_journal_publish(&all->header->replaying, replaying);
}

bool nbd_journals_was_replaying(const struct nbd_journals *all)
{
	return all->header->replaying != 0;
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
	return entry->check == nbd_journal_entry_check(entry) && entry->op < _BACKEND_OP_MAX &&
	       (entry->op == BACKEND_WRITE || entry->op == BACKEND_WRITE_ZEROES ||
		entry->op == BACKEND_DISCARD) &&
	       !(entry->flags & ~NBD_JOURNAL_ENTRY_FLAGS) && entry->length && entry->seq != NBD_JOURNAL_NONE &&
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
		const struct nbd_journal_entry *entry = nbd_journal_entry_at(j, j->n);

		if (entry->seq <= last || !entry_makes_sense(j, entry) ||
		    (nbd_journal_data_bytes(entry) && j->used && entry->at != (j->begin + j->used) % j->size))
			return err_set(e, EBADMSG, "log %u is damaged at write %u of %u", index,
				       j->n, live);
		if (nbd_journal_data_bytes(entry) && !j->used)
			j->begin = entry->at;
		j->used += nbd_journal_data_bytes(entry);
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

static void forget_all(struct nbd_journals *all)
{
	for (unsigned int i = 0; i < MAX_LINKS; i++) {
		use_memory(&all->journals[i], &all->idle, all->header, NULL);
		all->journals[i].last_seq = 0;
	}
	all->seq = 0;
}

int nbd_journals_place(struct nbd_journals *all, void *memory, size_t bytes, bool inherited,
		       enum nbd_journal_found *ret_found, bool *ret_lost, struct error *e)
{
	if (bytes < LOGS_AT || !is_aligned((uintptr_t)memory, PAGE))
		return err_set(e, EINVAL, "%zu bytes are no place for a log", bytes);
	if (populate(memory, LOGS_AT))
		return err_set_errno(e, errno, "reserve memory for a log");
	all->header = memory;
	all->memory_bytes = bytes;
	if (!inherited) {
		nbd_journal_publish(&all->header->in_use, 0);
		nbd_journal_publish(&all->header->lost, 0);
		nbd_journal_publish(&all->header->replaying, 0);
	}
	*ret_found = NBD_JOURNAL_CLEAN;
	if (all->header->in_use && load(all, e) < 0) {
		*ret_found = NBD_JOURNAL_REFUSED;
		nbd_journals_set_lost(all, true);
		forget_all(all);
	} else if (all->header->in_use && nbd_journals_dirty(all)) {
		*ret_found = NBD_JOURNAL_WRITES;
	}
	*ret_lost = all->header->lost != 0;
	if (*ret_found != NBD_JOURNAL_WRITES)
		nbd_journals_lay_out(all);
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
	for (unsigned int i = 0; i < MAX_LINKS; i++)
		all->journals[i].all = all;
	all->header = memory;
	nbd_journals_lay_out(all);
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
			journals[i].entries[k].check = nbd_journal_entry_check(&journals[i].entries[k]);
}
#endif
