/* SPDX-License-Identifier: MIT */
/*
 * The commands of vduse-blk. Each takes its own arguments (argv[0] is the
 * command's name), prints its own errors and returns an exit status.
 */
#ifndef VDUSE_BLK_CMD_CMD_H
#define VDUSE_BLK_CMD_CMD_H

#define EXIT_USAGE 2 /* the command line or a configuration file is wrong */

/**
 * cmd_serve() - serve one disk until SIGTERM or SIGINT
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_serve(int argc, char **argv);

/**
 * cmd_list() - list the daemons that run
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_list(int argc, char **argv);

/**
 * cmd_status() - show what one daemon does
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_status(int argc, char **argv);

/**
 * cmd_stats() - show counters and latencies of one daemon
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_stats(int argc, char **argv);

/**
 * cmd_set() - change options of one daemon
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_set(int argc, char **argv);

/**
 * cmd_fail() - stop waiting for the server
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_fail(int argc, char **argv);

/**
 * cmd_resize() - take over the size of the storage
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_resize(int argc, char **argv);

/**
 * cmd_stop() - end one daemon
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_stop(int argc, char **argv);

/**
 * cmd_upgrade() - have another process take a device over
 * @argc:	number of arguments
 * @argv:	arguments
 *
 * Return: exit status.
 */
int cmd_upgrade(int argc, char **argv);

#endif
