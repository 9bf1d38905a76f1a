// Nesterov's accelerated gradient as MXNet's nag_mom_update does it, to the bit: the weight decays twice, the second
// time by its new value (docs/FIDELITY.md, 4.5).
#pragma once
#include <cstddef>

namespace atac {

// From weights and momenta to new ones, which may be the same arrays. MXNet's own operator is compiled without fused
// multiply-add.
__attribute__((noinline, optimize("fp-contract=off"))) inline void nag_update(
    const float* weight, const float* gradient, const float* momenta, float* new_weight, float* new_momenta,
    size_t size, float lr, float momentum, float wd, float rescale) {
  for (size_t i = 0; i < size; ++i) {
    const float scaled = rescale * gradient[i];
    const float kept = momenta[i] * momentum;
    const float moved = weight[i] - kept + (momentum + 1) * (kept - (lr * (scaled + wd * weight[i])));
    new_weight[i] = moved;
    new_momenta[i] = kept - (lr * (scaled + wd * moved));
  }
}

}  // namespace atac
