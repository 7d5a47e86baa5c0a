// SPDX-License-Identifier: MIT
/*
 * The log of acknowledged, unflushed writes: what it keeps, when it forgets,
 * and when it admits that something is missing. Then a model: random writes and
 * flushes on several connections against a server that loses its cache; and the
 * same with a process that is killed at every single store to the log's memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <sys/mman.h>

#include "backend/nbd_journal.h"

#define BLOCK 512

static void add(struct nbd_journal *j, enum backend_op op, uint64_t offset, uint64_t length,
		uint8_t byte, uint32_t flags)
{
	static uint8_t data[65536];
	struct iovec iov[2] = { { data, length / 3 }, { data + length / 3, length - length / 3 } };
	struct backend_request req = {
		.op = op, .flags = flags, .offset = offset, .length = length, .iov = iov, .niov = 2
	};

	if (op == BACKEND_WRITE)
		memset(data, byte, length);
	nbd_journal_add(j, &req);
}

static void write_block(struct nbd_journal *j, uint64_t block, uint8_t byte)
{
	add(j, BACKEND_WRITE, block * BLOCK, BLOCK, byte, 0);
}

static void flush(struct nbd_journal *j)
{
	nbd_journal_flushed(j, nbd_journal_mark(j));
}

static unsigned int entries(const struct nbd_journals *all)
{
	const struct nbd_journal_entry *entry = NULL;
	const struct nbd_journal *j;
	uint64_t last = 0;
	unsigned int n = 0;

	while ((entry = nbd_journals_next(all, last, &j))) {
		assert_true(entry->seq > last);
		last = entry->seq;
		n++;
	}
	return n;
}

static void test_order(void **state)
{
	const struct nbd_journal_entry *entry;
	const struct nbd_journal *j;
	struct nbd_journals all;
	struct iovec iov[2];

	(void)state;
	assert_int_equal(nbd_journals_create(&all, 2, 65536), 0);
	assert_false(nbd_journals_dirty(&all));
	write_block(&all.journals[1], 7, 1);
	write_block(&all.journals[0], 7, 2);
	add(&all.journals[1], BACKEND_WRITE_ZEROES, 0, 1 << 20, 0, BACKEND_REQ_MAY_UNMAP);
	assert_true(nbd_journals_dirty(&all));
	assert_true(nbd_journals_complete(&all));

	entry = nbd_journals_next(&all, 0, &j);
	assert_ptr_equal(j, &all.journals[1]);
	assert_int_equal(nbd_journal_data(j, entry, iov), 1);
	assert_int_equal(iov[0].iov_len, BLOCK);
	assert_int_equal(*(uint8_t *)iov[0].iov_base, 1);
	entry = nbd_journals_next(&all, entry->seq, &j);
	assert_ptr_equal(j, &all.journals[0]);
	assert_int_equal(entry->offset, 7 * BLOCK);
	entry = nbd_journals_next(&all, entry->seq, &j);
	assert_int_equal(entry->op, BACKEND_WRITE_ZEROES);
	assert_int_equal(entry->flags, BACKEND_REQ_MAY_UNMAP);
	assert_null(nbd_journals_next(&all, entry->seq, &j));
	nbd_journals_reset(&all);
	assert_false(nbd_journals_dirty(&all));
	assert_int_equal(entries(&all), 0);
	nbd_journals_destroy(&all);
}

/* A flush covers what was acknowledged before it was sent, on its connection. */
static void test_flush(void **state)
{
	struct nbd_journals all;
	uint64_t mark;

	(void)state;
	assert_int_equal(nbd_journals_create(&all, 1, 65536), 0);
	write_block(&all.journals[0], 0, 1);
	mark = nbd_journal_mark(&all.journals[0]);
	write_block(&all.journals[0], 1, 1);
	nbd_journal_flushed(&all.journals[0], mark);
	assert_true(nbd_journal_dirty(&all.journals[0]));
	assert_int_equal(entries(&all), 1);
	flush(&all.journals[0]);
	assert_false(nbd_journal_dirty(&all.journals[0]));
	assert_int_equal(entries(&all), 0);
	nbd_journals_destroy(&all);
}

