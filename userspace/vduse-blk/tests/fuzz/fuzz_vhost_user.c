// SPDX-License-Identifier: MIT
/*
 * Fuzz target: a frontend that sends anything to the vhost-user socket.
 *
 * The device, its main loop and two queue threads on a null disk live through
 * all inputs; each input is one connection. The first byte says how far the
 * connection is set up before: bit 0 negotiates, bit 1 shares memory as well,
 * bit 2 starts ring 0 as well. Then come messages:
 *
 *	request, flags, size, descriptors, payload (size bytes)
 *
 * Bits 0 to 3 of "flags" are those of the message, bit 7 adds 256 to the size.
 * Bits 0 to 3 of "descriptors" are their number, the others their kind. Guest
 * memory, rings included, is the rest of the input over and over.
 *
 * What is looked for: sanitizer reports, a device that no longer answers, and
 * descriptors that stay open.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/vhost_user_rig.h"

#define MESSAGES_MAX	64u /* their answers fit into the socket */
#define CHECK_EVERY	128u

enum {
	NEGOTIATE = 1,
	MEMORY = 2,
	RING = 4,
};

static struct rig rig;
static int kinds[4]; /* of descriptors */
static unsigned int fds_at_start;

/* Open descriptors of the kinds that are passed; libFuzzer has pipes of its own. */
static unsigned int passed_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	unsigned int n = 0;

	while (dir && (entry = readdir(dir))) {
		char link[64];
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link));

		n += len > 7 && (!memcmp(link, "anon_in", 7) || !memcmp(link, "/memfd:", 7) ||
				 !memcmp(link, "socket:", 7));
	}
	if (dir)
		closedir(dir);
	return n;
}

static void begin(void)
{
	log_set_level(_LOG_LEVEL_INVALID);
	rig_start(&rig, &(struct rig_params) { .uri = "null:16M", .queues = 2, .packed = true });
	kinds[0] = memfd_create("fuzz", MFD_CLOEXEC);
	kinds[1] = eventfd(0, EFD_CLOEXEC);
	kinds[2] = memfd_create("empty", MFD_CLOEXEC);
	kinds[3] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ftruncate(kinds[0], RIG_ARENA))
		abort();
	fds_at_start = passed_fds();
}

static void set_up(struct frontend *f, unsigned int how)
{
	frontend_connect(f, rig.socket);
	if (how & (NEGOTIATE | MEMORY | RING))
		frontend_negotiate(f, 0);
	if (how & (MEMORY | RING)) {
		frontend_make_memory(f, 1);
		frontend_share_memory(f);
	}
	if (how & RING) {
		frontend_make_ring(f, 0);
		frontend_start_ring(f, 0, 0);
	}
}

static void fill_memory(const struct frontend *f, const uint8_t *data, size_t size)
{
	size_t i;

	if (!f->queues || !size)
		return;
	for (i = 0; i + size < 65536; i += size)
		memcpy(f->queue[0].arena + i, data, size);
}

static void send_messages(struct frontend *f, const uint8_t *data, size_t size)
{
	unsigned int n;

	for (n = 0; n < MESSAGES_MAX && size >= 4; n++) {
		uint8_t msg[12 + 511];
		const struct vhost_user_header header = {
			.request = data[0],
			.flags = data[1] & 0xf,
			.size = data[2] + (data[1] & 0x80 ? 256u : 0),
		};
		const unsigned int nfds = data[3] & 0xf;
		size_t payload;
		int fds[16];
		unsigned int i;

		for (i = 0; i < nfds; i++)
			fds[i] = kinds[data[3] >> 4 & 3];
		data += 4;
		size -= 4;
		payload = header.size < size ? header.size : size;
		memcpy(msg, &header, sizeof(header));
		memcpy(msg + sizeof(header), data, payload);
		if (!frontend_send_raw(f, msg, sizeof(header) + payload, fds, nfds))
			return;
		data += payload;
		size -= payload;
	}
}

/* Answers do not matter, their end does. */
static void wait_for_end(struct frontend *f)
{
	char answers[4096];
	ssize_t n;

	shutdown(f->fd, SHUT_WR);
	do
		n = recv(f->fd, answers, sizeof(answers), 0);
	while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0 && errno != ECONNRESET) {
		fprintf(stderr, "the device does not answer\n");
		abort();
	}
}

static void check_fds(void)
{
	static unsigned int inputs;
	unsigned int i;

	if (++inputs % CHECK_EVERY)
		return;
	if (!rig_wait_quiet(&rig))
		abort();
	for (i = 0; i < 2000 && passed_fds() > fds_at_start; i++)
		usleep(1000);
	if (passed_fds() > fds_at_start) {
		fprintf(stderr, "%u descriptors are open, there were %u\n", passed_fds(),
			fds_at_start);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frontend f;
	uint64_t one = 1;

	if (!size)
		return 0;
	if (!rig.thread)
		begin();
	set_up(&f, data[0]);
	fill_memory(&f, data + 1, size - 1);
	if (data[0] & RING && write(f.queue[0].kick, &one, sizeof(one)) < 0)
		abort();
	send_messages(&f, data + 1, size - 1);
	wait_for_end(&f);
	frontend_close(&f);
	check_fds();
	return 0;
}
