// SPDX-License-Identifier: MIT
/*
 * The log of acknowledged, unflushed writes: what it keeps, when it forgets,
 * and when it admits that something is missing. At last a model: random writes
 * and flushes on several connections against a server that loses its cache.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),	 cmocka_unit_test(test_flush),
		cmocka_unit_test(test_horizon),	 cmocka_unit_test(test_fua),
		cmocka_unit_test(test_overflow), cmocka_unit_test(test_gap_and_early_flush),
		cmocka_unit_test(test_off),	 cmocka_unit_test(test_model),
	};

	return cmocka_run_group_tests_name("nbd_journal", tests, NULL, NULL);
}
