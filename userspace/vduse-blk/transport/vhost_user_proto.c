// SPDX-License-Identifier: MIT
/*
 * Messages of the vhost-user protocol: what is acceptable.
 *
 * One table says for each request how long its payload may be, how many
 * descriptors come along, which protocol feature it needs and whether it is
 * answered. What is not in the table was never offered: a message without a
 * known length cannot be skipped, and whoever sends one is not to be trusted.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/util.h"
#include "transport/vhost_user_proto.h"

#define ALWAYS	(-1)

struct request_rule {
	const char *name;
	uint32_t min_size, max_size;
	unsigned int min_fds, max_fds;
	int feature; /* protocol feature that has to be negotiated */
	bool answered;
};

#define NOTHING	0, 0
#define U64	8, 8
#define STATE	8, 8
#define ADDR	40, 40
#define REGION	40, 40
#define MEMORY	8, 8 + VHOST_USER_MAX_REGIONS * sizeof(struct vhost_user_region)
#define CONFIG	VHOST_USER_CONFIG_HEADER, VHOST_USER_CONFIG_HEADER + VHOST_USER_MAX_CONFIG
#define SHMEM	VHOST_USER_INFLIGHT_SIZE, sizeof(struct vhost_user_inflight)

#define F(name) VHOST_USER_PROTOCOL_F_##name

static const struct request_rule rules[_VHOST_USER_REQUEST_MAX] = {
	[VHOST_USER_GET_FEATURES] = { "GET_FEATURES", NOTHING, 0, 0, ALWAYS, true },
	[VHOST_USER_SET_FEATURES] = { "SET_FEATURES", U64, 0, 0, ALWAYS, false },
	[VHOST_USER_SET_OWNER] = { "SET_OWNER", NOTHING, 0, 0, ALWAYS, false },
	[VHOST_USER_RESET_OWNER] = { "RESET_OWNER", NOTHING, 0, 0, ALWAYS, false },
	[VHOST_USER_SET_MEM_TABLE] = { "SET_MEM_TABLE", MEMORY, 0, VHOST_USER_MAX_FDS, ALWAYS,
				       false },
	[VHOST_USER_SET_VRING_NUM] = { "SET_VRING_NUM", STATE, 0, 0, ALWAYS, false },
	[VHOST_USER_SET_VRING_ADDR] = { "SET_VRING_ADDR", ADDR, 0, 0, ALWAYS, false },
	[VHOST_USER_SET_VRING_BASE] = { "SET_VRING_BASE", STATE, 0, 0, ALWAYS, false },
	[VHOST_USER_GET_VRING_BASE] = { "GET_VRING_BASE", STATE, 0, 0, ALWAYS, true },
	[VHOST_USER_SET_VRING_KICK] = { "SET_VRING_KICK", U64, 0, 1, ALWAYS, false },
	[VHOST_USER_SET_VRING_CALL] = { "SET_VRING_CALL", U64, 0, 1, ALWAYS, false },
	[VHOST_USER_SET_VRING_ERR] = { "SET_VRING_ERR", U64, 0, 1, ALWAYS, false },
	[VHOST_USER_GET_PROTOCOL_FEATURES] = { "GET_PROTOCOL_FEATURES", NOTHING, 0, 0, ALWAYS,
					       true },
	[VHOST_USER_SET_PROTOCOL_FEATURES] = { "SET_PROTOCOL_FEATURES", U64, 0, 0, ALWAYS, false },
	[VHOST_USER_GET_QUEUE_NUM] = { "GET_QUEUE_NUM", NOTHING, 0, 0, F(MQ), true },
	[VHOST_USER_SET_VRING_ENABLE] = { "SET_VRING_ENABLE", STATE, 0, 0, ALWAYS, false },
	[VHOST_USER_SET_BACKEND_REQ_FD] = { "SET_BACKEND_REQ_FD", NOTHING, 1, 1, F(BACKEND_REQ),
					    false },
	[VHOST_USER_GET_CONFIG] = { "GET_CONFIG", CONFIG, 0, 0, F(CONFIG), true },
	[VHOST_USER_SET_CONFIG] = { "SET_CONFIG", CONFIG, 0, 0, F(CONFIG), false },
	[VHOST_USER_GET_INFLIGHT_FD] = { "GET_INFLIGHT_FD", SHMEM, 0, 0, F(INFLIGHT_SHMFD), true },
	[VHOST_USER_SET_INFLIGHT_FD] = { "SET_INFLIGHT_FD", SHMEM, 1, 1, F(INFLIGHT_SHMFD), false },
	[VHOST_USER_RESET_DEVICE] = { "RESET_DEVICE", NOTHING, 0, 0, F(RESET_DEVICE), false },
	[VHOST_USER_GET_MAX_MEM_SLOTS] = { "GET_MAX_MEM_SLOTS", NOTHING, 0, 0, F(MEM_SLOTS), true },
	[VHOST_USER_ADD_MEM_REG] = { "ADD_MEM_REG", REGION, 1, 1, F(MEM_SLOTS), false },
	/* One descriptor is a known mistake of frontends, to be ignored. */
	[VHOST_USER_REM_MEM_REG] = { "REM_MEM_REG", REGION, 0, 1, F(MEM_SLOTS), false },
	[VHOST_USER_SET_STATUS] = { "SET_STATUS", U64, 0, 0, F(STATUS), false },
	[VHOST_USER_GET_STATUS] = { "GET_STATUS", NOTHING, 0, 0, F(STATUS), true },
};

