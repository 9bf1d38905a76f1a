// Refinements that weigh each channel of a whole image: SE [Hu et al. 2018] and gather-excite [Hu et al. 2018b]. For
// each image and channel of a map y, p being its pixels:
//
//   s = sum over p of y_p w_p                gather: w_p = 1 / pixels, or learned
//   m = s, or BN(s) where w is learned       BN over the images of the batch
//   v = m, or W2 ReLU(W1 m + b1) + b2        excite
//   out = y g + shortcut, g = sigmoid(v)
//
// Backward, from the gradient d of out:  dv = g (1 - g) sum over p of d_p y_p,  then by the chain rule ds, and
//
//   dy_p = d_p g + ds w_p                    dw_p = sum over the images of ds y_p
//
// Without BN a gate follows from its image alone, and everything is done while the image is in the cache. With BN all
// images have to be gathered first: one more loop over them forward, and one backward.
#pragma once
#include "ending.h"
#include "norm.h"

namespace atac {

// As MXNet has them; nullptr for what a refinement has not.
struct GateArrays {
  const float* gather = nullptr;  // (C, 1, H, W)
  NormArrays norm;
  const float *weight1 = nullptr, *bias1 = nullptr, *weight2 = nullptr, *bias2 = nullptr;
};

struct GateGradients {
  float* gather = nullptr;
  NormGradients norm;
  float *weight1 = nullptr, *bias1 = nullptr, *weight2 = nullptr, *bias2 = nullptr;
};

class GatherExcite : public GradientSource {
 public:
  // inner: channels between the two layers, 0 for no layers. In the backward pass `out` is the output's gradient, and
  // there is no shortcut.
  GatherExcite(const GateArrays& arrays, int inner, const NormSettings& settings, const Tensor& y, const Tensor& out,
               const Shortcut* shortcut, Arena& arena)
      : arrays_(arrays), inner_(inner), settings_(settings), y_(y), out_(out), shortcut_(shortcut), arena_(arena),
        channels_(y.shape.channels), images_(y.shape.images), width_(padded(channels_)),
        scale_(arena.take<double>(channels_)), mean_(arena.zeros<double>(channels_)),
        inverse_(arena.take<double>(channels_)), m_(arena.take<double>(rows(channels_))),
        a_(arena.take<double>(rows(inner))), gate_(arena.zeros<float>(rows(width_))) {
    for (int c = 0; c < channels_; ++c) scale_[c] = inverse_[c] = 1;
    if (!arrays.gather) return;
    weights_ = arena.zeros<float>(static_cast<size_t>(y.shape.pixels()) * width_);
    for (int c = 0; c < channels_; ++c)
      for (int p = 0; p < y.shape.pixels(); ++p) weights_[place(c, p)] = arrays.gather[c * y.shape.pixels() + p];
  }

  // Floats to keep from the forward to the backward pass: s of all images.
  static size_t saved_size(const Shape& y) { return static_cast<size_t>(y.images) * padded(y.channels); }

  // ---- Forward: `train` or `infer`, `image` for each image once its y is complete, `finish` behind the last.

  void train(float* saved) {
    gathered_ = saved;
    waits_ = arrays_.gather != nullptr;
  }

  void infer() {
    gathered_ = arena_.take<float>(rows(width_));
    for (int c = 0; arrays_.gather && c < channels_; ++c)
      set_norm(c, arrays_.norm.running_mean[c], arrays_.norm.running_var[c]);
  }

  void image(int n) const {
    gather(n);
    if (!waits_) add(n);
  }

  void finish() {
    if (!waits_) return;
    set_norms(true);
    each_image(images_, [] { return 0; }, [&](int, int, int n) { add(n); });
  }

  // ---- Backward: `start_backward`, `gradient` for each image, `finish_backward`.

  void start_backward(float* saved) {
    gathered_ = saved;
    dv_ = arena_.take<double>(rows(channels_));
    da_ = arena_.take<double>(rows(inner_));
    ds_ = arena_.take<double>(rows(channels_));
    if (!arrays_.gather) return;
    partial_ = arena_.zeros<float>(groups_of(images_) * weights_size());
    set_norms(false);
    each_image(images_, [] { return 0; }, [&](int, int, int n) { gate_gradient(n); });
    through_norm();
  }

  size_t source_floats() const override { return 0; }

