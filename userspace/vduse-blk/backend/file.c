// SPDX-License-Identifier: MIT
/*
 * file:///path - a regular file or a block device.
 *
 * A request is one io_uring operation whose user_data is the request itself.
 * The kernel may do less than was asked for; the rest is then asked for piece
 * by piece, each within one iovec entry, so that no second iovec array has to
 * be kept. A regular file is locked (flock), a block device opened with
 * O_EXCL: a second writer or a mounted filesystem would ruin the content.
 *
 * A killed predecessor keeps both for a moment: the kernel ends the operations of
 * its io_uring after the process, and they hold the file. So we wait a little, and
 * have its late writes behind us when we get the file.
 */
#include "backend/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"
#include "loop/iov.h"

/* The kernel moves no more in one operation. */
#define MAX_RW_BYTES 0x7ffff000u
#define ZERO_BYTES   (64 * 1024)
/* For the file of a process that was just killed. */
#define BUSY_WAIT_MS 3000
#define BUSY_POLL_MS 10

struct file_backend {
	struct backend common;
	int fd;
};

/*
 * The kernel tells of writes that it could not carry out once for each time that a
 * file was opened: so each queue opens it, to sync; all else goes through the one that
 * is locked. Within a queue there is one sync at a time. When it fails, so do those that
 * wait for the next one; and when only writes with FUA have heard of it, which says
 * nothing of others, the next flush.
 */
struct file_queue {
	struct backend_queue common;
	int fd;
	struct backend_request *syncing, *waiting; /* linked by next */
	bool owed; /* the next flush fails */
};

static const uint8_t zeroes[ZERO_BYTES];

/* --- opening --- */

static int inspect_block_device(int fd, struct backend_info *info, struct error *e)
{
	unsigned short rotational = 0;
	int block = 0;

	if (ioctl(fd, BLKGETSIZE64, &info->size) < 0)
		return err_set_errno(e, errno, "cannot ask for the size");
	if (ioctl(fd, BLKSSZGET, &block) < 0)
		return err_set_errno(e, errno, "cannot ask for the block size");
	if (block <= 0 || !is_power_of_2((uint64_t)block))
		return err_set(e, EINVAL, "block size %d makes no sense", block);
	info->min_block = (uint32_t)block;
	if (!ioctl(fd, BLKROTATIONAL, &rotational) && rotational)
		info->flags |= BACKEND_F_ROTATIONAL;
	return 0;
}

/* False when that has been tried for long enough. */
static bool wait_while_busy(unsigned int *waited_ms)
{
	const struct timespec pause = { .tv_nsec = BUSY_POLL_MS * 1000000L };

	if (*waited_ms >= BUSY_WAIT_MS)
		return false;
	nanosleep(&pause, NULL);
	*waited_ms += BUSY_POLL_MS;
	return true;
}

static int inspect_regular_file(int fd, const struct stat *st, bool read_only,
				struct backend_info *info, struct error *e)
{
	unsigned int waited_ms = 0;

	while (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK && wait_while_busy(&waited_ms))
			continue;
		if (errno == EWOULDBLOCK)
			return err_set(e, EBUSY, "another process uses it");
		return err_set_errno(e, errno, "cannot lock it");
	}
	info->size = (uint64_t)st->st_size;
	info->min_block = 1;
	return 0;
}

static int inspect(int fd, bool read_only, struct backend_info *info, struct error *e)
{
	struct stat st;

	*info = (struct backend_info){
		.preferred_block = 4096,
		.max_block = MAX_RW_BYTES,
		.max_discard = UINT32_MAX,
		.max_write_zeroes = UINT32_MAX,
		.flags = BACKEND_F_FLUSH | BACKEND_F_FUA | BACKEND_F_DISCARD |
			 BACKEND_F_WRITE_ZEROES,
	};
	if (fstat(fd, &st) < 0)
		return err_set_errno(e, errno, "cannot inspect it");
	if (S_ISBLK(st.st_mode))
		return inspect_block_device(fd, info, e);
	if (S_ISREG(st.st_mode))
		return inspect_regular_file(fd, &st, read_only, info, e);
	return err_set(e, EINVAL, "neither a regular file nor a block device");
}

