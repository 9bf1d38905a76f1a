// Batch normalization: batch statistics and running ones, and the two ways in which it is applied.
#pragma once
#include <cmath>
#include <utility>

#include "tensor.h"

namespace atac {

// The arrays of one BatchNorm as MXNet has them; gamma and beta are nullptr where they are fixed to 1 and 0.
struct NormArrays {
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float* running_mean = nullptr;
  float* running_var = nullptr;
};

struct NormGradients {
  float *gamma = nullptr, *beta = nullptr;
};

struct NormSettings {
  double epsilon = 1e-5;
  double momentum = 0.9;
};

// Moves the running statistics of channel c by a batch's, of which the variance is the biased one, as MXNet keeps it.
inline void move_running(const NormArrays& arrays, int c, double mean, double variance, const NormSettings& settings) {
  const double keep = settings.momentum;
  arrays.running_mean[c] = static_cast<float>(keep * arrays.running_mean[c] + (1 - keep) * mean);
  arrays.running_var[c] = static_cast<float>(keep * arrays.running_var[c] + (1 - keep) * variance);
}

// y = gamma (x - mean) inverse + beta = scale (x - mean) + shift, each of them padded to whole blocks with zeros. shift
// is beta, except for what is lost when the mean is rounded.
struct Norm {
  float *mean, *inverse, *gamma, *beta, *scale, *shift;

  Norm() = default;
  Norm(int channels, Arena& arena)
      : mean(arena.zeros<float>(padded(channels))), inverse(arena.zeros<float>(padded(channels))),
        gamma(arena.zeros<float>(padded(channels))), beta(arena.zeros<float>(padded(channels))),
        scale(arena.zeros<float>(padded(channels))), shift(arena.zeros<float>(padded(channels))) {}

  void set_affine(int channels, const NormArrays& arrays) {
    for (int c = 0; c < channels; ++c) {
      gamma[c] = arrays.gamma ? arrays.gamma[c] : 1;
      beta[c] = arrays.beta ? arrays.beta[c] : 0;
    }
  }

  // Statistics of channel c; gamma and beta are there already.
  void set(int c, double of_mean, double of_inverse) {
    mean[c] = static_cast<float>(of_mean);
    inverse[c] = static_cast<float>(of_inverse);
    scale[c] = static_cast<float>(gamma[c] * of_inverse);
    shift[c] = static_cast<float>(beta[c] - (of_mean - mean[c]) * gamma[c] * of_inverse);
  }

  void use_running(int channels, const NormArrays& arrays, const NormSettings& settings) {
    set_affine(channels, arrays);
    for (int c = 0; c < channels; ++c)
      set(c, arrays.running_mean[c], 1 / std::sqrt(arrays.running_var[c] + settings.epsilon));
  }

  // Batch statistics of channel c.
  void use_batch(int c, double batch_mean, double variance, const NormArrays& arrays, const NormSettings& settings) {
    variance = variance < 0 ? 0 : variance;
    set(c, batch_mean, 1 / std::sqrt(variance + settings.epsilon));
    move_running(arrays, c, batch_mean, variance, settings);
  }

  // For the pixels of a block, whose numbers are read once: the compiler could not know that stores leave them alone.
  struct Applied {
    V scale, mean, shift;
    V operator()(V x) const { return scale * (x - mean) + shift; }
  };
  struct Normalized {
    V mean, inverse;
    V operator()(V x) const { return (x - mean) * inverse; }
  };
  struct Affine {
    V gamma, beta;
    V operator()(V normalized) const { return gamma * normalized + beta; }
  };

