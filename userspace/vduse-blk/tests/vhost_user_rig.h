/* SPDX-License-Identifier: MIT */
/*
 * Both ends of a vhost-user socket in one process: the device with its main loop
 * on a thread, as the daemon has it, and a frontend whose every step a test
 * writes down. Guest memory is a memfd that each end maps for itself.
 *
 * What cannot fail in a sane environment aborts the test.
 */
#ifndef TESTS_VHOST_USER_RIG_H
#define TESTS_VHOST_USER_RIG_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "backend/backend.h"
#include "loop/loop.h"
#include "sim_driver.h"
#include "transport/transport.h"
#include "transport/vhost_user_proto.h"
#include "virtio/virtio_blk.h"

#define RIG_MAX_QUEUES	8u
#define RIG_QUEUE_SIZE	64u
#define RIG_ARENA	(4u << 20)	/* guest memory of each queue */
#define RIG_GUEST(q)	(0x100000000ull * ((q) + 1))	/* where the guest has it */
#define RIG_USER(q)	(0x7f0000000000ull + 0x40000000ull * (q)) /* and the frontend */

/* --- the device --- */

struct rig_params {
	const char *uri;
	unsigned int queues;
	bool packed;
	bool read_only;
	struct backend_tunables tunables; /* zeroed: the defaults */
};

struct rig {
	struct rig_params params;
	char folder[64];
	char socket[96];
	pthread_t thread;
	sem_t ready;
	struct loop *loop;
	struct backend *backend;
	struct vblk_device disk;
	struct transport *transport;
	/* A call on the main loop's thread; see rig_on_loop(). */
	int call_fd;
	struct loop_op call_op;
	void (*call)(struct rig *rig, void *opaque);
	void *call_opaque;
	sem_t called;
	bool stop;
};

void rig_start(struct rig *rig, const struct rig_params *params);
void rig_stop(struct rig *rig);

/*
 * The device in a process of its own, to be killed. On SIGTERM it leaves what is in
 * flight to a successor, after RIG_KEEP_MS, and ends with status 0 when there was
 * nothing left and RIG_KEPT_LATE when there was. The folder is the caller's to remove.
 */
#define RIG_KEEP_MS	20u
#define RIG_KEPT_LATE	3
pid_t rig_fork(struct rig *rig, const struct rig_params *params, const char *folder);

/* Run @call on the thread of the main loop and wait for it. */
void rig_on_loop(struct rig *rig, void (*call)(struct rig *rig, void *opaque), void *opaque);

/* Wait until nothing of a frontend that has gone is left; false: after 10 s it still is. */
bool rig_wait_quiet(struct rig *rig);

/* Descriptors that this process has open. */
unsigned int open_fds(void);

/* --- the frontend --- */

struct frontend_queue {
	int mem_fd;
	uint8_t *arena;
	struct sim_driver *sim;
	int kick, call, err;
	uint64_t next_data; /* bump allocator in the arena */
};

struct frontend {
	int fd;
	unsigned int queues;
	uint64_t features;
	uint64_t protocol_features;
	int backend_fd; /* our end of the backend's channel */
	struct frontend_queue queue[RIG_MAX_QUEUES];
};

/* Connect and do nothing else. */
void frontend_connect(struct frontend *f, const char *path);
void frontend_close(struct frontend *f);

/* Send one message, as it is. False when the backend has closed the connection. */
bool frontend_send_raw(struct frontend *f, const void *bytes, size_t size, const int *fds,
		       unsigned int nfds);
bool frontend_send(struct frontend *f, uint32_t request, uint32_t flags, const void *payload,
		   uint32_t size, const int *fds, unsigned int nfds);

/* Receive one answer; bytes of payload, or -1 when the backend has closed. */
ssize_t frontend_receive(struct frontend *f, struct vhost_user_header *ret_header, void *payload,
			 size_t size, int *ret_fd);

/* Ask for an acknowledgement and return it; -1: the connection was closed. */
int64_t frontend_ask(struct frontend *f, uint32_t request, const void *payload, uint32_t size,
		     const int *fds, unsigned int nfds);

/* A request that is answered with one number. */
uint64_t frontend_get(struct frontend *f, uint32_t request);

/* Everything up to, and without, the rings. @features: those wanted, besides VERSION_1. */
void frontend_negotiate(struct frontend *f, uint64_t features);

/* Memory and rings, as a monitor does it when the driver is ready. */
void frontend_make_memory(struct frontend *f, unsigned int queues);
void frontend_share_memory(struct frontend *f);
void frontend_make_ring(struct frontend *f, unsigned int q);
/* Get a file for requests in flight, and hand it in. Asking again is what a monitor does not. */
int frontend_get_inflight(struct frontend *f, struct vhost_user_inflight *ret_desc);
void frontend_set_inflight(struct frontend *f, const struct vhost_user_inflight *desc, int fd);
void frontend_start_ring(struct frontend *f, unsigned int q, uint32_t base);
uint32_t frontend_stop_ring(struct frontend *f, unsigned int q);

/* The same memory and rings for another connection, after @from has lost its own. */
void frontend_move(struct frontend *f, struct frontend *from);

/* All of the above, for all queues. */
void frontend_up(struct frontend *f, const char *path, uint64_t features, unsigned int queues);

/* --- requests --- */

struct frontend_request {
	uint32_t type;
	uint64_t sector;
	uint32_t bytes; /* of data */
	uint8_t *data;	/* in guest memory */
	uint64_t data_addr;
	uint8_t *status;
	bool done;
};

/* Room for a request with that much data; lives as long as the frontend. */
struct frontend_request *frontend_request_new(struct frontend *f, unsigned int q, uint32_t bytes);

/* Put it into the ring; kick if the device wants one. */
void frontend_submit(struct frontend *f, unsigned int q, struct frontend_request *r);

/* Wait for interrupts until @n requests have come back; false: not within 10 s. */
bool frontend_wait(struct frontend *f, unsigned int q, unsigned int n);

/* Submit, wait, and return the status byte. */
uint8_t frontend_do(struct frontend *f, unsigned int q, struct frontend_request *r);

#endif
