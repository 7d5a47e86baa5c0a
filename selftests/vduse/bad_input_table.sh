#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Prints bad_input.def as a reStructuredText table for
# Documentation/userspace-api/vduse.rst, one row for each test.
#
# usage: bad_input_table.sh [FILE]

def=${1:-$(dirname "$0")/bad_input.def}

sed -nE 's/^ROW\(([a-z]+), ([a-z0-9_]+), "(([^"\\]|\\.)*)", "(([^"\\]|\\.)*)", (E[A-Z0-9]+),$/\3\t\5\t\7\t\1.\2/p' "$def" |
	sed 's/\\"/"/g' |
	awk -F'\t' '
	BEGIN {
		print ".. list-table::"
		print "   :header-rows: 1"
		print "   :widths: 24 46 10 20"
		print ""
		print "   * - Call\n     - What is wrong\n     - errno\n     - Test"
	}
	{ printf "   * - %s\n     - %s\n     - %s\n     - ``%s``\n", $1, $2, $3, $4 }'
