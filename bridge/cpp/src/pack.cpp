#include "pack.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "values.hpp"
#include "words.hpp"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "arrays of floats are sent as they lie in memory; allowed: a little-endian machine"
#endif

namespace sim_stream {
namespace {

std::string frames_allowed(const StreamSpec& spec) {
  const auto& [height, width, channels] = spec.frame_shape;
  const auto& [low, high] = spec.prompt_frames;
  return "uint8 [" + std::to_string(low) + ".." + std::to_string(high) + ", " +
         std::to_string(height) + ", " + std::to_string(width) + ", " + std::to_string(channels) +
         "]";
}

// One array [T, H, W, 3]; none for zero frames.
void pack_frames(const std::vector<Image>& frames, const StreamSpec& spec, wire::OutgoingArrays& arrays) {
  const auto& [height, width, channels] = spec.frame_shape;
  const auto count = static_cast<std::int64_t>(frames.size());
  wire::OutgoingArray array;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const Image& frame = frames[i];
    if (static_cast<std::int64_t>(frame.height) != height ||
        static_cast<std::int64_t>(frame.width) != width ||
        static_cast<std::int64_t>(frame.rgb.size()) != height * width * channels) {
      refuse("frames[" + std::to_string(i) + "]",
             std::to_string(frame.height) + " x " + std::to_string(frame.width) + ", " +
                 std::to_string(frame.rgb.size()) + " bytes",
             frames_allowed(spec));
    }
    array.bytes.insert(array.bytes.end(), frame.rgb.begin(), frame.rgb.end());
  }
  const std::vector<std::int64_t> shape{count, height, width, channels};
  if (count < spec.prompt_frames[0] || count > spec.prompt_frames[1]) {
    refuse("frames", describe(ArrayView(array.bytes.data(), shape)), frames_allowed(spec));
  }
  if (count > 0) {
    array.spec = {"frames", "|u1", shape, static_cast<std::int64_t>(array.bytes.size())};
    arrays.push_back(std::move(array));
  }
}

void append(std::vector<std::uint8_t>& bytes, const ArrayView& array) {
  const auto copy = [&](const auto* elements) {
    const std::size_t before = bytes.size();
    bytes.resize(before + array.size() * sizeof *elements);
    std::memcpy(bytes.data() + before, elements, bytes.size() - before);
  };
  std::visit(copy, array.data());
}

// Numbers and texts.
wire::Scalars scalars(const Inputs& inputs) {
  wire::Scalars found;
  for (const auto& [name, input] : inputs) {
    if (const auto* number = std::get_if<double>(&input.get())) {
      found.emplace(name, *number);
    } else if (const auto* text = std::get_if<std::string>(&input.get())) {
      found.emplace(name, *text);
    }
  }
  return found;
}

void pack_arrays(const Inputs& inputs, wire::OutgoingArrays& arrays) {
  for (const auto& [name, input] : inputs) {
    if (const auto* view = std::get_if<ArrayView>(&input.get())) {
      wire::OutgoingArray array;
      append(array.bytes, *view);
      array.spec = {"inputs." + name, view->dtype(), view->shape(),
                    static_cast<std::int64_t>(array.bytes.size())};
      arrays.push_back(std::move(array));
    }
  }
}

// Of a prompt frame an array may be left out, for all of them, though a step needs it.
void check_prompt(const std::vector<Inputs>& prompt, std::size_t frames, const StreamSpec& spec) {
  const std::string allowed = "none, or " + std::to_string(frames) + ", one per frame";
  if (!prompt.empty() && prompt.size() != frames) {
    refuse("prompt_inputs", std::to_string(prompt.size()), allowed);
  }
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    std::vector<Field> fields = spec.step_inputs;
    for (Field& field : fields) {
      field.required = field.required && !std::holds_alternative<ArrayField>(field.kind);
    }
    check_values("prompt_inputs[" + std::to_string(i) + "]", fields, prompt[i]);
  }
}

// Each array of the prompt's, stacked to [T, ...].
void pack_prompt(const std::vector<Inputs>& prompt, const StreamSpec& spec,
                 wire::OutgoingArrays& arrays) {
  for (const Field& field : spec.step_inputs) {
    const auto* kind = std::get_if<ArrayField>(&field.kind);
    if (kind == nullptr) {
      continue;
    }
    std::size_t given = 0;
    wire::OutgoingArray array;
    for (const Inputs& inputs : prompt) {
      if (const auto found = inputs.find(field.name); found != inputs.end()) {
        append(array.bytes, std::get<ArrayView>(found->second.get()));
        ++given;
      }
    }
    if (given != 0 && given != prompt.size()) {
      refuse("prompt_inputs." + field.name, std::to_string(given) + " of them",
             "none, or " + std::to_string(prompt.size()) + ", one per frame");
    }
    if (given != 0) {
      std::vector<std::int64_t> shape = kind->shape;
      shape.insert(shape.begin(), static_cast<std::int64_t>(given));
      array.spec = {"prompt." + field.name, kind->dtype, shape,
                    static_cast<std::int64_t>(array.bytes.size())};
      arrays.push_back(std::move(array));
    }
  }
}

}  // namespace

PackedStart pack_start(const std::vector<Image>& frames, const StartOptions& options,
                       const StreamSpec& spec) {
  PackedStart start;
  pack_frames(frames, spec, start.arrays);
  check_values("inputs", spec.session_inputs, options.inputs);
  check_values("options", spec.options, options.options);
  check_prompt(options.prompt_inputs, frames.size(), spec);
  pack_arrays(options.inputs, start.arrays);
  pack_prompt(options.prompt_inputs, spec, start.arrays);
  start.fields = {options.seed, scalars(options.inputs), {}, scalars(options.options)};
  for (const Inputs& inputs : options.prompt_inputs) {
    start.fields.prompt_inputs.push_back(scalars(inputs));
  }
  return start;
}

PackedStep pack_step(const Inputs& inputs, const StreamSpec& spec) {
  check_values("inputs", spec.step_inputs, inputs);
  PackedStep step{scalars(inputs), {}};
  pack_arrays(inputs, step.arrays);
  return step;
}

void check_lookahead(const std::optional<int>& lookahead, const StreamSpec& spec) {
  std::vector<std::int64_t> offered = spec.lookaheads;
  std::sort(offered.begin(), offered.end());
  if (!lookahead || std::find(offered.begin(), offered.end(), *lookahead) != offered.end()) {
    return;
  }
  std::string allowed;
  for (const std::int64_t one : offered) {
    allowed += std::to_string(one) + " or ";
  }
  refuse("lookahead", std::to_string(*lookahead), allowed + "none set");
}

}  // namespace sim_stream
