// SPDX-License-Identifier: MIT
/*
 * Netlink messages: the first byte chooses the parser, the rest is the message.
 */
#include <stdlib.h>
#include <string.h>

#include "transport/vdpa_netlink.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vdpa_dev_info info;
	char text[32], *copy;

	if (!size)
		return 0;
	/* Of exactly that size, so that ASan sees a read beyond it. */
	copy = malloc(size - 1 ? size - 1 : 1);
	memcpy(copy, data + 1, size - 1);
	if (data[0] & 1)
		vdpa_parse_dev(copy, size - 1, &info);
	else if (size - 1 >= sizeof(struct nlmsghdr))
		vdpa_parse_ack((const void *)copy, size - 1, text, sizeof(text));
	free(copy);
	return 0;
}
