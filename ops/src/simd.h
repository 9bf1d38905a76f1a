// Sixteen floats at a time: one AVX-512 register, two of AVX or four of SSE and NEON. GCC's vector extension has all of
// them, but keeps vectors that are wider than the machine's registers in memory, which is many times slower: there a
// vector is a pair of narrower ones.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace atac {

constexpr int LANES = 16;

#if defined(__AVX512F__)
constexpr int REGISTER = 16;
#elif defined(__AVX__)
constexpr int REGISTER = 8;
#else
constexpr int REGISTER = 4;
#endif

// Accumulators that the registers hold beside operands: 32 registers of 16 floats, or 16 of 8.
constexpr int ACCUMULATORS = REGISTER == 16 ? 16 : 4;

typedef float Floats __attribute__((vector_size(REGISTER * 4)));
typedef float Unaligned __attribute__((vector_size(REGISTER * 4), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(REGISTER * 4)));

template <class T>
struct Pair {
  T low, high;
};

#ifdef __AVX512F__
typedef Floats Register;
typedef Register V;
#else
// A register in memory, at addresses that are multiples of 16: GCC 12 does not always align the stack to 32 where it
// hands over such pairs.
struct Register {
  typedef float Stored __attribute__((vector_size(REGISTER * 4), aligned(16)));
  Stored floats;
  Register() = default;
  Register(Floats f) : floats(f) {}
  operator Floats() const { return floats; }
};
inline Register operator+(Register a, Register b) { return Floats(a) + Floats(b); }
inline Register operator-(Register a, Register b) { return Floats(a) - Floats(b); }
inline Register operator*(Register a, Register b) { return Floats(a) * Floats(b); }
inline Register operator/(Register a, Register b) { return Floats(a) / Floats(b); }
inline Register operator-(Register a) { return -Floats(a); }
typedef std::conditional<REGISTER == 8, Pair<Register>, Pair<Pair<Register>>>::type V;
#endif

template <class T>
inline Pair<T> operator+(Pair<T> a, Pair<T> b) { return {a.low + b.low, a.high + b.high}; }
template <class T>
inline Pair<T> operator-(Pair<T> a, Pair<T> b) { return {a.low - b.low, a.high - b.high}; }
template <class T>
inline Pair<T> operator*(Pair<T> a, Pair<T> b) { return {a.low * b.low, a.high * b.high}; }
template <class T>
inline Pair<T> operator/(Pair<T> a, Pair<T> b) { return {a.low / b.low, a.high / b.high}; }
template <class T>
inline Pair<T> operator-(Pair<T> a) { return {-a.low, -a.high}; }
template <class T>
inline Pair<T>& operator+=(Pair<T>& a, Pair<T> b) { return a = a + b; }

// What is done for each register, and for pairs by halves. select(a, b, x, y): x where a < b, else y, so with NaN too.
inline void fill(Register& v, float x) { v = x - Floats{}; }  // x + 0 would stay an addition: it changes -0
inline void read(Register& v, const float* p) { v = Floats(*reinterpret_cast<const Unaligned*>(p)); }
inline void store(float* p, Register v) { *reinterpret_cast<Unaligned*>(p) = Floats(v); }
inline void add_to(double* p, Register v) {
#ifdef __AVX512F__
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
  _mm512_storeu_pd(p, _mm512_loadu_pd(p) + _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
  _mm512_storeu_pd(p + 8, _mm512_loadu_pd(p + 8) + _mm512_cvtps_pd(high));
#else
  for (int i = 0; i < REGISTER; ++i) p[i] += Floats(v)[i];
#endif
}
inline Register select(Register a, Register b, Register x, Register y) {
  return Floats(a) < Floats(b) ? Floats(x) : Floats(y);
}
// 2^n, where magic + n is given and magic has its low bits free for a whole number.
inline Register power_of_two(Register magic_n) {
  return reinterpret_cast<Floats>((reinterpret_cast<Bits>(Floats(magic_n)) + (127u - 0x4B400000u)) << 23);
}

template <class T>
constexpr int size_of(const T&) { return sizeof(T) / sizeof(float); }

template <class T>
inline void fill(Pair<T>& v, float x) {
  fill(v.low, x);
  fill(v.high, x);
}
template <class T>
inline void read(Pair<T>& v, const float* p) {
  read(v.low, p);
  read(v.high, p + size_of(v.low));
}
template <class T>
inline void store(float* p, Pair<T> v) {
  store(p, v.low);
  store(p + size_of(v.low), v.high);
}
template <class T>
inline void add_to(double* p, Pair<T> v) {
  add_to(p, v.low);
  add_to(p + size_of(v.low), v.high);
}
template <class T>
inline Pair<T> select(Pair<T> a, Pair<T> b, Pair<T> x, Pair<T> y) {
  return {select(a.low, b.low, x.low, y.low), select(a.high, b.high, x.high, y.high)};
}
template <class T>
inline Pair<T> power_of_two(Pair<T> magic_n) { return {power_of_two(magic_n.low), power_of_two(magic_n.high)}; }

inline V load(const float* p) {
  V v;
  read(v, p);
  return v;
}
inline V all(float x) {
  V v;
  fill(v, x);
  return v;
}
inline float sum_of(V v) {
  float lanes[LANES], total = 0;
  store(lanes, v);
  for (float lane : lanes) total += lane;
  return total;
}

// The larger, or the smaller one of a and x; x where that is NaN.
#ifdef __AVX512F__
inline V larger(V a, V x) { return _mm512_max_ps(a, x); }
inline V smaller(V a, V x) { return _mm512_min_ps(a, x); }
#else
inline V larger(V a, V x) { return select(x, a, a, x); }
inline V smaller(V a, V x) { return select(a, x, a, x); }
#endif

// NaN stays NaN in all of these: a comparison with it is false.
inline V relu(V x) { return larger(all(0), x); }
inline V positive(V x, V then, V otherwise) { return select(all(0), x, then, otherwise); }

// e^x to 1e-7 relative; below -87 and above 88 it stays at the value there.
inline V exp(V x) {
  x = smaller(all(88.0f), larger(all(-87.0f), x));
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
  return p * power_of_two(rounded);
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
  const V z = select(x, all(0), -x, x);
  const V t = reciprocal(all(1) + all(0.5f) * z);
  const float fit[] = {0.17087277f, -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f,
                       -0.18628806f, 0.09678418f, 0.37409196f, 1.00002368f, -1.26551223f};
  V p = all(fit[0]);
  for (int i = 1; i < 10; ++i) p = p * t + all(fit[i]);
  const V y = all(1) - t * exp(-z * z + p);
  return select(x, all(0), -y, y);
}

}  // namespace atac
