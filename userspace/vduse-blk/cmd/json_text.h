/* SPDX-License-Identifier: MIT */
/*
 * Strings in JSON documents.
 */
#ifndef VDUSE_BLK_CMD_JSON_TEXT_H
#define VDUSE_BLK_CMD_JSON_TEXT_H

#include <jansson.h>

/**
 * json_text() - a JSON string of any text
 * @text: from a user, a server, a file name: need not be UTF-8. If it is not, all
 *	its bytes outside of ASCII become "?"
 *
 * Return: a JSON string that the caller owns; NULL when out of memory.
 */
json_t *json_text(const char *text);

#endif
