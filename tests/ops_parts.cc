// Parts of the operators in situations that no call from Python brings about. tests/test_ops_limits.py compiles it with
// the sanitizers; it ends with a line for each fault, and at the end "done".
#include <cstdio>

#include "../ops/src/convolution.h"

using namespace atac;

static void expect(bool right, const char* what) {
  if (!right) std::printf("wrong: %s\n", what);
}

int main(int count, char**) {
  Arena arena;
  if (count > 1) {  // a write behind the first of two arrays
    float* first = arena.take<float>(20);
    arena.take<float>(20)[0] = 1;
    volatile int behind = 20;
    first[behind] = 1;
  }

  bool caught = false;
  try {
    each_image(40, [] { return scratch().take<float>(SIZE_MAX); }, [](float*, int, int) {});
  } catch (const std::bad_alloc&) {
    caught = true;
  }
  expect(caught, "an exception in a thread reaches the caller");
  int images = 0;
  each_image(40, [] { return 0; }, [&](int, int, int) {
#pragma omp atomic
    ++images;
  });
  expect(images == 40, "the next loop is whole");

  Sums sums(3, 40, arena);
  for (int group = 0; group < groups_of(40); ++group) sums.of(group)[1] = 1;
  expect(sums.total()[1] == 32 && sums.total()[1] == 32, "a total is the same twice");

  for (const int batch : {1, 31, 33, 128, 256, 257, 1000})
    for (int group = 0; group < groups_of(batch); ++group) {
      const int size = first_of(group + 1, batch) - first_of(group, batch);
      expect(size >= 1 && size <= 8, "a group has 1 to 8 images");
    }
  expect(groups_of(128) == 32, "a batch of 128 has 32 groups");

  const Shape shape{1, 16, 8, 8};
  const std::vector<float> weight(16 * 16 * 9);
  const auto ending = convolution(weight.data(), shape, Tensor{nullptr, shape, true}, 1, {});
  caught = false;
  try {
    ending->image_floats(false);
  } catch (const std::logic_error&) {
    caught = true;
  }
  expect(caught, "a convolution's memory is not known before its start");
  ending->start_forward(arena);
  expect(ending->image_floats(false) > 0, "and known behind it");
  std::printf("done\n");
}