static int open_path(const char *path, bool read_only, struct error *e)
{
	int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	unsigned int waited_ms = 0;
	struct stat st;
	int fd;

	if (!read_only && !stat(path, &st) && S_ISBLK(st.st_mode))
		flags |= O_EXCL;
	do {
		fd = open(path, flags);
	} while (fd < 0 && errno == EBUSY && wait_while_busy(&waited_ms));
	if (fd >= 0)
		return fd;
	if (errno == EROFS || (errno == EACCES && !access(path, R_OK)))
		return err_set(e, EROFS, "it is read-only (use --read-only)");
	if (errno == EBUSY)
		return err_set(e, EBUSY, "another process or a mount uses it");
	return err_set_errno(e, errno, "cannot open it");
}

/*
 * A predecessor has the file open, and its lock goes with the descriptor. The path may
 * mean another file by now.
 */
static int inherit(const char *path, bool read_only, int inherited, struct error *e)
{
	const int access = read_only ? O_RDONLY : O_RDWR;
	struct stat was, is;

	if (stat(path, &is) || fstat(inherited, &was))
		return err_set_errno(e, errno, "cannot compare it with the file that is in use");
	if (is.st_dev != was.st_dev || is.st_ino != was.st_ino)
		return err_set(e, ESTALE, "it is not the file that is in use");
	if ((fcntl(inherited, F_GETFL) & O_ACCMODE) != access)
		return err_set(e, EINVAL, "it cannot become %s in an upgrade",
			       read_only ? "read-only" : "writable");
	inherited = fcntl(inherited, F_DUPFD_CLOEXEC, 0);
	return inherited < 0 ? err_set_errno(e, errno, "cannot use its descriptor") : inherited;
}

static int file_open(const struct uri *uri, const struct backend_options *options,
		     struct backend **ret_backend, struct error *e)
{
	static const char *const no_params[] = { NULL };
	struct backend_info info;
	struct file_backend *f;
	auto_close int fd = -1;
	int ret;

	if (*uri->host && strcmp(uri->host, "localhost"))
		return err_set(e, EINVAL, "URI: file has no host; write file:///path");
	if (uri->path[0] != '/')
		return err_set(e, EINVAL, "URI: file wants an absolute path, file:///path");
	ret = uri_only_params(uri, no_params, e);
	if (ret < 0)
		return ret;

	if (options->descriptor && *options->descriptor >= 0)
		fd = inherit(uri->path, options->read_only, *options->descriptor, e);
	else
		fd = open_path(uri->path, options->read_only, e);
	ret = fd < 0 ? fd : inspect(fd, options->read_only, &info, e);
	if (ret < 0)
		return err_prefix(e, "file '%s'", uri->path);

	f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(e, ENOMEM, "file: out of memory");
	f->common.ops = &file_backend_ops;
	f->common.info = info;
	snprintf(f->common.info.description, sizeof(info.description), "file %s", uri->path);
	f->fd = take_fd(&fd);
	*ret_backend = &f->common;
	return 0;
}

static int file_descriptor(const struct backend *backend)
{
	return container_of(backend, struct file_backend, common)->fd;
}

static void file_close(struct backend *backend)
{
	struct file_backend *f = container_of(backend, struct file_backend, common);

	close(f->fd);
	free(f);
}

/*
 * Whoever changed the size: files and block devices do not announce it. A
 * size that is no multiple of the block size cannot be offered to a driver; it
 * was a whole one before, so the odd rest is left out.
 */
static int ask_size(struct backend *backend)
{
	struct file_backend *f = container_of(backend, struct file_backend, common);
	const struct backend_events *events = &backend->options.events;
	uint64_t size = 0, before = backend->info.size;
	struct stat st;

	if (fstat(f->fd, &st) < 0 || (S_ISBLK(st.st_mode) && ioctl(f->fd, BLKGETSIZE64, &size) < 0)) {
		int error = -errno;

		log_warning("file: cannot ask for the size: %s", strerror(-error));
		return error;
	}
	if (!S_ISBLK(st.st_mode))
		size = (uint64_t)st.st_size;
	size -= size % backend->info.block_size;
	if (size == before)
		return 0;
	backend->info.size = size;
	if (events->changed)
		events->changed(events->opaque, &backend->info,
				size > before ? BACKEND_GROWN : BACKEND_SHRUNK);
	return 0;
}

