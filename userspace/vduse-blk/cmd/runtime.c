// SPDX-License-Identifier: MIT
/*
 * The daemon's folder below /run.
 *
 * The lock file is removed while it is locked. So whoever gets the lock checks
 * that the file is still the one in the folder, and starts over if a
 * predecessor has just removed it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "cmd/runtime.h"
#include "transport/vduse_dev.h"
#include "transport/vduse_log.h"

#define LOCK_NAME	"lock"
#define ATTEMPTS	16

static int make_dir(int at_fd, const char *path, mode_t mode, int *ret_fd, struct error *e)
{
	int fd;

	if (mkdirat(at_fd, path, mode) && errno != EEXIST)
		return err_set_errno(e, errno, "create %s", path);
	fd = openat(at_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return -EAGAIN; /* somebody has just removed it */
	if (fd < 0)
		return err_set_errno(e, errno, "open %s", path);
	*ret_fd = fd;
	return 0;
}

static pid_t read_pid(int fd)
{
	char text[32] = "";
	long pid;
	char *end;

	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		return 0;
	pid = strtol(text, &end, 10);
	return *end == '\n' && pid > 0 ? (pid_t)pid : 0;
}

/*
 * Whoever has the lock writes its number a moment later: until then the file is
 * empty, or has the number of a process that was killed.
 */
static pid_t wait_for_pid(int fd)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	unsigned int tries;
	pid_t pid = 0;

	for (tries = 0; tries < 500; tries++) {
		pid = read_pid(fd);
		if (pid && (!kill(pid, 0) || errno == EPERM))
			break;
		nanosleep(&pause, NULL);
	}
	return pid;
}

/* In one piece: an empty file makes whoever looks wait. */
static int write_pid(int fd, const char *name, struct error *e)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	if (pwrite(fd, text, (size_t)n, 0) != n || ftruncate(fd, n))
		return err_set_errno(e, errno, "write the lock file of \"%s\"", name);
	return 0;
}

static int try_lock(int dir_fd, const char *name, int *ret_fd, struct error *e)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	auto_close int fd = -1;
	struct stat mine, there;
	int err;

	fd = openat(dir_fd, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 && errno == ENOENT)
		return -EAGAIN; /* with the folder, at its owner's end */
	if (fd < 0)
		return err_set_errno(e, errno, "open the lock file of \"%s\"", name);
	if (fcntl(fd, F_OFD_SETLK, &lock)) {
		if (errno != EAGAIN && errno != EACCES)
			return err_set_errno(e, errno, "lock \"%s\"", name);
		return err_set(e, EBUSY, "a vduse-blk that serves \"%s\" is running, process %d",
			       name, (int)wait_for_pid(fd));
	}
	if (fstat(fd, &mine) || fstatat(dir_fd, LOCK_NAME, &there, AT_SYMLINK_NOFOLLOW) ||
	    mine.st_ino != there.st_ino)
		return -EAGAIN;
	/* The folder may be one that an account has had: nothing else is written to. */
	if (!S_ISREG(mine.st_mode) || mine.st_nlink != 1)
		return err_set(e, EPERM, "the lock file of \"%s\" is not one", name);

	err = write_pid(fd, name, e);
	if (err)
		return err;
	*ret_fd = take_fd(&fd);
	return 0;
}

int runtime_acquire(const char *root, const char *name, uid_t uid, gid_t gid,
		    struct runtime *ret_runtime, struct error *e)
{
	auto_free char *root_copy = strdup(root), *name_copy = strdup(name);
	auto_close int root_fd = -1, dir_fd = -1, lock_fd = -1;
	unsigned int i;
	int err;

	if (!root_copy || !name_copy)
		return err_set(e, ENOMEM, "out of memory");

