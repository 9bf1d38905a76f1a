// xUnit [Kligvasser et al. 2018]: BN, ReLU, depthwise k x k with bias, BN, exp(-v^2), times the input.
//
//   u = BN(x), w = BN1(u), a = ReLU(w), d = depthwise a + bias, v = BN2(d), y = u exp(-v^2)
//
// Of x a BatchNorm has made u already, so that u = gamma xhat + beta, with xhat = (x - mean) / sigma, has the mean beta
// and a variance that is known: w = slope xhat + offset for each channel, and nothing has to be summed for BN1. Its
// gradient, with `count` numbers in a channel and f = gamma / sigma1:
//
//   uhat = f xhat,  du from dw = gamma1 / sigma1 (dw - mean of dw - uhat times mean of dw uhat)
//   sum of that times xhat = gamma1 / sigma1 (sum of dw xhat) (1 - f^2 variance of xhat)
//
// where 1 - f^2 variance of xhat = epsilon / sigma1^2, because sigma1^2 = gamma^2 variance of xhat + epsilon. Without
// epsilon the sum would be 0: BN1 undoes what BN's gamma does.
#pragma once
#include "depthwise.h"
#include "unit.h"

namespace atac {

class XUnit : public Unit {
 public:
  XUnit(int channels, int kernel, const UnitArrays& arrays) : channels_(channels), kernel_(kernel), arrays_(arrays) {}

  // d; BN1's 1 / sigma; BN2's mean and 1 / sigma.
  size_t saved_size(const Shape& shape) const override { return map_size(shape) + 3 * channels_; }
  bool wants_covariances() const override { return false; }

  void statistics(Batch& batch, const Moments& moments, float* saved) override {
    prepare(batch);
    float* inverse1 = saved + map_size(batch.x.shape);
    for (int c = 0; c < channels_; ++c) {
      const double scale = static_cast<double>(batch.norm.gamma[c]) * batch.norm.inverse[c];
      norm1_.use_batch(c, batch.norm.beta[c], scale * scale * moments.covariance[c], arrays_.norm1, batch.settings);
      inverse1[c] = norm1_.inverse[c];
    }
    set_slopes(batch);
    d_ = {saved, padded_shape(batch.x.shape), true};
    convolve(batch);
    for (int c = 0; c < channels_; ++c) {
      inverse1[channels_ + c] = norm2_.mean[c];
      inverse1[2 * channels_ + c] = norm2_.inverse[c];
    }
  }

  void use_running(Batch& batch) override {
    prepare(batch);
    norm1_.use_running(channels_, arrays_.norm1, batch.settings);
    norm2_.use_running(channels_, arrays_.norm2, batch.settings);
    set_slopes(batch);
  }

  void restore(Batch& batch, const float* saved) override {
    prepare(batch);
    d_ = {const_cast<float*>(saved), padded_shape(batch.x.shape), true};
    const float* inverse1 = saved + map_size(batch.x.shape);
    for (int c = 0; c < channels_; ++c) {
      norm1_.set(c, batch.norm.beta[c], inverse1[c]);
      norm2_.set(c, inverse1[channels_ + c], inverse1[2 * channels_ + c]);
    }
    set_slopes(batch);
  }

  // Frames of a and of the gradient of d, and an image of d.
  size_t tile_floats(const Shape& shape) const override {
    const Depthwise layer(channels_, shape.height, shape.width, kernel_);
    return 2 * layer.frame_size() + static_cast<size_t>(shape.pixels()) * padded(channels_);
  }

  void look(const Batch& batch, int image, float* buffer, float* floats) const override {
    hidden(batch, image, buffer, floats);
    layer_.apply(floats, weights_, bias_, image_of_d(batch, floats));
  }

