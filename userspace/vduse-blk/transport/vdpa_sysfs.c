// SPDX-License-Identifier: MIT
/*
 * What sysfs says of a device on the vDPA bus.
 *
 *	/sys/bus/vdpa/devices/NAME -> ../../../devices/virtual/vduse/NAME/NAME
 *		driver -> the bus driver, if any
 *		driver_override		the only driver that may bind
 *		virtioN/block/vdX/	below virtio_vdpa
 *		vhost-vdpa-N/		below vhost_vdpa
 *
 * The first driver that was registered takes a new device, whatever the caller
 * wanted, so a binding may have to be undone.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "transport/vdpa_sysfs.h"

#define DEVICES	"/sys/bus/vdpa/devices"
#define DRIVERS	"/sys/bus/vdpa/drivers"
#define POLL_MS	10

static void run_modprobe(const char *module)
{
	static const char *const paths[] = { "/sbin/modprobe", "/usr/sbin/modprobe" };
	static const char *const env[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	const char *const argv[] = { "modprobe", "-q", "--", module, NULL };
	unsigned int i;
	pid_t pid;

	for (i = 0; i < ARRAY_SIZE(paths); i++) {
		/* It changes neither, but its prototype is older than const. */
		if (posix_spawn(&pid, paths[i], NULL, NULL, (char *const *)argv,
				(char *const *)env))
			continue;
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return;
	}
}

void vdpa_load_driver(const char *driver)
{
	char path[sizeof(DRIVERS) + 64];

	/* A vDPA bus driver is not loaded by anybody's modalias. */
	snprintf(path, sizeof(path), DRIVERS "/%s", driver);
	if (access(path, F_OK))
		run_modprobe(driver);
	/* virtio_blk is, but only where udev runs. */
	if (!strcmp(driver, VDPA_DRIVER_VIRTIO) && access("/sys/bus/virtio/drivers/virtio_blk", F_OK))
		run_modprobe("virtio_blk");
}

bool vdpa_attached(const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DEVICES "/%s", name);
	return !access(path, F_OK);
}

static int write_attribute(const char *path, const char *text)
{
	auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	return n < 0 ? -errno : 0;
}

/* Name of the present driver into @buf, "" if there is none. */
static void current_driver(const char *name, char *buf, size_t size)
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *base;
	ssize_t n;

	snprintf(path, sizeof(path), DEVICES "/%s/driver", name);
	n = readlink(path, target, sizeof(target) - 1);
	target[max(n, (ssize_t)0)] = '\0';
	base = strrchr(target, '/');
	if ((size_t)snprintf(buf, size, "%s", base ? base + 1 : target) >= size)
		buf[0] = '\0';
}

int vdpa_bind(const char *name, const char *driver, struct error *e)
{
	char path[PATH_MAX], present[NAME_MAX + 1];
	int err;

	current_driver(name, present, sizeof(present));
	if (!strcmp(present, driver))
		return 0;

	snprintf(path, sizeof(path), DRIVERS "/%s", driver);
	if (access(path, F_OK))
		return err_set(e, ENOENT, "no vDPA bus driver %s: load the module of that name",
			       driver);

	snprintf(path, sizeof(path), DEVICES "/%s/driver_override", name);
	err = write_attribute(path, driver);
	if (err)
		return err_set_errno(e, -err, "write %s", path);

	if (present[0]) {
		log_info("%s: moving from %s to %s", name, present, driver);
		snprintf(path, sizeof(path), DRIVERS "/%s/unbind", present);
		err = write_attribute(path, name);
		if (err && err != -ENODEV)
			return err_set_errno(e, -err, "take \"%s\" from %s", name, present);
	}

	snprintf(path, sizeof(path), DRIVERS "/%s/bind", driver);
	err = write_attribute(path, name);
	if (err)
		return err_set_errno(e, -err, "bind \"%s\" to %s", name, driver);
	return 0;
}

/* First entry of @path that starts with @prefix; false if there is none. */
static bool find_entry(const char *path, const char *prefix, char *ret_name, size_t size)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool found = false;

	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)))
			continue;
		found = (size_t)snprintf(ret_name, size, "%s", entry->d_name) < size;
	}
	closedir(dir);
	return found;
}

static bool find_path(const char *name, const char *driver, char *ret_path, size_t size)
{
	char dir[PATH_MAX], entry[NAME_MAX + 1], disk[NAME_MAX + 1];

	snprintf(dir, sizeof(dir), DEVICES "/%s", name);
	if (!strcmp(driver, VDPA_DRIVER_VHOST)) {
		if (!find_entry(dir, "vhost-vdpa-", entry, sizeof(entry)))
			return false;
		return (size_t)snprintf(ret_path, size, "/dev/%s", entry) < size;
	}
	if (!find_entry(dir, "virtio", entry, sizeof(entry)))
		return false;
	if ((size_t)snprintf(dir, sizeof(dir), DEVICES "/%s/%s/block", name, entry) >= sizeof(dir))
		return false;
	if (!find_entry(dir, "", disk, sizeof(disk)))
		return false;
	return (size_t)snprintf(ret_path, size, "/dev/%s", disk) < size;
}

int vdpa_wait_path(const char *name, const char *driver, unsigned int wait_ms, char *ret_path,
		   size_t size, struct error *e)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000L };
	unsigned int waited = 0;
	char path[PATH_MAX];
	struct stat st;

	for (;;) {
		bool found = find_path(name, driver, path, min(size, sizeof(path)));

		if (found && !stat(path, &st) && (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode)))
			break;
		if (waited >= wait_ms && found)
			return err_set(e, ETIMEDOUT, "%s did not appear: is /dev a devtmpfs?", path);
		if (waited >= wait_ms)
			return err_set(e, ETIMEDOUT,
				       "%s made no device for \"%s\": see the kernel log%s", driver,
				       name, strcmp(driver, VDPA_DRIVER_VIRTIO) ? "" :
				       ", and is the module virtio_blk loaded?");
		nanosleep(&pause, NULL);
		waited += POLL_MS;
	}
	memcpy(ret_path, path, strlen(path) + 1);
	return 0;
}
