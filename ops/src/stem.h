// The first layers of the CIFAR host: BatchNorm with gamma 1 and a constant beta, 3x3 convolution, from (N, C, H, W)
// with few channels to blocks of 16.
#pragma once
#include "norm.h"

namespace atac {

class Stem {
 public:
  Stem(const float* x, const Shape& in, float* out, int outputs, const float* weight, const NormArrays& arrays,
       const NormSettings& settings, Arena& arena)
      : x_(x), in_(in), weight_(weight), arrays_(arrays), settings_(settings), arena_(arena),
        norm_(in.channels, arena), out_{out, {in.images, outputs, in.height, in.width}, true},
        forward_(outputs, 3, 3 * in.channels, 3 * in.channels, arena) {
    norm_.set_affine(in.channels, arrays);
    // A pixel's channels and its neighbours' lie side by side, so that a row of the kernel is one tap.
    for (int row = 0; row < 3; ++row) forward_.offsets[row] = offset(row, 0);
    forward_.fill([&](int output, int row, int place) {
      return weight_at(output, place % in_.channels, row * 3 + place / in_.channels);
    });
  }

  static size_t saved_size(const Shape& in) { return 2 * in.channels; }

  void train(float* saved) {
    for (int c = 0; c < in_.channels; ++c) {
      double mean = 0, variance = 0;
      const auto over_images = [&](double centre, int power) {
        double total = 0;
        for (int n = 0; n < in_.images; ++n) {
          const float* plane = x_ + (static_cast<size_t>(n) * in_.channels + c) * in_.pixels();
          V sum{};
          int p = 0;
          for (; p + LANES <= in_.pixels(); p += LANES) {
            const V value = load(plane + p) - all(static_cast<float>(centre));
            sum += power == 1 ? value : value * value;
          }
          total += sum_of(sum);
          for (; p < in_.pixels(); ++p) total += power == 1 ? plane[p] - centre : std::pow(plane[p] - centre, 2);
        }
        return total / in_.count();
      };
      mean = over_images(0, 1);
      variance = over_images(mean, 2);
      norm_.use_batch(c, mean, variance, arrays_, settings_);
      saved[c] = norm_.mean[c];
      saved[in_.channels + c] = norm_.inverse[c];
    }
    each_image(in_.images, [&] { return surrounded(); },
               [&](float* image, int, int n) { convolve(image_of(n), n, image); });
  }

  // Inference, one image (C, H, W) at a time: `prepare`, then `image` for each, to a place of the output.
  void prepare() { norm_.use_running(in_.channels, arrays_, settings_); }

  void image(const float* x, int place) const {
    scratch().reset();
    convolve(x, place, surrounded());
  }

  // out is the output's gradient now. dx is nullptr where nobody wants it.
  void backward(const float* saved, float* dweight, float* dx) {
    for (int c = 0; c < in_.channels; ++c) norm_.set(c, saved[c], saved[in_.channels + c]);
    const int outputs = out_.shape.channels, rows = 3 * in_.channels;
    const size_t size = static_cast<size_t>(out_.shape.blocks()) * 3 * rows * LANES;
    float* partial = arena_.zeros<float>(size * groups_of(in_.images));
    each_image(in_.images, [&] { return surrounded(); }, [&](float* image, int group, int n) {
      normalize(image_of(n), image);
      float* sums = partial + size * group;
      for (int o = 0; o < out_.shape.blocks(); ++o)
        for (int row = 0; row < 3; ++row, sums += rows * LANES)
          outer(rows, image + offset(row, 0), offset(1, 0), in_.channels, out_.view(n).at(o, 0),
                static_cast<ptrdiff_t>(in_.width) * LANES, LANES, in_.height, in_.width, sums);
    });
    for (int o = 0; o < outputs; ++o)
      for (int c = 0; c < in_.channels; ++c)
        for (int tap = 0; tap < 9; ++tap) {
          double total = 0;
          const size_t at = ((static_cast<size_t>(o / LANES) * 3 + tap / 3) * rows + tap % 3 * in_.channels + c) * LANES;
          for (int group = 0; group < groups_of(in_.images); ++group) total += partial[size * group + at + o % LANES];
          dweight[(static_cast<size_t>(o) * in_.channels + c) * 9 + tap] = static_cast<float>(total);
        }
    if (dx) input_gradient(dx);
  }