  void apply(const Batch& batch, const Pixels& at, View x, View y, float* floats) const override {
    const View d = d_at(batch, at, floats);
    for (int b = 0; b < blocks_of(channels_); ++b) {
      const auto enter = batch.norm.applied(b), norm = norm2_.applied(b);
      for (int p = 0; p < at.count; ++p) {
        const V v = norm(load(d.at(b, p)));
        store(y.at(b, p), enter(load(x.at(b, p))) * exp(-v * v));
      }
    }
  }

  void start_backward(Batch& batch) override {
    const int images = batch.x.shape.images, width = padded(channels_);
    turned_ = batch.arena.take<float>(layer_.weights_size());
    layer_.pack(arrays_.kernel, true, turned_);
    no_bias_ = batch.arena.zeros<float>(width);
    sums1_ = Sums(4 * width, images, batch.arena);  // of dv, dv dhat, e and e xhat
    sums2_ = Sums(2 * width, images, batch.arena);  // of dw and dw xhat
    partial_ = batch.arena.zeros<float>(groups_of(images) * layer_.weights_size());
  }

  // e = dy exp(-v^2) is the part of du that goes past the gate, dv the gradient of v.
  void backward_output(const Batch& batch, const Pixels& at, View x, View dy, View y, View e, View dv,
                       float* floats) override {
    const View d = d_at(batch, at, floats);
    const int width = padded(channels_);
    double* sum = sums1_.of(at.group);
    for (int b = 0; b < width / LANES; ++b) {
      V sum_dv{}, sum_dv_hat{}, sum_e{}, sum_e_hat{};
      const auto hat_of = batch.norm.normalized(b), d_hat_of = norm2_.normalized(b);
      const auto affine = batch.norm.affine(b), affine2 = norm2_.affine(b);
      for (int p = 0; p < at.count; ++p) {
        const V hat = hat_of(load(x.at(b, p))), u = affine(hat);
        const V d_hat = d_hat_of(load(d.at(b, p))), v = affine2(d_hat);
        const V gate = exp(-v * v), passed = load(dy.at(b, p)) * gate, to_gate = all(-2) * v * u * passed;
        if (y.data) store(y.at(b, p), u * gate);
        store(e.at(b, p), passed);
        store(dv.at(b, p), to_gate);
        sum_dv += to_gate;
        sum_dv_hat += to_gate * d_hat;
        sum_e += passed;
        sum_e_hat += passed * hat;
      }
      add_to(sum + b * LANES, sum_dv);
      add_to(sum + width + b * LANES, sum_dv_hat);
      add_to(sum + 2 * width + b * LANES, sum_e);
      add_to(sum + 3 * width + b * LANES, sum_e_hat);
    }
  }

  void finish_output(Batch& batch, const UnitGradients& gradients) override {
    const double *dv = sums1_.total(), *dv_hat = dv + padded(channels_), count = batch.x.shape.count();
    dv_mean_ = batch.arena.zeros<float>(padded(channels_));
    dv_hat_mean_ = batch.arena.zeros<float>(padded(channels_));
    for (int c = 0; c < channels_; ++c) {
      gradients.norm2.beta[c] = static_cast<float>(dv[c]);
      gradients.norm2.gamma[c] = static_cast<float>(dv_hat[c]);
      gradients.bias[c] = 0;  // BN2 takes every constant away: the gradients of d sum to 0
      dv_mean_[c] = static_cast<float>(dv[c] / count);
      dv_hat_mean_[c] = static_cast<float>(dv_hat[c] / count);
    }
  }