	for (i = 0, err = -EAGAIN; err == -EAGAIN && i < ATTEMPTS; i++) {
		cleanup_close(&root_fd);
		cleanup_close(&dir_fd);
		root_fd = -1;
		dir_fd = -1;
		err = make_dir(AT_FDCWD, root, 0755, &root_fd, e);
		if (!err)
			err = make_dir(root_fd, name, 0700, &dir_fd, e);
		if (!err)
			err = try_lock(dir_fd, name, &lock_fd, e);
	}
	if (err == -EAGAIN)
		return err_set(e, EBUSY, "somebody keeps removing %s/%s", root, name);
	if (err)
		return err;

	/* Only with the lock: until then it may be another daemon's. */
	if (fchmod(dir_fd, 0700) || fchown(dir_fd, uid, gid) || fchown(lock_fd, uid, gid))
		return err_set_errno(e, errno, "give %s/%s to its user", root, name);
	/* A killed predecessor's. */
	unlinkat(dir_fd, RUNTIME_CONTROL_SOCKET, 0);

	*ret_runtime = (struct runtime) {
		.root = take_ptr(root_copy),
		.name = take_ptr(name_copy),
		.dir_fd = take_fd(&dir_fd),
		.lock_fd = take_fd(&lock_fd),
	};
	return 0;
}

int runtime_inherit(const char *root, const char *name, int dir_fd, int lock_fd,
		    struct runtime *ret_runtime, struct error *e)
{
	auto_free char *root_copy = strdup(root), *name_copy = strdup(name);
	struct stat lock, there;

	if (!root_copy || !name_copy)
		return err_set(e, ENOMEM, "out of memory");
	if (fstat(lock_fd, &lock) || fstatat(dir_fd, LOCK_NAME, &there, AT_SYMLINK_NOFOLLOW) ||
	    lock.st_ino != there.st_ino || lock.st_dev != there.st_dev)
		return err_set(e, EBADF, "what was handed over is not the lock of \"%s\"", name);
	*ret_runtime = (struct runtime) {
		.root = take_ptr(root_copy),
		.name = take_ptr(name_copy),
		.dir_fd = dir_fd,
		.lock_fd = lock_fd,
		.borrowed = true,
	};
	return 0;
}

int runtime_claim(struct runtime *r, struct error *e)
{
	return write_pid(r->lock_fd, r->name, e);
}

void runtime_release(struct runtime *r)
{
	auto_close int root_fd = open(r->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (!r->borrowed)
		unlinkat(r->dir_fd, RUNTIME_CONTROL_SOCKET, 0);
	if (!r->borrowed && !r->keep && !vduse_dev_exists(r->name)) {
		unlinkat(r->dir_fd, VDUSE_LOG_NAME, 0);
		unlinkat(r->dir_fd, LOCK_NAME, 0);
		if (root_fd >= 0)
			unlinkat(root_fd, r->name, AT_REMOVEDIR);
	}
	close(r->lock_fd);
	close(r->dir_fd);
	free(r->root);
	free(r->name);
}

int runtime_share(const struct runtime *r, uid_t uid, gid_t group, struct error *e)
{
	if (fchown(r->dir_fd, uid, group) || fchmod(r->dir_fd, 0710))
		return err_set_errno(e, errno, "share %s/%s with a group", r->root, r->name);
	return 0;
}

int runtime_control_address(const char *root, const char *name, struct sockaddr_un *ret_addr,
			    struct error *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s/" RUNTIME_CONTROL_SOCKET,
			 root, name);

	if (n < 0 || (size_t)n >= sizeof(addr.sun_path))
		return err_set(e, ENAMETOOLONG, "path of the control socket of \"%s\" is too long",
			       name);
	*ret_addr = addr;
	return 0;
}

int runtime_owner(const char *root, const char *name, pid_t *ret_pid)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	auto_close int root_fd = -1, dir_fd = -1, fd = -1;

	root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root_fd >= 0)
		dir_fd = openat(root_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir_fd >= 0)
		fd = openat(dir_fd, LOCK_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fcntl(fd, F_OFD_GETLK, &lock))
		return -errno;
	if (lock.l_type == F_UNLCK)
		return 0;
	*ret_pid = read_pid(fd);
	return 1;
}
