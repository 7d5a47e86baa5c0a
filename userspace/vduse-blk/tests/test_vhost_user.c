// SPDX-License-Identifier: MIT
/*
 * The vhost-user transport and the whole data path behind it, driven through
 * its socket by a frontend in the same process (vhost_user_rig.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "nbdkit.h"
#include "transport/sigbus.h"
#include "transport/vhost_user.h"
#include "transport/vhost_user_mem.h"
#include "vhost_user_rig.h"

#define BIT(n)		(1ull << (n))
#define SPLIT		(BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_RING_F_INDIRECT_DESC))
#define PACKED		(SPLIT | BIT(VIRTIO_F_RING_PACKED))
#define SECTOR		512u
#define NULL_URI	"null:16M"

static void request(struct frontend_request *r, uint32_t type, uint64_t sector)
{
	r->type = type;
	r->sector = sector;
}

/* --- codec --- */

static void test_positions(void **state)
{
	static const struct virtqueue_state positions[] = {
		{ 0, 0, true, true },
		{ 0x7fff, 0x7ffe, false, true },
		{ 5, 3, true, false },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(positions); i++) {
		const struct virtqueue_state *p = &positions[i];
		struct virtqueue_state back;

		back = vhost_user_base_decode(vhost_user_base_encode(p, true), true);
		assert_int_equal(back.avail_idx, p->avail_idx);
		assert_int_equal(back.used_idx, p->used_idx);
		assert_int_equal(back.avail_wrap, p->avail_wrap);
		assert_int_equal(back.used_wrap, p->used_wrap);
		back = vhost_user_base_decode(vhost_user_base_encode(p, false), false);
		assert_int_equal(back.avail_idx, p->avail_idx);
	}
	assert_int_equal(vhost_user_base_encode(&positions[0], true), 0x80008000u);
}

/* --- what is offered --- */

static void test_offers(void **state)
{
	struct rig rig;
	struct frontend f;
	uint64_t features;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 4, .packed = true });
	frontend_connect(&f, rig.socket);
	features = frontend_get(&f, VHOST_USER_GET_FEATURES);
	assert_true(features & BIT(VIRTIO_F_VERSION_1));
	assert_true(features & BIT(VIRTIO_F_RING_PACKED));
	assert_true(features & BIT(VIRTIO_BLK_F_MQ));
	assert_true(features & BIT(VHOST_USER_F_PROTOCOL_FEATURES));
	/* Ring addresses would be IOVAs, and there is no IOMMU. */
	assert_false(features & BIT(VIRTIO_F_ACCESS_PLATFORM));
	frontend_negotiate(&f, PACKED);
	assert_true(f.protocol_features & BIT(VHOST_USER_PROTOCOL_F_CONFIG));
	/* A log of dirty pages for migration is not kept. */
	assert_false(f.protocol_features & BIT(1));
	assert_int_equal(frontend_get(&f, VHOST_USER_GET_QUEUE_NUM), 4);
	assert_int_equal(frontend_get(&f, VHOST_USER_GET_MAX_MEM_SLOTS), VHOST_USER_MEM_SLOTS);
	frontend_close(&f);
	rig_stop(&rig);
}

static uint32_t get_config(struct frontend *f, uint32_t offset, uint32_t size,
			   struct vhost_user_config *ret_config)
{
	struct vhost_user_config config = { .offset = offset, .size = size };
	struct vhost_user_header header;
	ssize_t n;

	assert_true(frontend_send(f, VHOST_USER_GET_CONFIG, 0, &config, 12 + size, NULL, 0));
	n = frontend_receive(f, &header, ret_config, sizeof(*ret_config), NULL);
	assert_int_equal(n, 12 + size);
	assert_int_equal(ret_config->offset, offset);
	assert_int_equal(ret_config->size, size);
	return ret_config->size;
}

static uint64_t capacity(struct frontend *f)
{
	struct vhost_user_config config;
	uint64_t sectors;

	get_config(f, 0, 60, &config);
	memcpy(&sectors, config.data, sizeof(sectors));
	return sectors;
}

static void test_config(void **state)
{
	struct vhost_user_config config;
	struct rig rig;
	struct frontend f;
	uint16_t queues;
	unsigned int i;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 3 });
	frontend_connect(&f, rig.socket);
	frontend_negotiate(&f, SPLIT);
	assert_int_equal(capacity(&f), 16u << 11);
	get_config(&f, offsetof(struct virtio_blk_config, num_queues), 2, &config);
	memcpy(&queues, config.data, sizeof(queues));
	assert_int_equal(queues, 3);
	/* Fields that we do not know. */
	get_config(&f, 0, VHOST_USER_MAX_CONFIG, &config);
	for (i = sizeof(struct virtio_blk_config); i < VHOST_USER_MAX_CONFIG; i++)
		assert_int_equal(config.data[i], 0);
	get_config(&f, VHOST_USER_MAX_CONFIG - 1, 1, &config);
	assert_int_equal(config.data[0], 0);
	frontend_close(&f);
	rig_stop(&rig);
}

/* --- messages that are not acceptable --- */

enum stage {
	CONNECTED,
	NEGOTIATED,
	RUNNING,
};

enum verdict {
	CLOSED,		/* the connection ends */
	REFUSED,	/* a negative acknowledgement; without one, the connection ends */
};

#define MEMFD	1	/* as large as the guest's memory */
#define EVENTFD	2
#define REGULAR	3	/* an empty file */
#define PIPE	4

struct bad_row {
	const char *name;
	enum stage stage;
	enum verdict verdict;
	uint32_t request;
	uint32_t flags; /* besides version and NEED_REPLY */
	uint32_t size;
	union vhost_user_payload payload;
	unsigned int nfds;
	int kind;
};

#define ALL_ONES	UINT64_MAX
#define REGION(guest, bytes, user, offset) { guest, bytes, user, offset }
#define ONE_REGION(...)	.size = 40, .payload.memory = { .nregions = 1, .regions = { REGION(__VA_ARGS__) } }
#define MEM_REG(...)	.size = 40, .payload.mem_reg = { .region = REGION(__VA_ARGS__) }
#define STATE(i, n)	.size = 8, .payload.state = { i, n }
#define U64(n)		.size = 8, .payload.u64 = n
#define ADDR(...)	.size = 40, .payload.addr = { __VA_ARGS__ }
#define SHMEM(...)	.size = 24, .payload.inflight = { __VA_ARGS__ }
#define CONFIG(bytes, off, n) .size = bytes, .payload.config = { .offset = off, .size = n }