  // Replaces dv by dw.
  void backward_inner_of_image(const Batch& batch, int group, int image, View dv, float* buffer,
                               float* floats) override {
    float *a = floats, *dd = floats + layer_.frame_size();
    const View d = d_.view(image), slopes = image_of_d(batch, floats);
    hidden(batch, image, buffer, a);
    layer_.clear_borders(dd);
    for (int b = 0; b < blocks_of(channels_); ++b) {
      const V mean = load(dv_mean_ + b * LANES), with_hat = load(dv_hat_mean_ + b * LANES);
      const V scale = load(norm2_.scale + b * LANES);
      const auto hat_of = norm2_.normalized(b);
      for (int p = 0; p < batch.x.shape.pixels(); ++p) {
        const V slope = scale * (load(dv.at(b, p)) - mean - hat_of(load(d.at(b, p))) * with_hat);
        store(slopes.at(b, p), slope);
        store(layer_.pixel(dd, b, p), slope);
      }
    }
    layer_.add_gradient(a, slopes, partial_ + group * layer_.weights_size());
    layer_.apply(dd, turned_, no_bias_, dv);
    double* sum = sums2_.of(group);
    each_tile(batch.x.shape, [&](int first, int count) {
      const View x = batch.x.read(image, first, count, buffer);
      for (int b = 0; b < blocks_of(channels_); ++b) {
        V sum_dw{}, sum_dw_hat{};
        const auto hat_of = batch.norm.normalized(b);
        for (int p = 0; p < count; ++p) {
          const V dw = positive(load(layer_.pixel(a, b, first + p)), load(dv.at(b, first + p)), all(0));
          store(dv.at(b, first + p), dw);
          sum_dw += dw;
          sum_dw_hat += dw * hat_of(load(x.at(b, p)));
        }
        add_to(sum + b * LANES, sum_dw);
        add_to(sum + padded(channels_) + b * LANES, sum_dw_hat);
      }
    });
  }

  bool has_second_pass() const override { return true; }

  void finish_inner(Batch& batch, const UnitGradients& gradients) override {
    const int width = padded(channels_), images = batch.x.shape.images;
    const double *first = sums1_.total(), *dw = sums2_.total(), *dw_hat = dw + width, count = batch.x.shape.count();
    Arena& arena = batch.arena;
    dw_mean_ = arena.zeros<float>(width);
    dw_hat_mean_ = arena.zeros<float>(width);
    input_ = {arena.zeros<double>(width), arena.zeros<double>(width)};
    for (int c = 0; c < channels_; ++c) {
      const double f = static_cast<double>(batch.norm.gamma[c]) * norm1_.inverse[c];
      const double left = batch.settings.epsilon * norm1_.inverse[c] * norm1_.inverse[c];
      gradients.norm1.beta[c] = static_cast<float>(dw[c]);
      gradients.norm1.gamma[c] = static_cast<float>(f * dw_hat[c]);
      dw_mean_[c] = static_cast<float>(dw[c] / count);
      dw_hat_mean_[c] = static_cast<float>(f * f * dw_hat[c] / count);
      input_.du[c] = first[2 * width + c];
      input_.du_hat[c] = first[3 * width + c] + norm1_.scale[c] * dw_hat[c] * left;
    }
    const size_t size = static_cast<size_t>(channels_) * kernel_ * kernel_;
    double* total = arena.zeros<double>(size);
    for (int group = 0; group < groups_of(images); ++group)
      layer_.unpack(partial_ + group * layer_.weights_size(), total);
    for (size_t i = 0; i < size; ++i) gradients.kernel[i] = static_cast<float>(total[i]);
  }

  InputSums input_sums() const override { return input_; }

  void backward_input(const Batch& batch, const Pixels& at, View x, View e, View dw, View du, float*) const override {
    for (int b = 0; b < blocks_of(channels_); ++b) {
      const V mean = load(dw_mean_ + b * LANES), with_hat = load(dw_hat_mean_ + b * LANES);
      const V scale = load(norm1_.scale + b * LANES);
      const auto hat_of = batch.norm.normalized(b);
      for (int p = 0; p < at.count; ++p)
        store(du.at(b, p),
              load(e.at(b, p)) + scale * (load(dw.at(b, p)) - mean - hat_of(load(x.at(b, p))) * with_hat));
    }
  }

 private:
  static Shape padded_shape(const Shape& shape) {
    return {shape.images, padded(shape.channels), shape.height, shape.width};
  }
  static size_t map_size(const Shape& shape) {
    return static_cast<size_t>(shape.images) * padded(shape.channels) * shape.pixels();
  }

