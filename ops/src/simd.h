// Sixteen floats at a time. GCC's vector extension compiles them to one AVX-512 register, two of AVX2 or four of SSE.
#pragma once
#include <cstddef>
#include <cstdint>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace atac {

constexpr int LANES = 16;
typedef float V __attribute__((vector_size(64)));
typedef float Unaligned __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef double D __attribute__((vector_size(128)));
typedef double UnalignedD __attribute__((vector_size(128), aligned(8), may_alias));

// Accumulators that the registers hold beside operands: 32 registers of 16 floats, or 16 of 8.
#ifdef __AVX512F__
constexpr int ACCUMULATORS = 16;
#else
constexpr int ACCUMULATORS = 4;
#endif

inline V load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline V all(float x) { return V{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

inline void add_to(double* p, V v) {
  *reinterpret_cast<UnalignedD*>(p) += __builtin_convertvector(v, D);
}

// NaN stays NaN in all of these: a comparison with it is false.
inline V relu(V x) { return x < all(0) ? all(0) : x; }
inline V positive(V x, V then, V otherwise) { return x > all(0) ? then : otherwise; }

// e^x to 1e-7 relative; below -87 and above 88 it stays at the value there.
inline V exp(V x) {
  x = x < all(-87.0f) ? all(-87.0f) : x;
  x = x > all(88.0f) ? all(88.0f) : x;
  const V magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number, which its low bits then hold
  const V rounded = x * all(1.44269504088896341f) + magic;
  const V n = rounded - magic;
  const V r = x - n * all(0.693359375f) + n * all(2.12194440e-4f);
  V p = all(1.9875691500e-4f);
  p = p * r + all(1.3981999507e-3f);
  p = p * r + all(8.3334519073e-3f);
  p = p * r + all(4.1665795894e-2f);
  p = p * r + all(1.6666665459e-1f);
  p = p * r + all(5.0000001201e-1f);
  p = p * r * r + r + all(1);
  const Bits exponent = (reinterpret_cast<Bits>(rounded) + (127u - 0x4B400000u)) << 23;
  return p * reinterpret_cast<V>(exponent);
}

// 1 / x for x >= 1, to 1e-7 relative. The division itself takes as long as all of exp.
inline V reciprocal(V x) {
#ifdef __AVX512F__
  const V guess = _mm512_maskz_rcp14_ps(0xFFFF, x);
  return guess * (all(2) - x * guess);
#else
  return all(1) / x;
#endif
}

inline V sigmoid(V x) { return reciprocal(all(1) + exp(-x)); }

// erf(x) to 2e-7 absolute: 1 - t exp(-x^2 + P(t)), t = 1 / (1 + |x| / 2) (Chebyshev fit of erfc).
inline V erf(V x) {
  const V z = x < all(0) ? -x : x;
  const V t = reciprocal(all(1) + all(0.5f) * z);
  const float fit[] = {0.17087277f, -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f,
                       -0.18628806f, 0.09678418f, 0.37409196f, 1.00002368f, -1.26551223f};
  V p = all(fit[0]);
  for (int i = 1; i < 10; ++i) p = p * t + all(fit[i]);
  const V y = all(1) - t * exp(-z * z + p);
  return x < all(0) ? -y : y;
}

}  // namespace atac