static const struct bad_row bad_rows[] = {
	/* Form. */
	{ "request 0", CONNECTED, CLOSED, .request = 0 },
	{ "unknown request", CONNECTED, CLOSED, .request = 250 },
	{ "request that is far out", CONNECTED, CLOSED, .request = UINT32_MAX },
	{ "request that was not offered", CONNECTED, CLOSED, 6, .size = 16 },
	{ "a reply", CONNECTED, CLOSED, .request = VHOST_USER_GET_FEATURES,
	  .flags = VHOST_USER_REPLY },
	{ "unknown flag", CONNECTED, CLOSED, .request = VHOST_USER_GET_FEATURES,
	  .flags = 0x10 },
	{ "version 3", CONNECTED, CLOSED, .request = VHOST_USER_GET_FEATURES,
	  .flags = 2 },
	{ "payload where none belongs", CONNECTED, CLOSED, VHOST_USER_GET_FEATURES, .size = 8 },
	{ "short payload", CONNECTED, CLOSED, VHOST_USER_SET_FEATURES, .size = 4 },
	{ "long payload", CONNECTED, CLOSED, VHOST_USER_SET_FEATURES, .size = 16 },
	{ "descriptor where none belongs", NEGOTIATED, REFUSED, VHOST_USER_SET_OWNER, .nfds = 1,
	  .kind = EVENTFD },
	{ "eight descriptors", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_CALL, U64(0), .nfds = 8,
	  .kind = EVENTFD },
	{ "nine descriptors", NEGOTIATED, CLOSED, VHOST_USER_SET_VRING_CALL, U64(0), .nfds = 9,
	  .kind = EVENTFD },
	{ "thirty descriptors", NEGOTIATED, CLOSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, RIG_ARENA, 0, 0), .nfds = 30, .kind = MEMFD },
	/* Features. */
	{ "request of a feature not accepted", CONNECTED, CLOSED,
	  .request = VHOST_USER_GET_STATUS },
	{ "features not offered", NEGOTIATED, REFUSED, VHOST_USER_SET_FEATURES, U64(ALL_ONES) },
	{ "ACCESS_PLATFORM", NEGOTIATED, REFUSED, VHOST_USER_SET_FEATURES,
	  U64(BIT(VIRTIO_F_ACCESS_PLATFORM)) },
	{ "protocol features not offered", NEGOTIATED, REFUSED, VHOST_USER_SET_PROTOCOL_FEATURES,
	  U64(BIT(1)) },
	{ "status of nine bits", NEGOTIATED, REFUSED, VHOST_USER_SET_STATUS, U64(0x100) },
	/* Configuration. */
	{ "read-only configuration", NEGOTIATED, REFUSED, VHOST_USER_SET_CONFIG, CONFIG(20, 0, 8) },
	{ "no configuration", NEGOTIATED, CLOSED, VHOST_USER_GET_CONFIG, CONFIG(12, 0, 0) },
	{ "configuration beyond its end", NEGOTIATED, CLOSED, VHOST_USER_GET_CONFIG,
	  CONFIG(20, 250, 8) },
	{ "configuration at a huge offset", NEGOTIATED, CLOSED, VHOST_USER_GET_CONFIG,
	  CONFIG(20, UINT32_MAX, 8) },
	{ "size that is not the payload's", NEGOTIATED, CLOSED, VHOST_USER_GET_CONFIG,
	  CONFIG(20, 0, 64) },
	/* Memory. */
	{ "nine regions", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE, .size = 40,
	  .payload.memory = { .nregions = 9 }, .nfds = 1, .kind = MEMFD },
	{ "more regions than payload", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE, .size = 40,
	  .payload.memory = { .nregions = 2 }, .nfds = 2, .kind = MEMFD },
	{ "region without a descriptor", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, RIG_ARENA, 0, 0) },
	{ "two descriptors for a region", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, RIG_ARENA, 0, 0), .nfds = 2, .kind = MEMFD },
	{ "empty region", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, 0, 0, 0), .nfds = 1, .kind = MEMFD },
	{ "guest addresses that wrap", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(UINT64_MAX - 4095, RIG_ARENA, 0, 0), .nfds = 1, .kind = MEMFD },
	{ "user addresses that wrap", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, RIG_ARENA, UINT64_MAX - 4095, 0), .nfds = 1, .kind = MEMFD },
	{ "offset that overflows", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, RIG_ARENA, 0, UINT64_MAX - 4095), .nfds = 1, .kind = MEMFD },
	{ "huge region", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, ALL_ONES, 0, 0), .nfds = 1, .kind = MEMFD },
	{ "region behind its file's end", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, RIG_ARENA, 0, 4096), .nfds = 1, .kind = MEMFD },
	{ "region of an empty file", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, 4096, 0, 0), .nfds = 1, .kind = REGULAR },
	{ "region of an eventfd", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE,
	  ONE_REGION(0, 4096, 0, 0), .nfds = 1, .kind = EVENTFD },
	{ "overlapping guest addresses", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE, .size = 72,
	  .payload.memory = { .nregions = 2, .regions = { REGION(0, 8192, 0, 0),
							  REGION(4096, 8192, 65536, 0) } },
	  .nfds = 2, .kind = MEMFD },
	{ "overlapping user addresses", NEGOTIATED, REFUSED, VHOST_USER_SET_MEM_TABLE, .size = 72,
	  .payload.memory = { .nregions = 2, .regions = { REGION(0, 8192, 0, 0),
							  REGION(65536, 8192, 4096, 0) } },
	  .nfds = 2, .kind = MEMFD },
	{ "another region in the way", RUNNING, REFUSED, VHOST_USER_ADD_MEM_REG,
	  MEM_REG(RIG_GUEST(0) + 4096, 4096, 0x1000, 0), .nfds = 1, .kind = MEMFD },
	{ "region without a descriptor, added", RUNNING, REFUSED, VHOST_USER_ADD_MEM_REG,
	  MEM_REG(0, 4096, 0x1000, 0) },
	{ "removing what is not there", RUNNING, REFUSED, VHOST_USER_REM_MEM_REG,
	  MEM_REG(RIG_GUEST(0), 4096, RIG_USER(0), 0) },
	/* Rings. */
	{ "size of a ring that is not there", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_NUM,
	  STATE(2, 64) },
	{ "ring of no entries", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_NUM, STATE(0, 0) },
	{ "ring too long", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_NUM,
	  STATE(0, RIG_QUEUE_SIZE * 2) },
	{ "another size for a running ring", RUNNING, REFUSED, VHOST_USER_SET_VRING_NUM,
	  STATE(0, 8) },
	{ "position of a ring that is not there", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_BASE,
	  STATE(UINT32_MAX, 0) },
	{ "position of a running ring", RUNNING, REFUSED, VHOST_USER_SET_VRING_BASE, STATE(0, 7) },
	{ "question after a ring that is not there", NEGOTIATED, CLOSED,
	  VHOST_USER_GET_VRING_BASE, STATE(2, 0) },
	{ "neither on nor off", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_ENABLE, STATE(0, 2) },
	{ "enable a ring that is not there", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_ENABLE,
	  STATE(2, 1) },
	{ "ring without any memory", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_ADDR,
	  ADDR(0, 0, RIG_USER(0), RIG_USER(0), RIG_USER(0)) },
	{ "ring outside of memory", RUNNING, REFUSED, VHOST_USER_SET_VRING_ADDR,
	  ADDR(1, 0, 4096, 4096, 4096) },
	{ "ring that is logged", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_ADDR, ADDR(0, 1) },
	{ "address of a ring that is not there", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_ADDR,
	  ADDR(9) },
	{ "a running ring moves", RUNNING, REFUSED, VHOST_USER_SET_VRING_ADDR,
	  ADDR(0, 0, RIG_USER(0), RIG_USER(0), RIG_USER(0)) },
	/* Eventfds. */
	{ "kick of a ring that is not there", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_KICK,
	  U64(2), .nfds = 1, .kind = EVENTFD },
	{ "kick without a descriptor", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_KICK, U64(0) },
	{ "kick by polling", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_KICK, U64(0x100) },
	{ "no descriptor, and one", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_CALL, U64(0x100),
	  .nfds = 1, .kind = EVENTFD },
	{ "reserved bits", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_CALL, U64(0x10000),
	  .nfds = 1, .kind = EVENTFD },
	{ "a file for kicks", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_KICK, U64(0), .nfds = 1,
	  .kind = REGULAR },
	{ "a pipe for kicks", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_KICK, U64(0), .nfds = 1,
	  .kind = PIPE },
	{ "a pipe for interrupts", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_CALL, U64(0),
	  .nfds = 1, .kind = PIPE },
	{ "a file for errors", NEGOTIATED, REFUSED, VHOST_USER_SET_VRING_ERR, U64(1), .nfds = 1,
	  .kind = MEMFD },
	/* Requests in flight. */
	{ "log for no queue", NEGOTIATED, CLOSED, VHOST_USER_GET_INFLIGHT_FD, SHMEM(0, 0, 0, 16) },
	{ "log for queues that are not there", NEGOTIATED, CLOSED, VHOST_USER_GET_INFLIGHT_FD,
	  SHMEM(0, 0, 3, 16) },
	{ "log for long rings", NEGOTIATED, CLOSED, VHOST_USER_GET_INFLIGHT_FD,
	  SHMEM(0, 0, 1, RIG_QUEUE_SIZE * 2) },
	{ "log for rings of no entries", NEGOTIATED, CLOSED, VHOST_USER_GET_INFLIGHT_FD,
	  SHMEM(0, 0, 1, 0) },
	{ "log without a descriptor", NEGOTIATED, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(1 << 20, 0, 1, 16) },
	{ "log that is too small", NEGOTIATED, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(64, 0, 1, 16), .nfds = 1, .kind = MEMFD },
	{ "log that is too large", NEGOTIATED, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(ALL_ONES, 0, 1, 16), .nfds = 1, .kind = MEMFD },
	{ "log at an odd offset", NEGOTIATED, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(1 << 20, 64, 1, 16), .nfds = 1, .kind = MEMFD },
	{ "log at a huge offset", NEGOTIATED, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(1 << 20, UINT64_MAX - 4095, 1, 16), .nfds = 1, .kind = MEMFD },
	{ "log behind its file's end", NEGOTIATED, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(1 << 20, RIG_ARENA, 1, 16), .nfds = 1, .kind = MEMFD },
	{ "log in an empty file", NEGOTIATED, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(1 << 20, 0, 1, 16), .nfds = 1, .kind = REGULAR },
	{ "log in an eventfd", NEGOTIATED, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(1 << 20, 0, 1, 16), .nfds = 1, .kind = EVENTFD },
	{ "log under a running ring", RUNNING, REFUSED, VHOST_USER_SET_INFLIGHT_FD,
	  SHMEM(1 << 20, 0, 1, 16), .nfds = 1, .kind = MEMFD },
	{ "channel without a descriptor", NEGOTIATED, REFUSED,
	  .request = VHOST_USER_SET_BACKEND_REQ_FD },
};

