// SEActivation: ATAC's gate on the mean over each image (after a global average pool): one row an image, so that its
// own layers are small and computed in double precision.
#pragma once
#include "pointwise.h"

namespace atac {

class SEActivation : public Unit {
 public:
  SEActivation(const PairSettings& settings, const UnitArrays& arrays) : s_(settings), arrays_(arrays) {}

  size_t saved_size(const Shape& shape) const override {
    return static_cast<size_t>(shape.images) * padded(s_.channels);
  }
  bool wants_covariances() const override { return false; }

  void statistics(Batch& batch, const Moments&, float* saved) override {
    const Shape& shape = batch.x.shape;
    each_image(
        shape.images, [&] { return scratch().take<float>(padded(s_.channels) * static_cast<size_t>(shape.tile())); },
        [&](float* buffer, int, int n) {
          pool(batch, n, buffer, saved + static_cast<size_t>(n) * padded(s_.channels));
        });
    gates(batch, saved, true);
  }

  void use_running(Batch& batch) override {
    norm1_ = running(arrays_.norm1, s_.inner, batch);
    norm2_ = running(arrays_.norm2, s_.channels, batch);
    gate_ = batch.arena.zeros<float>(saved_size(batch.x.shape));
  }

  void look(const Batch& batch, int image, float* buffer, float* floats) const override {
    const int channels = s_.channels, inner = s_.inner;
    double *u = reinterpret_cast<double*>(floats), *a = u + channels;
    float* pooled = reinterpret_cast<float*>(a + inner);
    pool(batch, image, buffer, pooled);
    for (int c = 0; c < channels; ++c) u[c] = static_cast<double>(batch.norm.gamma[c]) * pooled[c] + batch.norm.beta[c];
    const auto layer = [](const float* weight, const Running& norm, const double* in, int inputs, int output) {
      double product = 0;
      for (int i = 0; i < inputs; ++i) product += static_cast<double>(weight[output * inputs + i]) * in[i];
      return norm.scale[output] * product + norm.shift[output];
    };
    for (int j = 0; j < inner; ++j) {
      a[j] = layer(arrays_.weight1, norm1_, u, channels, j);
      if (s_.inner_relu && a[j] < 0) a[j] = 0;
    }
    float* gate = gate_ + static_cast<size_t>(image) * padded(channels);
    for (int c = 0; c < channels; ++c)
      gate[c] = static_cast<float>(1 / (1 + std::exp(-layer(arrays_.weight2, norm2_, a, inner, c))));
  }

  void restore(Batch& batch, const float* saved) override {
    pooled_ = saved;
    gates(batch, saved, false);
  }

  size_t tile_floats(const Shape&) const override { return padded(s_.channels) + 2 * (s_.channels + s_.inner); }

  void apply(const Batch& batch, const Pixels& at, View x, View y, float*) const override {
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      const V gate = load(gate_at(at.image, b));
      const auto apply = batch.norm.applied(b);
      for (int p = 0; p < at.count; ++p)
        store(y.at(b, p), apply(load(x.at(b, p))) * gate);
    }
  }

  void start_backward(Batch& batch) override {
    sums_ = Sums(2 * padded(s_.channels), batch.x.shape.images, batch.arena);
    to_gate_ = batch.arena.zeros<double>(static_cast<size_t>(batch.x.shape.images) * padded(s_.channels));
  }

  void backward_output(const Batch& batch, const Pixels& at, View x, View dy, View y, View e, View,
                       float*) override {
    const int width = padded(s_.channels);
    double* sum = sums_.of(at.group);
    for (int b = 0; b < width / LANES; ++b) {
      const V gate = load(gate_at(at.image, b));
      V sum_gate{}, sum_e{}, sum_e_hat{};
      const auto hat_of = batch.norm.normalized(b);
      const auto affine = batch.norm.affine(b);
      for (int p = 0; p < at.count; ++p) {
        const V hat = hat_of(load(x.at(b, p))), u = affine(hat), gradient = load(dy.at(b, p));
        const V passed = gradient * gate;
        if (y.data) store(y.at(b, p), u * gate);
        store(e.at(b, p), passed);
        sum_gate += gradient * u;
        sum_e += passed;
        sum_e_hat += passed * hat;
      }
      add_to(to_gate_ + static_cast<size_t>(at.image) * width + b * LANES, sum_gate);
      add_to(sum + b * LANES, sum_e);
      add_to(sum + width + b * LANES, sum_e_hat);
    }
  }

