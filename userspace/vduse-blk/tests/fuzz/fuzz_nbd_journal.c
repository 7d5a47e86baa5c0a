// SPDX-License-Identifier: MIT
/*
 * fuzz_nbd_journal.c: a predecessor's log of unflushed writes, changed anywhere.
 *
 * The first byte chooses the numbers of connections, before and after, and whether
 * checksums are made right again. The second says how many writes were logged, and
 * a byte each says which; what follows are changes, an offset of two bytes and a
 * value. Whatever is accepted has its data inside of the memory: every byte of it is
 * read. Then the log goes on.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/nbd_journal.h"

#define DATA_BYTES (16u << 10)
#define MAX_LINKS  4u
#define LONGEST	   3000u

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void add(struct nbd_journals *all, uint8_t how)
{
	static uint8_t bytes[LONGEST];
	static const enum backend_op ops[] = { BACKEND_WRITE, BACKEND_WRITE, BACKEND_WRITE_ZEROES,
					       BACKEND_DISCARD };
	struct nbd_journal *j = &all->journals[how % all->links];
	struct iovec iov = { bytes, sizeof(bytes) };
	const struct backend_request req = {
		.op = ops[how >> 2 & 3],
		.flags = how >> 4 & 1 ? BACKEND_REQ_FUA : 0,
		.offset = how * 512u,
		.length = 1 + how * (LONGEST - 1) / 255,
		.iov = &iov,
		.niov = 1,
	};

	if (how >> 5 == 7)
		nbd_journal_flushed(j, nbd_journal_mark(j));
	else
		nbd_journal_add(j, &req);
}

static unsigned int read_all(const struct nbd_journals *all)
{
	const struct nbd_journal_entry *entry;
	const struct nbd_journal *j;
	unsigned int sum = 0;
	struct iovec iov[2];
	uint64_t last = 0;

	while ((entry = nbd_journals_next(all, last, &j))) {
		require(entry->seq > last);
		last = entry->seq;
		if (entry->op != BACKEND_WRITE)
			continue;
		for (unsigned int i = nbd_journal_data(j, entry, iov); i-- > 0;)
			for (size_t k = 0; k < iov[i].iov_len; k++)
				sum += ((const uint8_t *)iov[i].iov_base)[k];
	}
	return sum;
}

static void write_log(void *memory, size_t bytes, unsigned int links, const uint8_t *how, size_t n)
{
	enum nbd_journal_found found;
	struct nbd_journals all;
	bool lost;

	require(!nbd_journals_create(&all, links, DATA_BYTES));
	require(!nbd_journals_place(&all, memory, bytes, false, &found, &lost, NULL));
	while (n--)
		add(&all, *how++);
	nbd_journals_destroy(&all);
}

static void take_over(void *memory, size_t bytes, unsigned int links)
{
	static volatile unsigned int sink;
	enum nbd_journal_found found;
	struct error e = ERROR_INIT;
	struct nbd_journals all;
	bool lost;

	require(!nbd_journals_create(&all, links, DATA_BYTES));
	require(!nbd_journals_place(&all, memory, bytes, true, &found, &lost, &e));
	require((found == NBD_JOURNAL_REFUSED) == (e.text[0] != 0));
	require(found != NBD_JOURNAL_REFUSED || lost);
	if (nbd_journals_complete(&all))
		sink = read_all(&all);
	(void)sink;
	nbd_journals_reset(&all);
	require(!nbd_journals_dirty(&all) && all.n == links);
	for (unsigned int i = 0; i < 40; i++)
		add(&all, (uint8_t)(i * 7));
	read_all(&all);
	nbd_journals_destroy(&all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t bytes = nbd_journal_bytes(MAX_LINKS, DATA_BYTES);
	uint8_t *memory;
	size_t n;

	if (size < 2)
		return 0;
	n = data[1];
	if (n > size - 2)
		n = size - 2;
	/* Of its own, so that what is behind it is seen to be touched. */
	memory = aligned_alloc(4096, bytes);
	require(memory != NULL);
	memset(memory, 0, bytes);
	write_log(memory, bytes, 1 + data[0] % MAX_LINKS, data + 2, n);
	for (size_t i = 2 + n; i + 3 <= size; i += 3)
		memory[(data[i] | data[i + 1] << 8) % bytes] = data[i + 2];
	if (data[0] & 0x80)
		nbd_journal_test_seal(memory, bytes);
	take_over(memory, bytes, 1 + (data[0] >> 2) % MAX_LINKS);
	free(memory);
	return 0;
}