static int make_fd(int kind)
{
	int fd = -1, pair[2];

	switch (kind) {
	case MEMFD:
	case REGULAR:
		fd = memfd_create("test", MFD_CLOEXEC);
		assert_int_equal(ftruncate(fd, kind == MEMFD ? RIG_ARENA : 0), 0);
		break;
	case EVENTFD:
		fd = eventfd(0, EFD_CLOEXEC);
		break;
	case PIPE:
		assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
		close(pair[1]);
		fd = pair[0];
		break;
	}
	assert_true(fd >= 0);
	return fd;
}

static void reach(struct frontend *f, const struct rig *rig, enum stage stage)
{
	frontend_connect(f, rig->socket);
	if (stage >= NEGOTIATED)
		frontend_negotiate(f, SPLIT);
	if (stage >= RUNNING) {
		frontend_make_memory(f, 1);
		frontend_share_memory(f);
		frontend_make_ring(f, 0);
		frontend_start_ring(f, 0, 0);
	}
}

/* Sends the row's message; false when the connection has been closed. */
static bool is_answered(struct frontend *f, const struct bad_row *row, uint32_t flags,
			uint64_t *ret_ack)
{
	struct vhost_user_header header;
	uint8_t payload[512] = { 0 };
	int fds[32];
	unsigned int i;
	ssize_t n;

	for (i = 0; i < row->nfds; i++)
		fds[i] = make_fd(row->kind);
	memcpy(payload, &row->payload, sizeof(row->payload));
	assert_true(frontend_send(f, row->request, row->flags | flags, payload, row->size, fds,
				  row->nfds));
	for (i = 0; i < row->nfds; i++)
		close(fds[i]);
	if (!flags)
		shutdown(f->fd, SHUT_WR);
	n = frontend_receive(f, &header, payload, sizeof(payload), NULL);
	if (n < 0)
		return false;
	assert_int_equal(header.request, row->request);
	assert_int_equal(n, 8);
	memcpy(ret_ack, payload, sizeof(*ret_ack));
	return true;
}

/* The queues' threads close what was theirs a little later. */
static unsigned int open_fds_soon(unsigned int wanted)
{
	unsigned int i;

	for (i = 0; i < 2000 && open_fds() != wanted; i++)
		usleep(5000);
	return open_fds();
}

static void check_bad(struct rig *rig, const struct bad_row *row)
{
	const unsigned int fds = open_fds();
	struct frontend f;
	uint64_t ack;

	reach(&f, rig, row->stage);
	if (is_answered(&f, row, VHOST_USER_NEED_REPLY, &ack)) {
		if (row->verdict != REFUSED || ack != 1)
			fail_msg("%s: got %u as an answer", row->name, (unsigned int)ack);
		/* And all is well otherwise. */
		assert_true(frontend_get(&f, VHOST_USER_GET_FEATURES));
	} else if (row->verdict != CLOSED) {
		fail_msg("%s: the connection was closed", row->name);
	}
	frontend_close(&f);
	assert_true(rig_wait_quiet(rig));

	reach(&f, rig, row->stage);
	if (is_answered(&f, row, 0, &ack))
		fail_msg("%s: answered although no answer was asked for", row->name);
	frontend_close(&f);
	assert_true(rig_wait_quiet(rig));
	if (open_fds_soon(fds) != fds)
		fail_msg("%s: %u descriptors are open, there were %u", row->name, open_fds(), fds);
}

static void test_bad_messages(void **state)
{
	struct rig rig;
	unsigned int i;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 2 });
	for (i = 0; i < ARRAY_SIZE(bad_rows); i++)
		check_bad(&rig, &bad_rows[i]);
	rig_stop(&rig);
}

