// What a vector's `message` map says, as a request.

#pragma once

#include "vectors.hpp"

inline sim_stream::wire::Scalars scalars_of(const msgpack::object& object) {
  sim_stream::wire::Scalars inputs;
  for (const auto& [name, value] : object.as<Map>()) {
    if (value.type == msgpack::type::STR) {
      inputs.emplace(name, value.as<std::string>());
    } else {
      inputs.emplace(name, value.as<double>());
    }
  }
  return inputs;
}

inline sim_stream::wire::Start start_of(const Map& message) {
  sim_stream::wire::Start start{message.at("seed").as<std::uint64_t>(),
                                scalars_of(message.at("inputs")), {},
                                scalars_of(message.at("options"))};
  for (const auto& inputs : message.at("prompt_inputs").as<std::vector<msgpack::object>>()) {
    start.prompt_inputs.push_back(scalars_of(inputs));
  }
  return start;
}

inline sim_stream::wire::Request request_of(const Map& message) {
  namespace wire = sim_stream::wire;
  const std::string t = text(message, "t");
  if (t == "hello") {
    return wire::Hello{number(message, "protocol_min"), number(message, "protocol_max")};
  }
  if (t == "open") {
    return wire::Open{start_of(message), text(message, "mode"),
                      maybe<std::int64_t>(message, "lookahead"),
                      maybe<std::int64_t>(message, "dt_us"), text(message, "idempotency_key"),
                      maybe<bool>(message, "record")};
  }
  if (t == "reset") {
    return wire::Reset{start_of(message), text(message, "sid")};
  }
  if (t == "step") {
    return wire::Step{text(message, "sid"), number(message, "step"),
                      scalars_of(message.at("inputs")), maybe<std::int64_t>(message, "sim_time_us"),
                      maybe<std::int64_t>(message, "deadline_ms")};
  }
  if (t == "fork") {
    return wire::Fork{text(message, "sid"), maybe<std::uint64_t>(message, "seed"),
                      text(message, "idempotency_key")};
  }
  if (t == "resume") {
    return wire::Resume{text(message, "resume_token")};
  }
  if (t == "close") {
    return wire::Close{text(message, "sid"), text(message, "idempotency_key")};
  }
  REQUIRE(t == "heartbeat");
  return wire::Heartbeat{text(message, "sid"), number(message, "client_send_ns"),
                         message.at("awaiting").as<std::uint64_t>()};
}
