// SPDX-License-Identifier: GPL-2.0-only
/*
 * The daemon's side of a block device; testdev.h says what it is for.
 *
 * Order: control messages come first, because a changed IOTLB or a reset must
 * be seen before the rings are touched again. UPDATE_IOTLB and a reset make all mappings
 * stale; the next access drops them and finds them anew. They are not dropped
 * at once, because vhost-vdpa holds its user's mmap lock until the answer, and
 * here that user is often this very process, so munmap() would wait for itself.
 *
 * On SET_STATUS with DRIVER_OK, and on opening a device that is already
 * running (its former daemon died), the queues start where the device index
 * says. Split: at the used index, which is right as long as the former daemon
 * completed in order. Packed: at the state that VDUSE_VQ_GET_INFO reports,
 * which is right only for a fresh start.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "testdev.h"
#include "util.h"
#include "vdpa_bus.h"

#define SERIAL "selftest-ramdisk"

void testdev_init(struct testdev *t, const char *prefix)
{
	memset(t, 0, sizeof(*t));
	snprintf(t->name, sizeof(t->name), "%s-%d", prefix, getpid());
	t->features = TESTDEV_FEATURES;
	t->queues = 1;
	t->queue_size = 64;
	t->size = 4 << 20;
	t->fd = -1;
	t->wake = -1;
}

const char *testdev_node(const struct testdev *t)
{
	static char path[VDUSE_NAME_MAX + 16];

	snprintf(path, sizeof(path), "/dev/vduse/%s", t->name);
	return path;
}

const char *testdev_attr(const struct testdev *t, const char *attr)
{
	static char path[VDUSE_NAME_MAX + 64];

	snprintf(path, sizeof(path), "/sys/class/vduse/%s/%s", t->name, attr);
	return path;
}

int vduse_control(unsigned long cmd, const void *arg)
{
	int fd = open("/dev/vduse/control", O_RDWR | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = (int)sys(ioctl(fd, cmd, arg));
	close(fd);
	return ret;
}

int vduse_destroy(const char *name)
{
	char buf[VDUSE_NAME_MAX] = "";

	snprintf(buf, sizeof(buf), "%s", name);
	return vduse_control(VDUSE_DESTROY_DEV, buf);
}

int testdev_create(struct testdev *t)
{
	struct virtio_blk_config blk = {
		.capacity = t->size / 512,
		.seg_max = 126,
		.num_queues = (uint16_t)t->queues,
	};
	struct vduse_dev_config *c;
	int ret;

	t->disk = mmap(NULL, t->size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (t->disk == MAP_FAILED)
		return -errno;
	c = calloc(1, sizeof(*c) + sizeof(blk));
	if (!c)
		return -ENOMEM;
	snprintf(c->name, sizeof(c->name), "%s", t->name);
	c->vendor_id = 0x6b73;
	c->device_id = VIRTIO_ID_BLOCK;
	c->features = t->features;
	c->vq_num = t->queues;
	c->vq_align = 4096;
	c->config_size = sizeof(blk);
	memcpy(c->config, &blk, sizeof(blk));
	ret = vduse_control(VDUSE_CREATE_DEV, c);
	free(c);
	return ret;
}

/* ---- guest memory ---- */

static void regions_drop(struct testdev *t)
{
	t->stale = false;
	while (t->nregions) {
		struct testdev_region *r = &t->region[--t->nregions];

		if (r->map != (void *)t->umem)
			munmap(r->map, (size_t)(r->last - r->start + 1));
	}
}

void testdev_remap(struct testdev *t, unsigned char *umem, uint64_t size)
{
	regions_drop(t);
	t->umem = umem;
	t->umem_size = size;
}

static struct testdev_region *region_add(struct testdev *t, uint64_t iova)
{
	struct vduse_iotlb_entry e = { .start = iova, .last = iova };
	struct testdev_region *r;
	int prot = 0, fd;

