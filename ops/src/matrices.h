// Products with a weight matrix W (outputs x inputs): of tiles of activations, and of covariances in double precision.
#pragma once
#include "kernels.h"

namespace atac {

// W (outputs x inputs) for `multiply`, its rows scaled (nullptr for not), or its transpose.
inline Packed pack(const float* weight, int outputs, int inputs, const float* row_scale, bool transposed,
                   ptrdiff_t input_plane, Arena& arena) {
  const int to = transposed ? inputs : outputs, from = transposed ? outputs : inputs;
  Packed packed(to, blocks_of(from), LANES, (from - 1) % LANES + 1, arena);
  for (int tap = 0; tap < packed.taps; ++tap) packed.offsets[tap] = tap * input_plane;
  packed.fill([=](int output, int tap, int d) {
    const int o = transposed ? tap * LANES + d : output, i = transposed ? output : tap * LANES + d;
    return weight[static_cast<size_t>(o) * inputs + i] * (row_scale ? row_scale[o] : 1);
  });
  return packed;
}

// All output blocks of a tile: out = W in + init; init is a bias with init_step 0.
inline void dense(const Packed& w, View in, int count, View out, View init, ptrdiff_t init_step) {
  for (int group = 0; group < w.groups(); ++group)
    multiply(w, group, in.data, LANES, count, out, LANES, init, init_step);
}

inline void dense(const Packed& w, View in, int count, View out, const float* bias = nullptr) {
  dense(w, in, count, out, View{const_cast<float*>(bias), LANES}, 0);
}

// Variance of each row of W times a vector of that covariance: the diagonal of W Cov W^T.
inline void row_variances(const float* weight, int outputs, int inputs, const double* covariance, double* variance) {
#pragma omp parallel for schedule(static)
  for (int o = 0; o < outputs; ++o) {
    const float* w = weight + static_cast<size_t>(o) * inputs;
    double total = 0;
    for (int i = 0; i < inputs; ++i) {
      const double* row = covariance + static_cast<size_t>(i) * inputs;
      double product = 0;
      for (int k = 0; k < inputs; ++k) product += w[k] * row[k];
      total += w[i] * product;
    }
    variance[o] = total;
  }
}

// out = W (outputs x inner) times matrix (inner x columns), in doubles.
inline void matrix_product(const float* weight, const double* matrix, int outputs, int inner, int columns,
                           double* out) {
#pragma omp parallel for schedule(static)
  for (int o = 0; o < outputs; ++o) {
    double* row = out + static_cast<size_t>(o) * columns;
    std::fill(row, row + columns, 0.0);
    for (int k = 0; k < inner; ++k) {
      const double w = weight[static_cast<size_t>(o) * inner + k];
      for (int c = 0; c < columns; ++c) row[c] += w * matrix[static_cast<size_t>(k) * columns + c];
    }
  }
}

inline double dot(const double* a, const double* b, int count) {
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (int i = 0; i < count; ++i) total += a[i] * b[i];
  return total;
}

}  // namespace atac
