// Two 1x1 convolutions, each with its BatchNorm, at every position: what ATAC's gate and the NiN block have in common.
// Names: u = BN(x), t = u or what else enters, z1 = W1 t, w = BN1(z1), a = w or ReLU(w), z2 = W2 a, v = BN2(z2).
#pragma once
#include "matrices.h"
#include "unit.h"

namespace atac {

struct PairSettings {
  int channels, inner;
  bool inner_relu;
};

class PointwisePair : public Unit {
 public:
  PointwisePair(const PairSettings& settings, const UnitArrays& arrays) : s_(settings), arrays_(arrays) {}

  // BN1: mean and inverse; BN2: the same; mean and covariance of a.
  size_t saved_size(const Shape&) const override {
    const size_t inner = s_.inner, channels = s_.channels;
    return 3 * inner + 2 * channels + inner * inner;
  }

  void statistics(Batch& batch, const Moments& of_x, float* saved) override {
    const int channels = s_.channels, inner = s_.inner;
    Arena& arena = batch.arena;
    const Saved kept = saved_at(saved);

    // z1 is linear in t: its statistics follow from those of t.
    const Moments of_t = entering(batch, of_x, saved);
    double* variance = arena.take<double>(std::max(channels, inner));
    row_variances(arrays_.weight1, inner, channels, of_t.covariance, variance);
    make_norms(arena);
    for (int j = 0; j < inner; ++j) {
      double mean = 0;
      for (int c = 0; c < channels; ++c) mean += static_cast<double>(arrays_.weight1[j * channels + c]) * of_t.mean[c];
      norm1_.use_batch(j, mean, variance[j], arrays_.norm1, batch.settings);
    }
    pack_first(batch);

    // a is not: one more pass over x finds its mean and covariance, shifted by about its mean.
    float* shift = arena.zeros<float>(padded(inner));
    for (int j = 0; j < inner; ++j) shift[j] = s_.inner_relu ? std::max(norm1_.beta[j], 0.0f) : norm1_.beta[j];
    const Moments of_a = moments_of_tiles(batch, inner, shift, [&](View x, int count, const Tile& tile) {
      hidden(batch, x, count, tile);
      return tile.a;
    });
    row_variances(arrays_.weight2, channels, inner, of_a.covariance, variance);
    for (int i = 0; i < channels; ++i) {
      double mean = 0;
      for (int j = 0; j < inner; ++j) mean += static_cast<double>(arrays_.weight2[i * inner + j]) * of_a.mean[j];
      norm2_.use_batch(i, mean, variance[i], arrays_.norm2, batch.settings);
    }
    pack_second(batch);

    for (int j = 0; j < inner; ++j) {
      kept.mean1[j] = norm1_.mean[j];
      kept.inverse1[j] = norm1_.inverse[j];
      kept.mean_a[j] = static_cast<float>(of_a.mean[j]);
      for (int k = 0; k < inner; ++k)
        kept.a_covariance[j * inner + k] = static_cast<float>(of_a.covariance[j * inner + k]);
    }
    for (int i = 0; i < channels; ++i) {
      kept.mean2[i] = norm2_.mean[i];
      kept.inverse2[i] = norm2_.inverse[i];
    }
  }

  void use_running(Batch& batch) override {
    make_norms(batch.arena);
    norm1_.use_running(s_.inner, arrays_.norm1, batch.settings);
    norm2_.use_running(s_.channels, arrays_.norm2, batch.settings);
    pack_first(batch);
    pack_second(batch);
  }

  void restore(Batch& batch, const float* saved) override {
    saved_ = saved_at(const_cast<float*>(saved));
    make_norms(batch.arena);
    for (int j = 0; j < s_.inner; ++j) norm1_.set(j, saved_.mean1[j], saved_.inverse1[j]);
    for (int i = 0; i < s_.channels; ++i) norm2_.set(i, saved_.mean2[i], saved_.inverse2[i]);
    pack_first(batch);
    pack_second(batch);
    first_back_ = pack(arrays_.weight1, s_.inner, s_.channels, nullptr, true, plane(batch), batch.arena);
    second_back_ = pack(arrays_.weight2, s_.channels, s_.inner, nullptr, true, plane(batch), batch.arena);
  }

  size_t tile_floats(const Shape& shape) const override {
    return static_cast<size_t>(plane(shape)) * (2 * blocks_of(s_.channels) + 3 * blocks_of(s_.inner)) + LANES * LANES;
  }

  bool has_second_pass() const override { return true; }

 protected:
  struct Saved {
    float *mean1, *inverse1, *mean_a, *mean2, *inverse2, *a_covariance;
  };

  Saved saved_at(float* p) const {
    Saved s;
    const size_t inner = s_.inner, channels = s_.channels;
    s.mean1 = p;
    s.inverse1 = s.mean1 + inner;
    s.mean_a = s.inverse1 + inner;
    s.mean2 = s.mean_a + inner;
    s.inverse2 = s.mean2 + channels;
    s.a_covariance = s.inverse2 + channels;
    return s;
  }

