/* SPDX-License-Identifier: MIT */
/*
 * Messages of the vhost-user protocol: their layout and what makes one
 * acceptable. No I/O and no state, so tests and the fuzzer reach all of it.
 *
 * The frontend (a virtual machine monitor) sends requests over a UNIX socket,
 * file descriptors travelling with them; we, the backend, answer some of them,
 * and all of those that ask for it (REPLY_ACK). Numbers are in the machine's own
 * byte order.
 */
#ifndef VDUSE_BLK_TRANSPORT_VHOST_USER_PROTO_H
#define VDUSE_BLK_TRANSPORT_VHOST_USER_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "virtio/virtqueue.h"

enum vhost_user_request {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_RESET_OWNER = 4,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_SET_VRING_ERR = 14,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_SET_BACKEND_REQ_FD = 21,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
	VHOST_USER_GET_INFLIGHT_FD = 31,
	VHOST_USER_SET_INFLIGHT_FD = 32,
	VHOST_USER_RESET_DEVICE = 34,
	VHOST_USER_GET_MAX_MEM_SLOTS = 36,
	VHOST_USER_ADD_MEM_REG = 37,
	VHOST_USER_REM_MEM_REG = 38,
	VHOST_USER_SET_STATUS = 39,
	VHOST_USER_GET_STATUS = 40,
	_VHOST_USER_REQUEST_MAX,
};

/* What the backend sends on the channel of its own. */
#define VHOST_USER_BACKEND_CONFIG_CHANGE	2u

/* Among the virtio feature bits: this backend speaks protocol features. */
#define VHOST_USER_F_PROTOCOL_FEATURES		30

/* Bits of the protocol features. */
#define VHOST_USER_PROTOCOL_F_MQ		0
#define VHOST_USER_PROTOCOL_F_REPLY_ACK		3
#define VHOST_USER_PROTOCOL_F_BACKEND_REQ	5
#define VHOST_USER_PROTOCOL_F_CONFIG		9
#define VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD	12
#define VHOST_USER_PROTOCOL_F_RESET_DEVICE	13
#define VHOST_USER_PROTOCOL_F_MEM_SLOTS		15
#define VHOST_USER_PROTOCOL_F_STATUS		16

/* Flags of a message. */
#define VHOST_USER_VERSION_MASK	0x3u
#define VHOST_USER_VERSION	0x1u
#define VHOST_USER_REPLY	0x4u
#define VHOST_USER_NEED_REPLY	0x8u

/* Payload of SET_VRING_KICK, _CALL and _ERR. */
#define VHOST_USER_VRING_INDEX	0xffu
#define VHOST_USER_VRING_NO_FD	0x100u

#define VHOST_USER_MAX_FDS	8u
#define VHOST_USER_MAX_REGIONS	8u /* in one SET_MEM_TABLE */
#define VHOST_USER_MAX_CONFIG	256u

struct vhost_user_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload */
};

struct vhost_user_vring_state {
	uint32_t index;
	uint32_t num;
};

/* Addresses in the frontend's own address space. */
struct vhost_user_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
	uint64_t log;
};

struct vhost_user_region {
	uint64_t guest_addr;
	uint64_t size;
	uint64_t user_addr;
	uint64_t mmap_offset;
};

struct vhost_user_memory {
	uint32_t nregions;
	uint32_t padding;
	struct vhost_user_region regions[VHOST_USER_MAX_REGIONS];
};

struct vhost_user_mem_reg {
	uint64_t padding;
	struct vhost_user_region region;
};

struct vhost_user_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[VHOST_USER_MAX_CONFIG];
};

/* On the wire with or without the padding that a compiler adds at its end. */
struct vhost_user_inflight {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
};

union vhost_user_payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_addr addr;
	struct vhost_user_memory memory;
	struct vhost_user_mem_reg mem_reg;
	struct vhost_user_config config;
	struct vhost_user_inflight inflight;
};

#define VHOST_USER_CONFIG_HEADER	offsetof(struct vhost_user_config, data)
#define VHOST_USER_INFLIGHT_SIZE	20u

/**
 * struct vhost_user_msg - one message with what came along
 * @header:	as received
 * @payload:	@header.size bytes of it are valid, the rest is zero
 * @fds:	descriptors; -1 once taken
 * @nfds:	how many came
 */
struct vhost_user_msg {
	struct vhost_user_header header;
	union vhost_user_payload payload;
	int fds[VHOST_USER_MAX_FDS];
	unsigned int nfds;
};

/**
 * struct vhost_user_limits - what a message is measured against
 * @features:		virtio features offered, VHOST_USER_F_PROTOCOL_FEATURES included
 * @protocol_features:	protocol features offered
 * @negotiated:		protocol features that the frontend accepted
 * @nqueues:		number of virtqueues
 * @queue_size:		longest ring
 */
struct vhost_user_limits {
	uint64_t features;
	uint64_t protocol_features;
	uint64_t negotiated;
	unsigned int nqueues;
	unsigned int queue_size;
};

/**
 * vhost_user_check_header() - may this message go on?
 * @header:	as received
 * @limits:	see there
 * @e:		error text
 *
 * Return: 0, or -EPROTO: neither length nor meaning of what follows are known,
 * so the connection cannot be used any more.
 */
int vhost_user_check_header(const struct vhost_user_header *header,
			    const struct vhost_user_limits *limits, struct error *e);

/**
 * vhost_user_check_msg() - is the message what its type says?
 * @msg:	complete, its header checked
 * @limits:	see there
 * @e:		error text
 *
 * Checks the number of descriptors and every field that can be judged without
 * knowing what came before.
 *
 * Return: 0 or -EINVAL.
 */
int vhost_user_check_msg(const struct vhost_user_msg *msg, const struct vhost_user_limits *limits,
			 struct error *e);

/**
 * vhost_user_has_answer() - does this request have an answer of its own?
 * @request: a request that vhost_user_check_header() let pass
 *
 * Return: false when at most a REPLY_ACK is due.
 */
bool vhost_user_has_answer(uint32_t request);

/**
 * vhost_user_request_name() - for logs
 * @request: any number
 *
 * Return: static text.
 */
const char *vhost_user_request_name(uint32_t request);

/**
 * vhost_user_base_encode() - a position as SET and GET_VRING_BASE have it
 * @state:	the position
 * @packed:	format of the ring
 *
 * Return: the number.
 */
uint32_t vhost_user_base_encode(const struct virtqueue_state *state, bool packed);

/**
 * vhost_user_base_decode() - the position behind such a number
 * @num:	the number
 * @packed:	format of the ring
 *
 * Return: the position; the virtqueue checks it when it starts.
 */
struct virtqueue_state vhost_user_base_decode(uint32_t num, bool packed);

/**
 * vhost_user_regions_check() - can these regions form a table?
 * @regions:	the regions
 * @n:		how many
 * @e:		error text
 *
 * None is empty or wraps around, and no two overlap, in guest or user addresses.
 *
 * Return: 0 or -EINVAL.
 */
int vhost_user_regions_check(const struct vhost_user_region *regions, unsigned int n,
			     struct error *e);

#endif