	if (t->nregions == TESTDEV_REGIONS)
		return NULL;
	fd = ioctl(t->fd, VDUSE_IOTLB_GET_FD, &e);
	if (fd < 0)
		return NULL;
	r = &t->region[t->nregions];
	r->start = e.start;
	r->last = e.last;
	r->perm = e.perm;
	if (t->umem && e.start == 0 && e.last == t->umem_size - 1) {
		r->map = t->umem;
	} else {
		if (e.perm & VDUSE_ACCESS_RO)
			prot |= PROT_READ;
		if (e.perm & VDUSE_ACCESS_WO)
			prot |= PROT_WRITE;
		r->map = mmap(NULL, (size_t)(e.last - e.start + 1), prot,
			      MAP_SHARED, fd, (off_t)e.offset);
	}
	close(fd);
	if (r->map == MAP_FAILED)
		return NULL;
	t->nregions++;
	return r;
}

/* Address of @iova, and how far the region goes on from there. */
static void *translate(struct testdev *t, uint64_t iova, size_t *ret_room)
{
	struct testdev_region *r = NULL;
	unsigned int i;

	if (t->stale)
		regions_drop(t);
	for (i = 0; i < t->nregions && !r; i++)
		if (iova >= t->region[i].start && iova <= t->region[i].last)
			r = &t->region[i];
	if (!r)
		r = region_add(t, iova);
	if (!r)
		return NULL;
	*ret_room = (size_t)(r->last - iova + 1);
	return (char *)r->map + (iova - r->start);
}

int testdev_copy(struct testdev *t, uint64_t iova, void *buf, size_t len,
		 bool write)
{
	while (len) {
		size_t room, n;
		void *p = translate(t, iova, &room);

		if (!p)
			return -EFAULT;
		n = len < room ? len : room;
		if (write)
			memcpy(p, buf, n);
		else
			memcpy(buf, p, n);
		buf = (char *)buf + n;
		iova += n;
		len -= n;
	}
	return 0;
}

static void *ring_ptr(struct testdev *t, uint64_t iova, size_t len)
{
	size_t room;
	void *p = translate(t, iova, &room);

	return p && room >= len ? p : NULL;
}

/* ---- taking requests ---- */

static void req_add(struct testdev_req *q, uint64_t addr, uint32_t len,
		    bool write)
{
	if (q->nsegs < TESTDEV_SEGS)
		q->segs[q->nsegs++] =
			(struct testdev_seg){ addr, len, write };
}

static int split_chain(struct testdev *t, struct testdev_req *q,
		       struct vring_desc *table, unsigned int num, uint16_t i)
{
	unsigned int n;

	for (n = 0; n < num && i < num; n++) {
		struct vring_desc d = table[i];

		if (d.flags & VRING_DESC_F_INDIRECT) {
			struct vring_desc *ind = ring_ptr(t, d.addr, d.len);

			if (!ind)
				return -EFAULT;
			return split_chain(t, q, ind, d.len / sizeof(d), 0);
		}
		req_add(q, d.addr, d.len, d.flags & VRING_DESC_F_WRITE);
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		i = d.next;
	}
	return -EINVAL;
}

/* 1: took one, 0: empty, -errno: the ring makes no sense. */
static int split_pop(struct testdev *t, struct testdev_queue *vq,
		     struct testdev_req *q)
{
	struct vring_desc *desc = ring_ptr(t, vq->desc, 16u * vq->num);
	uint16_t *avail = ring_ptr(t, vq->driver, 6u + 2u * vq->num);
	int ret;

	if (!desc || !avail)
		return -EFAULT;
	if (__atomic_load_n(&avail[1], __ATOMIC_ACQUIRE) == vq->avail_idx)
		return 0;
	q->id = avail[2 + vq->avail_idx % vq->num];
	q->ndesc = 1;
	ret = split_chain(t, q, desc, vq->num, q->id);
	if (ret)
		return ret;
	vq->avail_idx++;
	return 1;
}