  // dy of an image.
  void gradient(int group, int n, View dy, float*) const override {
    if (!arrays_.gather) gate_gradient(n);
    const Shape& shape = y_.shape;
    const View d = out_.view(n), y = y_.view(n);
    for (int b = 0; b < shape.blocks(); ++b) {
      float slopes[LANES];
      for (int lane = 0; lane < LANES; ++lane) slopes[lane] = static_cast<float>(row(ds_, n)[b * LANES + lane]);
      const V gate = load(gate_of(n, b)), slope = load(slopes), mean_slope = slope * all(1.0f / shape.pixels());
      if (!arrays_.gather) {
        for (int p = 0; p < shape.pixels(); ++p) store(dy.at(b, p), load(d.at(b, p)) * gate + mean_slope);
        continue;
      }
      const float* weight = weights_ + place(b * LANES, 0);
      float* gradient = partial_ + group * weights_size() + place(b * LANES, 0);
      for (int p = 0; p < shape.pixels(); ++p) {
        store(dy.at(b, p), load(d.at(b, p)) * gate + slope * load(weight + p * LANES));
        store(gradient + p * LANES, load(gradient + p * LANES) + slope * load(y.at(b, p)));
      }
    }
  }

  void finish_backward(const GateGradients& gradients) const {
    if (inner_) {
      layer_gradient(dv_, channels_, a_, inner_, gradients.weight2, gradients.bias2);
      layer_gradient(da_, inner_, m_, channels_, gradients.weight1, gradients.bias1);
    }
    if (!arrays_.gather) return;
    const int pixels = y_.shape.pixels();
    for (int c = 0; c < channels_; ++c) {
      gradients.norm.gamma[c] = static_cast<float>(gamma_gradient_[c]);
      gradients.norm.beta[c] = static_cast<float>(beta_gradient_[c]);
      for (int p = 0; p < pixels; ++p) {
        double total = 0;
        for (int group = 0; group < groups_of(images_); ++group)
          total += partial_[group * weights_size() + place(c, p)];
        gradients.gather[c * pixels + p] = static_cast<float>(total);
      }
    }
  }

 private:
  size_t rows(int width) const { return static_cast<size_t>(images_) * width; }
  template <class T>
  T* row(T* array, int n) const { return array + static_cast<size_t>(n) * channels_; }
  double* inner_row(double* array, int n) const { return array + static_cast<size_t>(n) * inner_; }
  float* gate_of(int n, int block) const { return gate_ + static_cast<size_t>(n) * width_ + block * LANES; }
  float* gathered_of(int n, int block) const { return gathered_ + static_cast<size_t>(n) * width_ + block * LANES; }

  // The weights are in blocks of channels, as a map is.
  size_t weights_size() const { return static_cast<size_t>(y_.shape.pixels()) * width_; }
  size_t place(int c, int p) const {
    return (static_cast<size_t>(c / LANES) * y_.shape.pixels() + p) * LANES + c % LANES;
  }

  // Sum over the pixels of y and `factor(pixel)`, of which 64 are added in a row: rounding stays small.
  template <class F>
  V sum(View y, int block, F factor) const {
    V total{};
    for (int first = 0; first < y_.shape.pixels(); first += 64) {
      V part{};
      for (int p = first; p < std::min(first + 64, y_.shape.pixels()); ++p) part += load(y.at(block, p)) * factor(p);
      total += part;
    }
    return total;
  }

  void gather(int n) const {
    const V share = all(1.0f / y_.shape.pixels());
    for (int b = 0; b < y_.shape.blocks(); ++b) {
      const float* weight = weights_ + place(b * LANES, 0);
      store(gathered_of(n, b), arrays_.gather ? sum(y_.view(n), b, [&](int p) { return load(weight + p * LANES); })
                                              : sum(y_.view(n), b, [&](int) { return share; }));
    }
  }

  void set_norm(int c, double mean, double variance) const {
    mean_[c] = mean;
    inverse_[c] = 1 / std::sqrt(variance + settings_.epsilon);
    scale_[c] = arrays_.norm.gamma[c] * inverse_[c];
  }

  // From the gathered numbers of all images; the first time it `moves` the running statistics.
  void set_norms(bool moves) const {
    for (int c = 0; c < channels_; ++c) {
      double mean = 0, variance = 0;
      for (int n = 0; n < images_; ++n) mean += gathered_of(n, 0)[c] / static_cast<double>(images_);
      for (int n = 0; n < images_; ++n) variance += std::pow(gathered_of(n, 0)[c] - mean, 2) / images_;
      set_norm(c, mean, variance);
      if (moves) move_running(arrays_.norm, c, mean, variance, settings_);
    }
  }

