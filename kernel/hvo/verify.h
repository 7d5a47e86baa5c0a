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
 * Context: process; caller holds hvo_remap_mutex.
 */
void hvo_verify_step(unsigned long address, enum hvo_step step, pte_t old, pte_t new);

/**
 * hvo_verify_flushed() - the TLBs have forgotten a range
 * @start: first address
 * @end: behind the last
 *
 * Context: process; caller holds hvo_remap_mutex.
 */
void hvo_verify_flushed(unsigned long start, unsigned long end);

/**
 * hvo_verify_stopped() - the machine stops, or goes on
 * @stopped: which of them
 *
 * Context: the processor that runs in stop_machine().
 */
void hvo_verify_stopped(bool stopped);

/**
 * hvo_verify_split() - a block mapping is about to be replaced by a table
 * @address: first address below it
 *
 * Context: any.
 */
void hvo_verify_split(unsigned long address);

/**
 * hvo_verify_selftest() - make each wrong order, see each one caught
 *
 * Context: module init; sleeps.
 * Return: 0, -EIO (see the parameter verify_self_test), -ENOMEM.
 */
int hvo_verify_selftest(void);

#else

static inline void hvo_verify_step(unsigned long address, enum hvo_step step,
				   pte_t old, pte_t new) { }
static inline void hvo_verify_flushed(unsigned long start, unsigned long end) { }
static inline void hvo_verify_stopped(bool stopped) { }
static inline void hvo_verify_split(unsigned long address) { }
static inline int hvo_verify_selftest(void) { return 0; }

#endif /* HVO_TEST */

#endif /* HVO_VERIFY_H */
