// The attentional units: ATAC, whose gate looks at each position, and SEActivation, whose gate looks at the mean of all.
// Names: u = BN(x), z1 = W1 u, a = f(BN1(z1)) with f = ReLU or nothing, z2 = W2 a, v = BN2(z2), y = u sigmoid(v).
#pragma once
#include "unit.h"

namespace atac {

struct GateSettings {
  int channels, inner;
  bool inner_relu;
};

// W (outputs x inputs) for `multiply`, its rows scaled (nullptr for not), or its transpose.
inline Packed pack(const float* weight, int outputs, int inputs, const float* row_scale, bool transposed,
                   ptrdiff_t input_plane, Arena& arena) {
  const int to = transposed ? inputs : outputs, from = transposed ? outputs : inputs;
  Packed packed(to, blocks_of(from), LANES, (from - 1) % LANES + 1, arena);
  for (int tap = 0; tap < packed.taps; ++tap) packed.offsets[tap] = tap * input_plane;
  packed.fill([=](int output, int tap, int d) {
    const int o = transposed ? tap * LANES + d : output, i = transposed ? output : tap * LANES + d;
    return weight[static_cast<size_t>(o) * inputs + i] * (row_scale ? row_scale[o] : 1);
  });
  return packed;
}

// All output blocks of a tile: out = W in + init; init is a bias with init_step 0.
inline void dense(const Packed& w, View in, int count, View out, View init, ptrdiff_t init_step) {
  for (int group = 0; group < w.blocks / w.group; ++group)
    multiply(w, group, in.data, LANES, count, out, LANES, init, init_step);
}

inline void dense(const Packed& w, View in, int count, View out, const float* bias = nullptr) {
  dense(w, in, count, out, View{const_cast<float*>(bias), LANES}, 0);
}

// Variance of each row of W times a vector of that covariance: the diagonal of W Cov W^T.
inline void row_variances(const float* weight, int outputs, int inputs, const double* covariance, double* variance) {
#pragma omp parallel for schedule(static)
  for (int o = 0; o < outputs; ++o) {
    const float* w = weight + static_cast<size_t>(o) * inputs;
    double total = 0;
    for (int i = 0; i < inputs; ++i) {
      const double* row = covariance + static_cast<size_t>(i) * inputs;
      double product = 0;
      for (int k = 0; k < inputs; ++k) product += w[k] * row[k];
      total += w[i] * product;
    }
    variance[o] = total;
  }
}

// out = W (outputs x inner) times matrix (inner x columns), in doubles.
inline void matrix_product(const float* weight, const double* matrix, int outputs, int inner, int columns,
                           double* out) {
#pragma omp parallel for schedule(static)
  for (int o = 0; o < outputs; ++o) {
    double* row = out + static_cast<size_t>(o) * columns;
    std::fill(row, row + columns, 0.0);
    for (int k = 0; k < inner; ++k) {
      const double w = weight[static_cast<size_t>(o) * inner + k];
      for (int c = 0; c < columns; ++c) row[c] += w * matrix[static_cast<size_t>(k) * columns + c];
    }
  }
}

class ATAC : public Unit {
 public:
  ATAC(const GateSettings& settings, const UnitArrays& arrays) : s_(settings), arrays_(arrays) {}

  // BN1: mean and inverse; BN2: the same; mean and covariance of a; covariance of the normalized x.
  size_t saved_size(const Shape&) const override {
    const size_t inner = s_.inner, channels = s_.channels;
    return 3 * inner + 2 * channels + inner * inner + channels * channels;
  }

  bool wants_covariances() const override { return true; }

