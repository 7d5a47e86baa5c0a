// SPDX-License-Identifier: MIT
/*
 * Addresses of stream connections: from text, from the resolver, and back to
 * text for messages.
 */
#include "loop/stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

int stream_addr_unix(const char *path, struct stream_addr *ret_addr, struct error *e)
{
	struct stream_addr addr = { .sa.un.sun_family = AF_UNIX };
	size_t n = strlen(path);

	if (!n)
		return err_set(e, EINVAL, "empty socket path");
	if (n >= sizeof(addr.sa.un.sun_path))
		return err_set(e, EINVAL, "socket path is longer than %zu bytes: %s",
			       sizeof(addr.sa.un.sun_path) - 1, path);
	memcpy(addr.sa.un.sun_path, path, n);
	addr.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
	if (path[0] == '@') {
		addr.sa.un.sun_path[0] = '\0';
		addr.len--;
	}
	*ret_addr = addr;
	return 0;
}

static int errno_of_gai(int gai)
{
	switch (gai) {
	case EAI_SYSTEM:
		return errno ? errno : EIO;
	case EAI_MEMORY:
		return ENOMEM;
	default:
		return EHOSTUNREACH;
	}
}

int stream_addr_resolve(const char *host, const char *port, struct stream_addr *ret_addrs,
			unsigned int max, struct error *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
	struct addrinfo *list;
	int n = 0, gai;

	gai = getaddrinfo(host, port, &hints, &list);
	if (gai)
		return err_set(e, errno_of_gai(gai), "cannot resolve host '%s': %s", host,
			       gai_strerror(gai));

	for (struct addrinfo *ai = list; ai && (unsigned int)n < max; ai = ai->ai_next) {
		if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
			continue;
		ret_addrs[n].len = ai->ai_addrlen;
		memcpy(&ret_addrs[n].sa, ai->ai_addr, ai->ai_addrlen);
		n++;
	}
	freeaddrinfo(list);
	if (!n)
		return err_set(e, EHOSTUNREACH, "host '%s' has no IPv4 or IPv6 address", host);
	return n;
}

const char *stream_addr_text(const struct stream_addr *addr, char text[STREAM_ADDR_TEXT])
{
	char host[INET6_ADDRSTRLEN];

	switch (addr->sa.any.sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &addr->sa.in.sin_addr, host, sizeof(host));
		snprintf(text, STREAM_ADDR_TEXT, "%s:%u", host, ntohs(addr->sa.in.sin_port));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &addr->sa.in6.sin6_addr, host, sizeof(host));
		snprintf(text, STREAM_ADDR_TEXT, "[%s]:%u", host, ntohs(addr->sa.in6.sin6_port));
		break;
	case AF_UNIX:
		if (addr->sa.un.sun_path[0])
			snprintf(text, STREAM_ADDR_TEXT, "%s", addr->sa.un.sun_path);
		else
			snprintf(text, STREAM_ADDR_TEXT, "@%s", addr->sa.un.sun_path + 1);
		break;
	default:
		snprintf(text, STREAM_ADDR_TEXT, "unknown address");
	}
	return text;
}
