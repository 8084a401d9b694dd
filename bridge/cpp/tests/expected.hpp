// What a vector's `message` map says, as the client's own types, and the comparison with them.

#pragma once

#include <doctest/doctest.h>
#include <msgpack.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "codec.hpp"
#include "sim_stream/errors.hpp"

using Map = std::map<std::string, msgpack::object>;

// A field, null being nullopt.
template <typename T>
std::optional<T> maybe(const Map& map, const char* name) {
  const auto& value = map.at(name);
  return value.is_nil() ? std::nullopt : std::optional(value.as<T>());
}

inline std::int64_t number(const Map& map, const char* name) {
  return map.at(name).as<std::int64_t>();
}

inline std::string text(const Map& map, const char* name) { return map.at(name).as<std::string>(); }

inline std::optional<sim_stream::Action> action_of(const msgpack::object& object) {
  if (object.is_nil()) {
    return std::nullopt;
  }
  const auto map = object.as<std::map<std::string, double>>();
  return sim_stream::Action{map.at("speed_mps"), map.at("yaw_rate_radps")};
}

inline std::vector<sim_stream::wire::ArraySpec> arrays_of(const Map& message) {
  std::vector<sim_stream::wire::ArraySpec> arrays;
  for (const auto& item : message.at("arrays").as<std::vector<Map>>()) {
    arrays.push_back({text(item, "name"), text(item, "dtype"),
                      item.at("shape").as<std::vector<std::int64_t>>(), number(item, "nbytes")});
  }
  return arrays;
}

inline sim_stream::StartOptions start_of(const Map& message) {
  sim_stream::StartOptions start;
  start.seed = message.at("seed").as<std::uint64_t>();
  start.text = maybe<std::string>(message, "text");
  if (const auto map = maybe<Map>(message, "sampling")) {
    start.sampling = {number(*map, "top_k"), map->at("temperature").as<double>()};
  }
  if (const auto map = maybe<Map>(message, "decoding")) {
    start.decoding = {text(*map, "strategy"), number(*map, "window"), number(*map, "k")};
  }
  if (const auto actions = maybe<std::vector<msgpack::object>>(message, "actions")) {
    for (const auto& action : *actions) {
      start.actions.push_back(action_of(action));
    }
  }
  return start;
}

inline sim_stream::wire::Request request_of(const Map& message) {
  namespace wire = sim_stream::wire;
  const std::string t = text(message, "t");
  if (t == "hello") {
    return wire::Hello{number(message, "protocol_min"), number(message, "protocol_max"),
                       message.at("capabilities").as<std::vector<std::string>>()};
  }
  if (t == "open") {
    return wire::Open{start_of(message), text(message, "mode"),
                      maybe<std::int64_t>(message, "lookahead"),
                      maybe<std::int64_t>(message, "dt_us"), text(message, "open_key"),
                      maybe<bool>(message, "record")};
  }
  if (t == "reset") {
    return wire::Reset{start_of(message), text(message, "sid")};
  }
  if (t == "step") {
    return wire::Step{text(message, "sid"), number(message, "step"),
                      action_of(message.at("action")), maybe<std::int64_t>(message, "sim_time_us"),
                      maybe<std::int64_t>(message, "deadline_ms")};
  }
  if (t == "fork") {
    return wire::Fork{text(message, "sid"), text(message, "open_key")};
  }
  if (t == "resume") {
    return wire::Resume{text(message, "resume_token")};
  }
  if (t == "close") {
    return wire::Close{text(message, "sid"), text(message, "open_key")};
  }
  REQUIRE(t == "heartbeat");
  return wire::Heartbeat{text(message, "sid"), number(message, "client_send_ns"),
                         message.at("awaiting").as<std::uint64_t>()};
}

inline void check_arrays(const std::vector<sim_stream::wire::ArraySpec>& arrays,
                         const Map& message) {
  const auto expected = arrays_of(message);
  REQUIRE(arrays.size() == expected.size());
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    CHECK(arrays[i].name == expected[i].name);
    CHECK(arrays[i].dtype == expected[i].dtype);
    CHECK(arrays[i].shape == expected[i].shape);
    CHECK(arrays[i].nbytes == expected[i].nbytes);
  }
}

inline void check_frame(const sim_stream::FrameInfo& frame, const Map& expected) {
  using Nanoseconds = std::map<std::string, std::int64_t>;
  CHECK(frame.step == number(expected, "step"));
  CHECK(frame.frame_id == number(expected, "frame_id"));
  CHECK(frame.lag_frames == number(expected, "lag_frames"));
  CHECK(frame.final == expected.at("final").as<bool>());
  CHECK(frame.approximated == expected.at("approximated").as<bool>());
  CHECK(frame.inflated == expected.at("inflated").as<bool>());
  CHECK(frame.accepted == expected.at("accepted").as<std::vector<std::int64_t>>());
  CHECK(frame.seed == expected.at("seed").as<std::uint64_t>());
  CHECK(frame.sim_time_us == maybe<std::int64_t>(expected, "sim_time_us"));
  CHECK(frame.queue_depth == number(expected, "queue_depth"));
  CHECK(frame.dropped == number(expected, "dropped"));
  CHECK(frame.timings_ns == expected.at("timings_ns").as<Nanoseconds>());
  CHECK(frame.stamps_ns == expected.at("stamps_ns").as<Nanoseconds>());
}

inline void check_frame(const std::optional<sim_stream::FrameInfo>& frame,
                        const msgpack::object& expected) {
  REQUIRE(frame.has_value() == !expected.is_nil());
  if (frame) {
    check_frame(*frame, expected.as<Map>());
  }
}