  Applied applied(int block) const {
    return {load(scale + block * LANES), load(mean + block * LANES), load(shift + block * LANES)};
  }
  Normalized normalized(int block) const { return {load(mean + block * LANES), load(inverse + block * LANES)}; }
  Affine affine(int block) const { return {load(gamma + block * LANES), load(beta + block * LANES)}; }
};

// Mean of each channel and the covariances of all pairs (biased), or only the variances.
struct Moments {
  double* mean;        // [channels]
  double* covariance;  // [channels][channels], or [channels] variances
};

// Moments of f(x), where f turns a tile of `from` into one of `channels` channels; `shift` is near the means, so that
// little cancels. make() gives f its buffers, once a thread.
template <class Make, class F>
Moments moments(const Tensor& from, int channels, const float* shift, bool pairs, Make make, F f, Arena& arena) {
  const int blocks = blocks_of(channels), width = blocks * LANES, tile = from.shape.tile();
  Sums sums(width + (pairs ? static_cast<size_t>(width) * width : width), from.shape.images, arena);
  struct Buffers {
    decltype(make()) own;
    float *input, *centred, *products;
  };
  each_image(
      from.shape.images,
      [&] {
        return Buffers{make(), scratch().take<float>(from.shape.blocks() * tile * LANES),
                       scratch().take<float>(static_cast<size_t>(blocks) * tile * LANES),
                       scratch().take<float>(pairs ? static_cast<size_t>(width) * width : width)};
      },
      [&](Buffers& buffers, int group, int n) {
        double* sum = sums.of(group);
        double* products = sum + width;
        std::memset(buffers.products, 0, sizeof(float) * (pairs ? static_cast<size_t>(width) * width : width));
        each_tile(from.shape, [&](int first, int count) {
          const View values = f(buffers.own, from.read(n, first, count, buffers.input), count);
          const View centred{buffers.centred, static_cast<ptrdiff_t>(count) * LANES};
          for (int b = 0; b < blocks; ++b) {
            const V near = load(shift + b * LANES);
            V total{}, squares{};
            for (int p = 0; p < count; ++p) {
              const V x = load(values.at(b, p)) - near;
              total += x;
              if (pairs)
                store(centred.at(b, p), x);
              else
                squares += x * x;
            }
            add_to(sum + b * LANES, total);
            if (!pairs) store(buffers.products + b * LANES, load(buffers.products + b * LANES) + squares);
          }
          if (!pairs) return;
          for (int b = 0; b < blocks; ++b)
            for (int rows = 0; rows <= b; ++rows)
              outer(std::min(LANES, channels - rows * LANES), centred.at(rows, 0), 0, LANES, centred.at(b, 0), 0, LANES,
                    1, count, buffers.products + (static_cast<size_t>(b) * blocks + rows) * LANES * LANES);
        });
        const size_t size = pairs ? static_cast<size_t>(width) * width : width;
        for (size_t i = 0; i < size; i += LANES) add_to(products + i, load(buffers.products + i));
      });
  const double* sum = sums.total();
  const double* products = sum + width;
  const double count = from.shape.count();
  Moments found{arena.take<double>(channels), arena.take<double>(pairs ? static_cast<size_t>(channels) * channels
                                                                       : channels)};
  for (int c = 0; c < channels; ++c) {
    const double mean = sum[c] / count;
    found.mean[c] = shift[c] + mean;
    if (!pairs) {
      found.covariance[c] = products[c] / count - mean * mean;
      continue;
    }
    for (int d = 0; d <= c; ++d) {
      const size_t block = static_cast<size_t>(c / LANES) * blocks + d / LANES;
      const double product = products[(block * LANES + d % LANES) * LANES + c % LANES];
      found.covariance[static_cast<size_t>(c) * channels + d] =
          found.covariance[static_cast<size_t>(d) * channels + c] = product / count - mean * sum[d] / count;
    }
  }
  return found;
}

// Mean and variance of each channel of a map that is made image by image: those of an image while it is in the cache,
// the squares around its own mean, then those of all.
class MomentsOfImages {
 public:
  MomentsOfImages(const Shape& map, Arena& arena)
      : map_(map), width_(padded(map.channels)), means_(arena.zeros<double>(static_cast<size_t>(map.images) * width_)),
        squares_(arena.zeros<double>(static_cast<size_t>(map.images) * width_)) {}

  void set(int image, View x) const {
    for (int b = 0; b < map_.blocks(); ++b) {
      V total{}, squares{};
      for (int p = 0; p < map_.pixels(); ++p) total += load(x.at(b, p));
      const V mean = total * all(1.0f / map_.pixels());
      for (int p = 0; p < map_.pixels(); ++p) squares += (load(x.at(b, p)) - mean) * (load(x.at(b, p)) - mean);
      add_to(means_ + static_cast<size_t>(image) * width_ + b * LANES, mean);
      add_to(squares_ + static_cast<size_t>(image) * width_ + b * LANES, squares);
    }
  }

  // (mean, variance) of a channel over all images.
  std::pair<double, double> of(int c) const {
    double mean = 0, variance = 0;
    for (int n = 0; n < map_.images; ++n) mean += means_[static_cast<size_t>(n) * width_ + c] / map_.images;
    for (int n = 0; n < map_.images; ++n) {
      const double off = means_[static_cast<size_t>(n) * width_ + c] - mean;
      variance += (squares_[static_cast<size_t>(n) * width_ + c] / map_.pixels() + off * off) / map_.images;
    }
    return {mean, variance};
  }

 private:
  Shape map_;
  int width_;
  double *means_, *squares_;
};

// Moments of the numbers themselves. Shifted by the means of two of the images.
inline Moments moments(const Tensor& x, bool pairs, Arena& arena) {
  const Shape& shape = x.shape;
  float* shift = arena.zeros<float>(padded(shape.channels));
  float* buffer = arena.take<float>(static_cast<size_t>(shape.blocks()) * shape.tile() * LANES);
  for (int n : {0, shape.images / 2})
    each_tile(shape, [&](int first, int count) {
      const View tile = x.read(n, first, count, buffer);
      for (int b = 0; b < shape.blocks(); ++b) {
        V total{};
        for (int p = 0; p < count; ++p) total += load(tile.at(b, p));
        store(shift + b * LANES, load(shift + b * LANES) + total * all(0.5f / shape.pixels()));
      }
    });
  return moments(
      x, shape.channels, shift, pairs, [] { return 0; }, [](int, View tile, int) { return tile; }, arena);
}

}  // namespace atac