  // Mean and covariances of t; a unit may keep more behind PointwisePair::saved_size.
  virtual Moments entering(Batch& batch, const Moments& of_x, float* saved) = 0;

  // t of a tile, into tile.u.
  virtual void enter(const Batch& batch, View x, int count, View t) const = 0;

  // Buffers of a tile; z1 and z are normalized already.
  struct Tile {
    View u, z1, a, z, da;
    float* products;
  };

  static ptrdiff_t plane(const Shape& shape) { return static_cast<ptrdiff_t>(shape.tile()) * LANES; }
  static ptrdiff_t plane(const Batch& batch) { return plane(batch.x.shape); }

  Tile tile_at(float* floats, const Shape& shape) const {
    const ptrdiff_t step = plane(shape), outer = step * blocks_of(s_.channels), inner = step * blocks_of(s_.inner);
    return {{floats, step}, {floats + 2 * outer, step}, {floats + 2 * outer + inner, step}, {floats + outer, step},
            {floats + 2 * outer + 2 * inner, step}, floats + 2 * outer + 3 * inner};
  }

  // Moments of values(x, count, tile), a View of `width` channels; `shift` is near their means.
  template <class F>
  Moments moments_of_tiles(Batch& batch, int width, const float* shift, F values) const {
    return moments(
        batch.x, width, shift, true, [&] { return scratch().take<float>(tile_floats(batch.x.shape)); },
        [&](float* floats, View x, int count) { return values(x, count, tile_at(floats, batch.x.shape)); },
        batch.arena);
  }

  // t and z1 of a tile.
  void first_layer(const Batch& batch, View x, int count, const Tile& tile) const {
    enter(batch, x, count, tile.u);
    dense(first_, tile.u, count, tile.z1, bias1_);
  }

  // t, z1 and a of a tile.
  void hidden(const Batch& batch, View x, int count, const Tile& tile) const {
    first_layer(batch, x, count, tile);
    for (int b = 0; b < blocks_of(s_.inner); ++b) {
      const auto affine = norm1_.affine(b);
      for (int p = 0; p < count; ++p) {
        const V v = affine(load(tile.z1.at(b, p)));
        store(tile.a.at(b, p), s_.inner_relu ? relu(v) : v);
    }
      }
  }

  // All of a tile up to z, the normalized z2.
  void both_layers(const Batch& batch, View x, int count, const Tile& tile) const {
    hidden(batch, x, count, tile);
    dense(second_, tile.a, count, tile.z, bias2_);
  }

  // Gradients of BN2 and W2 from the sums over the batch of dv, of dv z2, and the products dv a.
  void finish_second_layer(Batch& batch, const double* dv, const double* dv_z, const double* dv_a,
                           const UnitGradients& gradients) {
    const int channels = s_.channels, inner = s_.inner;
    const double count = batch.x.shape.count();
    Arena& arena = batch.arena;
    dv_mean_ = arena.zeros<float>(padded(channels));
    dv_z_mean_ = arena.zeros<float>(padded(channels));
    double* z_a = arena.take<double>(static_cast<size_t>(channels) * inner);  // covariance of z2 and a
    double* a_covariance = arena.take<double>(static_cast<size_t>(inner) * inner);
    for (int i = 0; i < inner * inner; ++i) a_covariance[i] = saved_.a_covariance[i];
    matrix_product(arrays_.weight2, a_covariance, channels, inner, inner, z_a);
    for (int i = 0; i < channels; ++i) {
      dv_mean_[i] = static_cast<float>(dv[i] / count);
      dv_z_mean_[i] = static_cast<float>(dv_z[i] / count);
      gradients.norm2.beta[i] = static_cast<float>(dv[i]);
      gradients.norm2.gamma[i] = static_cast<float>(dv_z[i]);
      for (int j = 0; j < inner; ++j) {
        const double centred = product_at(dv_a, i, j, inner) - dv[i] * saved_.mean_a[j];
        gradients.weight2[i * inner + j] = static_cast<float>(
            norm2_.scale[i] * (centred - dv_z[i] * norm2_.inverse[i] * z_a[i * inner + j]));
      }
    }
  }