  void statistics(Batch& batch, const Moments& moments, float* saved) override {
    const int channels = s_.channels, inner = s_.inner;
    Arena& arena = batch.arena;
    Saved kept = saved_at(saved);

    // z1 is linear in x: its statistics follow from those of x.
    double* covariance = arena.take<double>(static_cast<size_t>(channels) * channels);
    const Norm& norm = batch.norm;
    for (int c = 0; c < channels; ++c)
      for (int d = 0; d < channels; ++d) {
        const size_t at = static_cast<size_t>(c) * channels + d;
        const double hat = moments.covariance[at] * norm.inverse[c] * norm.inverse[d];
        kept.hat_covariance[at] = static_cast<float>(hat);
        covariance[at] = hat * norm.gamma[c] * norm.gamma[d];
      }
    double* variance = arena.take<double>(std::max(channels, inner));
    row_variances(arrays_.weight1, inner, channels, covariance, variance);
    make_norms(arena);
    for (int j = 0; j < inner; ++j) {
      double mean = 0;
      for (int c = 0; c < channels; ++c) mean += static_cast<double>(arrays_.weight1[j * channels + c]) * norm.beta[c];
      norm1_.use_batch(j, mean, variance[j], arrays_.norm1, batch.settings);
    }
    pack_first(batch);

    // a is not: one more pass over x finds its mean and covariance, shifted by about its mean.
    float* shift = arena.zeros<float>(padded(inner));
    for (int j = 0; j < inner; ++j) shift[j] = s_.inner_relu ? std::max(norm1_.beta[j], 0.0f) : norm1_.beta[j];
    const Moments of_a = atac::moments(
        batch.x, inner, shift, true,
        [&] { return scratch().take<float>(tile_floats(batch.x.shape)); },
        [&](float* floats, View x, int count) {
          const Tile tile = tile_at(floats, batch.x.shape);
          hidden(batch, x, count, tile);
          return tile.a;
        },
        arena);
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

  void apply(const Batch& batch, int, View x, int count, View y, float* floats) const override {
    const Tile tile = tile_at(floats, batch.x.shape);
    hidden(batch, x, count, tile);
    dense(second_, tile.a, count, tile.z, bias2_);
    for (int b = 0; b < blocks_of(s_.channels); ++b)
      for (int p = 0; p < count; ++p)
        store(y.at(b, p), load(tile.u.at(b, p)) * sigmoid(norm2_.affine(b, load(tile.z.at(b, p)))));
  }

  void start_backward(Batch& batch) override {
    const Shape& shape = batch.x.shape;
    const size_t channels = padded(s_.channels), inner = padded(s_.inner);
    // First pass: sums of dv, dv z2, e and e x, and the products dv a. Second: sums of da, da z1, and products da x.
    sums1_ = Sums(4 * channels + channels * inner, shape.images, batch.arena);
    sums2_ = Sums(2 * inner + channels * inner, shape.images, batch.arena);
  }

  // e = dy sigmoid(v) is the part of du that goes past the gate, dv the gradient of v.
  void backward1(const Batch& batch, int group, int, View x, View dy, int count, View y, View e, View dv,
                 float* floats) override {
    const Tile tile = tile_at(floats, batch.x.shape);
    hidden(batch, x, count, tile);
    dense(second_, tile.a, count, tile.z, bias2_);
    const int channels = padded(s_.channels);
    double* sum = sums1_.of(group);
    for (int b = 0; b < channels / LANES; ++b) {
      V sum_dv{}, sum_dv_z{}, sum_e{}, sum_e_hat{};
      for (int p = 0; p < count; ++p) {
        const V z = load(tile.z.at(b, p)), u = load(tile.u.at(b, p)), gradient = load(dy.at(b, p));
        const V gate = sigmoid(norm2_.affine(b, z));
        const V passed = gradient * gate, gated = u * gate;
        const V to_gate = gradient * gated * (all(1) - gate);
        if (y.data) store(y.at(b, p), gated);
        store(e.at(b, p), passed);
        store(dv.at(b, p), to_gate);
        sum_dv += to_gate;
        sum_dv_z += to_gate * z;
        sum_e += passed;
        sum_e_hat += passed * batch.hat(b, load(x.at(b, p)));
      }
      add_to(sum + b * LANES, sum_dv);
      add_to(sum + channels + b * LANES, sum_dv_z);
      add_to(sum + 2 * channels + b * LANES, sum_e);
      add_to(sum + 3 * channels + b * LANES, sum_e_hat);
    }
    products(tile.a, s_.inner, dv, blocks_of(s_.channels), count, sum + 4 * channels, tile.products);
  }

  void finish_backward1(Batch& batch, const UnitGradients& gradients) override {
    const int channels = s_.channels, inner = s_.inner, width = padded(channels);
    const double count = batch.x.shape.count();
    const double* sum = sums1_.total();
    Arena& arena = batch.arena;
    dv_mean_ = arena.zeros<float>(width);
    dv_z_mean_ = arena.zeros<float>(width);
    double* z_a = arena.take<double>(static_cast<size_t>(channels) * inner);  // covariance of z2 and a
    double* a_covariance = arena.take<double>(static_cast<size_t>(inner) * inner);
    for (int i = 0; i < inner * inner; ++i) a_covariance[i] = saved_.a_covariance[i];
    matrix_product(arrays_.weight2, a_covariance, channels, inner, inner, z_a);
    for (int i = 0; i < channels; ++i) {
      dv_mean_[i] = static_cast<float>(sum[i] / count);
      dv_z_mean_[i] = static_cast<float>(sum[width + i] / count);
      gradients.beta2[i] = static_cast<float>(sum[i]);
      gradients.gamma2[i] = static_cast<float>(sum[width + i]);
      for (int j = 0; j < inner; ++j) {
        const double dv_a = product_at(sum + 4 * width, i, j, inner) - sum[i] * saved_.mean_a[j];
        gradients.weight2[i * inner + j] = static_cast<float>(
            norm2_.scale[i] * (dv_a - sum[width + i] * norm2_.inverse[i] * z_a[i * inner + j]));
      }
    }
  }

  bool has_second_pass() const override { return true; }

  // Replaces dv, in its first blocks, by dw, the gradient of BN1's output.
  void backward2(const Batch& batch, int group, int, View x, int count, View, View dv, float* floats) override {
    const Tile tile = tile_at(floats, batch.x.shape);
    hidden(batch, x, count, tile);
    dense(second_, tile.a, count, tile.z, bias2_);
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      const V mean = load(dv_mean_ + b * LANES), with_z = load(dv_z_mean_ + b * LANES);
      const V scale = load(norm2_.scale + b * LANES);
      for (int p = 0; p < count; ++p)
        store(tile.z.at(b, p), scale * (load(dv.at(b, p)) - mean - load(tile.z.at(b, p)) * with_z));
    }
    dense(second_back_, tile.z, count, tile.da);
    const int inner = padded(s_.inner);
    double* sum = sums2_.of(group);
    for (int b = 0; b < inner / LANES; ++b) {
      V sum_dw{}, sum_dw_z{};
      for (int p = 0; p < count; ++p) {
        const V z = load(tile.z1.at(b, p));
        V dw = load(tile.da.at(b, p));
        if (s_.inner_relu) dw = positive(norm1_.affine(b, z), dw, all(0));
        store(dv.at(b, p), dw);
        sum_dw += dw;
        sum_dw_z += dw * z;
      }
      add_to(sum + b * LANES, sum_dw);
      add_to(sum + inner + b * LANES, sum_dw_z);
    }
    for (int b = 0; b < blocks_of(s_.channels); ++b)  // u's place takes the normalized x
      for (int p = 0; p < count; ++p) store(tile.u.at(b, p), batch.hat(b, load(x.at(b, p))));
    products(dv, s_.inner, tile.u, blocks_of(s_.channels), count, sum + 2 * inner, tile.products);
  }