static bool packed_is_avail(const struct testdev_queue *vq, uint16_t flags)
{
	bool avail = flags & (1 << VRING_PACKED_DESC_F_AVAIL);
	bool used = flags & (1 << VRING_PACKED_DESC_F_USED);

	return avail != used && avail == vq->avail_wrap;
}

static int packed_pop(struct testdev *t, struct testdev_queue *vq,
		      struct testdev_req *q)
{
	struct vring_packed_desc *ring = ring_ptr(t, vq->desc, 16u * vq->num);
	struct vring_packed_desc d;
	uint16_t flags;

	if (!ring)
		return -EFAULT;
	flags = __atomic_load_n(&ring[vq->avail_idx].flags, __ATOMIC_ACQUIRE);
	if (!packed_is_avail(vq, flags))
		return 0;
	q->ndesc = 0;
	do {
		d = ring[vq->avail_idx];
		q->ndesc++;
		if (++vq->avail_idx == vq->num) {
			vq->avail_idx = 0;
			vq->avail_wrap = !vq->avail_wrap;
		}
		if (d.flags & VRING_DESC_F_INDIRECT) {
			struct vring_packed_desc *ind;
			unsigned int i;

			ind = ring_ptr(t, d.addr, d.len);
			if (!ind)
				return -EFAULT;
			for (i = 0; i < d.len / sizeof(d); i++)
				req_add(q, ind[i].addr, ind[i].len,
					ind[i].flags & VRING_DESC_F_WRITE);
			break;
		}
		req_add(q, d.addr, d.len, d.flags & VRING_DESC_F_WRITE);
	} while ((d.flags & VRING_DESC_F_NEXT) && q->ndesc <= vq->num);
	q->id = d.id;
	return 1;
}

/* ---- completing them ---- */

static int split_push(struct testdev *t, struct testdev_queue *vq,
		      const struct testdev_req *q, uint32_t len)
{
	uint16_t *used = ring_ptr(t, vq->device, 6u + 8u * vq->num);
	struct vring_used_elem *e;

	if (!used)
		return -EFAULT;
	e = (struct vring_used_elem *)(used + 2) + vq->used_idx % vq->num;
	e->id = q->id;
	e->len = len;
	__atomic_store_n(&used[1], ++vq->used_idx, __ATOMIC_RELEASE);
	return 0;
}

static int packed_push(struct testdev *t, struct testdev_queue *vq,
		       const struct testdev_req *q, uint32_t len)
{
	struct vring_packed_desc *ring = ring_ptr(t, vq->desc, 16u * vq->num);
	uint16_t flags = VRING_DESC_F_WRITE;

	if (!ring)
		return -EFAULT;
	if (vq->used_wrap)
		flags |= 1 << VRING_PACKED_DESC_F_AVAIL |
			 1 << VRING_PACKED_DESC_F_USED;
	ring[vq->used_idx].id = q->id;
	ring[vq->used_idx].len = len;
	__atomic_store_n(&ring[vq->used_idx].flags, flags, __ATOMIC_RELEASE);
	vq->used_idx = (uint16_t)(vq->used_idx + q->ndesc);
	if (vq->used_idx >= vq->num) {
		vq->used_idx = (uint16_t)(vq->used_idx - vq->num);
		vq->used_wrap = !vq->used_wrap;
	}
	return 0;
}

static bool is_packed(const struct testdev *t)
{
	return t->driver_features & BIT64(VIRTIO_F_RING_PACKED);
}

static int complete(struct testdev *t, const struct testdev_req *q,
		    uint32_t len)
{
	struct testdev_queue *vq = &t->vq[q->queue];
	int ret = is_packed(t) ? packed_push(t, vq, q, len) :
				 split_push(t, vq, q, len);

	if (!ret)
		t->served++;
	return ret;
}

