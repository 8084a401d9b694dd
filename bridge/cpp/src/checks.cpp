#include "checks.hpp"

#include <cmath>
#include <string>
#include <utility>

#include "codec.hpp"
#include "sim_stream/errors.hpp"

namespace sim_stream {
namespace {

constexpr std::size_t kTextCharacters = 4096;

[[noreturn]] void refuse(const std::string& field, const std::string& got,
                         const std::string& allowed) {
  throw InvalidInput(field + ": got " + got + "; allowed: " + allowed);
}

}  // namespace

OutgoingArray frames_array(const std::vector<Image>& frames, const ServerInfo& info) {
  const auto count = static_cast<std::int64_t>(frames.size());
  const auto& shape = info.frame_shape;
  if (count < info.context_min || count > info.context_max) {
    refuse("frames", std::to_string(count),
           std::to_string(info.context_min) + ".." + std::to_string(info.context_max) + " frames");
  }
  OutgoingArray array;
  for (const Image& frame : frames) {
    if (static_cast<std::int64_t>(frame.height) != shape[0] ||
        static_cast<std::int64_t>(frame.width) != shape[1] ||
        static_cast<std::int64_t>(frame.rgb.size()) != shape[0] * shape[1] * shape[2]) {
      refuse("frames", std::to_string(frame.height) + " x " + std::to_string(frame.width) + ", " +
                 std::to_string(frame.rgb.size()) + " bytes",
             std::to_string(shape[0]) + " x " + std::to_string(shape[1]) + " x " +
                 std::to_string(shape[2]) + " bytes");
    }
    array.bytes.insert(array.bytes.end(), frame.rgb.begin(), frame.rgb.end());
  }
  array.spec = {"frames",
                "|u1",
                {count, shape[0], shape[1], shape[2]},
                static_cast<std::int64_t>(array.bytes.size())};
  return array;
}

void check_action(const std::optional<Action>& action, const ServerInfo& info) {
  if (!action) {
    return;
  }
  if (!info.takes_actions()) {
    refuse("action", "an action", "none: " + info.model_id + " takes no actions");
  }
  if (!std::isfinite(action->speed_mps) || !std::isfinite(action->yaw_rate_radps)) {
    refuse("action",
           std::to_string(action->speed_mps) + ", " + std::to_string(action->yaw_rate_radps),
           "finite numbers");
  }
}

void check_start(const StartOptions& options, std::size_t frames, const ServerInfo& info) {
  if (options.text && wire::characters(*options.text) > kTextCharacters) {
    refuse("text", std::to_string(wire::characters(*options.text)) + " characters",
           std::to_string(kTextCharacters) + " at most");
  }
  if (!options.actions.empty() && options.actions.size() != frames) {
    refuse("actions", std::to_string(options.actions.size()),
           std::to_string(frames) + ", one per context frame");
  }
  for (const auto& action : options.actions) {
    check_action(action, info);
  }
}

Frame make_frame(Received&& received, const FrameInfo& info, std::int64_t committed_step,
                 Clock::time_point sent) {
  Frame frame{};
  static_cast<FrameInfo&>(frame) = info;
  frame.committed_step = committed_step;
  frame.round_trip = received.at - sent;
  const auto& arrays = received.reply.arrays;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const auto& shape = arrays[i].shape;
    if (arrays[i].name == "image" && arrays[i].dtype == "|u1" && shape.size() == 3 &&
        shape[0] > 0 && shape[1] > 0 && shape[2] == 3) {
      frame.image = {static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]),
                     std::move(received.parts[i])};
      return frame;
    }
  }
  throw ProtocolError("reply: a frame without an image, |u1 [H, W, 3]");
}

}  // namespace sim_stream