  // m, a and the gate of an image.
  void excite(int n) const {
    double *m = row(m_, n), *a = inner_row(a_, n);
    for (int c = 0; c < channels_; ++c)
      m[c] = scale_[c] * (gathered_of(n, 0)[c] - mean_[c]) + (arrays_.norm.beta ? arrays_.norm.beta[c] : 0);
    for (int j = 0; j < inner_; ++j) {
      a[j] = product(arrays_.weight1 + static_cast<size_t>(j) * channels_, m, channels_) + arrays_.bias1[j];
      if (a[j] < 0) a[j] = 0;
    }
    for (int c = 0; c < channels_; ++c) {
      const double v =
          inner_ ? product(arrays_.weight2 + static_cast<size_t>(c) * inner_, a, inner_) + arrays_.bias2[c] : m[c];
      gate_of(n, 0)[c] = static_cast<float>(1 / (1 + std::exp(-v)));
    }
  }

  static double product(const float* weight, const double* in, int count) {
    double total = 0;
    for (int i = 0; i < count; ++i) total += weight[i] * in[i];
    return total;
  }

  // out of an image.
  void add(int n) const {
    excite(n);
    const View y = y_.view(n), out = out_.view(n), shortcut = shortcut_->forward(n, out_.shape, out);
    for (int b = 0; b < y_.shape.blocks(); ++b) {
      const V gate = load(gate_of(n, b));
      for (int p = 0; p < y_.shape.pixels(); ++p)
        store(out.at(b, p), load(y.at(b, p)) * gate + load(shortcut.at(b, p)));
    }
  }

  // dv, da and dm of an image; dm takes the place of ds, which it is without BN.
  void gate_gradient(int n) const {
    excite(n);
    double *dv = row(dv_, n), *da = inner_row(da_, n), *dm = row(ds_, n);
    const View d = out_.view(n);
    for (int b = 0; b < y_.shape.blocks(); ++b) {
      float to_gate[LANES];
      store(to_gate, sum(y_.view(n), b, [&](int p) { return load(d.at(b, p)); }));
      for (int c = b * LANES; c < std::min(b * LANES + LANES, channels_); ++c) {
        const double gate = gate_of(n, 0)[c];
        dv[c] = to_gate[c % LANES] * gate * (1 - gate);
      }
    }
    if (!inner_) {
      std::copy(dv, dv + channels_, dm);
      return;
    }
    back(arrays_.weight2, dv, channels_, inner_, da);
    for (int j = 0; j < inner_; ++j)
      if (!(inner_row(a_, n)[j] > 0)) da[j] = 0;
    back(arrays_.weight1, da, inner_, channels_, dm);
  }

  // W^T times the gradient of W in.
  static void back(const float* weight, const double* gradient, int outputs, int inputs, double* to) {
    std::fill(to, to + inputs, 0.0);
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < inputs; ++i) to[i] += weight[static_cast<size_t>(o) * inputs + i] * gradient[o];
  }

  // Replaces dm by ds = gamma / sigma (dm - mean of dm - shat times mean of dm shat).
  void through_norm() {
    gamma_gradient_ = arena_.zeros<double>(channels_);
    beta_gradient_ = arena_.zeros<double>(channels_);
    const auto hat = [&](int n, int c) { return (gathered_of(n, 0)[c] - mean_[c]) * inverse_[c]; };
    for (int c = 0; c < channels_; ++c) {
      for (int n = 0; n < images_; ++n) {
        beta_gradient_[c] += row(ds_, n)[c];
        gamma_gradient_[c] += row(ds_, n)[c] * hat(n, c);
      }
      for (int n = 0; n < images_; ++n)
        row(ds_, n)[c] =
            scale_[c] * (row(ds_, n)[c] - beta_gradient_[c] / images_ - hat(n, c) * gamma_gradient_[c] / images_);
    }
  }

  void layer_gradient(const double* gradient, int outputs, const double* in, int inputs, float* weight,
                      float* bias) const {
    for (int o = 0; o < outputs; ++o) {
      double total = 0;
      for (int n = 0; n < images_; ++n) total += gradient[static_cast<size_t>(n) * outputs + o];
      bias[o] = static_cast<float>(total);
      for (int i = 0; i < inputs; ++i) {
        double product = 0;
        for (int n = 0; n < images_; ++n)
          product += gradient[static_cast<size_t>(n) * outputs + o] * in[static_cast<size_t>(n) * inputs + i];
        weight[static_cast<size_t>(o) * inputs + i] = static_cast<float>(product);
      }
    }
  }

  GateArrays arrays_;
  int inner_;
  NormSettings settings_;
  Tensor y_, out_;
  const Shortcut* shortcut_;
  Arena& arena_;
  int channels_, images_, width_;
  bool waits_ = false;  // for the batch, before it can add
  float *gathered_ = nullptr, *weights_ = nullptr;
  double *scale_, *mean_, *inverse_, *m_, *a_;
  float* gate_;
  double *dv_ = nullptr, *da_ = nullptr, *ds_ = nullptr, *gamma_gradient_ = nullptr, *beta_gradient_ = nullptr;
  float* partial_ = nullptr;
};

}  // namespace atac
