// The messages of protocol v2 as the client sends and gets them. Knows no bytes and no sockets.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "sim_stream/types.hpp"

namespace sim_stream::wire {

constexpr std::int64_t kVersion = 2;
constexpr std::size_t kHeaderBytes = 64 * 1024;
constexpr std::size_t kParts = 16;

// One part after the header: C-contiguous, little-endian.
struct ArraySpec {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::int64_t nbytes = 0;
};

struct OutgoingArray {
  ArraySpec spec;
  std::vector<std::uint8_t> bytes;
};
using OutgoingArrays = std::vector<OutgoingArray>;

// The inputs that stand in a message; arrays travel beside it.
using Scalars = std::map<std::string, std::variant<double, std::string>>;

struct Hello {
  std::int64_t protocol_min = kVersion;
  std::int64_t protocol_max = kVersion;
};

struct Start {
  std::uint64_t seed = 0;
  Scalars inputs;
  std::vector<Scalars> prompt_inputs;
  Scalars options;
};

struct Open {
  Start start;
  std::string mode = "lockstep";
  std::optional<std::int64_t> lookahead;
  std::optional<std::int64_t> dt_us;
  std::string idempotency_key;
  std::optional<bool> record;
};

struct Reset {
  Start start;
  std::string sid;
};

struct Step {
  std::string sid;
  std::int64_t step = 0;
  Scalars inputs;
  std::optional<std::int64_t> sim_time_us;
  std::optional<std::int64_t> deadline_ms;
};

struct Fork {
  std::string sid;
  std::optional<std::uint64_t> seed;
  std::string idempotency_key;
};

struct Resume {
  std::string resume_token;
};

// With an `idempotency_key` and no `sid`: of the session that it opened or is opening.
struct Close {
  std::string sid;
  std::string idempotency_key = "";
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
  std::uint64_t seed = 0;
  std::vector<FrameInfo> frames;
  std::string resume_token;
  std::optional<double> prompt_psnr_db;
};

struct FrameReply {
  std::string sid;
  std::int64_t committed_step = -1;
  std::vector<FrameInfo> frames;
  std::optional<double> prompt_psnr_db;
};

struct Closed {
  std::string sid;
  std::int64_t committed_step = -1;
  std::vector<FrameInfo> frames;
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
