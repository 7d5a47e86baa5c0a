/* SPDX-License-Identifier: MIT */
/*
 * The statistics document as a table.
 */
#ifndef VDUSE_BLK_CMD_STATS_TEXT_H
#define VDUSE_BLK_CMD_STATS_TEXT_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#define STATS_DURATION_SIZE 16

/**
 * stats_duration() - "85us", "1.20ms", "31.0s": three digits that count
 * @ns:		nanoseconds
 * @text:	at least STATS_DURATION_SIZE bytes
 */
void stats_duration(uint64_t ns, char *text);

/**
 * stats_print() - write the table
 * @out:	where to
 * @stats:	the document; what it lacks is shown as nothing or zero
 */
void stats_print(FILE *out, json_t *stats);

#endif
