// The comparison of a reply with what a vector's `message` map says.

#pragma once

#include "expected_spec.hpp"
#include "vectors.hpp"

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
  CHECK(frame.marks == expected.at("marks").as<std::vector<std::string>>());
  CHECK(frame.stats == expected.at("stats").as<std::map<std::string, std::vector<double>>>());
  CHECK(frame.seed == expected.at("seed").as<std::uint64_t>());
  CHECK(frame.sim_time_us == maybe<std::int64_t>(expected, "sim_time_us"));
  CHECK(frame.queue_depth == number(expected, "queue_depth"));
  CHECK(frame.dropped == number(expected, "dropped"));
  CHECK(frame.timings_ns == expected.at("timings_ns").as<Nanoseconds>());
  CHECK(frame.stamps_ns == expected.at("stamps_ns").as<Nanoseconds>());
}

inline void check_frames(const std::vector<sim_stream::FrameInfo>& frames, const Map& expected) {
  const auto infos = expected.at("frames").as<std::vector<Map>>();
  REQUIRE(frames.size() == infos.size());
  for (std::size_t i = 0; i < infos.size(); ++i) {
    check_frame(frames[i], infos[i]);
  }
}

inline void check_body(const sim_stream::ServerInfo& info, const Map& expected) {
  CHECK(text(expected, "t") == "hello_ok");
  CHECK(info.protocol == number(expected, "protocol"));
  CHECK(info.server_epoch == text(expected, "server_epoch"));
  check_spec(info.spec, expected.at("spec").as<Map>());
  const auto limits = expected.at("limits").as<Map>();
  CHECK(info.limits.header_bytes == number(limits, "header_bytes"));
  CHECK(info.limits.parts == number(limits, "parts"));
  CHECK(info.limits.message_bytes == number(limits, "message_bytes"));
  CHECK(info.limits.max_sessions == number(limits, "max_sessions"));
  CHECK(info.limits.max_in_flight == number(limits, "max_in_flight"));
  CHECK(info.lease_ms == number(expected, "lease_ms"));
  CHECK(info.heartbeat_ms == number(expected, "heartbeat_ms"));
  CHECK(info.resume_steps == number(expected, "resume_steps"));
}

inline void check_body(const sim_stream::wire::Opened& opened, const Map& expected) {
  CHECK(text(expected, "t") == "opened");
  CHECK(opened.sid == text(expected, "sid"));
  CHECK(opened.committed_step == number(expected, "committed_step"));
  CHECK(opened.resume_token == text(expected, "resume_token"));
  CHECK(opened.prompt_psnr_db == maybe<double>(expected, "prompt_psnr_db"));
  CHECK(opened.seed == expected.at("seed").as<std::uint64_t>());
  check_frames(opened.frames, expected);
}

inline void check_body(const sim_stream::wire::FrameReply& reply, const Map& expected) {
  CHECK(text(expected, "t") == "frames");
  CHECK(reply.sid == text(expected, "sid"));
  CHECK(reply.committed_step == number(expected, "committed_step"));
  CHECK(reply.prompt_psnr_db == maybe<double>(expected, "prompt_psnr_db"));
  check_frames(reply.frames, expected);
}

inline void check_body(const sim_stream::wire::Closed& closed, const Map& expected) {
  CHECK(text(expected, "t") == "closed");
  CHECK(closed.sid == text(expected, "sid"));
  CHECK(closed.committed_step == number(expected, "committed_step"));
  check_frames(closed.frames, expected);
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