  void finish_output(Batch& batch, const UnitGradients& gradients) override {
    const int channels = s_.channels, inner = s_.inner, width = padded(channels), images = batch.x.shape.images;
    Arena& arena = batch.arena;
    double* dv = arena.take<double>(static_cast<size_t>(channels) * images);
    for (int c = 0; c < channels; ++c)
      for (int n = 0; n < images; ++n) {
        const double gate = gate_at(n, 0)[c];
        dv[c * images + n] = to_gate_[static_cast<size_t>(n) * width + c] * gate * (1 - gate);
      }
    norm_gradient(dv, z2_, channels, images, arrays_.norm2, inverse2_, gradients.norm2);
    double* da = weight_gradient(dv, a_, channels, inner, images, arrays_.weight2, gradients.weight2, arena);
    if (s_.inner_relu)
      for (int i = 0; i < inner * images; ++i) da[i] = a_[i] > 0 ? da[i] : 0;
    norm_gradient(da, z1_, inner, images, arrays_.norm1, inverse1_, gradients.norm1);
    const double* du = weight_gradient(da, u_, inner, channels, images, arrays_.weight1, gradients.weight1, arena);
    const double* sum = sums_.total();
    input_ = {arena.zeros<double>(width), arena.zeros<double>(width)};
    pooled_gradient_ = arena.zeros<float>(static_cast<size_t>(images) * width);
    for (int c = 0; c < channels; ++c) {
      input_.du[c] = sum[c];
      input_.du_hat[c] = sum[width + c];
      for (int n = 0; n < images; ++n) {
        const double gradient = du[c * images + n];
        pooled_gradient_[static_cast<size_t>(n) * width + c] = static_cast<float>(gradient / batch.x.shape.pixels());
        input_.du[c] += gradient;
        input_.du_hat[c] += gradient * pooled_[static_cast<size_t>(n) * width + c];
      }
    }
  }

  InputSums input_sums() const override { return input_; }

  void backward_input(const Batch&, const Pixels& at, View, View e, View, View du, float*) const override {
    const int width = padded(s_.channels);
    for (int b = 0; b < width / LANES; ++b) {
      const V pooled = load(pooled_gradient_ + static_cast<size_t>(at.image) * width + b * LANES);
      for (int p = 0; p < at.count; ++p) store(du.at(b, p), load(e.at(b, p)) + pooled);
    }
  }

 private:
  // BatchNorm by running statistics: scale z + shift.
  struct Running {
    double *scale = nullptr, *shift = nullptr;
  };

  static Running running(const NormArrays& arrays, int channels, Batch& batch) {
    const Running found{batch.arena.take<double>(channels), batch.arena.take<double>(channels)};
    for (int c = 0; c < channels; ++c) {
      found.scale[c] = arrays.gamma[c] / std::sqrt(arrays.running_var[c] + batch.settings.epsilon);
      found.shift[c] = arrays.beta[c] - found.scale[c] * arrays.running_mean[c];
    }
    return found;
  }

  const float* gate_at(int image, int block) const {
    return gate_ + static_cast<size_t>(image) * padded(s_.channels) + block * LANES;
  }

  // The mean over an image of the normalized x.
  static void pool(const Batch& batch, int image, float* buffer, float* mean) {
    const Shape& shape = batch.x.shape;
    std::fill(mean, mean + padded(shape.channels), 0.0f);
    each_tile(shape, [&](int first, int count) {
      const View x = batch.x.read(image, first, count, buffer);
      for (int b = 0; b < shape.blocks(); ++b) {
        V total{};
        const auto hat_of = batch.norm.normalized(b);
        for (int p = 0; p < count; ++p) total += hat_of(load(x.at(b, p)));
        store(mean + b * LANES, load(mean + b * LANES) + total * all(1.0f / shape.pixels()));
      }
    });
  }