 private:
  ptrdiff_t offset(int row, int column) const {
    return (static_cast<ptrdiff_t>(row) * (in_.width + 2) + column) * in_.channels;
  }
  float weight_at(int output, int channel, int tap) const {
    return weight_[(static_cast<size_t>(output) * in_.channels + channel) * 9 + tap];
  }

  // Room for an image with a border of zeros; the borders stay.
  float* surrounded() const {
    return scratch().zeros<float>(static_cast<size_t>(in_.height + 2) * (in_.width + 2) * in_.channels);
  }

  const float* image_of(int n) const { return x_ + static_cast<size_t>(n) * in_.channels * in_.pixels(); }

  void normalize(const float* x, float* image) const {
    for (int c = 0; c < in_.channels; ++c) {
      const float* from = x + static_cast<size_t>(c) * in_.pixels();
      for (int row = 0; row < in_.height; ++row) {
        float* to = image + offset(row + 1, 1) + c;
        for (int column = 0; column < in_.width; ++column)
          to[column * in_.channels] = norm_.scale[c] * (from[row * in_.width + column] - norm_.mean[c]) + norm_.shift[c];
      }
    }
  }

  void convolve(const float* x, int place, float* image) const {
    normalize(x, image);
    for (int group = 0; group < forward_.groups(); ++group)
      for (int row = 0; row < in_.height; ++row)
        multiply(forward_, group, image + offset(row, 0), in_.channels, in_.width,
                 View{out_.view(place).at(0, row * in_.width), out_.view(place).plane}, LANES, View{nullptr, 0}, 0);
  }

  void input_gradient(float* dx) const {
    const Shape& shape = out_.shape;
    const ptrdiff_t line = static_cast<ptrdiff_t>(in_.width + 2) * LANES, plane = line * (in_.height + 2);
    Packed back(in_.channels, 9 * shape.blocks(), LANES, LANES, arena_);
    for (int index = 0; index < back.taps; ++index)
      back.offsets[index] = index / 9 * plane + (2 - index % 9 / 3) * line + (2 - index % 3) * LANES;
    back.fill([&](int channel, int index, int lane) {
      return weight_at(index / 9 * LANES + lane, channel, index % 9);
    });
    const Tensor du{arena_.take<float>(static_cast<size_t>(in_.images) * in_.pixels() * padded(in_.channels)),
                    {in_.images, padded(in_.channels), in_.height, in_.width}, true};
    const int width = padded(in_.channels);
    Sums sums(2 * width, in_.images, arena_);
    const auto hat = [&](int n, int c, int p) {
      return (x_[(static_cast<size_t>(n) * in_.channels + c) * in_.pixels() + p] - norm_.mean[c]) * norm_.inverse[c];
    };
    each_image(in_.images, [&] { return scratch().zeros<float>(plane * shape.blocks()); },
               [&](float* image, int group, int n) {
      for (int b = 0; b < shape.blocks(); ++b)
        for (int row = 0; row < in_.height; ++row)
          std::memcpy(image + b * plane + (row + 1) * line + LANES, out_.view(n).at(b, row * in_.width),
                      sizeof(float) * LANES * in_.width);
      for (int g = 0; g < back.groups(); ++g)
        for (int row = 0; row < in_.height; ++row)
          multiply(back, g, image + row * line, LANES, in_.width,
                   View{du.view(n).at(0, row * in_.width), du.view(n).plane}, LANES, View{nullptr, 0}, 0);
      for (int c = 0; c < in_.channels; ++c)
        for (int p = 0; p < in_.pixels(); ++p) {
          const float gradient = du.view(n).at(c / LANES, p)[c % LANES];
          sums.of(group)[c] += gradient;
          sums.of(group)[width + c] += gradient * hat(n, c, p);
        }
    });
    const double* total = sums.total();
    for (int n = 0; n < in_.images; ++n)
      for (int c = 0; c < in_.channels; ++c)
        for (int p = 0; p < in_.pixels(); ++p)
          dx[(static_cast<size_t>(n) * in_.channels + c) * in_.pixels() + p] = static_cast<float>(
              norm_.inverse[c] * (du.view(n).at(c / LANES, p)[c % LANES] - total[c] / in_.count() -
                                  hat(n, c, p) * total[width + c] / in_.count()));
  }

  const float* x_;
  Shape in_;
  const float* weight_;
  NormArrays arrays_;
  NormSettings settings_;
  Arena& arena_;
  Norm norm_;
  Tensor out_;
  Packed forward_;
};

}  // namespace atac
