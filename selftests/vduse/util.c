// SPDX-License-Identifier: GPL-2.0-only
/*
 * Helpers without any knowledge of vDPA; see util.h for what they promise.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

bool wait_until(bool (*cond)(void *arg), void *arg, unsigned int ms)
{
	uint64_t end = now_ms() + ms;

	while (!cond(arg)) {
		if (now_ms() >= end)
			return cond(arg);
		sleep_ms(5);
	}
	return true;
}

int file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	long ret;

	if (fd < 0)
		return -errno;
	ret = sys(write(fd, text, strlen(text)));
	close(fd);
	return ret < 0 ? (int)ret : 0;
}

int file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	long ret;

	if (fd < 0)
		return -errno;
	ret = sys(read(fd, buf, size - 1));
	close(fd);
	if (ret < 0)
		return (int)ret;
	buf[ret] = '\0';
	if (ret && buf[ret - 1] == '\n')
		buf[ret - 1] = '\0';
	return 0;
}

long file_read_long(const char *path)
{
	char buf[64];
	int ret = file_read(path, buf, sizeof(buf));

	return ret ? ret : strtol(buf, NULL, 0);
}

int fd_count(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	if (!dir)
		return -1;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void *async_main(void *arg)
{
	struct async *a = arg;
	uint64_t start = now_ms();

	a->ret = a->fn(a->arg);
	a->ms = now_ms() - start;
	__atomic_store_n(&a->done, true, __ATOMIC_RELEASE);
	return NULL;
}

int async_start(struct async *a, long (*fn)(void *arg), void *arg)
{
	int err;

	*a = (struct async){ .fn = fn, .arg = arg };
	err = pthread_create(&a->thread, NULL, async_main, a);
	a->started = !err;
	return -err;
}

bool async_is_done(struct async *a)
{
	return __atomic_load_n(&a->done, __ATOMIC_ACQUIRE);
}

long async_join(struct async *a)
{
	if (a->started)
		pthread_join(a->thread, NULL);
	a->started = false;
	return a->ret;
}

int require_vduse(void)
{
	char self[4096], cmd[4200];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;
	int status;

	if (!access("/dev/vduse/control", F_OK))
		return 0;
	if (n < 0)
		return -1;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return -1;
	*slash = '\0';
	snprintf(cmd, sizeof(cmd), "sh '%s/load.sh'", self);
	status = system(cmd);
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -1;
}
