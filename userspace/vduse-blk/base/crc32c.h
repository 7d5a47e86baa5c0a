/* SPDX-License-Identifier: MIT */
/*
 * CRC-32C (Castagnoli), for headers of files: small, not fast.
 */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/**
 * crc32c() - checksum of a piece of memory
 * @data: first byte
 * @len: bytes
 *
 * Return: the checksum; 0xe3069283 for the nine digits "123456789".
 */
uint32_t crc32c(const void *data, size_t len);

#endif
