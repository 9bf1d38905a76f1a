// Nesterov's accelerated gradient as MXNet's nag_mom_update does it, to the bit: the weight decays twice, the second
// time by its new value (docs/FIDELITY.md, 4.5).
#pragma once
#include <cstddef>

namespace atac {

// MXNet's own operator is compiled without fused multiply-add.
__attribute__((noinline, optimize("fp-contract=off"))) inline void nag_update(float* weight, const float* gradient,
                                                                              float* momenta, size_t size, float lr,
                                                                              float momentum, float wd,
                                                                              float rescale) {
  for (size_t i = 0; i < size; ++i) {
    const float scaled = rescale * gradient[i];
    const float kept = momenta[i] * momentum;
    weight[i] = weight[i] - kept + (momentum + 1) * (kept - (lr * (scaled + wd * weight[i])));
    momenta[i] = kept - (lr * (scaled + wd * weight[i]));
  }
}

}  // namespace atac