/* Moves the data segments from or to the RAM disk. Return: status byte. */
static uint8_t transfer(struct testdev *t, const struct testdev_req *q,
			uint64_t pos, bool in, uint32_t *ret_len)
{
	unsigned int i, end = q->nsegs - 1;

	for (i = 1; i < end; i++) {
		const struct testdev_seg *s = &q->segs[i];

		if (s->write != in || pos > t->size || s->len > t->size - pos ||
		    testdev_copy(t, s->iova, t->disk + pos, s->len, in))
			return VIRTIO_BLK_S_IOERR;
		pos += s->len;
		if (in)
			*ret_len += s->len;
	}
	return VIRTIO_BLK_S_OK;
}

/* Linux's layout: header alone in front, status byte alone at the end. */
static void execute(struct testdev *t, struct testdev_req *q)
{
	struct virtio_blk_outhdr h;
	uint8_t status = VIRTIO_BLK_S_UNSUPP;
	struct testdev_seg *last = &q->segs[q->nsegs - 1];
	uint32_t len = 1;

	if (q->nsegs < 2 || q->segs[0].len < sizeof(h) || !last->write ||
	    !last->len || testdev_copy(t, q->segs[0].iova, &h, sizeof(h), false)) {
		complete(t, q, 0);
		return;
	}
	switch (h.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		status = transfer(t, q, h.sector * 512,
				  h.type == VIRTIO_BLK_T_IN, &len);
		break;
	case VIRTIO_BLK_T_FLUSH:
		status = VIRTIO_BLK_S_OK;
		break;
	case VIRTIO_BLK_T_GET_ID:
		if (q->nsegs == 3 && q->segs[1].len >= sizeof(SERIAL) &&
		    !testdev_copy(t, q->segs[1].iova, SERIAL, sizeof(SERIAL),
				  true))
			status = VIRTIO_BLK_S_OK;
		break;
	}
	testdev_copy(t, last->iova + last->len - 1, &status, 1, true);
	complete(t, q, len);
}

/* Takes one request; executes or keeps it. Return: as the pop functions. */
static int serve_one(struct testdev *t, unsigned int index)
{
	struct testdev_req req = { .queue = index };
	struct testdev_queue *vq = &t->vq[index];
	int ret = is_packed(t) ? packed_pop(t, vq, &req) :
				 split_pop(t, vq, &req);

	if (ret <= 0)
		return ret;
	t->taken++;
	if (t->hold_every && t->taken % t->hold_every == 0 &&
	    t->nkept < TESTDEV_HELD) {
		t->kept[t->nkept] = malloc(sizeof(req));
		*t->kept[t->nkept++] = req;
		t->held++;
		return 1;
	}
	execute(t, &req);
	return 1;
}

static void inject_irq(struct testdev *t, uint32_t index)
{
	ioctl(t->fd, VDUSE_VQ_INJECT_IRQ, &index);
}

static void serve_queue(struct testdev *t, unsigned int index)
{
	unsigned long before = t->served;
	int ret;

	do {
		if (t->hold_io || t->stop)
			break;
		ret = serve_one(t, index);
	} while (ret > 0);
	if (t->served != before)
		inject_irq(t, index);
}

void testdev_kick_all(struct testdev *t)
{
	unsigned int i;

	for (i = 0; i < t->queues; i++)
		eventfd_write(t->vq[i].kickfd, 1);
}

void testdev_release_held(struct testdev *t)
{
	unsigned int i;

	for (i = 0; i < t->nkept; i++) {
		execute(t, t->kept[i]);
		inject_irq(t, t->kept[i]->queue);
		free(t->kept[i]);
	}
	t->nkept = 0;
}

/* ---- control messages ---- */

static void queues_stop(struct testdev *t)
{
	unsigned int i;

	for (i = 0; i < t->queues; i++)
		t->vq[i].ready = false;
	for (i = 0; i < t->nkept; i++)
		free(t->kept[i]);
	t->nkept = 0;
}