  void finish_backward2(Batch& batch, const UnitGradients& gradients) override {
    const int channels = s_.channels, inner = s_.inner, width = padded(channels), inner_width = padded(inner);
    const double count = batch.x.shape.count();
    const double* sum = sums2_.total();
    const double* first = sums1_.data;
    const Norm& norm = batch.norm;
    Arena& arena = batch.arena;
    dw_mean_ = arena.zeros<float>(inner_width);
    dw_z_mean_ = arena.zeros<float>(inner_width);
    input_ = {arena.zeros<double>(width), arena.zeros<double>(width)};
    for (int c = 0; c < channels; ++c) {
      input_.du[c] = first[2 * width + c];  // what comes through the gate sums to 0: BN1 takes its mean away
      input_.du_hat[c] = first[3 * width + c];
    }
    double* scaled = arena.take<double>(static_cast<size_t>(channels) * channels);
    for (int c = 0; c < channels; ++c)
      for (int d = 0; d < channels; ++d)
        scaled[static_cast<size_t>(c) * channels + d] =
            static_cast<double>(norm.gamma[c]) * saved_.hat_covariance[static_cast<size_t>(c) * channels + d];
    double* z_hat = arena.take<double>(static_cast<size_t>(inner) * channels);  // covariance of z1 and normalized x
    matrix_product(arrays_.weight1, scaled, inner, channels, channels, z_hat);
    for (int j = 0; j < inner; ++j) {
      dw_mean_[j] = static_cast<float>(sum[j] / count);
      dw_z_mean_[j] = static_cast<float>(sum[inner_width + j] / count);
      gradients.beta1[j] = static_cast<float>(sum[j]);
      gradients.gamma1[j] = static_cast<float>(sum[inner_width + j]);
      for (int c = 0; c < channels; ++c) {
        const double dw_hat = product_at(sum + 2 * inner_width, c, j, inner);
        const double dz_hat =
            norm1_.scale[j] * (dw_hat - sum[inner_width + j] * norm1_.inverse[j] * z_hat[j * channels + c]);
        gradients.weight1[j * channels + c] = static_cast<float>(norm.gamma[c] * dz_hat);
        input_.du_hat[c] += arrays_.weight1[j * channels + c] * dz_hat;
      }
    }
  }

