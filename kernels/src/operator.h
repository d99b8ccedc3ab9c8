// The custom operator nncompile::FusedRegion.
#pragma once

#include "ort_abi.h"

namespace nncompile {

// Adds the operator to a session's options; null where it worked.
OrtStatus* register_operator(OrtSessionOptions* options, const OrtApiBase* base);

}  // namespace nncompile