static const struct request_rule *find_rule(uint32_t request)
{
	return request < ARRAY_SIZE(rules) && rules[request].name ? &rules[request] : NULL;
}

const char *vhost_user_request_name(uint32_t request)
{
	const struct request_rule *rule = find_rule(request);

	return rule ? rule->name : "unknown request";
}

bool vhost_user_has_answer(uint32_t request)
{
	const struct request_rule *rule = find_rule(request);

	return rule && rule->answered;
}

int vhost_user_check_header(const struct vhost_user_header *header,
			    const struct vhost_user_limits *limits, struct error *e)
{
	const struct request_rule *rule = find_rule(header->request);
	const uint32_t known = VHOST_USER_VERSION_MASK | VHOST_USER_REPLY | VHOST_USER_NEED_REPLY;

	if ((header->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
	    header->flags & ~known)
		return err_set(e, EPROTO, "a message with flags %#x", header->flags);
	if (header->flags & VHOST_USER_REPLY)
		return err_set(e, EPROTO, "a reply to a question that nobody asked");
	if (!rule)
		return err_set(e, EPROTO, "request %u is not known", header->request);
	if (rule->feature != ALWAYS && !(limits->negotiated & (1ULL << rule->feature)))
		return err_set(e, EPROTO, "%s without protocol feature %d", rule->name,
			       rule->feature);
	if (header->size < rule->min_size || header->size > rule->max_size)
		return err_set(e, EPROTO, "%s with a payload of %u bytes", rule->name,
			       header->size);
	return 0;
}

/* Regions */

static bool wraps(uint64_t start, uint64_t size)
{
	return start + (size - 1) < start;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a <= b + (b_size - 1) && b <= a + (a_size - 1);
}

static int check_region(const struct vhost_user_region *r, unsigned int index, struct error *e)
{
	if (!r->size || r->size > INT64_MAX)
		return err_set(e, EINVAL, "memory region %u: size %#" PRIx64, index, r->size);
	if (wraps(r->guest_addr, r->size) || wraps(r->user_addr, r->size))
		return err_set(e, EINVAL, "memory region %u wraps around", index);
	if (r->mmap_offset > INT64_MAX - r->size)
		return err_set(e, EINVAL, "memory region %u: offset %#" PRIx64, index,
			       r->mmap_offset);
	return 0;
}

int vhost_user_regions_check(const struct vhost_user_region *regions, unsigned int n,
			     struct error *e)
{
	unsigned int i, j;
	int err;

	for (i = 0; i < n; i++) {
		const struct vhost_user_region *a = &regions[i];

		err = check_region(a, i, e);
		if (err)
			return err;
		for (j = 0; j < i; j++) {
			const struct vhost_user_region *b = &regions[j];

			if (overlap(a->guest_addr, a->size, b->guest_addr, b->size) ||
			    overlap(a->user_addr, a->size, b->user_addr, b->size))
				return err_set(e, EINVAL, "memory regions %u and %u overlap", j, i);
		}
	}
	return 0;
}

/* Messages, one function a payload */

static int check_index(uint32_t index, const struct vhost_user_limits *limits, struct error *e)
{
	if (index >= limits->nqueues)
		return err_set(e, EINVAL, "virtqueue %u of %u", index, limits->nqueues);
	return 0;
}

static int check_memory(const struct vhost_user_msg *msg, struct error *e)
{
	const struct vhost_user_memory *memory = &msg->payload.memory;

	if (memory->nregions > VHOST_USER_MAX_REGIONS ||
	    msg->header.size != offsetof(struct vhost_user_memory, regions) +
				memory->nregions * sizeof(memory->regions[0]))
		return err_set(e, EINVAL, "%u memory regions in %u bytes", memory->nregions,
			       msg->header.size);
	if (msg->nfds != memory->nregions)
		return err_set(e, EINVAL, "%u descriptors for %u memory regions", msg->nfds,
			       memory->nregions);
	return vhost_user_regions_check(memory->regions, memory->nregions, e);
}

static int check_num(const struct vhost_user_vring_state *state,
		     const struct vhost_user_limits *limits, struct error *e)
{
	if (!state->num || state->num > limits->queue_size)
		return err_set(e, EINVAL, "a ring of %u entries, at most %u are supported",
			       state->num, limits->queue_size);
	return check_index(state->index, limits, e);
}

static int check_eventfd(const struct vhost_user_msg *msg, const struct vhost_user_limits *limits,
			 struct error *e)
{
	const uint64_t value = msg->payload.u64;

	if (value & ~(uint64_t)(VHOST_USER_VRING_INDEX | VHOST_USER_VRING_NO_FD))
		return err_set(e, EINVAL, "reserved bits in %#" PRIx64, value);
	if (!(value & VHOST_USER_VRING_NO_FD) != (msg->nfds == 1))
		return err_set(e, EINVAL, "%u descriptors, although the message says %s",
			       msg->nfds, value & VHOST_USER_VRING_NO_FD ? "none" : "one");
	return check_index(value & VHOST_USER_VRING_INDEX, limits, e);
}

static int check_config(const struct vhost_user_msg *msg, struct error *e)
{
	const struct vhost_user_config *config = &msg->payload.config;

	if (config->size != msg->header.size - VHOST_USER_CONFIG_HEADER || !config->size ||
	    config->offset > VHOST_USER_MAX_CONFIG - config->size)
		return err_set(e, EINVAL, "%u bytes at %u of the configuration, in a payload of %u",
			       config->size, config->offset, msg->header.size);
	return 0;
}

static int check_inflight(const struct vhost_user_msg *msg,
			  const struct vhost_user_limits *limits, struct error *e)
{
	const struct vhost_user_inflight *inflight = &msg->payload.inflight;

	if (!inflight->num_queues || inflight->num_queues > limits->nqueues)
		return err_set(e, EINVAL, "in-flight log for %u virtqueues of %u",
			       inflight->num_queues, limits->nqueues);
	if (!inflight->queue_size || inflight->queue_size > limits->queue_size)
		return err_set(e, EINVAL, "in-flight log for rings of %u entries, at most %u are supported",
			       inflight->queue_size, limits->queue_size);
	return 0;
}

static int check_bits(const char *what, uint64_t bits, uint64_t offered, struct error *e)
{
	if (bits & ~offered)
		return err_set(e, EINVAL, "%s %#" PRIx64 " were not offered", what,
			       bits & ~offered);
	return 0;
}

static int check_payload(const struct vhost_user_msg *msg, const struct vhost_user_limits *limits,
			 struct error *e)
{
	const union vhost_user_payload *p = &msg->payload;

	switch (msg->header.request) {
	case VHOST_USER_SET_FEATURES:
		return check_bits("features", p->u64, limits->features, e);
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		return check_bits("protocol features", p->u64, limits->protocol_features, e);
	case VHOST_USER_SET_MEM_TABLE:
		return check_memory(msg, e);
	case VHOST_USER_ADD_MEM_REG:
	case VHOST_USER_REM_MEM_REG:
		return vhost_user_regions_check(&p->mem_reg.region, 1, e);
	case VHOST_USER_SET_VRING_NUM:
		return check_num(&p->state, limits, e);
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_GET_VRING_BASE:
		return check_index(p->state.index, limits, e);
	case VHOST_USER_SET_VRING_ENABLE:
		if (p->state.num > 1)
			return err_set(e, EINVAL, "neither enables nor disables: %u",
				       p->state.num);
		return check_index(p->state.index, limits, e);
	case VHOST_USER_SET_VRING_ADDR:
		if (p->addr.flags)
			return err_set(e, EINVAL, "ring flags %#x: a log was not offered",
				       p->addr.flags);
		return check_index(p->addr.index, limits, e);
	case VHOST_USER_SET_VRING_KICK:
	case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
		return check_eventfd(msg, limits, e);
	case VHOST_USER_GET_CONFIG:
	case VHOST_USER_SET_CONFIG:
		return check_config(msg, e);
	case VHOST_USER_GET_INFLIGHT_FD:
	case VHOST_USER_SET_INFLIGHT_FD:
		return check_inflight(msg, limits, e);
	case VHOST_USER_SET_STATUS:
		if (p->u64 > UINT8_MAX)
			return err_set(e, EINVAL, "status %#" PRIx64, p->u64);
		return 0;
	default:
		return 0;
	}
}

int vhost_user_check_msg(const struct vhost_user_msg *msg, const struct vhost_user_limits *limits,
			 struct error *e)
{
	const struct request_rule *rule = find_rule(msg->header.request);

	if (msg->nfds < rule->min_fds || msg->nfds > rule->max_fds)
		return err_set(e, EINVAL, "%s with %u descriptors", rule->name, msg->nfds);
	if (check_payload(msg, limits, e))
		return err_prefix(e, "%s", rule->name);
	return 0;
}

/*
 * Split: the next entry of the available ring. Packed: the same with its wrap
 * counter, and in the upper half the next used descriptor with its own.
 */
uint32_t vhost_user_base_encode(const struct virtqueue_state *state, bool packed)
{
	if (!packed)
		return state->avail_idx;
	return (state->avail_idx & 0x7fffu) | (uint32_t)state->avail_wrap << 15 |
	       (state->used_idx & 0x7fffu) << 16 | (uint32_t)state->used_wrap << 31;
}

struct virtqueue_state vhost_user_base_decode(uint32_t num, bool packed)
{
	struct virtqueue_state state = VIRTQUEUE_STATE_INIT;

	if (!packed) {
		state.avail_idx = (uint16_t)num;
		return state;
	}
	state.avail_idx = num & 0x7fff;
	state.avail_wrap = num >> 15 & 1;
	state.used_idx = num >> 16 & 0x7fff;
	state.used_wrap = num >> 31;
	return state;
}
