/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Test builds (HVO_TEST): every change of a vmemmap entry is checked against
 * the rules of enum hvo_step, since an emulator does not show a missing TLBI
 * or break-before-make. Other builds: nothing.
 */
#ifndef HVO_VERIFY_H
#define HVO_VERIFY_H

#include "pte.h"

#ifdef HVO_TEST

/**
 * hvo_verify_step() - an entry is about to change
 * @address: what it maps
 * @step: which change it is said to be
 * @old: the entry
 * @new: what is written to it
 *
 * Context: process; sleeps. Caller holds hvo_remap_mutex.
 */
void hvo_verify_step(unsigned long address, enum hvo_step step, pte_t old, pte_t new);

/**
 * hvo_verify_flushed() - the TLBs have forgotten a range
 * @start: first address
 * @end: behind the last
 *
 * Context: caller holds hvo_remap_mutex; process, or the machine is stopped.
 */
void hvo_verify_flushed(unsigned long start, unsigned long end);

/**
 * hvo_verify_frame_free() - a frame is about to be given back
 * @frame: nothing maps it any more, it is said
 *
 * Context: process; caller holds hvo_remap_mutex.
 */
void hvo_verify_frame_free(const struct page *frame);

/**
 * hvo_verify_forget() - the kernel itself has changed the entries of a range
 * @start: first address
 * @end: behind the last
 *
 * They are plain now: read-write, each with a frame of its own, and flushed.
 *
 * Context: process; caller holds hvo_remap_mutex.
 */
void hvo_verify_forget(unsigned long start, unsigned long end);

/**
 * hvo_verify_stopped() - the machine stops, or goes on
 * @stopped: which of them
 *
 * Context: the processor that runs in stop_machine().
 */
void hvo_verify_stopped(bool stopped);

/**
 * hvo_verify_block() - an entry of level 2 is about to change
 * @address: first address below it
 * @old: the entry
 * @new: what is written to it
 *
 * Where the architecture wants break-before-make, there are two changes with
 * hvo_verify_flushed() in between.
 *
 * Context: any; caller holds hvo_remap_mutex. Uses no struct page.
 */
void hvo_verify_block(unsigned long address, pmd_t old, pmd_t new);

/**
 * hvo_verify_selftest() - make each wrong order, see each one caught
 *
 * Context: module init, before anything else is verified; sleeps.
 * Return: 0, -EIO (see the parameter verify_self_test), -ENOMEM.
 */
int hvo_verify_selftest(void);

/**
 * hvo_verify_exit() - nothing is optimized any more
 *
 * Context: last of all; sleeps.
 */
void hvo_verify_exit(void);

#else

static inline void hvo_verify_step(unsigned long address, enum hvo_step step,
				   pte_t old, pte_t new) { }
static inline void hvo_verify_flushed(unsigned long start, unsigned long end) { }
static inline void hvo_verify_frame_free(const struct page *frame) { }
static inline void hvo_verify_forget(unsigned long start, unsigned long end) { }
static inline void hvo_verify_stopped(bool stopped) { }
static inline void hvo_verify_block(unsigned long address, pmd_t old, pmd_t new) { }
static inline int hvo_verify_selftest(void) { return 0; }
static inline void hvo_verify_exit(void) { }

#endif /* HVO_TEST */

#endif /* HVO_VERIFY_H */
