#include <algorithm>
#include <set>

#include "codec.hpp"
#include "fields.hpp"

namespace sim_stream::wire {
namespace {

// Nothing in the protocol nests deeper than 5; the rest is room for fields of later versions.
constexpr std::size_t kDepth = 16;
constexpr std::size_t kAccepted = 65'536;
// What a shape may claim, counting a size of 0 as 1.
constexpr std::uint64_t kArrayBytes = 2'147'483'647;
// The largest frame that a reply can bring.
constexpr std::int64_t kFrameBytes = 64 * 1024 * 1024;

const std::set<std::string> kCodes = {
    "BAD_MESSAGE",   "VERSION", "UNAUTHENTICATED", "NO_SESSION", "STEP_CONFLICT",
    "ENGINE_FAILED", "LIMIT",   "BUSY",            "DEADLINE",   "SHUTTING_DOWN", "DROPPED",
    "INTERNAL"};

std::string one_of(const Value& value, const std::set<std::string>& allowed) {
  std::string text = value.name();
  std::string all;
  for (const auto& name : allowed) {
    all += (all.empty() ? "" : ", ") + name;
  }
  value.require(allowed.count(text) == 1, all);
  return text;
}

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
    array.dtype = one_of(fields.required("dtype"), {"|u1", "<f4"});
    for (const Value& size : fields.required("shape").items(8)) {
      array.shape.push_back(size.integer(0, kI32Max));
    }
    array.nbytes = fields.required("nbytes").count();
    if (const auto encoding = fields.find("enc")) {
      one_of(*encoding, {"raw"});
    }
    arrays.push_back(std::move(array));
  }
  return arrays;
}

