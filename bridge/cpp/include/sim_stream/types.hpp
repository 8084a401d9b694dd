// The values that go to a server and come from it. Units are in the names; bridge/PROTOCOL.md says
// what each field means and may be.

#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace sim_stream {

// The ego motion that leads to a frame; yaw rate positive to the left.
struct Action {
  double speed_mps = 0.0;
  double yaw_rate_radps = 0.0;
};

struct Sampling {
  std::int64_t top_k = 1000;
  double temperature = 1.0;
};

// `strategy`: raster, jacobi (with `window`) or diagonal (with `k`).
struct Decoding {
  std::string strategy = "raster";
  std::int64_t window = 16;
  std::int64_t k = 1;
};

// RGB, 8 bits a channel, row by row from the top: height * width * 3 bytes.
struct Image {
  std::size_t height = 0;
  std::size_t width = 0;
  std::vector<std::uint8_t> rgb;
};

// `bins`: how many values the model tells apart, 0 where it is not known. `taken`: how it was taken
// in training: "end" (at the frame that the action leads to), "mean" (over the time since the frame
// before), or "" where the weights do not say.
struct ActionSpec {
  std::string name;
  std::string unit;
  double low = 0.0;
  double high = 0.0;
  std::int64_t bins = 0;
  std::string taken;
};

// The camera of the frames that the model was trained on; the field of view is that of the square
// frame, both ways.
struct Camera {
  double field_of_view_deg = 0.0;
  double up_m = 0.0;
  double pitch_down_deg = 0.0;
};

struct ServerLimits {
  std::int64_t header_bytes = 0;
  std::int64_t parts = 0;
  std::int64_t message_bytes = 0;
  std::int64_t max_sessions = 0;
  std::int64_t max_in_flight = 0;
};

// Who the server is and what it runs. Without `action_spec` it takes no actions.
struct ServerInfo {
  std::int64_t protocol = 0;
  std::string server_epoch;
  std::string model_id;
  std::string weights_sha256;
  std::int64_t fps_num = 1;
  std::int64_t fps_den = 1;
  std::array<std::int64_t, 3> frame_shape{};  // height, width, channels
  std::string frame_encoding;
  std::int64_t context_min = 0;
  std::int64_t context_max = 0;
  std::int64_t lookahead = 0;
  Sampling sampling;
  std::vector<ActionSpec> action_spec;
  ServerLimits limits;
  std::int64_t lease_ms = 0;
  std::int64_t heartbeat_ms = 0;
  std::int64_t resume_steps = 0;  // 0: it does not record, so sessions end with it
  // Where the weights say it: their camera, below which `Session::prompt_psnr_db` a prompt is
  // foreign to the model, and what its own world reaches.
  std::optional<Camera> camera;
  std::optional<double> prompt_psnr_min_db;
  std::optional<double> prompt_psnr_own_db;

  [[nodiscard]] double fps() const {
    return static_cast<double>(fps_num) / static_cast<double>(fps_den);
  }
  [[nodiscard]] bool takes_actions() const { return !action_spec.empty(); }
};

// `step` is the request it answers, `frame_id` the frame it shows, `lag_frames` their difference.
struct FrameInfo {
  std::int64_t step = 0;
  std::int64_t frame_id = 0;
  std::int64_t lag_frames = 0;
  bool final = false;
  bool approximated = false;
  bool inflated = false;
  std::vector<std::int64_t> accepted;
  std::uint64_t seed = 0;
  std::optional<std::int64_t> sim_time_us;
  std::int64_t queue_depth = 0;
  std::int64_t dropped = 0;  // steps of a realtime session that gave way to newer ones
  std::map<std::string, std::int64_t> timings_ns;
  std::map<std::string, std::int64_t> stamps_ns;
};

// A predicted frame. `round_trip` is as this client saw it, from sending to receiving.
struct Frame : FrameInfo {
  Image image;
  std::int64_t committed_step = -1;
  std::chrono::nanoseconds round_trip{};
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
