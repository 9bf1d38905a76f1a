// The transforms of minimal filtering, F(4x4, 3x3) (Winograd; Lavin and Gray 2016, Section 4): a 3x3 convolution
// becomes 36 matrix products for each 4x4 tile of its output, with a quarter of the multiplications:
//
//   result    = A^T ((G weight G^T) . (B^T data B)) A         data is 6x6, overlapping by two with the next tile's
//   gradient of weight = G^T ((A gradient A^T) . (B^T data B)) G
//
// where . stands for products over the channels. The interpolation points are 0, +-11/16, +-3/2 and infinity: rounding
// errors grow less than with the usual 0, +-1, +-2, with which test_convolutions (tests/test_ops.py) fails.
#pragma once
#include "tensor.h"

namespace atac {
namespace winograd {

constexpr int TILE = 4, SIDE = TILE + 2, POINTS = SIDE * SIDE;
constexpr float A = 0.6875f, B = 1.5f, A2 = A * A, B2 = B * B;
// One over the product of a point's differences from the others.
constexpr float AT_ZERO = 1 / (A2 * B2), AT_A = 1 / (2 * A2 * (A2 - B2)), AT_B = 1 / (2 * B2 * (B2 - A2));

// The transforms of one line: IN vectors to OUT.
struct Data {  // B^T
  static constexpr int IN = SIDE, OUT = SIDE;
  static void line(const V* d, V* out) {
    const V even_a = d[4] - all(B2) * d[2], odd_a = all(A) * (d[3] - all(B2) * d[1]);
    const V even_b = d[4] - all(A2) * d[2], odd_b = all(B) * (d[3] - all(A2) * d[1]);
    out[0] = d[4] + (all(A2 * B2) * d[0] - all(A2 + B2) * d[2]);
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = d[5] + (all(A2 * B2) * d[1] - all(A2 + B2) * d[3]);
  }
};

struct Result {  // A^T
  static constexpr int IN = SIDE, OUT = TILE;
  static void line(const V* m, V* out) {
    const V sum_a = m[1] + m[2], sum_b = m[3] + m[4], difference_a = m[1] - m[2], difference_b = m[3] - m[4];
    out[0] = m[0] + sum_a + sum_b;
    out[1] = all(A) * difference_a + all(B) * difference_b;
    out[2] = all(A2) * sum_a + all(B2) * sum_b;
    out[3] = m[5] + all(A2 * A) * difference_a + all(B2 * B) * difference_b;
  }
};

struct Gradient {  // A
  static constexpr int IN = TILE, OUT = SIDE;
  static void line(const V* y, V* out) {
    const V even_a = y[0] + all(A2) * y[2], odd_a = all(A) * (y[1] + all(A2) * y[3]);
    const V even_b = y[0] + all(B2) * y[2], odd_b = all(B) * (y[1] + all(B2) * y[3]);
    out[0] = y[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = y[3];
  }
};

struct Weight {  // G
  static constexpr int IN = 3, OUT = SIDE;
  static void line(const V* g, V* out) {
    const V even = g[0] + all(A2) * g[2], odd = all(A) * g[1];
    const V even_b = g[0] + all(B2) * g[2], odd_b = all(B) * g[1];
    out[0] = all(AT_ZERO) * g[0];
    out[1] = all(AT_A) * (even + odd);
    out[2] = all(AT_A) * (even - odd);
    out[3] = all(AT_B) * (even_b + odd_b);
    out[4] = all(AT_B) * (even_b - odd_b);
    out[5] = g[2];
  }
};

struct WeightGradient {  // G^T
  static constexpr int IN = SIDE, OUT = 3;
  static void line(const V* u, V* out) {
    const V sum_a = all(AT_A) * (u[1] + u[2]), sum_b = all(AT_B) * (u[3] + u[4]);
    out[0] = all(AT_ZERO) * u[0] + sum_a + sum_b;
    out[1] = all(AT_A * A) * (u[1] - u[2]) + all(AT_B * B) * (u[3] - u[4]);
    out[2] = u[5] + all(A2) * sum_a + all(B2) * sum_b;
  }
};

// A transform of both directions: IN x IN vectors from read(row, column) to OUT x OUT, given to write(row, column, v).
template <class T, class Read, class Write>
inline void transform(Read read, Write write) {
  V half[T::OUT][T::IN];
#pragma GCC unroll 8
  for (int column = 0; column < T::IN; ++column) {
    V in[T::IN], out[T::OUT];
#pragma GCC unroll 8
    for (int row = 0; row < T::IN; ++row) in[row] = read(row, column);
    T::line(in, out);
#pragma GCC unroll 8
    for (int row = 0; row < T::OUT; ++row) half[row][column] = out[row];
  }
#pragma GCC unroll 8
  for (int row = 0; row < T::OUT; ++row) {
    V out[T::OUT];
    T::line(half[row], out);
#pragma GCC unroll 8
    for (int column = 0; column < T::OUT; ++column) write(row, column, out[column]);
  }
}

}  // namespace winograd
}  // namespace atac
