// Activation units. Each works on u = BN(x), in passes over tiles of x, and keeps nothing but channel statistics.
#pragma once
#include <memory>

#include "norm.h"

namespace atac {

// The arrays that a unit learns or moves, as MXNet has them, in the order of the Gluon block's parameters.
struct UnitArrays {
  const float *kernel = nullptr, *bias = nullptr;  // of xUnit's depthwise convolution
  const float* weight1 = nullptr;
  NormArrays norm1;
  const float* weight2 = nullptr;
  NormArrays norm2;
  const float* slope = nullptr;  // of PReLU
};

// Where the gradients of those arrays go.
struct UnitGradients {
  float *kernel = nullptr, *bias = nullptr;
  float* weight1 = nullptr;
  NormGradients norm1;
  float* weight2 = nullptr;
  NormGradients norm2;
  float* slope = nullptr;
};

// What the passes of one call share.
struct Batch {
  Tensor x;
  Norm norm;        // of x; mean 0, inverse 1, gamma 1, beta 0 where no BatchNorm stands before the unit
  bool has_norm;
  NormArrays norm_arrays;
  NormSettings settings;
  Arena& arena;
};

// A tile: some pixels of an image, which is one of a group's.
struct Pixels {
  int group, image, first, count;
};

// Sums over the batch that the gradient of the BatchNorm before the unit needs, with du the gradient of its output.
struct InputSums {
  double* du;      // [padded channels] sum of du
  double* du_hat;  // [padded channels] sum of du times the normalized x
};

class Unit {
 public:
  virtual ~Unit() = default;

  // Floats that `statistics` hands to `restore` across the forward and the backward pass, beside the norm's own.
  virtual size_t saved_size(const Shape& shape) const = 0;

  // The statistics that the unit needs of x: covariances of its channels, or only variances.
  virtual bool wants_covariances() const = 0;

  // Training: find the unit's own batch statistics, move its running ones, save what the backward pass needs.
  virtual void statistics(Batch& batch, const Moments& moments, float* saved) = 0;
  virtual void use_running(Batch& batch) = 0;
  virtual void restore(Batch& batch, const float* saved) = 0;

  // Floats of scratch memory that one thread needs for a tile in `apply` and the three backward passes.
  virtual size_t tile_floats(const Shape& shape) const = 0;

  // Inference: an image before its tiles are applied, for a unit that has to see all of it; buffer holds a tile of x.
  virtual void look(const Batch&, int, float* /*buffer*/, float* /*floats*/) const {}

  // y = unit(BN(x)) for a tile.
  virtual void apply(const Batch& batch, const Pixels& at, View x, View y, float* floats) const = 0;

  // Backward, first pass: dy is the gradient of y. Leaves in kept_a and kept_b what later passes read, and y if wanted.
  virtual void backward_output(const Batch& batch, const Pixels& at, View x, View dy, View y, View kept_a, View kept_b,
                               float* floats) = 0;
  virtual void start_backward(Batch& batch) = 0;
  virtual void finish_output(Batch& batch, const UnitGradients& gradients) = 0;

  // Second pass, where the unit has two normalizations whose sums depend on each other. Only such a unit has kept_b. It
  // takes an image (then buffer holds a tile of x), or tile by tile.
  virtual bool has_second_pass() const { return false; }
  virtual void backward_inner_of_image(const Batch& batch, int group, int image, View kept_b, float* buffer,
                                       float* floats) {
    each_tile(batch.x.shape, [&](int first, int count) {
      backward_inner(batch, Pixels{group, image, first, count}, batch.x.read(image, first, count, buffer),
                     View{kept_b.at(0, first), kept_b.plane}, floats);
    });
  }
  virtual void backward_inner(const Batch&, const Pixels&, View /*x*/, View /*kept_b*/, float* /*floats*/) {}
  virtual void finish_inner(Batch&, const UnitGradients&) {}

  // Known after the passes above.
  virtual InputSums input_sums() const = 0;

  // Last pass: du for a tile.
  virtual void backward_input(const Batch& batch, const Pixels& at, View x, View kept_a, View kept_b, View du,
                              float* floats) const = 0;
};

// ---- Scalar activations

// y = F(u), element by element. F has value(u) and slope(u); PReLU also learns from sum of dy * learned(u).
template <class F>
class Elementwise : public Unit {
 public:
  explicit Elementwise(F f) : f_(f) {}

  size_t saved_size(const Shape&) const override { return 0; }
  bool wants_covariances() const override { return false; }
  void statistics(Batch&, const Moments&, float*) override {}
  void use_running(Batch&) override {}
  void restore(Batch&, const float*) override {}
  size_t tile_floats(const Shape&) const override { return 0; }