  InputSums input_sums() const override { return input_; }

  void backward3(const Batch& batch, int, View x, int count, View e, View dw, View du, float* floats) const override {
    const Tile tile = tile_at(floats, batch.x.shape);
    first_layer(batch, x, count, tile);
    for (int b = 0; b < blocks_of(s_.inner); ++b) {
      const V mean = load(dw_mean_ + b * LANES), with_z = load(dw_z_mean_ + b * LANES);
      const V scale = load(norm1_.scale + b * LANES);
      for (int p = 0; p < count; ++p)
        store(tile.da.at(b, p), scale * (load(dw.at(b, p)) - mean - load(tile.z1.at(b, p)) * with_z));
    }
    dense(first_back_, tile.da, count, du, e, LANES);
  }

 private:
  struct Saved {
    float *mean1, *inverse1, *mean_a, *mean2, *inverse2, *a_covariance, *hat_covariance;
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
    s.hat_covariance = s.a_covariance + inner * inner;
    return s;
  }

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

  // u and z1 of a tile.
  void first_layer(const Batch& batch, View x, int count, const Tile& tile) const {
    for (int b = 0; b < blocks_of(s_.channels); ++b)
      for (int p = 0; p < count; ++p) store(tile.u.at(b, p), batch.norm.apply(b, load(x.at(b, p))));
    dense(first_, tile.u, count, tile.z1, bias1_);
  }

  // u, z1 and a of a tile.
  void hidden(const Batch& batch, View x, int count, const Tile& tile) const {
    first_layer(batch, x, count, tile);
    for (int b = 0; b < blocks_of(s_.inner); ++b)
      for (int p = 0; p < count; ++p) {
        const V v = norm1_.affine(b, load(tile.z1.at(b, p)));
        store(tile.a.at(b, p), s_.inner_relu ? relu(v) : v);
      }
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

  GateSettings s_;
  UnitArrays arrays_;
  Norm norm1_, norm2_;
  Packed first_, second_, first_back_, second_back_;
  const float *bias1_ = nullptr, *bias2_ = nullptr;
  Saved saved_{};
  Sums sums1_, sums2_;
  float *dv_mean_ = nullptr, *dv_z_mean_ = nullptr;
  float *dw_mean_ = nullptr, *dw_z_mean_ = nullptr;
  InputSums input_{};
};

// The same gate on the mean over each image (after a global average pool): one row an image, so that its own layers are
// small and computed in double precision.
class SEActivation : public Unit {
 public:
  SEActivation(const GateSettings& settings, const UnitArrays& arrays) : s_(settings), arrays_(arrays) {}

