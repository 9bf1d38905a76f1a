// What stands between a block's second convolution and the addition of its shortcut: "none"; "se", "theta_minus",
// "theta" or "theta_plus", which gate whole images (gather_excite.h); or "atac 1", LocalSE, which is ATAC's unit without
// a BatchNorm before it.
#pragma once
#include "gather_excite.h"
#include "region.h"
#include "units.h"

namespace atac {

struct RefinementKind {
  std::string name;
  bool learned, layers, local;

  explicit RefinementKind(const Attributes& attributes) : name(attribute(attributes, "refine", "none")) {
    local = name.compare(0, 4, "atac") == 0;
    learned = name == "theta" || name == "theta_plus";
    layers = name == "se" || name == "theta_plus";
    if (local)
      UnitKind(attributes, "refine");
    else if (!gated() && name != "none")
      throw Fault("there is no refinement '" + name + "'");
  }

  // Whether the gate is one number for each channel of an image.
  bool gated() const { return learned || layers || name == "theta_minus"; }

  std::string roles(const Attributes& attributes) const {
    if (local) return UnitKind(attributes, "refine").roles();
    return std::string(learned ? "w" + NORM : "") + (layers ? "wwww" : "");
  }
};

struct Refinement {
  RefinementKind kind;
  std::unique_ptr<UnitInputs> unit;  // of LocalSE
  GateArrays gate;
  int inner = 0;

  // map: of the convolution's output.
  Refinement(Arrays& arrays, const Attributes& attributes, const Shape& map) : kind(attributes) {
    const unsigned channels = static_cast<unsigned>(map.channels);
    if (kind.local) unit.reset(new UnitInputs(arrays, attributes, "refine", map.channels));
    if (kind.learned) {
      gate.gather = arrays.next("gather", {channels, 1, static_cast<unsigned>(map.height),
                                           static_cast<unsigned>(map.width)});
      gate.norm = next_norm(arrays, "gather BatchNorm", map.channels);
    }
    if (!kind.layers) return;
    inner = arrays.peek_inner("refine", map.channels);
    const unsigned found = static_cast<unsigned>(inner);
    gate.weight1 = arrays.next("refine first weight", {found, channels, 1, 1});
    gate.bias1 = arrays.next("refine first bias", {found});
    gate.weight2 = arrays.next("refine second weight", {channels, found, 1, 1});
    gate.bias2 = arrays.next("refine second bias", {channels});
  }

  bool present() const { return kind.gated() || kind.local; }

  // Floats that the backward pass needs beside the map.
  size_t saved_size(const Shape& map) const {
    if (kind.local) return Region::saved_size(map, *unit->build());
    return kind.gated() ? GatherExcite::saved_size(map) : 0;
  }

  // The gate between a map and the block's output (or its gradient), nullptr where there is none.
  std::unique_ptr<GatherExcite> gate_between(const Tensor& map, const Tensor& out, const NormSettings& settings,
                                             const Shortcut* shortcut, Arena& arena) const {
    if (!kind.gated()) return nullptr;
    return std::unique_ptr<GatherExcite>(new GatherExcite(gate, inner, settings, map, out, shortcut, arena));
  }

  Region region(const Tensor& map, const NormSettings& settings, Arena& arena) const {
    return Region(map, false, NormArrays(), settings, unit->build(), arena);
  }
};

struct RefinementGradients {
  UnitGradients unit;
  GateGradients gate;

  RefinementGradients(const Refinement& refinement, Gradients& gradients) {
    if (refinement.kind.local) unit = refinement.unit->gradients(gradients);
    if (refinement.kind.learned) {
      gate.gather = gradients.next();
      gate.norm = gradients.norm();
    }
    if (!refinement.kind.layers) return;
    gate.weight1 = gradients.next();
    gate.bias1 = gradients.next();
    gate.weight2 = gradients.next();
    gate.bias2 = gradients.next();
  }
};

}  // namespace atac
