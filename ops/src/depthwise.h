// A depthwise k x k convolution of an image in blocks of 16 channels, with padding k / 2, k odd: direct, because each
// product is one of a vector of channels with another.
#pragma once
#include "kernels.h"

namespace atac {

namespace detail {

// `PIXELS` pixels of a row: out = init + sum over taps of the frame's vectors times the weights'. The frame is at the
// first tap of the first pixel.
template <int PIXELS>
inline void depthwise(const float* frame, ptrdiff_t line, const float* weights, ptrdiff_t weights_line, int rows,
                      int columns, V init, float* out) {
  V sum[PIXELS];
  for (int p = 0; p < PIXELS; ++p) sum[p] = init;
  for (int row = 0; row < rows; ++row, frame += line, weights += weights_line)
    for (int column = 0; column < columns; ++column) {
      const V weight = load(weights + column * LANES);
      for (int p = 0; p < PIXELS; ++p) sum[p] += load(frame + (column + p) * LANES) * weight;
    }
  for (int p = 0; p < PIXELS; ++p) store(out + p * LANES, sum[p]);
}

// Of one row of taps, TAPS side by side: sums += the frame's vectors times the gradient's, over some rows of pixels.
template <int TAPS>
inline void depthwise_gradient(const float* frame, ptrdiff_t line, const float* gradient, int rows, int width,
                               float* sums) {
  V sum[TAPS];
  for (int tap = 0; tap < TAPS; ++tap) sum[tap] = load(sums + tap * LANES);
  for (int row = 0; row < rows; ++row, frame += line)
    for (int p = 0; p < width; ++p, gradient += LANES) {
      const V slope = load(gradient);
      for (int tap = 0; tap < TAPS; ++tap) sum[tap] += load(frame + (p + tap) * LANES) * slope;
    }
  for (int tap = 0; tap < TAPS; ++tap) store(sums + tap * LANES, sum[tap]);
}

}  // namespace detail

// The taps that meet the map: a kernel may be larger than it. Weights are [block][tap row][tap column][lane].
class Depthwise {
 public:
  Depthwise() = default;
  Depthwise(int channels, int height, int width, int kernel)
      : channels_(channels), height_(height), width_(width), kernel_(kernel), above_(std::min(kernel / 2, height - 1)),
        beside_(std::min(kernel / 2, width - 1)) {}

  int blocks() const { return blocks_of(channels_); }
  size_t weights_size() const { return static_cast<size_t>(blocks()) * rows() * columns() * LANES; }

  // A map whose rows have zeros beside them; above and below it, taps are left out.
  ptrdiff_t line() const { return static_cast<ptrdiff_t>(width_ + 2 * beside_) * LANES; }
  size_t frame_size() const { return static_cast<size_t>(blocks()) * height_ * line(); }
  float* pixel(float* frame, int block, int p) const {
    return frame + (static_cast<ptrdiff_t>(block) * height_ + p / width_) * line() + (beside_ + p % width_) * LANES;
  }
  void clear_borders(float* frame) const {
    const size_t border = static_cast<size_t>(beside_) * LANES;
    for (int row = 0; row < blocks() * height_; ++row, frame += line()) {
      std::fill(frame, frame + border, 0.0f);
      std::fill(frame + line() - border, frame + line(), 0.0f);
    }
  }

  // From MXNet's (C, 1, k, k), or with every kernel turned around: what takes a gradient back to the input.
  void pack(const float* weight, bool turned, float* to) const {
    std::fill(to, to + weights_size(), 0.0f);
    each_tap([&](int c, int row, int column, size_t given) {
      const int r = turned ? rows() - 1 - row : row, s = turned ? columns() - 1 - column : column;
      to[place(c, r, s)] = weight[given];
    });
  }

  // Adds a packed gradient to one in MXNet's order, in doubles.
  void unpack(const float* from, double* weight) const {
    each_tap([&](int c, int row, int column, size_t given) { weight[given] += from[place(c, row, column)]; });
  }

  // out = bias + the convolution of a frame; bias is padded to whole blocks.
  void apply(const float* frame, const float* weights, const float* bias, View out) const {
    for (int b = 0; b < blocks(); ++b)
      for (int row = 0; row < height_; ++row) {
        const int first = std::max(0, row - above_), last = std::min(height_ - 1, row + above_);
        const float* from = frame + (static_cast<ptrdiff_t>(b) * height_ + first) * line();
        const float* taps = weights + place(b * LANES, first - row + above_, 0);
        int p = 0;
        const auto run = [&](auto kernel, int count) {
          for (; p + count <= width_; p += count)
            kernel(from + p * LANES, line(), taps, columns() * LANES, last - first + 1, columns(),
                   load(bias + b * LANES), out.at(b, row * width_ + p));
        };
        run(detail::depthwise<ACCUMULATORS>, ACCUMULATORS);
        if (ACCUMULATORS > 8) run(detail::depthwise<8>, 8);
        if (ACCUMULATORS > 4) run(detail::depthwise<4>, 4);
        run(detail::depthwise<1>, 1);
      }
  }

  // sums += products of a frame and the gradient of the convolution's output, a map.
  void add_gradient(const float* frame, View gradient, float* sums) const {
    for (int b = 0; b < blocks(); ++b)
      for (int row = 0; row < rows(); ++row) {
        const int shift = row - above_, first = std::max(0, -shift), count = height_ - std::abs(shift);
        const float* from = frame + (static_cast<ptrdiff_t>(b) * height_ + first + shift) * line();
        float* to = sums + place(b * LANES, row, 0);
        int tap = 0;
        const auto run = [&](auto kernel, int taps) {
          for (; tap + taps <= columns(); tap += taps)
            kernel(from + tap * LANES, line(), gradient.at(b, first * width_), count, width_, to + tap * LANES);
        };
        if (ACCUMULATORS > 9) run(detail::depthwise_gradient<9>, 9);
        run(detail::depthwise_gradient<4>, 4);
        run(detail::depthwise_gradient<1>, 1);
      }
  }

 private:
  int rows() const { return 2 * above_ + 1; }
  int columns() const { return 2 * beside_ + 1; }
  size_t place(int c, int row, int column) const {
    return ((static_cast<size_t>(c / LANES) * rows() + row) * columns() + column) * LANES + c % LANES;
  }

  // f(channel, row and column of the taps that meet the map, place in MXNet's order)
  template <class F>
  void each_tap(F f) const {
    for (int c = 0; c < channels_; ++c)
      for (int row = 0; row < rows(); ++row)
        for (int column = 0; column < columns(); ++column)
          f(c, row, column, (static_cast<size_t>(c) * kernel_ + row + kernel_ / 2 - above_) * kernel_ + column +
                                kernel_ / 2 - beside_);
  }

  int channels_ = 0, height_ = 0, width_ = 0, kernel_ = 1, above_ = 0, beside_ = 0;
};

}  // namespace atac