/* Streams that end, or arrive, in odd places. */
static void test_fragments(void **state)
{
	const struct vhost_user_header header = { VHOST_USER_GET_FEATURES, VHOST_USER_VERSION, 0 };
	struct {
		struct vhost_user_header header;
		uint64_t value;
	} __attribute__((packed)) call = { { VHOST_USER_SET_VRING_CALL, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, 8 }, 0 };
	struct vhost_user_header got;
	struct frontend f;
	struct rig rig;
	uint64_t value;
	unsigned int fds, i;
	int fd;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	fds = open_fds();
	/* Byte by byte. */
	frontend_connect(&f, rig.socket);
	for (i = 0; i < sizeof(header); i++)
		assert_true(frontend_send_raw(&f, (const char *)&header + i, 1, NULL, 0));
	assert_int_equal(frontend_receive(&f, &got, &value, sizeof(value), NULL), 8);
	frontend_close(&f);
	/* The descriptor comes with the payload, or in the middle of the header. */
	for (i = 0; i < 2; i++) {
		const size_t cut = i ? sizeof(call.header) : 6;

		frontend_connect(&f, rig.socket);
		frontend_negotiate(&f, SPLIT);
		fd = eventfd(0, EFD_CLOEXEC);
		assert_true(frontend_send_raw(&f, &call, cut, NULL, 0));
		assert_true(frontend_send_raw(&f, (const char *)&call + cut, sizeof(call) - cut, &fd,
					      1));
		assert_int_equal(frontend_receive(&f, &got, &value, sizeof(value), NULL), 8);
		assert_int_equal(value, 0);
		close(fd);
		frontend_close(&f);
	}
	/* The end in every byte of a message, with a descriptor on the way. */
	for (i = 1; i < sizeof(call); i++) {
		frontend_connect(&f, rig.socket);
		fd = eventfd(0, EFD_CLOEXEC);
		assert_true(frontend_send_raw(&f, &call, i, &fd, 1));
		close(fd);
		frontend_close(&f);
	}
	/* Two messages in one go. */
	frontend_connect(&f, rig.socket);
	assert_true(frontend_send_raw(&f, (struct vhost_user_header[]) { header, header },
				      2 * sizeof(header), NULL, 0));
	assert_int_equal(frontend_receive(&f, &got, &value, sizeof(value), NULL), 8);
	assert_int_equal(frontend_receive(&f, &got, &value, sizeof(value), NULL), 8);
	frontend_close(&f);
	assert_true(rig_wait_quiet(&rig));
	assert_int_equal(open_fds_soon(fds), fds);
	rig_stop(&rig);
}

/* --- the socket --- */

/* A device of its own at that path, without a main loop that runs. */
static int create_at(const char *path)
{
	struct vblk_device_params disk_params = { .num_queues = 1, .queue_size = 16 };
	struct vhost_user_params params = { .name = "other", .socket_path = path, .nqueues = 1,
					    .queue_size = 16 };
	struct vblk_device disk;
	struct transport *transport;
	struct error e = ERROR_INIT;
	int err;

	assert_int_equal(loop_create(&(struct loop_params) { 0 }, &params.loop, &e), 0);
	assert_int_equal(backend_open("null:1M", &(struct backend_options) { 0 }, &params.backend,
				      &e), 0);
	disk_params.info = &params.backend->info;
	assert_int_equal(vblk_device_init(&disk, &disk_params, &e), 0);
	params.disk = &disk;
	err = vhost_user_create(&params, &transport, &e);
	if (!err)
		assert_int_equal(transport_close(transport, &e), 0);
	backend_close(params.backend);
	loop_destroy(params.loop);
	return err;
}

static void test_socket(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct frontend f, second;
	struct vhost_user_header header;
	char too_long[sizeof(addr.sun_path) + 1];
	struct rig rig;
	struct stat st;
	uint64_t features;
	int fd;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	assert_int_equal(stat(rig.socket, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);

	/* One frontend at a time. */
	frontend_up(&f, rig.socket, SPLIT, 1);
	frontend_connect(&second, rig.socket);
	frontend_send(&second, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
	assert_int_equal(frontend_receive(&second, &header, &features, sizeof(features), NULL), -1);
	frontend_close(&second);
	assert_true(frontend_get(&f, VHOST_USER_GET_FEATURES));

	/* One daemon at a time. */
	assert_int_equal(create_at(rig.socket), -EADDRINUSE);
	frontend_close(&f);

	/* What is no socket stays; one that a killed daemon left is replaced. */
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/other", rig.folder);
	fd = open(addr.sun_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(create_at(addr.sun_path), -EEXIST);
	assert_int_equal(unlink(addr.sun_path), 0);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	assert_int_equal(create_at(addr.sun_path), 0);
	assert_int_equal(access(addr.sun_path, F_OK), -1);
	memset(too_long, 'x', sizeof(too_long));
	too_long[sizeof(too_long) - 1] = '\0';
	assert_int_equal(create_at(too_long), -ENAMETOOLONG);
	assert_int_equal(create_at("/nowhere/socket"), -ENOENT);
	rig_stop(&rig);
}

/* --- requests --- */

/* Writes a pattern all over, reads it back, in as many requests as fit. */
static void write_and_verify(struct frontend *f, unsigned int q, uint64_t first_sector,
			     unsigned int seed)
{
	enum { N = 16, BYTES = 16384 };
	struct frontend_request *w[N], *r[N];
	unsigned int i, j;

	for (i = 0; i < N; i++) {
		w[i] = frontend_request_new(f, q, BYTES);
		request(w[i], VIRTIO_BLK_T_OUT, first_sector + i * (BYTES / SECTOR) + 0);
		for (j = 0; j < BYTES; j++)
			w[i]->data[j] = (uint8_t)(seed + i * 7 + j * 13 + j / 256);
		frontend_submit(f, q, w[i]);
	}
	assert_true(frontend_wait(f, q, N));
	for (i = 0; i < N; i++) {
		assert_int_equal(*w[i]->status, VIRTIO_BLK_S_OK);
		r[i] = frontend_request_new(f, q, BYTES);
		request(r[i], VIRTIO_BLK_T_IN, w[i]->sector);
		frontend_submit(f, q, r[i]);
	}
	assert_true(frontend_wait(f, q, N));
	for (i = 0; i < N; i++) {
		assert_int_equal(*r[i]->status, VIRTIO_BLK_S_OK);
		assert_memory_equal(r[i]->data, w[i]->data, BYTES);
	}
}

static void check_flush_and_discard(struct frontend *f, unsigned int q, uint64_t sector)
{
	const uint64_t offered = frontend_get(f, VHOST_USER_GET_FEATURES);
	struct frontend_request *r;
	struct virtio_blk_discard_write_zeroes *range;
	unsigned int i;

	r = frontend_request_new(f, q, 0);
	request(r, VIRTIO_BLK_T_FLUSH, 0);
	assert_int_equal(frontend_do(f, q, r), VIRTIO_BLK_S_OK);
	r = frontend_request_new(f, q, 20);
	request(r, VIRTIO_BLK_T_GET_ID, 0);
	assert_int_equal(frontend_do(f, q, r), VIRTIO_BLK_S_OK);
	assert_string_equal((char *)r->data, "rig");
	if (offered & BIT(VIRTIO_BLK_F_DISCARD)) {
		r = frontend_request_new(f, q, sizeof(*range));
		request(r, VIRTIO_BLK_T_DISCARD, 0);
		range = (void *)r->data;
		*range = (struct virtio_blk_discard_write_zeroes) { .sector = sector,
								   .num_sectors = 8 };
		assert_int_equal(frontend_do(f, q, r), VIRTIO_BLK_S_OK);
	}
	if (!(offered & BIT(VIRTIO_BLK_F_WRITE_ZEROES)))
		return;
	r = frontend_request_new(f, q, sizeof(*range));
	request(r, VIRTIO_BLK_T_WRITE_ZEROES, 0);
	range = (void *)r->data;
	*range = (struct virtio_blk_discard_write_zeroes) { .sector = sector, .num_sectors = 8 };
	assert_int_equal(frontend_do(f, q, r), VIRTIO_BLK_S_OK);
	r = frontend_request_new(f, q, 8 * SECTOR);
	request(r, VIRTIO_BLK_T_IN, sector);
	assert_int_equal(frontend_do(f, q, r), VIRTIO_BLK_S_OK);
	for (i = 0; i < 8 * SECTOR; i++)
		assert_int_equal(r->data[i], 0);
}

static void exercise(const char *uri, unsigned int queues, bool packed)
{
	const uint64_t features = (packed ? PACKED : SPLIT) | BIT(VIRTIO_BLK_F_FLUSH);
	struct frontend f;
	struct rig rig;
	unsigned int q;

	rig_start(&rig, &(struct rig_params) { .uri = uri, .queues = queues, .packed = true });
	frontend_up(&f, rig.socket, features, queues);
	for (q = 0; q < queues; q++)
		write_and_verify(&f, q, q * 8192ull, q);
	for (q = 0; q < queues; q++)
		check_flush_and_discard(&f, q, q * 8192ull + 16);
	frontend_close(&f);
	rig_stop(&rig);
}

static void on_backends(const char *uri)
{
	exercise(uri, 1, false);
	exercise(uri, 1, true);
	exercise(uri, 4, false);
	exercise(uri, 4, true);
}

static void test_file(void **state)
{
	char path[] = "/tmp/vhost-user-disk-XXXXXX", uri[64];
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 32 << 20), 0);
	snprintf(uri, sizeof(uri), "file://%s", path);
	on_backends(uri);
	close(fd);
	unlink(path);
}

static void test_nbd(void **state)
{
	struct nbdkit kit = { 0 };
	char uri[300];

	(void)state;
	if (!nbdkit_installed()) {
		print_message("nbdkit is not installed\n");
		skip();
	}
	assert_int_equal(nbdkit_start(&kit, NBDKIT_UNIX, "memory 32M"), 0);
	snprintf(uri, sizeof(uri), kit.uri, "");
	on_backends(uri);
	nbdkit_stop(&kit);
}

/* The null device keeps nothing, but its requests come back. */
static void test_null(void **state)
{
	struct frontend_request *r[RIG_QUEUE_SIZE / 3];
	struct frontend f;
	struct rig rig;
	unsigned int i, round;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	for (i = 0; i < ARRAY_SIZE(r); i++)
		r[i] = frontend_request_new(&f, 0, 4096);
	for (round = 0; round < 500; round++) {
		const unsigned int n = 1 + round % (unsigned int)ARRAY_SIZE(r);

		for (i = 0; i < n; i++) {
			request(r[i], round & 1 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 8ull * i);
			frontend_submit(&f, 0, r[i]);
		}
		assert_true(frontend_wait(&f, 0, n));
		for (i = 0; i < n; i++)
			assert_int_equal(*r[i]->status, VIRTIO_BLK_S_OK);
	}
	frontend_close(&f);
	rig_stop(&rig);
}

/* --- ring states --- */

static void test_stop_and_start(void **state)
{
	const uint64_t features[] = { SPLIT, PACKED };
	unsigned int i, round;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(features); i++) {
		struct frontend_request *r;
		struct frontend f;
		struct rig rig;
		uint32_t base;

		rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1,
						       .packed = true });
		frontend_up(&f, rig.socket, features[i], 1);
		r = frontend_request_new(&f, 0, 4096);
		for (round = 0; round < 100; round++) {
			request(r, VIRTIO_BLK_T_OUT, round & 1);
			assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
			base = frontend_stop_ring(&f, 0);
			if (features[i] == SPLIT)
				assert_int_equal(base, round + 1);
			/* Asked twice, it is still there. */
			assert_int_equal(frontend_stop_ring(&f, 0), base);
			frontend_start_ring(&f, 0, base);
		}
		frontend_close(&f);
		rig_stop(&rig);
	}
}