  size_t saved_size(const Shape& shape) const override {
    return static_cast<size_t>(shape.images) * padded(s_.channels);
  }
  bool wants_covariances() const override { return false; }

  void statistics(Batch& batch, const Moments&, float* saved) override {
    pool(batch, saved);
    gates(batch, saved, Statistics::OF_BATCH);
  }

  void use_running(Batch& batch) override {
    float* pooled = batch.arena.take<float>(saved_size(batch.x.shape));
    pool(batch, pooled);
    gates(batch, pooled, Statistics::RUNNING);
  }

  void restore(Batch& batch, const float* saved) override {
    pooled_ = saved;
    gates(batch, saved, Statistics::OF_BATCH_AGAIN);
  }

  size_t tile_floats(const Shape&) const override { return 0; }

  void apply(const Batch& batch, int image, View x, int count, View y, float*) const override {
    for (int b = 0; b < blocks_of(s_.channels); ++b) {
      const V gate = load(gate_at(image, b));
      for (int p = 0; p < count; ++p)
        store(y.at(b, p), batch.norm.apply(b, load(x.at(b, p))) * gate);
    }
  }

  void start_backward(Batch& batch) override {
    sums_ = Sums(2 * padded(s_.channels), batch.x.shape.images, batch.arena);
    to_gate_ = batch.arena.zeros<double>(static_cast<size_t>(batch.x.shape.images) * padded(s_.channels));
  }

  void backward1(const Batch& batch, int group, int image, View x, View dy, int count, View y, View e, View,
                 float*) override {
    const int width = padded(s_.channels);
    double* sum = sums_.of(group);
    for (int b = 0; b < width / LANES; ++b) {
      const V gate = load(gate_at(image, b));
      V sum_gate{}, sum_e{}, sum_e_hat{};
      for (int p = 0; p < count; ++p) {
        const V hat = batch.hat(b, load(x.at(b, p))), u = batch.norm.affine(b, hat), gradient = load(dy.at(b, p));
        const V passed = gradient * gate;
        if (y.data) store(y.at(b, p), u * gate);
        store(e.at(b, p), passed);
        sum_gate += gradient * u;
        sum_e += passed;
        sum_e_hat += passed * hat;
      }
      add_to(to_gate_ + static_cast<size_t>(image) * width + b * LANES, sum_gate);
      add_to(sum + b * LANES, sum_e);
      add_to(sum + width + b * LANES, sum_e_hat);
    }
  }

  void finish_backward1(Batch& batch, const UnitGradients& gradients) override {
    const int channels = s_.channels, inner = s_.inner, width = padded(channels), images = batch.x.shape.images;
    Arena& arena = batch.arena;
    double* dv = arena.take<double>(static_cast<size_t>(images) * channels);
    for (int n = 0; n < images; ++n)
      for (int c = 0; c < channels; ++c) {
        const double gate = gate_at(n, 0)[c];
        dv[n * channels + c] = to_gate_[static_cast<size_t>(n) * width + c] * gate * (1 - gate);
      }
    double* dz2 = norm_gradient(dv, z2_, images, channels, arrays_.norm2, inverse2_, gradients.gamma2,
                                gradients.beta2, arena);
    double* da = weight_gradient(dz2, a_, images, channels, inner, arrays_.weight2, gradients.weight2, arena);
    if (s_.inner_relu)
      for (int i = 0; i < images * inner; ++i) da[i] = a_[i] > 0 ? da[i] : 0;
    double* dz1 = norm_gradient(da, z1_, images, inner, arrays_.norm1, inverse1_, gradients.gamma1, gradients.beta1,
                                arena);
    double* ds = weight_gradient(dz1, u_, images, inner, channels, arrays_.weight1, gradients.weight1, arena);
    const double* sum = sums_.total();
    input_ = {arena.zeros<double>(width), arena.zeros<double>(width)};
    pooled_gradient_ = arena.zeros<float>(static_cast<size_t>(images) * width);
    for (int c = 0; c < channels; ++c) {
      input_.du[c] = sum[c];
      input_.du_hat[c] = sum[width + c];
    }
    for (int n = 0; n < images; ++n)
      for (int c = 0; c < channels; ++c) {
        const double gradient = ds[n * channels + c];
        pooled_gradient_[static_cast<size_t>(n) * width + c] = static_cast<float>(gradient / batch.x.shape.pixels());
        input_.du[c] += gradient;
        input_.du_hat[c] += gradient * pooled_[static_cast<size_t>(n) * width + c];
      }
  }

