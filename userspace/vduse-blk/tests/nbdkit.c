// SPDX-License-Identifier: MIT
/*
 * nbdkit for tests. It writes its pid file once it listens, which is what is
 * waited for. It is told to die with the test program.
 */
#include "nbdkit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MAX_ARGS	 48
#define START_TIMEOUT_MS 20000

bool nbdkit_installed(void)
{
	const char *path = getenv("PATH");
	char copy[4096], name[4200], *save = NULL;

	snprintf(copy, sizeof(copy), "%s:/usr/sbin:/sbin", path ? path : "/usr/bin");
	for (char *dir = strtok_r(copy, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
		snprintf(name, sizeof(name), "%s/nbdkit", dir);
		if (!access(name, X_OK))
			return true;
	}
	return false;
}

/* A port that nobody uses right now. */
static int free_port(enum nbdkit_address address)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	bool v6 = address == NBDKIT_IPV6;
	struct sockaddr *sa = v6 ? (void *)&in6 : (void *)&in;
	socklen_t len = v6 ? sizeof(in6) : sizeof(in);
	int port = -EADDRNOTAVAIL;
	auto_close int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && !bind(fd, sa, len) && !getsockname(fd, sa, &len))
		port = ntohs(v6 ? in6.sin6_port : in.sin_port);
	return port;
}

static int build_command(struct nbdkit *kit, enum nbdkit_address address, const char *arguments,
			 char *text, size_t size)
{
	char where[160], expanded[2048];
	const char *p = arguments;
	size_t n = 0;
	int port;

	if (address == NBDKIT_UNIX) {
		snprintf(where, sizeof(where), "-U %s/socket", kit->folder);
		snprintf(kit->uri, sizeof(kit->uri), "nbd+unix:///%%s?socket=%s/socket",
			 kit->folder);
	} else {
		const char *host = address == NBDKIT_IPV6 ? "::1" : "127.0.0.1";

		port = free_port(address);
		if (port < 0)
			return port;
		snprintf(where, sizeof(where), "-i %s -p %d", host, port);
		snprintf(kit->uri, sizeof(kit->uri),
			 address == NBDKIT_IPV6 ? "nbd://[%s]:%d/%%s" : "nbd://%s:%d/%%s", host,
			 port);
	}
	while (*p && n < sizeof(expanded) - sizeof(kit->folder)) {
		if (p[0] == '%' && p[1] == 'D') {
			n += (size_t)sprintf(expanded + n, "%s", kit->folder);
			p += 2;
		} else {
			expanded[n++] = *p++;
		}
	}
	expanded[n] = '\0';
	snprintf(text, size, "nbdkit -f -P %s/pid %s %s", kit->folder, where, expanded);
	return 0;
}

static void exec_command(char *text, const char *folder)
{
	char *argv[MAX_ARGS + 1], *save = NULL, log[128];
	int argc = 0, fd;

	for (char *word = strtok_r(text, " ", &save); word && argc < MAX_ARGS;
	     word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	argv[argc] = NULL;
	snprintf(log, sizeof(log), "%s/stderr", folder);
	fd = open(log, O_CREAT | O_WRONLY | O_TRUNC, 0600);
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(argv[0], argv);
	_exit(127);
}

static int wait_until_ready(struct nbdkit *kit)
{
	char pidfile[96];

	snprintf(pidfile, sizeof(pidfile), "%s/pid", kit->folder);
	for (int ms = 0; ms < START_TIMEOUT_MS; ms += 10) {
		if (!access(pidfile, F_OK))
			return 0;
		if (waitpid(kit->pid, NULL, WNOHANG) == kit->pid) {
			kit->pid = 0;
			return -ECHILD;
		}
		usleep(10000);
	}
	return -ETIMEDOUT;
}

static int launch(struct nbdkit *kit, const char *command)
{
	char text[2300];

	snprintf(text, sizeof(text), "%s", command);
	kit->pid = fork();
	if (!kit->pid)
		exec_command(text, kit->folder);
	return kit->pid < 0 ? -errno : wait_until_ready(kit);
}

int nbdkit_start(struct nbdkit *kit, enum nbdkit_address address, const char *arguments)
{
	int ret;

	*kit = (struct nbdkit){ .folder = "/tmp/test-nbdkit-XXXXXX" };
	if (!mkdtemp(kit->folder))
		return -errno;
	ret = build_command(kit, address, arguments, kit->command, sizeof(kit->command));
	if (!ret)
		ret = launch(kit, kit->command);
	if (ret < 0)
		nbdkit_stop(kit);
	return ret;
}

void nbdkit_kill(struct nbdkit *kit)
{
	if (kit->pid > 0) {
		kill(kit->pid, SIGKILL);
		waitpid(kit->pid, NULL, 0);
	}
	kit->pid = 0;
}

int nbdkit_restart(struct nbdkit *kit, const char *append)
{
	char text[2300];

	snprintf(text, sizeof(text), "%s/pid", kit->folder);
	unlink(text);
	snprintf(text, sizeof(text), "%s/socket", kit->folder);
	unlink(text);
	snprintf(text, sizeof(text), "%s%s%s", kit->command, append ? " " : "",
		 append ? append : "");
	return launch(kit, text);
}

void nbdkit_stop(struct nbdkit *kit)
{
	struct dirent *entry;
	char name[400];
	DIR *dir;

	nbdkit_kill(kit);
	dir = kit->folder[0] ? opendir(kit->folder) : NULL;
	while (dir && (entry = readdir(dir))) {
		snprintf(name, sizeof(name), "%s/%s", kit->folder, entry->d_name);
		unlink(name);
	}
	if (dir)
		closedir(dir);
	if (kit->folder[0])
		rmdir(kit->folder);
	kit->folder[0] = '\0';
}
