// What of the machine's caches the choice of an order of work depends on.
#pragma once

#include <unistd.h>

namespace nncompile {

// Of a processor's second-level cache.
inline double cache_bytes() {
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? double(bytes) : 512.0 * 1024;
}

}  // namespace nncompile