static void enable(struct frontend *f, unsigned int q, bool on)
{
	const struct vhost_user_vring_state s = { q, on };

	assert_int_equal(frontend_ask(f, VHOST_USER_SET_VRING_ENABLE, &s, sizeof(s), NULL, 0), 0);
}

static void kick(struct frontend *f, unsigned int q)
{
	const uint64_t one = 1;

	assert_int_equal(write(f->queue[q].kick, &one, sizeof(one)), sizeof(one));
}

static bool interrupted_within(struct frontend *f, unsigned int q, int ms)
{
	struct pollfd pfd = { .fd = f->queue[q].call, .events = POLLIN };

	return poll(&pfd, 1, ms) == 1;
}

/* Interrupts that came for what has been seen already. */
static void forget_interrupts(struct frontend *f, unsigned int q)
{
	uint64_t value;

	if (interrupted_within(f, q, 0))
		assert_int_equal(read(f->queue[q].call, &value, sizeof(value)), sizeof(value));
}

/* What is put into a disabled ring is served once it is enabled, kicked or not. */
static void test_disabled(void **state)
{
	struct frontend_request *r;
	struct frontend f;
	struct rig rig;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	r = frontend_request_new(&f, 0, 4096);
	request(r, VIRTIO_BLK_T_IN, 0);
	assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
	enable(&f, 0, false);
	enable(&f, 0, false);
	forget_interrupts(&f, 0);
	frontend_submit(&f, 0, r);
	kick(&f, 0);
	assert_false(interrupted_within(&f, 0, 200));
	assert_int_equal(*r->status, 0xff);
	enable(&f, 0, true);
	assert_true(frontend_wait(&f, 0, 1));
	enable(&f, 0, true);
	assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
	frontend_close(&f);
	rig_stop(&rig);
}

/* Without protocol features, rings are enabled from the beginning. */
static void test_no_protocol_features(void **state)
{
	const uint64_t features = BIT(VIRTIO_F_VERSION_1);
	const uint64_t index = 0;
	struct vhost_user_vring_state num = { 0, RIG_QUEUE_SIZE };
	struct vhost_user_vring_addr addr = { 0 };
	struct vhost_user_memory table = { .nregions = 1 };
	struct frontend_request *r;
	struct frontend f;
	struct rig rig;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_connect(&f, rig.socket);
	assert_true(frontend_send(&f, VHOST_USER_SET_FEATURES, 0, &features, 8, NULL, 0));
	f.features = features;
	frontend_make_memory(&f, 1);
	frontend_make_ring(&f, 0);
	table.regions[0] = (struct vhost_user_region) { RIG_GUEST(0), RIG_ARENA, RIG_USER(0), 0 };
	assert_true(frontend_send(&f, VHOST_USER_SET_MEM_TABLE, 0, &table, 40,
				  &f.queue[0].mem_fd, 1));
	addr.desc = f.queue[0].sim->desc + RIG_USER(0) - RIG_GUEST(0);
	addr.avail = f.queue[0].sim->driver + RIG_USER(0) - RIG_GUEST(0);
	addr.used = f.queue[0].sim->device + RIG_USER(0) - RIG_GUEST(0);
	assert_true(frontend_send(&f, VHOST_USER_SET_VRING_NUM, 0, &num, 8, NULL, 0));
	assert_true(frontend_send(&f, VHOST_USER_SET_VRING_ADDR, 0, &addr, 40, NULL, 0));
	assert_true(frontend_send(&f, VHOST_USER_SET_VRING_CALL, 0, &index, 8, &f.queue[0].call, 1));
	assert_true(frontend_send(&f, VHOST_USER_SET_VRING_KICK, 0, &index, 8, &f.queue[0].kick, 1));
	r = frontend_request_new(&f, 0, 4096);
	request(r, VIRTIO_BLK_T_IN, 0);
	assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
	frontend_close(&f);
	rig_stop(&rig);
}

