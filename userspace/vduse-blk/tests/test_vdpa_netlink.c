// SPDX-License-Identifier: MIT
/*
 * Parsing of netlink attributes and acknowledgements, from bytes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <linux/vdpa.h>

#include "base/util.h"
#include "transport/vdpa_netlink.h"

struct message {
	_Alignas(8) char data[1024];
	size_t len;
};

static void put(struct message *m, uint16_t type, const void *data, size_t size)
{
	struct nlattr attr = { .nla_type = type, .nla_len = (uint16_t)(NLA_HDRLEN + size) };

	memcpy(m->data + m->len, &attr, sizeof(attr));
	if (size)
		memcpy(m->data + m->len + NLA_HDRLEN, data, size);
	m->len += NLA_ALIGN(attr.nla_len);
}

static void put_string(struct message *m, uint16_t type, const char *text)
{
	put(m, type, text, strlen(text) + 1);
}

static void test_dev(void **state)
{
	const uint32_t id = 2, vendor = 0x1234, vqs = 4;
	const uint16_t size = 256;
	struct vdpa_dev_info info = { 0 };
	struct message m = { .len = 0 };

	(void)state;
	put_string(&m, VDPA_ATTR_MGMTDEV_DEV_NAME, "vduse");
	put_string(&m, VDPA_ATTR_DEV_NAME, "disk0");
	put(&m, VDPA_ATTR_DEV_ID, &id, sizeof(id));
	put(&m, VDPA_ATTR_DEV_VENDOR_ID, &vendor, sizeof(vendor));
	put(&m, VDPA_ATTR_DEV_MAX_VQS, &vqs, sizeof(vqs));
	put(&m, VDPA_ATTR_DEV_MAX_VQ_SIZE, &size, sizeof(size));
	put(&m, 999, "ignored", 7);
	assert_int_equal(vdpa_parse_dev(m.data, m.len, &info), 0);
	assert_string_equal(info.name, "disk0");
	assert_string_equal(info.mgmtdev, "vduse");
	assert_int_equal(info.device_id, 2);
	assert_int_equal(info.vendor_id, 0x1234);
	assert_int_equal(info.max_vqs, 4);
	assert_int_equal(info.max_vq_size, 256);

	/* Every way to cut it short is refused or gives the name at least. */
	for (size_t len = 0; len < m.len; len++) {
		struct message copy = m;

		if (!vdpa_parse_dev(copy.data, len, &info))
			assert_string_equal(info.name, "disk0");
	}
}

static void test_dev_refused(void **state)
{
	const uint8_t odd[3] = { 0 };
	char longer[300];
	struct vdpa_dev_info info;
	struct message m = { .len = 0 };
	struct nlattr *attr = (void *)m.data;

	(void)state;
	memset(longer, 'x', sizeof(longer));
	assert_int_equal(vdpa_parse_dev(m.data, 0, &info), -EBADMSG);

	put_string(&m, VDPA_ATTR_MGMTDEV_DEV_NAME, "vduse");
	assert_int_equal(vdpa_parse_dev(m.data, m.len, &info), -EBADMSG);

	m.len = 0;
	put_string(&m, VDPA_ATTR_DEV_NAME, "d");
	put(&m, VDPA_ATTR_DEV_ID, odd, sizeof(odd));
	assert_int_equal(vdpa_parse_dev(m.data, m.len, &info), -EBADMSG);

	m.len = 0;
	put(&m, VDPA_ATTR_DEV_NAME, longer, sizeof(longer));
	assert_int_equal(vdpa_parse_dev(m.data, m.len, &info), -EBADMSG);

	m.len = 0;
	put_string(&m, VDPA_ATTR_DEV_NAME, "disk0");
	attr->nla_len = 3; /* shorter than a header: must not loop */
	assert_int_equal(vdpa_parse_dev(m.data, m.len, &info), -EBADMSG);
	attr->nla_len = 200; /* longer than the message */
	assert_int_equal(vdpa_parse_dev(m.data, m.len, &info), -EBADMSG);

	/* A name without its NUL. */
	m.len = 0;
	put(&m, VDPA_ATTR_DEV_NAME, "disk0", 5);
	assert_int_equal(vdpa_parse_dev(m.data, m.len, &info), 0);
	assert_string_equal(info.name, "disk0");
}