FrameInfo read_frame(const Fields& fields) {
  FrameInfo frame;
  frame.step = fields.required("step").count();
  frame.frame_id = fields.required("frame_id").count();
  frame.lag_frames = fields.required("lag_frames").count();
  frame.final = fields.required("final").boolean();
  frame.approximated = fields.required("approximated").boolean();
  frame.inflated = fields.get_or("inflated", false, &Value::boolean);
  if (const auto accepted = fields.find("accepted")) {
    for (const Value& codes : accepted->items(kAccepted)) {
      frame.accepted.push_back(codes.count());
    }
  }
  frame.seed = fields.get_or<std::uint64_t>("seed", 0, &Value::u64);
  if (const auto sim_time_us = fields.nullable("sim_time_us")) {
    frame.sim_time_us = sim_time_us->i64();
  }
  frame.queue_depth = fields.get_or<std::int64_t>("queue_depth", 0, &Value::count);
  frame.dropped = fields.get_or<std::int64_t>("dropped", 0, &Value::count);
  frame.timings_ns = fields.get_or("timings_ns", frame.timings_ns, &Value::nanoseconds);
  frame.stamps_ns = fields.get_or("stamps_ns", frame.stamps_ns, &Value::nanoseconds);
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

Sampling read_sampling(const Fields& fields) {
  Sampling sampling;
  sampling.top_k = fields.required("top_k").integer(1, kI32Max);
  const Value temperature = fields.required("temperature");
  sampling.temperature = temperature.number();
  temperature.require(sampling.temperature > 0 && sampling.temperature <= 10, "above 0, up to 10");
  return sampling;
}

std::vector<ActionSpec> read_action_spec(const Value& value) {
  std::vector<ActionSpec> specs;
  for (const Value& item : value.items(16)) {
    const Fields fields = item.fields();
    specs.push_back({fields.required("name").name(), fields.required("unit").name(),
                     fields.required("low").number(), fields.required("high").number(),
                     fields.get_or<std::int64_t>("bins", 0, &Value::count),
                     fields.get_or<std::string>("taken", "", &Value::name)});
    const ActionSpec& spec = specs.back();
    item.require(std::isfinite(spec.low) && std::isfinite(spec.high) && spec.low < spec.high,
                 "finite bounds, low below high");
  }
  return specs;
}

Camera read_camera(const Fields& fields) {
  return {fields.required("field_of_view_deg").finite(), fields.required("up_m").finite(),
          fields.required("pitch_down_deg").finite()};
}

ServerInfo read_info(const Fields& fields) {
  ServerInfo info;
  info.protocol = fields.required("protocol").integer(kVersion, kVersion);
  info.server_epoch = fields.required("server_epoch").text(64);
  info.model_id = fields.required("model_id").text(256);
  info.weights_sha256 = fields.required("weights_sha256").text(128);
  info.fps_num = fields.required("fps_num").integer(1, kI32Max);
  info.fps_den = fields.required("fps_den").integer(1, kI32Max);
  const Value shape = fields.required("frame_shape");
  const auto sizes = shape.items(3);
  shape.require(sizes.size() == 3, "height, width, channels");
  std::transform(sizes.begin(), sizes.end(), info.frame_shape.begin(),
                 [](const Value& size) { return size.count(); });
  // A frame that no reply could bring, or none at all: nothing may be computed with that.
  std::int64_t left = kFrameBytes;
  for (const std::int64_t size : info.frame_shape) {
    shape.require(size >= 1 && size <= left, "1.." + std::to_string(kFrameBytes) + " bytes");
    left /= size;
  }
  shape.require(info.frame_shape[2] == 3, "3 channels");
  const auto encoding = fields.find("frame_encoding");
  info.frame_encoding = encoding ? one_of(*encoding, {"rgb8"}) : "rgb8";
  info.context_min = fields.required("context_min").count();
  info.context_max = fields.required("context_max").count();
  fields.required("context_min")
      .require(info.context_min >= 1 && info.context_min <= info.context_max, "1..context_max");
  info.lookahead = fields.required("lookahead").count();
  info.sampling = read_sampling(fields.required("sampling").fields());
  info.action_spec = read_action_spec(fields.required("action_spec"));
  info.limits = read_limits(fields.required("limits").fields());
  info.lease_ms = fields.required("lease_ms").integer(1, kI64Max);
  info.heartbeat_ms = fields.required("heartbeat_ms").integer(1, kI64Max);
  info.resume_steps = fields.required("resume_steps").count();
  if (const auto camera = fields.nullable("camera")) {
    info.camera = read_camera(camera->fields());
  }
  info.prompt_psnr_min_db = fields.finite_or_null("prompt_psnr_min_db");
  info.prompt_psnr_own_db = fields.finite_or_null("prompt_psnr_own_db");
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
  refusal.code = one_of(fields.required("code"), kCodes);
  refusal.message = fields.required("message").text(4096);
  refusal.retryable = fields.required("retryable").boolean();
  refusal.committed_step = fields.get_or<std::int64_t>("committed_step", -1, &Value::i64);
  refusal.sid = fields.get_or<std::string>("sid", "", &Value::name);
  return refusal;
}

template <typename T>
T read_with_frame(const Fields& fields) {
  T reply;
  reply.sid = fields.required("sid").name();
  reply.committed_step = fields.required("committed_step").i64();
  if constexpr (std::is_same_v<T, FrameReply>) {
    reply.frame = read_frame(fields.required("frame").fields());
  } else if (const auto frame = fields.nullable("frame")) {
    reply.frame = read_frame(frame->fields());
  }
  if constexpr (std::is_same_v<T, Opened>) {
    reply.resume_token = fields.get_or<std::string>("resume_token", "", &Value::name);
  }
  if constexpr (!std::is_same_v<T, Closed>) {
    reply.prompt_psnr_db = fields.finite_or_null("prompt_psnr_db");
  }
  return reply;
}

Body read_body(const Fields& fields) {
  const Value type = fields.required("t");
  const std::string t = one_of(type, {"hello_ok", "opened", "frame", "closed", "status", "error"});
  if (t == "hello_ok") {
    return read_info(fields);
  }
  if (t == "opened") {
    return read_with_frame<Opened>(fields);
  }
  if (t == "frame") {
    return read_with_frame<FrameReply>(fields);
  }
  if (t == "closed") {
    return read_with_frame<Closed>(fields);
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