  InputSums input_sums() const override { return input_; }

  void backward3(const Batch&, int image, View, int count, View e, View, View du, float*) const override {
    const int width = padded(s_.channels);
    for (int b = 0; b < width / LANES; ++b) {
      const V pooled = load(pooled_gradient_ + static_cast<size_t>(image) * width + b * LANES);
      for (int p = 0; p < count; ++p) store(du.at(b, p), load(e.at(b, p)) + pooled);
    }
  }

 private:
  enum class Statistics { OF_BATCH, OF_BATCH_AGAIN, RUNNING };  // again: the running ones have moved already

  const float* gate_at(int image, int block) const {
    return gate_ + static_cast<size_t>(image) * padded(s_.channels) + block * LANES;
  }

  // The mean over each image of the normalized x.
  void pool(const Batch& batch, float* pooled) const {
    const Shape& shape = batch.x.shape;
    const int width = padded(s_.channels);
    each_image(
        shape.images,
        [&] { return scratch().take<float>(static_cast<size_t>(width) * shape.tile()); },
        [&](float* buffer, int, int n) {
          float* mean = pooled + static_cast<size_t>(n) * width;
          std::fill(mean, mean + width, 0.0f);
          each_tile(shape, [&](int first, int count) {
            const View x = batch.x.read(n, first, count, buffer);
            for (int b = 0; b < width / LANES; ++b) {
              V total{};
              for (int p = 0; p < count; ++p) total += batch.hat(b, load(x.at(b, p)));
              store(mean + b * LANES, load(mean + b * LANES) + total * all(1.0f / shape.pixels()));
            }
          });
        });
  }

  // From the pooled images to one gate a channel and image; keeps what the backward pass needs.
  void gates(Batch& batch, const float* pooled, Statistics statistics) {
    const int channels = s_.channels, inner = s_.inner, width = padded(channels), images = batch.x.shape.images;
    Arena& arena = batch.arena;
    u_ = arena.take<double>(static_cast<size_t>(images) * channels);
    for (int n = 0; n < images; ++n)
      for (int c = 0; c < channels; ++c)
        u_[n * channels + c] =
            static_cast<double>(batch.norm.gamma[c]) * pooled[static_cast<size_t>(n) * width + c] + batch.norm.beta[c];
    a_ = layer(u_, images, channels, inner, arrays_.weight1, arrays_.norm1, batch.settings, statistics, z1_, inverse1_,
               arena);
    if (s_.inner_relu)
      for (int i = 0; i < images * inner; ++i) a_[i] = a_[i] < 0 ? 0 : a_[i];
    const double* v = layer(a_, images, inner, channels, arrays_.weight2, arrays_.norm2, batch.settings, statistics,
                            z2_, inverse2_, arena);
    gate_ = arena.zeros<float>(static_cast<size_t>(images) * width);
    for (int n = 0; n < images; ++n)
      for (int c = 0; c < channels; ++c)
        gate_[static_cast<size_t>(n) * width + c] = static_cast<float>(1 / (1 + std::exp(-v[n * channels + c])));
  }

