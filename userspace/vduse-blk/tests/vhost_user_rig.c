// SPDX-License-Identifier: MIT
/* See vhost_user_rig.h. */
#include "vhost_user_rig.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "transport/vhost_user.h"

#define WAIT_MS 10000

static void expect(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "vhost_user_rig: %s: %s\n", what, strerror(errno));
	abort();
}

/* --- the device --- */

static void watch_calls(struct rig *rig)
{
	io_uring_prep_poll_add(loop_sqe(rig->loop, &rig->call_op), rig->call_fd, POLLIN);
}

static void call_came(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct rig *rig = container_of(op, struct rig, call_op);
	uint64_t value;

	(void)res;
	(void)cqe_flags;
	expect(read(rig->call_fd, &value, sizeof(value)) == sizeof(value), "read the eventfd");
	rig->call(rig, rig->call_opaque);
	if (rig->stop)
		loop_stop(rig->loop);
	else
		watch_calls(rig);
	sem_post(&rig->called);
}

static void create(struct rig *rig)
{
	const struct backend_options options = {
		.read_only = rig->params.read_only,
		.queues = rig->params.queues,
		.queue_depth = RIG_QUEUE_SIZE,
		.tunables = rig->params.tunables,
	};
	struct vblk_device_params disk = {
		.num_queues = rig->params.queues,
		.queue_size = RIG_QUEUE_SIZE,
		.packed = rig->params.packed,
		.read_only = rig->params.read_only,
		.serial = "rig",
	};
	struct vhost_user_params params = {
		.name = "rig",
		.socket_path = rig->socket,
		.disk = &rig->disk,
		.nqueues = rig->params.queues,
		.queue_size = RIG_QUEUE_SIZE,
	};
	const struct loop_params loop = { .name = "main" };
	struct error e = ERROR_INIT;

	if (loop_create(&loop, &rig->loop, &e) ||
	    backend_open(rig->params.uri, &options, &rig->backend, &e))
		goto fail;
	disk.info = &rig->backend->info;
	if (vblk_device_init(&rig->disk, &disk, &e))
		goto fail;
	params.backend = rig->backend;
	params.loop = rig->loop;
	if (!vhost_user_create(&params, &rig->transport, &e))
		return;
fail:
	fprintf(stderr, "vhost_user_rig: %s\n", e.text);
	abort();
}

static void *device_main(void *opaque)
{
	struct rig *rig = opaque;

	create(rig);
	rig->call_op.complete = call_came;
	watch_calls(rig);
	sem_post(&rig->ready);
	expect(!loop_run(rig->loop), "main loop");
	expect(!transport_close(rig->transport, NULL), "close the device");
	backend_close(rig->backend);
	loop_destroy(rig->loop);
	return NULL;
}

void rig_start(struct rig *rig, const struct rig_params *params)
{
	*rig = (struct rig) { .params = *params };
	strcpy(rig->folder, "/tmp/vhost-user-XXXXXX");
	expect(mkdtemp(rig->folder), "make a folder");
	snprintf(rig->socket, sizeof(rig->socket), "%s/socket", rig->folder);
	rig->call_fd = eventfd(0, EFD_CLOEXEC);
	expect(rig->call_fd >= 0, "eventfd");
	sem_init(&rig->ready, 0, 0);
	sem_init(&rig->called, 0, 0);
	expect(!pthread_create(&rig->thread, NULL, device_main, rig), "start a thread");
	while (sem_wait(&rig->ready))
		;
}

void rig_on_loop(struct rig *rig, void (*call)(struct rig *rig, void *opaque), void *opaque)
{
	const uint64_t one = 1;

	rig->call = call;
	rig->call_opaque = opaque;
	expect(write(rig->call_fd, &one, sizeof(one)) == sizeof(one), "write the eventfd");
	while (sem_wait(&rig->called))
		;
}

static void end_asked(struct loop_op *op, int res, uint32_t cqe_flags)
{
	(void)res;
	(void)cqe_flags;
	loop_stop(container_of(op, struct rig, call_op)->loop);
}