inline void check_body(const sim_stream::ServerInfo& info, const Map& expected) {
  CHECK(text(expected, "t") == "hello_ok");
  CHECK(info.protocol == number(expected, "protocol"));
  CHECK(info.server_epoch == text(expected, "server_epoch"));
  CHECK(info.model_id == text(expected, "model_id"));
  CHECK(info.weights_sha256 == text(expected, "weights_sha256"));
  CHECK(info.fps_num == number(expected, "fps_num"));
  CHECK(info.fps_den == number(expected, "fps_den"));
  const auto shape = expected.at("frame_shape").as<std::vector<std::int64_t>>();
  CHECK(std::equal(shape.begin(), shape.end(), info.frame_shape.begin(), info.frame_shape.end()));
  CHECK(info.frame_encoding == text(expected, "frame_encoding"));
  CHECK(info.context_min == number(expected, "context_min"));
  CHECK(info.context_max == number(expected, "context_max"));
  CHECK(info.lookahead == number(expected, "lookahead"));
  const auto sampling = expected.at("sampling").as<Map>();
  CHECK(info.sampling.top_k == number(sampling, "top_k"));
  CHECK(info.sampling.temperature == sampling.at("temperature").as<double>());
  const auto specs = expected.at("action_spec").as<std::vector<Map>>();
  REQUIRE(info.action_spec.size() == specs.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    CHECK(info.action_spec[i].name == text(specs[i], "name"));
    CHECK(info.action_spec[i].unit == text(specs[i], "unit"));
    CHECK(info.action_spec[i].low == specs[i].at("low").as<double>());
    CHECK(info.action_spec[i].high == specs[i].at("high").as<double>());
    CHECK(info.action_spec[i].bins == number(specs[i], "bins"));
    CHECK(info.action_spec[i].taken == text(specs[i], "taken"));
  }
  const auto limits = expected.at("limits").as<Map>();
  CHECK(info.limits.header_bytes == number(limits, "header_bytes"));
  CHECK(info.limits.parts == number(limits, "parts"));
  CHECK(info.limits.message_bytes == number(limits, "message_bytes"));
  CHECK(info.limits.max_sessions == number(limits, "max_sessions"));
  CHECK(info.limits.max_in_flight == number(limits, "max_in_flight"));
  CHECK(info.lease_ms == number(expected, "lease_ms"));
  CHECK(info.heartbeat_ms == number(expected, "heartbeat_ms"));
  CHECK(info.resume_steps == number(expected, "resume_steps"));
  const auto camera = maybe<Map>(expected, "camera");
  REQUIRE(info.camera.has_value() == camera.has_value());
  if (camera) {
    CHECK(info.camera->field_of_view_deg == camera->at("field_of_view_deg").as<double>());
    CHECK(info.camera->up_m == camera->at("up_m").as<double>());
    CHECK(info.camera->pitch_down_deg == camera->at("pitch_down_deg").as<double>());
  }
  CHECK(info.prompt_psnr_min_db == maybe<double>(expected, "prompt_psnr_min_db"));
  CHECK(info.prompt_psnr_own_db == maybe<double>(expected, "prompt_psnr_own_db"));
}

inline void check_body(const sim_stream::wire::Opened& opened, const Map& expected) {
  CHECK(text(expected, "t") == "opened");
  CHECK(opened.sid == text(expected, "sid"));
  CHECK(opened.committed_step == number(expected, "committed_step"));
  CHECK(opened.resume_token == text(expected, "resume_token"));
  CHECK(opened.prompt_psnr_db == maybe<double>(expected, "prompt_psnr_db"));
  check_frame(opened.frame, expected.at("frame"));
}

inline void check_body(const sim_stream::wire::FrameReply& reply, const Map& expected) {
  CHECK(text(expected, "t") == "frame");
  CHECK(reply.sid == text(expected, "sid"));
  CHECK(reply.committed_step == number(expected, "committed_step"));
  CHECK(reply.prompt_psnr_db == maybe<double>(expected, "prompt_psnr_db"));
  check_frame(std::optional(reply.frame), expected.at("frame"));
}

inline void check_body(const sim_stream::wire::Closed& closed, const Map& expected) {
  CHECK(text(expected, "t") == "closed");
  CHECK(closed.sid == text(expected, "sid"));
  CHECK(closed.committed_step == number(expected, "committed_step"));
  check_frame(closed.frame, expected.at("frame"));
}

inline void check_body(const sim_stream::Status& status, const Map& expected) {
  CHECK(text(expected, "t") == "status");
  CHECK(status.progress == number(expected, "progress"));
  CHECK(status.queued == number(expected, "queued"));
  CHECK(status.sessions == number(expected, "sessions"));
  CHECK(status.undelivered == number(expected, "undelivered"));
  CHECK(status.committed_step == number(expected, "committed_step"));
  CHECK(status.client_send_ns == number(expected, "client_send_ns"));
  CHECK(status.srv_recv_ns == number(expected, "srv_recv_ns"));
  CHECK(status.srv_send_ns == number(expected, "srv_send_ns"));
  CHECK(status.pending == expected.at("pending").as<std::uint64_t>());
  CHECK(status.server_epoch == text(expected, "server_epoch"));
}

inline void check_body(const sim_stream::wire::Refusal& refusal, const Map& expected) {
  CHECK(text(expected, "t") == "error");
  CHECK(refusal.code == text(expected, "code"));
  CHECK(refusal.message == text(expected, "message"));
  CHECK(refusal.retryable == expected.at("retryable").as<bool>());
  CHECK(refusal.committed_step == number(expected, "committed_step"));
  CHECK(refusal.sid == text(expected, "sid"));
}