static void file_refresh(struct backend *backend)
{
	backend_refreshed(backend, ask_size(backend));
}

/*
 * The same file, whatever its path leads to by now. The account that serves may not be
 * allowed to open it: then flushes of one queue may take the other queues' errors.
 */
static int open_again(int fd, struct error *e)
{
	const int flags = (fcntl(fd, F_GETFL) & O_ACCMODE) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	char path[32];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, flags);
	if (again < 0) {
		log_info("file: cannot open it once more: %s; queues share what the kernel says of lost writes",
			 strerror(errno));
		again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	}
	return again < 0 ? err_set_errno(e, errno, "file: no descriptor for a queue") : again;
}

static int file_queue_create(struct backend *backend, struct loop *loop, unsigned int index,
			     struct backend_queue **ret_queue, struct error *e)
{
	const struct file_backend *f = container_of(backend, struct file_backend, common);
	struct file_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return err_set(e, ENOMEM, "file: out of memory");
	q->common = (struct backend_queue){ backend, loop, index };
	q->fd = open_again(f->fd, e);
	if (q->fd < 0) {
		int ret = q->fd;

		free(q);
		return ret;
	}
	*ret_queue = &q->common;
	return 0;
}

static void file_queue_destroy(struct backend_queue *queue)
{
	struct file_queue *q = container_of(queue, struct file_queue, common);

	close(q->fd);
	free(q);
}

/* --- requests --- */

static struct file_queue *queue_of(const struct backend_request *req)
{
	return container_of(req->queue, struct file_queue, common);
}

static int fd_of(const struct backend_request *req)
{
	return container_of(req->queue->backend, struct file_backend, common)->fd;
}

static struct io_uring_sqe *sqe_of(struct backend_request *req)
{
	return loop_sqe(req->queue->loop, &req->msg.op);
}

/* --- syncs --- */

static void sync_complete(struct loop_op *op, int res, uint32_t cqe_flags);

/* One for all that wait. */
static void sync_next(struct file_queue *q)
{
	struct backend_request *first = q->waiting;

	q->syncing = first;
	q->waiting = NULL;
	first->msg.op.complete = sync_complete;
	io_uring_prep_fsync(sqe_of(first), q->fd, IORING_FSYNC_DATASYNC);
}

/* What is under way may have begun before the last write has ended: it takes another. */
static void start_sync(struct backend_request *req)
{
	struct file_queue *q = queue_of(req);

	req->next = q->waiting;
	q->waiting = req;
	if (!q->syncing)
		sync_next(q);
}

/* Returns whether there was a flush among them. */
static bool end_syncs(struct backend_request *req, int error, bool owed)
{
	bool flush = false;

	while (req) {
		struct backend_request *next = req->next;
		const bool is_flush = req->op == BACKEND_FLUSH;

		flush |= is_flush;
		req->done(req, is_flush && owed ? -EIO : error);
		req = next;
	}
	return flush;
}

static void sync_complete(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct file_queue *q = queue_of(container_of(op, struct backend_request, msg.op));
	struct backend_request *synced = q->syncing, *waiting;
	const bool owed = q->owed;
	bool heard;

	(void)cqe_flags;
	q->syncing = NULL;
	if (res < 0) {
		waiting = q->waiting;
		q->waiting = NULL;
		q->owed = false;
		heard = end_syncs(synced, res, false);
		heard |= end_syncs(waiting, res, false);
		q->owed = !heard;
	} else if (end_syncs(synced, 0, owed)) {
		q->owed = false;
	}
	if (q->waiting && !q->syncing)
		sync_next(q);
}

static void end_write(struct backend_request *req)
{
	if (req->flags & BACKEND_REQ_FUA)
		start_sync(req);
	else
		req->done(req, 0);
}

/* --- reading, writing, zeroing --- */

static void read_write_complete(struct loop_op *op, int res, uint32_t cqe_flags);
static void zero_complete(struct loop_op *op, int res, uint32_t cqe_flags);

/* Where byte @skip is, and how much of the memory follows it in one piece. */
static struct iovec piece_at(const struct iovec *iov, unsigned int niov, uint64_t skip, uint64_t len)
{
	struct iovec piece = { 0 };
	size_t n;

