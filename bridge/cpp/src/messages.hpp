// The messages of protocol v1 as the client sends and gets them. Knows no bytes and no sockets.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "sim_stream/client.hpp"

namespace sim_stream::wire {

constexpr std::int64_t kVersion = 1;
constexpr std::size_t kHeaderBytes = 64 * 1024;
constexpr std::size_t kParts = 16;

// One part after the header: C-contiguous, little-endian.
struct ArraySpec {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::int64_t nbytes = 0;
};

struct Hello {
  std::int64_t protocol_min = kVersion;
  std::int64_t protocol_max = kVersion;
  std::vector<std::string> capabilities;
};

struct Open {
  StartOptions start;
  std::string mode = "lockstep";
  std::optional<std::int64_t> lookahead;
  std::optional<std::int64_t> dt_us;
  std::string open_key;
  std::optional<bool> record;
};

struct Reset {
  StartOptions start;
  std::string sid;
};

struct Step {
  std::string sid;
  std::int64_t step = 0;
  std::optional<Action> action;
  std::optional<std::int64_t> sim_time_us;
  std::optional<std::int64_t> deadline_ms;
};

struct Fork {
  std::string sid;
  std::string open_key;
};

struct Resume {
  std::string resume_token;
};

// With an `open_key` and no `sid`: of the session that it opened or is opening.
struct Close {
  std::string sid;
  std::string open_key = "";
};

struct Heartbeat {
  std::string sid;
  std::int64_t client_send_ns = 0;
  std::uint64_t awaiting = 0;
};

using Request = std::variant<Hello, Open, Reset, Step, Fork, Resume, Close, Heartbeat>;

struct Opened {
  std::string sid;
  std::int64_t committed_step = -1;
  std::optional<FrameInfo> frame;
  std::string resume_token;
  std::optional<double> prompt_psnr_db;
};

struct FrameReply {
  std::string sid;
  std::int64_t committed_step = -1;
  FrameInfo frame;
  std::optional<double> prompt_psnr_db;
};

struct Closed {
  std::string sid;
  std::int64_t committed_step = -1;
  std::optional<FrameInfo> frame;
};

struct Refusal {
  std::string code;
  std::string message;
  bool retryable = false;
  std::int64_t committed_step = -1;
  std::string sid;
};

using Body = std::variant<ServerInfo, Opened, FrameReply, Closed, Status, Refusal>;

// `rid` 0 with a Refusal: concerns the connection, not one request.
struct Reply {
  std::uint64_t rid = 0;
  std::vector<ArraySpec> arrays;
  Body body;
};

}  // namespace sim_stream::wire