/* What is stable stays while something older, elsewhere, is not. */
static void test_horizon(void **state)
{
	struct nbd_journals all;

	(void)state;
	assert_int_equal(nbd_journals_create(&all, 2, 65536), 0);
	write_block(&all.journals[0], 0, 1);
	write_block(&all.journals[1], 0, 2);
	flush(&all.journals[1]);
	assert_false(nbd_journal_dirty(&all.journals[1]));
	assert_int_equal(entries(&all), 2);
	flush(&all.journals[0]);
	assert_int_equal(all.journals[0].n, 0);
	/* The other log's thread looks when it has something to do. */
	assert_int_equal(all.journals[1].n, 1);
	flush(&all.journals[1]);
	assert_int_equal(all.journals[1].n, 0);
	nbd_journals_destroy(&all);
}

static void test_fua(void **state)
{
	struct nbd_journals all;

	(void)state;
	assert_int_equal(nbd_journals_create(&all, 2, 65536), 0);
	/* Alone it is stable, and nothing to remember. */
	add(&all.journals[0], BACKEND_WRITE, 0, BLOCK, 1, BACKEND_REQ_FUA);
	assert_int_equal(entries(&all), 0);
	assert_false(nbd_journals_dirty(&all));
	write_block(&all.journals[1], 0, 2);
	add(&all.journals[0], BACKEND_WRITE, 0, BLOCK, 3, BACKEND_REQ_FUA);
	assert_false(nbd_journal_dirty(&all.journals[0]));
	assert_int_equal(entries(&all), 2);
	nbd_journals_destroy(&all);
}

/* A log that is too small says so, until a flush has covered what it lacks. */
static void test_overflow(void **state)
{
	struct nbd_journals all;
	struct nbd_journal *j;

	(void)state;
	assert_int_equal(nbd_journals_create(&all, 1, 8 * BLOCK), 0);
	j = &all.journals[0];
	for (int i = 0; i < 4; i++)
		write_block(j, (uint64_t)i, 1);
	assert_false(nbd_journal_crowded(j));
	write_block(j, 4, 1);
	assert_true(nbd_journal_crowded(j));
	for (int i = 5; i < 8; i++)
		write_block(j, (uint64_t)i, 1);
	assert_true(nbd_journals_complete(&all));
	write_block(j, 8, 1);
	assert_false(nbd_journals_complete(&all));
	assert_true(nbd_journal_dirty(j));
	assert_true(nbd_journal_crowded(j));
	/* It logs again, and what is missing is flushed. */
	write_block(j, 9, 1);
	flush(j);
	assert_true(nbd_journals_complete(&all));
	assert_false(nbd_journal_dirty(j));
	assert_false(nbd_journal_crowded(j));
	write_block(j, 1, 1);
	assert_int_equal(entries(&all), 1);
	/* One that is larger than all of it. */
	add(j, BACKEND_WRITE, 0, 9 * BLOCK, 1, 0);
	assert_false(nbd_journals_complete(&all));
	nbd_journals_destroy(&all);
}

/* A flush that left before the gap does not close it. */
static void test_gap_and_early_flush(void **state)
{
	struct nbd_journals all;
	struct nbd_journal *j;
	uint64_t mark;

	(void)state;
	assert_int_equal(nbd_journals_create(&all, 1, 2 * BLOCK), 0);
	j = &all.journals[0];
	write_block(j, 0, 1);
	mark = nbd_journal_mark(j);
	write_block(j, 1, 1);
	write_block(j, 2, 1);
	nbd_journal_flushed(j, mark);
	assert_false(nbd_journals_complete(&all));
	assert_true(nbd_journal_dirty(j));
	flush(j);
	assert_true(nbd_journals_complete(&all));
	nbd_journals_destroy(&all);
}

static void test_off(void **state)
{
	struct nbd_journals all;

	(void)state;
	assert_int_equal(nbd_journals_create(&all, 2, 0), 0);
	write_block(&all.journals[0], 0, 1);
	assert_true(nbd_journals_dirty(&all));
	assert_false(nbd_journals_complete(&all));
	assert_false(nbd_journal_crowded(&all.journals[0]));
	flush(&all.journals[0]);
	assert_false(nbd_journals_dirty(&all));
	assert_true(nbd_journals_complete(&all));
	nbd_journals_destroy(&all);
}

/* --- the model --- */

#define MODEL_BLOCKS 16
#define MODEL_LINKS  3

struct model {
	struct nbd_journals all;
	uint64_t marks[MODEL_LINKS]; /* of the flush under way; 0: none */
	uint8_t content[MODEL_BLOCKS];
	/* What the server has on its disk; its cache may have been written back at any time. */
	uint8_t stable[MODEL_BLOCKS];
	uint32_t rng;
	uint8_t next;
};

