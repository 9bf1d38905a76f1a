// The two loops in which nearly all time goes: `multiply` (activations times weights) and `outer` (sums of products of
// two activations). Both work on blocks of 16 channels that lie side by side for each pixel.
#pragma once
#include <algorithm>
#include <vector>

#include "memory.h"
#include "simd.h"

namespace atac {

inline int blocks_of(int channels) { return (channels + LANES - 1) / LANES; }
inline int padded(int channels) { return blocks_of(channels) * LANES; }

// Activations of some pixels: channel c of pixel p at data[c / 16 * plane + p * 16 + c % 16].
struct View {
  float* data;
  ptrdiff_t plane;

  float* at(int block, int pixel) const { return data + block * plane + static_cast<ptrdiff_t>(pixel) * LANES; }
};

// A weight matrix for each of some taps, in the order in which `multiply` reads it; or several of them, one behind the
// other, that differ in their numbers alone. A tap is an offset (in floats) from an output pixel's place in the input to
// the 16 numbers that are multiplied; the last tap may have fewer.
struct Packed {
  int taps = 0, depth = LANES, last = LANES;
  int blocks = 0, group = 1;  // output blocks, and how many of them are computed together
  std::vector<ptrdiff_t> offsets;
  float* data = nullptr;

  Packed() = default;
  Packed(int outputs, int tap_count, int tap_depth, int last_depth, Arena& arena)
      : Packed(outputs, tap_count, tap_depth, last_depth, blocks_of(outputs) % 2 ? 1 : 2, 1, arena) {}
  Packed(int outputs, int tap_count, int tap_depth, int last_depth, int together, int matrices, Arena& arena)
      : taps(tap_count), depth(tap_depth), last(last_depth), blocks(blocks_of(outputs)), group(together),
        offsets(tap_count), outputs_(outputs) {
    data = arena.take<float>(group_size() * groups() * matrices);
  }

  int groups() const { return blocks / group; }
  size_t group_size() const { return (static_cast<size_t>(taps - 1) * depth + last) * group * LANES; }
  float* weights(int index, int matrix = 0) const {
    return data + (static_cast<size_t>(matrix) * groups() + index) * group_size();
  }

  // Sets all weights: weight(output, tap, place within the tap). Lanes beyond the last output get 0.
  template <class F>
  void fill(F weight) {
    float* to = data;
    for (int first = 0; first < blocks; first += group)
      for (int tap = 0; tap < taps; ++tap)
        for (int d = 0; d < (tap + 1 == taps ? last : depth); ++d)
          for (int output = first * LANES; output < (first + group) * LANES; ++output)
            *to++ = output < outputs_ ? weight(output, tap, d) : 0;
  }

