/* SPDX-License-Identifier: MIT */
/*
 * Which vduse-blk this is.
 */
#ifndef VDUSE_BLK_CMD_VERSION_H
#define VDUSE_BLK_CMD_VERSION_H

#ifndef VDUSE_BLK_VERSION
#define VDUSE_BLK_VERSION "0.1"
#endif

#endif
