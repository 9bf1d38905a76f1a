// BatchNorm, unit, ending: the stretch of the network that is computed in one go, forward and backward.
#pragma once
#include "ending.h"
#include "unit.h"

namespace atac {

class Region : public GradientSource {
 public:
  Region(const Tensor& x, bool has_norm, const NormArrays& norm, const NormSettings& settings,
         std::unique_ptr<Unit> unit, Arena& arena)
      : batch_{x, Norm(x.shape.channels, arena), has_norm, norm, settings, arena}, unit_(std::move(unit)) {
    if (has_norm) batch_.norm.set_affine(x.shape.channels, norm);
  }

  // Floats to keep from `train` to `backward`.
  static size_t saved_size(const Shape& shape, const Unit& unit) { return 2 * shape.channels + unit.saved_size(shape); }

  void train(Ending& ending, float* saved) {
    const Tensor& x = batch_.x;
    const int channels = x.shape.channels;
    const bool pairs = unit_->wants_covariances();
    const Moments found = moments(x, pairs, batch_.arena);
    for (int c = 0; c < channels; ++c) {
      const double variance = found.covariance[pairs ? static_cast<size_t>(c) * channels + c : c];
      if (batch_.has_norm)
        batch_.norm.use_batch(c, found.mean[c], variance, batch_.norm_arrays, batch_.settings);
      else
        use_none(c, found.mean[c]);
      saved[c] = batch_.norm.mean[c];
      saved[channels + c] = batch_.norm.inverse[c];
    }
    unit_->statistics(batch_, found, saved + 2 * channels);
    ending.start_forward(batch_.arena);
    each(ending, false);
    ending.finish_forward();
  }

  void infer(Ending& ending) {
    prepare(ending);
    each(ending);
  }

  // What inference needs of the arrays and not of x; then `image` may be called, by several threads for different
  // images.
  void prepare(Ending& ending) {
    if (batch_.has_norm)
      batch_.norm.use_running(batch_.x.shape.channels, batch_.norm_arrays, batch_.settings);
    else
      for (int c = 0; c < batch_.x.shape.channels; ++c) use_none(c, 0);
    unit_->use_running(batch_);
    ending.start_forward(batch_.arena);
  }

  void image(const Ending& ending, int n) const {
    scratch().reset();
    Buffers buffers(*unit_, batch_.x.shape, ending.image_floats(false));
    ending.start(buffers.image);
    infer_image(ending, n, buffers);
  }

  // Writes the gradients of the norm's and the unit's arrays; the ending keeps its own. Then dx can be asked for, image
  // by image.
  void backward_sums(Ending& ending, const float* saved, const NormGradients& norm_gradients,
                     const UnitGradients& unit_gradients) {
    const Shape& shape = batch_.x.shape;
    const int channels = shape.channels;
    Arena& arena = batch_.arena;
    for (int c = 0; c < channels; ++c)
      batch_.has_norm ? batch_.norm.set(c, saved[c], saved[channels + c]) : use_none(c, saved[c]);
    unit_->restore(batch_, saved + 2 * channels);
    unit_->start_backward(batch_);
    ending.start_backward(arena);
    kept_a_ = blocked_like(shape, true);
    kept_b_ = blocked_like(shape, unit_->has_second_pass());

    const auto prepare = [&] { return Buffers(*unit_, shape, ending.image_floats(true)); };
    each_image(
        shape.images,
        [&] {
          Buffers buffers = prepare();
          ending.start(buffers.image);
          return buffers;
        },
        [&](Buffers& buffers, int group, int n) {
          const View dy = ending.gradient(group, n, buffers.image);
          each_tile(shape, [&](int first, int count) {
            const View x = batch_.x.read(n, first, count, buffers.x);
            const View y{ending.wants_output() ? buffers.y : nullptr, static_cast<ptrdiff_t>(count) * LANES};
            unit_->backward_output(batch_, Pixels{group, n, first, count}, x, View{dy.at(0, first), dy.plane}, y,
                                   part(kept_a_, n, first), part(kept_b_, n, first), buffers.unit);
            if (ending.wants_output()) ending.put(n, first, count, y, buffers.image);
          });
          ending.image_gradients(group, n, buffers.image);
        });
    unit_->finish_output(batch_, unit_gradients);

    if (unit_->has_second_pass()) {
      each_image(shape.images, prepare, [&](Buffers& buffers, int group, int n) {
        unit_->backward_inner_of_image(batch_, group, n, part(kept_b_, n, 0), buffers.x, buffers.unit);
      });
      unit_->finish_inner(batch_, unit_gradients);
    }

    const InputSums sums = unit_->input_sums();
    du_mean_ = arena.zeros<float>(padded(channels));
    du_hat_mean_ = arena.zeros<float>(padded(channels));
    for (int c = 0; batch_.has_norm && c < channels; ++c) {
      du_mean_[c] = static_cast<float>(sums.du[c] / shape.count());
      du_hat_mean_[c] = static_cast<float>(sums.du_hat[c] / shape.count());
      if (norm_gradients.beta) norm_gradients.beta[c] = static_cast<float>(sums.du[c]);
      if (norm_gradients.gamma) norm_gradients.gamma[c] = static_cast<float>(sums.du_hat[c]);
    }
  }

