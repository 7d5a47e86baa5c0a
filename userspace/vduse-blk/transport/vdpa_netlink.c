// SPDX-License-Identifier: MIT
/*
 * Generic netlink requests to the vDPA family.
 *
 * One socket a request: attaching and detaching happen once in a daemon's life.
 * The acknowledgement is read raw, because libnl drops the text that the kernel
 * puts next to the errno.
 */
#include <errno.h>
#include <limits.h>
#include <linux/vdpa.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "transport/vdpa_netlink.h"

#define MGMTDEV_NAME	"vduse"
#define VDPA_BUS_SYSFS	"/sys/bus/vdpa"
#define RECV_BUFFER	8192

struct genl {
	struct nl_sock *sock;
	int family;
};

/* Parsing */

static const void *attr_data(const struct nlattr *attr)
{
	return (const char *)attr + NLA_HDRLEN;
}

static size_t attr_size(const struct nlattr *attr)
{
	return attr->nla_len - NLA_HDRLEN;
}

/*
 * The next attribute in [*@pos, @end), or NULL at the end. A length that does
 * not fit sets *@ret_bad.
 */
static const struct nlattr *next_attr(const char **pos, const char *end, bool *ret_bad)
{
	const struct nlattr *attr = (const void *)*pos;
	size_t left = (size_t)(end - *pos);

	if (!left)
		return NULL;
	if (left < NLA_HDRLEN || attr->nla_len < NLA_HDRLEN || attr->nla_len > left) {
		*ret_bad = true;
		return NULL;
	}
	*pos += min((size_t)NLA_ALIGN(attr->nla_len), left);
	return attr;
}

/* Strings come with their NUL, but who would bet on it. */
static bool copy_string(const struct nlattr *attr, char *buf, size_t size)
{
	size_t len = strnlen(attr_data(attr), attr_size(attr));

	if (len >= size)
		return false;
	memcpy(buf, attr_data(attr), len);
	buf[len] = '\0';
	return true;
}

static bool copy_number(const struct nlattr *attr, void *number, size_t size)
{
	if (attr_size(attr) != size)
		return false;
	memcpy(number, attr_data(attr), size);
	return true;
}

int vdpa_parse_dev(const void *attrs, size_t len, struct vdpa_dev_info *ret_info)
{
	const char *pos = attrs, *end = pos + len;
	struct vdpa_dev_info info = { 0 };
	const struct nlattr *attr;
	bool bad = false;

	while (!bad && (attr = next_attr(&pos, end, &bad))) {
		switch (attr->nla_type & NLA_TYPE_MASK) {
		case VDPA_ATTR_DEV_NAME:
			bad = !copy_string(attr, info.name, sizeof(info.name));
			break;
		case VDPA_ATTR_MGMTDEV_DEV_NAME:
			bad = !copy_string(attr, info.mgmtdev, sizeof(info.mgmtdev));
			break;
		case VDPA_ATTR_DEV_ID:
			bad = !copy_number(attr, &info.device_id, sizeof(info.device_id));
			break;
		case VDPA_ATTR_DEV_VENDOR_ID:
			bad = !copy_number(attr, &info.vendor_id, sizeof(info.vendor_id));
			break;
		case VDPA_ATTR_DEV_MAX_VQS:
			bad = !copy_number(attr, &info.max_vqs, sizeof(info.max_vqs));
			break;
		case VDPA_ATTR_DEV_MAX_VQ_SIZE:
			bad = !copy_number(attr, &info.max_vq_size, sizeof(info.max_vq_size));
			break;
		default:
			break;
		}
	}
	if (bad || !info.name[0])
		return -EBADMSG;
	*ret_info = info;
	return 0;
}

int vdpa_parse_ack(const struct nlmsghdr *nlh, size_t len, char *text, size_t size)
{
	const struct nlmsgerr *err = NLMSG_DATA(nlh);
	const char *pos, *end = (const char *)nlh + len;
	const struct nlattr *attr;
	size_t offset = NLMSG_HDRLEN + sizeof(*err);
	bool bad = false;

	text[0] = '\0';
	if (len < offset || nlh->nlmsg_len > len || nlh->nlmsg_len < offset ||
	    nlh->nlmsg_type != NLMSG_ERROR || err->error > 0 || err->error < -4095)
		return -EBADMSG;
	end = (const char *)nlh + nlh->nlmsg_len;

	if (!(nlh->nlmsg_flags & NLM_F_ACK_TLVS))
		return err->error;

	/* The request is quoted in front of the attributes unless capped. */
	if (!(nlh->nlmsg_flags & NLM_F_CAPPED)) {
		if (err->msg.nlmsg_len < NLMSG_HDRLEN ||
		    err->msg.nlmsg_len - NLMSG_HDRLEN > nlh->nlmsg_len - offset)
			return -EBADMSG;
		offset += err->msg.nlmsg_len - NLMSG_HDRLEN;
	}
	offset = min((size_t)NLMSG_ALIGN(offset), (size_t)nlh->nlmsg_len);
	pos = (const char *)nlh + offset;

	while ((attr = next_attr(&pos, end, &bad))) {
		size_t n;

		if ((attr->nla_type & NLA_TYPE_MASK) != NLMSGERR_ATTR_MSG)
			continue;
		n = min(strnlen(attr_data(attr), attr_size(attr)), size - 1);
		memcpy(text, attr_data(attr), n);
		text[n] = '\0';
	}
	return bad ? -EBADMSG : err->error;
}

/* Why the family may be missing */

