#include <algorithm>
#include <set>

#include "codec.hpp"
#include "decode_spec.hpp"
#include "fields.hpp"

namespace sim_stream::wire {
namespace {

// Nothing in the protocol nests deeper than 5; the rest is room for fields of later versions.
constexpr std::size_t kDepth = 16;
constexpr std::size_t kFrames = 256;
constexpr std::size_t kMarks = 16;
constexpr std::size_t kStats = 65'536;
constexpr std::size_t kDurations = 32;
// What a shape may claim, counting a size of 0 as 1.
constexpr std::uint64_t kArrayBytes = 2'147'483'647;

const std::set<std::string> kCodes = {
    "BAD_MESSAGE",   "VERSION", "UNAUTHENTICATED", "NO_SESSION", "STEP_CONFLICT",
    "ENGINE_FAILED", "LIMIT",   "BUSY",            "DEADLINE",   "SHUTTING_DOWN", "DROPPED",
    "INTERNAL"};

std::vector<ArraySpec> read_arrays(const Fields& reply) {
  std::vector<ArraySpec> arrays;
  const auto found = reply.find("arrays");
  if (!found) {
    return arrays;
  }
  for (const Value& item : found->items(kParts)) {
    const Fields fields = item.fields();
    ArraySpec array;
    array.name = fields.required("name").name();
    array.dtype = fields.required("dtype").one_of({"|u1", "<f4"});
    for (const Value& size : fields.required("shape").items(8)) {
      array.shape.push_back(size.integer(0, kI32Max));
    }
    array.nbytes = fields.required("nbytes").count();
    arrays.push_back(std::move(array));
  }
  return arrays;
}

std::vector<double> read_numbers(const Value& value) {
  std::vector<double> numbers;
  double sum = 0;
  for (const Value& item : value.items(kStats)) {
    numbers.push_back(item.number());
    sum += numbers.back();
  }
  value.require(std::isfinite(sum), "finite numbers");
  return numbers;
}

std::map<std::string, std::int64_t> read_nanoseconds(const Fields& fields, const char* name) {
  std::map<std::string, std::int64_t> values;
  if (const auto found = fields.find(name)) {
    for (const auto& [key, value] : found->entries(kDurations)) {
      values[key] = value.count();
    }
  }
  return values;
}

FrameInfo read_frame(const Fields& fields) {
  FrameInfo frame;
  frame.step = fields.required("step").count();
  frame.frame_id = fields.required("frame_id").count();
  frame.lag_frames = fields.required("lag_frames").count();
  frame.final = fields.required("final").boolean();
  if (const auto marks = fields.find("marks")) {
    for (const Value& mark : marks->items(kMarks)) {
      frame.marks.push_back(mark.name());
    }
  }
  if (const auto stats = fields.find("stats")) {
    for (const auto& [name, values] : stats->entries(kMarks)) {
      frame.stats[name] = read_numbers(values);
    }
  }
  frame.seed = fields.get_or<std::uint64_t>("seed", 0, &Value::u64);
  if (const auto sim_time_us = fields.nullable("sim_time_us")) {
    frame.sim_time_us = sim_time_us->i64();
  }
  frame.queue_depth = fields.get_or<std::int64_t>("queue_depth", 0, &Value::count);
  frame.dropped = fields.get_or<std::int64_t>("dropped", 0, &Value::count);
  frame.timings_ns = read_nanoseconds(fields, "timings_ns");
  frame.stamps_ns = read_nanoseconds(fields, "stamps_ns");
  return frame;
}

ServerLimits read_limits(const Fields& fields) {
  ServerLimits limits;
  limits.header_bytes = fields.required("header_bytes").count();
  limits.parts = fields.required("parts").count();
  limits.message_bytes = fields.required("message_bytes").count();
  limits.max_sessions = fields.required("max_sessions").count();
  limits.max_in_flight = fields.required("max_in_flight").integer(1, kI64Max);
  return limits;
}

ServerInfo read_info(const Fields& fields) {
  ServerInfo info;
  info.protocol = fields.required("protocol").integer(kVersion, kVersion);
  info.server_epoch = fields.required("server_epoch").text(64);
  info.spec = read_spec(fields.required("spec").fields());
  info.limits = read_limits(fields.required("limits").fields());
  info.lease_ms = fields.required("lease_ms").integer(1, kI64Max);
  info.heartbeat_ms = fields.required("heartbeat_ms").integer(1, kI64Max);
  info.resume_steps = fields.required("resume_steps").count();
  return info;
}

Status read_status(const Fields& fields) {
  Status status;
  status.progress = fields.required("progress").count();
  status.queued = fields.required("queued").count();
  status.sessions = fields.required("sessions").count();
  status.undelivered = fields.required("undelivered").count();
  status.committed_step = fields.required("committed_step").i64();
  status.client_send_ns = fields.required("client_send_ns").count();
  status.srv_recv_ns = fields.required("srv_recv_ns").count();
  status.srv_send_ns = fields.required("srv_send_ns").count();
  status.server_epoch = fields.required("server_epoch").text(64);
  status.pending = fields.get_or("pending", std::uint64_t{0}, &Value::u64);
  return status;
}

Refusal read_refusal(const Fields& fields) {
  Refusal refusal;
  refusal.code = fields.required("code").one_of(kCodes);
  refusal.message = fields.required("message").text(4096);
  refusal.retryable = fields.required("retryable").boolean();
  refusal.committed_step = fields.get_or<std::int64_t>("committed_step", -1, &Value::i64);
  refusal.sid = fields.get_or<std::string>("sid", "", &Value::name);
  return refusal;
}

template <typename T>
T read_with_frames(const Fields& fields) {
  T reply;
  reply.sid = fields.required("sid").name();
  reply.committed_step = fields.required("committed_step").i64();
  if (const auto frames = std::is_same_v<T, FrameReply> ? fields.required("frames")
                                                        : fields.find("frames")) {
    for (const Value& frame : frames->items(kFrames)) {
      reply.frames.push_back(read_frame(frame.fields()));
    }
  }
  if constexpr (std::is_same_v<T, Opened>) {
    reply.seed = fields.get_or<std::uint64_t>("seed", 0, &Value::u64);
    reply.resume_token = fields.get_or<std::string>("resume_token", "", &Value::name);
  }
  if constexpr (!std::is_same_v<T, Closed>) {
    reply.prompt_psnr_db = fields.finite_or_null("prompt_psnr_db");
  }
  return reply;
}

Body read_body(const Fields& fields) {
  const std::string t = fields.required("t").one_of(
      {"hello_ok", "opened", "frames", "closed", "status", "error"});
  if (t == "hello_ok") {
    return read_info(fields);
  }
  if (t == "opened") {
    return read_with_frames<Opened>(fields);
  }
  if (t == "frames") {
    return read_with_frames<FrameReply>(fields);
  }
  if (t == "closed") {
    return read_with_frames<Closed>(fields);
  }
  if (t == "status") {
    return read_status(fields);
  }
  return read_refusal(fields);
}

msgpack::object_handle parse(std::string_view header) {
  // A container cannot have more entries than the header has bytes, whatever it claims.
  const std::size_t size = header.size();
  const msgpack::unpack_limit limits(size, size, size, size, size, kDepth);
  try {
    std::size_t end = 0;
    auto handle = msgpack::unpack(header.data(), size, end, nullptr, nullptr, limits);
    if (end != size) {
      throw ProtocolError("reply: bytes after the message");
    }
    return handle;
  } catch (const msgpack::unpack_error& error) {
    throw ProtocolError(std::string("reply: not msgpack: ") + error.what());
  }
}

}  // namespace

Reply decode_reply(std::string_view header) {
  if (header.empty() || header.size() > kHeaderBytes) {
    throw ProtocolError("reply: a header of " + std::to_string(header.size()) + " bytes");
  }
  const auto handle = parse(header);
  const Fields fields(Value(handle.get(), "reply"));
  Reply reply;
  if (const auto version = fields.find("v")) {
    version->require(version->i64() == kVersion, std::to_string(kVersion));
  }
  reply.rid = fields.get_or<std::uint64_t>("rid", 0, &Value::u64);
  reply.arrays = read_arrays(fields);
  reply.body = read_body(fields);
  return reply;
}

void check_parts(const std::vector<ArraySpec>& arrays, const std::vector<std::size_t>& part_bytes) {
  if (arrays.size() != part_bytes.size()) {
    throw ProtocolError("reply: " + std::to_string(arrays.size()) + " arrays, " +
                        std::to_string(part_bytes.size()) + " parts");
  }
  std::set<std::string> names;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const ArraySpec& array = arrays[i];
    // Every size is below 2^31 and so is the product so far, hence no overflow.
    std::uint64_t claimed = array.dtype == "|u1" ? 1 : 4;
    bool empty = false;
    for (const std::int64_t size : array.shape) {
      empty = empty || size == 0;
      claimed *= static_cast<std::uint64_t>(std::max<std::int64_t>(size, 1));
      if (claimed > kArrayBytes) {
        throw ProtocolError("reply.arrays." + array.name + ".shape: allowed: " +
                            std::to_string(kArrayBytes) + " bytes at most, a 0 counted as 1");
      }
    }
    const std::uint64_t expected = empty ? 0 : claimed;
    if (part_bytes[i] != expected || static_cast<std::uint64_t>(array.nbytes) != expected) {
      throw ProtocolError("reply.arrays." + array.name + ": does not fit its part of " +
                          std::to_string(part_bytes[i]) + " bytes");
    }
    if (!names.insert(array.name).second) {
      throw ProtocolError("reply.arrays: " + array.name + " twice");
    }
  }
}

}  // namespace sim_stream::wire
