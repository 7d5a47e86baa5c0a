// SPDX-License-Identifier: MIT
/*
 * Fuzz target: a message of a hand-over. The first byte says how many descriptors
 * came along. What is accepted can be sent, and arrives as it was.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cmd/handover.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void check_same(const struct handover_message *a, const struct handover_message *b)
{
	require(a->type == b->type);
	if (a->type != HANDOVER_OFFER)
		return;
	require(!strcmp(a->offer.name, b->offer.name));
	require(a->offer.pid == b->offer.pid && a->offer.upgrades == b->offer.upgrades);
	require(a->offer.recover == b->offer.recover);
	require(json_equal(a->offer.options, b->offer.options));
}

static void check_again(struct handover_message *m)
{
	struct handover_message again;
	unsigned int i;
	int pair[2];

	require(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair));
	if (m->type == HANDOVER_OFFER) {
		/* The numbers were made up. */
		for (i = 0; i < _HANDOVER_FD_MAX; i++)
			if (m->offer.fds[i] >= 0)
				m->offer.fds[i] = pair[0];
	}
	if (!handover_send(pair[0], m, NULL)) {
		require(!handover_receive(pair[1], &again, NULL));
		check_same(m, &again);
		handover_release(&again);
	}
	close(pair[0]);
	close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int fds[_HANDOVER_FD_MAX] = { 900, 901, 902, 903, 904, 905 };
	struct handover_message m;
	char *copy;

	if (!size || data[0] > _HANDOVER_FD_MAX)
		return 0;
	/* Of exactly that size, so that ASan sees a read beyond it. */
	copy = malloc(size - 1 ? size - 1 : 1);
	memcpy(copy, data + 1, size - 1);
	if (!handover_parse(copy, size - 1, fds, data[0], &m, NULL)) {
		check_again(&m);
		if (m.type == HANDOVER_OFFER)
			json_decref(m.offer.options);
	}
	free(copy);
	return 0;
}