static uint32_t rnd(struct model *m, uint32_t below)
{
	m->rng = m->rng * 1664525u + 1013904223u;
	return (m->rng >> 8) % below;
}

static void model_step(struct model *m)
{
	unsigned int link = rnd(m, MODEL_LINKS), block = rnd(m, MODEL_BLOCKS);
	struct nbd_journal *j = &m->all.journals[link];
	bool fua;

	switch (rnd(m, 8)) {
	case 0: /* write-back of one block */
		m->stable[block] = m->content[block];
		break;
	case 1:
		if (!m->marks[link])
			m->marks[link] = nbd_journal_mark(j);
		break;
	case 2:
		/* Stable at least what the mark says; the model's server does all of it. */
		if (m->marks[link])
			nbd_journal_flushed(j, m->marks[link]);
		if (m->marks[link])
			memcpy(m->stable, m->content, sizeof(m->content));
		m->marks[link] = 0;
		break;
	default:
		fua = !rnd(m, 5);
		m->content[block] = ++m->next;
		if (fua)
			m->stable[block] = m->next;
		add(j, BACKEND_WRITE, block * BLOCK, BLOCK, m->next, fua ? BACKEND_REQ_FUA : 0);
		break;
	}
}

/* The cache is gone: the disk and the logs together make up everything that was acknowledged. */
static void model_lose(struct model *m)
{
	const struct nbd_journal_entry *entry;
	const struct nbd_journal *j;
	struct iovec iov[2];
	uint64_t last = 0;

	while ((entry = nbd_journals_next(&m->all, last, &j))) {
		nbd_journal_data(j, entry, iov);
		m->stable[entry->offset / BLOCK] = *(uint8_t *)iov[0].iov_base;
		last = entry->seq;
	}
	assert_memory_equal(m->stable, m->content, sizeof(m->content));
	memset(m->marks, 0, sizeof(m->marks));
	nbd_journals_reset(&m->all);
}

static void test_model(void **state)
{
	unsigned int lost = 0, incomplete = 0;

	(void)state;
	for (uint32_t seed = 0; seed < 400; seed++) {
		struct model m = { .rng = seed };

		/* Sometimes too small. */
		assert_int_equal(nbd_journals_create(&m.all, MODEL_LINKS,
						     (seed % 2 ? 64 : 12) * BLOCK),
				 0);
		for (int step = 0; step < 500; step++) {
			model_step(&m);
			if (rnd(&m, 40))
				continue;
			if (nbd_journals_complete(&m.all)) {
				model_lose(&m);
				lost++;
			} else {
				incomplete++;
			}
		}
		nbd_journals_destroy(&m.all);
	}
	assert_true(lost > 1000 && incomplete > 100);
}

/* --- killed at every store --- */

#define KILL_LINKS  3
#define KILL_WRITES 4096

/* A write that the server has carried out, in the order of that. */
struct written {
	uint8_t block, value;
	uint8_t link;
	bool stable;
};

struct kill_model {
	struct nbd_journals all;
	uint8_t *memory;
	size_t bytes;
	struct written writes[KILL_WRITES];
	unsigned int n;
	unsigned int nmarks[KILL_LINKS]; /* writes when the flush under way was sent */
	uint64_t marks[KILL_LINKS];
	bool flushing[KILL_LINKS];
	uint8_t content[MODEL_BLOCKS]; /* what was acknowledged to the driver */
	int busy_block;		       /* its newest write is not yet; -1: none */
	uint8_t busy_value;
	bool excused; /* it may be incomplete: it was, or is about to be */
	uint32_t rng;
	uint8_t next;
};

static struct kill_model *km;
static struct {
	unsigned int kills, replays, incomplete, lost, nested;
} seen;

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

static uint32_t krnd(uint32_t below)
{
	km->rng = km->rng * 1664525u + 1013904223u;
	return (km->rng >> 8) % below;
}

/* What is on the disk if the server has kept nothing but what it had to, or all of it. */
static void disk_of(bool kept, uint8_t disk[MODEL_BLOCKS])
{
	memset(disk, 0, MODEL_BLOCKS);
	for (unsigned int i = 0; i < km->n; i++)
		if (kept || km->writes[i].stable)
			disk[km->writes[i].block] = km->writes[i].value;
}