  // From the pooled images to one gate a channel and image; keeps what the backward pass needs. `moves` the running
  // statistics the first time.
  void gates(Batch& batch, const float* pooled, bool moves) {
    const int channels = s_.channels, inner = s_.inner, width = padded(channels), images = batch.x.shape.images;
    u_ = batch.arena.take<double>(static_cast<size_t>(channels) * images);
    for (int c = 0; c < channels; ++c)
      for (int n = 0; n < images; ++n)
        u_[c * images + n] =
            static_cast<double>(batch.norm.gamma[c]) * pooled[static_cast<size_t>(n) * width + c] + batch.norm.beta[c];
    a_ = layer(u_, channels, inner, arrays_.weight1, arrays_.norm1, batch, moves, z1_, inverse1_);
    if (s_.inner_relu)
      for (int i = 0; i < inner * images; ++i) a_[i] = a_[i] < 0 ? 0 : a_[i];
    const double* v = layer(a_, inner, channels, arrays_.weight2, arrays_.norm2, batch, moves, z2_, inverse2_);
    gate_ = batch.arena.zeros<float>(static_cast<size_t>(images) * width);
    for (int n = 0; n < images; ++n) {
      float* gate = gate_ + static_cast<size_t>(n) * width;
      for (int c = 0; c < channels; ++c) gate[c] = static_cast<float>(v[c * images + n]);
      for (int c = 0; c < width; c += LANES) store(gate + c, sigmoid(load(gate + c)));
    }
  }

  // The layers between the pooled images and the gates work on matrices with a row for each channel and a column for
  // each image.

  // BN(W in); z receives the normalized product, inverse 1 / sigma.
  static double* layer(const double* in, int inputs, int outputs, const float* weight, const NormArrays& arrays,
                       Batch& batch, bool moves, double*& z, double*& inverse) {
    const int images = batch.x.shape.images;
    z = batch.arena.take<double>(static_cast<size_t>(outputs) * images);
    inverse = batch.arena.take<double>(outputs);
    double* out = batch.arena.take<double>(static_cast<size_t>(outputs) * images);
    matrix_product(weight, in, outputs, inputs, images, z);
    for (int o = 0; o < outputs; ++o) {
      double *row = z + static_cast<size_t>(o) * images, mean = 0, variance = 0;
      for (int n = 0; n < images; ++n) mean += row[n] / images;
      for (int n = 0; n < images; ++n) variance += (row[n] - mean) * (row[n] - mean) / images;
      if (moves) move_running(arrays, o, mean, variance, batch.settings);
      inverse[o] = 1 / std::sqrt(variance + batch.settings.epsilon);
      for (int n = 0; n < images; ++n) {
        row[n] = (row[n] - mean) * inverse[o];
        out[o * images + n] = arrays.gamma[o] * row[n] + arrays.beta[o];
      }
    }
    return out;
  }

  // Turns the gradient of BN(W in) into that of W in.
  static void norm_gradient(double* gradient, const double* z, int channels, int images, const NormArrays& arrays,
                            const double* inverse, const NormGradients& gradients) {
    for (int c = 0; c < channels; ++c) {
      double *row = gradient + static_cast<size_t>(c) * images, sum = 0;
      const double* z_row = z + static_cast<size_t>(c) * images;
      for (int n = 0; n < images; ++n) sum += row[n];
      const double with_z = dot(row, z_row, images);
      gradients.beta[c] = static_cast<float>(sum);
      gradients.gamma[c] = static_cast<float>(with_z);
      for (int n = 0; n < images; ++n)
        row[n] = arrays.gamma[c] * inverse[c] * (row[n] - sum / images - z_row[n] * with_z / images);
    }
  }

  // Gradient of W, and of `in` as the result, from the gradient of W in.
  static double* weight_gradient(const double* gradient, const double* in, int outputs, int inputs, int images,
                                 const float* weight, float* weight_gradient, Arena& arena) {
    float* transposed = arena.take<float>(static_cast<size_t>(outputs) * inputs);
#pragma omp parallel for schedule(static)
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < inputs; ++i) {
        const size_t at = static_cast<size_t>(o) * inputs + i;
        weight_gradient[at] = static_cast<float>(
            dot(gradient + static_cast<size_t>(o) * images, in + static_cast<size_t>(i) * images, images));
        transposed[static_cast<size_t>(i) * outputs + o] = weight[at];
      }
    double* to_input = arena.take<double>(static_cast<size_t>(inputs) * images);
    matrix_product(transposed, gradient, inputs, outputs, images, to_input);
    return to_input;
  }

  PairSettings s_;
  UnitArrays arrays_;
  Running norm1_, norm2_;
  const float* pooled_ = nullptr;
  float* gate_ = nullptr;
  double *u_ = nullptr, *a_ = nullptr, *z1_ = nullptr, *z2_ = nullptr, *inverse1_ = nullptr, *inverse2_ = nullptr;
  Sums sums_;
  double* to_gate_ = nullptr;
  float* pooled_gradient_ = nullptr;
  InputSums input_{};
};

}  // namespace atac
