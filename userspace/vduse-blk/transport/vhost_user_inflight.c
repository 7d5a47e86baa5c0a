// SPDX-License-Identifier: MIT
/*
 * Memory for the logs of requests in flight.
 *
 * The file is sealed against being cut. One that comes from a frontend may be
 * any other, so accesses are guarded against SIGBUS (sigbus.h) all the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/util.h"
#include "transport/sigbus.h"
#include "transport/vhost_user_inflight.h"

struct vhost_user_logs {
	void *base;
	size_t size;
	unsigned int n; /* that exist */
	struct inflight *logs[];
};

int vhost_user_logs_make_file(const struct vhost_user_inflight *wanted,
			      struct vhost_user_inflight *ret_desc, int *ret_fd, struct error *e)
{
	const uint64_t size = (uint64_t)wanted->num_queues *
			      inflight_region_bytes(wanted->queue_size);
	auto_close int fd = memfd_create("vduse-blk-in-flight", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)size) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return err_set_errno(e, errno, "make a file for the requests in flight");
	*ret_desc = *wanted;
	ret_desc->mmap_size = size;
	ret_desc->mmap_offset = 0;
	*ret_fd = take_fd(&fd);
	return 0;
}

static int check_file(const struct vhost_user_inflight *desc, size_t need, int fd,
		      struct error *e)
{
	struct statfs fs;
	struct stat st;

	if (desc->mmap_size < need || desc->mmap_size > SIZE_MAX / 2)
		return err_set(e, EINVAL, "%" PRIu64 " bytes for %u logs of requests in flight, %zu are needed",
			       desc->mmap_size, desc->num_queues, need);
	if (desc->mmap_offset & ((uint64_t)sysconf(_SC_PAGESIZE) - 1) ||
	    desc->mmap_offset > INT64_MAX - desc->mmap_size)
		return err_set(e, EINVAL, "log of requests in flight at offset %#" PRIx64,
			       desc->mmap_offset);
	if (fstat(fd, &st) || fstatfs(fd, &fs))
		return err_set_errno(e, errno, "look at the file of the requests in flight");
	/* One of its pages that is missing could not be replaced. */
	if (fs.f_type == HUGETLBFS_MAGIC)
		return err_set(e, EINVAL, "the file of the requests in flight has huge pages");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < desc->mmap_offset + need)
		return err_set(e, EINVAL, "the file of the requests in flight is too short");
	return 0;
}

static int create_logs(struct vhost_user_logs *logs, unsigned int n, unsigned int queue_size,
		       struct error *e)
{
	const size_t part = inflight_region_bytes(queue_size);
	int err;

	for (; logs->n < n; logs->n++) {
		err = inflight_create((uint8_t *)logs->base + logs->n * part, part, queue_size,
				      &logs->logs[logs->n], e);
		if (err)
			return err;
	}
	return 0;
}

int vhost_user_logs_open(const struct vhost_user_inflight *desc, int fd,
			 struct vhost_user_logs **ret_logs, struct error *e)
{
	const size_t need = desc->num_queues * inflight_region_bytes(desc->queue_size);
	struct vhost_user_logs *logs;
	int err;

	err = check_file(desc, need, fd, e);
	if (err)
		return err;
	logs = calloc(1, sizeof(*logs) + desc->num_queues * sizeof(logs->logs[0]));
	if (!logs)
		return err_set(e, ENOMEM, "out of memory");
	logs->size = need;
	logs->base = mmap(NULL, need, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			  (off_t)desc->mmap_offset);
	if (logs->base == MAP_FAILED) {
		err = err_set_errno(e, errno, "map the requests in flight");
		goto free_logs;
	}
	err = sigbus_guard_add(logs->base, need);
	if (err) {
		err_set_errno(e, -err, "guard the requests in flight");
		goto unmap;
	}
	err = create_logs(logs, desc->num_queues, desc->queue_size, e);
	if (err) {
		vhost_user_logs_close(logs);
		return err;
	}
	*ret_logs = logs;
	return 0;

unmap:
	munmap(logs->base, need);
free_logs:
	free(logs);
	return err;
}

void vhost_user_logs_close(struct vhost_user_logs *logs)
{
	if (!logs)
		return;
	while (logs->n)
		inflight_destroy(logs->logs[--logs->n]);
	sigbus_guard_del(logs->base, logs->size);
	munmap(logs->base, logs->size);
	free(logs);
}

struct inflight *vhost_user_logs_at(const struct vhost_user_logs *logs, unsigned int index)
{
	return logs && index < logs->n ? logs->logs[index] : NULL;
}