  // BN(W in) for rows of `in`; z receives the normalized product, inverse 1 / sigma.
  static double* layer(const double* in, int rows, int inputs, int outputs, const float* weight,
                       const NormArrays& arrays, const NormSettings& settings, Statistics statistics, double*& z,
                       double*& inverse, Arena& arena) {
    z = arena.take<double>(static_cast<size_t>(rows) * outputs);
    inverse = arena.take<double>(outputs);
    double* out = arena.take<double>(static_cast<size_t>(rows) * outputs);
    for (int o = 0; o < outputs; ++o) {
      double mean = 0, variance = 0;
      for (int n = 0; n < rows; ++n) {
        double product = 0;
        for (int i = 0; i < inputs; ++i)
          product += static_cast<double>(weight[static_cast<size_t>(o) * inputs + i]) * in[n * inputs + i];
        z[n * outputs + o] = product;
        mean += product / rows;
      }
      for (int n = 0; n < rows; ++n) variance += (z[n * outputs + o] - mean) * (z[n * outputs + o] - mean) / rows;
      if (statistics == Statistics::OF_BATCH) {
        const double keep = settings.momentum;
        arrays.running_mean[o] = static_cast<float>(keep * arrays.running_mean[o] + (1 - keep) * mean);
        arrays.running_var[o] = static_cast<float>(keep * arrays.running_var[o] + (1 - keep) * variance);
      } else if (statistics == Statistics::RUNNING) {
        mean = arrays.running_mean[o];
        variance = arrays.running_var[o];
      }
      inverse[o] = 1 / std::sqrt(variance + settings.epsilon);
      for (int n = 0; n < rows; ++n) {
        z[n * outputs + o] = (z[n * outputs + o] - mean) * inverse[o];
        out[n * outputs + o] = arrays.gamma[o] * z[n * outputs + o] + arrays.beta[o];
      }
    }
    return out;
  }

  // Gradient of W in from that of BN(W in).
  static double* norm_gradient(const double* gradient, const double* z, int rows, int channels,
                               const NormArrays& arrays, const double* inverse, float* gamma, float* beta,
                               Arena& arena) {
    double* found = arena.take<double>(static_cast<size_t>(rows) * channels);
    for (int c = 0; c < channels; ++c) {
      double sum = 0, with_z = 0;
      for (int n = 0; n < rows; ++n) {
        sum += gradient[n * channels + c];
        with_z += gradient[n * channels + c] * z[n * channels + c];
      }
      beta[c] = static_cast<float>(sum);
      gamma[c] = static_cast<float>(with_z);
      for (int n = 0; n < rows; ++n)
        found[n * channels + c] = arrays.gamma[c] * inverse[c] *
                                  (gradient[n * channels + c] - sum / rows - z[n * channels + c] * with_z / rows);
    }
    return found;
  }

  // Gradient of W, and of `in` as the result, from the gradient of W in.
  static double* weight_gradient(const double* gradient, const double* in, int rows, int outputs, int inputs,
                                 const float* weight, float* weight_gradient, Arena& arena) {
    double* to_input = arena.zeros<double>(static_cast<size_t>(rows) * inputs);
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < inputs; ++i) {
        const size_t at = static_cast<size_t>(o) * inputs + i;
        double sum = 0;
        for (int n = 0; n < rows; ++n) {
          sum += gradient[n * outputs + o] * in[n * inputs + i];
          to_input[n * inputs + i] += gradient[n * outputs + o] * weight[at];
        }
        weight_gradient[at] = static_cast<float>(sum);
      }
    return to_input;
  }

  GateSettings s_;
  UnitArrays arrays_;
  const float* pooled_ = nullptr;
  float* gate_ = nullptr;
  double *u_ = nullptr, *a_ = nullptr, *z1_ = nullptr, *z2_ = nullptr, *inverse1_ = nullptr, *inverse2_ = nullptr;
  Sums sums_;
  double* to_gate_ = nullptr;
  float* pooled_gradient_ = nullptr;
  InputSums input_{};
};

}  // namespace atac
