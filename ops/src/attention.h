// ATAC, the attentional unit whose gate looks at each position.
#pragma once
#include "pointwise.h"

namespace atac {

// y = u sigmoid(v), with t = u (the names are those of pointwise.h).
class ATAC : public PointwisePair {
 public:
  using PointwisePair::PointwisePair;

  // Also the covariance of the normalized x.
  size_t saved_size(const Shape& shape) const override {
    return PointwisePair::saved_size(shape) + static_cast<size_t>(s_.channels) * s_.channels;
  }

  bool wants_covariances() const override { return true; }

  void restore(Batch& batch, const float* saved) override {
    PointwisePair::restore(batch, saved);
    hat_covariance_ = saved + PointwisePair::saved_size(batch.x.shape);
  }

  void apply(const Batch& batch, const Pixels& at, View x, View y, float* floats) const override {
    const Tile tile = tile_at(floats, batch.x.shape);
    both_layers(batch, x, at.count, tile);
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      const auto affine = norm2_.affine(b);
      for (int p = 0; p < at.count; ++p)
        store(y.at(b, p), load(tile.u.at(b, p)) * sigmoid(affine(load(tile.z.at(b, p)))));
    }
  }

  void start_backward(Batch& batch) override {
    const Shape& shape = batch.x.shape;
    const size_t channels = padded(s_.channels), inner = padded(s_.inner);
    // First pass: sums of dv, dv z2, e and e x, and the products dv a. Second: sums of da, da z1, and products da x.
    sums1_ = Sums(4 * channels + channels * inner, shape.images, batch.arena);
    sums2_ = Sums(2 * inner + channels * inner, shape.images, batch.arena);
  }

  // e = dy sigmoid(v) is the part of du that goes past the gate, dv the gradient of v.
  void backward_output(const Batch& batch, const Pixels& at, View x, View dy, View y, View e, View dv,
                       float* floats) override {
    const Tile tile = tile_at(floats, batch.x.shape);
    both_layers(batch, x, at.count, tile);
    const int channels = padded(s_.channels);
    double* sum = sums1_.of(at.group);
    for (int b = 0; b < channels / LANES; ++b) {
      V sum_dv{}, sum_dv_z{}, sum_e{}, sum_e_hat{};
      const auto affine = norm2_.affine(b);
      const auto hat_of = batch.norm.normalized(b);
      for (int p = 0; p < at.count; ++p) {
        const V z = load(tile.z.at(b, p)), u = load(tile.u.at(b, p)), gradient = load(dy.at(b, p));
        const V gate = sigmoid(affine(z));
        const V passed = gradient * gate, gated = u * gate;
        const V to_gate = gradient * gated * (all(1) - gate);
        if (y.data) store(y.at(b, p), gated);
        store(e.at(b, p), passed);
        store(dv.at(b, p), to_gate);
        sum_dv += to_gate;
        sum_dv_z += to_gate * z;
        sum_e += passed;
        sum_e_hat += passed * hat_of(load(x.at(b, p)));
      }
      add_to(sum + b * LANES, sum_dv);
      add_to(sum + channels + b * LANES, sum_dv_z);
      add_to(sum + 2 * channels + b * LANES, sum_e);
      add_to(sum + 3 * channels + b * LANES, sum_e_hat);
    }
    products(tile.a, s_.inner, dv, blocks_of(s_.channels), at.count, sum + 4 * channels, tile.products);
  }

  void finish_output(Batch& batch, const UnitGradients& gradients) override {
    const int width = padded(s_.channels);
    const double* sum = sums1_.total();
    finish_second_layer(batch, sum, sum + width, sum + 4 * width, gradients);
  }

