// What becomes of a unit's output: a convolution, the mean over the image, or the array itself. An ending takes the
// output tile by tile, so that it never travels to memory, and in the backward pass gives the gradient of it.
#pragma once
#include "matrices.h"
#include "tensor.h"

namespace atac {

class Ending {
 public:
  virtual ~Ending() = default;

  // Floats that a thread needs for an image, and their state before its first image.
  virtual size_t image_floats(bool backward) const = 0;
  virtual void start(float* floats) const = 0;

  // Forward: tiles of an image, then the image.
  virtual void start_forward(Arena&) {}
  virtual View tile(int image, int first, int count, float* floats, float* buffer) const = 0;
  virtual void put(int image, int first, int count, View y, float* floats) const = 0;
  virtual void finish(int image, float* floats) const = 0;
  virtual void finish_forward() {}

  // Backward: gradient of the unit's output for an image; then, once its tiles are put, the ending's own.
  virtual bool wants_output() const { return false; }
  virtual void start_backward(Arena&) {}
  virtual View gradient(int group, int image, float* floats) const = 0;
  virtual void image_gradients(int, int, float*) const {}
};

// Computes the gradient of a blocked map image by image where it is needed, so that no map of gradients travels to memory.
class GradientSource {
 public:
  virtual ~GradientSource() = default;
  virtual size_t source_floats() const = 0;  // that a thread needs
  virtual void gradient(int group, int image, View to, float* floats) const = 0;
};

// y as it is, in the layout of `out`.
class Plain : public Ending {
 public:
  explicit Plain(const Tensor& out) : out_(out) {}

  size_t image_floats(bool backward) const override {
    return backward ? static_cast<size_t>(out_.shape.blocks()) * out_.shape.pixels() * LANES : 0;
  }
  void start(float*) const override {}
  View tile(int image, int first, int count, float*, float* buffer) const override {
    return out_.target(image, first, count, buffer);
  }
  void put(int image, int first, int count, View y, float*) const override { out_.wrote(image, first, count, y); }
  void finish(int, float*) const override {}
  View gradient(int, int image, float* floats) const override {
    return out_.read(image, 0, out_.shape.pixels(), floats);
  }

 private:
  Tensor out_;  // in the backward pass its gradient
};

// The mean over each image: out is (N, C).
class Pool : public Ending {
 public:
  Pool(float* out, const Shape& shape) : out_(out), shape_(shape) {}

  size_t image_floats(bool backward) const override {
    return static_cast<size_t>(shape_.blocks()) * LANES * (backward ? shape_.pixels() : 1);
  }
  void start(float* floats) const override { std::fill(floats, floats + image_floats(false), 0.0f); }
  View tile(int, int, int count, float*, float* buffer) const override {
    return {buffer, static_cast<ptrdiff_t>(count) * LANES};
  }
  void put(int, int, int count, View y, float* sums) const override {
    for (int b = 0; b < shape_.blocks(); ++b) {
      V total = load(sums + b * LANES);
      for (int p = 0; p < count; ++p) total += load(y.at(b, p));
      store(sums + b * LANES, total);
    }
  }
  void finish(int image, float* sums) const override {
    for (int c = 0; c < shape_.channels; ++c)
      out_[static_cast<size_t>(image) * shape_.channels + c] = sums[c] / shape_.pixels();
    start(sums);
  }
  View gradient(int, int image, float* floats) const override {
    const View found{floats, static_cast<ptrdiff_t>(shape_.pixels()) * LANES};
    for (int b = 0; b < shape_.blocks(); ++b) {
      float value[LANES] = {};
      for (int lane = 0; lane < LANES && b * LANES + lane < shape_.channels; ++lane)
        value[lane] = out_[static_cast<size_t>(image) * shape_.channels + b * LANES + lane] / shape_.pixels();
      for (int p = 0; p < shape_.pixels(); ++p) store(found.at(b, p), load(value));
    }
    return found;
  }

 private:
  float* out_;  // in the backward pass its gradient
  Shape shape_;
};

// What is added to a convolution's output: the block's input, or a 1x1 convolution of it where weight is given.
struct Shortcut {
  Tensor x;
  const float* weight = nullptr;
  int stride = 1;
  Packed packed = {};

  void prepare(int outputs, Arena& arena) {
    if (weight)
      packed = pack(weight, outputs, x.shape.channels, nullptr, false,
                    static_cast<ptrdiff_t>(x.shape.pixels()) * LANES, arena);
  }

