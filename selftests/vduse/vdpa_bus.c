// SPDX-License-Identifier: GPL-2.0-only
/*
 * Generic netlink by hand: the programs are static and also built for i386,
 * where no libnl exists. Each request opens its own socket, so nothing is
 * shared between threads or with a forked child.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/vdpa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util.h"
#include "vdpa_bus.h"

#define BUS "/sys/bus/vdpa"

struct genl_msg {
	struct nlmsghdr nl;
	struct genlmsghdr genl;
	char attrs[1024];
};

static void genl_init(struct genl_msg *m, uint16_t family, uint8_t cmd)
{
	memset(m, 0, sizeof(*m));
	m->nl.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
	m->nl.nlmsg_type = family;
	m->nl.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	m->nl.nlmsg_seq = 1;
	m->genl.cmd = cmd;
	m->genl.version = 1;
}

static void genl_put_string(struct genl_msg *m, uint16_t type, const char *text)
{
	struct nlattr *a = (void *)((char *)m + NLMSG_ALIGN(m->nl.nlmsg_len));
	size_t len = strlen(text) + 1;

	a->nla_type = type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + len);
	memcpy((char *)a + NLA_HDRLEN, text, len);
	m->nl.nlmsg_len = NLMSG_ALIGN(m->nl.nlmsg_len) + NLA_ALIGN(a->nla_len);
}

/* Sends @m, takes the first answer into @buf. Return: bytes or -errno. */
static long genl_talk(int sock, struct genl_msg *m, void *buf, size_t size)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	if (sendto(sock, m, m->nl.nlmsg_len, 0, (struct sockaddr *)&kernel,
		   sizeof(kernel)) < 0)
		return -errno;
	return sys(recv(sock, buf, size, 0));
}

static int genl_family(int sock, const char *name)
{
	union {
		struct nlmsghdr nl;
		char bytes[8192];
	} answer;
	struct genl_msg m;
	struct nlattr *a;
	long len, pos;

	genl_init(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	m.nl.nlmsg_flags = NLM_F_REQUEST;
	genl_put_string(&m, CTRL_ATTR_FAMILY_NAME, name);
	len = genl_talk(sock, &m, &answer, sizeof(answer));
	if (len < 0)
		return (int)len;
	if (answer.nl.nlmsg_type == NLMSG_ERROR)
		return ((struct nlmsgerr *)NLMSG_DATA(&answer.nl))->error;

	for (pos = NLMSG_LENGTH(GENL_HDRLEN); pos + NLA_HDRLEN <= len;
	     pos += NLA_ALIGN(a->nla_len)) {
		a = (struct nlattr *)(answer.bytes + pos);
		if (a->nla_type == CTRL_ATTR_FAMILY_ID)
			return *(uint16_t *)((char *)a + NLA_HDRLEN);
		if (a->nla_len < NLA_HDRLEN)
			break;
	}
	return -ENOENT;
}

static int vdpa_command(uint8_t cmd, const char *name, const char *mgmt)
{
	int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	union {
		struct nlmsghdr nl;
		char bytes[8192];
	} answer;
	struct genl_msg m;
	long ret;

	if (sock < 0)
		return -errno;
	ret = genl_family(sock, VDPA_GENL_NAME);
	if (ret < 0)
		goto out;
	genl_init(&m, (uint16_t)ret, cmd);
	genl_put_string(&m, VDPA_ATTR_DEV_NAME, name);
	if (mgmt)
		genl_put_string(&m, VDPA_ATTR_MGMTDEV_DEV_NAME, mgmt);
	ret = genl_talk(sock, &m, &answer, sizeof(answer));
	if (ret < 0)
		goto out;
	ret = answer.nl.nlmsg_type == NLMSG_ERROR ?
	      ((struct nlmsgerr *)NLMSG_DATA(&answer.nl))->error : -EPROTO;
out:
	close(sock);
	return (int)ret;
}

int vdpa_dev_new(const char *name)
{
	/* Otherwise the driver that was loaded first takes the device. */
	int ret = file_write(BUS "/drivers_autoprobe", "0");

	return ret ? ret : vdpa_command(VDPA_CMD_DEV_NEW, name, "vduse");
}

int vdpa_dev_del(const char *name)
{
	return vdpa_command(VDPA_CMD_DEV_DEL, name, NULL);
}

int vdpa_exists(const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), BUS "/devices/%s", name);
	return !access(path, F_OK);
}

int vdpa_bind(const char *name, const char *driver)
{
	char path[512];
	int ret;

	snprintf(path, sizeof(path), BUS "/devices/%s/driver_override", name);
	ret = file_write(path, driver);
	if (ret)
		return ret;
	ret = file_write(BUS "/drivers_probe", name);
	if (ret)
		return ret;
	snprintf(path, sizeof(path), BUS "/drivers/%s/%s", driver, name);
	return access(path, F_OK) ? -ENODEV : 0;
}

int vdpa_unbind(const char *name, const char *driver)
{
	char path[512];

	snprintf(path, sizeof(path), BUS "/drivers/%s/unbind", driver);
	return file_write(path, name);
}

int vdpa_dev_add(const char *name, const char *driver)
{
	int ret = vdpa_dev_new(name);

	if (!ret && driver) {
		ret = vdpa_bind(name, driver);
		if (ret)
			vdpa_dev_del(name);
	}
	return ret;
}

/* First entry of @dir that starts with @prefix, into @out. */
static int dir_find(const char *dir, const char *prefix, char *out, size_t size)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int ret = -ENOENT;

	if (!d)
		return -errno;
	while ((e = readdir(d))) {
		if (strncmp(e->d_name, prefix, strlen(prefix)) ||
		    e->d_name[0] == '.')
			continue;
		snprintf(out, size, "%s", e->d_name);
		ret = 0;
		break;
	}
	closedir(d);
	return ret;
}

int vdpa_vhost_open(const char *name)
{
	char path[512], node[256];
	int ret;

	snprintf(path, sizeof(path), BUS "/devices/%s", name);
	ret = dir_find(path, "vhost-vdpa-", node, sizeof(node));
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "/dev/%s", node);
	return (int)sys(open(path, O_RDWR | O_CLOEXEC));
}

static int blk_path_now(const char *name, char *ret_path, size_t size)
{
	char path[1024], virtio[256], disk[256];

	snprintf(path, sizeof(path), BUS "/devices/%s", name);
	if (dir_find(path, "virtio", virtio, sizeof(virtio)))
		return -ENOENT;
	snprintf(path, sizeof(path), BUS "/devices/%s/%s/block", name, virtio);
	if (dir_find(path, "vd", disk, sizeof(disk)))
		return -ENOENT;
	snprintf(path, sizeof(path), "/sys/block/%s/size", disk);
	if (file_read_long(path) <= 0)
		return -ENOENT;
	snprintf(path, sizeof(path), "/dev/%s", disk);
	if (access(path, F_OK))
		return -ENOENT;
	snprintf(ret_path, size, "%s", path);
	return 0;
}

int vdpa_blk_path(const char *name, char *ret_path, size_t size,
		  unsigned int ms)
{
	uint64_t end = now_ms() + ms;

	while (blk_path_now(name, ret_path, size)) {
		if (now_ms() >= end)
			return -ENOENT;
		sleep_ms(10);
	}
	return 0;
}