static _Noreturn void run_until_sigterm(struct rig *rig)
{
	sigset_t set;
	int fd, err;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	expect(fd >= 0, "signalfd");
	rig->call_op.complete = end_asked;
	io_uring_prep_poll_add(loop_sqe(rig->loop, &rig->call_op), fd, POLLIN);
	loop_run(rig->loop);
	err = transport_keep(rig->transport, RIG_KEEP_MS, NULL);
	_exit(!err ? 0 : err == -ETIMEDOUT ? RIG_KEPT_LATE : 1);
}

pid_t rig_fork(struct rig *rig, const struct rig_params *params, const char *folder)
{
	pid_t parent = getpid(), pid;
	int alive[2];
	char ready;

	*rig = (struct rig) { .params = *params };
	snprintf(rig->folder, sizeof(rig->folder), "%s", folder);
	snprintf(rig->socket, sizeof(rig->socket), "%s/socket", folder);
	expect(!pipe2(alive, O_CLOEXEC), "pipe");
	pid = fork();
	expect(pid >= 0, "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		create(rig);
		expect(write(alive[1], "", 1) == 1, "tell the parent");
		run_until_sigterm(rig);
	}
	close(alive[1]);
	expect(read(alive[0], &ready, 1) == 1, "the device starts");
	close(alive[0]);
	return pid;
}

static void end_loop(struct rig *rig, void *opaque)
{
	(void)opaque;
	rig->stop = true;
}

void rig_stop(struct rig *rig)
{
	rig_on_loop(rig, end_loop, NULL);
	pthread_join(rig->thread, NULL);
	close(rig->call_fd);
	sem_destroy(&rig->ready);
	sem_destroy(&rig->called);
	expect(access(rig->socket, F_OK), "the socket is still there");
	expect(!rmdir(rig->folder), "remove the folder");
}

static void look_whether_quiet(struct rig *rig, void *opaque)
{
	struct transport_status status;
	struct vblk_queue_stats stats;
	bool *quiet = opaque;
	unsigned int i;

	transport_status(rig->transport, &status);
	*quiet = !status.running && !status.features;
	for (i = 0; i < rig->params.queues; i++) {
		queue_thread_stats(transport_queue(rig->transport, i), &stats);
		*quiet = *quiet && !stats.in_flight;
	}
}

bool rig_wait_quiet(struct rig *rig)
{
	unsigned int i;
	bool quiet;

	for (i = 0; i < WAIT_MS / 5; i++) {
		rig_on_loop(rig, look_whether_quiet, &quiet);
		if (quiet)
			return true;
		usleep(5000);
	}
	return false;
}

unsigned int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	expect(dir, "open /proc/self/fd");
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* --- the frontend --- */

void frontend_connect(struct frontend *f, const char *path)
{
	const struct timeval limit = { .tv_sec = WAIT_MS / 1000 };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	*f = (struct frontend) { .backend_fd = -1 };
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	expect(f->fd >= 0, "socket");
	setsockopt(f->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	expect(!connect(f->fd, (struct sockaddr *)&addr, sizeof(addr)), "connect");
}

void frontend_close(struct frontend *f)
{
	unsigned int q;

	close(f->fd);
	if (f->backend_fd >= 0)
		close(f->backend_fd);
	for (q = 0; q < f->queues; q++) {
		struct frontend_queue *fq = &f->queue[q];

		if (fq->sim) {
			sim_destroy(fq->sim);
			close(fq->kick);
			close(fq->call);
			close(fq->err);
		}
		munmap(fq->arena, RIG_ARENA);
		close(fq->mem_fd);
	}
}

bool frontend_send_raw(struct frontend *f, const void *bytes, size_t size, const int *fds,
		       unsigned int nfds)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(32 * sizeof(int))] = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

	expect(nfds <= 32, "descriptors");
	if (nfds) {
		struct cmsghdr *cmsg;

		hdr.msg_control = control;
		hdr.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&hdr);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, nfds * sizeof(int));
	}
	while (sendmsg(f->fd, &hdr, MSG_NOSIGNAL) != (ssize_t)size) {
		if (errno != EINTR)
			return false;
	}
	return true;
}

bool frontend_send(struct frontend *f, uint32_t request, uint32_t flags, const void *payload,
		   uint32_t size, const int *fds, unsigned int nfds)
{
	struct {
		struct vhost_user_header header;
		uint8_t payload[512];
	} __attribute__((packed)) msg = { .header = { request, VHOST_USER_VERSION | flags, size } };

	expect(size <= sizeof(msg.payload), "size of a payload");
	if (size)
		memcpy(msg.payload, payload, size);
	return frontend_send_raw(f, &msg, sizeof(msg.header) + size, fds, nfds);
}