/* An interrupt that came due while there was no eventfd is made up for. */
static void test_late_call(void **state)
{
	const uint64_t none = 0x100, index = 0;
	struct frontend_request *r;
	struct frontend f;
	struct rig rig;
	unsigned int i;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	r = frontend_request_new(&f, 0, 4096);
	request(r, VIRTIO_BLK_T_IN, 0);
	assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_VRING_CALL, &none, 8, NULL, 0), 0);
	forget_interrupts(&f, 0);
	sim_enable_callbacks(f.queue[0].sim, 1);
	frontend_submit(&f, 0, r);
	for (i = 0; i < 2000 && *(volatile uint8_t *)r->status == 0xff; i++)
		usleep(5000);
	assert_int_equal(*r->status, VIRTIO_BLK_S_OK);
	assert_false(interrupted_within(&f, 0, 100));
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_VRING_CALL, &index, 8, &f.queue[0].call,
				      1), 0);
	assert_true(interrupted_within(&f, 0, 10000));
	frontend_close(&f);
	rig_stop(&rig);
}

/* A kick eventfd can be replaced while the ring runs. */
static void test_new_kick(void **state)
{
	const uint64_t index = 0;
	struct frontend_request *r;
	struct frontend f;
	struct rig rig;
	unsigned int i;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	r = frontend_request_new(&f, 0, 4096);
	request(r, VIRTIO_BLK_T_IN, 0);
	for (i = 0; i < 20; i++) {
		close(f.queue[0].kick);
		f.queue[0].kick = eventfd(0, EFD_CLOEXEC);
		assert_int_equal(frontend_ask(&f, VHOST_USER_SET_VRING_KICK, &index, 8,
					      &f.queue[0].kick, 1), 0);
		assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
	}
	frontend_close(&f);
	rig_stop(&rig);
}

static uint64_t get_status(struct frontend *f)
{
	return frontend_get(f, VHOST_USER_GET_STATUS);
}

/* The driver breaks its ring: the frontend is told, and a reset mends it. */
static void test_broken_ring(void **state)
{
	const uint64_t zero = 0, ready = 0xf;
	struct frontend_request *r;
	struct pollfd pfd = { .events = POLLIN };
	struct frontend f;
	struct rig rig;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_STATUS, &ready, 8, NULL, 0), 0);
	assert_int_equal(get_status(&f), ready);
	f.queue[0].sim->avail->idx = 0x4000;
	kick(&f, 0);
	pfd.fd = f.queue[0].err;
	assert_int_equal(poll(&pfd, 1, 10000), 1);
	assert_int_equal(get_status(&f), ready | VIRTIO_CONFIG_S_NEEDS_RESET);

	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_STATUS, &zero, 8, NULL, 0), 0);
	assert_int_equal(get_status(&f), 0);
	sim_destroy(f.queue[0].sim);
	close(f.queue[0].kick);
	close(f.queue[0].call);
	close(f.queue[0].err);
	memset(f.queue[0].arena, 0, RIG_ARENA);
	frontend_make_ring(&f, 0);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_FEATURES, &f.features, 8, NULL, 0), 0);
	frontend_start_ring(&f, 0, 0);
	r = frontend_request_new(&f, 0, 4096);
	request(r, VIRTIO_BLK_T_IN, 0);
	assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
	frontend_close(&f);
	rig_stop(&rig);
}

/* A driver without VERSION_1 gets nowhere, and that is said. */
static void test_legacy_driver(void **state)
{
	const uint64_t features = BIT(VHOST_USER_F_PROTOCOL_FEATURES);
	const struct vhost_user_vring_state on = { 0, 1 };
	const uint64_t index = 0;
	struct frontend f;
	struct rig rig;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	frontend_stop_ring(&f, 0);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_FEATURES, &features, 8, NULL, 0), 0);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_VRING_KICK, &index, 8,
				      &f.queue[0].kick, 1), 1);
	assert_true(get_status(&f) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_VRING_ENABLE, &on, 8, NULL, 0), 1);
	frontend_close(&f);
	rig_stop(&rig);
}

/* --- memory --- */

/* The table is replaced while requests flow; what they use stays mapped. */
static void test_memory_changes(void **state)
{
	struct vhost_user_mem_reg more = {
		.region = { 0x900000000ull, 1 << 20, 0x600000000000ull, 0 },
	};
	struct frontend_request *r[8];
	struct frontend f;
	struct rig rig;
	unsigned int i, round;
	int fd;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 2 });
	frontend_up(&f, rig.socket, SPLIT, 2);
	fd = make_fd(MEMFD);
	for (i = 0; i < ARRAY_SIZE(r); i++)
		r[i] = frontend_request_new(&f, 0, 65536);
	for (round = 0; round < 50; round++) {
		for (i = 0; i < ARRAY_SIZE(r); i++) {
			request(r[i], VIRTIO_BLK_T_OUT, 128ull * i);
			frontend_submit(&f, 0, r[i]);
		}
		if (round & 1)
			frontend_share_memory(&f);
		assert_int_equal(frontend_ask(&f, VHOST_USER_ADD_MEM_REG, &more, 40, &fd, 1), 0);
		assert_int_equal(frontend_ask(&f, VHOST_USER_ADD_MEM_REG, &more, 40, &fd, 1), 1);
		assert_int_equal(frontend_ask(&f, VHOST_USER_REM_MEM_REG, &more, 40, &fd, 1), 0);
		assert_int_equal(frontend_ask(&f, VHOST_USER_REM_MEM_REG, &more, 40, NULL, 0), 1);
		assert_true(frontend_wait(&f, 0, ARRAY_SIZE(r)));
		for (i = 0; i < ARRAY_SIZE(r); i++)
			assert_int_equal(*r[i]->status, VIRTIO_BLK_S_OK);
	}
	close(fd);
	frontend_close(&f);
	rig_stop(&rig);
}

/* Memory is taken away from below a running ring: it breaks, and nothing else. */
static void test_memory_goes(void **state)
{
	const struct vhost_user_memory none = { .nregions = 0 };
	struct pollfd pfd = { .events = POLLIN };
	struct frontend f;
	struct rig rig;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_MEM_TABLE, &none, 8, NULL, 0), 1);
	assert_true(get_status(&f) & VIRTIO_CONFIG_S_NEEDS_RESET);
	pfd.fd = f.queue[0].err;
	assert_int_equal(poll(&pfd, 1, 0), 0);
	frontend_close(&f);
	rig_stop(&rig);
}

/* The file is cut under the mapping: empty pages take its place. */
static void test_memory_is_cut(void **state)
{
	const unsigned long hits = sigbus_guard_hits();
	struct frontend_request *r;
	struct frontend f;
	struct rig rig;
	unsigned int i;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	r = frontend_request_new(&f, 0, 4096);
	request(r, VIRTIO_BLK_T_IN, 0);
	assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
	assert_int_equal(ftruncate(f.queue[0].mem_fd, 0), 0);
	kick(&f, 0);
	for (i = 0; i < 2000 && sigbus_guard_hits() == hits; i++)
		usleep(5000);
	assert_true(sigbus_guard_hits() > hits);
	assert_int_equal(ftruncate(f.queue[0].mem_fd, RIG_ARENA), 0);
	frontend_close(&f);
	assert_true(rig_wait_quiet(&rig));
	frontend_up(&f, rig.socket, SPLIT, 1);
	r = frontend_request_new(&f, 0, 4096);
	request(r, VIRTIO_BLK_T_IN, 0);
	assert_int_equal(frontend_do(&f, 0, r), VIRTIO_BLK_S_OK);
	frontend_close(&f);
	rig_stop(&rig);
}

