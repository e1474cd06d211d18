/* checksum.h: CRC32C (Castagnoli, RFC 3720 appendix B.4), by SSE4.2 or ARMv8 CRC instructions where
 * there are some. */
#ifndef OMENDB_CHECKSUM_H
#define OMENDB_CHECKSUM_H

#include "internal.h"

/* Continues `crc` (0 to begin) over `size` bytes. */
OMENDB_INTERNAL uint32_t checksum_crc32c(uint32_t crc, const void *data, size_t size);

/* The same without instructions for it, from inverted `state` to inverted result. */
OMENDB_INTERNAL uint32_t checksum_by_table(uint32_t state, const unsigned char *bytes, size_t size);

#endif