static bool receive_all(struct frontend *f, void *buf, size_t size, int *ret_fd)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	size_t got = 0;

	while (got < size) {
		struct iovec iov = { .iov_base = (uint8_t *)buf + got, .iov_len = size - got };
		struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				      .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(f->fd, &hdr, MSG_CMSG_CLOEXEC);
		struct cmsghdr *cmsg;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == ECONNRESET)
			return false;
		expect(n >= 0, "an answer within 10 s");
		if (!n)
			return false;
		cmsg = CMSG_FIRSTHDR(&hdr);
		if (cmsg && ret_fd)
			memcpy(ret_fd, CMSG_DATA(cmsg), sizeof(int));
		got += (size_t)n;
	}
	return true;
}

ssize_t frontend_receive(struct frontend *f, struct vhost_user_header *ret_header, void *payload,
			 size_t size, int *ret_fd)
{
	if (!receive_all(f, ret_header, sizeof(*ret_header), ret_fd))
		return -1;
	expect(ret_header->flags == (VHOST_USER_VERSION | VHOST_USER_REPLY), "flags of an answer");
	expect(ret_header->size <= size, "size of an answer");
	if (!receive_all(f, payload, ret_header->size, ret_fd))
		return -1;
	return ret_header->size;
}

int64_t frontend_ask(struct frontend *f, uint32_t request, const void *payload, uint32_t size,
		     const int *fds, unsigned int nfds)
{
	struct vhost_user_header header;
	uint64_t ack;

	if (!frontend_send(f, request, VHOST_USER_NEED_REPLY, payload, size, fds, nfds))
		return -1;
	if (frontend_receive(f, &header, &ack, sizeof(ack), NULL) < 0)
		return -1;
	expect(header.request == request && header.size == sizeof(ack), "an acknowledgement");
	return (int64_t)ack;
}

uint64_t frontend_get(struct frontend *f, uint32_t request)
{
	struct vhost_user_header header;
	uint64_t value;

	expect(frontend_send(f, request, 0, NULL, 0, NULL, 0), "send a question");
	expect(frontend_receive(f, &header, &value, sizeof(value), NULL) == sizeof(value),
	       "a number for an answer");
	expect(header.request == request, "the answer to this question");
	return value;
}

