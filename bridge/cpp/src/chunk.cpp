#include "chunk.hpp"

#include <string>
#include <utility>

#include "sim_stream/errors.hpp"
#include "words.hpp"

namespace sim_stream {
namespace {

constexpr const char* kImages = "images";

// Where the images are among the parts. Without any frame there may be none.
std::size_t find_images(const std::vector<wire::ArraySpec>& arrays, std::size_t frames,
                        const StreamSpec& spec) {
  const auto& [height, width, channels] = spec.frame_shape;
  const std::vector<std::int64_t> shape{static_cast<std::int64_t>(frames), height, width, channels};
  std::string got = "nothing";
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].name == kImages) {
      if (arrays[i].dtype == "|u1" && arrays[i].shape == shape) {
        return i;
      }
      got = arrays[i].dtype + " " + listed(arrays[i].shape);
    }
  }
  throw ProtocolError("reply.images: got " + got + "; allowed: |u1 " + listed(shape));
}

bool has_images(const std::vector<wire::ArraySpec>& arrays) {
  for (const wire::ArraySpec& array : arrays) {
    if (array.name == kImages) {
      return true;
    }
  }
  return false;
}

}  // namespace

void require_frames(const std::vector<FrameInfo>& infos, bool asked) {
  if (infos.empty() && asked) {
    throw ProtocolError("reply.frames: got none; allowed: one or more");
  }
}

Chunk make_chunk(Received&& received, const std::vector<FrameInfo>& infos,
                 std::int64_t committed_step, Clock::time_point sent, const StreamSpec& spec) {
  Chunk chunk{{}, committed_step, received.at - sent};
  if (infos.empty() && !has_images(received.reply.arrays)) {
    return chunk;
  }
  auto& pixels = received.parts[find_images(received.reply.arrays, infos.size(), spec)];
  const auto height = static_cast<std::size_t>(spec.frame_shape[0]);
  const auto width = static_cast<std::size_t>(spec.frame_shape[1]);
  const auto bytes = static_cast<std::ptrdiff_t>(height * width * 3);
  auto next = pixels.begin();
  for (const FrameInfo& info : infos) {
    Frame frame{info, {height, width, {}}};
    if (infos.size() == 1) {
      frame.image.rgb = std::move(pixels);
    } else {
      frame.image.rgb.assign(next, next + bytes);
      next += bytes;
    }
    chunk.frames.push_back(std::move(frame));
  }
  return chunk;
}

}  // namespace sim_stream