  // After backward_sums: writes dx. after_image(group, image) is called when an image's is complete, in the thread that
  // wrote it.
  template <class F>
  void backward_input(const Tensor& dx, F after_image) const {
    const Shape& shape = batch_.x.shape;
    each_image(shape.images, [&] { return Buffers(*unit_, shape, 0); }, [&](Buffers& buffers, int group, int n) {
      each_tile(shape, [&](int first, int count) {
        const View to = dx.target(n, first, count, buffers.y);
        input_gradient(Pixels{group, n, first, count}, to, buffers.x, buffers.unit);
        dx.wrote(n, first, count, to);
      });
      after_image(group, n);
    });
  }

  // The same for one image, where x is blocked.
  size_t source_floats() const override { return unit_->tile_floats(batch_.x.shape); }
  void gradient(int group, int image, View to, float* floats) const override {
    each_tile(batch_.x.shape, [&](int first, int count) {
      input_gradient(Pixels{group, image, first, count}, View{to.at(0, first), to.plane}, nullptr, floats);
    });
  }

 private:
  // One thread's memory.
  struct Buffers {
    float *x, *y, *unit, *image;

    Buffers(const Unit& unit_of, const Shape& shape, size_t image_floats) {
      const size_t tile = static_cast<size_t>(shape.blocks()) * shape.tile() * LANES;
      x = scratch().take<float>(tile);
      y = scratch().take<float>(tile);
      unit = scratch().take<float>(unit_of.tile_floats(shape));
      image = scratch().take<float>(image_floats);
    }
  };

  // dx of a tile: du through the norm, gamma / sigma (du - mean of du - xhat times mean of du xhat).
  void input_gradient(const Pixels& at, View to, float* buffer, float* floats) const {
    const View x = batch_.x.read(at.image, at.first, at.count, buffer);
    unit_->backward_input(batch_, at, x, part(kept_a_, at.image, at.first), part(kept_b_, at.image, at.first), to,
                          floats);
    for (int b = 0; batch_.has_norm && b < batch_.x.shape.blocks(); ++b) {
      const V mean = load(du_mean_ + b * LANES), with_hat = load(du_hat_mean_ + b * LANES);
      const V scale = load(batch_.norm.scale + b * LANES);
      const auto hat_of = batch_.norm.normalized(b);
      for (int p = 0; p < at.count; ++p)
        store(to.at(b, p), scale * (load(to.at(b, p)) - mean - hat_of(load(x.at(b, p))) * with_hat));
    }
  }

  void infer_image(const Ending& ending, int n, const Buffers& buffers) const {
    unit_->look(batch_, n, buffers.x, buffers.unit);
    compute(ending, 0, n, buffers);
  }

  void compute(const Ending& ending, int group, int n, const Buffers& buffers) const {
    each_tile(batch_.x.shape, [&](int first, int count) {
      const View y = ending.tile(n, first, count, buffers.image, buffers.y);
      unit_->apply(batch_, Pixels{group, n, first, count}, batch_.x.read(n, first, count, buffers.x), y, buffers.unit);
      ending.put(n, first, count, y, buffers.image);
    });
    ending.finish(n, buffers.image);
  }

  void each(const Ending& ending, bool inference = true) const {
    const Shape& shape = batch_.x.shape;
    each_image(
        shape.images,
        [&] {
          Buffers buffers(*unit_, shape, ending.image_floats(false));
          ending.start(buffers.image);
          return buffers;
        },
        [&](Buffers& buffers, int group, int n) {
          inference ? infer_image(ending, n, buffers) : compute(ending, group, n, buffers);
        });
  }

  // No norm: u = x, written as (x - mean) + mean.
  void use_none(int c, double mean) {
    batch_.norm.gamma[c] = 1;
    batch_.norm.beta[c] = static_cast<float>(mean);
    batch_.norm.set(c, mean, 1);
  }

  Tensor blocked_like(const Shape& shape, bool wanted) const {
    Shape whole = shape;
    whole.channels = padded(shape.channels);
    const size_t size = static_cast<size_t>(whole.images) * whole.channels * whole.pixels();
    return {wanted ? batch_.arena.take<float>(size) : nullptr, whole, true};
  }

  static View part(const Tensor& kept, int n, int first) {
    return kept.data ? View{kept.view(n).at(0, first), kept.view(n).plane} : View{nullptr, 0};
  }

  Batch batch_;
  std::unique_ptr<Unit> unit_;
  Tensor kept_a_, kept_b_;
  float *du_mean_ = nullptr, *du_hat_mean_ = nullptr;
};

}  // namespace atac