static void replay_onto(const struct nbd_journals *all, uint8_t disk[MODEL_BLOCKS])
{
	const struct nbd_journal_entry *entry;
	const struct nbd_journal *j;
	struct iovec iov[2];
	uint64_t last = 0;

	while ((entry = nbd_journals_next(all, last, &j))) {
		assert_int_equal(nbd_journal_data(j, entry, iov) > 0, 1);
		disk[entry->offset / BLOCK] = *(uint8_t *)iov[0].iov_base;
		last = entry->seq;
	}
}

static void assert_promised(const uint8_t disk[MODEL_BLOCKS])
{
	for (int i = 0; i < MODEL_BLOCKS; i++) {
		if (disk[i] == km->content[i] || (i == km->busy_block && disk[i] == km->busy_value))
			continue;
		fail_msg("block %d has %u, acknowledged was %u", i, disk[i], km->content[i]);
	}
}

static uint8_t *successor_memory, *grandchild_memory;
static uint8_t disks[2][MODEL_BLOCKS]; /* as the successor has it: kept or not */

/* A process begins with a copy of the memory. Returns false if its first flush fails. */
static bool begin_with(struct nbd_journals *all, uint8_t *memory, unsigned int links)
{
	enum nbd_journal_found found;
	struct error e = ERROR_INIT;
	bool lost;

	assert_int_equal(nbd_journals_create(all, links, 64 * BLOCK), 0);
	assert_int_equal(nbd_journals_place(all, memory, km->bytes, true, &found, &lost, &e), 0);
	if (found == NBD_JOURNAL_REFUSED)
		fail_msg("%s", e.text);
	seen.lost += lost;
	if (lost)
		return false;
	if (found == NBD_JOURNAL_WRITES && !nbd_journals_complete(all)) {
		assert_true(km->excused);
		seen.incomplete++;
		return false;
	}
	return true;
}

/* The successor is killed too. */
static void kill_successor(void)
{
	void (*hook)(void) = nbd_journal_test_store;
	struct nbd_journals all;

	nbd_journal_test_store = NULL;
	seen.nested++;
	memcpy(grandchild_memory, successor_memory, km->bytes);
	if (begin_with(&all, grandchild_memory, KILL_LINKS)) {
		for (int kept = 0; kept < 2; kept++) {
			uint8_t disk[MODEL_BLOCKS];

			memcpy(disk, disks[kept], sizeof(disk));
			replay_onto(&all, disk);
			assert_promised(disk);
		}
	}
	nbd_journals_destroy(&all);
	nbd_journal_test_store = hook;
}

static void kill_here(void)
{
	/* With other connections than its predecessor's now and then. */
	const unsigned int links = 1 + krnd(KILL_LINKS);
	const bool nested = !krnd(50);
	struct nbd_journals all;

	seen.kills++;
	memcpy(successor_memory, km->memory, km->bytes);
	disk_of(false, disks[0]);
	disk_of(true, disks[1]);
	nbd_journal_test_store = nested ? kill_successor : NULL;
	if (begin_with(&all, successor_memory, links)) {
		for (int kept = 0; kept < 2; kept++)
			replay_onto(&all, disks[kept]);
		seen.replays++;
		assert_promised(disks[0]);
		assert_promised(disks[1]);
		nbd_journals_reset(&all);
		assert_false(nbd_journals_dirty(&all));
	}
	nbd_journal_test_store = NULL;
	nbd_journals_destroy(&all);
	nbd_journal_test_store = kill_here;
}

static void kill_write(unsigned int link, unsigned int block)
{
	const bool fua = !krnd(5);

	km->busy_block = (int)block;
	km->busy_value = ++km->next;
	km->writes[km->n++] = (struct written){ (uint8_t)block, km->next, (uint8_t)link, fua };
	add(&km->all.journals[link], BACKEND_WRITE, block * BLOCK, BLOCK, km->next,
	    fua ? BACKEND_REQ_FUA : 0);
	km->content[block] = km->next;
	km->busy_block = -1;
}

static void kill_flushed(unsigned int link)
{
	for (unsigned int i = 0; i < km->nmarks[link]; i++)
		if (km->writes[i].link == link)
			km->writes[i].stable = true;
	nbd_journal_flushed(&km->all.journals[link], km->marks[link]);
	km->flushing[link] = false;
}

/* The server was lost, and the process lives on. */
static void kill_recover(void)
{
	if (!nbd_journals_complete(&km->all))
		nbd_journals_set_lost(&km->all, true);
	for (unsigned int i = 0; i < km->n; i++)
		km->writes[i].stable = true;
	memset(km->flushing, 0, sizeof(km->flushing));
	nbd_journals_reset(&km->all);
	nbd_journals_set_lost(&km->all, false);
}