	iov_slice(iov, niov, skip, len, &piece, 1, &n);
	return piece;
}

static void start_piece(struct backend_request *req)
{
	struct io_uring_sqe *sqe = sqe_of(req);
	uint64_t offset = req->offset + req->progress;
	struct iovec v = piece_at(req->iov, req->niov, req->progress,
				  min(req->length - req->progress, (uint64_t)MAX_RW_BYTES));

	if (req->op == BACKEND_READ)
		io_uring_prep_read(sqe, fd_of(req), v.iov_base, (unsigned int)v.iov_len, offset);
	else
		io_uring_prep_write(sqe, fd_of(req), v.iov_base, (unsigned int)v.iov_len, offset);
}

static void start_read_write(struct backend_request *req)
{
	struct io_uring_sqe *sqe;

	req->msg.op.complete = read_write_complete;
	/* An array that describes more than is wanted cannot be given to the kernel. */
	if (req->niov == 1 || iov_length(req->iov, req->niov) != req->length) {
		start_piece(req);
		return;
	}
	sqe = sqe_of(req);
	if (req->op == BACKEND_READ)
		io_uring_prep_readv(sqe, fd_of(req), req->iov, req->niov, req->offset);
	else
		io_uring_prep_writev(sqe, fd_of(req), req->iov, req->niov, req->offset);
}

static void read_write_complete(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct backend_request *req = container_of(op, struct backend_request, msg.op);

	(void)cqe_flags;
	if (res == -EAGAIN || res == -EINTR) {
		start_piece(req);
		return;
	}
	/* Nothing read or written: the file became shorter behind our back. */
	if (res <= 0) {
		req->done(req, res ? res : -EIO);
		return;
	}
	req->progress += (uint64_t)res;
	if (req->progress < req->length)
		start_piece(req);
	else
		end_write(req);
}

/* Where the filesystem cannot zero a range itself. */
static void start_zero_piece(struct backend_request *req)
{
	uint64_t n = min(req->length - req->progress, (uint64_t)ZERO_BYTES);

	req->msg.op.complete = zero_complete;
	io_uring_prep_write(sqe_of(req), fd_of(req), zeroes, (unsigned int)n,
			    req->offset + req->progress);
}

static void zero_complete(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct backend_request *req = container_of(op, struct backend_request, msg.op);

	(void)cqe_flags;
	if (res == -EAGAIN || res == -EINTR)
		res = 0;
	else if (res <= 0) {
		req->done(req, res ? res : -EIO);
		return;
	}
	req->progress += (uint64_t)res;
	if (req->progress < req->length)
		start_zero_piece(req);
	else
		end_write(req);
}

static void allocate_complete(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct backend_request *req = container_of(op, struct backend_request, msg.op);

	(void)cqe_flags;
	if (!res)
		end_write(req);
	else if (res == -EOPNOTSUPP && req->op == BACKEND_WRITE_ZEROES)
		start_zero_piece(req);
	else
		req->done(req, res);
}

static void start_allocate(struct backend_request *req)
{
	bool hole = req->op == BACKEND_DISCARD || req->flags & BACKEND_REQ_MAY_UNMAP;
	int mode = FALLOC_FL_KEEP_SIZE | (hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

	req->msg.op.complete = allocate_complete;
	io_uring_prep_fallocate(sqe_of(req), fd_of(req), mode, (off_t)req->offset,
				(off_t)req->length);
}

static void file_submit(struct backend_queue *queue, struct backend_request *req)
{
	req->queue = queue;
	req->progress = 0;
	switch (req->op) {
	case BACKEND_READ:
	case BACKEND_WRITE:
		start_read_write(req);
		break;
	case BACKEND_FLUSH:
		start_sync(req);
		break;
	default:
		start_allocate(req);
		break;
	}
}

const struct backend_ops file_backend_ops = {
	.scheme = "file",
	.open = file_open,
	.close = file_close,
	.queue_create = file_queue_create,
	.queue_destroy = file_queue_destroy,
	.submit = file_submit,
	.refresh = file_refresh,
	.descriptor = file_descriptor,
};