  void backward_inner(const Batch& batch, const Pixels& at, View x, View dv, float* floats) override {
    const Tile tile = tile_at(floats, batch.x.shape);
    both_layers(batch, x, at.count, tile);
    const int inner = padded(s_.inner);
    double* sum = sums2_.of(at.group);
    back_to_first_layer(at.count, dv, tile, sum, sum + inner);
    for (int b = 0; b < blocks_of(s_.channels); ++b) {  // u's place takes the normalized x
      const auto hat_of = batch.norm.normalized(b);
      for (int p = 0; p < at.count; ++p) store(tile.u.at(b, p), hat_of(load(x.at(b, p))));
    }
    products(dv, s_.inner, tile.u, blocks_of(s_.channels), at.count, sum + 2 * inner, tile.products);
  }

  void finish_inner(Batch& batch, const UnitGradients& gradients) override {
    const int channels = s_.channels, inner = s_.inner, width = padded(channels), inner_width = padded(inner);
    const double* sum = sums2_.total();
    const double* first = sums1_.total();
    const Norm& norm = batch.norm;
    Arena& arena = batch.arena;
    finish_first_norm(batch, sum, sum + inner_width, gradients);
    input_ = {arena.zeros<double>(width), arena.zeros<double>(width)};
    for (int c = 0; c < channels; ++c) {
      input_.du[c] = first[2 * width + c];  // what comes through the gate sums to 0: BN1 takes its mean away
      input_.du_hat[c] = first[3 * width + c];
    }
    double* scaled = arena.take<double>(static_cast<size_t>(channels) * channels);
    for (int c = 0; c < channels; ++c)
      for (int d = 0; d < channels; ++d)
        scaled[static_cast<size_t>(c) * channels + d] =
            static_cast<double>(norm.gamma[c]) * hat_covariance_[static_cast<size_t>(c) * channels + d];
    double* z_hat = arena.take<double>(static_cast<size_t>(inner) * channels);  // covariance of z1 and normalized x
    matrix_product(arrays_.weight1, scaled, inner, channels, channels, z_hat);
    for (int j = 0; j < inner; ++j)
      for (int c = 0; c < channels; ++c) {
        const double dw_hat = product_at(sum + 2 * inner_width, c, j, inner);
        const double dz_hat =
            norm1_.scale[j] * (dw_hat - sum[inner_width + j] * norm1_.inverse[j] * z_hat[j * channels + c]);
        gradients.weight1[j * channels + c] = static_cast<float>(norm.gamma[c] * dz_hat);
        input_.du_hat[c] += arrays_.weight1[j * channels + c] * dz_hat;
      }
  }

  InputSums input_sums() const override { return input_; }

  void backward_input(const Batch& batch, const Pixels& at, View x, View e, View dw, View du,
                      float* floats) const override {
    const Tile tile = tile_at(floats, batch.x.shape);
    first_layer(batch, x, at.count, tile);
    back_to_input(at.count, dw, tile, du, e);
  }

 protected:
  Moments entering(Batch& batch, const Moments& of_x, float* saved) override {
    const int channels = s_.channels;
    float* kept = saved + PointwisePair::saved_size(batch.x.shape);
    const Norm& norm = batch.norm;
    Moments of_u{batch.arena.take<double>(channels), batch.arena.take<double>(static_cast<size_t>(channels) * channels)};
    for (int c = 0; c < channels; ++c) {
      of_u.mean[c] = norm.beta[c];
      for (int d = 0; d < channels; ++d) {
        const size_t at = static_cast<size_t>(c) * channels + d;
        const double hat = of_x.covariance[at] * norm.inverse[c] * norm.inverse[d];
        kept[at] = static_cast<float>(hat);
        of_u.covariance[at] = hat * norm.gamma[c] * norm.gamma[d];
      }
    }
    return of_u;
  }

  void enter(const Batch& batch, View x, int count, View t) const override {
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      const auto apply = batch.norm.applied(b);
      for (int p = 0; p < count; ++p) store(t.at(b, p), apply(load(x.at(b, p))));
    }
  }

 private:
  const float* hat_covariance_ = nullptr;
  Sums sums1_, sums2_;
  InputSums input_{};
};

}  // namespace atac