/* --- frontends that go --- */

/* Requests in flight when the frontend dies finish; the next one finds all in order. */
static void test_reconnect(void **state)
{
	struct nbdkit kit = { 0 };
	struct frontend_request *r;
	struct frontend f;
	struct rig rig;
	unsigned int fds, i, round;
	char uri[300];

	(void)state;
	if (!nbdkit_installed()) {
		print_message("nbdkit is not installed\n");
		skip();
	}
	assert_int_equal(nbdkit_start(&kit, NBDKIT_UNIX,
				      "--filter=delay memory 32M rdelay=50ms wdelay=50ms"), 0);
	snprintf(uri, sizeof(uri), kit.uri, "");
	rig_start(&rig, &(struct rig_params) { .uri = uri, .queues = 2, .packed = true });
	fds = open_fds();
	for (round = 0; round < 10; round++) {
		frontend_up(&f, rig.socket, round & 1 ? PACKED : SPLIT, 2);
		for (i = 0; i < 12; i++) {
			r = frontend_request_new(&f, i & 1, 8192);
			request(r, i & 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 16ull * i);
			memset(r->data, (int)round, 8192);
			frontend_submit(&f, i & 1, r);
		}
		if (round & 2)
			assert_true(frontend_wait(&f, 0, 1));
		frontend_close(&f);
	}
	assert_true(rig_wait_quiet(&rig));
	assert_int_equal(open_fds_soon(fds), fds);
	frontend_up(&f, rig.socket, SPLIT, 1);
	write_and_verify(&f, 0, 0, 3);
	frontend_close(&f);
	rig_stop(&rig);
	nbdkit_stop(&kit);
}

/*
 * The daemon is killed with requests in flight, and the frontend brings the log
 * to its successor: everything comes back, once, and is where it belongs.
 */
struct crash {
	struct rig rig;
	struct rig_params params;
	char folder[64];
	char uri[300];
	pid_t pid;
	struct frontend f;
	struct vhost_user_inflight desc;
	int log_fd;
	uint64_t features;
	unsigned int kept_late; /* daemons that left requests behind */
};

static void crash_begin(struct crash *c, struct nbdkit *kit, const char *nbdkit_args)
{
	unsigned int q;

	assert_int_equal(nbdkit_start(kit, NBDKIT_UNIX, nbdkit_args), 0);
	snprintf(c->uri, sizeof(c->uri), kit->uri, "");
	c->params.uri = c->uri;
	assert_non_null(mkdtemp(c->folder));
	c->pid = rig_fork(&c->rig, &c->params, c->folder);
	frontend_connect(&c->f, c->rig.socket);
	frontend_negotiate(&c->f, c->features);
	frontend_make_memory(&c->f, c->params.queues);
	frontend_share_memory(&c->f);
	c->log_fd = frontend_get_inflight(&c->f, &c->desc);
	frontend_set_inflight(&c->f, &c->desc, c->log_fd);
	for (q = 0; q < c->params.queues; q++) {
		frontend_make_ring(&c->f, q);
		frontend_start_ring(&c->f, q, c->params.packed ? 0x80008000u : 0);
	}
}

/* The daemon of that socket is the successor. */
static void crash_go_on(struct crash *c, const char *socket)
{
	struct frontend again;
	unsigned int q;

	frontend_connect(&again, socket);
	frontend_negotiate(&again, c->features);
	frontend_move(&again, &c->f);
	c->f = again;
	frontend_share_memory(&c->f);
	frontend_set_inflight(&c->f, &c->desc, c->log_fd);
	/* What a monitor knows of the position when nobody answers: the used index, or nothing. */
	for (q = 0; q < c->f.queues; q++)
		frontend_start_ring(&c->f, q, c->params.packed ? 0 : c->f.queue[q].sim->used->idx);
}

static void crash_end(struct crash *c)
{
	frontend_close(&c->f);
	close(c->log_fd);
	unlink(c->rig.socket);
	assert_int_equal(rmdir(c->folder), 0);
}

static void crash_and_restart(struct crash *c, int sig)
{
	int status;

	assert_int_equal(kill(c->pid, sig), 0);
	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	if (sig == SIGTERM) {
		assert_true(WIFEXITED(status));
		assert_true(!WEXITSTATUS(status) || WEXITSTATUS(status) == RIG_KEPT_LATE);
		c->kept_late += WEXITSTATUS(status) == RIG_KEPT_LATE;
	}
	c->pid = rig_fork(&c->rig, &c->params, c->folder);
	crash_go_on(c, c->rig.socket);
}

static void crash_rounds(struct crash *c)
{
	enum { N = 10, BYTES = 4096 };
	struct frontend_request *w[2 * N], *r;
	unsigned int round, i, j;

	for (i = 0; i < 2 * N; i++)
		w[i] = frontend_request_new(&c->f, i & 1, BYTES);
	r = frontend_request_new(&c->f, 0, BYTES);
	for (round = 0; round < 6; round++) {
		for (i = 0; i < 2 * N; i++) {
			request(w[i], VIRTIO_BLK_T_OUT, 8ull * i);
			memset(w[i]->data, (int)(round * 40 + i + 1), BYTES);
			frontend_submit(&c->f, i & 1, w[i]);
		}
		/* In every state of the requests: none taken, some done, and again before any. */
		usleep(15000 * round);
		crash_and_restart(c, round % 3 ? SIGKILL : SIGTERM);
		if (round & 1)
			crash_and_restart(c, SIGKILL);
		for (i = 0; i < 2; i++)
			assert_true(frontend_wait(&c->f, i, N));
		for (i = 0; i < 2 * N; i++) {
			assert_true(w[i]->done);
			assert_int_equal(*w[i]->status, VIRTIO_BLK_S_OK);
			request(r, VIRTIO_BLK_T_IN, w[i]->sector);
			assert_int_equal(frontend_do(&c->f, 0, r), VIRTIO_BLK_S_OK);
			for (j = 0; j < BYTES; j++)
				assert_int_equal(r->data[j], (uint8_t)(round * 40 + i + 1));
		}
	}
}

static void crash(bool packed)
{
	struct crash c = {
		.features = (packed ? PACKED : SPLIT) | BIT(VIRTIO_BLK_F_FLUSH),
		/* Each round writes the same blocks again. */
		.params = { .queues = 2, .packed = packed, .tunables.fence_ms = 20 },
		.folder = "/tmp/vhost-user-XXXXXX",
	};
	struct nbdkit kit = { 0 };

	/* One thread a connection: nbdkit 1.32 dies of an assertion when two see its end. */
	crash_begin(&c, &kit, "-t 1 --filter=delay memory 4M wdelay=8ms");
	crash_rounds(&c);
	/* A position that was asked for counts, whatever the log says. */
	frontend_start_ring(&c.f, 0, frontend_stop_ring(&c.f, 0));
	frontend_start_ring(&c.f, 1, frontend_stop_ring(&c.f, 1));
	crash_rounds(&c);

	assert_true(c.kept_late);
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
	crash_end(&c);
	nbdkit_stop(&kit);
}

static void test_killed(void **state)
{
	(void)state;
	if (!nbdkit_installed()) {
		print_message("nbdkit is not installed\n");
		skip();
	}
	crash(false);
	crash(true);
}