 private:
  int outputs_ = 0;
};

namespace detail {

// STEP: in_step where it is known to the compiler, which then needs no register for a pixel's address; 0 where it is not.
template <int PIXELS, int GROUP, int STEP>
inline void multiply(const Packed& w, const float* weights, const float* in, ptrdiff_t in_step, float* out,
                     ptrdiff_t out_plane, ptrdiff_t out_step, const float* init, ptrdiff_t init_plane,
                     ptrdiff_t init_step) {
  const ptrdiff_t step = STEP ? STEP : in_step;
  V sum[GROUP][PIXELS];
  for (int g = 0; g < GROUP; ++g)
    for (int p = 0; p < PIXELS; ++p) sum[g][p] = init ? load(init + g * init_plane + p * init_step) : V{};
  for (int tap = 0; tap < w.taps; ++tap) {
    const float* x = in + w.offsets[tap];
    const int depth = tap + 1 == w.taps ? w.last : w.depth;
    for (int d = 0; d < depth; ++d) {
      V column[GROUP];
      for (int g = 0; g < GROUP; ++g) column[g] = load(weights + g * LANES);
      weights += GROUP * LANES;
      for (int p = 0; p < PIXELS; ++p) {
        const V value = all(x[p * step + d]);
        for (int g = 0; g < GROUP; ++g) sum[g][p] += value * column[g];
      }
    }
  }
  for (int g = 0; g < GROUP; ++g)
    for (int p = 0; p < PIXELS; ++p) store(out + g * out_plane + p * out_step, sum[g][p]);
}

template <int STEP>
inline void multiply(const Packed& w, const float* weights, const float* in, ptrdiff_t in_step, int pixels, View out,
                     ptrdiff_t out_step, View init, ptrdiff_t init_step) {
  int p = 0;
  const auto run = [&](auto kernel, int count) {
    for (; p + count <= pixels; p += count)
      kernel(w, weights, in + p * in_step, in_step, out.data + p * out_step, out.plane, out_step,
             init.data ? init.data + p * init_step : nullptr, init.plane, init_step);
  };
  if (w.group == 4) {
    run(multiply<ACCUMULATORS / 4, 4, STEP>, ACCUMULATORS / 4);
    run(multiply<1, 4, STEP>, 1);
  } else if (w.group == 2) {
    run(multiply<ACCUMULATORS / 2, 2, STEP>, ACCUMULATORS / 2);
    if (ACCUMULATORS / 2 > 4) run(multiply<4, 2, STEP>, 4);
    run(multiply<1, 2, STEP>, 1);
  } else {
    run(multiply<ACCUMULATORS, 1, STEP>, ACCUMULATORS);
    if (ACCUMULATORS > 8) run(multiply<8, 1, STEP>, 8);
    if (ACCUMULATORS > 4) run(multiply<4, 1, STEP>, 4);
    run(multiply<1, 1, STEP>, 1);
  }
}

}  // namespace detail

// One group of output blocks for `pixels` pixels in a row: out = init + sum over taps of weights times input. out and
// init are at the group's first block; init is nullptr for none; with init_step 0 it is a bias.
inline void multiply(const Packed& w, const float* weights, const float* in, ptrdiff_t in_step, int pixels, View out,
                     ptrdiff_t out_step, View init, ptrdiff_t init_step) {
  const auto run = in_step == LANES ? detail::multiply<LANES> : detail::multiply<0>;
  run(w, weights, in, in_step, pixels, out, out_step, init, init_step);
}

// The same for group `index`, with out and init at the first block of all.
inline void multiply(const Packed& w, int index, const float* in, ptrdiff_t in_step, int pixels, View out,
                     ptrdiff_t out_step, View init, ptrdiff_t init_step) {
  const ptrdiff_t first = static_cast<ptrdiff_t>(index) * w.group;
  multiply(w, w.weights(index), in, in_step, pixels, View{out.data + first * out.plane, out.plane}, out_step,
           View{init.data ? init.data + first * init.plane : nullptr, init.plane}, init_step);
}

namespace detail {

template <int ROWS>
inline void outer(const float* a, ptrdiff_t a_line, ptrdiff_t a_step, const float* b, ptrdiff_t b_line,
                  ptrdiff_t b_step, int lines, int pixels, float* sums) {
  V sum[ROWS];
  for (int r = 0; r < ROWS; ++r) sum[r] = load(sums + r * LANES);
  for (int line = 0; line < lines; ++line) {
    const float* x = a + line * a_line;
    const float* y = b + line * b_line;
    for (int p = 0; p < pixels; ++p) {
      const V value = load(y + p * b_step);
      for (int r = 0; r < ROWS; ++r) sum[r] += all(x[p * a_step + r]) * value;
    }
  }
  for (int r = 0; r < ROWS; ++r) store(sums + r * LANES, sum[r]);
}

}  // namespace detail

// sums[r][lane] += sum over lines and pixels of a[r] b[lane], for r below `rows`. A line is a stretch of pixels that
// lie a_step and b_step apart; lines are a_line and b_line apart.
inline void outer(int rows, const float* a, ptrdiff_t a_line, ptrdiff_t a_step, const float* b, ptrdiff_t b_line,
                  ptrdiff_t b_step, int lines, int pixels, float* sums) {
  int r = 0;
  const auto run = [&](auto kernel, int count) {
    for (; r + count <= rows; r += count)
      kernel(a + r, a_line, a_step, b, b_line, b_step, lines, pixels, sums + r * LANES);
  };
  run(detail::outer<ACCUMULATORS>, ACCUMULATORS);
  if (ACCUMULATORS > 8) run(detail::outer<8>, 8);
  if (ACCUMULATORS > 4) run(detail::outer<4>, 4);
  run(detail::outer<1>, 1);
}

}  // namespace atac