static void queue_start(struct testdev *t, unsigned int i)
{
	struct vduse_vq_info info = { .index = i };
	struct vduse_vq_eventfd kick = { .index = i };
	struct testdev_queue *vq = &t->vq[i];
	uint16_t *used;

	if (ioctl(t->fd, VDUSE_VQ_GET_INFO, &info) || !info.ready)
		return;
	vq->num = (uint16_t)info.num;
	vq->desc = info.desc_addr;
	vq->driver = info.driver_addr;
	vq->device = info.device_addr;
	if (is_packed(t)) {
		vq->avail_idx = info.packed.last_avail_idx;
		vq->avail_wrap = info.packed.last_avail_counter;
		vq->used_idx = info.packed.last_used_idx;
		vq->used_wrap = info.packed.last_used_counter;
	} else {
		used = ring_ptr(t, vq->device, 6u + 8u * vq->num);
		if (!used)
			return;
		vq->used_idx = used[1];
		vq->avail_idx = used[1];
	}
	vq->ready = true;
	kick.fd = vq->kickfd;
	ioctl(t->fd, VDUSE_VQ_SETUP_KICKFD, &kick);
	eventfd_write(vq->kickfd, 1);
}

static void queues_start(struct testdev *t)
{
	unsigned int i;

	ioctl(t->fd, VDUSE_DEV_GET_FEATURES, &t->driver_features);
	for (i = 0; i < t->queues; i++)
		queue_start(t, i);
}

static void status_set(struct testdev *t, uint8_t status)
{
	uint8_t old = t->status;

	t->status = status;
	if (!status) {
		/* The next driver's rings may lie at the same IOVAs. */
		queues_stop(t);
		t->stale = true;
	}
	if ((status & ~old) & VIRTIO_CONFIG_S_DRIVER_OK)
		queues_start(t);
}

int testdev_answer(struct testdev *t, const struct vduse_dev_request *req,
		   uint32_t result)
{
	struct vduse_dev_response resp = {
		.request_id = req->request_id,
		.result = result,
	};
	unsigned int i = req->vq_state.index;

	if (req->type == VDUSE_GET_VQ_STATE && i < t->queues) {
		struct testdev_queue *vq = &t->vq[i];

		resp.vq_state.index = i;
		if (is_packed(t)) {
			resp.vq_state.packed.last_avail_idx = vq->avail_idx;
			resp.vq_state.packed.last_avail_counter = vq->avail_wrap;
			resp.vq_state.packed.last_used_idx = vq->used_idx;
			resp.vq_state.packed.last_used_counter = vq->used_wrap;
		} else {
			resp.vq_state.split.avail_index = vq->avail_idx;
		}
	}
	return sys(write(t->fd, &resp, sizeof(resp))) == sizeof(resp) ? 0 :
									-errno;
}

static void serve_message(struct testdev *t)
{
	struct vduse_dev_request req;
	uint32_t result = VDUSE_REQ_RESULT_OK;

	if (read(t->fd, &req, sizeof(req)) != sizeof(req))
		return;
	t->log[t->nlog % TESTDEV_LOG] = req;
	__atomic_store_n(&t->nlog, t->nlog + 1, __ATOMIC_RELEASE);
	if (t->hold_answers) {
		if (t->nunanswered < ARRAY_LEN(t->unanswered))
			t->unanswered[t->nunanswered++] = req;
		return;
	}
	if (t->fail_mask & (1u << req.type))
		result = VDUSE_REQ_RESULT_FAILED;
	else if (req.type == VDUSE_UPDATE_IOTLB)
		t->stale = true;
	else if (req.type == VDUSE_SET_STATUS)
		/*
		 * Also for DRIVER_OK: the queues are set up before it is sent,
		 * and the driver uses them only after the answer.
		 */
		status_set(t, req.s.status);
	testdev_answer(t, &req, result);
}

unsigned int testdev_logged(struct testdev *t, uint32_t type,
			    unsigned int from)
{
	unsigned int n = 0, end = __atomic_load_n(&t->nlog, __ATOMIC_ACQUIRE);

	for (; from < end; from++)
		n += t->log[from % TESTDEV_LOG].type == type;
	return n;
}

/* ---- the loop ---- */

