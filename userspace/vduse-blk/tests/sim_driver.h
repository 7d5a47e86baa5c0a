/* SPDX-License-Identifier: MIT */
/*
 * sim_driver.h: the driver side of a virtqueue, for tests of the device side.
 *
 * It owns an arena of memory that holds the rings, indirect tables and buffers,
 * and an iotlb through which the device sees the arena. Everything is laid out
 * as a driver does it, and the arena's fields can be overwritten by tests that
 * play a hostile one.
 */
#ifndef TESTS_SIM_DRIVER_H
#define TESTS_SIM_DRIVER_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/iotlb.h"
#include "virtio/virtqueue.h"

#define SIM_IOVA	0x10000000ull
#define SIM_ARENA_BYTES	(8u << 20)

struct sim_params {
	unsigned int num;
	bool packed;
	bool event_idx;
	bool indirect; /* feature negotiated; used for chains that ask for it */
	unsigned int max_chain; /* 0: 64 */
	uint16_t start; /* split: index to begin with, to wrap around early */
	unsigned int arena_bytes; /* 0: SIM_ARENA_BYTES */
	unsigned int region_bytes; /* cut the buffers' memory into mappings; 0: one for all */
	void *arena; /* zeroed memory of the caller's that stays its own; NULL: allocated */
	uint64_t iova; /* where the device sees it; 0: SIM_IOVA */
};

struct sim_segment {
	uint64_t iova;
	uint32_t len;
	bool write;
};

/* What the driver remembers of a chain that the device owns. */
struct sim_slot {
	void *cookie;
	uint16_t ndesc; /* ring entries that it occupies */
	uint16_t head;
	bool busy;
};

struct sim_driver {
	struct sim_params params;
	unsigned int num;
	uint8_t *arena;
	uint64_t iova;
	uint64_t desc, driver, device; /* addresses of the rings */
	uint64_t tables; /* one indirect table for each ring entry */
	uint64_t data; /* free for buffers */
	uint64_t data_end;
	struct iotlb *iotlb;

	struct vring_desc *split_desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct vring_packed_desc *ring;
	struct vring_packed_desc_event *driver_event;
	struct vring_packed_desc_event *device_event;

	struct sim_slot *slots; /* by head (split) or buffer ID (packed) */
	uint16_t *free_desc; /* split: stack of free descriptors */
	unsigned int num_free;
	uint16_t avail_idx, used_idx;
	uint16_t avail_kicked; /* position at the last look at whether to kick */
	uint16_t added; /* packed: entries added since then */
	bool avail_wrap, used_wrap;
	bool callbacks;
};

struct sim_driver *sim_create(const struct sim_params *params);
void sim_destroy(struct sim_driver *d);

/* The device's process died and another begins: an iotlb without holds. */
void sim_replace_device(struct sim_driver *d);

/* Memory behind an address of the arena. */
void *sim_mem(const struct sim_driver *d, uint64_t iova);

/* Parameters that make a virtqueue on these rings. */
struct virtqueue_params sim_virtqueue_params(const struct sim_driver *d);

/* Add a chain; false when there is no room. @indirect: in a table of its own. */
bool sim_add(struct sim_driver *d, const struct sim_segment *segments, unsigned int n,
	     bool indirect, void *cookie);

/* After adding: does the device want to be told? Follows 2.7.10 and 2.8.10. */
bool sim_needs_kick(struct sim_driver *d);

/* Take one used chain; false when there is none. */
bool sim_get_used(struct sim_driver *d, void **ret_cookie, uint32_t *ret_len);

/* Ask for no interrupts. */
void sim_disable_callbacks(struct sim_driver *d);

/*
 * Ask for an interrupt after @after more used chains (1: the next one); without
 * event indices it comes with the next. True: used chains are there already.
 */
bool sim_enable_callbacks(struct sim_driver *d, unsigned int after);

/* Chains that the device owns. */
unsigned int sim_outstanding(const struct sim_driver *d);

#endif /* TESTS_SIM_DRIVER_H */