static struct nlmsghdr *ack(struct message *m, int error, uint16_t flags)
{
	struct nlmsghdr *nlh = (void *)m->data;
	struct nlmsgerr *err = NLMSG_DATA(nlh);

	memset(m, 0, sizeof(*m));
	nlh->nlmsg_type = NLMSG_ERROR;
	nlh->nlmsg_flags = flags;
	err->error = error;
	err->msg.nlmsg_len = NLMSG_HDRLEN;
	m->len = NLMSG_HDRLEN + sizeof(*err);
	nlh->nlmsg_len = (uint32_t)m->len;
	return nlh;
}

static int parse(struct message *m, char *text, size_t size)
{
	struct nlmsghdr *nlh = (void *)m->data;

	nlh->nlmsg_len = (uint32_t)m->len;
	return vdpa_parse_ack(nlh, m->len, text, size);
}

static void test_ack(void **state)
{
	struct message m;
	char text[64];

	(void)state;
	ack(&m, 0, 0);
	assert_int_equal(parse(&m, text, sizeof(text)), 0);
	assert_string_equal(text, "");

	ack(&m, -EPERM, NLM_F_CAPPED);
	assert_int_equal(parse(&m, text, sizeof(text)), -EPERM);

	ack(&m, -ENODEV, NLM_F_CAPPED | NLM_F_ACK_TLVS);
	put_string(&m, NLMSGERR_ATTR_MSG, "device not found");
	assert_int_equal(parse(&m, text, sizeof(text)), -ENODEV);
	assert_string_equal(text, "device not found");

	/* Longer than the caller's buffer: cut. */
	ack(&m, -EINVAL, NLM_F_CAPPED | NLM_F_ACK_TLVS);
	put_string(&m, NLMSGERR_ATTR_MSG, "device not found");
	assert_int_equal(parse(&m, text, 7), -EINVAL);
	assert_string_equal(text, "device");

	/* The request is quoted before the attributes. */
	ack(&m, -EINVAL, NLM_F_ACK_TLVS);
	((struct nlmsgerr *)NLMSG_DATA(m.data))->msg.nlmsg_len = NLMSG_HDRLEN + 24;
	m.len += 24;
	put_string(&m, NLMSGERR_ATTR_MSG, "why");
	assert_int_equal(parse(&m, text, sizeof(text)), -EINVAL);
	assert_string_equal(text, "why");
}

static void test_ack_refused(void **state)
{
	struct message m;
	char text[64];

	(void)state;
	ack(&m, 5, 0); /* positive */
	assert_int_equal(parse(&m, text, sizeof(text)), -EBADMSG);
	ack(&m, -100000, 0);
	assert_int_equal(parse(&m, text, sizeof(text)), -EBADMSG);

	ack(&m, 0, 0);
	m.len = NLMSG_HDRLEN + 2;
	assert_int_equal(parse(&m, text, sizeof(text)), -EBADMSG);

	ack(&m, -EINVAL, NLM_F_ACK_TLVS);
	((struct nlmsgerr *)NLMSG_DATA(m.data))->msg.nlmsg_len = 0x7fffffff;
	assert_int_equal(parse(&m, text, sizeof(text)), -EBADMSG);

	ack(&m, -EINVAL, NLM_F_CAPPED | NLM_F_ACK_TLVS);
	put_string(&m, NLMSGERR_ATTR_MSG, "why");
	((struct nlattr *)(m.data + NLMSG_HDRLEN + sizeof(struct nlmsgerr)))->nla_len = 0;
	assert_int_equal(parse(&m, text, sizeof(text)), -EBADMSG);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dev),
		cmocka_unit_test(test_dev_refused),
		cmocka_unit_test(test_ack),
		cmocka_unit_test(test_ack_refused),
	};

	return cmocka_run_group_tests_name("vdpa_netlink", tests, NULL, NULL);
}