  void apply(const Batch& batch, const Pixels& at, View x, View y, float*) const override {
    for (int b = 0; b < batch.x.shape.blocks(); ++b) {
      const auto apply = batch.norm.applied(b);
      for (int p = 0; p < at.count; ++p)
        store(y.at(b, p), f_.value(apply(load(x.at(b, p)))));
    }
  }

  void start_backward(Batch& batch) override {
    width_ = padded(batch.x.shape.channels);
    sums_ = Sums(2 * width_ + (F::LEARNS ? LANES : 0), batch.x.shape.images, batch.arena);
  }

  void backward_output(const Batch& batch, const Pixels& at, View x, View dy, View y, View kept, View,
                       float*) override {
    double* sum = sums_.of(at.group);
    V learned{};
    for (int b = 0; b < batch.x.shape.blocks(); ++b) {
      V total{}, with_hat{};
      const auto hat_of = batch.norm.normalized(b);
      const auto affine = batch.norm.affine(b);
      for (int p = 0; p < at.count; ++p) {
        const V hat = hat_of(load(x.at(b, p)));
        const V u = affine(hat), gradient = load(dy.at(b, p));
        const V du = gradient * f_.slope(u);
        if (y.data) store(y.at(b, p), f_.value(u));
        if (F::LEARNS) learned += gradient * f_.learned(u);
        store(kept.at(b, p), du);
        total += du;
        with_hat += du * hat;
      }
      add_to(sum + b * LANES, total);
      add_to(sum + width_ + b * LANES, with_hat);
    }
    if (F::LEARNS) add_to(sum + 2 * width_, learned);
  }

  void finish_output(Batch&, const UnitGradients& gradients) override {
    total_ = sums_.total();
    if (!F::LEARNS) return;
    double learned = 0;
    for (int lane = 0; lane < LANES; ++lane) learned += total_[2 * width_ + lane];
    *gradients.slope = static_cast<float>(learned);
  }

  InputSums input_sums() const override { return {total_, total_ + width_}; }

  void backward_input(const Batch& batch, const Pixels& at, View, View kept, View, View du, float*) const override {
    for (int b = 0; b < batch.x.shape.blocks(); ++b)
      for (int p = 0; p < at.count; ++p) store(du.at(b, p), load(kept.at(b, p)));
  }

 private:
  F f_;
  int width_ = 0;
  Sums sums_;
  double* total_ = nullptr;
};

struct Fixed {
  static constexpr bool LEARNS = false;
  V learned(V u) const { return u; }
};

struct Identity : Fixed {
  V value(V u) const { return u; }
  V slope(V) const { return all(1); }
};

struct ReLU : Fixed {
  V value(V u) const { return relu(u); }
  V slope(V u) const { return positive(u, all(1), all(0)); }
};

struct LeakyReLU : Fixed {
  float alpha;
  explicit LeakyReLU(float alpha) : alpha(alpha) {}
  V value(V u) const { return positive(u, u, all(alpha) * u); }
  V slope(V u) const { return positive(u, all(1), all(alpha)); }
};

struct PReLU {
  static constexpr bool LEARNS = true;
  float alpha;
  explicit PReLU(float alpha) : alpha(alpha) {}
  V value(V u) const { return positive(u, u, all(alpha) * u); }
  V slope(V u) const { return positive(u, all(1), all(alpha)); }
  V learned(V u) const { return positive(u, all(0), u); }
};

// scale * (u, or alpha (e^u - 1)): ELU with scale 1, SELU with its two constants.
struct ELU : Fixed {
  float alpha, scale;
  ELU(float alpha, float scale) : alpha(alpha), scale(scale) {}
  // e^u - 1 near 0 by its series, where the difference would lose digits.
  static V minus_one(V u) {
    V series = all(1.0f / 720);
    for (float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f}) series = series * u + all(c);
    return select(all(-0.25f), u, series * u, exp(u) - all(1));
  }
  V value(V u) const { return all(scale) * positive(u, u, all(alpha) * minus_one(select(u, all(0), u, u - u))); }
  V slope(V u) const { return all(scale) * positive(u, all(1), all(alpha) * exp(select(u, all(0), u, u - u))); }
};

struct GELU : Fixed {
  static V distribution(V u) { return all(0.5f) * (all(1) + erf(u * all(0.70710678118654752f))); }
  V value(V u) const { return u * distribution(u); }
  V slope(V u) const { return distribution(u) + u * all(0.39894228040143268f) * exp(all(-0.5f) * u * u); }
};

struct Swish : Fixed {
  float beta;
  explicit Swish(float beta) : beta(beta) {}
  V value(V u) const { return u * sigmoid(all(beta) * u); }
  V slope(V u) const {
    const V gate = sigmoid(all(beta) * u);
    return gate * (all(1) + all(beta) * u * (all(1) - gate));
  }
};

}  // namespace atac