void frontend_negotiate(struct frontend *f, uint64_t features)
{
	const uint64_t wanted = features | 1ULL << VIRTIO_F_VERSION_1 |
				1ULL << VHOST_USER_F_PROTOCOL_FEATURES;
	int pair[2];

	f->features = frontend_get(f, VHOST_USER_GET_FEATURES) & wanted;
	expect(f->features == wanted, "the features wanted");
	f->protocol_features = frontend_get(f, VHOST_USER_GET_PROTOCOL_FEATURES);
	expect(frontend_send(f, VHOST_USER_SET_PROTOCOL_FEATURES, 0, &f->protocol_features,
			     sizeof(f->protocol_features), NULL, 0), "send");
	expect(!frontend_ask(f, VHOST_USER_SET_OWNER, NULL, 0, NULL, 0), "SET_OWNER");
	expect(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
	expect(!frontend_ask(f, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1),
	       "SET_BACKEND_REQ_FD");
	close(pair[1]);
	f->backend_fd = pair[0];
	expect(!frontend_ask(f, VHOST_USER_SET_FEATURES, &f->features, sizeof(f->features), NULL,
			     0), "SET_FEATURES");
}

void frontend_make_memory(struct frontend *f, unsigned int queues)
{
	unsigned int q;

	f->queues = queues;
	for (q = 0; q < queues; q++) {
		struct frontend_queue *fq = &f->queue[q];

		fq->mem_fd = memfd_create("guest", MFD_CLOEXEC);
		expect(fq->mem_fd >= 0 && !ftruncate(fq->mem_fd, RIG_ARENA), "memfd");
		fq->arena = mmap(NULL, RIG_ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, fq->mem_fd,
				 0);
		expect(fq->arena != MAP_FAILED, "mmap");
	}
}

void frontend_share_memory(struct frontend *f)
{
	struct vhost_user_memory table = { .nregions = f->queues };
	int fds[RIG_MAX_QUEUES];
	unsigned int q;

	for (q = 0; q < f->queues; q++) {
		table.regions[q] = (struct vhost_user_region) {
			.guest_addr = RIG_GUEST(q),
			.size = RIG_ARENA,
			.user_addr = RIG_USER(q),
		};
		fds[q] = f->queue[q].mem_fd;
	}
	expect(!frontend_ask(f, VHOST_USER_SET_MEM_TABLE, &table,
			     (uint32_t)(8 + f->queues * sizeof(table.regions[0])), fds, f->queues),
	       "SET_MEM_TABLE");
}

void frontend_make_ring(struct frontend *f, unsigned int q)
{
	struct frontend_queue *fq = &f->queue[q];

	fq->sim = sim_create(&(struct sim_params) {
			.num = RIG_QUEUE_SIZE,
			.packed = f->features & (1ULL << VIRTIO_F_RING_PACKED),
			.event_idx = f->features & (1ULL << VIRTIO_RING_F_EVENT_IDX),
			.indirect = f->features & (1ULL << VIRTIO_RING_F_INDIRECT_DESC),
			.max_chain = 8,
			.arena_bytes = RIG_ARENA,
			.arena = fq->arena,
			.iova = RIG_GUEST(q),
		});
	fq->next_data = fq->sim->data;
	fq->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fq->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fq->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	expect(fq->kick >= 0 && fq->call >= 0 && fq->err >= 0, "eventfd");
}

int frontend_get_inflight(struct frontend *f, struct vhost_user_inflight *ret_desc)
{
	const struct vhost_user_inflight wanted = {
		.num_queues = (uint16_t)f->queues,
		.queue_size = RIG_QUEUE_SIZE,
	};
	struct vhost_user_header header;
	int fd = -1;

	expect(frontend_send(f, VHOST_USER_GET_INFLIGHT_FD, 0, &wanted, sizeof(wanted), NULL, 0),
	       "send GET_INFLIGHT_FD");
	expect(frontend_receive(f, &header, ret_desc, sizeof(*ret_desc), &fd) == sizeof(*ret_desc),
	       "an answer to GET_INFLIGHT_FD");
	expect(fd >= 0 && ret_desc->num_queues == f->queues &&
	       ret_desc->queue_size == RIG_QUEUE_SIZE && ret_desc->mmap_size, "a file");
	return fd;
}

void frontend_set_inflight(struct frontend *f, const struct vhost_user_inflight *desc, int fd)
{
	expect(!frontend_ask(f, VHOST_USER_SET_INFLIGHT_FD, desc, sizeof(*desc), &fd, 1),
	       "SET_INFLIGHT_FD");
}

void frontend_move(struct frontend *f, struct frontend *from)
{
	memcpy(f->queue, from->queue, sizeof(f->queue));
	f->queues = from->queues;
	close(from->fd);
	close(from->backend_fd);
}

void frontend_start_ring(struct frontend *f, unsigned int q, uint32_t base)
{
	const struct frontend_queue *fq = &f->queue[q];
	const uint64_t to_user = RIG_USER(q) - RIG_GUEST(q);
	const struct vhost_user_vring_state num = { q, fq->sim->num };
	const struct vhost_user_vring_state at = { q, base };
	const struct vhost_user_vring_state on = { q, 1 };
	const struct vhost_user_vring_addr addr = {
		.index = q,
		.desc = fq->sim->desc + to_user,
		.avail = fq->sim->driver + to_user,
		.used = fq->sim->device + to_user,
	};
	const uint64_t index = q;

	expect(!frontend_ask(f, VHOST_USER_SET_VRING_NUM, &num, sizeof(num), NULL, 0), "NUM");
	expect(!frontend_ask(f, VHOST_USER_SET_VRING_BASE, &at, sizeof(at), NULL, 0), "BASE");
	expect(!frontend_ask(f, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), "ADDR");
	expect(!frontend_ask(f, VHOST_USER_SET_VRING_ERR, &index, sizeof(index), &fq->err, 1),
	       "ERR");
	expect(!frontend_ask(f, VHOST_USER_SET_VRING_KICK, &index, sizeof(index), &fq->kick, 1),
	       "KICK");
	expect(!frontend_ask(f, VHOST_USER_SET_VRING_CALL, &index, sizeof(index), &fq->call, 1),
	       "CALL");
	expect(!frontend_ask(f, VHOST_USER_SET_VRING_ENABLE, &on, sizeof(on), NULL, 0), "ENABLE");
}

uint32_t frontend_stop_ring(struct frontend *f, unsigned int q)
{
	struct vhost_user_vring_state state = { q, 0 };
	struct vhost_user_header header;

	expect(frontend_send(f, VHOST_USER_GET_VRING_BASE, 0, &state, sizeof(state), NULL, 0),
	       "send GET_VRING_BASE");
	expect(frontend_receive(f, &header, &state, sizeof(state), NULL) == sizeof(state),
	       "a position");
	expect(state.index == q, "of this queue");
	return state.num;
}

void frontend_up(struct frontend *f, const char *path, uint64_t features, unsigned int queues)
{
	const bool packed = features & (1ULL << VIRTIO_F_RING_PACKED);
	unsigned int q;

	frontend_connect(f, path);
	frontend_negotiate(f, features);
	frontend_make_memory(f, queues);
	frontend_share_memory(f);
	for (q = 0; q < queues; q++) {
		frontend_make_ring(f, q);
		frontend_start_ring(f, q, packed ? 0x80008000u : 0);
	}
}

/* --- requests --- */

struct frontend_request *frontend_request_new(struct frontend *f, unsigned int q, uint32_t bytes)
{
	struct frontend_queue *fq = &f->queue[q];
	uint64_t at = (fq->next_data + 63) & ~63ull;
	struct frontend_request *r;

	/* In guest memory too, with the request's header before and its status behind. */
	fq->next_data = at + sizeof(*r) + 16 + bytes + 1;
	expect(fq->next_data <= fq->sim->data_end, "guest memory");
	r = sim_mem(fq->sim, at);
	*r = (struct frontend_request) { .bytes = bytes };
	r->data_addr = at + sizeof(*r) + 16;
	r->data = (uint8_t *)(r + 1) + 16;
	r->status = r->data + bytes;
	return r;
}

void frontend_submit(struct frontend *f, unsigned int q, struct frontend_request *r)
{
	struct frontend_queue *fq = &f->queue[q];
	struct virtio_blk_outhdr *hdr = (void *)(r + 1);
	const bool in = r->type == VIRTIO_BLK_T_IN || r->type == VIRTIO_BLK_T_GET_ID;
	struct sim_segment seg[3] = { { r->data_addr - 16, 16, false } };
	unsigned int n = 1;
	const uint64_t one = 1;

	*hdr = (struct virtio_blk_outhdr) { .type = r->type, .sector = r->sector };
	*r->status = 0xff;
	r->done = false;
	if (r->bytes)
		seg[n++] = (struct sim_segment) { r->data_addr, r->bytes, in };
	seg[n++] = (struct sim_segment) { r->data_addr + r->bytes, 1, true };
	expect(sim_add(fq->sim, seg, n, fq->sim->params.indirect && r->sector & 1, r),
	       "room in the ring");
	if (sim_needs_kick(fq->sim))
		expect(write(fq->kick, &one, sizeof(one)) == sizeof(one), "kick");
}

bool frontend_wait(struct frontend *f, unsigned int q, unsigned int n)
{
	struct frontend_queue *fq = &f->queue[q];
	struct frontend_request *r;
	uint64_t value;
	uint32_t len;

	for (;;) {
		struct pollfd pfd = { .fd = fq->call, .events = POLLIN };
		void *cookie;

		while (n && sim_get_used(fq->sim, &cookie, &len)) {
			r = cookie;
			r->done = true;
			n--;
		}
		if (!n)
			return true;
		if (sim_enable_callbacks(fq->sim, 1))
			continue;
		if (poll(&pfd, 1, WAIT_MS) != 1)
			return false;
		expect(read(fq->call, &value, sizeof(value)) == sizeof(value), "interrupt");
	}
}

uint8_t frontend_do(struct frontend *f, unsigned int q, struct frontend_request *r)
{
	frontend_submit(f, q, r);
	expect(frontend_wait(f, q, 1), "a request comes back");
	return *r->status;
}