static bool in_initial_netns(void)
{
	struct stat self, init;

	/* Without the right to look at PID 1 give the benefit of the doubt. */
	if (stat("/proc/self/ns/net", &self) || stat("/proc/1/ns/net", &init))
		return true;
	return self.st_ino == init.st_ino && self.st_dev == init.st_dev;
}

static int no_family(struct error *e)
{
	/* sysfs shows the bus in every namespace, the family is in one. */
	if (!access(VDPA_BUS_SYSFS, F_OK) || !in_initial_netns())
		return err_set(e, ENOTSUP,
			       "the kernel offers vDPA's netlink family only in the initial network namespace: run vduse-blk there, or use --bind none and attach the device from there with \"vdpa dev add\"");
	return err_set(e, ENOENT, "no vDPA netlink family: is the module vdpa loaded?");
}

static int genl_open(struct genl *ret_genl, struct error *e)
{
	struct genl genl;
	int err, on = 1;

	genl.sock = nl_socket_alloc();
	if (!genl.sock)
		return err_set(e, ENOMEM, "out of memory");
	err = genl_connect(genl.sock);
	if (err) {
		err = err_set(e, EIO, "open a netlink socket: %s", nl_geterror(err));
		goto free_sock;
	}
	setsockopt(nl_socket_get_fd(genl.sock), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
	setsockopt(nl_socket_get_fd(genl.sock), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));

	genl.family = genl_ctrl_resolve(genl.sock, VDPA_GENL_NAME);
	if (genl.family < 0) {
		err = no_family(e);
		goto free_sock;
	}
	*ret_genl = genl;
	return 0;

free_sock:
	nl_socket_free(genl.sock);
	return err;
}

static ssize_t receive(struct nl_sock *sock, void *buf, size_t size)
{
	ssize_t n;

	do
		n = recv(nl_socket_get_fd(sock), buf, size, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/*
 * Send @msg and read up to the acknowledgement. An answer of another type is
 * handed to vdpa_parse_dev() if @info is given.
 */
static int transact(struct genl *genl, struct nl_msg *msg, struct vdpa_dev_info *info,
		    char *text, size_t text_size)
{
	_Alignas(struct nlmsghdr) char buf[RECV_BUFFER];
	uint32_t seq;
	int err;

	text[0] = '\0';
	nl_complete_msg(genl->sock, msg);
	seq = nlmsg_hdr(msg)->nlmsg_seq;
	err = nl_send(genl->sock, msg);
	if (err < 0)
		return -EIO;

	for (;;) {
		ssize_t n = receive(genl->sock, buf, sizeof(buf));
		struct nlmsghdr *nlh = (void *)buf;
		int left = (int)n;

		if (n < 0)
			return (int)n;
		for (; NLMSG_OK(nlh, left); nlh = NLMSG_NEXT(nlh, left)) {
			if (nlh->nlmsg_seq != seq)
				continue;
			if (nlh->nlmsg_type == NLMSG_ERROR)
				return vdpa_parse_ack(nlh, (size_t)left, text, text_size);
			if (info && nlh->nlmsg_len >= NLMSG_HDRLEN + GENL_HDRLEN)
				vdpa_parse_dev((char *)NLMSG_DATA(nlh) + GENL_HDRLEN,
					       nlh->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN, info);
		}
	}
}

/* The request all three functions below make, with its error in words. */
static int request(uint8_t cmd, const char *name, struct vdpa_dev_info *info, const char *verb,
		   struct error *e)
{
	struct nl_msg *msg = NULL;
	struct genl genl;
	char text[256];
	int err;

	err = genl_open(&genl, e);
	if (err)
		return err;

	msg = nlmsg_alloc();
	if (!msg || !genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, genl.family, 0,
				 NLM_F_REQUEST | NLM_F_ACK, cmd, VDPA_GENL_VERSION) ||
	    nla_put_string(msg, VDPA_ATTR_DEV_NAME, name) ||
	    (cmd == VDPA_CMD_DEV_NEW &&
	     nla_put_string(msg, VDPA_ATTR_MGMTDEV_DEV_NAME, MGMTDEV_NAME))) {
		err = err_set(e, ENOMEM, "out of memory");
		goto close;
	}

	err = transact(&genl, msg, info, text, sizeof(text));
	if (err == -EPERM)
		err_set(e, EPERM,
			"may not %s vDPA device \"%s\": that needs CAP_NET_ADMIN in the initial user namespace",
			verb, name);
	else if (err)
		err_set(e, -err, "%s vDPA device \"%s\": %s%s%s", verb, name, text,
			text[0] ? ": " : "", strerror(-err));
close:
	nlmsg_free(msg);
	nl_close(genl.sock);
	nl_socket_free(genl.sock);
	return err;
}

int vdpa_dev_add(const char *name, struct error *e)
{
	return request(VDPA_CMD_DEV_NEW, name, NULL, "attach", e);
}

int vdpa_dev_del(const char *name, struct error *e)
{
	return request(VDPA_CMD_DEV_DEL, name, NULL, "detach", e);
}

int vdpa_dev_get(const char *name, struct vdpa_dev_info *ret_info, struct error *e)
{
	struct vdpa_dev_info info = { 0 };
	int err = request(VDPA_CMD_DEV_GET, name, &info, "look up", e);

	if (err)
		return err;
	if (!info.name[0])
		return err_set(e, EBADMSG, "the kernel's answer about vDPA device \"%s\" makes no sense",
			       name);
	*ret_info = info;
	return 0;
}