static void serve_round(struct testdev *t)
{
	struct pollfd p[2 + TESTDEV_QUEUES];
	unsigned int i, n = 2;
	eventfd_t count;

	p[0] = (struct pollfd){ t->hold_messages ? -1 : t->fd,
				t->heed_removal ? POLLIN | POLLPRI : POLLIN, 0 };
	p[1] = (struct pollfd){ t->wake, POLLIN, 0 };
	for (i = 0; i < t->queues; i++)
		p[n++] = (struct pollfd){ t->hold_io ? -1 : t->vq[i].kickfd,
					  POLLIN, 0 };
	if (poll(p, n, -1) < 0)
		return;
	if (p[0].revents & POLLPRI) {
		t->heed_removal = false;
		t->told++;
		t->hold_every = 0;
		testdev_release_held(t);
	}
	if (p[0].revents & POLLIN) {
		serve_message(t);
		return;
	}
	if (p[1].revents & POLLIN)
		eventfd_read(t->wake, &count);
	for (i = 0; i < t->queues; i++) {
		if (!(p[2 + i].revents & POLLIN))
			continue;
		eventfd_read(t->vq[i].kickfd, &count);
		if (t->vq[i].ready)
			serve_queue(t, i);
	}
}

void testdev_run(struct testdev *t)
{
	while (!t->stop)
		serve_round(t);
}

static void *thread_main(void *arg)
{
	testdev_run(arg);
	return NULL;
}

int testdev_start(struct testdev *t)
{
	int err;

	t->stop = false;
	err = pthread_create(&t->thread, NULL, thread_main, t);
	t->running = !err;
	return -err;
}

void testdev_poke(struct testdev *t)
{
	eventfd_write(t->wake, 1);
}

void testdev_stop(struct testdev *t)
{
	if (!t->running)
		return;
	t->stop = true;
	testdev_poke(t);
	pthread_join(t->thread, NULL);
	t->running = false;
}

/* ---- life cycle ---- */

int testdev_open(struct testdev *t)
{
	struct vduse_vq_config c = { .max_size = (uint16_t)t->queue_size };
	unsigned int i;

	t->fd = open(testdev_node(t), O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (t->fd < 0)
		return -errno;
	t->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (i = 0; i < t->queues; i++) {
		c.index = i;
		if (ioctl(t->fd, VDUSE_VQ_SETUP, &c))
			return -errno;
		t->vq[i] = (struct testdev_queue){
			.kickfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
		};
	}
	/* Nothing of a former daemon's process is of use. */
	t->nregions = 0;
	t->stale = false;
	t->nkept = 0;
	t->running = false;
	/* It died: the queues may be running already. */
	queues_start(t);
	t->up = true;
	return 0;
}

void testdev_close(struct testdev *t)
{
	unsigned int i;

	if (t->fd < 0)
		return;
	queues_stop(t);
	regions_drop(t);
	close(t->fd);
	close(t->wake);
	for (i = 0; i < t->queues; i++)
		close(t->vq[i].kickfd);
	t->fd = -1;
	t->up = false;
	t->status = 0;
	t->nunanswered = 0;
}

int testdev_destroy(struct testdev *t)
{
	int ret = vduse_destroy(t->name);

	if (t->disk) {
		munmap(t->disk, t->size);
		t->disk = NULL;
	}
	return ret;
}

int testdev_up(struct testdev *t)
{
	int ret = testdev_create(t);

	if (!ret)
		ret = testdev_open(t);
	if (!ret)
		ret = testdev_start(t);
	return ret;
}

int testdev_down(struct testdev *t)
{
	int ret = 0, r;

	t->hold_messages = false;
	t->hold_answers = false;
	t->hold_io = false;
	t->hold_every = 0;
	t->fail_mask = 0;
	testdev_stop(t);
	if (t->fd >= 0) {
		testdev_release_held(t);
		ret = testdev_start(t);
		testdev_poke(t);
	}
	if (vdpa_exists(t->name))
		ret = vdpa_dev_del(t->name);
	testdev_stop(t);
	testdev_close(t);
	r = testdev_destroy(t);
	return ret ? ret : r;
}
