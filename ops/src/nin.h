// The NiN block at an activation's place: ReLU, 1x1, BN, ReLU, 1x1, BN, ReLU.
#pragma once
#include "pointwise.h"

namespace atac {

// y = ReLU(v), with t = ReLU(u) and the inner ReLU (the names are those of pointwise.h).
class NiN : public PointwisePair {
 public:
  using PointwisePair::PointwisePair;

  bool wants_covariances() const override { return false; }

  void apply(const Batch& batch, const Pixels& at, View x, View y, float* floats) const override {
    const Tile tile = tile_at(floats, batch.x.shape);
    both_layers(batch, x, at.count, tile);
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      const auto affine = norm2_.affine(b);
      for (int p = 0; p < at.count; ++p) store(y.at(b, p), relu(affine(load(tile.z.at(b, p)))));
    }
  }

  void start_backward(Batch& batch) override {
    const size_t channels = padded(s_.channels), inner = padded(s_.inner);
    // First pass: sums of dv, dv z2, and the products dv a. Second: sums of dw, dw z1, and of the two parts of t, and
    // the products of dw and of z1 with each part.
    sums1_ = Sums(2 * channels + channels * inner, batch.x.shape.images, batch.arena);
    sums2_ = Sums(2 * inner + 2 * channels + 4 * channels * inner, batch.x.shape.images, batch.arena);
  }

  void backward_output(const Batch& batch, const Pixels& at, View x, View dy, View y, View, View dv,
                       float* floats) override {
    const Tile tile = tile_at(floats, batch.x.shape);
    both_layers(batch, x, at.count, tile);
    const int channels = padded(s_.channels);
    double* sum = sums1_.of(at.group);
    for (int b = 0; b < channels / LANES; ++b) {
      V sum_dv{}, sum_dv_z{};
      const auto affine = norm2_.affine(b);
      for (int p = 0; p < at.count; ++p) {
        const V z = load(tile.z.at(b, p)), v = affine(z);
        const V gradient = positive(v, load(dy.at(b, p)), all(0));
        if (y.data) store(y.at(b, p), relu(v));
        store(dv.at(b, p), gradient);
        sum_dv += gradient;
        sum_dv_z += gradient * z;
      }
      add_to(sum + b * LANES, sum_dv);
      add_to(sum + channels + b * LANES, sum_dv_z);
    }
    products(tile.a, s_.inner, dv, blocks_of(s_.channels), at.count, sum + 2 * channels, tile.products);
  }

  void finish_output(Batch& batch, const UnitGradients& gradients) override {
    const int width = padded(s_.channels);
    const double* sum = sums1_.total();
    finish_second_layer(batch, sum, sum + width, sum + 2 * width, gradients);
  }

  // t = gamma q + beta p, where p is 1 and q the normalized x wherever u > 0, and both are 0 elsewhere: sums of products
  // with them give the gradient of W1, and the sums for the BatchNorm before, whose du is p dt.
  void backward_inner(const Batch& batch, const Pixels& at, View x, View dv, float* floats) override {
    const Tile tile = tile_at(floats, batch.x.shape);
    both_layers(batch, x, at.count, tile);
    const int channels = padded(s_.channels), inner = padded(s_.inner);
    double* sum = sums2_.of(at.group);
    back_to_first_layer(at.count, dv, tile, sum, sum + inner);
    const View q = tile.u, p = tile.z;  // free by now
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      V sum_p{}, sum_q{};
      const auto hat_of = batch.norm.normalized(b);
      const auto affine = batch.norm.affine(b);
      for (int i = 0; i < at.count; ++i) {
        const V hat = hat_of(load(x.at(b, i))), u = affine(hat);
        const V one = positive(u, all(1), all(0)), kept = positive(u, hat, all(0));
        store(p.at(b, i), one);
        store(q.at(b, i), kept);
        sum_p += one;
        sum_q += kept;
      }
      add_to(sum + 2 * inner + b * LANES, sum_p);
      add_to(sum + 2 * inner + channels + b * LANES, sum_q);
    }
    double* to = sum + 2 * inner + 2 * channels;
    for (const View rows : {dv, tile.z1})
      for (const View lanes : {p, q}) {
        products(rows, s_.inner, lanes, blocks_of(s_.channels), at.count, to, tile.products);
        to += static_cast<size_t>(channels) * inner;
      }
  }

  void finish_inner(Batch& batch, const UnitGradients& gradients) override {
    const int channels = s_.channels, inner = s_.inner, width = padded(channels), inner_width = padded(inner);
    const double count = batch.x.shape.count();
    const size_t size = static_cast<size_t>(width) * inner_width;
    const double *dw = sums2_.total(), *dw_z = dw + inner_width, *p = dw_z + inner_width, *q = p + width;
    const double *dw_p = q + width, *dw_q = dw_p + size, *z_p = dw_q + size, *z_q = z_p + size;
    finish_first_norm(batch, dw, dw_z, gradients);
    input_ = {batch.arena.zeros<double>(width), batch.arena.zeros<double>(width)};
    for (int j = 0; j < inner; ++j)
      for (int c = 0; c < channels; ++c) {
        const auto dz = [&](const double* dw_with, const double* z_with, double sum) {
          return norm1_.scale[j] * (product_at(dw_with, c, j, inner) - dw[j] / count * sum -
                                    dw_z[j] / count * product_at(z_with, c, j, inner));
        };
        const double dz_p = dz(dw_p, z_p, p[c]), dz_q = dz(dw_q, z_q, q[c]);
        gradients.weight1[j * channels + c] =
            static_cast<float>(batch.norm.gamma[c] * dz_q + batch.norm.beta[c] * dz_p);
        input_.du[c] += arrays_.weight1[j * channels + c] * dz_p;
        input_.du_hat[c] += arrays_.weight1[j * channels + c] * dz_q;
      }
  }

  InputSums input_sums() const override { return input_; }

  void backward_input(const Batch& batch, const Pixels& at, View x, View, View dw, View du,
                      float* floats) const override {
    const Tile tile = tile_at(floats, batch.x.shape);
    first_layer(batch, x, at.count, tile);
    back_to_input(at.count, dw, tile, du);
    for (int b = 0; b < blocks_of(s_.channels); ++b)
      for (int p = 0; p < at.count; ++p)
        store(du.at(b, p), positive(load(tile.u.at(b, p)), load(du.at(b, p)), all(0)));
  }

 protected:
  Moments entering(Batch& batch, const Moments&, float*) override {
    // Near the mean of the positive part of a standard normal number.
    float* shift = batch.arena.zeros<float>(padded(s_.channels));
    for (int c = 0; c < s_.channels; ++c)
      shift[c] = std::max(batch.norm.beta[c], 0.0f) + 0.4f * std::abs(batch.norm.gamma[c]);
    return moments_of_tiles(batch, s_.channels, shift, [&](View x, int count, const Tile& tile) {
      enter(batch, x, count, tile.u);
      return tile.u;
    });
  }

  void enter(const Batch& batch, View x, int count, View t) const override {
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      const auto apply = batch.norm.applied(b);
      for (int p = 0; p < count; ++p) store(t.at(b, p), relu(apply(load(x.at(b, p)))));
    }
  }

 private:
  Sums sums1_, sums2_;
  InputSums input_{};
};

}  // namespace atac