static void kill_step(void)
{
	const unsigned int link = krnd(KILL_LINKS);

	/* A log that has no room for one more is about to have a gap. */
	km->excused = !nbd_journals_complete(&km->all) ||
		      km->all.journals[link].used + BLOCK > km->all.journals[link].size;
	switch (krnd(9)) {
	case 0:
	case 1:
		if (!km->flushing[link]) {
			km->marks[link] = nbd_journal_mark(&km->all.journals[link]);
			km->nmarks[link] = km->n;
			km->flushing[link] = true;
		}
		break;
	case 2:
	case 3:
		if (km->flushing[link])
			kill_flushed(link);
		break;
	case 4:
		if (!krnd(20))
			kill_recover();
		break;
	default:
		kill_write(link, krnd(MODEL_BLOCKS));
		break;
	}
	kill_here();
}

static void kill_round(uint32_t seed)
{
	/* Too small, large enough, none. */
	const size_t sizes[] = { 12 * BLOCK, 64 * BLOCK, 64 * BLOCK, 0 };
	const size_t size = sizes[seed % 4];
	enum nbd_journal_found found;
	struct error e = ERROR_INIT;
	bool lost;

	*km = (struct kill_model){ .rng = seed, .busy_block = -1 };
	assert_int_equal(nbd_journals_create(&km->all, KILL_LINKS, size), 0);
	km->bytes = nbd_journal_bytes(KILL_LINKS, size);
	km->memory = map(km->bytes);
	successor_memory = map(km->bytes);
	grandchild_memory = map(km->bytes);
	/* What was there before is nothing to a device that is made anew. */
	memset(km->memory, 0xa5, km->bytes);
	assert_int_equal(nbd_journals_place(&km->all, km->memory, km->bytes, false, &found, &lost,
					    &e), 0);
	assert_int_equal(found, NBD_JOURNAL_CLEAN);
	assert_false(lost);
	nbd_journal_test_store = kill_here;
	for (int step = 0; step < 150; step++)
		kill_step();
	nbd_journal_test_store = NULL;
	nbd_journals_destroy(&km->all);
	munmap(km->memory, km->bytes);
	munmap(successor_memory, km->bytes);
	munmap(grandchild_memory, km->bytes);
}

static void test_kills(void **state)
{
	(void)state;
	memset(&seen, 0, sizeof(seen));
	km = calloc(1, sizeof(*km));
	assert_non_null(km);
	for (uint32_t seed = 0; seed < 60; seed++)
		kill_round(seed);
	free(km);
	print_message("%u kills: %u replays, %u incomplete, %u lost, %u of the successor too\n",
		      seen.kills, seen.replays, seen.incomplete, seen.lost, seen.nested);
	assert_true(seen.replays > 10000 && seen.incomplete > 1000 && seen.lost && seen.nested > 1000);
}

/* --- a predecessor's memory --- */

/* A log with something in it, in @memory. */
static void fill(void *memory, size_t bytes, unsigned int links)
{
	enum nbd_journal_found found;
	struct nbd_journals all;
	struct error e;
	bool lost;

	assert_int_equal(nbd_journals_create(&all, links, 65536), 0);
	assert_int_equal(nbd_journals_place(&all, memory, bytes, false, &found, &lost, &e), 0);
	for (unsigned int i = 0; i < 20; i++)
		write_block(&all.journals[i % links], i, (uint8_t)i);
	nbd_journals_destroy(&all);
}

/* Other threads may ask at any time. */
static const struct nbd_journals *asked;

static void ask_all(void)
{
	for (unsigned int i = 0; i < asked->links; i++) {
		assert_non_null(asked->journals[i].state);
		nbd_journal_dirty(&asked->journals[i]);
	}
}

static enum nbd_journal_found take(struct nbd_journals *all, void *memory, size_t bytes,
				   unsigned int links, bool *ret_lost)
{
	enum nbd_journal_found found;
	struct error e = ERROR_INIT;

	assert_int_equal(nbd_journals_create(all, links, 65536), 0);
	asked = all;
	nbd_journal_test_store = ask_all;
	assert_int_equal(nbd_journals_place(all, memory, bytes, true, &found, ret_lost, &e), 0);
	nbd_journal_test_store = NULL;
	assert_int_equal(found == NBD_JOURNAL_REFUSED, e.text[0] != 0);
	return found;
}