  void prepare(Batch& batch) {
    const Shape& shape = batch.x.shape;
    Arena& arena = batch.arena;
    layer_ = Depthwise(channels_, shape.height, shape.width, kernel_);
    weights_ = arena.take<float>(layer_.weights_size());
    layer_.pack(arrays_.kernel, false, weights_);
    bias_ = arena.zeros<float>(padded(channels_));
    std::copy(arrays_.bias, arrays_.bias + channels_, bias_);
    norm1_ = Norm(channels_, arena);
    norm2_ = Norm(channels_, arena);
    norm1_.set_affine(channels_, arrays_.norm1);
    norm2_.set_affine(channels_, arrays_.norm2);
    slope_ = arena.zeros<float>(padded(channels_));
    offset_ = arena.zeros<float>(padded(channels_));
  }

  // w = slope xhat + offset
  void set_slopes(const Batch& batch) {
    for (int c = 0; c < channels_; ++c) {
      slope_[c] = norm1_.scale[c] * batch.norm.gamma[c];
      offset_[c] = norm1_.scale[c] * (batch.norm.beta[c] - norm1_.mean[c]) + norm1_.shift[c];
    }
  }

  // An image's a in a frame.
  void hidden(const Batch& batch, int image, float* buffer, float* frame) const {
    layer_.clear_borders(frame);
    each_tile(batch.x.shape, [&](int first, int count) {
      const View x = batch.x.read(image, first, count, buffer);
      for (int b = 0; b < blocks_of(channels_); ++b) {
        const auto hat_of = batch.norm.normalized(b);
        const V slope = load(slope_ + b * LANES), offset = load(offset_ + b * LANES);
        for (int p = 0; p < count; ++p)
          store(layer_.pixel(frame, b, first + p), relu(slope * hat_of(load(x.at(b, p))) + offset));
      }
    });
  }

  View image_of_d(const Batch& batch, float* floats) const {
    return {floats + 2 * layer_.frame_size(), static_cast<ptrdiff_t>(batch.x.shape.pixels()) * LANES};
  }

  // In training the whole batch's d is there, in inference an image's.
  View d_at(const Batch& batch, const Pixels& at, float* floats) const {
    const View image = d_.data ? d_.view(at.image) : image_of_d(batch, floats);
    return {image.at(0, at.first), image.plane};
  }

  // d of all images, and its statistics.
  void convolve(Batch& batch) {
    const Shape& shape = batch.x.shape;
    const MomentsOfImages moments(d_.shape, batch.arena);
    struct Buffers {
      float *x, *frame;
    };
    each_image(
        shape.images,
        [&] {
          return Buffers{scratch().take<float>(static_cast<size_t>(padded(channels_)) * shape.tile()),
                         scratch().take<float>(layer_.frame_size())};
        },
        [&](Buffers& buffers, int, int n) {
          hidden(batch, n, buffers.x, buffers.frame);
          layer_.apply(buffers.frame, weights_, bias_, d_.view(n));
          moments.set(n, d_.view(n));
        });
    for (int c = 0; c < channels_; ++c) {
      const auto [mean, variance] = moments.of(c);
      norm2_.use_batch(c, mean, variance, arrays_.norm2, batch.settings);
    }
  }

  int channels_, kernel_;
  UnitArrays arrays_;
  Depthwise layer_;
  Norm norm1_, norm2_;
  Tensor d_;
  float *weights_ = nullptr, *turned_ = nullptr, *bias_ = nullptr, *no_bias_ = nullptr;
  float *slope_ = nullptr, *offset_ = nullptr;
  Sums sums1_, sums2_;
  float *partial_ = nullptr, *dv_mean_ = nullptr, *dv_hat_mean_ = nullptr, *dw_mean_ = nullptr, *dw_hat_mean_ = nullptr;
  InputSums input_{};
};

}  // namespace atac
