// The values that go to a server and come from it. Units are in the names; bridge/PROTOCOL.md says
// what each field means and may be.

#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim_stream/inputs.hpp"
#include "sim_stream/spec.hpp"

namespace sim_stream {

// RGB, 8 bits a channel, row by row from the top: height * width * 3 bytes.
struct Image {
  std::size_t height = 0;
  std::size_t width = 0;
  std::vector<std::uint8_t> rgb;
};

struct ServerLimits {
  std::int64_t header_bytes = 0;
  std::int64_t parts = 0;
  std::int64_t message_bytes = 0;
  std::int64_t max_sessions = 0;
  std::int64_t max_in_flight = 0;
};

// Who the server is and what it runs.
struct ServerInfo {
  std::int64_t protocol = 0;
  std::string server_epoch;
  StreamSpec spec;
  ServerLimits limits;
  std::int64_t lease_ms = 0;
  std::int64_t heartbeat_ms = 0;
  std::int64_t resume_steps = 0;  // 0: it does not record, so sessions end with it
};

// `step` is the request that it left with, `frame_id` the frame it shows, `lag_frames` how many
// frames later than predicted. `marks`: "approximated", "inflated", or a model's own; `stats`: a
// model's counts for the step.
struct FrameInfo {
  std::int64_t step = 0;
  std::int64_t frame_id = 0;
  std::int64_t lag_frames = 0;
  bool final = false;
  std::vector<std::string> marks;
  std::map<std::string, std::vector<double>> stats;
  std::uint64_t seed = 0;
  std::optional<std::int64_t> sim_time_us;
  std::int64_t queue_depth = 0;
  std::int64_t dropped = 0;  // steps of a realtime session that gave way to newer ones
  std::map<std::string, std::int64_t> timings_ns;
  std::map<std::string, std::int64_t> stamps_ns;

  [[nodiscard]] bool marked(std::string_view mark) const {
    return std::find(marks.begin(), marks.end(), mark) != marks.end();
  }
};

struct Frame : FrameInfo {
  Image image;
};

// The frames that came with one reply, oldest first: one with every step of most models. `->` and
// `last` are of the newest; without any they throw std::out_of_range. `round_trip` is as this client
// saw it, from sending to receiving.
struct Chunk {
  std::vector<Frame> frames;
  std::int64_t committed_step = -1;
  std::chrono::nanoseconds round_trip{};

  [[nodiscard]] const Frame& last() const { return frames.at(frames.size() - 1); }
  [[nodiscard]] const Frame* operator->() const { return &last(); }
  [[nodiscard]] bool empty() const { return frames.empty(); }
  [[nodiscard]] std::size_t size() const { return frames.size(); }
  [[nodiscard]] auto begin() const { return frames.begin(); }
  [[nodiscard]] auto end() const { return frames.end(); }
};

struct Status {
  std::int64_t progress = 0;
  std::int64_t queued = 0;
  std::int64_t sessions = 0;
  std::int64_t undelivered = 0;
  std::int64_t committed_step = -1;
  std::int64_t client_send_ns = 0;
  std::int64_t srv_recv_ns = 0;
  std::int64_t srv_send_ns = 0;
  std::string server_epoch;
  std::uint64_t pending = 0;  // the request that a waiting client asked for, while it is at work
};

}  // namespace sim_stream