  // After both_layers: replaces dv, in its first blocks, by dw, the gradient of BN1's output; adds its sums to dw_sum
  // and those of dw z1 to dw_z_sum.
  void back_to_first_layer(int count, View dv, const Tile& tile, double* dw_sum, double* dw_z_sum) const {
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      const V mean = load(dv_mean_ + b * LANES), with_z = load(dv_z_mean_ + b * LANES);
      const V scale = load(norm2_.scale + b * LANES);
      for (int p = 0; p < count; ++p)
        store(tile.z.at(b, p), scale * (load(dv.at(b, p)) - mean - load(tile.z.at(b, p)) * with_z));
    }
    dense(second_back_, tile.z, count, tile.da);
    for (int b = 0; b < blocks_of(s_.inner); ++b) {
      V sum_dw{}, sum_dw_z{};
      const auto affine = norm1_.affine(b);
      for (int p = 0; p < count; ++p) {
        const V z = load(tile.z1.at(b, p));
        V dw = load(tile.da.at(b, p));
        if (s_.inner_relu) dw = positive(affine(z), dw, all(0));
        store(dv.at(b, p), dw);
        sum_dw += dw;
        sum_dw_z += dw * z;
      }
      add_to(dw_sum + b * LANES, sum_dw);
      add_to(dw_z_sum + b * LANES, sum_dw_z);
    }
  }

  // Gradients of BN1 from the sums over the batch of dw and of dw z1.
  void finish_first_norm(Batch& batch, const double* dw, const double* dw_z, const UnitGradients& gradients) {
    const double count = batch.x.shape.count();
    dw_mean_ = batch.arena.zeros<float>(padded(s_.inner));
    dw_z_mean_ = batch.arena.zeros<float>(padded(s_.inner));
    for (int j = 0; j < s_.inner; ++j) {
      dw_mean_[j] = static_cast<float>(dw[j] / count);
      dw_z_mean_[j] = static_cast<float>(dw_z[j] / count);
      gradients.norm1.beta[j] = static_cast<float>(dw[j]);
      gradients.norm1.gamma[j] = static_cast<float>(dw_z[j]);
    }
  }

  // After first_layer: the gradient of t, plus init where that is given.
  void back_to_input(int count, View dw, const Tile& tile, View dt, View init = {nullptr, 0}) const {
    for (int b = 0; b < blocks_of(s_.inner); ++b) {
      const V mean = load(dw_mean_ + b * LANES), with_z = load(dw_z_mean_ + b * LANES);
      const V scale = load(norm1_.scale + b * LANES);
      for (int p = 0; p < count; ++p)
        store(tile.da.at(b, p), scale * (load(dw.at(b, p)) - mean - load(tile.z1.at(b, p)) * with_z));
    }
    dense(first_back_, tile.da, count, dt, init, LANES);
  }

  // sums += products of every row of a with every lane of b over a tile: float within it, double over all.
  static void products(View a, int rows, View b, int blocks, int count, double* sums, float* floats) {
    const int width = padded(rows);
    for (int lane = 0; lane < blocks; ++lane)
      for (int row = 0; row < blocks_of(rows); ++row) {
        const int valid = std::min(LANES, rows - row * LANES);
        std::memset(floats, 0, sizeof(float) * LANES * LANES);
        outer(valid, a.at(row, 0), 0, LANES, b.at(lane, 0), 0, LANES, 1, count, floats);
        double* to = sums + (static_cast<size_t>(lane) * width + row * LANES) * LANES;
        for (int r = 0; r < valid; ++r) add_to(to + r * LANES, load(floats + r * LANES));
      }
  }

  // The product of lane `lane` and row `row` in what `products` summed.
  static double product_at(const double* sums, int lane, int row, int rows) {
    return sums[(static_cast<size_t>(lane / LANES) * padded(rows) + row) * LANES + lane % LANES];
  }

  PairSettings s_;
  UnitArrays arrays_;
  Norm norm1_, norm2_;
  Saved saved_{};

 private:
  void make_norms(Arena& arena) {
    norm1_ = Norm(s_.inner, arena);
    norm2_ = Norm(s_.channels, arena);
    norm1_.set_affine(s_.inner, arrays_.norm1);
    norm2_.set_affine(s_.channels, arrays_.norm2);
  }

  // The matrices give the normalized z: W / sigma, with -mean / sigma as the bias.
  void pack_first(Batch& batch) {
    first_ = pack(arrays_.weight1, s_.inner, s_.channels, norm1_.inverse, false, plane(batch), batch.arena);
    bias1_ = bias(norm1_, s_.inner, batch.arena);
  }

  void pack_second(Batch& batch) {
    second_ = pack(arrays_.weight2, s_.channels, s_.inner, norm2_.inverse, false, plane(batch), batch.arena);
    bias2_ = bias(norm2_, s_.channels, batch.arena);
  }

  static const float* bias(const Norm& norm, int channels, Arena& arena) {
    float* found = arena.zeros<float>(padded(channels));
    for (int c = 0; c < channels; ++c) found[c] = -norm.mean[c] * norm.inverse[c];
    return found;
  }

  Packed first_, second_, first_back_, second_back_;
  const float *bias1_ = nullptr, *bias2_ = nullptr;
  float *dv_mean_ = nullptr, *dv_z_mean_ = nullptr;
  float *dw_mean_ = nullptr, *dw_z_mean_ = nullptr;
};

}  // namespace atac
