#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: hold.py PAGES
#
# Holds that many 2 MiB huge pages, filled, and says "holding". At the end of
# its standard input it looks at every byte again; exit status 1 if one changed.

import mmap
import sys

HUGE = 2 << 20
MAP_HUGETLB = 0x40000

pages = int(sys.argv[1])
memory = mmap.mmap(-1, pages * HUGE,
                   flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB)


def content(number):
    """Differs in every huge page, and in its small pages."""
    return b"".join(bytes([(number + small) % 251 + 1]) * 4096 for small in range(512))


for i in range(pages):
    memory[i * HUGE:(i + 1) * HUGE] = content(i)
print("holding", flush=True)
sys.stdin.read()
bad = [i for i in range(pages) if memory[i * HUGE:(i + 1) * HUGE] != content(i)]
if bad:
    print("changed:", bad)
sys.exit(1 if bad else 0)