  // The image to add to; computed in `out` if it is not x itself.
  View forward(int image, const Shape& shape, View out) const {
    if (!weight) return x.view(image);
    for (int group = 0; group < packed.groups(); ++group)
      for (int row = 0; row < shape.height; ++row)
        multiply(packed, group, x.view(image).at(0, row * stride * x.shape.width), stride * LANES, shape.width,
                 View{out.at(0, row * shape.width), out.plane}, LANES, View{nullptr, 0}, 0);
    return out;
  }
};

// y plus a shortcut, of which the gradient is the same.
class Added : public Plain {
 public:
  Added(const Tensor& out, const Shortcut& shortcut) : Plain(out), out_(out), shortcut_(shortcut) {}

  size_t image_floats(bool) const override {
    return static_cast<size_t>(out_.shape.blocks()) * out_.shape.pixels() * LANES;
  }
  View tile(int, int first, int, float* floats, float*) const override {
    return {floats + static_cast<ptrdiff_t>(first) * LANES, static_cast<ptrdiff_t>(out_.shape.pixels()) * LANES};
  }
  void put(int, int, int, View, float*) const override {}
  void finish(int image, float* floats) const override {
    const View y{floats, static_cast<ptrdiff_t>(out_.shape.pixels()) * LANES}, out = out_.view(image);
    const View shortcut = shortcut_.forward(image, out_.shape, out);
    for (int b = 0; b < out_.shape.blocks(); ++b)
      for (int p = 0; p < out_.shape.pixels(); ++p) store(out.at(b, p), load(y.at(b, p)) + load(shortcut.at(b, p)));
  }

 private:
  Tensor out_;
  const Shortcut& shortcut_;
};

// Adds the gradient of a shortcut to dx, and finds that of its weight.
class ShortcutGradient {
 public:
  ShortcutGradient(const Shortcut& shortcut, const Tensor& dout, const Tensor& dx, float* dweight, Arena& arena)
      : s_(shortcut), dout_(dout), dx_(dx), dweight_(dweight) {
    if (!s_.weight) return;
    const int inputs = s_.x.shape.channels, outputs = dout.shape.channels;
    back_ = pack(s_.weight, outputs, inputs, nullptr, true,
                 static_cast<ptrdiff_t>(dout.shape.pixels()) * LANES, arena);
    partial_ = arena.zeros<float>(static_cast<size_t>(groups_of(dout.shape.images)) * padded(inputs) * outputs);
  }

  void image(int group, int n) const {
    const Shape &small = dout_.shape, &large = dx_.shape;
    const View to = dx_.view(n), from = dout_.view(n), x = s_.x.view(n);
    if (!s_.weight) {
      for (int b = 0; b < large.blocks(); ++b)
        for (int p = 0; p < large.pixels(); ++p) store(to.at(b, p), load(to.at(b, p)) + load(from.at(b, p)));
      return;
    }
    const ptrdiff_t step = static_cast<ptrdiff_t>(s_.stride) * LANES, line = step * large.width;
    for (int g = 0; g < back_.groups(); ++g)
      for (int row = 0; row < small.height; ++row) {
        const View place{to.at(0, row * s_.stride * large.width), to.plane};
        multiply(back_, g, from.at(0, row * small.width), LANES, small.width, place, step, place, step);
      }
    float* sums = partial(group);
    for (int lane = 0; lane < small.blocks(); ++lane)
      for (int b = 0; b < large.blocks(); ++b, sums += LANES * LANES)
        outer(LANES, x.at(b, 0), line, step, from.at(lane, 0), static_cast<ptrdiff_t>(small.width) * LANES, LANES,
              small.height, small.width, sums);
  }

  void finish() const {
    if (!s_.weight) return;
    const int inputs = dx_.shape.channels, outputs = dout_.shape.channels;
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < inputs; ++i) {
        double total = 0;
        for (int group = 0; group < groups_of(dout_.shape.images); ++group)
          total += partial(group)[((static_cast<size_t>(o / LANES) * dx_.shape.blocks() + i / LANES) * LANES +
                                   i % LANES) * LANES + o % LANES];
        dweight_[static_cast<size_t>(o) * inputs + i] = static_cast<float>(total);
      }
  }

 private:
  float* partial(int group) const {
    return partial_ + static_cast<size_t>(group) * padded(dx_.shape.channels) * dout_.shape.channels;
  }

  Shortcut s_;
  Tensor dout_, dx_;
  float* dweight_;
  Packed back_;
  float* partial_ = nullptr;
};

}  // namespace atac