/*
 * What a killed daemon had sent may be written late: so newer writes to the same
 * bytes wait, those of the log and to other bytes do not.
 */
static void prior_writes(bool packed)
{
	enum { BYTES = 4096 };
	struct crash c = {
		.features = (packed ? PACKED : SPLIT) | BIT(VIRTIO_BLK_F_FLUSH),
		.params = { .queues = 1, .packed = packed, .tunables.fence_ms = 300 },
		.folder = "/tmp/vhost-user-XXXXXX",
	};
	struct frontend_request *old, *newer, *other;
	struct backend_link_stats stats;
	struct nbdkit kit = { 0 };
	struct rig successor;

	crash_begin(&c, &kit, "-t 1 --filter=delay memory 4M wdelay=100ms");
	old = frontend_request_new(&c.f, 0, BYTES);
	newer = frontend_request_new(&c.f, 0, BYTES);
	other = frontend_request_new(&c.f, 0, BYTES);
	request(old, VIRTIO_BLK_T_OUT, 8);
	frontend_submit(&c.f, 0, old);
	usleep(20000);
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
	assert_false(old->done);

	rig_start(&successor, &c.params);
	crash_go_on(&c, successor.socket);
	assert_true(frontend_wait(&c.f, 0, 1));
	assert_int_equal(*old->status, VIRTIO_BLK_S_OK);
	request(newer, VIRTIO_BLK_T_OUT, 8);
	memset(newer->data, 0x5a, BYTES);
	frontend_submit(&c.f, 0, newer);
	request(other, VIRTIO_BLK_T_OUT, 16);
	assert_int_equal(frontend_do(&c.f, 0, other), VIRTIO_BLK_S_OK);
	assert_true(newer->done || frontend_wait(&c.f, 0, 1));
	assert_int_equal(*newer->status, VIRTIO_BLK_S_OK);
	assert_int_equal(backend_link_stats(successor.backend, 0, &stats), 0);
	assert_int_equal(stats.held, 1);
	request(other, VIRTIO_BLK_T_IN, 8);
	assert_int_equal(frontend_do(&c.f, 0, other), VIRTIO_BLK_S_OK);
	assert_memory_equal(other->data, newer->data, BYTES);
	crash_end(&c);
	rig_stop(&successor);
	nbdkit_stop(&kit);
}

static void test_prior_writes(void **state)
{
	(void)state;
	if (!nbdkit_installed()) {
		print_message("nbdkit is not installed\n");
		skip();
	}
	prior_writes(false);
	prior_writes(true);
}

/* A log that makes no sense keeps the ring from starting, and says why. */
static void test_bad_log(void **state)
{
	const struct vhost_user_vring_state on = { 0, 1 };
	struct vhost_user_inflight desc;
	struct frontend f;
	struct rig rig;
	const uint64_t index = 0;
	uint16_t version = 7;
	int fd;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	frontend_stop_ring(&f, 0);
	fd = frontend_get_inflight(&f, &desc);
	assert_int_equal(pwrite(fd, &version, sizeof(version), 8), sizeof(version));
	frontend_set_inflight(&f, &desc, fd);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_VRING_KICK, &index, 8, &f.queue[0].kick,
				      1), 1);
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_VRING_ENABLE, &on, 8, NULL, 0), 1);
	assert_true(get_status(&f) & VIRTIO_CONFIG_S_NEEDS_RESET);
	close(fd);
	frontend_close(&f);
	rig_stop(&rig);
}

/* The daemon ends while a frontend is connected and busy. */
static void test_end_while_busy(void **state)
{
	struct frontend_request *r;
	struct frontend f;
	struct rig rig;
	unsigned int i, round;

	(void)state;
	for (round = 0; round < 5; round++) {
		rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 2 });
		frontend_up(&f, rig.socket, SPLIT, 2);
		for (i = 0; i < 20; i++) {
			r = frontend_request_new(&f, i & 1, 8192);
			request(r, VIRTIO_BLK_T_OUT, 16ull * i);
			frontend_submit(&f, i & 1, r);
		}
		if (round & 1)
			frontend_send(&f, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
		rig_stop(&rig);
		/* All that was taken has come back. */
		frontend_close(&f);
	}
}

/* A frontend that fills its eventfd for interrupts holds up nobody for long. */
static void test_stuck_call(void **state)
{
	const uint64_t full = UINT64_MAX - 1, index = 0;
	struct frontend_request *r;
	struct frontend f;
	struct rig rig;
	int call;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	call = eventfd(0, EFD_CLOEXEC); /* one that blocks */
	assert_int_equal(write(call, &full, sizeof(full)), sizeof(full));
	assert_int_equal(frontend_ask(&f, VHOST_USER_SET_VRING_CALL, &index, 8, &call, 1), 0);
	sim_enable_callbacks(f.queue[0].sim, 1);
	r = frontend_request_new(&f, 0, 4096);
	request(r, VIRTIO_BLK_T_IN, 0);
	frontend_submit(&f, 0, r);
	frontend_stop_ring(&f, 0);
	assert_int_equal(*r->status, VIRTIO_BLK_S_OK);
	close(call);
	frontend_close(&f);
	rig_stop(&rig);
}

/* --- resize --- */

static void grow(struct rig *rig, void *opaque)
{
	struct error e = ERROR_INIT;

	(void)opaque;
	rig->disk.config.capacity = 64u << 11;
	assert_int_equal(transport_config_changed(rig->transport, &e), 0);
}

static void test_resize(void **state)
{
	struct vhost_user_header news;
	struct frontend f;
	struct rig rig;

	(void)state;
	rig_start(&rig, &(struct rig_params) { .uri = NULL_URI, .queues = 1 });
	frontend_up(&f, rig.socket, SPLIT, 1);
	assert_int_equal(capacity(&f), 16u << 11);
	rig_on_loop(&rig, grow, NULL);
	assert_int_equal(recv(f.backend_fd, &news, sizeof(news), 0), sizeof(news));
	assert_int_equal(news.request, VHOST_USER_BACKEND_CONFIG_CHANGE);
	assert_int_equal(news.flags, VHOST_USER_VERSION);
	assert_int_equal(news.size, 0);
	assert_int_equal(capacity(&f), 64u << 11);
	frontend_close(&f);
	assert_true(rig_wait_quiet(&rig));
	/* Nobody is there to be told: who comes later reads it anyway. */
	rig_on_loop(&rig, grow, NULL);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_positions),
		cmocka_unit_test(test_offers),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_bad_messages),
		cmocka_unit_test(test_fragments),
		cmocka_unit_test(test_socket),
		cmocka_unit_test(test_null),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_nbd),
		cmocka_unit_test(test_stop_and_start),
		cmocka_unit_test(test_disabled),
		cmocka_unit_test(test_no_protocol_features),
		cmocka_unit_test(test_late_call),
		cmocka_unit_test(test_new_kick),
		cmocka_unit_test(test_broken_ring),
		cmocka_unit_test(test_legacy_driver),
		cmocka_unit_test(test_memory_changes),
		cmocka_unit_test(test_memory_goes),
		cmocka_unit_test(test_memory_is_cut),
		cmocka_unit_test(test_reconnect),
		cmocka_unit_test(test_killed),
		cmocka_unit_test(test_prior_writes),
		cmocka_unit_test(test_bad_log),
		cmocka_unit_test(test_end_while_busy),
		cmocka_unit_test(test_stuck_call),
		cmocka_unit_test(test_resize),
	};

	log_set_level(getenv("VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