/* Fewer connections, more, another size: all of it is there, then the layout is new. */
static void test_other_layout(void **state)
{
	static const unsigned int links[][2] = { { 1, 1 }, { 4, 1 }, { 1, 4 }, { 2, 3 } };
	const size_t bytes = nbd_journal_bytes(4, 65536);
	struct nbd_journals all;
	bool lost;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		void *memory = map(bytes);

		fill(memory, bytes, links[i][0]);
		assert_int_equal(take(&all, memory, bytes, links[i][1], &lost), NBD_JOURNAL_WRITES);
		assert_false(lost);
		assert_int_equal(entries(&all), 20);
		assert_true(nbd_journals_complete(&all));
		nbd_journals_reset(&all);
		assert_false(nbd_journals_dirty(&all));
		for (unsigned int k = 0; k < 20; k++)
			write_block(&all.journals[k % links[i][1]], k, 1);
		assert_int_equal(entries(&all), 20);
		assert_int_equal(all.seq, 40);
		nbd_journals_destroy(&all);
		munmap(memory, bytes);
	}
}

/* Memory without room for data says what is missing, and nothing else. */
static void test_no_room(void **state)
{
	const size_t bytes = nbd_journal_bytes(1, 0);
	void *memory = map(bytes);
	struct nbd_journals all;
	bool lost;

	(void)state;
	fill(memory, bytes, 2);
	assert_int_equal(take(&all, memory, bytes, 1, &lost), NBD_JOURNAL_WRITES);
	assert_false(nbd_journals_complete(&all));
	nbd_journals_set_lost(&all, true);
	nbd_journals_reset(&all);
	nbd_journals_destroy(&all);
	/* Until a flush has said so. */
	assert_int_equal(take(&all, memory, bytes, 1, &lost), NBD_JOURNAL_CLEAN);
	assert_true(lost);
	nbd_journals_set_lost(&all, false);
	nbd_journals_destroy(&all);
	assert_int_equal(take(&all, memory, bytes, 1, &lost), NBD_JOURNAL_CLEAN);
	assert_false(lost);
	nbd_journals_destroy(&all);
	munmap(memory, bytes);
}

/* Nothing that was changed is believed, and that is remembered. */
static void test_damage(void **state)
{
	const size_t bytes = nbd_journal_bytes(2, 65536);
	const size_t log = 8192; /* the first log's entries */
	const struct {
		size_t at;
		uint8_t xor;
		bool refused;
	} rows[] = {
		{ 0, 1, true },		/* magic */
		{ 8, 1, true },		/* version */
		{ 12, 7, true },	/* connections */
		{ 16, 1, true },	/* size */
		{ log, 0x80, true },	/* a number */
		{ log + 48 + 8, 1, true },
		{ log + 48 + 16, 1, true },
		{ log + 48 + 25, 1, true },
		{ log + 48 + 32, 3, true },
		{ log + 48 + 40, 1, true },
		{ log + 48 + 44, 1, false }, /* nobody's */
		{ 7000, 1, false },
	};
	struct nbd_journals all;
	bool lost;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t *memory = map(bytes);

		fill(memory, bytes, 2);
		memory[rows[i].at] ^= rows[i].xor;
		if (take(&all, memory, bytes, 2, &lost) !=
		    (rows[i].refused ? NBD_JOURNAL_REFUSED : NBD_JOURNAL_WRITES))
			fail_msg("byte %zu", rows[i].at);
		assert_int_equal(lost, rows[i].refused);
		if (rows[i].refused)
			assert_int_equal(entries(&all), 0);
		nbd_journals_destroy(&all);
		/* It was killed before a flush has said so. */
		if (rows[i].refused) {
			assert_int_equal(take(&all, memory, bytes, 2, &lost), NBD_JOURNAL_CLEAN);
			assert_true(lost);
			nbd_journals_destroy(&all);
		}
		munmap(memory, bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),	 cmocka_unit_test(test_flush),
		cmocka_unit_test(test_horizon),	 cmocka_unit_test(test_fua),
		cmocka_unit_test(test_overflow), cmocka_unit_test(test_gap_and_early_flush),
		cmocka_unit_test(test_off),	 cmocka_unit_test(test_model),
		cmocka_unit_test(test_kills),	 cmocka_unit_test(test_other_layout),
		cmocka_unit_test(test_no_room),	 cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests_name("nbd_journal", tests, NULL, NULL);
}
